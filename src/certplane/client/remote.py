"""Requests to a server elsewhere, over HTTPS. Implements `certplane.client.api.Transport`.

Connections are kept and shared; any number of requests and watches are under way at once. When the certificates in the
files of a kubeconfig change, new requests use new connections, and the old ones end with their last answer. Nothing is
retried, but for what the server did not let in (401) with credentials that may have been renewed since, and reads on a
kept connection that turns out to be dead, which aiohttp sends once more.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
import ssl
import urllib.parse
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final

import aiohttp
import yarl

from certplane.client import api, credentials, kubeconfig

_CONNECT_SECONDS: Final = 30.0
#: A server that says nothing for so long, in the middle of an answer or before it, is gone.
_ANSWER_SECONDS: Final = 75.0
#: Watches have a bookmark every minute; servers that send none end them after some minutes. Beyond both nobody is
#: there any more.
_SILENCE_SECONDS: Final = 900.0
_KEPT_SECONDS: Final = 90.0
#: A connection that is silent for half a minute is asked for three times, ten seconds apart.
_KEEPALIVE: Final = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}
_PATH_SAFE: Final = "/:@!$&'()*+,;=-._~"


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a request."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclasses.dataclass(frozen=True, slots=True)
class Stream:
    """The answer to a watch."""

    status: int
    headers: Mapping[str, str]
    chunks: AsyncIterator[bytes]


class _Pool:
    """Connections under one TLS identity, and how many requests use them."""

    def __init__(self, access: kubeconfig.Access, trusted: bytes, identity: credentials.Identity) -> None:
        self.key = trusted, identity.certificate, identity.key
        tls = access.tls_context(trusted, identity.certificate, identity.key)
        connector = aiohttp.TCPConnector(ssl=tls, limit=0, keepalive_timeout=_KEPT_SECONDS, socket_factory=_socket)
        self.session = aiohttp.ClientSession(
            connector=connector, cookie_jar=aiohttp.DummyCookieJar(), skip_auto_headers=("User-Agent",)
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
        """Close, once nobody uses it any more."""
        self._retired = True
        await self._close_if_done()

    async def _close_if_done(self) -> None:
        if self._retired and not self._users:
            await self.session.close()


class Transport:
    """Requests by one access. Belongs to the event loop that it is first used on; `aclose` it there."""

    def __init__(self, access: kubeconfig.Access, user_agent: str) -> None:
        self._access = access
        self._user_agent = user_agent
        self._pool: _Pool | None = None

    async def aclose(self) -> None:
        """Let go of the connections; what is under way may finish."""
        if self._pool is not None:
            pool, self._pool = self._pool, None
            await pool.retire()

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> Answer:
        """Send one request and wait for its answer. Raises api.Unreachable."""
        url = self._url(path, query)
        async with self._guarded():
            for last in (False, True):
                async with self._sent(method, url, headers, body, _ANSWER_SECONDS) as found:
                    answer = Answer(found.status, _fields(found), await found.read())
                if answer.status != 401 or last or not self._access.source.refuse():
                    break
            return answer

    @contextlib.asynccontextmanager
    async def stream(
        self,
        method: str,
        path: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[Stream]:
        """Send one request whose answer comes piece by piece; leaving ends it. Raises api.Unreachable."""
        async with contextlib.AsyncExitStack() as stack:
            async with self._guarded():
                found = await stack.enter_async_context(
                    self._sent(method, self._url(path, query), headers, b"", _SILENCE_SECONDS)
                )
            if found.status == 401:
                self._access.source.refuse()
            yield Stream(found.status, _fields(found), self._chunks(found))

    @contextlib.asynccontextmanager
    async def _sent(
        self,
        method: str,
        url: yarl.URL,
        headers: Mapping[str, str] | None,
        body: bytes,
        patience: float,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        identity = await self._access.source.identity()
        pool = await self._current(identity)
        fields = {"user-agent": self._user_agent, **self._access.impersonated, **(headers or {})}
        if identity.authorization:
            fields["authorization"] = identity.authorization
        async with (
            pool.used() as session,
            session.request(
                method,
                url,
                headers=list(_many(fields)),
                data=body or None,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=patience),
                allow_redirects=False,
                server_hostname=self._access.server_name or None,
                proxy=self._access.proxy or None,
            ) as found,
        ):
            yield found

    async def _current(self, identity: credentials.Identity) -> _Pool:
        """The connections of who we are now."""
        trusted = self._access.trusted.read()
        key = trusted, identity.certificate, identity.key
        if self._pool is None or self._pool.key != key:
            old, self._pool = self._pool, _Pool(self._access, trusted, identity)
            if old is not None:
                await old.retire()
        return self._pool

    def _url(self, path: str, query: Sequence[tuple[str, str]]) -> yarl.URL:
        target = self._access.base + urllib.parse.quote(path, safe=_PATH_SAFE)
        return yarl.URL(f"{target}?{urllib.parse.urlencode(query)}" if query else target, encoded=True)

    async def _chunks(self, of: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        async with self._guarded():
            async for chunk in of.content.iter_any():
                yield chunk

    @contextlib.asynccontextmanager
    async def _guarded(self) -> AsyncIterator[None]:
        try:
            yield
        except credentials.CredentialProblem as error:
            raise api.Unreachable(f"no credentials for {self._access.place}: {error}") from error
        except (aiohttp.ClientError, OSError, TimeoutError, ssl.SSLError, ValueError) as error:
            raise api.Unreachable(f"the server at {self._access.place} {_problem(error)}") from error


def _socket(of: tuple[Any, ...]) -> socket.socket:
    """A socket that notices when nobody is there any more: a watch may be silent for long, and is not to be so because
    something between has forgotten the connection.
    """
    family, kind, protocol, _, _ = of
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
        # Not every system has each of them.
        if hasattr(socket, name):
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return made


def _problem(error: Exception) -> str:
    """Why there was no answer, without what the library says besides: that may be the password of a proxy."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        found = error.certificate_error
        return f"is not trusted: {getattr(found, 'verify_message', '') or found}"
    if isinstance(error, aiohttp.ClientResponseError):
        who = "the proxy" if isinstance(error, aiohttp.ClientHttpProxyError) else "it"
        return f"cannot be reached: {who} answers {error.status} {error.message}"
    inner = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(inner, ssl.SSLError):
        return f"cannot be reached: TLS failed: {inner.reason or inner}"
    if isinstance(inner, socket.gaierror):
        what = inner.strerror
    else:
        what = os.strerror(inner.errno) if isinstance(inner, OSError) and inner.errno else str(inner)
    by = f"the proxy at {error.host}:{error.port}: " if isinstance(error, aiohttp.ClientProxyConnectionError) else ""
    return f"cannot be reached: {by}{what or type(inner).__name__}"


def _many(fields: Mapping[str, str | Sequence[str]]) -> Any:
    for name, value in fields.items():
        for each in (value,) if isinstance(value, str) else value:
            yield name, each


def _fields(of: aiohttp.ClientResponse) -> Mapping[str, str]:
    return {name.lower(): value for name, value in of.headers.items()}
