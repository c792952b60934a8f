"""Encode a certificate before it is signed: the bytes that the signature covers, laid out as Go's crypto/x509 does.

The encoder is ours, because every byte of it matters: string types, the order of names and extensions, criticality. The
same bytes can be recorded, linted with a lint key, and signed, without being encoded again. RFC 5280 sections 4.1
and 4.2.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import ipaddress
from collections.abc import Iterable, Sequence
from typing import Final

from certplane import boundedcache
from certplane.golang import asn1, dertags
from certplane.x509 import certificatenames, oids

_TRUE: Final = b"\xff"
_PRINTABLE_CHARS: Final = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 '()+,-./:=?")

#: The fields of a subject, in the order in which they are written.
_SUBJECT: Final = (
    ("country", oids.COUNTRY),
    ("province", oids.PROVINCE),
    ("locality", oids.LOCALITY),
    ("street_address", oids.STREET_ADDRESS),
    ("postal_code", oids.POSTAL_CODE),
    ("organization", oids.ORGANIZATION),
    ("organizational_unit", oids.ORGANIZATIONAL_UNIT),
    ("common_name", oids.COMMON_NAME),
    ("serial_number", oids.SERIAL_NUMBER),
)


@dataclasses.dataclass(frozen=True, slots=True)
class Extension:
    """An extension; `value` is DER."""

    oid: str
    critical: bool
    value: bytes


@dataclasses.dataclass(frozen=True, slots=True)
class Template:
    """The fields of a certificate. `issuer` and `subject` are DER names, `spki` the DER of the public key, `algorithm`
    the DER AlgorithmIdentifier of the future signature. Times are whole seconds in UTC.
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
        version = asn1.encode(dertags.context_constructed(0), _integer(2))
        validity = asn1.encode(dertags.SEQUENCE, _time(self.not_before) + _time(self.not_after))
        extensions = b"".join(map(encode_extension, self.extensions))
        parts = [version, _integer(self.serial), self.algorithm, self.issuer, validity, self.subject, self.spki]
        if extensions:
            parts.append(asn1.encode(dertags.context_constructed(3), asn1.encode(dertags.SEQUENCE, extensions)))
        return asn1.encode(dertags.SEQUENCE, b"".join(parts))


def assemble(to_be_signed: bytes, algorithm: bytes, signature: bytes) -> bytes:
    """The DER certificate, from its DER parts and the bits of the signature."""
    return asn1.encode(dertags.SEQUENCE, to_be_signed + algorithm + asn1.encode(dertags.BIT_STRING, b"\0" + signature))


# --- parts --------------------------------------------------------------------------------------------------------


def _integer(value: int) -> bytes:
    return asn1.encode(dertags.INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "big"))


@boundedcache.memoize()
def encode_oid(dotted: str) -> bytes:
    """The DER of an OBJECT IDENTIFIER."""
    first, second, *rest = map(int, dotted.split("."))
    content = b""
    for part in (first * 40 + second, *rest):
        septets = [part & 0x7F]
        while part := part >> 7:
            septets.append(part & 0x7F | 0x80)
        content += bytes(reversed(septets))
    return asn1.encode(dertags.OID, content)


def _time(moment: datetime.datetime) -> bytes:
    if 1950 <= moment.year < 2050:
        return asn1.encode(dertags.UTC_TIME, moment.strftime("%y%m%d%H%M%SZ").encode("ascii"))
    return asn1.encode(dertags.GENERALIZED_TIME, moment.strftime("%Y%m%d%H%M%SZ").encode("ascii"))


def encode_extension(extension: Extension) -> bytes:
    """The DER of an extension; `critical` is encoded only if true."""
    critical = asn1.encode(dertags.BOOLEAN, _TRUE) if extension.critical else b""
    return asn1.encode(
        dertags.SEQUENCE, encode_oid(extension.oid) + critical + asn1.encode(dertags.OCTET_STRING, extension.value)
    )


def encode_name(subject: certificatenames.Subject) -> bytes:
    """A DER name: one RDN for each attribute type, with all its values, sorted as DER sorts a set."""
    rdns = []
    for field, dotted in _SUBJECT:
        value = getattr(subject, field)
        # A single attribute that is empty is absent; an empty string in a list is written.
        values = ((value,) if value else ()) if isinstance(value, str) else value
        pairs = [asn1.encode(dertags.SEQUENCE, encode_oid(dotted) + _string(text)) for text in values]
        if pairs:
            rdns.append(asn1.encode(dertags.SET, b"".join(sorted(pairs))))
    return asn1.encode(dertags.SEQUENCE, b"".join(rdns))


def _string(value: str) -> bytes:
    encoded = value.encode("utf-8")
    return asn1.encode(
        dertags.PRINTABLE_STRING if _PRINTABLE_CHARS.issuperset(encoded) else dertags.UTF8_STRING, encoded
    )


def key_usage(bits: Iterable[str]) -> Extension:
    """KeyUsage, critical; `bits` are names from oids.KEY_USAGE_BITS."""
    usages = set(bits)
    flags = [usage in usages for usage in oids.KEY_USAGE_BITS]
    count = max(position for position, flag in enumerate(flags) if flag) + 1
    size = (count + 7) // 8
    value = sum(1 << size * 8 - 1 - position for position, flag in enumerate(flags) if flag)
    content = bytes((size * 8 - count,)) + value.to_bytes(size, "big")
    return Extension(oids.KEY_USAGE, critical=True, value=asn1.encode(dertags.BIT_STRING, content))


def extended_key_usage(usages: Iterable[str]) -> Extension:
    """ExtendedKeyUsage; `usages` are OIDs."""
    return Extension(
        oids.EXTENDED_KEY_USAGE, critical=False, value=asn1.encode(dertags.SEQUENCE, b"".join(map(encode_oid, usages)))
    )


def basic_constraints(*, ca: bool, path_length: int | None = None) -> Extension:
    """BasicConstraints, critical. The path length of a CA is how many CAs may be below it."""
    content = asn1.encode(dertags.BOOLEAN, _TRUE) if ca else b""
    if path_length is not None:
        content += _integer(path_length)
    return Extension(oids.BASIC_CONSTRAINTS, critical=True, value=asn1.encode(dertags.SEQUENCE, content))


def subject_key_id(identifier: bytes) -> Extension:
    """SubjectKeyIdentifier."""
    return Extension(oids.SUBJECT_KEY_ID, critical=False, value=asn1.encode(dertags.OCTET_STRING, identifier))


def key_id(spki: bytes) -> bytes:
    """The key identifier of a DER public key: the leftmost 160 bits of the SHA-256 of its bits. RFC 7093 section 2,
    method 1.
    """
    parts = asn1.Reader(asn1.Reader(spki).read_any().content)
    parts.read_any()
    return hashlib.sha256(asn1.decode_bit_string(parts.read_any())).digest()[:20]


def authority_key_id(identifier: bytes) -> Extension:
    """AuthorityKeyIdentifier, by key identifier."""
    return Extension(
        oids.AUTHORITY_KEY_ID,
        critical=False,
        value=asn1.encode(dertags.SEQUENCE, asn1.encode(dertags.context(0), identifier)),
    )


@dataclasses.dataclass(frozen=True, slots=True)
class AltNames:
    """Subject alternative names, of the four kinds that are issued."""

    dns: Sequence[str] = ()
    email: Sequence[str] = ()
    ip: Sequence[certificatenames.IPAddress] = ()
    uri: Sequence[str] = ()

    def __bool__(self) -> bool:
        return bool(self.dns or self.email or self.ip or self.uri)


def _octets(address: certificatenames.IPAddress) -> bytes:
    """Four or sixteen octets; four for an IPv4-mapped IPv6 address, as in Go."""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).packed


#: Tags of NameConstraints. RFC 5280 section 4.2.1.10.
_PERMITTED: Final = dertags.context_constructed(0)
_EXCLUDED: Final = dertags.context_constructed(1)

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
_ALL_ADDRESSES: Final = (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))


def name_constraints(domains: Sequence[str], networks: Sequence[IPNetwork]) -> Extension:
    """NameConstraints, critical: DNS names have to be in one of the domains, addresses in one of the networks. Without
    domains no DNS name is permitted, without networks no address.
    """
    permitted = [_subtree(certificatenames.DNS, domain.encode("ascii")) for domain in domains]
    permitted += [_network_subtree(network) for network in networks]
    excluded = [] if domains else [_subtree(certificatenames.DNS, b"")]
    versions = {network.version for network in networks}
    excluded += [_network_subtree(network) for network in _ALL_ADDRESSES if network.version not in versions]
    content = asn1.encode(_PERMITTED, b"".join(permitted)) if permitted else b""
    if excluded:
        content += asn1.encode(_EXCLUDED, b"".join(excluded))
    return Extension(oids.NAME_CONSTRAINTS, critical=True, value=asn1.encode(dertags.SEQUENCE, content))


def _network_subtree(network: IPNetwork) -> bytes:
    return _subtree(certificatenames.IP, network.network_address.packed + network.netmask.packed)


def _subtree(kind: int, content: bytes) -> bytes:
    return asn1.encode(dertags.SEQUENCE, asn1.encode(kind, content))


def subject_alt_name(names: AltNames, *, critical: bool) -> Extension:
    """SubjectAlternativeName: DNS, email, IP, URI, whatever the order in the request, as in Go."""
    parts = [asn1.encode(certificatenames.DNS, name.encode("ascii")) for name in names.dns]
    parts += [asn1.encode(certificatenames.EMAIL, name.encode("ascii")) for name in names.email]
    parts += [asn1.encode(certificatenames.IP, _octets(address)) for address in names.ip]
    parts += [asn1.encode(certificatenames.URI, name.encode("ascii")) for name in names.uri]
    return Extension(oids.SUBJECT_ALT_NAME, critical=critical, value=asn1.encode(dertags.SEQUENCE, b"".join(parts)))
