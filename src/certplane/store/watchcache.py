"""Everything of a store, in memory: reads without waiting, and one change fanned out to all who watch.

One watch feeds the cache. Each prefix is a `Collection`: its entries, sorted keys, and a window of recent events from
which a watch can be resumed. Entries and events have a `memo` where readers keep what they made of them, so that an
object is decoded and encoded once, however many ask.

An idle watcher costs one future. An event is put into the list of each watcher it concerns, and the future is resolved
at the first one; the watcher takes all that has come together in the meantime. A watcher that does not take its events
is cut off when it has too many: it learns that it `overflowed`, and nobody else learns anything.
"""

from __future__ import annotations

import asyncio
import bisect
import builtins
import collections
import logging
from collections.abc import Callable, Sequence
from typing import Any, Final

from certplane import clock as clocks
from certplane.store import contract

_log = logging.getLogger("certplane.store")

#: What is wrong with a value, by the prefix of its collection and its key; empty if nothing is.
Damage = Callable[[str, str, bytes], str]

WINDOW: Final = 10_000
BACKLOG: Final = 10_000


class Entry:
    """What a key holds. `memo` belongs to readers."""

    __slots__ = ("create_revision", "key", "memo", "mod_revision", "value", "version")

    def __init__(self, of: contract.KeyValue) -> None:
        self.key = of.key
        self.value = of.value
        self.create_revision = of.create_revision
        self.mod_revision = of.mod_revision
        self.version = of.version
        self.memo: Any = None


class Event:
    """One change. `current` is None for a deletion, `previous` None for a creation. `memo` belongs to readers."""

    __slots__ = ("current", "key", "memo", "previous", "revision")

    def __init__(self, revision: int, key: str, current: Entry | None, previous: Entry | None) -> None:
        self.revision = revision
        self.key = key
        self.current = current
        self.previous = previous
        self.memo: Any = None


class Watcher:
    """A watch on a collection. Iterate over it: each step gives the events since the last one, or none if it was woken.

    `overflowed` tells, after the end, that events were lost because they were not taken in time.
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
        """How far this watch has come, if it has taken all events."""
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
        """Events that concern this watch. Called by the collection."""
        if events[0].revision <= self._after:
            events = [each for each in events if each.revision > self._after]
        if len(self._events) + len(events) > self._backlog:
            self.overflowed = True
            self._events = []
            self.close()
            return
        self._events.extend(events)
        self._notify()

    def wake(self) -> None:
        """Make the iteration step, even if there is nothing new: if the watch has come to where it begins."""
        if self._collection.revision < self._after:
            return
        self._woken = True
        self._notify()

    def close(self) -> None:
        """End the watch: the events that have come are still given, then the iteration stops. Idempotent."""
        if not self._closed:
            self._closed = True
            self._collection.forget(self)
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
        # A dict keeps the order in which watchers came, and forgets one at once.
        self._watchers: dict[Watcher, None] = {}
        self._subscribers: list[Callable[[Sequence[Event]], None]] = []
        #: Keys whose values cannot be read, and why. They are in no listing and no watch.
        self.damaged: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def revision(self) -> int:
        """The newest revision of the whole store that this collection takes into account."""
        return self._cache.revision

    def get(self, key: str) -> Entry | None:
        """What a key holds."""
        return self._entries.get(key)

    def list(self, prefix: str = "", start: str = "", limit: int = 0) -> tuple[Sequence[Entry], int]:
        """Entries in key order: those under `prefix`, from `start` on, at most `limit` if positive; and how many
        follow.
        """
        prefix = prefix or self.prefix
        first = bisect.bisect_left(self._keys, max(prefix, start))
        last = bisect.bisect_left(self._keys, _after_prefix(prefix)) if prefix != self.prefix else len(self._keys)
        stop = min(last, first + limit) if limit > 0 else last
        return [self._entries[key] for key in self._keys[first:stop]], max(last - stop, 0)

    def subscribe(self, callback: Callable[[Sequence[Event]], None]) -> None:
        """Have a function called with every batch of events, before any writer is answered. It must not raise."""
        self._subscribers.append(callback)

    def watch(self, after: int | None = None, prefix: str = "", *, backlog: int = BACKLOG) -> Watcher:
        """A watch on what comes from now on; or on everything after a revision, if the window reaches back that far.
        The revision may be one that is yet to come.

        Raises Compacted if it does not.
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

    def forget(self, watcher: Watcher) -> None:
        """A watcher is done."""
        self._watchers.pop(watcher, None)

    # --- called by the cache --------------------------------------------------------------------------------------

    def load(self, items: Sequence[contract.KeyValue], revision: int) -> builtins.list[Event]:
        """Take a listing for the truth. Returns what it changed, as events at its revision."""
        items = [item for item in items if not self.judge(item)]
        found = {item.key: item for item in items}
        events = [Event(revision, key, None, self._entries[key]) for key in self._keys if key not in found]
        for item in items:
            before = self._entries.get(item.key)
            if before is None or before.mod_revision != item.mod_revision:
                events.append(Event(item.mod_revision, item.key, Entry(item), before))
        return events

    def judge(self, item: contract.KeyValue) -> bool:
        """Whether a value is damaged. If it is, it is left out, and its key remembered."""
        why = self._cache.damage(self.prefix, item.key, item.value)
        if why:
            _log.error("a stored value cannot be read and is left out", extra={"key": item.key, "problem": why})
            self.damaged[item.key] = why
        return bool(why)

    def begin(self, revision: int) -> None:
        """The window is complete from this revision on."""
        self._window.clear()
        self._complete_after = revision

    def apply(self, events: Sequence[Event]) -> None:
        """Events, in order: into the entries, the window, and to everybody who is interested."""
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
                wanted = [event for event in events if event.key.startswith(watcher.prefix)]
                if wanted:
                    watcher.offer(wanted)

    def end(self) -> None:
        """There will be no more events."""
        for watcher in list(self._watchers):
            watcher.close()


class WatchCache:
    """A cache in front of a store, for keys under the given prefixes. Other keys move the revision only.

    What is in the store at the start is judged by `damage`, so that one value that nobody can read costs its own object
    alone. What is written afterwards is not: it comes from this process.
    """

    def __init__(
        self, store: contract.Store, prefixes: Sequence[str], window: int = WINDOW, damage: Damage = lambda *_: ""
    ) -> None:
        self._store = store
        self.damage = damage
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
    def damaged(self) -> int:
        """How many values cannot be read."""
        return sum(len(each.damaged) for each in self._collections.values())

    def collection(self, prefix: str) -> Collection:
        """The collection of one of the prefixes."""
        return self._collections[prefix]

    async def start(self) -> None:
        """Fill the cache and follow the store from there.

        Begins a window's length in the past, as far as the store remembers it, so that watches can be resumed that were
        begun before a restart.
        """
        newest = await self._store.revision()
        base = max(await self._store.oldest(), newest - self._window)
        for collection in self._collections.values():
            page = await self._store.list(collection.prefix, revision=base)
            collection.apply(collection.load(page.items, base))
            collection.begin(base)
        self._revision = base
        self._watch = await self._store.watch("", base, self._deliver, self._ended)
        self._advance(max(self._revision, newest))

    def close(self) -> None:
        """Follow the store no longer; end all watches."""
        if self._watch is not None:
            self._watch.close()
        for collection in self._collections.values():
            collection.end()

    async def fresh(self) -> None:
        """Return when the cache shows everything that was written before this call."""
        newest = await self._store.revision()
        while newest > self._revision:
            await self._arrival(newest)

    async def wait_for(self, revision: int, clock: clocks.Clock, seconds: float) -> bool:
        """Wait until the cache has seen a revision, at most so long; tell whether it has."""
        if revision <= self._revision:
            return True
        arrived = asyncio.ensure_future(self._arrival(revision))
        timeout = asyncio.ensure_future(clock.sleep(seconds))
        try:
            await asyncio.wait({arrived, timeout}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            arrived.cancel()
            timeout.cancel()
        return revision <= self._revision

    async def _arrival(self, revision: int) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._arrivals.append((revision, future))
        await future

    # --- fed by the store -----------------------------------------------------------------------------------------

    def _deliver(self, changes: Sequence[contract.Change]) -> None:
        batches: dict[str, list[Event]] = {}
        for change in changes:
            prefix = self._prefix_of(change.key)
            if prefix is not None:
                batches.setdefault(prefix, []).append(self._event(prefix, change, batches.get(prefix, ())))
        # Before the watchers are told, so that whoever is told can read what he was told about.
        self._revision = max(self._revision, changes[-1].revision)
        for prefix, events in batches.items():
            self._collections[prefix].apply(events)
        self._advance(self._revision)

    def _event(self, prefix: str, change: contract.Change, before: Sequence[Event]) -> Event:
        """The event of a change; entries that are known already are shared, with what readers made of them."""
        collection = self._collections[prefix]
        was_damaged = collection.damaged.pop(change.key, None) is not None
        is_damaged = self._watch is None and change.current is not None and collection.judge(change.current)
        previous: Entry | None = None
        if change.previous is not None and not was_damaged:
            known = next((each.current for each in reversed(before) if each.key == change.key), None)
            known = known or collection.get(change.key)
            matches = known is not None and known.mod_revision == change.previous.mod_revision
            previous = known if matches else Entry(change.previous)
        current = Entry(change.current) if change.current is not None and not is_damaged else None
        return Event(change.revision, change.key, current, previous)

    def _prefix_of(self, key: str) -> str | None:
        # Keys are /registry/PLURAL/...: the prefix ends at the third slash.
        end = key.find("/", key.find("/", 1) + 1) + 1
        prefix = key[:end]
        return prefix if prefix in self._collections else None

    def _advance(self, revision: int) -> None:
        self._revision = revision
        if self._arrivals:
            due = [future for wanted, future in self._arrivals if wanted <= revision]
            self._arrivals = [each for each in self._arrivals if each[0] > revision]
            for future in due:
                if not future.done():
                    future.set_result(None)

    def _ended(self, reason: contract.StoreError) -> None:
        self.failure = str(reason)
        for collection in self._collections.values():
            collection.end()


def _after_prefix(prefix: str) -> str:
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)
