"""Calls from inside the process: the whole pipeline, without a socket.

Controllers are users of the API like anyone else: their calls are authorized, admitted, counted and recorded, under the
identity that the composition root gives them. Implements `certplane.client.api.Transport`, without knowing it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import urllib.parse
from collections.abc import AsyncIterator, Mapping, Sequence

from certplane.meta import context
from certplane.server import exchange


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a request."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclasses.dataclass(frozen=True, slots=True)
class Stream:
    """The answer to a watch; `chunks` delivers its body."""

    status: int
    headers: Mapping[str, str]
    chunks: AsyncIterator[bytes]


class Transport:
    """Requests under one identity."""

    def __init__(self, handler: exchange.Handler, identity: context.User, user_agent: str) -> None:
        self._handler = handler
        self._identity = identity
        self._user_agent = user_agent.encode("ascii")

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> Answer:
        """Send one request and wait for its answer."""
        reply = await self._send(method, path, query, headers, body)
        if reply.stream is None:
            return Answer(reply.status, _headers(reply), reply.body)
        pieces = [piece async for piece in reply.stream]
        return Answer(reply.status, _headers(reply), b"".join(pieces))

    @contextlib.asynccontextmanager
    async def stream(
        self,
        method: str,
        path: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[Stream]:
        """Send one request whose answer comes piece by piece; leaving ends it."""
        reply = await self._send(method, path, query, headers, b"")
        pieces = reply.stream if reply.stream is not None else _single(reply.body)
        async with contextlib.aclosing(pieces) as chunks:  # type: ignore[type-var]  # streams are generators
            yield Stream(reply.status, _headers(reply), chunks)

    async def _send(
        self,
        method: str,
        path: str,
        query: Sequence[tuple[str, str]],
        headers: Mapping[str, str] | None,
        body: bytes,
    ) -> exchange.Reply:
        fields = [(name.lower().encode("ascii"), value.encode("latin-1")) for name, value in (headers or {}).items()]
        fields.append((b"user-agent", self._user_agent))
        return await self._handler(
            exchange.Exchange(
                method=method,
                path=urllib.parse.unquote(path),
                raw_query=urllib.parse.urlencode(query) if query else "",
                headers=exchange.Headers(fields),
                chunks=lambda: _single(body),
                identity=self._identity,
            )
        )


async def _single(body: bytes) -> AsyncIterator[bytes]:
    yield body


def _headers(reply: exchange.Reply) -> Mapping[str, str]:
    fields = {name.decode("ascii"): value.decode("latin-1") for name, value in reply.headers}
    return {"content-type": reply.content_type, **fields}
