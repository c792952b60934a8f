"""The wall clock, the monotonic clock, and sleeping.

Nothing else in the code base reads a clock or sleeps (a test checks this). Code that needs the time takes a `Clock`;
tests pass a `certplane.testing.FakeClock` and never wait.
"""

from __future__ import annotations

import asyncio
import datetime
import time
from typing import Protocol


class Clock(Protocol):
    """A wall clock, a monotonic clock, and a way to sleep. Safe to share between tasks of one event loop."""

    def now(self) -> datetime.datetime:
        """The time of the wall clock: aware, in UTC, with microseconds."""
        ...

    def monotonic(self) -> float:
        """Seconds from an arbitrary origin; never goes back."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return when `seconds` have passed on the monotonic clock; at once for zero or less (after yielding)."""
        ...


class SystemClock:
    """The clock of the machine."""

    def now(self) -> datetime.datetime:
        return datetime.datetime.now(datetime.UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


async def wait_until(clock: Clock, event: asyncio.Event, seconds: float) -> bool:
    """Wait for `event`, at most `seconds` on `clock`. Returns whether it is set."""
    if event.is_set():
        return True
    waiter = asyncio.ensure_future(event.wait())
    sleeper = asyncio.ensure_future(clock.sleep(seconds))
    try:
        await asyncio.wait({waiter, sleeper}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiter.cancel()
        sleeper.cancel()
    return event.is_set()
