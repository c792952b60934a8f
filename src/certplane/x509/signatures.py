"""Signatures over requests and certificates, as Go's crypto/x509 verifies them, with Go's errors.

RSA (PKCS #1 v1.5, and PSS with the parameters that Go supports), ECDSA and Ed25519. MD5 is always refused. SHA-1 is
refused for certificates and accepted for PKCS#10 requests, where a signature only proves possession of the key.

Source: RFC 3279, RFC 4055, RFC 5758, RFC 8410; Go `crypto/x509`, `checkSignature`.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from certplane.golang import asn1, dertags
from certplane.x509 import oids, publickeys

_DSA: Final = "DSA"
_UNIMPLEMENTED: Final = "x509: cannot verify signature: algorithm unimplemented"


class SignatureError(ValueError):
    """A signature that cannot be verified, or does not verify. The text is Go's."""


class Signature(NamedTuple):
    """A signature: the OID of its algorithm, the encoding of the parameters, and its bytes."""

    oid: str
    parameters: bytes
    value: bytes


class _Scheme(NamedTuple):
    """A signature algorithm: the kind of key, the hash (None for Ed25519), and whether the RSA padding is PSS."""

    kind: str
    hash: type[hashes.HashAlgorithm] | None
    is_pss: bool = False


#: Algorithms that are refused unless SHA-1 is allowed, with Go's names of them.
_INSECURE: Final = {
    oids.SHA1_WITH_RSA: "SHA1-RSA",
    oids.ISO_SHA1_WITH_RSA: "SHA1-RSA",
    oids.DSA_WITH_SHA1: "DSA-SHA1",
    oids.ECDSA_WITH_SHA1: "ECDSA-SHA1",
}
_SCHEMES: Final = {
    oids.SHA1_WITH_RSA: _Scheme(publickeys.RSA, hashes.SHA1),
    oids.ISO_SHA1_WITH_RSA: _Scheme(publickeys.RSA, hashes.SHA1),
    oids.SHA256_WITH_RSA: _Scheme(publickeys.RSA, hashes.SHA256),
    oids.SHA384_WITH_RSA: _Scheme(publickeys.RSA, hashes.SHA384),
    oids.SHA512_WITH_RSA: _Scheme(publickeys.RSA, hashes.SHA512),
    oids.DSA_WITH_SHA1: _Scheme(_DSA, hashes.SHA1),
    oids.DSA_WITH_SHA256: _Scheme(_DSA, hashes.SHA256),
    oids.ECDSA_WITH_SHA1: _Scheme(publickeys.ECDSA, hashes.SHA1),
    oids.ECDSA_WITH_SHA256: _Scheme(publickeys.ECDSA, hashes.SHA256),
    oids.ECDSA_WITH_SHA384: _Scheme(publickeys.ECDSA, hashes.SHA384),
    oids.ECDSA_WITH_SHA512: _Scheme(publickeys.ECDSA, hashes.SHA512),
    oids.ED25519: _Scheme(publickeys.ED25519, None),
}
_PSS_HASHES: Final[dict[str, type[hashes.HashAlgorithm]]] = {
    oids.SHA256: hashes.SHA256,
    oids.SHA384: hashes.SHA384,
    oids.SHA512: hashes.SHA512,
}
_FAILURES: Final = {
    publickeys.RSA: "crypto/rsa: verification error",
    publickeys.ECDSA: "x509: ECDSA verification failure",
    publickeys.ED25519: "x509: Ed25519 verification failure",
}


def verify(signature: Signature, signed: bytes, key: publickeys.ParsedKey, *, allow_sha1: bool) -> None:
    """Check that a key made a signature over `signed`. Raises SignatureError; there is no result to ignore."""
    insecure = "" if allow_sha1 else _INSECURE.get(signature.oid, "")
    if signature.oid == oids.MD5_WITH_RSA:
        insecure = "MD5-RSA"
    if insecure:
        raise SignatureError(f"x509: cannot verify signature: insecure algorithm {insecure}")
    scheme = _find_scheme(signature)
    if scheme is None or not key.kind:
        raise SignatureError(_UNIMPLEMENTED)
    if scheme.kind != key.kind:
        raise SignatureError(
            f"x509: signature algorithm specifies an {scheme.kind} public key, "
            f"but have public key of type {publickeys.GO_TYPES[key.kind]}"
        )
    if key.problem:
        raise SignatureError(key.problem)
    try:
        _verify_with(scheme, signature.value, signed, key.public)
    except (InvalidSignature, ValueError, UnsupportedAlgorithm) as error:
        raise SignatureError(_FAILURES[key.kind]) from error


def _find_scheme(signature: Signature) -> _Scheme | None:
    if signature.oid == oids.RSASSA_PSS:
        return _parse_pss_scheme(signature.parameters)
    scheme = _SCHEMES.get(signature.oid)
    if scheme is not None and scheme.kind == publickeys.ED25519 and signature.parameters:
        return None
    return scheme


def _verify_with(scheme: _Scheme, value: bytes, signed: bytes, key: publickeys.PublicKey | None) -> None:
    if isinstance(key, rsa.RSAPublicKey) and scheme.hash is not None:
        algorithm = scheme.hash()
        pss = padding.PSS(padding.MGF1(algorithm), algorithm.digest_size)
        key.verify(value, signed, pss if scheme.is_pss else padding.PKCS1v15(), algorithm)
    elif isinstance(key, ec.EllipticCurvePublicKey) and scheme.hash is not None:
        key.verify(value, signed, ec.ECDSA(scheme.hash()))
    elif isinstance(key, ed25519.Ed25519PublicKey):
        key.verify(value, signed)
    else:
        raise InvalidSignature


def _parse_pss_scheme(parameters: bytes) -> _Scheme | None:
    """PSS from its parameters; None unless they are of the only form that Go supports: the same hash for message and
    mask, and a salt of the length of the hash.
    """
    try:
        fields = asn1.Reader(asn1.Reader(parameters).read(asn1.TAG_SEQUENCE, "").content)
        hash_oid, hash_parameters = asn1.read_algorithm(asn1.Reader(fields.read_context(0).content))
        mask_oid, mask_parameters = asn1.read_algorithm(asn1.Reader(fields.read_context(1).content))
        mask_hash_oid, mask_hash_parameters = asn1.read_algorithm(asn1.Reader(mask_parameters))
        salt_length = _read_explicit_integer(fields, 2)
        trailer = _read_explicit_integer(fields, 3) if fields.peek_context() == 3 else 1
    except asn1.DERError:
        return None
    algorithm = _PSS_HASHES.get(hash_oid)
    if algorithm is None or not {hash_parameters, mask_hash_parameters} <= {b"", dertags.ENCODED_NULL}:
        return None
    expected = (oids.MGF1, hash_oid, algorithm().digest_size, 1)
    if (mask_oid, mask_hash_oid, salt_length, trailer) != expected:
        return None
    return _Scheme(publickeys.RSA, algorithm, is_pss=True)


def _read_explicit_integer(fields: asn1.Reader, tag: int) -> int:
    return asn1.decode_integer(asn1.Reader(fields.read_context(tag).content).read(asn1.TAG_INTEGER, ""))
