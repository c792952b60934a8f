"""Every attack in docs/attackers.md has a test."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[2]
SECTION = (ROOT / "docs" / "attackers.md").read_text("utf-8").partition("## Connections")[2].partition("\n## ")[0]
#: The last cell of a row: one test or several, as pytest names them.
TESTS = re.findall(r"`(tests/[a-z0-9_/]+\.py)::(test_\w+)`", SECTION)
ROWS = [line for line in SECTION.splitlines() if line.startswith("| ") and not line.startswith("| attack ")]


@pytest.mark.parametrize(("path", "name"), TESTS)
def test_the_test_of_an_attack_exists(path, name):
    """The named test is defined in the named file."""
    definition = re.search(rf"^\s*(?:async )?def {name}\(", (ROOT / path).read_text("utf-8"), re.MULTILINE)

    assert definition is not None, f"{path} has no {name}"


def test_every_attack_has_a_test():
    """Each row ends with at least one test."""
    without = [row for row in ROWS if not re.search(r"`tests/[a-z0-9_/]+\.py::test_\w+`[^|]*\|$", row)]

    assert [] == without
