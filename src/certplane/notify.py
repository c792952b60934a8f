"""Tells whoever started this process how far it is: in a file, and to a service manager.

The file is there while requests are answered, and only then: whoever waits for it need not know the address, which
stands in it. It is locked as long as its process lives, so that a process that comes later knows what a killed one left
behind from what a living one still says. The service manager is told in the words of sd_notify(3), if the environment
names its socket.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import pathlib
import socket
from collections.abc import Iterator, Mapping
from typing import Final

from certplane import files
from certplane.errors import SetupError

_log = logging.getLogger("certplane")

_HINT: Final = "--ready-file names another file"


class Progress:
    """How far a process is. `ready` may be called once, `stopping` at any time."""

    def __init__(self, ready_file: pathlib.Path | None, notify_socket: str = "") -> None:
        """Remove what a killed process left. Raises SetupError if that is not to be done, or another one lives."""
        self._path = ready_file
        self._socket = notify_socket
        self._held: int | None = None
        if ready_file is not None:
            with files.told(f"the ready file {ready_file} cannot be used", _HINT):
                if not ready_file.parent.is_dir():
                    raise SetupError(f"the directory of the ready file {ready_file} does not exist", (_HINT,))
                _remove_left(ready_file)

    def ready(self, url: str) -> None:
        """Requests are answered from now on. Raises SetupError if the file cannot be written."""
        if self._path is not None:
            self._held = _write_locked(self._path, f"{url}\n".encode())
        self._tell(f"READY=1\nSTATUS=serving {url}")

    def stopping(self) -> None:
        """No more requests are taken."""
        if self._held is not None and self._path is not None:
            # Still under the lock: the file is ours, unless somebody has put another one there.
            with contextlib.suppress(OSError):
                if os.path.samestat(os.fstat(self._held), os.lstat(self._path)):
                    self._path.unlink()
            os.close(self._held)
            self._held = None
        self._tell("STOPPING=1")
        self._socket = ""

    def _tell(self, state: str) -> None:
        if not self._socket:
            return
        # A name that begins with @ is in the abstract namespace, where it begins with a zero byte.
        address = "\0" + self._socket[1:] if self._socket.startswith("@") else self._socket
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.sendto(state.encode(), address)
        except OSError as error:
            _log.warning("the service manager cannot be notified", extra={"problem": error.strerror, "state": state})


@contextlib.contextmanager
def progress(ready_file: pathlib.Path | None, environment: Mapping[str, str] = os.environ) -> Iterator[Progress]:
    """The progress of this process, which is stopping when the block is left. Raises SetupError."""
    made = Progress(ready_file, environment.get("NOTIFY_SOCKET", ""))
    try:
        yield made
    finally:
        made.stopping()


def _remove_left(path: pathlib.Path) -> None:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    except OSError as error:
        raise SetupError(f"the ready file {path} cannot be replaced: {error.strerror}", (_HINT,)) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
    except BlockingIOError as error:
        raise SetupError(f"another process says in {path} that it is ready", ("stop it first", _HINT)) from error
    except OSError as error:
        raise SetupError(f"the ready file {path} cannot be replaced: {error.strerror}", (_HINT,)) from error
    finally:
        os.close(handle)


def _write_locked(path: pathlib.Path, content: bytes) -> int:
    """Have a file appear whole, and locked; the descriptor that holds the lock."""
    new = path.with_name(f".{path.name}.new")
    try:
        with contextlib.suppress(FileNotFoundError):
            new.unlink()
        handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            # Others may read it: there is nothing secret in it, and health checks run as whom they like.
            os.fchmod(handle, 0o644)
            os.write(handle, content)
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            new.rename(path)
        except OSError:
            os.close(handle)
            raise
        return handle
    except OSError as error:
        raise SetupError(f"the ready file {path} cannot be written: {error.strerror}", (_HINT,)) from error
