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

_ROUND: Final = 60.0


class Expiry:
    """The task that forgets. `seconds` is how long an object lasts after its last change."""

    def __init__(self, registries: Sequence[verbs.Registry], clock: clocks.Clock, seconds: float) -> None:
        # Several forms of the same objects are one collection.
        kinds = {each.resource.prefix: each for each in registries if each.resource.perishable}
        self._registries = tuple(kinds.values())
        self._clock = clock
        self._seconds = seconds
        #: When the store was at which revision, oldest first.
        self._seen: collections.deque[tuple[float, int]] = collections.deque()

    async def run(self) -> None:
        """Forget until cancelled."""
        while self._registries:
            self._seen.append((self._clock.monotonic(), self._registries[0].cache.revision))
            await self._clock.sleep(_ROUND)
            await self._forget()

    async def _forget(self) -> None:
        old = -1
        while self._seen and self._seen[0][0] <= self._clock.monotonic() - self._seconds:
            _, old = self._seen.popleft()
        count = 0
        for registry in self._registries:
            entries, _ = registry.collection.list()
            for entry in [each for each in entries if each.mod_revision <= old]:
                try:
                    await registry.store.delete(entry.key, entry.mod_revision)
                except contract.RevisionMismatch:
                    continue  # It has changed after all, or is gone already.
                count += 1
        if count:
            _log.info("perishable objects forgotten", extra={"count": count})
