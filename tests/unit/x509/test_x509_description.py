"""What a certificate says, whoever made it."""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
import subprocess
import sys
import warnings

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

from certplane import testing
from certplane.golang import pem
from certplane.x509.trust import description

_NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


def certificate(subject=((NameOID.COMMON_NAME, "jane"),), names=(), key=None, signer=None):
    """A certificate in PEM; `names` are subject alternative names."""
    signer = signer or testing.new_key()
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ca")])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        subject = x509.Name([x509.NameAttribute(oid, value, _validate=False) for oid, value in subject])
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).serial_number(0xAB01)
        builder = builder.public_key((key or testing.new_key()).public_key())
        builder = builder.not_valid_before(_NOW).not_valid_after(_NOW + datetime.timedelta(days=1))
        builder = builder.add_extension(x509.AuthorityKeyIdentifier(b"\x01\x02", None, None), critical=False)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def test_all_facts():
    """Of the first certificate of a bundle. The last common name counts, as for Kubernetes."""
    names = [
        x509.DNSName("a.example.com"),
        x509.IPAddress(ipaddress.ip_address("10.0.0.1")),
        x509.RFC822Name("a@example.com"),
        x509.UniformResourceIdentifier("spiffe://example.com/a"),
        x509.DNSName("b.example.com"),
    ]
    subject = [(NameOID.ORGANIZATION_NAME, "ops"), (NameOID.COMMON_NAME, "x"), (NameOID.COMMON_NAME, "jane")]
    text = certificate(subject, names)
    facts = description.describe(text + certificate())
    raw = pem.first_block(text).data
    assert facts == description.Description(
        sha256=hashlib.sha256(raw).hexdigest(),
        serial="ab01",
        issuer="CN=ca",
        subject="CN=jane,CN=x,O=ops",
        common_name="jane",
        organizations=["ops"],
        dns_names=["a.example.com", "b.example.com"],
        ip_addresses=["10.0.0.1"],
        email_addresses=["a@example.com"],
        uris=["spiffe://example.com/a"],
        key="ECDSA P-256",
        authority_key_id="0102",
        not_before=_NOW,
        not_after=_NOW + datetime.timedelta(days=1),
    )


@pytest.mark.parametrize(
    ("key", "text"),
    [
        (lambda: rsa.generate_private_key(65537, 2048), "RSA 2048"),
        (lambda: ec.generate_private_key(ec.SECP384R1()), "ECDSA P-384"),
        (ed25519.Ed25519PrivateKey.generate, "Ed25519"),
    ],
)
def test_the_kind_of_the_key(key, text):
    """And its size, in the words that people use."""
    assert description.describe(certificate(key=key())).key == text


def test_the_number_of_names_is_bounded():
    """A certificate may have tens of thousands."""
    facts = description.describe(certificate(names=[x509.DNSName(f"n{number}") for number in range(2000)]))
    assert len(facts.dns_names) == description.MAX_NAMES


def test_names_that_are_too_long_are_described_without_a_warning(tmp_path):
    """The library would warn on standard error at every certificate. In a process of its own, because pytest sets the
    filters of warnings.
    """
    path = tmp_path / "long.pem"
    path.write_bytes(certificate([(NameOID.COMMON_NAME, "x" * 300)]))
    code = (
        "import pathlib, sys; from certplane.x509.trust import description; "
        "print(description.describe(pathlib.Path(sys.argv[1]).read_bytes()).common_name)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert (done.stdout.strip(), done.stderr) == ("x" * 300, "")


@pytest.mark.parametrize("text", [b"", b"text", pem.encode("CERTIFICATE", b"x"), pem.encode("X509 CRL", b"x")])
def test_what_is_no_certificate_has_a_digest_only(text):
    """There is no exception: the write that asks for it must not fail."""
    facts = description.describe(text)
    assert facts == description.Description(facts.sha256)
    assert len(facts.sha256) == 64
