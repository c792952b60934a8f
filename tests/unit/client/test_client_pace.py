"""No more requests a second than agreed."""

from __future__ import annotations

import asyncio

from certplane import testing
from certplane.client import pace


class Counting:
    """A transport that answers at once, and counts."""

    def __init__(self):
        self.count = 0

    async def request(self, *arguments, **named):
        self.count += 1


async def test_a_burst_goes_through_and_the_rest_waits():
    """Then as many a second as agreed; after a pause there is a burst again."""
    clock, server = testing.FakeClock(), Counting()
    paced = pace.Paced(server, clock, 2, 3)
    asked = [asyncio.ensure_future(paced.request("GET", "/")) for _ in range(7)]
    await testing.settle()
    assert server.count == 3
    await clock.advance(1)
    assert server.count == 5
    await clock.advance(1)
    assert server.count == 7
    await asyncio.gather(*asked)
    await clock.advance(10)
    for _ in range(3):
        await paced.request("GET", "/")
    assert server.count == 10
