"""The work queue and the workers of a controller."""

from __future__ import annotations

import asyncio

from certplane import telemetry, testing
from certplane.controllers.runtime import controller


async def test_a_delayed_key_is_added_once_at_its_earliest_time():
    """Several calls of `add_after` do not add several timers."""
    clock = testing.FakeClock()
    queue = controller.WorkQueue(clock, telemetry.Telemetry().queue("test"))
    for seconds in (30, 10, 20):
        queue.add_after("a", seconds)
    await clock.advance(9)
    assert len(queue) == 0
    await clock.advance(1)
    assert len(queue) == 1
    queue.done(await queue.get())
    await clock.advance(60)
    assert len(queue) == 0
    queue.close()
    await asyncio.sleep(0)


async def test_a_key_of_a_cancelled_worker_is_taken_by_another():
    """A key wakes one waiting worker; if that one is cancelled at this moment, the next one gets the key."""
    queue = controller.WorkQueue(testing.FakeClock(), telemetry.Telemetry().queue("test"))
    workers = [asyncio.ensure_future(queue.get()) for _ in range(3)]
    await testing.settle(3)
    queue.add("a")
    workers[0].cancel()
    await testing.settle(3)

    assert workers[0].cancelled()
    assert [worker.done() for worker in workers] == [True, True, False]
    assert await workers[1] == "a"
    queue.add("b")
    assert await workers[2] == "b"


async def test_a_cancelled_subtask_does_not_end_the_worker():
    """The key is retried as after any other failure."""
    clock = testing.FakeClock()
    queue = controller.WorkQueue(clock, telemetry.Telemetry().queue("test"))
    handled = []

    async def handle(key):
        handled.append(key)
        if len(handled) == 1:
            raise asyncio.CancelledError

    running = asyncio.ensure_future(controller.Controller("test", queue, handle, workers=1).run())
    queue.add("a")
    await testing.settle(3)
    assert handled == ["a"]
    await clock.advance(60)
    await testing.settle(3)
    assert handled == ["a", "a"]
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
