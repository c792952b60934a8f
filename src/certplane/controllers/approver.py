"""Approves what can be proven: kubelets' own client certificates.

Two recognisers, in this order: a node that renews its own certificate, and a machine that asks for a node's first one.
Recognised is not approved: the requestor also needs the right to `create` the virtual subresource `selfnodeclient` or
`nodeclient`. Serving certificates and those of people are never approved here.

Source: kubernetes, `pkg/controller/certificates/approver/sarapprove.go`.
"""

from __future__ import annotations

import dataclasses
from typing import Final

from certplane.client import api
from certplane.controllers import decisions, runtime
from certplane.resources import certificatesigningrequests as csrs
from certplane.resources import reviews
from certplane.x509 import csr, profiles

NAME: Final = "certificatesigningrequest-approving-controller"
ALIAS: Final = "csrapproving"
QUEUE: Final = "certificate"
WORKERS: Final = 5
REASON: Final = "AutoApproved"
#: The requestor of what looks like a kubelet's request has no right to have it approved.
NOT_ALLOWED: Final = "RequestorNotAllowed"
#: What was sent is no PKCS#10.
UNREADABLE: Final = "UnreadableRequest"


@dataclasses.dataclass(frozen=True, slots=True)
class Recognition:
    """A request looks like one of those that may be approved, if its requestor has a right."""

    permission: str
    message: str


_SELF: Final = Recognition(
    "selfnodeclient", "Auto approving self kubelet client certificate after SubjectAccessReview."
)
_NODE: Final = Recognition("nodeclient", "Auto approving kubelet client certificate after SubjectAccessReview.")


def decide(of: csrs.CertificateSigningRequest) -> tuple[Recognition, ...]:
    """What a request is recognised as, in the order in which to ask. Raises runtime.Retry if it cannot be parsed."""
    if of.status.certificate or any(each.type in (csrs.APPROVED, csrs.DENIED) for each in of.status.conditions):
        return ()
    try:
        request = csr.parse(of.spec.request or b"")
    except csr.RequestError as error:
        raise runtime.Retry(f'unable to parse csr "{of.metadata.name}": {error}', reason=UNREADABLE) from error
    if of.spec.signer_name != profiles.KUBE_APISERVER_CLIENT_KUBELET:
        return ()
    if not profiles.is_kubelet_client(request, of.spec.usages):
        return ()
    return (_SELF, _NODE) if of.spec.username == request.common_name else (_NODE,)


class Approver:
    """The reconciler around `decide`."""

    def __init__(self, client: api.Client, note: decisions.Note) -> None:
        self._client = client
        self._note = note

    async def handle(self, of: csrs.CertificateSigningRequest) -> None:
        recognised = decide(of)
        for each in recognised:
            if await self._is_allowed(of, each.permission):
                await self._approve(of, each)
                return
        if recognised:
            names = " ".join(each.permission for each in recognised)
            raise runtime.Retry(
                f'recognized csr "{of.metadata.name}" as [{names}] but subject access review was not approved',
                quiet=True,
                reason=NOT_ALLOWED,
            )

    async def _is_allowed(self, of: csrs.CertificateSigningRequest, permission: str) -> bool:
        spec = of.spec
        question = reviews.SubjectAccessReview(
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
        answer = await self._client.create(reviews.SUBJECT_ACCESS_REVIEWS, question)
        allowed: bool = answer.status.allowed
        return allowed

    async def _approve(self, of: csrs.CertificateSigningRequest, why: Recognition) -> None:
        approved = csrs.with_condition(of, csrs.APPROVED, REASON, why.message)
        await self._client.update(csrs.RESOURCE, approved, "approval")
        self._note(of, decisions.APPROVED, REASON, why.message)
