"""Sources on disk: formats, patterns, and files that are damaged, endless, or no files."""

from __future__ import annotations

import asyncio
import base64
import os
import pathlib
import threading

import pytest
import yaml
from cryptography.hazmat.primitives import serialization

from certplane.expiry import files
from certplane.expiry.findings import Collector, SourceProblem
from certplane.golang import asn1
from certplane.golang.pem import first_block
from certplane.kubeadm import certificatefiles, layout
from certplane.kubeadm.certificatefiles import ListedFile
from certplane.x509 import pkcs12
from tests import kubeadmpki
from tests.unit.agent import pairs
from tests.unit.expiry import material


def _brief(findings, root):
    return [(path.removeprefix(f"{root}/"), *rest) for path, *rest in material.brief(findings)]


async def test_a_directory(tmp_path):
    """PEM, DER and revocation lists, at any depth; what should be a certificate and is none is a problem."""
    (tmp_path / "deep").mkdir()
    (tmp_path / "a.pem").write_bytes(material.leaf("a") + material.CA.pem)
    (tmp_path / "deep" / "b.der").write_bytes(first_block(material.leaf("b")).data)
    (tmp_path / "c.crt").write_bytes(b"")
    (tmp_path / "d.txt").write_bytes(b"text")
    (tmp_path / "e.pem").write_bytes(material.crl())
    (tmp_path / "f.crl").write_bytes(material.crl(encoding=serialization.Encoding.DER))
    (tmp_path / "g.crl").write_bytes(b"damaged")
    expected = [
        ("a.pem", "#1", "a", ""),
        ("a.pem", "#2", "Example CA", ""),
        ("c.crt", "", "", "it is empty"),
        ("deep/b.der", "", "b", ""),
        ("e.pem", "", "revocation list", ""),
        ("f.crl", "", "revocation list", ""),
        ("g.crl", "", "revocation list", "it holds no revocation list"),
    ]
    assert expected == _brief(await material.read(files.directory("d", tmp_path)), tmp_path)


async def test_hostile_files_are_rows(tmp_path):
    """A pipe that nobody writes to, a link to itself, a link in a cycle, a huge file: the rest is unharmed."""
    os.mkfifo(tmp_path / "pipe.pem")
    (tmp_path / "self.pem").symlink_to("self.pem")
    (tmp_path / "cycle").symlink_to(tmp_path)
    with (tmp_path / "huge.pem").open("wb") as file:
        file.truncate(certificatefiles.MAX_FILE + 1)
    (tmp_path / "z.pem").write_bytes(material.leaf("z"))
    expected = [
        ("cycle", "", "", "a link to a directory above it, which is not followed"),
        ("huge.pem", "", "", "it is larger than 4 MiB"),
        ("pipe.pem", "", "", "not a regular file"),
        ("self.pem", "", "", "it cannot be read: Too many levels of symbolic links"),
        ("z.pem", "", "z", ""),
    ]
    assert expected == _brief(await material.read(files.directory("d", tmp_path)), tmp_path)


def test_a_huge_directory_is_not_read_to_its_end(tmp_path):
    """And says so."""
    for number in range(5):
        folder = tmp_path / f"{number}"
        folder.mkdir()
        for name in "abc":
            (folder / name).write_bytes(b"")
    listed = certificatefiles.list_files(tmp_path, 4)
    assert ListedFile(str(tmp_path), "it holds more than 4 files; the rest is not read") in listed
    assert len(listed) <= 8


async def test_a_directory_that_vanished(tmp_path):
    """It cannot be read as a whole."""
    with pytest.raises(SourceProblem, match="No such file or directory"):
        await material.read(files.directory("d", tmp_path / "gone"))


async def test_patterns(tmp_path):
    """Each file is read once. A pattern without a match is a problem."""
    (tmp_path / "a.pem").write_bytes(material.leaf("a"))
    (tmp_path / "b.pem").write_bytes(material.leaf("b"))
    (tmp_path / "sub.pem").mkdir()
    source = files.patterns("p", [f"{tmp_path}/*.pem", f"{tmp_path}/a*", f"{tmp_path}/gone.pem", f"{tmp_path}/x*"])
    expected = [
        ("a.pem", "", "a", ""),
        ("b.pem", "", "b", ""),
        ("gone.pem", "", "", "there is no such file"),
        ("x*", "", "", "there is no such file"),
    ]
    assert expected == _brief(await material.read(source), tmp_path)


async def test_pkcs12(tmp_path):
    """It is read with a password; a wrong one, a damaged file and one that asks for a year of work are problems."""
    chain = material.leaf("store") + material.CA.pem
    store = pkcs12.create("store", chain, pairs.key_pem(material.KEY), b"secret")
    (tmp_path / "password").write_bytes(b"secret\n")
    (tmp_path / "a.p12").write_bytes(store)
    (tmp_path / "b.pfx").write_bytes(pkcs12.create("b", chain, pairs.key_pem(material.KEY), b"other"))
    (tmp_path / "c.p12").write_bytes(store[:100])
    # A salt and a number of iterations.
    (tmp_path / "d.p12").write_bytes(bytes.fromhex("300a 04020102 02047fffffff"))
    source = files.patterns("p", [f"{tmp_path}/*.p*"], tmp_path / "password")
    expected = [
        ("a.p12", "#1", "store", ""),
        ("a.p12", "#2", "Example CA", ""),
        ("b.pfx", "", "", _DAMAGED),
        ("c.p12", "", "", "a PKCS#12 that is not DER"),
        ("d.p12", "", "", _TOO_MANY),
    ]
    assert expected == _brief(await material.read(source), tmp_path)


def _der(tag, *contents):
    return asn1.encode(tag, b"".join(contents))


_COUNT = _der(0x02, bytes.fromhex("7fffffff"))
_DAMAGED = "a PKCS#12 that is damaged, or has another password"
_TOO_MANY = "a PKCS#12 that asks for more than 5000000 iterations"
_DATA_TYPE = bytes.fromhex("06092a864886f70d010701")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (_der(0x30, _der(0x04, bytes.fromhex("300e01ff") * 4), _der(0x02, b"\x01")), _DAMAGED),
        (_der(0x30, _der(0x04, bytes.fromhex("2402") * 8), _der(0x02, b"\x01")), _DAMAGED),
        (_der(0x30, _der(0x04, _der(0x04, b"salt"), _COUNT)), _DAMAGED),
        (_der(0x30, _DATA_TYPE, _der(0xA0, _der(0x04, _der(0x30, _der(0x04, b"salt"), _COUNT)))), _TOO_MANY),
        (_der(0x30, _DATA_TYPE, _der(0xA0, _der(0x04, b"\x30\x80"))), "a PKCS#12 that is not DER"),
        (_der(0x30, _DATA_TYPE, _der(0xA0, _der(0x24, _der(0x04, b"")))), "a PKCS#12 that is not DER"),
        (_der(0x30, _der(0xA0, _der(0x30, _der(0x04, b"salt"), _COUNT))), _TOO_MANY),
    ],
    ids=["salt like a sequence", "salt like BER", "count in a salt", "in data", "BER in data", "pieces", "in a bag"],
)
async def test_the_work_that_pkcs12_asks_for(tmp_path, content, problem):
    """Iterations count wherever a key derivation can stand; salts and digests are random, and may look like DER."""
    (tmp_path / "password").write_bytes(b"secret")
    (tmp_path / "a.p12").write_bytes(content)
    assert [("a.p12", "", "", problem)] == _brief(
        await material.read(files.patterns("p", [f"{tmp_path}/*.p12"], tmp_path / "password")), tmp_path
    )


async def test_pkcs12_without_a_password(tmp_path):
    """It is not read, and is no problem."""
    (tmp_path / "a.p12").write_bytes(b"any")
    assert [] == await material.read(files.patterns("p", [f"{tmp_path}/a.p12"]))


async def test_a_password_file_that_is_gone(tmp_path):
    """The source cannot be read; the error names the file and no secret."""
    with pytest.raises(SourceProblem, match=r"the password file .*/gone: No such file"):
        await material.read(files.patterns("p", [f"{tmp_path}/*"], tmp_path / "gone"))


def _kubeconfig(path, user, cluster=None):
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "home", "user": "me"}}],
        "clusters": [{"name": "home", "cluster": {"server": "https://127.0.0.1:1", **(cluster or {})}}],
        "users": [{"name": "me", "user": user}],
    }
    path.write_text(yaml.safe_dump(document))


async def test_kubeconfigs(tmp_path):
    """Embedded certificates, and files, which are relative to the kubeconfig."""
    embedded = {
        "client-certificate-data": base64.b64encode(material.leaf("embedded")).decode(),
        "client-key-data": base64.b64encode(pairs.key_pem(material.KEY)).decode(),
    }
    _kubeconfig(tmp_path / "a.conf", embedded, {"certificate-authority": "ca.pem"})
    (tmp_path / "ca.pem").write_bytes(material.CA.pem)
    _kubeconfig(tmp_path / "b.conf", {"client-certificate": "gone.pem", "client-key": "gone.key"})
    (tmp_path / "c.conf").write_text("kind: Config\napiVersion: v1\nclusters: [\n")
    found = await material.read(files.kubeconfigs("k", [f"{tmp_path}/*.conf"]))
    expected = [
        ("a.conf", "cluster home ca.pem", "Example CA", ""),
        ("a.conf", "user me", "embedded", ""),
        ("b.conf", "user me gone.pem", "", "it cannot be read: No such file or directory"),
        ("c.conf", "", "", "a kubeconfig that is not valid YAML"),
    ]
    assert expected == _brief(found, tmp_path)
    labels = {item.item.subject: dict(item.labels) for item in found}
    assert {
        "filename": "a.conf",
        "filepath": f"{tmp_path}/a.conf",
        "embedded_kind": "user",
        "embedded_key": "me",
    } == labels["embedded"]


async def test_a_control_plane(tmp_path):
    """The PKI directory of kubeadm and its kubeconfigs."""
    kubeadmpki.create(tmp_path, material.NOW)
    source = files.control_plane("cp", layout.kubeadm(tmp_path / "pki", tmp_path))
    found = await material.read(source)
    assert not [item.item.problem for item in found if item.item.problem]
    paths = {pathlib.PurePath(item.path).relative_to(tmp_path).as_posix() for item in found}
    assert {"pki/ca.crt", "pki/etcd/server.crt", "admin.conf", "kubelet.conf", "scheduler.conf"} <= paths


async def test_a_file_system_that_does_not_respond():
    """The reading ends when its time is over. Later ones fail at once, and do not add a thread each."""
    started, released = threading.Event(), threading.Event()

    def list_files():
        started.set()
        released.wait()
        return [ListedFile("/gone.pem", "late")]

    source = files.FileSource("nfs", "files", list_files)
    reading = asyncio.ensure_future(source.read(Collector(10)))
    await asyncio.to_thread(started.wait)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    with pytest.raises(SourceProblem, match="does not respond"):
        await source.read(Collector(10))
    released.set()
