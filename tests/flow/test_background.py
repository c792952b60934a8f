"""Background tasks: supervision, and recovery from a failing store and from unexpected exceptions."""

from __future__ import annotations

import asyncio
import datetime

import pytest

from certplane import errors, resources, testing
from certplane.client import api, informer
from certplane.config import controllersettings
from certplane.controllers.cleanup import csrcleaner, podrequestcleaner
from certplane.controllers.runtime import controller, periodiccleaner
from certplane.plane import controllerconfig, controllers
from certplane.resources import certificatesigningrequests as csrs
from certplane.resources import events, namespaces
from certplane.resources import podcertificaterequests as pcrs
from certplane.server import local
from certplane.store import memory
from certplane.telemetry import QueueTelemetry
from tests.flow import plane as flow

HOUR = 3600


class WriteFaults:
    """While `enabled`, every write fails; `attempted` are the operations that failed."""

    def __init__(self):
        self.enabled = False
        self.attempted = set()

    def __call__(self, operation, key):
        if not self.enabled:
            return memory.Fault.NONE
        self.attempted.add(operation)
        return memory.Fault.BEFORE


def _event():
    event = events.Event(reason="Test", message="m", type="Normal")
    event.metadata.name = "an-event"
    event.metadata.namespace = "default"
    event.involved_object.namespace = "default"
    return event


async def _readyz(plane):
    response = await flow.respond(plane, "GET", "/readyz?verbose")
    return response.status, response.body.decode()


async def _is_gone(client, kind, name, namespace=""):
    try:
        await client.get(kind, name, namespace)
    except errors.NotFound:
        return True
    return False


async def test_events_without_a_ttl_do_not_expire():
    """--event-ttl 0s, as in kube-apiserver. The default is an hour."""
    async with flow.running(event_ttl=datetime.timedelta(0), controllers=frozenset()) as plane:
        client = plane.client(flow.ADMIN)
        await client.create(events.RESOURCE, _event(), "default")
        await plane.clock.advance(300)
        assert not await _is_gone(client, events.RESOURCE, "an-event", "default")


async def test_background_work_recovers_from_a_failing_store():
    """While the store fails, compaction, the expiry of Events and the controllers fail, and /readyz reports them.
    Afterwards they work again.
    """
    faults = WriteFaults()
    store = memory.MemoryStore(faults)
    async with flow.running(store, event_ttl=datetime.timedelta(seconds=HOUR)) as plane:
        client = plane.client(flow.ADMIN)
        await client.create(events.RESOURCE, _event(), "default")
        namespace = namespaces.Namespace()
        namespace.metadata.name = "team"
        await client.create(namespaces.RESOURCE, namespace)
        await client.create(csrs.RESOURCE, flow.new_csr())
        await plane.clock.advance(1)
        await client.delete(namespaces.RESOURCE, "team")
        await flow.decide(client, "a")
        faults.enabled = True
        await plane.clock.advance(2 * HOUR)
        assert faults.attempted >= {"create", "delete", "compact", "check"}
        assert (await store.oldest(), await _is_gone(client, events.RESOURCE, "an-event", "default")) == (1, False)
        status, text = await _readyz(plane)
        assert status == 500
        assert "[!]background failed, ignored: " in text
        assert "compaction has been failing for" in text
        assert "event-expiry has been failing for" in text
        assert "[-]background-overdue failed" in text
        faults.enabled = False
        # Queues retry after at most about a quarter of an hour.
        await plane.clock.advance(1100)
        await flow.issued(client, "a")
        await plane.clock.advance(HOUR)
        assert await store.oldest() > 1
        assert await _is_gone(client, events.RESOURCE, "an-event", "default")
        assert await _is_gone(client, namespaces.RESOURCE, "team")
        assert await _is_gone(client, csrs.RESOURCE, "a")
        status, text = await _readyz(plane)
        assert (status, "[+]background ok" in text, "[+]background-overdue ok" in text) == (200, True, True)


async def test_background_tasks_are_supervised_by_name():
    """Each task has a name, under which it is counted and reported."""
    async with flow.running() as plane:
        running = set(plane.supervisor.late_seconds())
        assert running >= {"compaction", "store", "request-deadlines", "event-expiry", "decision-events"}
        assert running >= {
            "certificatesigningrequest-approving-controller",
            "certificatesigningrequest-signing-controller",
            "certificatesigningrequest-cleaner-controller",
            "informer-certificatesigningrequests.certificates.k8s.io",
        }
        assert len(running) >= 15
        assert plane.supervisor.problem() is None


class BuggyTransport:
    """A transport whose first calls raise an unexpected exception."""

    def __init__(self, transport, failures):
        self._transport = transport
        self._failures = failures

    async def send(self, request):
        if not self._failures:
            return await self._transport.send(request)
        self._failures -= 1
        raise TypeError("a bug")

    def stream(self, request):
        return self._transport.stream(request)


async def test_an_informer_lists_again_after_an_unexpected_exception():
    """The exception ends one run; the next run begins with a list."""
    async with flow.running() as plane:
        client = plane.client(flow.ADMIN)
        await client.create(csrs.RESOURCE, flow.new_csr())
        source = informer.Informer(api.Client(BuggyTransport(client.transport, 2)), csrs.RESOURCE, plane.clock)
        plane.supervisor.run_forever("buggy", source.run)
        await plane.clock.advance(2)
        assert "buggy" in plane.supervisor.problem()
        await plane.clock.advance(10)
        assert [obj.metadata.name for obj in source.objects.values()] == ["a"]
        await plane.clock.advance(60)
        assert plane.supervisor.problem() is None


async def test_a_restarted_controller_keeps_its_queue():
    """Delayed keys and keys whose handling was interrupted are handled after the restart."""
    clock = testing.FakeClock()
    queue = controller.WorkQueue(clock, QueueTelemetry())
    handled, stuck = [], True

    async def handle(name):
        handled.append(name)
        if stuck:
            await clock.sleep(1000)

    built = controller.Controller("test", queue, handle, workers=1)
    queue.add("half-done")
    queue.add_after("later", 500)
    first = asyncio.ensure_future(built.run())
    await clock.advance(1)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    stuck = False
    second = asyncio.ensure_future(built.run())
    await clock.advance(1)
    assert sorted(handled) == ["half-done", "half-done", "later"]
    second.cancel()


async def test_an_invalid_creation_time_does_not_stop_cleaners():
    """Another API server may send one: that object is kept, and all others are cleaned up."""
    async with flow.running(kinds=resources.ALL, controllers=frozenset()) as plane:
        client = plane.client(flow.ADMIN)
        sources = []
        for kind, new, namespace in (
            (csrs.RESOURCE, flow.new_csr, ""),
            (pcrs.RESOURCE, flow.pod_request, "default"),
        ):
            for name in ("bad", "old"):
                obj = new()
                obj.metadata.name, obj.metadata.namespace = name, namespace
                await client.create(kind, obj, namespace)
            sources.append(informer.Informer(client, kind, plane.clock))
            plane.supervisor.run_forever(f"test-{kind.plural}", sources[-1].run)
        await plane.clock.advance(1)
        for source in sources:
            for (_, name), obj in source.objects.items():
                obj.metadata.creation_timestamp = {"bad": "x", "old": "2020-01-01T00:00:00Z"}[name]
        await periodiccleaner.PeriodicCleaner(client, csrcleaner.RULE, sources[0], plane.clock).clean()
        await periodiccleaner.PeriodicCleaner(
            client, podrequestcleaner.rule(pcrs.RESOURCE), sources[1], plane.clock
        ).clean()
        for kind in (csrs.RESOURCE, pcrs.RESOURCE):
            assert [obj.metadata.name for obj in (await client.list(kind)).items] == ["bad"]


async def test_the_controllers_of_a_replica_are_supervised():
    """Controllers of `certplane controllers` are supervised by name; one that has failed for long makes the replica
    unready.
    """
    settings = controllersettings.read({}, {"leader-elect": False})
    async with flow.running(controllers=frozenset()) as plane:
        transport = local.InProcessTransport(plane.handler, flow.ADMIN, "controllers")
        config = controllerconfig.load_controllers(settings.controllers, root_ca="")
        runner = controllers.ControllerRunner(settings, config, BuggyTransport(transport, 1_000_000), plane.clock)
        running = asyncio.ensure_future(runner.run())
        await plane.clock.advance(301)
        assert "informer-certificatesigningrequests.certificates.k8s.io" in runner.supervisor.late_seconds()
        problems = {check.name: check.probe() for check in runner.checks()}
        assert "informer-certificatesigningrequests.certificates.k8s.io has been failing for" in problems["background"]
        assert problems["background-overdue"] == problems["background"]
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert runner.supervisor.late_seconds() == {}
