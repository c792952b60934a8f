"""Says in time which certificates are about to end: in the log, in a health check, as metrics, and as Events.

A certificate is reported from 30 days before its end, and as an error from 7 days before it: in the log at the start,
whenever the urgency grows, and once a day; in Events and `/readyz?verbose` all the time. Nobody can be told 30 days
ahead of the end of a certificate that lives for a day: one with a lifetime of less than two days is reported when a
third of it is left, and as an error when a tenth is left. Whatever renews it should have done so by then.

What is reported never makes a server unready: while a certificate is valid nothing is wrong, and a server that cannot
be reached by TLS needs no probe to say so.

`urgency` is the decision, and is pure. Nothing here renews anything: see `owncertificates`.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Final

from certplane import timestamps
from certplane.clock import Clock
from certplane.controllers.runtime.eventwriter import Report
from certplane.golang import formatting
from certplane.meta import objects
from certplane.reload import Wakeup
from certplane.telemetry import Telemetry
from certplane.x509.trust.validity import Validity

_log = logging.getLogger("certplane")

SOON: Final = datetime.timedelta(days=30)
URGENT: Final = datetime.timedelta(days=7)
#: Certificates with a shorter lifetime are reported by the fraction of it that is left.
SHORT_LIVED: Final = datetime.timedelta(days=2)
#: How often certificates are looked at, in seconds; reports are repeated less often.
INTERVAL_SECONDS: Final = 60.0
_LOG_INTERVAL: Final = datetime.timedelta(days=1)
#: Events are deleted an hour after their last change.
_EVENT_INTERVAL: Final = datetime.timedelta(minutes=30)
#: Of one file, those that end first: a bundle may hold thousands of CAs.
_MAX_CERTIFICATES: Final = 100

#: Reasons of Events.
EXPIRING: Final = "CertificateExpiring"
EXPIRED: Final = "CertificateExpired"
NOT_YET_VALID: Final = "CertificateNotYetValid"


class Urgency(enum.IntEnum):
    """How urgently a certificate needs somebody's attention."""

    NONE = 0
    NOT_YET_VALID = 1
    SOON = 2
    URGENT = 3
    EXPIRED = 4


@dataclasses.dataclass(frozen=True, slots=True)
class NamedCertificate:
    """A certificate with the name by which operators know it, where it is, and what to do about its end."""

    name: str
    path: str
    validity: Validity
    remedy: str


@dataclasses.dataclass(frozen=True, slots=True)
class Unreadable:
    """A certificate that cannot be read, and why."""

    name: str
    problem: str


#: Returns certificates as they are now.
Source = Callable[[], Awaitable[Iterable[NamedCertificate | Unreadable]]]


def urgency(validity: Validity, now: datetime.datetime) -> Urgency:
    """How urgent a certificate is."""
    if now >= validity.not_after:
        return Urgency.EXPIRED
    if now < validity.not_before:
        return Urgency.NOT_YET_VALID
    is_short = validity.lifetime < SHORT_LIVED
    soon, urgent = (validity.lifetime / 3, validity.lifetime / 10) if is_short else (SOON, URGENT)
    left = validity.not_after - now
    return Urgency.URGENT if left <= urgent else Urgency.SOON if left <= soon else Urgency.NONE


@dataclasses.dataclass(slots=True)
class _Reported:
    """What was last reported about a certificate, and when."""

    urgency: Urgency
    logged_at: datetime.datetime
    event_at: datetime.datetime


class Expirations:
    """Watches certificates. `report` has Events written."""

    def __init__(
        self, sources: Sequence[Source], clock: Clock, telemetry: Telemetry, report: Callable[[Report], None]
    ) -> None:
        self._sources = sources
        self._clock = clock
        self._report = report
        self._certificates: Sequence[NamedCertificate] = ()
        self._unreadable: Mapping[str, str] = {}
        #: By name and digest of the certificate.
        self._reported: dict[tuple[str, str], _Reported] = {}
        telemetry.observe_certificates(self._ends)

    async def run(self, wakeup: Wakeup) -> None:
        """Look at the certificates until cancelled."""
        while True:
            await self.check()
            await wakeup.sleep(self._clock, INTERVAL_SECONDS)

    async def check(self) -> None:
        """Look at the certificates once, and report what is due."""
        items = [item for source in self._sources for item in await source()]
        self._certificates = _distinct(item for item in items if isinstance(item, NamedCertificate))
        unreadable = {item.name: item.problem for item in items if isinstance(item, Unreadable)}
        for name, problem in unreadable.items():
            if self._unreadable.get(name) != problem:
                _log.warning("certificate cannot be read", extra={"certificate": name, "error": problem})
        self._unreadable = unreadable
        now = self._clock.now()
        urgent = {
            (certificate.name, certificate.validity.sha256): certificate
            for certificate in self._certificates
            if urgency(certificate.validity, now) is not Urgency.NONE
        }
        # A certificate that was replaced is forgotten, and so is one that the clock had wrongly made urgent.
        self._reported = {key: reported for key, reported in self._reported.items() if key in urgent}
        for key, certificate in urgent.items():
            self._report_if_due(key, certificate, now)

    def problem(self) -> str | None:
        """Which certificates need attention, for a health check; None if none does."""
        now = self._clock.now()
        texts = [
            f"{certificate.name} {_state(certificate.validity, now)}"
            for certificate in self._certificates
            if urgency(certificate.validity, now) is not Urgency.NONE
        ]
        return "; ".join([*texts, *(f"{name}: {problem}" for name, problem in self._unreadable.items())]) or None

    def _ends(self) -> Mapping[tuple[str, str], float]:
        return {
            (certificate.name, certificate.validity.serial): certificate.validity.not_after.timestamp()
            for certificate in self._certificates
        }

    def _report_if_due(self, key: tuple[str, str], certificate: NamedCertificate, now: datetime.datetime) -> None:
        level = urgency(certificate.validity, now)
        reported = self._reported.get(key)
        is_new = reported is None or level is not reported.urgency
        # A clock that went back must not silence reports.
        if reported is None or is_new or not reported.logged_at <= now < reported.logged_at + _LOG_INTERVAL:
            _log_state(certificate, level, now)
            logged_at = now
        else:
            logged_at = reported.logged_at
        if reported is None or is_new or not reported.event_at <= now < reported.event_at + _EVENT_INTERVAL:
            self._report(_event(certificate, level, now))
            event_at = now
        else:
            event_at = reported.event_at
        self._reported[key] = _Reported(level, logged_at, event_at)


def _distinct(certificates: Iterable[NamedCertificate]) -> Sequence[NamedCertificate]:
    """Each certificate once, under its first name: several signers usually have one CA."""
    distinct: dict[str, NamedCertificate] = {}
    for certificate in certificates:
        distinct.setdefault(certificate.validity.sha256, certificate)
    return tuple(distinct.values())


def named(name: str, path: object, validities: Iterable[Validity], remedy: str) -> Sequence[NamedCertificate]:
    """The certificates of one file; of many, those that end first."""
    first = sorted(validities, key=lambda validity: validity.not_after)[:_MAX_CERTIFICATES]
    return [NamedCertificate(name, str(path), validity, remedy) for validity in first]


_MESSAGES: Final = {
    Urgency.NOT_YET_VALID: "certificate is not valid yet",
    Urgency.SOON: "certificate ends within 30 days",
    Urgency.URGENT: "certificate ends within 7 days",
    Urgency.EXPIRED: "certificate has expired",
}
_REASONS: Final = {Urgency.NOT_YET_VALID: NOT_YET_VALID, Urgency.EXPIRED: EXPIRED}


def _state(validity: Validity, now: datetime.datetime) -> str:
    """A sentence without its subject: "ends in 6d23h, at 2026-01-08T00:00:00Z"."""
    if now < validity.not_before:
        start = timestamps.rfc3339(validity.not_before)
        return f"is not valid before {start}: check the clock of this machine"
    end = timestamps.rfc3339(validity.not_after)
    if now >= validity.not_after:
        return f"expired at {end}"
    return f"ends in {formatting.human_duration((validity.not_after - now).total_seconds())}, at {end}"


def _log_state(certificate: NamedCertificate, level: Urgency, now: datetime.datetime) -> None:
    extra = {
        "certificate": certificate.name,
        "path": certificate.path,
        "subject": certificate.validity.subject,
        "serial": certificate.validity.serial,
        "state": _state(certificate.validity, now),
    }
    if level is not Urgency.NOT_YET_VALID:
        extra["hint"] = certificate.remedy
    _log.log(logging.ERROR if level >= Urgency.URGENT else logging.WARNING, _MESSAGES[level], extra=extra)


def _event(certificate: NamedCertificate, level: Urgency, now: datetime.datetime) -> Report:
    """An Event about the namespace kube-system, which stands for the control plane: there is no better object."""
    reason = _REASONS.get(level, EXPIRING)
    text = f"certificate {certificate.name} ({certificate.path}) {_state(certificate.validity, now)}"
    hint = "" if level is Urgency.NOT_YET_VALID else f"; {certificate.remedy}"
    return Report(
        key=(certificate.name, certificate.validity.sha256, reason),
        reference=objects.ObjectReference(kind="Namespace", name="kube-system", api_version="v1"),
        reason=reason,
        message=text + hint,
    )
