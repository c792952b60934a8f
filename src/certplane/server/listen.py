"""TLS, sockets and the ASGI border: uvicorn carries bytes, everything else is behind `Handler`.

The peer's certificate reaches the application through ASGI's TLS extension, which uvicorn does not fill in: a small
protocol class does. The handshake requests a certificate but does not insist on one, and OpenSSL checks its chain
without the time: an expired certificate gets a 401 from the application, which can say why in the log, instead of a
broken handshake.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gzip
import logging
import re
import socket
import ssl
import urllib.parse
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, MutableMapping, Sequence
from typing import Any, Final

import uvicorn
import uvloop
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from certplane import errors
from certplane.server import exchange

_log = logging.getLogger("certplane.server")

#: X509_V_FLAG_NO_CHECK_TIME of OpenSSL, which the ssl module does not name.
_NO_CHECK_TIME: Final = 0x200000
_SHUTDOWN_SECONDS: Final = 8
#: How long the peer's half of the end of TLS is waited for: idle clients read it only when they write again.
_GOODBYE_SECONDS: Final = 0.3
#: Bytes of a request's head, as Go's server takes them, and the seconds in which the first one has to come.
_HEAD_LIMIT: Final = 1 << 20
_HEAD_SECONDS: Final = 32.0
#: How long a connection may be kept open between two requests.
_IDLE_SECONDS: Final = 180.0
#: How long a peer may read nothing of an answer that waits for it.
_STALL_SECONDS: Final = 30.0
#: From this size on answers are compressed for those who can read it, fast rather than small; as in kube-apiserver.
_COMPRESSION_BYTES: Final = 128 * 1024
_COMPRESSION_LEVEL: Final = 1

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class _Protocol(HttpToolsProtocol):
    """uvicorn's protocol, which also tells who the peer is, and which lets nobody be endless: a request has to come
    with a head of a limited size in a limited time, and an answer has to be read.
    """

    _peer_chain: Sequence[bytes] = ()
    #: Bytes of a head that is not complete yet.
    _head = 0
    _reading_head = True
    _head_timer: asyncio.TimerHandle | None = None
    #: One for the whole life of the connection: to start and to cancel one around every request costs more than to
    #: look, once in a while, since when there has been none.
    _idle_timer: asyncio.TimerHandle | None = None
    _idle_since = 0.0
    _stall_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._head_timer = self.loop.call_later(_HEAD_SECONDS, self._too_slow)
        self._idle_timer = self.loop.call_later(_IDLE_SECONDS, self._check_idle)
        self.transport = _Joining(transport, self.loop)  # type: ignore[assignment]  # has all that is used of one
        ssl_object = transport.get_extra_info("ssl_object")
        if ssl_object is not None:
            self._peer_chain = _peer_chain(ssl_object)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timers()
        super().connection_lost(exc)

    # --- requests that do not come ------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self._reading_head:
            self._head += len(data)
            if self._head > _HEAD_LIMIT:
                self._refuse_head()
                return
        super().data_received(data)
        if self._reading_head and self._head and self._head_timer is None:
            # Part of another head: it has its time, too.
            self._head_timer = self.loop.call_later(_HEAD_SECONDS, self._too_slow)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        chain = self._peer_chain
        self.scope["extensions"] = {"tls": {"client_cert_chain_der": chain}}

    def on_headers_complete(self) -> None:
        self._reading_head = False
        self._head = 0
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._reading_head = True

    def _refuse_head(self) -> None:
        text = b"431 Request Header Fields Too Large"
        head = b"HTTP/1.1 " + text + b"\r\ncontent-type: text/plain; charset=utf-8\r\nconnection: close\r\n"
        self.transport.write(head + b"content-length: %d\r\n\r\n" % len(text) + text)
        self.transport.close()

    def _too_slow(self) -> None:
        _log.info("connection ended", extra={"source": self.client, "why": "no request came in time"})
        self.transport.abort()

    def on_response_complete(self) -> None:
        """What uvicorn does here, but for the timer."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        self._idle_since = self.loop.time()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())

    def _check_idle(self) -> None:
        left = _IDLE_SECONDS
        if self.cycle is not None and self.cycle.response_complete and not self._head:
            left -= self.loop.time() - self._idle_since
        if left > 0:
            self._idle_timer = self.loop.call_later(left, self._check_idle)
        else:
            self.timeout_keep_alive_handler()

    # --- answers that are not read ------------------------------------------------------------------------------

    def pause_writing(self) -> None:
        super().pause_writing()
        self._expect_progress()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    def _expect_progress(self) -> None:
        left = self.transport.get_write_buffer_size()
        self._stall_timer = self.loop.call_later(_STALL_SECONDS, self._check_progress, left)

    def _check_progress(self, before: int) -> None:
        if self.transport.get_write_buffer_size() < before:
            self._expect_progress()
            return
        _log.info("connection ended", extra={"source": self.client, "why": "the answer was not read"})
        self.transport.abort()

    def _stop_timers(self) -> None:
        for timer in (self._head_timer, self._idle_timer, self._stall_timer):
            if timer is not None:
                timer.cancel()

    def shutdown(self) -> None:
        """Say goodbye; do not wait for long for the peer to say it too, once it has its answer."""
        super().shutdown()
        self.loop.call_later(_GOODBYE_SECONDS, self._part)

    def _part(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.abort()
        else:
            self.loop.call_later(_GOODBYE_SECONDS, self._part)


class _Joining:
    """A transport that sends the head of an answer together with its body: one TLS record, one system call."""

    def __init__(self, transport: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._head = b""
        # Asked for every answer.
        self.is_closing: Callable[[], bool] = transport.is_closing

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if self._head:
            data, self._head = self._head + data, b""
        elif data.startswith(b"HTTP/1.1 "):
            # A body may follow at once, or, in a watch, much later.
            self._head = data
            self._loop.call_soon(self._flush)
            return
        self._transport.write(data)

    def write_whole(self, data: bytes) -> None:
        """Write an answer that nothing follows."""
        if self._head:
            self._flush()
        self._transport.write(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._head:
            data, self._head = self._head, b""
            self._transport.write(data)


def _peer_chain(ssl_object: Any) -> Sequence[bytes]:
    """The certificates that the peer sent, in DER, leaf first; nothing if it sent none."""
    leaf = ssl_object.getpeercert(binary_form=True)
    if leaf is None:
        return ()
    chain: list[bytes] = [leaf]
    # Public from Python 3.13 on; before that the same method sits on the inner object.
    inner = ssl_object if hasattr(ssl_object, "get_unverified_chain") else getattr(ssl_object, "_sslobj", None)
    with contextlib.suppress(AttributeError, ssl.SSLError):
        for each in inner.get_unverified_chain() or ():  # type: ignore[union-attr]  # None is suppressed with the rest
            der = each if isinstance(each, bytes) else ssl.PEM_cert_to_DER_cert(each.public_bytes())
            if der not in chain:
                chain.append(der)
    return chain


def tls_context(certificate: str, key: str, client_ca: str) -> ssl.SSLContext:
    """The TLS settings of the server, from three PEM files. Raises SetupError."""
    settings = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    settings.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        settings.load_cert_chain(certificate, key)
        settings.load_verify_locations(client_ca)
    except (OSError, ssl.SSLError) as error:
        raise errors.SetupError(
            f"the serving certificate cannot be used: {error}",
            (f"check that {certificate} and {key} belong together and that {client_ca} holds certificates",),
        ) from error
    settings.verify_mode = ssl.CERT_OPTIONAL
    settings.verify_flags |= ssl.VerifyFlags(_NO_CHECK_TIME)
    settings.set_alpn_protocols(["http/1.1"])
    return settings


def application(handler: exchange.Handler) -> Callable[[Message, Receive, Send], Awaitable[None]]:
    """The ASGI application around a handler."""

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        of = exchange.Exchange(
            method=scope["method"],
            path=_decoded_path(scope),
            raw_query=scope["query_string"].decode("latin-1"),
            headers=exchange.Headers(scope["headers"]),
            chunks=lambda: _chunks(receive),
            peer_chain=scope["extensions"]["tls"]["client_cert_chain_der"],
            source=scope["client"][0] if scope["client"] else "",
            raw_path=scope["raw_path"].decode("latin-1"),
        )
        try:
            reply = await handler(of)
        except exchange.ClientGone:
            return
        await _send_reply(of, reply, receive, send)

    return app


def _decoded_path(scope: Message) -> str:
    path: str = scope["path"]
    return path


async def _chunks(receive: Receive) -> AsyncIterator[bytes]:
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise exchange.ClientGone
        yield message.get("body", b"")
        if not message.get("more_body", False):
            return


_VARY_ENCODING: Final = (b"vary", b"Accept-Encoding")


async def _send_reply(of: exchange.Exchange, reply: exchange.Reply, receive: Receive, send: Send) -> None:
    headers = list(reply.headers)
    if reply.content_type:
        headers.insert(0, (b"content-type", reply.content_type.encode("ascii")))
    if reply.stream is None:
        body = reply.body
        if len(body) > _COMPRESSION_BYTES and _reads_gzip(of):
            # In a thread: it takes a while, and lets go of the interpreter.
            body = await asyncio.to_thread(gzip.compress, body, _COMPRESSION_LEVEL, mtime=0)
            headers.append((b"content-encoding", b"gzip"))
            if _VARY_ENCODING not in headers:
                headers.append(_VARY_ENCODING)
        headers.append((b"content-length", str(len(body)).encode("ascii")))
        await _send_whole(_cycle(send), reply.status, headers, b"" if of.method == "HEAD" else body)
        return
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await _send_stream(reply.stream, receive, send)


def _cycle(send: Send) -> RequestResponseCycle:
    """The request and answer that ASGI's `send` is a method of."""
    cycle: RequestResponseCycle = send.__self__  # type: ignore[attr-defined]  # uvicorn's is a bound method
    return cycle


async def _send_whole(
    cycle: RequestResponseCycle, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes
) -> None:
    """An answer in one piece. What uvicorn does for ASGI's two messages, each header looked at again and again, costs
    as much as a small read does in all: here it is one join, one look, and one write.
    """
    if cycle.flow.write_paused and not cycle.disconnected:
        await cycle.flow.drain()
    if cycle.disconnected:
        return
    fields = [*cycle.default_headers, *headers]
    if not cycle.keep_alive:
        fields.append((b"connection", b"close"))
    head = b"".join([STATUS_LINE[status], *[b"%b: %b\r\n" % each for each in fields]])
    if head.count(b"\n") != len(fields) + 1 or head.count(b"\r") != len(fields) + 1:
        raise ValueError("a header field of an answer has a line break")
    cycle.response_started = cycle.response_complete = True
    transport: Any = cycle.transport
    transport.write_whole(head + b"\r\n" + body)
    cycle.message_event.set()
    if not cycle.keep_alive:
        transport.close()
    cycle.on_response()


#: RFC 9110 section 12.4.2: what is given no weight is not wanted.
_NO_WEIGHT: Final = re.compile(r"q=0(\.0*)?")


def _reads_gzip(of: exchange.Exchange) -> bool:
    offered = ",".join(of.headers.all(b"accept-encoding"))
    forms = (each.replace(" ", "").partition(";") for each in offered.split(","))
    return any(name == "gzip" and not _NO_WEIGHT.fullmatch(weight) for name, _, weight in forms)


async def _send_stream(stream: AsyncIterator[bytes], receive: Receive, send: Send) -> None:
    """Send piece by piece until the stream ends or the client goes away, whichever is first."""
    sender = asyncio.ensure_future(_pump(stream, send, _cycle(send)))
    listener = asyncio.ensure_future(_until_gone(receive))
    try:
        await asyncio.wait({sender, listener}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        listener.cancel()
        sender.cancel()
        await asyncio.gather(sender, listener, return_exceptions=True)
    if not sender.cancelled() and sender.exception() is not None:
        _log.error("a stream failed", exc_info=sender.exception())


async def _pump(stream: AsyncIterator[bytes], send: Send, cycle: RequestResponseCycle) -> None:
    async with contextlib.aclosing(stream) as pieces:  # type: ignore[type-var]  # streams are generators
        async for piece in pieces:
            if cycle.flow.write_paused and not cycle.disconnected:
                await cycle.flow.drain()
            if cycle.disconnected:
                return
            if piece:
                # RFC 9112 section 7.1: the length, and the piece.
                cycle.transport.write(b"%x\r\n%b\r\n" % (len(piece), piece))
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


@dataclasses.dataclass(frozen=True, slots=True)
class Plug:
    """A listening address that is ours, and the TLS settings to serve on it with; none for plain HTTP."""

    bound: socket.socket
    tls: ssl.SSLContext | None = None

    @property
    def address(self) -> str:
        host, port = self.bound.getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Listener:
    """A running server."""

    def __init__(self, handler: exchange.Handler, plug: Plug) -> None:
        config = uvicorn.Config(
            application(handler),
            http=_Protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
            h11_max_incomplete_event_size=1 << 20,
            backlog=2048,
        )
        config.load()
        # uvicorn would make its own from file names; ours is laxer about time and stricter about versions.
        config.ssl = plug.tls
        self._server = _Server(config)
        self._socket = plug.bound

    async def serve(self) -> None:
        """Serve until `stop`, then until the requests in flight are answered."""
        await self._server.serve(sockets=[self._socket])

    @property
    def started(self) -> bool:
        return self._server.started

    def stop(self) -> None:
        """Accept no more connections; finish what is under way."""
        self._server.should_exit = True


class _Server(uvicorn.Server):
    """uvicorn's server, without its signal handlers: the composition root decides when to stop."""

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        yield


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run a program on the fastest event loop there is."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main)


def bind(host: str, port: int, flag: str = "--listen") -> socket.socket:
    """A listening address, taken. Raises SetupError if it cannot be had, naming the flag that chooses another."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise errors.SetupError(
            f"cannot listen on {urllib.parse.quote(host, safe=':[]')}:{port}: {error.strerror or error}",
            (f"another process may use the port: choose another one with {flag} HOST:PORT",),
        ) from error
    bound.setblocking(False)
    return bound
