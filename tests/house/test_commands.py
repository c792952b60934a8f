"""Commands and flags in hints, warnings, documentation and deploy/ exist."""

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
#: A command, or a sentence with the name of the program and a verb.
NAMED = re.compile(r"(?:^|[\s`(/])certplane ((?:[a-z]+ ?){1,2})((?: ?--[^|;&`\n]*)?)", re.MULTILINE)


def flags_of(command):
    """All flags of a command and its subcommands."""
    below = (
        [command.get_command(click.Context(command), name) for name in command.list_commands(None)]
        if isinstance(command, click.Group)
        else []
    )
    flags = {flag for parameter in command.params for flag in parameter.opts}
    return flags.union({"-h", "--help"}, *map(flags_of, below))


def mistakes(text):
    """Commands and flags that do not exist."""
    for match in NAMED.finditer(text):
        command = main.cli.get_command(click.Context(main.cli), match[1].split()[0])
        flags = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", match[2]))
        if command is None:
            # A sentence; with flags it is a misspelt command.
            if flags:
                yield match[0].strip()
        elif flags - flags_of(command):
            yield f"{match[0].strip()}: {sorted(flags - flags_of(command))}"


def texts(path):
    """The strings of a module, with X for interpolated values."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.JoinedStr):
            yield "".join(value.value if isinstance(value, ast.Constant) else "X" for value in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_commands_in_pages_exist(path):
    """Each command in a page exists, and has the flags that are used there."""
    assert list(mistakes(path.read_text("utf-8"))) == []


def test_commands_in_source_strings_exist():
    """Users type the commands in hints."""
    assert {path.name: wrong for path in MODULES if (wrong := [m for t in texts(path) for m in mistakes(t)])} == {}


def test_every_setup_error_has_a_hint():
    """Except those of `evidence`, which are caught and logged."""
    without = [
        f"{path.name}:{node.lineno}"
        for path in MODULES
        if path.name != "evidence.py"
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
def test_misspelt_commands_are_detected(text):
    """The tests above depend on this detection."""
    assert list(mistakes(text))
