"""The audit log file: one event a line, rotated by size, deleted by age and number.

Files are named as those of kube-apiserver: the current one has the configured name, a backup the time of its rotation.
Only the owner can read them.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import errno
import logging
import os
import pathlib
import re
import sys
from collections.abc import Callable
from typing import Final

from certplane import files
from certplane.clock import Clock
from certplane.config.servesettings import STANDARD_OUTPUT, LogRotation

_log = logging.getLogger("certplane.audit")

_MEGABYTE: Final = 1024 * 1024
_STAMP: Final = "%Y-%m-%dT%H-%M-%S"
_BACKUP: Final = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}-\d{2}-\d{2}\.\d{3}", re.ASCII)
#: Maximum seconds, and maximum lines, in the buffer.
_FLUSH_DELAY: Final = 0.05
_MAX_BUFFERED: Final = 200
#: Seconds between two messages about lost events in the server's log.
_LOG_INTERVAL: Final = 60.0


#: Encodes the line that says how many lines are missing, from when and until when.
EncodeLoss = Callable[[int, datetime.datetime, datetime.datetime], bytes]


class LogFile:
    """A log of lines. A failure to write raises nothing: the lost lines are counted, and the failure is reported in the
    server's log at most once a minute. When the file can be written again, its next line is one from `encode_loss`.
    """

    def __init__(self, path: pathlib.Path, rotation: LogRotation, clock: Clock, encode_loss: EncodeLoss) -> None:
        self._path = path
        self._rotation = rotation
        self._clock = clock
        self._encode_loss = encode_loss
        self._handle: int | None = None
        self._size = 0
        self._buffer: list[bytes] = []
        self._rotation_failed = False
        self._lost = 0
        self._lost_since = clock.now()
        self._logged = -_LOG_INTERVAL
        #: Lines lost since the start; and the reason of the last failure, empty while the file can be written.
        self.lost = 0
        self.problem = ""

    def write(self, line: bytes, *, may_wait: bool = False) -> None:
        """Append one line. It is in the file on return, unless it `may_wait`: such lines are buffered for a moment and
        written with one system call.
        """
        self._buffer.append(line)
        if not may_wait or len(self._buffer) >= _MAX_BUFFERED:
            self.flush()
        elif len(self._buffer) == 1:
            asyncio.get_running_loop().call_later(_FLUSH_DELAY, self.flush)

    def flush(self) -> None:
        """Write the buffered lines."""
        if self._buffer:
            lines, self._buffer = b"".join(self._buffer), []
            self._write(lines)

    def _write(self, lines: bytes) -> None:
        written, loss = 0, b""
        try:
            if self._lost:
                loss = self._encode_loss(self._lost, self._lost_since, self._clock.now())
                lines = loss + lines
            if self._handle is None:
                self._open()
            limit = self._rotation.maxsize * _MEGABYTE
            if limit and self._size and self._size + len(lines) > limit:
                self._rotate()
            written = self._append(lines)
            if written < len(lines):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except Exception as error:
            # Whatever failed, the lines are not in the file and have to be counted.
            if loss and written >= len(loss):
                self._lost = 0
            self._count_lost(lines.count(b"\n", max(written, len(loss))), error)
        else:
            if loss:
                _log.warning("audit log recovered", extra={"path": self._path, "lost": self._lost})
            self._lost, self.problem = 0, ""

    def _count_lost(self, count: int, error: Exception) -> None:
        if not self._lost:
            self._lost_since = self._clock.now()
        self._lost += count
        self.lost += count
        self.problem = files.error_text(error) if isinstance(error, OSError) else repr(error)
        if self._clock.monotonic() - self._logged >= _LOG_INTERVAL:
            self._logged = self._clock.monotonic()
            fields = {"path": self._path, "error": self.problem, "lost": self._lost}
            _log.error("failed to write audit events", extra=fields, exc_info=not isinstance(error, OSError))

    def close(self) -> None:
        """Write the buffered lines and close the file. The next write opens it again."""
        self.flush()
        self._release()

    def _release(self) -> None:
        if self._handle is not None and self._handle != sys.stdout.fileno():
            os.close(self._handle)
        self._handle = None

    def _open(self) -> None:
        if str(self._path) == STANDARD_OUTPUT:
            self._handle, self._size = sys.stdout.fileno(), 0
            return
        self._handle = files.open_log(self._path)
        self._size = os.fstat(self._handle).st_size

    def _append(self, lines: bytes) -> int:
        """Write; return the bytes of the complete lines. A partial line is removed, or it would merge with the next."""
        assert self._handle is not None  # noqa: S101 - `_write` has opened it
        written = os.write(self._handle, lines)
        whole = written if written == len(lines) else lines.rfind(b"\n", 0, written) + 1
        if whole < written and str(self._path) != STANDARD_OUTPUT:
            os.ftruncate(self._handle, os.fstat(self._handle).st_size - (written - whole))
        self._size += whole
        return whole

    def _rotate(self) -> None:
        if str(self._path) == STANDARD_OUTPUT:
            return
        self._release()
        now = self._clock.now()
        stamp = f"{now.strftime(_STAMP)}.{now.microsecond // 1000:03}"
        backup = self._path.with_name(f"{self._path.stem}-{stamp}{self._path.suffix}")
        try:
            if not backup.exists():
                self._path.rename(backup)
        except OSError as error:
            # Renaming needs write permission on the directory. Without it the file grows, but no event is lost.
            if not self._rotation_failed:
                _log.error("failed to rotate the audit log", extra={"path": self._path, "error": str(error)})
            self._rotation_failed = True
        self._open()
        try:
            self._delete_old(now)
        except Exception:
            # The next rotation tries again, and the lines that are being written must not be lost.
            _log.exception("failed to delete rotated audit logs", extra={"path": self._path})

    def _delete_old(self, now: datetime.datetime) -> None:
        existing = backups(self._path)
        surplus = existing[: -self._rotation.maxbackup] if self._rotation.maxbackup else []
        if self._rotation.maxage:
            # Any number may be configured; dates begin with the year 1.
            limit = now - datetime.timedelta(days=min(self._rotation.maxage, now.toordinal() - 1))
            surplus = [*surplus, *(file for file in existing if (_rotated_at(file, self._path) or now) < limit)]
        for file in surplus:
            with contextlib.suppress(OSError):
                file.unlink(missing_ok=True)


def backups(path: pathlib.Path) -> list[pathlib.Path]:
    """The rotated files of a log, oldest first."""
    try:
        siblings = list(path.parent.iterdir())
    except OSError:
        return []
    return sorted((file for file in siblings if _rotated_at(file, path) is not None), key=lambda file: file.name)


def _rotated_at(file: pathlib.Path, path: pathlib.Path) -> datetime.datetime | None:
    """The time at which a file was rotated; None if it is not a backup of the log `path`."""
    start, end = f"{path.stem}-", path.suffix
    if not (file.name.startswith(start) and file.name.endswith(end)):
        return None
    stamp = file.name[len(start) : len(file.name) - len(end)]
    if _BACKUP.fullmatch(stamp) is None:
        return None
    try:
        return datetime.datetime.strptime(stamp, f"{_STAMP}.%f").replace(tzinfo=datetime.UTC)
    except ValueError:
        return None
