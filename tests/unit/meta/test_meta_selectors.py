"""Selectors, and what is said of those that are none."""

from __future__ import annotations

import pytest

from certplane import errors
from certplane.meta import selectors


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a in b", "found 'b' expected: '('"),
        ("a in", "found '' expected: '('"),
        ("a in (", "found '', expected: ',', ')' or identifier"),
        ("a in (=)", "found '=', expected: ',', ')' or identifier"),
        ("a in (b", "found '', expected: ',' or ')'"),
        ("a in (b c)", "found 'c', expected: ',' or ')'"),
        ("a in (b,", "found '', expected: ',', or identifier"),
        ("a in (b,!)", "found '!', expected: ',', or identifier"),
    ],
)
def test_broken_lists_of_values(text, why):
    """Each place in a list has its own words."""
    with pytest.raises(errors.BadRequest) as caught:
        selectors.parse_labels(text)
    assert caught.value.message == f"unable to parse requirement: {why}"


@pytest.mark.parametrize(
    ("text", "values"), [("a in (b,c)", ("b", "c")), ("a in (,b)", ("", "b")), ("a in (b,,c,)", ("", "b", "c"))]
)
def test_lists_of_values(text, values):
    """A list may have empty values."""
    assert selectors.parse_labels(text).requirements[0].values == values


def test_all_bad_values_are_told():
    """Two bad values are two errors; so are the two faults of one."""
    for text, paths in (("a in (_,-)", ("values[0][a]", "values[1][a]")), ("a > -", ("values[0]", "values[0][a]"))):
        with pytest.raises(errors.BadRequest) as caught:
            selectors.parse_labels(text)
        first, second = paths
        assert caught.value.message.startswith(f"unable to parse requirement: [{first}: Invalid value: ")
        assert f", {second}: Invalid value: " in caught.value.message
        assert caught.value.message.endswith("]")


def test_terms_of_field_selectors_are_sorted():
    """The first of two names is the one that sorts first, and so is the first bad term."""
    assert selectors.parse_fields("metadata.name=b,metadata.name=a").exact("metadata.name") == "a"
    with pytest.raises(errors.BadRequest, match="can't understand 'a'"):
        selectors.parse_fields("b,a")


@pytest.mark.parametrize(("parse", "condition"), [(selectors.parse_labels, "a=b"), (selectors.parse_fields, "a=b")])
def test_selectors_have_so_many_conditions_at_the_most(parse, condition):
    """Each is looked at for each object that there is."""
    parse(",".join([condition] * selectors.MOST_CONDITIONS))
    with pytest.raises(errors.BadRequest, match="selector may have at most 100 requirements"):
        parse(",".join([condition] * (selectors.MOST_CONDITIONS + 1)))


def test_one_of_many_values_is_found():
    """And what is between two of them is none."""
    chosen = selectors.parse_labels(f"a in ({','.join(f'v{number}' for number in range(0, 2_000, 2))})")
    assert [number for number in range(1_000, 1_006) if chosen.matches({"a": f"v{number}"})] == [1_000, 1_002, 1_004]
    assert not chosen.matches({})


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        (r"a=b\,c,d=e", [("a", "=", "b,c"), ("d", "=", "e")]),
        (r"a==b\\,c!=\=", [("a", "=", "b\\"), ("c", "!=", "=")]),
        (",,a=,", [("a", "=", "")]),
        ("a!==b", None),
        (r"a=\b", None),
        ("a=b\\", None),
        ("a=b=c", None),
    ],
)
def test_what_a_backslash_does(text, terms):
    """It takes the meaning from what follows, which must be one of three."""
    if terms is None:
        with pytest.raises(errors.BadRequest, match="invalid field selector"):
            selectors.parse_fields(text)
    else:
        assert [(each.field, each.operator, each.value) for each in selectors.parse_fields(text).terms] == terms
