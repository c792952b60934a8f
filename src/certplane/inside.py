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
import socket
from collections.abc import AsyncIterator, Collection, Sequence
from typing import Final

from certplane import clock as clocks
from certplane import errors, files, manager, reload, resources, signals, supervisor, telemetry
from certplane.client import api, credentials, kubeconfig, pace, remote, rights, served
from certplane.config import controllers
from certplane.controllers import leader, podrequestcleaner, publisher, trustpublisher
from certplane.meta import objects, resource
from certplane.server import health, inspection
from certplane.server.connection import listener as listeners
from certplane.x509 import certificates, reserved

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

    def __init__(
        self,
        settings: controllers.Settings,
        transport: api.Transport,
        clock: clocks.Clock,
        reservations: reserved.Reservations | None = None,
    ) -> None:
        self._settings = settings
        self._transport = rights.Watchful(transport, clock)
        self._clock = clock
        self.telemetry = telemetry.Telemetry()
        self.supervisor = supervisor.Supervisor(clock, self.telemetry)
        self._leader: leader.Leader | None = None
        self._wakeup = reload.Wakeup()
        self._crew: manager.Crew | None = None
        self._signers = manager.signers(settings.signing, reservations=reservations)
        self._declared = manager.declared(settings.signing, reservations)
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
                    signers=self._signers,
                    declared=self._declared,
                    serving=self._serving,
                    journal=None,
                    threads=threads,
                    root_ca=root_ca,
                    kinds=kinds,
                    tells=self._settings.decision_events,
                    wakeup=self._wakeup,
                )
                self._crew = crew
                try:
                    for name, work in manager.assemble(crew, self._settings.controllers).items():
                        self.supervisor.keep(name, work)
                    await (self._leader.hold() if self._leader is not None else asyncio.Event().wait())
                finally:
                    await self.supervisor.stop()

    def look_again(self) -> None:
        """Have files read again now that are looked at now and then. Credentials and CAs of signers are looked at
        whenever they are used.
        """
        _log.info("SIGHUP: files are read again")
        self._wakeup.wake()

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
            health.Check("background", self.supervisor.problem, ready_only=True, advisory=True),
            health.Check("background-overdue", self.supervisor.overdue, ready_only=True),
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
    if settings.root_ca_file is None:
        try:
            return publisher.bundle_of(access.trusted.read(), "of the kubeconfig")
        except credentials.CredentialProblem as error:
            raise errors.SetupError(str(error), ("--root-ca-file names certificates to publish",)) from error
    hint = "--root-ca-file names certificates, in PEM"
    content = files.read(settings.root_ca_file, "the root CA file", hint)
    return publisher.bundle_of(content, settings.root_ca_file)


def _client_ca(root_ca: str) -> certificates.ClientVerifier | None:
    try:
        return certificates.ClientVerifier(root_ca.encode("ascii")) if root_ca else None
    except (certificates.CertificateError, UnicodeEncodeError):
        return None


def _access(settings: controllers.Settings) -> kubeconfig.Access:
    if settings.kubeconfig is None:
        return kubeconfig.in_cluster()
    return kubeconfig.load(settings.kubeconfig, context=settings.context)


async def _run(settings: controllers.Settings, clock: clocks.Clock) -> None:
    received = signals.Signals()
    with files.told("certplane cannot start", "check who may use the files that the settings name"):
        access = _access(settings)
        files.warn_exposed(settings.kubeconfig)
        root_ca = _root_ca(settings, access)
        transport = remote.Transport(access, _USER_AGENT)
        rate, burst = settings.rate
        paced = pace.Paced(transport, clock, rate, burst) if rate else transport
        # A cluster's clients and its API server usually have one CA: the one by which the server is trusted.
        work = _Work(settings, paced, clock, reserved.Reservations(clock.now, _client_ca(root_ca)))
    received.on_reload(work.look_again)
    async with contextlib.aclosing(transport), _inspected(settings, work, clock):
        working, waiting = asyncio.ensure_future(work.run(root_ca)), asyncio.ensure_future(received.stopped())
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
async def _inspected(settings: controllers.Settings, work: _Work, clock: clocks.Clock) -> AsyncIterator[None]:
    """Answer those who look after this process, as long as the block lasts."""
    if settings.health is None:
        yield
        return
    bound = listeners.bind(*settings.health, "--listen-health")
    with contextlib.closing(bound):
        inspected = inspection.Inspection(health.Health(work.checks()), work.telemetry)
        refused = work.telemetry.refused_connection
        listener = listeners.Listener(inspected.handle, bound, None, clock, refused)
        work.supervisor.every("connections", listeners.ROUND, listener.check_connections)
        serving = asyncio.ensure_future(listener.serve())
        try:
            yield
        finally:
            listener.stop()
            await serving


def run(settings: controllers.Settings) -> int:
    """`certplane controllers`: the whole process, and its exit code. Raises SetupError."""
    os.umask(0o077)
    with telemetry.logging_to(level=settings.log_level):
        try:
            listeners.run(_run(settings, clocks.SystemClock()))
            return 0
        except* leader.Lost as lost:
            _log.error("not leading any more", extra={"problem": "; ".join(map(str, lost.exceptions))})
        return SUPERSEDED
