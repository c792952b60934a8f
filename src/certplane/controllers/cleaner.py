"""Deletes requests that have served their purpose, or never will.

An answered request is kept for an hour, one that waits for a decision or a certificate for a day, and one whose
certificate has expired not at all. Source: kubernetes, `pkg/controller/certificates/cleaner/cleaner.go`.
"""

from __future__ import annotations

import datetime
import logging
from typing import Final

from certplane import clock as clocks
from certplane import errors
from certplane.client import api, informer
from certplane.resources import certificatesigningrequests as csrs
from certplane.x509 import certificates

_log = logging.getLogger("certplane.controllers")

NAME: Final = "certificatesigningrequest-cleaner-controller"
ALIAS: Final = "csrcleaner"
INTERVAL: Final = 3600.0
_ANSWERED: Final = datetime.timedelta(hours=1)
_WAITING: Final = datetime.timedelta(hours=24)


def decide(of: csrs.CertificateSigningRequest, now: datetime.datetime) -> str:
    """Why a request is to be deleted; empty if it is to be kept."""
    conditions = of.status.conditions
    issued = bool(of.status.certificate)

    def is_older(type_: str, age: datetime.timedelta) -> bool:
        return any(each.type == type_ and _age(each.last_update_time, now) > age for each in conditions)

    approved = any(each.type == csrs.APPROVED for each in conditions)
    rules = (
        (issued and is_older(csrs.APPROVED, _ANSWERED), "issued more than an hour ago"),
        (is_older(csrs.DENIED, _ANSWERED), "denied more than an hour ago"),
        (is_older(csrs.FAILED, _ANSWERED), "failed more than an hour ago"),
        (not conditions and _age(of.metadata.creation_timestamp, now) > _WAITING, "undecided for more than a day"),
        (approved and issued and _is_over(of.status.certificate, now), "its certificate has expired"),
        (not issued and is_older(csrs.APPROVED, _WAITING), "approved more than a day ago, and not issued"),
    )
    return next((why for holds, why in rules if holds), "")


def _age(since: str | None, now: datetime.datetime) -> datetime.timedelta:
    return now - clocks.parse_rfc3339(since) if since else datetime.timedelta(0)


def _is_over(certificate: bytes, now: datetime.datetime) -> bool:
    end = certificates.first_not_after(certificate)
    return end is not None and end < now


class Cleaner:
    """One pass at once, then one every hour."""

    name = NAME

    def __init__(self, client: api.Client, source: informer.Informer, clock: clocks.Clock) -> None:
        self._client = client
        self._source = source
        self._clock = clock

    async def run(self) -> None:
        """Clean until cancelled."""
        await self._source.synced.wait()
        while True:
            await self.clean()
            await self._clock.sleep(INTERVAL)

    async def clean(self) -> None:
        """One pass. What cannot be deleted is logged, and tried again in the next one."""
        for of in list(self._source.objects.values()):
            try:
                why = decide(of, self._clock.now())
            except ValueError as error:
                # A time or a certificate that nobody can read costs this request alone.
                _log.warning("csr cannot be judged", extra={"csr": of.metadata.name, "problem": str(error)})
                continue
            if not why:
                continue
            try:
                await self._client.delete(csrs.RESOURCE, of.metadata.name)
                _log.info("csr deleted", extra={"csr": of.metadata.name, "uid": of.metadata.uid, "why": why})
            except errors.NotFound:
                continue
            except (errors.APIError, api.Unreachable) as error:
                _log.warning("unable to delete csr", extra={"csr": of.metadata.name, "problem": str(error)})
