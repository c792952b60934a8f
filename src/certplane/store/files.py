"""The files of a store on disk: locks that keep other processes out, and checks that the files were not replaced.

SQLite protects an open database with POSIX locks. They belong to the process, and a process that closes *any*
descriptor of a file loses all its locks on that file. If the locks are lost, another process that opens the database
considers itself its only user. When that process closes the database, even after a mere `select`, it removes the
write-ahead log, with all writes that were acknowledged since the last checkpoint. Therefore:

1. Nothing in this process opens the database, its `-wal` or its `-shm` file besides SQLite and this module. The
   descriptors here are closed after SQLite's own. `stat` is harmless, `open` is not.
2. On Linux, open file description locks are held on the same bytes as SQLite's shared locks. Closing another descriptor
   does not release them, so the log stays even if rule 1 is broken. One more byte, which SQLite does not use, is locked
   exclusively: it marks the owner of the store, and unlike a lock file it cannot be removed.
3. `find_replaced` detects that a path leads to another file than the one that was opened (it was deleted, moved or
   replaced). Later writes may be lost, so they must not be acknowledged. `find_problem` also detects that SQLite's own
   locks are lost, which means that rule 1 was broken.

The offsets are SQLite's (`os.h`, `os_unix.c`). They are part of its file format and do not change.
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
#: The bytes of the database (start, length) that SQLite locks while a connection is open in WAL mode.
_SHARED: Final = (_PENDING_BYTE + 2, 510)
#: The first byte after those that SQLite locks.
_OWNER: Final = (_PENDING_BYTE + 512, 1)
#: The byte of the `-shm` file that SQLite locks while the file is mapped (the "dead man switch").
_MAPPED: Final = (128, 1)
#: struct flock: type, whence, start, length, process.
_FLOCK: Final = "hhqqi"
_UNLOCKED: Final = struct.pack("h", fcntl.F_UNLCK)

_OFD_SETLK: Final[int | None] = getattr(fcntl, "F_OFD_SETLK", None)
_OFD_GETLK: Final[int | None] = getattr(fcntl, "F_OFD_GETLK", None)

_OTHER_DIRECTORY: Final = "stop the other certplane process, or choose another data directory with --data-dir"

#: A range of bytes in a file: start and length.
ByteRange = tuple[int, int]


class Files:
    """The descriptors and locks of one store. Call `claim` before SQLite opens the database, `guard` afterwards."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        self._descriptors: list[int] = []
        self._database = -1
        #: Device and inode of each file when it was opened, by path.
        self._opened: dict[str, tuple[int, int]] = {}
        #: By descriptor, the bytes that SQLite has locked and a `struct flock` to query the lock. Empty where open file
        #: description locks are not supported.
        self._locked: dict[int, tuple[ByteRange, bytes]] = {}

    # --- locking ----------------------------------------------------------------------------------------------------

    def claim(self) -> None:
        """Create the database file if it does not exist, and lock it for this process. Raises SetupError."""
        try:
            lock = self._open(self.path.with_name(self.path.name + ".lock"))
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._database = self._open(self.path)
            if not self._set_lock(self._database, fcntl.F_WRLCK, _OWNER):
                # Only the lock file marks the owner here, so it is checked like the other files.
                self._remember(self.path.with_name(self.path.name + ".lock"), lock)
        except BlockingIOError as error:
            raise errors.SetupError(
                f"the store {self.path} is in use by another process", (_OTHER_DIRECTORY,)
            ) from error
        except OSError as error:
            why = error.strerror or str(error)
            raise errors.SetupError(f"cannot open the store {self.path}: {why}", _hints(error)) from error
        self._remember(self.path, self._database)

    def guard(self) -> None:
        """Lock the files that SQLite has opened. Call it when all connections are open. Raises SetupError."""
        try:
            self._guard()
            problem = self.find_problem()
        except OSError as error:
            problem = error.strerror or str(error)
        if problem:
            raise errors.SetupError(
                f"cannot lock the store {self.path}: {problem}",
                ("put the store on a local file system with --store sqlite:PATH",),
            )

    def _guard(self) -> None:
        shared_memory, log = (self.path.with_name(self.path.name + suffix) for suffix in ("-shm", "-wal"))
        mapped = self._open(shared_memory, create=False)
        self._remember(shared_memory, mapped)
        self._opened[str(log)] = _identity(os.lstat(log))
        if self._set_lock(self._database, fcntl.F_RDLCK, _SHARED) and self._set_lock(mapped, fcntl.F_RDLCK, _MAPPED):
            ranges = ((self._database, _SHARED), (mapped, _MAPPED))
            self._locked = {descriptor: (locked, _flock(fcntl.F_WRLCK, locked)) for descriptor, locked in ranges}
        else:
            _log.warning(
                "open file description locks are not supported; only SQLite's locks protect the store",
                extra={"path": self.path},
            )

    def release(self) -> None:
        """Release the locks, so that SQLite can remove the log. Call it before the connections are closed."""
        for descriptor, (locked, _) in self._locked.items():
            self._set_lock(descriptor, fcntl.F_UNLCK, locked)
        self._locked = {}

    def close(self) -> None:
        """Close the files. Call it when all connections are closed."""
        descriptors, self._descriptors = self._descriptors, []
        for descriptor in reversed(descriptors):
            os.close(descriptor)

    # --- checks -----------------------------------------------------------------------------------------------------

    def find_problem(self) -> str:
        """What is wrong with files or locks, without the path of the store; empty if nothing is."""
        for descriptor, (_, query) in self._locked.items():
            if not _is_locked(descriptor, query):
                return "SQLite's lock on the store was lost"
        return self.find_replaced()

    def find_replaced(self) -> str:
        """Which file was removed or replaced since it was opened; empty if none was."""
        for path, identity in self._opened.items():
            try:
                status = os.lstat(path)
            except OSError as error:
                return f"file {os.path.basename(path)} was removed ({error.strerror})"
            if _identity(status) != identity:
                return f"file {os.path.basename(path)} was replaced"
        return ""

    # --- system calls -----------------------------------------------------------------------------------------------

    def _open(self, path: pathlib.Path, *, create: bool = True) -> int:
        # Mode 0600 from the start, because the file holds secrets. No symbolic links: they may lead to another file.
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_CREAT if create else 0)
        descriptor = os.open(path, flags, 0o600)
        self._descriptors.append(descriptor)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(None, "not a regular file")
        return descriptor

    def _remember(self, path: pathlib.Path, descriptor: int) -> None:
        self._opened[str(path)] = _identity(os.fstat(descriptor))

    @staticmethod
    def _set_lock(descriptor: int, kind: int, locked: ByteRange) -> bool:
        """Set or release an open file description lock; False where they are not supported. Raises BlockingIOError."""
        if _OFD_SETLK is None:
            return False
        try:
            fcntl.fcntl(descriptor, _OFD_SETLK, _flock(kind, locked))
        except BlockingIOError:
            raise
        except PermissionError as error:
            # POSIX allows EACCES as well as EAGAIN for a lock that another process holds.
            raise BlockingIOError(error.errno, error.strerror) from error
        except OSError:
            return False
        return True


def _is_locked(descriptor: int, query: bytes) -> bool:
    """Whether SQLite in this process still holds its lock, as seen from another open file description."""
    assert _OFD_GETLK is not None  # noqa: S101 - called only after locks were set
    return fcntl.fcntl(descriptor, _OFD_GETLK, query)[: len(_UNLOCKED)] != _UNLOCKED


def _flock(kind: int, locked: ByteRange) -> bytes:
    return struct.pack(_FLOCK, kind, os.SEEK_SET, *locked, 0)


def _identity(status: os.stat_result) -> tuple[int, int]:
    """Device and inode."""
    return status.st_dev, status.st_ino


def _hints(error: OSError) -> tuple[str, ...]:
    if isinstance(error, PermissionError):
        return ("give the user of certplane read and write permission on the directory",)
    return ("choose another file with --store sqlite:PATH",)
