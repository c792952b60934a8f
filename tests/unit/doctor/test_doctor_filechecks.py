"""Owners and modes of files and directories."""

from __future__ import annotations

import os
import stat

import pytest

from certplane.doctor import filechecks
from certplane.doctor.filechecks import Kind, PathFacts
from certplane.doctor.findings import Severity

USER, ROOT, STRANGER = 1000, 0, 1001


def facts(kind=Kind.SECRET, mode=0o600, owner=USER, **others):
    type_ = stat.S_IFDIR if kind is Kind.DIRECTORY else stat.S_IFREG
    return PathFacts("/d/x y", "the key", kind, type_ | mode, owner, **others)


def found(*paths):
    """The id and severity of what is found, without what is right."""
    return [(f.id, f.severity.name) for f in filechecks.check(paths, USER) if f.severity > Severity.OK]


@pytest.mark.parametrize(
    ("kind", "mode"),
    [(Kind.SECRET, 0o600), (Kind.SECRET, 0o400), (Kind.PUBLIC, 0o644), (Kind.LOG, 0o640), (Kind.DIRECTORY, 0o755)],
)
@pytest.mark.parametrize("owner", [USER, ROOT])
@pytest.mark.parametrize("is_own", [True, False])
def test_right_modes(kind, mode, owner, is_own):
    """The modes that certplane and kubeadm create are right, for files of the user and of root."""
    (ok,) = filechecks.check([facts(kind, mode, owner, is_own=is_own)], USER)
    assert (ok.id, ok.severity) == ("file-mode", Severity.OK)


@pytest.mark.parametrize(
    ("kind", "mode", "id_"),
    [
        (Kind.SECRET, 0o604, "file-mode"),
        (Kind.SECRET, 0o602, "file-mode"),
        (Kind.PUBLIC, 0o646, "file-mode"),
        (Kind.LOG, 0o644, "log-mode"),
        (Kind.DIRECTORY, 0o757, "directory-mode"),
    ],
)
@pytest.mark.parametrize("is_own", [True, False])
def test_access_of_all_users_is_an_error(kind, mode, id_, is_own):
    """Wherever the file is."""
    assert found(facts(kind, mode, is_own=is_own)) == [(id_, "ERROR")]


@pytest.mark.parametrize(
    ("kind", "mode", "id_"),
    [
        (Kind.SECRET, 0o640, "file-mode"),
        (Kind.PUBLIC, 0o664, "file-mode"),
        (Kind.LOG, 0o660, "log-mode"),
        (Kind.DIRECTORY, 0o775, "directory-mode"),
    ],
)
def test_access_of_a_group(kind, mode, id_):
    """An error in a data directory, as the server refuses to start; else a warning."""
    assert found(facts(kind, mode, is_own=True)) == [(id_, "ERROR")]
    assert found(facts(kind, mode)) == [(id_, "WARNING")]


def test_a_mounted_secret_is_right():
    """A pod that does not run as root gets files of root that its group may read."""
    assert found(facts(mode=0o440, owner=ROOT)) == []
    assert found(facts(mode=0o444, owner=ROOT)) == [("file-mode", "ERROR")]


def test_a_sticky_directory_is_right_above_a_data_directory_only():
    """In /tmp nobody can replace a directory of somebody else."""
    assert found(facts(Kind.DIRECTORY, 0o1777, ROOT)) == []
    assert found(facts(Kind.DIRECTORY, 0o1777, ROOT, is_own=True)) == [("directory-mode", "ERROR")]


def test_the_commands_can_be_pasted():
    """The path is quoted, and the new mode has no bit that the old one had not."""
    (finding,) = filechecks.check([facts(mode=0o447)], USER)
    assert finding.fix[0] == "chmod 400 '/d/x y'"
    assert finding.what == "its group and all other users can read the key /d/x y: its mode is 0447"
    assert "consider the key compromised" in finding.fix[1]


def test_another_owner_is_an_error():
    """The owner can replace the file."""
    (finding,) = filechecks.check([facts(owner=STRANGER)], USER)
    assert (finding.id, finding.severity, finding.fix) == ("file-owner", Severity.ERROR, ("chown 1000 '/d/x y'",))


def test_a_missing_file_is_an_error_if_it_is_required():
    """The others are created by the server, or are optional."""
    assert found(PathFacts("/x", "the key", Kind.SECRET)) == []
    assert found(PathFacts("/x", "the key", Kind.SECRET, is_required=True)) == [("file-missing", "ERROR")]


def test_what_cannot_be_examined_is_a_warning():
    """The rest is still checked."""
    paths = [PathFacts("/x", "the key", Kind.SECRET, problem="Permission denied"), facts(mode=0o644)]
    assert found(*paths) == [("file-access", "WARNING"), ("file-mode", "ERROR")]
    assert found(facts(is_readable=False)) == [("file-access", "WARNING")]


def test_links_and_other_types(tmp_path):
    """A link in a data directory is an error, elsewhere it is followed; a directory is no file."""
    (tmp_path / "target").write_text("x")
    (tmp_path / "target").chmod(0o600)
    (tmp_path / "link").symlink_to("target")
    link = filechecks.look(tmp_path / "link", "the key", Kind.SECRET, is_own=True)
    followed = filechecks.look(tmp_path / "link", "the key", Kind.SECRET)
    directory = filechecks.look(tmp_path, "the key", Kind.SECRET)
    user = os.geteuid()
    assert [finding.id for finding in filechecks.check([link], user)] == ["file-kind"]
    assert [finding.severity for finding in filechecks.check([followed], user)] == [Severity.OK]
    assert [finding.id for finding in filechecks.check([directory], user)] == ["file-kind"]


@pytest.mark.parametrize("path", ["/nowhere/x", "/dev/null/x"])
def test_looking_at_a_path_never_fails(path):
    """A path that does not exist, and one below a file."""
    assert filechecks.look(path, "the key", Kind.SECRET).mode is None
    assert filechecks.look("a\0b", "the key", Kind.SECRET).problem
