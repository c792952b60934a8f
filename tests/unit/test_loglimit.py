"""Rate limiting of log lines."""

from __future__ import annotations

import datetime

from certplane import loglimit

START = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


def at(seconds):
    return START + datetime.timedelta(seconds=seconds)


def test_an_event_is_logged_once_per_minute():
    """The next line says how often it was repeated."""
    limit = loglimit.LogLimit()
    assert [limit.admit("a", at(second)) for second in (0, 1, 59)] == [{}, None, None]
    assert limit.admit("a", at(60)) == {"repeated": 2}
    assert limit.admit("a", at(120)) == {}


def test_different_events_are_logged_up_to_the_limit():
    """Each has its own line."""
    limit = loglimit.LogLimit(max_lines=2)
    assert [limit.admit(event, at(0)) for event in "abcd"] == [{}, {}, None, None]
    assert limit.admit("c", at(60)) == {"others_suppressed": 2}


def test_all_suppressed_lines_are_counted():
    """Events that never come again are in the sum of the others."""
    limit = loglimit.LogLimit(max_lines=3)
    counted = 0
    for second in range(600):
        for event in range(second % 7):
            fields = limit.admit(event, at(second))
            counted += sum(fields.values()) + 1 if fields is not None else 0
    last = [limit.admit("end", at(second)) for second in (700, 800, 900)]
    counted += sum(sum(fields.values()) for fields in last)
    assert counted == sum(second % 7 for second in range(600))


def test_a_clock_that_goes_back_starts_a_new_interval():
    """Lines are not suppressed until the clock catches up."""
    limit = loglimit.LogLimit()
    assert limit.admit("a", at(0)) == {}
    assert limit.admit("a", at(-3600)) == {}
