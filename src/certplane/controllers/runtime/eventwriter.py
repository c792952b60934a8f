"""Writes Events, one after another, in a background task: no caller waits for them.

A repeated Event has its count increased, at most every five minutes. If Events arrive faster than they can be written
some are dropped, as in client-go, those of type Normal first: people read them, and no controller acts on them.

Source of names and shapes: client-go `tools/record`.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import logging
from collections.abc import Mapping
from typing import Final

from certplane import errors, timestamps
from certplane.client import api
from certplane.clock import Clock
from certplane.meta import names, objects
from certplane.meta.objects import ObjectReference
from certplane.resources import events
from certplane.resources.events import Event

_log = logging.getLogger("certplane.controllers")

NORMAL: Final = "Normal"
WARNING: Final = "Warning"
_COMPONENT: Final = "certplane"
#: The namespace of Events about cluster-scoped objects.
_NAMESPACE: Final = "default"
#: Events that wait to be written, at most. Those of type Normal are dropped earlier: the object shows the same, and
#: under load the next certificate is more important.
_MAX_WAITING: Final = 1000
_MAX_NORMAL_WAITING: Final = 20
#: Written Events that are remembered, so that a repeated one increases the count.
_MAX_WRITTEN: Final = 4096
_REPEAT_INTERVAL: Final = 300.0
_MAX_MESSAGE: Final = 1024


@dataclasses.dataclass(frozen=True, slots=True)
class Report:
    """An Event to write, about a cluster-scoped object. Reports with the same `key` share an Event."""

    key: tuple[str, ...]
    reference: ObjectReference
    reason: str
    message: str
    type: str = WARNING
    annotations: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(slots=True)
class _Written:
    """An Event as it was last written, and when (monotonic seconds)."""

    event: Event
    at: float


class EventWriter:
    """Writes reports as Events. Without a client, nothing is written."""

    def __init__(self, client: api.Client | None, clock: Clock) -> None:
        self._client = client
        self._clock = clock
        self._waiting: asyncio.Queue[Report] = asyncio.Queue(_MAX_WAITING)
        self._written: collections.OrderedDict[tuple[str, ...], _Written] = collections.OrderedDict()
        self._is_failing = False

    def add(self, report: Report) -> None:
        """Have a report written. Never fails, never blocks."""
        limit = _MAX_NORMAL_WAITING if report.type == NORMAL else _MAX_WAITING
        if self._client is not None and self._waiting.qsize() < limit:
            self._waiting.put_nowait(report)

    async def run(self) -> None:
        """Write Events until cancelled."""
        while True:
            report = await self._waiting.get()
            try:
                await self._write(report)
                self._is_failing = False
            except (errors.APIError, api.Unreachable) as error:
                # Logged once, not for each Event: what they say is in the log anyway.
                if not self._is_failing:
                    _log.warning("failed to write event", extra={"error": str(error)})
                self._is_failing = True

    async def _write(self, report: Report) -> None:
        assert self._client is not None  # noqa: S101 - nothing is queued otherwise
        written = self._written.get(report.key)
        now = self._clock.monotonic()
        if written is not None and now - written.at < _REPEAT_INTERVAL:
            return
        if written is None:
            event = await self._client.create(events.RESOURCE, self._new_event(report), _NAMESPACE)
        else:
            # Dropped before the update: if that fails, the next repetition is a new Event.
            self._written.pop(report.key)
            event = await self._repeat(self._client, written.event, report)
        self._written[report.key] = _Written(event, now)
        if len(self._written) > _MAX_WRITTEN:
            self._written.popitem(last=False)

    async def _repeat(self, client: api.Client, event: Event, report: Report) -> Event:
        event.count += 1
        event.message = report.message[:_MAX_MESSAGE]
        event.last_timestamp = timestamps.rfc3339(self._clock.now())
        try:
            updated: Event = await client.update(events.RESOURCE, event)
        except (errors.NotFound, errors.Conflict):
            # Events are deleted an hour after their last change. An update could create it, but not with its UID.
            updated = await client.create(events.RESOURCE, self._new_event(report), _NAMESPACE)
        return updated

    def _new_event(self, report: Report) -> Event:
        now = timestamps.rfc3339(self._clock.now())
        event = Event(
            involved_object=report.reference,
            reason=report.reason,
            message=report.message[:_MAX_MESSAGE],
            source=events.EventSource(component=_COMPONENT),
            reporting_component=_COMPONENT,
            first_timestamp=now,
            last_timestamp=now,
            count=1,
            type=report.type,
        )
        event.metadata.name = _event_name(report.reference.name)
        event.metadata.namespace = _NAMESPACE
        event.metadata.annotations = dict(report.annotations)
        return event


def _event_name(object_name: str) -> str:
    name = f"{object_name}.{objects.new_uid().replace('-', '')[:16]}"
    # The name of an object may be one that an Event must not have.
    return objects.new_uid() if names.dns1123_subdomain_problems(name) else name
