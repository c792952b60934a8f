"""docs/issuing.md agrees with the code."""

from __future__ import annotations

import pathlib
import re

from certplane.x509.lint import linter

PAGE = pathlib.Path(__file__).resolve().parents[3] / "docs" / "issuing.md"


def test_the_documented_rules_are_those_of_the_linter():
    """With their severities and sources, in the same order."""
    table = PAGE.read_text("utf-8").partition("| rule |")[2].partition("\n\n")[0]
    documented = re.findall(r"^\| ([a-z-]+) \| (\w+) \| ([^|]+) \|", table, flags=re.MULTILINE)
    assert documented == [(rule.id, rule.severity.value, rule.citation) for rule in linter.RULES]
