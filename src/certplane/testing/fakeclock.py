"""A clock for tests: time passes when the test says so."""

from __future__ import annotations

import asyncio
import datetime
import heapq
import itertools


class FakeClock:
    """A clock that stands still until `advance` is called. Implements `certplane.clock.Clock`. `start` is the first
    moment, in UTC; by default 1 January 2026.
    """

    def __init__(self, start: datetime.datetime | None = None) -> None:
        self._now = start or datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
        self._elapsed = 0.0
        self._order = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def now(self) -> datetime.datetime:
        return self._now

    def monotonic(self) -> float:
        return self._elapsed

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._elapsed + seconds, next(self._order), future))
        await future

    @property
    def sleepers(self) -> int:
        """How many tasks wait on this clock."""
        return sum(not future.done() for _, _, future in self._sleepers)

    async def advance(self, seconds: float) -> None:
        """Let some seconds pass: each sleeper wakes at its moment, and every task runs until it waits again."""
        end = self._elapsed + seconds
        await settle()
        while self._sleepers and self._sleepers[0][0] <= end:
            due, _, future = heapq.heappop(self._sleepers)
            self._move_to(due)
            if not future.done():
                future.set_result(None)
                await settle()
        self._move_to(end)
        await settle()

    def _move_to(self, elapsed: float) -> None:
        if elapsed > self._elapsed:
            self._now += datetime.timedelta(seconds=elapsed - self._elapsed)
            self._elapsed = elapsed


async def settle(rounds: int = 50) -> None:
    """Let tasks that are ready run, and tasks that become ready meanwhile."""
    for _ in range(rounds):
        await asyncio.sleep(0)
