"""The state of a server on one screen: who answers, what waits, what was decided, what ends next.

`gather` asks the server, each question on its own; the properties of `Overview` count, and are pure.
"""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import re
from collections.abc import Mapping, Sequence
from typing import Final

from certplane.client import api
from certplane.client.api import Client
from certplane.clock import Clock
from certplane.doctor import clusterchecks, clusterfacts
from certplane.doctor.clusterchecks import HealthCheck
from certplane.doctor.clusterfacts import NOT_ASKED, Answer
from certplane.resources import certificatesigningrequests as csrs
from certplane.resources import reviews
from certplane.resources.certificatesigningrequests import CertificateSigningRequest
from certplane.resources.leases import Lease
from certplane.x509.trust import certificates

#: Certificates and approvals that are listed.
MAX_ROWS: Final = 5
#: A sample of a metric: name, labels, value. Label values may have escaped quotes.
_SAMPLE: Final = re.compile(r'(\w+)\{((?:[^"{}]|"(?:[^"\\]|\\.)*")*)\} ([^ ]+)')
_LABEL: Final = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_ENDS: Final = "certplane_certificate_expiration_timestamp_seconds"
_READY: Final = "certplane_signer_ready"
_SIGNER_CHECKS: Final = re.compile(r"signer-(.+)|(custom-signers)")
#: Characters of /metrics that are read: a server in between may send anything.
_MAX_METRICS: Final = 4 << 20


@dataclasses.dataclass(frozen=True, slots=True)
class UserFacts:
    """Whom the server takes us for."""

    name: str
    groups: Sequence[str]


@dataclasses.dataclass(frozen=True, slots=True)
class End:
    """A certificate and when it ends."""

    name: str
    not_after: datetime.datetime


@dataclasses.dataclass(frozen=True, slots=True)
class SignerState:
    """A signer, whether it can sign, and why not."""

    name: str
    is_ready: bool
    reason: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Approval:
    """An approved request: when, which one, for which signer, and why."""

    time: datetime.datetime
    name: str
    signer: str
    requestor: str
    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class Overview:
    """What a server says, at a time."""

    now: datetime.datetime
    health: Answer[clusterfacts.Health]
    version: Answer[object] = NOT_ASKED
    user: Answer[UserFacts] = NOT_ASKED
    requests: Answer[Sequence[CertificateSigningRequest]] = NOT_ASKED
    leases: Answer[Mapping[str, Lease]] = NOT_ASKED
    metrics: Answer[str] = NOT_ASKED

    @property
    def is_ready(self) -> bool:
        """Whether the server says that it is ready."""
        return self.health.value is not None and self.health.value.status == 200

    @property
    def checks(self) -> Sequence[HealthCheck]:
        """The health checks of the server."""
        return clusterchecks.parse_health(self.health.value.text) if self.health.value is not None else ()

    @property
    def git_version(self) -> str:
        """The version of the server; empty if it is not known."""
        document = self.version.value
        return str(document.get("gitVersion", "")) if isinstance(document, dict) else ""

    @property
    def pending(self) -> Sequence[CertificateSigningRequest]:
        """The requests that wait for a decision, the oldest first."""
        waiting = filter(clusterchecks.is_pending, self.requests.value or ())
        return sorted(waiting, key=lambda csr: clusterchecks.created_at(csr) or self.now)

    @property
    def waiting(self) -> Sequence[CertificateSigningRequest]:
        """The approved requests that wait for their certificate."""
        return list(filter(clusterchecks.is_waiting_for_issue, self.requests.value or ()))

    @property
    def counts(self) -> Mapping[str, int]:
        """How many of the stored requests were approved or denied today, in UTC, and how many are issued or failed."""
        requests = self.requests.value or ()
        today = self.now.astimezone(datetime.UTC).date()

        def decided_today(type_: str) -> int:
            times = (clusterchecks.decided_at(csr, type_) for csr in requests)
            return sum(time is not None and time.astimezone(datetime.UTC).date() == today for time in times)

        return {
            "approvedToday": decided_today(csrs.APPROVED),
            "deniedToday": decided_today(csrs.DENIED),
            "issued": sum(bool(csr.status.certificate) for csr in requests),
            "failed": sum(csrs.has_condition(csr, csrs.FAILED) for csr in requests),
        }

    @property
    def approvals(self) -> Sequence[Approval]:
        """The last approvals, the latest first."""
        found = []
        for csr in self.requests.value or ():
            time = clusterchecks.decided_at(csr)
            if time is not None:
                reason = next(item.reason for item in csr.status.conditions if item.type == csrs.APPROVED)
                found.append(Approval(time, csr.metadata.name, csr.spec.signer_name, csr.spec.username, reason))
        return sorted(found, key=lambda approval: approval.time, reverse=True)[:MAX_ROWS]

    @property
    def signers(self) -> Sequence[SignerState]:
        """The signers of certplane: those with metrics, or else with health checks."""
        states = {}
        for labels, value in self._samples(_READY):
            name = labels.get("signer", "")
            states[name] = SignerState(name, value in ("1", "1.0"), labels.get("reason", ""))
        for check in self.checks if not states else ():
            match = _SIGNER_CHECKS.fullmatch(check.name)
            if match is not None:
                name = f"kubernetes.io/{match[1]}" if match[1] else match[2]
                states[name] = SignerState(name, check.state == "+", check.text)
        return [states[name] for name in sorted(states)]

    @property
    def ends(self) -> Sequence[End]:
        """The certificates that end next: those of the server, and those of stored requests."""
        found = []
        for labels, value in self._samples(_ENDS):
            try:
                end = datetime.datetime.fromtimestamp(float(value), datetime.UTC)
            except (ValueError, OverflowError, OSError):
                continue
            found.append(End(labels.get("certificate", ""), end))
        for csr in self.requests.value or ():
            not_after = certificates.first_not_after(csr.status.certificate) if csr.status.certificate else None
            if not_after is not None:
                found.append(End(f"csr/{csr.metadata.name}", not_after))
        return sorted(found, key=lambda end: end.not_after)[:MAX_ROWS]

    def _samples(self, name: str) -> Sequence[tuple[dict[str, str], str]]:
        """The samples of a metric: labels and value."""
        found = []
        for line in (self.metrics.value or "").splitlines():
            match = _SAMPLE.fullmatch(line) if line.startswith(name) else None
            if match is not None and match[1] == name:
                labels = {label[1]: _unescape(label[2]) for label in _LABEL.finditer(match[2])}
                found.append((labels, match[3]))
        return found


def _unescape(text: str) -> str:
    return re.sub(r"\\(.)", lambda match: {"n": "\n"}.get(match[1], match[1]), text)


async def gather(client: Client, clock: Clock) -> Overview:
    """Ask a server. Raises api.Unreachable if it does not respond at all."""
    answer = await clusterfacts.attempt(clusterfacts.read_health(client), clock)
    if answer.value is None:
        raise api.Unreachable(answer.reason)
    health = clusterfacts.health_answer(answer.value)
    version, user, requests, leases, metrics = await asyncio.gather(
        clusterfacts.attempt(client.read("/version"), clock),
        clusterfacts.attempt(_user(client), clock),
        clusterfacts.attempt(clusterfacts.read_requests(client), clock),
        clusterfacts.attempt(clusterfacts.read_leases(client), clock),
        clusterfacts.attempt(_metrics(client), clock),
    )
    return Overview(clock.now(), health, version, user, requests, leases, metrics)


async def _user(client: Client) -> UserFacts:
    review = await client.create(reviews.SELF_SUBJECT_REVIEWS, reviews.SelfSubjectReview())
    return UserFacts(review.status.user_info.username, review.status.user_info.groups)


async def _metrics(client: Client) -> str:
    response = await client.transport.send(api.Request("GET", "/metrics"))
    if response.status != 200:
        return ""
    return response.body[:_MAX_METRICS].decode("utf-8", "replace")
