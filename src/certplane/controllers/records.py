"""Where the signing controller records what it is about to sign, so that a crash, or another copy, changes nothing.

A record is durable before the CA key is used. Whoever comes to the same request afterwards finds it and signs the same
bytes again: at most one certificate, with one serial number, comes out for a request, whatever happens in between.

Beside an embedded store the record is a key of that store (`InStore`). Against an API server elsewhere it is a
condition of the request itself (`OnRequest`), written through `/status`, which no user may write: it takes no further
right, every copy sees it, and of two copies that write at once the server lets one win. The certificate and the end of
the condition are one write, so nothing of it is left.
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

from certplane import clock as clocks
from certplane import errors
from certplane.client import api, informer
from certplane.resources import certificatesigningrequests as csrs

_log = logging.getLogger("certplane.controllers")

#: The condition that holds a record: its message is the DER of the bytes to be signed, in base64.
ISSUING: Final = "certplane.io/Issuing"
_RECORDED: Final = "Recorded"
_TIDY_SECONDS: Final = 1.0


@dataclasses.dataclass(frozen=True, slots=True)
class Kept:
    """What is recorded, and the request to go on with: recording may have changed it."""

    request: csrs.CertificateSigningRequest
    to_be_signed: bytes


class Records(Protocol):
    """The records of one signing controller. All raise what a client raises, or errors.CertplaneError."""

    async def keep(self, of: csrs.CertificateSigningRequest, to_be_signed: bytes) -> Kept:
        """Record what is to be signed for a request; or find what was recorded before."""
        ...

    async def replace(self, of: csrs.CertificateSigningRequest, to_be_signed: bytes) -> Kept:
        """Record something else: what was recorded cannot be signed any more."""
        ...

    async def publish(self, new: csrs.CertificateSigningRequest) -> None:
        """Write what became of a request into its status. Of it nothing needs to be recorded after that."""
        ...

    async def run(self, requests: informer.Informer) -> None:
        """Look after the records, until cancelled. `requests` are complete."""
        ...


class OnRequest:
    """A record is a condition of its request."""

    def __init__(self, client: api.Client, clock: clocks.Clock) -> None:
        self._client = client
        self._clock = clock

    async def keep(self, of: csrs.CertificateSigningRequest, to_be_signed: bytes) -> Kept:
        found = next((each.message for each in of.status.conditions if each.type == ISSUING), None)
        if found is None:
            return await self.replace(of, to_be_signed)
        try:
            return Kept(of, base64.b64decode(found, validate=True))
        except binascii.Error:
            # No record of ours. What is not DER will not be taken for what is to be signed.
            return Kept(of, found.encode("utf-8"))

    async def replace(self, of: csrs.CertificateSigningRequest, to_be_signed: bytes) -> Kept:
        text = base64.b64encode(to_be_signed).decode("ascii")
        now = clocks.rfc3339(self._clock.now())
        new = csrs.with_condition(_without_record(of), ISSUING, _RECORDED, text, now)
        return Kept(await self._client.update(csrs.RESOURCE, new, "status"), to_be_signed)

    async def publish(self, new: csrs.CertificateSigningRequest) -> None:
        await self._client.update(csrs.RESOURCE, _without_record(new), "status")

    async def run(self, requests: informer.Informer) -> None:
        """A record goes with its request: there is nothing to look after."""


def _without_record(of: csrs.CertificateSigningRequest) -> csrs.CertificateSigningRequest:
    new = copy.copy(of)
    new.status = copy.copy(of.status)
    new.status.conditions = [each for each in of.status.conditions if each.type != ISSUING]
    return new


class Journal(Protocol):
    """Bytes under UIDs, durable. Raises errors.CertplaneError."""

    async def keep(self, uid: str, to_be_signed: bytes) -> bytes:
        """Keep it, and return it; or what was kept before for this UID."""
        ...

    async def replace(self, uid: str, to_be_signed: bytes) -> None:
        """Keep something else instead."""
        ...

    async def forget(self, uid: str) -> None:
        """It is published, or will never be."""
        ...

    async def kept(self) -> Sequence[tuple[str, bytes]]:
        """Everything that is kept, by UID."""
        ...


class InStore:
    """A record is a line in a journal, which is forgotten a moment after its request was published or deleted."""

    def __init__(self, journal: Journal, client: api.Client, clock: clocks.Clock) -> None:
        self._journal = journal
        self._client = client
        self._clock = clock
        #: Requests of which something is kept, and those of them that need it no more.
        self._kept: set[str] = set()
        self._over: set[str] = set()
        self._anything = asyncio.Event()
        self._subscribed = False

    async def keep(self, of: csrs.CertificateSigningRequest, to_be_signed: bytes) -> Kept:
        kept = await self._journal.keep(of.metadata.uid, to_be_signed)
        self._kept.add(of.metadata.uid)
        return Kept(of, kept)

    async def replace(self, of: csrs.CertificateSigningRequest, to_be_signed: bytes) -> Kept:
        await self._journal.replace(of.metadata.uid, to_be_signed)
        return Kept(of, to_be_signed)

    async def publish(self, new: csrs.CertificateSigningRequest) -> None:
        await self._client.update(csrs.RESOURCE, new, "status")
        self._end(new.metadata.uid)

    async def run(self, requests: informer.Informer) -> None:
        """Forget what is over, many at a time; first what an earlier process kept for requests that are gone."""
        if not self._subscribed:
            requests.subscribe(self._changed)
            self._subscribed = True
        await self._recover({each.metadata.uid: each for each in requests.objects.values()})
        while True:
            await self._anything.wait()
            await self._clock.sleep(_TIDY_SECONDS)
            self._anything.clear()
            over, self._over = self._over, set()
            await asyncio.gather(*map(self._forget, over))

    async def _recover(self, requests: Mapping[str, csrs.CertificateSigningRequest]) -> None:
        for uid, to_be_signed in await self._journal.kept():
            self._kept.add(uid)
            of = requests.get(uid)
            if of is None:
                digest = hashlib.sha256(to_be_signed).hexdigest()
                why = "what was to be signed for a request that is gone is dropped"
                _log.warning(why, extra={"uid": uid, "sha256": digest})
            if of is None or of.status.certificate:
                self._end(uid)

    def _changed(
        self, before: csrs.CertificateSigningRequest | None, after: csrs.CertificateSigningRequest | None
    ) -> None:
        """Somebody may have been told that a write failed which did not."""
        if after is None and before is not None:
            self._end(before.metadata.uid)
        elif after is not None and after.status.certificate:
            self._end(after.metadata.uid)

    def _end(self, uid: str) -> None:
        if uid in self._kept:
            self._over.add(uid)
            self._anything.set()

    async def _forget(self, uid: str) -> None:
        self._kept.discard(uid)
        try:
            await self._journal.forget(uid)
        except errors.CertplaneError as error:
            # It is published: this is no more than a line too many in the journal, which the next start finds.
            _log.warning("the journal keeps what is published", extra={"uid": uid, "problem": str(error)})
