"""Fleets of agents in virtual time: nobody expires, and the load on the API server is even. tests/properties has the
year of a large fleet.
"""

from __future__ import annotations

import agent_fleet
from agent_fleet import DAY, HOUR, YEAR


def test_nobody_expires_in_a_year():
    """The API is away for three days in March, and for one in August."""
    fleet, result = agent_fleet.year(nodes=300)
    assert result.expirations == []
    assert all(validity.not_after > agent_fleet.START + YEAR for validity in fleet.validities())
    assert len(result.renewals) > 300 * 12


def test_the_first_renewals_of_a_fleet_that_was_installed_in_an_hour():
    """They fill the range from 70 to 90 % of the lifetime evenly: each day has about a sixth of them."""
    _, result = agent_fleet.same_day(nodes=600)
    days = [sum(day * DAY <= time < (day + 1) * DAY for time in result.renewals) for day in range(28)]
    assert sum(days[:20]) == 0
    assert 80 < min(days[21:27])
    assert max(days[21:27]) < 120


def test_the_load_after_an_outage():
    """Agents whose renewal is due retry every five minutes; when the API is back, they do not all come at once."""
    _, result = agent_fleet.year(nodes=300)
    during = 72 * DAY
    attempts = [second for second in result.offered if 73 * DAY <= second < 73 * DAY + HOUR]
    assert max(result.offered[second] for second in attempts) < 10
    assert not [second for second in result.offered if during <= second < 73 * DAY]


def test_a_cold_start():
    """6,000 agents whose certificates have expired are switched on. The API admits 100 requests a second, and each
    agent needs three: 99 % have a certificate after 1.4 times the time that is possible, all after twice that time. The
    API has to refuse fewer than three in four requests in its worst second, and less than six in ten in all.
    """
    _, result = agent_fleet.cold_start()
    times = sorted(result.renewals)
    assert len(times) == 6000
    assert times[5940] < 250
    assert times[-1] < 400
    assert max(result.admitted.values()) == 100
    assert max(result.offered.values()) < 400
    assert sum(result.offered.values()) < 2.5 * sum(result.admitted.values())


def test_a_small_limit():
    """With 10 requests a second it takes ten times as long, and the API is not asked more often for that."""
    _, result = agent_fleet.cold_start(nodes=600, limit=10)
    times = sorted(result.renewals)
    assert len(times) == 600
    assert times[594] < 400
    assert max(result.offered.values()) < 60
