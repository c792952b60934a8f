"""Durations on the command line, as Go writes them."""

from __future__ import annotations

import datetime

from certplane.config import options
from certplane.errors import SetupError
from certplane.golang import formatting


def parse(text: str) -> datetime.timedelta:
    """A duration such as 1m0s. Raises SetupError."""
    duration = formatting.parse_duration(text)
    if duration is None:
        quoted = formatting.shorten(text, options.MAX_QUOTE)
        raise SetupError(f"not a duration: {quoted}", (options.duration_hint(quoted),))
    return duration


def parse_long(text: str) -> datetime.timedelta:
    """A duration that may also have weeks and days, such as 30d, 2w or 1d12h. Raises SetupError."""
    duration = options.parse_long_duration(text)
    if duration is not None:
        return duration
    quoted = formatting.shorten(text, options.MAX_QUOTE)
    number = text.strip("+-.abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ ") if len(text) < 10 else ""
    example = f"{number}d" if number.isascii() and number.isdigit() else "30d"
    raise SetupError(f"not a duration: {quoted}", (f"write it as {example}, 2w, 12h or 1d12h",))
