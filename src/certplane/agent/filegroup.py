"""Replace files that other programs read, several at once, in directories that other users may own.

All new files are complete and durable under temporary names before the first one gets its name. So a full disk changes
nothing, and between the first and the last rename is only a moment, not the time of writing.

Files are created in a directory that was opened before, never through a link, and have owner, group and mode before
they have a name. A link in the place of a file is replaced and not followed. Whoever can change a directory above could
still send the files elsewhere, so those must belong to the agent, to root, or to the owner of the files.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import pathlib
import stat
from collections.abc import Iterator, Sequence
from typing import Final

from certplane import files
from certplane.errors import CertplaneError

_ROOT: Final = 0
_DIRECTORY_MODE: Final = 0o755


class FileProblem(CertplaneError):
    """A file that cannot be written. The text names it and the reason."""


@dataclasses.dataclass(frozen=True, slots=True)
class NewFile:
    """A file to write. `uid` and `gid` are -1 for those of this process."""

    path: pathlib.Path
    content: bytes = dataclasses.field(repr=False)
    mode: int
    uid: int = -1
    gid: int = -1

    @property
    def temporary(self) -> str:
        """A fixed name, so that interruptions leave one file behind and not many."""
        return f".{self.path.name}.new"


def is_current(file: NewFile) -> bool:
    """Whether a file has its content, mode and owner already."""
    try:
        status = os.lstat(file.path)
        if not stat.S_ISREG(status.st_mode):
            return False
        attributes = stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid
        uid = os.geteuid() if file.uid < 0 else file.uid
        gid = status.st_gid if file.gid < 0 else file.gid
        return attributes == (file.mode, uid, gid) and files.read_regular(file.path, len(file.content)) == file.content
    except OSError:
        return False


def replace(new_files: Sequence[NewFile]) -> None:
    """Write files, in this order. Missing directories are created, one level of them. Raises FileProblem; then none has
    been replaced, unless it is a rename that failed.
    """
    with contextlib.ExitStack() as stack:
        directories = [stack.enter_context(_opened_directory(file)) for file in new_files]
        staged = list(zip(new_files, directories, strict=True))
        try:
            for file, directory in staged:
                with _translated(file.path):
                    _stage(file, directory)
            for file, directory in staged:
                with _translated(file.path):
                    os.rename(file.temporary, file.path.name, src_dir_fd=directory, dst_dir_fd=directory)
            for file, directory in staged:
                with _translated(file.path):
                    os.fsync(directory)
        except BaseException:
            # Whatever interrupts the work, no temporary file with a key must stay behind.
            for file, directory in staged:
                with contextlib.suppress(OSError):
                    os.unlink(file.temporary, dir_fd=directory)
            raise


def directory_problem(path: pathlib.Path, uid: int = -1) -> str:
    """Why files of `uid` must not be written to a directory; empty if they may. A directory that does not exist has the
    problems of the one above it.
    """
    directory = path if os.path.lexists(path) else path.parent
    try:
        handle = _open(directory)
    except OSError as error:
        return f"{directory}: {files.error_text(error)}"
    try:
        problem = _problem(directory, os.fstat(handle), uid)
        if not problem and not os.access(directory, os.W_OK | os.X_OK):
            problem = f"{directory} is not writable for user id {os.geteuid()}"
        return problem
    finally:
        os.close(handle)


def _open(directory: pathlib.Path) -> int:
    return os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


@contextlib.contextmanager
def _opened_directory(file: NewFile) -> Iterator[int]:
    directory = file.path.parent
    problem = directory_problem(directory, file.uid)
    if problem:
        raise FileProblem(f"{file.path} cannot be written: {problem}")
    with _translated(file.path):
        with contextlib.suppress(FileExistsError):
            os.mkdir(directory, _DIRECTORY_MODE)
            # Whatever the umask is: the files in it have modes of their own.
            os.chmod(directory, stat.S_IMODE(os.stat(directory).st_mode) | _DIRECTORY_MODE)
        handle = _open(directory)
    try:
        problem = _own_problem(directory, os.fstat(handle), _owners(file.uid))
        if problem:
            raise FileProblem(f"{file.path} cannot be written: {problem}")
        yield handle
    finally:
        os.close(handle)


def _stage(file: NewFile, directory: int) -> None:
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISDIR(os.stat(file.path.name, dir_fd=directory, follow_symlinks=False).st_mode):
            # Found before any file is replaced: a key without its certificate would be of no use.
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    with contextlib.suppress(FileNotFoundError):
        os.unlink(file.temporary, dir_fd=directory)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    handle = os.open(file.temporary, flags, 0o600, dir_fd=directory)
    with os.fdopen(handle, "wb") as stream:
        stream.write(file.content)
        stream.flush()
        if (file.uid, file.gid) != (-1, -1):
            os.fchown(handle, file.uid, file.gid)
        # After the owner: a change of owner may clear bits.
        os.fchmod(handle, file.mode)
        os.fsync(handle)


@contextlib.contextmanager
def _translated(path: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise FileProblem(f"{path} cannot be written: {files.error_text(error)}") from error


# --- who can change a directory -----------------------------------------------------------------------------------


def _owners(uid: int) -> set[int]:
    return {_ROOT, os.geteuid(), uid}


def _problem(directory: pathlib.Path, status: os.stat_result, uid: int) -> str:
    owners = _owners(uid)
    problem = _own_problem(directory, status, owners)
    for ancestor in pathlib.Path(os.path.realpath(directory)).parents:
        problem = problem or _own_problem(ancestor, os.stat(ancestor), owners)
    return problem


def _own_problem(directory: pathlib.Path, status: os.stat_result, owners: set[int]) -> str:
    # Without root's permissions there is nothing to gain: a container shares a directory of mode 0777 with others.
    if os.geteuid() != _ROOT:
        return ""
    if status.st_uid not in owners:
        return f"{directory} belongs to user id {status.st_uid}, who could send the file elsewhere"
    if status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX:
        mode = stat.S_IMODE(status.st_mode)
        return f"all other users can change {directory} (mode {mode:04o}), and could send the file elsewhere"
    return ""
