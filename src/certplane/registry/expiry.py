"""Forgets perishable objects: events, an hour after their last change.

What counts is when this server saw the last write, not what the object says of itself: revisions are noted as they
grow, and what has not changed since a revision that is old enough goes. A restart gives everything a fresh hour.
Source: kube-apiserver's --event-ttl.
"""

from __future__ import annotations

import collections
import logging
from collections.abc import Sequence
from typing import Final

from certplane import clock as clocks
from certplane.registry import verbs
from certplane.store import contract

_log = logging.getLogger("certplane.registry")

#: How often it is looked what may go, in seconds.
ROUND: Final = 60.0


class Expiry:
    """What forgets, and when it may. `seconds` is how long an object lasts after its last change."""

    def __init__(self, registries: Sequence[verbs.Registry], clock: clocks.Clock, seconds: float) -> None:
        # Several forms of the same objects are one collection.
        kinds = {each.resource.prefix: each for each in registries if each.resource.perishable}
        self._registries = tuple(kinds.values())
        self._clock = clock
        self._seconds = seconds
        #: When the store was at which revision, oldest first.
        self._seen: collections.deque[tuple[float, int]] = collections.deque()
        #: What did not change after this revision may go.
        self._old = -1
        self._note()

    def _note(self) -> None:
        if self._registries:
            self._seen.append((self._clock.monotonic(), self._registries[0].cache.revision))

    async def forget(self) -> None:
        """Forget what may go. Call it every ROUND seconds, and again if it raises contract.StoreClosed."""
        while self._seen and self._seen[0][0] <= self._clock.monotonic() - self._seconds:
            _, self._old = self._seen.popleft()
        self._note()
        count = 0
        for registry in self._registries:
            entries, _ = registry.collection.list()
            for entry in [each for each in entries if each.mod_revision <= self._old]:
                try:
                    await registry.store.delete(entry.key, entry.mod_revision)
                except contract.RevisionMismatch:
                    continue  # It has changed after all, or is gone already.
                count += 1
        if count:
            _log.info("expired objects deleted", extra={"count": count})
