"""Waiting for a server: what ends it, and what is said then."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys

import click.testing
import pytest

from certplane import errors, testing
from certplane.cli import wait
from certplane.golang import formatting

URL = "https://127.0.0.1:6443"


def answers(*sequence):
    """A server that gives one answer after the other, and then the last one for ever."""
    remaining = list(sequence)

    async def probe():
        answer = remaining.pop(0) if len(remaining) > 1 else remaining[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    return probe


async def waited(probe, is_running=lambda: True, seconds=60.0, lines=None):
    """The result, on a clock that advances until there is one. What is printed is appended to `lines`."""
    clock = testing.FakeClock()
    lines = [] if lines is None else lines
    waiting = asyncio.ensure_future(wait.Waiting(probe, is_running, clock, lines.append).until_ready(seconds))
    for _ in range(2000):
        await testing.settle(20)
        if waiting.done():
            return await waiting
        await clock.advance(0.1)
    raise AssertionError("the wait did not end")


async def test_a_server_that_is_ready():
    """Its address."""
    assert await waited(answers(URL)) == URL


async def test_a_server_that_becomes_ready():
    """Is asked again, whatever was wrong before."""
    assert await waited(answers(wait.NotReady("no file"), wait.NotReady("refused"), URL)) == URL


async def test_a_server_that_does_not_become_ready():
    """What was wrong last, after the time that was given."""
    with pytest.raises(errors.SetupError) as caught:
        await waited(answers(wait.NotReady("first"), wait.NotReady("it answers 500", "see its log")), seconds=5.0)
    assert caught.value.message == "the server is not ready after 5s: it answers 500"
    assert caught.value.hints == ("see its log",)


async def test_a_server_whose_process_has_ended():
    """At once, not after the time that was given."""
    with pytest.raises(errors.SetupError) as caught:
        await waited(answers(wait.NotReady("refused")), is_running=lambda: False, seconds=3600.0)
    assert caught.value.message == "the server's process ended before it was ready: refused"
    assert caught.value.hints == (wait._PROCESS_ENDED_HINT, wait._PORT_HINT)


async def test_a_process_that_ends_while_another_server_answers():
    """One that is ready in the same data directory is not the one that was started."""
    with pytest.raises(errors.SetupError) as caught:
        await waited(answers(URL), is_running=lambda: False, seconds=3600.0)
    why = f"the server's process ended before it was ready: another server answers at {URL}"
    assert caught.value.message == why


async def test_a_process_that_ends_while_another_one_does_not_answer():
    """Whoever has the port may keep silent: that hides nothing."""
    states = [True, True, False]

    async def silent():
        await asyncio.Event().wait()

    with pytest.raises(errors.SetupError, match="process ended"):
        await waited(silent, is_running=lambda: states.pop(0), seconds=3600.0)


async def test_a_server_that_does_not_answer():
    """Is not waited for longer than was said."""

    async def silent():
        await asyncio.Event().wait()

    with pytest.raises(errors.SetupError, match="not ready after 2s: it has not answered"):
        await waited(silent, seconds=2.0)


@pytest.mark.parametrize(("seconds", "times"), [(4.0, 0), (6.0, 1), (60.0, 1)])
async def test_a_long_wait_says_once_what_it_waits_for(seconds, times):
    """After five seconds."""
    lines = []
    with pytest.raises(errors.SetupError):
        await waited(answers(wait.NotReady("it answers 500")), seconds=seconds, lines=lines)
    text = f"waiting for the server (up to {formatting.human_duration(seconds)}): it answers 500"
    assert lines == [text] * times


@pytest.mark.parametrize("content", ["a: [", "- a", "{}"])
def test_a_kubeconfig_that_cannot_be_used(content, tmp_path):
    """Fails at once, with a hint about the kubeconfig."""
    path = tmp_path / "config"
    path.write_text(content)
    result = click.testing.CliRunner().invoke(wait.wait, ["--kubeconfig", str(path)])
    assert isinstance(result.exception, errors.SetupError)
    assert str(path) in result.exception.message
    assert wait._PORT_HINT not in result.exception.hints


def test_a_kubeconfig_that_does_not_exist(tmp_path):
    """It may be written yet, so it is waited for; the port is not the first suspect."""
    path = tmp_path / "config"
    result = click.testing.CliRunner().invoke(wait.wait, ["--kubeconfig", str(path), "--timeout", "0s"])
    assert f"the kubeconfig {path} does not exist yet" in result.exception.message
    assert wait._PORT_HINT not in result.exception.hints


@pytest.mark.parametrize(("text", "hint"), [("3", "write 3s for 3 seconds"), ("soon", "write it as 1h30m or 45s")])
def test_a_timeout_that_is_no_duration(text, hint):
    """The hint shows how to write it."""
    result = click.testing.CliRunner().invoke(wait.wait, ["--timeout", text])
    assert result.exception.message == f"not a duration: {text}"
    assert result.exception.hints == (hint,)


def test_whether_a_process_lives():
    """One that has ended does not, asked about by its parent or not."""
    assert wait.is_alive(os.getpid())
    with subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE) as ended:
        # Its output is at its end when the process is.
        ended.stdout.read()
        os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
        assert not wait.is_alive(ended.pid)
    assert not wait.is_alive(ended.pid)
