"""Reloads files that change at run time: renewed certificates, revoked tokens.

Every few seconds the content of the files is compared with the content in use. Modification times are not trusted,
because mounts and copies preserve them. New content is applied once two successive checks have read the same bytes,
because a file that is still being written differs from check to check; on SIGHUP it is applied at once. Files that
belong together form one group: a new certificate without its new key fails validation, and the previous content stays
in use. Each problem is logged once, and so is its end. A group whose content cannot be used never keeps the others from
being reloaded.

kube-apiserver does this differently: it watches directories, and checks once a minute in case it missed an event.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import logging
import pathlib
from collections.abc import Callable, Sequence
from typing import Final

from certplane import clock, files
from certplane.clock import Clock
from certplane.errors import SetupError

_log = logging.getLogger("certplane")

#: A change takes two checks, so it is in use within ten seconds.
INTERVAL_SECONDS: Final = 4.0

#: Puts the contents of a group to use. Raises ValueError or SetupError for invalid contents; whatever it raises, it has
#: changed nothing.
Apply = Callable[[Sequence[bytes]], None]

#: The file may be one of the data directory, or one that a setting names.
_HINT: Final = "replace it with a valid file; certplane serve --help lists the settings that name other files"


class Wakeup:
    """Wakes all tasks that sleep until their next check. For one event loop."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def wake(self) -> None:
        """Make all tasks check now. A task that is not sleeping is about to check anyway."""
        event, self._event = self._event, asyncio.Event()
        event.set()

    async def sleep(self, timer: Clock, seconds: float) -> bool:
        """Sleep for `seconds`. Returns whether `wake` ended the sleep early."""
        return await clock.wait_until(timer, self._event, seconds)


class CompletionCheck:
    """Whether a file has been written completely: two successive checks have read the same content."""

    __slots__ = ("_seen",)

    def __init__(self) -> None:
        self._seen: bytes | None = None

    def is_complete(self, content: bytes, *, is_requested: bool = False) -> bool:
        """Whether the last call had the same content, or its digest. With `is_requested` the result is True, because
        an operator says that the file is complete.
        """
        before, self._seen = self._seen, content
        return is_requested or content == before


@dataclasses.dataclass(slots=True)
class _Group:
    """Files that are used together. `used` and `refused` are digests: of the content in use, and of the last content
    that was refused.
    """

    name: str
    paths: Sequence[pathlib.Path]
    apply: Apply
    used: bytes = b""
    refused: bytes = b""
    problem: str = ""
    completion: CompletionCheck = dataclasses.field(default_factory=CompletionCheck)

    def read(self) -> Sequence[bytes]:
        return [path.read_bytes() for path in self.paths]

    @property
    def path_list(self) -> str:
        return ",".join(map(str, self.paths))


class Reloader:
    """Watches groups of files. `observe` is called for each attempt to apply new content, with the group's name and
    whether the attempt succeeded.
    """

    def __init__(self, clock: Clock, wakeup: Wakeup, observe: Callable[[str, bool], None]) -> None:
        self._clock = clock
        self._wakeup = wakeup
        self._observe = observe
        self._groups: list[_Group] = []
        #: Held while files are read and applied: content that was read earlier must not be applied later.
        self._lock = asyncio.Lock()

    def add(self, name: str, paths: Sequence[pathlib.Path], apply: Apply) -> None:
        """Apply the content of some files now, and again whenever it has changed. Raises SetupError if it is invalid
        now.
        """
        group = _Group(name, paths, apply)
        contents = [files.read(path, f"the {name}") for path in paths]
        try:
            apply(contents)
        except ValueError as error:
            raise SetupError(f"the {name} {group.path_list} cannot be used: {error}", (_HINT,)) from error
        group.used = _digest(contents)
        self._groups.append(group)

    async def run(self) -> None:
        """Check the files until cancelled."""
        while True:
            await self.check(is_requested=await self._wakeup.sleep(self._clock, INTERVAL_SECONDS))

    async def check(self, *, is_requested: bool = False) -> None:
        """Compare all files with the content in use. If an operator requested the check, new content is applied at
        once.
        """
        for group in self._groups:
            await self._check_group(group, is_requested=is_requested)

    async def reload(self, name: str) -> None:
        """Apply the content of one group at once: the caller has just written its files."""
        for group in self._groups:
            if group.name == name:
                await self._check_group(group, is_requested=True)

    async def _check_group(self, group: _Group, *, is_requested: bool) -> None:
        async with self._lock:
            try:
                # In a thread: a file system that does not respond must not block the event loop.
                contents = await asyncio.to_thread(group.read)
            except OSError as error:
                problem = f"{error.filename}: {files.error_text(error)}"
                digest = _digest([problem.encode()])
                if group.completion.is_complete(digest, is_requested=is_requested):
                    self._refuse(group, problem, digest)
            else:
                self._apply_changed(group, contents, is_requested=is_requested)

    def _apply_changed(self, group: _Group, contents: Sequence[bytes], *, is_requested: bool) -> None:
        digest = _digest(contents)
        is_complete = group.completion.is_complete(digest, is_requested=is_requested)
        if digest == group.used:
            if group.problem:
                _log.info(
                    "files unchanged again; the reload problem is resolved",
                    extra={"files": group.name, "path": group.path_list},
                )
                group.problem, group.refused = "", b""
            return
        if not is_complete or (digest == group.refused and not is_requested):
            return
        try:
            group.apply(contents)
        except (ValueError, SetupError) as error:
            self._refuse(group, str(error), digest)
            return
        except Exception as error:
            # A bug. The other groups must be reloaded all the same: one may be the file of a revoked token.
            self._refuse(group, f"{type(error).__name__}: {error}", digest, unexpected=error)
            return
        group.used, group.refused, group.problem = digest, b"", ""
        self._observe(group.name, True)
        _log.info("files reloaded", extra={"files": group.name, "path": group.path_list})

    def _refuse(self, group: _Group, problem: str, digest: bytes, unexpected: Exception | None = None) -> None:
        """Log a problem that is new. `unexpected` is an exception whose traceback is logged with it."""
        if digest == group.refused and problem == group.problem:
            return
        group.problem, group.refused = problem, digest
        self._observe(group.name, False)
        _log.error(
            "files reload failed; keeping the previous content",
            extra={"files": group.name, "path": group.path_list, "error": problem},
            exc_info=unexpected,
        )


def _digest(contents: Sequence[bytes]) -> bytes:
    digest = hashlib.sha256()
    for content in contents:
        # The lengths mark where one content ends and the next begins.
        digest.update(len(content).to_bytes(8, "big") + content)
    return digest.digest()
