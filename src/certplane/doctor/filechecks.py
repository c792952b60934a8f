"""Owners and modes of files and directories: who else can read a key, or replace what the server trusts.

The rules are those that `certplane serve` applies when it starts (`files`), over all files at once. In a data directory
they are strict, because the server refuses to start otherwise; for other files a group that may read or write is a
warning.
"""

from __future__ import annotations

import dataclasses
import enum
import os
import shlex
import stat
from collections.abc import Iterator, Sequence
from typing import Final

from certplane import files
from certplane.doctor import findings
from certplane.doctor.findings import Finding, Severity

_GROUP: Final = 0o070
_OTHERS: Final = 0o007
_GROUP_WRITE: Final = 0o020
_OTHERS_WRITE: Final = 0o002


class Kind(enum.Enum):
    """What a file holds, which decides who may read it."""

    SECRET = enum.auto()
    PUBLIC = enum.auto()
    LOG = enum.auto()
    DIRECTORY = enum.auto()


@dataclasses.dataclass(frozen=True, slots=True)
class PathFacts:
    """A file or directory: what it is for, in words; its mode with the type, and its owner. `problem` says why it
    cannot be examined. `is_own` if it belongs to a data directory. Without `mode` it does not exist.
    """

    path: str
    what: str
    kind: Kind
    mode: int | None = None
    owner: int = 0
    problem: str = ""
    is_own: bool = False
    is_required: bool = False
    is_readable: bool = True


def look(
    path: str | os.PathLike[str],
    what: str,
    kind: Kind,
    *,
    is_own: bool = False,
    is_required: bool = False,
    follows_links: bool = False,
) -> PathFacts:
    """The facts about a path, as they are now. A link in a data directory is not followed, unless `follows_links`: a
    flag may name the directory itself by a link. Never raises.
    """
    text = os.fspath(path)
    facts = PathFacts(text, what, kind, is_own=is_own, is_required=is_required)
    try:
        status = os.stat(text, follow_symlinks=not is_own or follows_links)
        is_readable = stat.S_ISLNK(status.st_mode) or os.access(text, os.R_OK)
    except (FileNotFoundError, NotADirectoryError):
        return facts
    except (OSError, ValueError) as error:
        reason = files.error_text(error) if isinstance(error, OSError) else str(error)
        return dataclasses.replace(facts, problem=reason)
    return dataclasses.replace(facts, mode=status.st_mode, owner=status.st_uid, is_readable=is_readable)


def check(paths: Sequence[PathFacts], user: int) -> list[Finding]:
    """Check files and directories; `user` is the id of the user whose files they should be, besides root's."""
    found = [finding for facts in paths for finding in _check_path(facts, user)]
    existing = sum(facts.mode is not None for facts in paths)
    return findings.with_ok("file-mode", found, f"{existing} files and directories have the right owners and modes")


def _check_path(facts: PathFacts, user: int) -> Iterator[Finding]:
    quoted = shlex.quote(facts.path)
    name = f"{facts.what} {facts.path}"
    if facts.problem:
        fix: tuple[str, ...] = ("run certplane doctor as root, or as the user that runs the server",)
        yield Finding("file-access", Severity.WARNING, f"{name} cannot be examined: {facts.problem}", facts.path, fix)
        return
    if facts.mode is None:
        if facts.is_required:
            fix = (f"restore {quoted} from a backup, or correct the setting that names it",)
            yield Finding("file-missing", Severity.ERROR, f"{name} does not exist", facts.path, fix)
        return
    if stat.S_ISLNK(facts.mode):
        fix = (f'cp --remove-destination -- "$(readlink -f {quoted})" {quoted}',)
        yield Finding("file-kind", Severity.ERROR, f"{name} is a symbolic link", facts.path, fix)
        return
    is_directory = stat.S_ISDIR(facts.mode)
    if is_directory is not (facts.kind is Kind.DIRECTORY) or not (is_directory or stat.S_ISREG(facts.mode)):
        expected = "directory" if facts.kind is Kind.DIRECTORY else "regular file"
        text = f"{name} is not a {expected}"
        yield Finding("file-kind", Severity.ERROR, text, facts.path, (f"mv {quoted} {quoted}.moved",))
        return
    if facts.owner not in (0, user):
        text = f"{name} belongs to user id {facts.owner}, who can replace it"
        yield Finding("file-owner", Severity.ERROR, text, facts.path, (f"chown {user} {quoted}",))
    yield from _check_mode(facts, stat.S_IMODE(facts.mode), user)
    if not facts.is_readable:
        text = f"{name} cannot be read by this user"
        fix = ("run certplane doctor as root, or as the user that runs the server", f"chmod u+r {quoted}")
        yield Finding("file-access", Severity.WARNING, text, facts.path, fix)


def _check_mode(facts: PathFacts, mode: int, user: int) -> Iterator[Finding]:
    name = f"{facts.what} {facts.path}"
    if facts.kind is Kind.DIRECTORY:
        forbidden, id_, verb = files.READ_ONLY, "directory-mode", "create and replace files in"
        if not facts.is_own and mode & stat.S_ISVTX:
            # In a sticky directory, only the owner of a file may replace it.
            return
    elif facts.kind is Kind.SECRET:
        forbidden, id_, verb = files.PRIVATE, "file-mode", "read"
        if not facts.is_own and files.mode_readable_by_others(mode, owner=facts.owner, reader=user) is None:
            # How a pod gets its Secrets.
            return
    elif facts.kind is Kind.LOG:
        forbidden, id_, verb = files.GROUP_READABLE, "log-mode", "read or change"
    else:
        forbidden, id_, verb = files.READ_ONLY, "file-mode", "change"
    wrong = mode & forbidden
    if not wrong:
        return
    others, group = wrong & _OTHERS, wrong & _GROUP
    who = " and ".join(filter(None, ("its group" if group else "", "all other users" if others else "")))
    severity = Severity.ERROR if others or facts.is_own else Severity.WARNING
    text = f"{who} can {verb} {name}: its mode is {mode:04o}"
    fix: tuple[str, ...] = (f"chmod {mode & ~forbidden:o} {shlex.quote(facts.path)}",)
    if facts.kind is Kind.SECRET and wrong & 0o044:
        fix += ("consider the key compromised if other people use this machine: replace it",)
    yield Finding(id_, severity, text, facts.path, fix)
