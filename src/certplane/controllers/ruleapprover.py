"""Approves requests of users' own signers, where these say whose requests need no person.

Nothing is approved blindly: the signer has to permit the request, and one of its rules has to name the requestor. A
request that a rule is about, and that the signer does not permit, waits for a person, and says why.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from certplane.client import api
from certplane.controllers import decisions, signer
from certplane.resources import certificatesigningrequests as csrs
from certplane.x509 import csr, profiles

NAME: Final = "signer-rule-approver"
ACCOUNT: Final = "signer-rule-approver"
QUEUE: Final = "signer_rule_approver"
WORKERS: Final = 5
REASON: Final = "SignerRule"
NOT_PERMITTED: Final = "SignerDoesNotPermit"
UNREADABLE: Final = "UnreadableRequest"

Signers = Callable[[], Mapping[str, signer.Signer]]


class RuleApprover:
    """The reconciler. `signers` gives the declared ones as they are now."""

    def __init__(self, client: api.Client, signers: Signers, note: decisions.Note) -> None:
        self._client = client
        self._signers = signers
        self._note = note

    async def handle(self, of: csrs.CertificateSigningRequest) -> None:
        declared = self._signers().get(of.spec.signer_name)
        if declared is None or not declared.profile.approval or csrs.is_decided(of):
            return
        try:
            asked = signer.asked(of)
        except csr.RequestError as error:
            self._note(of, decisions.NOT_APPROVED, UNREADABLE, str(error))
            return
        if profiles.may_approve(declared.profile, asked, of.spec.groups):
            why = f"A rule of the signer approves what {of.spec.username} asks for."
            await self._client.update(csrs.RESOURCE, csrs.with_condition(of, csrs.APPROVED, REASON, why), "approval")
            self._note(of, decisions.APPROVED, REASON, why)
        elif not profiles.permits(declared.profile, asked):
            why = "; ".join(profiles.violations(declared.profile, asked))
            self._note(of, decisions.NOT_APPROVED, NOT_PERMITTED, f"the signer does not permit it: {why}")
