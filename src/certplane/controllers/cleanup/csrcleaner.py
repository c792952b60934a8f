"""Deletes requests that are finished, or that stayed pending for too long.

A request is kept for an hour after it was finished, for a day while it waits for a decision or a certificate, and not
at all after its certificate expired. Source: kubernetes, `pkg/controller/certificates/cleaner/cleaner.go`.
"""

from __future__ import annotations

import datetime
from typing import Final

from certplane import timestamps
from certplane.controllers.runtime.periodiccleaner import CleanupRule
from certplane.resources import certificatesigningrequests as csrs
from certplane.resources.certificatesigningrequests import CertificateSigningRequest
from certplane.x509.trust import certificates

NAME: Final = "certificatesigningrequest-cleaner-controller"
_MAX_AGE_FINISHED: Final = datetime.timedelta(hours=1)
_MAX_AGE_PENDING: Final = datetime.timedelta(hours=24)


def reason_to_delete(csr: CertificateSigningRequest, now: datetime.datetime) -> str:
    """Why to delete a request; empty to keep it. Raises ValueError if a time or the certificate cannot be read."""
    conditions = csr.status.conditions
    is_issued = bool(csr.status.certificate)

    def is_older(type_: str, age: datetime.timedelta) -> bool:
        return any(condition.type == type_ and _age(condition.last_update_time, now) > age for condition in conditions)

    is_approved = any(condition.type == csrs.APPROVED for condition in conditions)
    is_old = _age(csr.metadata.creation_timestamp, now) > _MAX_AGE_PENDING
    rules = (
        (is_issued and is_older(csrs.APPROVED, _MAX_AGE_FINISHED), "issued more than an hour ago"),
        (is_older(csrs.DENIED, _MAX_AGE_FINISHED), "denied more than an hour ago"),
        (is_older(csrs.FAILED, _MAX_AGE_FINISHED), "failed more than an hour ago"),
        (not conditions and is_old, "pending for more than a day"),
        (is_approved and is_issued and _is_expired(csr.status.certificate, now), "the certificate has expired"),
        (not is_issued and is_older(csrs.APPROVED, _MAX_AGE_PENDING), "approved more than a day ago, but not issued"),
    )
    return next((detail for applies, detail in rules if applies), "")


def _age(timestamp: str | None, now: datetime.datetime) -> datetime.timedelta:
    return now - timestamps.parse_rfc3339(timestamp) if timestamp else datetime.timedelta(0)


def _is_expired(certificate: bytes, now: datetime.datetime) -> bool:
    not_after = certificates.first_not_after(certificate)
    return not_after is not None and not_after < now


RULE: Final = CleanupRule(csrs.RESOURCE, reason_to_delete, 3600.0)
