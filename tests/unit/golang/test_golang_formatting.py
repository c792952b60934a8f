"""Values are formatted as in Go."""

from __future__ import annotations

import pytest

from certplane.golang import formatting


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (-0.0, "-0"),
        (1, "1"),
        (1.25, "1.25"),
        (0.0001, "0.0001"),
        (0.00001, "1e-05"),
        (0.00000015, "1.5e-07"),
        (999999, "999999"),
        (1000000, "1e+06"),
        (15552000, "1.5552e+07"),
        (-123456789.5, "-1.234567895e+08"),
        (0.1 + 0.2, "0.30000000000000004"),
        (1e100, "1e+100"),
        (float("inf"), "+Inf"),
        (float("-inf"), "-Inf"),
        (float("nan"), "NaN"),
    ],
)
def test_floats(value, text):
    """The fewest digits that round-trip; exponents have at least two digits."""
    assert formatting.format_float(value) == text
