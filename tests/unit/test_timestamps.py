"""Times on the wire."""

from __future__ import annotations

import datetime

import pytest

from certplane import timestamps

ZONE = datetime.timezone(datetime.timedelta(hours=2))


@pytest.mark.parametrize(
    ("moment", "seconds", "micros"),
    [
        (
            datetime.datetime(2026, 1, 2, 3, 4, 5, 999_999, datetime.UTC),
            "2026-01-02T03:04:05Z",
            "2026-01-02T03:04:05.999999Z",
        ),
        (datetime.datetime(2026, 1, 1, 1, 30, tzinfo=ZONE), "2025-12-31T23:30:00Z", "2025-12-31T23:30:00.000000Z"),
    ],
)
def test_times_are_written_in_utc(moment, seconds, micros):
    """A Time is truncated to seconds, a MicroTime always has six digits."""
    assert (timestamps.rfc3339(moment), timestamps.rfc3339_micro(moment)) == (seconds, micros)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-01-02T03:04:05Z", datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)),
        ("2026-01-02T03:04:05+02:00", datetime.datetime(2026, 1, 2, 1, 4, 5, tzinfo=datetime.UTC)),
        ("2026-01-02t03:04:05.25Z", datetime.datetime(2026, 1, 2, 3, 4, 5, 250_000, datetime.UTC)),
    ],
)
def test_a_time_is_parsed_to_utc(text, expected):
    """Any offset and fraction is accepted."""
    parsed = timestamps.parse_rfc3339(text)
    assert (parsed, parsed.tzinfo) == (expected, datetime.UTC)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2026-01-02",
        "2026-01-02T03:04:05",
        "2026-01-02T03:04:05.5",
        "2026-01-02 03:04:05Z",
        "2026-13-02T03:04:05Z",
        "20260102T030405Z",
        "x" * 20,
    ],
)
def test_other_texts_are_refused(text):
    """A time without an offset is ambiguous."""
    with pytest.raises(ValueError):  # noqa: PT011 - the text is Python's in some cases
        timestamps.parse_rfc3339(text)
