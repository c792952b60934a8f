"""The contract of a store: etcd's semantics, in prose.

A store holds bytes under text keys. Every write, to whatever key, gets the next number of one counter for the whole
store, its *revision*; revisions have no gaps and never fall, also across a restart. Keys are ordered by the bytes of
their UTF-8 encoding. The empty store is at revision 1, as etcd's is.

Atomicity: each write is one compare-and-swap on one key. Durability: when a write returns, it survives kill -9 and
power loss (the memory store alone is excused). Failure: a write that raises anything but the errors below, or that is
cancelled, may or may not have happened; callers reconcile from what is stored, not from what was sent. Nobody retries
inside a store.

Ordering: a watch delivers every change under its prefix after its start, once, in revision order, with the previous
value (None where compaction forgot it). A change is delivered only after it is durable. In-process stores deliver a
change before the write that made it returns, so that a cache in front of them is never behind its own writer.

History: what was superseded or deleted at or before the compaction revision may be forgotten. Reads below it and
watches that would have to begin at or below it raise `Compacted`. Mapping to etcd v3: create = Txn(ModRevision(key) ==
0, Put), update and delete = Txn(ModRevision(key) == expected, ...), list = Range with limit and revision, watch = Watch
with prev_kv.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Protocol

from certplane import errors


class StoreError(errors.CertplaneError):
    """What a store raises; translated once, in `registry`."""


class KeyExists(StoreError):
    """create: the key is there already; `current` is what it holds."""

    def __init__(self, current: KeyValue) -> None:
        super().__init__(current.key)
        self.current = current


class RevisionMismatch(StoreError):
    """update, delete: the key's last revision is not the expected one; `current` is what it holds, None if nothing."""

    def __init__(self, key: str, current: KeyValue | None) -> None:
        super().__init__(key)
        self.current = current


class Compacted(StoreError):
    """get, list, watch: the revision lies before `oldest`, the compaction revision."""

    def __init__(self, revision: int, oldest: int) -> None:
        super().__init__(f"revision {revision} is compacted; the oldest is {oldest}")
        self.revision = revision
        self.oldest = oldest


class FutureRevision(StoreError):
    """get, list: the revision has not happened yet."""

    def __init__(self, revision: int, current: int) -> None:
        super().__init__(f"revision {revision} has not happened yet; the current one is {current}")
        self.revision = revision
        self.current = current


class StoreClosed(StoreError):
    """The store was closed, or cannot be read or written (disk full, file gone). The message says why."""


@dataclasses.dataclass(frozen=True, slots=True)
class KeyValue:
    """What a key holds. `version` counts the writes since creation, from 1."""

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
    """A part of a listing, in key order, read at `revision`. `remaining` counts the items after the last one."""

    items: Sequence[KeyValue]
    revision: int
    remaining: int


#: Takes a batch of changes, in order.
Deliver = Callable[[Sequence[Change]], None]
#: Told why there will be no more changes.
Ended = Callable[[StoreError], None]


class Watch(Protocol):
    """A watch under way."""

    def close(self) -> None:
        """No deliveries after this. Idempotent."""
        ...


class Store(Protocol):
    """See the module's text. All methods may be called concurrently from tasks of one event loop."""

    @property
    def problem(self) -> str | None:
        """Why the store took no writes when it was last asked to; None if it did, or was not asked yet."""
        ...

    async def check(self) -> None:
        """Try whether writes are possible, and would be kept. Raises what a write would raise; sets `problem`."""
        ...

    async def create(self, key: str, value: bytes) -> KeyValue:
        """Write a key that does not exist. Raises KeyExists."""
        ...

    async def update(self, key: str, value: bytes, expected: int) -> KeyValue:
        """Replace a value whose mod_revision is `expected`. Raises RevisionMismatch."""
        ...

    async def delete(self, key: str, expected: int) -> Change:
        """Remove a key whose mod_revision is `expected`. Raises RevisionMismatch."""
        ...

    async def get(self, key: str, revision: int = 0) -> KeyValue | None:
        """What the key holds (held at `revision`, if not 0). Raises Compacted, FutureRevision."""
        ...

    async def list(self, prefix: str, *, start: str = "", limit: int = 0, revision: int = 0) -> Page:
        """Keys with `prefix`, from `start` (inclusive) on, at most `limit` if positive, at `revision` (0: the newest).

        Raises Compacted, FutureRevision.
        """
        ...

    async def revision(self) -> int:
        """The newest revision."""
        ...

    async def oldest(self) -> int:
        """The compaction revision: the first one that can still be read, and the first one to watch after."""
        ...

    async def watch(self, prefix: str, after: int, deliver: Deliver, ended: Ended) -> Watch:
        """Have every change under `prefix` with a revision above `after` delivered, in batches, until closed.

        Returns when changes up to now have been delivered. `after` may lie in the future: changes up to it are then
        skipped. `deliver` is called on the event loop, must not block and must not raise; `ended` is called once,
        instead of further deliveries, when the store can deliver no more. Raises Compacted.
        """
        ...

    async def compact(self, revision: int) -> None:
        """Forget values superseded at or before `revision`. Later reads before it raise Compacted. Idempotent."""
        ...

    async def close(self) -> None:
        """Finish queued writes, end watches, release everything. Idempotent."""
        ...
