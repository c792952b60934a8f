"""The fake clock, on which the tests of this repository and of others depend."""

from __future__ import annotations

import asyncio
import datetime

from certplane import testing


async def test_sleepers_wake_in_order_and_at_their_time():
    """Also those that begin to sleep while the clock advances."""
    clock, woken = testing.FakeClock(), []

    async def sleep(name, *durations):
        for seconds in durations:
            await clock.sleep(seconds)
            woken.append((name, clock.monotonic()))

    tasks = [asyncio.ensure_future(sleep(*call)) for call in (("a", 5), ("b", 3, 1, 4), ("c", 3))]
    await clock.advance(6)
    assert woken == [("b", 3), ("c", 3), ("b", 4), ("a", 5)]
    assert (clock.monotonic(), clock.sleepers) == (6, 1)
    await clock.advance(2)
    assert woken[-1] == ("b", 8)
    await asyncio.gather(*tasks)


async def test_both_clocks_advance_together():
    """The wall clock starts at the given time."""
    start = datetime.datetime(2030, 6, 1, tzinfo=datetime.UTC)
    clock = testing.FakeClock(start)
    await clock.advance(90.5)
    assert (clock.now() - start, clock.monotonic()) == (datetime.timedelta(seconds=90.5), 90.5)


async def test_a_cancelled_sleeper_is_skipped():
    """It does not stop the clock, and it is not counted."""
    clock = testing.FakeClock()
    cancelled, other = (asyncio.ensure_future(clock.sleep(seconds)) for seconds in (1, 2))
    await testing.settle()
    assert clock.sleepers == 2
    cancelled.cancel()
    await testing.settle()
    assert clock.sleepers == 1
    await clock.advance(2)
    assert other.done()


async def test_sleeping_for_no_time_returns_without_an_advance():
    """As with the system clock."""
    clock = testing.FakeClock()
    for seconds in (0, -1):
        await clock.sleep(seconds)
    assert clock.monotonic() == 0
