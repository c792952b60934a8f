"""Quantities have one canonical spelling."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from certplane.meta import quantity


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("0", "0"), ("4", "4"), ("+5", "5"), ("-5", "-5"), ("1000m", "1"), ("1500m", "1500m"), ("1.5", "1500m"),
        ("0.5", "500m"), (".5", "500m"), ("5.", "5"), ("1000", "1k"), ("1000k", "1M"), ("1001k", "1001k"),
        ("1e3", "1e3"), ("1E3", "1e3"), ("1000e3", "1e6"), ("12e2", "1200"), ("1e-3", "1e-3"), ("0e9", "0"),
        ("1Ki", "1Ki"),
        ("1024Ki", "1Mi"), ("1.5Gi", "1536Mi"), ("0.5Ki", "512"), ("1025", "1025"), ("2048Ki", "2Mi"),
        ("16391228Ki", "16391228Ki"), ("1n", "1n"), ("0.1n", "1n"), ("100000E", "9223372036854775807"),
    ],
)  # fmt: skip
def test_the_largest_unit_that_leaves_no_fraction(text, canonical):
    """As the real server prints it; smaller than a billionth is rounded up, larger than can be is cut."""
    assert quantity.canonical(text) == canonical


@pytest.mark.parametrize("text", ["", "a", "1 ", "1x", "1.2.3", "1KiB", "--1", "1ee3", "0x10", "1e", "٣"])
def test_what_is_no_quantity_is_refused(text):
    """With Go's text."""
    with pytest.raises(ValueError, match="quantit"):
        quantity.canonical(text)


@example("11.70063Mi")
@given(st.from_regex(r"[+-]?[0-9]{1,12}([.][0-9]{1,9})?(|n|u|m|k|M|G|T|Ki|Mi|Gi|Ti|e3|e-3)", fullmatch=True))
def test_a_canonical_quantity_stays(text):
    """Whatever it was made from; but what is left of a binary unit is a plain number, and read as a decimal one, as in
    Kubernetes.
    """
    once = quantity.canonical(text)
    twice = quantity.canonical(once)
    assert once == twice or (text.endswith("i") and once.lstrip("-").isdigit())
    assert twice == quantity.canonical(twice)


def test_digits_are_read_once():
    """Those of a number that is none were tried in all ways: a megabyte would have taken a day."""
    with pytest.raises(ValueError, match="must match the regular expression"):
        quantity.canonical("1" * 200_000 + "!")
    with pytest.raises(ValueError, match="numeric part"):
        quantity.canonical("." * 200_000)
