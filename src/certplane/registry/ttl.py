"""Deletes objects whose TTL has expired: events, by default an hour after their last change.

The time counts from the write as this server saw it, not from timestamps in the object. Once a minute the cleaner notes
the store's revision; an object whose last change is at or before a revision that was noted a TTL ago is deleted. A
restart gives all objects their full TTL again. Source: kube-apiserver's --event-ttl.
"""

from __future__ import annotations

import collections
import logging
from collections.abc import Sequence
from typing import Final

from certplane.clock import Clock
from certplane.registry.verbs import AnyRegistry
from certplane.store import contract

_log = logging.getLogger("certplane.registry")

#: Seconds between two calls of `TTLCleaner.clean`.
INTERVAL: Final = 60.0


class TTLCleaner:
    """Deletes the objects of all kinds that have a TTL, `seconds` after their last change."""

    def __init__(self, registries: Sequence[AnyRegistry], clock: Clock, seconds: float) -> None:
        # Several versions of a kind share one collection.
        by_prefix = {registry.resource.prefix: registry for registry in registries if registry.resource.has_ttl}
        self._registries = tuple(by_prefix.values())
        self._clock = clock
        self._seconds = seconds
        #: Monotonic times, and the store's revision at each, oldest first.
        self._noted: collections.deque[tuple[float, int]] = collections.deque()
        #: Objects that did not change after this revision are expired.
        self._expired_revision = -1
        self._note_revision()

    def _note_revision(self) -> None:
        if self._registries:
            self._noted.append((self._clock.monotonic(), self._registries[0].cache.revision))

    async def clean(self) -> None:
        """Delete expired objects. Call it every INTERVAL seconds. May raise contract.StoreClosed."""
        while self._noted and self._noted[0][0] <= self._clock.monotonic() - self._seconds:
            _, self._expired_revision = self._noted.popleft()
        self._note_revision()
        count = 0
        for registry in self._registries:
            entries, _ = registry.collection.list()
            for entry in [entry for entry in entries if entry.mod_revision <= self._expired_revision]:
                try:
                    await registry.store.delete(entry.key, entry.mod_revision)
                except contract.RevisionMismatch:
                    continue  # It has changed since, or was deleted.
                count += 1
        if count:
            _log.info("expired objects deleted", extra={"count": count})
