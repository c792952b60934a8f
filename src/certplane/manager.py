"""The controllers, put together: which of them run, what each follows, and under whose name it writes.

They reach the state through `client` alone, so that it makes no difference to them whose API server it is. Each kind
is followed once, however many controllers look at it.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
import functools
import logging
import pathlib
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from typing import Any, Final

from certplane import clock as clocks
from certplane import errors, files, reload, telemetry
from certplane.client import api, informer
from certplane.config import signing
from certplane.controllers import (
    accounts,
    aggregator,
    approver,
    cleaner,
    decisions,
    emptier,
    podrequestcleaner,
    proofs,
    publisher,
    records,
    ruleapprover,
    runtime,
    serving,
    servingrules,
    signer,
    signerfile,
    tokencleaner,
    trustpublisher,
)
from certplane.meta import goyaml, resource
from certplane.resources import DEFAULT, configmaps, namespaces, nodes, rbac, secrets, serviceaccounts
from certplane.resources import certificatesigningrequests as csrs
from certplane.x509 import cafiles, profiles, reserved

_log = logging.getLogger("certplane.controllers")

Run = Callable[[], Coroutine[Any, Any, None]]

#: How often the declared signers are looked at.
_LOOK_SECONDS: Final = 10.0
#: The service account of the three that work on CSRs.
_CERTIFICATES: Final = "certificate-controller"
#: In which a kind that became stable lately may be served, best first.
_VERSIONS: Final = ("v1", "v1beta1", "v1alpha1")


@dataclasses.dataclass(frozen=True)
class Crew:
    """What controllers are given. `client` makes the one of a service account in kube-system; `reader` lists and
    watches for all. `journal` keeps what is about to be signed; without one the requests themselves do. RSA is done in
    `threads`. `root_ca` is published in every namespace. `kinds` are those that the server has. `tells`: decisions are
    told as Events. `declared` are users' own signers; `grant` is called when they have changed, before anybody acts on
    it: controllers may need new rights. `serving` says what has to be proven for kubelets' serving certificates;
    `wakeup` ends the waiting of those who look at files now and then.
    """

    client: Callable[[str], api.Client]
    reader: api.Client
    clock: clocks.Clock
    telemetry: telemetry.Telemetry
    signers: Mapping[str, signer.Signer]
    journal: records.Journal | None
    threads: concurrent.futures.Executor
    root_ca: str = ""
    kinds: Sequence[resource.Resource] = DEFAULT
    tells: bool = True
    declared: signerfile.SignerFile | None = None
    grant: Callable[[], Awaitable[None]] | None = None
    serving: servingrules.Settings | None = None
    wakeup: reload.Wakeup = dataclasses.field(default_factory=reload.Wakeup)
    _followed: dict[str, informer.Informer] = dataclasses.field(default_factory=dict)
    _concerned: list[runtime.Queue] = dataclasses.field(default_factory=list)

    def kind(self, of: resource.Resource) -> informer.Informer:
        """The copy of a kind."""
        if of.qualified not in self._followed:
            self._followed[of.qualified] = informer.Informer(self.reader, of, self.clock)
        return self._followed[of.qualified]

    @functools.cached_property
    def decisions(self) -> decisions.Decisions:
        """Where all controllers of requests say what they decided."""
        client = self.client(_CERTIFICATES) if self.tells else None
        return decisions.Decisions(client, self.clock, self.telemetry)

    def known(self) -> Mapping[str, signer.Signer]:
        """All signers, as they are now."""
        return known_signers(self.signers, self.declared)

    def served(self, plural: str) -> resource.Resource | None:
        """The newest form in which the server has a kind of certificates.k8s.io; None if it has none."""
        known = [each for each in self.kinds if each.group == csrs.RESOURCE.group and each.plural == plural]
        return next((each for version in _VERSIONS for each in known if each.version == version), None)

    @property
    def followed(self) -> Sequence[informer.Informer]:
        return list(self._followed.values())

    def queue(
        self, of: Any, first_delay: float = runtime.FIRST_DELAY, *, follows_declared: bool = False
    ) -> runtime.Queue:
        """The queue of a controller, given as its module. One that `follows_declared` has all requests looked at when
        the declared signers have changed.
        """
        made = runtime.Queue(self.clock, self.telemetry.queue(of.QUEUE), first_delay=first_delay)
        if follows_declared:
            self._concerned.append(made)
        return made

    def look_again(self) -> None:
        """Have all requests looked at by those whom the declared signers concern."""
        for each in self.kind(csrs.RESOURCE).objects.values():
            for queue in self._concerned:
                queue.add(each.metadata.name)

    def controller(self, of: Any, handle: runtime.Handle, queue: runtime.Queue | None = None) -> runtime.Controller:
        """A controller, given as its module."""
        # An empty queue is false.
        return runtime.Controller(of.NAME, self.queue(of) if queue is None else queue, handle, workers=of.WORKERS)


def assemble(crew: Crew, enabled: Collection[str]) -> Mapping[str, Run]:
    """What has to run so that the enabled controllers work, by name. Each may be run again when it has failed."""
    running = {name: made for name, make in _MAKERS.items() if name in enabled and (made := make(crew)) is not None}
    if crew.declared is not None:
        running["declared-signers"] = functools.partial(_follow_declared, crew, crew.declared)
    running["decision-events"] = crew.decisions.run
    return running | {f"informer-{name}": source.run for name, source in crew._followed.items()}


def _approver(crew: Crew) -> Run:
    requests = crew.kind(csrs.RESOURCE)
    handle = crew.decisions.following(approver.Approver(crew.client(_CERTIFICATES), crew.decisions.note).handle)
    queue = crew.queue(approver, runtime.CSR_FIRST_DELAY)
    return crew.controller(approver, runtime.each(requests, handle), queue).follow(requests).run


def _signer(crew: Crew) -> Run:
    requests = crew.kind(csrs.RESOURCE)
    kept = _records(crew)
    made = signer.Signing(crew.known, signer.Tools(crew.clock, kept, crew.threads, crew.decisions.note), crew.telemetry)
    requests.subscribe(made.observe)
    queue = crew.queue(signer, runtime.CSR_FIRST_DELAY, follows_declared=True)
    handle = runtime.each(requests, crew.decisions.following(made.handle))
    controller = crew.controller(signer, handle, queue).follow(requests)

    async def run() -> None:
        await requests.synced.wait()
        async with asyncio.TaskGroup() as group:
            group.create_task(controller.run())
            group.create_task(kept.run(requests))

    return run


def _records(crew: Crew) -> records.Records:
    client = crew.client(_CERTIFICATES)
    if crew.journal is None:
        return records.OnRequest(client, crew.clock)
    return records.InStore(crew.journal, client, crew.clock)


async def _follow_declared(crew: Crew, declared: signerfile.SignerFile) -> None:
    """Look at the declared signers now and then; at all requests when they have changed."""
    told, acted = "", True
    while True:
        await crew.wakeup.sleep(crew.clock, _LOOK_SECONDS)
        if declared.look():
            _log.info("signers read", extra={"signers": ",".join(sorted(declared.signers))})
            acted = False
        if declared.problem and declared.problem != told:
            _log.error("signers not read: the former ones stay", extra={"problem": declared.problem})
        told = declared.problem
        if not acted:
            acted = await _act_on_declared(crew)


async def _act_on_declared(crew: Crew) -> bool:
    """Make use of signers that are declared anew; tell whether it was possible."""
    try:
        if crew.grant is not None:
            await crew.grant()
    except errors.CertplaneError as error:
        _log.warning("rights for the declared signers not granted", extra={"problem": str(error)})
        return False
    crew.look_again()
    return True


def _rule_approver(crew: Crew) -> Run | None:
    declared = crew.declared
    if declared is None:
        return None
    requests = crew.kind(csrs.RESOURCE)
    client = crew.client(ruleapprover.ACCOUNT)
    made = ruleapprover.RuleApprover(client, lambda: declared.signers, crew.decisions.note)
    handle = runtime.each(requests, crew.decisions.following(made.handle))
    queue = crew.queue(ruleapprover, follows_declared=True)
    return crew.controller(ruleapprover, handle, queue).follow(requests).run


def _serving(crew: Crew) -> Run | None:
    settings = crew.serving
    if settings is None:
        return None
    requests, machines = crew.kind(csrs.RESOURCE), crew.kind(nodes.RESOURCE)
    file = settings.inventory
    inventory = proofs.Inventory(file, crew.clock, crew.wakeup) if file is not None else None
    resolver = proofs.SystemResolver(crew.clock, settings.patience) if settings.patience is not None else None
    sources = serving.Sources(proofs.Claims(machines), inventory, resolver)
    made = serving.Approver(crew.client(serving.ACCOUNT), settings, sources, crew.decisions.note)
    requests.subscribe(made.forget)
    queue = crew.queue(serving, runtime.CSR_FIRST_DELAY)
    handle = runtime.each(requests, crew.decisions.following(made.handle))
    controller = crew.controller(serving, handle, queue).follow(requests).follow(machines, made.concerned)

    async def run() -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(controller.run())
                group.create_task(made.run(queue))
        finally:
            if resolver is not None:
                resolver.close()

    return run


def _cleaner(crew: Crew) -> Run:
    return cleaner.Cleaner(crew.client(_CERTIFICATES), crew.kind(csrs.RESOURCE), crew.clock).run


def _emptier(crew: Crew) -> Run:
    homes = crew.kind(namespaces.RESOURCE)
    # Of several forms of the same objects, one will do.
    kinds = {each.prefix: each for each in crew.kinds if each.namespaced}
    queue = crew.queue(emptier)
    made = emptier.Emptier(crew.client(emptier.ACCOUNT), list(kinds.values()), queue)
    return crew.controller(emptier, runtime.each(homes, made.handle), queue).follow(homes).run


def _publisher(crew: Crew) -> Run:
    homes, maps = crew.kind(namespaces.RESOURCE), crew.kind(configmaps.RESOURCE)
    made = publisher.Publisher(crew.client(publisher.ACCOUNT), homes, maps, crew.root_ca)
    observe = functools.partial(crew.telemetry.published, telemetry.ROOT_CA)
    handle = runtime.measured(made.handle, crew.clock, observe)
    return crew.controller(publisher, handle).follow(homes).follow(maps, publisher.namespaces_of).run


def _trust_publisher(crew: Crew) -> Run | None:
    kind = crew.served("clustertrustbundles")
    if kind is None or not crew.root_ca:
        return None
    bundles = crew.kind(kind)
    made = trustpublisher.TrustPublisher(crew.client(trustpublisher.ACCOUNT), kind, bundles, crew.root_ca)
    observe = functools.partial(crew.telemetry.published, telemetry.TRUST_BUNDLE)
    queue = crew.queue(trustpublisher)
    queue.add(trustpublisher.KEY)
    handle = runtime.measured(made.handle, crew.clock, observe)
    return crew.controller(trustpublisher, handle, queue).follow(bundles, trustpublisher.concerned).run


def _pod_request_cleaner(crew: Crew) -> Run | None:
    kind = crew.served("podcertificaterequests")
    if kind is None:
        return None
    client = crew.client(podrequestcleaner.ACCOUNT)
    return podrequestcleaner.PodRequestCleaner(client, kind, crew.kind(kind), crew.clock).run


def _accounts(crew: Crew) -> Run:
    homes, found = crew.kind(namespaces.RESOURCE), crew.kind(serviceaccounts.RESOURCE)
    made = accounts.Accounts(crew.client(accounts.ACCOUNT), homes, found)
    return crew.controller(accounts, made.handle).follow(homes).follow(found, runtime.its_namespace).run


def _aggregator(crew: Crew) -> Run:
    roles = crew.kind(rbac.CLUSTER_ROLES)
    made = aggregator.Aggregator(crew.client(aggregator.ACCOUNT), roles)
    return crew.controller(aggregator, made.handle).follow(roles, made.concerned).run


def _token_cleaner(crew: Crew) -> Run:
    found, queue = crew.kind(secrets.RESOURCE), crew.queue(tokencleaner)
    made = tokencleaner.TokenCleaner(crew.client(tokencleaner.ACCOUNT), found, queue)
    return crew.controller(tokencleaner, made.handle, queue).follow(found, tokencleaner.concerned).run


_MAKERS: Final[Mapping[str, Callable[[Crew], Run | None]]] = {
    approver.NAME: _approver,
    signer.NAME: _signer,
    cleaner.NAME: _cleaner,
    ruleapprover.NAME: _rule_approver,
    serving.NAME: _serving,
    emptier.NAME: _emptier,
    publisher.NAME: _publisher,
    trustpublisher.NAME: _trust_publisher,
    podrequestcleaner.NAME: _pod_request_cleaner,
    accounts.NAME: _accounts,
    aggregator.NAME: _aggregator,
    tokencleaner.NAME: _token_cleaner,
}


# --- signers ------------------------------------------------------------------------------------------------------


def signers(
    said: signing.Signing, own: signing.Pair | None = None, reservations: reserved.Reservations | None = None
) -> dict[str, signer.Signer]:
    """The four built-in signers as they are configured; those that cannot sign know why. `own` is the authority that
    signs where nothing was said; `reservations` say which names they do not give.
    """
    by_default = own is not None and said.is_silent
    pairs = {name: own if own is not None and by_default else said.pair(name) for name in profiles.BUILT_IN}
    made = {name: _made_signer(profile, pairs[name], said) for name, profile in profiles.BUILT_IN.items()}
    return made if reservations is None else {name: _reserving(each, reservations) for name, each in made.items()}


def _reserving(made: signer.Signer, reservations: reserved.Reservations) -> signer.Signer:
    """A built-in signer that does not give reserved names."""
    name, files = made.profile.signer, made.files
    if files is None:
        return made
    reservations.note_built_in(name, files)
    rule = functools.partial(reservations.violations, name, files)
    return dataclasses.replace(made, profile=dataclasses.replace(made.profile, reserved=rule))


def serving_rules(path: pathlib.Path | None) -> servingrules.Settings | None:
    """What has to be proven before a kubelet may serve. Raises SetupError."""
    if path is None:
        return None
    try:
        found = goyaml.load(files.read_text(path, "the file of rules", _SERVING_HINT))
    except goyaml.Problem as error:
        raise errors.SetupError(f"the rules in {path} are no YAML: {error}", (_SERVING_HINT,)) from error
    if not isinstance(found, dict):
        raise errors.SetupError(f"the rules in {path} are no mapping", (_SERVING_HINT,))
    return servingrules.parse(found)


_SERVING_HINT: Final = "docs/kubelet-serving.md says what is in it"


def declared(said: signing.Signing, reservations: reserved.Reservations | None = None) -> signerfile.SignerFile | None:
    """Users' own signers. Raises SetupError if they cannot be read."""
    if said.declared is None:
        return None
    found = signerfile.SignerFile(said.declared, said.longest, reservations)
    found.load()
    return found


def known_signers(
    built_in: Mapping[str, signer.Signer], of: signerfile.SignerFile | None
) -> Mapping[str, signer.Signer]:
    """The built-in signers, and the declared ones as they are now."""
    return built_in if of is None else {**built_in, **of.signers}


def _made_signer(profile: profiles.Profile, pair: signing.Pair, said: signing.Signing) -> signer.Signer:
    if pair.certificate is None or pair.key is None or not pair.is_complete:
        return signer.Signer(profile, problem="no certificate and key to sign with: see the --cluster-signing-* flags")
    # What the authority cuts is known to whoever looks at the profile: who asks for more is told.
    cut = dataclasses.replace(profile, longest=said.longest)
    return signer.Signer(cut, files=cafiles.CAFiles(pair.certificate, pair.key, said.longest))
