"""The flags of the long-running commands, made from their settings."""

from __future__ import annotations

import click
import pytest
from click import testing

from certplane.cli import settings
from certplane.config.options import Option

OPTIONS = (
    Option("with-events", "Whether.", "flag", True),
    Option("hosts", "Which.", "names", ("a", "b")),
    Option("log-level", "Level.", "choice", "INFO", ("INFO", "ERROR")),
    Option("data-dir", "Where.", "path", None),
)


def run(*arguments):
    received = {}

    @click.command()
    @settings.with_flags(OPTIONS)
    def command(**flags):
        received.update(flags)

    return testing.CliRunner().invoke(command, arguments), received


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), {}),
        (("--with-events",), {"with_events": True}),
        (("--with-events=false", "--log-level", "ERROR"), {"with_events": False, "log_level": "ERROR"}),
        (("--hosts", "c,d", "--config", "file"), {"hosts": "c,d", "config_file": "file"}),
    ],
)
def test_flags_that_are_not_set_are_none(arguments, expected):
    """So that a configuration file can set them. Switches are set as in Go."""
    result, flags = run(*arguments)
    assert result.exit_code == 0
    assert {name: value for name, value in flags.items() if value is not None} == expected
    assert set(flags) == {"config_file", "with_events", "hosts", "log_level", "data_dir"}


@pytest.mark.parametrize("arguments", [("--with-events=maybe",), ("--log-level", "LOUD"), ("--unknown",)])
def test_invalid_flags_are_refused(arguments):
    """With the exit code of a usage error."""
    result, flags = run(*arguments)
    assert (result.exit_code, flags) == (2, {})


def test_the_help_has_the_flags_in_order_with_their_defaults():
    """--config is the first one."""
    result, _ = run("--help")
    positions = [result.output.index(f"--{name}") for name in ("config", *(option.name for option in OPTIONS))]
    assert positions == sorted(positions)
    assert [line.partition("[default: ")[2] for line in result.output.splitlines() if "[default" in line] == [
        "true]", "a,b]", "INFO]",
    ]  # fmt: skip
    assert "--data-dir DIR" in result.output
