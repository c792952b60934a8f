"""PKCS#10: parse, verify, and the facts that are read out of a request. RFC 2986.

What is accepted, and what is said of the rest, is Go's crypto/x509: both are part of the Kubernetes API. The request is
read with our own DER reader, so that the verdict is explicit and does not depend on a library's taste; keys and
signatures are `cryptography`'s.

A request that parses is not yet proven: `verify` checks that whoever made it has the key. What this module does not
know: who may have such a certificate.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import weakref
from typing import Final

from certplane import boundedcache, gotext
from certplane.x509 import der, pem, publickeys, signatures, uris

_EXTENSION_REQUEST: Final = "1.2.840.113549.1.9.14"
_SAN: Final = "2.5.29.17"
_BASIC_CONSTRAINTS: Final = "2.5.29.19"

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

PublicKey = publickeys.PublicKey
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


@dataclasses.dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class CertificateRequest:
    """A parsed request: its key, and the DER of that as it was sent; its names, with URIs as Go prints them; the
    requested extensions, by OID, as they stand.

    Compared by identity: `parse` gives the same object for the same text, as long as it remembers it.
    """

    der: bytes
    subject: Subject
    key: publickeys.Key
    spki: bytes
    extensions: dict[str, bytes]
    dns_names: tuple[str, ...]
    email_addresses: tuple[str, ...]
    ip_addresses: tuple[IPAddress, ...]
    uris: tuple[str, ...]
    signed: bytes
    signature: bytes
    signature_oid: str
    signature_parameters: bytes

    @property
    def public_key(self) -> PublicKey | None:
        """None for keys that nothing is verified with, so that nothing is signed for them either."""
        return self.key.public

    @property
    def wants_authority(self) -> bool:
        """Whether the extensions ask for a CA certificate, which hardly any signer gives. What does not parse asks for
        nothing: Go does not look at it at all.
        """
        try:
            constraints = der.Reader(self.extensions.get(_BASIC_CONSTRAINTS, b""))
            parts = der.Reader(constraints.read(der.SEQUENCE, "").content).sequence()
        except der.DERProblem:
            return False
        return bool(parts) and (parts[0].class_, parts[0].tag, parts[0].content) == (0, der.BOOLEAN, b"\xff")

    @property
    def common_name(self) -> str:
        return self.subject.common_name

    @property
    def organizations(self) -> tuple[str, ...]:
        return self.subject.organization


#: Bytes that all remembered requests may come to, each with what is read out of it: about a thousand usual ones, as
#: each is asked about from its creation until it is signed.
REMEMBERED: Final = 32 * 1024 * 1024
#: Bytes that a byte of a request may come to: a shortest name, of three in DER, becomes an object.
EXPANSION: Final = 30
#: Bytes of a text: two thousand names fit. It is read several times on its way to a certificate.
LONGEST: Final = 256 * 1024


@boundedcache.remember(REMEMBERED, EXPANSION)
def parse(text: bytes) -> CertificateRequest:
    """The request in the first PEM block of a text. Raises RequestError."""
    if len(text) > LONGEST:
        raise RequestError(f"may not be more than {LONGEST} bytes")
    block = pem.first(text)
    if block is None or block.label != "CERTIFICATE REQUEST":
        raise RequestError("PEM block type must be CERTIFICATE REQUEST")
    return parse_der(block.data)


def parse_der(data: bytes) -> CertificateRequest:
    """The request in a DER document. Raises RequestError."""
    try:
        return _parse(data)
    except (der.DERProblem, publickeys.KeyProblem) as error:
        raise RequestError(str(error)) from error


def _parse(data: bytes) -> CertificateRequest:
    # The whole outline is read first; then the key, the subject and the extensions, in this order.
    outer = der.Reader(data)
    whole = outer.read(der.SEQUENCE, "certificateRequest")
    parts = der.Reader(whole.content)
    tbs = parts.read(der.SEQUENCE, "tbsCertificateRequest")
    info = der.Reader(tbs.content)
    der.small_integer(info.read(der.INTEGER, "int"))
    name = info.any()
    key = info.read(der.SEQUENCE, "publicKeyInfo")
    key_parts = publickeys.parts(key)
    attributes = der.Reader(info.read_context(0).content).sequence()
    signature_oid, signature_parameters = der.algorithm(parts)
    signature = der.bits(parts.read(der.BIT_STRING, "BitString", compound=False))
    if not outer.empty:
        raise der.syntax("trailing data")
    public_key = publickeys.read(*key_parts)
    subject = parse_name(name.raw)
    extensions = _extensions(attributes)
    names = alternative_names(extensions[_SAN]) if _SAN in extensions else AltNames()
    return CertificateRequest(
        der=data,
        subject=subject,
        key=public_key,
        spki=key.raw,
        extensions=extensions,
        dns_names=tuple(names.dns),
        email_addresses=tuple(names.email),
        ip_addresses=tuple(names.ip),
        uris=tuple(names.uri),
        signed=tbs.raw,
        signature=signature,
        signature_oid=signature_oid,
        signature_parameters=signature_parameters,
    )


# --- names --------------------------------------------------------------------------------------------------------


def parse_name(data: bytes) -> Subject:
    """The subject in a DER name. Raises DERProblem."""
    rdns = der.Reader(data).read(der.SEQUENCE, "RDNSequence")
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
    count = 0
    for rdn in der.Reader(rdns).sequence(der.SET):
        for member in der.Reader(rdn.content).sequence(der.SEQUENCE):
            pair = der.Reader(member.content)
            oid = der.oid(pair.read(der.OID, "ObjectIdentifier"))
            value = der.text(pair.any())
            count += 1
            if count > der.MOST_VALUES:
                raise der.structure(f"more than {der.MOST_VALUES} attributes of a name")
            if value is not None:
                found.append((oid, value))
    return found


# --- extensions ---------------------------------------------------------------------------------------------------


@dataclasses.dataclass(slots=True)
class AltNames:
    """Alternative names: URIs as they are issued."""

    dns: list[str] = dataclasses.field(default_factory=list)
    email: list[str] = dataclasses.field(default_factory=list)
    ip: list[IPAddress] = dataclasses.field(default_factory=list)
    uri: list[str] = dataclasses.field(default_factory=list)


def _extensions(attributes: list[der.Element]) -> dict[str, bytes]:
    """The requested extensions of all attributes, by OID."""
    found: dict[str, bytes] = {}
    for attribute in attributes:
        requested = _requested(attribute)
        if requested is None:
            continue
        # All of an attribute are read before any is looked at.
        for oid, value in [
            *map(_extension, der.Reader(requested.read(der.SEQUENCE, "").content).sequence(der.SEQUENCE))
        ]:
            if oid in found:
                raise RequestError("x509: certificate request contains duplicate requested extensions")
            if len(found) == der.MOST_VALUES:
                raise RequestError(f"x509: certificate request contains more than {der.MOST_VALUES} extensions")
            found[oid] = value
    return found


def _requested(attribute: der.Element) -> der.Reader | None:
    """The extensions in an attribute that requests some; attributes that do not parse are ignored, as Go does."""
    try:
        parts = der.Reader(der.Reader(attribute.raw).read(der.SEQUENCE, "").content)
        oid = der.oid(parts.read(der.OID, ""))
        values = der.Reader(parts.read(der.SET, "").content).sequence()
    except der.DERProblem:
        return None
    return der.Reader(values[0].raw) if oid == _EXTENSION_REQUEST and values else None


def _extension(of: der.Element) -> tuple[str, bytes]:
    parts = der.Reader(of.content)
    oid = der.oid(parts.read(der.OID, "ObjectIdentifier"))
    if parts.next_is(der.BOOLEAN):
        der.boolean(parts.any())
    return oid, parts.read(der.OCTET_STRING, "").content


def alternative_names(value: bytes) -> AltNames:
    """The names in a SubjectAlternativeName of the four kinds that are read; others are left out. Raises
    RequestError.
    """
    names = AltNames()
    try:
        items = der.StrictReader(value).inside()
    except der.DERProblem as error:
        raise RequestError("x509: invalid subject alternative names") from error
    count = 0
    while not items.empty:
        count += 1
        if count > der.MOST_VALUES:
            raise RequestError(f"x509: more than {der.MOST_VALUES} subject alternative names")
        try:
            item = items.any()
        except der.DERProblem as error:
            raise RequestError("x509: invalid subject alternative name") from error
        if item.class_ == der.CONTEXT and not item.compound:
            _read_name(item, names)
    return names


def _read_name(item: der.Element, names: AltNames) -> None:
    if item.tag == 1:
        names.email.append(_ia5(item.content, "rfc822Name"))
    elif item.tag == 2:
        names.dns.append(_ia5(item.content, "dNSName"))
    elif item.tag == 6:
        names.uri.append(_uri(_ia5(item.content, "uniformResourceIdentifier")))
    elif item.tag == 7:
        if len(item.content) not in (4, 16):
            raise RequestError(f"x509: cannot parse IP address of length {len(item.content)}")
        names.ip.append(ipaddress.ip_address(item.content))


def _ia5(content: bytes, name: str) -> str:
    if not content.isascii():
        raise RequestError(f"x509: SAN {name} is malformed")
    return content.decode("ascii")


def _uri(text: str) -> str:
    """A URI as it is issued."""
    try:
        parsed = uris.parse(text)
    except uris.URIProblem as error:
        raise RequestError(f"x509: cannot parse URI {gotext.quote(text)}: {error}") from error
    if parsed.host and not is_domain(parsed.host):
        raise RequestError(f"x509: cannot parse URI {gotext.quote(text)}: invalid domain")
    return parsed.text


def is_domain(host: str) -> bool:
    """Whether the host of a URI is labels with dots between them. What is no letter is let in, and ports, too."""
    return all(host.split(".")) and all("!" <= char <= "~" for char in host)


# --- the signature ------------------------------------------------------------------------------------------------

#: Those that were signed with their keys: several ask about each, one after the other.
_proven: weakref.WeakSet[CertificateRequest] = weakref.WeakSet()


def verify(request: CertificateRequest) -> None:
    """Check that the request was signed with the key that it names. Raises RequestError; never returns a verdict."""
    if request in _proven:
        return
    made = signatures.Signature(request.signature_oid, request.signature_parameters, request.signature)
    try:
        signatures.verify(made, request.signed, request.key, allow_sha1=True)
    except signatures.SignatureProblem as error:
        raise RequestError(str(error)) from error
    _proven.add(request)
