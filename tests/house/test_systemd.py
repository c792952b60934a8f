"""The unit for systemd starts what there is, with settings that there are."""

from __future__ import annotations

import configparser
import shlex

from certplane.cli import main
from certplane.config import serve
from tests.house import manifests


def _unit():
    # Keys may come again, and their case counts.
    found = configparser.RawConfigParser(strict=False)
    found.optionxform = str
    found.read_string((manifests.DEPLOY / "systemd" / "certplane.service").read_text("utf-8"))
    return found["Service"]


def test_the_unit_starts_a_command_with_its_settings():
    """And is told by it when requests are answered."""
    service = _unit()
    _, command, *arguments = shlex.split(service["ExecStart"])
    assert command in main._COMMANDS
    assert {each.removeprefix("--") for each in arguments[::2]} <= {option.name for option in serve.OPTIONS}
    assert service["Type"] == "notify"


def test_a_mistake_in_the_settings_is_not_tried_again_and_again():
    """Exit code 2 waits for a person."""
    assert _unit()["RestartPreventExitStatus"] == "2"
