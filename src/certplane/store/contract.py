"""The contract of a store: etcd's semantics, in prose.

A store holds bytes under text keys. One counter for the whole store numbers all writes; the number of a write is its
*revision*. Revisions have no gaps and never decrease, also across a restart. Keys are ordered by the bytes of their
UTF-8 encoding. An empty store is at revision 1, as etcd is.

Atomicity: each write is one compare-and-swap on one key. Durability: a write that returned survives kill -9 and power
loss (except in the memory store). Failure: a write that raises any other error than those below, or that is cancelled,
may or may not have happened; callers reconcile from what is stored, not from what was sent. A store does not retry.

Ordering: a watch delivers every change under its prefix after its start, once, in revision order, with the previous
value (None if it was compacted). A change is delivered only after it is durable. In-process stores deliver a change
before the write returns, so that a cache in front of them is never behind its own writer.

Archive: an update can carry entries of the archive (`archive`). They are written if and only if the update is; with
etcd, before it.

History: values that were superseded or deleted at or before the compaction revision may be removed. Reads below it, and
watches that would have to start at or below it, raise `Compacted`. Mapping to etcd v3: create = Txn(ModRevision(key) ==
0, Put), update and delete = Txn(ModRevision(key) == expected, ...), list = Range with limit and revision, watch = Watch
with prev_kv.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Protocol

from certplane import errors
from certplane.store.archive import Archive, Entry


class StoreError(errors.CertplaneError):
    """The errors of a store; `registry` translates them to API errors."""


class KeyExists(StoreError):
    """create: the key exists; `current` is its value."""

    def __init__(self, current: KeyValue) -> None:
        super().__init__(current.key)
        self.current = current


class RevisionMismatch(StoreError):
    """update, delete: the key's mod_revision is not the expected one; `current` is its value, None if it is absent."""

    def __init__(self, key: str, current: KeyValue | None) -> None:
        super().__init__(key)
        self.current = current


class Compacted(StoreError):
    """get, list, watch: the revision is below `oldest`, the compaction revision."""

    def __init__(self, revision: int, oldest: int) -> None:
        super().__init__(f"revision {revision} is compacted; the oldest revision is {oldest}")
        self.revision = revision
        self.oldest = oldest


class FutureRevision(StoreError):
    """get, list: the revision is higher than the current one."""

    def __init__(self, revision: int, current: int) -> None:
        super().__init__(f"revision {revision} is in the future; the current revision is {current}")
        self.revision = revision
        self.current = current


class StoreClosed(StoreError):
    """The store was closed, or cannot be read or written (disk full, file removed). The message gives the reason."""


@dataclasses.dataclass(frozen=True, slots=True)
class KeyValue:
    """A key and its value. `version` counts the writes since creation, from 1."""

    key: str
    value: bytes
    create_revision: int
    mod_revision: int
    version: int


@dataclasses.dataclass(frozen=True, slots=True)
class Change:
    """One write. `current` is None for a deletion, `previous` None for a creation."""

    revision: int
    key: str
    current: KeyValue | None
    previous: KeyValue | None


@dataclasses.dataclass(frozen=True, slots=True)
class Page:
    """A part of a list, in key order, read at `revision`. `remaining` counts the items after the last one."""

    items: Sequence[KeyValue]
    revision: int
    remaining: int


#: Receives a batch of changes, in order.
Deliver = Callable[[Sequence[Change]], None]
#: Receives the reason why a watch delivers no more changes.
Ended = Callable[[StoreError], None]


class Watch(Protocol):
    """A running watch."""

    def close(self) -> None:
        """No deliveries after this. Idempotent."""
        ...


class Store(Protocol):
    """See the module's text. All methods may be called concurrently from tasks of one event loop."""

    @property
    def problem(self) -> str | None:
        """Why the last write or check failed; None if it succeeded, or there was none yet."""
        ...

    @property
    def archive(self) -> Archive:
        """The archive in this store."""
        ...

    async def check(self) -> None:
        """Test whether a write would succeed and be durable. Raises what a write would raise; sets `problem`."""
        ...

    async def create(self, key: str, value: bytes) -> KeyValue:
        """Create a key. Raises KeyExists."""
        ...

    async def update(self, key: str, value: bytes, expected: int, archived: Sequence[Entry] = ()) -> KeyValue:
        """Replace a value whose mod_revision is `expected`, and archive entries. Raises RevisionMismatch."""
        ...

    async def delete(self, key: str, expected: int) -> Change:
        """Remove a key whose mod_revision is `expected`. Raises RevisionMismatch."""
        ...

    async def get(self, key: str, revision: int = 0) -> KeyValue | None:
        """The value of a key, at `revision` if not 0; None if it is absent. Raises Compacted, FutureRevision."""
        ...

    async def list(self, prefix: str, *, start: str = "", limit: int = 0, revision: int = 0) -> Page:
        """Keys with `prefix`, from `start` (inclusive), at most `limit` if positive, at `revision` (0: the newest).

        Raises Compacted, FutureRevision.
        """
        ...

    async def revision(self) -> int:
        """The newest revision."""
        ...

    async def oldest(self) -> int:
        """The compaction revision: the oldest one that can be read, and the oldest one that a watch can start after."""
        ...

    async def watch(self, prefix: str, after: int, deliver: Deliver, ended: Ended) -> Watch:
        """Deliver every change under `prefix` with a revision above `after`, in batches, until the watch is closed.

        Returns when changes up to now have been delivered. `after` may be in the future: changes up to it are then
        skipped. `deliver` is called on the event loop; it must not block and must not raise. `ended` is called once if
        the store can deliver no more changes. Raises Compacted.
        """
        ...

    async def compact(self, revision: int) -> None:
        """Remove values superseded at or before `revision`. Later reads below it raise Compacted. Idempotent."""
        ...

    async def close(self) -> None:
        """Finish queued writes, end watches, release everything. Idempotent."""
        ...
