"""HTTP framing compared with h11, on manipulated streams of requests.

The rule: whatever certplane accepts as a request, h11 accepts as the same request, byte for byte. certplane may refuse
more (that is rule 2 of `http1`); it may not see a request where h11 sees something else, which is what smuggling needs.
"""

from __future__ import annotations

import asyncio
import ssl

import h11
from hypothesis import example, given
from hypothesis import strategies as st

from certplane import testing
from certplane.server import exchange
from certplane.server.connection import http1, protocol
from tests.fuzz.world import examples
from tests.unit.server.connection import memory

ROOM = 1 << 22


def certplane_requests(stream, cut):
    """The complete requests that certplane accepts, and whether it refused the rest."""
    machine = http1.StateMachine()
    complete, request, body = [], None, []
    events = []
    for at in range(0, len(stream), cut):
        events += machine.receive(stream[at : at + cut])
        while events:
            event = events.pop(0)
            if isinstance(event, http1.Refusal):
                return complete, True
            if isinstance(event, http1.Body):
                body.append(event.data)
                continue
            if isinstance(event, http1.RequestHead):
                request, body = event, []
            if isinstance(event, http1.EndOfMessage) or not request.has_body:
                complete.append((request.method, target(request), sorted(request.fields), b"".join(body)))
                machine.encode_response(200, [], b"")
                if machine.closing:
                    return complete, False
                events += machine.receive(b"")
    return complete, False


def target(request):
    return request.raw_path + ("?" + request.raw_query if request.raw_query else "")


def origin_form(whole):
    """A target as certplane reports it: without scheme, host and empty query."""
    path, _, query = whole.decode("latin-1").partition("?")
    path = "/" + path.split("/", 3)[3] if path.startswith("http://") and path.count("/") > 2 else path
    return path + ("?" + query if query else "")


def h11_requests(stream):
    """The complete requests that h11 accepts, and whether it refused the rest."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=ROOM)
    connection.receive_data(stream)
    complete, request, body = [], None, []
    while True:
        try:
            event = connection.next_event()
        except h11.RemoteProtocolError:
            return complete, True
        if isinstance(event, h11.Request):
            request, body = event, []
        elif isinstance(event, h11.Data):
            body.append(bytes(event.data))
        elif isinstance(event, h11.EndOfMessage):
            fields = sorted((bytes(name), bytes(value)) for name, value in request.headers)
            complete.append((request.method.decode(), origin_form(request.target), fields, b"".join(body)))
            connection.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
            connection.send(h11.EndOfMessage())
            if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
                return complete, False
            connection.start_next_cycle()
        else:
            return complete, False


CHUNKED = b"POST /c HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
GOOD = (
    b"GET /a?b HTTP/1.1\r\nHost: h\r\nAccept: x, y\r\n\r\n",
    b"POST /b HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello",
    CHUNKED + b"5;x=y\r\nhello\r\n00A\r\n0123456789\r\n0\r\n\r\n",
    CHUNKED + b"1\r\nx\r\n0\r\nImpersonate-User: admin\r\n\r\n",
    b"PUT /e HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: foo\r\nContent-Length: 0\r\n\r\n",
    b"DELETE /f HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n{}",
)
NASTY = (
    b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"\0", b" ", b"\t", b":", b";", b",", b"0", b"00", b"0x", b"+", b"-", b"_",
    b"\x0b", b"\x0c", b"\x7f", b"\x80", b"\xff", b"chunked", b"identity", b"gzip", b"Content-Length: 3\r\n",
    b"Content-Length: 0\r\n", b"Content-Length : 4\r\n", b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: xchunked\r\n", b"Transfer-Encoding:\r\n chunked\r\n", b"Host: i\r\n", b"Connection: close\r\n",
    b"Upgrade: h2c\r\n", b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", b"1\r\nx\r\n", b"0\r\n\r\n", b"HTTP/1.0", b"HTTP/1.2",
    b"X: ", b"http://h/", b"*", b"?", b"#",
)  # fmt: skip

tampering = st.tuples(
    st.sampled_from(["insert", "delete", "replace", "repeat"]),
    st.floats(0, 1, exclude_max=True),
    st.integers(1, 8),
    st.one_of(st.sampled_from(NASTY), st.binary(max_size=3)),
)
streams = st.lists(st.sampled_from(GOOD), min_size=1, max_size=3)


def tamper(stream, changes):
    for kind, where, size, piece in changes:
        at = int(where * (len(stream) + 1))
        if kind == "insert":
            stream = stream[:at] + piece + stream[at:]
        elif kind == "delete":
            stream = stream[:at] + stream[at + size :]
        elif kind == "replace":
            stream = stream[:at] + piece + stream[at + size :]
        else:
            stream = stream[: at + size] + stream[at:]
    return stream


def is_beyond_ascii(stream):
    """A request line with bytes that Go accepts and h11 does not."""
    return any(b" HTTP/1." in line and not line.isascii() for line in stream.split(b"\r\n"))


@examples(600)
@given(streams, st.lists(tampering, max_size=4), st.sampled_from([1, 3, 1 << 20]))
@example([GOOD[3]], [], 1)
@example([GOOD[4]], [("insert", 0.999, 1, GOOD[0])], 1)
def test_accepted_requests_are_those_of_h11(requests, changes, cut):
    """Every accepted request equals h11's request at the same position."""
    stream = tamper(b"".join(requests), changes)
    if is_beyond_ascii(stream):
        return

    accepted, refused = certplane_requests(stream, cut)
    read, _ = h11_requests(stream)

    assert accepted == read[: len(accepted)]
    if not changes:
        assert len(accepted) == len(requests)
        assert not refused


@examples(200)
@given(streams, st.lists(tampering, max_size=4), st.integers(1, 40))
def test_chunking_does_not_change_the_result(requests, changes, cut):
    """The same bytes in other chunks give the same requests and the same refusal."""
    stream = tamper(b"".join(requests), changes)

    assert certplane_requests(stream, cut) == certplane_requests(stream, 1 << 20)


async def _handle(incoming):
    """Answers some requests with their body, some without reading it, and streams to others."""
    if incoming.path == "/a":
        return exchange.Response(200, "text/plain", stream=_pieces())
    if incoming.path == "/b":
        return exchange.Response(403, "text/plain", b"no")
    return exchange.Response(200, "text/plain", await incoming.body())


async def _pieces():
    yield b"one"
    yield b"two"


async def _converse(pieces):
    """The output of a connection for the input of a client; nothing may be left when the client disconnects."""
    shared = protocol.ListenerState(_handle, testing.FakeClock(), lambda _: None, date=b"today")
    connection, transport = protocol.Connection(shared, None), memory.Transport()
    connection.connection_made(transport)
    for piece in pieces:
        if not transport.is_closing():
            connection.data_received(piece)
            await testing.settle(5)
    transport.is_closed = True
    connection.connection_lost(None)
    await testing.settle(10)
    assert len(asyncio.all_tasks()) == 1
    assert (shared.connections, shared.unread_bytes) == (set(), 0)
    return transport.written


@examples(300)
@given(streams, st.lists(tampering, max_size=4), st.integers(1, 100))
def test_responses_are_well_formed(requests, changes, cut):
    """Whatever a client sends, it gets well-formed responses, as parsed by another implementation, and no more of
    them than it sent requests; and no task outlives it.
    """
    stream = tamper(b"".join(requests), changes)

    heard = asyncio.run(_converse([stream[at : at + cut] for at in range(0, len(stream), cut)]))

    assert heard.replace(http1.CONTINUE, b"").count(b"HTTP/1.1 ") <= stream.count(b"HTTP/1.") + 1
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("host", "h")]))
    client.send(h11.EndOfMessage())
    client.receive_data(heard)
    if heard:
        events = [client.next_event()]
        while not isinstance(events[-1], h11.EndOfMessage | type(h11.NEED_DATA)):
            events.append(client.next_event())
        assert any(isinstance(event, h11.Response | h11.InformationalResponse) for event in events)


TLS = memory.TLS()


@examples(300)
@given(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=4), st.integers(1, 2000))
def test_modified_handshakes_never_change_plaintext(changes, cut):
    """It succeeds or fails; plaintext is what was sent, or nothing."""

    def tamper_bytes(flight):
        damaged = bytearray(flight)
        for where, byte in changes:
            if damaged:
                damaged[int(where * len(damaged))] = byte
        return bytes(damaged)

    client = memory.Client(TLS.context.session(), TLS.ca)
    client.tamper = tamper_bytes
    try:
        client.handshake(cut)
        client.tls.write(b"GET / HTTP/1.1\r\n\r\n")
        plain = client.flight(cut)
    except (memory.tls.TLSError, memory.Stalled, ssl.SSLError):
        return

    assert plain in (b"", b"GET / HTTP/1.1\r\n\r\n")
