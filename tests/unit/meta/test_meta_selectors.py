"""Parsing of selectors, and the errors of invalid ones."""

from __future__ import annotations

import pytest

from certplane import errors
from certplane.meta import selectors


@pytest.mark.parametrize(
    ("text", "error"),
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
def test_an_invalid_list_of_values_is_refused(text, error):
    """The error depends on the position in the list."""
    with pytest.raises(errors.BadRequest) as caught:
        selectors.parse_labels(text)
    assert caught.value.message == f"unable to parse requirement: {error}"


@pytest.mark.parametrize(
    ("text", "values"), [("a in (b,c)", ("b", "c")), ("a in (,b)", ("", "b")), ("a in (b,,c,)", ("", "b", "c"))]
)
def test_lists_of_values(text, values):
    """A list may have empty values."""
    assert selectors.parse_labels(text).requirements[0].values == values


def test_all_invalid_values_are_reported():
    """Two invalid values are two errors, and so are two errors of one value."""
    for text, paths in (("a in (_,-)", ("values[0][a]", "values[1][a]")), ("a > -", ("values[0]", "values[0][a]"))):
        with pytest.raises(errors.BadRequest) as caught:
            selectors.parse_labels(text)
        first, second = paths
        assert caught.value.message.startswith(f"unable to parse requirement: [{first}: Invalid value: ")
        assert f", {second}: Invalid value: " in caught.value.message
        assert caught.value.message.endswith("]")


def test_terms_of_field_selectors_are_sorted():
    """Of two names the one that sorts first counts, and of two invalid terms the one that sorts first is reported."""
    assert selectors.parse_fields("metadata.name=b,metadata.name=a").required_value("metadata.name") == "a"
    with pytest.raises(errors.BadRequest, match="can't understand 'a'"):
        selectors.parse_fields("b,a")


@pytest.mark.parametrize(("parse", "requirement"), [(selectors.parse_labels, "a=b"), (selectors.parse_fields, "a=b")])
def test_the_number_of_requirements_is_limited(parse, requirement):
    """Each requirement is evaluated for each object."""
    parse(",".join([requirement] * selectors.MAX_REQUIREMENTS))
    with pytest.raises(errors.BadRequest, match="selector may have at most 100 requirements"):
        parse(",".join([requirement] * (selectors.MAX_REQUIREMENTS + 1)))


def test_a_value_is_found_among_many():
    """A value between two of them is not found."""
    selector = selectors.parse_labels(f"a in ({','.join(f'v{number}' for number in range(0, 2_000, 2))})")
    assert [number for number in range(1_000, 1_006) if selector.matches({"a": f"v{number}"})] == [1_000, 1_002, 1_004]
    assert not selector.matches({})


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        (r"a=b\,c,d=e", [("a", "=", "b,c"), ("d", "=", "e")]),
        (r"a==b\\,c!=\=", [("a", "=", "b\\"), ("c", "!=", "=")]),
        (",,a=,", [("a", "=", "")]),
    ],
)
def test_a_backslash_escapes_a_special_character(text, terms):
    """Only backslash, comma and equals sign can be escaped."""
    assert [(term.field, term.operator, term.value) for term in selectors.parse_fields(text).terms] == terms


@pytest.mark.parametrize("text", ["a!==b", r"a=\b", "a=b\\", "a=b=c"])
def test_invalid_terms_are_refused(text):
    """Such as unescaped special characters, and escaped ordinary ones."""
    with pytest.raises(errors.BadRequest, match="invalid field selector"):
        selectors.parse_fields(text)
