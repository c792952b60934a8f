"""Signatures over requests and certificates, as Go's crypto/x509 checks them, in its words.

RSA (PKCS #1 v1.5, and PSS with the parameters that Go knows), ECDSA and Ed25519. MD5 is always refused. SHA-1 is
refused for certificates, and accepted for PKCS#10 requests, where a signature proves no more than that whoever made it
has the key. Source: RFC 3279, RFC 4055, RFC 5758, RFC 8410; Go `crypto/x509`, `checkSignature`.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from certplane.x509 import der, publickeys

_DSA: Final = "DSA"
_PSS: Final = "1.2.840.113549.1.1.10"
_MGF1: Final = "1.2.840.113549.1.1.8"
_NULL: Final = b"\x05\x00"
_UNIMPLEMENTED: Final = "x509: cannot verify signature: algorithm unimplemented"


class SignatureProblem(ValueError):
    """A signature that proves nothing. The text is Go's."""


class Signature(NamedTuple):
    """A signature: the OID of its algorithm, the parameters as they stand, and its bytes."""

    oid: str
    parameters: bytes
    value: bytes


class _Scheme(NamedTuple):
    """How a signature is made: the kind of key, the hash (None: there is none), and whether RSA's padding is PSS."""

    kind: str
    hash: type[hashes.HashAlgorithm] | None
    is_pss: bool = False


#: Algorithms that are refused where they are not allowed, with Go's names for them.
_INSECURE: Final = {
    "1.2.840.113549.1.1.5": "SHA1-RSA",
    "1.3.14.3.2.29": "SHA1-RSA",
    "1.2.840.10040.4.3": "DSA-SHA1",
    "1.2.840.10045.4.1": "ECDSA-SHA1",
}
_MD5_RSA: Final = "1.2.840.113549.1.1.4"
_SCHEMES: Final = {
    "1.2.840.113549.1.1.5": _Scheme(publickeys.RSA, hashes.SHA1),
    "1.3.14.3.2.29": _Scheme(publickeys.RSA, hashes.SHA1),
    "1.2.840.113549.1.1.11": _Scheme(publickeys.RSA, hashes.SHA256),
    "1.2.840.113549.1.1.12": _Scheme(publickeys.RSA, hashes.SHA384),
    "1.2.840.113549.1.1.13": _Scheme(publickeys.RSA, hashes.SHA512),
    "1.2.840.10040.4.3": _Scheme(_DSA, hashes.SHA1),
    "2.16.840.1.101.3.4.3.2": _Scheme(_DSA, hashes.SHA256),
    "1.2.840.10045.4.1": _Scheme(publickeys.ECDSA, hashes.SHA1),
    "1.2.840.10045.4.3.2": _Scheme(publickeys.ECDSA, hashes.SHA256),
    "1.2.840.10045.4.3.3": _Scheme(publickeys.ECDSA, hashes.SHA384),
    "1.2.840.10045.4.3.4": _Scheme(publickeys.ECDSA, hashes.SHA512),
    "1.3.101.112": _Scheme(publickeys.ED25519, None),
}
_PSS_HASHES: Final[dict[str, type[hashes.HashAlgorithm]]] = {
    "2.16.840.1.101.3.4.2.1": hashes.SHA256,
    "2.16.840.1.101.3.4.2.2": hashes.SHA384,
    "2.16.840.1.101.3.4.2.3": hashes.SHA512,
}
_FAILURES: Final = {
    publickeys.RSA: "crypto/rsa: verification error",
    publickeys.ECDSA: "x509: ECDSA verification failure",
    publickeys.ED25519: "x509: Ed25519 verification failure",
}


def verify(signature: Signature, signed: bytes, key: publickeys.Key, *, allow_sha1: bool) -> None:
    """Check that a key made a signature over some bytes. Raises SignatureProblem; never returns a verdict."""
    insecure = "MD5-RSA" if signature.oid == _MD5_RSA else "" if allow_sha1 else _INSECURE.get(signature.oid, "")
    if insecure:
        raise SignatureProblem(f"x509: cannot verify signature: insecure algorithm {insecure}")
    scheme = _scheme(signature)
    if scheme is None or not key.kind:
        raise SignatureProblem(_UNIMPLEMENTED)
    if scheme.kind != key.kind:
        raise SignatureProblem(
            f"x509: signature algorithm specifies an {scheme.kind} public key, "
            f"but have public key of type {publickeys.GO_TYPES[key.kind]}"
        )
    if key.problem:
        raise SignatureProblem(key.problem)
    try:
        _verify_with(scheme, signature.value, signed, key.public)
    except (InvalidSignature, ValueError, UnsupportedAlgorithm) as error:
        raise SignatureProblem(_FAILURES[key.kind]) from error


def _scheme(signature: Signature) -> _Scheme | None:
    if signature.oid == _PSS:
        return _pss_scheme(signature.parameters)
    found = _SCHEMES.get(signature.oid)
    if found is not None and found.kind == publickeys.ED25519 and signature.parameters:
        return None
    return found


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


def _pss_scheme(parameters: bytes) -> _Scheme | None:
    """PSS, if its parameters are of the only form that Go knows: one hash throughout, salt as long as it."""
    try:
        fields = der.Reader(der.Reader(parameters).read(der.SEQUENCE, "").content)
        name, hash_parameters = der.algorithm(der.Reader(fields.read_context(0).content))
        mask, mask_parameters = der.algorithm(der.Reader(fields.read_context(1).content))
        inner, inner_parameters = der.algorithm(der.Reader(mask_parameters))
        salt = _explicit_integer(fields, 2)
        trailer = _explicit_integer(fields, 3) if fields.peek_context() == 3 else 1
    except der.DERProblem:
        return None
    found = _PSS_HASHES.get(name)
    odd = any(each not in (b"", _NULL) for each in (hash_parameters, inner_parameters))
    if found is None or odd or (mask, inner, salt, trailer) != (_MGF1, name, found().digest_size, 1):
        return None
    return _Scheme(publickeys.RSA, found, is_pss=True)


def _explicit_integer(fields: der.Reader, tag: int) -> int:
    return der.integer(der.Reader(fields.read_context(tag).content).read(der.INTEGER, ""))
