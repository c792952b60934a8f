"""Keys and certificates for tests of the agent."""

from __future__ import annotations

import datetime
import ipaddress

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
DAY = datetime.timedelta(days=1)


def new_key():
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key):
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )


def pem(*certificates):
    return b"".join(certificate.public_bytes(serialization.Encoding.PEM) for certificate in certificates)


def _name(common_name):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


class CA:
    """A CA that issues certificates."""

    def __init__(self, name="root", start=NOW, lifetime=3650 * DAY, parent=None, key=None):
        self.key = key or new_key()
        self.name = _name(name)
        issuer, signing_key = (parent.name, parent.key) if parent else (self.name, self.key)
        builder = _builder(self.name, issuer, self.key, start, lifetime)
        constraints = x509.BasicConstraints(ca=True, path_length=None)
        self.certificate = builder.add_extension(constraints, critical=True).sign(signing_key, hashes.SHA256())
        self.pem = pem(self.certificate)

    def issue(self, key, start=NOW, lifetime=30 * DAY, common_name="web", dns=("localhost",), addresses=("127.0.0.1",)):
        """A certificate in PEM, without a chain."""
        names = [
            *(x509.DNSName(name) for name in dns),
            *(x509.IPAddress(ipaddress.ip_address(address)) for address in addresses),
        ]
        builder = _builder(_name(common_name), self.name, key, start, lifetime)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return pem(builder.sign(self.key, hashes.SHA256()))


def _builder(subject, issuer, key, start, lifetime):
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + lifetime)
    )
