"""Permissions per signer: who may approve, sign and attest for a signerName; and the log of every decision.

Updating `/approval` takes two permissions: `update` on the subresource, and `approve` on the virtual resource
`signers`. The same goes for signing and `/status`. The hooks are Kubernetes' admission plugins CertificateApproval,
CertificateSigning, ClusterTrustBundleAttest and CertificateSubjectRestriction, and the check of who may set the status
of a PodCertificateRequest.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from certplane import errors, signernames, timestamps
from certplane.access import rbac
from certplane.client import permissions
from certplane.meta.context import Attributes, User
from certplane.registry.admission import AdmissionAttributes, Hook
from certplane.resources import certificatesigningrequests as csrs
from certplane.resources.clustertrustbundles import ClusterTrustBundle
from certplane.x509.pkcs10 import certificaterequest
from certplane.x509.trust import description

_log = logging.getLogger("certplane.access")

Authorize = Callable[[Attributes], rbac.Decision]

_PLURAL: Final = csrs.RESOURCE.plural
_GROUP: Final = csrs.RESOURCE.group
#: One write can add one of these at most: Approved and Denied exclude each other, and Failed is set through /status.
_DECISIONS: Final = (csrs.APPROVED, csrs.DENIED, csrs.FAILED)
_BUNDLES: Final = "clustertrustbundles"
_POD_REQUESTS: Final = "podcertificaterequests"


def may_act_for_signer(authorize: Authorize, user: User, verb: str, signer_name: str) -> bool:
    """Whether a user may approve, sign or attest for a signer: by its name, or by `DOMAIN/*`."""
    domain = signer_name.partition("/")[0]
    return any(
        authorize(Attributes(user=user, verb=verb, group=_GROUP, version="*", resource="signers", name=name)).allowed
        for name in (signer_name, f"{domain}/*")
    )


def hooks(authorize: Authorize, *, suggest_rules: bool = True) -> tuple[Hook, ...]:
    """The `check` hooks, in the order in which Kubernetes runs them. Refusals have Kubernetes' texts; `suggest_rules`
    adds a warning with the RBAC rule that would permit the write.
    """
    checks = _SignerChecks(authorize, suggest_rules)
    return checks.approval, checks.signing, checks.attestation, _subject_restriction, checks.pod_certificate


class _SignerChecks:
    """Admission hooks that require a permission for the signer of the object."""

    def __init__(self, authorize: Authorize, suggest_rules: bool) -> None:
        self._authorize = authorize
        self._suggest_rules = suggest_rules

    def approval(self, write: AdmissionAttributes) -> None:
        if (write.resource.plural, write.subresource, write.operation) == (_PLURAL, "approval", "update"):
            signer = write.old.spec.signer_name
            why = f'user not permitted to approve requests with signerName "{signer}"'
            self._require(write, "approve", signer, _refusal(write, why))

    def signing(self, write: AdmissionAttributes) -> None:
        if (write.resource.plural, write.subresource, write.operation) != (_PLURAL, "status", "update"):
            return
        new, old = write.new.status, write.old.status
        if (new.certificate, new.conditions) != (old.certificate, old.conditions):
            signer = write.old.spec.signer_name
            why = f'user not permitted to sign requests with signerName "{signer}"'
            self._require(write, "sign", signer, _refusal(write, why))

    def attestation(self, write: AdmissionAttributes) -> None:
        if (
            write.resource.storage_resource.plural != _BUNDLES
            or write.operation == "delete"
            or not write.new.spec.signer_name
        ):
            return
        if write.old is None or _is_more_than_bookkeeping(write.new, write.old):
            signer = write.new.spec.signer_name
            why = f'user not permitted to attest for signerName "{signer}"'
            self._require(write, "attest", signer, _refusal(write, why))

    def pod_certificate(self, write: AdmissionAttributes) -> None:
        if (write.resource.storage_resource.plural, write.subresource, write.operation) != (
            _POD_REQUESTS,
            "status",
            "update",
        ):
            return
        if write.new.status != write.old.status:
            signer = write.old.spec.signer_name
            # kube-apiserver checks this in its validation, so it is a 422.
            why = f'User "{write.call.user.name}" is not permitted to "sign" for signer "{signer}"'
            problem = errors.forbidden("spec.signerName", why)
            refusal = errors.Invalid(write.resource.kind, write.resource.group, write.name, [problem])
            self._require(write, "sign", signer, refusal)

    def _require(self, write: AdmissionAttributes, verb: str, signer: str, refusal: errors.APIError) -> None:
        """Raise the refusal unless the user has the permission; log and suggest the rule that would grant it."""
        user = write.call.user
        if may_act_for_signer(self._authorize, user, verb, signer):
            return
        rule = permissions.signer_rule(verb, signer)
        fields = {"object": write.name, "user": user.name, "rule": rule, "request_id": write.call.request_id}
        _log.info("permission for the signer missing: add the rule to a ClusterRole", extra=fields)
        if self._suggest_rules:
            write.call.warn(f"a ClusterRole with this rule would permit it: {rule}")
        raise refusal


def _is_more_than_bookkeeping(new: ClusterTrustBundle, old: ClusterTrustBundle) -> bool:
    """Whether an update changes anything besides what a garbage collector changes."""
    if new.spec != old.spec:
        return True
    names = ("labels", "annotations", "generate_name")
    return any(getattr(new.metadata, name) != getattr(old.metadata, name) for name in names)


def _subject_restriction(write: AdmissionAttributes) -> None:
    """Refuse system:masters in a client certificate: the group could not be revoked while the certificate is valid."""
    if (write.resource.plural, write.subresource, write.operation) != (_PLURAL, "", "create"):
        return
    if write.new.spec.signer_name != signernames.KUBE_APISERVER_CLIENT:
        return
    try:
        pkcs10 = certificaterequest.parse(write.new.spec.request or b"")
    except certificaterequest.RequestError as error:
        raise _refusal(write, f"failed to parse CSR: {error}") from error
    if rbac.MASTERS in pkcs10.organizations:
        raise _refusal(
            write, "use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed"
        )


def _refusal(write: AdmissionAttributes, why: str) -> errors.Forbidden:
    return errors.Forbidden.for_object(write.resource.plural, write.resource.group, write.name, why)


def log_decisions(write: AdmissionAttributes) -> None:
    """An `after` hook: log every decision on a CSR, whoever made it, and annotate the audit record with the decision
    and with the issued certificate.
    """
    if write.resource.plural != _PLURAL or not write.subresource:
        return
    old_types = {condition.type for condition in write.old.status.conditions}
    spec = write.old.spec
    identity = {"csr-uid": write.old.metadata.uid, "csr-requestor": spec.username, "csr-signer": spec.signer_name}
    for condition in write.new.status.conditions:
        if condition.type not in old_types and condition.type in _DECISIONS:
            write.call.annotate(**identity, **{"csr-decision": condition.type, "csr-reason": condition.reason})
            _log_decision(write, condition)
    if write.new.status.certificate and not write.old.status.certificate:
        facts = description.describe(write.new.status.certificate)
        if facts.not_after is not None:
            issued = {"certificate-serial": facts.serial, "certificate-sha256": facts.sha256}
            write.call.annotate(**identity, **issued, **{"certificate-not-after": timestamps.rfc3339(facts.not_after)})


def _log_decision(write: AdmissionAttributes, condition: csrs.CertificateSigningRequestCondition) -> None:
    _log.info(
        "csr condition added",
        extra={
            "csr": write.name,
            "uid": write.old.metadata.uid,
            "condition": condition.type,
            "reason": condition.reason,
            "user": write.call.user.name,
            "requestor": write.old.spec.username,
            "signer": write.old.spec.signer_name,
            "request_id": write.call.request_id,
        },
    )
