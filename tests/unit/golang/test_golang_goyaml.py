"""The limits of YAML documents."""

from __future__ import annotations

import pytest

from certplane.golang import goyaml


@pytest.mark.parametrize("text", ["[" + "1," * 100_001 + "]", "a: 1\n" * 50_001, "[" + "*a," * 100_001 + "]"])
def test_documents_with_very_many_values_are_refused(text):
    """A value takes a hundred times as long as in JSON."""
    with pytest.raises(goyaml.YAMLError, match=r"more than 100000 values|excessive aliasing"):
        goyaml.parse(text.encode())


def test_a_long_text_is_one_value():
    """Its content is not counted, even if it looks like structure."""
    lines = "  - a: [b, *c, {d: e}]\n" * 50_000
    assert len(dict(goyaml.parse(f"a: |\n{lines}".encode()))["a"]) == 50_000 * 21
