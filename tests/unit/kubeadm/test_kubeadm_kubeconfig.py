"""The kubeconfigs in the data directory: made once, kept as they are, and leading to where the server is."""

from __future__ import annotations

import datetime
import stat

import pytest

from certplane.errors import SetupError
from certplane.kubeadm import kubeconfig, pki
from certplane.meta import goyaml

NOW = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)
HERE = "https://127.0.0.1:6443"
THERE = "https://127.0.0.1:7443"


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    directory = tmp_path_factory.mktemp("pki") / "pki"
    return pki.ensure(directory, pki.Options(("localhost",), "ECDSA-P256"), NOW)


def ensure(directory, own, server=HERE):
    kubeconfig.check(directory)
    return kubeconfig.ensure(directory, own, server, "ECDSA-P256", NOW)


def server_of(path):
    return goyaml.load(path.read_text())["clusters"][0]["cluster"]["server"]


def edit(path, before, after):
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))


def test_missing_ones_are_made(own, tmp_path):
    """Two, for nobody else; the next start leaves them alone."""
    made = ensure(tmp_path, own).made
    assert [tmp_path / "admin.conf", tmp_path / "super-admin.conf"] == made
    assert {0o600} == {stat.S_IMODE(path.stat().st_mode) for path in made}
    before = made[0].read_bytes()
    assert kubeconfig.Written([], []) == ensure(tmp_path, own)
    assert before == made[0].read_bytes()


def test_the_address_follows_the_server(own, tmp_path):
    """A server on another port is what they lead to: at the old one may be somebody else."""
    made = ensure(tmp_path, own).made
    assert made == ensure(tmp_path, own, THERE).moved
    assert {THERE} == set(map(server_of, made))
    assert [] == ensure(tmp_path, own, THERE).moved
    assert made == ensure(tmp_path, own, "https://10.1.2.3:6443").moved


def test_what_people_added_stays(own, tmp_path):
    """Other clusters, users and contexts, and comments."""
    path = ensure(tmp_path, own).made[0]
    edit(path, "current-context:", "# the one in Ulm\ncurrent-context:")
    edit(path, "users:\n", "users:\n- name: jane\n  user:\n    token: abc\n")
    before = path.read_text()
    ensure(tmp_path, own, THERE)
    assert before.replace(HERE, THERE) == path.read_text()


def test_the_same_address_of_another_cluster_stays(own, tmp_path):
    """Only the cluster that is ours moves."""
    path = ensure(tmp_path, own).made[0]
    other = f"clusters:\n- cluster:\n    server: {HERE}\n  name: other\n"
    edit(path, "clusters:\n", other)
    ensure(tmp_path, own, THERE)
    clusters = {each["name"]: each["cluster"]["server"] for each in goyaml.load(path.read_text())["clusters"]}
    assert {"other": HERE, "kubernetes": THERE} == clusters


def test_the_address_that_a_person_wrote_stays(own, tmp_path):
    """Such as that of a load balancer, or of a tunnel."""
    path = ensure(tmp_path, own).made[0]
    edit(path, f"    server: {HERE}\n  name", "    server: https://127.0.0.1:9999\n  name")
    ensure(tmp_path, own, THERE)
    assert "https://127.0.0.1:9999" == server_of(path)


def test_a_file_of_another_cluster_stays(own, tmp_path):
    """Who trusts another CA means another server."""
    path = ensure(tmp_path, own).made[0]
    edit(path, "certificate-authority-data: ", "certificate-authority-data: AAAA")
    before = path.read_bytes()
    ensure(tmp_path, own, THERE)
    assert before == path.read_bytes()


def test_older_files_move_where_only_we_can_be_meant(own, tmp_path):
    """Files from before addresses were noted: loopback is this machine."""
    path = ensure(tmp_path, own).made[0]
    start, end = path.read_text().index("\n    extensions:"), path.read_text().index("\n    server: ")
    path.write_text(path.read_text()[:start] + path.read_text()[end:])
    ensure(tmp_path, own, THERE)
    assert THERE == server_of(path)
    edit(path, THERE, "https://pki.example.com")
    ensure(tmp_path, own)
    assert "https://pki.example.com" == server_of(path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:700]),
        lambda path: path.write_bytes(b"\xff\xfe"),
        lambda path: path.write_text("a: [b"),
        lambda path: path.write_text("[]"),
        lambda path: edit(path, "client-key-data: ", "client-key-data: ?"),
        lambda path: edit(path, "client-key-data: LS0", "client-key-data: LS1"),
    ],
    ids=["empty", "cut", "bytes", "no YAML", "no mapping", "no base64", "no key"],
)
def test_a_damaged_one_is_told_and_left_alone(damage, own, tmp_path):
    """Nobody overwrites it: it may have more than we put into it."""
    path = ensure(tmp_path, own).made[0]
    damage(path)
    before = path.read_bytes()
    with pytest.raises(SetupError) as caught:
        kubeconfig.check(tmp_path)
    assert str(path) in caught.value.message
    assert caught.value.hints
    assert before == path.read_bytes()
