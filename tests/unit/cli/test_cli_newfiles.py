"""Keys and certificates that commands write."""

from __future__ import annotations

import os

import pytest

from certplane import errors
from certplane.cli import newfiles
from certplane.golang import pem
from certplane.x509 import keys

KEY = keys.to_pem(keys.generate("ECDSA-P256"))
CERTIFICATE = pem.encode("CERTIFICATE", b"x")


def test_a_new_file_has_its_mode_and_can_be_withdrawn(tmp_path):
    """As if nothing had happened."""
    path = tmp_path / "k"
    assert not newfiles.write(path, b"new", newfiles.KEY_MODE)
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"new", 0o600)
    newfiles.withdraw(path, had_former=False)
    assert os.listdir(tmp_path) == []


def test_a_former_file_is_kept_and_comes_back(tmp_path):
    """It may be the only copy of a key."""
    path = tmp_path / "k"
    path.write_bytes(b"former")
    assert newfiles.write(path, b"new", newfiles.KEY_MODE)
    old = tmp_path / "k.old"
    assert (path.read_bytes(), old.read_bytes(), old.stat().st_mode & 0o777) == (b"new", b"former", 0o600)
    newfiles.withdraw(path, had_former=True)
    assert (path.read_bytes(), os.listdir(tmp_path)) == (b"former", ["k"])


def test_an_older_copy_is_not_taken_for_the_former_file(tmp_path):
    """It is from another run."""
    (tmp_path / "k.old").write_bytes(b"older")
    had_former = newfiles.write(tmp_path / "k", b"new", newfiles.KEY_MODE)
    newfiles.withdraw(tmp_path / "k", had_former=had_former)
    assert os.listdir(tmp_path) == ["k.old"]


def test_withdrawing_a_missing_file_is_no_error(tmp_path):
    """Somebody has removed it meanwhile."""
    newfiles.withdraw(tmp_path / "k", had_former=False)
    newfiles.withdraw(tmp_path / "k", had_former=True)


def test_a_link_is_not_absent(tmp_path):
    """Also if its target does not exist."""
    os.symlink("nowhere", tmp_path / "k")
    with pytest.raises(errors.SetupError) as caught:
        newfiles.check_absent(tmp_path / "k", "hint")
    assert caught.value.hints == ("hint",)


def test_a_pipe_is_neither_read_nor_replaced(tmp_path):
    """Reading one could take for ever."""
    os.mkfifo(tmp_path / "k")
    for use in (
        lambda: newfiles.read_key(tmp_path / "k"),
        lambda: newfiles.write(tmp_path / "k", b"new", newfiles.KEY_MODE),
        lambda: newfiles.write_certificate(tmp_path / "k", CERTIFICATE),
    ):
        with pytest.raises(errors.SetupError) as caught:
            use()
        assert "it is not a regular file" in caught.value.message


def test_a_certificate_replaces_a_certificate(tmp_path):
    """The former one is kept."""
    path = tmp_path / "c"
    newfiles.write_certificate(path, CERTIFICATE)
    newfiles.write_certificate(path, CERTIFICATE * 2)
    assert (path.read_bytes(), (tmp_path / "c.old").read_bytes()) == (CERTIFICATE * 2, CERTIFICATE)
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("content", [KEY, b"a letter", CERTIFICATE + KEY], ids=["key", "letter", "both"])
def test_a_certificate_replaces_nothing_else(tmp_path, content):
    """Above all no key."""
    (tmp_path / "c").write_bytes(content)
    with pytest.raises(errors.SetupError):
        newfiles.write_certificate(tmp_path / "c", CERTIFICATE)
    assert (tmp_path / "c").read_bytes() == content
