"""Caches of parsed input whose memory is bounded in bytes.

The same headers, selectors, names and requests recur, and to parse them takes long. But unauthenticated clients choose
the input. A cache that limits only the number of its entries lets them fill the memory; so does one that measures only
its keys, because a few bytes may become a large result (`a,a,a` is a list of objects). So an entry is charged for its
worst case: a fixed part, and for each byte of its key as many bytes as the worst input of that length makes
(tests/unit/test_boundedcache.py measures them).

Eviction works in two generations: entries that are new or were hit again are young; when the young entries weigh half
of the limit, they become the old ones, and the former old ones are evicted. A hit costs one dictionary lookup, where an
LRU list would take three steps, and frequent entries stay.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Hashable
from typing import Any, Final, Generic, TypeVar, TypeVarTuple

_Value = TypeVar("_Value")
_Arguments = TypeVarTuple("_Arguments")

#: Bytes of an entry besides its key and its value: its slot in the dictionary, and the tuples around it.
ENTRY_BYTES: Final = 512
#: Bytes of memory for each byte of a key, at most: an object for every two characters, with its fields.
EXPANSION: Final = 100
#: The limit of a cache whose keys are headers, selectors and names: space for some hundreds of usual ones.
LIMIT: Final = 2 * 1024 * 1024
#: An entry may weigh at most this fraction (1/32) of the limit, or one text would evict all others.
_MAX_FRACTION: Final = 32

_ABSENT: Final[Any] = object()


class BoundedCache(Generic[_Value]):
    """A cache whose entries weigh at most `limit` bytes together, with `expansion` bytes for each byte of a key.
    Thread-safe.
    """

    def __init__(self, limit: int = LIMIT, expansion: int = EXPANSION) -> None:
        self._half = limit // 2
        self._largest = limit // _MAX_FRACTION
        self._expansion = expansion
        self._young: dict[Hashable, tuple[_Value, int]] = {}
        self._old: dict[Hashable, tuple[_Value, int]] = {}
        self._weight = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._young.keys() | self._old.keys())

    def get(self, key: Hashable, default: _Value | None = None) -> _Value | None:
        """The value of a key, or the default."""
        entry = self._young.get(key)
        if entry is None:
            entry = self._old.get(key)
            if entry is None:
                return default
            self._add(key, entry)
        return entry[0]

    def put(self, key: Hashable, value: _Value, size: int) -> None:
        """Store a value that was made from `size` bytes of input, unless it is too large for the cache."""
        weight = ENTRY_BYTES + size * self._expansion
        if weight <= self._largest:
            self._add(key, (value, weight))

    def clear(self) -> None:
        """Remove all entries."""
        with self._lock:
            self._young, self._old, self._weight = {}, {}, 0

    def _add(self, key: Hashable, entry: tuple[_Value, int]) -> None:
        with self._lock:
            previous = self._young.get(key)
            added = entry[1] - (previous[1] if previous is not None else 0)
            if self._weight + added > self._half:
                self._old, self._young, self._weight, added = self._young, {}, 0, entry[1]
            self._young[key] = entry
            self._weight += added


def memoize(
    limit: int = LIMIT, expansion: int = EXPANSION, size: Callable[..., int] | None = None
) -> Callable[[Callable[[*_Arguments], _Value]], Callable[[*_Arguments], _Value]]:
    """A decorator that caches the results of a function, but not its errors. Arguments are passed by position. `size`
    measures arguments in bytes, if they are not strings, bytes, or tuples of them.
    """

    def decorate(function: Callable[[*_Arguments], _Value]) -> Callable[[*_Arguments], _Value]:
        cache: BoundedCache[_Value] = BoundedCache(limit, expansion)
        measure = size or _size
        get, put = cache.get, cache.put

        @functools.wraps(function)
        def memoized(*arguments: *_Arguments) -> _Value:
            cached: Any = get(arguments, _ABSENT)
            if cached is _ABSENT:
                cached = function(*arguments)
                put(arguments, cached, measure(*arguments))
            value: _Value = cached
            return value

        return memoized

    return decorate


def _size(*arguments: object) -> int:
    return sum(
        len(argument) if isinstance(argument, str | bytes) else _size(*argument) if isinstance(argument, tuple) else 0
        for argument in arguments
    )
