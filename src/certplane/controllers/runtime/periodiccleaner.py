"""Deletes the objects of a kind that are no longer needed: once at the start, then periodically."""

from __future__ import annotations

import dataclasses
import datetime
import logging
from collections.abc import Callable
from typing import Generic, TypeVar

from certplane import errors
from certplane.client import api
from certplane.client.informer import Informer
from certplane.clock import Clock
from certplane.meta.objects import Object
from certplane.meta.resource import Resource

_log = logging.getLogger("certplane.controllers")

T = TypeVar("T", bound=Object)


@dataclasses.dataclass(frozen=True, slots=True)
class CleanupRule(Generic[T]):
    """`reason_to_delete` returns why to delete an object at a time, or an empty string to keep it. It raises ValueError
    for an object that it cannot read. `interval` is in seconds.
    """

    resource: Resource[T]
    reason_to_delete: Callable[[T, datetime.datetime], str]
    interval: float


class PeriodicCleaner(Generic[T]):
    """Cleans up by one rule. An object that cannot be deleted is logged, and tried again the next time."""

    def __init__(self, client: api.Client, rule: CleanupRule[T], informer: Informer[T], clock: Clock) -> None:
        self._client = client
        self._rule = rule
        self._informer = informer
        self._clock = clock

    async def run(self) -> None:
        """Clean up until cancelled."""
        await self._informer.synced.wait()
        while True:
            await self.clean()
            await self._clock.sleep(self._rule.interval)

    async def clean(self) -> None:
        """Clean up once."""
        resource = self._rule.resource
        for (namespace, name), obj in list(self._informer.objects.items()):
            fields = {"resource": resource.plural, "object": f"{namespace}/{name}" if namespace else name}
            try:
                detail = self._rule.reason_to_delete(obj, self._clock.now())
            except ValueError as error:
                # An object that cannot be read must not stop the others from being deleted.
                _log.warning("failed to check object", extra={**fields, "error": str(error)})
                continue
            if not detail:
                continue
            try:
                # With the UID: another object may have the name by now.
                await self._client.delete(resource, name, namespace, uid=obj.metadata.uid)
            except (errors.NotFound, errors.Conflict):
                continue
            except (errors.APIError, api.Unreachable) as error:
                _log.warning("failed to delete object", extra={**fields, "error": str(error)})
                continue
            _log.info("object deleted", extra={**fields, "uid": obj.metadata.uid, "detail": detail})
