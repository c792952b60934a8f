"""Where the signing controller records what it is about to sign, before the CA key is used.

A record is durable before the signature is made. After a crash, or in another replica, the record of a request is found
and its bytes are signed: a request gets at most one certificate, with one serial number.

With an embedded store the record is a key of that store (`JournalRecords`). Against another API server it is a
condition of the request itself (`ConditionRecords`), written through `/status`, which users may not write: it needs no
further right, every replica sees it, and of two replicas that write at once the server rejects one. The certificate is
written and the condition removed in one update.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import copy
import dataclasses
import hashlib
import logging
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from certplane import timestamps
from certplane.client import api, informer
from certplane.clock import Clock
from certplane.errors import CertplaneError
from certplane.resources import certificatesigningrequests as csrs
from certplane.resources.certificatesigningrequests import CertificateSigningRequest

_log = logging.getLogger("certplane.controllers")

#: The condition that holds a record: its message is the DER of the bytes to be signed, in base64.
ISSUING: Final = "certplane.io/Issuing"
_RECORDED: Final = "Recorded"
#: Records are deleted in batches: one round of deletions for all certificates of a second.
_DELETE_SECONDS: Final = 1.0


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """What is recorded for a request, and the request as it is after recording."""

    csr: CertificateSigningRequest
    to_be_signed: bytes


class Records(Protocol):
    """The records of one signing controller. All methods raise what a client raises, or CertplaneError."""

    async def record(self, csr: CertificateSigningRequest, to_be_signed: bytes) -> Record:
        """Record what is to be signed for a request, unless there is a record; return the record that there is now."""
        ...

    async def replace(self, csr: CertificateSigningRequest, to_be_signed: bytes) -> Record:
        """Replace a record that cannot be signed any more."""
        ...

    async def publish(self, csr: CertificateSigningRequest) -> None:
        """Write the final status of a request, and remove its record."""
        ...

    async def run(self, csr_informer: informer.Informer[CertificateSigningRequest]) -> None:
        """Maintain the records until cancelled. `csr_informer` has synced."""
        ...


class ConditionRecords:
    """A record is a condition of its request."""

    def __init__(self, client: api.Client, clock: Clock) -> None:
        self._client = client
        self._clock = clock

    async def record(self, csr: CertificateSigningRequest, to_be_signed: bytes) -> Record:
        conditions = csr.status.conditions
        text = next((condition.message for condition in conditions if condition.type == ISSUING), None)
        if text is None:
            return await self.replace(csr, to_be_signed)
        try:
            return Record(csr, base64.b64decode(text, validate=True))
        except binascii.Error:
            # Not written by us. As it is not DER, `issue.resume` will refuse it, and it is replaced.
            return Record(csr, text.encode("utf-8"))

    async def replace(self, csr: CertificateSigningRequest, to_be_signed: bytes) -> Record:
        text = base64.b64encode(to_be_signed).decode("ascii")
        now = timestamps.rfc3339(self._clock.now())
        recorded = csrs.with_condition(_without_record(csr), ISSUING, _RECORDED, text, now)
        return Record(await self._client.update(csrs.RESOURCE, recorded, "status"), to_be_signed)

    async def publish(self, csr: CertificateSigningRequest) -> None:
        await self._client.update(csrs.RESOURCE, _without_record(csr), "status")

    async def run(self, csr_informer: informer.Informer[CertificateSigningRequest]) -> None:
        """Nothing to do: a record is deleted with its request."""


def _without_record(csr: CertificateSigningRequest) -> CertificateSigningRequest:
    result = copy.copy(csr)
    result.status = copy.copy(csr.status)
    result.status.conditions = [condition for condition in csr.status.conditions if condition.type != ISSUING]
    return result


class Journal(Protocol):
    """Bytes under UIDs, durable. Raises CertplaneError."""

    async def record(self, uid: str, to_be_signed: bytes) -> bytes:
        """Store the bytes unless there is an entry for this UID; return the entry that there is now."""
        ...

    async def replace(self, uid: str, to_be_signed: bytes) -> None:
        """Replace an entry."""
        ...

    async def delete(self, uid: str) -> None:
        """Delete an entry."""
        ...

    async def entries(self) -> Sequence[tuple[str, bytes]]:
        """All entries, with their UIDs."""
        ...


class JournalRecords:
    """A record is an entry of a journal, which is deleted soon after its request was published or deleted."""

    def __init__(self, journal: Journal, client: api.Client, clock: Clock) -> None:
        self._journal = journal
        self._client = client
        self._clock = clock
        #: UIDs with an entry, and those of them whose entry is no longer needed.
        self._recorded: set[str] = set()
        self._finished: set[str] = set()
        self._wakeup = asyncio.Event()
        self._subscribed = False

    async def record(self, csr: CertificateSigningRequest, to_be_signed: bytes) -> Record:
        recorded = await self._journal.record(csr.metadata.uid, to_be_signed)
        self._recorded.add(csr.metadata.uid)
        return Record(csr, recorded)

    async def replace(self, csr: CertificateSigningRequest, to_be_signed: bytes) -> Record:
        await self._journal.replace(csr.metadata.uid, to_be_signed)
        return Record(csr, to_be_signed)

    async def publish(self, csr: CertificateSigningRequest) -> None:
        await self._client.update(csrs.RESOURCE, csr, "status")
        self._finish(csr.metadata.uid)

    async def run(self, csr_informer: informer.Informer[CertificateSigningRequest]) -> None:
        """Delete entries that are no longer needed; first those that an earlier process left for deleted requests."""
        if not self._subscribed:
            csr_informer.subscribe(self._changed)
            self._subscribed = True
        await self._recover({csr.metadata.uid: csr for csr in csr_informer.objects.values()})
        while True:
            await self._wakeup.wait()
            await self._clock.sleep(_DELETE_SECONDS)
            self._wakeup.clear()
            finished, self._finished = self._finished, set()
            await asyncio.gather(*map(self._delete, finished))

    async def _recover(self, csrs_by_uid: Mapping[str, CertificateSigningRequest]) -> None:
        for uid, to_be_signed in await self._journal.entries():
            self._recorded.add(uid)
            csr = csrs_by_uid.get(uid)
            if csr is None:
                digest = hashlib.sha256(to_be_signed).hexdigest()
                _log.warning("deleting the signing record of a deleted request", extra={"uid": uid, "sha256": digest})
            if csr is None or csr.status.certificate:
                self._finish(uid)

    def _changed(self, before: CertificateSigningRequest | None, after: CertificateSigningRequest | None) -> None:
        """A request has changed. A write that was reported as failed may have succeeded."""
        if after is None and before is not None:
            self._finish(before.metadata.uid)
        elif after is not None and after.status.certificate:
            self._finish(after.metadata.uid)

    def _finish(self, uid: str) -> None:
        if uid in self._recorded:
            self._finished.add(uid)
            self._wakeup.set()

    async def _delete(self, uid: str) -> None:
        self._recorded.discard(uid)
        try:
            await self._journal.delete(uid)
        except CertplaneError as error:
            # Harmless: the certificate is published, and the next start deletes the entry.
            extra = {"uid": uid, "error": str(error)}
            _log.warning("failed to delete the signing record of a published certificate", extra=extra)
