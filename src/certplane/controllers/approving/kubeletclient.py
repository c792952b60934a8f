"""Approves client certificates of kubelets, as kube-controller-manager does.

Two kinds of request are recognized, in this order: a node that renews its own certificate, and a first certificate that
is requested on behalf of a node. The requestor also needs permission to `create` the virtual subresource
`selfnodeclient` or `nodeclient`. Serving certificates and certificates of other users are never approved here.

Source: kubernetes, `pkg/controller/certificates/approver/sarapprove.go`.
"""

from __future__ import annotations

import dataclasses
from typing import Final

from certplane import signernames
from certplane.client import api
from certplane.controllers.runtime import decisions
from certplane.controllers.runtime.controller import Retry
from certplane.resources import certificatesigningrequests as csrs
from certplane.resources import reviews
from certplane.resources.certificatesigningrequests import CertificateSigningRequest
from certplane.x509.issuance import profiles
from certplane.x509.pkcs10 import certificaterequest
from certplane.x509.pkcs10.certificaterequest import RequestError

NAME: Final = "certificatesigningrequest-approving-controller"
QUEUE: Final = "certificate"
WORKERS: Final = 5
REASON: Final = "AutoApproved"
#: The request is that of a kubelet, but its requestor has no permission to have it approved.
NOT_ALLOWED: Final = "RequestorNotAllowed"


@dataclasses.dataclass(frozen=True, slots=True)
class Recognizer:
    """A kind of request that is approved if the requestor may create a virtual subresource."""

    permission: str
    message: str


_SELF: Final = Recognizer("selfnodeclient", "Auto approving self kubelet client certificate after SubjectAccessReview.")
_NODE: Final = Recognizer("nodeclient", "Auto approving kubelet client certificate after SubjectAccessReview.")


def decide(csr: CertificateSigningRequest) -> tuple[Recognizer, ...]:
    """The kinds that a request is of, in the order in which to check the permission. Raises Retry if it cannot be
    parsed.
    """
    is_decided = any(condition.type in (csrs.APPROVED, csrs.DENIED) for condition in csr.status.conditions)
    if csr.status.certificate or is_decided:
        return ()
    try:
        pkcs10 = certificaterequest.parse(csr.spec.request or b"")
    except RequestError as error:
        message = f'unable to parse csr "{csr.metadata.name}": {error}'
        raise Retry(message, reason=decisions.UNREADABLE_REQUEST) from error
    if csr.spec.signer_name != signernames.KUBE_APISERVER_CLIENT_KUBELET:
        return ()
    if not profiles.is_kubelet_client(pkcs10, csr.spec.usages):
        return ()
    return (_SELF, _NODE) if csr.spec.username == pkcs10.common_name else (_NODE,)


class Approver:
    """Reconciles requests with `decide`."""

    def __init__(self, client: api.Client, record_decision: decisions.RecordDecision) -> None:
        self._client = client
        self._record_decision = record_decision

    async def handle(self, csr: CertificateSigningRequest) -> None:
        recognizers = decide(csr)
        for recognizer in recognizers:
            if await self._is_allowed(csr, recognizer.permission):
                await self._approve(csr, recognizer.message)
                return
        if recognizers:
            names = " ".join(recognizer.permission for recognizer in recognizers)
            raise Retry(
                f'recognized csr "{csr.metadata.name}" as [{names}] but subject access review was not approved',
                quiet=True,
                reason=NOT_ALLOWED,
            )

    async def _is_allowed(self, csr: CertificateSigningRequest, permission: str) -> bool:
        spec = csr.spec
        review = reviews.SubjectAccessReview(
            spec=reviews.SubjectAccessReviewSpec(
                user=spec.username,
                uid=spec.uid,
                groups=spec.groups,
                extra=spec.extra,
                resource_attributes=reviews.ResourceAttributes(
                    group=csrs.RESOURCE.group,
                    version="*",
                    resource=csrs.RESOURCE.plural,
                    subresource=permission,
                    verb="create",
                ),
            )
        )
        answer = await self._client.create(reviews.SUBJECT_ACCESS_REVIEWS, review)
        is_allowed: bool = answer.status.allowed
        return is_allowed

    async def _approve(self, csr: CertificateSigningRequest, message: str) -> None:
        approved = csrs.with_condition(csr, csrs.APPROVED, REASON, message)
        await self._client.update(csrs.RESOURCE, approved, "approval")
        self._record_decision(csr, decisions.APPROVED, REASON, message)
