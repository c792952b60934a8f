"""The rate limit of a client."""

from __future__ import annotations

import asyncio

from certplane import testing
from certplane.client import api, ratelimit


class CountingTransport:
    """Counts requests, and answers at once."""

    def __init__(self):
        self.count = 0

    async def send(self, request):
        self.count += 1


async def test_requests_above_the_burst_wait():
    """They are sent at the configured rate. After a pause there can be a burst again."""
    clock, server = testing.FakeClock(), CountingTransport()
    transport = ratelimit.RateLimitedTransport(server, clock, 2, 3)
    request = api.Request("GET", "/")
    sending = [asyncio.ensure_future(transport.send(request)) for _ in range(7)]
    await testing.settle()
    assert server.count == 3
    await clock.advance(1)
    assert server.count == 5
    await clock.advance(1)
    assert server.count == 7
    await asyncio.gather(*sending)
    await clock.advance(10)
    for _ in range(3):
        await transport.send(request)
    assert server.count == 10
