"""Writing secrets, and checks of owner and mode."""

from __future__ import annotations

import os
import pathlib
import stat

import pytest

from certplane import files
from certplane.errors import SetupError

ROOT, POD = 0, 65532


@pytest.mark.parametrize(
    ("mode", "owner", "reader", "problem"),
    [
        (0o600, POD, POD, None),
        (0o400, ROOT, ROOT, None),
        (0o440, ROOT, POD, None),
        (0o640, ROOT, POD, None),
        (0o440, ROOT, ROOT, "mode 0440 gives access to its group"),
        (0o440, POD, POD, "mode 0440 gives access to its group"),
        (0o440, 1000, POD, "mode 0440 gives access to its group"),
        (0o460, ROOT, POD, "mode 0460 gives access to its group"),
        (0o444, ROOT, POD, "mode 0444 gives access to its group and all other users"),
        (0o404, ROOT, POD, "mode 0404 gives access to all other users"),
    ],
)
def test_a_key_has_one_reader(mode, owner, reader, problem):
    """Its owner; or a user other than root who reads a file of root by its group, like a pod its Secrets."""
    assert problem == files.mode_readable_by_others(mode, owner=owner, reader=reader)


def test_the_mode_of_the_file_counts(tmp_path):
    """As it is on disk."""
    path = tmp_path / "a.key"
    path.touch(mode=0o600)
    assert files.readable_by_others(path) is None
    path.chmod(0o644)
    assert files.readable_by_others(path) == "mode 0644 gives access to its group and all other users"


# --- own files ----------------------------------------------------------------------------------------------------


def test_a_secret_is_written_with_its_mode(tmp_path):
    """The umask does not change the mode, and an existing file gets it too."""
    path = tmp_path / "a.key"
    before = os.umask(0)
    try:
        files.write(path, b"one")
        files.write(path, b"two", 0o644)
    finally:
        os.umask(before)
    assert b"two" == path.read_bytes()
    assert 0o644 == stat.S_IMODE(path.stat().st_mode)
    assert [path] == list(tmp_path.iterdir())


@pytest.mark.parametrize("name", [".ca.key.new", "ca.key"])
@pytest.mark.parametrize("kind", ["link", "dangling", "file"])
def test_nothing_is_written_through_a_link(name, kind, tmp_path):
    """A link at the path of a key, or of its temporary file, does not redirect the key."""
    loot = tmp_path / "loot"
    own = tmp_path / "own"
    own.mkdir()
    if kind != "dangling":
        loot.write_bytes(b"empty")
    if kind == "file":
        (own / name).hardlink_to(loot)
    else:
        (own / name).symlink_to(loot)
    if name == ".ca.key.new" and kind != "file":
        with pytest.raises(SetupError, match="is a symbolic link, which would redirect"):
            files.write(own / "ca.key", b"secret")
        assert loot.exists() == (kind != "dangling")
        (own / name).unlink()
    files.write(own / "ca.key", b"secret")
    assert b"secret" == (own / "ca.key").read_bytes()
    assert not (own / "ca.key").is_symlink()
    assert (b"empty" if kind != "dangling" else None) == (loot.read_bytes() if loot.exists() else None)
    assert [own / "ca.key"] == list(own.iterdir())


def test_a_write_that_fails_leaves_nothing(tmp_path):
    """The existing file stays, and no part of the key is left."""
    (tmp_path / "a.key").mkdir()
    with pytest.raises(SetupError) as caught:
        files.write(tmp_path / "a.key", b"secret")
    assert str(tmp_path / "a.key") in caught.value.message
    assert [tmp_path / "a.key"] == list(tmp_path.iterdir())


def _link(path):
    path.with_name("elsewhere").write_bytes(b"")
    path.symlink_to(path.with_name("elsewhere"))


def _dangling(path):
    path.symlink_to(path.with_name("nowhere"))


def _open_to_all(path):
    path.touch()
    path.chmod(0o644)


def _foreign(path):
    path.touch(mode=0o600)
    os.chown(path, 65534, 65534)


is_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


@pytest.mark.parametrize(
    ("create", "problem", "hint"),
    [
        (_link, "is a symbolic link", "replace the link"),
        (_dangling, "is a symbolic link", "replace the link"),
        (pathlib.Path.mkdir, "is not a regular file", "move "),
        (os.mkfifo, "is not a regular file", "move "),
        (_open_to_all, "other users can read the key", "chmod 600 "),
        pytest.param(_foreign, "belongs to user id 65534", "chown ", marks=is_root),
    ],
)
def test_own_files_are_checked(create, problem, hint, tmp_path):
    """Links, special files, and files that other users own or can access are refused; the hint is the command."""
    path = tmp_path / "ca.key"
    files.check_data_file(path, "the key")
    create(path)
    with pytest.raises(SetupError) as caught:
        files.check_data_file(path, "the key")
    assert problem in caught.value.message
    assert hint in " ".join(caught.value.hints)
    assert str(path) in " ".join(caught.value.hints)


def test_other_users_may_read_a_certificate_but_not_change_it(tmp_path):
    """Also by group."""
    path = tmp_path / "ca.crt"
    path.touch()
    path.chmod(0o644)
    files.check_data_file(path, "the file", files.READ_ONLY)
    path.chmod(0o664)
    with pytest.raises(SetupError, match=r"other users can change the file .* mode 0664 gives access to its group"):
        files.check_data_file(path, "the file", files.READ_ONLY)


def test_directories_are_checked(tmp_path):
    """A user who can create files in our directories can choose our keys."""
    path = tmp_path / "pki"
    path.mkdir(mode=0o700)
    files.check_directory(path, "the directory", is_own=True)
    path.chmod(0o777)
    with pytest.raises(SetupError, match="other users can create files in") as caught:
        files.check_directory(path, "the directory")
    assert f"chmod 755 {path}" == caught.value.hints[0]
    path.chmod(0o755)
    link = tmp_path / "link"
    link.symlink_to(path)
    files.check_directory(link, "the directory")
    with pytest.raises(SetupError, match="is a symbolic link"):
        files.check_directory(link, "the directory", is_own=True)
    with pytest.raises(SetupError, match="cannot be used: No such file"):
        files.check_directory(tmp_path / "none", "the directory")


@pytest.mark.parametrize("below", [(), ("data",), ("data", "pki")])
def test_a_file_at_the_path_of_a_directory_is_named(below, tmp_path):
    """A file or a dangling link, at the path or above it."""
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "none")
    for place in (tmp_path / "file", tmp_path / "link") if not below else (tmp_path / "file",):
        path = place.joinpath(*below)
        with pytest.raises(SetupError) as caught:
            files.make_directory(path, "the directory")
        assert f"the directory {path} cannot be created: {place} is not a directory" == caught.value.message
        assert ("name another directory",) == caught.value.hints


@is_root
def test_a_directory_of_another_user_is_refused(tmp_path):
    """Its owner can replace the files in it."""
    path = tmp_path / "pki"
    path.mkdir()
    os.chown(path, 65534, 65534)
    with pytest.raises(SetupError, match="belongs to user id 65534"):
        files.check_directory(path, "the directory")


def test_a_log_must_not_be_a_link_to_a_file(tmp_path):
    """A link to a pipe or a device is allowed."""
    (tmp_path / "loot").touch()
    (tmp_path / "link").symlink_to(tmp_path / "loot")
    (tmp_path / "null").symlink_to("/dev/null")
    with pytest.raises(OSError, match="name its target"):
        files.open_log(tmp_path / "link")
    os.close(files.open_log(tmp_path / "null"))
    os.close(files.open_log(tmp_path / "below" / "audit.log"))
    assert 0o600 == stat.S_IMODE((tmp_path / "below" / "audit.log").stat().st_mode)
    assert 0o700 == stat.S_IMODE((tmp_path / "below").stat().st_mode)


def test_a_log_must_not_be_a_pipe_without_a_reader(tmp_path):
    """Opening it would block. A pipe with a reader is written to in blocking mode."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="No such device or address"):
        files.open_log(tmp_path / "pipe")

    reading = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    handle = files.open_log(tmp_path / "pipe")
    os.write(handle, b"record")
    assert (os.read(reading, 10), os.get_blocking(handle)) == (b"record", True)
    os.close(handle)
    os.close(reading)


def test_a_mounted_secret_is_read_with_a_warning(tmp_path, caplog):
    """A Secret of a pod is a link to a file that everybody in the pod can read."""
    data = tmp_path / "..data"
    data.mkdir()
    (data / "tls.key").write_bytes(b"secret")
    (data / "tls.key").chmod(0o644)
    link = tmp_path / "tls.key"
    link.symlink_to(pathlib.Path("..data", "tls.key"))
    assert b"secret" == files.read(link, "the key")
    files.warn_if_readable(link)
    assert ["mode 0644 gives access to its group and all other users"] == [record.error for record in caplog.records]
    (data / "tls.key").chmod(0o600)
    files.warn_if_readable(link)
    assert 1 == len(caplog.records)


def test_an_error_of_the_file_system_names_the_file(tmp_path):
    """With its description, its path and a hint."""
    with pytest.raises(SetupError) as caught:
        files.read(tmp_path / "none", "the token file", "look again")
    assert f"the token file {tmp_path / 'none'} cannot be read: No such file or directory" == caught.value.message
    assert ("look again",) == caught.value.hints
    (tmp_path / "bytes").write_bytes(b"\xff")
    with pytest.raises(SetupError, match="is not UTF-8"):
        files.read_text(tmp_path / "bytes", "the token file")


# --- bounded reads ------------------------------------------------------------------------------------------------


def test_read_regular_follows_links_and_limits_the_size(tmp_path):
    """A file of exactly the limit is read; one byte more is too large."""
    file = tmp_path / "file"
    file.write_bytes(b"12345")
    link = tmp_path / "link"
    link.symlink_to(file)
    assert b"12345" == files.read_regular(link, 5)
    with pytest.raises(files.TooLargeError, match="larger than 4 bytes"):
        files.read_regular(file, 4)


@pytest.mark.parametrize("kind", ["directory", "pipe", "device"])
def test_read_regular_refuses_what_could_block_or_never_end(tmp_path, kind):
    """A pipe without a writer would block; a device has no end."""
    path = tmp_path / "path"
    if kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path = pathlib.Path("/dev/zero")
    with pytest.raises(files.NotRegularError):
        files.read_regular(path, 5)


def test_read_regular_ends_in_a_cycle_of_links(tmp_path):
    """The operating system's own error."""
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match="symbolic links"):
        files.read_regular(tmp_path / "a", 5)
