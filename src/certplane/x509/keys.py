"""Private keys: kinds, generation, loading.

A key is never printed: nothing in this module, nor in those that hold keys, has a text form of one. Where one may live,
`files` says.
"""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from certplane.x509 import pem

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey

#: The key algorithms of kubeadm's `encryptionAlgorithm`.
KINDS: Final = ("RSA-2048", "RSA-3072", "RSA-4096", "ECDSA-P256", "ECDSA-P384")
_KEY_LABELS: Final = ("RSA PRIVATE KEY", "EC PRIVATE KEY", "PRIVATE KEY")


class KeyProblem(ValueError):
    """A key that cannot be used. The text says why; it never quotes the key."""


def generate(kind: str) -> PrivateKey:
    """A new key of one of `KINDS`. Raises KeyProblem for another kind."""
    if kind not in KINDS:
        listed = " ".join(sorted(KINDS))
        raise KeyProblem(f'Invalid encryption algorithm "{kind}". Must be one of [{listed}]')
    if kind.startswith("RSA-"):
        return rsa.generate_private_key(65537, int(kind.removeprefix("RSA-")))
    return ec.generate_private_key(ec.SECP256R1() if kind.endswith("P256") else ec.SECP384R1())


def to_pem(key: PrivateKey) -> bytes:
    """The key in kubeadm's form: PKCS#1 for RSA, SEC1 for EC, PKCS#8 for the rest."""
    traditional = serialization.PrivateFormat.TraditionalOpenSSL
    form = serialization.PrivateFormat.PKCS8 if isinstance(key, ed25519.Ed25519PrivateKey) else traditional
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


def public_to_pem(key: PrivateKey) -> bytes:
    """The public half, as PKIX."""
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def from_pem(text: bytes) -> PrivateKey:
    """The first private key in a PEM text; other blocks before it are skipped. Raises KeyProblem."""
    block = next((each for each in pem.blocks(text) if each.label in _KEY_LABELS), None)
    if block is None:
        raise KeyProblem("data does not contain a valid RSA or ECDSA private key")
    try:
        key = serialization.load_pem_private_key(pem.encode(block.label, block.data), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # The library's text could quote the data.
        raise KeyProblem("the private key cannot be parsed") from None
    if not isinstance(key, PrivateKey):
        raise KeyProblem("the private key is of a kind that cannot sign certificates here")
    return key


def public_from_pem(text: bytes) -> list[PublicKey]:
    """All keys in a PEM text, the public halves of private ones among them. Raises KeyProblem if there is none."""
    found: list[PublicKey] = []
    for block in pem.blocks(text):
        if block.label in _KEY_LABELS:
            found.append(from_pem(pem.encode(block.label, block.data)).public_key())
        elif block.label == "PUBLIC KEY":
            try:
                key = serialization.load_der_public_key(block.data)
            except (ValueError, UnsupportedAlgorithm) as error:
                raise KeyProblem("a public key cannot be parsed") from error
            if not isinstance(key, PublicKey):
                raise KeyProblem("a public key is of a kind that is not used here")
            found.append(key)
    if not found:
        raise KeyProblem("data does not contain a public key")
    return found


def jwt_algorithm(of: PublicKey) -> str:
    """The algorithm of RFC 7518 with which Kubernetes signs tokens by such a key. Raises KeyProblem for the others."""
    if isinstance(of, rsa.RSAPublicKey):
        return "RS256"
    if isinstance(of, ec.EllipticCurvePublicKey) and of.curve.name in _JWT_CURVES:
        return _JWT_CURVES[of.curve.name]
    raise KeyProblem("tokens are signed with RSA keys, or with keys on P-256, P-384 or P-521")


_JWT_CURVES: Final = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}


def spki(key: PrivateKey) -> bytes:
    """The public half in DER, for comparison with a certificate's."""
    return public_der(key.public_key())


def public_der(key: PublicKey) -> bytes:
    """A public key as PKIX, in DER."""
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
