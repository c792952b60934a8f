"""`--kubeconfig` and `--context` may be written before or after a subcommand."""

from __future__ import annotations

import sys

import click
import click.testing
import pytest

from certplane import __main__
from certplane.cli import connection, options


@click.group(cls=options.Group)
def program():
    """A program."""


@program.group(cls=options.Group)
def inner():
    """A group."""


@inner.command()
@click.option("--flag")
@connection.with_connection
def leaf(server, flag):
    """Prints its arguments."""
    click.echo(f"{server.kubeconfig}|{server.context}|{flag}")


@program.command()
def alone():
    """Uses no server."""


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("inner leaf", "||None"),
        ("--kubeconfig f --context c inner leaf --flag x", "f|c|x"),
        ("inner --kubeconfig f leaf --context=c", "f|c|None"),
        ("inner leaf --kubeconfig=f --context c", "f|c|None"),
        ("--kubeconfig a inner --kubeconfig b leaf --kubeconfig c", "c||None"),
        ("--kubeconfig a inner --kubeconfig b leaf", "b||None"),
        ("--context a inner leaf --context b --context c", "|c|None"),
    ],
)
def test_the_options_may_stand_anywhere_and_the_last_one_counts(line, expected):
    """As for kubectl."""
    result = click.testing.CliRunner().invoke(program, line.split())
    assert (expected + "\n", 0) == (result.output, result.exit_code)


def test_a_command_without_a_server_refuses_the_options():
    """An option without an effect would mislead."""
    result = click.testing.CliRunner().invoke(program, ["--context", "c", "alone"])
    assert result.exit_code == 2
    assert "program alone has no option --context" in result.output


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--kubeconfig", "serve", "controllers"], "controllers"),
        (["--context=x", "--kubeconfig=y", "serve"], "serve"),
        (["--help"], ""),
        (["--kubeconfig"], ""),
        ([], ""),
    ],
)
def test_the_entry_point_finds_the_command_behind_the_options(arguments, expected):
    """It installs signal handlers for some commands before it imports anything."""
    assert expected == " ".join(__main__._words(arguments))


def test_the_entry_point_knows_the_options():
    """It cannot import them."""
    assert {*__main__._OPTIONS} == {options.KUBECONFIG, options.CONTEXT}
    assert "certplane.cli.options" in sys.modules
