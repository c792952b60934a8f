"""Removes from the archive what ended long ago."""

from __future__ import annotations

import datetime
import logging
from typing import Final

from certplane.clock import Clock
from certplane.inventory import recorder
from certplane.resources import issuedcertificates as issued
from certplane.store.archive import Archive

_log = logging.getLogger("certplane.inventory")

#: Seconds between two calls of `Retention.remove_ended`.
INTERVAL: Final = 600.0
#: Entries that one transaction removes: other writes wait for it.
_BATCH: Final = 200


class Retention:
    """Removes certificates that ended more than `period` ago, and the approvals of requests that were not issued."""

    def __init__(self, archive: Archive, clock: Clock, period: datetime.timedelta) -> None:
        self._archive = archive
        self._clock = clock
        self._period = period

    async def remove_ended(self) -> None:
        """Remove what is due. May raise contract.StoreClosed."""
        now = self._clock.now()
        certificates = await self._remove(issued.ARCHIVED.collection, now - self._period)
        await self._remove(recorder.APPROVALS, now)
        if certificates:
            _log.info("certificates that ended long ago removed from the inventory", extra={"count": certificates})

    async def _remove(self, collection: str, before: datetime.datetime) -> int:
        total = 0
        while removed := await self._archive.remove_ended(collection, int(before.timestamp()), _BATCH):
            total += removed
        return total
