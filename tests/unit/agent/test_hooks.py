"""Commands, signals and touched files after a certificate was replaced."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import stat
import subprocess
import sys

import pytest

from certplane.agent import hooks
from certplane.agent.settings import Hook
from certplane.clock import SystemClock
from certplane.testing import FakeClock

SHELL = "/bin/sh"


def _shell(text, **changes):
    return Hook(command=(SHELL, "-c", text), **changes)


async def _run(hook, **variables):
    return await hooks.run(hook, variables, SystemClock())


# --- commands -----------------------------------------------------------------------------------------------------


async def test_a_command_has_the_variables(tmp_path, monkeypatch):
    """And the environment of the agent, except what would let it speak for the agent."""
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/notify")
    monkeypatch.setenv("TEAM", "web")
    text = f'echo "$CERTPLANE_NAME,$TEAM,$NOTIFY_SOCKET,$PWD" > {tmp_path}/out'
    assert "" == await _run(_shell(text), CERTPLANE_NAME="web")
    assert "web,web,,/\n" == (tmp_path / "out").read_text()


async def test_no_shell_interprets_the_arguments(tmp_path):
    """They are passed as they are."""
    assert "" == await _run(Hook(command=("/usr/bin/env", "touch", f"{tmp_path}/a $HOME;b")))
    assert ["a $HOME;b"] == os.listdir(tmp_path)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("exit 3", "failed with exit code 3"),
        ("echo one; echo two >&2; exit 1", "failed with exit code 1: one two"),
        ("kill -9 $$", "was ended by SIGKILL"),
        (r"printf '\033[31mred\000'; exit 1", "failed with exit code 1: ?[31mred?"),
        ("head -c 1000000 /dev/zero | tr '\\0' x; echo end; exit 1", "xxxend"),
    ],
)
async def test_a_failure_is_described(text, problem):
    """By the exit code and the end of the output, in one line, whatever is in it."""
    text = await _run(_shell(text))
    assert text.startswith(SHELL)
    assert text.endswith(problem)
    assert len(text) < 600


async def test_a_successful_command_may_print_anything():
    """And read nothing."""
    assert "" == await _run(_shell("cat; head -c 1000000 /dev/zero"))


async def test_a_process_that_is_left_behind_is_not_waited_for(tmp_path):
    """Although it keeps the output open."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    try:
        assert "" == await _run(_shell(f"cat {fifo} & echo started"))
    finally:
        os.close(os.open(fifo, os.O_WRONLY))


@pytest.mark.parametrize("is_stubborn", [False, True], ids=["obedient", "stubborn"])
async def test_a_command_that_hangs_is_ended(is_stubborn, tmp_path):
    """With its children: by SIGTERM, and after some seconds by SIGKILL."""
    clock = FakeClock()
    pids = tmp_path / "pids"
    trap = "trap '' TERM; " if is_stubborn else ""
    report = f"echo $$ $! > {pids}.new; mv {pids}.new {pids}"
    hook = _shell(f"{trap}echo waiting; sleep 600 & {report}; wait; sleep 600", timeout=30)
    running = asyncio.ensure_future(hooks.run(hook, {}, clock))
    await _until(pids.exists)
    # A handle on each process, because a number may be given away again.
    handles = [os.pidfd_open(int(pid)) for pid in pids.read_text().split()]
    assert not running.done()
    await clock.advance(30)
    if is_stubborn:
        await clock.advance(5)
    await _until(running.done)
    assert f"{SHELL} did not end within 30 s and was ended: waiting" == running.result()
    for handle in handles:
        await _until(lambda handle=handle: _has_ended(handle))
        os.close(handle)


async def test_a_cancelled_command_is_ended(tmp_path):
    """When the agent stops."""
    pids = tmp_path / "pid"
    running = asyncio.ensure_future(
        hooks.run(_shell(f"echo $$ > {pids}.new; mv {pids}.new {pids}; exec sleep 600"), {}, SystemClock())
    )
    await _until(pids.exists)
    handle = os.pidfd_open(int(pids.read_text()))
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    assert _has_ended(handle)
    os.close(handle)


def _has_ended(handle):
    try:
        signal.pidfd_send_signal(handle, 0)
    except ProcessLookupError:
        return True
    return False


async def _until(condition):
    """Wait for a condition that another process fulfils."""
    while not condition():  # noqa: ASYNC110 - no event of this process says so
        await asyncio.sleep(0)


@pytest.mark.parametrize("kind", ["missing", "directory", "not executable"])
async def test_an_unsuitable_command_is_a_problem(kind, tmp_path):
    """By `agent check` and when it is run."""
    path = tmp_path / "reload"
    if kind == "directory":
        path.mkdir()
    elif kind == "not executable":
        path.touch(0o644)
    hook = Hook(command=(str(path),))
    problem = f"{path}: No such file or directory" if kind == "missing" else f"{path} is not an executable file"
    assert [f"command: {problem}"] == hooks.find_problems(hook)
    assert problem == await _run(hook)


async def test_a_file_that_is_no_program_is_a_problem(tmp_path):
    """As the kernel says."""
    path = tmp_path / "reload"
    path.touch(0o755)
    assert f"{path} cannot be run: Exec format error" == await _run(Hook(command=(str(path),)))


@pytest.mark.parametrize("mode", [0o755, 0o775])
async def test_root_runs_no_command_of_another_user(mode, tmp_path, monkeypatch):
    """Nor one that others can change."""
    path = tmp_path / "reload"
    path.write_text(f"#!{SHELL}\ntouch {tmp_path}/ran\n")
    path.chmod(mode)
    if os.geteuid() == 0 and mode == 0o755:
        os.chown(path, 4242, -1)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    hook = Hook(command=(str(path),))
    assert 1 == len(hooks.find_problems(hook))
    assert await _run(hook)
    assert not (tmp_path / "ran").exists()


# --- signals ------------------------------------------------------------------------------------------------------


@pytest.fixture
def process(tmp_path):
    """A process that ends when it gets SIGHUP."""
    with subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"]) as process:
        yield process
        process.kill()


async def test_a_signal_reaches_the_process(process, tmp_path):
    """That the file names."""
    (tmp_path / "pid").write_text(f" {process.pid}\n")
    assert "" == await _run(Hook(signal="HUP", pid_file=tmp_path / "pid"))
    assert -signal.SIGHUP == process.wait(60)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "does not hold the id of a process"),
        ("-1", "does not hold the id of a process"),
        ("12 13", "does not hold the id of a process"),
        ("9" * 100, "does not hold the id of a process"),
        ("0", "holds the id 0, which cannot be the process to signal"),
        ("1", "holds the id 1, which cannot be the process to signal"),
        (str(os.getpid()), f"holds the id {os.getpid()}, which cannot be the process to signal"),
        ("999999999", "holds the id 999999999, but there is no such process"),
    ],
    # The processes that share the tests have to agree on their names.
    ids=["empty", "negative", "two", "long", "zero", "init", "own", "none"],
)
async def test_no_other_process_gets_a_signal(content, problem, tmp_path):
    """Neither all processes of a user, nor the agent or init."""
    path = tmp_path / "pid"
    path.write_text(content)
    assert f"{path} {problem}" == await _run(Hook(signal="HUP", pid_file=path))


async def test_a_missing_pid_file_is_a_problem(tmp_path):
    """The process may not have been started, so `agent check` only needs the directory."""
    hook = Hook(signal="HUP", pid_file=tmp_path / "pid")
    assert f"{tmp_path}/pid: No such file or directory" == await _run(hook)
    assert [] == hooks.find_problems(hook)
    hook = Hook(signal="HUP", pid_file=tmp_path / "a" / "pid")
    assert [f"pidFile: {tmp_path}/a is not a directory"] == hooks.find_problems(hook)


@pytest.mark.parametrize("kind", ["directory", "pipe"])
async def test_a_pid_file_that_is_none_does_not_block(kind, tmp_path):
    """Whatever is in its place."""
    path = tmp_path / "pid"
    path.mkdir() if kind == "directory" else os.mkfifo(path)
    assert str(path) in await _run(Hook(signal="HUP", pid_file=path))


async def test_a_pid_file_of_another_user_is_not_believed(process, tmp_path, monkeypatch):
    """Its owner could let root send signals to any process."""
    path = tmp_path / "pid"
    path.write_text(str(process.pid))
    path.chmod(0o666)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert "could have been written by another user" in await _run(Hook(signal="HUP", pid_file=path))
    path.chmod(0o644)
    if os.getuid() == 0:
        os.chown(path, 4242, -1)
        assert "could have been written by another user" in await _run(Hook(signal="HUP", pid_file=path))
    assert process.poll() is None


# --- touched files ------------------------------------------------------------------------------------------------


async def test_a_file_is_touched(tmp_path):
    """Its time changes, its content does not."""
    path = tmp_path / "renewed"
    path.write_text("text")
    os.utime(path, (0, 0))
    assert "" == await _run(Hook(touch=path))
    assert "text" == path.read_text()
    assert path.stat().st_mtime > 0


async def test_a_missing_file_is_created(tmp_path):
    """But no directory."""
    before = os.umask(0o022)
    try:
        assert "" == await _run(Hook(touch=tmp_path / "renewed"))
    finally:
        os.umask(before)
    assert 0o644 == stat.S_IMODE((tmp_path / "renewed").stat().st_mode)
    hook = Hook(touch=tmp_path / "a" / "renewed")
    assert f"{tmp_path}/a is not a directory" == await _run(hook)
    assert [f"touch: {tmp_path}/a is not a directory"] == hooks.find_problems(hook)


@pytest.mark.parametrize("kind", ["link", "directory", "pipe"])
async def test_nothing_else_is_touched(kind, tmp_path):
    """And no pipe is waited for."""
    path = tmp_path / "renewed"
    if kind == "link":
        path.symlink_to(tmp_path / "loot")
    else:
        path.mkdir() if kind == "directory" else os.mkfifo(path)
    assert str(path) in await _run(Hook(touch=path))
    assert not (tmp_path / "loot").exists()
