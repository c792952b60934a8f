"""The public key of a request, as Go's crypto/x509 reads it, and what its crypto packages say of odd ones.

Three answers are told apart: a key that is malformed, so that the request is refused as it is read (`KeyProblem`); one
that can be read, but that no signature is ever checked with, which is told when the signature would be (`problem`); and
one of a kind that nothing is verified with, which comes with no name of a kind.

Source: RFC 3279 section 2.3, RFC 5480 section 2, RFC 8410; Go `crypto/x509`, `crypto/rsa`, `crypto/ecdsa`.
"""

from __future__ import annotations

import dataclasses
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from certplane.x509 import der

_RSA: Final = "1.2.840.113549.1.1.1"
_EC: Final = "1.2.840.10045.2.1"
_ED25519: Final = "1.3.101.112"
_DSA: Final = "1.2.840.10040.4.1"
_NULL: Final = b"\x05\x00"
_SMALLEST_RSA: Final = 1024
_LARGEST_EXPONENT: Final = 2**31 - 1
_ED25519_SIZE: Final = 32


@dataclasses.dataclass(frozen=True, slots=True)
class _Curve:
    """A curve: what Go calls it and what it calls a number of its field, and the prime of that field."""

    type: type[ec.EllipticCurve]
    name: str
    element: str
    prime: int


#: SEC 2 section 2.
_CURVES: Final = {
    "1.3.132.0.33": _Curve(ec.SECP224R1, "P224", "P224Element", 2**224 - 2**96 + 1),
    "1.2.840.10045.3.1.7": _Curve(ec.SECP256R1, "P256", "P256 element", 2**256 - 2**224 + 2**192 + 2**96 - 1),
    "1.3.132.0.34": _Curve(ec.SECP384R1, "P384", "P384Element", 2**384 - 2**128 - 2**96 + 2**32 - 1),
    "1.3.132.0.35": _Curve(ec.SECP521R1, "P521", "P521Element", 2**521 - 1),
}

RSA: Final = "RSA"
ECDSA: Final = "ECDSA"
ED25519: Final = "Ed25519"
#: What Go calls the types of the keys.
GO_TYPES: Final = {RSA: "*rsa.PublicKey", ECDSA: "*ecdsa.PublicKey", ED25519: "ed25519.PublicKey"}

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey


class KeyProblem(ValueError):
    """A public key that cannot be read. The text is Go's."""


@dataclasses.dataclass(frozen=True, slots=True)
class Key:
    """A public key: of which kind, empty for those that nothing is verified with; None if `cryptography` cannot have
    it; the bits of the modulus of an RSA key; and why no signature is checked with it, empty if there is no reason.
    """

    kind: str = ""
    public: PublicKey | None = None
    size: int = 0
    problem: str = ""


def parts(of: der.Element) -> tuple[str, bytes, bytes]:
    """What a SubjectPublicKeyInfo consists of, for `read`: the OID of the algorithm, its parameters as they stand, the
    bits of the key. Raises DERProblem.
    """
    reader = der.Reader(of.content)
    algorithm, parameters = der.algorithm(reader)
    return algorithm, parameters, der.bits(reader.read(der.BIT_STRING, "BitString", compound=False))


def read(algorithm: str, parameters: bytes, bits: bytes) -> Key:
    """The key of an algorithm, by its OID, from the parameters and the bits of a SubjectPublicKeyInfo. Raises
    KeyProblem.
    """
    if algorithm == _RSA:
        return _rsa_key(parameters, bits)
    if algorithm == _EC:
        return Key(ECDSA, _ec_key(parameters, bits))
    if algorithm == _ED25519:
        return Key(ED25519, _ed25519_key(parameters, bits))
    if algorithm == _DSA:
        _check_dsa(parameters, bits)
    return Key()


def _integer(of: der.Reader, complaint: str) -> int:
    try:
        return der.integer(of.read(der.INTEGER, ""))
    except der.DERProblem as error:
        raise KeyProblem(complaint) from error


def _sequence(data: bytes, complaint: str) -> der.Reader:
    try:
        return der.Reader(der.Reader(data).read(der.SEQUENCE, "").content)
    except der.DERProblem as error:
        raise KeyProblem(complaint) from error


# --- RSA ----------------------------------------------------------------------------------------------------------


def _rsa_key(parameters: bytes, bits: bytes) -> Key:
    if parameters != _NULL:
        raise KeyProblem("x509: RSA key missing NULL parameters")
    parts = _sequence(bits, "x509: invalid RSA public key")
    modulus = _integer(parts, "x509: invalid RSA modulus")
    exponent = _integer(parts, "x509: invalid RSA public exponent")
    if not -(1 << 63) <= exponent < 1 << 63:
        raise KeyProblem("x509: invalid RSA public exponent")
    if modulus <= 0:
        raise KeyProblem("x509: RSA modulus is not a positive number")
    if exponent <= 0:
        raise KeyProblem("x509: RSA public exponent is not a positive number")
    size = modulus.bit_length()
    problem = _rsa_problem(modulus, exponent)
    if problem:
        return Key(RSA, size=size, problem=problem)
    try:
        return Key(RSA, rsa.RSAPublicNumbers(exponent, modulus).public_key(), size)
    except ValueError:
        # Numbers that the library does not take: whatever the signature is, it cannot be verified.
        return Key(RSA, size=size, problem="crypto/rsa: verification error")


def _rsa_problem(modulus: int, exponent: int) -> str:
    """Why no signature is checked with the numbers of an RSA key; empty if there is no reason."""
    if (size := modulus.bit_length()) < _SMALLEST_RSA:
        return f"crypto/rsa: {size}-bit keys are insecure (see https://go.dev/pkg/crypto/rsa#hdr-Minimum_key_size)"
    if not modulus & 1:
        return "crypto/rsa: public modulus is even"
    if exponent < 2:
        return "crypto/rsa: public exponent too small or negative"
    if not exponent & 1:
        return "crypto/rsa: public exponent is even"
    if exponent > _LARGEST_EXPONENT:
        return "crypto/rsa: public exponent too large"
    return ""


# --- curves -------------------------------------------------------------------------------------------------------


def _ec_key(parameters: bytes, bits: bytes) -> ec.EllipticCurvePublicKey:
    try:
        curve = _CURVES.get(der.oid(der.Reader(parameters).read(der.OID, "")))
    except der.DERProblem as error:
        raise KeyProblem("x509: invalid ECDSA parameters") from error
    if curve is None:
        raise KeyProblem("x509: unsupported elliptic curve")
    if bits[:1] != b"\x04":
        raise KeyProblem("ecdsa: invalid uncompressed public key")
    size = (curve.prime.bit_length() + 7) // 8
    if len(bits) != 1 + 2 * size:
        raise KeyProblem(f"invalid {curve.name} point encoding")
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(curve.type(), bits)
    except ValueError as error:
        x, y = (int.from_bytes(each, "big") for each in (bits[1 : 1 + size], bits[1 + size :]))
        if max(x, y) >= curve.prime:
            raise KeyProblem(f"invalid {curve.element} encoding") from error
        raise KeyProblem(f"{curve.name} point not on curve") from error


def _ed25519_key(parameters: bytes, bits: bytes) -> ed25519.Ed25519PublicKey:
    if parameters:
        raise KeyProblem("x509: Ed25519 key encoded with illegal parameters")
    if len(bits) != _ED25519_SIZE:
        raise KeyProblem("x509: wrong Ed25519 public key size")
    return ed25519.Ed25519PublicKey.from_public_bytes(bits)


def _check_dsa(parameters: bytes, bits: bytes) -> None:
    """Nothing is verified with such a key, but it has to be one."""
    wrong = "x509: invalid DSA parameters"
    numbers = [_integer(der.Reader(bits), "x509: invalid DSA public key")]
    parts = _sequence(parameters, wrong)
    numbers += [_integer(parts, wrong) for _ in range(3)]
    if min(numbers) <= 0:
        raise KeyProblem("x509: zero or negative DSA parameter")
