"""Behaviour that all commands share."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest

from certplane.cli import exitcodes, main
from certplane.x509 import keys


@pytest.mark.parametrize(
    "arguments",
    [["token", "create"], ["token", "delete"], ["token", "create", "--groups"], [], ["serve", "--tls-san"]],
)
def test_a_private_key_among_the_arguments_is_not_repeated(arguments, monkeypatch, capsys):
    """It begins with dashes, and the error for an unknown option would quote it."""
    key = keys.to_pem(keys.generate("ECDSA-P256")).decode()
    monkeypatch.setattr(sys, "argv", ["certplane", *arguments, key])
    with pytest.raises(SystemExit) as ended:
        main.main()
    output = capsys.readouterr()
    assert ended.value.code == 2
    assert output.err.startswith("error: an argument is or contains a private key")
    assert "hint: the key is compromised: create a new one" in output.err
    assert "PRIVATE" not in output.err + output.out
    assert key.splitlines()[1][:20] not in output.err + output.out


def test_a_failure_ends_with_its_own_exit_code(monkeypatch, capsys):
    """With error and hints like every other error."""

    def fail(*arguments, **settings):
        raise exitcodes.Failure(exitcodes.REFUSED, "denied", ("ask why",))

    monkeypatch.setattr(main.cli, "main", fail)
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert (ended.value.code, capsys.readouterr().err) == (5, "error: denied\nhint: ask why\n")


def test_the_listed_help_texts_are_those_of_the_commands():
    """The help of certplane imports no command, so the texts are repeated in a table."""
    commands = {name: main.cli.get_command(click.Context(main.cli), name) for name in main._COMMANDS}
    assert {name: command.get_short_help_str(200) for name, command in commands.items()} == main._COMMANDS


#: What takes long to import.
HEAVY = {"aiohttp", "asyncio", "cryptography", "google", "prometheus_client", "ssl", "uvloop", "yaml"}


def imported_by(arguments):
    """The top-level packages, and certplane's own, that a command imports."""
    code = (
        "import sys\nfrom certplane.cli import main\ntry:\n    main.main()\nfinally:\n"
        "    print(*(name if name.startswith('certplane.') else name.partition('.')[0] for name in sys.modules))"
    )
    command = [sys.executable, "-c", code, *arguments]
    finished = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return set(finished.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["version"]])
def test_help_and_version_import_little(arguments):
    """Shells run them to complete words and to show prompts."""
    imported = imported_by(arguments)
    assert "certplane.cli.main" in imported
    assert imported & HEAVY == set()
    packages = {name.split(".")[1] for name in imported if name.startswith("certplane.")}
    assert packages <= {"boundedcache", "cli", "errors", "golang", "x509"}


@pytest.mark.parametrize("arguments", [["token", "--help"], ["wait", "--help"]])
def test_short_commands_need_no_http_library(arguments):
    """Its import takes longer than their request."""
    assert imported_by(arguments) & {"aiohttp", "uvloop", "prometheus_client"} == set()
