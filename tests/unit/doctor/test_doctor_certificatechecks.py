"""When certificates end, and whether a CA can sign."""

from __future__ import annotations

import datetime
import pathlib

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from certplane.config.signing import PairFiles
from certplane.doctor import certificatechecks
from certplane.doctor.certificatechecks import CAFacts
from certplane.doctor.findings import Severity
from certplane.golang import pem
from certplane.kubeadm import expiration, layout
from certplane.kubeadm.certificatefiles import FileItem
from certplane.x509.trust.inventory import Item
from tests import kubeadmpki

NOW = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)
DAY = datetime.timedelta(days=1)
CA = kubeadmpki.new_ca("kubernetes", NOW)
OTHER = kubeadmpki.new_ca("other", NOW)


def wrong(items):
    return [(finding.id, finding.severity.name) for finding in items if finding.severity > Severity.OK]


# --- ends ---------------------------------------------------------------------------------------------------------


def item(begins, ends, **others):
    return FileItem("/pki/x.crt", "", Item("jane", "ca", "1", NOW + begins, NOW + ends, **others))


@pytest.mark.parametrize(
    ("begins", "ends", "expected"),
    [
        (-DAY, 365 * DAY, []),
        (-DAY, 29 * DAY, [("certificate-end", "WARNING")]),
        (-DAY, 6 * DAY, [("certificate-end", "ERROR")]),
        (-10 * DAY, -DAY, [("certificate-end", "ERROR")]),
        (DAY, 365 * DAY, [("certificate-not-yet-valid", "ERROR")]),
        (-0.1 * DAY, 0.9 * DAY, []),
        (-0.8 * DAY, 0.2 * DAY, [("certificate-end", "WARNING")]),
    ],
)
def test_ends_are_as_urgent_as_the_server_says(begins, ends, expected):
    """30 and 7 days, or a part of a short lifetime."""
    assert wrong(certificatechecks.check_ends([item(begins, ends)], NOW)) == expected


def test_the_end_is_named_with_the_command_that_renews():
    """For a CA there is none."""
    leaf, ca = item(-DAY, 6 * DAY), item(-DAY, 6 * DAY, is_ca=True)
    first, second = certificatechecks.check_ends([leaf, ca], NOW, "certplane certs renew all --data-dir d")
    assert first.what == "the certificate jane in /pki/x.crt ends in 6d, at 2026-01-08T00:00:00Z"
    assert first.fix == ("certplane certs renew all --data-dir d",)
    assert second.what.startswith("the CA certificate jane")
    assert "docs/operations.md" in second.fix[0]


def test_a_damaged_certificate_is_an_error():
    """And does not hide the others."""
    damaged = FileItem("/a b", "#2", Item(problem="a damaged PEM block"))
    found = certificatechecks.check_ends([damaged, item(-DAY, -DAY)], NOW)
    assert wrong(found) == [("certificate-unreadable", "ERROR"), ("certificate-end", "ERROR")]
    assert "'/a b'" in found[0].fix[0]


def test_certificates_and_their_keys(tmp_path):
    """After an interrupted renewal the key is another one."""
    directory = kubeadmpki.create(tmp_path, NOW)
    layouts = layout.kubeadm(directory.pki, directory.root)
    assert wrong(certificatechecks.check_pairs(expiration.collect(layouts), "")) == []
    (directory.pki / "apiserver.key").write_bytes(kubeadmpki.key_pem(kubeadmpki.new_key()))
    (directory.pki / "etcd" / "peer.crt").write_bytes(b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n")
    report = expiration.collect(layouts, tolerate_damage=True)
    found = certificatechecks.check_pairs(report, " --cert-dir pki")
    assert wrong(found) == [("certificate-key", "ERROR"), ("certificate-unreadable", "ERROR")]
    assert found[0].fix == ("certplane certs renew apiserver --cert-dir pki",)


# --- CAs ----------------------------------------------------------------------------------------------------------


def ca_facts(ca=CA, **changes):
    values = {"certificate": kubeadmpki.pem(ca.certificate), "key": kubeadmpki.key_pem(ca.key), **changes}
    return CAFacts("the CA", PairFiles(pathlib.Path("/pki/ca.crt"), pathlib.Path("/pki/ca.key")), **values)


def check(facts, now=NOW):
    return wrong(certificatechecks.check_authorities([facts], now))


def make(subject, issuer, *, key=None, issuer_key=None, is_ca=True, path_length=None, usage=True):
    """A CA certificate with freely chosen extensions."""
    key = key or kubeadmpki.new_key()
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(NOW - DAY)
        .not_valid_after(NOW + 1000 * DAY)
        .add_extension(x509.BasicConstraints(is_ca, path_length), True)
        .add_extension(x509.KeyUsage(True, False, False, False, False, usage, usage, False, False), True)
    )
    return kubeadmpki.Issued(builder.sign(issuer_key or key, hashes.SHA256()), key)


def test_a_good_ca():
    """Kubeadm's."""
    assert check(ca_facts()) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"certificate": None}, [("ca-unreadable", "ERROR")]),
        ({"certificate": b"hello"}, [("ca-unreadable", "ERROR")]),
        ({"certificate": kubeadmpki.pem(CA.certificate) * 2}, [("ca-unreadable", "ERROR")]),
        ({"problem": "permission denied"}, [("file-access", "WARNING")]),
        ({"key": None}, [("ca-key", "ERROR")]),
        ({"key": None, "key_is_required": False}, [("ca-key", "INFO")]),
        ({"key": b"hello"}, [("ca-key", "ERROR")]),
        ({"key": kubeadmpki.key_pem(OTHER.key)}, [("ca-key", "ERROR")]),
    ],
)
def test_files_that_cannot_sign(changes, expected):
    """Missing, damaged, or not belonging together."""
    assert check(ca_facts(**changes)) == expected


@pytest.mark.parametrize("settings", [{"is_ca": False}, {"usage": False}])
def test_a_certificate_that_is_no_ca(settings):
    """By its basic constraints, or its key usage."""
    assert check(ca_facts(make("ca", "ca", **settings))) == [("ca-not-ca", "ERROR")]


def test_a_ca_that_ends_or_has_not_begun():
    """As urgent as other certificates."""
    assert check(ca_facts(), NOW + 3649 * DAY) == [("certificate-end", "ERROR")]
    assert check(ca_facts(), NOW + 3625 * DAY) == [("certificate-end", "WARNING")]
    assert check(ca_facts(), NOW - DAY) == [("certificate-not-yet-valid", "ERROR")]


def test_a_weak_key():
    """RSA with 1024 bits, and a chain that is signed with SHA-1."""
    weak = rsa.generate_private_key(65537, 1024)
    assert check(ca_facts(make("ca", "ca", key=weak))) == [("ca-key-weak", "ERROR")]
    root = make("root", "root", key=rsa.generate_private_key(65537, 2048))
    signed = make("ca", "root", issuer_key=root.key)
    # The library refuses to sign with SHA-1: the OID of the algorithm is replaced, sha256WithRSAEncryption's last byte.
    prefix = bytes.fromhex("2a864886f70d0101")
    old = signed.certificate.public_bytes(serialization.Encoding.DER).replace(prefix + b"\x0b", prefix + b"\x05")
    changes = {"certificate": pem.encode("CERTIFICATE", old), "bundles": kubeadmpki.pem(root.certificate)}
    assert check(ca_facts(signed, **changes)) == [("ca-key-weak", "ERROR")]


def test_an_intermediate_without_its_root():
    """A warning, as Go trusts an intermediate alone, and OpenSSL does not."""
    root = make("root", "root")
    middle = make("ca", "root", issuer_key=root.key)
    assert check(ca_facts(middle)) == [("ca-chain", "WARNING")]
    assert check(ca_facts(middle, bundles=kubeadmpki.pem(root.certificate))) == []
    assert check(ca_facts(middle, bundles=kubeadmpki.pem(OTHER.certificate) + b"junk")) == [("ca-chain", "WARNING")]


def test_path_lengths():
    """Of a CA above, and of a CA that has to issue CAs."""
    root = make("root", "root", path_length=0)
    middle = make("ca", "root", issuer_key=root.key)
    bundles = kubeadmpki.pem(root.certificate)
    assert check(ca_facts(middle, bundles=bundles)) == [("ca-path-length", "ERROR")]
    flat = make("ca", "ca", path_length=0)
    assert check(ca_facts(flat)) == []
    assert check(ca_facts(flat, issues_ca=True)) == [("ca-path-length", "ERROR")]


def test_a_cycle_of_cas_ends():
    """Two CAs that name each other as issuer."""
    one, two = make("one", "two"), make("two", "one")
    assert check(ca_facts(one, bundles=kubeadmpki.pem(two.certificate))) == []
