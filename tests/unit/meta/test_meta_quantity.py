"""The canonical spelling of quantities."""

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
def test_the_canonical_spelling_has_no_fraction(text, canonical):
    """The largest unit without a fraction, as kube-apiserver prints it; limited to billionths and 2**63 - 1."""
    assert quantity.canonical(text) == canonical


@pytest.mark.parametrize("text", ["", "a", "1 ", "1x", "1.2.3", "1KiB", "--1", "1ee3", "0x10", "1e", "٣"])
def test_an_invalid_quantity_is_refused(text):
    """With Go's text."""
    with pytest.raises(ValueError, match="quantit"):
        quantity.canonical(text)


@example("11.70063Mi")
@given(st.from_regex(r"[+-]?[0-9]{1,12}([.][0-9]{1,9})?(|n|u|m|k|M|G|T|Ki|Mi|Gi|Ti|e3|e-3)", fullmatch=True))
def test_canonical_is_idempotent(text):
    """Except that a binary quantity below 1Ki is printed as a plain number, which is then parsed as a decimal one, as
    in Kubernetes.
    """
    once = quantity.canonical(text)
    twice = quantity.canonical(once)
    assert once == twice or (text.endswith("i") and once.lstrip("-").isdigit())
    assert twice == quantity.canonical(twice)


def test_long_quantities_are_parsed_in_linear_time():
    """Backtracking over the digits of a megabyte would take a day."""
    with pytest.raises(ValueError, match="must match the regular expression"):
        quantity.canonical("1" * 200_000 + "!")
    with pytest.raises(ValueError, match="numeric part"):
        quantity.canonical("." * 200_000)
