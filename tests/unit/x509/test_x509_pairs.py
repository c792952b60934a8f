"""A certificate and its key: what a TLS server would say of the two."""

from __future__ import annotations

import datetime

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa

from certplane.x509 import mint, pairs, pem

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
KEY = ec.generate_private_key(ec.SECP256R1())
OTHER = ec.generate_private_key(ec.SECP256R1())
RSA = rsa.generate_private_key(65537, 2048)
FOREIGN = ed448.Ed448PrivateKey.generate()


def certificate(key=KEY):
    return mint.self_signed_ca("name", key, NOW, datetime.timedelta(days=1))


def secret(key=KEY, form=serialization.PrivateFormat.PKCS8, encryption=None):
    return key.private_bytes(serialization.Encoding.PEM, form, encryption or serialization.NoEncryption())


def problem(chain, key):
    with pytest.raises(pairs.PairProblem) as caught:
        pairs.check(chain, key)
    return str(caught.value)


@pytest.mark.parametrize("key", [KEY, RSA, ed25519.Ed25519PrivateKey.generate()], ids=["ECDSA", "RSA", "Ed25519"])
def test_a_pair(key):
    """In any form that a key has, whatever stands around it and follows the certificate."""
    pairs.check(certificate(key) + certificate(OTHER), b"text\n" + pem.encode("EC PARAMETERS", b"\x06") + secret(key))
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        pairs.check(certificate(key), secret(key, serialization.PrivateFormat.TraditionalOpenSSL))


SWITCHED = (
    "tls: failed to find certificate PEM data in certificate input, but did find a private key; PEM inputs may "
    "have been switched"
)
FOO, BAR = pem.encode("FOO", b"\0"), pem.encode("BAR", b"\0")
SKIPPED = "after skipping PEM blocks of the following types:"
NO_CERTIFICATE = f'tls: failed to find "CERTIFICATE" PEM block in certificate input {SKIPPED}'
NO_KEY = f'tls: failed to find PEM block with type ending in "PRIVATE KEY" in key input {SKIPPED}'
UNREADABLE = "tls: failed to parse private key"


@pytest.mark.parametrize(
    ("chain", "key", "expected"),
    [
        (b"", secret(), "tls: failed to find any PEM data in certificate input"),
        (
            secret(),
            certificate(),
            SWITCHED,
        ),
        (FOO + BAR, secret(), f"{NO_CERTIFICATE} [FOO BAR]"),
        (secret() * 2, secret(), f"{NO_CERTIFICATE} [PRIVATE KEY PRIVATE KEY]"),
        (certificate(), b"text", "tls: failed to find any PEM data in key input"),
        (certificate(), certificate(), "tls: found a certificate rather than a key in the PEM for the private key"),
        (certificate(), FOO + BAR, f"{NO_KEY} [FOO BAR]"),
        (certificate(), pem.encode("XPRIVATE KEY", b"\0"), f"{NO_KEY} [XPRIVATE KEY]"),
        (pem.encode("CERTIFICATE", b"\0\0\0"), secret(), "x509: malformed certificate"),
        (certificate(), secret(OTHER), "tls: private key does not match public key"),
        (certificate(OTHER) + certificate(), secret(), "tls: private key does not match public key"),
        (certificate(), secret(RSA), "tls: private key type does not match public key type"),
        (
            certificate(),
            secret(FOREIGN),
            f"{UNREADABLE}: x509: PKCS#8 wrapping contained private key with unknown algorithm: 1.3.101.113",
        ),
    ],
)
def test_no_pair(chain, key, expected):
    """The first thing that is wrong, in Go's words."""
    assert problem(chain, key) == expected


def test_what_cannot_be_read_is_not_quoted():
    """A key that is none, or one behind a passphrase, is told by its outline."""
    garbage = pem.encode("PRIVATE KEY", b"\0\0\0")
    assert problem(certificate(), garbage).startswith(f"{UNREADABLE}: asn1: structure error: tags don't match (16 vs")
    locked = secret(encryption=serialization.BestAvailableEncryption(b"passphrase"))
    assert problem(certificate(), locked).startswith(f"{UNREADABLE}: asn1: structure error: tags don't match (2 vs")
