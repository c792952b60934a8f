"""The decisions after a new certificate, as playbooks: which command follows which event."""

from __future__ import annotations

import math

import pytest

from certplane.agent.installation import (
    Changed,
    Done,
    Failed,
    Installation,
    MarkDone,
    Probe,
    RunHook,
    Wait,
    Woken,
    WriteOutputs,
)


def start(hooks=0, *, has_probe=False, has_certificate=True):
    """An installation, its steps, and the first command."""
    installation = Installation(hooks, lambda: 0.5, has_probe=has_probe, has_certificate=has_certificate)
    steps = installation.steps()
    return installation, steps, next(steps)


def play(steps, *answers):
    """The command after each answer."""
    return [steps.send(answer) for answer in answers]


def test_before_the_first_certificate():
    """Nothing is done."""
    _, steps, command = start(has_certificate=False)
    assert command == Wait(math.inf)
    assert play(steps, Changed()) == [WriteOutputs()]


def test_the_order():
    """Files, hooks, the mark that the hooks were run, and the endpoint; then every hour the endpoint."""
    installation, steps, command = start(2, has_probe=True)
    assert command == WriteOutputs()
    assert play(steps, Done(hooks_due=True), Done(), Done(), Done(), Woken(), Done(), Woken()) == [
        RunHook(0), RunHook(1), MarkDone(), Wait(5), Probe(), Wait(3600), Probe(),
    ]  # fmt: skip
    assert installation.status.is_served is True


def test_a_restart():
    """Hooks that were run are not run again; the files are compared, and the endpoint is looked at."""
    _, steps, _ = start(2, has_probe=True)
    assert play(steps, Done()) == [Probe()]


def test_without_a_probe():
    """There is nothing to do until the next certificate."""
    _, steps, _ = start()
    assert play(steps, Done(), Changed()) == [Wait(math.inf), WriteOutputs()]


def test_files_that_cannot_be_written():
    """They are tried again after pauses of up to an hour; the hooks wait."""
    installation, steps, command = start(1)
    pauses = []
    for _ in range(14):
        wait = steps.send(Failed("disk full"))
        pauses.append(wait.seconds)
        command = steps.send(Woken())
        assert command == WriteOutputs()
        assert installation.status.outputs == "disk full"
    assert pauses[:4] == [2, 4, 8, 16]
    assert pauses[-1] == 3600
    assert play(steps, Done(hooks_due=True)) == [RunHook(0)]
    assert installation.status.outputs == ""


def test_a_hook_that_fails():
    """It is run again, and then those after it; those before it are not."""
    installation, steps, _ = start(3)
    assert play(steps, Done(hooks_due=True), Done(), Failed("exit code 1")) == [RunHook(0), RunHook(1), Wait(2)]
    assert installation.status.hooks == "exit code 1"
    assert play(steps, Woken(), Done(), Done(), Done()) == [RunHook(1), RunHook(2), MarkDone(), Wait(5)]
    assert installation.status.hooks == ""


@pytest.mark.parametrize("hooks", [0, 1])
def test_a_new_certificate_in_between(hooks):
    """It is installed from the beginning: whatever failed for the former one does not matter."""
    _, steps, _ = start(hooks)
    play(steps, Done(hooks_due=True), Failed("no"))
    assert play(steps, Changed()) == [WriteOutputs()]


def test_an_endpoint_that_serves_something_else():
    """It is looked at again, until it serves the certificate."""
    installation, steps, _ = start(has_probe=True)
    assert play(steps, Done(), Failed("serves 1"), Woken(), Failed("serves 1"), Woken()) == [
        Probe(), Wait(2), Probe(), Wait(4), Probe(),
    ]  # fmt: skip
    assert (installation.status.is_served, installation.status.probe) == (False, "serves 1")
    assert play(steps, Done()) == [Wait(3600)]
    assert (installation.status.is_served, installation.status.probe) == (True, "")
