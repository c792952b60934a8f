"""What is done when a certificate was replaced: run a command, send a signal to a process, touch a file.

A hook that hangs is ended, its output is bounded, and its failure is a text. When the agent runs as root, no other user
must be able to choose what it runs, or which process gets a signal: so a command must belong to root, and a pid file to
root or to the user of the process that it names.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import re
import signal
import stat
from collections.abc import Iterator, Mapping
from typing import Final

from certplane import clock, files
from certplane.agent import filegroup
from certplane.agent.settings import Hook
from certplane.clock import Clock

#: After SIGTERM, until SIGKILL; and after SIGKILL, until a process is given up.
_GRACE_SECONDS: Final = 5.0
#: Bytes of output: the last ones are kept, and read at a time.
_MAX_OUTPUT: Final = 500
_CHUNK: Final = 65536
_MAX_PID_FILE: Final = 64
#: These would let a command speak for the agent to the service manager.
_PRIVATE_VARIABLES: Final = ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_PID", "LISTEN_FDS")
_ROOT: Final = 0


async def run(hook: Hook, variables: Mapping[str, str], timer: Clock) -> str:
    """Run a hook. `variables` are added to the environment of a command. Returns the problem, empty if there is none.
    A command that is cancelled is ended.
    """
    if hook.command:
        return await _run_command(hook, variables, timer)
    try:
        if hook.pid_file is not None:
            return _send_signal(hook.signal, hook.pid_file)
        if hook.touch is not None:
            return _touch(hook.touch)
    except OSError as error:
        return f"{hook.pid_file or hook.touch}: {files.error_text(error)}"
    return ""


def find_problems(hook: Hook) -> list[str]:
    """What would keep a hook from working; each problem begins with the name of a field of the configuration."""
    problems = []
    if hook.command:
        problems.append(("command", _command_problem(pathlib.Path(hook.command[0]))))
    if hook.pid_file is not None and not hook.pid_file.parent.is_dir():
        problems.append(("pidFile", f"{hook.pid_file.parent} is not a directory"))
    if hook.touch is not None:
        problems.append(("touch", _touch_problem(hook.touch)))
    return [f"{field}: {problem}" for field, problem in problems if problem]


# --- commands -----------------------------------------------------------------------------------------------------


def _command_problem(program: pathlib.Path) -> str:
    try:
        status = os.stat(program)
    except OSError as error:
        return f"{program}: {files.error_text(error)}"
    if not stat.S_ISREG(status.st_mode) or not os.access(program, os.X_OK):
        return f"{program} is not an executable file"
    if os.geteuid() != _ROOT:
        return ""
    if status.st_uid != _ROOT:
        return f"{program} belongs to user id {status.st_uid}, who could let root run anything"
    if status.st_mode & files.READ_ONLY:
        return f"other users can change {program} (mode {stat.S_IMODE(status.st_mode):04o}), which root would run"
    return ""


async def _run_command(hook: Hook, variables: Mapping[str, str], timer: Clock) -> str:
    program = hook.command[0]
    problem = _command_problem(pathlib.Path(program))
    if problem:
        return problem
    environment = {name: value for name, value in os.environ.items() if name not in _PRIVATE_VARIABLES}
    with _Output() as output:
        try:
            process = await asyncio.create_subprocess_exec(
                *hook.command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output.writer,
                stderr=output.writer,
                env={**environment, **variables},
                cwd="/",
                # A process group of its own, so that it can be ended with its children.
                start_new_session=True,
            )
        except OSError as error:
            return f"{program} cannot be run: {files.error_text(error)}"
        try:
            code = await clock.wait_for(timer, process.wait(), hook.timeout)
        except TimeoutError:
            return f"{program} did not end within {hook.timeout:g} s and was ended{output.text()}"
        finally:
            await _end(process, timer)
        return "" if code == 0 else f"{program} {_result(code)}{output.text()}"


def _result(code: int) -> str:
    if code >= 0:
        return f"failed with exit code {code}"
    with contextlib.suppress(ValueError):
        return f"was ended by {signal.Signals(-code).name}"
    return f"was ended by signal {-code}"


async def _end(process: asyncio.subprocess.Process, timer: Clock) -> None:
    """End a process with its group, if it is running."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        with contextlib.suppress(TimeoutError):
            await clock.wait_for(timer, process.wait(), _GRACE_SECONDS)


class _Output:
    """The end of what a process writes. It has a pipe of its own, because children that outlive the process may keep it
    open; so the end of the output is not waited for.
    """

    def __init__(self) -> None:
        self._reader, self.writer = os.pipe()
        os.set_blocking(self._reader, False)
        self._kept = b""

    def __enter__(self) -> _Output:
        asyncio.get_running_loop().add_reader(self._reader, self._read)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.get_running_loop().remove_reader(self._reader)
        os.close(self._reader)
        os.close(self.writer)

    def text(self) -> str:
        """The last words, in one line, after a colon; empty if there are none."""
        self._read()
        words = " ".join(self._kept.decode("utf-8", "replace").split())
        printable = "".join(char if char.isprintable() else "?" for char in words)
        return f": {printable}" if printable else ""

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._kept = (self._kept + os.read(self._reader, _CHUNK))[-_MAX_OUTPUT:]


# --- signals and files --------------------------------------------------------------------------------------------


def _send_signal(name: str, pid_file: pathlib.Path) -> str:
    """Raises OSError."""
    with _opened(pid_file, os.O_RDONLY) as handle:
        status = os.fstat(handle)
        content = os.read(handle, _MAX_PID_FILE)
    number = re.fullmatch(rb"\s*([0-9]{1,9})\s*", content)
    if not stat.S_ISREG(status.st_mode) or number is None:
        return f"{pid_file} does not hold the id of a process"
    pid = int(number[1])
    if pid <= 1 or pid == os.getpid():
        return f"{pid_file} holds the id {pid}, which cannot be the process to signal"
    try:
        # A handle, so that a process that ends now is not mistaken for another one that gets its id.
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return f"{pid_file} holds the id {pid}, but there is no such process"
    try:
        if os.geteuid() == _ROOT:
            owners = (_ROOT, _process_owner(pid))
            if status.st_uid not in owners or status.st_mode & files.READ_ONLY:
                return f"{pid_file} could have been written by another user than that of process {pid}"
        signal.pidfd_send_signal(process, signal.Signals[f"SIG{name}"])
    finally:
        os.close(process)
    return ""


def _process_owner(pid: int) -> int:
    """The user of a process, whatever it did to its permissions: -1 if it has ended. Raises OSError."""
    text = files.read_regular(pathlib.Path(f"/proc/{pid}/status"), _CHUNK)
    line = re.search(rb"^Uid:\s+(\d+)", text, re.MULTILINE)
    return int(line[1]) if line is not None else -1


def _touch_problem(path: pathlib.Path) -> str:
    if path.is_dir():
        return f"{path} is a directory"
    return filegroup.directory_problem(path.parent) if path.parent.is_dir() else f"{path.parent} is not a directory"


def _touch(path: pathlib.Path) -> str:
    """Raises OSError."""
    problem = _touch_problem(path)
    if problem:
        return problem
    with _opened(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW) as handle:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            return f"{path} is not a regular file"
        os.utime(handle)
    return ""


@contextlib.contextmanager
def _opened(path: pathlib.Path, flags: int) -> Iterator[int]:
    """A descriptor of a file, which may also be a pipe. Raises OSError."""
    handle = os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC, 0o644)
    try:
        yield handle
    finally:
        os.close(handle)
