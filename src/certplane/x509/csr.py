"""PKCS#10: parse, verify, and the facts that are read out of a request. RFC 2986.

What is accepted, and what is said of the rest, is Go's crypto/x509: both are part of the Kubernetes API. The request is
read with our own DER reader, so that the verdict is explicit and does not depend on a library's taste; keys and
signatures are `cryptography`'s.

A request that parses is not yet proven: `verify` checks that whoever made it has the key. What this module does not
know: who may have such a certificate.
"""

from __future__ import annotations

import dataclasses
import functools
import ipaddress
import re
import urllib.parse
from typing import Any, Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from certplane.x509 import der, pem

_EXTENSION_REQUEST: Final = "1.2.840.113549.1.9.14"
_SAN: Final = "2.5.29.17"
_BASIC_CONSTRAINTS: Final = "2.5.29.19"
_RSA: Final = "1.2.840.113549.1.1.1"
_EC: Final = "1.2.840.10045.2.1"
_ED25519: Final = "1.3.101.112"
_PSS: Final = "1.2.840.113549.1.1.10"
_MGF1: Final = "1.2.840.113549.1.1.8"
_NULL: Final = b"\x05\x00"

_CURVES: Final[dict[str, type[ec.EllipticCurve]]] = {
    "1.3.132.0.33": ec.SECP224R1,
    "1.2.840.10045.3.1.7": ec.SECP256R1,
    "1.3.132.0.34": ec.SECP384R1,
    "1.3.132.0.35": ec.SECP521R1,
}
#: Signature algorithms by OID: key type, and hash (None: not supported by Go, whatever the key).
_ALGORITHMS: Final[dict[str, tuple[str, type[hashes.HashAlgorithm] | None]]] = {
    "1.2.840.113549.1.1.5": ("RSA", hashes.SHA1),
    "1.3.14.3.2.29": ("RSA", hashes.SHA1),
    "1.2.840.113549.1.1.11": ("RSA", hashes.SHA256),
    "1.2.840.113549.1.1.12": ("RSA", hashes.SHA384),
    "1.2.840.113549.1.1.13": ("RSA", hashes.SHA512),
    "1.2.840.10045.4.1": ("ECDSA", hashes.SHA1),
    "1.2.840.10045.4.3.2": ("ECDSA", hashes.SHA256),
    "1.2.840.10045.4.3.3": ("ECDSA", hashes.SHA384),
    "1.2.840.10045.4.3.4": ("ECDSA", hashes.SHA512),
    _ED25519: ("Ed25519", None),
}
_MD5_RSA: Final = "1.2.840.113549.1.1.4"
_PSS_HASHES: Final[dict[str, tuple[type[hashes.HashAlgorithm], int]]] = {
    "2.16.840.1.101.3.4.2.1": (hashes.SHA256, 32),
    "2.16.840.1.101.3.4.2.2": (hashes.SHA384, 48),
    "2.16.840.1.101.3.4.2.3": (hashes.SHA512, 64),
}
_UNIMPLEMENTED: Final = "x509: cannot verify signature: algorithm unimplemented"
_SMALLEST_RSA: Final = 1024

#: Attribute types of a subject, and the field of `Subject` that they fill.
_SUBJECT_FIELDS: Final = {
    "2.5.4.6": "country",
    "2.5.4.8": "province",
    "2.5.4.7": "locality",
    "2.5.4.9": "street_address",
    "2.5.4.17": "postal_code",
    "2.5.4.10": "organization",
    "2.5.4.11": "organizational_unit",
}

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey
IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


class RequestError(ValueError):
    """Bytes that are not an acceptable request; the text is what a Go server says."""


@dataclasses.dataclass(frozen=True, slots=True)
class Subject:
    """The parts of a name that Kubernetes looks at. Of several common names the last one counts."""

    country: tuple[str, ...] = ()
    province: tuple[str, ...] = ()
    locality: tuple[str, ...] = ()
    street_address: tuple[str, ...] = ()
    postal_code: tuple[str, ...] = ()
    organization: tuple[str, ...] = ()
    organizational_unit: tuple[str, ...] = ()
    common_name: str = ""
    serial_number: str = ""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class CertificateRequest:
    """A parsed request. `public_key` is None for key types that nothing can be signed for; `spki` is its DER.
    `wants_authority` tells whether the extensions ask for a CA certificate, which hardly any signer gives.

    Compared by identity: `parse` gives the same object for the same text, as long as it remembers it.
    """

    der: bytes
    subject: Subject
    public_key: PublicKey | None
    spki: bytes
    dns_names: tuple[str, ...]
    email_addresses: tuple[str, ...]
    ip_addresses: tuple[IPAddress, ...]
    uris: tuple[str, ...]
    signed: bytes
    signature: bytes
    signature_oid: str
    signature_parameters: bytes
    wants_authority: bool

    @property
    def common_name(self) -> str:
        return self.subject.common_name

    @property
    def organizations(self) -> tuple[str, ...]:
        return self.subject.organization


@functools.lru_cache(maxsize=2048)
def parse(text: bytes) -> CertificateRequest:
    """The request in the first PEM block of a text. Raises RequestError."""
    block = pem.first(text)
    if block is None or block.label != "CERTIFICATE REQUEST":
        raise RequestError("PEM block type must be CERTIFICATE REQUEST")
    return parse_der(block.data)


def parse_der(data: bytes) -> CertificateRequest:
    """The request in a DER document. Raises RequestError."""
    try:
        return _parse(data)
    except der.DERProblem as error:
        raise RequestError(str(error)) from error


def _parse(data: bytes) -> CertificateRequest:
    outer = der.Reader(data)
    whole = outer.read(der.SEQUENCE, "certificateRequest")
    parts = der.Reader(whole.content)
    tbs = parts.read(der.SEQUENCE, "tbsCertificateRequest")
    info = der.Reader(tbs.content)
    der.integer(info.read(der.INTEGER, "int"))
    name = info.any()
    spki = info.read(der.SEQUENCE, "publicKeyInfo")
    key = der.Reader(spki.content)
    key_oid, key_parameters = _algorithm(key)
    key_bits = der.bits(key.read(der.BIT_STRING, "BitString", compound=False))
    attributes = info.any()
    if (attributes.class_, attributes.tag) != (der.CONTEXT, 0):
        raise der.structure("tags don't match")
    raw_attributes = list(der.Reader(attributes.content))
    signature_oid, signature_parameters = _algorithm(parts)
    signature = der.bits(parts.read(der.BIT_STRING, "BitString", compound=False))
    if not outer.empty:
        raise der.syntax("trailing data")
    subject = parse_name(name.raw)
    public_key = _public_key(key_oid, key_parameters, key_bits)
    names = _requested_names(raw_attributes)
    return CertificateRequest(
        der=data,
        subject=subject,
        public_key=public_key,
        spki=spki.raw,
        dns_names=tuple(names.dns),
        email_addresses=tuple(names.email),
        ip_addresses=tuple(names.ip),
        uris=tuple(names.uri),
        signed=tbs.raw,
        signature=signature,
        signature_oid=signature_oid,
        signature_parameters=signature_parameters,
        wants_authority=names.authority,
    )


def _algorithm(reader: der.Reader) -> tuple[str, bytes]:
    """An AlgorithmIdentifier: its OID, and its parameters as they stand."""
    parts = der.Reader(reader.read(der.SEQUENCE, "AlgorithmIdentifier").content)
    name = der.oid(parts.read(der.OID, "ObjectIdentifier"))
    return name, b"" if parts.empty else parts.any().raw


# --- names --------------------------------------------------------------------------------------------------------


def parse_name(data: bytes) -> Subject:
    """The subject in a DER name. Raises DERProblem."""
    outer = der.Reader(data)
    rdns = outer.read(der.SEQUENCE, "RDNSequence")
    if not outer.empty:
        raise RequestError("x509: trailing data after X.509 Subject")
    fields: dict[str, list[str]] = {}
    single = {"common_name": "", "serial_number": ""}
    for oid, value in name_attributes(rdns.content):
        if oid == "2.5.4.3":
            single["common_name"] = value
        elif oid == "2.5.4.5":
            single["serial_number"] = value
        elif oid in _SUBJECT_FIELDS:
            fields.setdefault(_SUBJECT_FIELDS[oid], []).append(value)
    return Subject(**{key: tuple(values) for key, values in fields.items()}, **single)  # type: ignore[arg-type]  # the two maps have disjoint fields


def name_attributes(rdns: bytes) -> list[tuple[str, str]]:
    """The attributes in the content of a name, in order; those whose values are no strings are left out."""
    found = []
    reader = der.Reader(rdns)
    while not reader.empty:
        members = der.Reader(reader.read(der.SET, "RelativeDistinguishedNameSET").content)
        while not members.empty:
            pair = der.Reader(members.read(der.SEQUENCE, "AttributeTypeAndValue").content)
            oid = der.oid(pair.read(der.OID, "ObjectIdentifier"))
            value = der.text(pair.any())
            if value is not None:
                found.append((oid, value))
    return found


# --- keys ---------------------------------------------------------------------------------------------------------


def _public_key(oid: str, parameters: bytes, bits: bytes) -> PublicKey | None:
    if oid == _RSA:
        return _rsa_key(parameters, bits)
    if oid == _EC:
        return _ec_key(parameters, bits)
    if oid == _ED25519:
        if parameters:
            raise RequestError("x509: Ed25519 key encoded with illegal parameters")
        if len(bits) != 32:
            raise RequestError("x509: wrong Ed25519 public key size")
        return ed25519.Ed25519PublicKey.from_public_bytes(bits)
    return None


def _rsa_key(parameters: bytes, bits: bytes) -> PublicKey | None:
    if parameters != _NULL:
        raise RequestError("x509: RSA key missing NULL parameters")
    try:
        parts = der.Reader(der.Reader(bits).read(der.SEQUENCE, "").content)
    except der.DERProblem as error:
        raise RequestError("x509: invalid RSA public key") from error
    try:
        modulus = der.integer(parts.read(der.INTEGER, ""))
    except der.DERProblem as error:
        raise RequestError("x509: invalid RSA modulus") from error
    try:
        exponent = der.integer(parts.read(der.INTEGER, ""))
        if exponent >= 1 << 63:
            raise RequestError("x509: invalid RSA public exponent")
    except der.DERProblem as error:
        raise RequestError("x509: invalid RSA public exponent") from error
    if modulus <= 0:
        raise RequestError("x509: RSA modulus is not a positive number")
    if exponent <= 0:
        raise RequestError("x509: RSA public exponent is not a positive number")
    if modulus.bit_length() < _SMALLEST_RSA:
        raise _TooSmallKey(modulus.bit_length())
    try:
        return rsa.RSAPublicNumbers(exponent, modulus).public_key()
    except ValueError:
        # Numbers that no RSA key can have: the signature cannot be verified, whatever it is.
        return None


class _TooSmallKey(RequestError):
    """Go parses such a key and refuses it when it verifies; nothing else happens in between, so we refuse at once."""

    def __init__(self, bits: int) -> None:
        super().__init__(
            f"crypto/rsa: {bits}-bit keys are insecure (see https://go.dev/pkg/crypto/rsa#hdr-Minimum_key_size)"
        )


def _ec_key(parameters: bytes, bits: bytes) -> PublicKey:
    try:
        curve = _CURVES.get(der.oid(der.Reader(parameters).read(der.OID, "")))
    except der.DERProblem as error:
        raise RequestError("x509: invalid ECDSA parameters") from error
    if curve is None:
        raise RequestError("x509: unsupported elliptic curve")
    try:
        if bits[:1] != b"\x04":
            raise ValueError("only uncompressed points")
        return ec.EllipticCurvePublicKey.from_encoded_point(curve(), bits)
    except ValueError as error:
        raise RequestError("x509: failed to unmarshal elliptic curve point") from error


# --- extensions ---------------------------------------------------------------------------------------------------


@dataclasses.dataclass(slots=True)
class _Names:
    dns: list[str] = dataclasses.field(default_factory=list)
    email: list[str] = dataclasses.field(default_factory=list)
    ip: list[IPAddress] = dataclasses.field(default_factory=list)
    uri: list[str] = dataclasses.field(default_factory=list)
    authority: bool = False


def _requested_names(attributes: list[der.Element]) -> _Names:
    names = _Names()
    seen: set[str] = set()
    for attribute in attributes:
        extensions = _extensions(attribute)
        if extensions is None:
            continue
        reader = der.Reader(der.Reader(extensions).read(der.SEQUENCE, "").content)
        while not reader.empty:
            parts = der.Reader(reader.read(der.SEQUENCE, "Extension").content)
            oid = der.oid(parts.read(der.OID, "ObjectIdentifier"))
            value = parts.any()
            if (value.class_, value.tag) == (0, 1):
                value = parts.any()
            if (value.class_, value.tag) != (0, der.OCTET_STRING):
                raise der.structure("tags don't match")
            if oid in seen:
                raise RequestError("x509: certificate request contains duplicate requested extensions")
            seen.add(oid)
            if oid == _SAN:
                _read_names(value.content, names)
            elif oid == _BASIC_CONSTRAINTS:
                names.authority = _is_authority(value.content)
    return names


def _is_authority(constraints: bytes) -> bool:
    """Whether basic constraints say CA. Those that do not parse say nothing: Go does not look at them at all."""
    try:
        found = list(der.Reader(der.Reader(constraints).read(der.SEQUENCE, "").content))
    except der.DERProblem:
        return False
    return bool(found) and (found[0].class_, found[0].tag, found[0].content) == (0, der.BOOLEAN, b"\xff")


def _extensions(attribute: der.Element) -> bytes | None:
    """The extensions in an attribute that requests some; attributes that do not parse are ignored, as Go does."""
    try:
        parts = der.Reader(attribute.content)
        if der.oid(parts.read(der.OID, "")) != _EXTENSION_REQUEST:
            return None
        values = der.Reader(parts.read(der.SET, "").content)
        return None if values.empty or not parts.empty else values.any().raw
    except der.DERProblem:
        return None


def _read_names(value: bytes, names: _Names) -> None:
    try:
        items = list(der.Reader(der.Reader(value).read(der.SEQUENCE, "").content))
    except der.DERProblem as error:
        raise RequestError("x509: invalid subject alternative names") from error
    for item in items:
        if item.tag == 1:
            names.email.append(_ia5(item.content, "rfc822Name"))
        elif item.tag == 2:
            names.dns.append(_ia5(item.content, "dNSName"))
        elif item.tag == 6:
            uri = _ia5(item.content, "uniformResourceIdentifier")
            _check_uri(uri)
            names.uri.append(uri)
        elif item.tag == 7:
            if len(item.content) not in (4, 16):
                raise RequestError(f"x509: cannot parse IP address of length {len(item.content)}")
            names.ip.append(ipaddress.ip_address(item.content))


def _ia5(content: bytes, name: str) -> str:
    if not content.isascii():
        raise RequestError(f"x509: SAN {name} is malformed")
    return content.decode("ascii")


_URI_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2}).{0,2}")


def _check_uri(uri: str) -> None:
    problem = _uri_problem(uri)
    if problem:
        raise RequestError(f'x509: cannot parse URI "{uri}": {problem}')
    host = urllib.parse.urlsplit(uri).hostname or ""
    if host and not _is_ip(host):
        labels = host.removesuffix(".").split(".")
        if any(not label or not label.isascii() or not label.isprintable() for label in labels):
            raise RequestError(f'x509: cannot parse URI "{uri}": invalid domain')


def _uri_problem(uri: str) -> str:
    """What Go's net/url says of a URI, in the cases that matter; empty if it can be parsed."""
    quoted = f'parse "{uri}": '
    if any(ord(char) < 0x20 or ord(char) == 0x7F for char in uri):
        return quoted + "net/url: invalid control character in URL"
    if uri.startswith(":"):
        return quoted + "missing protocol scheme"
    bad = _ESCAPE.search(uri.partition("?")[0])
    if bad is not None:
        return quoted + f'invalid URL escape "{bad[0]}"'
    if not _URI_SCHEME.match(uri) and ":" in uri.partition("/")[0]:
        return quoted + "first path segment in URL cannot contain colon"
    try:
        _ = urllib.parse.urlsplit(uri).port
    except ValueError:
        return quoted + "invalid port"
    return ""


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


# --- the signature ------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=2048)
def verify(request: CertificateRequest) -> None:
    """Check that the request was signed with the key that it contains. Raises RequestError."""
    key = request.public_key
    if request.signature_oid == _MD5_RSA:
        raise RequestError("x509: cannot verify signature: insecure algorithm MD5-RSA")
    if request.signature_oid == _PSS:
        _verify_pss(request)
        return
    kind, algorithm = _ALGORITHMS.get(request.signature_oid, ("", None))
    if not kind or key is None or (kind == "Ed25519" and request.signature_parameters):
        raise RequestError(_UNIMPLEMENTED)
    if kind != _kind(key):
        raise RequestError(
            f"x509: signature algorithm specifies an {kind} public key, but have public key of type {_go_type(key)}"
        )
    try:
        _verify_with(key, request, algorithm)
    except (InvalidSignature, ValueError, UnsupportedAlgorithm) as error:
        raise RequestError(_FAILURES[kind]) from error


_FAILURES: Final = {
    "RSA": "crypto/rsa: verification error",
    "ECDSA": "x509: ECDSA verification failure",
    "Ed25519": "x509: Ed25519 verification failure",
}


def _verify_with(key: Any, request: CertificateRequest, algorithm: type[hashes.HashAlgorithm] | None) -> None:
    if algorithm is None:
        key.verify(request.signature, request.signed)
    elif isinstance(key, rsa.RSAPublicKey):
        key.verify(request.signature, request.signed, padding.PKCS1v15(), algorithm())
    else:
        key.verify(request.signature, request.signed, ec.ECDSA(algorithm()))


def _verify_pss(request: CertificateRequest) -> None:
    found = _pss_hash(request.signature_parameters)
    key = request.public_key
    if found is None or key is None:
        raise RequestError(_UNIMPLEMENTED)
    if not isinstance(key, rsa.RSAPublicKey):
        raise RequestError(
            f"x509: signature algorithm specifies an RSA public key, but have public key of type {_go_type(key)}"
        )
    algorithm, size = found
    scheme = padding.PSS(padding.MGF1(algorithm()), size)
    try:
        key.verify(request.signature, request.signed, scheme, algorithm())
    except (InvalidSignature, ValueError) as error:
        raise RequestError(_FAILURES["RSA"]) from error


def _pss_hash(parameters: bytes) -> tuple[type[hashes.HashAlgorithm], int] | None:
    """The hash of PSS parameters, if they are of the only form that Go knows: one hash throughout, salt as long as
    it.
    """
    try:
        fields = {each.tag: each for each in der.Reader(der.Reader(parameters).read(der.SEQUENCE, "").content)}
        name, _ = _algorithm(der.Reader(fields[0].content))
        mask, mask_parameters = _algorithm(der.Reader(fields[1].content))
        inner, _ = _algorithm(der.Reader(mask_parameters))
        salt = der.integer(der.Reader(fields[2].content).read(der.INTEGER, ""))
    except (der.DERProblem, KeyError):
        return None
    found = _PSS_HASHES.get(name)
    if found is None or mask != _MGF1 or inner != name or salt != found[1]:
        return None
    return found


def _kind(key: PublicKey) -> str:
    if isinstance(key, rsa.RSAPublicKey):
        return "RSA"
    return "ECDSA" if isinstance(key, ec.EllipticCurvePublicKey) else "Ed25519"


def _go_type(key: PublicKey) -> str:
    return {"RSA": "*rsa.PublicKey", "ECDSA": "*ecdsa.PublicKey", "Ed25519": "ed25519.PublicKey"}[_kind(key)]
