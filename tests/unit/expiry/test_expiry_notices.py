"""What is announced, once for each threshold, and what is settled."""

from __future__ import annotations

import pytest

from certplane.expiry import notices
from certplane.expiry.watch import SourceState
from tests.unit.expiry import material
from tests.unit.expiry.material import ListSource

DAY = 86400.0
THRESHOLDS = (30 * DAY, 7 * DAY, 0.0)
NOW = float(material.seconds(material.NOW))


def state(*findings, name="disk", **fields):
    return SourceState(ListSource(name), is_read=True, findings=findings, **fields)


def ending(days, number=1, path="/a.pem"):
    return material.finding(number, material.NOW + days * material.DAY, path)


def decide(*states, announced=None, now=NOW, sources=()):
    return notices.decide(states, THRESHOLDS, sources, announced or {}, now)


@pytest.mark.parametrize(("days", "thresholds"), [(31, []), (30, [30]), (8, [30]), (7, [7]), (0, [0]), (-400, [0])])
def test_only_the_last_threshold_counts(days, thresholds):
    """Also for a certificate that ended long ago."""
    assert [days * DAY for days in thresholds] == [item.threshold for item in decide(state(ending(days))).due.values()]


def test_a_life():
    """Each threshold once, until the certificate is renewed."""
    announced = {}
    events = []
    for day in range(45):
        found = ending(40) if day < 38 else ending(400, number=2)
        decision = decide(state(found), announced=announced, now=NOW + day * DAY)
        events += [(day, "due", item.threshold / DAY) for item in decision.due.values()]
        events += [(day, "settled", item.serial) for item in decision.settled.values()]
        announced |= decision.due
        for key in decision.settled:
            del announced[key]
    assert [(10, "due", 30), (33, "due", 7), (38, "settled", "1")] == events


@pytest.mark.parametrize("fields", [{"problem": "it is gone"}, {"omitted": 5}])
def test_a_source_that_cannot_be_read_settles_nothing(fields):
    """Nor one that has so many certificates that this one may be among those that are left out."""
    announced = decide(state(ending(5))).due
    assert {} == decide(state(**fields), announced=announced).settled
    assert announced == decide(state(), announced=announced).settled


def test_one_that_is_not_among_the_first_is_gone():
    """What ends soonest is never left out."""
    announced = decide(state(ending(5))).due
    assert announced == decide(state(ending(6, 2), omitted=3), announced=announced).settled


def test_sources_of_a_webhook():
    """Others are not announced; those of a cluster have its name."""
    states = [state(ending(5), name="prod/secrets"), state(ending(5), name="dev")]
    assert ["prod/secrets"] == [item.source for item in decide(*states, sources=("prod",)).due.values()]


def test_a_source_that_is_no_longer_watched_is_forgotten():
    """Without an announcement: nobody knows what became of it."""
    announced = decide(state(ending(5))).due
    decision = decide(state(name="other"), announced=announced)
    assert (set(announced), {}) == (set(decision.forgotten), decision.settled)


def test_texts_are_limited():
    """Whoever made the certificate chose its names."""
    found = material.finding(1, material.NOW, subject="a\n" * 1000)
    (item,) = decide(state(found)).due.values()
    assert len(item.subject) <= 200
    assert item.subject.isprintable()
