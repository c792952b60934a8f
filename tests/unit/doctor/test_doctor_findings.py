"""Findings, their documentation and their limits."""

from __future__ import annotations

import ast
import pathlib
import re

import pytest

from certplane.doctor import findings
from certplane.doctor.findings import CHECKS, Finding, Severity

ROOT = pathlib.Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "doctor.md").read_text("utf-8")


@pytest.mark.parametrize("id_", CHECKS)
def test_each_id_has_a_section_in_the_documentation(id_):
    """The output links to it; the section has the reason of the output, and says how to correct it."""
    heading = re.search(rf"^### {re.escape(id_)}$\n(.*?)(?=^##|\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert heading is not None
    section = " ".join(heading[1].split())
    assert CHECKS[id_] in section
    assert "Fix:" in section


def test_the_documentation_has_no_other_sections():
    """An id that is gone from the program is gone from the page."""
    assert re.findall(r"^### (\S+)$", PAGE, re.MULTILINE) == list(CHECKS)


def test_each_id_is_used():
    """In the checks, as a literal."""
    literals = {
        node.value
        for path in (ROOT / "src" / "certplane" / "doctor").glob("*.py")
        if path.name != "findings.py"
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert set(CHECKS) - literals == set()


def test_many_alike_are_counted():
    """A thousand files with wrong modes do not hide the one that matters, which comes first."""
    many = [Finding("file-mode", Severity.WARNING, f"file {number}") for number in range(1000)]
    limited = findings.limited([*many, Finding("ca-key", Severity.ERROR, "no key")])
    assert limited[0].id == "ca-key"
    assert len(limited) == 52
    assert limited[-1].what == "950 more findings of this kind"


def test_the_worst_counts():
    """An empty list is fine."""
    assert findings.worst([]) is Severity.OK
    assert findings.worst([Finding("settings", Severity.INFO, ""), Finding("settings", Severity.WARNING, "")]) == 2


def test_an_ok_finding_is_added_unless_something_is_wrong():
    """Notes do not make a check fail."""
    note = Finding("settings", Severity.INFO, "note")
    wrong = Finding("settings", Severity.WARNING, "wrong")
    assert [item.severity for item in findings.with_ok("settings", [note], "fine")] == [Severity.OK, Severity.INFO]
    assert findings.with_ok("settings", [note, wrong], "fine") == [note, wrong]
