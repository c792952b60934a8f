"""No more requests a second than agreed: a token bucket in front of a transport."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence

from certplane import clock as clocks
from certplane.client import api


class Paced:
    """A transport that waits when it is too fast. Implements `api.Transport`."""

    def __init__(self, transport: api.Transport, clock: clocks.Clock, rate: float, burst: int) -> None:
        """`rate` is requests a second; `burst` is how many may come at once."""
        self._transport = transport
        self._clock = clock
        self._rate = rate
        self._burst = float(burst)
        self._tokens = float(burst)
        self._filled = clock.monotonic()

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> api.Response:
        await self._wait()
        return await self._transport.request(method, path, query=query, headers=headers, body=body)

    @contextlib.asynccontextmanager
    async def stream(
        self,
        method: str,
        path: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[api.Chunks]:
        await self._wait()
        async with self._transport.stream(method, path, query=query, headers=headers) as answer:
            yield answer

    async def _wait(self) -> None:
        now = self._clock.monotonic()
        self._tokens = min(self._burst, self._tokens + (now - self._filled) * self._rate) - 1
        self._filled = now
        if self._tokens < 0:
            # The debt is the place in the queue.
            await self._clock.sleep(-self._tokens / self._rate)
