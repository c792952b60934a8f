"""Public keys of requests and certificates, as Go's crypto/x509 parses them, with Go's errors.

There are three cases beside a usable key. A malformed key raises `PublicKeyError`, and the request is refused. A key
that Go parses but refuses to verify with has a `problem`, which is reported when a signature is verified. A key of a
kind that is not used for signatures here has an empty `kind`.

Source: RFC 3279 section 2.3, RFC 5480 section 2, RFC 8410; Go `crypto/x509`, `crypto/rsa`, `crypto/ecdsa`.
"""

from __future__ import annotations

import dataclasses
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from certplane.golang import asn1, dertags
from certplane.x509 import oids

#: Bits: Go verifies no signature with a smaller key.
_MIN_RSA_BITS: Final = 1024
_MAX_EXPONENT: Final = 2**31 - 1
_ED25519_BYTES: Final = 32


@dataclasses.dataclass(frozen=True, slots=True)
class _Curve:
    """A curve: Go's names of the curve and of its field elements, for errors, and the prime of the field."""

    type: type[ec.EllipticCurve]
    name: str
    element: str
    prime: int


#: SEC 2 section 2.
_CURVES: Final = {
    oids.SECP224R1: _Curve(ec.SECP224R1, "P224", "P224Element", 2**224 - 2**96 + 1),
    oids.SECP256R1: _Curve(ec.SECP256R1, "P256", "P256 element", 2**256 - 2**224 + 2**192 + 2**96 - 1),
    oids.SECP384R1: _Curve(ec.SECP384R1, "P384", "P384Element", 2**384 - 2**128 - 2**96 + 2**32 - 1),
    oids.SECP521R1: _Curve(ec.SECP521R1, "P521", "P521Element", 2**521 - 1),
}

RSA: Final = "RSA"
ECDSA: Final = "ECDSA"
ED25519: Final = "Ed25519"
#: Go's types of the keys, for errors.
GO_TYPES: Final = {RSA: "*rsa.PublicKey", ECDSA: "*ecdsa.PublicKey", ED25519: "ed25519.PublicKey"}

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey


class PublicKeyError(ValueError):
    """A public key that cannot be parsed. The text is Go's."""


@dataclasses.dataclass(frozen=True, slots=True)
class ParsedKey:
    """A public key. `kind` is RSA, ECDSA or ED25519, or empty for kinds that verify no signatures. `public` is None if
    `cryptography` cannot load the key. `size` is the bits of an RSA modulus. `problem` is why no signature is verified
    with the key, empty if there is no reason.
    """

    kind: str = ""
    public: PublicKey | None = None
    size: int = 0
    problem: str = ""


def split_spki(element: asn1.Element) -> tuple[str, bytes, bytes]:
    """The arguments of `parse`, from a SubjectPublicKeyInfo: the OID of the algorithm, the encoding of its parameters,
    and the bits of the key. Raises DERError.
    """
    reader = asn1.Reader(element.content)
    algorithm, parameters = asn1.read_algorithm(reader)
    return algorithm, parameters, asn1.decode_bit_string(reader.read(asn1.TAG_BIT_STRING, "BitString", compound=False))


def parse(algorithm: str, parameters: bytes, bits: bytes) -> ParsedKey:
    """A key, from the fields of a SubjectPublicKeyInfo: the OID of the algorithm, the encoding of its parameters, and
    the bits of the key. Raises PublicKeyError.
    """
    if algorithm == oids.RSA_ENCRYPTION:
        return _parse_rsa(parameters, bits)
    if algorithm == oids.EC_PUBLIC_KEY:
        return ParsedKey(ECDSA, _parse_ec(parameters, bits))
    if algorithm == oids.ED25519:
        return ParsedKey(ED25519, _parse_ed25519(parameters, bits))
    if algorithm == oids.DSA:
        _check_dsa(parameters, bits)
    return ParsedKey()


def _read_integer(reader: asn1.Reader, error_text: str) -> int:
    try:
        return asn1.decode_integer(reader.read(asn1.TAG_INTEGER, ""))
    except asn1.DERError as error:
        raise PublicKeyError(error_text) from error


def _open_sequence(data: bytes, error_text: str) -> asn1.Reader:
    try:
        return asn1.Reader(asn1.Reader(data).read(asn1.TAG_SEQUENCE, "").content)
    except asn1.DERError as error:
        raise PublicKeyError(error_text) from error


# --- RSA ----------------------------------------------------------------------------------------------------------


def _parse_rsa(parameters: bytes, bits: bytes) -> ParsedKey:
    if parameters != dertags.ENCODED_NULL:
        raise PublicKeyError("x509: RSA key missing NULL parameters")
    fields = _open_sequence(bits, "x509: invalid RSA public key")
    modulus = _read_integer(fields, "x509: invalid RSA modulus")
    exponent = _read_integer(fields, "x509: invalid RSA public exponent")
    if not -(1 << 63) <= exponent < 1 << 63:
        raise PublicKeyError("x509: invalid RSA public exponent")
    if modulus <= 0:
        raise PublicKeyError("x509: RSA modulus is not a positive number")
    if exponent <= 0:
        raise PublicKeyError("x509: RSA public exponent is not a positive number")
    size = modulus.bit_length()
    problem = _rsa_problem(modulus, exponent)
    if problem:
        return ParsedKey(RSA, size=size, problem=problem)
    try:
        return ParsedKey(RSA, rsa.RSAPublicNumbers(exponent, modulus).public_key(), size)
    except ValueError:
        # The library refuses these numbers, so no signature can be verified with them.
        return ParsedKey(RSA, size=size, problem="crypto/rsa: verification error")


def _rsa_problem(modulus: int, exponent: int) -> str:
    """Why Go verifies no signature with an RSA key; empty if there is no reason."""
    if (size := modulus.bit_length()) < _MIN_RSA_BITS:
        return f"crypto/rsa: {size}-bit keys are insecure (see https://go.dev/pkg/crypto/rsa#hdr-Minimum_key_size)"
    if not modulus & 1:
        return "crypto/rsa: public modulus is even"
    if exponent < 2:
        return "crypto/rsa: public exponent too small or negative"
    if not exponent & 1:
        return "crypto/rsa: public exponent is even"
    if exponent > _MAX_EXPONENT:
        return "crypto/rsa: public exponent too large"
    return ""


# --- curves -------------------------------------------------------------------------------------------------------


def _parse_ec(parameters: bytes, bits: bytes) -> ec.EllipticCurvePublicKey:
    try:
        curve = _CURVES.get(asn1.decode_oid(asn1.Reader(parameters).read(asn1.TAG_OID, "")))
    except asn1.DERError as error:
        raise PublicKeyError("x509: invalid ECDSA parameters") from error
    if curve is None:
        raise PublicKeyError("x509: unsupported elliptic curve")
    if bits[:1] != b"\x04":
        raise PublicKeyError("ecdsa: invalid uncompressed public key")
    size = (curve.prime.bit_length() + 7) // 8
    if len(bits) != 1 + 2 * size:
        raise PublicKeyError(f"invalid {curve.name} point encoding")
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(curve.type(), bits)
    except ValueError as error:
        x, y = (int.from_bytes(coordinate, "big") for coordinate in (bits[1 : 1 + size], bits[1 + size :]))
        if max(x, y) >= curve.prime:
            raise PublicKeyError(f"invalid {curve.element} encoding") from error
        raise PublicKeyError(f"{curve.name} point not on curve") from error


def _parse_ed25519(parameters: bytes, bits: bytes) -> ed25519.Ed25519PublicKey:
    if parameters:
        raise PublicKeyError("x509: Ed25519 key encoded with illegal parameters")
    if len(bits) != _ED25519_BYTES:
        raise PublicKeyError("x509: wrong Ed25519 public key size")
    return ed25519.Ed25519PublicKey.from_public_bytes(bits)


def _check_dsa(parameters: bytes, bits: bytes) -> None:
    """DSA keys verify no signatures, but must be well-formed. Raises PublicKeyError."""
    parameters_error = "x509: invalid DSA parameters"
    numbers = [_read_integer(asn1.Reader(bits), "x509: invalid DSA public key")]
    fields = _open_sequence(parameters, parameters_error)
    numbers += [_read_integer(fields, parameters_error) for _ in range(3)]
    if min(numbers) <= 0:
        raise PublicKeyError("x509: zero or negative DSA parameter")
