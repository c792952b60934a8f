"""The systemd unit starts an existing command with existing settings."""

from __future__ import annotations

import configparser
import shlex

from certplane.cli import main
from certplane.config import servesettings
from tests.house import manifests


def _unit():
    # Keys may be repeated, and are case-sensitive.
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str
    unit.read_string((manifests.DEPLOY / "systemd" / "certplane.service").read_text("utf-8"))
    return unit["Service"]


def test_the_unit_starts_a_command_with_its_settings():
    """The command and its flags exist, and systemd waits for its notification."""
    service = _unit()
    _, command, *arguments = shlex.split(service["ExecStart"])
    assert command in main._COMMANDS
    assert {argument.removeprefix("--") for argument in arguments[::2]} <= {
        option.name for option in servesettings.OPTIONS
    }
    assert service["Type"] == "notify"


def test_invalid_settings_cause_no_restart():
    """Exit code 2 means that an operator must fix something."""
    assert _unit()["RestartPreventExitStatus"] == "2"
