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
