"""A local copy of a collection, kept current by list and watch.

The copy may be out of date, but every state that it shows was the server's. `synced` is set when the copy is complete
for the first time. A watch that ends is resumed at the last revision; if that is too old, the collection is listed
again. Subscribers are called for every difference, whether it came from a watch or a list. Source: client-go
`tools/cache/reflector.go`.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, Generic, TypeAlias, TypeVar

from certplane import errors
from certplane.client import api
from certplane.clock import Clock
from certplane.meta.objects import Object
from certplane.meta.resource import Resource

T = TypeVar("T", bound=Object)

_log = logging.getLogger("certplane.client")

_FIRST_DELAY: Final = 0.8
_LONGEST_DELAY: Final = 30.0
#: A watch that ends sooner than this, without an event, has failed.
_SHORT_WATCH: Final = 1.0

Key = tuple[str, str]
#: Called with (before, after); None stands for no object. Objects are shared and must not be changed.
Callback = Callable[[T | None, T | None], None]


class Informer(Generic[T]):
    """Watches one kind, in all namespaces."""

    def __init__(self, client: api.Client, resource: Resource[T], clock: Clock) -> None:
        self._client = client
        self._resource = resource
        self._clock = clock
        self._objects: dict[Key, T] = {}
        #: Objects whose last change some subscribers have not seen, because one of them raised.
        self._unseen: dict[Key, T] = {}
        self._callbacks: list[Callback[T]] = []
        #: The resourceVersion of the copy; empty: list first.
        self._version = ""
        self.synced = asyncio.Event()

    @property
    def objects(self) -> Mapping[Key, T]:
        """The objects, by namespace and name."""
        return MappingProxyType(self._objects)

    def get(self, name: str, namespace: str = "") -> T | None:
        return self._objects.get((namespace, name))

    def subscribe(self, callback: Callback[T]) -> None:
        """Call `callback` for every change from now on. Subscribe before `run`, or miss the first objects."""
        self._callbacks.append(callback)

    async def run(self) -> None:
        """List and watch until cancelled. A failure of a subscriber ends it. When run again, it lists first, and calls
        all subscribers for a change that some of them have not seen.
        """
        self._version = ""
        delay = _FIRST_DELAY
        while True:
            try:
                if not self._version:
                    self._version = await self._list()
                started_at, first_version = self._clock.monotonic(), self._version
                await self._watch()
                if self._version != first_version or self._clock.monotonic() - started_at >= _SHORT_WATCH:
                    delay = _FIRST_DELAY
                    continue
                # The server ends watches at once: it is shutting down, or overloaded. Back off.
            except errors.Expired:
                self._version = ""
            except api.Unreachable as error:
                # Resume at the last revision: not all copies should list at once.
                self._log_failure(error)
            except errors.APIError as error:
                self._log_failure(error)
                self._version = ""
            await self._clock.sleep(delay * (1 + random.random()))  # noqa: S311 - spreads load, no secret
            delay = min(2 * delay, _LONGEST_DELAY)

    def _log_failure(self, error: Exception) -> None:
        _log.warning("list/watch failed", extra={"resource": self._resource.plural, "error": str(error)})

    async def _list(self) -> str:
        listing = await self._client.list(self._resource)
        deleted = {**self._unseen, **self._objects}
        for obj in listing.items:
            deleted.pop(_key(obj), None)
            self._put(obj)
        for key, obj in deleted.items():
            self._replace(key, obj, None)
        self.synced.set()
        return listing.resource_version

    async def _watch(self) -> None:
        """Apply events until the stream ends."""
        async with self._client.watch(self._resource, self._version) as events:
            async for event in events:
                if event.type == "DELETED":
                    key = _key(event.object)
                    self._replace(key, self._objects.get(key, event.object), None)
                elif event.type != "BOOKMARK":
                    self._put(event.object)
                self._version = event.object.metadata.resource_version

    def _put(self, obj: T) -> None:
        key = _key(obj)
        before = self._objects.get(key)
        is_known = before is not None and before.metadata.resource_version == obj.metadata.resource_version
        if not is_known or key in self._unseen:
            self._replace(key, before, obj)

    def _replace(self, key: Key, before: T | None, after: T | None) -> None:
        """Change the copy and call the subscribers."""
        if after is None:
            self._objects.pop(key, None)
        else:
            self._objects[key] = after
        changed = after if after is not None else before
        if changed is not None:
            self._unseen[key] = changed
        for callback in self._callbacks:
            callback(before, after)
        self._unseen.pop(key, None)


#: In a collection of informers.
AnyInformer: TypeAlias = Informer[Any]


def _key(obj: Object) -> Key:
    return obj.metadata.namespace, obj.metadata.name
