"""Requests over HTTPS for small processes: a third of the memory of `remote`, which needs an HTTP library.

Each request has its own connection. That is slower for many requests, and simpler for the few of an agent: there is no
kept connection that may be closed already, and nothing is sent twice, except for a request that was refused with 401
if the credentials may have been renewed since. Redirects are not followed, and no body is compressed.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import os
import ssl
import urllib.parse
from collections.abc import AsyncIterator, Awaitable
from typing import Final, TypeVar

from certplane import clock
from certplane.client import api, http1, httprequests
from certplane.client.credentials import CredentialProblem, Identity
from certplane.client.http1 import ProtocolError, ResponseReader
from certplane.client.httprequests import Limits
from certplane.client.kubeconfig import ClientConfig
from certplane.clock import Clock

T = TypeVar("T")

#: A process with little memory reads no large collections.
LIMITS: Final = Limits(body=16 << 20)
#: How long to wait for the server's side of the end of a connection.
_CLOSE_SECONDS: Final = 1.0


class _ProxyError(Exception):
    """The proxy refuses to connect, or cannot be reached. The text has no password."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Deadline:
    """Limits how long every step takes, and all steps together. `end` is a time of the monotonic clock."""

    clock: Clock
    silence: float
    end: float

    async def wait(self, step: Awaitable[T], /) -> T:
        """The result of a step. Raises TimeoutError."""
        left = max(0.0, min(self.silence, self.end - self.clock.monotonic()))
        return await clock.wait_for(self.clock, step, left)


@dataclasses.dataclass(slots=True)
class _Connection:
    """What has to be closed, whenever the request ends: it may be cancelled in the moment of the connection."""

    writer: asyncio.StreamWriter | None = None
    reader: ResponseReader | None = None
    #: To the proxy. A writer closes its connection when nothing refers to it any more.
    tunnel: asyncio.StreamWriter | None = None


class LightTransport:
    """Implements `api.Transport`."""

    def __init__(self, config: ClientConfig, user_agent: str, clock: Clock, limits: Limits = LIMITS) -> None:
        self._config = config
        self._user_agent = user_agent
        self._clock = clock
        self._limits = limits
        #: The TLS context of the last request: to make one takes longer than a handshake.
        self._tls: tuple[tuple[object, ...], ssl.SSLContext] | None = None

    async def aclose(self) -> None:
        """As `remote.HTTPSTransport.aclose`. There is nothing to close between requests."""

    async def send(self, request: api.Request) -> api.Response:
        for is_last in (False, True):
            config = self._config.current()
            deadline = self._deadline(self._limits.silence, self._limits.total)
            async with _translated_errors(config), self._sent(config, request, deadline) as reader:
                head = await reader.head()
                body = await self._read(config, reader.body(head, request.method))
                response = api.Response(head.status, head.fields, body)
            if response.status != 401 or is_last or not httprequests.has_new_credentials(self._config, config):
                break
        return response

    @contextlib.asynccontextmanager
    async def stream(self, request: api.Request) -> AsyncIterator[api.Response]:
        config = self._config.current()
        deadline = self._deadline(self._limits.watch_silence, self._limits.watch_total)
        async with contextlib.AsyncExitStack() as stack:
            async with _translated_errors(config):
                reader = await stack.enter_async_context(self._sent(config, request, deadline))
                head = await reader.head()
            if head.status == 401:
                config.source.reject()
            chunks = _translated_chunks(config, reader.body(head, request.method))
            yield api.Response(head.status, head.fields, chunks=chunks)

    @contextlib.asynccontextmanager
    async def _sent(
        self, config: ClientConfig, request: api.Request, deadline: _Deadline
    ) -> AsyncIterator[ResponseReader]:
        """Connect, and send a request."""
        identity = await config.source.identity()
        url = urllib.parse.urlsplit(httprequests.target(config, request))
        target = url.path + (f"?{url.query}" if url.query else "")
        fields = [("host", config.host), ("connection", "close"), ("content-length", str(len(request.body)))]
        fields += httprequests.header_fields(config, identity, request, self._user_agent)
        data = http1.request_head(request.method, target, fields) + request.body
        context = self._context(config, identity)
        connection = _Connection()
        try:
            connecting = self._connect(connection, config, context)
            stream, writer = await clock.wait_for(self._clock, connecting, self._limits.connect)
            connection.reader = ResponseReader(stream, deadline.wait)
            request.before_sending()
            # A server may respond, and close the connection, before it has received the whole body.
            with contextlib.suppress(ConnectionError):
                writer.write(data)
                await deadline.wait(writer.drain())
            yield connection.reader
        finally:
            await self._close(connection)

    def _context(self, config: ClientConfig, identity: Identity) -> ssl.SSLContext:
        trusted = config.trusted.read()
        key = trusted, identity.certificate, identity.key, config.insecure
        if self._tls is None or self._tls[0] != key:
            self._tls = key, config.tls_context(trusted, identity.certificate, identity.key)
        return self._tls[1]

    async def _connect(
        self, connection: _Connection, config: ClientConfig, context: ssl.SSLContext
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        url = urllib.parse.urlsplit(config.base)
        host, port = url.hostname or "", url.port or 443
        name = config.server_name or host
        limit = self._limits.header
        if config.proxy:
            address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            await _open_tunnel(connection, config.proxy, address, limit)
            stream, writer = await _start_tls(connection, context, name, limit)
        else:
            stream, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=name, limit=limit)
            connection.writer = writer
        httprequests.set_keepalive(writer.get_extra_info("socket"))
        return stream, writer

    async def _close(self, connection: _Connection) -> None:
        writer = connection.writer
        if writer is not None:
            if connection.reader is not None and connection.reader.is_complete:
                writer.close()
                with contextlib.suppress(OSError, TimeoutError):
                    await clock.wait_for(self._clock, writer.wait_closed(), _CLOSE_SECONDS)
            writer.transport.abort()
        # The loop closes the socket in its next round.
        await asyncio.sleep(0)

    async def _read(self, config: ClientConfig, parts: AsyncIterator[bytes]) -> bytes:
        body = bytearray()
        async for part in parts:
            body += part
            self._limits.check_body(len(body), config)
        return bytes(body)

    def _deadline(self, silence: float, total: float) -> _Deadline:
        return _Deadline(self._clock, silence, self._clock.monotonic() + total)


async def _open_tunnel(connection: _Connection, proxy: str, address: str, limit: int) -> None:
    """Connect to a server through a proxy: `connection.writer` leads to it. Raises _ProxyError."""
    url = urllib.parse.urlsplit(proxy)
    is_tls = url.scheme == "https"
    proxy_host, proxy_port = url.hostname or "", url.port or (443 if is_tls else 80)
    fields = [("host", address)]
    if url.username:
        fields.append(("proxy-authorization", httprequests.basic_authorization(url)))
    try:
        stream, writer = await asyncio.open_connection(
            proxy_host, proxy_port, ssl=ssl.create_default_context() if is_tls else None, limit=limit
        )
        connection.writer = writer
        writer.write(http1.request_head("CONNECT", address, fields))
        head = await ResponseReader(stream, _without_limit).head()
    except OSError as error:
        raise _ProxyError(f"the proxy at {proxy_host}:{proxy_port}: {httprequests.reason(error)}") from error
    except ProtocolError as error:
        raise _ProxyError(f"the proxy at {proxy_host}:{proxy_port} {error}") from error
    if head.status != 200:
        raise _ProxyError(f"the proxy responds with {head.status} {head.reason}".rstrip())


async def _start_tls(
    connection: _Connection, context: ssl.SSLContext, name: str, limit: int
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Begin TLS with the server at the end of a tunnel.

    `StreamWriter.start_tls` keeps the reader, and with it what the proxy has sent after its response: a response in the
    name of the server. So the reader is a new one.
    """
    loop = asyncio.get_running_loop()
    tunnel = connection.writer
    assert tunnel is not None  # noqa: S101 - it was opened
    stream = asyncio.StreamReader(limit=limit)
    protocol = asyncio.StreamReaderProtocol(stream)
    transport = await loop.start_tls(tunnel.transport, protocol, context, server_hostname=name)
    if transport is None:
        raise ConnectionAbortedError(errno.ECONNABORTED, os.strerror(errno.ECONNABORTED))
    protocol.connection_made(transport)
    writer = asyncio.StreamWriter(transport, protocol, stream, loop)
    connection.tunnel, connection.writer = tunnel, writer
    return stream, writer


async def _without_limit(step: Awaitable[T], /) -> T:
    # The time to connect is limited as a whole.
    return await step


@contextlib.asynccontextmanager
async def _translated_errors(config: ClientConfig) -> AsyncIterator[None]:
    try:
        yield
    except CredentialProblem as error:
        raise api.Unreachable(f"no credentials for {config.host}: {error}") from error
    except ProtocolError as error:
        raise api.Unreachable(f"the server at {config.host} {error}") from error
    except _ProxyError as error:
        raise api.Unreachable(f"the server at {config.host} cannot be reached: {error}") from error
    except (OSError, ValueError) as error:
        raise api.Unreachable(f"the server at {config.host} {httprequests.problem(error)}") from error


async def _translated_chunks(config: ClientConfig, parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async with _translated_errors(config):
        async for part in parts:
            yield part
