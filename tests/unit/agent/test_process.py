"""The process of an agent: what a notice of early renewal says."""

from __future__ import annotations

import pytest

from certplane.agent import process
from certplane.agent.schedule import Notice

BEFORE, UNTIL = "2026-01-01T00:00:00Z", "2026-01-08T00:00:00Z"


def test_a_notice():
    """Two times, and some signers."""
    data = {"issuedBefore": BEFORE, "renewBefore": UNTIL, "signerNames": "example.com/a, kubernetes.io/*,"}
    expected = Notice(1_767_225_600.0, 1_767_830_400.0, ("example.com/a", "kubernetes.io/*"))
    assert expected == process.parse_notice(data)


def test_no_notice():
    """A ConfigMap without a time asks for nothing."""
    assert process.parse_notice({"other": "value"}) is None


@pytest.mark.parametrize(
    "data",
    [
        {"renewBefore": UNTIL},
        {"renewBefore": "tomorrow", "issuedBefore": BEFORE},
        {"renewBefore": UNTIL, "issuedBefore": "2026-01-01"},
    ],
    ids=["no limit", "no time", "a date"],
)
def test_an_invalid_notice(data):
    """It is an error: which certificates were meant cannot be guessed."""
    with pytest.raises(ValueError, match=r"issuedBefore|RFC 3339|tomorrow"):
        process.parse_notice(data)
