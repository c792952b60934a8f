"""Findings of pkilint, where it is installed."""

from __future__ import annotations

import pytest

from certplane.x509.issuance import issue
from certplane.x509.lint import linter, pkilinter
from tests.unit.x509 import material

pytestmark = pytest.mark.skipif(not pkilinter.is_installed(), reason="the extra pkilint is not installed")


def findings(**fields):
    prepared = material.new_issuer().prepare(material.request(**fields), ["client auth"], None, material.NOW)
    assert isinstance(prepared, issue.Prepared)
    return [finding for finding in prepared.findings if finding.citation == "pkilint"]


def test_an_ordinary_certificate_has_no_findings():
    """It complies with RFC 5280."""
    assert findings(dns=["a.example"]) == []


def test_findings_are_warnings():
    """pkilint does not know what the signers of Kubernetes issue."""
    warnings = findings(dns=["a..example"])
    assert warnings
    assert {warning.severity for warning in warnings} == {linter.Severity.WARNING}


def test_malformed_bytes_are_a_finding():
    """Exceptions of pkilint are not raised."""
    assert [code for code, _ in pkilinter.findings(b"nonsense")] == ["unreadable"]
