"""Where concrete things meet: the only place that knows what everything is made of.

`Plane` is a whole control plane without a socket: store, cache, registries, authorization, controllers, and the handler
that answers requests. `alone` puts it behind a socket. docs/architecture.md has a picture.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from certplane import clock as clocks
from certplane import errors, manager, reload, resources, supervisor, telemetry
from certplane.access import authn, defaults, escalation, hints, impersonation, nodes, rbac, reviews, signers, tokens
from certplane.client import api
from certplane.config import crew
from certplane.controllers import servingrules, signer, signerfile
from certplane.meta import codec, context, resource
from certplane.registry import admission, document, expiry, lifecycle, reads, verbs
from certplane.resources import certificatesigningrequests as csrs
from certplane.resources import serviceaccounts
from certplane.server import (
    audit,
    auditpolicy,
    discovery,
    exchange,
    handlers,
    health,
    inspection,
    local,
    manners,
    pipeline,
    routes,
    watches,
)
from certplane.store import contract, journal, watchcache
from certplane.x509 import certificates, reserved

_log = logging.getLogger("certplane")

#: The server itself.
_SERVER: Final = context.User("system:apiserver", groups=("system:masters", "system:authenticated"))
#: Reads for all controllers; each of them writes under an account of its own.
_CONTROLLER_MANAGER: Final = context.User("system:kube-controller-manager", groups=("system:authenticated",))
#: managedFields are grepped for this name, so controllers have the one that they have in a cluster.
_USER_AGENT: Final = "kube-controller-manager/certplane"
_COMPACTION_SECONDS: Final = 300.0
#: How often it is tried whether the store takes writes, if nobody writes: before probes would take the server out.
_STORE_SECONDS: Final = 5.0


@dataclasses.dataclass(frozen=True, slots=True)
class How:
    """How a plane works. `signers` are the configured ones by name; `client_ca` and `static_tokens` tell who may come;
    `issuer` signs the tokens of service accounts; `address` is where clients reach the server; `declared` are users'
    own signers; `audit_sink` and `audit_approvals` take records, `audit_rate` limits those of strangers, and
    `audit_problem` tells why they are being lost, if they are; `serving` says what has to be proven for kubelets'
    serving certificates; `reservations` are told when the client CA changes; `wakeup` ends the waiting of those who
    look at files now and then.
    """

    signers: Mapping[str, signer.Signer]
    kinds: tuple[resource.Resource, ...] = resources.DEFAULT
    controllers: frozenset[str] = frozenset(crew.CONTROLLERS)
    client_ca: certificates.ClientVerifier | None = None
    static_tokens: tuple[authn.TokenSource, ...] = ()
    issuer: tokens.Issuer | None = None
    bootstrap_tokens: bool = True
    anonymous: bool = True
    root_ca: str = ""
    event_seconds: float = 3600.0
    decision_events: bool = True
    creation_hints: bool = True
    declared: signerfile.SignerFile | None = None
    serving: servingrules.Settings | None = None
    reservations: reserved.Reservations | None = None
    audit_policy: auditpolicy.Policy = auditpolicy.DEFAULT
    audit_sink: audit.Sink | None = None
    audit_approvals: audit.Sink | None = None
    audit_rate: int = 0
    audit_problem: Callable[[], str] = lambda: ""
    limits: manners.Limits = dataclasses.field(default_factory=manners.Limits)
    address: str = "127.0.0.1:6443"
    wakeup: reload.Wakeup = dataclasses.field(default_factory=reload.Wakeup)


def _account(name: str) -> context.User:
    """The service account under which a controller works."""
    groups = ("system:serviceaccounts", "system:serviceaccounts:kube-system", "system:authenticated")
    return context.User(f"system:serviceaccount:kube-system:{name}", groups=groups)


class Plane:
    """A control plane. `start` before use, `stop` afterwards; the store is the caller's to open and to close."""

    def __init__(self, store: contract.Store, clock: clocks.Clock, how: How) -> None:
        self.store = store
        self.clock = clock
        self.telemetry = telemetry.Telemetry()
        self._how = how
        self._by_plural = {each.plural: each.stored for each in how.kinds}
        by_prefix = {each.prefix: each for each in self._by_plural.values()}

        def damage(prefix: str, key: str, value: bytes) -> str:
            return document.damage(by_prefix[prefix], key, value)

        self.cache = watchcache.WatchCache(store, list(by_prefix), damage=damage)
        self.authorizer = self._authorizer()
        self.registries = self._registries()
        self.watches = watches.Watches(clock)
        self.telemetry.watches(self.watches.count)
        self.telemetry.objects(self._stored)
        self._ready = False
        self._draining = False
        self.supervisor = supervisor.Supervisor(clock, self.telemetry)
        #: Why no connections are accepted; whoever listens sets it.
        self.accepting: Callable[[], str | None] = lambda: None
        #: What may be forgotten by the next compaction.
        self._superseded = 0
        self._threads = concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="certplane-sign")
        self._accounts = tokens.ServiceAccountTokens(how.issuer, self._find) if how.issuer is not None else None
        self._tokens = self._bearer_tokens()
        told = self.telemetry.client_certificate, self.telemetry.client_certificate_refused
        self._client_certificates = (
            authn.ClientCertificates(how.client_ca, *told) if how.client_ca is not None else None
        )
        self._authenticator = authn.Authenticator(self._methods(), anonymous=how.anonymous)
        self._impersonation = impersonation.Impersonation(self.authorizer.authorize)
        self.services = pipeline.Services(
            clock=clock,
            telemetry=self.telemetry,
            authenticate=self._authenticate,
            impersonate=self._impersonate,
            authorize=self._authorize,
            in_flight=manners.InFlight(clock, how.limits, self.telemetry),
            route=self._routes().handle,
            audit=self._audit(),
        )
        self.handler = pipeline.assemble(self.services)

    # --- life -----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Fill the cache, make what must always be there, start the controllers."""
        await self.cache.start()
        await self._ensure_defaults()
        self._start_controllers()
        await self._start_housekeeping()
        self._ready = True

    async def _start_housekeeping(self) -> None:
        self._superseded = await self.store.revision()
        self.supervisor.every("compaction", _COMPACTION_SECONDS, self._compact)
        self.supervisor.every("store", _STORE_SECONDS, self._look_at_store)
        self.supervisor.every("request-deadlines", manners.ROUND, self.services.in_flight.end_overdue)
        forgetting = expiry.Expiry(list(self.registries.values()), self.clock, self._how.event_seconds)
        self.supervisor.every("event-expiry", expiry.ROUND, forgetting.forget)

    async def _ensure_defaults(self) -> None:
        kinds = {each.plural for each in self._how.kinds}
        wanted = defaults.wanted(kinds, self._domains(), judges_serving=self._how.serving is not None)
        await defaults.ensure(self._doors(), wanted)

    def drain(self) -> None:
        """Say that this server is going away, and end its watches."""
        self._ready = False
        self._draining = True
        self.watches.drain()

    async def stop(self) -> None:
        """Stop the controllers and let go of the store."""
        self.drain()
        await self.supervisor.stop()
        self._threads.shutdown(wait=True, cancel_futures=True)
        if self.services.audit is not None:
            self.services.audit.close()
        self.cache.close()

    def replace_client_ca(self, client_ca: certificates.ClientVerifier) -> None:
        """Let in those whom another client CA vouches for, and reserve its names, from now on."""
        if self._client_certificates is not None:
            self._client_certificates.replace(client_ca)
        if self._how.reservations is not None:
            self._how.reservations.replace_client_ca(client_ca)

    def replace_serving_certificate(self, certificate: bytes) -> None:
        """Reserve the names of another serving certificate, in PEM, from now on."""
        if self._how.reservations is not None:
            self._how.reservations.replace_own_names(reserved.names_of(certificate))

    def client(self, user: context.User, user_agent: str = "certplane") -> api.Client:
        """The API as a user sees it, without a socket."""
        return api.Client(local.Transport(self.handler, user, user_agent))

    # --- parts ----------------------------------------------------------------------------------------------------

    def _object(self, plural: str) -> Callable[[watchcache.Entry], Any]:
        of = self._by_plural[plural]
        return lambda entry: document.of_entry(of, entry).object

    def _collection(self, plural: str) -> watchcache.Collection:
        return self.cache.collection(self._by_plural[plural].prefix)

    def _authorizer(self) -> rbac.Authorizer:
        return nodes.Authorizer(self._collection, self._object, self._find, {each.plural for each in self._how.kinds})

    def _registries(self) -> dict[str, verbs.Registry]:
        of = self.authorizer
        signing = signers.hooks(of.authorize, tells_rules=self._how.creation_hints)
        home = lifecycle.hook(lambda name: self._find("namespaces", "", name))
        hooks = admission.Admission(
            mutate=(
                home,
                nodes.restriction(self._find),
                escalation.hook(of),
                *((hints.kept_spec,) if self._how.creation_hints else ()),
            ),
            # Once more, as the last thing before the write: a namespace may go while a large object is judged in a
            # thread, and whoever makes it again would inherit what is written then.
            check=(escalation.creating(of), *signing, *self._hints(), home),
            after=(signers.trace, self._count_duration),
        )
        kinds = self._how.kinds
        return {
            f"{each.api_version}/{each.plural}": verbs.Registry(each, self.store, self.cache, hooks) for each in kinds
        }

    def _hints(self) -> tuple[admission.Hook, ...]:
        if not self._how.creation_hints:
            return ()

        def problem(of: hints.Signer) -> str:
            found = manager.known_signers(self._how.signers, self._how.declared)[of.profile.signer]
            state = found.current(self.clock.now())
            return "" if state.issuer is not None else state.problem

        return (hints.Hints(lambda: manager.known_signers(self._how.signers, self._how.declared), problem),)

    def _domains(self) -> list[str]:
        return signerfile.domains(list(self._how.declared.signers)) if self._how.declared is not None else []

    def _audit(self) -> audit.Audit | None:
        sink, figures = self._how.audit_sink, self.telemetry.audit
        if sink is None:
            return None

        def asks_itself(of: exchange.Exchange) -> bool:
            return of.identity is _CONTROLLER_MANAGER

        outputs = audit.Outputs(sink, self._how.audit_approvals, lambda info: info.group == csrs.RESOURCE.group)
        rate = self._how.audit_rate
        return audit.Audit(self._how.audit_policy, outputs, self.clock, figures, rate=rate, skip=asks_itself)

    def _stored(self) -> Mapping[tuple[str, str], int]:
        """How many objects of each kind there are."""
        return {(of.group, of.plural): len(self.cache.collection(of.prefix)) for of in self._by_plural.values()}

    def _methods(self) -> Sequence[authn.Method]:
        return [self._tokens] if self._client_certificates is None else [self._client_certificates, self._tokens]

    def _bearer_tokens(self) -> authn.BearerTokens:
        sources: list[authn.TokenSource] = list(self._how.static_tokens)
        if self._accounts is not None:
            sources.append(self._accounts)
        if self._how.bootstrap_tokens:
            sources.append(tokens.BootstrapTokens(self._find))
        return authn.BearerTokens(self._accounts.audiences if self._accounts is not None else (), *sources)

    def _count_duration(self, of: admission.Review) -> None:
        """How often signers give what is asked for."""
        if of.resource.plural == csrs.RESOURCE.plural and of.subresource == "status":
            found = csrs.durations_first_set(of.new, of.old)
            if found is not None:
                self.telemetry.duration(found[0], honored=found[1])

    def _registry(self, plural: str) -> verbs.Registry:
        return self.registries[_path(self._by_plural[plural])]

    def _find(self, plural: str, namespace: str, name: str) -> Any | None:
        of = self._by_plural.get(plural)
        if of is None:
            return None
        entry = self.cache.collection(of.prefix).get(of.key(namespace, name))
        return document.of_entry(of, entry).object if entry is not None else None

    def _routes(self) -> routes.Routes:
        endpoints = [
            handlers.Endpoint(registry, reads.Reader(registry, self.clock)) for registry in self.registries.values()
        ]
        answers = reviews.answers(self.authorizer, self._tokens)
        documents: dict[str, discovery.Document] = {}
        if self._accounts is not None:
            answers = {**answers, serviceaccounts.TOKEN_REQUESTS.plural: _awaited(self._accounts.answer)}
            documents = _issuer_documents(self._accounts, self._how.address)
        answered = [each for each in resources.ACTIONS if each.plural in answers]
        actions = [handlers.ActionEndpoint(each, nodes.restricted(answers[each.plural])) for each in answered]
        return routes.Routes(
            api=handlers.API(endpoints, actions, self.clock, self.watches),
            discovery=discovery.Discovery(
                self._how.kinds,
                answered,
                server_address=self._how.address,
                clock=self.clock,
                others=documents,
            ),
            inspection=inspection.Inspection(self._health(), self.telemetry, self._tells_reasons),
        )

    def _health(self) -> health.Health:
        checks = [
            health.Check("ping", lambda: None),
            health.Check("log", lambda: None),
            # The store's check has the name under which probes of real clusters exclude it.
            health.Check("etcd", lambda: self.cache.failure or self.store.problem),
            health.Check("informer-sync", lambda: None if self._ready else "not started", ready_only=True),
            health.Check("connections", self._not_accepting, ready_only=True, advisory=True),
            health.Check("audit-log", lambda: self._how.audit_problem() or None, ready_only=True, advisory=True),
            health.Check("shutdown", lambda: "draining" if self._draining else None, ready_only=True),
        ]
        working = [
            health.Check("stored-values", self._unreadable, ready_only=True, advisory=True),
            health.Check("background", self.supervisor.problem, ready_only=True, advisory=True),
            health.Check("background-overdue", self.supervisor.overdue, ready_only=True),
        ]
        signing = [_signer_check(*each, self.clock) for each in sorted(self._how.signers.items())]
        return health.Health([*checks, *working, *signing])

    def _not_accepting(self) -> str | None:
        return self.accepting()

    def _unreadable(self) -> str | None:
        count = self.cache.damaged
        return f"{count} cannot be read, and are left out: the log names them" if count else None

    def _tells_reasons(self, request: exchange.Exchange) -> bool:
        """Those may know why something does not work who may read the metrics, which say the same."""
        wanted = context.Attributes(user=request.user, verb="get", path="/metrics", is_resource=False)
        return self.authorizer.authorize(wanted).allowed

    def _authenticate(self, of: exchange.Exchange) -> context.User:
        offered = authn.Credentials(of.peer_chain, of.headers.get(b"authorization"), of.source, of.warnings.append)
        return self._authenticator.authenticate(offered, of.received)

    def _impersonate(
        self, of: exchange.Exchange, attributes: Callable[[], context.Attributes]
    ) -> tuple[context.User, str]:
        wanted = impersonation.requested(of.headers)
        return (of.user, "") if wanted is None else self._impersonation.judge(wanted, attributes())

    def _authorize(self, attributes: context.Attributes) -> tuple[str, errors.Forbidden | None]:
        decision = self.authorizer.authorize(attributes)
        return decision.reason, None if decision.allowed else rbac.refusal(attributes, decision.reason)

    def _start_controllers(self) -> None:
        crew = manager.Crew(
            client=lambda account: self.client(_account(account), _USER_AGENT),
            reader=self.client(_CONTROLLER_MANAGER, _USER_AGENT),
            clock=self.clock,
            telemetry=self.telemetry,
            signers=self._how.signers,
            declared=self._how.declared,
            grant=self._ensure_defaults,
            serving=self._how.serving,
            journal=journal.Journal(self.store),
            threads=self._threads,
            root_ca=self._how.root_ca,
            kinds=self._how.kinds,
            tells=self._how.decision_events,
            wakeup=self._how.wakeup,
        )
        for name, run in manager.assemble(crew, self._how.controllers).items():
            self.supervisor.keep(name, run)

    async def _compact(self) -> None:
        """Forget what was superseded more than five minutes ago, as kube-apiserver has etcd do."""
        now = await self.store.revision()
        await self.store.compact(self._superseded)
        self._superseded = now

    async def _look_at_store(self) -> None:
        # What is wrong is told by the store itself: in the log, and to whoever asks for its health.
        with contextlib.suppress(contract.StoreClosed):
            await self.store.check()

    def _doors(self) -> defaults.Doors:
        def call(of: resource.Resource) -> context.Call:
            info = context.RequestInfo("", "", is_resource=True, group=of.group, version=of.version, resource=of.plural)
            return context.Call(_SERVER, info, self.clock, self.clock.now(), user_agent="certplane")

        async def create(plural: str, namespace: str, new: Any) -> None:
            if self._registry(plural).is_damaged(namespace, new.metadata.name):
                return
            await self._registry(plural).create(call(self._by_plural[plural]), namespace, new)

        async def replace(plural: str, namespace: str, new: Any) -> None:
            target = verbs.Target(namespace, new.metadata.name)
            registry = self._registry(plural)
            await registry.update(call(registry.resource), target, lambda _: new, verbs.Style.REPLACE)

        async def delete(plural: str, namespace: str, old: Any) -> None:
            target = verbs.Target(namespace, old.metadata.name)
            registry = self._registry(plural)
            await registry.delete(call(registry.resource), target, verbs.Deletion(uid=old.metadata.uid))

        return defaults.Doors(self._find, create, replace, delete)


def _path(of: resource.Resource) -> str:
    return f"{of.api_version}/{of.plural}"


def _awaited(answer: Callable[[Any, context.Call], Any]) -> handlers.Answer:
    """An answer that waits for nothing, for those who wait."""

    async def act(asked: Any, call: context.Call) -> Any:
        return answer(asked, call)

    return act


def _issuer_documents(of: tokens.ServiceAccountTokens, address: str) -> dict[str, discovery.Document]:
    """What those who check tokens elsewhere want to know."""
    cached = (("Cache-Control", "public, max-age=3600"),)
    return {
        "/.well-known/openid-configuration": discovery.Document(
            200, "application/json", codec.encode(of.configuration(address)), cached
        ),
        "/openid/v1/jwks": discovery.Document(200, "application/jwk-set+json", codec.encode(of.key_set()), cached),
    }


def _signer_check(name: str, of: signer.Signer, clock: clocks.Clock) -> health.Check:
    def probe() -> str | None:
        return of.current(clock.now()).problem or None

    return health.Check(f"signer-{name.rpartition('/')[2]}", probe, ready_only=True, advisory=True)
