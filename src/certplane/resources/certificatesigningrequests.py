"""CertificateSigningRequest: somebody asks for a certificate, somebody else decides, a signer answers.

Three doors to one object, and what each may write is the separation of duties: the object itself (metadata only, once
created), `/approval` (conditions), `/status` (the certificate, once, and conditions other than the decision).

Source: kubernetes, `pkg/apis/certificates`, `pkg/registry/certificates/certificates/strategy.go`; KEP-1513.
"""

from __future__ import annotations

import copy
import datetime
import difflib
import json
from collections.abc import Sequence
from typing import Annotated, Any, Final

from msgspec import field

from certplane import clock, errors, gotext
from certplane.meta import codec, context, objects, resource, validation
from certplane.meta.objects import always, doc
from certplane.x509 import certificates, csr, privatekeys, profiles

Problems = list[errors.FieldProblem]

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
#: There are 23, and none may be there twice; of each that is wrong all of them are told.
_MOST_USAGES: Final = 100
_SHORTEST_SECONDS: Final = 600


class CertificateSigningRequestCondition(objects.Type):
    """CertificateSigningRequestCondition is one fact about a request: that it was approved, denied, or has failed."""

    type: Annotated[
        str,
        doc(
            "Approved and Denied are decisions and exclude each other; Failed says that the signer gave up. Decisions "
            "and failures stay. Other types may be added and removed freely.",
            go="v1.RequestConditionType",
            required=True,
        ),
    ] = always(str)
    status: Annotated[
        str,
        doc("True for the types above; True, False or Unknown for others.", go="v1.ConditionStatus", required=True),
    ] = always(str)
    reason: Annotated[str, doc("A word for programs: why this is so.")] = ""
    message: Annotated[str, doc("A sentence for people: why this is so.")] = ""
    last_update_time: Annotated[objects.Time | None, doc("When the condition was last written.")] = always(lambda: None)
    last_transition_time: Annotated[
        objects.Time | None, doc("When its status last changed. Filled in by the server if it is not given.")
    ] = always(lambda: None)


class CertificateSigningRequestSpec(objects.Type):
    """CertificateSigningRequestSpec is what is asked for, and by whom. It never changes."""

    request: Annotated[
        bytes | None,
        doc("The certificate request: PKCS#10, in PEM.", required=True),
    ] = always(lambda: None)
    signer_name: Annotated[
        str,
        doc(
            "Which signer is to answer, as domain/path. Built in: kubernetes.io/kube-apiserver-client for clients of "
            "the API server, kubernetes.io/kube-apiserver-client-kubelet for kubelets as clients, "
            "kubernetes.io/kubelet-serving for kubelets as servers. The signer decides what it permits.",
            required=True,
        ),
    ] = always(str)
    expiration_seconds: Annotated[
        objects.Int32 | None,
        doc(
            "How long the certificate should be valid, at least 600 seconds. The signer may give less, or more if "
            "nothing is asked for."
        ),
    ] = None
    usages: Annotated[
        list[Annotated[str, doc("", go="v1.KeyUsage")]],
        doc(
            "What the key is to be used for. For clients: digital signature, client auth; for servers: digital "
            "signature, server auth; with RSA keys also key encipherment.",
            list_type="atomic",
            enum=USAGES,
        ),
    ] = field(default_factory=list)
    username: Annotated[str, doc("Who created the request. Filled in by the server.")] = ""
    uid: Annotated[str, doc("UID of the one who created the request. Filled in by the server.")] = ""
    groups: Annotated[
        list[str],
        doc("Groups of the one who created the request. Filled in by the server.", list_type="atomic"),
    ] = field(default_factory=list)
    extra: Annotated[
        dict[str, objects.ExtraValue],
        doc("What else authentication knew of the one who created the request. Filled in by the server."),
    ] = field(default_factory=dict)


class CertificateSigningRequestStatus(objects.Type):
    """CertificateSigningRequestStatus is what became of the request."""

    conditions: Annotated[
        list[CertificateSigningRequestCondition],
        doc("What is known about the request.", list_type="map", keys=("type",)),
    ] = field(default_factory=list)
    certificate: Annotated[
        bytes,
        doc("The certificate, in PEM, perhaps followed by intermediates. Written once, by the signer, after approval."),
    ] = b""


class CertificateSigningRequest(objects.Object):
    """CertificateSigningRequest asks a signer for an X.509 certificate. Somebody who may approve for that signer has to
    approve it first; then the signer writes the certificate into the status. Kubelets use it for their client and
    serving certificates, people and programs for client certificates to the API server.
    """

    spec: Annotated[
        CertificateSigningRequestSpec,
        doc("What is asked for, and by whom. Cannot be changed.", required=True),
    ] = always(CertificateSigningRequestSpec)
    status: Annotated[
        CertificateSigningRequestStatus,
        doc("Whether the request was approved or denied, and the certificate."),
    ] = always(CertificateSigningRequestStatus)


# --- facts --------------------------------------------------------------------------------------------------------


def has_condition(of: CertificateSigningRequest, type_: str) -> bool:
    """Whether there is a condition of a type, whatever its status."""
    return any(each.type == type_ for each in of.status.conditions)


def is_approved(of: CertificateSigningRequest) -> bool:
    """Approved, and not denied: a signer may answer."""
    return has_condition(of, APPROVED) and not has_condition(of, DENIED)


def is_decided(of: CertificateSigningRequest) -> bool:
    """Approved, denied or issued: there is nothing left to approve."""
    return bool(of.status.certificate) or has_condition(of, APPROVED) or has_condition(of, DENIED)


def condition_text(of: CertificateSigningRequest) -> str:
    """The state in one word or three, as `kubectl get csr` prints it."""
    text = DENIED if has_condition(of, DENIED) else APPROVED if has_condition(of, APPROVED) else "Pending"
    if has_condition(of, FAILED):
        text += ",Failed"
    return text + ",Issued" if of.status.certificate else text


def signer_label(signer_name: str) -> str:
    """A signer as the label of a metric: users' own signers share one value."""
    return signer_name if signer_name.startswith("kubernetes.io/") else "other"


def durations_first_set(new: CertificateSigningRequest, old: CertificateSigningRequest) -> tuple[str, bool] | None:
    """For the metrics of requested and honoured durations: the signer's label, and whether the certificate just set
    lasts about as long as was asked for. None if this write sets no certificate, or none was asked to last.
    """
    seconds = new.spec.expiration_seconds
    if old.status.certificate or not new.status.certificate or seconds is None:
        return None
    found = certificates.lifetime(new.status.certificate)
    tolerance = 5 * 60 + seconds * 0.05
    honoured = found is not None and abs(found.total_seconds() - seconds) < tolerance
    return signer_label(new.spec.signer_name), honoured


# --- life-cycle ---------------------------------------------------------------------------------------------------


def take_identity_from_caller(new: CertificateSigningRequest, call: context.Call) -> None:
    """Whatever the body says, the request comes from the one who sent it, and nothing has become of it yet."""
    user = call.user
    new.spec.username = user.name
    new.spec.uid = user.uid
    new.spec.groups = list(user.groups)
    new.spec.extra = {key: list(values) for key, values in sorted(user.extra.items())}
    new.status = CertificateSigningRequestStatus()


def _stamp_conditions(new: CertificateSigningRequest, old: CertificateSigningRequest, call: context.Call) -> None:
    now = clock.rfc3339(call.now)
    since: dict[tuple[str, str], str] = {}
    for before in old.status.conditions:
        if before.last_transition_time:
            since.setdefault((before.type, before.status), before.last_transition_time)
    for each in new.status.conditions:
        if each.last_update_time is None:
            each.last_update_time = now
        if each.last_transition_time is None:
            each.last_transition_time = since.get((each.type, each.status), now)


def _keep_decisions(new: CertificateSigningRequest, old: CertificateSigningRequest, call: context.Call) -> None:
    """A signer that writes all conditions back does not change the decisions among them, if their number is the
    same.
    """
    for type_ in _DECISIONS:
        before = _of_type(old, type_)
        places = [at for at, each in enumerate(new.status.conditions) if each.type == type_]
        if len(before) == len(places):
            for at, each in zip(places, before, strict=True):
                new.status.conditions[at] = each
    _copy_shared(new, old)
    _stamp_conditions(new, old, call)


def _copy_shared(new: CertificateSigningRequest, old: CertificateSigningRequest) -> None:
    """Conditions taken from the stored object are shared with its other readers, and are about to be stamped."""
    shared = {id(each) for each in old.status.conditions}
    new.status.conditions = [
        codec.decode(codec.encode(each), CertificateSigningRequestCondition) if id(each) in shared else each
        for each in new.status.conditions
    ]


# --- validation ---------------------------------------------------------------------------------------------------


def validate(new: CertificateSigningRequest) -> Problems:
    """A new request."""
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
        csr.verify(csr.parse(spec.request or b""))
    except csr.RequestError as error:
        if privatekeys.is_in(spec.request or b""):
            return [errors.invalid_without_value("spec.request", privatekeys.FOUND)]
        return [errors.invalid("spec.request", spec.request, str(error))]
    return []


def _usage_problems(usages: Sequence[str], old: CertificateSigningRequest | None) -> Problems:
    problems: Problems = []
    if not usages:
        problems.append(errors.required("spec.usages"))
    if too_many := validation.count_problems(usages, "spec.usages", _MOST_USAGES):
        return too_many
    tolerated = old is not None and any(each not in USAGES for each in old.spec.usages)
    if not tolerated:
        problems.extend(
            errors.not_supported(f"spec.usages[{at}]", each, _SORTED_USAGES, as_json=True)
            for at, each in enumerate(usages)
            if each not in USAGES
        )
    if old is None or len(set(old.spec.usages)) == len(old.spec.usages):
        seen: set[str] = set()
        for at, each in enumerate(usages):
            if each in seen:
                problems.append(errors.duplicate(f"spec.usages[{at}]", each, as_json=True))
            seen.add(each)
    return problems


def _signer_problems(name: str, old: CertificateSigningRequest | None) -> Problems:
    path = "spec.signerName"
    if name == profiles.LEGACY_UNKNOWN and (old is None or old.spec.signer_name != name):
        return [errors.invalid(path, name, "the legacy signerName is not allowed via this API version")]
    return validation.signer_name_problems(name, path)


def _expiration_problems(seconds: int | None) -> Problems:
    if seconds is None or seconds >= _SHORTEST_SECONDS:
        return []
    why = "may not specify a duration less than 600 seconds (10 minutes)"
    return [errors.invalid("spec.expirationSeconds", seconds, why)]


def _condition_problems(
    conditions: Sequence[CertificateSigningRequestCondition], old: CertificateSigningRequest | None
) -> Problems:
    stored = old.status.conditions if old is not None else []
    both = {*_DECISIONS} <= {each.type for each in stored}
    doubled = len({each.type for each in stored}) < len(stored)
    nameless = any(not each.type for each in stored)
    problems: Problems = []
    seen: set[str] = set()
    for at, each in enumerate(conditions):
        path = f"status.conditions[{at}]"
        if not each.type and not nameless:
            problems.append(errors.required(f"{path}.type"))
        problems.extend(_condition_status_problems(each, f"{path}.status"))
        opposite = {APPROVED: DENIED, DENIED: APPROVED}.get(each.type)
        if opposite in seen and not both:
            why = "Approved and Denied conditions are mutually exclusive"
            problems.append(errors.invalid("status.conditions", each.type, why, as_json=True))
        if each.type in seen and not doubled:
            problems.append(errors.duplicate(f"{path}.type", each.type, as_json=True))
        seen.add(each.type)
    return problems


def _condition_status_problems(of: CertificateSigningRequestCondition, path: str) -> Problems:
    if not of.status:
        return [errors.required(path)]
    allowed = ("True",) if of.type in _KNOWN else ("False", "True", "Unknown")
    return [] if of.status in allowed else [errors.not_supported(path, of.status, allowed, as_json=True)]


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


def _validate_update(new: CertificateSigningRequest, old: CertificateSigningRequest, door: str) -> Problems:
    return [
        *_validate(new, old),
        *_removals(new, old),
        *(_changed_decisions(new, old) if door != "approval" else ()),
        *_certificate_changes(new, old, door),
    ]


def _removals(new: CertificateSigningRequest, old: CertificateSigningRequest) -> Problems:
    """Decisions and failures stay."""
    return [
        errors.forbidden("status.conditions", f'updates may not remove a condition of type "{type_}"')
        for type_ in _KNOWN
        if len(_of_type(new, type_)) < len(_of_type(old, type_))
    ]


def _changed_decisions(new: CertificateSigningRequest, old: CertificateSigningRequest) -> Problems:
    """Decisions are made through `/approval` only."""
    problems = []
    for type_ in _DECISIONS:
        now, before = _of_type(new, type_), _of_type(old, type_)
        text = ""
        if len(now) > len(before):
            text = f'updates may not add a condition of type "{type_}"'
        elif len(now) == len(before) and now != before:
            text = f'updates may not modify a condition of type "{type_}"\n{_difference(before, now)}'
        if text:
            problems.append(errors.forbidden("status.conditions", text))
    return problems


def _of_type(of: CertificateSigningRequest, type_: str) -> list[CertificateSigningRequestCondition]:
    return [each for each in of.status.conditions if each.type == type_]


def _certificate_changes(new: CertificateSigningRequest, old: CertificateSigningRequest, door: str) -> Problems:
    if new.status.certificate == old.status.certificate:
        return []
    if door != "status":
        return [errors.forbidden("status.certificate", "updates may not set certificate content")]
    if old.status.certificate:
        return [errors.forbidden("status.certificate", "updates may not modify existing certificate content")]
    return []


def _difference(before: Sequence[Any], now: Sequence[Any]) -> str:
    def lines(side: Sequence[Any]) -> list[str]:
        return json.dumps([codec.to_builtins(each) for each in side], indent=2).splitlines()

    return "\n".join(difflib.unified_diff(lines(before), lines(now), lineterm=""))


# --- columns ------------------------------------------------------------------------------------------------------


def _duration(of: CertificateSigningRequest, now: datetime.datetime) -> str:
    del now
    seconds = of.spec.expiration_seconds
    return "<none>" if seconds is None else gotext.human_duration(seconds)


def with_condition(
    of: CertificateSigningRequest, type_: str, reason: str, message: str, updated: str | None = None
) -> CertificateSigningRequest:
    """A copy of a request with one more condition, for a write through a subresource; `of` stays as it is."""
    new = copy.copy(of)
    new.status = copy.copy(of.status)
    added = CertificateSigningRequestCondition(
        type=type_, status="True", reason=reason, message=message, last_update_time=updated
    )
    new.status.conditions = [*of.status.conditions, added]
    return new


RESOURCE: Final = resource.Resource(
    group="certificates.k8s.io",
    version="v1",
    former=("v1beta1",),
    kind="CertificateSigningRequest",
    plural="certificatesigningrequests",
    short_names=("csr",),
    type=CertificateSigningRequest,
    namespaced=False,
    ignored_fields=("spec", "status"),
    prepare_create=take_identity_from_caller,
    validate=validate,
    validate_update=lambda new, old: _validate_update(new, old, ""),
    selectable={"spec.signerName": lambda of: of.spec.signer_name},
    selects_namespace=False,
    unknown_selector=lambda label: f"field label not supported: {label}",
    subresources=(
        resource.Subresource(
            "approval",
            owns=("status.conditions",),
            prepare=_stamp_conditions,
            validate=lambda new, old, _: _validate_update(new, old, "approval"),
            ignored_fields=("spec", "status.certificate"),
        ),
        resource.Subresource(
            "status",
            owns=("status.certificate", "status.conditions"),
            prepare=_keep_decisions,
            validate=lambda new, old, _: _validate_update(new, old, "status"),
            ignored_fields=("spec", "status.conditions"),
            has_table=True,
        ),
    ),
    columns=(
        resource.Column("Name", "Name of the request.", lambda of, _: of.metadata.name, format="name"),
        resource.Column("Age", "Time since the request was created.", resource.age),
        resource.Column("SignerName", "Signer that is to answer.", lambda of, _: of.spec.signer_name or "<none>"),
        resource.Column("Requestor", "Who created the request.", lambda of, _: of.spec.username),
        resource.Column("RequestedDuration", "How long the certificate should last.", _duration),
        resource.Column(
            "Condition", "Whether it was approved, denied, has failed, was issued.", lambda of, _: condition_text(of)
        ),
    ),
)
