"""How whoever started the process learns how far it is."""

from __future__ import annotations

import contextlib
import os
import pathlib
import socket

import pytest

from certplane import errors, notify

URL = "https://127.0.0.1:6443"


def test_the_file_is_there_while_requests_are_answered(tmp_path):
    """Not before, and not afterwards; nothing else is left."""
    path = tmp_path / "ready"
    with notify.progress(path, {}) as progress:
        assert not path.exists()
        progress.ready(URL)
        assert path.read_text() == f"{URL}\n"
        progress.stopping()
        assert not path.exists()
    assert list(tmp_path.iterdir()) == []


def test_the_file_is_gone_after_a_failure(tmp_path):
    """However the block is left."""
    path = tmp_path / "ready"
    with contextlib.suppress(RuntimeError), notify.progress(path, {}) as progress:
        progress.ready(URL)
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_removed_at_the_start(tmp_path):
    """Whoever waits for the file is not told that the next one is ready when it only starts."""
    path = tmp_path / "ready"
    path.write_text("https://127.0.0.1:1\n")
    (tmp_path / ".ready.new").write_text("half")
    with notify.progress(path, {}) as progress:
        assert not path.exists()
        progress.ready(URL)
        assert path.read_text() == f"{URL}\n"
    assert list(tmp_path.iterdir()) == []


def test_what_a_living_process_says_is_left_alone(tmp_path):
    """A second start by mistake does not take the first server out of service."""
    path = tmp_path / "ready"
    with notify.progress(path, {}) as progress:
        progress.ready(URL)
        with pytest.raises(errors.SetupError, match="another process says") as caught, notify.progress(path, {}):
            pass
        assert caught.value.hints
        assert path.read_text() == f"{URL}\n"


def test_a_file_that_somebody_put_in_its_place_stays(tmp_path):
    """It may be that of the next process, or none of ours."""
    path = tmp_path / "ready"
    with notify.progress(path, {}) as progress:
        progress.ready(URL)
        path.unlink()
        path.write_text("another")
    assert path.read_text() == "another"


@pytest.mark.parametrize("name", ["ready", ".ready.new"])
def test_nothing_is_written_through_a_link(name, tmp_path):
    """Whoever may put a link there must not choose what is overwritten."""
    precious, directory = tmp_path / "precious", tmp_path / "run"
    precious.write_text("precious")
    directory.mkdir()
    (directory / name).symlink_to(precious)
    path = directory / "ready"
    with contextlib.suppress(errors.SetupError), notify.progress(path, {}) as progress:
        progress.ready(URL)
        assert not path.is_symlink()
    assert precious.read_text() == "precious"


@pytest.mark.parametrize("place", ["missing/ready", "directory"])
def test_a_file_that_cannot_be_there_is_refused_at_the_start(place, tmp_path):
    """In words, with the setting that chooses another."""
    (tmp_path / "directory").mkdir()
    with pytest.raises(errors.SetupError, match="the ready file") as caught, notify.progress(tmp_path / place, {}):
        pass
    assert caught.value.hints == ("--ready-file names another file",)


@contextlib.contextmanager
def manager(address):
    """A service manager's socket, which hears what it is told."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as hearing:
        hearing.bind(address)
        hearing.setblocking(False)
        yield lambda: hearing.recv(4096).decode()


@pytest.mark.parametrize("abstract", [False, True])
def test_a_service_manager_is_told(abstract, tmp_path):
    """As sd_notify(3) has it: on a socket in the file system, or in the abstract namespace."""
    name = f"@certplane-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with manager(name.replace("@", "\0", 1) if abstract else name) as heard:
        with notify.progress(None, {"NOTIFY_SOCKET": name}) as progress:
            progress.ready(URL)
            assert heard() == f"READY=1\nSTATUS=serving {URL}"
            progress.stopping()
            assert heard() == "STOPPING=1"
        # It is told once.
        with pytest.raises(BlockingIOError):
            heard()


def test_a_service_manager_that_is_gone_stops_nothing(tmp_path, caplog):
    """It is told of in the log."""
    with notify.progress(None, {"NOTIFY_SOCKET": str(tmp_path / "none")}) as progress:
        progress.ready(URL)
    assert [each.message for each in caplog.records] == ["the service manager cannot be notified"] * 2


def test_nobody_need_be_told(tmp_path):
    """Without a file and without a service manager."""
    with notify.progress(None, {}) as progress:
        progress.ready(URL)
    assert list(pathlib.Path(tmp_path).iterdir()) == []
