"""Where the signing controller records what it is about to sign, before the CA key is used.

A record is durable before the signature is made. After a crash, or in another replica, the record of a request is found
and its bytes are signed: a request gets at most one certificate, with one serial number.

With an embedded store the record is a key of that store (`JournalRecords`). Against another API server it is a
condition of the request itself (`ConditionRecords`), written through `/status`: it needs no further permission, every
replica sees it, and of two replicas that write at once the server rejects one. The certificate is written and the
condition removed in one update.

Whoever may approve a request can write its conditions too, through `/approval`. So the content of a record is
authenticated with the CA key (`Issuer.record`). Nothing here checks it: the signer does, and replaces the record if it
is not its own.
"""

from __future__ import annotations

import asyncio
import base64
import copy
import dataclasses
import hashlib
import logging
from collections.abc import Sequence
from typing import Final, Protocol

from certplane import timestamps
from certplane.client import api, informer
from certplane.clock import Clock
from certplane.errors import CertplaneError
from certplane.resources import certificatesigningrequests as csrs
from certplane.resources.certificatesigningrequests import CertificateSigningRequest

_log = logging.getLogger("certplane.controllers")

#: The condition that holds a record: its message is the content in base64.
ISSUING: Final = "certplane.io/Issuing"
_RECORDED: Final = "Recorded"
#: Records are deleted in batches: one round of deletions for all certificates of a second.
_DELETE_SECONDS: Final = 1.0


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """What is recorded for a request (`Issuer.record`), and the request as it is after recording."""

    csr: CertificateSigningRequest
    content: bytes


class Records(Protocol):
    """The records of one signing controller. All methods raise what a client raises, or CertplaneError."""

    async def record(self, csr: CertificateSigningRequest, content: bytes) -> Record:
        """Record what is to be signed for a request, unless there is a record; return the current record."""
        ...

    async def replace(self, csr: CertificateSigningRequest, content: bytes) -> Record:
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

    async def record(self, csr: CertificateSigningRequest, content: bytes) -> Record:
        conditions = csr.status.conditions
        text = next((condition.message for condition in conditions if condition.type == ISSUING), None)
        if text is None:
            return await self.replace(csr, content)
        try:
            return Record(csr, base64.b64decode(text, validate=True))
        except ValueError:
            # Not written by us (binascii.Error, or a plain ValueError for text that is not ASCII). The signer replaces
            # it, as it has no valid MAC.
            return Record(csr, text.encode("utf-8"))

    async def replace(self, csr: CertificateSigningRequest, content: bytes) -> Record:
        text = base64.b64encode(content).decode("ascii")
        now = timestamps.rfc3339(self._clock.now())
        recorded = csrs.with_condition(_without_record(csr), ISSUING, _RECORDED, text, now)
        return Record(await self._client.update(csrs.RESOURCE, recorded, "status"), content)

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

    async def record(self, uid: str, content: bytes) -> bytes:
        """Store the bytes unless there is an entry for this UID; return the current entry."""
        ...

    async def replace(self, uid: str, content: bytes) -> None:
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

    async def record(self, csr: CertificateSigningRequest, content: bytes) -> Record:
        recorded = await self._journal.record(csr.metadata.uid, content)
        self._recorded.add(csr.metadata.uid)
        return Record(csr, recorded)

    async def replace(self, csr: CertificateSigningRequest, content: bytes) -> Record:
        await self._journal.replace(csr.metadata.uid, content)
        return Record(csr, content)

    async def publish(self, csr: CertificateSigningRequest) -> None:
        await self._client.update(csrs.RESOURCE, csr, "status")
        self._finish(csr.metadata.uid)

    async def run(self, csr_informer: informer.Informer[CertificateSigningRequest]) -> None:
        """Delete entries that are no longer needed; first those that an earlier process left for deleted requests."""
        if not self._subscribed:
            csr_informer.subscribe(self._changed)
            self._subscribed = True
        await self._recover(csr_informer)
        while True:
            await self._wakeup.wait()
            await self._clock.sleep(_DELETE_SECONDS)
            self._wakeup.clear()
            finished, self._finished = self._finished, set()
            await asyncio.gather(*map(self._delete, finished))

    async def _recover(self, csr_informer: informer.Informer[CertificateSigningRequest]) -> None:
        entries = await self._journal.entries()
        # Only now: a request whose entry was just written has been in the informer since before.
        csrs_by_uid = {csr.metadata.uid: csr for csr in csr_informer.objects.values()}
        for uid, content in entries:
            self._recorded.add(uid)
            csr = csrs_by_uid.get(uid)
            if csr is None:
                digest = hashlib.sha256(content).hexdigest()
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
