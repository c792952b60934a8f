"""Durations on the command line, as Go writes them."""

from __future__ import annotations

import datetime
import re
from typing import Final

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
    match = _LONG.fullmatch(text)
    rest = formatting.parse_duration(match["rest"] or "0") if match is not None and text else None
    try:
        if match is not None and rest is not None:
            return datetime.timedelta(weeks=int(match["weeks"] or 0), days=int(match["days"] or 0)) + rest
    except (OverflowError, ValueError):
        # Python refuses to convert thousands of digits.
        pass
    quoted = formatting.shorten(text, options.MAX_QUOTE)
    number = text.strip("+-.abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ ") if len(text) < 10 else ""
    example = f"{number}d" if number.isascii() and number.isdigit() else "30d"
    raise SetupError(f"not a duration: {quoted}", (f"write it as {example}, 2w, 12h or 1d12h",))


_LONG: Final = re.compile(r"(?:(?P<weeks>[0-9]+)w)?(?:(?P<days>[0-9]+)d)?(?P<rest>.*)", re.DOTALL)
