"""Commands that texts name are there: in hints and warnings, in the documentation, in what is deployed."""

from __future__ import annotations

import ast
import pathlib
import re

import click
import pytest

from certplane.cli import main

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGES = [
    path
    for pattern in (
        "README.md",
        "docs/*.md",
        "deploy/**/*.yaml",
        "deploy/**/*.service",
        "deploy/**/*.txt",
        "deploy/*.md",
    )
    for path in ROOT.glob(pattern)
]
MODULES = [path for path in (ROOT / "src").rglob("*.py") if "_pb2" not in path.name]
#: What stands where a command would, and is none: in a sentence, the program does something.
NAMED = re.compile(r"(?:^|[\s`(/])certplane ((?:[a-z]+ ?){1,2})((?: ?--[^|;&`\n]*)?)", re.MULTILINE)


def flags_of(command):
    """Everything that a command takes, or one below it."""
    below = (
        [command.get_command(click.Context(command), each) for each in command.list_commands(None)]
        if isinstance(command, click.Group)
        else []
    )
    own = {flag for each in command.params for flag in each.opts}
    return own.union({"-h", "--help"}, *map(flags_of, below))


def mistakes(text):
    """Commands, and flags of commands, that there are not."""
    for match in NAMED.finditer(text):
        command = main.cli.get_command(click.Context(main.cli), match[1].split()[0])
        flags = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", match[2]))
        if command is None:
            # A sentence; one with flags behind it is a command that is misspelt.
            if flags:
                yield match[0].strip()
        elif flags - flags_of(command):
            yield f"{match[0].strip()}: {sorted(flags - flags_of(command))}"


def texts(path):
    """What a module says: its strings, with something in the place of what is filled in."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.JoinedStr):
            yield "".join(each.value if isinstance(each, ast.Constant) else "X" for each in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_pages_name_commands_that_there_are(path):
    """With flags that they have."""
    assert list(mistakes(path.read_text("utf-8"))) == []


def test_modules_name_commands_that_there_are():
    """In the hints above all: whoever reads one types it."""
    assert {path.name: found for path in MODULES if (found := [m for t in texts(path) for m in mistakes(t)])} == {}


def test_whoever_has_to_mend_something_is_told_how():
    """Each SetupError has a hint. Those of `proofs` are caught where they are raised, and are lines of the log."""
    without = [
        f"{path.name}:{node.lineno}"
        for path in MODULES
        if path.name != "proofs.py"
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in ("SetupError", "errors.SetupError")
        and len(node.args) < 2
        and not node.keywords
    ]
    assert without == []


@pytest.mark.parametrize(
    "text", ["certplane serve --no-such", "see `certplane waits --pid 1`", "certplane token create --ttl 1h --tl 2"]
)
def test_what_is_misspelt_is_found(text):
    """So that the tests above say something."""
    assert list(mistakes(text))
