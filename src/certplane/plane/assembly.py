"""The composition root: where stores, kinds, policies and controllers are put together.

`Plane` is a whole control plane without a socket: store, watch cache, registries, authentication, authorization,
controllers, and the handler that answers requests. `serve` adds the socket. See docs/architecture.md.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from certplane import errors, reload, resources, supervisor, telemetry
from certplane.access import (
    authn,
    csrwarnings,
    defaults,
    escalation,
    impersonation,
    nodes,
    rbac,
    reviews,
    signers,
    tokens,
)
from certplane.client import api
from certplane.clock import Clock
from certplane.config.servesettings import DEFAULTS, APISettings, AuditSettings
from certplane.controllers.runtime.eventwriter import EventWriter
from certplane.controllers.signing import signersfile
from certplane.inventory import recorder, retention
from certplane.meta import context
from certplane.meta.context import User
from certplane.meta.objects import Object
from certplane.meta.resource import AnyArchivedResource, AnyObject, AnyResource
from certplane.plane import controllerconfig, controllerset, signingpreviews
from certplane.plane.controllerconfig import ControllerConfig
from certplane.registry import admission, archived, encodedobjects, namespacelifecycle, reads, ttl, verbs
from certplane.resources import certificatesigningrequests as csrs
from certplane.resources import serviceaccounts
from certplane.resources import signingpreviews as signing_preview_kind
from certplane.server import (
    audit,
    auditpolicy,
    discovery,
    exchange,
    handlers,
    health,
    inflight,
    local,
    monitoring,
    pipeline,
    routes,
    watches,
)
from certplane.store import contract, journal, watchcache
from certplane.wire import codec
from certplane.x509.issuance import reservednames
from certplane.x509.trust import clientcertificates

_log = logging.getLogger("certplane")

#: For objects that the server creates itself.
_SERVER: Final = User("system:apiserver", groups=("system:masters", "system:authenticated"))
#: Lists and watches for all controllers. Each of them writes under its own service account.
_CONTROLLER_MANAGER: Final = User("system:kube-controller-manager", groups=("system:authenticated",))
#: As in a cluster: people search managedFields for this name.
_USER_AGENT: Final = "kube-controller-manager/certplane"
_COMPACTION_SECONDS: Final = 300.0
#: How often a write to the store is tried, if there are no others: more often than readiness probes usually come.
_STORE_CHECK_SECONDS: Final = 5.0


def _no_problem() -> str:
    return ""


@dataclasses.dataclass(frozen=True, slots=True)
class AuditConfig:
    """Where audit records go: all to `sink`, those of certificate requests also to `approvals_sink`; one may be None.
    `problem` returns why records are being lost, or an empty string.
    """

    sink: audit.Sink | None
    approvals_sink: audit.Sink | None = None
    policy: auditpolicy.Policy = auditpolicy.DEFAULT
    settings: AuditSettings = DEFAULTS.audit
    problem: Callable[[], str] = _no_problem


@dataclasses.dataclass(frozen=True, slots=True)
class PlaneConfig:
    """What a plane is made of: settings, and what was loaded from the files that they name.

    `client_ca` and `static_tokens` authenticate clients; `issuer` signs the tokens of service accounts. Without `audit`
    there are no records. `reservations` are updated when the client CA changes. `address` is where clients reach the
    server. `wakeup` ends the pauses between two checks of files.
    """

    controllers: ControllerConfig
    api: APISettings = DEFAULTS.api
    kinds: tuple[AnyResource, ...] = resources.DEFAULT
    client_ca: clientcertificates.ClientVerifier | None = None
    static_tokens: tuple[authn.TokenSource, ...] = ()
    issuer: tokens.Issuer | None = None
    audit: AuditConfig | None = None
    reservations: reservednames.Reservations | None = None
    address: str = "127.0.0.1:6443"
    wakeup: reload.Wakeup = dataclasses.field(default_factory=reload.Wakeup)


def _service_account(name: str) -> User:
    """The service account under which a controller works."""
    groups = ("system:serviceaccounts", "system:serviceaccounts:kube-system", "system:authenticated")
    return User(f"system:serviceaccount:kube-system:{name}", groups=groups)


class Plane:
    """A control plane. `start` before use, `stop` afterwards; the store is the caller's to open and to close."""

    def __init__(self, store: contract.Store, clock: Clock, config: PlaneConfig) -> None:
        self.store = store
        self.clock = clock
        self.telemetry = telemetry.Telemetry()
        self.config = config
        self._by_plural = {kind.plural: kind.storage_resource for kind in config.kinds}
        by_prefix = {kind.prefix: kind for kind in self._by_plural.values()}

        def find_corruption(prefix: str, key: str, value: bytes) -> str:
            return encodedobjects.find_corruption(by_prefix[prefix], key, value)

        self.cache = watchcache.WatchCache(store, list(by_prefix), find_corruption=find_corruption)
        self.authorizer = self._authorizer()
        self.registries = self._registries()
        self.watches = watches.Watches(clock)
        self.telemetry.observe_watches(self.watches.count)
        self.telemetry.observe_objects(self._stored)
        self._ready = False
        self._draining = False
        self.supervisor = supervisor.Supervisor(clock, self.telemetry)
        #: Returns why no connections are accepted, or None; set by `serve`.
        self.listener_problem: Callable[[], str | None] = lambda: None
        #: Returns which certificates end soon, or None; set by `serve`.
        self.certificate_problem: Callable[[], str | None] = lambda: None
        #: The revision up to which the next compaction deletes history.
        self._compact_revision = 0
        self._threads = concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="certplane-sign")
        self._accounts = tokens.ServiceAccountTokens(config.issuer, self._find) if config.issuer is not None else None
        self._tokens = self._bearer_tokens()
        self._client_certificates = (
            authn.ClientCertificates(
                config.client_ca,
                self.telemetry.observe_certificate_lifetime,
                self.telemetry.count_refused_certificate,
            )
            if config.client_ca is not None
            else None
        )
        self._authenticator = authn.Authenticator(self._methods(), anonymous=config.api.anonymous_auth)
        self._impersonation = impersonation.Impersonation(self.authorizer.authorize)
        self.dependencies = pipeline.Dependencies(
            clock=clock,
            telemetry=self.telemetry,
            authenticate=self._authenticate,
            impersonate=self._impersonate,
            authorize=self._authorize,
            in_flight=inflight.InFlightLimiter(clock, config.api.limits, self.telemetry),
            route=self._routes().handle,
            audit=self._audit(),
        )
        self.handler = pipeline.assemble(self.dependencies)
        reports_events = config.controllers.settings.decision_events
        events_client = self._controller_client(controllerset.CERTIFICATE_ACCOUNT) if reports_events else None
        self.events = EventWriter(events_client, clock)

    # --- life -----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Fill the watch cache, create the default objects, start the controllers."""
        await self.cache.start()
        await self._ensure_defaults()
        self._start_controllers()
        await self._start_housekeeping()
        self._ready = True

    async def _start_housekeeping(self) -> None:
        self._compact_revision = await self.store.revision()
        self.supervisor.run_every("compaction", _COMPACTION_SECONDS, self._compact)
        self.supervisor.run_every("store", _STORE_CHECK_SECONDS, self._check_store)
        self.supervisor.run_every(
            "request-deadlines", inflight.CHECK_INTERVAL, self.dependencies.in_flight.cancel_timed_out
        )
        event_ttl = self.config.api.event_ttl.total_seconds()
        # 0 means no TTL, as in kube-apiserver (`ttlOpts` in `apiserver/pkg/storage/etcd3/store.go`).
        if event_ttl:
            ttl_cleaner = ttl.TTLCleaner(list(self.registries.values()), self.clock, event_ttl)
            self.supervisor.run_every("event-expiry", ttl.INTERVAL, ttl_cleaner.clean)
        keeper = retention.Retention(self.store.archive, self.clock, self.config.api.inventory_retention)
        self.supervisor.run_every("inventory-retention", retention.INTERVAL, keeper.remove_ended)
        if self.dependencies.audit is not None:
            self.supervisor.run_every("audit-drops", audit.REPORT_INTERVAL, self.dependencies.audit.report_dropped)

    async def _ensure_defaults(self) -> None:
        kinds = {kind.plural for kind in self.config.kinds}
        approves_serving = self.config.controllers.serving_rules is not None
        virtual = {signing_preview_kind.RESOURCE.plural} if self.config.api.creation_hints else set()
        objects = defaults.default_objects(kinds | virtual, self._signer_domains(), approves_serving=approves_serving)
        await defaults.ensure(self._writer(), objects)

    def drain(self) -> None:
        """Make the server unready and end its watches."""
        self._ready = False
        self._draining = True
        self.watches.drain()

    async def stop(self) -> None:
        """Stop the controllers; the store may be closed afterwards."""
        self.drain()
        await self.supervisor.stop()
        self._threads.shutdown(wait=True, cancel_futures=True)
        if self.dependencies.audit is not None:
            self.dependencies.audit.close()
        self.cache.close()

    def replace_client_ca(self, client_ca: clientcertificates.ClientVerifier) -> None:
        """Authenticate clients by another CA, and reserve its names, from now on."""
        if self._client_certificates is not None:
            self._client_certificates.replace(client_ca)
        if self.config.reservations is not None:
            self.config.reservations.replace_client_ca(client_ca)

    def replace_serving_certificate(self, certificate: bytes) -> None:
        """Reserve the names in another serving certificate, in PEM, from now on."""
        if self.config.reservations is not None:
            self.config.reservations.replace_server_names(reservednames.certificate_names(certificate))

    def client(self, user: User, user_agent: str = "certplane") -> api.Client:
        """A client in this process, without a socket."""
        return api.Client(local.InProcessTransport(self.handler, user, user_agent))

    # --- parts ----------------------------------------------------------------------------------------------------

    def _object(self, plural: str) -> Callable[[watchcache.Entry], AnyObject]:
        kind = self._by_plural[plural]
        return lambda entry: encodedobjects.from_entry(kind, entry).object

    def _collection(self, plural: str) -> watchcache.Collection:
        return self.cache.collection(self._by_plural[plural].prefix)

    def _authorizer(self) -> rbac.Authorizer:
        return nodes.Authorizer(self._collection, self._object, self._find, {kind.plural for kind in self.config.kinds})

    def _registries(self) -> dict[str, verbs.AnyRegistry]:
        authorizer, has_warnings = self.authorizer, self.config.api.creation_hints
        signing = signers.hooks(authorizer.authorize, suggest_rules=has_warnings)
        namespace_exists = namespacelifecycle.hook(lambda name: self._find("namespaces", "", name))
        records = recorder.Recorder(self.store.archive, controllerset.RULE_APPROVERS)
        hooks = admission.Admission(
            mutate=(
                namespace_exists,
                nodes.admission_hook(self._find),
                escalation.hook(authorizer),
                *(csrwarnings.FIRST_HOOKS if has_warnings else ()),
            ),
            # The namespace is checked again as the last step before the write: it may be deleted while a large object
            # is validated in a thread, and a new namespace of this name must not get the object.
            check=(escalation.creation_hook(authorizer), *signing, *self._warnings(), namespace_exists),
            archive=records.entries,
            after=(signers.log_decisions, self._count_duration, records.remember),
        )
        return {_path(kind): verbs.Registry(kind, self.store, self.cache, hooks) for kind in self.config.kinds}

    def _warnings(self) -> tuple[admission.Hook, ...]:
        if not self.config.api.creation_hints:
            return ()
        all_signers = self.config.controllers.all_signers

        def availability(signer: csrwarnings.Signer) -> csrwarnings.Availability:
            now = self.clock.now()
            state = all_signers()[signer.profile.signer].current(now)
            if state.issuer is None:
                return csrwarnings.Availability(state.problem)
            return csrwarnings.Availability(ca_remaining=state.issuer.authority.not_after - now)

        return (csrwarnings.Warnings(all_signers, availability),)

    def _describe_value(self) -> Callable[[AnyResource, str, str], str]:
        return csrwarnings.describe_value if self.config.api.creation_hints else lambda *_: ""

    def _signer_domains(self) -> list[str]:
        signers_file = self.config.controllers.signers_file
        return signersfile.domains(list(signers_file.signers)) if signers_file is not None else []

    def _audit(self) -> audit.Auditor | None:
        config = self.config.audit
        if config is None:
            return None

        def is_internal(request: exchange.Request) -> bool:
            return request.identity is _CONTROLLER_MANAGER

        outputs = audit.Outputs(config.sink, config.approvals_sink, lambda info: info.group == csrs.RESOURCE.group)
        # Without the main log nothing of these requests is recorded, so nothing is left out.
        rate = config.settings.anonymous_rate if config.sink is not None else 0
        return audit.Auditor(config.policy, outputs, self.clock, self.telemetry.audit, rate=rate, skip=is_internal)

    def _stored(self) -> Mapping[tuple[str, str], int]:
        """The number of objects, by group and resource."""
        return {(kind.group, kind.plural): len(self.cache.collection(kind.prefix)) for kind in self._by_plural.values()}

    def _methods(self) -> Sequence[authn.Method]:
        return [self._tokens] if self._client_certificates is None else [self._client_certificates, self._tokens]

    def _bearer_tokens(self) -> authn.BearerTokens:
        sources: list[authn.TokenSource] = list(self.config.static_tokens)
        if self._accounts is not None:
            sources.append(self._accounts)
        if self.config.api.enable_bootstrap_token_auth:
            sources.append(tokens.BootstrapTokens(self._find))
        return authn.BearerTokens(self._accounts.audiences if self._accounts is not None else (), *sources)

    def _count_duration(self, write: admission.AdmissionAttributes) -> None:
        """Count whether a new certificate has the duration that was requested."""
        if write.resource.plural == csrs.RESOURCE.plural and write.subresource == "status":
            durations = csrs.duration_metric(write.new, write.old)
            if durations is not None:
                signer_name, honored = durations
                self.telemetry.count_requested_duration(signer_name, honored=honored)

    def _registry(self, plural: str) -> verbs.AnyRegistry:
        return self.registries[_path(self._by_plural[plural])]

    def _find(self, plural: str, namespace: str, name: str) -> AnyObject | None:
        kind = self._by_plural.get(plural)
        if kind is None:
            return None
        entry = self.cache.collection(kind.prefix).get(kind.key(namespace, name))
        return encodedobjects.from_entry(kind, entry).object if entry is not None else None

    def _routes(self) -> routes.Routes:
        endpoints = [
            handlers.Endpoint(registry.resource, reads.Reader(registry, self.clock), registry)
            for registry in self.registries.values()
        ]
        endpoints += [
            handlers.Endpoint(kind.resource, archived.ArchiveReader(kind, self.store, self.clock))
            for kind in self._archived_kinds()
        ]
        answers = dict(reviews.answers(self.authorizer, self._tokens))
        if self.config.api.creation_hints:
            previews = signingpreviews.Answerer(self.config.controllers.all_signers, self.clock, self._threads)
            answers[signing_preview_kind.RESOURCE.plural] = previews.answer
        documents: dict[str, discovery.Document] = {}
        if self._accounts is not None:
            answers[serviceaccounts.TOKEN_REQUESTS.plural] = _as_virtual_handler(self._accounts.answer)
            documents = _issuer_documents(self._accounts, self.config.address)
        virtuals = [kind for kind in resources.VIRTUAL if kind.plural in answers]
        virtual_endpoints = [handlers.VirtualEndpoint(kind, nodes.restrict(answers[kind.plural])) for kind in virtuals]
        return routes.Routes(
            api=handlers.API(endpoints, virtual_endpoints, self.watches, self._describe_value()),
            discovery=discovery.Discovery(
                (*self.config.kinds, *(kind.resource for kind in self._archived_kinds())),
                virtuals,
                server_address=self.config.address,
                clock=self.clock,
                others=documents,
            ),
            monitoring=monitoring.Monitoring(self._health(), self.telemetry, self._may_see_reasons),
        )

    def _archived_kinds(self) -> Sequence[AnyArchivedResource]:
        """The kinds that Kubernetes does not have. Without them, entries are archived all the same."""
        return resources.ARCHIVED if self.config.api.creation_hints else ()

    def _health(self) -> health.Health:
        checks = [
            health.Check("ping", lambda: None),
            health.Check("log", lambda: None),
            # The check of the store has the name that probes for a real cluster may exclude.
            health.Check("etcd", lambda: self.cache.failure or self.store.problem),
            health.Check("informer-sync", lambda: None if self._ready else "not started", ready_only=True),
            health.Check("connections", self._not_accepting, ready_only=True, advisory=True),
            health.Check("audit-log", self._audit_problem, ready_only=True, advisory=True),
            health.Check("shutdown", lambda: "draining" if self._draining else None, ready_only=True),
        ]
        background = [
            health.Check("certificates", self._certificate_problem, ready_only=True, advisory=True),
            health.Check("stored-values", self._corrupt_values, ready_only=True, advisory=True),
            health.Check("background", self.supervisor.problem, ready_only=True, advisory=True),
            health.Check("background-overdue", self.supervisor.late_too_long, ready_only=True),
        ]
        signers = controllerconfig.signer_checks(self.config.controllers, self.clock)
        return health.Health([*checks, *background, *signers])

    def _audit_problem(self) -> str | None:
        return (self.config.audit.problem() or None) if self.config.audit is not None else None

    def _not_accepting(self) -> str | None:
        return self.listener_problem()

    def _certificate_problem(self) -> str | None:
        return self.certificate_problem()

    def _corrupt_values(self) -> str | None:
        count = self.cache.corrupt
        return f"{count} stored objects cannot be decoded and are not served; the log has their keys" if count else None

    def _may_see_reasons(self, request: exchange.Request) -> bool:
        """Whether the user may see why a check fails: if it may read the metrics, which have the same reasons."""
        attributes = context.Attributes(user=request.user, verb="get", path="/metrics", is_resource=False)
        return self.authorizer.authorize(attributes).allowed

    def _authenticate(self, request: exchange.Request) -> User:
        presented = authn.Credentials(
            request.peer_chain, request.headers.get(b"authorization"), request.source, request.warnings.append
        )
        return self._authenticator.authenticate(presented, request.received)

    def _impersonate(self, request: exchange.Request, attributes: Callable[[], context.Attributes]) -> tuple[User, str]:
        impersonated = impersonation.parse_headers(request.headers)
        return (request.user, "") if impersonated is None else self._impersonation.authorize(impersonated, attributes())

    def _authorize(self, attributes: context.Attributes) -> tuple[str, errors.Forbidden | None]:
        decision = self.authorizer.authorize(attributes)
        return decision.reason, None if decision.allowed else rbac.refusal(attributes, decision.reason)

    def _controller_client(self, account: str) -> api.Client:
        return self.client(_service_account(account), _USER_AGENT)

    def _start_controllers(self) -> None:
        context = controllerset.ControllerContext(
            config=self.config.controllers,
            client=self._controller_client,
            reader=self.client(_CONTROLLER_MANAGER, _USER_AGENT),
            clock=self.clock,
            telemetry=self.telemetry,
            journal=journal.Journal(self.store),
            threads=self._threads,
            events=self.events,
            kinds=self.config.kinds,
            grant_permissions=self._ensure_defaults,
            wakeup=self.config.wakeup,
        )
        controllerset.start_controllers(context, self.supervisor)

    async def _compact(self) -> None:
        """Delete the history of more than five minutes ago, as kube-apiserver has etcd do."""
        revision = await self.store.revision()
        await self.store.compact(self._compact_revision)
        self._compact_revision = revision

    async def _check_store(self) -> None:
        # The store logs its problem itself, and the health check reports it.
        with contextlib.suppress(contract.StoreClosed):
            await self.store.check()

    def _writer(self) -> defaults.Writer:
        def call(resource: AnyResource) -> context.VerbContext:
            info = context.RequestInfo(
                "", "", is_resource=True, group=resource.group, version=resource.version, resource=resource.plural
            )
            return context.VerbContext(_SERVER, info, self.clock.now(), user_agent="certplane")

        async def create(plural: str, namespace: str, obj: Object) -> None:
            if self._registry(plural).is_corrupt(namespace, obj.metadata.name):
                return
            await self._registry(plural).create(call(self._by_plural[plural]), namespace, obj)

        async def replace(plural: str, namespace: str, obj: Object) -> None:
            target = verbs.Target(namespace, obj.metadata.name)
            registry = self._registry(plural)
            await registry.update(call(registry.resource), target, lambda _: obj, verbs.UpdateMethod.REPLACE)

        async def delete(plural: str, namespace: str, obj: Object) -> None:
            target = verbs.Target(namespace, obj.metadata.name)
            registry = self._registry(plural)
            await registry.delete(call(registry.resource), target, verbs.Deletion(uid=obj.metadata.uid))

        return defaults.Writer(self._find, create, replace, delete)


def _path(resource: AnyResource) -> str:
    return f"{resource.api_version}/{resource.plural}"


def _as_virtual_handler(answer: Callable[[AnyObject, context.VerbContext], Object]) -> handlers.VirtualHandler:
    """A handler of a virtual resource from a function that is not async."""

    async def handle(obj: AnyObject, call: context.VerbContext) -> Object:
        return answer(obj, call)

    return handle


def _issuer_documents(accounts: tokens.ServiceAccountTokens, address: str) -> dict[str, discovery.Document]:
    """The documents of OpenID Connect Discovery, for those who verify service account tokens elsewhere."""
    cached = (("Cache-Control", "public, max-age=3600"),)
    return {
        "/.well-known/openid-configuration": discovery.Document(
            200, "application/json", codec.encode(accounts.configuration(address)), cached
        ),
        "/openid/v1/jwks": discovery.Document(
            200, "application/jwk-set+json", codec.encode(accounts.key_set()), cached
        ),
    }
