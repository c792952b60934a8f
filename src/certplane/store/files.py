"""The files of a store on disk: that they belong to this process alone, and stay the files that were opened.

SQLite protects a database that is in use by POSIX locks. They belong to a process, and a process that closes *any*
descriptor of a file loses all its locks on that file. Without them another process that opens the database takes itself
for the last user, and when it closes (after a mere `select`) it removes the write-ahead log, with everything in it that
was acknowledged since the last checkpoint. Therefore:

1. Nothing in this process opens the database, its `-wal` or its `-shm` beside SQLite, except the descriptors here, and
   those are closed after SQLite's own. `stat` is harmless, `open` is not.
2. Where the system has them (Linux), locks of an open file description are held on the same bytes as SQLite's shared
   locks. No other descriptor can drop them, so that the log stays even if somebody breaks rule 1. One more byte, which
   SQLite does not use, is locked exclusively: it says whose the store is, and unlike a lock file it cannot be removed.
3. `misplaced` tells when a path leads to another file than the one that was opened (the file was deleted, moved or
   replaced): what is written then may be lost, so nothing more may be acknowledged. `problem` also tells when SQLite's
   own locks are gone: then rule 1 was broken.

The offsets are SQLite's (`os.h`, `os_unix.c`); they are part of its file format and do not change.
"""

from __future__ import annotations

import fcntl
import logging
import os
import pathlib
import stat
import struct
from typing import Final

from certplane import errors

_log = logging.getLogger("certplane.store")

_PENDING_BYTE: Final = 0x40000000
#: Which bytes of the database SQLite locks as long as a connection is open in WAL mode.
_SHARED: Final = (_PENDING_BYTE + 2, 510)
#: The first byte behind those that SQLite locks.
_OWNER: Final = (_PENDING_BYTE + 512, 1)
#: Which byte of the `-shm` file SQLite locks as long as it is mapped (the "dead man switch").
_MAPPED: Final = (128, 1)
#: struct flock: type, whence, start, length, process.
_FLOCK: Final = "hhqqi"
_UNLOCKED: Final = struct.pack("h", fcntl.F_UNLCK)

_OFD_SETLK: Final[int | None] = getattr(fcntl, "F_OFD_SETLK", None)
_OFD_GETLK: Final[int | None] = getattr(fcntl, "F_OFD_GETLK", None)

_OTHER_DIRECTORY: Final = "stop the other certplane, or give this one a data directory of its own with --data-dir"

Bytes = tuple[int, int]


class Files:
    """The descriptors and locks of one store. `claim` one before SQLite opens the database, `guard` it afterwards."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        self._descriptors: list[int] = []
        self._database = -1
        #: Where each file was, and which one it was.
        self._opened: dict[str, tuple[int, int]] = {}
        #: What SQLite has locked, by descriptor, and the question for it; empty where it cannot be asked.
        self._locked: dict[int, tuple[Bytes, bytes]] = {}

    # --- taking -----------------------------------------------------------------------------------------------------

    def claim(self) -> None:
        """Make the database file if there is none, and take it for this process. Raises SetupError."""
        try:
            lock = self._open(self.path.with_name(self.path.name + ".lock"))
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._database = self._open(self.path)
            if not self._take(self._database, fcntl.F_WRLCK, _OWNER):
                # The lock file alone says whose the store is: somebody may remove it.
                self._remember(self.path.with_name(self.path.name + ".lock"), lock)
        except BlockingIOError as error:
            raise errors.SetupError(
                f"the store {self.path} is in use by another process", (_OTHER_DIRECTORY,)
            ) from error
        except OSError as error:
            why = error.strerror or str(error)
            raise errors.SetupError(f"the store {self.path} cannot be opened: {why}", _hints(error)) from error
        self._remember(self.path, self._database)

    def guard(self) -> None:
        """Protect what SQLite has opened. Call it once all connections are open. Raises SetupError."""
        try:
            self._guard()
            problem = self.problem()
        except OSError as error:
            problem = error.strerror or str(error)
        if problem:
            raise errors.SetupError(
                f"the store {self.path} cannot be protected: {problem}", ("put it on a local file system with --store",)
            )

    def _guard(self) -> None:
        shared_memory, log = (self.path.with_name(self.path.name + suffix) for suffix in ("-shm", "-wal"))
        mapped = self._open(shared_memory, create=False)
        self._remember(shared_memory, mapped)
        self._opened[str(log)] = _identity(os.lstat(log))
        if self._take(self._database, fcntl.F_RDLCK, _SHARED) and self._take(mapped, fcntl.F_RDLCK, _MAPPED):
            parts = ((self._database, _SHARED), (mapped, _MAPPED))
            self._locked = {descriptor: (part, _flock(fcntl.F_WRLCK, part)) for descriptor, part in parts}
        else:
            _log.warning(
                "the store has SQLite's locks alone: this system has no locks of open file descriptions",
                extra={"path": self.path},
            )

    def release(self) -> None:
        """Let go of what keeps SQLite from tidying up. Call it before the connections are closed."""
        for descriptor, (part, _) in self._locked.items():
            self._take(descriptor, fcntl.F_UNLCK, part)
        self._locked = {}

    def close(self) -> None:
        """Let go of the files. Call it when all connections are closed."""
        descriptors, self._descriptors = self._descriptors, []
        for descriptor in reversed(descriptors):
            os.close(descriptor)

    # --- looking ----------------------------------------------------------------------------------------------------

    def problem(self) -> str:
        """What is wrong with files or locks, without saying where the files are; empty if nothing is."""
        for descriptor, (_, asked) in self._locked.items():
            if not _is_locked(descriptor, asked):
                return "SQLite's lock on the store is lost"
        return self.misplaced()

    def misplaced(self) -> str:
        """Which file is not where it was opened; empty if none is missing."""
        for path, identity in self._opened.items():
            try:
                now = os.lstat(path)
            except OSError as error:
                return f"its file {os.path.basename(path)} is gone ({error.strerror})"
            if (now.st_dev, now.st_ino) != identity:
                return f"its file {os.path.basename(path)} is not the one any more that was opened"
        return ""

    # --- system calls -----------------------------------------------------------------------------------------------

    def _open(self, path: pathlib.Path, *, create: bool = True) -> int:
        # It must never be readable by others, not even for a moment; and a link would lead to somebody else's file.
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_CREAT if create else 0)
        descriptor = os.open(path, flags, 0o600)
        self._descriptors.append(descriptor)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(None, "it is not a regular file")
        return descriptor

    def _remember(self, path: pathlib.Path, descriptor: int) -> None:
        self._opened[str(path)] = _identity(os.fstat(descriptor))

    @staticmethod
    def _take(descriptor: int, kind: int, part: Bytes) -> bool:
        """Lock or unlock for this descriptor; False where there are no such locks. Raises BlockingIOError."""
        if _OFD_SETLK is None:
            return False
        try:
            fcntl.fcntl(descriptor, _OFD_SETLK, _flock(kind, part))
        except BlockingIOError:
            raise
        except PermissionError as error:
            # The other name that POSIX allows for "somebody else has it".
            raise BlockingIOError(error.errno, error.strerror) from error
        except OSError:
            return False
        return True


def _is_locked(descriptor: int, asked: bytes) -> bool:
    """Whether anybody but this descriptor holds a lock: SQLite in this process does, as long as nothing is wrong."""
    assert _OFD_GETLK is not None  # noqa: S101 - asked only where locks could be taken
    return fcntl.fcntl(descriptor, _OFD_GETLK, asked)[: len(_UNLOCKED)] != _UNLOCKED


def _flock(kind: int, part: Bytes) -> bytes:
    return struct.pack(_FLOCK, kind, os.SEEK_SET, *part, 0)


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _hints(error: OSError) -> tuple[str, ...]:
    if isinstance(error, PermissionError):
        return ("let the user that certplane runs as read and write its directory",)
    return ("name another file with --store sqlite:PATH",)
