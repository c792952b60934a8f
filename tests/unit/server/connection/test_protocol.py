"""One connection over a transport in memory: requests, timeouts, limits and draining."""

from __future__ import annotations

import asyncio
import gzip
import ssl

import pytest

from certplane import testing
from certplane.server import exchange
from certplane.server.connection import protocol
from tests.unit.server.connection import memory

GET = b"GET /%d HTTP/1.1\r\nHost: h\r\n\r\n"
DATE = b"date: today\r\n"


class Server:
    """A handler, and one connection to it."""

    def __init__(self, handler):
        self.clock = testing.FakeClock()
        self.refused = []
        self.shared = protocol.ListenerState(handler, self.clock, self.refused.append, date=b"today")
        self.connect()

    def connect(self):
        self.protocol = protocol.Connection(self.shared, None)
        self.transport = memory.Transport()
        self.protocol.connection_made(self.transport)

    async def send(self, data):
        self.protocol.data_received(data)
        await testing.settle(10)

    async def disconnect(self):
        self.transport.is_closed = True
        self.protocol.connection_lost(None)
        await testing.settle(10)

    async def advance(self, seconds):
        """Advance the clock, and check the timeouts once a second, as the listener does."""
        for _ in range(int(seconds)):
            await self.clock.advance(1)
            for connection in list(self.shared.connections):
                connection.check_timeouts(self.clock.monotonic())
            await testing.settle(10)


async def hello(request):
    return exchange.Response(200, "text/plain", f"{request.method} {request.path}".encode())


async def echo(request):
    return exchange.Response(200, "text/plain", await request.body())


def waiting():
    """A handler whose responses the test sets, and its requests with the futures of their responses."""
    requests = []

    async def handler(request):
        requests.append((request, asyncio.get_running_loop().create_future()))
        return await requests[-1][1]

    return handler, requests


def streaming():
    """A handler that streams what the test puts into the queue, and the paths of open streams."""
    queue, open_ = asyncio.Queue(), set()

    async def chunks(path):
        open_.add(path)
        try:
            while (piece := await queue.get()) is not None:
                yield piece
        finally:
            open_.discard(path)

    async def handler(request):
        return exchange.Response(200, "text/plain", stream=chunks(request.path))

    return handler, queue, open_


async def test_pipelined_requests_are_served_in_order():
    """One response after the other."""
    server = Server(hello)

    await server.send(GET % 1 + GET % 2)

    head = b"HTTP/1.1 200 OK\r\n" + DATE + b"content-type: text/plain\r\ncontent-length: 6\r\n\r\n"
    assert server.transport.written == head + b"GET /1" + head + b"GET /2"
    assert not server.transport.is_closing()


async def test_bodies_arrive_in_parts():
    """The body is complete at its last byte; then the connection is reused."""
    server = Server(echo)

    await server.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 6\r\n\r\nab")
    await server.send(b"cd")
    assert server.transport.written == b""
    await server.send(b"ef" + GET % 1)

    assert server.transport.written.count(b"HTTP/1.1 200") == 2
    assert b"\r\n\r\nabcdef" in server.transport.written


async def test_a_fast_client_does_not_starve_others():
    """After much data, reading is paused for one iteration of the event loop."""
    server = Server(echo)
    head = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 40000\r\n\r\n"

    server.protocol.data_received(head + b"x" * (40_000 - 1))
    assert server.transport.is_paused
    await testing.settle(10)
    assert not server.transport.is_paused
    await server.send(b"x" + GET % 1)

    assert server.transport.written.count(b"HTTP/1.1 200") == 2


async def test_a_paused_connection_stays_paused_after_its_yield():
    """It is resumed when the handler reads the body."""
    handler, requests = waiting()
    server = Server(handler)

    server.protocol.data_received(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 200000\r\n\r\n" + b"x" * 40_000)
    await testing.settle(10)
    server.protocol.data_received(b"x" * 40_000)
    await testing.settle(10)
    assert server.transport.is_paused

    requests[0][1].set_result(exchange.Response(200, "text/plain", b"enough"))
    await testing.settle(10)
    assert not server.transport.is_paused


async def test_continue_is_sent_when_the_body_is_read():
    """100 Continue is sent once."""
    server = Server(echo)
    await server.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
    assert server.transport.written == b"HTTP/1.1 100 Continue\r\n\r\n"
    await server.send(b"a")
    await server.send(b"b")
    assert server.transport.written.count(b"100 Continue") == 1


async def test_an_unread_body_closes_the_connection():
    """The response says so, and the client may finish sending; none of its bytes become a request."""
    server = Server(hello)

    await server.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9000\r\n\r\n" + GET % 1)
    await server.send(GET % 2)

    assert server.transport.written.count(b"HTTP/1.1") == 1
    assert b"connection: close\r\n" in server.transport.written
    assert server.transport.is_half_closed
    assert not server.transport.is_closing()
    await server.advance(2)
    assert server.transport.is_aborted


async def test_malformed_requests_are_refused_and_counted():
    """The response has the reason, and the connection is closed."""
    server = Server(hello)

    await server.send(b"GET / HTTP/1.1\r\n\r\n")

    assert server.transport.written.endswith(b"400 Bad Request: missing required Host header")
    assert server.refused == ["http"]
    assert server.transport.is_half_closed


async def test_repeated_refusals_are_logged_once(caplog):
    """Each of them is counted."""
    caplog.set_level("INFO")
    server = Server(hello)
    for _ in range(1000):
        server.connect()
        await server.send(b"nonsense\r\n\r\n")

    assert len(caplog.records) == 1
    assert len(server.refused) == 1000


async def test_a_malformed_body_gets_a_response():
    """The handler gets ClientGone; the client gets a 400."""
    server = Server(echo)

    await server.send(b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\nzz\r\n")

    assert server.transport.written.startswith(b"HTTP/1.1 400 ")
    assert server.transport.written.count(b"HTTP/1.1") == 1
    assert server.transport.is_half_closed
    assert not server.transport.is_aborted


# --- clients that disconnect --------------------------------------------------------------------------------------


async def test_a_lost_connection_ends_its_stream():
    """A request that is pipelined behind it is not handled."""
    handler, queue, open_ = streaming()
    server = Server(handler)
    await server.send(GET % 1 + GET % 2)
    await queue.put(b"event")
    await testing.settle(10)
    assert server.transport.written.endswith(b"5\r\nevent\r\n")
    assert open_ == {"/1"}

    await server.disconnect()

    assert open_ == set()
    assert server.shared.connections == set()


async def test_a_half_closed_connection_gets_its_response():
    """A streaming response is ended."""
    handler, requests = waiting()
    server = Server(handler)
    await server.send(GET % 1)
    assert server.protocol.eof_received()
    requests[0][1].set_result(exchange.Response(200, "text/plain", b"done"))
    await testing.settle(10)
    assert server.transport.written.endswith(b"done")
    assert server.transport.is_closed

    handler, _, open_ = streaming()
    server = Server(handler)
    await server.send(GET % 1)
    assert not server.protocol.eof_received()
    await testing.settle(10)
    assert open_ == set()
    assert server.transport.is_closing()

    server = Server(hello)
    assert not server.protocol.eof_received()


@pytest.mark.parametrize("close", ["half", "whole"])
async def test_a_stream_is_closed_if_the_client_left_before_it_began(close):
    """Its source is released."""
    open_streams = {"/1"}

    async def chunks():
        try:
            yield b"first"
            await asyncio.get_running_loop().create_future()
        finally:
            open_streams.discard("/1")

    handler, requests = waiting()
    server = Server(handler)
    await server.send(GET % 1)
    if close == "half":
        server.protocol.eof_received()
    else:
        await server.disconnect()
    requests[0][1].set_result(exchange.Response(200, "text/plain", stream=chunks()))
    await testing.settle(10)

    assert open_streams == set()
    assert server.transport.is_closing()


async def test_too_much_data_behind_a_stream_aborts_the_connection():
    """Pausing would hide that the client disconnects."""
    handler, _, open_ = streaming()
    server = Server(handler)
    await server.send(GET % 1)

    await server.send(GET % 2 * 5000)
    await server.disconnect()

    assert server.transport.is_aborted
    assert not server.transport.is_paused
    assert open_ == set()


async def test_a_handler_that_awaits_the_body_gets_client_gone():
    """At once."""
    raised_errors = []

    async def handler(request):
        try:
            await request.body()
        except exchange.ClientGone:
            raised_errors.append("gone")
            raise

    server = Server(handler)
    await server.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 6\r\n\r\nab")

    await server.disconnect()

    assert raised_errors == ["gone"]


async def test_a_request_completes_without_its_client():
    """It may have changed something, which has to be audited."""
    handler, requests = waiting()
    server = Server(handler)
    await server.send(GET % 1)

    await server.disconnect()
    assert not requests[0][1].done()
    requests[0][1].set_result(exchange.Response(200, "text/plain", b"done"))
    await testing.settle(10)

    assert server.transport.written == b""


async def test_a_failing_stream_aborts_the_connection(caplog):
    """The last chunk is missing, so that the client notices; the log has the reason."""

    async def chunks():
        yield b"some"
        raise RuntimeError("broken")

    async def handler(request):
        return exchange.Response(200, "text/plain", stream=chunks())

    server = Server(handler)
    await server.send(GET % 1)

    assert server.transport.is_aborted
    assert not server.transport.written.endswith(b"0\r\n\r\n")
    assert "failed to send a response" in caplog.text


# --- memory -------------------------------------------------------------------------------------------------------


async def test_reading_is_paused_while_too_much_is_unread():
    """Pipelined requests, and a body that is not read."""
    handler, requests = waiting()
    server = Server(handler)
    await server.send(GET % 1)
    await server.send(GET % 2 * 4000)
    assert server.transport.is_paused
    requests[0][1].set_result(exchange.Response(200, "text/plain", b""))
    await testing.settle(10)
    assert len(requests) == 2

    server = Server(handler)
    await server.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 900000\r\n\r\n" + b"x" * 70_000)
    assert server.transport.is_paused
    body = asyncio.ensure_future(anext(requests[-1][0].chunks()))
    await testing.settle(10)
    assert len(body.result()) == 70_000
    assert not server.transport.is_paused


async def test_unread_bytes_of_all_connections_are_limited():
    """Incomplete heads of a megabyte each."""
    server = Server(hello)
    head = b"GET / HTTP/1.1\r\nHost: h\r\nA: " + b"x" * (1 << 20)
    ended = 0
    for _ in range(100):
        server.connect()
        await server.send(head[: 1 << 20])
        ended += server.transport.is_aborted
        if server.transport.is_aborted:
            await server.disconnect()

    assert 20 < ended < 50
    assert server.shared.unread_bytes <= 64 << 20
    assert "memory" in server.refused


async def test_unread_bytes_of_lost_connections_do_not_count():
    """Whether the handler has read them, or reads them later."""
    handler, requests = waiting()
    server = Server(handler)
    post = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 60000\r\n\r\n" + b"x" * 60_000
    await server.send(post)
    assert server.shared.unread_bytes > 0
    assert len(await requests[0][0].body()) == 60_000
    assert server.shared.unread_bytes == 0

    server.connect()
    await server.send(post + GET % 1 * 1000)
    await server.disconnect()
    assert server.shared.unread_bytes == 0
    assert len(await requests[1][0].body()) == 60_000
    assert server.shared.unread_bytes == 0


async def test_an_unread_body_counts_until_the_response():
    """It does not count while the connection waits for another request."""
    server = Server(hello)
    await server.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 60000\r\n\r\n" + b"x" * 60_000)
    assert not server.transport.is_closing()
    assert server.shared.unread_bytes == 0


class KeyUpdates:
    """A TLS session whose client requests a key update each time."""

    has_begun = is_established = True
    is_ended = False
    peer_chain = ()

    def receive(self, data):
        return b""

    def take_outgoing(self):
        return b"x" * 27


async def test_endless_key_updates_abort_the_connection():
    """Each gets a reply, which the client need not read."""
    server = Server(hello)
    server.protocol = protocol.Connection(server.shared, KeyUpdates())
    server.protocol.connection_made(server.transport)
    for _ in range(9000):
        server.protocol.data_received(b"key update")
    assert not server.transport.is_aborted
    for _ in range(1000):
        server.protocol.data_received(b"key update")
    assert server.transport.is_aborted


async def test_handshakes_in_progress_are_limited():
    """The oldest one is aborted; established connections are not."""
    world = memory.TLS()
    shared = protocol.ListenerState(hello, testing.FakeClock(), (refused := []).append, date=b"today")

    def connect():
        connection, transport = protocol.Connection(shared, world.context.session()), memory.Transport()
        connection.connection_made(transport)
        return connection, transport

    good, good_transport = connect()
    client = memory.Client(good._session, world.ca)
    with pytest.raises(ssl.SSLWantReadError):
        client.tls.do_handshake()
    good.data_received(client._outgoing.read())
    client._incoming.write(good_transport.written)
    client.tls.do_handshake()
    good.data_received(client._outgoing.read())
    assert good._session.is_established
    others = [connect() for _ in range(2049)]

    assert [transport.is_aborted for _, transport in others[:3]] == [True, False, False]
    assert not good_transport.is_aborted
    assert refused == ["handshakes"]


# --- timeouts -----------------------------------------------------------------------------------------------------


async def test_a_connection_without_a_request_times_out():
    """After the head timeout; an incomplete head does not reset it."""
    server = Server(hello)
    await server.send(b"GET / HTTP/1.1\r\nHost: h\r\n")
    await server.advance(31)
    assert not server.transport.is_closing()
    await server.advance(2)
    assert server.transport.is_aborted


async def test_an_incomplete_head_on_an_idle_connection_times_out():
    """After the head timeout, not after the idle timeout."""
    server = Server(hello)
    await server.send(GET % 1)
    await server.advance(100)
    await server.send(b"GET ")
    await server.advance(20)
    await server.send(b"/ ")
    await server.advance(11)
    assert not server.transport.is_closing()
    await server.advance(2)
    assert server.transport.is_aborted


async def test_an_idle_connection_times_out():
    """Three minutes after the last response; a longer request does not count."""
    handler, requests = waiting()
    server = Server(handler)
    for number in range(2):
        await server.send(GET % number)
        await server.advance(200)
        requests[-1][1].set_result(exchange.Response(200, "text/plain", b""))
        await testing.settle(10)
        await server.advance(100)
        assert not server.transport.is_closing()
    await server.advance(81)
    assert server.transport.is_closed


async def test_an_unread_response_aborts_the_connection():
    """Any progress resets the timeout."""
    server = Server(hello)
    await server.send(GET % 1)
    server.transport.unsent = 100
    await server.advance(30)
    assert not server.transport.is_closing()
    await server.advance(2)
    assert server.transport.is_aborted

    server.connect()
    for read in range(4):
        # A byte is read, and the next answer waits behind the rest.
        await server.send(GET % 1)
        server.transport.unsent = len(server.transport.written) - 1 - read
        await server.advance(29)
    assert not server.transport.is_closing()


async def test_lingering_begins_when_the_response_is_sent():
    """A client that reads nothing of it is aborted."""
    server = Server(hello)
    for reads in (True, False):
        server.connect()
        await server.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\n")
        assert server.transport.is_half_closed
        for unsent in range(100, 80, -1):
            server.transport.unsent = unsent if reads else 100
            await server.advance(1)
        assert not server.transport.is_closing()
        server.transport.unsent = 0 if reads else 100
        await server.advance(2 if reads else 12)
        assert server.transport.is_aborted


@pytest.mark.parametrize("end", ["idle", "eof"])
async def test_an_unread_response_aborts_a_closing_connection(end):
    """It does not matter how slowly it was read before."""
    server = Server(hello)
    await server.send(GET % 1)
    if end == "eof":
        server.protocol.eof_received()
    for unsent in range(300, 110, -1):
        server.transport.unsent = unsent
        await server.advance(1)
    assert server.transport.is_closed
    assert not server.transport.is_aborted
    await server.advance(32)
    assert server.transport.is_aborted


# --- draining -----------------------------------------------------------------------------------------------------


async def test_draining_closes_idle_connections_and_completes_requests():
    """The last response has Connection: close."""
    handler, requests = waiting()
    server = Server(handler)
    idle = server.transport
    server.connect()
    await server.send(GET % 1)
    server.shared.is_draining = True
    for connection in list(server.shared.connections):
        connection.drain()
    assert idle.is_closed
    assert not server.transport.is_closing()

    requests[0][1].set_result(exchange.Response(200, "text/plain", b"done"))
    await testing.settle(10)

    assert b"connection: close\r\n" in server.transport.written
    assert server.transport.is_closed


async def test_a_new_connection_during_draining_is_closed():
    """It has no request yet."""
    server = Server(hello)
    server.shared.is_draining = True
    server.connect()
    assert server.transport.is_closed


async def test_draining_does_not_wait_for_a_body():
    """The handler gets an error, and the client a 503."""

    async def handler(request):
        with pytest.raises(Exception, match="shutting down") as raised:
            await request.body()
        return exchange.Response(raised.value.code, "text/plain")

    server = Server(handler)
    await server.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 6\r\n\r\nab")
    server.shared.is_draining = True
    server.protocol.drain()
    await server.advance(1)

    assert server.transport.written.startswith(b"HTTP/1.1 503 ")


# --- responses ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offered", "size", "is_compressed"),
    [
        (b"gzip", 200_000, True),
        (b"br, gzip;q=0.5", 200_000, True),
        (b"gzip;q=0, br", 200_000, False),
        (b"gzip", 1000, False),
        (b"a," * 5000 + b"gzip", 200_000, False),
    ],
)
async def test_large_responses_are_compressed(offered, size, is_compressed):
    """From 128 KiB on, if gzip is in the part of Accept-Encoding that is parsed."""

    async def handler(request):
        return exchange.Response(200, "text/plain", b"x" * size)

    server = Server(handler)
    await server.send(b"GET / HTTP/1.1\r\nHost: h\r\nAccept-Encoding: " + offered + b"\r\n\r\n")
    await server.transport.has_written.wait()

    head, _, body = server.transport.written.partition(b"\r\n\r\n")
    assert (b"content-encoding: gzip" in head) == is_compressed
    assert (gzip.decompress(body) if is_compressed else body) == b"x" * size


async def test_a_slow_client_slows_its_stream():
    """No chunk is taken from the stream while the transport has enough to send."""
    handler, queue, _ = streaming()
    server = Server(handler)
    await server.send(GET % 1)
    server.protocol.pause_writing()
    for _ in range(3):
        await queue.put(b"piece")
    await testing.settle(10)
    assert queue.qsize() == 2
    server.protocol.resume_writing()
    await testing.settle(10)
    assert server.transport.written.count(b"piece") == 3
