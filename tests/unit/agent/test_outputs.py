"""The files for other programs: content, mode, owner, order, and directories of other users."""

from __future__ import annotations

import dataclasses
import grp
import os
import pwd
import stat
import subprocess

import pytest
from cryptography.hazmat.primitives.serialization import pkcs12

from certplane.agent import certificatefacts, outputs
from certplane.agent.outputs import OutputProblem
from certplane.agent.pairstore import Pair
from certplane.agent.settings import Outputs
from certplane.golang.pem import first_block
from tests.faults import interruptions
from tests.unit.agent import pairs

#: A user that is neither root nor the one that runs the tests.
OTHER_UID = 4242


@pytest.fixture(scope="module")
def ca():
    return pairs.CA()


def _pair(ca, chain=b""):
    key = pairs.new_key()
    certificate = ca.issue(key)
    facts = certificatefacts.read(first_block(certificate).data)
    return Pair(certificate + chain, pairs.key_pem(key), facts, None)


def _settings(directory, **changes):
    paths = {"certificate": directory / "tls.crt", "key": directory / "tls.key", "ca": directory / "ca.crt"}
    return Outputs(**{**paths, **changes})


def _mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_files_are_written_with_their_modes(ca, tmp_path):
    """The mode is that of the key. Everybody may read the certificates."""
    pair = _pair(ca)
    before = os.umask(0o077)
    try:
        assert outputs.write(_settings(tmp_path, mode=0o640), pair, ca.pem)
    finally:
        os.umask(before)
    assert (pair.certificate, pair.key, ca.pem) == tuple(
        (tmp_path / name).read_bytes() for name in ("tls.crt", "tls.key", "ca.crt")
    )
    assert [0o644, 0o640, 0o644] == [_mode(tmp_path / name) for name in ("tls.crt", "tls.key", "ca.crt")]
    assert ["ca.crt", "tls.crt", "tls.key"] == sorted(os.listdir(tmp_path))


def test_files_that_are_current_are_not_written(ca, tmp_path):
    """Neither the content nor the time of modification changes, so nothing reloads them."""
    pair = _pair(ca)
    assert outputs.write(_settings(tmp_path), pair, ca.pem)
    inodes = [path.stat().st_ino for path in sorted(tmp_path.iterdir())]
    assert not outputs.write(_settings(tmp_path), pair, ca.pem)
    assert inodes == [path.stat().st_ino for path in sorted(tmp_path.iterdir())]


@pytest.mark.parametrize("change", ["content", "mode", "missing", "link", "longer"])
def test_files_that_were_changed_are_written_again(change, ca, tmp_path):
    """Whoever changed them."""
    pair = _pair(ca)
    outputs.write(_settings(tmp_path), pair, ca.pem)
    key = tmp_path / "tls.key"
    if change == "content":
        key.write_bytes(b"x" * len(pair.key))
    elif change == "longer":
        key.write_bytes(pair.key + b"x")
    elif change == "mode":
        key.chmod(0o644)
    else:
        key.unlink()
        if change == "link":
            (tmp_path / "copy").write_bytes(pair.key)
            key.symlink_to("copy")
    assert outputs.write(_settings(tmp_path), pair, ca.pem)
    assert pair.key == key.read_bytes()
    assert 0o600 == _mode(key)
    assert not key.is_symlink()


def test_an_unknown_bundle_does_not_empty_the_file(ca, tmp_path):
    """Without CA certificates, ca.crt stays."""
    outputs.write(_settings(tmp_path), _pair(ca), ca.pem)
    outputs.write(_settings(tmp_path), _pair(ca), b"")
    assert ca.pem == (tmp_path / "ca.crt").read_bytes()


def test_a_directory_is_created(ca, tmp_path):
    """One level, with mode 0755; not more, because a wrong path must be seen."""
    before = os.umask(0o077)
    try:
        outputs.write(_settings(tmp_path / "tls"), _pair(ca), ca.pem)
    finally:
        os.umask(before)
    assert 0o755 == _mode(tmp_path / "tls")
    with pytest.raises(OutputProblem, match=r"a/b/ca.crt cannot be written: .*/a: No such file or directory"):
        outputs.write(_settings(tmp_path / "a" / "b"), _pair(ca), ca.pem)


def test_the_names_of_owner_and_group_are_found(ca, tmp_path):
    """Or their numbers."""
    user = pwd.getpwuid(os.geteuid()).pw_name
    group = grp.getgrgid(os.getegid()).gr_name
    for owner, team in ((user, group), (str(os.geteuid()), str(os.getegid()))):
        settings = _settings(tmp_path, owner=owner, group=team)
        assert [] == outputs.find_problems(settings)
        outputs.write(settings, _pair(ca), ca.pem)
        status = (tmp_path / "tls.key").stat()
        assert (os.geteuid(), os.getegid()) == (status.st_uid, status.st_gid)


# --- PKCS#12 ------------------------------------------------------------------------------------------------------


@pytest.fixture
def keystore(tmp_path):
    password = tmp_path / "password"
    password.touch(0o600)
    password.write_bytes(b"changeit\n")
    return Outputs(pkcs12=tmp_path / "tls.p12", pkcs12_password_file=password)


def test_a_pkcs12_has_key_certificate_and_chain(ca, keystore):
    """With an alias, as keytool needs it."""
    pair = _pair(ca, ca.pem)
    assert outputs.write(keystore, pair, b"")
    stored = pkcs12.load_pkcs12(keystore.pkcs12.read_bytes(), b"changeit")
    assert pair.certificate == pairs.pem(
        stored.cert.certificate, *(extra.certificate for extra in stored.additional_certs)
    )
    assert pair.key == pairs.key_pem(stored.key)
    assert b"web" == stored.cert.friendly_name
    assert 0o600 == _mode(keystore.pkcs12)


def test_a_pkcs12_is_written_again_only_for_another_pair_or_password(ca, keystore):
    """Its salts are random: its bytes say nothing."""
    pair = _pair(ca, ca.pem)
    outputs.write(keystore, pair, b"")
    assert not outputs.write(keystore, pair, b"")
    assert outputs.write(keystore, _pair(ca, ca.pem), b"")
    assert outputs.write(keystore, pair, b"")
    assert outputs.write(keystore, dataclasses.replace(pair, certificate=pair.certificate + ca.pem), b"")
    keystore.pkcs12_password_file.write_bytes(b"other")
    assert outputs.write(keystore, pair, b"")
    keystore.pkcs12.write_bytes(b"garbage")
    assert outputs.write(keystore, pair, b"")
    pkcs12.load_pkcs12(keystore.pkcs12.read_bytes(), b"other")


def test_openssl_reads_the_pkcs12(ca, keystore):
    """Without its legacy provider."""
    pair = _pair(ca)
    outputs.write(keystore, pair, b"")
    command = [
        "openssl",
        "pkcs12",
        "-in",
        keystore.pkcs12,
        "-passin",
        f"file:{keystore.pkcs12_password_file}",
        "-nodes",
    ]
    done = subprocess.run(command, capture_output=True, check=True, timeout=60)
    assert pair.certificate in done.stdout


@pytest.mark.parametrize(
    ("content", "mode", "problem"),
    [
        (b"", 0o600, "must hold the password in one line"),
        (b"\n", 0o600, "must hold the password in one line"),
        (b"one\ntwo\n", 0o600, "must hold the password in one line"),
        (b"x" * 2000, 0o600, "it is larger than 1024 bytes"),
        (b"secret", 0o644, "mode 0644 gives access to its group and all other users"),
        (None, 0, "No such file or directory"),
    ],
)
def test_an_unsuitable_password_file_is_refused(content, mode, problem, ca, keystore):
    """By `agent check` and when the file is written. The password is not quoted."""
    keystore.pkcs12_password_file.unlink()
    if content is not None:
        keystore.pkcs12_password_file.write_bytes(content)
        keystore.pkcs12_password_file.chmod(mode)
    (found,) = outputs.find_problems(keystore)
    assert found.startswith("pkcs12PasswordFile: ")
    assert problem in found
    with pytest.raises(OutputProblem) as caught:
        outputs.write(keystore, _pair(ca), b"")
    assert problem in str(caught.value)
    assert "secret" not in str(caught.value)


# --- other users --------------------------------------------------------------------------------------------------


def test_users_and_groups_that_do_not_exist_are_problems(tmp_path):
    """All at once, each with its field."""
    settings = _settings(tmp_path / "a" / "b", owner="nobody-of-this-name", group="nogroup-of-this-name")
    found = outputs.find_problems(settings)
    assert ["owner: there is no user nobody-of-this-name", "group: there is no group nogroup-of-this-name"] == found[:2]
    assert ["certificate", "key", "ca"] == [problem.partition(":")[0] for problem in found[2:]]


def test_only_root_gives_files_away(tmp_path, monkeypatch):
    """Without root's permissions, `agent check` says so."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(os, "getgroups", list)
    assert [
        "owner: only root can give files to user 4242; this process has user id 1000",
        "group: only root can give files to group 4243: user id 1000 is not in it",
    ] == outputs.find_problems(_settings(tmp_path, owner="4242", group="4243"))


@pytest.fixture
def foreign(tmp_path, monkeypatch):
    """A directory of another user, as root sees it."""
    directory = tmp_path / "foreign"
    directory.mkdir()
    if os.geteuid() == 0:
        os.chown(directory, OTHER_UID, -1)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return directory


@pytest.mark.parametrize("below", ["", "below"])
def test_root_does_not_write_where_another_user_could_redirect_it(below, foreign, ca):
    """A directory of another user, or below one: a link could take its place."""
    directory = foreign / below
    directory.mkdir(exist_ok=True)
    with pytest.raises(OutputProblem, match=r"foreign belongs to user id \d+, who could send the file elsewhere"):
        outputs.write(_settings(directory), _pair(ca), ca.pem)
    assert [] == [path for path in directory.iterdir() if path.is_file()]
    assert 3 == len(outputs.find_problems(_settings(directory)))


def test_root_writes_to_the_directory_of_the_owner_of_the_files(foreign, ca):
    """Who could change them anyway."""
    owner = str(foreign.stat().st_uid)
    assert [] == outputs.find_problems(_settings(foreign, owner=owner))
    assert outputs.write(_settings(foreign, owner=owner), _pair(ca), ca.pem)
    assert foreign.stat().st_uid == (foreign / "tls.key").stat().st_uid


def test_root_does_not_write_where_everybody_can(tmp_path, ca, monkeypatch):
    """Unless the directory is sticky, as /tmp is."""
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid or 0)
    tmp_path.chmod(0o1777)
    outputs.write(_settings(tmp_path), _pair(ca), ca.pem)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    tmp_path.chmod(0o777)
    problems = outputs.find_problems(_settings(tmp_path, owner=str(tmp_path.stat().st_uid)))
    assert 3 == len(problems)
    assert "all other users can change" in problems[0]


@pytest.mark.parametrize("name", ["tls.key", ".tls.key.new"])
def test_a_planted_link_is_replaced(name, ca, tmp_path):
    """It does not redirect the key."""
    loot = tmp_path / "loot"
    loot.write_bytes(b"")
    own = tmp_path / "own"
    own.mkdir()
    (own / name).symlink_to(loot)
    pair = _pair(ca)
    assert outputs.write(_settings(own), pair, ca.pem)
    assert b"" == loot.read_bytes()
    assert pair.key == (own / "tls.key").read_bytes()
    assert not (own / "tls.key").is_symlink()


def test_a_directory_in_the_place_of_a_file_is_a_problem(ca, tmp_path):
    """No file is replaced."""
    (tmp_path / "tls.crt").mkdir()
    assert [f"certificate: {tmp_path}/tls.crt is a directory"] == outputs.find_problems(_settings(tmp_path))
    with pytest.raises(OutputProblem, match=r"tls\.crt cannot be written: Is a directory"):
        outputs.write(_settings(tmp_path), _pair(ca), ca.pem)
    assert ["tls.crt"] == os.listdir(tmp_path)


# --- interruptions ------------------------------------------------------------------------------------------------


def test_on_a_full_disk_the_former_files_stay(ca, tmp_path):
    """All of them: a new key without its certificate would stop the next start of a server."""
    former = _pair(ca)
    settings = _settings(tmp_path)
    outputs.write(settings, former, b"text\n")

    def write():
        with pytest.raises(OutputProblem, match=r"tls\.crt cannot be written: File too large"):
            outputs.write(settings, _pair(ca, b"#" * 5000), ca.pem)

    assert 0 == interruptions.run(write, file_size=2000)
    assert [b"text\n", former.certificate, former.key] == [path.read_bytes() for path in sorted(tmp_path.iterdir())]


def test_a_killed_agent_leaves_complete_files(ca, tmp_path):
    """Each file is the former or the new one. The next start finishes."""
    former, pair = _pair(ca), _pair(ca)
    for number in range(100):
        directory = tmp_path / str(number)
        settings = _settings(directory)
        outputs.write(settings, former, b"text\n")
        code = interruptions.run(lambda settings=settings: outputs.write(settings, pair, ca.pem), number)
        for name, contents in (
            ("tls.crt", (former.certificate, pair.certificate)),
            ("tls.key", (former.key, pair.key)),
            ("ca.crt", (b"text\n", ca.pem)),
        ):
            assert (directory / name).read_bytes() in contents
        assert code in (0, interruptions.KILLED)
        if code == 0:
            break
        outputs.write(settings, pair, ca.pem)
        assert not outputs.write(settings, pair, ca.pem)
        assert pair.key == (directory / "tls.key").read_bytes()
    assert number > 10


@pytest.mark.parametrize("number", ["4294967295", "4294967296", "9" * 30, "9" * 5000])
def test_an_id_that_no_user_has(ca, tmp_path, number):
    """It is a problem of the configuration; no system call gets it, where the highest number means another thing."""
    for field in ("owner", "group"):
        settings = _settings(tmp_path, **{field: number})
        (problem,) = outputs.find_problems(settings)
        assert problem.startswith(f"{field}: there is no ")
        assert len(problem) < 200
        with pytest.raises(OutputProblem, match="there is no"):
            outputs.write(settings, _pair(ca), ca.pem)
    assert os.listdir(tmp_path) == []
