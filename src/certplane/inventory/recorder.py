"""Records approvals and issued certificates in the archive, with the writes that make them.

An approval is archived with the write that adds the condition Approved, because the condition does not name the user. A
certificate is archived with the write that publishes it, whoever signed it. The users are those of the calls.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Final

from certplane import boundedcache, timestamps
from certplane.meta.context import User, VerbContext
from certplane.meta.objects import ObjectMeta, new_uid
from certplane.registry.admission import AdmissionAttributes
from certplane.resources import certificatesigningrequests as csrs
from certplane.resources import issuedcertificates as issued
from certplane.resources import podcertificaterequests as pods
from certplane.resources.certificatesigningrequests import CertificateSigningRequest
from certplane.resources.issuedcertificates import (
    Approval,
    CertificateFacts,
    CertificateRequest,
    IssuedCertificate,
    Requester,
    Source,
)
from certplane.resources.podcertificaterequests import PodCertificateRequest
from certplane.store.archive import Archive, Entry
from certplane.wire import codec
from certplane.x509.trust import description

#: The collection of approvals, by the UID of the request.
APPROVALS: Final = "approvals"
#: How long an approval is kept if no certificate was issued.
_APPROVAL_LIFETIME: Final = datetime.timedelta(days=90)
#: Text of a request or a condition that is kept, in characters; groups that are kept.
_MAX_TEXT: Final = 1000
_MAX_GROUPS: Final = 100
#: Memory for approvals of requests that are not issued yet; others are read from the archive.
_CACHE_BYTES: Final = 4 * 1024 * 1024
_SERVICE_ACCOUNT: Final = "system:serviceaccount:"
_CONTROLLERS: Final = "system:serviceaccount:kube-system:"


class Recorder:
    """The archive hook of a server. `rule_approvers` are the users that approve by rules."""

    def __init__(self, archive: Archive, rule_approvers: Sequence[str]) -> None:
        self._archive = archive
        self._rule_approvers = frozenset(rule_approvers)
        #: Approvals of this process by UID: a certificate usually follows at once.
        self._approvals: boundedcache.BoundedCache[Approval] = boundedcache.BoundedCache(_CACHE_BYTES, expansion=1)

    async def entries(self, write: AdmissionAttributes) -> Sequence[Entry]:
        """What to archive with an update. May raise contract.StoreClosed."""
        new, old = write.new, write.old
        if isinstance(new, CertificateSigningRequest):
            if _approves(write):
                approval = self._approval(new, write.call)
                ends = int((write.call.now + _APPROVAL_LIFETIME).timestamp())
                return (Entry(APPROVALS, new.metadata.uid, ends, (), codec.encode(approval)),)
            if write.subresource == "status" and new.status.certificate and not old.status.certificate:
                return (_certificate_entry(await self._issued(new, write.call)),)
        elif (
            isinstance(new, PodCertificateRequest)
            and write.subresource == "status"
            and new.status.certificate_chain
            and not old.status.certificate_chain
        ):
            return (_certificate_entry(_issued_to_pod(new, write.call)),)
        return ()

    def remember(self, write: AdmissionAttributes) -> None:
        """Remember an approval that was stored: of two at the same time, only one is."""
        if isinstance(write.new, CertificateSigningRequest) and _approves(write):
            approval = self._approval(write.new, write.call)
            self._approvals.put(write.new.metadata.uid, approval, 2 * _MAX_TEXT)

    def _approval(self, csr: CertificateSigningRequest, call: VerbContext) -> Approval:
        approval = _condition_of(csr)
        approval.username = call.user.name[:_MAX_TEXT]
        approval.method = self._method(call.user)
        approval.time = timestamps.rfc3339(call.now)
        return approval

    def _method(self, user: User) -> str:
        if user.name in self._rule_approvers:
            return issued.RULE
        if user.name.startswith(_CONTROLLERS) or user.name == "system:kube-controller-manager":
            return issued.CONTROLLER
        return issued.SERVICE_ACCOUNT if user.name.startswith(_SERVICE_ACCOUNT) else issued.PERSON

    async def _issued(self, csr: CertificateSigningRequest, call: VerbContext) -> IssuedCertificate:
        spec = csr.spec
        request = CertificateRequest(
            kind="CertificateSigningRequest",
            name=csr.metadata.name,
            uid=csr.metadata.uid,
            usages=list(spec.usages),
            expiration_seconds=spec.expiration_seconds,
        )
        requester = Requester(
            username=spec.username[:_MAX_TEXT], uid=spec.uid[:_MAX_TEXT], groups=spec.groups[:_MAX_GROUPS]
        )
        return IssuedCertificate(
            signer_name=spec.signer_name,
            certificate=facts(csr.status.certificate),
            request=request,
            requester=requester,
            approval=await self._approval_of(csr),
            source=Source(type=issued.ISSUED, username=call.user.name[:_MAX_TEXT]),
            metadata=_metadata(call.now),
        )

    async def _approval_of(self, csr: CertificateSigningRequest) -> Approval:
        uid = csr.metadata.uid
        approval = self._approvals.get(uid)
        if approval is not None:
            return approval
        # Approved before this process started.
        stored = await self._archive.get(APPROVALS, uid)
        return codec.decode(stored.value, Approval) if stored is not None else _condition_of(csr)


def _approves(write: AdmissionAttributes) -> bool:
    """Whether a write to a request approves it."""
    return write.subresource == "approval" and _approved(write.new) is not None and _approved(write.old) is None


def _condition_of(csr: CertificateSigningRequest) -> Approval:
    """What the condition says about an approval; nothing if there is none."""
    condition = _approved(csr)
    if condition is None:
        return Approval()
    return Approval(
        reason=condition.reason[:_MAX_TEXT],
        message=condition.message[:_MAX_TEXT],
        time=condition.last_update_time,
    )


def _approved(csr: CertificateSigningRequest) -> csrs.CertificateSigningRequestCondition | None:
    return next((condition for condition in csr.status.conditions if condition.type == csrs.APPROVED), None)


def _issued_to_pod(request: PodCertificateRequest, call: VerbContext) -> IssuedCertificate:
    """The certificate of a pod. Its requests need no approval."""
    spec, meta = request.spec, request.metadata
    account = f"{_SERVICE_ACCOUNT}{meta.namespace}:{spec.service_account_name}"
    return IssuedCertificate(
        signer_name=spec.signer_name,
        certificate=facts(request.status.certificate_chain.encode()),
        request=CertificateRequest(
            kind=pods.RESOURCE_V1.kind,
            namespace=meta.namespace,
            name=meta.name,
            uid=meta.uid,
            expiration_seconds=spec.max_expiration_seconds,
        ),
        requester=Requester(username=account, uid=spec.service_account_uid),
        source=Source(type=issued.ISSUED, username=call.user.name[:_MAX_TEXT]),
        metadata=_metadata(call.now),
    )


def facts(text: bytes) -> CertificateFacts:
    """What a certificate in PEM says."""
    found = description.describe(text)
    return CertificateFacts(
        serial_number=found.serial,
        fingerprint=found.sha256,
        issuer=found.issuer,
        authority_key_identifier=found.authority_key_id,
        subject=found.subject,
        common_name=found.common_name,
        organizations=list(found.organizations),
        dns_names=list(found.dns_names),
        ip_addresses=list(found.ip_addresses),
        email_addresses=list(found.email_addresses),
        uris=list(found.uris),
        key=found.key,
        not_before=timestamps.rfc3339(found.not_before) if found.not_before is not None else None,
        not_after=timestamps.rfc3339(found.not_after) if found.not_after is not None else None,
        pem=text.decode("utf-8", "replace"),
    )


def _metadata(now: datetime.datetime) -> ObjectMeta:
    return ObjectMeta(uid=new_uid(), creation_timestamp=timestamps.rfc3339(now))


def _certificate_entry(obj: IssuedCertificate) -> Entry:
    """The entry for a certificate; completes the object."""
    kind = issued.ARCHIVED
    obj.kind, obj.api_version = kind.resource.kind, kind.resource.api_version
    obj.metadata.name = issued.name_of(obj.certificate.fingerprint, obj.request.uid)
    return Entry(kind.collection, obj.metadata.name, kind.ends(obj), kind.terms(obj), codec.encode(obj))
