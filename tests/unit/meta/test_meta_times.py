"""Times in documents: which are taken, and what Go says of the others."""

from __future__ import annotations

import json

import pytest

from certplane.meta import codec
from certplane.resources import leases

LAYOUT = "2006-01-02T15:04:05Z07:00"


def read(**parts):
    """A Lease as a server reads it."""
    return codec.read(codec.parse_json(json.dumps(parts).encode()), leases.Lease).object


def problem(text):
    with pytest.raises(codec.ReadProblem) as caught:
        read(metadata={"creationTimestamp": text})
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-01-02T03:04:05Z", "2026-01-02T03:04:05Z"),
        ("2026-01-02T3:04:05Z", "2026-01-02T03:04:05Z"),
        ("2026-01-02T03:04:05.678901234Z", "2026-01-02T03:04:05Z"),
        ("2026-01-02T03:04:05,5+02:00", "2026-01-02T01:04:05Z"),
    ],
)
def test_times_are_taken_as_go_takes_them(text, expected):
    """An hour may have one digit, a comma may be a point; what is kept has neither, nor a fraction."""
    assert read(metadata={"creationTimestamp": text}).metadata.creation_timestamp == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x", f' as "{LAYOUT}": cannot parse "x" as "2006"'),
        ("2026-01-02 03:04:05Z", f' as "{LAYOUT}": cannot parse " 03:04:05Z" as "T"'),
        ("2026-13-02x", ": month out of range"),
        ("2026-01-02T24:0", ": hour out of range"),
        ("2026-01-02T00:60:00Z", ": minute out of range"),
        ("2026-01-02T00:00:60Z", ": second out of range"),
        ("2026-01-02T00:00:00+25:00", ": time zone offset hour out of range"),
        ("2026-02-30T00:00:00Z", ": day out of range"),
        ("2026-02-30T00", f' as "{LAYOUT}": cannot parse "" as ":"'),
        ("2026-01-02T00:00:00Zx", ': extra text: "x"'),
    ],
)
def test_the_first_thing_that_is_wrong_is_told(text, expected):
    """From left to right; only whether the month has such a day is looked at in the end."""
    assert problem(text) == f'parsing time "{text}"{expected}'


def test_what_is_no_text_is_told_with_its_field():
    """As any other value of a wrong type."""
    assert problem(1) == (
        "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.creationTimestamp of type string"
    )
    with pytest.raises(codec.ReadProblem, match=r"Go struct field LeaseSpec\.spec\.renewTime of type string"):
        read(spec={"renewTime": True})
