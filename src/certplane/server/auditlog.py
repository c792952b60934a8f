"""The file that audit records go to: a line each, rotated when it is large, deleted when it is old.

Files are named as kube-apiserver's are: the current one has the name that was asked for, the others the time at which
they were rotated. Nobody else can read them.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime
import errno
import logging
import os
import pathlib
import re
import sys
from collections.abc import Callable
from typing import Final

from certplane import clock as clocks
from certplane import files

_log = logging.getLogger("certplane.audit")

_MEGABYTE: Final = 1024 * 1024
_STAMP: Final = "%Y-%m-%dT%H-%M-%S"
_BACKUP: Final = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}-\d{2}-\d{2}\.\d{3}", re.ASCII)
#: Seconds that a line waits at the most, and how many lines do.
_MOMENT: Final = 0.05
_MOST_WAITING: Final = 200
#: Seconds between two lines of the server's log about records that are being lost.
_QUIET_SECONDS: Final = 60.0
#: The log is written to standard output.
STANDARD_OUTPUT: Final = "-"


@dataclasses.dataclass(frozen=True, slots=True)
class Rotation:
    """When a file is rotated, and how long the others are kept. 0 is no bound."""

    megabytes: int = 100
    backups: int = 10
    days: int = 0


#: Makes the line that tells how many lines are missing, and from when until when.
Gap = Callable[[int, datetime.datetime, datetime.datetime], bytes]


class LogFile:
    """A log of lines. What cannot be written is counted, and fails nothing. That it is so is said in the server's log
    now and then, and in this one, by a line that `gap` makes, as soon as it can be written again.
    """

    def __init__(self, path: pathlib.Path, rotation: Rotation, clock: clocks.Clock, gap: Gap) -> None:
        self._path = path
        self._rotation = rotation
        self._clock = clock
        self._gap = gap
        self._handle: int | None = None
        self._size = 0
        self._waiting: list[bytes] = []
        self._stuck = False
        self._missing = 0
        self._missing_since = clock.now()
        self._said = -_QUIET_SECONDS
        #: Lines that were ever lost; and why the newest was, empty while all can be written.
        self.lost = 0
        self.problem = ""

    def write(self, line: bytes, *, may_wait: bool = False) -> None:
        """Append one line. One that may wait is written together with those that come within a moment: one system
        call. Any other is in the file before the caller goes on.
        """
        self._waiting.append(line)
        if not may_wait or len(self._waiting) >= _MOST_WAITING:
            self.flush()
        elif len(self._waiting) == 1:
            asyncio.get_running_loop().call_later(_MOMENT, self.flush)

    def flush(self) -> None:
        """Write what waits."""
        if self._waiting:
            lines, self._waiting = b"".join(self._waiting), []
            self._write(lines)

    def _write(self, lines: bytes) -> None:
        written = 0
        gap = self._gap(self._missing, self._missing_since, self._clock.now()) if self._missing else b""
        lines = gap + lines
        try:
            if self._handle is None:
                self._open()
            limit = self._rotation.megabytes * _MEGABYTE
            if limit and self._size and self._size + len(lines) > limit:
                self._turn_over()
            written = self._append(lines)
            if written < len(lines):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            if written >= len(gap):
                self._missing = 0
            self._lose(lines.count(b"\n", max(written, len(gap))), error)
        else:
            if gap:
                _log.warning("audit records are written again", extra={"path": self._path, "lost": self._missing})
            self._missing, self.problem = 0, ""

    def _lose(self, count: int, error: OSError) -> None:
        if not self._missing:
            self._missing_since = self._clock.now()
        self._missing += count
        self.lost += count
        self.problem = error.strerror or str(error)
        if self._clock.monotonic() - self._said >= _QUIET_SECONDS:
            self._said = self._clock.monotonic()
            told = {"path": self._path, "why": self.problem, "lost": self._missing}
            _log.error("audit records are being lost", extra=told)

    def close(self) -> None:
        """Write what waits, and let go of the file."""
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
        """Write; tell how many bytes of whole lines are in the file. Half a line would swallow the next one."""
        assert self._handle is not None  # noqa: S101 - `_write` has opened it
        written = os.write(self._handle, lines)
        whole = written if written == len(lines) else lines.rfind(b"\n", 0, written) + 1
        if whole < written and str(self._path) != STANDARD_OUTPUT:
            os.ftruncate(self._handle, os.fstat(self._handle).st_size - (written - whole))
        self._size += whole
        return whole

    def _turn_over(self) -> None:
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
            # Who may write the file need not be allowed to rename it; a file that is too large loses nothing.
            if not self._stuck:
                _log.error("the audit log cannot be rotated", extra={"path": self._path, "why": str(error)})
            self._stuck = True
        self._open()
        self._forget(now)

    def _forget(self, now: datetime.datetime) -> None:
        kept = backups(self._path)
        surplus = kept[: -self._rotation.backups] if self._rotation.backups else []
        if self._rotation.days:
            limit = now - datetime.timedelta(days=self._rotation.days)
            surplus = [*surplus, *(each for each in kept if (_moment(each, self._path) or now) < limit)]
        for each in surplus:
            with contextlib.suppress(OSError):
                each.unlink(missing_ok=True)


def backups(path: pathlib.Path) -> list[pathlib.Path]:
    """The rotated files of a log, oldest first."""
    try:
        beside = list(path.parent.iterdir())
    except OSError:
        return []
    return sorted((each for each in beside if _moment(each, path) is not None), key=lambda each: each.name)


def _moment(file: pathlib.Path, path: pathlib.Path) -> datetime.datetime | None:
    """When a file was rotated; None if it is no former file of this log, whatever its name looks like."""
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
