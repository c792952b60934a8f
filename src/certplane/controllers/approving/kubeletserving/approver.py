"""Approves serving certificates of kubelets if the requestor and every name and address are proven.

Kubernetes approves none of them, because nothing in a request shows whether its names are true. This controller
collects the evidence, evaluates the policy, and carries out the decision. A request without sufficient evidence stays
pending and is evaluated again later, and at once when a Node or the inventory changes with respect to one of its names.

Requests for other signers are ignored, so that none of them can be approved by mistake.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from certplane import signernames
from certplane.client import api
from certplane.controllers.approving.kubeletserving import evidence, policy
from certplane.controllers.approving.kubeletserving.evidence import (
    SAN,
    DNSAnswer,
    Evidence,
    InventoryFile,
    NodeClaims,
    Resolver,
)
from certplane.controllers.approving.kubeletserving.policy import Action, Decision
from certplane.controllers.approving.kubeletserving.rules import Mode, Settings
from certplane.controllers.runtime import decisions
from certplane.controllers.runtime.controller import Retry, WorkQueue
from certplane.resources import certificatesigningrequests as csrs
from certplane.resources.certificatesigningrequests import CertificateSigningRequest
from certplane.resources.nodes import Node
from certplane.x509.pkcs10.certificaterequest import RequestError

NAME: Final = "kubelet-serving-approver"
ACCOUNT: Final = "kubelet-serving-approver"
QUEUE: Final = "kubelet_serving"
WORKERS: Final = 5

#: The decisions of the mode `report`.
WOULD_APPROVE: Final = "WouldApprove"
WOULD_DENY: Final = "WouldDeny"


def is_pending(csr: CertificateSigningRequest) -> bool:
    """Whether a request is for the kubelet-serving signer and is neither decided nor finished."""
    is_closed = any(condition.type in (csrs.APPROVED, csrs.DENIED, csrs.FAILED) for condition in csr.status.conditions)
    return csr.spec.signer_name == signernames.KUBELET_SERVING and not is_closed and not csr.status.certificate


class _PendingCSRs:
    """The undecided requests, and an index of them by the names that affect their decision."""

    def __init__(self) -> None:
        self._sans: dict[str, frozenset[SAN]] = {}
        self._csr_names: dict[SAN, set[str]] = {}

    def put(self, csr_name: str, sans: frozenset[SAN]) -> None:
        self.drop(csr_name)
        self._sans[csr_name] = sans
        for san in sans:
            self._csr_names.setdefault(san, set()).add(csr_name)

    def drop(self, csr_name: str) -> None:
        for san in self._sans.pop(csr_name, ()):
            self._csr_names[san].discard(csr_name)
            if not self._csr_names[san]:
                del self._csr_names[san]

    def affected_by(self, sans: Iterable[SAN]) -> set[str]:
        return set[str]().union(*(self._csr_names.get(san, ()) for san in sans))

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._sans))


@dataclasses.dataclass(frozen=True, slots=True)
class Sources:
    """The sources of evidence; None for one that is not configured."""

    claims: NodeClaims
    inventory: InventoryFile | None = None
    resolver: Resolver | None = None


class Approver:
    """Reconciles requests with `policy.evaluate`. A pending request is evaluated again with growing delays, and at once
    when a Node (`affected_csrs`) or the inventory (`run`) changes with respect to one of its names.
    """

    def __init__(
        self, client: api.Client, settings: Settings, sources: Sources, record_decision: decisions.RecordDecision
    ) -> None:
        self._client = client
        self._settings = settings
        self._sources = sources
        self._record_decision = record_decision
        self._pending = _PendingCSRs()

    async def run(self, queue: WorkQueue) -> None:
        """Queue all pending requests whenever the inventory changes, until cancelled."""

        def on_change() -> None:
            for csr_name in self._pending:
                queue.add(csr_name)

        if self._sources.inventory is not None:
            await self._sources.inventory.run(on_change)

    def affected_csrs(self, node: Node) -> Iterable[str]:
        """The pending requests with a name that a Node claims or released since the last call. Has to be called for
        every change of a Node.
        """
        return self._pending.affected_by(self._sources.claims.update(node.metadata.name))

    def forget(self, before: CertificateSigningRequest | None, after: CertificateSigningRequest | None) -> None:
        """Drop a request that was deleted. Has to be called for every change of a request."""
        if before is not None and after is None:
            self._pending.drop(before.metadata.name)

    async def handle(self, csr: CertificateSigningRequest) -> None:
        if not is_pending(csr):
            self._pending.drop(csr.metadata.name)
            return
        decision = await self._evaluate(csr)
        if decision.action is Action.WAIT:
            raise self._retry(csr, decision)
        await self._apply(csr, decision)

    async def _evaluate(self, csr: CertificateSigningRequest) -> Decision:
        try:
            parsed = policy.parse_request(csr.spec.request or b"")
        except RequestError as error:
            return Decision(Action.DENY, decisions.UNREADABLE_REQUEST, policy.join_messages([str(error)]))
        answers: dict[SAN, DNSAnswer] = {}
        while True:
            sans = {*parsed.sans, *(record for answer in answers.values() for record in answer.records)}
            # Indexed before the DNS lookups: a change of a Node in the meantime queues the request again.
            self._pending.put(csr.metadata.name, frozenset(sans))
            known = self._collect(csr.spec.username.removeprefix(policy.NODE_USER_PREFIX), sans, answers)
            decision = policy.evaluate(parsed, csr.spec, known, self._settings.rules)
            if decision.action is not Action.LOOK_UP:
                return decision
            # The policy asks for each name at most once, so this loop ends.
            lookups = sorted(decision.lookups, key=str)
            results = await asyncio.gather(*(evidence.resolve(self._sources.resolver, san) for san in lookups))
            answers |= zip(lookups, results, strict=True)

    def _collect(self, node: str, sans: Iterable[SAN], answers: Mapping[SAN, DNSAnswer]) -> Evidence:
        claims, inventory = self._sources.claims, self._sources.inventory
        return Evidence(
            claims=claims.of_node(node),
            other_claimants={san: others for san in sans if (others := claims.other_claimants(san, node))},
            inventory=inventory.inventory if inventory is not None else None,
            inventory_problem=inventory.problem if inventory is not None else "",
            dns_answers=answers,
        )

    def _retry(self, csr: CertificateSigningRequest, decision: Decision) -> Retry:
        def on_scheduled(seconds: float) -> None:
            next_try = f"; retry in {seconds:.0f}s, or when a Node or the inventory changes"
            self._record_decision(csr, decisions.NOT_APPROVED, decision.reason, decision.message + next_try)

        return Retry(decision.message, quiet=True, reason=decision.reason, on_scheduled=on_scheduled)

    async def _apply(self, csr: CertificateSigningRequest, decision: Decision) -> None:
        """Approve or deny the request as far as the mode allows, and record the decision."""
        mode, is_approval = self._settings.mode, decision.action is Action.APPROVE
        message = decision.message
        if mode is Mode.REPORT:
            recorded = WOULD_APPROVE if is_approval else WOULD_DENY
            message = f"only reported, not {'approved' if is_approval else 'denied'}: {message}"
        elif is_approval or mode is Mode.ENFORCE:
            recorded = decisions.APPROVED if is_approval else decisions.DENIED
            condition_type = csrs.APPROVED if is_approval else csrs.DENIED
            # The update carries the resourceVersion: it is a conflict if the request has changed since it was read.
            decided = csrs.with_condition(csr, condition_type, decision.reason, decision.message)
            await self._client.update(csrs.RESOURCE, decided, "approval")
            self._pending.drop(csr.metadata.name)
        else:
            recorded = decisions.NOT_APPROVED
        self._record_decision(csr, recorded, decision.reason, message)
