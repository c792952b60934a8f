"""The agent is killed before each system call, or the disk is full: no key that a certificate was issued for is lost,
and whoever reads the files finds a complete pair.
"""

from __future__ import annotations

import os

import pytest

from certplane.agent.pairstore import PairStore, StoreProblem
from certplane.x509.trust import keypairs
from tests.faults import interruptions
from tests.unit.agent import pairs

NOW, DAY = pairs.NOW, pairs.DAY
#: More than the system calls of one rotation.
MAX_CALLS = 200


class _Rotation:
    """A rotation in the order in which the agent does it. The API server, which outlives the agent, is two files: the
    certificate of a CSR that was created, and a note that the hooks were run.
    """

    def __init__(self, directory, ca, start):
        self.store = PairStore(directory, "web")
        self.certificate = directory.with_suffix(".issued")
        self.hooks = directory.with_suffix(".hooks")
        self._ca, self._start = ca, start
        self._key = pairs.new_key()

    def run(self):
        self.store.recover()
        if self.store.pending() is None:
            self.store.begin(pairs.key_pem(self._key))
            self.certificate.write_bytes(self._ca.issue(self._key, self._start))
            self.store.submitted("web-x7k2p", "0b5e")
        self.store.save(self.certificate.read_bytes(), self._start)
        self.hooks.touch()
        self.store.hooks_done()


@pytest.fixture(scope="module")
def ca():
    return pairs.CA()


def _rotation(directory, ca, *, is_renewal):
    directory.mkdir(0o700)
    if is_renewal:
        former = _Rotation(directory, ca, NOW)
        former.run()
        former.certificate.unlink()
        former.hooks.unlink()
    return _Rotation(directory, ca, NOW + DAY)


@pytest.mark.parametrize("is_renewal", [False, True], ids=["first", "renewal"])
def test_a_killed_agent_loses_no_key(is_renewal, ca, tmp_path):
    """Whichever system call it does not reach. The link leads to the former pair or to the new one. The next process
    finds the key of the CSR, if there is one, finishes the rotation with it, and runs the hooks.
    """
    for number in range(MAX_CALLS):
        rotation = _rotation(tmp_path / str(number), ca, is_renewal=is_renewal)
        store, former = rotation.store, rotation.store.current()
        code = interruptions.run(rotation.run, number)
        _check_link(store, former)
        store.recover()
        pending, current = store.pending(), store.current()
        if rotation.certificate.exists():
            keypairs.check(rotation.certificate.read_bytes(), pending.key if pending else current.key)
            if pending:
                assert former == current
                store.save(rotation.certificate.read_bytes(), NOW + 2 * DAY)
            keypairs.check(rotation.certificate.read_bytes(), store.current().key)
            assert store.hooks_due() or rotation.hooks.exists()
        else:
            assert former == current
        # Temporary files with a time in their name would pile up.
        assert [] == [name for name in os.listdir(tmp_path / str(number)) if name.startswith(".web-2")]
        if code == 0:
            break
        assert interruptions.KILLED == code
    assert 20 < number < MAX_CALLS - 1


def _check_link(store, former):
    """What a program finds that reads the link before the agent is started again."""
    if former is None and not os.path.lexists(store.current_path):
        return
    content = store.current_path.read_bytes()
    keypairs.check(content, content)


def test_data_is_durable_before_it_is_named(ca, tmp_path, monkeypatch):
    """A power failure loses what was not synchronised: each file is, before it gets its name; the directory is, before
    the pending key is removed.
    """
    rotation = _rotation(tmp_path / "own", ca, is_renewal=True)
    calls = []

    def recorded(name):
        call = getattr(os, name)

        def wrapper(*arguments, **options):
            path = os.readlink(f"/proc/self/fd/{arguments[0]}") if name == "fsync" else str(arguments[-1])
            calls.append((name, os.path.basename(path)))
            return call(*arguments, **options)

        return wrapper

    for name in ("fsync", "rename", "unlink"):
        monkeypatch.setattr(os, name, recorded(name))
    rotation.run()
    monkeypatch.undo()
    file = f"web-{NOW + DAY:%Y-%m-%d-%H-%M-%S}.pem"
    saved = calls[calls.index(("fsync", f".{file}.new")) :]
    assert [
        ("fsync", f".{file}.new"),
        ("rename", file),
        ("fsync", "own"),
        ("fsync", ".web-hooks-due.new"),
        ("rename", "web-hooks-due"),
        ("fsync", "own"),
        ("rename", "web-current.pem"),
        ("fsync", "own"),
        ("unlink", "web-pending.pem"),
        ("fsync", "own"),
        ("unlink", "web-hooks-due"),
        ("fsync", "own"),
    ] == [call for call in saved if call != ("unlink", "web-updated.pem")]


def test_on_a_full_disk_no_csr_is_created(ca, tmp_path):
    """There would be no place for its key. The pair in use stays."""
    rotation = _rotation(tmp_path / "own", ca, is_renewal=True)
    former = rotation.store.current()

    def begin():
        with pytest.raises(StoreProblem, match=r"web-pending.pem cannot be written: File too large"):
            rotation.store.begin(pairs.key_pem(pairs.new_key()))

    assert 0 == interruptions.run(begin, file_size=0)
    assert rotation.store.pending() is None
    assert former == rotation.store.current()


def test_a_certificate_is_saved_when_the_disk_has_space_again(ca, tmp_path):
    """The key stays pending, the pair in use stays, and failures do not fill the disk further."""
    rotation = _rotation(tmp_path / "own", ca, is_renewal=True)
    former, key = rotation.store.current(), pairs.new_key()
    rotation.store.begin(pairs.key_pem(key))
    certificate = ca.issue(key, NOW + DAY)
    names = sorted(os.listdir(tmp_path / "own"))

    def save():
        for _ in range(5):
            with pytest.raises(StoreProblem, match="File too large"):
                rotation.store.save(certificate, NOW + DAY)

    assert 0 == interruptions.run(save, file_size=400)
    assert names == sorted(os.listdir(tmp_path / "own"))
    assert former == rotation.store.current()
    rotation.store.save(certificate, NOW + DAY)
    assert pairs.key_pem(key) == rotation.store.current().key
