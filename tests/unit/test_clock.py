"""Waiting for an event with a timeout."""

from __future__ import annotations

import asyncio

from certplane import clock, testing


async def test_an_event_that_is_set_ends_the_wait():
    """Before the timeout."""
    fake, event = testing.FakeClock(), asyncio.Event()
    waiting = asyncio.ensure_future(clock.wait_until(fake, event, 10))
    await fake.advance(9)
    assert not waiting.done()
    event.set()
    await testing.settle()
    assert waiting.result() is True
    assert await clock.wait_until(fake, event, 10)


async def test_the_timeout_ends_the_wait():
    """The result is False, and no task is left."""
    fake, event = testing.FakeClock(), asyncio.Event()
    waiting = asyncio.ensure_future(clock.wait_until(fake, event, 10))
    await fake.advance(10)
    assert waiting.result() is False
    assert (fake.sleepers, asyncio.all_tasks()) == (0, {asyncio.current_task()})


async def test_a_cancelled_wait_leaves_no_task():
    """The waiter and the sleeper are cancelled."""
    fake = testing.FakeClock()
    waiting = asyncio.ensure_future(clock.wait_until(fake, asyncio.Event(), 10))
    await testing.settle()
    waiting.cancel()
    await testing.settle()
    assert waiting.cancelled()
    assert (fake.sleepers, asyncio.all_tasks()) == (0, {asyncio.current_task()})
