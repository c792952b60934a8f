"""One connection over a transport in memory: requests get answers, and what does not go on is ended."""

from __future__ import annotations

import asyncio
import gzip
import ssl

import pytest

from certplane import testing
from certplane.server import exchange
from certplane.server.connection import peer
from tests.unit.server.connection import memory

GET = b"GET /%d HTTP/1.1\r\nHost: h\r\n\r\n"
DATE = b"date: today\r\n"


class Server:
    """A handler that the test answers for, and one connection to it."""

    def __init__(self, handler):
        self.clock = testing.FakeClock()
        self.refused = []
        self.shared = peer.Shared(handler, self.clock, self.refused.append, date=b"today")
        self.connect()

    def connect(self):
        self.peer = peer.Peer(self.shared, None)
        self.transport = memory.Transport()
        self.peer.connection_made(self.transport)

    async def send(self, data):
        self.peer.data_received(data)
        await testing.settle(10)

    async def lose(self):
        self.transport.is_closed = True
        self.peer.connection_lost(None)
        await testing.settle(10)

    async def pass_(self, seconds):
        """Time passes, and the listener looks at its connections once a second."""
        for _ in range(int(seconds)):
            await self.clock.advance(1)
            for connection in list(self.shared.peers):
                connection.check(self.clock.monotonic())
            await testing.settle(10)


async def hello(incoming):
    return exchange.Reply(200, "text/plain", f"{incoming.method} {incoming.path}".encode())


async def echo(incoming):
    return exchange.Reply(200, "text/plain", await incoming.body())


def waiting():
    """A handler whose answers wait for the test, and the requests that wait."""
    requests = []

    async def handler(incoming):
        requests.append((incoming, asyncio.get_running_loop().create_future()))
        return await requests[-1][1]

    return handler, requests


def streaming():
    """A handler that streams what the test puts in the queue, and whether it is still at it."""
    queue, open_ = asyncio.Queue(), set()

    async def pieces(path):
        open_.add(path)
        try:
            while (piece := await queue.get()) is not None:
                yield piece
        finally:
            open_.discard(path)

    async def handler(incoming):
        return exchange.Reply(200, "text/plain", stream=pieces(incoming.path))

    return handler, queue, open_


async def test_each_request_gets_its_answer_in_turn():
    """Requests that came together are answered one after the other."""
    server = Server(hello)

    await server.send(GET % 1 + GET % 2)

    head = b"HTTP/1.1 200 OK\r\n" + DATE + b"content-type: text/plain\r\ncontent-length: 6\r\n\r\n"
    assert server.transport.written == head + b"GET /1" + head + b"GET /2"
    assert not server.transport.is_closing()


async def test_a_body_is_read_as_it_comes():
    """In pieces, and whole at the end; then the connection goes on."""
    server = Server(echo)

    await server.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 6\r\n\r\nab")
    await server.send(b"cd")
    assert server.transport.written == b""
    await server.send(b"ef" + GET % 1)

    assert server.transport.written.count(b"HTTP/1.1 200") == 2
    assert b"\r\n\r\nabcdef" in server.transport.written


async def test_others_have_their_turn_after_much_has_come():
    """However fast a client sends: its connection is read again once the loop has seen to the others."""
    server = Server(echo)
    head = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 40000\r\n\r\n"

    server.peer.data_received(head + b"x" * (40_000 - 1))
    assert server.transport.is_paused
    await testing.settle(10)
    assert not server.transport.is_paused
    await server.send(b"x" + GET % 1)

    assert server.transport.written.count(b"HTTP/1.1 200") == 2


async def test_who_is_made_to_wait_has_no_turn():
    """A connection that is paused stays so after its rest, until somebody takes what it sent."""
    handler, requests = waiting()
    server = Server(handler)

    server.peer.data_received(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 200000\r\n\r\n" + b"x" * 40_000)
    await testing.settle(10)
    server.peer.data_received(b"x" * 40_000)
    await testing.settle(10)
    assert server.transport.is_paused

    requests[0][1].set_result(exchange.Reply(200, "text/plain", b"enough"))
    await testing.settle(10)
    assert not server.transport.is_paused


async def test_a_client_that_waits_is_told_to_go_on():
    """100 (Continue) goes out when the body is wanted, once."""
    server = Server(echo)
    await server.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
    assert server.transport.written == b"HTTP/1.1 100 Continue\r\n\r\n"
    await server.send(b"a")
    await server.send(b"b")
    assert server.transport.written.count(b"100 Continue") == 1


async def test_a_refused_upload_ends_the_connection():
    """An answer without the body read says so, and the client may finish writing; nothing of it is a request."""
    server = Server(hello)

    await server.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9000\r\n\r\n" + GET % 1)
    await server.send(GET % 2)

    assert server.transport.written.count(b"HTTP/1.1") == 1
    assert b"connection: close\r\n" in server.transport.written
    assert server.transport.is_half_closed
    assert not server.transport.is_closing()
    await server.pass_(2)
    assert server.transport.is_aborted


async def test_what_is_no_request_is_answered_and_counted():
    """With the reason, and the end of the connection."""
    server = Server(hello)

    await server.send(b"GET / HTTP/1.1\r\n\r\n")

    assert server.transport.written.endswith(b"400 Bad Request: missing required Host header")
    assert server.refused == ["http"]
    assert server.transport.is_half_closed


async def test_what_strangers_make_us_log_has_a_bound(caplog):
    """The same nonsense a thousand times is a line, and counted each time."""
    caplog.set_level("INFO")
    server = Server(hello)
    for _ in range(1000):
        server.connect()
        await server.send(b"nonsense\r\n\r\n")

    assert len(caplog.records) == 1
    assert len(server.refused) == 1000


async def test_a_body_that_breaks_off_in_its_framing_is_answered():
    """The handler is told that the client is gone; the client gets a 400 in the place of its answer."""
    server = Server(echo)

    await server.send(b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\nzz\r\n")

    assert server.transport.written.startswith(b"HTTP/1.1 400 ")
    assert server.transport.written.count(b"HTTP/1.1") == 1
    assert server.transport.is_half_closed
    assert not server.transport.is_aborted


# --- clients that go ----------------------------------------------------------------------------------------------


async def test_an_ended_connection_ends_its_stream_and_what_waits_behind_it():
    """A watch with a request pipelined behind it is over when its client is."""
    handler, queue, open_ = streaming()
    server = Server(handler)
    await server.send(GET % 1 + GET % 2)
    await queue.put(b"event")
    await testing.settle(10)
    assert server.transport.written.endswith(b"5\r\nevent\r\n")
    assert open_ == {"/1"}

    await server.lose()

    assert open_ == set()
    assert server.shared.peers == set()


async def test_who_sends_no_more_gets_the_answer_all_the_same():
    """Half a connection is enough for an answer, and the end of one that streams."""
    handler, requests = waiting()
    server = Server(handler)
    await server.send(GET % 1)
    assert server.peer.eof_received()
    requests[0][1].set_result(exchange.Reply(200, "text/plain", b"done"))
    await testing.settle(10)
    assert server.transport.written.endswith(b"done")
    assert server.transport.is_closed

    handler, _, open_ = streaming()
    server = Server(handler)
    await server.send(GET % 1)
    assert not server.peer.eof_received()
    await testing.settle(10)
    assert open_ == set()
    assert server.transport.is_closing()

    server = Server(hello)
    assert not server.peer.eof_received()


@pytest.mark.parametrize("goes", ["half", "whole"])
async def test_a_stream_whose_client_goes_before_it_begins_is_ended(goes):
    """What feeds the stream hears of it: it would be fed for ever."""
    fed = {"/1"}

    async def pieces():
        try:
            yield b"first"
            await asyncio.get_running_loop().create_future()
        finally:
            fed.discard("/1")

    handler, requests = waiting()
    server = Server(handler)
    await server.send(GET % 1)
    if goes == "half":
        server.peer.eof_received()
    else:
        await server.lose()
    requests[0][1].set_result(exchange.Reply(200, "text/plain", stream=pieces()))
    await testing.settle(10)

    assert fed == set()
    assert server.transport.is_closing()


async def test_who_sends_too_much_behind_a_stream_is_ended():
    """To stop reading would be not to notice that the client has gone."""
    handler, _, open_ = streaming()
    server = Server(handler)
    await server.send(GET % 1)

    await server.send(GET % 2 * 5000)
    await server.lose()

    assert server.transport.is_aborted
    assert not server.transport.is_paused
    assert open_ == set()


async def test_a_body_that_is_awaited_fails_when_its_client_goes():
    """The handler hears of it at once."""
    heard = []

    async def handler(incoming):
        try:
            await incoming.body()
        except exchange.ClientGone:
            heard.append("gone")
            raise

    server = Server(handler)
    await server.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 6\r\n\r\nab")

    await server.lose()

    assert heard == ["gone"]


async def test_a_change_that_is_made_is_made_to_the_end():
    """What is not a stream goes on without its client: it may have changed something, and has to be recorded."""
    handler, requests = waiting()
    server = Server(handler)
    await server.send(GET % 1)

    await server.lose()
    assert not requests[0][1].done()
    requests[0][1].set_result(exchange.Reply(200, "text/plain", b"done"))
    await testing.settle(10)

    assert server.transport.written == b""


async def test_an_answer_that_fails_ends_the_connection(caplog):
    """A stream that breaks ends without its last chunk, so that nobody takes it for whole; the log has the reason."""

    async def pieces():
        yield b"some"
        raise RuntimeError("broken")

    async def handler(incoming):
        return exchange.Reply(200, "text/plain", stream=pieces())

    server = Server(handler)
    await server.send(GET % 1)

    assert server.transport.is_aborted
    assert not server.transport.written.endswith(b"0\r\n\r\n")
    assert "an answer failed" in caplog.text


# --- memory -------------------------------------------------------------------------------------------------------


async def test_a_client_that_sends_more_than_is_read_has_to_wait():
    """Behind a request, and in a body that nobody asks for."""
    handler, requests = waiting()
    server = Server(handler)
    await server.send(GET % 1)
    await server.send(GET % 2 * 4000)
    assert server.transport.is_paused
    requests[0][1].set_result(exchange.Reply(200, "text/plain", b""))
    await testing.settle(10)
    assert len(requests) == 2

    server = Server(handler)
    await server.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 900000\r\n\r\n" + b"x" * 70_000)
    assert server.transport.is_paused
    body = asyncio.ensure_future(anext(requests[-1][0].chunks()))
    await testing.settle(10)
    assert len(body.result()) == 70_000
    assert not server.transport.is_paused


async def test_unread_bytes_of_all_clients_have_a_bound():
    """Unfinished heads of a megabyte each do not add up without end."""
    server = Server(hello)
    head = b"GET / HTTP/1.1\r\nHost: h\r\nA: " + b"x" * (1 << 20)
    ended = 0
    for _ in range(100):
        server.connect()
        await server.send(head[: 1 << 20])
        ended += server.transport.is_aborted
        if server.transport.is_aborted:
            await server.lose()

    assert 20 < ended < 50
    assert server.shared.waiting <= 64 << 20
    assert "memory" in server.refused


async def test_unread_bytes_of_who_is_gone_count_no_more():
    """Whether the handler has read them or reads them afterwards: the sum is that of those who are there."""
    handler, requests = waiting()
    server = Server(handler)
    post = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 60000\r\n\r\n" + b"x" * 60_000
    await server.send(post)
    assert server.shared.waiting > 0
    assert len(await requests[0][0].body()) == 60_000
    assert server.shared.waiting == 0

    server.connect()
    await server.send(post + GET % 1 * 1000)
    await server.lose()
    assert server.shared.waiting == 0
    assert len(await requests[1][0].body()) == 60_000
    assert server.shared.waiting == 0


async def test_a_body_that_nobody_reads_counts_until_the_answer():
    """Then it is forgotten, also while the connection waits for another request."""
    server = Server(hello)
    await server.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 60000\r\n\r\n" + b"x" * 60_000)
    assert not server.transport.is_closing()
    assert server.shared.waiting == 0


class NewKeys:
    """A TLS session whose client asks for new keys each time."""

    has_begun = is_established = True
    is_ended = False
    peer_chain = ()

    def receive(self, data):
        return b""

    def take_outgoing(self):
        return b"x" * 27


async def test_who_asks_for_new_keys_again_and_again_is_ended():
    """Each time is answered, and the client need not read the answers."""
    server = Server(hello)
    server.peer = peer.Peer(server.shared, NewKeys())
    server.peer.connection_made(server.transport)
    for _ in range(9000):
        server.peer.data_received(b"key update")
    assert not server.transport.is_aborted
    for _ in range(1000):
        server.peer.data_received(b"key update")
    assert server.transport.is_aborted


async def test_handshakes_under_way_have_a_bound():
    """Whoever has not come to the end of one for longest makes room; those who have are not asked to."""
    world = memory.TLS()
    shared = peer.Shared(hello, testing.FakeClock(), (refused := []).append, date=b"today")

    def connect():
        connection, transport = peer.Peer(shared, world.context.session()), memory.Transport()
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


# --- time ---------------------------------------------------------------------------------------------------------


async def test_a_connection_on_which_nothing_comes_is_ended():
    """After the time for a head, not before; half a head does not count."""
    server = Server(hello)
    await server.send(b"GET / HTTP/1.1\r\nHost: h\r\n")
    await server.pass_(31)
    assert not server.transport.is_closing()
    await server.pass_(2)
    assert server.transport.is_aborted


async def test_half_a_head_between_requests_has_its_time_too():
    """A connection that was good once does not wait for three minutes for the rest of a line."""
    server = Server(hello)
    await server.send(GET % 1)
    await server.pass_(100)
    await server.send(b"GET ")
    await server.pass_(20)
    await server.send(b"/ ")
    await server.pass_(11)
    assert not server.transport.is_closing()
    await server.pass_(2)
    assert server.transport.is_aborted


async def test_a_connection_between_requests_is_kept_for_a_while():
    """For three minutes from the last answer on; a request that takes longer than that ends nothing."""
    handler, requests = waiting()
    server = Server(handler)
    for number in range(2):
        await server.send(GET % number)
        await server.pass_(200)
        requests[-1][1].set_result(exchange.Reply(200, "text/plain", b""))
        await testing.settle(10)
        await server.pass_(100)
        assert not server.transport.is_closing()
    await server.pass_(81)
    assert server.transport.is_closed


async def test_an_answer_that_nobody_reads_is_given_up():
    """As long as something is read it may take its time; without any progress it is over."""
    server = Server(hello)
    await server.send(GET % 1)
    server.transport.unsent = 100
    await server.pass_(30)
    assert not server.transport.is_closing()
    await server.pass_(2)
    assert server.transport.is_aborted

    server.connect()
    for read in range(4):
        # A byte is read, and the next answer waits behind the rest.
        await server.send(GET % 1)
        server.transport.unsent = len(server.transport.written) - 1 - read
        await server.pass_(29)
    assert not server.transport.is_closing()


async def test_a_last_answer_may_take_its_time():
    """The time to linger begins when all of it is sent; a client that reads nothing of it is given up."""
    server = Server(hello)
    for reads in (True, False):
        server.connect()
        await server.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\n")
        assert server.transport.is_half_closed
        for unsent in range(100, 80, -1):
            server.transport.unsent = unsent if reads else 100
            await server.pass_(1)
        assert not server.transport.is_closing()
        server.transport.unsent = 0 if reads else 100
        await server.pass_(2 if reads else 12)
        assert server.transport.is_aborted


@pytest.mark.parametrize("end", ["idle", "eof"])
async def test_an_answer_that_nobody_reads_is_given_up_after_its_connection_was_closed(end):
    """However slowly it was read until then: nothing waits for ever."""
    server = Server(hello)
    await server.send(GET % 1)
    if end == "eof":
        server.peer.eof_received()
    for unsent in range(300, 110, -1):
        server.transport.unsent = unsent
        await server.pass_(1)
    assert server.transport.is_closed
    assert not server.transport.is_aborted
    await server.pass_(32)
    assert server.transport.is_aborted


# --- the end of the server ----------------------------------------------------------------------------------------


async def test_a_server_that_goes_ends_what_is_idle_and_finishes_what_is_not():
    """The last answer says that it is the last."""
    handler, requests = waiting()
    server = Server(handler)
    idle = server.transport
    server.connect()
    await server.send(GET % 1)
    server.shared.is_draining = True
    for connection in list(server.shared.peers):
        connection.drain()
    assert idle.is_closed
    assert not server.transport.is_closing()

    requests[0][1].set_result(exchange.Reply(200, "text/plain", b"done"))
    await testing.settle(10)

    assert b"connection: close\r\n" in server.transport.written
    assert server.transport.is_closed


async def test_who_comes_while_the_server_goes_is_not_waited_for():
    """A connection that was accepted in the last moment has no request yet."""
    server = Server(hello)
    server.shared.is_draining = True
    server.connect()
    assert server.transport.is_closed


async def test_a_server_that_goes_does_not_wait_for_a_body():
    """Who is still to send gets an answer: the handler is told that the server is going."""

    async def handler(incoming):
        with pytest.raises(Exception, match="shutting down") as raised:
            await incoming.body()
        return exchange.Reply(raised.value.code, "text/plain")

    server = Server(handler)
    await server.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 6\r\n\r\nab")
    server.shared.is_draining = True
    server.peer.drain()
    await server.pass_(1)

    assert server.transport.written.startswith(b"HTTP/1.1 503 ")


# --- answers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offered", "size", "packed"),
    [
        (b"gzip", 200_000, True),
        (b"br, gzip;q=0.5", 200_000, True),
        (b"gzip;q=0, br", 200_000, False),
        (b"gzip", 1000, False),
        (b"a," * 5000 + b"gzip", 200_000, False),
    ],
)
async def test_large_answers_are_compressed_for_those_who_can_read_it(offered, size, packed):
    """From 128 KiB on, and only if it was offered within what is looked at."""

    async def handler(incoming):
        return exchange.Reply(200, "text/plain", b"x" * size)

    server = Server(handler)
    await server.send(b"GET / HTTP/1.1\r\nHost: h\r\nAccept-Encoding: " + offered + b"\r\n\r\n")
    await server.transport.has_written.wait()

    head, _, body = server.transport.written.partition(b"\r\n\r\n")
    assert (b"content-encoding: gzip" in head) == packed
    assert (gzip.decompress(body) if packed else body) == b"x" * size


async def test_a_client_that_reads_slowly_slows_its_stream():
    """No piece is made while the transport has enough to send."""
    handler, queue, _ = streaming()
    server = Server(handler)
    await server.send(GET % 1)
    server.peer.pause_writing()
    for _ in range(3):
        await queue.put(b"piece")
    await testing.settle(10)
    assert queue.qsize() == 2
    server.peer.resume_writing()
    await testing.settle(10)
    assert server.transport.written.count(b"piece") == 3
