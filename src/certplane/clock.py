"""The wall clock, the monotonic clock, sleeping, and timeouts.

Nothing else in the code base reads a clock, sleeps or sets a timer (tests/house/test_house.py checks this and lists two
exceptions). Code that needs the time takes a `Clock`;
tests pass a `certplane.testing.FakeClock` and never wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import time
from collections.abc import Awaitable
from typing import Protocol, TypeVar

T = TypeVar("T")


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


async def wait_for(clock: Clock, awaitable: Awaitable[T], seconds: float) -> T:
    """The result of an awaitable. Raises TimeoutError, and cancels it, if it takes more than `seconds` on `clock`."""
    running = asyncio.ensure_future(awaitable)
    timer = asyncio.ensure_future(clock.sleep(seconds))
    try:
        await asyncio.wait({running, timer}, return_when=asyncio.FIRST_COMPLETED)
        if not running.done():
            raise TimeoutError
        return running.result()
    finally:
        running.cancel()
        timer.cancel()
        await asyncio.gather(running, timer, return_exceptions=True)


async def wait_until(clock: Clock, event: asyncio.Event, seconds: float) -> bool:
    """Wait for `event`, at most `seconds` on `clock`. Returns whether it is set."""
    if not event.is_set():
        with contextlib.suppress(TimeoutError):
            await wait_for(clock, event.wait(), seconds)
    return event.is_set()
