"""Waiting for a server: what ends it, and what is said then."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys

import pytest

from certplane import errors, testing
from certplane.cli import wait

URL = "https://127.0.0.1:6443"


def answers(*what):
    """A server that gives one answer after the other; the last one again and again."""
    left = list(what)

    async def probe():
        answer = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    return probe


async def waited(probe, lives=lambda: True, seconds=60.0):
    """The outcome, on a clock that goes on as long as it is waited for."""
    clock = testing.FakeClock()
    waiting = asyncio.ensure_future(wait.until_ready(probe, lives, clock, seconds))
    for _ in range(2000):
        await testing.settle(20)
        if waiting.done():
            return await waiting
        await clock.advance(0.1)
    raise AssertionError("it never ended")


async def test_a_server_that_is_ready():
    """Its address."""
    assert await waited(answers(URL)) == URL


async def test_a_server_that_becomes_ready():
    """Is asked again, whatever was wrong before."""
    assert await waited(answers(wait.NotReady("no file"), wait.NotReady("refused"), URL)) == URL


async def test_a_server_that_does_not_become_ready():
    """What was wrong last, after the time that was given."""
    with pytest.raises(errors.SetupError) as caught:
        await waited(answers(wait.NotReady("first"), wait.NotReady("it answers 500")), seconds=5.0)
    assert caught.value.message == "the server is not ready after 5s: it answers 500"
    assert caught.value.hints


async def test_a_server_whose_process_has_ended():
    """At once, not after the time that was given."""
    with pytest.raises(errors.SetupError) as caught:
        await waited(answers(wait.NotReady("refused")), lives=lambda: False, seconds=3600.0)
    assert caught.value.message == "the server's process ended before it was ready: refused"
    assert caught.value.hints == (wait._ENDED, wait._PORT)


async def test_a_process_that_ends_while_another_server_answers():
    """One that is ready in the same data directory is not the one that was started."""
    with pytest.raises(errors.SetupError) as caught:
        await waited(answers(URL), lives=lambda: False, seconds=3600.0)
    why = f"the server's process ended before it was ready: another server answers at {URL}"
    assert caught.value.message == why


async def test_a_process_that_ends_while_another_one_does_not_answer():
    """Whoever has the port may keep silent: that hides nothing."""
    lives = [True, True, False]

    async def silent():
        await asyncio.Event().wait()

    with pytest.raises(errors.SetupError, match="process ended"):
        await waited(silent, lives=lambda: lives.pop(0), seconds=3600.0)


async def test_a_server_that_does_not_answer():
    """Is not waited for longer than was said."""

    async def silent():
        await asyncio.Event().wait()

    with pytest.raises(errors.SetupError, match="not ready after 2s: it has not answered"):
        await waited(silent, seconds=2.0)


def test_whether_a_process_lives():
    """One that has ended does not, asked about by its parent or not."""
    assert wait.is_alive(os.getpid())
    with subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE) as ended:
        # Its output is at its end when the process is.
        ended.stdout.read()
        os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
        assert not wait.is_alive(ended.pid)
    assert not wait.is_alive(ended.pid)
