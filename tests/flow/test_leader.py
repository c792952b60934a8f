"""Leader election with a Lease."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import logging

import pytest

from certplane import testing
from certplane.client import api
from certplane.config.controllersettings import LeaderElectionSettings
from certplane.controllers.runtime import leaderelection
from certplane.meta import context
from certplane.resources import configmaps, leases
from certplane.server import local
from tests.flow import plane as flow

NAMESPACE = "kube-system"
LEASE, DEADLINE, PERIOD = (datetime.timedelta(seconds=seconds) for seconds in (15, 10, 2))
SETTINGS = LeaderElectionSettings("lock", NAMESPACE, LEASE, DEADLINE, PERIOD)


class Network:
    """The transport of a replica, which can be interrupted."""

    def __init__(self, plane):
        self._inner = local.InProcessTransport(plane.handler, flow.ADMIN, "replica")
        self.is_up = True
        self.responds = asyncio.Event()
        self.responds.set()

    async def send(self, request):
        await self.responds.wait()
        if not self.is_up:
            raise api.Unreachable("interrupted")
        return await self._inner.send(request)

    @contextlib.asynccontextmanager
    async def stream(self, request):
        async with self._inner.stream(request) as answer:
            yield answer


class Replica:
    """A replica, with a record of when it is the leader."""

    def __init__(self, plane, name):
        self.network = Network(plane)
        self.leader = leaderelection.LeaderElector(api.Client(self.network), SETTINGS, name, plane.clock)
        self.fenced = api.Client(leaderelection.FencedTransport(self.network, self.leader))
        self.task = asyncio.ensure_future(self._run())
        self.lost = ""

    async def _run(self):
        await self.leader.acquire()
        try:
            await self.leader.hold()
        except leaderelection.LeadershipLost as error:
            self.lost = str(error)

    async def stop(self):
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


@contextlib.asynccontextmanager
async def running_replicas(plane, *names):
    replicas = [Replica(plane, name) for name in names]
    try:
        yield replicas
    finally:
        for replica in replicas:
            await replica.stop()


async def _advance(plane, seconds, check=lambda: None):
    """Advance the clock in steps; `check` holds after each."""
    for _ in range(int(seconds * 2)):
        await plane.clock.advance(0.5)
        await testing.settle()
        check()


async def _lease(plane):
    return await plane.client(flow.ADMIN).get(leases.RESOURCE, "lock", NAMESPACE)


async def test_one_of_several_replicas_leads():
    """The lease has the holder, the time and the duration, and is renewed."""
    async with flow.running(controllers=frozenset()) as plane, running_replicas(plane, "a", "b") as (a, b):
        await _advance(plane, 5)
        assert [a.leader.is_leader, b.leader.is_leader] in ([True, False], [False, True])
        first = (await _lease(plane)).spec
        assert first.holder_identity == ("a" if a.leader.is_leader else "b")
        assert (first.lease_duration_seconds, first.lease_transitions) == (15, 0)
        await _advance(plane, 5)
        second = (await _lease(plane)).spec
        assert second.acquire_time == first.acquire_time
        assert second.renew_time > first.renew_time


async def test_a_waiting_replica_logs_the_leader(caplog):
    """It is logged once for each leader."""
    caplog.set_level(logging.INFO, "certplane.controllers")
    async with flow.running(controllers=frozenset()) as plane, running_replicas(plane, "a"):
        await _advance(plane, 1)
        async with running_replicas(plane, "b"):
            await _advance(plane, 10)
            lease = await _lease(plane)
            lease.spec.holder_identity = "c"
            await plane.client(flow.ADMIN).update(leases.RESOURCE, lease)
            await _advance(plane, 10)
    assert [record.identity for record in caplog.records if record.getMessage() == "another process is the leader"] == [
        "a",
        "c",
    ]


async def test_another_replica_takes_over_from_an_unreachable_leader():
    """It takes the lease duration and a retry at most; the two replicas never both consider themselves the leader."""
    async with flow.running(controllers=frozenset()) as plane, running_replicas(plane, "a") as (a,):
        await _advance(plane, 1)
        async with running_replicas(plane, "b") as (b,):
            await _advance(plane, 3)
            a.network.is_up = False
            leading = []

            def check_single_leader():
                leading.append((a.leader.is_leader, b.leader.is_leader))
                assert leading[-1] != (True, True)

            await _advance(plane, 20, check_single_leader)
            assert leading[0] == (True, False)
            assert leading[-1] == (False, True)
            assert a.lost == "lost lease lock: not renewed within 10s"
            spec = (await _lease(plane)).spec
            assert (spec.holder_identity, spec.lease_transitions) == ("b", 1)


async def test_a_released_lease_is_acquired_at_once():
    """The other replica does not wait for the lease to expire."""
    async with flow.running(controllers=frozenset()) as plane, running_replicas(plane, "a") as (a,):
        await _advance(plane, 1)
        async with running_replicas(plane, "b") as (b,):
            await a.leader.release()
            await a.stop()
            await _advance(plane, 3)
            assert b.leader.is_leader


async def test_release_gives_up_at_the_renew_deadline():
    """The server does not answer; the lease expires without a release."""
    async with flow.running(controllers=frozenset()) as plane, running_replicas(plane, "a") as (a,):
        await _advance(plane, 1)
        await a.stop()
        a.network.responds.clear()
        releasing = asyncio.ensure_future(a.leader.release())
        await _advance(plane, 8)
        assert not releasing.done()
        await _advance(plane, 3)
        assert releasing.done()


async def test_writes_after_a_pause_are_not_sent():
    """After a pause, a process may still consider itself the leader: its writes are blocked, and reads are not."""
    async with flow.running(controllers=frozenset()) as plane, running_replicas(plane, "a") as (a,):
        await _advance(plane, 1)
        await a.stop()
        await a.fenced.create(configmaps.RESOURCE, _map("one"), NAMESPACE)
        await plane.clock.advance(11)
        with pytest.raises(api.Unreachable, match="not the leader"):
            await a.fenced.create(configmaps.RESOURCE, _map("two"), NAMESPACE)
        assert (await a.fenced.get(configmaps.RESOURCE, "one", NAMESPACE)).metadata.name == "one"


async def test_a_leader_stops_if_another_replica_holds_the_lease():
    """It stops at the next renewal, whatever the times in the lease are; the message names the holder."""
    async with flow.running(controllers=frozenset()) as plane, running_replicas(plane, "a") as (a,):
        await _advance(plane, 1)
        lease = await _lease(plane)
        lease.spec.holder_identity, lease.spec.renew_time = "another-replica", "2016-01-01T00:00:00.000000Z"
        await plane.client(flow.ADMIN).update(leases.RESOURCE, lease)
        await _advance(plane, 5)
        assert a.lost == "lost lease lock: now held by another-replica"
        assert not a.leader.is_leader
        assert (await _lease(plane)).spec == lease.spec


async def test_a_deleted_or_emptied_lease_is_written_again():
    """The holder continues, if no other replica was faster."""
    async with flow.running(controllers=frozenset()) as plane, running_replicas(plane, "a") as (a,):
        await _advance(plane, 1)
        await plane.client(flow.ADMIN).delete(leases.RESOURCE, "lock", NAMESPACE)
        await _advance(plane, 5)
        assert (await _lease(plane)).spec.holder_identity == "a"
        lease = await _lease(plane)
        lease.spec = leases.LeaseSpec()
        await plane.client(flow.ADMIN).update(leases.RESOURCE, lease)
        await _advance(plane, 5)
        spec = (await _lease(plane)).spec
        assert (spec.holder_identity, spec.lease_duration_seconds) == ("a", 15)
        assert a.leader.is_leader


async def test_a_lease_problem_is_logged_once(caplog):
    """It is logged again only after it has changed or was resolved."""
    async with flow.running(controllers=frozenset()) as plane, running_replicas(plane, "a") as (a,):
        a.network.is_up = False
        await _advance(plane, 10)
        a.network.is_up = True
        await _advance(plane, 5)
        a.network.is_up = False
        await _advance(plane, 5)
    assert [record.error for record in caplog.records if record.name == "certplane.controllers"] == [
        "interrupted",
        "interrupted",
    ]


def _map(name):
    config_map = configmaps.ConfigMap()
    config_map.metadata.name = name
    return config_map


async def test_a_replica_without_permissions_does_not_lead():
    """It keeps trying."""
    async with flow.running(controllers=frozenset()) as plane:
        user = plane.client(context.User("user", groups=("system:authenticated",)))
        elector = leaderelection.LeaderElector(user, SETTINGS, "a", plane.clock)
        task = asyncio.ensure_future(elector.acquire())
        await _advance(plane, 10)
        assert not elector.is_leader
        assert not task.done()
        task.cancel()
