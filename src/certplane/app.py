"""Where concrete things meet: the only place that knows what everything is made of.

`Plane` is a whole control plane without a socket: store, cache, registries, authorization, controllers, and the handler
that answers requests. `run` puts it behind a socket, with what `Settings` say. docs/architecture.md has a picture.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import gc
import logging
import os
import pathlib
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from certplane import clock as clocks
from certplane import config, errors, manager, resources, telemetry
from certplane.access import authn, defaults, escalation, impersonation, nodes, rbac, reviews, signers, tokens
from certplane.client import api
from certplane.controllers import publisher, signer
from certplane.kubeadm import kubeconfig, pki
from certplane.meta import codec, context, resource
from certplane.registry import admission, document, expiry, lifecycle, reads, verbs
from certplane.resources import certificatesigningrequests as csrs
from certplane.resources import serviceaccounts
from certplane.server import (
    audit,
    auditlog,
    auditpolicy,
    discovery,
    exchange,
    handlers,
    health,
    listen,
    local,
    manners,
    pipeline,
    routes,
    watches,
)
from certplane.store import contract, sqlite, watchcache
from certplane.x509 import certificates, issue, keys, profiles

_log = logging.getLogger("certplane")

#: The server itself.
_SERVER: Final = context.User("system:apiserver", groups=("system:masters", "system:authenticated"))
#: Reads for all controllers; each of them writes under an account of its own.
_CONTROLLER_MANAGER: Final = context.User("system:kube-controller-manager", groups=("system:authenticated",))
#: managedFields are grepped for this name, so controllers have the one that they have in a cluster.
_USER_AGENT: Final = "kube-controller-manager/certplane"
_COMPACTION_SECONDS: Final = 300.0
_DRAIN_SECONDS: Final = 8.0


@dataclasses.dataclass(frozen=True, slots=True)
class How:
    """How a plane works. `signers` are the configured ones by name; `client_ca` and `static_tokens` tell who may come;
    `issuer` signs the tokens of service accounts; `address` is where clients reach the server.
    """

    signers: Mapping[str, signer.Signer]
    kinds: tuple[resource.Resource, ...] = resources.DEFAULT
    controllers: frozenset[str] = frozenset(config.CONTROLLERS)
    client_ca: certificates.ClientVerifier | None = None
    static_tokens: tuple[authn.TokenSource, ...] = ()
    issuer: tokens.Issuer | None = None
    bootstrap_tokens: bool = True
    anonymous: bool = True
    root_ca: str = ""
    event_seconds: float = 3600.0
    audit_policy: auditpolicy.Policy = auditpolicy.DEFAULT
    audit_sink: audit.Sink | None = None
    limits: manners.Limits = dataclasses.field(default_factory=manners.Limits)
    address: str = "127.0.0.1:6443"


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
        self.cache = watchcache.WatchCache(store, list(dict.fromkeys(each.prefix for each in how.kinds)))
        self._how = how
        self._by_plural = {each.plural: each.stored for each in how.kinds}
        self.authorizer = self._authorizer()
        self.registries = self._registries()
        self.watches = watches.Watches(clock)
        self.telemetry.watches(lambda: len(self.watches))
        self._ready = False
        self._draining = False
        self._tasks: list[asyncio.Task[None]] = []
        self._threads = concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="certplane-sign")
        self._accounts = tokens.ServiceAccountTokens(how.issuer, self._find) if how.issuer is not None else None
        self._tokens = self._bearer_tokens()
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
        await defaults.ensure(self._doors(), defaults.wanted({each.plural for each in self._how.kinds}))
        self._start_controllers()
        self._tasks.append(asyncio.ensure_future(self._compact()))
        self._tasks.append(asyncio.ensure_future(self.services.in_flight.watch_over()))
        forgetting = expiry.Expiry(list(self.registries.values()), self.clock, self._how.event_seconds)
        self._tasks.append(asyncio.ensure_future(forgetting.run()))
        self._ready = True

    def drain(self) -> None:
        """Say that this server is going away, and end its watches."""
        self._ready = False
        self._draining = True
        self.watches.drain()

    async def stop(self) -> None:
        """Stop the controllers and let go of the store."""
        self.drain()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._threads.shutdown(wait=True, cancel_futures=True)
        self.cache.close()

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
        return nodes.Authorizer(self._collection, self._object, self._find)

    def _registries(self) -> dict[str, verbs.Registry]:
        of = self.authorizer
        hooks = admission.Admission(
            mutate=(lifecycle.hook(lambda name: self._find("namespaces", "", name)), nodes.restriction(self._find)),
            check=(escalation.creating(of), *signers.hooks(of.authorize), escalation.hook(of)),
            after=(signers.trace, self._count_duration),
        )
        kinds = self._how.kinds
        return {
            f"{each.api_version}/{each.plural}": verbs.Registry(each, self.store, self.cache, hooks) for each in kinds
        }

    def _audit(self) -> audit.Audit | None:
        if self._how.audit_sink is None:
            return None

        def asks_itself(of: exchange.Exchange) -> bool:
            return of.identity is _CONTROLLER_MANAGER

        return audit.Audit(self._how.audit_policy, self._how.audit_sink, self.clock, skip=asks_itself)

    def _methods(self) -> Sequence[authn.Method]:
        if self._how.client_ca is None:
            return [self._tokens]
        return [authn.ClientCertificates(self._how.client_ca, self.telemetry.client_certificate), self._tokens]

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
        actions = [handlers.ActionEndpoint(each, answers[each.plural]) for each in answered]
        return routes.Routes(
            api=handlers.API(endpoints, actions, self.clock, self.watches),
            discovery=discovery.Discovery(
                self._how.kinds,
                answered,
                server_address=self._how.address,
                clock=self.clock,
                others=documents,
            ),
            health=self._health(),
            telemetry=self.telemetry,
        )

    def _health(self) -> health.Health:
        checks = [
            health.Check("ping", lambda: None),
            health.Check("log", lambda: None),
            # The store's check has the name under which probes of real clusters exclude it.
            health.Check("etcd", lambda: self.cache.failure),
            health.Check("informer-sync", lambda: None if self._ready else "not started", ready_only=True),
            health.Check("shutdown", lambda: "draining" if self._draining else None, ready_only=True),
        ]
        return health.Health([*checks, *(_signer_check(*each) for each in sorted(self._how.signers.items()))])

    def _authenticate(self, of: exchange.Exchange) -> context.User:
        offered = authn.Credentials(of.peer_chain, of.headers.get(b"authorization"), of.source)
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
            threads=self._threads,
            root_ca=self._how.root_ca,
            kinds=self._how.kinds,
        )
        self._tasks += [asyncio.ensure_future(run()) for run in manager.assemble(crew, self._how.controllers)]

    async def _compact(self) -> None:
        """Forget what was superseded more than five minutes ago, as kube-apiserver has etcd do."""
        before = await self.store.revision()
        while True:
            await self.clock.sleep(_COMPACTION_SECONDS)
            now = await self.store.revision()
            await self.store.compact(before)
            before = now

    def _doors(self) -> defaults.Doors:
        def call(of: resource.Resource) -> context.Call:
            info = context.RequestInfo("", "", is_resource=True, group=of.group, version=of.version, resource=of.plural)
            return context.Call(_SERVER, info, self.clock, self.clock.now(), user_agent="certplane")

        async def create(plural: str, namespace: str, new: Any) -> None:
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


def _signer_check(name: str, of: signer.Signer) -> health.Check:
    problem = of.problem or None
    return health.Check(f"signer-{name.rpartition('/')[2]}", lambda: problem, ready_only=True, advisory=True)


# --- from settings ------------------------------------------------------------------------------------------------


def configured_signers(settings: config.Settings, own: pki.PKI) -> dict[str, signer.Signer]:
    """The four built-in signers as they are configured; those that cannot sign know why."""
    found = {}
    for name, profile in profiles.BUILT_IN.items():
        pair = settings.signer_files[name]
        if settings.signs_by_default:
            pair = config.Pair(own.ca_certificate, own.ca_key)
        elif not any(config.is_given(each.certificate) for each in settings.signer_files.values()):
            pair = settings.signing
        found[name] = _signer(profile, pair, settings)
    return found


def _signer(profile: profiles.Profile, pair: config.Pair, settings: config.Settings) -> signer.Signer:
    certificate, key = pair.certificate, pair.key
    if certificate is None or key is None or not config.is_given(certificate) or not config.is_given(key):
        return signer.Signer(profile, problem="no certificate and key to sign with: see the --cluster-signing-* flags")
    try:
        authority = pki.load_authority(certificate, key)
    except errors.SetupError as error:
        return signer.Signer(profile, problem=error.message)
    return signer.Signer(profile, issue.Issuer(authority, settings.signing_duration))


def _prepare(settings: config.Settings, clock: clocks.Clock) -> pki.PKI:
    """The data directory, completed. Raises SetupError, having written nothing, for what cannot be used."""
    host_names = ("localhost", "127.0.0.1", "::1", socket.gethostname())
    bound = () if settings.host in ("0.0.0.0", "::") else (settings.host,)  # noqa: S104 - compared, not bound
    names = tuple(name for name in (*host_names, *bound, *settings.tls_san) if name)
    if not settings.data_dir.exists():
        settings.data_dir.mkdir(mode=0o700, parents=True)
    own = pki.ensure(settings.data_dir / "pki", pki.Options(names, settings.key_algorithm), clock.now())
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host  # noqa: S104 - as above
    server = f"https://[{host}]:{settings.port}" if ":" in host else f"https://{host}:{settings.port}"
    for path in kubeconfig.ensure(settings.data_dir, own, server, settings.key_algorithm, clock.now()):
        _log.info("kubeconfig written", extra={"path": path})
    return own


def _how(settings: config.Settings, own: pki.PKI) -> How:
    ca_file = settings.client_ca_file or own.ca_certificate
    try:
        verifier = certificates.ClientVerifier(ca_file.read_bytes())
    except (OSError, certificates.CertificateError) as error:
        raise errors.SetupError(
            f"the client CA file {ca_file} cannot be used: {error}", ("--client-ca-file names CA certificates, in PEM",)
        ) from error
    static = (authn.read_tokens(settings.token_auth_file),) if settings.token_auth_file is not None else ()
    return How(
        signers=configured_signers(settings, own),
        kinds=resources.served(settings.runtime_config),
        controllers=settings.controllers,
        client_ca=verifier,
        static_tokens=static,
        issuer=_issuer(settings.accounts, own),
        bootstrap_tokens=settings.bootstrap_tokens,
        anonymous=settings.anonymous_auth,
        audit_policy=_audit_policy(settings.audit_policy_file),
        event_seconds=settings.event_ttl.total_seconds(),
        limits=manners.Limits(*settings.limits),
        root_ca=_root_ca(settings.root_ca_file or own.ca_certificate),
        address=f"{settings.host}:{settings.port}",
    )


def _audit_policy(path: pathlib.Path | None) -> auditpolicy.Policy:
    if path is None:
        return auditpolicy.DEFAULT
    try:
        return auditpolicy.parse(path.read_bytes())
    except (OSError, auditpolicy.PolicyProblem) as error:
        raise errors.SetupError(
            f"the audit policy {path} cannot be used: {error}", ("it is a Policy of audit.k8s.io/v1, in YAML",)
        ) from error


def _root_ca(path: pathlib.Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise errors.SetupError(
            f"the root CA file {path} cannot be read: {error.strerror}", ("--root-ca-file names certificates, in PEM",)
        ) from error
    return publisher.bundle_of(content)


def _issuer(of: config.Accounts, own: pki.PKI) -> tokens.Issuer:
    further: list[keys.PublicKey] = []
    if of.further_keys is not None:
        try:
            further = keys.public_from_pem(of.further_keys.read_bytes())
        except (OSError, keys.KeyProblem) as error:
            raise errors.SetupError(
                f"the public keys in {of.further_keys} cannot be used: {error}",
                ("--service-account-key-file names public keys, in PEM",),
            ) from error
    key = pki.load_account_key(of.signing_key or own.account_key)
    return tokens.Issuer(of.issuer, key, of.audiences, further, int(of.longest.total_seconds()))


async def serve(settings: config.Settings, clock: clocks.Clock) -> None:
    """Serve until SIGTERM or SIGINT. Raises SetupError for what a person must mend."""
    own = _prepare(settings, clock)
    how = _how(settings, own)
    certificate, key = settings.serving.certificate or own.certificate, settings.serving.key or own.key
    if settings.serving.certificate is not None:
        pki.check_pair(certificate, key)
    tls = listen.tls_context(str(certificate), str(key), str(settings.client_ca_file or own.ca_certificate))
    log = auditlog.LogFile(settings.audit_log, auditlog.Rotation(*settings.audit_rotation), clock)
    if settings.records:
        how = dataclasses.replace(how, audit_sink=log.write)
    store = sqlite.open_store(settings.store)
    try:
        bound = listen.bind(settings.host, settings.port)
        with contextlib.closing(bound):
            await _serve(Plane(store, clock, how), listen.Plug(bound, tls), settings.data_dir)
    finally:
        await store.close()
        log.close()


async def _serve(plane: Plane, plug: listen.Plug, data_dir: pathlib.Path) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    await plane.start()
    try:
        listener = listen.Listener(plane.handler, plug)
        serving = asyncio.ensure_future(listener.serve())
        # What was made until now stays: the collector need not look at it again and again.
        gc.collect()
        gc.freeze()
        _log.info("serving", extra={"address": plug.address, "data_dir": data_dir})
        waiting = asyncio.ensure_future(stopping.wait())
        await asyncio.wait({serving, waiting}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        _log.info("stopping")
        plane.drain()
        listener.stop()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(serving, _DRAIN_SECONDS)
    finally:
        await plane.stop()
    _log.info("stopped")


def run(settings: config.Settings) -> None:
    """`certplane serve`: the whole process. Raises SetupError."""
    with telemetry.logging_to(level=settings.log_level):
        listen.run(serve(settings, clocks.SystemClock()))
