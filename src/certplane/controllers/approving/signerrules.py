"""Approves requests for custom signers by the approval rules in the signers file.

A request is approved only if the signer permits it and one of the signer's approval rules names the requestor. A
request that the signer does not permit stays pending, and the reason is recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Protocol

from certplane.client import api
from certplane.controllers.runtime import decisions
from certplane.resources import certificatesigningrequests as csrs
from certplane.resources.certificatesigningrequests import CertificateSigningRequest
from certplane.x509.issuance import profiles
from certplane.x509.issuance.profiles import Profile
from certplane.x509.pkcs10.certificaterequest import RequestError

NAME: Final = "signer-rule-approver"
ACCOUNT: Final = "signer-rule-approver"
QUEUE: Final = "signer_rule_approver"
WORKERS: Final = 5
REASON: Final = "SignerRule"
NOT_PERMITTED: Final = "SignerDoesNotPermit"


class Signer(Protocol):
    """What this controller needs to know about a signer."""

    @property
    def profile(self) -> Profile: ...


#: The custom signers by name, as they are now.
Signers = Callable[[], Mapping[str, Signer]]


class Approver:
    """Reconciles requests with the approval rules of custom signers."""

    def __init__(self, client: api.Client, signers: Signers, record_decision: decisions.RecordDecision) -> None:
        self._client = client
        self._signers = signers
        self._record_decision = record_decision

    async def handle(self, csr: CertificateSigningRequest) -> None:
        signer = self._signers().get(csr.spec.signer_name)
        if signer is None or not signer.profile.approval or csrs.is_decided(csr):
            return
        try:
            requested = csrs.requested_certificate(csr)
        except RequestError as error:
            self._record_decision(csr, decisions.NOT_APPROVED, decisions.UNREADABLE_REQUEST, str(error))
            return
        if profiles.may_approve(signer.profile, requested, csr.spec.groups):
            message = f"A rule of the signer approves this request of {csr.spec.username}."
            approved = csrs.with_condition(csr, csrs.APPROVED, REASON, message)
            await self._client.update(csrs.RESOURCE, approved, "approval")
            self._record_decision(csr, decisions.APPROVED, REASON, message)
        elif not profiles.permits(signer.profile, requested):
            message = (
                f"the signer does not permit this request: {'; '.join(profiles.violations(signer.profile, requested))}"
            )
            self._record_decision(csr, decisions.NOT_APPROVED, NOT_PERMITTED, message)
