"""What a PKCS#10 requests beyond what a signer copies from it: all of the subject, all kinds of names, extensions.

Kubernetes signers copy names and the key and ignore the rest, so requesting more does no harm. But a request for a CA
certificate does not come from a kubelet, and an approver needs to know. RFC 2986, RFC 5280 section 4.2.1.
"""

from __future__ import annotations

import dataclasses
from typing import Final

from certplane import boundedcache
from certplane.golang import asn1
from certplane.x509 import oids
from certplane.x509.pkcs10.certificaterequest import CACHE_BYTES, EXPANSION, CertificateRequest, RequestError

#: Tags of the names that `certificaterequest` parses: rfc822Name, dNSName, uniformResourceIdentifier, iPAddress.
_PARSED_NAMES: Final = (1, 2, 6, 7)
_OTHER_NAMES: Final = {0: "otherName", 3: "x400Address", 4: "directoryName", 5: "ediPartyName", 8: "registeredID"}


@dataclasses.dataclass(frozen=True, slots=True)
class RequestedExtensions:
    """`subject` has every attribute as OID and text (None if it is not a string), `other_names` the kinds of
    alternative names that no signer copies, `extensions` the OIDs of all extensions. Usages are None if the extension
    is not requested.
    """

    subject: tuple[tuple[str, str | None], ...]
    other_names: tuple[str, ...] = ()
    extensions: tuple[str, ...] = ()
    is_ca: bool = False
    key_usages: frozenset[str] | None = None
    extended_usages: frozenset[str] | None = None


# An entry keeps its request alive, so it weighs as much.
@boundedcache.memoize(CACHE_BYTES, EXPANSION, size=lambda request: len(request.der))
def read(request: CertificateRequest) -> RequestedExtensions:
    """Parse what a request asks for. Raises RequestError for an extension that is malformed."""
    try:
        return _parse(request)
    except asn1.DERError as error:
        raise RequestError(str(error)) from error


def _parse(request: CertificateRequest) -> RequestedExtensions:
    info = asn1.Reader(asn1.Reader(request.signed).read(asn1.TAG_SEQUENCE, "").content)
    _, name = info.read_any(), info.read_any()
    extensions = request.extensions
    key_usage, extended = extensions.get(oids.KEY_USAGE), extensions.get(oids.EXTENDED_KEY_USAGE)
    return RequestedExtensions(
        subject=tuple(_subject(name.content)),
        other_names=_other_names(extensions.get(oids.SUBJECT_ALT_NAME)),
        extensions=tuple(extensions),
        is_ca=_is_ca(extensions.get(oids.BASIC_CONSTRAINTS)),
        key_usages=None if key_usage is None else _key_usages(key_usage),
        extended_usages=None if extended is None else frozenset(map(asn1.decode_oid, _items(extended))),
    )


def _subject(rdns: bytes) -> list[tuple[str, str | None]]:
    attributes = []
    for rdn in asn1.Reader(rdns):
        for pair in asn1.Reader(rdn.content):
            parts = asn1.Reader(pair.content)
            attributes.append((asn1.decode_oid(parts.read(asn1.TAG_OID, "")), asn1.decode_string(parts.read_any())))
    return attributes


def _items(sequence: bytes) -> list[asn1.Element]:
    return list(asn1.Reader(asn1.Reader(sequence).read(asn1.TAG_SEQUENCE, "").content))


def _other_names(value: bytes | None) -> tuple[str, ...]:
    if value is None:
        return ()
    kinds = [
        name.tag
        for name in _items(value)
        if (name.class_, name.compound) != (asn1.CLASS_CONTEXT, False) or name.tag not in _PARSED_NAMES
    ]
    return tuple(_OTHER_NAMES.get(kind, f"[{kind}]") for kind in kinds)


def _is_ca(value: bytes | None) -> bool:
    """Whether BasicConstraints contains a TRUE, in any encoding."""
    return value is not None and any(item.tag == asn1.TAG_BOOLEAN and any(item.content) for item in _items(value))


def _key_usages(value: bytes) -> frozenset[str]:
    """The names of the bits that are set, from oids.KEY_USAGE_BITS. RFC 5280 section 4.2.1.3."""
    content = asn1.Reader(value).read(asn1.TAG_BIT_STRING, "", compound=False).content[1:]
    bits = "".join(f"{byte:08b}" for byte in content)
    names = (*oids.KEY_USAGE_BITS, *(f"bit {at}" for at in range(len(oids.KEY_USAGE_BITS), len(bits))))
    return frozenset(name for name, bit in zip(names, bits, strict=False) if bit == "1")
