"""Lines that strangers cause, and how many of them there are."""

from __future__ import annotations

import datetime

from certplane import loglimit

START = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


def at(seconds):
    return START + datetime.timedelta(seconds=seconds)


def test_an_event_is_logged_once_in_a_minute():
    """The next line says how often it came again."""
    limit = loglimit.LogLimit()
    assert [limit.admit("a", at(second)) for second in (0, 1, 59)] == [{}, None, None]
    assert limit.admit("a", at(60)) == {"repeated": 2}
    assert limit.admit("a", at(120)) == {}


def test_events_do_not_hide_each_other():
    """Each has its own line, up to their number."""
    limit = loglimit.LogLimit(most_lines=2)
    assert [limit.admit(event, at(0)) for event in "abcd"] == [{}, {}, None, None]
    assert limit.admit("c", at(60)) == {"others_left_out": 2}


def test_nothing_is_left_out_that_is_not_counted():
    """What never comes again is in the sum of the others."""
    limit = loglimit.LogLimit(most_lines=3)
    counted = 0
    for second in range(600):
        for event in range(second % 7):
            found = limit.admit(event, at(second))
            counted += sum(found.values()) + 1 if found is not None else 0
    last = [limit.admit("end", at(second)) for second in (700, 800, 900)]
    counted += sum(sum(each.values()) for each in last)
    assert counted == sum(second % 7 for second in range(600))


def test_a_clock_that_goes_back_silences_nothing():
    """A new interval begins."""
    limit = loglimit.LogLimit()
    assert limit.admit("a", at(0)) == {}
    assert limit.admit("a", at(-3600)) == {}
