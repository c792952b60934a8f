"""Names and texts use the terms of Kubernetes and PKI."""

from __future__ import annotations

import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
FILES = sorted(path for folder in ("src", "tests") for path in (ROOT / folder).rglob("*.py") if "_pb2" not in path.name)
TEXTS = [
    *(path for path in FILES if path.is_relative_to(ROOT / "src")),
    *ROOT.glob("docs/*.md"),
    *ROOT.glob("*.md"),
    *(path for path in (ROOT / "deploy").rglob("*") if path.is_file()),
]
#: Names of parameters that do not say what the parameter is; `request`, `csr` or `settings` would.
VAGUE = {"of", "each", "found", "made"}
#: Words that the project formerly used with its own meaning, and the standard terms.
RETIRED = {
    r"crews?": "controllers",
    r"doors?": "subresource",
    r"floors?": "layer",
    r"laws?": "rule",
    r"manners": "limits",
    r"strangers?": "anonymous client, untrusted input",
    r"verdicts?": "policy, decision",
    r"signs again": "signer recovered",
    r"controller rests": "controller disabled",
    r"cannot follow": "list/watch failed",
    r"turned over": "rotated",
    r"(must|has to) mend": "operator must fix",
    r"at the most": "at most, maximum",
}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_parameters_are_nouns(path):
    """No parameter has a vague name, including those of lambdas."""
    parameters = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.arg)]
    assert [f"{node.arg} in line {node.lineno}" for node in parameters if node.arg in VAGUE] == []


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_retired_words_are_gone(path):
    """Names of tests in attackers.md are not checked."""
    text = re.sub(r"`tests/[^`]*`|`test_[^`]*`", "", path.read_text("utf-8"))
    retired = [word for word in RETIRED if re.search(rf"\b(?:{word})\b", text, re.IGNORECASE)]
    assert retired == []
