"""The pages say what the code does."""

from __future__ import annotations

import pathlib
import re

from certplane.x509.lint import linter

PAGE = pathlib.Path(__file__).resolve().parents[3] / "docs" / "issuing.md"


def test_the_rules_are_told_as_they_are():
    """Each with its severity and its source, in the order of the code."""
    table = PAGE.read_text("utf-8").partition("| rule |")[2].partition("\n\n")[0]
    told = re.findall(r"^\| ([a-z-]+) \| (\w+) \| ([^|]+) \|", table, flags=re.MULTILINE)
    assert told == [(each.id, each.severity.value, each.citation) for each in linter.RULES]
