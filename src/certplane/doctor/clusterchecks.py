"""A running server: its clock, its health checks, its controllers, and the requests that wait.

A real API server has no checks of its controllers: the Lease of kube-controller-manager shows whether they run. In
certplane they are in the server, whose check `background` covers them.
"""

from __future__ import annotations

import dataclasses
import datetime
import email.utils
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from certplane import timestamps
from certplane.doctor import findings
from certplane.doctor.findings import Finding, Severity
from certplane.golang import formatting
from certplane.resources import certificatesigningrequests as csrs
from certplane.resources.certificatesigningrequests import CertificateSigningRequest
from certplane.resources.leases import Lease

#: The Date header has whole seconds, and the response takes some time.
_SKEW_WARNING: Final = datetime.timedelta(seconds=10)
#: certplane and Kubernetes date certificates back by five minutes.
_SKEW_ERROR: Final = datetime.timedelta(minutes=5)
#: How long a request may wait for a decision, and for its certificate after it.
_PENDING: Final = datetime.timedelta(hours=1)
_PENDING_URGENT: Final = datetime.timedelta(hours=12)
_ISSUING: Final = datetime.timedelta(minutes=1)
_LEASE_SECONDS: Final = 15
_MAX_NAMES: Final = 5
#: A line of /readyz?verbose.
_CHECK_LINE: Final = re.compile(r"\[([+!-])\](\S+) (.*)")
#: Leases of the controllers that approve and sign.
CONTROLLER_LEASES: Final = ("kube-controller-manager", "certplane-controllers")
#: The check that only certplane has, of its own controllers.
BACKGROUND: Final = "background"
#: Which finding a failed health check is.
_IDS: Final = {"etcd": "store", "stored-values": "store", "certificates": "certificate-end", BACKGROUND: "controllers"}


# --- clock --------------------------------------------------------------------------------------------------------


def check_clock(date: str, now: datetime.datetime) -> list[Finding]:
    """Compare the Date header of a response with the time at which it was received."""
    try:
        server = email.utils.parsedate_to_datetime(date)
        skew = server - now
    except (ValueError, TypeError, OverflowError):
        # TypeError: a date without a time zone.
        return [findings.unchecked("clock-skew", "the clock", "the server sends no Date", severity=Severity.INFO)]
    seconds = abs(skew.total_seconds())
    if abs(skew) < _SKEW_WARNING:
        return [Finding("clock-skew", Severity.OK, f"the clock of the server is ours, within {int(seconds) + 1}s")]
    ahead = "ahead of" if skew > datetime.timedelta(0) else "behind"
    text = f"the clock of the server is {formatting.human_duration(seconds)} {ahead} that of this machine"
    severity = Severity.ERROR if abs(skew) >= _SKEW_ERROR else Severity.WARNING
    return [Finding("clock-skew", severity, text, fix=("timedatectl status", "chronyc tracking, on both machines"))]


# --- health -------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class HealthCheck:
    """One line of /readyz?verbose. `state` is +, - or ! (failed, but the server is ready); `text` may be the reason."""

    state: str
    name: str
    text: str


def parse_health(text: str) -> list[HealthCheck]:
    """The checks in the text of /readyz?verbose."""
    matches = filter(None, map(_CHECK_LINE.fullmatch, text.splitlines()))
    return [HealthCheck(match[1], match[2], match[3].partition(": ")[2]) for match in matches]


def check_health(checks: Sequence[HealthCheck], status: int, flags: str) -> list[Finding]:
    """Check the health of a server. `flags` are those of kubectl, with a space at the end unless empty."""
    if not checks and status != 200:
        return [Finding("server-ready", Severity.ERROR, f"the server responds to /readyz with {status}")]
    found = []
    fix = (f"kubectl {flags}get --raw '/readyz?verbose'", "read the log of the server")
    for check in checks:
        if check.state == "+":
            continue
        severity = Severity.ERROR if check.state == "-" else Severity.WARNING
        id_ = "controllers" if check.name.startswith("signer") else _IDS.get(check.name, "server-ready")
        reason = f": {check.text}" if check.text else ""
        found.append(Finding(id_, severity, f"the check {check.name} of the server fails{reason}", check.name, fix))
    return findings.with_ok("server-ready", found, f"the server is ready: {len(checks)} checks pass")


# --- controllers --------------------------------------------------------------------------------------------------


def check_controllers(
    leases: Mapping[str, Lease], checks: Sequence[HealthCheck], now: datetime.datetime
) -> list[Finding]:
    """Whether controllers that approve and sign are alive. `leases` are those of kube-system, by name."""
    own = next((check for check in checks if check.name == BACKGROUND), None)
    found = [
        finding
        for name in CONTROLLER_LEASES
        if name in leases
        for finding in _check_lease(name, leases[name], now, is_needed=own is None)
    ]
    if own is not None and own.state == "+":
        found.append(Finding("controllers", Severity.OK, "the controllers in the server run"))
    if not found and own is None:
        text = "no controllers are known: kube-system has no Lease of kube-controller-manager or certplane controllers"
        fix = ("kubectl -n kube-system get lease", "run certplane controllers, or kube-controller-manager")
        found.append(Finding("controllers", Severity.WARNING, text, fix=fix))
    return found


def lease_age(lease: Lease, now: datetime.datetime) -> datetime.timedelta | None:
    """Time since a Lease was renewed; None if that is not known."""
    try:
        return now - timestamps.parse_rfc3339(lease.spec.renew_time or "")
    except ValueError:
        return None


def _check_lease(name: str, lease: Lease, now: datetime.datetime, *, is_needed: bool) -> Iterator[Finding]:
    holder, age = lease.spec.holder_identity or "", lease_age(lease, now)
    limit = datetime.timedelta(seconds=2 * (lease.spec.lease_duration_seconds or _LEASE_SECONDS))
    if holder and age is not None and age <= limit:
        yield Finding("controllers", Severity.OK, f"{holder} leads {name}", name)
        return
    since = f", for {formatting.human_duration(age.total_seconds())}" if age is not None else ""
    text = f"nobody leads {name}{since}: its controllers do not run"
    if holder:
        text += f"; the last one was {holder}"
    fix = (f"kubectl -n kube-system get lease {name} -o yaml", f"start {name}, and read its log")
    yield Finding("controllers", Severity.ERROR if is_needed else Severity.WARNING, text, name, fix)


# --- requests -----------------------------------------------------------------------------------------------------


def created_at(csr: CertificateSigningRequest) -> datetime.datetime | None:
    """When a request was created; None if that is not known."""
    return _parse(csr.metadata.creation_timestamp)


def decided_at(csr: CertificateSigningRequest, type_: str = csrs.APPROVED) -> datetime.datetime | None:
    """When a request got a condition; None without the condition or its time."""
    condition = next((condition for condition in csr.status.conditions if condition.type == type_), None)
    return _parse(condition.last_update_time or condition.last_transition_time) if condition is not None else None


def _parse(text: str | None) -> datetime.datetime | None:
    try:
        return timestamps.parse_rfc3339(text or "")
    except ValueError:
        return None


def is_pending(csr: CertificateSigningRequest) -> bool:
    """Whether a request waits for a decision."""
    return not csrs.is_decided(csr) and not csrs.has_condition(csr, csrs.FAILED)


def is_waiting_for_issue(csr: CertificateSigningRequest) -> bool:
    """Whether an approved request waits for its certificate."""
    return csrs.is_approved(csr) and not csr.status.certificate and not csrs.has_condition(csr, csrs.FAILED)


def check_requests(requests: Sequence[CertificateSigningRequest], now: datetime.datetime, flags: str) -> list[Finding]:
    """Check for requests that wait too long. `flags` are those of kubectl, with a space at the end unless empty."""
    return [*_check_pending(requests, now, flags), *_check_issuing(requests, now, flags), *_check_failed(requests)]


def _check_pending(
    requests: Sequence[CertificateSigningRequest], now: datetime.datetime, flags: str
) -> Iterator[Finding]:
    pending = sorted(
        (created_at(csr) or now, csr.metadata.name, csr.spec.signer_name) for csr in requests if is_pending(csr)
    )
    if not pending:
        yield Finding("csr-pending", Severity.OK, f"none of {len(requests)} requests waits for a decision")
        return
    oldest, name, signer = pending[0]
    age = now - oldest
    severity = (
        Severity.ERROR if age >= _PENDING_URGENT else Severity.WARNING if age >= _PENDING else Severity.INFO
    )  # fmt: skip
    waited = formatting.human_duration(age.total_seconds())
    text = f"{len(pending)} requests wait for a decision; the oldest, {name} for {signer}, for {waited}"
    if len(pending) == 1:
        text = f"1 request waits for a decision: {name} for {signer}, for {waited}"
    quoted = shlex.quote(name)
    fix = (f"kubectl {flags}describe csr {quoted}", f"kubectl {flags}certificate approve {quoted}, or deny")
    yield Finding("csr-pending", severity, text, name, fix)


def _check_issuing(
    requests: Sequence[CertificateSigningRequest], now: datetime.datetime, flags: str
) -> Iterator[Finding]:
    by_signer: dict[str, list[str]] = {}
    for csr in requests:
        if is_waiting_for_issue(csr) and now - (decided_at(csr) or now) >= _ISSUING:
            by_signer.setdefault(csr.spec.signer_name, []).append(csr.metadata.name)
    for signer, names in sorted(by_signer.items()):
        text = f"{len(names)} approved requests for {signer} have no certificate: {_join(names)}"
        fix = (
            f"kubectl {flags}describe csr {shlex.quote(names[0])}",
            "check that a controller signs for the signer, and has its CA: --cluster-signing-cert-file and -key-file",
        )
        yield Finding("csr-not-issued", Severity.ERROR, text, signer, fix)
    if not by_signer:
        yield Finding("csr-not-issued", Severity.OK, "all approved requests have their certificates")


def _check_failed(requests: Sequence[CertificateSigningRequest]) -> Iterator[Finding]:
    failed = [csr.metadata.name for csr in requests if csrs.has_condition(csr, csrs.FAILED)]
    if failed:
        yield Finding("csr-failed", Severity.INFO, f"{len(failed)} requests have failed: {_join(failed)}")


def _join(names: Sequence[str]) -> str:
    shown = ", ".join(sorted(names)[:_MAX_NAMES])
    return f"{shown} and {len(names) - _MAX_NAMES} others" if len(names) > _MAX_NAMES else shown
