"""Subjects and subject alternative names of requests and certificates, as Go's crypto/x509 parses them.

Source: RFC 5280 sections 4.1.2.4 and 4.2.1.6.
"""

from __future__ import annotations

import dataclasses
import ipaddress
from typing import Final

from certplane.golang import asn1, dertags, formatting, urls
from certplane.x509 import oids

#: Attribute types of a subject, and the fields of `Subject` that hold them.
_SUBJECT_FIELDS: Final = {
    oids.COUNTRY: "country",
    oids.PROVINCE: "province",
    oids.LOCALITY: "locality",
    oids.STREET_ADDRESS: "street_address",
    oids.POSTAL_CODE: "postal_code",
    oids.ORGANIZATION: "organization",
    oids.ORGANIZATIONAL_UNIT: "organizational_unit",
}

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


class AlternativeNamesError(ValueError):
    """Subject alternative names that cannot be parsed. The text is Go's."""


@dataclasses.dataclass(frozen=True, slots=True)
class Subject:
    """The attributes of a name that Kubernetes uses. The last one of several common names counts."""

    country: tuple[str, ...] = ()
    province: tuple[str, ...] = ()
    locality: tuple[str, ...] = ()
    street_address: tuple[str, ...] = ()
    postal_code: tuple[str, ...] = ()
    organization: tuple[str, ...] = ()
    organizational_unit: tuple[str, ...] = ()
    common_name: str = ""
    serial_number: str = ""


# --- the subject ---------------------------------------------------------------------------------------------------


def parse_name(data: bytes) -> Subject:
    """Parse a DER name. Raises DERError."""
    rdns = asn1.Reader(data).read(asn1.TAG_SEQUENCE, "RDNSequence")
    fields: dict[str, list[str]] = {}
    common_name = serial_number = ""
    for oid, value in parse_name_attributes(rdns.content):
        if oid == oids.COMMON_NAME:
            common_name = value
        elif oid == oids.SERIAL_NUMBER:
            serial_number = value
        elif oid in _SUBJECT_FIELDS:
            fields.setdefault(_SUBJECT_FIELDS[oid], []).append(value)
    lists = {field: tuple(values) for field, values in fields.items()}
    return Subject(**lists, common_name=common_name, serial_number=serial_number)


def parse_name_attributes(rdns: bytes) -> list[tuple[str, str]]:
    """The OIDs and values of the attributes in a name, in order, from the content of its DER. Attributes whose values
    are not strings are omitted. Raises DERError.
    """
    attributes = []
    count = 0
    for rdn in asn1.Reader(rdns).read_all(asn1.TAG_SET):
        for attribute in asn1.Reader(rdn.content).read_all(asn1.TAG_SEQUENCE):
            reader = asn1.Reader(attribute.content)
            oid = asn1.decode_oid(reader.read(asn1.TAG_OID, "ObjectIdentifier"))
            value = asn1.decode_string(reader.read_any())
            count += 1
            if count > asn1.MAX_VALUES:
                raise asn1.structural_error(f"more than {asn1.MAX_VALUES} attributes of a name")
            if value is not None:
                attributes.append((oid, value))
    return attributes


# --- subject alternative names -----------------------------------------------------------------------------------


#: Identifier octets of the kinds of GeneralName that are read. RFC 5280 section 4.2.1.6.
EMAIL: Final = dertags.context(1)
DNS: Final = dertags.context(2)
URI: Final = dertags.context(6)
IP: Final = dertags.context(7)


@dataclasses.dataclass(slots=True)
class AlternativeNames:
    """Subject alternative names; URIs as Go prints them."""

    dns: list[str] = dataclasses.field(default_factory=list)
    email: list[str] = dataclasses.field(default_factory=list)
    ip: list[IPAddress] = dataclasses.field(default_factory=list)
    uri: list[str] = dataclasses.field(default_factory=list)


def parse_alternative_names(value: bytes) -> AlternativeNames:
    """The DNS names, email addresses, IP addresses and URIs in a SubjectAlternativeName, in DER; other kinds are
    omitted. Raises AlternativeNamesError.
    """
    names = AlternativeNames()
    try:
        reader = asn1.StrictReader(value).read_child()
    except asn1.DERError as error:
        raise AlternativeNamesError("x509: invalid subject alternative names") from error
    count = 0
    while not reader.empty:
        count += 1
        if count > asn1.MAX_VALUES:
            raise AlternativeNamesError(f"x509: more than {asn1.MAX_VALUES} subject alternative names")
        try:
            name = reader.read_any()
        except asn1.DERError as error:
            raise AlternativeNamesError("x509: invalid subject alternative name") from error
        _add_name(name, names)
    return names


def _add_name(name: asn1.Element, names: AlternativeNames) -> None:
    kind, content = name.raw[0], name.content
    if kind == EMAIL:
        names.email.append(_decode_ia5(content, "rfc822Name"))
    elif kind == DNS:
        names.dns.append(_decode_ia5(content, "dNSName"))
    elif kind == URI:
        names.uri.append(_normalise_uri(_decode_ia5(content, "uniformResourceIdentifier")))
    elif kind == IP:
        if len(content) not in (4, 16):
            raise AlternativeNamesError(f"x509: cannot parse IP address of length {len(content)}")
        names.ip.append(ipaddress.ip_address(content))


def _decode_ia5(content: bytes, name: str) -> str:
    if not content.isascii():
        raise AlternativeNamesError(f"x509: SAN {name} is malformed")
    return content.decode("ascii")


def _normalise_uri(text: str) -> str:
    """A URI as Go prints it, and as it is issued."""
    try:
        uri = urls.parse(text)
    except urls.URIError as error:
        raise AlternativeNamesError(f"x509: cannot parse URI {formatting.quote(text)}: {error}") from error
    if uri.host and not is_domain(uri.host):
        raise AlternativeNamesError(f"x509: cannot parse URI {formatting.quote(text)}: invalid domain")
    return uri.text


def is_domain(host: str) -> bool:
    """Whether the host of a URI consists of labels separated by dots. As in Go, labels may have any printable ASCII
    characters, and a port may follow.
    """
    return all(host.split(".")) and all("!" <= char <= "~" for char in host)
