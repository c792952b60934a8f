"""A year of 6,000 agents in virtual time, and the pictures of it in the documentation."""

from __future__ import annotations

import pathlib

import pytest

import agent_fleet
from agent_fleet import DAY, HOUR, YEAR

ROOT = pathlib.Path(__file__).resolve().parents[2]
IMAGES = ROOT / "docs" / "images"
#: Renewals an hour if all were spread evenly: certificates of 30 days are renewed after 24 days in the mean.
IDEAL = 6000 / (24 * 24)


@pytest.fixture(scope="module")
def grown():
    return agent_fleet.year()


@pytest.fixture(scope="module")
def installed():
    return agent_fleet.same_day()


def test_nobody_expires(grown, installed):
    """Not even while the API is away for three days, nor in a fleet whose renewals come in waves."""
    for fleet, result in (grown, installed):
        assert result.expirations == []
        assert all(validity.not_after > agent_fleet.START + YEAR for validity in fleet.validities())


def test_renewals_are_near_the_ideal(grown):
    """No day has a third more than the ideal, and no hour three times as much, but for those after an outage."""
    _, result = grown
    hours = result.per_hour(YEAR)
    for first, last in ((0, 69), (90, 219), (236, 365)):
        days = [sum(hours[day * 24 : day * 24 + 24]) / 24 for day in range(first, last)]
        assert max(days) < 1.35 * IDEAL
        assert max(hours[first * 24 : last * 24]) < 3 * IDEAL


def test_renewals_after_an_outage(grown):
    """What could not be renewed in three days is renewed in a quarter of an hour, with a few requests a second."""
    _, result = grown
    late = [time for time in result.renewals if 73 * DAY <= time < 73 * DAY + HOUR / 4]
    assert 600 < len(late) < 900
    assert max(result.offered[second] for second in range(73 * 86400, 73 * 86400 + 900)) < 30


def test_waves_become_flat(installed):
    """A fleet that was installed in one hour begins with a wave that is four times the ideal, and is flat in a year."""
    _, result = installed
    hours = result.per_hour(YEAR)
    days = [sum(hours[day * 24 : day * 24 + 24]) / 24 for day in range(365)]
    assert 3.8 * IDEAL < max(days[:30]) < 4.5 * IDEAL
    assert max(days[300:]) < 1.7 * IDEAL


def test_the_pictures_are_current(grown, installed):
    """They are what `python tools/agent_fleet.py` writes."""
    pictures = {
        "agent-renewals.svg": agent_fleet.renewals_picture(grown[1], installed[1]),
        "agent-cold-start.svg": agent_fleet.cold_start_picture(agent_fleet.cold_start()[1]),
    }
    assert pictures == {name: (IMAGES / name).read_text("utf-8") for name in pictures}
