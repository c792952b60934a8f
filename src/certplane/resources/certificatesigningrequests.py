"""CertificateSigningRequest: a user requests a certificate, an approver decides, a signer issues it.

Duties are separated by what each subresource may write: the object itself only metadata once it is created, `/approval`
the conditions, `/status` the certificate (once) and the conditions other than the decision.

Source: kubernetes, `pkg/apis/certificates`, `pkg/registry/certificates/certificates/strategy.go`; KEP-1513.
"""

from __future__ import annotations

import copy
import datetime
import difflib
import json
from collections.abc import Sequence
from typing import Annotated, Final

from msgspec import field

from certplane import errors, signernames, timestamps
from certplane.errors import Problems
from certplane.golang import formatting
from certplane.meta import objects, resource, validation
from certplane.meta.context import VerbContext
from certplane.meta.objects import always, doc
from certplane.wire import codec
from certplane.x509 import privatekeys
from certplane.x509.issuance import profiles
from certplane.x509.pkcs10 import certificaterequest
from certplane.x509.trust import certificates

APPROVED: Final = "Approved"
DENIED: Final = "Denied"
FAILED: Final = "Failed"
_DECISIONS: Final = (APPROVED, DENIED)
_KNOWN: Final = (APPROVED, DENIED, FAILED)

USAGES: Final = (
    "signing", "digital signature", "content commitment", "key encipherment", "key agreement", "data encipherment",
    "cert sign", "crl sign", "encipher only", "decipher only", "any", "server auth", "client auth", "code signing",
    "email protection", "s/mime", "ipsec end system", "ipsec tunnel", "ipsec user", "timestamping", "ocsp signing",
    "microsoft sgc", "netscape sgc",
)  # fmt: skip
_SORTED_USAGES: Final = tuple(sorted(USAGES))
#: Usages in one request. There are 23 and duplicates are an error, but every invalid one is reported.
_MAX_USAGES: Final = 100
#: The minimum of spec.expirationSeconds.
MIN_EXPIRATION_SECONDS: Final = 600


class CertificateSigningRequestCondition(objects.Type):
    """CertificateSigningRequestCondition is a condition of a request: that it was approved, was denied, or failed."""

    type: Annotated[
        str,
        doc(
            "Type of the condition. Approved and Denied are decisions and mutually exclusive; Failed means that the "
            "signer failed to issue the certificate. Conditions of these types cannot be removed. Other types may be "
            "added and removed.",
            go="v1.RequestConditionType",
            required=True,
        ),
    ] = always(str)
    status: Annotated[
        str,
        doc(
            "Status of the condition: True for Approved, Denied and Failed; True, False or Unknown for other types.",
            go="v1.ConditionStatus",
            required=True,
        ),
    ] = always(str)
    reason: Annotated[str, doc("Reason for the condition, as a code for programs.")] = ""
    message: Annotated[str, doc("Human-readable details about the condition.")] = ""
    last_update_time: Annotated[objects.Time | None, doc("Time of the last update of the condition.")] = always(
        lambda: None
    )
    last_transition_time: Annotated[
        objects.Time | None, doc("Time when the status last changed. Set by the server if empty.")
    ] = always(lambda: None)


class CertificateSigningRequestSpec(objects.Type):
    """CertificateSigningRequestSpec is the requested certificate and the identity of the requestor. Immutable."""

    request: Annotated[
        bytes | None,
        doc("The PKCS#10 certificate request, in PEM.", required=True),
    ] = always(lambda: None)
    signer_name: Annotated[
        str,
        doc(
            "Name of the signer, as domain/path. Built-in signers: kubernetes.io/kube-apiserver-client for client "
            "certificates, kubernetes.io/kube-apiserver-client-kubelet for client certificates of kubelets, "
            "kubernetes.io/kubelet-serving for serving certificates of kubelets. Each signer has rules for the "
            "requests that it signs.",
            required=True,
        ),
    ] = always(str)
    expiration_seconds: Annotated[
        objects.Int32 | None,
        doc(
            "Requested lifetime of the certificate in seconds, at least 600. The signer may issue a certificate with a "
            "shorter lifetime. If empty, the signer chooses the lifetime."
        ),
    ] = None
    usages: Annotated[
        list[Annotated[str, doc("", go="v1.KeyUsage")]],
        doc(
            "Requested key usages. Usual for client certificates: digital signature, client auth; for serving "
            "certificates: digital signature, server auth; with RSA keys also key encipherment.",
            list_type="atomic",
            enum=USAGES,
        ),
    ] = field(default_factory=list)
    username: Annotated[str, doc("Name of the user who created the request. Set by the server.")] = ""
    uid: Annotated[str, doc("UID of the user who created the request. Set by the server.")] = ""
    groups: Annotated[
        list[str],
        doc("Groups of the user who created the request. Set by the server.", list_type="atomic"),
    ] = field(default_factory=list)
    extra: Annotated[
        dict[str, objects.ExtraValue],
        doc("Extra attributes of the user who created the request. Set by the server."),
    ] = field(default_factory=dict)


class CertificateSigningRequestStatus(objects.Type):
    """CertificateSigningRequestStatus is the state of the request and the issued certificate."""

    conditions: Annotated[
        list[CertificateSigningRequestCondition],
        doc("Conditions of the request: the decision, and a failure of the signer.", list_type="map", keys=("type",)),
    ] = field(default_factory=list)
    certificate: Annotated[
        bytes,
        doc("The issued certificate in PEM, optionally followed by intermediates. Set once, by the signer."),
    ] = b""


class CertificateSigningRequest(objects.Object):
    """CertificateSigningRequest requests an X.509 certificate from a signer. A user with permission to approve requests
    for that signer has to approve it first; then the signer writes the certificate to the status. Kubelets use it for
    their client and serving certificates, users and workloads for client certificates of the API server.
    """

    spec: Annotated[
        CertificateSigningRequestSpec,
        doc("The requested certificate and the identity of the requestor. Immutable.", required=True),
    ] = always(CertificateSigningRequestSpec)
    status: Annotated[
        CertificateSigningRequestStatus,
        doc("The decision about the request, and the issued certificate."),
    ] = always(CertificateSigningRequestStatus)


# --- facts --------------------------------------------------------------------------------------------------------


def has_condition(csr: CertificateSigningRequest, type_: str) -> bool:
    """Whether the request has a condition of a type, with any status."""
    return any(condition.type == type_ for condition in csr.status.conditions)


def is_approved(csr: CertificateSigningRequest) -> bool:
    """Whether a signer may issue the certificate: approved, and not denied."""
    return has_condition(csr, APPROVED) and not has_condition(csr, DENIED)


def is_decided(csr: CertificateSigningRequest) -> bool:
    """Whether the request is approved, denied or issued."""
    return bool(csr.status.certificate) or has_condition(csr, APPROVED) or has_condition(csr, DENIED)


def condition_text(csr: CertificateSigningRequest) -> str:
    """The state in the format of `kubectl get csr`, such as `Approved,Issued`."""
    text = DENIED if has_condition(csr, DENIED) else APPROVED if has_condition(csr, APPROVED) else "Pending"
    if has_condition(csr, FAILED):
        text += ",Failed"
    return text + ",Issued" if csr.status.certificate else text


def signer_label(signer_name: str) -> str:
    """The label of a metric for a signer: all signers outside kubernetes.io share the value `other`."""
    return signer_name if signer_name.startswith("kubernetes.io/") else "other"


def duration_metric(new: CertificateSigningRequest, old: CertificateSigningRequest) -> tuple[str, bool] | None:
    """The signer's label, and whether the certificate has about the requested lifetime, for the metrics of requested
    and honored durations. None unless this update sets the certificate and a lifetime was requested.
    """
    seconds = new.spec.expiration_seconds
    if old.status.certificate or not new.status.certificate or seconds is None:
        return None
    lifetime = certificates.lifetime(new.status.certificate)
    tolerance = 5 * 60 + seconds * 0.05
    is_honored = lifetime is not None and abs(lifetime.total_seconds() - seconds) < tolerance
    return signer_label(new.spec.signer_name), is_honored


# --- lifecycle ----------------------------------------------------------------------------------------------------


def take_identity_from_caller(new: CertificateSigningRequest, call: VerbContext) -> None:
    """Set the requestor to the authenticated user, whatever the body says, and clear the status."""
    user = call.user
    new.spec.username = user.name
    new.spec.uid = user.uid
    new.spec.groups = list(user.groups)
    new.spec.extra = {key: list(values) for key, values in sorted(user.extra.items())}
    new.status = CertificateSigningRequestStatus()


def _stamp_conditions(new: CertificateSigningRequest, old: CertificateSigningRequest, call: VerbContext) -> None:
    now = timestamps.rfc3339(call.now)
    since: dict[tuple[str, str], str] = {}
    for before in old.status.conditions:
        if before.last_transition_time:
            since.setdefault((before.type, before.status), before.last_transition_time)
    for condition in new.status.conditions:
        if condition.last_update_time is None:
            condition.last_update_time = now
        if condition.last_transition_time is None:
            condition.last_transition_time = since.get((condition.type, condition.status), now)


def _keep_decisions(new: CertificateSigningRequest, old: CertificateSigningRequest, call: VerbContext) -> None:
    """Replace the decisions in the new status by the stored ones, if their number is the same: a signer that writes all
    conditions back must not change them.
    """
    for type_ in _DECISIONS:
        before = _conditions_of_type(old, type_)
        indexes = [index for index, condition in enumerate(new.status.conditions) if condition.type == type_]
        if len(before) == len(indexes):
            for index, condition in zip(indexes, before, strict=True):
                new.status.conditions[index] = condition
    _copy_shared(new, old)
    _stamp_conditions(new, old, call)


def _copy_shared(new: CertificateSigningRequest, old: CertificateSigningRequest) -> None:
    """Copy the conditions that were taken from the stored object, because it is shared and they are going to change."""
    shared = {id(condition) for condition in old.status.conditions}
    new.status.conditions = [
        codec.decode(codec.encode(condition), CertificateSigningRequestCondition)
        if id(condition) in shared
        else condition
        for condition in new.status.conditions
    ]


# --- validation ---------------------------------------------------------------------------------------------------


def validate(new: CertificateSigningRequest) -> Problems:
    """Validate a new request."""
    return _validate(new, None)


def _validate(new: CertificateSigningRequest, old: CertificateSigningRequest | None) -> Problems:
    return [
        *_request_problems(new.spec),
        *_usage_problems(new.spec.usages, old),
        *_signer_problems(new.spec.signer_name, old),
        *_expiration_problems(new.spec.expiration_seconds),
        *_condition_problems(new.status.conditions, old),
        *_certificate_problems(new.status.certificate, old),
    ]


def _request_problems(spec: CertificateSigningRequestSpec) -> Problems:
    try:
        certificaterequest.verified(spec.request or b"")
    except certificaterequest.RequestError as error:
        if privatekeys.contains_key(spec.request or b""):
            return [errors.invalid_without_value("spec.request", privatekeys.EXPOSED_MESSAGE)]
        return [errors.invalid("spec.request", spec.request, str(error))]
    return []


def _usage_problems(usages: Sequence[str], old: CertificateSigningRequest | None) -> Problems:
    problems: Problems = []
    if not usages:
        problems.append(errors.required("spec.usages"))
    if too_many := validation.count_problems(usages, "spec.usages", _MAX_USAGES):
        return too_many
    # Ratcheting: an object that is stored with an invalid usage can still be updated.
    is_tolerated = old is not None and any(usage not in USAGES for usage in old.spec.usages)
    if not is_tolerated:
        problems.extend(
            errors.not_supported(f"spec.usages[{index}]", usage, _SORTED_USAGES, as_json=True)
            for index, usage in enumerate(usages)
            if usage not in USAGES
        )
    if old is None or len(set(old.spec.usages)) == len(old.spec.usages):
        seen: set[str] = set()
        for index, usage in enumerate(usages):
            if usage in seen:
                problems.append(errors.duplicate(f"spec.usages[{index}]", usage, as_json=True))
            seen.add(usage)
    return problems


def _signer_problems(name: str, old: CertificateSigningRequest | None) -> Problems:
    path = "spec.signerName"
    if name == signernames.LEGACY_UNKNOWN and (old is None or old.spec.signer_name != name):
        return [errors.invalid(path, name, "the legacy signerName is not allowed via this API version")]
    return validation.signer_name_problems(name, path)


def _expiration_problems(seconds: int | None) -> Problems:
    if seconds is None or seconds >= MIN_EXPIRATION_SECONDS:
        return []
    detail = "may not specify a duration less than 600 seconds (10 minutes)"
    return [errors.invalid("spec.expirationSeconds", seconds, detail)]


def _condition_problems(
    conditions: Sequence[CertificateSigningRequestCondition], old: CertificateSigningRequest | None
) -> Problems:
    stored = old.status.conditions if old is not None else []
    # Ratcheting: what is wrong with the stored conditions is tolerated in the new ones.
    stored_types = {condition.type for condition in stored}
    has_both = {*_DECISIONS} <= stored_types
    has_duplicates = len(stored_types) < len(stored)
    has_empty_type = "" in stored_types
    problems: Problems = []
    seen: set[str] = set()
    for index, condition in enumerate(conditions):
        path = f"status.conditions[{index}]"
        if not condition.type and not has_empty_type:
            problems.append(errors.required(f"{path}.type"))
        problems.extend(_condition_status_problems(condition, f"{path}.status"))
        opposite = {APPROVED: DENIED, DENIED: APPROVED}.get(condition.type)
        if opposite in seen and not has_both:
            detail = "Approved and Denied conditions are mutually exclusive"
            problems.append(errors.invalid("status.conditions", condition.type, detail, as_json=True))
        if condition.type in seen and not has_duplicates:
            problems.append(errors.duplicate(f"{path}.type", condition.type, as_json=True))
        seen.add(condition.type)
    return problems


def _condition_status_problems(condition: CertificateSigningRequestCondition, path: str) -> Problems:
    if not condition.status:
        return [errors.required(path)]
    allowed = ("True",) if condition.type in _KNOWN else ("False", "True", "Unknown")
    return [] if condition.status in allowed else [errors.not_supported(path, condition.status, allowed, as_json=True)]


def _certificate_problems(certificate: bytes, old: CertificateSigningRequest | None) -> Problems:
    before = old.status.certificate if old is not None else b""
    if not certificate or certificate == before or (before and _bundle_problem(before)):
        return []
    problem = _bundle_problem(certificate)
    return [errors.invalid("status.certificate", "<certificate data>", problem)] if problem else []


def _bundle_problem(certificate: bytes) -> str:
    try:
        certificates.check_bundle(certificate)
    except certificates.CertificateError as error:
        return str(error)
    return ""


def _validate_update(new: CertificateSigningRequest, old: CertificateSigningRequest, subresource: str) -> Problems:
    return [
        *_validate(new, old),
        *_removal_problems(new, old),
        *(_decision_problems(new, old) if subresource != "approval" else ()),
        *_certificate_change_problems(new, old, subresource),
    ]


def _removal_problems(new: CertificateSigningRequest, old: CertificateSigningRequest) -> Problems:
    """Decisions and failures cannot be removed."""
    return [
        errors.forbidden("status.conditions", f'updates may not remove a condition of type "{type_}"')
        for type_ in _KNOWN
        if len(_conditions_of_type(new, type_)) < len(_conditions_of_type(old, type_))
    ]


def _decision_problems(new: CertificateSigningRequest, old: CertificateSigningRequest) -> Problems:
    """Decisions can be added and changed through `/approval` only."""
    problems = []
    for type_ in _DECISIONS:
        now, before = _conditions_of_type(new, type_), _conditions_of_type(old, type_)
        text = ""
        if len(now) > len(before):
            text = f'updates may not add a condition of type "{type_}"'
        elif len(now) == len(before) and now != before:
            text = f'updates may not modify a condition of type "{type_}"\n{_diff(before, now)}'
        if text:
            problems.append(errors.forbidden("status.conditions", text))
    return problems


def _conditions_of_type(csr: CertificateSigningRequest, type_: str) -> list[CertificateSigningRequestCondition]:
    return [condition for condition in csr.status.conditions if condition.type == type_]


def _certificate_change_problems(
    new: CertificateSigningRequest, old: CertificateSigningRequest, subresource: str
) -> Problems:
    if new.status.certificate == old.status.certificate:
        return []
    if subresource != "status":
        return [errors.forbidden("status.certificate", "updates may not set certificate content")]
    if old.status.certificate:
        return [errors.forbidden("status.certificate", "updates may not modify existing certificate content")]
    return []


def _diff(
    before: Sequence[CertificateSigningRequestCondition], now: Sequence[CertificateSigningRequestCondition]
) -> str:
    def lines(conditions: Sequence[CertificateSigningRequestCondition]) -> list[str]:
        return json.dumps([codec.to_builtins(condition) for condition in conditions], indent=2).splitlines()

    return "\n".join(difflib.unified_diff(lines(before), lines(now), lineterm=""))


# --- columns ------------------------------------------------------------------------------------------------------


def _duration(csr: CertificateSigningRequest, now: datetime.datetime) -> str:
    del now
    seconds = csr.spec.expiration_seconds
    return "<none>" if seconds is None else formatting.human_duration(seconds)


def with_condition(
    csr: CertificateSigningRequest, type_: str, reason: str, message: str, updated: str | None = None
) -> CertificateSigningRequest:
    """A copy of a request with an additional condition, to be written through a subresource."""
    new = copy.copy(csr)
    new.status = copy.copy(csr.status)
    added = CertificateSigningRequestCondition(
        type=type_, status="True", reason=reason, message=message, last_update_time=updated
    )
    new.status.conditions = [*csr.status.conditions, added]
    return new


RESOURCE: Final[resource.Resource[CertificateSigningRequest]] = resource.Resource(
    group="certificates.k8s.io",
    version="v1",
    former_versions=("v1beta1",),
    kind="CertificateSigningRequest",
    plural="certificatesigningrequests",
    short_names=("csr",),
    type=CertificateSigningRequest,
    namespaced=False,
    reset_fields=("spec", "status"),
    prepare_create=take_identity_from_caller,
    validate=validate,
    validate_update=lambda new, old: _validate_update(new, old, ""),
    selectable={"spec.signerName": lambda obj: obj.spec.signer_name},
    selects_namespace=False,
    unknown_selector=lambda label: f"field label not supported: {label}",
    subresources=(
        resource.Subresource(
            "approval",
            owns=("status.conditions",),
            prepare=_stamp_conditions,
            validate=lambda new, old, _: _validate_update(new, old, "approval"),
            reset_fields=("spec", "status.certificate"),
        ),
        resource.Subresource(
            "status",
            owns=("status.certificate", "status.conditions"),
            prepare=_keep_decisions,
            validate=lambda new, old, _: _validate_update(new, old, "status"),
            reset_fields=("spec", "status.conditions"),
            has_table=True,
        ),
    ),
    columns=(
        resource.Column("Name", "Name of the request.", lambda obj, _: obj.metadata.name, format="name"),
        resource.Column("Age", "Time since the request was created.", resource.age),
        resource.Column("SignerName", "Name of the signer.", lambda obj, _: obj.spec.signer_name or "<none>"),
        resource.Column("Requestor", "User who created the request.", lambda obj, _: obj.spec.username),
        resource.Column("RequestedDuration", "Requested lifetime of the certificate.", _duration),
        resource.Column(
            "Condition", "Whether it is approved, denied, failed or issued.", lambda obj, _: condition_text(obj)
        ),
    ),
)


def requested_certificate(csr: CertificateSigningRequest) -> profiles.RequestedCertificate:
    """The certificate that a request is for. Raises certificaterequest.RequestError."""
    spec = csr.spec
    pkcs10 = certificaterequest.parse(spec.request or b"")
    return profiles.RequestedCertificate(pkcs10, spec.usages, spec.username, spec.expiration_seconds)
