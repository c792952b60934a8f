"""What was found in a piece of bytes is remembered if the piece is short.

The same requests, names and extensions come again and again, and to read them takes long. But a request may have three
megabytes: a cache that counts its entries alone is a stranger's way to fill the memory.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeVar

_Found = TypeVar("_Found")


def short(entries: int, longest: int) -> Callable[[Callable[[bytes], _Found]], Callable[[bytes], _Found]]:
    """A decorator: of a function's arguments up to `longest` bytes, the results of so many are remembered. Errors are
    not.
    """

    def decorate(read: Callable[[bytes], _Found]) -> Callable[[bytes], _Found]:
        remembered = functools.lru_cache(maxsize=entries)(read)

        @functools.wraps(read)
        def reader(piece: bytes) -> _Found:
            return remembered(piece) if len(piece) <= longest else read(piece)

        return reader

    return decorate
