"""Files: how secrets get on the disk, whose they may be, and what the file system refuses, in words.

Two kinds of files are told apart. **Our own** (the data directory) are where we put them: a link in their place is
refused, and so is one that belongs to somebody else or that others may use, because whoever can put a file there, or a
link, can choose what we read and where we write. **Named** files (a flag says where) belong to whoever wrote the flag:
Kubernetes mounts Secrets as links to files of root with mode 0644, so links are followed, and what others can read is
for the caller to judge: `exposure` says who it is.

Who owns a directory can replace what is in it, so the owner of our directories is the user that we run as, or root.
All functions raise SetupError for what a person has to mend, but `exposure`, which raises OSError.
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

#: What nobody else may do with a secret, and with a file that they may read.
PRIVATE: Final = 0o077
UNALTERED: Final = 0o022
#: What nobody else may do with a log: a group may read it, as those that ship logs do.
LOG: Final = 0o027


@contextlib.contextmanager
def told(what: str, *hints: str) -> Iterator[None]:
    """Whatever the file system refuses in the block is a SetupError that says of what."""
    try:
        yield
    except OSError as error:
        where = f" ({error.filename})" if error.filename and str(error.filename) not in what else ""
        raise SetupError(f"{what}: {reason(error)}{where}", hints) from error


def reason(error: OSError) -> str:
    """What the file system said, without its number and the path."""
    return error.strerror or str(error)


def read(path: pathlib.Path, what: str, *hints: str) -> bytes:
    """What is in a named file. `what` it is stands in front of its path in the message."""
    with told(f"{what} {path} cannot be read", *(hints or ("check the path and who may read it",))):
        return path.read_bytes()


def read_text(path: pathlib.Path, what: str, *hints: str) -> str:
    """The text in a named file."""
    try:
        return read(path, what, *hints).decode("utf-8")
    except UnicodeDecodeError as error:
        raise SetupError(f"{what} {path} cannot be read: it is not UTF-8", hints) from error


# --- who else -----------------------------------------------------------------------------------------------------


def exposure(path: pathlib.Path) -> str | None:
    """Who else can read a named file: None if nobody, else a phrase for an error message. Raises OSError."""
    found = os.stat(path)
    return exposure_of(stat.S_IMODE(found.st_mode), owner=found.st_uid, reader=os.geteuid())


def warn_exposed(path: pathlib.Path | None) -> None:
    """Say who else can read a secret that a flag names. It may be right: a Secret that is mounted is so by default."""
    with contextlib.suppress(OSError):
        who = exposure(path) if path is not None else None
        if who is not None:
            _log.warning("others can read a secret file", extra={"path": path, "problem": who})


def exposure_of(mode: int, *, owner: int, reader: int) -> str | None:
    """The same of a file's mode, by the numbers of its owner and of the user who is to read it."""
    if mode & 0o077 == 0:
        return None
    # A pod that is not root gets its Secrets so: root's files, which the pod's group may read.
    if mode & 0o037 == 0 and owner == 0 != reader:
        return None
    return _gives(mode, 0o077)


def _gives(mode: int, forbidden: int) -> str:
    who = [name for bits, name in ((0o070, "its group"), (0o007, "everybody")) if mode & forbidden & bits]
    return f"mode {mode:04o} gives access to {' and '.join(who)}"


def check_own(path: pathlib.Path, what: str, forbidden: int = PRIVATE) -> None:
    """Judge a file of our own, if it is there: a file and no link, ours or root's, and without the `forbidden` bits."""
    with told(f"{what} {path} cannot be used", "check who may use it and the directories above it"):
        try:
            found = os.lstat(path)
        except FileNotFoundError:
            return
    if stat.S_ISLNK(found.st_mode):
        raise SetupError(
            f"{what} {path} is a link: whoever made it chooses what is read there, and where is written",
            (f"put the file itself there: rm {path}, and copy what it led to",),
        )
    if not stat.S_ISREG(found.st_mode):
        raise SetupError(f"{what} {path} is no file", (f"move {path} away",))
    _check_owner(path, what, found)
    mode = stat.S_IMODE(found.st_mode)
    if mode & forbidden:
        can = "read" if forbidden & 0o004 else "change"
        raise SetupError(
            f"others can {can} {what} {path}: {_gives(mode, forbidden)}", (f"chmod {mode & ~forbidden:o} {path}",)
        )
    if not os.access(path, os.R_OK):
        raise SetupError(f"{what} {path} cannot be read", (f"chmod u+r {path}, or run certplane as its owner",))


def check_directory(path: pathlib.Path, what: str, *, is_own: bool = False) -> None:
    """Judge a directory in which our files are: nobody but us and root may put anything into it. One that `is_own` is
    no link; where a flag says that it is, a link may lead there.
    """
    with told(f"{what} {path} cannot be used", "check who may use it and the directories above it"):
        found = os.lstat(path)
        if is_own and stat.S_ISLNK(found.st_mode):
            raise SetupError(
                f"{what} {path} is a link: whoever made it chooses what is read there, and where is written",
                ("move the directory itself there",),
            )
        found = os.stat(path)
        if not stat.S_ISDIR(found.st_mode):
            raise SetupError(f"{what} {path} is no directory", (f"name another one, or move {path} away",))
        with os.scandir(path):
            pass
    _check_owner(path, what, found)
    mode = stat.S_IMODE(found.st_mode)
    # A volume of a pod is so: root's, and of the pod's group.
    forbidden = 0o002 if found.st_uid == 0 != os.geteuid() else 0o022
    if mode & forbidden:
        raise SetupError(
            f"others can put files into {what} {path}: {_gives(mode, forbidden)}",
            (f"chmod {mode & ~forbidden:o} {path}", "or name a directory below it, which certplane makes for itself"),
        )


def _check_owner(path: pathlib.Path, what: str, found: os.stat_result) -> None:
    if found.st_uid not in (0, os.geteuid()):
        raise SetupError(
            f"{what} {path} belongs to the user with number {found.st_uid}, who can replace what is there",
            (f"run certplane as that user, or chown {os.geteuid()} {path}",),
        )


# --- writing ------------------------------------------------------------------------------------------------------


def make_directory(path: pathlib.Path, what: str) -> None:
    """Have a directory, for us alone if it has to be made."""
    with told(f"{what} {path} cannot be made", "check who may write to the directory above it"):
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            place = next((each for each in (path, *path.parents) if os.path.lexists(each) and not each.is_dir()), path)
            raise SetupError(
                f"{what} {path} cannot be made: {place} is there, and is no directory",
                ("name another directory",),
            ) from error


def discard(path: pathlib.Path) -> None:
    """Have nothing under a name, whatever it was; nothing is done to what a link leads to. Raises OSError."""
    try:
        if stat.S_ISDIR(os.lstat(path).st_mode):
            shutil.rmtree(path)
        else:
            path.unlink()
    except FileNotFoundError:
        return


def rename(directory: pathlib.Path, wanted: pathlib.Path) -> None:
    """Give a directory that is complete its name, durably. Raises OSError."""
    directory.rename(wanted)
    above = os.open(wanted.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(above)
    finally:
        os.close(above)


def write(path: pathlib.Path, content: bytes, mode: int = 0o600) -> None:
    """Have exactly this content under a name, durably. Nobody sees half of it, nor any of it before it has its mode,
    and a link under that name is replaced, never followed. A link under the name that it has before is refused.
    """
    with told(f"{path} cannot be written", "check who may write to the directory, and whether the disk is full"):
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _write(directory, path, content, mode)
            os.fsync(directory)
        finally:
            os.close(directory)


def _write(directory: int, path: pathlib.Path, content: bytes, mode: int) -> None:
    # One name for all times, so that a crash leaves one file behind and not many; O_EXCL, so that it is ours.
    new = f".{path.name}.new"
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISLNK(os.stat(new, dir_fd=directory, follow_symlinks=False).st_mode):
            # We never make one: somebody else can write to the directory, and wanted the secret elsewhere.
            raise SetupError(
                f"{path.with_name(new)} is a link, and would send {path} elsewhere",
                (f"see who else can write to {path.parent}, then rm {path.with_name(new)}",),
            )
        os.unlink(new, dir_fd=directory)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    handle = os.open(new, flags, 0o600, dir_fd=directory)
    try:
        with os.fdopen(handle, "wb") as sink:
            os.fchmod(handle, mode)
            sink.write(content)
            sink.flush()
            os.fsync(handle)
            written = os.fstat(handle)
        os.rename(new, path.name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(new, dir_fd=directory)
        raise
    there = os.stat(path.name, dir_fd=directory, follow_symlinks=False)
    if (there.st_dev, there.st_ino) != (written.st_dev, written.st_ino):
        raise SetupError(f"somebody replaced {path} while it was written", ("see who else can write to the directory",))


def open_log(path: pathlib.Path) -> int:
    """A descriptor that appends to a log, which is made for us alone if it is not there. A link is followed to a
    device or a pipe, such as /dev/stdout, and to no file. Raises OSError, also for a pipe that nobody reads.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Without O_NONBLOCK a pipe is opened when somebody reads it, and nothing could end the waiting.
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
        found = os.stat(path)
        if stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode):
            raise OSError(errno.ELOOP, "it is a link: name the file that it leads to", str(path)) from error
        return os.open(path, flags)
