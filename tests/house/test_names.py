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
    r"candidates?": "what it is: a role, a name, a key",
    r"rooms?": "remaining, space",
    r"(with)?out a trace|a trace": "a record",
    r"tells": "says, returns, reports",
    r"rights": "permissions",
    r"(throw-away|throwaway) key": "lint key",
    r"longest-lifetime|most-names": "max-lifetime, max-names",
}
#: Files in which a word is the field's term: client-go calls a replica that may become the leader a candidate, and Go
#: the certificate that may be an issuer.
TERMS = {
    r"candidates?": (
        "leaderelection.py", "leases.py", "controllers.py", "pathvalidation.py", "attackers.md", "reference.md",
    ),
}  # fmt: skip


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_parameters_are_nouns(path):
    """No parameter has a vague name, including those of lambdas."""
    parameters = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.arg)]
    assert [f"{node.arg} in line {node.lineno}" for node in parameters if node.arg in VAGUE] == []


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_retired_words_are_gone(path):
    """Names of tests in attackers.md are not checked."""
    text = re.sub(r"`tests/[^`]*`|`test_[^`]*`", "", path.read_text("utf-8"))
    words = [word for word in RETIRED if path.name not in TERMS.get(word, ())]
    assert [word for word in words if re.search(rf"\b(?:{word})\b", text, re.IGNORECASE)] == []
