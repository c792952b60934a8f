"""The work queue, and the parts of single controllers that need no server."""

from __future__ import annotations

import asyncio

from certplane import telemetry, testing
from certplane.controllers.cleanup import namespacedeletion
from certplane.controllers.publishing import rootcacertpublisher
from certplane.controllers.runtime import controller
from certplane.resources import configmaps, namespaces


async def test_a_delayed_key_is_added_once_at_its_earliest_time():
    """However often `add_after` is called: otherwise each call would add one more timer."""
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


def test_the_root_ca_is_published_with_its_description():
    """Another description is kept while the data are correct, and replaced when they are not."""
    config_map = rootcacertpublisher.decide(None, "team", "bundle")
    standard = config_map.metadata.annotations["kubernetes.io/description"]
    config_map.metadata.annotations = {"kubernetes.io/description": "mine", "example.com/a": "b"}
    assert rootcacertpublisher.decide(config_map, "team", "bundle") is None
    changed = rootcacertpublisher.decide(config_map, "team", "other")
    assert changed.data == {"ca.crt": "other"}
    assert changed.metadata.annotations == {"kubernetes.io/description": standard, "example.com/a": "b"}
    config_map.metadata.annotations = {}
    assert rootcacertpublisher.decide(config_map, "team", "bundle").metadata.annotations == {
        "kubernetes.io/description": standard
    }


def test_conditions_keep_their_transition_time():
    """While their status is the same; conditions of other controllers are not changed."""
    foreign = namespaces.NamespaceCondition(type="Foreign", status="True")
    first = namespacedeletion.updated_conditions(
        [foreign], {"configmaps.": [configmaps.ConfigMap()]}, "2026-01-01T00:00:00Z"
    )
    later = namespacedeletion.updated_conditions(first, {}, "2026-01-01T00:00:08Z")
    assert later[0] == foreign
    assert {condition.type: (condition.status, condition.last_transition_time) for condition in later[1:]} == {
        "NamespaceDeletionDiscoveryFailure": ("False", "2026-01-01T00:00:00Z"),
        "NamespaceDeletionGroupVersionParsingFailure": ("False", "2026-01-01T00:00:00Z"),
        "NamespaceDeletionContentFailure": ("False", "2026-01-01T00:00:00Z"),
        "NamespaceContentRemaining": ("False", "2026-01-01T00:00:08Z"),
        "NamespaceFinalizersRemaining": ("False", "2026-01-01T00:00:00Z"),
    }


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
