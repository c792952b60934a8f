"""The client-side rate limit: a transport that waits for a token bucket.

Source: client-go `util/flowcontrol` and `rest.Config` (QPS, Burst).
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from certplane.client import api
from certplane.clock import Clock
from certplane.tokenbucket import TokenBucket


class RateLimitedTransport:
    """A transport that sends no more requests than its token bucket allows. Implements `api.Transport`."""

    def __init__(self, transport: api.Transport, clock: Clock, rate: float, burst: int) -> None:
        """`rate` is requests a second; `burst` is how many may be sent at once."""
        self._transport = transport
        self._clock = clock
        self._bucket = TokenBucket(clock, rate, burst)

    async def send(self, request: api.Request) -> api.Response:
        await self._wait()
        return await self._transport.send(request)

    @contextlib.asynccontextmanager
    async def stream(self, request: api.Request) -> AsyncIterator[api.Response]:
        await self._wait()
        async with self._transport.stream(request) as response:
            yield response

    async def _wait(self) -> None:
        seconds = self._bucket.reserve()
        if seconds > 0:
            await self._clock.sleep(seconds)
