"""The ready file, and notifications of the service manager."""

from __future__ import annotations

import contextlib
import os
import pathlib
import socket

import pytest

from certplane import errors, notify

URL = "https://127.0.0.1:6443"


def test_the_file_exists_while_requests_are_served(tmp_path):
    """It does not exist before and afterwards, and no other file is left."""
    path = tmp_path / "ready"
    with notify.notifier(path, {}) as notifier:
        assert not path.exists()
        notifier.ready(URL)
        assert path.read_text() == f"{URL}\n"
        notifier.stopping()
        assert not path.exists()
    assert list(tmp_path.iterdir()) == []


def test_the_file_is_removed_after_a_failure(tmp_path):
    """An exception does not leave it behind."""
    path = tmp_path / "ready"
    with contextlib.suppress(RuntimeError), notify.notifier(path, {}) as notifier:
        notifier.ready(URL)
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_stale_file_of_a_killed_process_is_removed(tmp_path):
    """At startup, so that it is not taken for the file of the new process."""
    path = tmp_path / "ready"
    path.write_text("https://127.0.0.1:1\n")
    (tmp_path / ".ready.new").write_text("half")
    with notify.notifier(path, {}) as notifier:
        assert not path.exists()
        notifier.ready(URL)
        assert path.read_text() == f"{URL}\n"
    assert list(tmp_path.iterdir()) == []


def test_the_file_of_a_running_process_is_kept(tmp_path):
    """An accidental second start does not affect the first server."""
    path = tmp_path / "ready"
    with notify.notifier(path, {}) as notifier:
        notifier.ready(URL)
        with pytest.raises(errors.SetupError, match="still running") as caught, notify.notifier(path, {}):
            pass
        assert caught.value.hints
        assert path.read_text() == f"{URL}\n"


def test_a_file_that_replaced_ours_is_kept(tmp_path):
    """It may belong to the next process."""
    path = tmp_path / "ready"
    with notify.notifier(path, {}) as notifier:
        notifier.ready(URL)
        path.unlink()
        path.write_text("another")
    assert path.read_text() == "another"


@pytest.mark.parametrize("name", ["ready", ".ready.new"])
def test_nothing_is_written_through_a_link(name, tmp_path):
    """A user who can create a link there must not choose which file is overwritten."""
    precious, directory = tmp_path / "precious", tmp_path / "run"
    precious.write_text("precious")
    directory.mkdir()
    (directory / name).symlink_to(precious)
    path = directory / "ready"
    with contextlib.suppress(errors.SetupError), notify.notifier(path, {}) as notifier:
        notifier.ready(URL)
        assert not path.is_symlink()
    assert precious.read_text() == "precious"


@pytest.mark.parametrize("place", ["missing/ready", "directory"])
def test_an_impossible_path_is_refused_at_the_start(place, tmp_path):
    """The hint names the setting."""
    (tmp_path / "directory").mkdir()
    with pytest.raises(errors.SetupError, match="the ready file") as caught, notify.notifier(tmp_path / place, {}):
        pass
    assert caught.value.hints == ("set --ready-file to another path",)


@contextlib.contextmanager
def manager(address):
    """The socket of a service manager, and a function that receives a message."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(address)
        receiver.setblocking(False)
        yield lambda: receiver.recv(4096).decode()


@pytest.mark.parametrize("abstract", [False, True])
def test_a_service_manager_is_notified(abstract, tmp_path):
    """By sd_notify(3), on a socket in the file system or in the abstract namespace."""
    name = f"@certplane-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with manager(name.replace("@", "\0", 1) if abstract else name) as receive:
        with notify.notifier(None, {"NOTIFY_SOCKET": name}) as notifier:
            notifier.ready(URL)
            assert receive() == f"READY=1\nSTATUS=serving {URL}"
            notifier.stopping()
            assert receive() == "STOPPING=1"
        # Only once.
        with pytest.raises(BlockingIOError):
            receive()


def test_a_missing_service_manager_is_logged(tmp_path, caplog):
    """The server continues."""
    with notify.notifier(None, {"NOTIFY_SOCKET": str(tmp_path / "none")}) as notifier:
        notifier.ready(URL)
    assert [record.message for record in caplog.records] == ["failed to notify the service manager"] * 2


def test_both_are_optional(tmp_path):
    """Without a file and without a service manager."""
    with notify.notifier(None, {}) as notifier:
        notifier.ready(URL)
    assert list(pathlib.Path(tmp_path).iterdir()) == []
