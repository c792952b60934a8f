"""PKCS#10 certificate requests: parse, verify. RFC 2986.

What is accepted, and the text of each error, is that of Go's crypto/x509: both are part of the Kubernetes API. The
request is read with our own DER reader, so that the result does not depend on how strict a library is; public keys and
signatures are handled by `cryptography`.

`parse` gives a `CertificateRequest`, which proves nothing. A `VerifiedRequest`, the only thing that a certificate is
issued for, is made from the bytes of a request: it parses them and checks the signature with the key in the request, so
its fields are those that were signed. This module does not know who may have which certificate.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from typing import Final

from certplane import boundedcache
from certplane.golang import asn1, pem
from certplane.x509 import certificatenames, oids, publickeys, signatures
from certplane.x509.publickeys import PublicKey


class RequestError(ValueError):
    """Bytes that are not an acceptable request; the text is that of a Go server."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class CertificateRequest:
    """A parsed request. `spki` is the DER of the key as it was sent; URIs are in the form in which Go prints them;
    `extensions` are the requested ones, OID to DER value; `signed` is the DER that `signature` covers.

    Compared by identity: `parse` returns the same object for the same text while that is in its cache.
    """

    der: bytes
    subject: certificatenames.Subject
    key: publickeys.ParsedKey
    spki: bytes
    extensions: Mapping[str, bytes]
    dns_names: tuple[str, ...]
    email_addresses: tuple[str, ...]
    ip_addresses: tuple[certificatenames.IPAddress, ...]
    uris: tuple[str, ...]
    signed: bytes
    signature: bytes
    signature_oid: str
    signature_parameters: bytes

    @property
    def public_key(self) -> PublicKey | None:
        """None for kinds of keys that cannot verify a signature; no certificate is issued for those."""
        return self.key.public

    @property
    def requests_ca(self) -> bool:
        """Whether the extensions ask for a CA certificate. False if the extension does not parse: Go ignores it."""
        try:
            constraints = asn1.Reader(self.extensions.get(oids.BASIC_CONSTRAINTS, b""))
            parts = asn1.Reader(constraints.read(asn1.TAG_SEQUENCE, "").content).read_all()
        except asn1.DERError:
            return False
        return bool(parts) and (parts[0].class_, parts[0].tag, parts[0].content) == (0, asn1.TAG_BOOLEAN, b"\xff")

    @property
    def common_name(self) -> str:
        return self.subject.common_name

    @property
    def organizations(self) -> tuple[str, ...]:
        return self.subject.organization


class VerifiedRequest:
    """A parsed request whose signature was verified with its own key. It is made from the PEM text of the request,
    never from parsed fields, which may have been changed. Raises RequestError.
    """

    __slots__ = ("_request",)

    def __init__(self, text: bytes) -> None:
        request = parse(text)
        verify(request)
        self._request = request

    @property
    def request(self) -> CertificateRequest:
        return self._request


#: Bytes of each cache of requests: about a thousand usual ones, as each is read several times between its creation
#: and its certificate.
CACHE_BYTES: Final = 32 * 1024 * 1024
#: Bytes of memory for each byte of a request, at most: the shortest name, 3 bytes of DER, becomes an object.
EXPANSION: Final = 30
#: Bytes. Two thousand names fit (asn1.MAX_VALUES); a usual request has about one thousand bytes.
MAX_REQUEST_BYTES: Final = 256 * 1024


@boundedcache.memoize(CACHE_BYTES, EXPANSION)
def parse(text: bytes) -> CertificateRequest:
    """Parse the request in the first PEM block of a text. Raises RequestError."""
    if len(text) > MAX_REQUEST_BYTES:
        raise RequestError(f"may not be more than {MAX_REQUEST_BYTES} bytes")
    block = pem.first_block(text)
    if block is None or block.label != "CERTIFICATE REQUEST":
        raise RequestError("PEM block type must be CERTIFICATE REQUEST")
    return parse_der(block.data)


# A signature costs much more to verify than a request to parse, and the same text is verified when the request is
# created, when it is approved and when it is signed.
@boundedcache.memoize(CACHE_BYTES, EXPANSION)
def verified(text: bytes) -> VerifiedRequest:
    """Parse and verify the request in the first PEM block of a text. Raises RequestError."""
    return VerifiedRequest(text)


def verify(request: CertificateRequest) -> None:
    """Check that `request.signed` was signed with the key of a request. Raises RequestError."""
    signature = signatures.Signature(request.signature_oid, request.signature_parameters, request.signature)
    try:
        signatures.verify(signature, request.signed, request.key, allow_sha1=True)
    except signatures.SignatureError as error:
        raise RequestError(str(error)) from error


def parse_der(data: bytes) -> CertificateRequest:
    """Parse a DER request. Raises RequestError."""
    try:
        return _parse(data)
    except (asn1.DERError, publickeys.PublicKeyError, certificatenames.AlternativeNamesError) as error:
        raise RequestError(str(error)) from error


def _parse(data: bytes) -> CertificateRequest:
    # The order decides which of several errors is reported; it is Go's: structure, key, subject, extensions.
    outer = asn1.Reader(data)
    whole = outer.read(asn1.TAG_SEQUENCE, "certificateRequest")
    parts = asn1.Reader(whole.content)
    tbs = parts.read(asn1.TAG_SEQUENCE, "tbsCertificateRequest")
    info = asn1.Reader(tbs.content)
    asn1.decode_int64(info.read(asn1.TAG_INTEGER, "int"))
    name = info.read_any()
    key = info.read(asn1.TAG_SEQUENCE, "publicKeyInfo")
    key_parts = publickeys.split_spki(key)
    attributes = asn1.Reader(info.read_context(0).content).read_all()
    signature_oid, signature_parameters = asn1.read_algorithm(parts)
    signature = asn1.decode_bit_string(parts.read(asn1.TAG_BIT_STRING, "BitString", compound=False))
    if not outer.empty:
        raise asn1.syntax_error("trailing data")
    public_key = publickeys.parse(*key_parts)
    subject = certificatenames.parse_name(name.raw)
    extensions = _extensions(attributes)
    names = _alternative_names(extensions)
    return CertificateRequest(
        der=data,
        subject=subject,
        key=public_key,
        spki=key.raw,
        extensions=types.MappingProxyType(extensions),
        dns_names=tuple(names.dns),
        email_addresses=tuple(names.email),
        ip_addresses=tuple(names.ip),
        uris=tuple(names.uri),
        signed=tbs.raw,
        signature=signature,
        signature_oid=signature_oid,
        signature_parameters=signature_parameters,
    )


# --- extensions ---------------------------------------------------------------------------------------------------


def _extensions(attributes: list[asn1.Element]) -> dict[str, bytes]:
    """The requested extensions of all attributes, by OID."""
    values: dict[str, bytes] = {}
    for attribute in attributes:
        requested = _requested_extensions(attribute)
        if requested is None:
            continue
        # As in Go, all extensions of an attribute are parsed before duplicates are looked for.
        for oid, value in [
            *map(_extension, asn1.Reader(requested.read(asn1.TAG_SEQUENCE, "").content).read_all(asn1.TAG_SEQUENCE))
        ]:
            if oid in values:
                raise RequestError("x509: certificate request contains duplicate requested extensions")
            if len(values) == asn1.MAX_VALUES:
                raise RequestError(f"x509: certificate request contains more than {asn1.MAX_VALUES} extensions")
            values[oid] = value
    return values


def _requested_extensions(attribute: asn1.Element) -> asn1.Reader | None:
    """The extensions in an extensionRequest attribute, else None. As in Go, what does not parse is ignored."""
    try:
        parts = asn1.Reader(asn1.Reader(attribute.raw).read(asn1.TAG_SEQUENCE, "").content)
        oid = asn1.decode_oid(parts.read(asn1.TAG_OID, ""))
        values = asn1.Reader(parts.read(asn1.TAG_SET, "").content).read_all()
    except asn1.DERError:
        return None
    return asn1.Reader(values[0].raw) if oid == oids.EXTENSION_REQUEST and values else None


def _extension(element: asn1.Element) -> tuple[str, bytes]:
    parts = asn1.Reader(element.content)
    oid = asn1.decode_oid(parts.read(asn1.TAG_OID, "ObjectIdentifier"))
    if parts.next_is(asn1.TAG_BOOLEAN):
        asn1.decode_boolean(parts.read_any())
    return oid, parts.read(asn1.TAG_OCTET_STRING, "").content


def _alternative_names(extensions: Mapping[str, bytes]) -> certificatenames.AlternativeNames:
    value = extensions.get(oids.SUBJECT_ALT_NAME)
    return certificatenames.AlternativeNames() if value is None else certificatenames.parse_alternative_names(value)
