"""The controllers, put together: which of them run, what each follows, and under whose name it writes.

They reach the state through `client` alone, so that it makes no difference to them whose API server it is. Each kind
is followed once, however many controllers look at it.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, Final

from certplane import clock as clocks
from certplane import telemetry
from certplane.client import api, informer
from certplane.controllers import (
    accounts,
    aggregator,
    approver,
    cleaner,
    emptier,
    publisher,
    runtime,
    signer,
    tokencleaner,
)
from certplane.meta import resource
from certplane.resources import DEFAULT, configmaps, namespaces, rbac, secrets, serviceaccounts
from certplane.resources import certificatesigningrequests as csrs

Run = Callable[[], Awaitable[None]]

#: The service account of the three that work on CSRs.
_CERTIFICATES: Final = "certificate-controller"


@dataclasses.dataclass(frozen=True, slots=True)
class Crew:
    """What controllers are given. `client` makes the one of a service account in kube-system; `reader` lists and
    watches for all. `root_ca` is published in every namespace. `kinds` are those that the server has.
    """

    client: Callable[[str], api.Client]
    reader: api.Client
    clock: clocks.Clock
    telemetry: telemetry.Telemetry
    signers: Mapping[str, signer.Signer]
    threads: concurrent.futures.Executor
    root_ca: str = ""
    kinds: Sequence[resource.Resource] = DEFAULT
    _followed: dict[str, informer.Informer] = dataclasses.field(default_factory=dict)

    def kind(self, of: resource.Resource) -> informer.Informer:
        """The copy of a kind."""
        if of.qualified not in self._followed:
            self._followed[of.qualified] = informer.Informer(self.reader, of, self.clock)
        return self._followed[of.qualified]

    @property
    def followed(self) -> Sequence[informer.Informer]:
        return list(self._followed.values())

    def queue(self, of: Any, first_delay: float = runtime.FIRST_DELAY) -> runtime.Queue:
        """The queue of a controller, given as its module."""
        return runtime.Queue(self.clock, self.telemetry.queue(of.QUEUE), first_delay=first_delay)

    def controller(self, of: Any, handle: runtime.Handle, queue: runtime.Queue | None = None) -> runtime.Controller:
        """A controller, given as its module."""
        # An empty queue is false.
        return runtime.Controller(of.NAME, self.queue(of) if queue is None else queue, handle, workers=of.WORKERS)


def assemble(crew: Crew, enabled: Collection[str]) -> Sequence[Run]:
    """What has to run so that the enabled controllers work."""
    running = [make(crew) for name, make in _MAKERS.items() if name in enabled]
    return [*running, *(each.run for each in crew.followed)]


def _approver(crew: Crew) -> Run:
    requests = crew.kind(csrs.RESOURCE)
    handle = approver.Approver(crew.client(_CERTIFICATES), crew.telemetry).handle
    queue = crew.queue(approver, runtime.CSR_FIRST_DELAY)
    return crew.controller(approver, runtime.each(requests, handle), queue).follow(requests).run


def _signer(crew: Crew) -> Run:
    requests = crew.kind(csrs.RESOURCE)
    made = signer.Signing(crew.client(_CERTIFICATES), crew.signers, crew.clock, crew.telemetry, crew.threads)
    queue = crew.queue(signer, runtime.CSR_FIRST_DELAY)
    return crew.controller(signer, runtime.each(requests, made.handle), queue).follow(requests).run


def _cleaner(crew: Crew) -> Run:
    return cleaner.Cleaner(crew.client(_CERTIFICATES), crew.kind(csrs.RESOURCE), crew.clock).run


def _emptier(crew: Crew) -> Run:
    homes = crew.kind(namespaces.RESOURCE)
    # Of several forms of the same objects, one will do.
    kinds = {each.prefix: each for each in crew.kinds if each.namespaced}
    handle = emptier.Emptier(crew.client(emptier.ACCOUNT), list(kinds.values())).handle
    return crew.controller(emptier, runtime.each(homes, handle)).follow(homes).run


def _publisher(crew: Crew) -> Run:
    homes, maps = crew.kind(namespaces.RESOURCE), crew.kind(configmaps.RESOURCE)
    made = publisher.Publisher(crew.client(publisher.ACCOUNT), homes, maps, crew.root_ca)
    return crew.controller(publisher, made.handle).follow(homes).follow(maps, publisher.namespaces_of).run


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


_MAKERS: Final[Mapping[str, Callable[[Crew], Run]]] = {
    approver.NAME: _approver,
    signer.NAME: _signer,
    cleaner.NAME: _cleaner,
    emptier.NAME: _emptier,
    publisher.NAME: _publisher,
    accounts.NAME: _accounts,
    aggregator.NAME: _aggregator,
    tokencleaner.NAME: _token_cleaner,
}
