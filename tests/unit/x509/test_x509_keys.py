"""Keys in PEM: which kinds are accepted, and errors that do not quote them."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, rsa, x25519

from certplane.golang import pem
from certplane.x509 import keys
from tests.unit.x509 import material

UNSUPPORTED = {
    "Ed448": ed448.Ed448PrivateKey.generate(),
    "X25519": x25519.X25519PrivateKey.generate(),
    "DSA": dsa.generate_private_key(1024),
}


def private_pem(key, password=None):
    encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


def public_pem(key):
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize(
    ("kind", "type_", "size"),
    [
        ("RSA-2048", rsa.RSAPrivateKey, 2048),
        ("RSA-3072", rsa.RSAPrivateKey, 3072),
        ("ECDSA-P256", ec.EllipticCurvePrivateKey, 256),
        ("ECDSA-P384", ec.EllipticCurvePrivateKey, 384),
    ],
)
def test_a_new_key_has_the_kind_that_was_asked_for(kind, type_, size):
    """The names are those of kubeadm's encryptionAlgorithm."""
    key = keys.generate(kind)
    assert isinstance(key, type_)
    assert key.key_size == size


@pytest.mark.parametrize("kind", ["", "RSA", "RSA-1024", "rsa-2048", "ECDSA-P521", "Ed25519"])
def test_other_kinds_of_keys_are_not_generated(kind):
    """The error lists those that are."""
    with pytest.raises(keys.InvalidKeyError) as caught:
        keys.generate(kind)
    assert str(caught.value) == (
        f'Invalid encryption algorithm "{kind}". Must be one of [ECDSA-P256 ECDSA-P384 RSA-2048 RSA-3072 RSA-4096]'
    )


@pytest.mark.parametrize(
    ("kind", "label"), [("RSA-2048", "RSA PRIVATE KEY"), ("P-256", "EC PRIVATE KEY"), ("Ed25519", "PRIVATE KEY")]
)
def test_a_key_is_read_as_it_was_written(kind, label):
    """In the form in which kubeadm writes it, and as PKCS#8; other blocks before it are skipped."""
    key = material.key(kind)
    written = keys.to_pem(key)
    assert pem.first_block(written).label == label
    for text in (written, private_pem(key), keys.public_to_pem(key) + written + keys.to_pem(material.key("P-384"))):
        assert keys.spki(keys.from_pem(text)) == keys.spki(key)


SECRET = private_pem(material.key())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "data does not contain a valid RSA or ECDSA private key"),
        (keys.public_to_pem(material.key()), "data does not contain a valid RSA or ECDSA private key"),
        (private_pem(material.key(), b"secret"), "data does not contain a valid RSA or ECDSA private key"),
        (pem.encode("PRIVATE KEY", pem.first_block(SECRET).data[:-1]), "the private key cannot be parsed"),
        (pem.encode("EC PRIVATE KEY", pem.first_block(SECRET).data[5:]), "the private key cannot be parsed"),
        (pem.encode("PRIVATE KEY", b""), "the private key cannot be parsed"),
        *((private_pem(key), "unsupported private key type; supported types are RSA, ECDSA and Ed25519")
          for key in UNSUPPORTED.values()),
    ],
)  # fmt: skip
def test_a_private_key_that_cannot_be_used(text, message):
    """The error has the reason and no part of the key, nor has its cause."""
    with pytest.raises(keys.InvalidKeyError) as caught:
        keys.from_pem(text)
    assert str(caught.value) == message
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_public_keys_are_read_from_public_and_private_ones():
    """All of them, in their order; other blocks are skipped."""
    own = [material.key(kind) for kind in ("RSA-2048", "P-256", "Ed25519")]
    text = b"".join((public_pem(own[0]), pem.encode("CERTIFICATE", b"x"), keys.to_pem(own[1]), public_pem(own[2])))
    assert list(map(keys.public_der, keys.public_from_pem(text))) == [keys.spki(key) for key in own]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "data does not contain a public key"),
        (pem.encode("CERTIFICATE", b"x"), "data does not contain a public key"),
        (public_pem(material.key()) + pem.encode("PUBLIC KEY", b"x"), "the public key cannot be parsed"),
        (public_pem(material.key()) + pem.encode("PRIVATE KEY", b"x"), "the private key cannot be parsed"),
        *((public_pem(key), "unsupported public key type; supported types are RSA, ECDSA and Ed25519")
          for key in UNSUPPORTED.values()),
    ],
)  # fmt: skip
def test_public_keys_that_cannot_be_used(text, message):
    """One of them is enough: tokens that it signed would be refused without a reason."""
    with pytest.raises(keys.InvalidKeyError) as caught:
        keys.public_from_pem(text)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("kind", "algorithm"), [("RSA-2048", "RS256"), ("P-256", "ES256"), ("P-384", "ES384"), ("P-521", "ES512")]
)
def test_the_algorithm_of_tokens_depends_on_the_key(kind, algorithm):
    """RFC 7518: each curve has its hash."""
    assert keys.jwt_algorithm(material.key(kind).public_key()) == algorithm


@pytest.mark.parametrize("kind", ["P-224", "Ed25519"])
def test_some_keys_sign_no_tokens(kind):
    """Kubernetes verifies none by them."""
    with pytest.raises(keys.InvalidKeyError, match="tokens require an RSA key, or an ECDSA key"):
        keys.jwt_algorithm(material.key(kind).public_key())
