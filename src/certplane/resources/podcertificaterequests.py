"""PodCertificateRequest: a kubelet asks for the certificate of a pod, a signer answers at once or never.

The request is not a matter of approval: the kubelet vouches for the pod, and the signer decides alone. The status is
written once, as a whole, and what it says of the certificate must be what the certificate says.

Source: kubernetes, `pkg/apis/certificates/validation`, `pkg/registry/certificates/podcertificaterequest`; KEP-4317.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from typing import Annotated, Any, Final

from msgspec import field

from certplane import clock, errors
from certplane.meta import context, names, objects, resource, validation
from certplane.meta.objects import always, doc
from certplane.x509 import trust

Problems = list[errors.FieldProblem]

ISSUED: Final = "Issued"
DENIED: Final = "Denied"
FAILED: Final = "Failed"
_KNOWN: Final = (ISSUED, DENIED, FAILED)

_DEFAULT_SECONDS: Final = 24 * 60 * 60
_SHORTEST_SECONDS: Final = 60 * 60
_LONGEST_SECONDS: Final = 91 * 24 * 60 * 60
#: For the signers that Kubernetes names.
_LONGEST_BUILT_IN_SECONDS: Final = 24 * 60 * 60

_LONGEST_UID: Final = 128
_LARGEST_KEY: Final = 10 * 1024
_LARGEST_ANNOTATIONS: Final = 256 * 1024
_LARGEST_CHAIN: Final = 100 * 1024
_LONGEST_REASON: Final = 1024
_LONGEST_MESSAGE: Final = 32 * 1024

_SKEW: Final = datetime.timedelta(minutes=5)
_REFRESH_MARGIN: Final = datetime.timedelta(minutes=10)

_REASON: Final = "[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?"
_REASON_TEXT: Final = (
    "a condition reason must start with alphabetic character, optionally followed by a string of alphanumeric "
    "characters or '_,:', and must end with an alphanumeric character or '_' (e.g. 'my_name',  or 'MY_NAME',  "
    f"or 'MyName',  or 'ReasonA,ReasonB',  or 'ReasonA:ReasonB', regex used for validation is '{_REASON}')"
)


class PodCertificateRequestSpec(objects.Type):
    """PodCertificateRequestSpec is what is asked for, and for which pod. It never changes."""

    signer_name: Annotated[str, doc("Which signer is to answer, as domain/path.", required=True)] = always(str)
    pod_name: Annotated[str, doc("Name of the pod, in the namespace of the request.", required=True)] = always(str)
    pod_uid: Annotated[str, doc("UID of the pod.", go="types.UID", required=True)] = field(
        default_factory=lambda: "", name="podUID"
    )
    service_account_name: Annotated[str, doc("Name of the service account that the pod runs as.", required=True)] = (
        always(str)
    )
    service_account_uid: Annotated[
        str, doc("UID of the service account that the pod runs as.", go="types.UID", required=True)
    ] = field(default_factory=lambda: "", name="serviceAccountUID")
    node_name: Annotated[
        str, doc("Name of the node that the pod runs on.", go="types.NodeName", required=True)
    ] = always(str)  # fmt: skip
    node_uid: Annotated[str, doc("UID of the node that the pod runs on.", go="types.UID", required=True)] = field(
        default_factory=lambda: "", name="nodeUID"
    )
    max_expiration_seconds: Annotated[
        objects.Int32 | None,
        doc(
            "How long the certificate may be valid at the most; the signer may give less. At least 3600 (one hour); up "
            "to 86400 (a day) with signers under kubernetes.io, up to 7862400 (91 days) with others. A day if nothing "
            "is said."
        ),
    ] = None
    pkix_public_key: Annotated[
        bytes | None,
        doc(
            "Superseded by stubPKCS10Request. The public key to certify: PKIX, in DER. ECDSA on P-256, P-384 or P-521, "
            "RSA of 3072 or 4096 bits, or Ed25519."
        ),
    ] = field(default_factory=lambda: None, name="pkixPublicKey")
    proof_of_possession: Annotated[
        bytes | None,
        doc(
            "Superseded by stubPKCS10Request. Shows that the kubelet has the private key: a signature over the ASCII "
            "bytes of podUID. ECDSA (ASN.1) or RSA-PSS, both with SHA-256, or Ed25519."
        ),
    ] = always(lambda: None)
    unverified_user_annotations: Annotated[
        dict[str, str],
        doc(
            "What the author of the pod wants to tell the signer. Nobody has verified it; a signer should refuse keys "
            "that it does not know. Keys have a domain, as acme.io/foo."
        ),
    ] = field(default_factory=dict)
    stub_pkcs10_request: Annotated[
        bytes | None,
        doc(
            "A certificate request, PKCS#10 in DER, signed with the pod's private key. It is there for its key, and "
            "for authorities that take nothing else; names and extensions in it mean nothing. ECDSA on P-256, P-384 or "
            "P-521, RSA of 3072 or 4096 bits, or Ed25519."
        ),
    ] = field(default_factory=lambda: None, name="stubPKCS10Request")


class PodCertificateRequestStatus(objects.Type):
    """PodCertificateRequestStatus is the answer of the signer. Once there is one, it stays."""

    conditions: Annotated[
        list[objects.Condition],
        doc(
            "Issued, Denied or Failed, with status True; one of them at the most, and no other types. Denied says that "
            "the signer will not, Failed that it cannot. Reasons that kubelets know: UnsupportedKeyType, "
            "InvalidUnverifiedUserAnnotations.",
            list_type="map",
            keys=("type",),
            patch_strategy="merge",
            patch_merge_key="type",
        ),
    ] = field(default_factory=list)
    certificate_chain: Annotated[
        str,
        doc(
            "The certificate, in PEM, followed by intermediates. Issued for the key that was asked for; up to 100 KiB."
        ),
    ] = ""
    not_before: Annotated[
        objects.Time | None, doc("Since when the certificate is valid, as it says itself. About now when it is issued.")
    ] = None
    begin_refresh_at: Annotated[
        objects.Time | None,
        doc("When the kubelet should begin to ask for the next one: 10 minutes or more from both ends of validity."),
    ] = None
    not_after: Annotated[objects.Time | None, doc("Until when the certificate is valid, as it says itself.")] = None


class PodCertificateRequest(objects.Object):
    """PodCertificateRequest asks a signer for the certificate of one pod, with which the pod shows others who it is.
    Kubelets make them for pods that mount such a certificate, and renew them. Nobody has to approve: the signer
    decides.
    """

    spec: Annotated[
        PodCertificateRequestSpec, doc("What is asked for, and for which pod. Cannot be changed.", required=True)
    ] = always(PodCertificateRequestSpec)
    status: Annotated[PodCertificateRequestStatus, doc("The answer of the signer.")] = always(
        PodCertificateRequestStatus
    )


# --- facts --------------------------------------------------------------------------------------------------------


def has_condition(of: PodCertificateRequest, type_: str) -> bool:
    """Whether a condition of a type is true."""
    return any(each.type == type_ and each.status == "True" for each in of.status.conditions)


def is_answered(of: PodCertificateRequest) -> bool:
    """Issued, denied or failed: nothing changes any more."""
    return any(has_condition(of, type_) for type_ in _KNOWN)


def state_text(of: PodCertificateRequest) -> str:
    """The state in one word, as `kubectl get podcertificaterequests` prints it."""
    found = [each.type for each in of.status.conditions if each.type in _KNOWN]
    return found[-1] if found else "Pending"


# --- life-cycle ---------------------------------------------------------------------------------------------------


def _default(new: PodCertificateRequest) -> None:
    if new.spec.max_expiration_seconds is None:
        new.spec.max_expiration_seconds = _DEFAULT_SECONDS


def _prepare_create(new: PodCertificateRequest, call: context.Call) -> None:
    del call
    new.status = PodCertificateRequestStatus()


def _keep_metadata(new: PodCertificateRequest, old: PodCertificateRequest, call: context.Call) -> None:
    """The status is a door for the status alone; only managedFields tell that somebody went through it."""
    del call
    for name in ("labels", "annotations", "finalizers", "owner_references", "deletion_timestamp", "generation"):
        setattr(new.metadata, name, getattr(old.metadata, name))


# --- validation of the object -------------------------------------------------------------------------------------


def validate(new: PodCertificateRequest) -> Problems:
    """A new request."""
    spec = new.spec
    problems = [
        *validation.signer_name_problems(spec.signer_name, "spec.signerName"),
        *_annotation_problems(spec.unverified_user_annotations),
        *_subdomain_problems("spec.podName", spec.pod_name),
        *_uid_problems("spec.podUID", spec.pod_uid),
        *_subdomain_problems("spec.serviceAccountName", spec.service_account_name),
        *_uid_problems("spec.serviceAccountUID", spec.service_account_uid),
        *_subdomain_problems("spec.nodeName", spec.node_name, as_json=True),
        *_uid_problems("spec.nodeUID", spec.node_uid),
    ]
    if spec.max_expiration_seconds is None:
        return [*problems, errors.required("spec.maxExpirationSeconds", "must be set")]
    return [*problems, *_expiration_problems(spec, spec.max_expiration_seconds), *_key_problems(spec)]


def _size(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def _annotation_problems(annotations: dict[str, str]) -> Problems:
    path = "spec.unverifiedUserAnnotations"
    problems: Problems = []
    for key in sorted(annotations):
        lowered = key.lower()
        if not lowered:
            problems.append(errors.required(path))
            continue
        wrong = names.qualified_name_problems(lowered)
        if not wrong and "/" not in lowered:
            wrong = ['must be a domain-prefixed key (such as "acme.io/foo")']
        problems += [errors.invalid(path, lowered, why) for why in wrong]
    if sum(_size(key) + _size(value) for key, value in annotations.items()) > _LARGEST_ANNOTATIONS:
        problems.append(errors.too_long(path, _LARGEST_ANNOTATIONS))
    return problems


def _subdomain_problems(path: str, name: str, *, as_json: bool = False) -> Problems:
    return [errors.invalid(path, name, why, as_json=as_json) for why in names.dns1123_subdomain_problems(name)]


def _uid_problems(path: str, uid: str) -> Problems:
    if not uid:
        return [errors.invalid(path, uid, "must not be empty", as_json=True)]
    return [errors.too_long(path, _LONGEST_UID)] if _size(uid) > _LONGEST_UID else []


def _expiration_problems(spec: PodCertificateRequestSpec, seconds: int) -> Problems:
    domain = spec.signer_name.partition("/")[0]
    built_in = domain == "kubernetes.io" or domain.endswith(".kubernetes.io")
    longest = _LONGEST_BUILT_IN_SECONDS if built_in else _LONGEST_SECONDS
    if _SHORTEST_SECONDS <= seconds <= longest:
        return []
    why = f"must be in the range [{_SHORTEST_SECONDS}, {longest}]"
    return [errors.invalid("spec.maxExpirationSeconds", seconds, why)]


def _key_problems(spec: PodCertificateRequestSpec) -> Problems:
    stub, key, proof = spec.stub_pkcs10_request, spec.pkix_public_key, spec.proof_of_possession
    if stub and not key and not proof:
        return _stub_problems(stub)
    if key and proof and not stub:
        return _pkix_problems(key, proof, spec.pod_uid)
    why = "exactly one of (stubPKCS10Request) or (pkixPublicKey, proofOfPossession) must be set"
    return [errors.invalid_without_value("spec", why)]


def _stub_problems(stub: bytes) -> Problems:
    path = "spec.stubPKCS10Request"
    if len(stub) > _LARGEST_KEY:
        return [errors.too_long(path, _LARGEST_KEY)]
    try:
        trust.check_stub(stub)
    except trust.KeyProblem as problem:
        return [_key_problem(path, problem)]
    return []


def _pkix_problems(key: bytes, proof: bytes, pod_uid: str) -> Problems:
    path, proof_path = "spec.pkixPublicKey", "spec.proofOfPossession"
    if len(key) > _LARGEST_KEY:
        return [errors.too_long(path, _LARGEST_KEY)]
    if len(proof) > _LARGEST_KEY:
        return [errors.too_long(proof_path, _LARGEST_KEY)]
    try:
        trust.check_public_key(key)
    except trust.KeyProblem as problem:
        return [_key_problem(path, problem)]
    if not trust.proves_possession(key, proof, pod_uid.encode("utf-8", "surrogatepass")):
        return [errors.invalid_without_value(proof_path, "could not verify proof-of-possession signature")]
    return []


def _key_problem(path: str, problem: trust.KeyProblem) -> errors.FieldProblem:
    if problem.value is None:
        return errors.invalid_without_value(path, str(problem))
    return errors.invalid(path, problem.value, str(problem))


def validate_update(new: PodCertificateRequest, old: PodCertificateRequest) -> Problems:
    """A changed request: only the metadata may."""
    if _go_spec(new.spec) == _go_spec(old.spec):
        return []
    return [errors.invalid("spec", _go_spec(new.spec), "field is immutable")]


def _go_spec(of: PodCertificateRequestSpec) -> dict[str, Any]:
    """The spec as Go prints the struct that Kubernetes holds it in; absent and empty are the same."""
    return {
        "SignerName": of.signer_name,
        "PodName": of.pod_name,
        "PodUID": of.pod_uid,
        "ServiceAccountName": of.service_account_name,
        "ServiceAccountUID": of.service_account_uid,
        "NodeName": of.node_name,
        "NodeUID": of.node_uid,
        "MaxExpirationSeconds": of.max_expiration_seconds,
        "PKIXPublicKey": of.pkix_public_key or None,
        "ProofOfPossession": of.proof_of_possession or None,
        "StubPKCS10Request": of.stub_pkcs10_request or None,
        "UnverifiedUserAnnotations": dict(sorted(of.unverified_user_annotations.items())) or None,
    }


# --- validation of the status -------------------------------------------------------------------------------------


def status_problems(new: PodCertificateRequest, old: PodCertificateRequest, now: datetime.datetime) -> Problems:
    """A status that is being written at a moment. Whether the caller may sign is asked elsewhere, after this."""
    conditions = new.status.conditions
    problems = [*_known_problems(conditions), *_condition_problems(conditions)]
    if problems:
        return problems
    if is_answered(old):
        why = "immutable after PodCertificateRequest is issued, denied, or failed"
        return _equality_problems(new.status, old.status, why)
    if has_condition(new, DENIED) or has_condition(new, FAILED):
        why = "non-condition status fields must be empty when denying or failing the PodCertificateRequest"
        return _equality_problems(new.status, PodCertificateRequestStatus(conditions=conditions), why)
    if has_condition(new, ISSUED):
        return _issue_problems(new, now)
    why = 'status is immutable unless transitioning to "Issued", "Denied", or "Failed"'
    return _equality_problems(new.status, old.status, why)


def _equality_problems(new: PodCertificateRequestStatus, wanted: PodCertificateRequestStatus, why: str) -> Problems:
    return [] if new == wanted else [errors.invalid_without_value("status", why)]


def _known_problems(conditions: Sequence[objects.Condition]) -> Problems:
    problems: Problems = []
    known = 0
    for at, each in enumerate(conditions):
        # The dot before the bracket is Kubernetes'.
        path = f"status.conditions.[{at}]"
        if each.type not in _KNOWN:
            problems.append(errors.not_supported(f"{path}.type", each.type, _KNOWN))
            continue
        known += 1
        if known > 1:
            why = 'There may be at most one condition with type "Issued", "Denied", or "Failed"'
            problems.append(errors.invalid(f"{path}.type", each.type, why))
        if each.status != "True":
            problems.append(errors.not_supported(f"{path}.status", each.status, ("True",), as_json=True))
    return problems


def _condition_problems(conditions: Sequence[objects.Condition]) -> Problems:
    """The rules for conditions of any kind."""
    problems: Problems = []
    seen: set[str] = set()
    for at, each in enumerate(conditions):
        path = f"status.conditions[{at}]"
        if each.type in seen:
            problems.append(errors.duplicate(f"{path}.type", each.type))
        seen.add(each.type)
        problems += [errors.invalid(f"{path}.type", each.type, why) for why in names.qualified_name_problems(each.type)]
        statuses = ("False", "True", "Unknown")
        if each.status not in statuses:
            problems.append(errors.not_supported(f"{path}.status", each.status, statuses, as_json=True))
        if each.observed_generation < 0:
            why = "must be greater than or equal to zero"
            problems.append(errors.invalid(f"{path}.observedGeneration", each.observed_generation, why))
        if each.last_transition_time is None:
            problems.append(errors.required(f"{path}.lastTransitionTime"))
        problems += _reason_problems(f"{path}.reason", each.reason)
        if _size(each.message) > _LONGEST_MESSAGE:
            problems.append(errors.too_long(f"{path}.message", _LONGEST_MESSAGE))
    return problems


def _reason_problems(path: str, reason: str) -> Problems:
    if not reason:
        return [errors.required(path)]
    problems: Problems = []
    if not re.fullmatch(_REASON, reason, re.ASCII):
        problems.append(errors.invalid(path, reason, _REASON_TEXT))
    if _size(reason) > _LONGEST_REASON:
        problems.append(errors.too_long(path, _LONGEST_REASON))
    return problems


# --- validation of what was issued --------------------------------------------------------------------------------

_CHAIN: Final = "status.certificateChain"


def _issue_problems(new: PodCertificateRequest, now: datetime.datetime) -> Problems:
    chain = new.status.certificate_chain
    text = chain.encode("utf-8", "surrogatepass")
    if len(text) > _LARGEST_CHAIN:
        return [errors.too_long(_CHAIN, _LARGEST_CHAIN)]
    try:
        leaf = trust.leaf(text)
    except trust.ChainProblem as problem:
        return [errors.invalid(_CHAIN, chain, str(problem))]
    problems = _leaf_name_problems(leaf)
    if not trust.is_issued_to(leaf, stub=new.spec.stub_pkcs10_request or b"", spki=new.spec.pkix_public_key or b""):
        why = "leaf certificate was not issued to the requested public key"
        return [*problems, errors.invalid(_CHAIN, chain, why)]
    problems += _presence_problems(new.status)
    if problems:
        return problems
    problems = _validity_problems(new, leaf, now) or _refresh_problems(new.status)
    if problems:
        return problems
    try:
        trust.check_intermediates(text)
    except trust.ChainProblem as problem:
        return [errors.invalid(_CHAIN, chain, str(problem))]
    return []


def _leaf_name_problems(leaf: trust.Leaf) -> Problems:
    problems: Problems = []
    for name in leaf.dns_names:
        if not name:
            problems.append(errors.invalid(_CHAIN, name, "leaf certificate should not contain empty DNSName"))
        if ".." in name:
            problems.append(errors.invalid(_CHAIN, name, "leaf certificate's DNSName should not contain '..'"))
        if name.startswith(".") or name.endswith("."):
            why = "leaf certificate's DNSName should not start or end with '.'"
            problems.append(errors.invalid(_CHAIN, name, why))
    problems += [
        errors.invalid(_CHAIN, each, "leaf certificate should not contain invalid EmailAddress")
        for each in leaf.email_addresses
        if not trust.is_mailbox(each)
    ]
    return problems


def _presence_problems(status: PodCertificateRequestStatus) -> Problems:
    consistent = "must be present and consistent with the issued certificate"
    between = "must be present and in the range [notbefore+10min, notafter-10min]"
    return [
        errors.required(f"status.{name}", why)
        for name, value, why in (
            ("notBefore", status.not_before, consistent),
            ("notAfter", status.not_after, consistent),
            ("beginRefreshAt", status.begin_refresh_at, between),
        )
        if value is None
    ]


def _validity_problems(new: PodCertificateRequest, leaf: trust.Leaf, now: datetime.datetime) -> Problems:
    """The first thing that is wrong with when the certificate begins, when it ends and how long it lasts."""
    begins, ends = new.status.not_before or "", new.status.not_after or ""
    if clock.parse_rfc3339(begins) != leaf.not_before:
        why = "must be set to the NotBefore time encoded in the leaf certificate"
        return [errors.invalid("status.notBefore", begins, why)]
    if not now - _SKEW < leaf.not_before < now + _SKEW:
        why = "must be set to within 5 minutes of kube-apiserver's current time"
        return [errors.invalid("status.notBefore", begins, why)]
    if clock.parse_rfc3339(ends) != leaf.not_after:
        why = "must be set to the NotAfter time encoded in the leaf certificate"
        return [errors.invalid("status.notAfter", ends, why)]
    # Go prints durations in nanoseconds.
    seconds = (leaf.not_after - leaf.not_before) // datetime.timedelta(seconds=1)
    longest = new.spec.max_expiration_seconds or 0
    if seconds < _SHORTEST_SECONDS:
        return [errors.invalid(_CHAIN, seconds * 10**9, "leaf certificate lifetime must be >= 1 hour")]
    if seconds > longest:
        why = f"leaf certificate lifetime must be <= spec.maxExpirationSeconds ({longest})"
        return [errors.invalid(_CHAIN, seconds * 10**9, why)]
    return []


def _refresh_problems(status: PodCertificateRequestStatus) -> Problems:
    path, text = "status.beginRefreshAt", status.begin_refresh_at or ""
    begins, refresh, ends = (
        clock.parse_rfc3339(each or "") for each in (status.not_before, status.begin_refresh_at, status.not_after)
    )
    if refresh < begins + _REFRESH_MARGIN:
        return [errors.invalid(path, text, "must be at least 10 minutes after status.notBefore")]
    if refresh > ends - _REFRESH_MARGIN:
        return [errors.invalid(path, text, "must be at least 10 minutes before status.notAfter")]
    return []


# --- columns ------------------------------------------------------------------------------------------------------


def _annotations_text(of: PodCertificateRequest) -> str:
    pairs = sorted(of.spec.unverified_user_annotations.items())
    return ",".join(f"{key}={value}" for key, value in pairs) or "<none>"


RESOURCE: Final = resource.Resource(
    group="certificates.k8s.io",
    version="v1beta1",
    kind="PodCertificateRequest",
    plural="podcertificaterequests",
    type=PodCertificateRequest,
    namespaced=True,
    owns=("spec",),
    prepare_create=_prepare_create,
    default=_default,
    name_problems=names.dns1123_subdomain_problems,
    validate=validate,
    validate_update=validate_update,
    rechecks=resource.Recheck.CHANGE,
    selectable={
        "spec.signerName": lambda of: of.spec.signer_name,
        "spec.podName": lambda of: of.spec.pod_name,
        "spec.nodeName": lambda of: of.spec.node_name,
    },
    selects_namespace=False,
    unknown_selector=lambda label: f"field label not supported: {label}",
    subresources=(
        resource.Subresource(
            "status",
            owns=("status",),
            prepare=_keep_metadata,
            validate=status_problems,
            rechecks=resource.Recheck.CHANGE,
            ignored_fields=("spec",),
            has_table=True,
        ),
    ),
    unconditional_update=False,
    optional=True,
    columns=(
        resource.Column("Name", "Name of the request.", lambda of, _: of.metadata.name, format="name"),
        resource.Column("PodName", "Pod that the certificate is for.", lambda of, _: of.spec.pod_name),
        resource.Column(
            "ServiceAccountName", "Service account of the pod.", lambda of, _: of.spec.service_account_name
        ),
        resource.Column("NodeName", "Node of the pod.", lambda of, _: of.spec.node_name),
        resource.Column("SignerName", "Signer that is to answer.", lambda of, _: of.spec.signer_name),
        resource.Column("State", "Whether it was issued, denied or has failed.", lambda of, _: state_text(of)),
        resource.Column(
            "UnverifiedUserAnnotations", "What the pod tells the signer.", lambda of, _: _annotations_text(of)
        ),
    ),
)
RESOURCE_V1: Final = resource.later_version(RESOURCE, "v1")
