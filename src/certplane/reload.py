"""Files that change while we run: certificates that are renewed, tokens that are taken back.

Every few seconds their content is compared with the one that is in use; what the file system says about times is not
trusted, as mounts and copies keep them. A new content counts when it is the same at two looks, because a file that is
being written has another one each time; when somebody asks (SIGHUP), it counts at once. Files that belong together are
one group: a certificate whose key has not come yet fails its check, and what was in use stays in use. Each problem is
told once, and so is its end.

Differs from kube-apiserver in how: that one watches directories, and looks once a minute in case it missed something.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import logging
import pathlib
from collections.abc import Callable, Sequence
from typing import Final

from certplane import clock as clocks
from certplane import files
from certplane.errors import SetupError

_log = logging.getLogger("certplane")

#: With two looks for each change, a change is in use within ten seconds.
SECONDS: Final = 4.0

#: Puts the contents of a group to use. Raises ValueError or SetupError, having changed nothing, for what is no good.
Apply = Callable[[Sequence[bytes]], None]

#: The file may be one of the data directory, or one that a setting names.
_HINT: Final = "put a good one there; certplane serve --help lists the settings that name other files"


class Wakeup:
    """Ends the waiting of all who wait for their next look. For one event loop."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def wake(self) -> None:
        """Have all look now. Those that do not wait at the moment are about to look."""
        event, self._event = self._event, asyncio.Event()
        event.set()

    async def sleep(self, clock: clocks.Clock, seconds: float) -> bool:
        """Wait; whether somebody asked to look sooner."""
        return await clocks.wait_until(clock, self._event, seconds)


@dataclasses.dataclass(slots=True)
class _Group:
    """Files that are used together. `used`, `refused` and `seen` are digests: of what is in use, of what was no good,
    and of what there was at the last look.
    """

    name: str
    paths: Sequence[pathlib.Path]
    apply: Apply
    used: bytes = b""
    refused: bytes = b""
    seen: bytes = b""
    problem: str = ""

    def read(self) -> Sequence[bytes]:
        return [path.read_bytes() for path in self.paths]

    @property
    def shown(self) -> str:
        return ",".join(map(str, self.paths))


class Reloader:
    """Follows groups of files. `observe` is told of each attempt to put a new content to use: name, and whether it
    went well.
    """

    def __init__(self, clock: clocks.Clock, wakeup: Wakeup, observe: Callable[[str, bool], None]) -> None:
        self._clock = clock
        self._wakeup = wakeup
        self._observe = observe
        self._groups: list[_Group] = []

    def follow(self, name: str, paths: Sequence[pathlib.Path], apply: Apply) -> None:
        """Put what is in some files to use, now and whenever it has changed. Raises SetupError if it cannot be used
        now.
        """
        group = _Group(name, paths, apply)
        contents = [files.read(path, f"the {name}") for path in paths]
        try:
            apply(contents)
        except ValueError as error:
            raise SetupError(f"the {name} {group.shown} cannot be used: {error}", (_HINT,)) from error
        group.used = _digest(contents)
        self._groups.append(group)

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await self.look(is_asked=await self._wakeup.sleep(self._clock, SECONDS))

    async def look(self, *, is_asked: bool = False) -> None:
        """Compare all files with what is in use. If a person asked, a content counts that was not there before."""
        for group in self._groups:
            try:
                # A file system that does not answer must not stop everything else.
                contents = await asyncio.to_thread(group.read)
            except OSError as error:
                problem = f"{error.filename}: {files.reason(error)}"
                if self._is_settled(group, _digest([problem.encode()]), is_asked=is_asked):
                    self._refuse(group, problem, group.seen)
                continue
            self._consider(group, contents, is_asked=is_asked)

    @staticmethod
    def _is_settled(group: _Group, digest: bytes, *, is_asked: bool) -> bool:
        """Whether what there is now is what there was at the last look; it is remembered for the next one."""
        before, group.seen = group.seen, digest
        return is_asked or digest == before

    def _consider(self, group: _Group, contents: Sequence[bytes], *, is_asked: bool) -> None:
        digest = _digest(contents)
        is_settled = self._is_settled(group, digest, is_asked=is_asked)
        if digest == group.used:
            if group.problem:
                _log.info("files are as before", extra={"what": group.name, "path": group.shown})
                group.problem, group.refused = "", b""
            return
        if not is_settled or (digest == group.refused and not is_asked):
            return
        try:
            group.apply(contents)
        except (ValueError, SetupError) as error:
            self._refuse(group, str(error), digest)
            return
        group.used, group.refused, group.problem = digest, b"", ""
        self._observe(group.name, True)
        _log.info("files reloaded", extra={"what": group.name, "path": group.shown})

    def _refuse(self, group: _Group, problem: str, digest: bytes) -> None:
        if digest == group.refused and problem == group.problem:
            return
        group.problem, group.refused = problem, digest
        self._observe(group.name, False)
        _log.error(
            "files not reloaded: what was there before is used",
            extra={"what": group.name, "path": group.shown, "problem": problem},
        )


def _digest(contents: Sequence[bytes]) -> bytes:
    made = hashlib.sha256()
    for content in contents:
        # The lengths tell where one ends and the next begins.
        made.update(len(content).to_bytes(8, "big") + content)
    return made.digest()
