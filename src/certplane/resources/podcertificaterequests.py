"""PodCertificateRequest: a kubelet requests a certificate for a pod, and a signer issues or denies it.

There is no approval: the kubelet vouches for the pod, and the signer decides. The status is written once, as a whole,
and its fields must agree with the certificate in it.

Source: kubernetes, `pkg/apis/certificates/validation`, `pkg/registry/certificates/podcertificaterequest`; KEP-4317.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from typing import Annotated, Final

from msgspec import field

from certplane import errors, timestamps
from certplane.errors import Problems
from certplane.meta import names, objects, resource, validation
from certplane.meta.context import VerbContext
from certplane.meta.objects import always, doc
from certplane.x509.trust import podcertificates

ISSUED: Final = "Issued"
DENIED: Final = "Denied"
FAILED: Final = "Failed"
_KNOWN: Final = (ISSUED, DENIED, FAILED)

_DEFAULT_SECONDS: Final = 24 * 60 * 60
_MIN_SECONDS: Final = 60 * 60
_MAX_SECONDS: Final = 91 * 24 * 60 * 60
#: For the signers of kubernetes.io.
_MAX_BUILT_IN_SECONDS: Final = 24 * 60 * 60

_MAX_UID: Final = 128
_MAX_KEY: Final = 10 * 1024
_MAX_ANNOTATIONS: Final = 256 * 1024
_MAX_CHAIN: Final = 100 * 1024
_MAX_REASON: Final = 1024
_MAX_MESSAGE: Final = 32 * 1024

_SKEW: Final = datetime.timedelta(minutes=5)
_REFRESH_MARGIN: Final = datetime.timedelta(minutes=10)

_REASON_PATTERN: Final = "[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?"
_REASON_DETAIL: Final = (
    "a condition reason must start with alphabetic character, optionally followed by a string of alphanumeric "
    "characters or '_,:', and must end with an alphanumeric character or '_' (e.g. 'my_name',  or 'MY_NAME',  "
    f"or 'MyName',  or 'ReasonA,ReasonB',  or 'ReasonA:ReasonB', regex used for validation is '{_REASON_PATTERN}')"
)


class PodCertificateRequestSpec(objects.Type):
    """PodCertificateRequestSpec is the requested certificate and the pod that it is for. Immutable."""

    signer_name: Annotated[str, doc("Name of the signer, as domain/path.", required=True)] = always(str)
    pod_name: Annotated[str, doc("Name of the pod, in the namespace of the request.", required=True)] = always(str)
    pod_uid: Annotated[str, doc("UID of the pod.", go="types.UID", required=True)] = field(
        default_factory=lambda: "", name="podUID"
    )
    service_account_name: Annotated[str, doc("Name of the service account of the pod.", required=True)] = always(str)
    service_account_uid: Annotated[
        str, doc("UID of the service account of the pod.", go="types.UID", required=True)
    ] = field(default_factory=lambda: "", name="serviceAccountUID")
    node_name: Annotated[
        str, doc("Name of the node of the pod.", go="types.NodeName", required=True)
    ] = always(str)  # fmt: skip
    node_uid: Annotated[str, doc("UID of the node of the pod.", go="types.UID", required=True)] = field(
        default_factory=lambda: "", name="nodeUID"
    )
    max_expiration_seconds: Annotated[
        objects.Int32 | None,
        doc(
            "Maximum lifetime of the certificate in seconds; the signer may issue a certificate with a shorter "
            "lifetime. At least 3600 (1 hour); at most 86400 (24 hours) for signers under kubernetes.io, at most "
            "7862400 (91 days) for others. Defaults to 86400."
        ),
    ] = None
    pkix_public_key: Annotated[
        bytes | None,
        doc(
            "Superseded by stubPKCS10Request. Public key of the certificate: PKIX, in DER. ECDSA with P-256, P-384 or "
            "P-521, RSA with 3072 or 4096 bits, or Ed25519."
        ),
    ] = field(default_factory=lambda: None, name="pkixPublicKey")
    proof_of_possession: Annotated[
        bytes | None,
        doc(
            "Superseded by stubPKCS10Request. Proves that the kubelet has the private key: a signature over the ASCII "
            "bytes of podUID. ECDSA (ASN.1) or RSA-PSS, both with SHA-256, or Ed25519."
        ),
    ] = always(lambda: None)
    unverified_user_annotations: Annotated[
        dict[str, str],
        doc(
            "Parameters for the signer, from the author of the pod. They are not verified; a signer should deny "
            "requests with keys that it does not know. Keys have a domain prefix, such as acme.io/foo."
        ),
    ] = field(default_factory=dict)
    stub_pkcs10_request: Annotated[
        bytes | None,
        doc(
            "PKCS#10 certificate request in DER, signed with the private key of the pod. It carries the public key, "
            "also to CAs that accept PKCS#10 only; signers ignore names and extensions in it. ECDSA with P-256, P-384 "
            "or P-521, RSA with 3072 or 4096 bits, or Ed25519."
        ),
    ] = field(default_factory=lambda: None, name="stubPKCS10Request")


class PodCertificateRequestStatus(objects.Type):
    """PodCertificateRequestStatus is the result from the signer. Immutable once it is set."""

    conditions: Annotated[
        list[objects.Condition],
        doc(
            "Conditions of the request: at most one of Issued, Denied and Failed, with status True; no other types are "
            "allowed. Denied means that the signer refused the request, Failed that it could not issue the "
            "certificate. Well-known reasons: UnsupportedKeyType, InvalidUnverifiedUserAnnotations.",
            list_type="map",
            keys=("type",),
            patch_strategy="merge",
            patch_merge_key="type",
        ),
    ] = field(default_factory=list)
    certificate_chain: Annotated[
        str,
        doc(
            "The issued certificate in PEM, followed by intermediates, up to 100 KiB. Its public key must be the "
            "requested one."
        ),
    ] = ""
    not_before: Annotated[
        objects.Time | None,
        doc("Start of the validity, equal to that in the certificate; within 5 minutes of the time of issuance."),
    ] = None
    begin_refresh_at: Annotated[
        objects.Time | None,
        doc("Time when the kubelet should begin to renew; at least 10 minutes after notBefore and before notAfter."),
    ] = None
    not_after: Annotated[objects.Time | None, doc("End of the validity, equal to that in the certificate.")] = None


class PodCertificateRequest(objects.Object):
    """PodCertificateRequest requests an X.509 certificate for a pod from a signer. Kubelets create it for pods that
    mount such a certificate, and again to renew it. There is no approval: the signer decides.
    """

    spec: Annotated[
        PodCertificateRequestSpec,
        doc("The requested certificate and the pod that it is for. Immutable.", required=True),
    ] = always(PodCertificateRequestSpec)
    status: Annotated[PodCertificateRequestStatus, doc("The result from the signer.")] = always(
        PodCertificateRequestStatus
    )


# --- facts --------------------------------------------------------------------------------------------------------


def has_condition(request: PodCertificateRequest, type_: str) -> bool:
    """Whether a condition of a type is true."""
    return any(condition.type == type_ and condition.status == "True" for condition in request.status.conditions)


def is_finished(request: PodCertificateRequest) -> bool:
    """Whether the request is issued, denied or failed, so that its status is immutable."""
    return any(has_condition(request, type_) for type_ in _KNOWN)


def state_text(request: PodCertificateRequest) -> str:
    """The state in one word, as `kubectl get podcertificaterequests` prints it."""
    types = [condition.type for condition in request.status.conditions if condition.type in _KNOWN]
    return types[-1] if types else "Pending"


# --- lifecycle ----------------------------------------------------------------------------------------------------


def _default(request: PodCertificateRequest) -> None:
    if request.spec.max_expiration_seconds is None:
        request.spec.max_expiration_seconds = _DEFAULT_SECONDS


def _prepare_create(new: PodCertificateRequest, call: VerbContext) -> None:
    del call
    new.status = PodCertificateRequestStatus()


def _keep_metadata(new: PodCertificateRequest, old: PodCertificateRequest, call: VerbContext) -> None:
    """Of the metadata, an update of the status changes the managedFields only."""
    del call
    for name in ("labels", "annotations", "finalizers", "owner_references", "deletion_timestamp", "generation"):
        setattr(new.metadata, name, getattr(old.metadata, name))


# --- validation of the object -------------------------------------------------------------------------------------


def validate(request: PodCertificateRequest) -> Problems:
    """Validate a new request."""
    spec = request.spec
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
        details = list(names.qualified_name_problems(lowered))
        if not details and "/" not in lowered:
            details = ['must be a domain-prefixed key (such as "acme.io/foo")']
        problems += [errors.invalid(path, lowered, detail) for detail in details]
    if sum(_size(key) + _size(value) for key, value in annotations.items()) > _MAX_ANNOTATIONS:
        problems.append(errors.too_long(path, _MAX_ANNOTATIONS))
    return problems


def _subdomain_problems(path: str, name: str, *, as_json: bool = False) -> Problems:
    return [errors.invalid(path, name, detail, as_json=as_json) for detail in names.dns1123_subdomain_problems(name)]


def _uid_problems(path: str, uid: str) -> Problems:
    if not uid:
        return [errors.invalid(path, uid, "must not be empty", as_json=True)]
    return [errors.too_long(path, _MAX_UID)] if _size(uid) > _MAX_UID else []


def _expiration_problems(spec: PodCertificateRequestSpec, seconds: int) -> Problems:
    domain = spec.signer_name.partition("/")[0]
    is_built_in = domain == "kubernetes.io" or domain.endswith(".kubernetes.io")
    maximum = _MAX_BUILT_IN_SECONDS if is_built_in else _MAX_SECONDS
    if _MIN_SECONDS <= seconds <= maximum:
        return []
    detail = f"must be in the range [{_MIN_SECONDS}, {maximum}]"
    return [errors.invalid("spec.maxExpirationSeconds", seconds, detail)]


def _key_problems(spec: PodCertificateRequestSpec) -> Problems:
    stub, key, proof = spec.stub_pkcs10_request, spec.pkix_public_key, spec.proof_of_possession
    if stub and not key and not proof:
        return _stub_problems(stub)
    if key and proof and not stub:
        return _pkix_problems(key, proof, spec.pod_uid)
    detail = "exactly one of (stubPKCS10Request) or (pkixPublicKey, proofOfPossession) must be set"
    return [errors.invalid_without_value("spec", detail)]


def _stub_problems(stub: bytes) -> Problems:
    path = "spec.stubPKCS10Request"
    if len(stub) > _MAX_KEY:
        return [errors.too_long(path, _MAX_KEY)]
    try:
        podcertificates.check_stub_request(stub)
    except podcertificates.PodKeyError as problem:
        return [_key_problem(path, problem)]
    return []


def _pkix_problems(key: bytes, proof: bytes, pod_uid: str) -> Problems:
    path, proof_path = "spec.pkixPublicKey", "spec.proofOfPossession"
    if len(key) > _MAX_KEY:
        return [errors.too_long(path, _MAX_KEY)]
    if len(proof) > _MAX_KEY:
        return [errors.too_long(proof_path, _MAX_KEY)]
    try:
        podcertificates.check_public_key(key)
    except podcertificates.PodKeyError as problem:
        return [_key_problem(path, problem)]
    if not podcertificates.proves_possession(key, proof, pod_uid.encode("utf-8", "surrogatepass")):
        return [errors.invalid_without_value(proof_path, "could not verify proof-of-possession signature")]
    return []


def _key_problem(path: str, problem: podcertificates.PodKeyError) -> errors.FieldProblem:
    if problem.value is None:
        return errors.invalid_without_value(path, str(problem))
    return errors.invalid(path, problem.value, str(problem))


def validate_update(new: PodCertificateRequest, old: PodCertificateRequest) -> Problems:
    """Validate an update: only the metadata may change."""
    if _go_spec(new.spec) == _go_spec(old.spec):
        return []
    return [errors.invalid("spec", _go_spec(new.spec), "field is immutable")]


def _go_spec(spec: PodCertificateRequestSpec) -> dict[str, object]:
    """The spec as Go prints the struct of Kubernetes; absent and empty values are the same."""
    return {
        "SignerName": spec.signer_name,
        "PodName": spec.pod_name,
        "PodUID": spec.pod_uid,
        "ServiceAccountName": spec.service_account_name,
        "ServiceAccountUID": spec.service_account_uid,
        "NodeName": spec.node_name,
        "NodeUID": spec.node_uid,
        "MaxExpirationSeconds": spec.max_expiration_seconds,
        "PKIXPublicKey": spec.pkix_public_key or None,
        "ProofOfPossession": spec.proof_of_possession or None,
        "StubPKCS10Request": spec.stub_pkcs10_request or None,
        "UnverifiedUserAnnotations": dict(sorted(spec.unverified_user_annotations.items())) or None,
    }


# --- validation of the status -------------------------------------------------------------------------------------


def status_problems(new: PodCertificateRequest, old: PodCertificateRequest, now: datetime.datetime) -> Problems:
    """Validate an update of the status at the time `now`. The permission to sign is checked elsewhere, after this."""
    conditions = new.status.conditions
    problems = [*_known_problems(conditions), *_condition_problems(conditions)]
    if problems:
        return problems
    if is_finished(old):
        detail = "immutable after PodCertificateRequest is issued, denied, or failed"
        return _equality_problems(new.status, old.status, detail)
    if has_condition(new, DENIED) or has_condition(new, FAILED):
        detail = "non-condition status fields must be empty when denying or failing the PodCertificateRequest"
        return _equality_problems(new.status, PodCertificateRequestStatus(conditions=conditions), detail)
    if has_condition(new, ISSUED):
        return _issue_problems(new, now)
    detail = 'status is immutable unless transitioning to "Issued", "Denied", or "Failed"'
    return _equality_problems(new.status, old.status, detail)


def _equality_problems(
    new: PodCertificateRequestStatus, expected: PodCertificateRequestStatus, detail: str
) -> Problems:
    return [] if new == expected else [errors.invalid_without_value("status", detail)]


def _known_problems(conditions: Sequence[objects.Condition]) -> Problems:
    problems: Problems = []
    known = 0
    for index, condition in enumerate(conditions):
        # Kubernetes has the dot before the bracket, too.
        path = f"status.conditions.[{index}]"
        if condition.type not in _KNOWN:
            problems.append(errors.not_supported(f"{path}.type", condition.type, _KNOWN))
            continue
        known += 1
        if known > 1:
            detail = 'There may be at most one condition with type "Issued", "Denied", or "Failed"'
            problems.append(errors.invalid(f"{path}.type", condition.type, detail))
        if condition.status != "True":
            problems.append(errors.not_supported(f"{path}.status", condition.status, ("True",), as_json=True))
    return problems


def _condition_problems(conditions: Sequence[objects.Condition]) -> Problems:
    """The problems of metav1.Condition, as for all kinds."""
    problems: Problems = []
    seen: set[str] = set()
    for index, condition in enumerate(conditions):
        path = f"status.conditions[{index}]"
        if condition.type in seen:
            problems.append(errors.duplicate(f"{path}.type", condition.type))
        seen.add(condition.type)
        details = names.qualified_name_problems(condition.type)
        problems += [errors.invalid(f"{path}.type", condition.type, detail) for detail in details]
        statuses = ("False", "True", "Unknown")
        if condition.status not in statuses:
            problems.append(errors.not_supported(f"{path}.status", condition.status, statuses, as_json=True))
        if condition.observed_generation < 0:
            detail = "must be greater than or equal to zero"
            problems.append(errors.invalid(f"{path}.observedGeneration", condition.observed_generation, detail))
        if condition.last_transition_time is None:
            problems.append(errors.required(f"{path}.lastTransitionTime"))
        problems += _reason_problems(f"{path}.reason", condition.reason)
        if _size(condition.message) > _MAX_MESSAGE:
            problems.append(errors.too_long(f"{path}.message", _MAX_MESSAGE))
    return problems


def _reason_problems(path: str, reason: str) -> Problems:
    if not reason:
        return [errors.required(path)]
    problems: Problems = []
    if not re.fullmatch(_REASON_PATTERN, reason, re.ASCII):
        problems.append(errors.invalid(path, reason, _REASON_DETAIL))
    if _size(reason) > _MAX_REASON:
        problems.append(errors.too_long(path, _MAX_REASON))
    return problems


# --- validation of what was issued --------------------------------------------------------------------------------

_CHAIN: Final = "status.certificateChain"


def _issue_problems(new: PodCertificateRequest, now: datetime.datetime) -> Problems:
    chain = new.status.certificate_chain
    text = chain.encode("utf-8", "surrogatepass")
    if len(text) > _MAX_CHAIN:
        return [errors.too_long(_CHAIN, _MAX_CHAIN)]
    try:
        leaf = podcertificates.parse_leaf(text)
    except podcertificates.ChainError as problem:
        return [errors.invalid(_CHAIN, chain, str(problem))]
    problems = _leaf_name_problems(leaf)
    if not podcertificates.is_issued_to(
        leaf, stub=new.spec.stub_pkcs10_request or b"", spki=new.spec.pkix_public_key or b""
    ):
        detail = "leaf certificate was not issued to the requested public key"
        return [*problems, errors.invalid(_CHAIN, chain, detail)]
    problems += _presence_problems(new.status)
    if problems:
        return problems
    problems = _validity_problems(new, leaf, now) or _refresh_problems(new.status)
    if problems:
        return problems
    try:
        podcertificates.check_intermediates(text)
    except podcertificates.ChainError as problem:
        return [errors.invalid(_CHAIN, chain, str(problem))]
    return []


def _leaf_name_problems(leaf: podcertificates.Leaf) -> Problems:
    problems: Problems = []
    for name in leaf.dns_names:
        if not name:
            problems.append(errors.invalid(_CHAIN, name, "leaf certificate should not contain empty DNSName"))
        if ".." in name:
            problems.append(errors.invalid(_CHAIN, name, "leaf certificate's DNSName should not contain '..'"))
        if name.startswith(".") or name.endswith("."):
            detail = "leaf certificate's DNSName should not start or end with '.'"
            problems.append(errors.invalid(_CHAIN, name, detail))
    problems += [
        errors.invalid(_CHAIN, address, "leaf certificate should not contain invalid EmailAddress")
        for address in leaf.email_addresses
        if not podcertificates.is_mailbox(address)
    ]
    return problems


def _presence_problems(status: PodCertificateRequestStatus) -> Problems:
    consistent = "must be present and consistent with the issued certificate"
    between = "must be present and in the range [notbefore+10min, notafter-10min]"
    return [
        errors.required(f"status.{name}", detail)
        for name, value, detail in (
            ("notBefore", status.not_before, consistent),
            ("notAfter", status.not_after, consistent),
            ("beginRefreshAt", status.begin_refresh_at, between),
        )
        if value is None
    ]


def _validity_problems(new: PodCertificateRequest, leaf: podcertificates.Leaf, now: datetime.datetime) -> Problems:
    """The first problem of notBefore, notAfter and the lifetime."""
    not_before, not_after = new.status.not_before or "", new.status.not_after or ""
    if timestamps.parse_rfc3339(not_before) != leaf.not_before:
        detail = "must be set to the NotBefore time encoded in the leaf certificate"
        return [errors.invalid("status.notBefore", not_before, detail)]
    if not now - _SKEW < leaf.not_before < now + _SKEW:
        detail = "must be set to within 5 minutes of kube-apiserver's current time"
        return [errors.invalid("status.notBefore", not_before, detail)]
    if timestamps.parse_rfc3339(not_after) != leaf.not_after:
        detail = "must be set to the NotAfter time encoded in the leaf certificate"
        return [errors.invalid("status.notAfter", not_after, detail)]
    # Go prints durations in nanoseconds.
    seconds = (leaf.not_after - leaf.not_before) // datetime.timedelta(seconds=1)
    maximum = new.spec.max_expiration_seconds or 0
    if seconds < _MIN_SECONDS:
        return [errors.invalid(_CHAIN, seconds * 10**9, "leaf certificate lifetime must be >= 1 hour")]
    if seconds > maximum:
        detail = f"leaf certificate lifetime must be <= spec.maxExpirationSeconds ({maximum})"
        return [errors.invalid(_CHAIN, seconds * 10**9, detail)]
    return []


def _refresh_problems(status: PodCertificateRequestStatus) -> Problems:
    path, text = "status.beginRefreshAt", status.begin_refresh_at or ""
    not_before, refresh, not_after = (
        timestamps.parse_rfc3339(time or "") for time in (status.not_before, status.begin_refresh_at, status.not_after)
    )
    if refresh < not_before + _REFRESH_MARGIN:
        return [errors.invalid(path, text, "must be at least 10 minutes after status.notBefore")]
    if refresh > not_after - _REFRESH_MARGIN:
        return [errors.invalid(path, text, "must be at least 10 minutes before status.notAfter")]
    return []


# --- columns ------------------------------------------------------------------------------------------------------


def _annotations_text(request: PodCertificateRequest) -> str:
    pairs = sorted(request.spec.unverified_user_annotations.items())
    return ",".join(f"{key}={value}" for key, value in pairs) or "<none>"


RESOURCE: Final[resource.Resource[PodCertificateRequest]] = resource.Resource(
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
    metadata_validation=resource.MetadataValidation.CHANGE,
    selectable={
        "spec.signerName": lambda obj: obj.spec.signer_name,
        "spec.podName": lambda obj: obj.spec.pod_name,
        "spec.nodeName": lambda obj: obj.spec.node_name,
    },
    selects_namespace=False,
    unknown_selector=lambda label: f"field label not supported: {label}",
    subresources=(
        resource.Subresource(
            "status",
            owns=("status",),
            prepare=_keep_metadata,
            validate=status_problems,
            metadata_validation=resource.MetadataValidation.CHANGE,
            reset_fields=("spec",),
            has_table=True,
        ),
    ),
    allow_unconditional_update=False,
    columns=(
        resource.Column("Name", "Name of the request.", lambda obj, _: obj.metadata.name, format="name"),
        resource.Column("PodName", "Pod that the certificate is for.", lambda obj, _: obj.spec.pod_name),
        resource.Column(
            "ServiceAccountName", "Service account of the pod.", lambda obj, _: obj.spec.service_account_name
        ),
        resource.Column("NodeName", "Node of the pod.", lambda obj, _: obj.spec.node_name),
        resource.Column("SignerName", "Name of the signer.", lambda obj, _: obj.spec.signer_name),
        resource.Column("State", "Pending, Issued, Denied or Failed.", lambda obj, _: state_text(obj)),
        resource.Column(
            "UnverifiedUserAnnotations", "Parameters for the signer.", lambda obj, _: _annotations_text(obj)
        ),
    ),
)
RESOURCE_V1: Final = resource.later_version(RESOURCE, "v1")
