"""The pairs on disk: layout, modes, recovery, and damage."""

from __future__ import annotations

import logging
import os
import stat

import pytest

from certplane.agent import pairstore
from certplane.agent.pairstore import PairStore, StoreProblem
from certplane.errors import SetupError
from tests.unit.agent import pairs

NOW, DAY = pairs.NOW, pairs.DAY


@pytest.fixture(scope="module")
def ca():
    return pairs.CA()


@pytest.fixture
def store(tmp_path):
    return PairStore(tmp_path, "web")


def _renew(store, ca, start=NOW):
    """Store a pair, as the agent does it; returns the key in PEM."""
    key = pairs.new_key()
    store.begin(pairs.key_pem(key))
    store.submitted("web-x7k2p", "0b5e")
    store.save(ca.issue(key, start), start)
    return pairs.key_pem(key)


def test_an_empty_directory_has_no_pair(store):
    """And no pending key; the directory may be missing."""
    missing = PairStore(store.current_path.parent / "missing", "web")
    missing.check()
    for empty in (store, missing):
        assert empty.current() is None
        assert empty.pending() is None
        assert not empty.hooks_due()


def test_a_pair_is_stored_as_the_kubelet_does_it(store, ca, tmp_path):
    """One file with mode 0600, first the certificate, then the key, and a link to it."""
    key = pairs.new_key()
    certificate = ca.issue(key)
    store.begin(pairs.key_pem(key))
    pair = store.save(b"text\n" + certificate + b"text\n" + ca.pem, NOW)
    path = tmp_path / "web-2026-01-01-00-00-00.pem"
    assert path == pair.path
    assert certificate + ca.pem + pairs.key_pem(key) == path.read_bytes()
    assert 0o600 == stat.S_IMODE(path.stat().st_mode)
    assert path.name == os.readlink(tmp_path / "web-current.pem")
    assert pair == store.current()
    assert ["web-2026-01-01-00-00-00.pem", "web-current.pem", "web-hooks-due"] == sorted(os.listdir(tmp_path))


def test_the_facts_of_a_pair_are_those_of_its_certificate(store, ca):
    """Names, times and serial number."""
    _renew(store, ca)
    facts = store.current().facts
    assert ("CN=web", "CN=root") == (facts.subject, facts.issuer)
    assert (NOW, NOW + 30 * DAY) == (facts.not_before, facts.not_after)
    assert (("localhost",), ("127.0.0.1",)) == (facts.dns_names, facts.ip_addresses)


def test_no_key_is_printed(store, ca):
    """Neither by a pair nor by a pending key."""
    key = _renew(store, ca).splitlines()[1].decode()
    assert key not in repr(store.current())
    assert key not in repr(pairstore.Pending(key.encode()))


# --- the pending key ----------------------------------------------------------------------------------------------


def test_a_pending_key_is_found_with_its_csr(store, tmp_path):
    """By another process."""
    key = pairs.key_pem(pairs.new_key())
    store.begin(key)
    assert pairstore.Pending(key) == PairStore(tmp_path, "web").pending()
    store.submitted("web-x7k2p", "0b5e-4f")
    assert pairstore.Pending(key, "web-x7k2p", "0b5e-4f") == PairStore(tmp_path, "web").pending()
    assert 0o600 == stat.S_IMODE((tmp_path / "web-pending.pem").stat().st_mode)


def test_a_pending_key_is_not_overwritten(store):
    """Its certificate may still be issued. It has to be discarded first."""
    store.begin(pairs.key_pem(pairs.new_key()))
    with pytest.raises(StoreProblem, match="certificate may still be issued"):
        store.begin(pairs.key_pem(pairs.new_key()))
    store.discard_pending()
    store.discard_pending()
    store.begin(pairs.key_pem(pairs.new_key()))


@pytest.mark.parametrize(
    ("damaged", "problem"),
    [
        (b"-----BEGIN EC PRIVATE KEY-----\nMHc", "it holds no private key in PEM"),
        (b"-----BEGIN EC PRIVATE KEY-----\nMAA=\n-----END EC PRIVATE KEY-----\n", "the private key cannot be parsed"),
    ],
    ids=["truncated", "overwritten"],
)
def test_a_damaged_pending_key_is_reported_and_replaced(store, tmp_path, caplog, damaged, problem):
    """It is of no use: an agent that insisted on it would never have a certificate again."""
    (tmp_path / "web-pending.pem").write_bytes(b"csr-name: a\n" + damaged)
    with caplog.at_level(logging.WARNING):
        assert store.pending() is None
    assert problem in caplog.records[0].error
    store.begin(pairs.key_pem(pairs.new_key()))


def test_a_csr_name_with_a_newline_is_refused(store):
    """It could forge another field."""
    store.begin(pairs.key_pem(pairs.new_key()))
    with pytest.raises(StoreProblem, match="invalid characters"):
        store.submitted("a\ncsr-uid: b", "c")


def test_a_certificate_for_another_key_is_refused(store, ca):
    """Nothing changes, and the key stays pending."""
    key = _renew(store, ca)
    store.begin(pairs.key_pem(pairs.new_key()))
    with pytest.raises(StoreProblem, match="private key does not match public key"):
        store.save(ca.issue(pairs.new_key()), NOW + DAY)
    assert key == store.current().key
    assert store.pending() is not None


_NO_DER = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"


@pytest.mark.parametrize("text", [b"", b"no certificate", _NO_DER])
def test_a_text_without_a_certificate_is_refused(text, store):
    """Whatever a signer writes into a status."""
    store.begin(pairs.key_pem(pairs.new_key()))
    with pytest.raises(StoreProblem, match="the certificate that was issued cannot be used"):
        store.save(text, NOW)


def test_a_huge_certificate_is_refused(store):
    """It could not be read again."""
    store.begin(pairs.key_pem(pairs.new_key()))
    with pytest.raises(StoreProblem, match="has more than 262144 bytes"):
        store.save(b"x" * 300_000, NOW)


def test_without_a_pending_key_nothing_is_saved(store, ca):
    """There is no key for the certificate."""
    with pytest.raises(StoreProblem, match="holds no key"):
        store.save(ca.issue(pairs.new_key()), NOW)
    with pytest.raises(StoreProblem, match="holds no key"):
        store.submitted("a", "b")


# --- renewals -----------------------------------------------------------------------------------------------------


def test_two_former_pairs_are_kept(store, ca, tmp_path):
    """Older ones are removed; files of other names stay."""
    other = tmp_path / "web-api-2020-01-01-00-00-00.pem"
    other.touch()
    for day in range(5):
        _renew(store, ca, NOW + day * DAY)
    names = [name for name in sorted(os.listdir(tmp_path)) if name.startswith("web-20")]
    assert [f"web-2026-01-0{day}-00-00-00.pem" for day in (3, 4, 5)] == names
    assert other.exists()


def test_a_name_in_use_is_not_overwritten(store, ca, tmp_path):
    """When two certificates are issued in one second, or the clock went back."""
    first = _renew(store, ca)
    second = _renew(store, ca)
    assert first in (tmp_path / "web-2026-01-01-00-00-00.pem").read_bytes()
    assert second == store.current().key
    assert tmp_path / "web-2026-01-01-00-00-01.pem" == store.current().path


def test_hooks_are_due_until_they_were_run(store, ca, tmp_path):
    """Also in another process."""
    for start in (NOW, NOW + DAY):
        _renew(store, ca, start)
        assert PairStore(tmp_path, "web").hooks_due()
        store.hooks_done()
        store.hooks_done()
        assert not PairStore(tmp_path, "web").hooks_due()


# --- damage -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["garbage", "dangling", "half", "directory", "loop", "huge"])
def test_a_broken_current_pair_falls_back_to_the_newest_valid_one(damage, store, ca, tmp_path, caplog):
    """It is logged once. At the next start the link leads to the valid pair."""
    _renew(store, ca, NOW - DAY)
    key = _renew(store, ca, NOW)
    _renew(store, ca, NOW + DAY)
    broken = tmp_path / "web-2026-01-02-00-00-00.pem"
    content = broken.read_bytes()
    broken.unlink()
    if damage == "directory":
        broken.mkdir()
    elif damage == "loop":
        broken.symlink_to(store.current_path)
    elif damage != "dangling":
        broken.write_bytes({"garbage": b"\0" * 100, "half": content[:-100], "huge": content + b" " * 1_000_000}[damage])
    with caplog.at_level(logging.WARNING):
        assert key == store.current().key
    assert {"a certificate file cannot be used"} == {record.message for record in caplog.records}
    assert "web-current.pem cannot be used" in caplog.records[0].error
    store.recover()
    assert "web-2026-01-01-00-00-00.pem" == os.readlink(store.current_path)


def test_without_a_link_there_is_no_current_pair(store, ca):
    """Operators remove the link to begin anew."""
    _renew(store, ca)
    store.current_path.unlink()
    store.recover()
    assert store.current() is None


def test_a_file_in_the_place_of_the_link_is_not_replaced(store, ca):
    """Someone put it there."""
    store.current_path.write_bytes(b"mine")
    with pytest.raises(SetupError, match="to be a symlink but it is a file"):
        store.check()
    with pytest.raises(StoreProblem, match="to be a symlink but it is a file"):
        _renew(store, ca)
    assert b"mine" == store.current_path.read_bytes()
    store.current_path.unlink()
    store.recover()
    assert store.pending() is None
    assert store.current() is not None


def test_a_swap_that_the_kubelet_did_not_finish_is_finished(store, ca):
    """The kubelet removes the old link before it renames the new one."""
    key = _renew(store, ca)
    store.current_path.rename(store.current_path.with_name("web-updated.pem"))
    store.recover()
    assert key == store.current().key


def test_an_absolute_link_is_followed(store, ca, tmp_path):
    """The kubelet's."""
    key = _renew(store, ca)
    path = store.current().path
    store.current_path.unlink()
    store.current_path.symlink_to(path)
    assert key == store.current().key
    assert path == store.current().path


def test_a_renewal_with_the_same_key_is_no_interrupted_save(store, ca):
    """The pending key stays pending, and the current pair in use."""
    key = pairs.new_key()
    for day in range(3):
        store.begin(pairs.key_pem(key))
        store.recover()
        assert store.pending() is not None
        store.save(ca.issue(key, NOW + day * DAY), NOW + day * DAY)
        assert NOW + day * DAY == store.current().facts.not_before


# --- other users --------------------------------------------------------------------------------------------------


def test_two_processes_do_not_manage_one_pair(store, tmp_path):
    """The second one gives up; the directory is created with mode 0700."""
    own = PairStore(tmp_path / "own", "web")
    with own.locked():
        assert 0o700 == stat.S_IMODE((tmp_path / "own").stat().st_mode)
        with pytest.raises(StoreProblem, match="another process manages"), PairStore(tmp_path / "own", "web").locked():
            pytest.fail("locked twice")
    with own.locked():
        pass


def test_a_directory_of_others_is_refused(tmp_path):
    """They could replace the keys."""
    tmp_path.chmod(0o777)
    with pytest.raises(SetupError, match="other users can create files"):
        PairStore(tmp_path, "web").check()


@pytest.mark.parametrize("name", ["web-pending.pem", "web-2026-01-01-00-00-00.pem"])
def test_keys_that_others_can_read_are_refused(name, store, tmp_path):
    """And links, which could lead anywhere."""
    path = tmp_path / name
    path.touch(0o600)
    store.check()
    path.chmod(0o640)
    with pytest.raises(SetupError, match="other users can read the key"):
        store.check()
    path.unlink()
    path.symlink_to("/dev/null")
    with pytest.raises(SetupError, match="is a symbolic link"):
        store.check()


def test_a_planted_link_does_not_redirect_a_key(store, tmp_path):
    """At the name of the temporary file."""
    (tmp_path / ".web-pending.pem.new").symlink_to(tmp_path / "loot")
    with pytest.raises(StoreProblem, match="is a symbolic link"):
        store.begin(pairs.key_pem(pairs.new_key()))
    assert not (tmp_path / "loot").exists()


def test_a_pipe_does_not_block(store, tmp_path):
    """In the place of any file."""
    os.mkfifo(tmp_path / "web-pending.pem")
    os.mkfifo(tmp_path / "web-2026-01-01-00-00-00.pem")
    store.current_path.symlink_to("web-2026-01-01-00-00-00.pem")
    assert store.pending() is None
    assert store.current() is None
