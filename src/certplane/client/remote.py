"""Requests over HTTPS.

Connections are kept open and shared by any number of concurrent requests and watches. When the configuration
changes on disk, new requests use new connections, and the old ones are closed after their last response. Two things are
retried, once each: a request refused with 401, if the credentials may have been renewed since, and a read on a kept
connection that turns out to be closed (done by aiohttp).
"""

from __future__ import annotations

import contextlib
import contextvars
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Final

import aiohttp
import yarl

from certplane.client import api, httprequests
from certplane.client.credentials import CredentialProblem, Identity
from certplane.client.httprequests import Limits
from certplane.client.kubeconfig import ClientConfig

_KEPT_SECONDS: Final = 90.0
_LIMITS: Final = Limits()

#: `api.Request.before_sending` of the request that this task is about to send.
_before_sending: contextvars.ContextVar[Callable[[], None]] = contextvars.ContextVar("before_sending")


class _Request(aiohttp.ClientRequest):
    """Calls `before_sending` when there is a connection: connecting may have taken half a minute. aiohttp sends a
    request anew, by this method, when a kept connection turns out to be closed.
    """

    async def send(self, conn: aiohttp.connector.Connection) -> aiohttp.ClientResponse:
        _before_sending.get()()
        return await super().send(conn)


class _Pool:
    """Connections under one TLS identity, and how many requests use them."""

    def __init__(self, config: ClientConfig, trusted: bytes, identity: Identity) -> None:
        self.key = _pool_key(config, trusted, identity)
        tls = config.tls_context(trusted, identity.certificate, identity.key)
        connector = aiohttp.TCPConnector(ssl=tls, limit=0, keepalive_timeout=_KEPT_SECONDS, socket_factory=_socket)
        self.session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("User-Agent",),
            request_class=_Request,
        )
        self._users = 0
        self._retired = False

    @contextlib.asynccontextmanager
    async def used(self) -> AsyncIterator[aiohttp.ClientSession]:
        self._users += 1
        try:
            yield self.session
        finally:
            self._users -= 1
            await self._close_if_done()

    async def retire(self) -> None:
        """Close the connections when the last request has ended."""
        self._retired = True
        await self._close_if_done()

    async def _close_if_done(self) -> None:
        if self._retired and not self._users:
            await self.session.close()


class HTTPSTransport:
    """Implements `api.Transport`. Belongs to the event loop that it is first used on; `aclose` it there."""

    def __init__(self, config: ClientConfig, user_agent: str, limits: Limits = _LIMITS) -> None:
        self._config = config
        self._user_agent = user_agent
        self._limits = limits
        self._pool: _Pool | None = None

    async def aclose(self) -> None:
        """Close the connections; requests under way may finish."""
        if self._pool is not None:
            pool, self._pool = self._pool, None
            await pool.retire()

    async def send(self, request: api.Request) -> api.Response:
        limits = self._limits
        limit = aiohttp.ClientTimeout(limits.total, sock_connect=limits.connect, sock_read=limits.silence)
        for is_last in (False, True):
            config = self._config.current()
            async with self._translated_errors(config), self._sent(config, request, limit) as received:
                response = api.Response(received.status, _fields(received), await self._read(config, received))
            if response.status != 401 or is_last or not httprequests.has_new_credentials(self._config, config):
                break
        return response

    @contextlib.asynccontextmanager
    async def stream(self, request: api.Request) -> AsyncIterator[api.Response]:
        config, limits = self._config.current(), self._limits
        limit = aiohttp.ClientTimeout(limits.watch_total, sock_connect=limits.connect, sock_read=limits.watch_silence)
        async with contextlib.AsyncExitStack() as stack:
            async with self._translated_errors(config):
                received = await stack.enter_async_context(self._sent(config, request, limit))
            if received.status == 401:
                config.source.reject()
            yield api.Response(received.status, _fields(received), chunks=self._chunks(config, received))

    @contextlib.asynccontextmanager
    async def _sent(
        self, config: ClientConfig, request: api.Request, limit: aiohttp.ClientTimeout
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        identity = await config.source.identity()
        pool = await self._current_pool(config, identity)
        async with pool.used() as session:
            sending = session.request(
                request.method,
                yarl.URL(httprequests.target(config, request), encoded=True),
                headers=httprequests.header_fields(config, identity, request, self._user_agent),
                data=request.body or None,
                timeout=limit,
                allow_redirects=False,
                server_hostname=config.server_name or None,
                proxy=config.proxy or None,
            )
            former = _before_sending.set(request.before_sending)
            try:
                received = await sending
            finally:
                _before_sending.reset(former)
            async with received:
                yield received

    async def _current_pool(self, config: ClientConfig, identity: Identity) -> _Pool:
        """The connections for the current certificates."""
        trusted = config.trusted.read()
        if self._pool is None or self._pool.key != _pool_key(config, trusted, identity):
            old, self._pool = self._pool, _Pool(config, trusted, identity)
            if old is not None:
                await old.retire()
        return self._pool

    async def _read(self, config: ClientConfig, response: aiohttp.ClientResponse) -> bytes:
        body = bytearray()
        # Compressed bodies are limited by what they become.
        async for chunk in response.content.iter_any():
            body += chunk
            self._limits.check_body(len(body), config)
        return bytes(body)

    async def _chunks(self, config: ClientConfig, response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        async with self._translated_errors(config):
            async for chunk in response.content.iter_any():
                yield chunk

    @contextlib.asynccontextmanager
    async def _translated_errors(self, config: ClientConfig) -> AsyncIterator[None]:
        try:
            yield
        except CredentialProblem as error:
            raise api.Unreachable(f"no credentials for {config.host}: {error}") from error
        except (aiohttp.ClientError, OSError, TimeoutError, ssl.SSLError, ValueError) as error:
            raise api.Unreachable(f"the server at {config.host} {_problem(error)}") from error


def _pool_key(config: ClientConfig, trusted: bytes, identity: Identity) -> tuple[object, ...]:
    """What all requests over a connection have in common."""
    return config.base, config.server_name, config.insecure, config.proxy, trusted, identity.certificate, identity.key


def _socket(address: tuple[Any, ...]) -> socket.socket:
    family, kind, protocol, _, _ = address
    connection = socket.socket(family, kind, protocol)
    httprequests.set_keepalive(connection)
    return connection


def _problem(error: Exception) -> str:
    """Why there was no response. The library's whole message is not used: it may have the password of a proxy."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        cause = error.certificate_error
        return f"is not trusted: {getattr(cause, 'verify_message', '') or cause}"
    if isinstance(error, aiohttp.ClientResponseError):
        sender = "the proxy" if isinstance(error, aiohttp.ClientHttpProxyError) else "it"
        return f"cannot be reached: {sender} responds with {error.status} {error.message}"
    inner = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(error, aiohttp.ClientProxyConnectionError):
        return f"cannot be reached: the proxy at {error.host}:{error.port}: {httprequests.reason(inner)}"
    return httprequests.problem(inner)


def _fields(response: aiohttp.ClientResponse) -> Mapping[str, str]:
    # The values of a repeated header are joined, as RFC 9110 section 5.3 permits: there may be several warnings.
    fields: dict[str, str] = {}
    for name, value in response.headers.items():
        field = name.lower()
        fields[field] = f"{fields[field]}, {value}" if field in fields else value
    return fields
