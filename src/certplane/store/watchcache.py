"""The contents of a store in memory: reads do not wait, and one change is distributed to all watchers.

One watch on the store feeds the cache. Each prefix is a `Collection`: its entries, sorted keys, and a window of recent
events from which a watch can be resumed. Readers store results in the `memo` of entries and events, so that an object
is decoded and encoded once for all readers.

An idle watcher costs one future. An event is appended to the list of each watcher that it concerns, and the first one
resolves the future; the watcher then takes all events that have arrived. A watcher that does not take its events is
closed when its backlog is full, and finds `overflowed` set; other watchers are not affected.
"""

from __future__ import annotations

import asyncio
import bisect
import builtins
import collections
import contextlib
import logging
from collections.abc import Callable, Sequence
from typing import Any, Final

from certplane import clock
from certplane.clock import Clock
from certplane.store import contract

_log = logging.getLogger("certplane.store")

#: Why a value cannot be read, from the prefix of its collection, its key and the value; empty if it can.
FindCorruption = Callable[[str, str, bytes], str]

#: Events in the window of a collection, and events that may wait for a watcher.
WINDOW: Final = 10_000
BACKLOG: Final = 10_000


class Entry:
    """A key and its value. `memo` is for readers."""

    __slots__ = ("create_revision", "key", "memo", "mod_revision", "value", "version")

    def __init__(self, stored: contract.KeyValue) -> None:
        self.key = stored.key
        self.value = stored.value
        self.create_revision = stored.create_revision
        self.mod_revision = stored.mod_revision
        self.version = stored.version
        self.memo: Any = None


class Event:
    """One change. `current` is None for a deletion, `previous` None for a creation. `memo` is for readers."""

    __slots__ = ("current", "key", "memo", "previous", "revision")

    def __init__(self, revision: int, key: str, current: Entry | None, previous: Entry | None) -> None:
        self.revision = revision
        self.key = key
        self.current = current
        self.previous = previous
        self.memo: Any = None


class Watcher:
    """A watch on a collection. Each step of the iteration gives the events since the last one; none after `wake`.

    If `overflowed` is set at the end of the iteration, events were lost because they were not taken in time.
    """

    def __init__(self, collection: Collection, prefix: str, backlog: int, after: int = 0) -> None:
        self.prefix = prefix
        self._after = after
        self.overflowed = False
        self._collection = collection
        self._backlog = backlog
        self._events: list[Event] = []
        self._waiting: asyncio.Future[None] | None = None
        self._woken = False
        self._closed = False

    @property
    def revision(self) -> int:
        """The revision up to which this watch is complete, if it has taken all events."""
        return self._collection.revision

    def __aiter__(self) -> Watcher:
        return self

    async def __anext__(self) -> Sequence[Event]:
        while not self._events and not self._woken:
            if self._closed:
                raise StopAsyncIteration
            self._waiting = asyncio.get_running_loop().create_future()
            try:
                await self._waiting
            finally:
                self._waiting = None
        self._woken = False
        events, self._events = self._events, []
        return events

    def offer(self, events: Sequence[Event]) -> None:
        """Add events that concern this watch. Called by the collection."""
        if events[0].revision <= self._after:
            events = [event for event in events if event.revision > self._after]
        if len(self._events) + len(events) > self._backlog:
            self.overflowed = True
            self._events = []
            self.close()
            return
        self._events.extend(events)
        self._notify()

    def wake(self) -> None:
        """Make the iteration step without an event, unless the watch starts at a revision that is still to come."""
        if self._collection.revision < self._after:
            return
        self._woken = True
        self._notify()

    def close(self) -> None:
        """End the watch: the iteration stops after the events that have arrived. Idempotent."""
        if not self._closed:
            self._closed = True
            self._collection.remove_watcher(self)
            self._notify()

    def _notify(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)


class Collection:
    """The entries under one prefix."""

    def __init__(self, cache: WatchCache, prefix: str, window: int) -> None:
        self.prefix = prefix
        self._cache = cache
        self._entries: dict[str, Entry] = {}
        self._keys: list[str] = []
        self._window: collections.deque[Event] = collections.deque(maxlen=window)
        #: Every change after this revision is in the window.
        self._complete_after = 0
        # A dict keeps the order of arrival, and removes a watcher in constant time.
        self._watchers: dict[Watcher, None] = {}
        self._subscribers: list[Callable[[Sequence[Event]], None]] = []
        #: Keys whose values cannot be read, with the reason. Lists and watches skip them.
        self.corrupt: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def revision(self) -> int:
        """The newest revision of the whole store that this collection has seen."""
        return self._cache.revision

    def get(self, key: str) -> Entry | None:
        """The entry of a key; None if there is none."""
        return self._entries.get(key)

    def list(self, prefix: str = "", start: str = "", limit: int = 0) -> tuple[Sequence[Entry], int]:
        """Entries under `prefix` in key order, from `start` on, at most `limit` if positive; and how many follow."""
        prefix = prefix or self.prefix
        first = bisect.bisect_left(self._keys, max(prefix, start))
        last = bisect.bisect_left(self._keys, _after_prefix(prefix)) if prefix != self.prefix else len(self._keys)
        stop = min(last, first + limit) if limit > 0 else last
        return [self._entries[key] for key in self._keys[first:stop]], max(last - stop, 0)

    def subscribe(self, callback: Callable[[Sequence[Event]], None]) -> None:
        """Call a function with every batch of events, before their writers get their results. It must not raise."""
        self._subscribers.append(callback)

    def watch(self, after: int | None = None, prefix: str = "", *, backlog: int = BACKLOG) -> Watcher:
        """Start a watch: for changes from now on, or for all changes after a revision, which may be in the future.

        Raises Compacted if the revision is older than the window.
        """
        watcher = Watcher(self, prefix or self.prefix, backlog, after or 0)
        if after is not None and after < self._cache.revision:
            if after < self._complete_after:
                raise contract.Compacted(after, self._complete_after + 1)
            missed = [
                event for event in self._window if event.revision > after and event.key.startswith(watcher.prefix)
            ]
            if missed:
                watcher.offer(missed)
        self._watchers[watcher] = None
        return watcher

    def remove_watcher(self, watcher: Watcher) -> None:
        """Stop adding events to a watcher."""
        self._watchers.pop(watcher, None)

    # --- called by the cache --------------------------------------------------------------------------------------

    def load(self, items: Sequence[contract.KeyValue], revision: int) -> builtins.list[Event]:
        """The events that lead from the current entries to the items of a list at `revision`."""
        items = [item for item in items if not self.check_corruption(item)]
        listed = {item.key for item in items}
        events = [Event(revision, key, None, self._entries[key]) for key in self._keys if key not in listed]
        for item in items:
            previous = self._entries.get(item.key)
            if previous is None or previous.mod_revision != item.mod_revision:
                events.append(Event(item.mod_revision, item.key, Entry(item), previous))
        return events

    def check_corruption(self, item: contract.KeyValue) -> bool:
        """Whether a value cannot be read. If so, log it and add its key to `corrupt`."""
        problem = self._cache.find_corruption(self.prefix, item.key, item.value)
        if problem:
            _log.error("cannot read stored object; skipping it", extra={"key": item.key, "error": problem})
            self.corrupt[item.key] = problem
        return bool(problem)

    def start_window(self, revision: int) -> None:
        """Clear the window. It has all changes after this revision from now on."""
        self._window.clear()
        self._complete_after = revision

    def apply(self, events: Sequence[Event]) -> None:
        """Apply events, in order, to the entries and the window, and pass them to subscribers and watchers."""
        for event in events:
            if event.current is None:
                if self._entries.pop(event.key, None) is not None:
                    del self._keys[bisect.bisect_left(self._keys, event.key)]
            else:
                if event.key not in self._entries:
                    bisect.insort(self._keys, event.key)
                self._entries[event.key] = event.current
            if len(self._window) == self._window.maxlen:
                self._complete_after = self._window[0].revision
            self._window.append(event)
        for callback in self._subscribers:
            callback(events)
        for watcher in list(self._watchers):
            if watcher.prefix == self.prefix:
                watcher.offer(events)
            else:
                matching = [event for event in events if event.key.startswith(watcher.prefix)]
                if matching:
                    watcher.offer(matching)

    def close_watchers(self) -> None:
        """End all watches, because there will be no more events."""
        for watcher in list(self._watchers):
            watcher.close()


class WatchCache:
    """A cache in front of a store, for keys under the given prefixes. Changes of other keys advance the revision only.

    `find_corruption` checks the values that are in the store at the start, so that a corrupt value affects no other
    object. Later values come from this process and are not checked.
    """

    def __init__(
        self,
        store: contract.Store,
        prefixes: Sequence[str],
        window: int = WINDOW,
        find_corruption: FindCorruption = lambda *_: "",
    ) -> None:
        self._store = store
        self.find_corruption = find_corruption
        self._window = window
        self._collections = {prefix: Collection(self, prefix, window) for prefix in prefixes}
        self._revision = 0
        self._watch: contract.Watch | None = None
        self._arrivals: list[tuple[int, asyncio.Future[None]]] = []
        self.failure: str | None = None

    @property
    def revision(self) -> int:
        """The newest revision of the store that the cache has seen."""
        return self._revision

    @property
    def corrupt(self) -> int:
        """The number of values that cannot be read."""
        return sum(len(collection.corrupt) for collection in self._collections.values())

    def collection(self, prefix: str) -> Collection:
        """The collection of one of the prefixes."""
        return self._collections[prefix]

    async def start(self) -> None:
        """Fill the cache and watch the store.

        Starts a window's length in the past, or at the compaction revision, so that clients can resume watches that
        they started before a restart.
        """
        newest = await self._store.revision()
        base = max(await self._store.oldest(), newest - self._window)
        for collection in self._collections.values():
            page = await self._store.list(collection.prefix, revision=base)
            collection.apply(collection.load(page.items, base))
            collection.start_window(base)
        self._revision = base
        self._watch = await self._store.watch("", base, self._deliver, self._ended)
        self._advance(max(self._revision, newest))

    def close(self) -> None:
        """Stop watching the store; end all watches."""
        if self._watch is not None:
            self._watch.close()
        for collection in self._collections.values():
            collection.close_watchers()

    async def fresh(self) -> None:
        """Return when the cache has everything that was written before this call."""
        newest = await self._store.revision()
        while newest > self._revision:
            await self._arrival(newest)

    async def wait_for(self, revision: int, timer: Clock, seconds: float) -> bool:
        """Wait up to `seconds` until the cache has seen a revision. Returns whether it has."""
        if revision <= self._revision:
            return True
        with contextlib.suppress(TimeoutError):
            await clock.wait_for(timer, self._arrival(revision), seconds)
        return revision <= self._revision

    async def _arrival(self, revision: int) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._arrivals.append((revision, future))
        await future

    # --- called by the store --------------------------------------------------------------------------------------

    def _deliver(self, changes: Sequence[contract.Change]) -> None:
        batches: dict[str, list[Event]] = {}
        for change in changes:
            prefix = self._prefix_of(change.key)
            if prefix is not None:
                batches.setdefault(prefix, []).append(self._event(prefix, change, batches.get(prefix, ())))
        # Before the watchers get the events, so that they can read at this revision.
        self._revision = max(self._revision, changes[-1].revision)
        for prefix, events in batches.items():
            self._collections[prefix].apply(events)
        self._advance(self._revision)

    def _event(self, prefix: str, change: contract.Change, earlier: Sequence[Event]) -> Event:
        """The event of a change, after the `earlier` events of its batch. Known entries are reused with their memo."""
        collection = self._collections[prefix]
        was_corrupt = collection.corrupt.pop(change.key, None) is not None
        is_corrupt = self._watch is None and change.current is not None and collection.check_corruption(change.current)
        previous: Entry | None = None
        if change.previous is not None and not was_corrupt:
            known = next((event.current for event in reversed(earlier) if event.key == change.key), None)
            known = known or collection.get(change.key)
            matches = known is not None and known.mod_revision == change.previous.mod_revision
            previous = known if matches else Entry(change.previous)
        current = Entry(change.current) if change.current is not None and not is_corrupt else None
        return Event(change.revision, change.key, current, previous)

    def _prefix_of(self, key: str) -> str | None:
        # Keys are /registry/PLURAL/...: the prefix ends at the third slash.
        end = key.find("/", key.find("/", 1) + 1) + 1
        prefix = key[:end]
        return prefix if prefix in self._collections else None

    def _advance(self, revision: int) -> None:
        self._revision = revision
        if self._arrivals:
            arrived = [future for awaited, future in self._arrivals if awaited <= revision]
            self._arrivals = [(awaited, future) for awaited, future in self._arrivals if awaited > revision]
            for future in arrived:
                if not future.done():
                    future.set_result(None)

    def _ended(self, reason: contract.StoreError) -> None:
        self.failure = str(reason)
        for collection in self._collections.values():
            collection.close_watchers()


def _after_prefix(prefix: str) -> str:
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)
