"""One connection of the server: the asyncio protocol around the state machines for TLS and HTTP.

It moves bytes between the transport and the state machines, runs one task for each request, and closes connections that
make no progress: no request arrives, a response is not read, the client has gone. All timeouts are checked by
`check_timeouts`, which the listener calls about once a second: that costs less than timers for each request.

When the connection is lost, a streaming response is cancelled at once, and a handler that awaits the body gets
ClientGone. Any other request runs to completion, because its change may be made and has to be audited.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import gzip
import logging
import math
import re
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

from certplane import errors
from certplane.clock import Clock
from certplane.loglimit import LogLimit
from certplane.server import exchange
from certplane.server.connection import http1, tls
from certplane.server.exchange import ClientGone, Handler, Headers, Request

_log = logging.getLogger("certplane.server")

#: Timeout for the head of a request, including the TLS handshake. kube-apiserver allows 32 seconds.
HEAD_SECONDS: Final = 32.0
#: Timeout of an idle connection between two requests: kube-apiserver has 3 minutes.
IDLE_SECONDS: Final = 180.0
#: Timeout of a client that reads nothing of a pending response.
STALL_SECONDS: Final = 30.0
#: Seconds to go on reading after the last response of a connection. Closing at once would reset the connection, and the
#: client could lose the response; Go's server waits half a second.
LINGER_SECONDS: Final = 1.0
#: Unread bytes of a body, or of pipelined requests, above which reading from the client is paused.
_UNREAD_LIMIT: Final = 64 * 1024
#: Bytes received at once after which a connection yields to others. libuv would read up to thirty times a quarter of a
#: megabyte in a row, and ten million TLS records of one byte take a second.
_MAX_READ_BYTES_PER_ITERATION: Final = 32 * 1024
#: Unread bytes of a connection that do not count against the limit of all connections.
_FREE_BYTES: Final = 16 * 1024
#: TLS handshakes in progress. Each may take 60 KB: half a record here, and the buffer that OpenSSL allocates when nine
#: bytes announce a long message.
_MAX_HANDSHAKES: Final = 2048
#: Limit of the unread bytes of all connections beyond the free bytes of each.
_TOTAL_UNREAD_LIMIT: Final = 64 << 20
#: Larger responses are compressed if the client accepts gzip, at the fastest level; as in kube-apiserver.
_COMPRESSION_BYTES: Final = 128 * 1024
_COMPRESSION_LEVEL: Final = 1
_VARY_ENCODING: Final = (b"vary", b"Accept-Encoding")
#: Characters of Accept-Encoding that are parsed: clients list a handful of codings.
_ACCEPT_ENCODING_LIMIT: Final = 1024
#: RFC 9110 section 12.4.2: a weight of 0 means not acceptable.
_zero_weight = re.compile(r"q=0(\.0*)?").fullmatch
#: The response of Go's server to plain HTTP on an HTTPS port.
_NOT_TLS: Final = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"
_TLS_HANDSHAKE: Final = 0x16
#: Bytes that TLS itself may write on a connection: a handshake, and replies to thousands of key updates. Without this
#: limit, a client that requests key updates and reads nothing would exhaust the memory.
_TLS_LIMIT: Final = 256 * 1024


@dataclasses.dataclass(slots=True)
class ListenerState:
    """The state that the connections of one listener share. `count_refused` takes a reason of the metric for refused
    connections.
    """

    handler: Handler
    clock: Clock
    count_refused: Callable[[str], None]
    #: Limits what clients can write to the log.
    log_limit: LogLimit = dataclasses.field(default_factory=LogLimit)
    #: The current value of the Date field.
    date: bytes = b""
    connections: set[Connection] = dataclasses.field(default_factory=set)
    #: Unread bytes of all connections, without the free bytes of each.
    unread_bytes: int = 0
    #: Connections whose TLS handshake is in progress, oldest first.
    handshakes: dict[Connection, None] = dataclasses.field(default_factory=dict)
    is_draining: bool = False
    #: Set whenever a connection is lost.
    connection_lost: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)

    def log_refusal(self, message: str, source: str, reason: str) -> None:
        """Log why a connection was refused or closed. Repetitions for the same client are counted, not logged."""
        suppressed = self.log_limit.admit((message, source, reason), self.clock.now())
        if suppressed is not None:
            _log.info(message, extra={"source": source, "error": reason, **suppressed})


class _BodyReader:
    """The body of one request, as the handler reads it: `Request.chunks`."""

    def __init__(self, connection: Connection, *, expects_continue: bool) -> None:
        self._connection = connection
        self._expects_continue = expects_continue
        self._chunks: collections.deque[bytes] = collections.deque()
        self._is_complete = False
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self.size = 0

    def __call__(self) -> AsyncIterator[bytes]:
        return self._read()

    async def _read(self) -> AsyncIterator[bytes]:
        while True:
            if self._chunks:
                chunk = b"".join(self._chunks)
                self._chunks.clear()
                self.size = 0
                self._connection.body_was_read()
                yield chunk
            elif self._error is not None:
                raise self._error
            elif self._is_complete:
                return
            else:
                if self._expects_continue:
                    self._expects_continue = False
                    self._connection.send_continue()
                self._waiter = asyncio.get_running_loop().create_future()
                await self._waiter

    @property
    def is_awaited(self) -> bool:
        """Whether the handler waits for data that has not arrived."""
        return self._waiter is not None and not self._waiter.done()

    def add(self, chunk: bytes) -> None:
        self._chunks.append(chunk)
        self.size += len(chunk)
        self._wake()

    def finish(self) -> None:
        """The body is complete."""
        self._is_complete = True
        self._wake()

    def fail(self, error: Exception) -> None:
        """Raise an exception in the handler, once it has read the data that arrived before."""
        if not self._is_complete:
            self._error = self._error or error
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Connection(asyncio.Protocol):
    """A connection. `session` is its TLS session; None for plain HTTP."""

    def __init__(self, shared: ListenerState, session: tls.Session | None) -> None:
        self._shared = shared
        self._session = session
        self._machine = http1.StateMachine()
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._source = ""
        self._task: asyncio.Task[None] | None = None
        self._body: _BodyReader | None = None
        self._is_streaming = False
        #: Reading is paused because too much is unread.
        self._is_paused = False
        #: Reading is paused until the event loop has served the other connections.
        self._is_yielding = False
        self._is_lingering = False
        self._is_handshaking = session is not None
        #: The client has closed its side of the connection.
        self._has_client_ended = False
        self._is_lost = False
        #: Unread bytes of this connection that count in `ListenerState.unread_bytes`.
        self._counted_bytes = 0
        #: Bytes that TLS itself has written.
        self._tls_written = 0
        #: When the connection times out, and the reason to log; without a reason it is closed silently.
        self._deadline = math.inf
        self._timeout_reason = ""
        self._has_begun_head = False
        self._drained: asyncio.Future[None] | None = None
        #: Bytes passed to the transport; how many of them have been sent, and since when.
        self._written = 0
        self._sent = 0
        self._sent_since = 0.0

    # --- called by the transport ----------------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        peername = transport.get_extra_info("peername")
        self._source = peername[0] if peername else ""
        self._shared.connections.add(self)
        if self._session is not None:
            self._limit_handshakes()
        self._set_timeout(HEAD_SECONDS, "timed out waiting for a request")
        self._has_begun_head = True
        if self._shared.is_draining:
            # The connection was accepted just before draining began.
            self.drain()

    def data_received(self, data: bytes) -> None:
        if self._is_lingering:
            return
        self._decode(data)
        if len(data) >= _MAX_READ_BYTES_PER_ITERATION and not self._is_paused and not self._transport.is_closing():
            self._is_yielding = True
            self._transport.pause_reading()
            self._loop.call_soon(self._end_yielding)

    def _end_yielding(self) -> None:
        self._is_yielding = False
        if not self._is_paused and not self._transport.is_closing():
            self._transport.resume_reading()

    def _decode(self, data: bytes) -> None:
        session = self._session
        if session is None:
            self._receive(data)
            return
        if not session.is_established and data[0] != _TLS_HANDSHAKE and not session.has_begun:
            self._refuse_tls("the client did not use TLS", _NOT_TLS if data[:1].isalpha() else b"")
            return
        try:
            data = session.receive(data)
        except tls.TLSError as error:
            self._refuse_tls(str(error), session.take_outgoing())
            return
        if self._is_handshaking and session.is_established:
            self._is_handshaking = False
            self._shared.handshakes.pop(self, None)
        outgoing = session.take_outgoing()
        if outgoing:
            self._put(outgoing)
            self._tls_written += len(outgoing)
            if self._tls_written > _TLS_LIMIT:
                self._abort("too many TLS control messages")
                return
        if data:
            self._receive(data)
        if session.is_ended:
            self._client_ended()

    def eof_received(self) -> bool:
        """The client has closed its side. Returns whether the transport stays open, for a pending response."""
        self._client_ended()
        return not self._transport.is_closing()

    def _limit_handshakes(self) -> None:
        """Count a new handshake; if there are too many, abort the oldest one."""
        handshakes = self._shared.handshakes
        handshakes[self] = None
        if len(handshakes) > _MAX_HANDSHAKES:
            oldest = next(iter(handshakes))
            del handshakes[oldest]
            self._shared.count_refused("handshakes")
            oldest._abort("too many TLS handshakes in progress")

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._shared.handshakes.pop(self, None)
        self._shared.connections.discard(self)
        self._is_lost = True
        self._count_unread(0)
        self._shared.connection_lost.set()
        self._end_request(ClientGone())
        self.resume_writing()

    def pause_writing(self) -> None:
        self._drained = self._loop.create_future()

    def resume_writing(self) -> None:
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)

    # --- requests -------------------------------------------------------------------------------------------------

    def _receive(self, data: bytes) -> None:
        for event in self._machine.receive(data):
            if isinstance(event, http1.RequestHead):
                self._begin(event)
            elif isinstance(event, http1.Body):
                if self._body is not None:
                    self._body.add(event.data)
            elif isinstance(event, http1.EndOfMessage):
                if self._body is not None:
                    self._body.finish()
            else:
                self._refuse(event)
                return
        self._limit_unread()

    def _begin(self, head: http1.RequestHead) -> None:
        self._deadline = math.inf
        self._has_begun_head = False
        self._body = _BodyReader(self, expects_continue=head.expects_continue) if head.has_body else None
        request = Request(
            method=head.method,
            path=head.path,
            raw_query=head.raw_query,
            headers=Headers(head.fields),
            chunks=self._body or exchange.no_body,
            peer_chain=self._session.peer_chain if self._session is not None else (),
            source=self._source,
            raw_path=head.raw_path,
        )
        self._task = self._loop.create_task(self._serve(request))
        self._task.add_done_callback(self._served)

    def _refuse(self, refusal: http1.Refusal) -> None:
        """Respond to a malformed request, or to a malformed body of a request in progress."""
        self._shared.count_refused("http")
        self._shared.log_refusal("request refused", self._source, refusal.reason)
        self._end_request(ClientGone())
        if not self._is_streaming:
            self._write(refusal.response)
        self._close(linger=True)

    def _refuse_tls(self, reason: str, response: bytes) -> None:
        self._shared.count_refused("tls")
        self._shared.log_refusal("TLS handshake failed", self._source, reason)
        if response:
            self._put(response)
        self._end_request(ClientGone())
        self._transport.close()

    def _client_ended(self) -> None:
        """As in Go's server: end a streaming response and a request whose body is awaited; send any other response."""
        self._has_client_ended = True
        self._machine.closing = True
        self._end_request(ClientGone())
        if self._task is None or self._is_streaming:
            self._transport.close()

    def _end_request(self, error: Exception) -> None:
        """Fail the body if it is awaited; cancel a streaming response."""
        if self._body is not None:
            self._body.fail(error)
        if self._is_streaming and self._task is not None:
            self._task.cancel()

    def _limit_unread(self) -> None:
        """Pause reading from a client that sends more than is read; enforce the limit of all connections."""
        unread = self._machine.buffered
        if unread and self._task is None and not self._has_begun_head:
            # The first bytes of another head start its timeout.
            self._has_begun_head = True
            self._set_timeout(HEAD_SECONDS, "timed out waiting for a request")
        if self._body is not None:
            unread += self._body.size
        if unread > _UNREAD_LIMIT and self._task is not None and not self._is_paused:
            if self._is_streaming:
                # While reading is paused, a disconnect goes unnoticed, and the stream would go on for ever.
                self._abort("too much data was sent during a streaming response")
                return
            self._pause()
        if unread > _FREE_BYTES or self._counted_bytes:
            self._count_unread(max(unread - _FREE_BYTES, 0))
            if self._counted_bytes and self._shared.unread_bytes > _TOTAL_UNREAD_LIMIT:
                self._shared.count_refused("memory")
                self._abort("too many unread bytes on all connections")

    def _count_unread(self, size: int) -> None:
        """Count unread bytes in the total; none for a lost connection, whose body may still be read."""
        size = 0 if self._is_lost else size
        self._shared.unread_bytes += size - self._counted_bytes
        self._counted_bytes = size

    def _pause(self) -> None:
        self._is_paused = True
        if not self._is_yielding:
            self._transport.pause_reading()

    def _resume(self) -> None:
        self._is_paused = False
        if not self._is_yielding:
            self._transport.resume_reading()

    def body_was_read(self) -> None:
        """Called by the body reader when it has passed on all data."""
        self._limit_unread()
        if self._is_paused and self._machine.buffered <= _UNREAD_LIMIT:
            self._resume()

    def send_continue(self) -> None:
        """Called by the body reader when the handler awaits a body that the client withholds until 100 Continue."""
        self._write(http1.CONTINUE)

    # --- responses ------------------------------------------------------------------------------------------------

    async def _serve(self, request: Request) -> None:
        try:
            response = await self._shared.handler(request)
        except ClientGone:
            if not self._is_lingering:
                self._transport.abort()
            return
        if self._drained is not None:
            await self._drained
        fields = [(b"date", self._shared.date), *response.headers]
        if response.content_type:
            fields.append((b"content-type", response.content_type.encode("ascii")))
        if response.stream is not None:
            await self._stream(response.status, fields, response.stream)
        else:
            body = response.body
            if len(body) > _COMPRESSION_BYTES and _accepts_gzip(request.headers):
                # In a thread: compression takes a while and releases the GIL.
                body = await asyncio.to_thread(gzip.compress, body, _COMPRESSION_LEVEL, mtime=0)
                fields.append((b"content-encoding", b"gzip"))
                if _VARY_ENCODING not in fields:
                    fields.append(_VARY_ENCODING)
            self._write(self._machine.encode_response(response.status, fields, body))
        self._task = None
        self._response_sent()

    async def _stream(self, status: int, fields: http1.Fields, stream: AsyncIterator[bytes]) -> None:
        """Send chunks until the stream ends; when the client disconnects, the task is cancelled."""
        async with contextlib.aclosing(stream) as chunks:  # type: ignore[type-var]  # streams are generators
            self._is_streaming = True
            self._write(self._machine.start_stream(status, fields))
            # Enforce the limit for data that the client sent before the response began.
            self._limit_unread()
            async for chunk in chunks:
                if self._transport.is_closing() or self._has_client_ended:
                    # The client disconnected before the response began. Check only here: closing a generator that has
                    # not started does not run its cleanup, so its source would never be released.
                    self._transport.close()
                    return
                if self._drained is not None:
                    await self._drained
                self._write(self._machine.encode_chunk(chunk))
        self._is_streaming = False
        self._write(self._machine.end_stream())

    def _served(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            # The client of a stream has disconnected, or the process is shutting down.
            self._transport.abort()
        elif task.exception() is not None:
            _log.error("failed to send a response", exc_info=task.exception())
            self._transport.abort()

    def _response_sent(self) -> None:
        """After a response: close the connection, or go on with the next request."""
        if self._transport.is_closing():
            return
        body, self._body = self._body, None
        if self._machine.closing:
            self._close(linger=body is not None or self._is_paused)
            return
        self._set_timeout(IDLE_SECONDS, "")
        if self._is_paused:
            self._resume()
        if self._machine.buffered:
            self._receive(b"")
        elif self._counted_bytes:
            # The body was dropped unread: stop counting it.
            self._limit_unread()

    def _write(self, data: bytes) -> None:
        if not data or self._transport.is_closing() or self._is_lingering:
            return
        if self._session is not None:
            try:
                data = self._session.send(data)
            except tls.TLSError as error:
                self._abort(str(error))
                return
        self._put(data)

    def _put(self, data: bytes) -> None:
        self._written += len(data)
        self._transport.write(data)

    # --- closing --------------------------------------------------------------------------------------------------

    def _close(self, *, linger: bool) -> None:
        """Close the connection once everything is sent; with `linger`, read and drop data for a moment before."""
        if self._transport.is_closing() or self._is_lingering:
            return
        if self._session is not None:
            self._session.end()
            self._put(self._session.take_outgoing())
        if not linger:
            self._transport.close()
            return
        self._is_lingering = True
        self._set_timeout(LINGER_SECONDS, "")
        self._transport.write_eof()
        if self._is_paused:
            self._resume()

    def _abort(self, reason: str) -> None:
        self._shared.log_refusal("connection aborted", self._source, reason)
        self._transport.abort()

    def drain(self) -> None:
        """Close the connection now, or after the response of the request in flight."""
        self._machine.closing = True
        if self._task is None:
            self._close(linger=False)

    def _set_timeout(self, seconds: float, reason: str) -> None:
        self._deadline = self._shared.clock.monotonic() + seconds
        self._timeout_reason = reason

    def check_timeouts(self, now: float) -> None:
        """Close the connection if it has timed out. `now` is monotonic."""
        if self._shared.is_draining and self._body is not None and self._body.is_awaited:
            detail = "the server is shutting down and did not receive the request body in time"
            # Nothing has been changed, so the client may retry on another server.
            self._body.fail(errors.ServiceUnavailable(detail, {"retryAfterSeconds": 1}, 1))
        unsent = self._transport.get_write_buffer_size()
        sent = self._written - unsent
        if sent != self._sent or not unsent:
            self._sent, self._sent_since = sent, now
        elif now - self._sent_since >= STALL_SECONDS:
            self._abort("the client stopped reading the response")
            return
        if self._is_lingering and unsent:
            # The time to linger begins when the response has been sent.
            self._set_timeout(LINGER_SECONDS, "")
        elif now >= self._deadline:
            self._time_out()

    def _time_out(self) -> None:
        if self._timeout_reason:
            self._abort(self._timeout_reason)
        elif self._is_lingering:
            self._transport.abort()
        else:
            self._close(linger=False)

    def abort(self) -> asyncio.Task[None] | None:
        """Abort the connection at once. Returns the task of the request in flight, which is cancelled."""
        task = self._task
        self._transport.abort()
        if task is not None:
            task.cancel()
        return task


def _accepts_gzip(headers: Headers) -> bool:
    accepted = ",".join(headers.all(b"accept-encoding"))[:_ACCEPT_ENCODING_LIMIT]
    codings = (coding.replace(" ", "").partition(";") for coding in accepted.split(","))
    return any(name == "gzip" and not _zero_weight(weight) for name, _, weight in codings)
