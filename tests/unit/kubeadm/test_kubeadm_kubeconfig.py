"""The kubeconfigs in the data directory: they are created once, and their server address is updated."""

from __future__ import annotations

import datetime
import stat

import pytest

from certplane.errors import SetupError
from certplane.golang import goyaml
from certplane.kubeadm import kubeconfig, pki

NOW = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)
HERE = "https://127.0.0.1:6443"
THERE = "https://127.0.0.1:7443"


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    directory = tmp_path_factory.mktemp("pki") / "pki"
    return pki.ensure(directory, ("localhost",), "ECDSA-P256", NOW)


def ensure(directory, own, server=HERE):
    kubeconfig.check(directory)
    return kubeconfig.ensure(directory, own, server, "ECDSA-P256", NOW)


def server_of(path):
    return goyaml.load(path.read_text())["clusters"][0]["cluster"]["server"]


def edit(path, before, after):
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))


def test_missing_kubeconfigs_are_created(own, tmp_path):
    """Two, with mode 0600; the next start does not change them."""
    created = ensure(tmp_path, own).created
    assert [tmp_path / "admin.conf", tmp_path / "super-admin.conf"] == created
    assert {0o600} == {stat.S_IMODE(path.stat().st_mode) for path in created}
    before = created[0].read_bytes()
    assert kubeconfig.Changes([], []) == ensure(tmp_path, own)
    assert before == created[0].read_bytes()


def test_the_server_address_is_updated(own, tmp_path):
    """If the server has another port: the old one may belong to another process."""
    created = ensure(tmp_path, own).created
    assert created == ensure(tmp_path, own, THERE).updated
    assert {THERE} == set(map(server_of, created))
    assert [] == ensure(tmp_path, own, THERE).updated
    assert created == ensure(tmp_path, own, "https://10.1.2.3:6443").updated


def test_edits_of_an_operator_are_kept(own, tmp_path):
    """Other clusters, users and contexts, and comments."""
    path = ensure(tmp_path, own).created[0]
    edit(path, "current-context:", "# the one in Ulm\ncurrent-context:")
    edit(path, "users:\n", "users:\n- name: jane\n  user:\n    token: abc\n")
    before = path.read_text()
    ensure(tmp_path, own, THERE)
    assert before.replace(HERE, THERE) == path.read_text()


def test_the_same_address_of_another_cluster_is_kept(own, tmp_path):
    """Only the cluster that certplane created is updated."""
    path = ensure(tmp_path, own).created[0]
    other = f"clusters:\n- cluster:\n    server: {HERE}\n  name: other\n"
    edit(path, "clusters:\n", other)
    ensure(tmp_path, own, THERE)
    clusters = {entry["name"]: entry["cluster"]["server"] for entry in goyaml.load(path.read_text())["clusters"]}
    assert {"other": HERE, "kubernetes": THERE} == clusters


def test_an_address_of_an_operator_is_kept(own, tmp_path):
    """Such as that of a load balancer or a tunnel."""
    path = ensure(tmp_path, own).created[0]
    edit(path, f"    server: {HERE}\n  name", "    server: https://127.0.0.1:9999\n  name")
    ensure(tmp_path, own, THERE)
    assert "https://127.0.0.1:9999" == server_of(path)


def test_a_kubeconfig_with_another_ca_is_kept(own, tmp_path):
    """It is for another server."""
    path = ensure(tmp_path, own).created[0]
    edit(path, "certificate-authority-data: ", "certificate-authority-data: AAAA")
    before = path.read_bytes()
    ensure(tmp_path, own, THERE)
    assert before == path.read_bytes()


def test_a_loopback_address_without_a_record_is_updated(own, tmp_path):
    """In files of older versions, which did not record the address; other addresses are kept."""
    path = ensure(tmp_path, own).created[0]
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
        lambda path: edit(path, "client-key-data: ", "client-key-data: é"),
        lambda path: edit(path, "client-key-data: LS0", "client-key-data: LS1"),
    ],
    ids=["empty", "cut", "bytes", "no YAML", "no mapping", "no base64", "no ASCII", "no key"],
)
def test_a_damaged_kubeconfig_is_refused_and_kept(damage, own, tmp_path):
    """It may have entries of an operator."""
    path = ensure(tmp_path, own).created[0]
    damage(path)
    before = path.read_bytes()
    with pytest.raises(SetupError) as caught:
        kubeconfig.check(tmp_path)
    assert str(path) in caught.value.message
    assert caught.value.hints
    assert before == path.read_bytes()
