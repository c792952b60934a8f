"""Certificates in directories of any files."""

from __future__ import annotations

import datetime
import os

import pytest

from certplane.kubeadm import certificatefiles
from certplane.kubeadm.certificatefiles import ListedFile
from tests import kubeadmpki

NOW = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)
CA = kubeadmpki.new_ca("kubernetes", NOW)
PEM = kubeadmpki.pem(CA.certificate)


@pytest.fixture
def root(tmp_path):
    path = tmp_path / "root"
    path.mkdir()
    return path


def rows(root):
    """What is said about each path below the directory, and place."""
    return {
        (item.path.removeprefix(f"{root}/"), item.place): item.item.problem or item.item.note or item.item.subject
        for file in certificatefiles.list_files(root)
        for item in certificatefiles.inspect(file)
    }


def test_all_files_below_a_directory_are_read(root):
    """Whatever their names are; those without certificates are not listed."""
    kubeadmpki.write(root / "a" / "b" / "x.crt", PEM)
    kubeadmpki.write(root / "bundle", PEM + PEM)
    kubeadmpki.write(root / "readme.txt", b"hello")
    kubeadmpki.write(root / "ca.key", kubeadmpki.key_pem(CA.key))
    kubeadmpki.write(root / "key.pem", kubeadmpki.key_pem(CA.key))
    assert {("a/b/x.crt", ""): "kubernetes", ("bundle", "#1"): "kubernetes", ("bundle", "#2"): "kubernetes"} == rows(
        root
    )
    assert [ListedFile(str(root / "bundle"))] == certificatefiles.list_files(root / "bundle")


def test_files_that_should_hold_certificates_are_listed(root):
    """Their names say so."""
    kubeadmpki.write(root / "a.crt", b"")
    kubeadmpki.write(root / "b.pem", b"hello")
    kubeadmpki.write(root / "c.p12", b"\x30\x82")
    assert {
        ("a.crt", ""): "it is empty",
        ("b.pem", ""): "it holds no certificate",
        ("c.p12", ""): "a key store, which is not read",
    } == rows(root)


def test_huge_files_are_not_read(root):
    """A huge file is a problem only if its name says that it holds certificates."""
    for name in ("a.crt", "a.log"):
        with (root / name).open("wb") as file:
            file.truncate(certificatefiles.MAX_FILE + 1)
    assert {("a.crt", ""): "it is larger than 4 MiB"} == rows(root)


def test_pipes_and_devices_are_not_opened(root):
    """They could block for ever, and never end."""
    os.mkfifo(root / "a.crt")
    os.mkfifo(root / "pipe")
    (root / "zero.pem").symlink_to("/dev/zero")
    assert {("a.crt", ""): "not a regular file", ("zero.pem", ""): "not a regular file"} == rows(root)


def test_cycles_of_links_end(root):
    """To a directory above, to itself, and between two directories."""
    kubeadmpki.write(root / "a" / "x.crt", PEM)
    (root / "b").mkdir()
    (root / "a" / "up").symlink_to(root)
    (root / "a" / "b").symlink_to(root / "b")
    (root / "b" / "a").symlink_to(root / "a")
    (root / "self").symlink_to("self")
    (root / "nowhere").symlink_to("missing")
    found = rows(root)
    above = "a link to a directory above it, which is not followed"
    assert "kubernetes" in found.values()
    assert above == found[("a/up", "")] if ("a/up", "") in found else above in found.values()
    assert "it cannot be read: Too many levels of symbolic links" == found[("self", "")]
    assert "it cannot be read: No such file or directory" == found[("nowhere", "")]
    assert 1 == list(found.values()).count("kubernetes")


def test_a_file_with_several_names_is_listed_once(root):
    """By the name that stays the same: as in a mounted Secret, and as the kubelet writes its certificates."""
    kubeadmpki.write(root / "..2026" / "tls.crt", PEM)
    (root / "..data").symlink_to("..2026")
    (root / "tls.crt").symlink_to("..data/tls.crt")
    kubeadmpki.write(root / "kubelet-client-2026.pem", PEM)
    (root / "kubelet-client-current.pem").symlink_to("kubelet-client-2026.pem")
    assert [("kubelet-client-current.pem", ""), ("tls.crt", "")] == list(rows(root))


def test_a_file_that_may_not_be_read_is_a_row():
    """The reason is the system's. The list may be older than the file system."""
    (item,) = certificatefiles.inspect(ListedFile("/nowhere/x.crt"))
    assert "it cannot be read: No such file or directory" == item.item.problem


def test_kubeconfigs_have_one_row_for_each_certificate(root):
    """Of all clusters and users."""
    leaf = kubeadmpki.new_leaf(("jane", []), [kubeadmpki.CLIENT], kubeadmpki.NO_NAMES, CA, (NOW, NOW))
    kubeadmpki.write(root / "admin.conf", kubeadmpki.kubeconfig("jane", leaf, CA))
    assert {("admin.conf", "cluster kubernetes"): "kubernetes", ("admin.conf", "user jane"): "jane"} == rows(root)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7, 0.8, 0.9, 0.95])
def test_half_written_kubeconfigs_are_rows(root, share):
    """Valid YAML or not."""
    leaf = kubeadmpki.new_leaf(("jane", []), [kubeadmpki.CLIENT], kubeadmpki.NO_NAMES, CA, (NOW, NOW))
    content = kubeadmpki.kubeconfig("jane", leaf, CA)
    kubeadmpki.write(root / "admin.conf", content)
    whole = rows(root)
    # Without its kind, which is below, a file is not known to be a kubeconfig.
    kubeadmpki.write(root / "admin.conf", b"kind: Config\n" + content[: int(len(content) * share)])
    assert whole != rows(root)
    words = ("kubeconfig", "PEM", "base64", "key", "credentials")
    assert any(word in text for text in rows(root).values() for word in words)


@pytest.mark.parametrize(
    "content",
    [
        b"apiVersion: v1\nkind: Config\nclusters: [",
        b"apiVersion: v1\nkind: Config\nclusters: 5\nusers: {}\ncontexts: [1, {}]\ncurrent-context: [a]\n",
        b"apiVersion: v1\nkind: Config\nclusters: []\ncurrent-context: x\n",
        b"apiVersion: v1\nkind: Config\nclusters: &a [*a]\n",
    ],
)
def test_odd_kubeconfigs_are_rows(root, content):
    """Nothing is raised."""
    kubeadmpki.write(root / "admin.conf", content)
    (text,) = rows(root).values()
    assert text.startswith("a kubeconfig ")


@pytest.mark.parametrize(("data", "expected"), [("%", "it is not base64"), ("AAAA", "it holds no certificate")])
def test_odd_data_in_kubeconfigs_are_rows(root, data, expected):
    """Beside the cluster of the same file."""
    text = f"""\
apiVersion: v1
kind: Config
clusters: [{{name: c, cluster: {{certificate-authority-data: "{data}"}}}}]
contexts: [{{name: x, context: {{cluster: c, user: u}}}}]
current-context: x
users: [{{name: u, user: {{token: abc}}}}]
"""
    kubeadmpki.write(root / "admin.conf", text.encode())
    assert {("admin.conf", "cluster c"): expected} == rows(root)
