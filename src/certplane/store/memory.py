"""The reference store: a dictionary with a history. It is not durable, and can inject faults.

Tests pass a function that is called before each write. It may let the write fail before it is written, or after it *was
written*, as a broken connection does.
"""

from __future__ import annotations

import bisect
import enum
from collections.abc import Callable, Sequence

from certplane.store import archive, contract
from certplane.store.archive import Entry


class Fault(enum.Enum):
    """How a write fails."""

    NONE = "none"
    BEFORE = "fails, and is not written"
    AFTER = "fails, but was written"


class InjectedFault(Exception):
    """A write failed because of a fault that a test injected."""


#: Called before each write with operation (create, update, delete) and key; before compact and check with an empty key.
Faults = Callable[[str, str], Fault]


def _no_faults(operation: str, key: str) -> Fault:
    del operation, key
    return Fault.NONE


class _Watch:
    def __init__(self, prefix: str, after: int, deliver: contract.Deliver, ended: contract.Ended) -> None:
        self.prefix = prefix
        self.after = after
        self.ended = ended
        self._deliver = deliver
        self.closed = False

    def offer(self, changes: Sequence[contract.Change]) -> None:
        matching = [change for change in changes if change.revision > self.after and change.key.startswith(self.prefix)]
        if matching and not self.closed:
            self._deliver(matching)

    def close(self) -> None:
        self.closed = True


class MemoryArchive:
    """Implements `archive.Archive`: searches look at all entries."""

    def __init__(self, refuse_if_closed: Callable[[], None]) -> None:
        self._refuse_if_closed = refuse_if_closed
        self._entries: dict[tuple[str, str], tuple[archive.Position, Entry]] = {}
        self._sequence = 0

    def add(self, entries: Sequence[Entry]) -> int:
        """Add entries that do not exist, and return how many those are."""
        added = 0
        for entry in entries:
            key = entry.collection, entry.name
            if key not in self._entries:
                self._sequence += 1
                added += 1
                self._entries[key] = archive.Position(entry.ends, self._sequence), entry
        return added

    async def get(self, collection: str, name: str) -> archive.Stored | None:
        self._refuse_if_closed()
        found = self._entries.get((collection, name))
        return archive.Stored(found[0], found[1].value) if found is not None else None

    async def find(self, query: archive.Query, limit: int) -> archive.Found:
        self._refuse_if_closed()
        matching = sorted(
            (position, entry.name, entry.value)
            for position, entry in self._entries.values()
            if _matches(query, position, entry)
        )
        page = [archive.Stored(position, value) for position, _, value in matching[:limit]]
        return archive.Found(page, page[-1].position if len(matching) > limit else None)

    async def newest(self) -> int:
        self._refuse_if_closed()
        return self._sequence

    async def append(self, entries: Sequence[Entry]) -> int:
        self._refuse_if_closed()
        return self.add(entries)

    async def remove_ended(self, collection: str, before: int, limit: int) -> int:
        self._refuse_if_closed()
        ended = sorted(
            (position, key)
            for key, (position, entry) in self._entries.items()
            if entry.collection == collection and entry.ends < before
        )[:limit]
        for _, key in ended:
            del self._entries[key]
        return len(ended)


def _matches(query: archive.Query, position: archive.Position, entry: Entry) -> bool:
    return (
        entry.collection == query.collection
        and (query.after is None or position > query.after)
        and (query.ends_from is None or entry.ends >= query.ends_from)
        and (query.ends_before is None or entry.ends < query.ends_before)
        and set(query.terms) <= set(entry.terms)
        and not set(query.without) & set(entry.terms)
    )


class MemoryStore:
    """Implements `contract.Store`. Lives as long as the process."""

    problem: str | None = None

    def __init__(self, faults: Faults = _no_faults) -> None:
        self._faults = faults
        self._current: dict[str, contract.KeyValue] = {}
        self._changes: list[contract.Change] = []
        self._revision = 1
        self._compacted = 1
        self._watches: list[_Watch] = []
        self._closed = False
        self.archive = MemoryArchive(self._refuse_if_closed)

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise contract.StoreClosed("the store is closed")

    # --- writes ---------------------------------------------------------------------------------------------------

    async def create(self, key: str, value: bytes) -> contract.KeyValue:
        current = self._current.get(key)
        if current is not None:
            raise contract.KeyExists(current)
        return self._write("create", key, value, None)

    async def update(self, key: str, value: bytes, expected: int, archived: Sequence[Entry] = ()) -> contract.KeyValue:
        previous = self._expect(key, expected)
        return self._write("update", key, value, previous, archived)

    async def delete(self, key: str, expected: int) -> contract.Change:
        previous = self._expect(key, expected)
        fault = self._begin("delete", key)
        self._revision += 1
        del self._current[key]
        change = contract.Change(self._revision, key, None, previous)
        self._record(change)
        self._end(fault, key)
        return change

    def _expect(self, key: str, expected: int) -> contract.KeyValue:
        current = self._current.get(key)
        if current is None or current.mod_revision != expected:
            raise contract.RevisionMismatch(key, current)
        return current

    def _write(
        self,
        operation: str,
        key: str,
        value: bytes,
        previous: contract.KeyValue | None,
        archived: Sequence[Entry] = (),
    ) -> contract.KeyValue:
        fault = self._begin(operation, key)
        self._revision += 1
        self.archive.add(archived)
        created = previous.create_revision if previous is not None else self._revision
        version = previous.version + 1 if previous is not None else 1
        written = contract.KeyValue(key, value, created, self._revision, version)
        self._current[key] = written
        self._record(contract.Change(self._revision, key, written, previous))
        self._end(fault, key)
        return written

    def _begin(self, operation: str, key: str) -> Fault:
        self._refuse_if_closed()
        fault = self._faults(operation, key)
        if fault is Fault.BEFORE:
            raise InjectedFault(f"{operation} {key}")
        return fault

    @staticmethod
    def _end(fault: Fault, key: str) -> None:
        if fault is Fault.AFTER:
            raise InjectedFault(key)

    def _record(self, change: contract.Change) -> None:
        self._changes.append(change)
        for watch in list(self._watches):
            watch.offer((change,))

    # --- reads ----------------------------------------------------------------------------------------------------

    async def get(self, key: str, revision: int = 0) -> contract.KeyValue | None:
        return self._at(revision).get(key)

    async def list(self, prefix: str, *, start: str = "", limit: int = 0, revision: int = 0) -> contract.Page:
        state = self._at(revision)
        keys = sorted(key for key in state if key.startswith(prefix))
        keys = keys[bisect.bisect_left(keys, start) :]
        page_keys = keys[:limit] if limit > 0 else keys
        items = [state[key] for key in page_keys]
        return contract.Page(items, revision or self._revision, len(keys) - len(items))

    def _at(self, revision: int) -> dict[str, contract.KeyValue]:
        """The values at a revision: the current ones, with later changes undone."""
        if revision in (0, self._revision):
            return self._current
        if revision > self._revision:
            raise contract.FutureRevision(revision, self._revision)
        if revision < self._compacted:
            raise contract.Compacted(revision, self._compacted)
        state = dict(self._current)
        for change in reversed(self._changes):
            if change.revision <= revision:
                break
            if change.previous is not None:
                state[change.key] = change.previous
            else:
                state.pop(change.key, None)
        return state

    async def revision(self) -> int:
        return self._revision

    async def oldest(self) -> int:
        return self._compacted

    async def check(self) -> None:
        self._begin("check", "")

    # --- watches --------------------------------------------------------------------------------------------------

    async def watch(self, prefix: str, after: int, deliver: contract.Deliver, ended: contract.Ended) -> contract.Watch:
        if after < self._compacted:
            raise contract.Compacted(after, self._compacted)
        watch = _Watch(prefix, after, deliver, ended)
        watch.offer(self._changes)
        self._watches.append(watch)
        return watch

    async def compact(self, revision: int) -> None:
        self._begin("compact", "")
        if revision > self._revision:
            raise contract.FutureRevision(revision, self._revision)
        if revision > self._compacted:
            self._compacted = revision
            self._changes = [change for change in self._changes if change.revision > revision]

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            watches, self._watches = self._watches, []
            for watch in watches:
                if not watch.closed:
                    watch.ended(contract.StoreClosed("the store is closed"))
