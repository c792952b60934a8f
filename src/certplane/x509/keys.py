"""Private keys: kinds, generation, PEM.

A key is never printed: no class that holds a key, here or elsewhere, has a text form that shows it. File modes of keys
are the concern of `files`.
"""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from certplane.golang import pem

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey

#: The key algorithms of kubeadm's `encryptionAlgorithm`.
KINDS: Final = ("RSA-2048", "RSA-3072", "RSA-4096", "ECDSA-P256", "ECDSA-P384")
_KEY_LABELS: Final = ("RSA PRIVATE KEY", "EC PRIVATE KEY", "PRIVATE KEY")


class InvalidKeyError(ValueError):
    """A key that cannot be used. The text gives the reason and never quotes the key."""


def generate(kind: str) -> PrivateKey:
    """A new key of one of `KINDS`. Raises InvalidKeyError for another kind."""
    if kind not in KINDS:
        kinds = " ".join(sorted(KINDS))
        raise InvalidKeyError(f'Invalid encryption algorithm "{kind}". Must be one of [{kinds}]')
    if kind.startswith("RSA-"):
        return rsa.generate_private_key(65537, int(kind.removeprefix("RSA-")))
    return ec.generate_private_key(ec.SECP256R1() if kind.endswith("P256") else ec.SECP384R1())


def is_rsa(key: PrivateKey) -> bool:
    """Whether a key can also encrypt: with it, TLS may use the key usage key encipherment."""
    return isinstance(key, rsa.RSAPrivateKey)


def to_pem(key: PrivateKey) -> bytes:
    """The key as kubeadm writes it: PKCS#1 for RSA, SEC1 for EC; PKCS#8 for Ed25519."""
    traditional = serialization.PrivateFormat.TraditionalOpenSSL
    key_format = serialization.PrivateFormat.PKCS8 if isinstance(key, ed25519.Ed25519PrivateKey) else traditional
    return key.private_bytes(serialization.Encoding.PEM, key_format, serialization.NoEncryption())


def public_to_pem(key: PrivateKey) -> bytes:
    """The public half of a key, as PKIX, in PEM."""
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def from_pem(text: bytes) -> PrivateKey:
    """The first private key in a PEM text; other blocks are skipped. Raises InvalidKeyError."""
    block = next((block for block in pem.blocks(text) if block.label in _KEY_LABELS), None)
    if block is None:
        raise InvalidKeyError("data does not contain a valid RSA or ECDSA private key")
    try:
        key = serialization.load_pem_private_key(pem.encode(block.label, block.data), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # The library's error is dropped because its text could quote the data.
        raise InvalidKeyError("the private key cannot be parsed") from None
    if not isinstance(key, PrivateKey):
        raise InvalidKeyError("unsupported private key type; supported types are RSA, ECDSA and Ed25519")
    return key


def public_from_pem(text: bytes) -> list[PublicKey]:
    """All public keys in a PEM text, including the public halves of private keys. Raises InvalidKeyError, also for a
    text without keys.
    """
    public_keys: list[PublicKey] = []
    for block in pem.blocks(text):
        if block.label in _KEY_LABELS:
            public_keys.append(from_pem(pem.encode(block.label, block.data)).public_key())
        elif block.label == "PUBLIC KEY":
            try:
                key = serialization.load_der_public_key(block.data)
            except (ValueError, UnsupportedAlgorithm) as error:
                raise InvalidKeyError("the public key cannot be parsed") from error
            if not isinstance(key, PublicKey):
                raise InvalidKeyError("unsupported public key type; supported types are RSA, ECDSA and Ed25519")
            public_keys.append(key)
    if not public_keys:
        raise InvalidKeyError("data does not contain a public key")
    return public_keys


def jwt_algorithm(key: PublicKey) -> str:
    """The JWT algorithm (RFC 7518) that Kubernetes uses with a key. Raises InvalidKeyError if there is none."""
    if isinstance(key, rsa.RSAPublicKey):
        return "RS256"
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _JWT_CURVES:
        return _JWT_CURVES[key.curve.name]
    raise InvalidKeyError("tokens require an RSA key, or an ECDSA key on P-256, P-384 or P-521")


_JWT_CURVES: Final = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}


def spki(key: PrivateKey) -> bytes:
    """The SubjectPublicKeyInfo of a private key, in DER."""
    return public_der(key.public_key())


def public_der(key: PublicKey) -> bytes:
    """The SubjectPublicKeyInfo of a public key, in DER."""
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
