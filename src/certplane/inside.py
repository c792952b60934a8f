"""certplane inside: the controllers alone, against whatever API server a kubeconfig names.

Copies agree on one that works. The others follow nothing and keep nothing: they wait, and tell that they do.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import os
import pathlib
import signal
import socket
from collections.abc import AsyncIterator, Collection, Sequence
from typing import Final

from certplane import clock as clocks
from certplane import errors, manager, resources, supervisor, telemetry
from certplane.client import api, kubeconfig, pace, remote, rights, served
from certplane.config import controllers
from certplane.controllers import leader, podrequestcleaner, publisher, trustpublisher
from certplane.meta import objects, resource
from certplane.server import health, inspection, listen

_log = logging.getLogger("certplane")

#: managedFields are grepped for this name, so controllers have the one that they have in a cluster.
_USER_AGENT: Final = "kube-controller-manager/certplane"
_NAMESPACE_FILE: Final = pathlib.Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_DEFAULT_NAMESPACE: Final = "kube-system"
#: The exit code of a copy that another one has taken over from; whoever supervises it starts it again.
SUPERSEDED: Final = 3
#: How long after its end a lease may be old before this copy calls itself ill: as in kube-controller-manager.
_ILL_SECONDS: Final = 20.0
#: Controllers of kinds that a server need not have, and those kinds.
_OPTIONAL: Final = {
    trustpublisher.NAME: "clustertrustbundles",
    podrequestcleaner.NAME: "podcertificaterequests",
}


class _Work:
    """What this copy does, from the first question to the last answer."""

    def __init__(self, settings: controllers.Settings, transport: api.Transport, clock: clocks.Clock) -> None:
        self._settings = settings
        self._transport = rights.Watchful(transport, clock)
        self._clock = clock
        self.telemetry = telemetry.Telemetry()
        self._supervisor = supervisor.Supervisor(clock, self.telemetry)
        self._leader: leader.Leader | None = None
        self._crew: manager.Crew | None = None
        self._declared = manager.declared(settings.signing)
        self._serving = manager.serving_rules(settings.serving_approver)
        if settings.election is not None:
            self._leader = leader.Leader(api.Client(self._transport), _terms(settings.election), clock)

    async def run(self, root_ca: str) -> None:
        """Work until cancelled. Raises leader.Lost."""
        async with self._leading() as transport:
            client = api.Client(transport)
            kinds = await self._kinds(client, self._settings.controllers)
            with concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="sign") as threads:
                crew = manager.Crew(
                    client=lambda _: client,
                    reader=client,
                    clock=self._clock,
                    telemetry=self.telemetry,
                    signers=manager.signers(self._settings.signing),
                    declared=self._declared,
                    serving=self._serving,
                    journal=None,
                    threads=threads,
                    root_ca=root_ca,
                    kinds=kinds,
                    tells=self._settings.decision_events,
                )
                self._crew = crew
                try:
                    for name, work in manager.assemble(crew, self._settings.controllers).items():
                        self._supervisor.keep(name, work)
                    await (self._leader.hold() if self._leader is not None else asyncio.Event().wait())
                finally:
                    await self._supervisor.stop()

    @contextlib.asynccontextmanager
    async def _leading(self) -> AsyncIterator[api.Transport]:
        """The transport to work through, once it is this copy's turn."""
        if self._leader is None:
            yield self._transport
            return
        await self._leader.acquire()
        try:
            yield leader.Fenced(self._transport, self._leader)
        finally:
            await self._leader.release()

    async def _kinds(self, client: api.Client, enabled: Collection[str]) -> Sequence[resource.Resource]:
        if _OPTIONAL.keys().isdisjoint(enabled):
            return resources.DEFAULT
        while True:
            try:
                found = await served.served(client, resources.OPTIONAL)
                _tell_idle(enabled, found)
                return [*resources.DEFAULT, *found]
            except (errors.APIError, api.Unreachable) as error:
                _log.warning("discovery failed", extra={"problem": str(error)})
                await self._clock.sleep(1.0)

    # --- health ---------------------------------------------------------------------------------------------------

    def checks(self) -> Sequence[health.Check]:
        """What /healthz and /readyz look at. A copy that waits for its turn is ready: it is what it should be."""
        return [
            health.Check("ping", lambda: None),
            health.Check("leaderElection", lambda: self._leader.problem(_ILL_SECONDS) if self._leader else None),
            health.Check("informer-sync", self._unsynced, ready_only=True),
            health.Check("background", self._supervisor.problem, ready_only=True, advisory=True),
            health.Check("background-overdue", self._supervisor.overdue, ready_only=True),
        ]

    def _unsynced(self) -> str | None:
        waiting = [] if self._crew is None else [each for each in self._crew.followed if not each.synced.is_set()]
        return "not everything was listed yet" if waiting else None


def _tell_idle(enabled: Collection[str], found: Sequence[resource.Resource]) -> None:
    """Say which controllers have nothing to do here: whoever wanted them would wait in vain."""
    known = {each.plural for each in found}
    for name, plural in _OPTIONAL.items():
        if name in enabled and plural not in known:
            _log.warning(
                "controller rests: the server does not have its kind", extra={"controller": name, "resource": plural}
            )


def _terms(of: controllers.Election) -> leader.Terms:
    identity = f"{socket.gethostname()}_{objects.new_uid()}"
    namespace = of.namespace
    if not namespace:
        try:
            namespace = _NAMESPACE_FILE.read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError):
            namespace = _DEFAULT_NAMESPACE
    return leader.Terms(of.name, namespace, identity, of.lease, of.deadline, of.retry)


def _root_ca(settings: controllers.Settings, access: kubeconfig.Access) -> str:
    try:
        if settings.root_ca_file is None:
            return publisher.bundle_of(access.trusted.read())
        return publisher.bundle_of(settings.root_ca_file.read_bytes())
    except OSError as error:
        raise errors.SetupError(
            f"the root CA file {settings.root_ca_file} cannot be read: {error.strerror}",
            ("--root-ca-file names certificates, in PEM",),
        ) from error


def _access(settings: controllers.Settings) -> kubeconfig.Access:
    if settings.kubeconfig is None:
        return kubeconfig.in_cluster()
    return kubeconfig.load(settings.kubeconfig, context=settings.context)


async def _run(settings: controllers.Settings, clock: clocks.Clock) -> None:
    access = _access(settings)
    root_ca = _root_ca(settings, access)
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    transport = remote.Transport(access, _USER_AGENT)
    rate, burst = settings.rate
    work = _Work(settings, pace.Paced(transport, clock, rate, burst) if rate else transport, clock)
    async with contextlib.aclosing(transport), _inspected(settings, work):
        working, waiting = asyncio.ensure_future(work.run(root_ca)), asyncio.ensure_future(stopping.wait())
        try:
            await asyncio.wait({working, waiting}, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                await working
            _log.info("stopping")
        finally:
            for task in (working, waiting):
                task.cancel()
            await asyncio.gather(working, waiting, return_exceptions=True)


@contextlib.asynccontextmanager
async def _inspected(settings: controllers.Settings, work: _Work) -> AsyncIterator[None]:
    """Answer those who look after this process, as long as the block lasts."""
    if settings.health is None:
        yield
        return
    bound = listen.bind(*settings.health, "--listen-health")
    with contextlib.closing(bound):
        inspected = inspection.Inspection(health.Health(work.checks()), work.telemetry)
        listener = listen.Listener(inspected.handle, listen.Plug(bound))
        serving = asyncio.ensure_future(listener.serve())
        try:
            yield
        finally:
            listener.stop()
            await serving


def run(settings: controllers.Settings) -> int:
    """`certplane controllers`: the whole process, and its exit code. Raises SetupError."""
    with telemetry.logging_to(level=settings.log_level):
        try:
            listen.run(_run(settings, clocks.SystemClock()))
            return 0
        except* leader.Lost as lost:
            _log.error("not leading any more", extra={"problem": "; ".join(map(str, lost.exceptions))})
        return SUPERSEDED
