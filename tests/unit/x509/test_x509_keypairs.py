"""TLS key pairs are checked as by Go's TLS server."""

from __future__ import annotations

import datetime

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa

from certplane.golang import pem
from certplane.x509.issuance import selfsigned
from certplane.x509.trust import keypairs

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
KEY = ec.generate_private_key(ec.SECP256R1())
OTHER = ec.generate_private_key(ec.SECP256R1())
RSA = rsa.generate_private_key(65537, 2048)
FOREIGN = ed448.Ed448PrivateKey.generate()


def certificate(key=KEY):
    return selfsigned.self_signed_ca("name", key, NOW, datetime.timedelta(days=1))


def private_key(key=KEY, key_format=serialization.PrivateFormat.PKCS8, encryption=None):
    return key.private_bytes(serialization.Encoding.PEM, key_format, encryption or serialization.NoEncryption())


def problem(chain, key):
    with pytest.raises(keypairs.KeyPairError) as caught:
        keypairs.check(chain, key)
    return str(caught.value)


@pytest.mark.parametrize("key", [KEY, RSA, ed25519.Ed25519PrivateKey.generate()], ids=["ECDSA", "RSA", "Ed25519"])
def test_a_matching_pair_is_accepted(key):
    """In each format of keys; other blocks before the key and after the certificate are ignored."""
    keypairs.check(
        certificate(key) + certificate(OTHER), b"text\n" + pem.encode("EC PARAMETERS", b"\x06") + private_key(key)
    )
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        keypairs.check(certificate(key), private_key(key, serialization.PrivateFormat.TraditionalOpenSSL))


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
        (b"", private_key(), "tls: failed to find any PEM data in certificate input"),
        (private_key(), certificate(), SWITCHED),
        (FOO + BAR, private_key(), f"{NO_CERTIFICATE} [FOO BAR]"),
        (private_key() * 2, private_key(), f"{NO_CERTIFICATE} [PRIVATE KEY PRIVATE KEY]"),
        (certificate(), b"text", "tls: failed to find any PEM data in key input"),
        (certificate(), certificate(), "tls: found a certificate rather than a key in the PEM for the private key"),
        (certificate(), FOO + BAR, f"{NO_KEY} [FOO BAR]"),
        (certificate(), pem.encode("XPRIVATE KEY", b"\0"), f"{NO_KEY} [XPRIVATE KEY]"),
        (pem.encode("CERTIFICATE", b"\0\0\0"), private_key(), "x509: malformed certificate"),
        (certificate(), private_key(OTHER), "tls: private key does not match public key"),
        (certificate(OTHER) + certificate(), private_key(), "tls: private key does not match public key"),
        (certificate(), private_key(RSA), "tls: private key type does not match public key type"),
        (
            certificate(),
            private_key(FOREIGN),
            f"{UNREADABLE}: x509: PKCS#8 wrapping contained private key with unknown algorithm: 1.3.101.113",
        ),
    ],
)
def test_other_pairs_are_refused(chain, key, expected):
    """The error texts are Go's."""
    assert problem(chain, key) == expected


def test_errors_do_not_quote_the_key():
    """A key that is malformed or encrypted gets the error of its ASN.1 structure."""
    garbage = pem.encode("PRIVATE KEY", b"\0\0\0")
    assert problem(certificate(), garbage).startswith(f"{UNREADABLE}: asn1: structure error: tags don't match (16 vs")
    encrypted = private_key(encryption=serialization.BestAvailableEncryption(b"passphrase"))
    assert problem(certificate(), encrypted).startswith(f"{UNREADABLE}: asn1: structure error: tags don't match (2 vs")


@pytest.mark.parametrize("key", [KEY, RSA], ids=["EC", "RSA"])
def test_a_pair_is_compared_without_validating_the_key(key):
    """`matches` is for lists; servers use `check`."""
    assert keypairs.matches(certificate(key), private_key(key))
    assert not keypairs.matches(certificate(key), private_key(OTHER))
    assert keypairs.is_key(certificate(key) + private_key(key))


@pytest.mark.parametrize("text", [b"", b"x", pem.encode("PRIVATE KEY", b"x"), pem.encode("CERTIFICATE", b"x")])
def test_damaged_texts_are_no_keys_and_match_nothing(text):
    """Nothing is raised."""
    assert not keypairs.is_key(text)
    assert not keypairs.matches(certificate(), text)
    assert not keypairs.matches(text, private_key())
