"""How many findings are kept, and which."""

from __future__ import annotations

import random

from certplane.expiry.findings import Collector, Finding
from certplane.x509.trust.inventory import Item
from tests.unit.expiry import material


def test_what_ends_soonest_is_kept():
    """Whatever the order; the others are counted."""
    items = [material.finding(number, material.NOW + number * material.DAY) for number in range(50)]
    shuffled = items * 1
    random.Random(1).shuffle(shuffled)
    collector = Collector(7)
    for item in shuffled:
        collector.add(item)
    assert (*items[:7],) == collector.findings()
    assert (50, 43) == (collector.certificates, collector.omitted)


def test_problems_are_limited_too():
    """They do not take the place of certificates."""
    collector = Collector(3)
    for number in range(20):
        collector.add(material.problem(path=f"/{number}.pem"))
    collector.add(material.finding())
    assert [material.finding(), *(material.problem(path=f"/{number}.pem") for number in range(3))] == list(
        collector.findings()
    )
    assert 17 == collector.omitted


def test_notes_are_not_kept():
    """An encrypted key is no certificate and no problem."""
    collector = Collector(3)
    collector.add(Finding("/a.pem", "", (), Item(note="an encrypted private key")))
    assert ((), 0, 0) == (collector.findings(), collector.certificates, collector.omitted)
