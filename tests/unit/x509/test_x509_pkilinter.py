"""The second opinion, where its package is installed."""

from __future__ import annotations

import pytest

from certplane.x509.issuance import issue
from certplane.x509.lint import linter, pkilinter
from tests.unit.x509 import material

pytestmark = [
    pytest.mark.skipif(not pkilinter.is_installed(), reason="the extra pkilint is not installed"),
    pytest.mark.filterwarnings("ignore"),
]


def findings(**fields):
    prepared = material.new_issuer().prepare(material.request(**fields), ["client auth"], None, material.NOW)
    assert isinstance(prepared, issue.Prepared)
    return [finding for finding in prepared.findings if finding.citation == "pkilint"]


def test_nothing_is_said_of_an_ordinary_certificate():
    """What the signers issue violates nothing of RFC 5280."""
    assert findings(dns=["a.example"]) == []


def test_what_it_finds_is_told_and_stops_nothing():
    """It does not know what Kubernetes signers issue."""
    warnings = findings(dns=["a..example"])
    assert warnings
    assert {warning.severity for warning in warnings} == {linter.Severity.WARNING}


def test_bytes_that_it_cannot_read_are_a_finding():
    """Its exceptions stay inside."""
    assert [code for code, _ in pkilinter.findings(b"nonsense")] == ["unreadable"]
