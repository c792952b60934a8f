"""What time it is and how to wait.

Nothing else in the code base reads a clock or sleeps (law). Whoever needs time takes a `Clock`; tests hand in
`certplane.testing.FakeClock` and never wait.
"""

from __future__ import annotations

import asyncio
import datetime
import time
from typing import Protocol


class Clock(Protocol):
    """Two notions of time and one way to wait. Safe to share between tasks of one event loop."""

    def now(self) -> datetime.datetime:
        """The wall clock, aware, in UTC, with microseconds."""
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
    """Wait for `event`, at most `seconds` on `clock`; tell whether it is set."""
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


def rfc3339(moment: datetime.datetime) -> str:
    """A moment as the wire writes `Time`: UTC, whole seconds (truncated), `2026-01-02T15:04:05Z`."""
    if moment.tzinfo is not datetime.UTC:
        moment = moment.astimezone(datetime.UTC)
    # Many times as fast as strftime, and this is in every write.
    return moment.isoformat()[:19] + "Z"


def rfc3339_micro(moment: datetime.datetime) -> str:
    """A moment as the wire writes `MicroTime`: UTC, always six digits of a second."""
    if moment.tzinfo is not datetime.UTC:
        moment = moment.astimezone(datetime.UTC)
    return moment.isoformat(timespec="microseconds")[:26] + "Z"


def parse_rfc3339(text: str) -> datetime.datetime:
    """The moment that an RFC 3339 text names, in UTC. Raises ValueError on anything else."""
    if len(text) < 20 or text[10] not in "Tt":
        raise ValueError(f"not an RFC 3339 time: {text!r}")
    moment = datetime.datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"not an RFC 3339 time, no offset: {text!r}")
    return moment.astimezone(datetime.UTC)
