"""How secrets get on the disk, and who else can read them."""

from __future__ import annotations

import os
import pathlib
import stat

import pytest

from certplane import files
from certplane.errors import SetupError

ROOT, POD = 0, 65532


@pytest.mark.parametrize(
    ("mode", "owner", "reader", "told"),
    [
        (0o600, POD, POD, None),
        (0o400, ROOT, ROOT, None),
        (0o440, ROOT, POD, None),
        (0o640, ROOT, POD, None),
        (0o440, ROOT, ROOT, "mode 0440 gives access to its group"),
        (0o440, POD, POD, "mode 0440 gives access to its group"),
        (0o440, 1000, POD, "mode 0440 gives access to its group"),
        (0o460, ROOT, POD, "mode 0460 gives access to its group"),
        (0o444, ROOT, POD, "mode 0444 gives access to its group and everybody"),
        (0o404, ROOT, POD, "mode 0404 gives access to everybody"),
    ],
)
def test_a_key_is_for_one_reader(mode, owner, reader, told):
    """Its owner, or a user who is not root and reads a file of root's by its group: as a pod does its Secrets."""
    assert told == files.exposure_of(mode, owner=owner, reader=reader)


def test_a_file_is_judged_as_it_is(tmp_path):
    """The mode of the file counts."""
    path = tmp_path / "a.key"
    path.touch(mode=0o600)
    assert files.exposure(path) is None
    path.chmod(0o644)
    assert files.exposure(path) == "mode 0644 gives access to its group and everybody"


# --- our own files ------------------------------------------------------------------------------------------------


def test_a_secret_is_written_for_nobody_else(tmp_path):
    """Whatever the umask is, and over what was there."""
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
def test_what_was_planted_is_not_written_to(name, kind, tmp_path):
    """A link under the name of a key, or under the one that it has at first, sends nothing elsewhere."""
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
        with pytest.raises(SetupError, match="is a link, and would send"):
            files.write(own / "ca.key", b"secret")
        assert loot.exists() == (kind != "dangling")
        (own / name).unlink()
    files.write(own / "ca.key", b"secret")
    assert b"secret" == (own / "ca.key").read_bytes()
    assert not (own / "ca.key").is_symlink()
    assert (b"empty" if kind != "dangling" else None) == (loot.read_bytes() if loot.exists() else None)
    assert [own / "ca.key"] == list(own.iterdir())


def test_a_write_that_fails_leaves_nothing(tmp_path):
    """What was there stays, and no piece of a key lies around."""
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
    ("make", "told", "hint"),
    [
        (_link, "is a link", "rm "),
        (_dangling, "is a link", "rm "),
        (pathlib.Path.mkdir, "is no file", "move "),
        (os.mkfifo, "is no file", "move "),
        (_open_to_all, "others can read the key", "chmod 600 "),
        pytest.param(_foreign, "belongs to the user with number 65534", "chown ", marks=is_root),
    ],
)
def test_our_own_files_are_judged(make, told, hint, tmp_path):
    """Links, other things than files, and what others may use are refused; the hint says the command."""
    path = tmp_path / "ca.key"
    files.check_own(path, "the key")
    make(path)
    with pytest.raises(SetupError) as caught:
        files.check_own(path, "the key")
    assert told in caught.value.message
    assert hint in " ".join(caught.value.hints)
    assert str(path) in " ".join(caught.value.hints)


def test_what_others_may_read_they_may_not_change(tmp_path):
    """A certificate is for everybody, and nobody else's to write."""
    path = tmp_path / "ca.crt"
    path.touch()
    path.chmod(0o644)
    files.check_own(path, "the file", files.UNALTERED)
    path.chmod(0o664)
    with pytest.raises(SetupError, match=r"others can change the file .* mode 0664 gives access to its group"):
        files.check_own(path, "the file", files.UNALTERED)


def test_directories_are_judged(tmp_path):
    """Who can put files into ours chooses our keys."""
    path = tmp_path / "pki"
    path.mkdir(mode=0o700)
    files.check_directory(path, "the directory", is_own=True)
    path.chmod(0o777)
    with pytest.raises(SetupError, match="others can put files into") as caught:
        files.check_directory(path, "the directory")
    assert f"chmod 755 {path}" == caught.value.hints[0]
    path.chmod(0o755)
    link = tmp_path / "link"
    link.symlink_to(path)
    files.check_directory(link, "the directory")
    with pytest.raises(SetupError, match="is a link"):
        files.check_directory(link, "the directory", is_own=True)
    with pytest.raises(SetupError, match="cannot be used: No such file"):
        files.check_directory(tmp_path / "none", "the directory")


@pytest.mark.parametrize("below", [(), ("data",), ("data", "pki")])
def test_what_stands_where_a_directory_is_wanted_is_named(below, tmp_path):
    """A file, or a link that leads nowhere, under its name or above it."""
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "none")
    for place in (tmp_path / "file", tmp_path / "link") if not below else (tmp_path / "file",):
        path = place.joinpath(*below)
        with pytest.raises(SetupError) as caught:
            files.make_directory(path, "the directory")
        assert f"the directory {path} cannot be made: {place} is there, and is no directory" == caught.value.message
        assert ("name another directory",) == caught.value.hints


@is_root
def test_a_directory_of_somebody_else_is_refused(tmp_path):
    """Its owner can replace whatever is in it."""
    path = tmp_path / "pki"
    path.mkdir()
    os.chown(path, 65534, 65534)
    with pytest.raises(SetupError, match="belongs to the user with number 65534"):
        files.check_directory(path, "the directory")


def test_a_log_is_no_link_to_a_file(tmp_path):
    """But it may be one to a pipe or a device."""
    (tmp_path / "loot").touch()
    (tmp_path / "link").symlink_to(tmp_path / "loot")
    (tmp_path / "null").symlink_to("/dev/null")
    with pytest.raises(OSError, match="name the file that it leads to"):
        files.open_log(tmp_path / "link")
    os.close(files.open_log(tmp_path / "null"))
    os.close(files.open_log(tmp_path / "below" / "audit.log"))
    assert 0o600 == stat.S_IMODE((tmp_path / "below" / "audit.log").stat().st_mode)
    assert 0o700 == stat.S_IMODE((tmp_path / "below").stat().st_mode)


def test_a_log_is_no_pipe_that_nobody_reads(tmp_path):
    """To open it would wait for somebody who does; one that is read is written to as ever."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="No such device or address"):
        files.open_log(tmp_path / "pipe")

    reading = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    handle = files.open_log(tmp_path / "pipe")
    os.write(handle, b"record")
    assert (os.read(reading, 10), os.get_blocking(handle)) == (b"record", True)
    os.close(handle)
    os.close(reading)


def test_named_secrets_may_be_mounted(tmp_path, caplog):
    """As a Secret of a pod is: a link to a file that everybody in the pod can read. It is said."""
    data = tmp_path / "..data"
    data.mkdir()
    (data / "tls.key").write_bytes(b"secret")
    (data / "tls.key").chmod(0o644)
    link = tmp_path / "tls.key"
    link.symlink_to(pathlib.Path("..data", "tls.key"))
    assert b"secret" == files.read(link, "the key")
    files.warn_exposed(link)
    assert ["mode 0644 gives access to its group and everybody"] == [each.problem for each in caplog.records]
    (data / "tls.key").chmod(0o600)
    files.warn_exposed(link)
    assert 1 == len(caplog.records)


def test_what_the_file_system_refuses_is_told(tmp_path):
    """With what it was about, where, and what to do."""
    with pytest.raises(SetupError) as caught:
        files.read(tmp_path / "none", "the token file", "look again")
    assert f"the token file {tmp_path / 'none'} cannot be read: No such file or directory" == caught.value.message
    assert ("look again",) == caught.value.hints
    (tmp_path / "bytes").write_bytes(b"\xff")
    with pytest.raises(SetupError, match="is not UTF-8"):
        files.read_text(tmp_path / "bytes", "the token file")
