"""A local copy of a collection, kept current by list and watch.

The copy may be behind, never wrong: every state it shows was the server's. It says when it is complete for the first
time (`synced`), resumes a dropped watch where it ended, lists again when that is too long ago, and tells its
subscribers about every difference, whichever way it learned of it. Source: client-go `tools/cache/reflector.go`.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from certplane import clock as clocks
from certplane import errors
from certplane.client import api
from certplane.meta import resource

_log = logging.getLogger("certplane.client")

_FIRST_DELAY: Final = 0.8
_LONGEST_DELAY: Final = 30.0
#: A watch that ends sooner than this, without an event, has failed.
_SHORT_WATCH: Final = 1.0

Key = tuple[str, str]
#: Told (before, after) of every change; None stands for no object. Objects are shared and must not be changed.
Callback = Callable[[Any, Any], None]


class Informer:
    """Follows one kind, in all namespaces."""

    def __init__(self, client: api.Client, of: resource.Resource, clock: clocks.Clock) -> None:
        self._client = client
        self._resource = of
        self._clock = clock
        self._objects: dict[Key, Any] = {}
        self._callbacks: list[Callback] = []
        #: How far the copy has come; empty if it has to begin with a list.
        self._version = ""
        self.synced = asyncio.Event()

    @property
    def objects(self) -> Mapping[Key, Any]:
        """What there is, by namespace and name."""
        return MappingProxyType(self._objects)

    def get(self, name: str, namespace: str = "") -> Any | None:
        return self._objects.get((namespace, name))

    def subscribe(self, callback: Callback) -> None:
        """Have `callback` called for every change from now on. Subscribe before `run`, or miss the beginning."""
        self._callbacks.append(callback)

    async def run(self) -> None:
        """Follow the server until cancelled. Run again, it begins with a list: what it failed at may be in between."""
        self._version = ""
        delay = _FIRST_DELAY
        while True:
            try:
                if not self._version:
                    self._version = await self._list()
                began, start = self._clock.monotonic(), self._version
                await self._watch()
                if self._version != start or self._clock.monotonic() - began >= _SHORT_WATCH:
                    delay = _FIRST_DELAY
                    continue
                # A server that ends watches as they begin is on its way out, or ill: leave it alone for a while.
            except errors.Expired:
                self._version = ""
            except api.Unreachable as error:
                # What was seen stays seen: the watch goes on from there, and all copies do not list at once.
                self._complain(error)
            except errors.APIError as error:
                self._complain(error)
                self._version = ""
            await self._clock.sleep(delay * (1 + random.random()))  # noqa: S311 - spreads load, no secret
            delay = min(2 * delay, _LONGEST_DELAY)

    def _complain(self, error: Exception) -> None:
        _log.warning("cannot follow", extra={"resource": self._resource.plural, "problem": str(error)})

    async def _list(self) -> str:
        found = await self._client.list(self._resource)
        gone = dict(self._objects)
        for each in found.items:
            gone.pop(_key(each), None)
            self._put(each)
        for key, each in gone.items():
            del self._objects[key]
            self._tell(each, None)
        self.synced.set()
        return found.resource_version

    async def _watch(self) -> None:
        """Follow until the stream ends."""
        async with self._client.watch(self._resource, self._version) as events:
            async for event in events:
                if event.type == "DELETED":
                    before = self._objects.pop(_key(event.object), None)
                    self._tell(before if before is not None else event.object, None)
                elif event.type != "BOOKMARK":
                    self._put(event.object)
                self._version = event.object.metadata.resource_version

    def _put(self, new: Any) -> None:
        key = _key(new)
        before = self._objects.get(key)
        self._objects[key] = new
        if before is None or before.metadata.resource_version != new.metadata.resource_version:
            self._tell(before, new)

    def _tell(self, before: Any, after: Any) -> None:
        for callback in self._callbacks:
            callback(before, after)


def _key(of: Any) -> Key:
    return of.metadata.namespace, of.metadata.name
