"""Files: writing secrets, checking owner and mode, and turning errors of the file system into sentences.

There are two kinds of files. **Data files** are in the data directory: a symbolic link in their place is refused, and
so is a file that another user owns or can access, because whoever can put a file or a link there chooses what we read
and where we write. **Named** files are given by a flag: Kubernetes mounts Secrets as links to files of root with mode
0644, so links are followed, and the caller decides whether other users may read them: `readable_by_others` says who
can.

The owner of a directory can replace the files in it, so the directories of data files must belong to the user that runs
the process, or to root. All functions raise SetupError for what an operator must fix, except `readable_by_others`,
which raises OSError.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import pathlib
import shutil
import stat
from collections.abc import Iterator
from typing import Final

from certplane.errors import SetupError

_log = logging.getLogger("certplane")

#: Forbidden mode bits: of a secret, of a file that others may read, and of a log, which a group may read to ship it.
PRIVATE: Final = 0o077
READ_ONLY: Final = 0o022
GROUP_READABLE: Final = 0o027


@contextlib.contextmanager
def as_setup_error(message: str, *hints: str) -> Iterator[None]:
    """Turn an OSError in the block into a SetupError: `message`, the reason, and the path unless the message has it."""
    try:
        yield
    except OSError as error:
        path = f" ({error.filename})" if error.filename and str(error.filename) not in message else ""
        raise SetupError(f"{message}: {error_text(error)}{path}", hints) from error


def error_text(error: OSError) -> str:
    """The reason of an error of the file system, without its number and path."""
    return error.strerror or str(error)


def read(path: pathlib.Path, what: str, *hints: str) -> bytes:
    """The content of a named file. `what` describes it in errors, before the path: "the CA certificate"."""
    with as_setup_error(f"{what} {path} cannot be read", *(hints or ("check the path and its permissions",))):
        return path.read_bytes()


def read_text(path: pathlib.Path, what: str, *hints: str) -> str:
    """The content of a named file, as UTF-8 text."""
    try:
        return read(path, what, *hints).decode("utf-8")
    except UnicodeDecodeError as error:
        raise SetupError(f"{what} {path} cannot be read: it is not UTF-8", hints) from error


class NotRegularError(OSError):
    """A directory, device, pipe or socket where a regular file is required."""


class TooLargeError(OSError):
    """A file that is larger than its reader accepts."""


def read_regular(path: pathlib.Path, limit: int) -> bytes:
    """The content of a regular file of at most `limit` bytes. Never blocks on a pipe and never reads a device, so it
    can read files that other users may replace. Links are followed. Raises OSError: NotRegularError, TooLargeError, and
    those of the file system.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise NotRegularError(errno.EINVAL, "it is not a regular file", str(path))
        # One byte more than allowed: the size in the status is no limit for a file that grows.
        with os.fdopen(handle, "rb", closefd=False) as file:
            content = file.read(limit + 1)
    finally:
        os.close(handle)
    if len(content) > limit:
        raise TooLargeError(errno.EFBIG, f"it is larger than {limit} bytes", str(path))
    return content


# --- owner and mode -----------------------------------------------------------------------------------------------

_PERMISSIONS_HINT: Final = "check its permissions and those of its parent directories"
_LINK_PROBLEM: Final = "is a symbolic link: its owner could choose what certplane reads and where it writes"


def readable_by_others(path: pathlib.Path) -> str | None:
    """Which other users can read a named file: None if none can, else a phrase for an error message. Raises OSError."""
    status = os.stat(path)
    return mode_readable_by_others(stat.S_IMODE(status.st_mode), owner=status.st_uid, reader=os.geteuid())


def warn_if_readable(path: pathlib.Path | None) -> None:
    """Log who else can read a secret that a flag names. Only a warning: a mounted Secret is readable by default."""
    with contextlib.suppress(OSError):
        problem = readable_by_others(path) if path is not None else None
        if problem is not None:
            _log.warning("other users can read a secret file", extra={"path": path, "error": problem})


def mode_readable_by_others(mode: int, *, owner: int, reader: int) -> str | None:
    """`readable_by_others` for a file's mode. `owner` and `reader` are user ids: of the file's owner, and of this
    process.
    """
    if mode & 0o077 == 0:
        return None
    # A pod that does not run as root gets its Secrets like this: files of root, readable by the pod's group.
    if mode & 0o037 == 0 and owner == 0 != reader:
        return None
    return _access_text(mode, 0o077)


def _access_text(mode: int, forbidden: int) -> str:
    who = [name for bits, name in ((0o070, "its group"), (0o007, "all other users")) if mode & forbidden & bits]
    return f"mode {mode:04o} gives access to {' and '.join(who)}"


def check_data_file(path: pathlib.Path, what: str, forbidden: int = PRIVATE) -> None:
    """Check a data file, if it exists: a regular file, no link, owned by us or root, without the `forbidden` bits."""
    with as_setup_error(f"{what} {path} cannot be used", _PERMISSIONS_HINT):
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            return
    if stat.S_ISLNK(status.st_mode):
        raise SetupError(
            f"{what} {path} {_LINK_PROBLEM}", (f"replace the link by the file itself: rm {path}, and copy its target",)
        )
    if not stat.S_ISREG(status.st_mode):
        raise SetupError(f"{what} {path} is not a regular file", (f"move {path} away",))
    _check_owner(path, what, status)
    mode = stat.S_IMODE(status.st_mode)
    if mode & forbidden:
        verb = "read" if forbidden & 0o004 else "change"
        raise SetupError(
            f"other users can {verb} {what} {path}: {_access_text(mode, forbidden)}",
            (f"chmod {mode & ~forbidden:o} {path}",),
        )
    if not os.access(path, os.R_OK):
        raise SetupError(f"{what} {path} cannot be read", (f"chmod u+r {path}, or run certplane as its owner",))


def check_directory(path: pathlib.Path, what: str, *, is_own: bool = False) -> None:
    """Check a directory that holds data files: only its owner and root may write to it. With `is_own` it must not be a
    symbolic link; a directory that a flag names may be one.
    """
    with as_setup_error(f"{what} {path} cannot be used", _PERMISSIONS_HINT):
        status = os.lstat(path)
        if is_own and stat.S_ISLNK(status.st_mode):
            raise SetupError(f"{what} {path} {_LINK_PROBLEM}", ("replace the link by the directory itself",))
        status = os.stat(path)
        if not stat.S_ISDIR(status.st_mode):
            raise SetupError(f"{what} {path} is not a directory", (f"name another one, or move {path} away",))
        with os.scandir(path):
            pass
    _check_owner(path, what, status)
    mode = stat.S_IMODE(status.st_mode)
    # The volume of a pod that does not run as root belongs to root, and its group, the pod's, may write.
    forbidden = 0o002 if status.st_uid == 0 != os.geteuid() else 0o022
    if mode & forbidden:
        raise SetupError(
            f"other users can create files in {what} {path}: {_access_text(mode, forbidden)}",
            (f"chmod {mode & ~forbidden:o} {path}", "or name a directory below it, which certplane creates"),
        )


def _check_owner(path: pathlib.Path, what: str, status: os.stat_result) -> None:
    if status.st_uid not in (0, os.geteuid()):
        raise SetupError(
            f"{what} {path} belongs to user id {status.st_uid}, who could replace it",
            (f"run certplane as that user, or chown {os.geteuid()} {path}",),
        )


# --- writing ------------------------------------------------------------------------------------------------------


def make_directory(path: pathlib.Path, what: str) -> None:
    """Create a directory with mode 0700, unless it exists."""
    with as_setup_error(f"{what} {path} cannot be created", "check who may write to the directory above it"):
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            ancestors = (path, *path.parents)
            obstacle = next((place for place in ancestors if os.path.lexists(place) and not place.is_dir()), path)
            raise SetupError(
                f"{what} {path} cannot be created: {obstacle} is not a directory", ("name another directory",)
            ) from error


def discard(path: pathlib.Path) -> None:
    """Remove a file, link or directory tree, if it exists; a link's target is not touched. Raises OSError."""
    try:
        if stat.S_ISDIR(os.lstat(path).st_mode):
            shutil.rmtree(path)
        else:
            path.unlink()
    except FileNotFoundError:
        return


def rename(directory: pathlib.Path, target: pathlib.Path) -> None:
    """Rename a complete directory, durably. Raises OSError."""
    directory.rename(target)
    parent = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(parent)
    finally:
        os.close(parent)


def write(path: pathlib.Path, content: bytes, mode: int = 0o600, *, owner: tuple[int, int] | None = None) -> None:
    """Write a file atomically and durably. No reader sees part of the content, or any of it before the file has its
    mode and its `owner`, a user and a group id, by default those of the process. A link at `path` is replaced, never
    followed; a link at the name of the temporary file is refused.
    """
    with as_setup_error(f"{path} cannot be written", "check who may write to the directory, and the free disk space"):
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _write(directory, path, content, mode, owner)
            os.fsync(directory)
        finally:
            os.close(directory)


def _write(directory: int, path: pathlib.Path, content: bytes, mode: int, owner: tuple[int, int] | None) -> None:
    # A fixed name, so that crashes leave one file behind and not many; O_EXCL, so that the file is ours.
    temporary = f".{path.name}.new"
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISLNK(os.stat(temporary, dir_fd=directory, follow_symlinks=False).st_mode):
            # We never create a link: another user can write to the directory, and tried to redirect the secret.
            raise SetupError(
                f"{path.with_name(temporary)} is a symbolic link, which would redirect {path}",
                (f"find out who else can write to {path.parent}, then rm {path.with_name(temporary)}",),
            )
        os.unlink(temporary, dir_fd=directory)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    handle = os.open(temporary, flags, 0o600, dir_fd=directory)
    try:
        with os.fdopen(handle, "wb") as file:
            if owner is not None:
                os.fchown(handle, *owner)
            os.fchmod(handle, mode)
            file.write(content)
            file.flush()
            os.fsync(handle)
            written = os.fstat(handle)
        os.rename(temporary, path.name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        # Whatever interrupts the work, no temporary file must stay behind.
        with contextlib.suppress(OSError):
            os.unlink(temporary, dir_fd=directory)
        raise
    renamed = os.stat(path.name, dir_fd=directory, follow_symlinks=False)
    if (renamed.st_dev, renamed.st_ino) != (written.st_dev, written.st_ino):
        raise SetupError(
            f"another process replaced {path} while it was written", ("find out who else can write to the directory",)
        )


def open_log(path: pathlib.Path) -> int:
    """A descriptor that appends to a log file, which is created with mode 0600 if it does not exist. A link is followed
    to a device or pipe, such as /dev/stdout, but not to a file. Raises OSError, also for a pipe without a reader.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Without O_NONBLOCK, opening a pipe would block until there is a reader.
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK
    handle = _open_log(path, flags)
    os.set_blocking(handle, True)
    return handle


def _open_log(path: pathlib.Path, flags: int) -> int:
    try:
        return os.open(path, flags | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        status = os.stat(path)
        if stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode):
            raise OSError(errno.ELOOP, "it is a symbolic link; name its target", str(path)) from error
        return os.open(path, flags)
