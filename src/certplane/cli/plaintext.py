"""Texts of a server, on the terminal."""

from __future__ import annotations

from typing import Final

from certplane.golang import formatting

#: Characters of a text that are shown.
_MAX_LENGTH: Final = 1000


def escape(text: str, limit: int = _MAX_LENGTH) -> str:
    """A text in one line, without control sequences of the terminal, and not longer than `limit`, more or less: the
    server, or what answers in its place, may send anything.
    """
    shortened = formatting.shorten(text, limit)
    return shortened if shortened.isprintable() else formatting.quote(shortened)[1:-1]
