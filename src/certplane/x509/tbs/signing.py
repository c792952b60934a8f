"""Signatures made with private keys, and the AlgorithmIdentifiers that name them. RFC 4055, RFC 5758, RFC 8410."""

from __future__ import annotations

from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from certplane.golang import asn1, dertags
from certplane.x509 import keys, oids
from certplane.x509.tbs import template

_EC_ALGORITHMS: Final[dict[str, tuple[str, type[hashes.HashAlgorithm]]]] = {
    "secp224r1": (oids.ECDSA_WITH_SHA256, hashes.SHA256),
    "secp256r1": (oids.ECDSA_WITH_SHA256, hashes.SHA256),
    "secp384r1": (oids.ECDSA_WITH_SHA384, hashes.SHA384),
    "secp521r1": (oids.ECDSA_WITH_SHA512, hashes.SHA512),
}


def algorithm_identifier(key: keys.PrivateKey) -> bytes:
    """The DER AlgorithmIdentifier of the signatures that a key makes. Raises InvalidKeyError for a curve that Go does
    not support.
    """
    if isinstance(key, rsa.RSAPrivateKey):
        return asn1.encode(dertags.SEQUENCE, template.encode_oid(oids.SHA256_WITH_RSA) + dertags.ENCODED_NULL)
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return asn1.encode(dertags.SEQUENCE, template.encode_oid(oids.ED25519))
    algorithm = _EC_ALGORITHMS.get(key.curve.name)
    if algorithm is None:
        raise keys.InvalidKeyError(f"x509: unsupported elliptic curve: {key.curve.name}")
    return asn1.encode(dertags.SEQUENCE, template.encode_oid(algorithm[0]))


def sign(key: keys.PrivateKey, data: bytes) -> bytes:
    """Sign with RSA PKCS #1 v1.5 and SHA-256, ECDSA and the hash that fits the curve, or Ed25519."""
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(data, padding.PKCS1v15(), hashes.SHA256())
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key.sign(data)
    return key.sign(data, ec.ECDSA(curve_hash(key.curve)))


def curve_hash(curve: ec.EllipticCurve) -> hashes.HashAlgorithm:
    """The hash of ECDSA signatures with a curve for which `algorithm_identifier` has one."""
    return _EC_ALGORITHMS[curve.name][1]()
