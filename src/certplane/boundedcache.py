"""Caches that are bounded in bytes: what was made of a text is remembered, and the memory that this takes has a limit.

The same headers, selectors, names and requests come again and again, and to read them takes long. But strangers choose
what comes. A cache that counts its entries alone is their way to fill the memory; so is one that measures its keys
alone, as a few bytes may become a large result (`a,a,a` is a list of objects). So an entry weighs what it may come to:
a fixed part, and for each byte of its key as many bytes as the worst input of that length makes
(tests/unit/test_boundedcache.py measures them).

Entries are forgotten in two generations: what is new or asked for again is young; when the young ones weigh half of the
limit, they become the old ones, and the old ones are forgotten. That costs one look into a dictionary where a list in
order of use costs three steps, and what is asked for often stays.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Hashable
from typing import Any, Final, Generic, TypeVar, TypeVarTuple

_Value = TypeVar("_Value")
_Arguments = TypeVarTuple("_Arguments")

#: Bytes of an entry besides its key and what is made of it: its place in the dictionary, and the tuples around it.
ENTRY_BYTES: Final = 512
#: Bytes of memory for each byte of a key, at the most: an object for every two characters, with its fields.
EXPANSION: Final = 100
#: The limit of a cache whose keys are headers, selectors and names: some hundreds of usual ones.
LIMIT: Final = 2 * 1024 * 1024
#: No entry may weigh more than this part of the limit, or one text would push out all others.
_LARGEST_PART: Final = 32

_ABSENT: Final[Any] = object()


class BoundedCache(Generic[_Value]):
    """Values under keys, as many as weigh `limit` bytes together, with `expansion` bytes for each byte of a key. For
    use from any thread.
    """

    def __init__(self, limit: int = LIMIT, expansion: int = EXPANSION) -> None:
        self._half = limit // 2
        self._largest = limit // _LARGEST_PART
        self._expansion = expansion
        self._young: dict[Hashable, tuple[_Value, int]] = {}
        self._old: dict[Hashable, tuple[_Value, int]] = {}
        self._weight = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._young.keys() | self._old.keys())

    def get(self, key: Hashable, default: _Value | None = None) -> _Value | None:
        """What is remembered under a key."""
        entry = self._young.get(key)
        if entry is None:
            entry = self._old.get(key)
            if entry is None:
                return default
            self._add(key, entry)
        return entry[0]

    def put(self, key: Hashable, value: _Value, size: int) -> None:
        """Remember a value that was made of `size` bytes, unless that is too much."""
        weight = ENTRY_BYTES + size * self._expansion
        if weight <= self._largest:
            self._add(key, (value, weight))

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._young, self._old, self._weight = {}, {}, 0

    def _add(self, key: Hashable, entry: tuple[_Value, int]) -> None:
        with self._lock:
            known = self._young.get(key)
            added = entry[1] - (known[1] if known is not None else 0)
            if self._weight + added > self._half:
                self._old, self._young, self._weight, added = self._young, {}, 0, entry[1]
            self._young[key] = entry
            self._weight += added


def remember(
    limit: int = LIMIT, expansion: int = EXPANSION, size: Callable[..., int] | None = None
) -> Callable[[Callable[[*_Arguments], _Value]], Callable[[*_Arguments], _Value]]:
    """A decorator: the results of a function are remembered, errors are not. Arguments are given by position. `size`
    tells how many bytes they have where they are no texts, bytes, or tuples of them.
    """

    def decorate(function: Callable[[*_Arguments], _Value]) -> Callable[[*_Arguments], _Value]:
        cache: BoundedCache[_Value] = BoundedCache(limit, expansion)
        measure = size or _size
        get, put = cache.get, cache.put

        @functools.wraps(function)
        def remembered(*arguments: *_Arguments) -> _Value:
            known: Any = get(arguments, _ABSENT)
            if known is _ABSENT:
                known = function(*arguments)
                put(arguments, known, measure(*arguments))
            found: _Value = known
            return found

        return remembered

    return decorate


def _size(*arguments: Any) -> int:
    return sum(
        len(argument) if isinstance(argument, str | bytes) else _size(*argument) if isinstance(argument, tuple) else 0
        for argument in arguments
    )
