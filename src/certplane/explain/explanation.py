"""The explanation of a request: facts in, findings out. Pure.

`explain` puts together what the request asks for, what was checked and with which result, who may approve it, and what
the signer would do or did; `diagnosis` chooses the one sentence that answers "why is there no certificate?".
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import datetime
import enum
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from certplane import timestamps
from certplane.explain import approval, outlook
from certplane.explain.approval import Holder
from certplane.explain.facts import Facts, OwnPermissions, Unread
from certplane.golang import formatting
from certplane.resources import signingpreviews
from certplane.resources.certificatesigningrequests import CertificateSigningRequest
from certplane.resources.events import Event
from certplane.resources.signingpreviews import SigningPreviewStatus
from certplane.x509.issuance import profiles
from certplane.x509.pkcs10 import certificaterequest, weakkeys
from certplane.x509.pkcs10.certificaterequest import CertificateRequest, RequestError
from certplane.x509.trust import certificates

#: What `kubectl apply` keeps of the manifest that it applied last.
_LAST_APPLIED: Final = "kubectl.kubernetes.io/last-applied-configuration"
#: The longest annotation that is read.
_MAX_MANIFEST: Final = 1 << 20


class Result(enum.Enum):
    """The result of a check."""

    OK = "ok"
    PROBLEM = "problem"
    NOTE = "note"
    UNKNOWN = "unknown"


@dataclasses.dataclass(frozen=True, slots=True)
class Check:
    """One check: its name, its result, and what it said."""

    name: str
    result: Result
    message: str


@dataclasses.dataclass(frozen=True, slots=True)
class Requested:
    """What a request asks for. `lifetime_seconds` is None if the signer chooses."""

    signer: str
    usages: tuple[str, ...]
    lifetime_seconds: int | None
    username: str
    groups: tuple[str, ...]
    created: str
    subject: str = ""
    names: tuple[str, ...] = ()
    key: str = ""
    is_ca: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Approval:
    """Who may approve. `problem` says why the roles are not known; `own` is what the user who asks may do."""

    holders: Sequence[Holder] = ()
    problem: str = ""
    own: OwnPermissions | None = None
    own_problem: str = ""
    #: The rules that the user who asks lacks, as lines of a ClusterRole.
    missing_rules: Sequence[str] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Outlook:
    """What the signer would do. `source` says who says so; without a status, nobody knows."""

    status: SigningPreviewStatus | None
    source: str


@dataclasses.dataclass(frozen=True, slots=True)
class Report:
    """An Event about the request. `retry_at` is when the controller that wrote it tries again."""

    time: str
    type: str
    reason: str
    message: str
    count: int
    retry_at: datetime.datetime | None


@dataclasses.dataclass(frozen=True, slots=True)
class Findings:
    """All that is known about a request. `pkcs10` is None if it cannot be read."""

    facts: Facts
    requested: Requested
    pkcs10: CertificateRequest | None
    checks: Sequence[Check]
    approval: Approval
    signers: Sequence[Holder]
    outlook: Outlook
    reports: Sequence[Report]
    has_other_key: bool

    @property
    def csr(self) -> CertificateSigningRequest:
        return self.facts.csr

    @property
    def is_for_server(self) -> bool:
        """Whether the certificate is meant for a server: it is to have the usage, or names of servers."""
        pkcs10 = self.pkcs10
        has_names = pkcs10 is not None and bool(pkcs10.dns_names or pkcs10.ip_addresses)
        return outlook.SERVER_AUTH in self.requested.usages or has_names

    @property
    def next_retry(self) -> datetime.datetime | None:
        """When a controller tries again; None if none says so."""
        return max((report.retry_at for report in self.reports if report.retry_at is not None), default=None)


def find(facts: Facts) -> Findings:
    """What is known about a request."""
    csr = facts.csr
    pkcs10, problem = _parse(csr.spec.request or b"")
    preview = _outlook(facts)
    has_other_key = _has_other_key(csr)
    signers = (
        () if isinstance(facts.roles, Unread) else approval.find_holders(
            facts.roles, "sign", csr.spec.signer_name, csr.metadata.name
        )
    )  # fmt: skip
    checks = [
        *_request_checks(pkcs10, problem),
        *_key_checks(csr, has_other_key),
        *_signer_checks(csr, preview),
        *_purpose_checks(csr, pkcs10, preview),
        *_certificate_checks(csr, facts.now),
    ]
    return Findings(
        facts=facts,
        requested=requested(csr),
        pkcs10=pkcs10,
        checks=checks,
        approval=_approval(facts),
        signers=signers,
        outlook=preview,
        reports=_reports(facts.events, facts.now),
        has_other_key=has_other_key,
    )


def _parse(text: bytes) -> tuple[CertificateRequest | None, str]:
    """The parsed request, verified with its own key, or the problem."""
    try:
        return certificaterequest.verified(text).request, ""
    except RequestError as error:
        return None, str(error)


# --- what is asked ------------------------------------------------------------------------------------------------


def requested(csr: CertificateSigningRequest) -> Requested:
    """What a request asks for, in plain words."""
    spec = csr.spec
    pkcs10, _ = _parse(spec.request or b"")
    result = Requested(
        signer=spec.signer_name,
        usages=tuple(spec.usages),
        lifetime_seconds=spec.expiration_seconds,
        username=spec.username,
        groups=tuple(spec.groups),
        created=csr.metadata.creation_timestamp or "",
    )
    if pkcs10 is None:
        return result
    names = (
        *(f"DNS:{name}" for name in pkcs10.dns_names),
        *(f"IP:{address}" for address in pkcs10.ip_addresses),
        *(f"URI:{uri}" for uri in pkcs10.uris),
        *(f"email:{address}" for address in pkcs10.email_addresses),
    )
    return dataclasses.replace(
        result,
        subject=outlook.subject_text(pkcs10.subject),
        names=names,
        key=profiles.key_kind(pkcs10),
        is_ca=pkcs10.requests_ca,
    )


# --- checks -------------------------------------------------------------------------------------------------------


def _request_checks(pkcs10: CertificateRequest | None, problem: str) -> Iterator[Check]:
    if pkcs10 is None:
        yield Check("request", Result.PROBLEM, f"spec.request cannot be read: {problem}")
        return
    yield Check("request", Result.OK, "spec.request is a PKCS#10, signed with its own key")
    weaknesses = weakkeys.problems(pkcs10.public_key)
    if weaknesses:
        yield Check("key", Result.PROBLEM, f"weak public key: {'; '.join(weaknesses)}")
    else:
        yield Check("key", Result.OK, f"the key is {profiles.key_kind(pkcs10)}")


def _has_other_key(csr: CertificateSigningRequest) -> bool:
    """Whether the manifest that `kubectl apply` applied last has another key: the spec of a request never changes, so
    that key was ignored.
    """
    applied = _applied_request((csr.metadata.annotations or {}).get(_LAST_APPLIED, ""))
    try:
        return (
            bool(applied)
            and certificaterequest.parse(applied).spki != certificaterequest.parse(csr.spec.request or b"").spki
        )
    except RequestError:
        return False


def _applied_request(manifest: str) -> bytes:
    """spec.request of a manifest in JSON; empty if there is none."""
    if not manifest or len(manifest) > _MAX_MANIFEST:
        return b""
    try:
        document = msgspec.json.decode(manifest)
        return base64.b64decode(document["spec"]["request"], validate=True)
    except (ValueError, KeyError, TypeError, RecursionError, binascii.Error):
        return b""


def _key_checks(csr: CertificateSigningRequest, has_other_key: bool) -> Iterator[Check]:
    if has_other_key:
        yield Check(
            "applied",
            Result.PROBLEM,
            "kubectl apply sent another key later; the spec of a request is immutable, so that key was ignored",
        )
    elif _LAST_APPLIED in (csr.metadata.annotations or {}):
        yield Check("applied", Result.OK, "the manifest that kubectl apply sent last has the same key")


def _signer_checks(csr: CertificateSigningRequest, preview: Outlook) -> Iterator[Check]:
    status, name = preview.status, csr.spec.signer_name
    if status is None:
        yield Check("signer", Result.UNKNOWN, preview.source)
        return
    if status.result == signingpreviews.UNKNOWN_SIGNER:
        yield Check("signer", Result.PROBLEM, f"this server has no signer {name}")
        return
    yield Check("signer", Result.OK, status.description or f"the signer {name} is known")
    if status.result == signingpreviews.FAIL:
        for message in status.messages:
            yield Check("rules", Result.PROBLEM, message)
    else:
        yield Check("rules", Result.OK, "the signer permits the request")
    if status.result == signingpreviews.CANNOT_SIGN:
        yield Check("CA", Result.PROBLEM, "; ".join(status.messages))
    elif status.ca_subject:
        yield Check("CA", Result.OK, f"{status.ca_subject}, until {status.ca_not_after}")
    else:
        yield Check("CA", Result.UNKNOWN, "what CA the signer has is not known")
    if status.ca_issuer != status.ca_subject:
        yield Check(
            "chain",
            Result.NOTE,
            f"the CA is an intermediate, issued by {status.ca_issuer}: whoever trusts only that one needs the CA "
            "certificate in the chain",
        )
    for warning in status.warnings:
        yield Check("certificate", Result.NOTE, warning)


def _purpose_checks(
    csr: CertificateSigningRequest, pkcs10: CertificateRequest | None, preview: Outlook
) -> Iterator[Check]:
    """A certificate that is issued, and that no server can use."""
    if pkcs10 is None:
        return
    if outlook.is_for_clients_only(profiles.RequestedCertificate(pkcs10, csr.spec.usages)):
        remedy = preview.status.remedy if preview.status is not None else ""
        yield Check(
            "purpose",
            Result.NOTE,
            "it has names of a server, but not the usage server auth: only clients can use the certificate; for a "
            f"server, {remedy or 'use a signer that permits server auth'}",
        )


def _certificate_checks(csr: CertificateSigningRequest, now: datetime.datetime) -> Iterator[Check]:
    text = csr.status.certificate
    if not text:
        return
    certificate = certificates.parse_first(text)
    if certificate is None:
        yield Check("certificate", Result.PROBLEM, "status.certificate cannot be read")
        return
    not_after = certificate.not_valid_after_utc
    ends = timestamps.rfc3339(not_after)
    if now >= not_after:
        yield Check("certificate", Result.PROBLEM, f"it ended at {ends}")
    else:
        left = formatting.human_duration((not_after - now).total_seconds())
        yield Check("certificate", Result.OK, f"valid until {ends} ({left})")
    try:
        is_own = certificates.public_key_der(certificate) == certificaterequest.parse(csr.spec.request or b"").spki
    except (RequestError, *certificates.PARSE_ERRORS):
        return
    if not is_own:
        yield Check("certificate", Result.PROBLEM, "it is for another key than the request")


# --- approval and signer ------------------------------------------------------------------------------------------


def _approval(facts: Facts) -> Approval:
    signer, name = facts.csr.spec.signer_name, facts.csr.metadata.name
    result = Approval()
    if isinstance(facts.roles, Unread):
        result = dataclasses.replace(result, problem=facts.roles.reason)
    else:
        result = dataclasses.replace(result, holders=approval.find_holders(facts.roles, "approve", signer, name))
    if isinstance(facts.permissions, Unread):
        return dataclasses.replace(result, own_problem=facts.permissions.reason)
    own = facts.permissions
    rules = approval.missing_rules(
        "approve", signer, has_subresource=own.may_update_approval, has_signer=own.may_approve_signer
    )
    return dataclasses.replace(result, own=own, missing_rules=rules)


def _outlook(facts: Facts) -> Outlook:
    if not isinstance(facts.preview, Unread):
        return Outlook(facts.preview, "the server")
    status = outlook.estimate(outlook.question(facts.csr))
    if status is not None:
        return Outlook(status, "the rules of Kubernetes")
    return Outlook(None, "whether the server has this signer, and what it permits, is not known")


# --- events -------------------------------------------------------------------------------------------------------


def _reports(events: Sequence[Event] | Unread, now: datetime.datetime) -> Sequence[Report]:
    """The Events, oldest first."""
    if isinstance(events, Unread):
        return ()
    reports = [
        Report(
            time=event.last_timestamp or event.event_time or event.metadata.creation_timestamp or "",
            type=event.type,
            reason=event.reason,
            message=event.message,
            count=max(event.count, 1),
            retry_at=_retry_at(event, now),
        )
        for event in events
    ]
    return sorted(reports, key=lambda report: report.time)


_RETRY_IN: Final = "; retry in "


#: Seconds: the maximum delay of the controllers' queues, and how long ago an Event may be that still says something.
_MAX_DELAY: Final = 1000.0
_MAX_AGE: Final = 24 * 3600.0


def _retry_at(event: Event, now: datetime.datetime) -> datetime.datetime | None:
    """About when a controller of certplane tries again: its Events end with `retry in 12.3s`. Not each attempt has an
    Event, and the delay doubles each time.
    """
    _, separator, seconds = event.message.rpartition(_RETRY_IN)
    if not separator or not seconds.endswith("s") or not event.last_timestamp:
        return None
    try:
        delay = float(seconds[:-1])
        elapsed = (now - timestamps.parse_rfc3339(event.last_timestamp)).total_seconds()
    except (ValueError, OverflowError):
        return None
    if not (0 < delay <= _MAX_DELAY and 0 <= elapsed <= _MAX_AGE):
        return None
    attempt = delay
    while attempt <= elapsed:
        delay = min(2 * delay, _MAX_DELAY)
        attempt += delay
    return now + datetime.timedelta(seconds=attempt - elapsed)
