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
