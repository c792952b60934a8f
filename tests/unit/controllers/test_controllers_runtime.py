"""What every controller is made of."""

from __future__ import annotations

import asyncio

from certplane import telemetry, testing
from certplane.controllers import emptier, publisher, runtime
from certplane.resources import configmaps, namespaces


async def test_a_name_comes_back_once_at_its_earliest_time():
    """However often it is to come back: each time anew would be one more time, for ever."""
    clock = testing.FakeClock()
    queue = runtime.Queue(clock, telemetry.Telemetry().queue("test"))
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


def test_the_root_ca_is_published_with_its_description():
    """Another description is left alone while the content is right, and replaced when it is mended."""
    made = publisher.decide(None, "team", "bundle")
    ours = made.metadata.annotations["kubernetes.io/description"]
    made.metadata.annotations = {"kubernetes.io/description": "mine", "example.com/a": "b"}
    assert publisher.decide(made, "team", "bundle") is None
    mended = publisher.decide(made, "team", "other")
    assert mended.data == {"ca.crt": "other"}
    assert mended.metadata.annotations == {"kubernetes.io/description": ours, "example.com/a": "b"}
    made.metadata.annotations = {}
    assert publisher.decide(made, "team", "bundle").metadata.annotations == {"kubernetes.io/description": ours}


def test_conditions_keep_their_time_and_those_of_others():
    """A condition that says the same keeps its time; one that nobody here keeps stays as it is."""
    foreign = namespaces.NamespaceCondition(type="Foreign", status="True")
    first = emptier.conditions([foreign], {"configmaps.": [configmaps.ConfigMap()]}, "2026-01-01T00:00:00Z")
    later = emptier.conditions(first, {}, "2026-01-01T00:00:08Z")
    assert later[0] == foreign
    assert {each.type: (each.status, each.last_transition_time) for each in later[1:]} == {
        "NamespaceDeletionDiscoveryFailure": ("False", "2026-01-01T00:00:00Z"),
        "NamespaceDeletionGroupVersionParsingFailure": ("False", "2026-01-01T00:00:00Z"),
        "NamespaceDeletionContentFailure": ("False", "2026-01-01T00:00:00Z"),
        "NamespaceContentRemaining": ("False", "2026-01-01T00:00:08Z"),
        "NamespaceFinalizersRemaining": ("False", "2026-01-01T00:00:00Z"),
    }


async def test_a_name_whose_worker_is_ended_is_taken_by_another():
    """A name wakes one of those who wait; if that one is cancelled at this moment, the next has it."""
    queue = runtime.Queue(testing.FakeClock(), telemetry.Telemetry().queue("test"))
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


async def test_a_worker_outlives_what_it_waits_for():
    """Something that it awaits is cancelled, and not the worker: the name is tried again like after any failure."""
    clock = testing.FakeClock()
    queue = runtime.Queue(clock, telemetry.Telemetry().queue("test"))
    tried = []

    async def handle(name):
        tried.append(name)
        if len(tried) == 1:
            raise asyncio.CancelledError

    running = asyncio.ensure_future(runtime.Controller("test", queue, handle, workers=1).run())
    queue.add("a")
    await testing.settle(3)
    assert tried == ["a"]
    await clock.advance(60)
    await testing.settle(3)
    assert tried == ["a", "a"]
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
