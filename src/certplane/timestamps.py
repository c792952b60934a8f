"""Times on the wire, as the API types `Time` and `MicroTime` have them. RFC 3339."""

from __future__ import annotations

import datetime


def rfc3339(moment: datetime.datetime) -> str:
    """A moment as the wire writes `Time`: UTC, whole seconds (truncated), `2026-01-02T15:04:05Z`."""
    if moment.tzinfo is not datetime.UTC:
        moment = moment.astimezone(datetime.UTC)
    # Many times as fast as strftime, and every write calls it.
    return moment.isoformat()[:19] + "Z"


def rfc3339_micro(moment: datetime.datetime) -> str:
    """A moment as the wire writes `MicroTime`: UTC, always six digits of a second."""
    if moment.tzinfo is not datetime.UTC:
        moment = moment.astimezone(datetime.UTC)
    return moment.isoformat(timespec="microseconds")[:26] + "Z"


def parse_rfc3339(text: str) -> datetime.datetime:
    """Parse an RFC 3339 time; the result is in UTC. Raises ValueError on anything else."""
    if len(text) < 20 or text[10] not in "Tt":
        raise ValueError(f"not an RFC 3339 time: {text!r}")
    moment = datetime.datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"not an RFC 3339 time, no offset: {text!r}")
    return moment.astimezone(datetime.UTC)
