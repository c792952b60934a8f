"""`certplane wait`: what ends it, and its messages."""

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


def probe_with(*sequence):
    """A probe that returns or raises one result after the other, and repeats the last one."""
    remaining = list(sequence)

    async def probe():
        answer = remaining.pop(0) if len(remaining) > 1 else remaining[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    return probe


async def unanswered():
    """A probe that gets no answer."""
    await asyncio.Event().wait()


async def waited(probe, is_running=lambda: True, seconds=60.0, lines=None):
    """The result of a wait, on a clock that advances until the wait ends. Messages are appended to `lines`."""
    clock = testing.FakeClock()
    lines = [] if lines is None else lines
    waiting = asyncio.ensure_future(wait.Waiting(probe, is_running, clock, lines.append).until_ready(seconds))
    for _ in range(2000):
        await testing.settle(20)
        if waiting.done():
            return await waiting
        await clock.advance(0.1)
    raise AssertionError("the wait did not end")


@pytest.mark.parametrize("problems", [[], [wait.NotReady("no file"), wait.NotReady("refused")]])
async def test_the_server_is_probed_until_it_is_ready(problems):
    """The result is its URL."""
    assert await waited(probe_with(*problems, URL)) == URL


async def test_the_timeout_error_has_the_last_problem():
    """With the hints of that problem."""
    with pytest.raises(errors.SetupError) as caught:
        await waited(probe_with(wait.NotReady("first"), wait.NotReady("it answers 500", "see its log")), seconds=5.0)
    assert caught.value.message == "the server is not ready after 5s: it answers 500"
    assert caught.value.hints == ("see its log",)


async def test_the_end_of_the_process_ends_the_wait():
    """The timeout is not awaited."""
    with pytest.raises(errors.SetupError) as caught:
        await waited(probe_with(wait.NotReady("refused")), is_running=lambda: False, seconds=3600.0)
    assert caught.value.message == "the server's process ended before it was ready: refused"
    assert caught.value.hints == (wait._PROCESS_ENDED_HINT, wait._PORT_HINT)


async def test_the_answer_of_another_server_does_not_count():
    """A server that is ready in the same data directory is not the one that was started."""
    with pytest.raises(errors.SetupError) as caught:
        await waited(probe_with(URL), is_running=lambda: False, seconds=3600.0)
    problem = f"another server answers at {URL}"
    assert caught.value.message == f"the server's process ended before it was ready: {problem}"


async def test_the_end_of_the_process_is_noticed_during_a_probe():
    """Another process on the port may never answer."""
    states = [True, True, False]
    with pytest.raises(errors.SetupError, match="process ended"):
        await waited(unanswered, is_running=lambda: states.pop(0), seconds=3600.0)


async def test_the_timeout_ends_a_pending_probe():
    """The error says that there was no answer."""

    with pytest.raises(errors.SetupError, match="not ready after 2s: no response yet"):
        await waited(unanswered, seconds=2.0)


@pytest.mark.parametrize(("seconds", "times"), [(4.0, 0), (6.0, 1), (60.0, 1)])
async def test_a_long_wait_prints_one_message(seconds, times):
    """After five seconds, with the last problem."""
    lines = []
    with pytest.raises(errors.SetupError):
        await waited(probe_with(wait.NotReady("it answers 500")), seconds=seconds, lines=lines)
    text = f"waiting for the server (up to {formatting.human_duration(seconds)}): it answers 500"
    assert lines == [text] * times


@pytest.mark.parametrize("content", ["a: [", "- a", "{}"])
def test_an_invalid_kubeconfig_ends_the_wait(content, tmp_path):
    """At once, and without a hint about the port."""
    path = tmp_path / "config"
    path.write_text(content)
    result = click.testing.CliRunner().invoke(wait.wait, ["--kubeconfig", str(path)])
    assert isinstance(result.exception, errors.SetupError)
    assert str(path) in result.exception.message
    assert wait._PORT_HINT not in result.exception.hints


def test_a_missing_kubeconfig_is_awaited(tmp_path):
    """The server may still write it. There is no hint about the port."""
    path = tmp_path / "config"
    result = click.testing.CliRunner().invoke(wait.wait, ["--kubeconfig", str(path), "--timeout", "0s"])
    assert f"the kubeconfig {path} does not exist yet" in result.exception.message
    assert wait._PORT_HINT not in result.exception.hints


@pytest.mark.parametrize(("text", "hint"), [("3", "write 3s for 3 seconds"), ("soon", "write it as 1h30m or 45s")])
def test_an_invalid_timeout_is_refused(text, hint):
    """The hint shows the syntax."""
    result = click.testing.CliRunner().invoke(wait.wait, ["--timeout", text])
    assert result.exception.message == f"not a duration: {text}"
    assert result.exception.hints == (hint,)


def test_an_ended_process_is_not_alive():
    """Whether its parent has waited for it or not."""
    assert wait.is_alive(os.getpid())
    with subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE) as ended:
        # Its output ends with the process.
        ended.stdout.read()
        os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
        assert not wait.is_alive(ended.pid)
    assert not wait.is_alive(ended.pid)
