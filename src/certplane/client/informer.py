"""A local copy of a collection, kept current by list and watch.

The copy may be out of date, but every state that it shows was the server's. `synced` is set when the copy is complete
for the first time. A watch that ends is resumed at the last revision; if that is too old, the collection is listed
again. Subscribers are called for every difference, whether it came from a watch or a list. An object that was deleted
and created again is two differences, even if one event or list shows both. Source: client-go
`tools/cache/reflector.go`.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping, Sequence
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
#: Namespace, name and UID.
_Identity = tuple[str, str, str]
#: Called with (before, after); None stands for no object. Objects are shared and must not be changed.
Callback = Callable[[T | None, T | None], None]


class Informer(Generic[T]):
    """Watches one kind, in all namespaces."""

    def __init__(self, client: api.Client, resource: Resource[T], clock: Clock) -> None:
        self._client = client
        self._resource = resource
        self._clock = clock
        self._objects: dict[Key, T] = {}
        #: Objects whose last change some subscribers have not handled, because they raised.
        self._unhandled: dict[_Identity, T] = {}
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
        """List and watch until cancelled. An exception of a subscriber ends it, after all subscribers were called for
        the event, or for all objects of the list. When run again, it lists first, and calls all subscribers again for
        a change that some of them have not handled.
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
        deleted = {**self._unhandled, **{_identity(obj): obj for obj in self._objects.values()}}
        for obj in listing.items:
            deleted.pop(_identity(obj), None)
        failures = [failure for obj in deleted.values() for failure in self._remove(obj)]
        failures += [failure for obj in listing.items for failure in self._put(obj)]
        self.synced.set()
        _raise_first(failures)
        return listing.resource_version

    async def _watch(self) -> None:
        """Apply events until the stream ends."""
        async with self._client.watch(self._resource, self._version) as events:
            async for event in events:
                if event.type == "DELETED":
                    _raise_first(self._remove(self._objects.get(_key(event.object), event.object)))
                elif event.type != "BOOKMARK":
                    _raise_first(self._put(event.object))
                self._version = event.object.metadata.resource_version

    def _put(self, obj: T) -> list[Exception]:
        """Add an object to the copy, or replace it; what subscribers raised."""
        failures: list[Exception] = []
        before = self._objects.get(_key(obj))
        if before is not None and before.metadata.uid != obj.metadata.uid:
            failures, before = self._remove(before), None
        is_known = before is not None and before.metadata.resource_version == obj.metadata.resource_version
        if is_known and _identity(obj) not in self._unhandled:
            return failures
        self._objects[_key(obj)] = obj
        return failures + self._call_subscribers(before, obj, obj)

    def _remove(self, obj: T) -> list[Exception]:
        """Remove an object from the copy; what subscribers raised."""
        current = self._objects.get(_key(obj))
        if current is not None and current.metadata.uid == obj.metadata.uid:
            del self._objects[_key(obj)]
        elif current is not None:
            # Called again for an earlier object. Subscribers that know objects by name have to be called for this one.
            self._unhandled[_identity(current)] = current
        return self._call_subscribers(obj, None, obj)

    def _call_subscribers(self, before: T | None, after: T | None, changed: T) -> list[Exception]:
        """Call all subscribers; what they raised. One that fails must not keep a change from the others."""
        self._unhandled[_identity(changed)] = changed
        failures = []
        for callback in self._callbacks:
            try:
                callback(before, after)
            except Exception as error:
                failures.append(error)
        if not failures:
            del self._unhandled[_identity(changed)]
        return failures


def _raise_first(failures: Sequence[Exception]) -> None:
    if failures:
        raise failures[0]


#: In a collection of informers.
AnyInformer: TypeAlias = Informer[Any]


def _key(obj: Object) -> Key:
    return obj.metadata.namespace, obj.metadata.name


def _identity(obj: Object) -> _Identity:
    return *_key(obj), obj.metadata.uid
