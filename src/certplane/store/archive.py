"""The archive of a store: what is kept of objects after they are deleted.

An entry is written once, in the transaction of the object's write that it is about (`contract.Store.update`), or by
`Archive.append`. It is never changed, only removed when its time is over. Unlike objects, entries are not held in
memory: there may be millions.

An entry is found by its name, or by *terms*: texts such as `signer=example.com/web`, whose meaning is the caller's. The
entries of a collection have one order: by their end, then by the sequence in which they were written. Every search is a
range in that order, so a page costs the same wherever it begins.

With etcd, entries are written before the object: an entry whose object was not written is then possible, an object
without its entry is not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Final, Protocol

#: Entries that a search examines for one page, at most. A page with fewer entries than asked for may have a
#: successor.
MAX_EXAMINED: Final = 20_000


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """What is to be archived. `ends` is in seconds since 1970; the names of a collection are unique."""

    collection: str
    name: str
    ends: int
    terms: Sequence[str]
    value: bytes


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class Position:
    """A place in the order of a collection."""

    ends: int
    sequence: int


@dataclasses.dataclass(frozen=True, slots=True)
class Stored:
    """An entry as it is read."""

    position: Position
    value: bytes


@dataclasses.dataclass(frozen=True, slots=True)
class Query:
    """What to search for: entries with all of `terms` and none of `without`, whose end is not before `ends_from` and
    before `ends_before`, after the position `after`. None: no limit.
    """

    collection: str
    terms: Sequence[str] = ()
    without: Sequence[str] = ()
    ends_from: int | None = None
    ends_before: int | None = None
    after: Position | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """A page. `next` is the position after which the next page begins; None on the last page."""

    entries: Sequence[Stored]
    next: Position | None


class Archive(Protocol):
    """All methods raise contract.StoreClosed."""

    async def get(self, collection: str, name: str) -> Stored | None:
        """The entry of a name; None if there is none."""
        ...

    async def find(self, query: Query, limit: int) -> Found:
        """At most `limit` entries that match, in order. Looks at MAX_EXAMINED entries at most."""
        ...

    async def newest(self) -> int:
        """The sequence number of the newest entry; 0 if there was none yet."""
        ...

    async def append(self, entries: Sequence[Entry]) -> int:
        """Add entries, all or none, and return how many are new: entries whose names exist are left as they are."""
        ...

    async def remove_ended(self, collection: str, before: int, limit: int) -> int:
        """Remove at most `limit` of the entries whose end is before a time, and return how many were removed."""
        ...
