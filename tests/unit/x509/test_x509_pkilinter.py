"""The second opinion, where its package is installed."""

from __future__ import annotations

import pytest

from certplane.x509 import issue, lint, pkilinter
from tests.unit.x509 import material

pytestmark = [
    pytest.mark.skipif(not pkilinter.is_installed(), reason="the extra pkilint is not installed"),
    pytest.mark.filterwarnings("ignore"),
]


def findings(**of):
    prepared = material.new_issuer().prepare(material.request(**of), ["client auth"], None, material.NOW)
    assert isinstance(prepared, issue.Prepared)
    return [each for each in prepared.findings if each.citation == "pkilint"]


def test_nothing_is_said_of_an_ordinary_certificate():
    """What the signers issue violates nothing of RFC 5280."""
    assert findings(dns=["a.example"]) == []


def test_what_it_finds_is_told_and_stops_nothing():
    """It does not know what Kubernetes signers issue."""
    found = findings(dns=["a..example"])
    assert found
    assert {each.severity for each in found} == {lint.Severity.WARNING}


def test_bytes_that_it_cannot_read_are_a_finding():
    """Its exceptions stay inside."""
    assert [code for code, _ in pkilinter.findings(b"nonsense")] == ["unreadable"]
