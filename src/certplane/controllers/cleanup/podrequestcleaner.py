"""Deletes PodCertificateRequests 15 minutes after their creation, whether they were answered or not.

Source: kubernetes, `pkg/controller/certificates/cleaner/pcrcleaner.go`.
"""

from __future__ import annotations

import datetime
import logging
from typing import Final

from certplane import errors, timestamps
from certplane.client import api
from certplane.client.informer import Informer
from certplane.clock import Clock
from certplane.meta.resource import Resource
from certplane.resources.podcertificaterequests import PodCertificateRequest

_log = logging.getLogger("certplane.controllers")

NAME: Final = "podcertificaterequest-cleaner-controller"
ACCOUNT: Final = "podcertificaterequestcleaner"
INTERVAL: Final = 300.0
_MAX_AGE: Final = datetime.timedelta(minutes=15)


class PodRequestCleaner:
    """Cleans up every five minutes. `resource` is the version of the kind that the server has."""

    def __init__(
        self,
        client: api.Client,
        resource: Resource[PodCertificateRequest],
        informer: Informer[PodCertificateRequest],
        clock: Clock,
    ) -> None:
        self._client = client
        self._resource = resource
        self._informer = informer
        self._clock = clock

    async def run(self) -> None:
        """Clean up until cancelled."""
        await self._informer.synced.wait()
        while True:
            await self.clean()
            await self._clock.sleep(INTERVAL)

    async def clean(self) -> None:
        """Clean up once. A request that cannot be deleted is logged, and tried again the next time."""
        limit = self._clock.now() - _MAX_AGE
        for request in list(self._informer.objects.values()):
            metadata = request.metadata
            created, name = metadata.creation_timestamp, f"{metadata.namespace}/{metadata.name}"
            try:
                if created is None or timestamps.parse_rfc3339(created) > limit:
                    continue
            except ValueError as error:
                # An unreadable time must not stop the others from being deleted.
                _log.warning("failed to check PodCertificateRequest", extra={"name_": name, "problem": str(error)})
                continue
            try:
                await self._client.delete(self._resource, metadata.name, metadata.namespace, uid=metadata.uid)
            except errors.NotFound:
                continue
            except (errors.APIError, api.Unreachable) as error:
                _log.warning("failed to delete PodCertificateRequest", extra={"name_": name, "problem": str(error)})
