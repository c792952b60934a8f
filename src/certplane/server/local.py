"""Calls inside the process of the server: through the whole pipeline, without a socket.

Controllers are users of the API like everyone else: their calls are authorized, admitted, counted and audited, under
the identity that is given here.
"""

from __future__ import annotations

import contextlib
import urllib.parse
from collections.abc import AsyncIterator, Mapping

from certplane.client import api
from certplane.meta.context import User
from certplane.server import exchange


class InProcessTransport:
    """Requests under one identity. Implements `api.Transport`."""

    def __init__(self, handler: exchange.Handler, user: User, user_agent: str) -> None:
        self._handler = handler
        self._user = user
        self._user_agent = user_agent.encode("ascii")

    async def send(self, request: api.Request) -> api.Response:
        reply = await self._handle(request)
        if reply.stream is None:
            return api.Response(reply.status, _headers(reply), reply.body)
        chunks = [chunk async for chunk in reply.stream]
        return api.Response(reply.status, _headers(reply), b"".join(chunks))

    @contextlib.asynccontextmanager
    async def stream(self, request: api.Request) -> AsyncIterator[api.Response]:
        reply = await self._handle(request)
        body = reply.stream if reply.stream is not None else _single(reply.body)
        async with contextlib.aclosing(body) as chunks:  # type: ignore[type-var]  # streams are generators
            yield api.Response(reply.status, _headers(reply), chunks=chunks)

    async def _handle(self, request: api.Request) -> exchange.Response:
        request.before_sending()
        fields = [(name.lower().encode("ascii"), value.encode("latin-1")) for name, value in request.headers.items()]
        fields.append((b"user-agent", self._user_agent))
        return await self._handler(
            exchange.Request(
                method=request.method,
                path=request.path,
                raw_query=urllib.parse.urlencode(request.query) if request.query else "",
                headers=exchange.Headers(fields),
                chunks=lambda: _single(request.body),
                identity=self._user,
            )
        )


async def _single(body: bytes) -> AsyncIterator[bytes]:
    yield body


def _headers(reply: exchange.Response) -> Mapping[str, str]:
    fields = {name.decode("ascii"): value.decode("latin-1") for name, value in reply.headers}
    return {"content-type": reply.content_type, **fields}
