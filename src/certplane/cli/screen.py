"""The terminal: its width, and whether it shows colours. Plain and stable where the output is not a terminal."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from typing import Final

#: Columns that texts for people use at most; and at least, in a narrow terminal.
_MAX_WIDTH: Final = 120
_MIN_WIDTH: Final = 40


def is_terminal() -> bool:
    """Whether a person reads the output."""
    return sys.stdout.isatty()


def uses_color() -> bool:
    """Whether to colour the output. Source: no-color.org."""
    return is_terminal() and not os.environ.get("NO_COLOR")


def width() -> int:
    """The columns of the terminal, within reason."""
    return max(_MIN_WIDTH, min(_MAX_WIDTH, shutil.get_terminal_size((_MAX_WIDTH, 24)).columns))


def wrapped(text: str, indent: str) -> str:
    """A text in lines that fit into the terminal, the further ones indented; in one line without a terminal."""
    if not is_terminal():
        return text
    lines = textwrap.wrap(text, width() - len(indent), break_long_words=False, break_on_hyphens=False)
    return f"\n{indent}".join(lines)
