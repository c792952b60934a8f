"""When a certificate is renewed."""

from __future__ import annotations

import datetime

import pytest

from certplane.agent import schedule
from certplane.agent.schedule import Notice, RenewalTimes, Validity, Window

DAY = 86400
HOUR = 3600
#: Thursday, 1 January 2026, 00:00 UTC.
START = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC).timestamp()
SERIALS = [f"{number:x}" for number in range(1000)]
#: Sundays, 02:00 to 04:00.
SUNDAY = Window((6,), 2 * HOUR, 2 * HOUR)


def validity(serial="1", days=100.0):
    return Validity(serial, START, START + days * DAY)


def at(text):
    return datetime.datetime.fromisoformat(text).replace(tzinfo=datetime.UTC).timestamp()


def test_renewals_are_spread_over_the_range():
    """Between 70 and 90 % of the lifetime, each tenth of the range with about a tenth of the certificates."""
    times = [schedule.renewal_time(validity(serial), RenewalTimes()) for serial in SERIALS]
    assert START + 70 * DAY <= min(times)
    assert max(times) < START + 90 * DAY
    counts = [sum(START + (70 + 2 * part) * DAY <= time < START + (72 + 2 * part) * DAY for time in times)
              for part in range(10)]  # fmt: skip
    assert sum(counts) == len(SERIALS)
    assert 70 < min(counts)
    assert max(counts) < 130


def test_a_restart_does_not_change_the_time():
    """It is a function of the certificate."""
    assert schedule.renewal_time(validity(), RenewalTimes()) == schedule.renewal_time(validity(), RenewalTimes())


def test_openings_of_a_window():
    """Each week, cut to the range; also the one that began before it."""
    saturday_night = Window((5,), 23 * HOUR, 4 * HOUR)
    openings = list(saturday_night.openings(at("2026-01-04T01:00"), at("2026-01-11T00:00")))
    assert openings == [
        (at("2026-01-04T01:00"), at("2026-01-04T03:00")),
        (at("2026-01-10T23:00"), at("2026-01-11T00:00")),
    ]


@pytest.mark.parametrize("serial", SERIALS[:50])
def test_a_window_in_the_range(serial):
    """The renewal is in a window, and the windows of the range are used alike."""
    time = schedule.renewal_time(validity(serial), RenewalTimes(window=SUNDAY))
    assert START + 70 * DAY <= time < START + 90 * DAY
    assert SUNDAY.next_opening(time) == time


def test_windows_are_used_alike():
    """Of the three Sundays in the range, each has about a third of the certificates."""
    times = [schedule.renewal_time(validity(serial), RenewalTimes(window=SUNDAY)) for serial in SERIALS]
    counts = [sum(begin <= time <= end for time in times)
              for begin, end in SUNDAY.openings(START + 70 * DAY, START + 90 * DAY)]  # fmt: skip
    assert len(counts) == 3
    assert 280 < min(counts)
    assert max(counts) < 390


@pytest.mark.parametrize(
    ("days", "expected"),
    [
        # The range of 3.5 days is 2.45 to 3.15 days after Thursday 00:00: Saturday to Sunday 03:36.
        (3.5, ("2026-01-04T02:00", "2026-01-04T03:36")),
        # 2.1 to 2.7 days, until Saturday evening; 95 % are at 2.85 days. The last Sunday before is too early: none.
        (3, ("2026-01-03T02:24", "2026-01-03T16:48")),
        # 2.17 to 2.79 days; 95 % are 2.945 days. No.  3.25 days: 2.275 to 2.925; 95 %: Sunday 02:06.
        (3.25, ("2026-01-04T02:00", "2026-01-04T02:06")),
        # 4.2 to 5.4 days: Monday to Tuesday. The Sunday before it is at more than half of the lifetime.
        (6, ("2026-01-04T02:00", "2026-01-04T04:00")),
    ],
)
def test_a_window_outside_of_the_range(days, expected):
    """The next one is used if the certificate lasts until then, else the one before, else none."""
    times = [schedule.renewal_time(validity(serial, days), RenewalTimes(window=SUNDAY)) for serial in SERIALS[:100]]
    first, last = map(at, expected)
    assert first <= min(times)
    assert max(times) <= last


def test_a_late_renewal_waits_for_the_window():
    """If the certificate lasts until then."""
    thursday = at("2026-03-26T12:00")
    assert schedule.wait_for_window(validity(), SUNDAY, thursday) == at("2026-03-29T02:00")
    assert schedule.wait_for_window(validity(), SUNDAY, at("2026-03-29T03:00")) == at("2026-03-29T03:00")
    assert schedule.wait_for_window(validity(days=86), SUNDAY, thursday) == thursday
    assert schedule.wait_for_window(None, SUNDAY, thursday) == thursday
    assert schedule.wait_for_window(validity(), None, thursday) == thursday


def test_renewals_before_a_time_are_spread():
    """Over nine tenths of the time between the notice and its limit."""
    notice = Notice(issued_before=START + DAY, renew_before=START + 12 * DAY)
    times = [schedule.noticed_time(validity(serial), notice, START + 2 * DAY) for serial in SERIALS]
    assert START + 2 * DAY <= min(times)
    assert START + 10.5 * DAY < max(times) < START + 11 * DAY
    assert 450 < sum(time < START + 6.5 * DAY for time in times) < 550


def test_a_limit_that_has_passed_means_now():
    """An agent that was off reads the notice late."""
    assert START + 9 * DAY == schedule.noticed_time(validity(), Notice(START, START + DAY), START + 9 * DAY)


@pytest.mark.parametrize(
    ("signers", "issued_before", "expected"),
    [
        ((), START + 1, True),
        ((), START, False),
        (("example.com/a",), START + 1, True),
        (("example.com/*",), START + 1, True),
        (("example.com/b", "other.com/*"), START + 1, False),
    ],
)
def test_the_certificates_of_a_notice(signers, issued_before, expected):
    """Those of some signers, or all, that were issued before a time."""
    assert expected == Notice(issued_before, START + DAY, signers).concerns(validity(), "example.com/a")
