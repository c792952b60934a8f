"""A certificate before it is signed: the bytes that the signature covers, laid out as Go's crypto/x509 lays them out.

The encoding is our own, because every byte of it is visible: string types, the order of names and extensions, what is
critical. The same bytes can be recorded, linted with a throw-away key, and then signed, without being built again.
RFC 5280 sections 4.1 and 4.2.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import ipaddress
from collections.abc import Iterable, Sequence
from typing import Final

from certplane import boundedcache
from certplane.x509 import csr, der

_SEQUENCE, _SET, _OCTETS, _BITS, _OID, _INTEGER, _BOOLEAN = 0x30, 0x31, 0x04, 0x03, 0x06, 0x02, 0x01
_PRINTABLE, _UTF8, _UTC_TIME, _GENERALIZED_TIME = 0x13, 0x0C, 0x17, 0x18
_TRUE: Final = b"\xff"
_PRINTABLE_CHARS: Final = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 '()+,-./:=?")

#: The fields of a subject, in the order in which they are written.
_SUBJECT: Final = (
    ("country", "2.5.4.6"),
    ("province", "2.5.4.8"),
    ("locality", "2.5.4.7"),
    ("street_address", "2.5.4.9"),
    ("postal_code", "2.5.4.17"),
    ("organization", "2.5.4.10"),
    ("organizational_unit", "2.5.4.11"),
    ("common_name", "2.5.4.3"),
    ("serial_number", "2.5.4.5"),
)

KEY_USAGE: Final = "2.5.29.15"
EXTENDED_KEY_USAGE: Final = "2.5.29.37"
BASIC_CONSTRAINTS: Final = "2.5.29.19"
SUBJECT_KEY_ID: Final = "2.5.29.14"
AUTHORITY_KEY_ID: Final = "2.5.29.35"
SUBJECT_ALT_NAME: Final = "2.5.29.17"

#: Bits of KeyUsage, in the order of RFC 5280 section 4.2.1.3.
KEY_USAGE_BITS: Final = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


@dataclasses.dataclass(frozen=True, slots=True)
class Extension:
    """One extension, encoded."""

    oid: str
    critical: bool
    value: bytes


@dataclasses.dataclass(frozen=True, slots=True)
class Template:
    """Everything that a certificate says. `issuer` and `subject` are DER names, `spki` the DER of the public key,
    `algorithm` the DER AlgorithmIdentifier of the signature to come. Times are whole seconds in UTC.
    """

    serial: int
    issuer: bytes
    not_before: datetime.datetime
    not_after: datetime.datetime
    subject: bytes
    spki: bytes
    extensions: Sequence[Extension]
    algorithm: bytes

    def to_be_signed(self) -> bytes:
        """The DER TBSCertificate."""
        version = der.encode(0xA0, _integer(2))
        validity = der.encode(_SEQUENCE, _time(self.not_before) + _time(self.not_after))
        extensions = b"".join(map(_extension, self.extensions))
        parts = [version, _integer(self.serial), self.algorithm, self.issuer, validity, self.subject, self.spki]
        if extensions:
            parts.append(der.encode(0xA3, der.encode(_SEQUENCE, extensions)))
        return der.encode(_SEQUENCE, b"".join(parts))


def assemble(to_be_signed: bytes, algorithm: bytes, signature: bytes) -> bytes:
    """The DER certificate."""
    return der.encode(_SEQUENCE, to_be_signed + algorithm + der.encode(_BITS, b"\0" + signature))


# --- pieces -------------------------------------------------------------------------------------------------------


def _integer(value: int) -> bytes:
    return der.encode(_INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "big"))


@boundedcache.remember()
def oid(dotted: str) -> bytes:
    """An OBJECT IDENTIFIER."""
    first, second, *rest = map(int, dotted.split("."))
    content = b""
    for part in (first * 40 + second, *rest):
        septets = [part & 0x7F]
        while part := part >> 7:
            septets.append(part & 0x7F | 0x80)
        content += bytes(reversed(septets))
    return der.encode(_OID, content)


def _time(moment: datetime.datetime) -> bytes:
    if 1950 <= moment.year < 2050:
        return der.encode(_UTC_TIME, moment.strftime("%y%m%d%H%M%SZ").encode("ascii"))
    return der.encode(_GENERALIZED_TIME, moment.strftime("%Y%m%d%H%M%SZ").encode("ascii"))


def _extension(of: Extension) -> bytes:
    critical = der.encode(_BOOLEAN, _TRUE) if of.critical else b""
    return der.encode(_SEQUENCE, oid(of.oid) + critical + der.encode(_OCTETS, of.value))


def name(of: csr.Subject) -> bytes:
    """A DER name: one RDN for each attribute type, with all its values, sorted as DER sorts a set."""
    rdns = []
    for field, dotted in _SUBJECT:
        found = getattr(of, field)
        values = (found,) if isinstance(found, str) else found
        pairs = [der.encode(_SEQUENCE, oid(dotted) + _string(value)) for value in values if value or found is values]
        if pairs:
            rdns.append(der.encode(_SET, b"".join(sorted(pairs))))
    return der.encode(_SEQUENCE, b"".join(rdns))


def _string(value: str) -> bytes:
    encoded = value.encode("utf-8")
    return der.encode(_PRINTABLE if _PRINTABLE_CHARS.issuperset(encoded) else _UTF8, encoded)


def key_usage(bits: Iterable[str]) -> Extension:
    """KeyUsage, critical."""
    wanted = set(bits)
    flags = [each in wanted for each in KEY_USAGE_BITS]
    count = max(position for position, flag in enumerate(flags) if flag) + 1
    size = (count + 7) // 8
    value = sum(1 << size * 8 - 1 - position for position, flag in enumerate(flags) if flag)
    content = bytes((size * 8 - count,)) + value.to_bytes(size, "big")
    return Extension(KEY_USAGE, critical=True, value=der.encode(_BITS, content))


def extended_key_usage(oids: Iterable[str]) -> Extension:
    """ExtendedKeyUsage."""
    return Extension(EXTENDED_KEY_USAGE, critical=False, value=der.encode(_SEQUENCE, b"".join(map(oid, oids))))


def basic_constraints(*, ca: bool, path_length: int | None = None) -> Extension:
    """BasicConstraints, critical. A CA may have a path length: how many CAs may be below it."""
    content = der.encode(_BOOLEAN, _TRUE) if ca else b""
    if path_length is not None:
        content += _integer(path_length)
    return Extension(BASIC_CONSTRAINTS, critical=True, value=der.encode(_SEQUENCE, content))


def subject_key_id(identifier: bytes) -> Extension:
    """SubjectKeyIdentifier."""
    return Extension(SUBJECT_KEY_ID, critical=False, value=der.encode(_OCTETS, identifier))


def key_id(spki: bytes) -> bytes:
    """What a public key in DER is called by: RFC 7093 section 2, method 1, the leftmost 160 bits of the SHA-256 of its
    bits.
    """
    parts = der.Reader(der.Reader(spki).any().content)
    parts.any()
    return hashlib.sha256(der.bits(parts.any())).digest()[:20]


def authority_key_id(identifier: bytes) -> Extension:
    """AuthorityKeyIdentifier, by key identifier."""
    return Extension(AUTHORITY_KEY_ID, critical=False, value=der.encode(_SEQUENCE, der.encode(0x80, identifier)))


@dataclasses.dataclass(frozen=True, slots=True)
class AltNames:
    """Subject alternative names, of the four kinds that are issued."""

    dns: Sequence[str] = ()
    email: Sequence[str] = ()
    ip: Sequence[ipaddress.IPv4Address | ipaddress.IPv6Address] = ()
    uri: Sequence[str] = ()

    def __bool__(self) -> bool:
        return bool(self.dns or self.email or self.ip or self.uri)


def _octets(of: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bytes:
    """Four or sixteen; an IPv4 address in the form of an IPv6 one is four, as Go writes it."""
    mapped = of.ipv4_mapped if isinstance(of, ipaddress.IPv6Address) else None
    return (mapped or of).packed


def subject_alt_name(names: AltNames, *, critical: bool) -> Extension:
    """SubjectAlternativeName: DNS, email, IP, URI, whatever order they were asked for in."""
    parts = [der.encode(0x82, each.encode("ascii")) for each in names.dns]
    parts += [der.encode(0x81, each.encode("ascii")) for each in names.email]
    parts += [der.encode(0x87, _octets(each)) for each in names.ip]
    parts += [der.encode(0x86, each.encode("ascii")) for each in names.uri]
    return Extension(SUBJECT_ALT_NAME, critical=critical, value=der.encode(_SEQUENCE, b"".join(parts)))
