"""Approves serving certificates of kubelets, as far as they are proven: who asks, and every name and address.

Kubernetes approves none of them, because nothing in a request says whether its names are true. `verdicts.judge` says
what a request deserves; here the evidence is gathered, and acted on. What lacks a proof is left alone and judged again
later, and at once when a Node or the inventory says something else about one of its names.

Requests for other signers are not looked at, so that none of them can be approved by mistake.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from certplane.client import api
from certplane.controllers import decisions, proofs, runtime, servingrules, verdicts
from certplane.controllers.proofs import San
from certplane.resources import certificatesigningrequests as csrs
from certplane.resources import nodes
from certplane.x509 import csr, profiles

NAME: Final = "kubelet-serving-approver"
ACCOUNT: Final = "kubelet-serving-approver"
QUEUE: Final = "kubelet_serving"
WORKERS: Final = 5

#: What would have been decided, if it were not for the mode.
WOULD_APPROVE: Final = "WouldApprove"
WOULD_DENY: Final = "WouldDeny"


def is_pending(of: csrs.CertificateSigningRequest) -> bool:
    """Whether a request is for this signer, and nobody has decided about it."""
    decided = any(each.type in (csrs.APPROVED, csrs.DENIED, csrs.FAILED) for each in of.status.conditions)
    return of.spec.signer_name == profiles.KUBELET_SERVING and not decided and not of.status.certificate


class _Waiting:
    """Requests that were judged and are undecided, and the names that concern them."""

    def __init__(self) -> None:
        self._keys: dict[str, frozenset[San]] = {}
        self._requests: dict[San, set[str]] = {}

    def put(self, request: str, keys: frozenset[San]) -> None:
        self.drop(request)
        self._keys[request] = keys
        for key in keys:
            self._requests.setdefault(key, set()).add(request)

    def drop(self, request: str) -> None:
        for key in self._keys.pop(request, ()):
            self._requests[key].discard(request)
            if not self._requests[key]:
                del self._requests[key]

    def concerned(self, keys: Iterable[San]) -> set[str]:
        return set[str]().union(*(self._requests.get(key, ()) for key in keys))

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._keys))


@dataclasses.dataclass(frozen=True, slots=True)
class Sources:
    """Where the evidence comes from. None: there is no such source."""

    claims: proofs.Claims
    inventory: proofs.Inventory | None = None
    resolver: proofs.Resolver | None = None


class Approver:
    """The reconciler around `judge`. What waits is judged again with growing delays, and at once when a Node
    (`concerned`) or the inventory (`run`) says something else about a name in it.
    """

    def __init__(
        self, client: api.Client, settings: servingrules.Settings, sources: Sources, note: decisions.Note
    ) -> None:
        self._client = client
        self._settings = settings
        self._sources = sources
        self._note = note
        self._waiting = _Waiting()

    async def run(self, queue: runtime.Queue) -> None:
        """Follow the inventory until cancelled."""

        def changed() -> None:
            for name in self._waiting:
                queue.add(name)

        if self._sources.inventory is not None:
            await self._sources.inventory.run(changed)

    def concerned(self, node: nodes.Node) -> Iterable[str]:
        """The undecided requests with a name that a Node has begun or ceased to claim. Tell it of every change."""
        return self._waiting.concerned(self._sources.claims.changed(node.metadata.name))

    def forget(
        self, before: csrs.CertificateSigningRequest | None, after: csrs.CertificateSigningRequest | None
    ) -> None:
        """Think no more of a request that is gone."""
        if before is not None and after is None:
            self._waiting.drop(before.metadata.name)

    async def handle(self, of: csrs.CertificateSigningRequest) -> None:
        if not is_pending(of):
            self._waiting.drop(of.metadata.name)
            return
        verdict = await self._judged(of)
        if verdict.kind is verdicts.Kind.WAIT:
            raise self._retry(of, verdict)
        await self._act(of, verdict)

    async def _judged(self, of: csrs.CertificateSigningRequest) -> verdicts.Verdict:
        try:
            request = verdicts.read(of.spec.request or b"")
        except csr.RequestError as error:
            return verdicts.Verdict(verdicts.Kind.DENY, verdicts.UNREADABLE, verdicts.joined([str(error)]))
        answers: dict[San, proofs.Answer] = {}
        while True:
            mentioned = {*request.sans, *(each for answer in answers.values() for each in answer.found)}
            # From here on: what changes while DNS is asked brings the request back.
            self._waiting.put(of.metadata.name, frozenset(mentioned))
            evidence = self._evidence(of.spec.username.removeprefix(verdicts.USER), mentioned, answers)
            verdict = verdicts.judge(request, of.spec, evidence, self._settings.rules)
            if verdict.kind is not verdicts.Kind.ASK:
                return verdict
            # Each is asked once, so that this comes to an end.
            questions = sorted(verdict.questions, key=str)
            found = await asyncio.gather(*(proofs.ask(self._sources.resolver, each) for each in questions))
            answers |= zip(questions, found, strict=True)

    def _evidence(self, node: str, mentioned: Iterable[San], answers: Mapping[San, proofs.Answer]) -> proofs.Evidence:
        claims, inventory = self._sources.claims, self._sources.inventory
        return proofs.Evidence(
            claims=claims.of(node),
            disputes={each: others for each in mentioned if (others := claims.others(each, node))},
            listing=inventory.listing if inventory is not None else None,
            listing_problem=inventory.problem if inventory is not None else "",
            answers=answers,
        )

    def _retry(self, of: csrs.CertificateSigningRequest, verdict: verdicts.Verdict) -> runtime.Retry:
        def told(seconds: float) -> None:
            again = f"; looked at again in {seconds:.0f}s, or when a Node or the inventory says something else"
            self._note(of, decisions.NOT_APPROVED, verdict.reason, verdict.message + again)

        return runtime.Retry(verdict.message, quiet=True, reason=verdict.reason, told=told)

    async def _act(self, of: csrs.CertificateSigningRequest, verdict: verdicts.Verdict) -> None:
        """Approve or deny, as far as the mode allows; and say it."""
        mode, approves = self._settings.mode, verdict.kind is verdicts.Kind.APPROVE
        message = verdict.message
        if mode is servingrules.Mode.REPORT:
            decision = WOULD_APPROVE if approves else WOULD_DENY
            message = f"only reported, not {'approved' if approves else 'denied'}: {message}"
        elif approves or mode is servingrules.Mode.ENFORCE:
            decision = decisions.APPROVED if approves else decisions.DENIED
            condition = csrs.APPROVED if approves else csrs.DENIED
            # With its resourceVersion: if anybody has touched the request meanwhile this is a conflict.
            decided = csrs.with_condition(of, condition, verdict.reason, verdict.message)
            await self._client.update(csrs.RESOURCE, decided, "approval")
            self._waiting.drop(of.metadata.name)
        else:
            decision = decisions.NOT_APPROVED
        self._note(of, decision, verdict.reason, message)
