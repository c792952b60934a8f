"""The files that a client's configuration is made from: read as one, and again when any of them has changed.

Certificates, tokens and CAs are renewed on disk while a process runs, as files or inside a kubeconfig. Both are handled
here alike: the content of all files is compared with the content in use, and if it differs, the whole configuration is
made anew. Modification times are not trusted, because mounts and copies preserve them. What cannot be used, such as a
file that is half written, or a certificate whose key has not been replaced yet, leaves the previous configuration in
use. It is logged once, when a second check has found the same.
"""

from __future__ import annotations

import errno
import logging
import os
import pathlib
import stat
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from certplane import files
from certplane.errors import SetupError

T = TypeVar("T")

_log = logging.getLogger("certplane.client")

#: Bytes of one file. A kubeconfig with a hundred clusters has a quarter of this.
_MAX_FILE: Final = 4 << 20


class ConfigFiles:
    """Files, each of which is read once. `streams` is the content of pipes, which nobody can read again."""

    def __init__(self, streams: dict[pathlib.Path, bytes] | None = None) -> None:
        self.streams = {} if streams is None else streams
        #: The content of each file, or why it cannot be read.
        self._seen: dict[pathlib.Path, bytes | str] = {}
        self._status: dict[pathlib.Path, os.stat_result] = {}

    def read(self, path: pathlib.Path) -> bytes:
        """The content of a file, as it was at the first call. Raises OSError."""
        if path not in self._seen:
            self._seen[path] = self._read(path)
        seen = self._seen[path]
        if isinstance(seen, str):
            raise OSError(errno.EIO, seen, str(path))
        return seen

    def untrusted_owner(self, path: pathlib.Path) -> str:
        """Why root should run no program that a file names; empty if it may, or if this process is not root's."""
        if os.geteuid() != 0:
            return ""
        status = self._status[path]
        if status.st_uid != 0:
            return f"{path} belongs to user id {status.st_uid}"
        mode = stat.S_IMODE(status.st_mode)
        return f"other users can change {path} (mode {mode:04o})" if mode & files.READ_ONLY else ""

    def have_changed(self) -> bool:
        """Whether a file that was read now has other content, or can be read and could not, or the reverse."""
        return any(self._read(path) != seen for path, seen in self._seen.items())

    def _read(self, path: pathlib.Path) -> bytes | str:
        if path in self.streams:
            return self.streams[path]
        try:
            status = self._status[path] = os.stat(path)
            if stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode):
                return files.read_regular(path, _MAX_FILE)
            # A pipe, as in --kubeconfig <(command).
            with path.open("rb") as stream:
                content = stream.read(_MAX_FILE + 1)
        except OSError as error:
            return files.error_text(error)
        if len(content) > _MAX_FILE:
            return f"it is larger than {_MAX_FILE} bytes"
        self.streams[path] = content
        return content


class Reloaded(Generic[T]):
    """A value that is made from files, and made again when they have changed. `load` raises SetupError if the files
    cannot be used; so does the constructor.
    """

    def __init__(self, load: Callable[[ConfigFiles], T]) -> None:
        self._load = load
        self._used = ConfigFiles()
        self._value = load(self._used)
        #: Files that could not be used, why, and whether that is logged.
        self._refused: ConfigFiles | None = None
        self._problem = ""
        self._is_logged = False

    def current(self) -> T:
        """The value for the files as they are now, or the last one that could be made."""
        if not self._used.have_changed():
            self._end_problem("client configuration unchanged again; the reload problem is resolved")
        elif self._refused is None or self._refused.have_changed():
            self._reload()
        elif not self._is_logged:
            self._is_logged = True
            _log.error("client configuration reload failed; keeping the previous one", extra={"error": self._problem})
        return self._value

    def _reload(self) -> None:
        changed = ConfigFiles(self._used.streams)
        try:
            value = self._load(changed)
        except SetupError as error:
            self._refused, self._is_logged = changed, self._is_logged and self._problem == error.message
            self._problem = error.message
            return
        self._used, self._value = changed, value
        self._end_problem("")
        _log.info("client configuration reloaded")

    def _end_problem(self, message: str) -> None:
        if self._is_logged and message:
            _log.info(message)
        self._refused, self._problem, self._is_logged = None, "", False
