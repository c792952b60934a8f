"""The controllers: which of them run, which kinds they watch, and under which account each writes.

They use the API through `client` only, so the same code serves our own API server and any other. Each kind has one
informer, however many controllers watch it.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
import functools
import logging
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from typing import Any, Final, Protocol, TypeVar

from certplane import errors, reload, telemetry
from certplane.client.api import Client
from certplane.client.informer import AnyInformer, Informer
from certplane.clock import Clock
from certplane.controllers.approving import kubeletclient, signerrules
from certplane.controllers.approving.kubeletserving import approver, evidence
from certplane.controllers.cleanup import csrcleaner, podrequestcleaner, tokencleaner
from certplane.controllers.cluster import clusterroleaggregation, namespacedeletion, serviceaccount
from certplane.controllers.publishing import clustertrustbundle, rootcacertpublisher
from certplane.controllers.runtime import controller
from certplane.controllers.runtime.controller import Controller, WorkQueue
from certplane.controllers.runtime.decisions import DecisionRecorder
from certplane.controllers.runtime.eventwriter import EventWriter
from certplane.controllers.runtime.periodiccleaner import PeriodicCleaner
from certplane.controllers.signing import records, signer
from certplane.controllers.signing.signersfile import SignersFile
from certplane.meta.objects import Object
from certplane.meta.resource import AnyResource, Resource
from certplane.plane.controllerconfig import ControllerConfig
from certplane.reload import Wakeup
from certplane.resources import (
    DEFAULT,
    clustertrustbundles,
    configmaps,
    namespaces,
    nodes,
    podcertificaterequests,
    rbac,
    secrets,
    serviceaccounts,
)
from certplane.resources import certificatesigningrequests as csrs
from certplane.supervisor import Supervisor
from certplane.telemetry import Telemetry

T = TypeVar("T", bound=Object)

_log = logging.getLogger("certplane.controllers")

Run = Callable[[], Coroutine[Any, Any, None]]

#: The service account of the controllers of CSRs, as in kube-controller-manager.
CERTIFICATE_ACCOUNT: Final = "certificate-controller"
#: The users that approve requests by rules.
RULE_APPROVERS: Final = tuple(
    f"system:serviceaccount:kube-system:{account}" for account in (approver.ACCOUNT, signerrules.ACCOUNT)
)
#: Versions in which a kind of certificates.k8s.io may be served, best first.
_VERSIONS: Final = ("v1", "v1beta1", "v1alpha1")


class ControllerModule(Protocol):
    """The constants of a module that has a controller."""

    @property
    def NAME(self) -> str: ...  # noqa: N802 - a constant

    @property
    def QUEUE(self) -> str: ...  # noqa: N802 - a constant

    @property
    def WORKERS(self) -> int: ...  # noqa: N802 - a constant


@dataclasses.dataclass(frozen=True)
class ControllerContext:
    """What controllers are made of. Each command makes one.

    `client` makes the client of a service account in kube-system; `reader` lists and watches for all controllers.
    `journal` records certificates before they are signed; without one, the requests themselves do. Signatures are made
    in `threads`, Events written by `events`. `kinds` are those that the server has. `grant_permissions` is called after
    the signers file has changed: the controllers may need new ones. `wakeup` ends the pauses between checks of files.
    """

    config: ControllerConfig
    client: Callable[[str], Client]
    reader: Client
    clock: Clock
    telemetry: Telemetry
    journal: records.Journal | None
    threads: concurrent.futures.Executor
    events: EventWriter
    kinds: Sequence[AnyResource] = DEFAULT
    grant_permissions: Callable[[], Awaitable[None]] | None = None
    wakeup: Wakeup = dataclasses.field(default_factory=Wakeup)
    _informers: dict[str, AnyInformer] = dataclasses.field(default_factory=dict)
    #: Of controllers for which a change of the signers file may change the decision.
    _signer_dependent_queues: list[WorkQueue] = dataclasses.field(default_factory=list)

    def informer(self, resource: Resource[T]) -> Informer[T]:
        """The informer of a kind, which all controllers share."""
        if resource.qualified not in self._informers:
            self._informers[resource.qualified] = Informer(self.reader, resource, self.clock)
        return self._informers[resource.qualified]

    @property
    def informers(self) -> Mapping[str, AnyInformer]:
        """Those that the controllers use, by the qualified name of the kind."""
        return self._informers

    @functools.cached_property
    def decisions(self) -> DecisionRecorder:
        """Records what the controllers of requests decide."""
        return DecisionRecorder(self.events, self.telemetry)

    def served(self, resource: Resource[T]) -> Resource[T] | None:
        """The best version in which the server has a kind; None if it has none."""
        versions = [kind for kind in self.kinds if kind.qualified == resource.qualified]
        return next((kind for version in _VERSIONS for kind in versions if kind.version == version), None)

    def new_queue(
        self, module: ControllerModule, base_delay: float = controller.BASE_DELAY, *, depends_on_signers: bool = False
    ) -> WorkQueue:
        """The queue of a controller, which is given as its module. With `depends_on_signers`, all requests are queued
        again when the signers file has changed.
        """
        queue = WorkQueue(self.clock, self.telemetry.queue(module.QUEUE), base_delay=base_delay)
        if depends_on_signers:
            self._signer_dependent_queues.append(queue)
        return queue

    def requeue_csrs(self) -> None:
        """Queue all requests again, for the controllers that depend on the signers file."""
        for csr in self.informer(csrs.RESOURCE).objects.values():
            for queue in self._signer_dependent_queues:
                queue.add(csr.metadata.name)

    def new_controller(
        self, module: ControllerModule, handle: controller.Handler, queue: WorkQueue | None = None
    ) -> Controller:
        """A controller, which is given as its module."""
        # Not `queue or ...`: an empty queue is false.
        queue = self.new_queue(module) if queue is None else queue
        return Controller(module.NAME, queue, handle, workers=module.WORKERS)


def start_controllers(context: ControllerContext, supervisor: Supervisor) -> None:
    """Run the enabled controllers under a supervisor, with their informers."""
    for name, run in build_controllers(context, context.config.settings.controllers).items():
        supervisor.run_forever(name, run)


def build_controllers(context: ControllerContext, enabled: Collection[str]) -> Mapping[str, Run]:
    """Everything that has to run for the enabled controllers, by name. Each may be run again after it has failed."""
    runs: dict[str, Run] = {}
    for name, build in _BUILDERS.items():
        run = build(context) if name in enabled else None
        if run is not None:
            runs[name] = run
    signers_file = context.config.signers_file
    if signers_file is not None:
        runs["signers-file"] = functools.partial(_watch_signers_file, context, signers_file)
    runs["decision-events"] = context.events.run
    return runs | {f"informer-{name}": informer.run for name, informer in context.informers.items()}


def _build_kubelet_client_approver(context: ControllerContext) -> Run:
    csr_informer = context.informer(csrs.RESOURCE)
    client_approver = kubeletclient.Approver(context.client(CERTIFICATE_ACCOUNT), context.decisions.record)
    handle = controller.with_object(csr_informer, context.decisions.record_failures(client_approver.handle))
    queue = context.new_queue(kubeletclient, controller.CSR_BASE_DELAY)
    return context.new_controller(kubeletclient, handle, queue).watch(csr_informer).run


def _build_signer(context: ControllerContext) -> Run:
    csr_informer = context.informer(csrs.RESOURCE)
    signing_records = _new_records(context)
    queue = context.new_queue(signer, controller.CSR_BASE_DELAY, depends_on_signers=True)
    signing_context = signer.SigningContext(
        context.clock,
        signing_records,
        context.threads,
        context.decisions.record,
        # The journal is that of `certplane serve`.
        revisit=queue.add_after if context.journal is not None else None,
    )
    signing = signer.SigningController(context.config.all_signers, signing_context, context.telemetry)
    csr_informer.subscribe(signing.observe)
    handle = controller.with_object(csr_informer, context.decisions.record_failures(signing.handle))
    workers = context.new_controller(signer, handle, queue).watch(csr_informer)

    async def run() -> None:
        await csr_informer.synced.wait()
        async with asyncio.TaskGroup() as group:
            group.create_task(workers.run())
            group.create_task(signing.run(context.wakeup))
            group.create_task(signing_records.run(csr_informer))

    return run


def _new_records(context: ControllerContext) -> records.Records:
    client = context.client(CERTIFICATE_ACCOUNT)
    if context.journal is None:
        return records.ConditionRecords(client, context.clock)
    return records.JournalRecords(context.journal, client, context.clock)


async def _watch_signers_file(context: ControllerContext, signers_file: SignersFile) -> None:
    """Reload the signers file when it has changed, and queue all requests again."""
    logged_problem, is_applied = "", True
    while True:
        is_requested = await context.wakeup.sleep(context.clock, reload.INTERVAL_SECONDS)
        if signers_file.reload(is_requested=is_requested):
            _log.info("signers reloaded", extra={"signers": ",".join(sorted(signers_file.signers))})
            is_applied = False
        problem = signers_file.problem
        if problem and problem != logged_problem:
            _log.error("signers reload failed; keeping the previous configuration", extra={"error": problem})
        logged_problem = problem
        if not is_applied:
            is_applied = await _apply_signers(context)


async def _apply_signers(context: ControllerContext) -> bool:
    """Whether the controllers have the permissions for the signers in the file; if so, queue all requests again."""
    try:
        if context.grant_permissions is not None:
            await context.grant_permissions()
    except errors.CertplaneError as error:
        _log.warning("granting permissions for the signers failed", extra={"error": str(error)})
        return False
    context.requeue_csrs()
    return True


def _build_custom_signer_approver(context: ControllerContext) -> Run | None:
    signers_file = context.config.signers_file
    if signers_file is None:
        return None
    csr_informer = context.informer(csrs.RESOURCE)
    client = context.client(signerrules.ACCOUNT)
    custom_approver = signerrules.Approver(client, lambda: signers_file.signers, context.decisions.record)
    handle = controller.with_object(csr_informer, context.decisions.record_failures(custom_approver.handle))
    queue = context.new_queue(signerrules, depends_on_signers=True)
    return context.new_controller(signerrules, handle, queue).watch(csr_informer).run


def _build_serving_approver(context: ControllerContext) -> Run | None:
    settings = context.config.serving_rules
    if settings is None:
        return None
    csr_informer, node_informer = context.informer(csrs.RESOURCE), context.informer(nodes.RESOURCE)
    path, dns_timeout = settings.inventory, settings.dns_timeout
    inventory = evidence.InventoryFile(path, context.clock, context.wakeup) if path is not None else None
    resolver = evidence.SystemResolver(context.clock, dns_timeout) if dns_timeout is not None else None
    sources = approver.Sources(evidence.NodeClaims(node_informer), inventory, resolver)
    serving = approver.Approver(context.client(approver.ACCOUNT), settings, sources, context.decisions.record)
    csr_informer.subscribe(serving.forget)
    handle = controller.with_object(csr_informer, context.decisions.record_failures(serving.handle))
    queue = context.new_queue(approver, controller.CSR_BASE_DELAY)
    workers = context.new_controller(approver, handle, queue)
    workers = workers.watch(csr_informer).watch(node_informer, serving.affected_csrs)

    async def run() -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(workers.run())
                group.create_task(serving.run(queue))
        finally:
            if resolver is not None:
                resolver.close()

    return run


def _build_csr_cleaner(context: ControllerContext) -> Run:
    client, csr_informer = context.client(CERTIFICATE_ACCOUNT), context.informer(csrs.RESOURCE)
    return PeriodicCleaner(client, csrcleaner.RULE, csr_informer, context.clock).run


def _build_namespace_deleter(context: ControllerContext) -> Run:
    namespace_informer = context.informer(namespaces.RESOURCE)
    # Several versions may have the same objects: one of them is enough.
    kinds = {kind.prefix: kind for kind in context.kinds if kind.namespaced}
    queue = context.new_queue(namespacedeletion)
    client = context.client(namespacedeletion.ACCOUNT)
    deleter = namespacedeletion.NamespaceDeleter(client, list(kinds.values()), queue)
    handle = controller.with_object(namespace_informer, deleter.handle)
    return context.new_controller(namespacedeletion, handle, queue).watch(namespace_informer).run


def _build_root_ca_publisher(context: ControllerContext) -> Run:
    namespace_informer = context.informer(namespaces.RESOURCE)
    config_map_informer = context.informer(configmaps.RESOURCE)
    client = context.client(rootcacertpublisher.ACCOUNT)
    publisher = rootcacertpublisher.Publisher(client, namespace_informer, config_map_informer, context.config.root_ca)
    observe = functools.partial(context.telemetry.count_publication, telemetry.ROOT_CA)
    handle = controller.measure(publisher.handle, context.clock, observe)
    workers = context.new_controller(rootcacertpublisher, handle)
    return workers.watch(namespace_informer).watch(config_map_informer, rootcacertpublisher.affected_namespaces).run


def _build_trust_bundle_publisher(context: ControllerContext) -> Run | None:
    kind, root_ca = context.served(clustertrustbundles.RESOURCE), context.config.root_ca
    if kind is None or not root_ca:
        return None
    bundle_informer = context.informer(kind)
    publisher = clustertrustbundle.Publisher(context.client(clustertrustbundle.ACCOUNT), kind, bundle_informer, root_ca)
    observe = functools.partial(context.telemetry.count_publication, telemetry.TRUST_BUNDLE)
    queue = context.new_queue(clustertrustbundle)
    queue.add(clustertrustbundle.KEY)
    handle = controller.measure(publisher.handle, context.clock, observe)
    workers = context.new_controller(clustertrustbundle, handle, queue)
    return workers.watch(bundle_informer, clustertrustbundle.affected_keys).run


def _build_pod_request_cleaner(context: ControllerContext) -> Run | None:
    kind = context.served(podcertificaterequests.RESOURCE)
    if kind is None:
        return None
    client = context.client(podrequestcleaner.ACCOUNT)
    return PeriodicCleaner(client, podrequestcleaner.rule(kind), context.informer(kind), context.clock).run


def _build_service_account_creator(context: ControllerContext) -> Run:
    namespace_informer = context.informer(namespaces.RESOURCE)
    account_informer = context.informer(serviceaccounts.RESOURCE)
    client = context.client(serviceaccount.ACCOUNT)
    creator = serviceaccount.DefaultAccountCreator(client, namespace_informer, account_informer)
    workers = context.new_controller(serviceaccount, creator.handle)
    return workers.watch(namespace_informer).watch(account_informer, controller.namespace_key).run


def _build_role_aggregator(context: ControllerContext) -> Run:
    role_informer = context.informer(rbac.CLUSTER_ROLES)
    aggregator = clusterroleaggregation.Aggregator(context.client(clusterroleaggregation.ACCOUNT), role_informer)
    workers = context.new_controller(clusterroleaggregation, aggregator.handle)
    return workers.watch(role_informer, aggregator.affected_roles).run


def _build_token_cleaner(context: ControllerContext) -> Run:
    secret_informer, queue = context.informer(secrets.RESOURCE), context.new_queue(tokencleaner)
    cleaner = tokencleaner.TokenCleaner(context.client(tokencleaner.ACCOUNT), secret_informer, queue)
    workers = context.new_controller(tokencleaner, cleaner.handle, queue)
    return workers.watch(secret_informer, tokencleaner.affected_tokens).run


#: Builds a controller; None if the server or the configuration has nothing for it to do.
_BUILDERS: Final[Mapping[str, Callable[[ControllerContext], Run | None]]] = {
    kubeletclient.NAME: _build_kubelet_client_approver,
    signer.NAME: _build_signer,
    csrcleaner.NAME: _build_csr_cleaner,
    signerrules.NAME: _build_custom_signer_approver,
    approver.NAME: _build_serving_approver,
    namespacedeletion.NAME: _build_namespace_deleter,
    rootcacertpublisher.NAME: _build_root_ca_publisher,
    clustertrustbundle.NAME: _build_trust_bundle_publisher,
    podrequestcleaner.NAME: _build_pod_request_cleaner,
    serviceaccount.NAME: _build_service_account_creator,
    clusterroleaggregation.NAME: _build_role_aggregator,
    tokencleaner.NAME: _build_token_cleaner,
}
