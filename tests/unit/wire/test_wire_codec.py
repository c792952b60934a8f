"""Decoding of client documents: duplicate members, times, and Go's error texts."""

from __future__ import annotations

import json

import pytest

from certplane.meta import objects
from certplane.resources import configmaps, leases, reviews
from certplane.wire import codec

LAYOUT = "2006-01-02T15:04:05Z07:00"


# --- duplicate members --------------------------------------------------------------------------------------------


def _decode(text, type_):
    decoded = codec.decode_tree(codec.parse_json(text.encode()), type_)
    return codec.to_builtins(decoded.object), decoded.strict_errors


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ('{"data":{"a":"1"},"data":{"b":"2"},"data":{"a":"3"}}', {"a": "3", "b": "2"}),
        ('{"data":{"a":"1"},"data":null,"data":{"b":"2"}}', {"b": "2"}),
        ('{"data":{"a":"1"},"data":{"b":"2"},"data":null}', None),
        ('{"data":null,"data":{"b":"2"}}', {"b": "2"}),
    ],
)
def test_duplicate_objects_are_merged(text, data):
    """Go decodes a second object into the first; a null clears it."""
    document, strict_errors = _decode(text, configmaps.ConfigMap)
    assert document.get("data") == data
    assert set(strict_errors) == {'duplicate field "data"'}


def test_members_of_merged_objects_are_no_duplicates():
    """Only a member that occurs twice in one object is a duplicate, though the objects are merged."""
    document, strict_errors = _decode('{"labels":{"a":"1"},"labels":{"a":"2","b":"3","b":"4"}}', objects.ObjectMeta)
    assert document["labels"] == {"a": "2", "b": "4"}
    assert strict_errors == ('duplicate field "labels"', 'duplicate field "labels.b"')


def test_the_last_of_many_duplicates_counts():
    """Hundreds of duplicates on several levels are merged in linear time: ten kilobytes once took seconds."""
    inner = ",".join(f'"resourceAttributes":{{"name":"{number}","verb":"v{number}"}}' for number in range(220))
    document, strict_errors = _decode(f'{{"spec":{{"spec":1}},"spec":{{{inner}}}}}', reviews.SelfSubjectAccessReview)
    assert document["spec"]["resourceAttributes"] == {"name": "219", "verb": "v219"}
    assert len(strict_errors) == 3


# --- times --------------------------------------------------------------------------------------------------------


def decode_lease(**fields):
    return codec.decode_tree(codec.parse_json(json.dumps(fields).encode()), leases.Lease).object


def time_error(value):
    with pytest.raises(codec.DecodeError) as caught:
        decode_lease(metadata={"creationTimestamp": value})
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
def test_times_are_normalised(text, expected):
    """Go accepts an hour of one digit, a decimal comma and fractions; the stored time has none of them."""
    assert decode_lease(metadata={"creationTimestamp": text}).metadata.creation_timestamp == expected


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
def test_an_invalid_time_has_the_error_of_go(text, expected):
    """The first error from left to right; the day of the month is checked last."""
    assert time_error(text) == f'parsing time "{text}"{expected}'


def test_a_time_of_a_wrong_type_is_reported_with_its_field():
    """Like any other value of a wrong type."""
    assert time_error(1) == (
        "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.creationTimestamp of type string"
    )
    with pytest.raises(codec.DecodeError, match=r"Go struct field LeaseSpec\.spec\.renewTime of type string"):
        decode_lease(spec={"renewTime": True})
