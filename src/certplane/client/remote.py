"""Requests to a server elsewhere, over HTTPS. Implements `certplane.client.api.Transport`.

Each request has a connection of its own and a thread that waits for it: right for commands, which ask a few things and
end. Nothing is retried.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import http.client
import urllib.parse
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Final, TypeVar

from certplane.client import api, kubeconfig

_SECONDS: Final = 30.0
_CHUNK: Final = 1 << 16
_T = TypeVar("_T")


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


class Transport:
    """Requests by one access."""

    def __init__(self, access: kubeconfig.Access, user_agent: str) -> None:
        self._access = access
        self._user_agent = user_agent

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

        def exchange() -> Answer:
            with contextlib.closing(self._connection()) as connection:
                found = self._send(connection, method, path, query, headers, body)
                return Answer(found.status, _fields(found), found.read())

        return await asyncio.to_thread(self._guarded, exchange)

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
        connection = self._connection()
        try:
            found = await asyncio.to_thread(
                self._guarded, lambda: self._send(connection, method, path, query, headers, b"")
            )
            yield Stream(found.status, _fields(found), self._chunks(found))
        finally:
            connection.close()

    async def _chunks(self, of: http.client.HTTPResponse) -> AsyncIterator[bytes]:
        while chunk := await asyncio.to_thread(self._guarded, lambda: of.read1(_CHUNK)):
            yield chunk

    def _connection(self) -> http.client.HTTPSConnection:
        access = self._access
        return http.client.HTTPSConnection(access.host, access.port, context=access.tls, timeout=_SECONDS)

    def _send(
        self,
        connection: http.client.HTTPSConnection,
        method: str,
        path: str,
        query: Sequence[tuple[str, str]],
        headers: Mapping[str, str] | None,
        body: bytes,
    ) -> http.client.HTTPResponse:
        target = f"{path}?{urllib.parse.urlencode(query)}" if query else path
        fields = {"user-agent": self._user_agent, **(headers or {})}
        if self._access.token:
            fields["authorization"] = f"Bearer {self._access.token}"
        connection.request(method, target, body or None, fields)
        return connection.getresponse()

    def _guarded(self, call: Callable[[], _T]) -> _T:
        try:
            return call()
        except (OSError, http.client.HTTPException) as error:
            place = f"{self._access.host}:{self._access.port}"
            raise api.Unreachable(f"the server at {place} cannot be reached: {error}") from error


def _fields(of: http.client.HTTPResponse) -> Mapping[str, str]:
    return {name.lower(): value for name, value in of.getheaders()}
