"""A configuration is made anew when its files have changed."""

from __future__ import annotations

import os

import pytest

from certplane import errors
from certplane.client import configfiles


def load_upper(path):
    """Loads the text of a file in capital letters; refuses digits."""

    def load(sources):
        try:
            text = sources.read(path).decode()
        except OSError as error:
            raise errors.SetupError(error.strerror) from error
        if text.isdigit():
            raise errors.SetupError(f"digits: {text}")
        return text.upper()

    return load


def test_new_content_is_used_whatever_its_modification_time(tmp_path):
    """Mounts and copies preserve it, and the size may be the same."""
    path = tmp_path / "file"
    path.write_text("abc")
    before = path.stat()
    reloaded = configfiles.Reloaded(load_upper(path))
    path.write_text("xyz")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert reloaded.current() == "XYZ"


def test_unchanged_files_are_not_loaded_again(tmp_path):
    """Neither the ones in use, nor those that were refused: to parse a kubeconfig takes milliseconds."""
    path = tmp_path / "file"
    path.write_text("abc")
    loads = []
    load = load_upper(path)
    reloaded = configfiles.Reloaded(lambda sources: loads.append(1) or load(sources))
    path.write_text("1")
    assert [reloaded.current() for _ in range(5)] == ["ABC"] * 5
    assert len(loads) == 2


def test_each_problem_is_logged_once_and_so_is_its_end(tmp_path, caplog):
    """If a second check finds it too: a file may just be written."""
    caplog.set_level("INFO")
    path = tmp_path / "file"
    path.write_text("abc")
    reloaded = configfiles.Reloaded(load_upper(path))

    def logged():
        lines = [f"{record.levelname} {getattr(record, 'error', record.message)}" for record in caplog.records]
        caplog.clear()
        return lines

    path.write_text("1")
    reloaded.current()
    assert logged() == []
    reloaded.current()
    reloaded.current()
    assert logged() == ["ERROR digits: 1"]
    path.unlink()
    reloaded.current()
    reloaded.current()
    assert logged() == ["ERROR No such file or directory"]
    path.write_text("abc")
    assert reloaded.current() == "ABC"
    assert logged() == ["INFO client configuration unchanged again; the reload problem is resolved"]
    path.write_text("new")
    assert reloaded.current() == "NEW"
    assert logged() == ["INFO client configuration reloaded"]


def test_a_file_is_read_once_for_a_configuration(tmp_path):
    """A certificate and a key in one file are of the same moment."""
    path = tmp_path / "file"
    path.write_text("a")
    sources = configfiles.ConfigFiles()
    sources.read(path)
    path.write_text("b")
    assert sources.read(path) == b"a"
    assert sources.have_changed()


def test_endless_files_are_refused(tmp_path):
    """The size is limited for files that grow as well."""
    path = tmp_path / "file"
    with path.open("wb") as file:
        file.truncate(configfiles._MAX_FILE + 1)
    for endless in (path, type(path)("/dev/zero")):
        with pytest.raises(OSError, match="it is larger than 4194304 bytes"):
            configfiles.ConfigFiles().read(endless)


@pytest.mark.parametrize(("mode", "problem"), [(0o600, ""), (0o660, "other users can change"), (0o602, "other users")])
def test_root_trusts_files_that_only_root_can_change(tmp_path, monkeypatch, mode, problem):
    """Others could choose the program that a kubeconfig names."""
    path = tmp_path / "file"
    path.write_text("a")
    path.chmod(mode)
    sources = configfiles.ConfigFiles()
    sources.read(path)
    status = list(path.stat())
    status[4] = 0
    sources._status[path] = os.stat_result(status)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert sources.untrusted_owner(path).startswith(problem)
    assert bool(problem) == bool(sources.untrusted_owner(path))
