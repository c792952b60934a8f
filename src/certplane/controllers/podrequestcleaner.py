"""Deletes PodCertificateRequests a quarter of an hour after they were made, whatever became of them.

Source: kubernetes, `pkg/controller/certificates/cleaner/pcrcleaner.go`; controllers.md 6.
"""

from __future__ import annotations

import datetime
import logging
from typing import Final

from certplane import clock as clocks
from certplane import errors
from certplane.client import api, informer
from certplane.meta import resource

_log = logging.getLogger("certplane.controllers")

NAME: Final = "podcertificaterequest-cleaner-controller"
ACCOUNT: Final = "podcertificaterequestcleaner"
INTERVAL: Final = 300.0
_LONGEST: Final = datetime.timedelta(minutes=15)


class PodRequestCleaner:
    """One pass every five minutes."""

    def __init__(
        self, client: api.Client, of: resource.Resource, source: informer.Informer, clock: clocks.Clock
    ) -> None:
        self._client = client
        self._resource = of
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
        limit = self._clock.now() - _LONGEST
        for each in list(self._source.objects.values()):
            meta = each.metadata
            try:
                is_young = meta.creation_timestamp is None or clocks.parse_rfc3339(meta.creation_timestamp) > limit
            except ValueError as error:
                # A time that nobody can read costs this request alone.
                name = f"{meta.namespace}/{meta.name}"
                _log.warning("PodCertificateRequest cannot be judged", extra={"name_": name, "problem": str(error)})
                continue
            if is_young:
                continue
            try:
                await self._client.delete(self._resource, meta.name, meta.namespace, uid=meta.uid)
            except errors.NotFound:
                continue
            except (errors.APIError, api.Unreachable) as error:
                name = f"{meta.namespace}/{meta.name}"
                _log.warning("unable to delete PodCertificateRequest", extra={"name_": name, "problem": str(error)})
