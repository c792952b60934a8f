"""The process of `certplane controllers`: only the controllers, for an API server elsewhere.

Several replicas elect a leader. The others watch nothing and cache nothing until they are elected.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import functools
import logging
import os
import pathlib
import socket
from collections.abc import AsyncIterator, Collection, Sequence
from typing import Final

from certplane import errors, files, logs, reload, resources, telemetry
from certplane.client import api, discovery, kubeconfig
from certplane.client.credentials import CredentialProblem
from certplane.client.kubeconfig import ClientConfig
from certplane.client.permissions import PermissionReportingTransport
from certplane.client.ratelimit import RateLimitedTransport
from certplane.client.remote import HTTPSTransport
from certplane.clock import Clock, SystemClock
from certplane.config.controllersettings import LeaderElectionSettings, Settings
from certplane.controllers.cleanup import podrequestcleaner
from certplane.controllers.publishing import clustertrustbundle, rootcacertpublisher
from certplane.controllers.runtime.eventwriter import EventWriter, Report
from certplane.controllers.runtime.leaderelection import FencedTransport, LeaderElector, LeadershipLost
from certplane.errors import SetupError
from certplane.meta import objects
from certplane.meta.resource import AnyResource
from certplane.plane import certificatesources, controllerconfig, controllerset
from certplane.plane.controllerconfig import ControllerConfig
from certplane.plane.controllerset import ControllerContext
from certplane.plane.expirations import Expirations, Source
from certplane.server.connection import listener as listeners
from certplane.server.health import Check, Health
from certplane.server.monitoring import Monitoring
from certplane.signals import Signals
from certplane.supervisor import Supervisor
from certplane.x509.issuance.reservednames import Reservations
from certplane.x509.trust.certificates import CertificateError
from certplane.x509.trust.clientcertificates import ClientVerifier

_log = logging.getLogger("certplane")

#: As in a cluster: people search managedFields for this name.
_USER_AGENT: Final = "kube-controller-manager/certplane"
_NAMESPACE_FILE: Final = pathlib.Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_DEFAULT_NAMESPACE: Final = "kube-system"
_DISCOVERY_RETRY_SECONDS: Final = 1.0
#: The exit code after another replica has become the leader. A restart makes this one a candidate again.
LEADERSHIP_LOST: Final = 3
#: How long a leader may not have renewed an expired Lease before /healthz fails, as in kube-controller-manager.
_LEASE_GRACE_SECONDS: Final = 20.0
_CLIENT_REMEDY: Final = "replace it in the kubeconfig, which is read again"
_ROOT_CA_REMEDY: Final = "replace it in --root-ca-file, and restart certplane"
#: Controllers of resources that a server may not have, and those resources.
_OPTIONAL: Final = {
    clustertrustbundle.NAME: "clustertrustbundles",
    podrequestcleaner.NAME: "podcertificaterequests",
}


class ControllerRunner:
    """Runs the controllers of this replica while it is the leader."""

    def __init__(
        self,
        settings: Settings,
        config: ControllerConfig,
        transport: api.Transport,
        clock: Clock,
        certificates: Sequence[Source] = (),
    ) -> None:
        """`certificates` are announced before their end, in addition to those that the settings name."""
        self._config = config
        self._transport = PermissionReportingTransport(transport, clock)
        self._clock = clock
        self.telemetry = telemetry.Telemetry()
        self.supervisor = Supervisor(clock, self.telemetry)
        self._wakeup = reload.Wakeup()
        self._context: ControllerContext | None = None
        self._elector: LeaderElector | None = None
        if settings.leader_elect is not None:
            election = _with_namespace(settings.leader_elect)
            identity = f"{socket.gethostname()}_{objects.new_uid()}"
            self._elector = LeaderElector(api.Client(self._transport), election, identity, clock)
        sources = [*certificates, *_certificate_sources(config)]
        self._expirations = Expirations(sources, clock, self.telemetry, self._report_event)

    async def run(self) -> None:
        """Run until cancelled. Raises LeadershipLost."""
        watch_certificates = functools.partial(self._expirations.run, self._wakeup)
        self.supervisor.run_forever("certificate-expirations", watch_certificates)
        try:
            await self._run_when_leader()
        finally:
            await self.supervisor.stop()

    async def _run_when_leader(self) -> None:
        async with self._leadership() as transport:
            client = api.Client(transport)
            kinds = await self._served_kinds(client, self._config.settings.controllers)
            with concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="sign") as threads:
                self._context = ControllerContext(
                    config=self._config,
                    client=lambda _: client,
                    reader=client,
                    clock=self._clock,
                    telemetry=self.telemetry,
                    journal=None,
                    threads=threads,
                    events=EventWriter(client if self._config.settings.decision_events else None, self._clock),
                    kinds=kinds,
                    wakeup=self._wakeup,
                )
                try:
                    controllerset.start_controllers(self._context, self.supervisor)
                    await (self._elector.hold() if self._elector is not None else asyncio.Event().wait())
                finally:
                    # Before the Lease is released: another replica may begin then.
                    await self.supervisor.stop()

    def reload_files(self) -> None:
        """Check now the files that are checked periodically. Credentials and the CAs of signers are checked at each use
        anyway.
        """
        _log.info("SIGHUP received; reloading files")
        self._wakeup.wake()

    @contextlib.asynccontextmanager
    async def _leadership(self) -> AsyncIterator[api.Transport]:
        """Wait until this replica is the leader. Yields the transport for the controllers."""
        if self._elector is None:
            yield self._transport
            return
        await self._elector.acquire()
        try:
            yield FencedTransport(self._transport, self._elector)
        finally:
            await self._elector.release()

    async def _served_kinds(self, client: api.Client, enabled: Collection[str]) -> Sequence[AnyResource]:
        if _OPTIONAL.keys().isdisjoint(enabled):
            return resources.DEFAULT
        while True:
            try:
                served = await discovery.served_resources(client, resources.OPTIONAL)
                _log_disabled(enabled, served)
                return [*resources.DEFAULT, *served]
            except (errors.APIError, api.Unreachable) as error:
                _log.warning("API discovery failed; retrying", extra={"error": str(error)})
                await self._clock.sleep(_DISCOVERY_RETRY_SECONDS)

    # --- health ---------------------------------------------------------------------------------------------------

    def checks(self) -> Sequence[Check]:
        """The checks of /healthz and /readyz. A replica that is not the leader is ready."""
        return [
            Check("ping", lambda: None),
            Check("leaderElection", self._election_problem),
            Check("informer-sync", self._sync_problem, ready_only=True),
            Check("certificates", self._expirations.problem, ready_only=True, advisory=True),
            Check("background", self.supervisor.problem, ready_only=True, advisory=True),
            Check("background-overdue", self.supervisor.late_too_long, ready_only=True),
            *controllerconfig.signer_checks(self._config, self._clock),
        ]

    def _report_event(self, report: Report) -> None:
        # Only the leader writes Events; the others have the same certificates and log them.
        if self._context is not None:
            self._context.events.add(report)

    def _election_problem(self) -> str | None:
        return self._elector.problem(_LEASE_GRACE_SECONDS) if self._elector is not None else None

    def _sync_problem(self) -> str | None:
        informers = {} if self._context is None else self._context.informers
        unsynced = [name for name, informer in informers.items() if not informer.synced.is_set()]
        return f"not listed yet: {', '.join(sorted(unsynced))}" if unsynced else None


def _certificate_sources(config: ControllerConfig) -> Sequence[Source]:
    path = config.settings.root_ca_file
    published = [certificatesources.from_file("root-ca", path, _ROOT_CA_REMEDY)] if path is not None else []
    return [*published, certificatesources.from_signers(config)]


def _log_disabled(enabled: Collection[str], served: Sequence[AnyResource]) -> None:
    """Log which enabled controllers cannot work with this server."""
    plurals = {resource.plural for resource in served}
    for name, plural in _OPTIONAL.items():
        if name in enabled and plural not in plurals:
            _log.warning(
                "controller disabled: the server does not have its resource",
                extra={"controller": name, "resource": plural},
            )


def _with_namespace(settings: LeaderElectionSettings) -> LeaderElectionSettings:
    """The settings with a namespace for the Lease: by default that of the pod, or kube-system outside of a cluster."""
    if settings.resource_namespace:
        return settings
    try:
        namespace = _NAMESPACE_FILE.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        namespace = _DEFAULT_NAMESPACE
    return dataclasses.replace(settings, resource_namespace=namespace)


def _load_root_ca(path: pathlib.Path | None, client_config: ClientConfig) -> str:
    if path is not None:
        return controllerconfig.load_root_ca(path)
    try:
        return rootcacertpublisher.decode_bundle(client_config.trusted.read(), "the CA certificates in the kubeconfig")
    except CredentialProblem as error:
        raise SetupError(str(error), ("set --root-ca-file to the CA certificates to publish",)) from error


def _load_client_ca(root_ca: str) -> ClientVerifier | None:
    """A cluster usually has one CA for its API server and its clients: the one that the server is trusted by."""
    try:
        return ClientVerifier(root_ca.encode("ascii")) if root_ca else None
    except (CertificateError, UnicodeEncodeError):
        return None


def _load_client_config(settings: Settings) -> ClientConfig:
    if settings.kubeconfig is None:
        return kubeconfig.in_cluster()
    return kubeconfig.load(settings.kubeconfig, context=settings.context)


async def _run(settings: Settings, clock: Clock) -> None:
    received = Signals()
    with files.as_setup_error("certplane cannot start", "check the permissions of the files that the settings name"):
        client_config = _load_client_config(settings)
        files.warn_if_readable(settings.kubeconfig)
        root_ca = _load_root_ca(settings.controllers.root_ca_file, client_config)
        reservations = Reservations(clock.now, _load_client_ca(root_ca))
        config = controllerconfig.load_controllers(settings.controllers, root_ca, reservations)
        https = HTTPSTransport(client_config, _USER_AGENT)
        limits = settings.kube_api
        transport = RateLimitedTransport(https, clock, limits.qps, limits.burst) if limits.qps else https
        own_certificate = certificatesources.from_client(client_config, _CLIENT_REMEDY)
        runner = ControllerRunner(settings, config, transport, clock, [own_certificate])
    received.on_reload(runner.reload_files)
    async with contextlib.aclosing(https), _monitored(settings, runner, clock):
        running, stopped = asyncio.ensure_future(runner.run()), asyncio.ensure_future(received.stopped())
        try:
            await asyncio.wait({running, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                await running
            _log.info("stopping")
        finally:
            for task in (running, stopped):
                task.cancel()
            await asyncio.gather(running, stopped, return_exceptions=True)


@contextlib.asynccontextmanager
async def _monitored(settings: Settings, runner: ControllerRunner, clock: Clock) -> AsyncIterator[None]:
    """Serve health checks and metrics, as long as the block lasts."""
    if settings.listen_health is None:
        yield
        return
    bound = listeners.bind(settings.listen_health.host, settings.listen_health.port, "--listen-health")
    with contextlib.closing(bound):
        monitoring = Monitoring(Health(runner.checks()), runner.telemetry)
        listener = listeners.Listener(monitoring.handle, bound, None, clock, runner.telemetry.count_refused_connection)
        runner.supervisor.run_every("connections", listeners.CHECK_INTERVAL, listener.check_connections)
        serving = asyncio.ensure_future(listener.serve())
        try:
            yield
        finally:
            listener.stop()
            await serving


def run(settings: Settings) -> int:
    """`certplane controllers`: the whole process, and its exit code. Raises SetupError."""
    os.umask(0o077)
    with logs.logging_to(level=settings.log_level):
        try:
            listeners.run(_run(settings, SystemClock()))
            return 0
        except* LeadershipLost as lost:
            _log.error("leadership lost; exiting", extra={"error": "; ".join(map(str, lost.exceptions))})
        return LEADERSHIP_LOST
