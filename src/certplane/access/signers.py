"""Rights per signer: approving, signing, and the one subject that nobody gets.

Updating `/approval` is a right on a resource; approving *for a signer* is another, on the virtual resource `signers`.
Whoever has only the first can approve nothing. The same goes for signing. The checks here are Kubernetes'
admission plugins CertificateApproval, CertificateSigning, ClusterTrustBundleAttest and CertificateSubjectRestriction,
and the question of who may answer a PodCertificateRequest.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final

from certplane import clock, errors
from certplane.access import rbac
from certplane.client import rights
from certplane.meta import context
from certplane.registry import admission
from certplane.resources import certificatesigningrequests as csrs
from certplane.x509 import certificates, csr, profiles

_log = logging.getLogger("certplane.access")

Authorize = Callable[[context.Attributes], rbac.Decision]

_PLURAL: Final = csrs.RESOURCE.plural
_GROUP: Final = csrs.RESOURCE.group
#: Of these one write can make one: the first two exclude each other and come through another door than the third.
_DECISIONS: Final = (csrs.APPROVED, csrs.DENIED, csrs.FAILED)
_BUNDLES: Final = "clustertrustbundles"
_POD_REQUESTS: Final = "podcertificaterequests"


def may_for_signer(authorize: Authorize, user: context.User, verb: str, signer_name: str) -> bool:
    """Whether a user may approve, sign or attest for a signer: by its name, or by `DOMAIN/*`."""
    domain = signer_name.partition("/")[0]
    return any(
        authorize(
            context.Attributes(user=user, verb=verb, group=_GROUP, version="*", resource="signers", name=name)
        ).allowed
        for name in (signer_name, f"{domain}/*")
    )


def hooks(authorize: Authorize, *, tells_rules: bool = True) -> tuple[admission.Hook, ...]:
    """The checks, in the order in which Kubernetes runs them. `tells_rules`: whoever is refused is told, as a warning,
    which rule would permit it. The refusals themselves are in Kubernetes' words.
    """

    def refused(of: admission.Review, verb: str, signer: str, refusal: errors.APIError) -> errors.APIError:
        rule = rights.signer_rule(verb, signer)
        about = {"object": of.name, "user": of.call.user.name, "rule": rule, "request_id": of.call.request_id}
        _log.info("a right for a signer is missing: grant it with a rule of a ClusterRole", extra=about)
        if tells_rules:
            of.call.warn(f"a ClusterRole with this rule would permit it: {rule}")
        return refusal

    def approval(of: admission.Review) -> None:
        if (of.resource.plural, of.subresource, of.operation) != (_PLURAL, "approval", "update"):
            return
        signer = of.old.spec.signer_name
        if not may_for_signer(authorize, of.call.user, "approve", signer):
            why = f'user not permitted to approve requests with signerName "{signer}"'
            raise refused(of, "approve", signer, _refusal(of, why))

    def signing(of: admission.Review) -> None:
        if (of.resource.plural, of.subresource, of.operation) != (_PLURAL, "status", "update"):
            return
        if (of.new.status.certificate, of.new.status.conditions) == (
            of.old.status.certificate,
            of.old.status.conditions,
        ):
            return
        signer = of.old.spec.signer_name
        if not may_for_signer(authorize, of.call.user, "sign", signer):
            why = f'user not permitted to sign requests with signerName "{signer}"'
            raise refused(of, "sign", signer, _refusal(of, why))

    def attesting(of: admission.Review) -> None:
        if of.resource.stored.plural != _BUNDLES or of.operation == "delete" or not of.new.spec.signer_name:
            return
        if of.old is not None and not _is_more_than_bookkeeping(of.new, of.old):
            return
        signer = of.new.spec.signer_name
        if not may_for_signer(authorize, of.call.user, "attest", signer):
            why = f'user not permitted to attest for signerName "{signer}"'
            raise refused(of, "attest", signer, _refusal(of, why))

    def answering(of: admission.Review) -> None:
        if (of.resource.stored.plural, of.subresource, of.operation) != (_POD_REQUESTS, "status", "update"):
            return
        if of.new.status == of.old.status:
            return
        user, signer = of.call.user, of.old.spec.signer_name
        if not may_for_signer(authorize, user, "sign", signer):
            # The real server asks while it validates, so this is a 422.
            why = f'User "{user.name}" is not permitted to "sign" for signer "{signer}"'
            problem = errors.forbidden("spec.signerName", why)
            refusal = errors.Invalid(of.resource.kind, of.resource.group, of.name, [problem])
            raise refused(of, "sign", signer, refusal)

    return approval, signing, attesting, _subject_restriction, answering


def _is_more_than_bookkeeping(new: Any, old: Any) -> bool:
    """Whether an update changes anything that the garbage collector does not."""
    if new.spec != old.spec:
        return True
    names = ("labels", "annotations", "generate_name")
    return any(getattr(new.metadata, name) != getattr(old.metadata, name) for name in names)


def _subject_restriction(of: admission.Review) -> None:
    """Nobody asks to be a superuser: the group cannot be taken back as long as the certificate lives."""
    if (of.resource.plural, of.subresource, of.operation) != (_PLURAL, "", "create"):
        return
    if of.new.spec.signer_name != profiles.KUBE_APISERVER_CLIENT:
        return
    try:
        request = csr.parse(of.new.spec.request or b"")
    except csr.RequestError as error:
        raise _refusal(of, f"failed to parse CSR: {error}") from error
    if rbac.MASTERS in request.organizations:
        raise _refusal(of, "use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed")


def _refusal(of: admission.Review, why: str) -> errors.Forbidden:
    return errors.Forbidden.of(of.resource.plural, of.resource.group, of.name, why)


def trace(of: admission.Review) -> None:
    """Every decision and every certificate leaves a trace, whoever wrote it: decisions in the log, whether or not
    anything else is configured, and both as annotations of the audit record.
    """
    if of.resource.plural != _PLURAL or not of.subresource:
        return
    before = {each.type for each in of.old.status.conditions}
    spec = of.old.spec
    about = {"csr-uid": of.old.metadata.uid, "csr-requestor": spec.username, "csr-signer": spec.signer_name}
    for each in of.new.status.conditions:
        if each.type not in before and each.type in _DECISIONS:
            of.call.annotate(**about, **{"csr-decision": each.type, "csr-reason": each.reason})
            _log_decision(of, each)
    if of.new.status.certificate and not of.old.status.certificate:
        facts = certificates.facts(of.new.status.certificate)
        if facts is not None:
            issued = {"certificate-serial": facts.serial, "certificate-sha256": facts.sha256}
            of.call.annotate(**about, **issued, **{"certificate-not-after": clock.rfc3339(facts.not_after)})


def _log_decision(of: admission.Review, made: csrs.CertificateSigningRequestCondition) -> None:
    _log.info(
        "csr decision",
        extra={
            "csr": of.name,
            "uid": of.old.metadata.uid,
            "condition": made.type,
            "reason": made.reason,
            "user": of.call.user.name,
            "requestor": of.old.spec.username,
            "signer": of.old.spec.signer_name,
            "request_id": of.call.request_id,
        },
    )
