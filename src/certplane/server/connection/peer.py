"""One connection of the server: the asyncio shell around the machines for TLS and HTTP.

It carries bytes between the transport and the machines, runs one task for each request, and ends what does not go on: a
request that does not come, an answer that nobody reads, a client that is gone. All limits in time are looked at by
`check`, which the listener calls about once a second: one look at all connections costs less than timers for each
request.

An ended connection ends what runs for it: a streaming answer at once; a body that is awaited raises ClientGone; another
request runs to its end, since its change may be made and has to be recorded.
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

_log = logging.getLogger("certplane.server")

#: Seconds in which the head of a request has to come, the TLS handshake included. kube-apiserver allows 32.
HEAD_SECONDS: Final = 32.0
#: How long a connection may be kept open between two requests: that of kube-apiserver is 3 minutes.
IDLE_SECONDS: Final = 180.0
#: How long a peer may read nothing of an answer that waits for it.
STALL_SECONDS: Final = 30.0
#: How long a client that still sends is listened to after its last answer. To close at once would reset the connection,
#: and the client could lose the answer; Go's server waits half a second.
LINGER_SECONDS: Final = 1.0
#: Bytes of a body, or of further requests, that wait to be read before the client is made to wait.
_WAITING_LIMIT: Final = 64 * 1024
#: Bytes that arrived at once, after which a connection has had its turn: libuv would go on reading, thirty times a
#: quarter of a megabyte, and ten million bytes of a byte a record take a second.
_TURN_BYTES: Final = 32 * 1024
#: Unread bytes that a connection has for nothing; more are charged to `Shared.waiting`.
_FREE_BYTES: Final = 16 * 1024
#: Handshakes under way at once. Each may hold some 60 KB: half a record here, and what OpenSSL makes room for when nine
#: bytes announce a long message.
_MOST_UNFINISHED: Final = 2048
#: All unread bytes of all connections beyond what each has for nothing.
_WAITING_TOTAL: Final = 64 << 20
#: From this size on answers are compressed for those who can read it, fast rather than small; as in kube-apiserver.
_COMPRESSION_BYTES: Final = 128 * 1024
_COMPRESSION_LEVEL: Final = 1
_VARY_ENCODING: Final = (b"vary", b"Accept-Encoding")
#: Fields whose lists are looked at: a client names a handful of codings.
_CODING_BYTES: Final = 1024
#: RFC 9110 section 12.4.2: what is given no weight is not wanted.
_no_weight = re.compile(r"q=0(\.0*)?").fullmatch
#: What Go's server says to those who speak HTTP where TLS is spoken.
_NOT_TLS: Final = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"
_TLS_HANDSHAKE: Final = 0x16
#: Bytes that TLS may say of its own on a connection: a handshake, and answers to thousands of new keys. Without a limit
#: whoever asks for new keys and reads nothing fills the memory.
_TLS_LIMIT: Final = 256 * 1024


@dataclasses.dataclass(slots=True)
class Shared:
    """What the connections of one listener have in common. `refused` is told why a client got no further, in one of
    the words of telemetry.
    """

    handler: exchange.Handler
    clock: Clock
    refused: Callable[[str], None]
    #: What strangers make us log has a bound.
    limit: LogLimit = dataclasses.field(default_factory=LogLimit)
    #: The Date of answers that are written now.
    date: bytes = b""
    peers: set[Peer] = dataclasses.field(default_factory=set)
    #: Unread bytes of all connections that are charged for.
    waiting: int = 0
    #: Connections whose handshake is under way, the oldest first.
    unfinished: dict[Peer, None] = dataclasses.field(default_factory=dict)
    is_draining: bool = False
    #: Set whenever a connection is gone.
    gone: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)

    def tell(self, message: str, source: str, reason: str) -> None:
        """Log why a connection got no further, unless the same was logged of the same client a moment ago."""
        left_out = self.limit.admit((message, source, reason), self.clock.now())
        if left_out is not None:
            _log.info(message, extra={"source": source, "reason": reason, **left_out})


class _BodyReader:
    """The body of one request, as the handler reads it: `Exchange.chunks`."""

    def __init__(self, peer: Peer, *, expects_continue: bool) -> None:
        self._peer = peer
        self._expects_continue = expects_continue
        self._pieces: collections.deque[bytes] = collections.deque()
        self._is_complete = False
        self._problem: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self.size = 0

    def __call__(self) -> AsyncIterator[bytes]:
        return self._read()

    async def _read(self) -> AsyncIterator[bytes]:
        while True:
            if self._pieces:
                piece = b"".join(self._pieces)
                self._pieces.clear()
                self.size = 0
                self._peer.body_taken()
                yield piece
            elif self._problem is not None:
                raise self._problem
            elif self._is_complete:
                return
            else:
                if self._expects_continue:
                    self._expects_continue = False
                    self._peer.ask_for_body()
                self._waiter = asyncio.get_running_loop().create_future()
                await self._waiter

    @property
    def is_awaited(self) -> bool:
        """Whether the handler waits for a piece that has not come."""
        return self._waiter is not None and not self._waiter.done()

    def add(self, piece: bytes) -> None:
        self._pieces.append(piece)
        self.size += len(piece)
        self._wake()

    def finish(self) -> None:
        self._is_complete = True
        self._wake()

    def fail(self, problem: Exception) -> None:
        """Raise a problem to the handler, once it has read what came before."""
        if not self._is_complete:
            self._problem = self._problem or problem
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Peer(asyncio.Protocol):
    """A connection. `session` is None for plain HTTP."""

    def __init__(self, shared: Shared, session: tls.Session | None) -> None:
        self._shared = shared
        self._session = session
        self._machine = http1.Machine()
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._source = ""
        self._task: asyncio.Task[None] | None = None
        self._body: _BodyReader | None = None
        self._is_streaming = False
        self._is_paused = False
        #: Whether others have their turn before more is read.
        self._is_resting = False
        self._is_lingering = False
        #: Whether the TLS handshake is still under way.
        self._is_unfinished = session is not None
        #: Whether the client said that it sends no more.
        self._is_ended = False
        self._is_lost = False
        self._charged = 0
        #: Bytes that TLS said of its own.
        self._tls_written = 0
        #: When this connection is over, and why, unless something happens before.
        self._deadline = math.inf
        self._why = ""
        self._has_begun_head = False
        self._drained: asyncio.Future[None] | None = None
        #: Bytes that were given to the transport; and how many of them were sent, since when.
        self._written = 0
        self._sent = 0
        self._sent_since = 0.0

    # --- the transport's side -------------------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        peername = transport.get_extra_info("peername")
        self._source = peername[0] if peername else ""
        self._shared.peers.add(self)
        if self._session is not None:
            self._limit_unfinished()
        self._expect(HEAD_SECONDS, "no request came in time")
        self._has_begun_head = True
        if self._shared.is_draining:
            # It was accepted a moment before.
            self.drain()

    def data_received(self, data: bytes) -> None:
        if self._is_lingering:
            return
        self._decode(data)
        if len(data) >= _TURN_BYTES and not self._is_paused and not self._transport.is_closing():
            self._is_resting = True
            self._transport.pause_reading()
            self._loop.call_soon(self._rested)

    def _rested(self) -> None:
        self._is_resting = False
        if not self._is_paused and not self._transport.is_closing():
            self._transport.resume_reading()

    def _decode(self, data: bytes) -> None:
        session = self._session
        if session is None:
            self._receive(data)
            return
        if not session.is_established and data[0] != _TLS_HANDSHAKE and not session.has_begun:
            self._refuse_tls("client spoke no TLS", _NOT_TLS if data[:1].isalpha() else b"")
            return
        try:
            data = session.receive(data)
        except tls.TLSError as error:
            self._refuse_tls(str(error), session.take_outgoing())
            return
        if self._is_unfinished and session.is_established:
            self._is_unfinished = False
            self._shared.unfinished.pop(self, None)
        outgoing = session.take_outgoing()
        if outgoing:
            self._put(outgoing)
            self._tls_written += len(outgoing)
            if self._tls_written > _TLS_LIMIT:
                self._abort("too many messages of TLS")
                return
        if data:
            self._receive(data)
        if session.is_ended:
            self._client_ended()

    def eof_received(self) -> bool:
        """The client sends no more; tell whether an answer is still to come."""
        self._client_ended()
        return not self._transport.is_closing()

    def _limit_unfinished(self) -> None:
        """Make room for a handshake: whoever has not come to its end for longest has to try again."""
        unfinished = self._shared.unfinished
        unfinished[self] = None
        if len(unfinished) > _MOST_UNFINISHED:
            oldest = next(iter(unfinished))
            del unfinished[oldest]
            self._shared.refused("handshakes")
            oldest._abort("too many other handshakes are under way")

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._shared.unfinished.pop(self, None)
        self._shared.peers.discard(self)
        self._is_lost = True
        self._charge(0)
        self._shared.gone.set()
        self._end_request(exchange.ClientGone())
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
            if isinstance(event, http1.Request):
                self._begin(event)
            elif isinstance(event, http1.Body):
                if self._body is not None:
                    self._body.add(event.data)
            elif isinstance(event, http1.End):
                if self._body is not None:
                    self._body.finish()
            else:
                self._refuse(event)
                return
        self._limit_waiting()

    def _begin(self, request: http1.Request) -> None:
        self._deadline = math.inf
        self._has_begun_head = False
        self._body = _BodyReader(self, expects_continue=request.expects_continue) if request.has_body else None
        incoming = exchange.Exchange(
            method=request.method,
            path=request.path,
            raw_query=request.raw_query,
            headers=exchange.Headers(request.fields),
            chunks=self._body or exchange.no_body,
            peer_chain=self._session.peer_chain if self._session is not None else (),
            source=self._source,
            raw_path=request.raw_path,
        )
        self._task = self._loop.create_task(self._serve(incoming))
        self._task.add_done_callback(self._served)

    def _refuse(self, refused: http1.Refused) -> None:
        """Answer what is no request, or the rest of one that went wrong on its way."""
        self._shared.refused("http")
        self._shared.tell("request refused", self._source, refused.reason)
        self._end_request(exchange.ClientGone())
        if not self._is_streaming:
            self._write(refused.answer)
        self._say_goodbye(linger=True)

    def _refuse_tls(self, reason: str, answer: bytes) -> None:
        self._shared.refused("tls")
        self._shared.tell("TLS handshake failed", self._source, reason)
        if answer:
            self._put(answer)
        self._end_request(exchange.ClientGone())
        self._transport.close()

    def _client_ended(self) -> None:
        """As in Go's server: what streams is over, and what waits for a body; another answer is still given."""
        self._is_ended = True
        self._machine.closing = True
        self._end_request(exchange.ClientGone())
        if self._task is None or self._is_streaming:
            self._transport.close()

    def _end_request(self, problem: Exception) -> None:
        """Nobody waits for the answer any more."""
        if self._body is not None:
            self._body.fail(problem)
        if self._is_streaming and self._task is not None:
            self._task.cancel()

    def _limit_waiting(self) -> None:
        """Make a client wait that sends more than is read."""
        waiting = self._machine.buffered
        if waiting and self._task is None and not self._has_begun_head:
            # Part of another head: it has its time, too.
            self._has_begun_head = True
            self._expect(HEAD_SECONDS, "no request came in time")
        if self._body is not None:
            waiting += self._body.size
        if waiting > _WAITING_LIMIT and self._task is not None and not self._is_paused:
            if self._is_streaming:
                # Whoever is not listened to can leave unseen; a stream would go on for nobody.
                self._abort("too much was sent behind a request whose answer streams")
                return
            self._pause()
        if waiting > _FREE_BYTES or self._charged:
            self._charge(max(waiting - _FREE_BYTES, 0))
            if self._charged and self._shared.waiting > _WAITING_TOTAL:
                self._shared.refused("memory")
                self._abort("too many unread bytes of all clients")

    def _charge(self, size: int) -> None:
        """Count unread bytes among those of all; none of a connection that is gone, whose body may still be read."""
        size = 0 if self._is_lost else size
        self._shared.waiting += size - self._charged
        self._charged = size

    def _pause(self) -> None:
        self._is_paused = True
        if not self._is_resting:
            self._transport.pause_reading()

    def _resume(self) -> None:
        self._is_paused = False
        if not self._is_resting:
            self._transport.resume_reading()

    def body_taken(self) -> None:
        """Called by the body when it was read as far as it came."""
        self._limit_waiting()
        if self._is_paused and self._machine.buffered <= _WAITING_LIMIT:
            self._resume()

    def ask_for_body(self) -> None:
        """Called by the body when the first piece is awaited that the client holds back."""
        self._write(http1.CONTINUE)

    # --- answers --------------------------------------------------------------------------------------------------

    async def _serve(self, incoming: exchange.Exchange) -> None:
        try:
            reply = await self._shared.handler(incoming)
        except exchange.ClientGone:
            if not self._is_lingering:
                self._transport.abort()
            return
        if self._drained is not None:
            await self._drained
        fields = [(b"date", self._shared.date), *reply.headers]
        if reply.content_type:
            fields.append((b"content-type", reply.content_type.encode("ascii")))
        if reply.stream is not None:
            await self._stream(reply.status, fields, reply.stream)
        else:
            body = reply.body
            if len(body) > _COMPRESSION_BYTES and _reads_gzip(incoming.headers):
                # In a thread: it takes a while, and lets go of the interpreter.
                body = await asyncio.to_thread(gzip.compress, body, _COMPRESSION_LEVEL, mtime=0)
                fields.append((b"content-encoding", b"gzip"))
                if _VARY_ENCODING not in fields:
                    fields.append(_VARY_ENCODING)
            self._write(self._machine.answer(reply.status, fields, body))
        self._task = None
        self._go_on()

    async def _stream(self, status: int, fields: http1.Fields, stream: AsyncIterator[bytes]) -> None:
        """Send piece by piece until the stream ends; when the client goes, the task is cancelled."""
        async with contextlib.aclosing(stream) as pieces:  # type: ignore[type-var]  # streams are generators
            self._is_streaming = True
            self._write(self._machine.begin(status, fields))
            # What was sent meanwhile is now behind an answer that streams.
            self._limit_waiting()
            async for piece in pieces:
                if self._transport.is_closing() or self._is_ended:
                    # The client went before the answer began. That shows only now, because a generator that was not
                    # begun cannot be closed: what feeds it would stay for ever.
                    self._transport.close()
                    return
                if self._drained is not None:
                    await self._drained
                self._write(self._machine.piece(piece))
        self._is_streaming = False
        self._write(self._machine.end())

    def _served(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            # A stream that nobody reads, or the end of the process.
            self._transport.abort()
        elif task.exception() is not None:
            _log.error("an answer failed", exc_info=task.exception())
            self._transport.abort()

    def _go_on(self) -> None:
        """What comes after an answer: the end, or the next request."""
        if self._transport.is_closing():
            return
        body, self._body = self._body, None
        if self._machine.closing:
            self._say_goodbye(linger=body is not None or self._is_paused)
            return
        self._expect(IDLE_SECONDS, "")
        if self._is_paused:
            self._resume()
        if self._machine.buffered:
            self._receive(b"")
        elif self._charged:
            # A body that nobody read waits no more.
            self._limit_waiting()

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

    # --- the end --------------------------------------------------------------------------------------------------

    def _say_goodbye(self, *, linger: bool) -> None:
        """End the connection once everything is sent; with `linger`, go on reading what nobody wants for a moment."""
        if self._transport.is_closing() or self._is_lingering:
            return
        if self._session is not None:
            self._session.end()
            self._put(self._session.take_outgoing())
        if not linger:
            self._transport.close()
            return
        self._is_lingering = True
        self._expect(LINGER_SECONDS, "")
        self._transport.write_eof()
        if self._is_paused:
            self._resume()

    def _abort(self, why: str) -> None:
        self._shared.tell("connection ended", self._source, why)
        self._transport.abort()

    def drain(self) -> None:
        """The server is going away: end now, or with the answer that is under way."""
        self._machine.closing = True
        if self._task is None:
            self._say_goodbye(linger=False)

    def _expect(self, seconds: float, why: str) -> None:
        self._deadline = self._shared.clock.monotonic() + seconds
        self._why = why

    def check(self, now: float) -> None:
        """End what does not go on. `now` is monotonic."""
        if self._shared.is_draining and self._body is not None and self._body.is_awaited:
            why = "the server is shutting down: the request did not come in time"
            # Nothing was done, and another server may do it.
            self._body.fail(errors.ServiceUnavailable(why, {"retryAfterSeconds": 1}, 1))
        unsent = self._transport.get_write_buffer_size()
        sent = self._written - unsent
        if sent != self._sent or not unsent:
            self._sent, self._sent_since = sent, now
        elif now - self._sent_since >= STALL_SECONDS:
            self._abort("the answer was not read")
            return
        if self._is_lingering and unsent:
            # The time to linger begins with the end of the answer.
            self._expect(LINGER_SECONDS, "")
        elif now >= self._deadline:
            self._end_in_time()

    def _end_in_time(self) -> None:
        if self._why:
            self._abort(self._why)
        elif self._is_lingering:
            self._transport.abort()
        else:
            self._say_goodbye(linger=False)

    def abort(self) -> asyncio.Task[None] | None:
        """End at once; give the task that is to be waited for."""
        task = self._task
        self._transport.abort()
        if task is not None:
            task.cancel()
        return task


def _reads_gzip(headers: exchange.Headers) -> bool:
    offered = ",".join(headers.all(b"accept-encoding"))[:_CODING_BYTES]
    forms = (form.replace(" ", "").partition(";") for form in offered.split(","))
    return any(name == "gzip" and not _no_weight(weight) for name, _, weight in forms)
