"""Reports readiness to the parent of this process: in a ready file, and to a service manager.

The ready file exists while the server serves requests, and only then; it contains the server's URL. It is locked as
long as its process lives, so that a later process can tell a stale file of a killed process from the file of a running
one. The service manager is notified by the sd_notify(3) protocol, if NOTIFY_SOCKET is set in the environment.
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

_HINT: Final = "set --ready-file to another path"


class Notifier:
    """Reports the state of the process. `ready` may be called once, `stopping` at any time."""

    def __init__(self, ready_file: pathlib.Path | None, notify_socket: str = "") -> None:
        """Remove a stale ready file. Raises SetupError if it cannot be removed, or a running process owns it."""
        self._path = ready_file
        self._socket = notify_socket
        self._handle: int | None = None
        if ready_file is not None:
            with files.as_setup_error(f"the ready file {ready_file} cannot be used", _HINT):
                if not ready_file.parent.is_dir():
                    raise SetupError(f"the directory of the ready file {ready_file} does not exist", (_HINT,))
                _remove_stale(ready_file)

    def ready(self, url: str) -> None:
        """The server serves requests from now on. Raises SetupError if the file cannot be written."""
        if self._path is not None:
            self._handle = _write_locked(self._path, f"{url}\n".encode())
        self._notify(f"READY=1\nSTATUS=serving {url}")

    def stopping(self) -> None:
        """The server accepts no more requests."""
        if self._handle is not None and self._path is not None:
            # The lock is still held, so the file is ours, unless it has been replaced.
            with contextlib.suppress(OSError):
                if os.path.samestat(os.fstat(self._handle), os.lstat(self._path)):
                    self._path.unlink()
            os.close(self._handle)
            self._handle = None
        self._notify("STOPPING=1")
        self._socket = ""

    def _notify(self, state: str) -> None:
        if not self._socket:
            return
        # A leading @ means the abstract namespace, where the name begins with a zero byte instead.
        address = "\0" + self._socket[1:] if self._socket.startswith("@") else self._socket
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.sendto(state.encode(), address)
        except OSError as error:
            _log.warning("failed to notify the service manager", extra={"error": error.strerror, "state": state})


@contextlib.contextmanager
def notifier(ready_file: pathlib.Path | None, environment: Mapping[str, str] = os.environ) -> Iterator[Notifier]:
    """The notifier of this process; it reports `stopping` when the block is left. Raises SetupError."""
    state = Notifier(ready_file, environment.get("NOTIFY_SOCKET", ""))
    try:
        yield state
    finally:
        state.stopping()


def _remove_stale(path: pathlib.Path) -> None:
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
        raise SetupError(
            f"the ready file {path} belongs to a process that is still running", ("stop that process", _HINT)
        ) from error
    except OSError as error:
        raise SetupError(f"the ready file {path} cannot be replaced: {error.strerror}", (_HINT,)) from error
    finally:
        os.close(handle)


def _write_locked(path: pathlib.Path, content: bytes) -> int:
    """Create a file atomically, already locked. Returns the descriptor that holds the lock."""
    temporary = path.with_name(f".{path.name}.new")
    try:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            # World-readable: it holds no secret, and health checks may run as any user.
            os.fchmod(handle, 0o644)
            os.write(handle, content)
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            temporary.rename(path)
        except OSError:
            os.close(handle)
            raise
        return handle
    except OSError as error:
        raise SetupError(f"the ready file {path} cannot be written: {error.strerror}", (_HINT,)) from error
