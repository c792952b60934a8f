"""Waiting with a timeout."""

from __future__ import annotations

import asyncio

import pytest

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


async def test_a_result_in_time_is_returned():
    """An exception is raised."""
    fake = testing.FakeClock()
    assert await clock.wait_for(fake, asyncio.sleep(0, "result"), 10) == "result"
    failed = asyncio.get_running_loop().create_future()
    failed.set_exception(LookupError("no such name"))
    with pytest.raises(LookupError, match="no such name"):
        await clock.wait_for(fake, failed, 10)
    assert (fake.sleepers, asyncio.all_tasks()) == (0, {asyncio.current_task()})


async def test_an_awaitable_that_takes_too_long_is_cancelled():
    """It has ended when TimeoutError is raised."""
    fake, endings = testing.FakeClock(), []

    async def work():
        try:
            await asyncio.Event().wait()
        finally:
            endings.append(fake.monotonic())

    waiting = asyncio.ensure_future(clock.wait_for(fake, work(), 10))
    await fake.advance(9)
    assert not waiting.done()
    await fake.advance(1)
    with pytest.raises(TimeoutError):
        await waiting
    assert endings == [10]
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
