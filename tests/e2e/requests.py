"""Requests and certificates for tests of real processes."""

from __future__ import annotations

import base64
import dataclasses
import datetime
import json
import pathlib

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.conformance import corpus, wire

CSRS = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
JSON = {"Content-Type": "application/json", "Accept": "application/json"}


@dataclasses.dataclass(frozen=True)
class Server:
    """Where a control plane is."""

    data: pathlib.Path
    port: int

    @property
    def url(self):
        return f"https://127.0.0.1:{self.port}"


def client(server, directory):
    """A client with the identities of the corpus."""
    pki = server.data / "pki"
    return wire.Client(server.url, wire.Identities(corpus.identities(), pki / "ca.crt", pki / "ca.key", directory), 15)


def pkcs10(common_name="jane"):
    """A certificate request with a new key, in PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM)


def csr(name, request, signer="example.com/test", **spec):
    """A CertificateSigningRequest as a body."""
    body = {
        "apiVersion": "certificates.k8s.io/v1",
        "kind": "CertificateSigningRequest",
        "metadata": {"name": name},
        "spec": {
            "request": base64.b64encode(request).decode(),
            "signerName": signer,
            "usages": ["client auth"],
            **spec,
        },
    }
    return json.dumps(body).encode()


CLIENT_AUTH = (ExtendedKeyUsageOID.CLIENT_AUTH,)


def certificate(ca, ca_key, *, usages=CLIENT_AUTH, days=(-1, 1), is_ca=False, name="jane", organizations=()):
    """A certificate signed by an authority, and its key; valid from and to a number of days from now."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(
            x509.Name(
                [
                    *(x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization) for organization in organizations),
                    x509.NameAttribute(NameOID.COMMON_NAME, name),
                ]
            )
        )
        .issuer_name(ca.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + datetime.timedelta(days=days[0]))
        .not_valid_after(now + datetime.timedelta(days=days[1]))
        .add_extension(x509.BasicConstraints(is_ca, None), critical=True)
    )
    if usages:
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    return builder.sign(ca_key, hashes.SHA256()), key


def authority_pair(days=(-2, 1)):
    """A new CA: certificate and key."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test CA")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + datetime.timedelta(days=days[0]))
        .not_valid_after(now + datetime.timedelta(days=days[1]))
        .add_extension(x509.BasicConstraints(True, None), critical=True)
    )
    return builder.sign(key, hashes.SHA256()), key


def authority(server):
    """The CA of a server: certificate and key."""
    pki = server.data / "pki"
    ca = x509.load_pem_x509_certificate((pki / "ca.crt").read_bytes())
    return ca, serialization.load_pem_private_key((pki / "ca.key").read_bytes(), None)


def pem(*things):
    """Certificates and keys, one after the other, in PEM."""
    return b"".join(
        part.public_bytes(serialization.Encoding.PEM)
        if isinstance(part, x509.Certificate)
        else part.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        for part in things
    )
