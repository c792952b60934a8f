"""What a PKCS#10 asks for besides what a signer reads out of it: the whole subject, every kind of name, extensions.

Signers of Kubernetes take names and a key out of a request and ignore the rest, so that asking for more does no harm.
But whoever asks for a CA certificate as a kubelet is none, and an approver wants to know. RFC 2986, RFC 5280 section
4.2.1.
"""

from __future__ import annotations

import dataclasses
from typing import Final

from certplane import boundedcache
from certplane.x509 import csr, der, template

_BOOLEAN: Final = 1
#: Kinds of names that `csr` reads: rfc822Name, dNSName, uniformResourceIdentifier, iPAddress.
_READ_NAMES: Final = (1, 2, 6, 7)
_OTHER_NAMES: Final = {0: "otherName", 3: "x400Address", 4: "directoryName", 5: "ediPartyName", 8: "registeredID"}


@dataclasses.dataclass(frozen=True, slots=True)
class Wishes:
    """Of the subject every attribute, as OID and text (None: no string); of the alternative names the kinds that no
    signer takes over; of the extensions their OIDs, and what the three with a meaning here say. `None` as usages: the
    extension is not asked for.
    """

    subject: tuple[tuple[str, str | None], ...]
    other_names: tuple[str, ...] = ()
    extensions: tuple[str, ...] = ()
    is_ca: bool = False
    key_usages: frozenset[str] | None = None
    extended_usages: frozenset[str] | None = None


# What is remembered keeps its request.
@boundedcache.remember(csr.REMEMBERED, csr.EXPANSION, size=lambda request: len(request.der))
def read(request: csr.CertificateRequest) -> Wishes:
    """Raises csr.RequestError for an extension that says nothing sensible."""
    try:
        return _found(request)
    except der.DERProblem as error:
        raise csr.RequestError(str(error)) from error


def _found(request: csr.CertificateRequest) -> Wishes:
    info = der.Reader(der.Reader(request.signed).read(der.SEQUENCE, "").content)
    _, name = info.any(), info.any()
    found = request.extensions
    usages, purposes = found.get(template.KEY_USAGE), found.get(template.EXTENDED_KEY_USAGE)
    return Wishes(
        subject=tuple(_subject(name.content)),
        other_names=_other_names(found.get(template.SUBJECT_ALT_NAME)),
        extensions=tuple(found),
        is_ca=_is_ca(found.get(template.BASIC_CONSTRAINTS)),
        key_usages=None if usages is None else _key_usages(usages),
        extended_usages=None if purposes is None else frozenset(map(der.oid, _items(purposes))),
    )


def _subject(rdns: bytes) -> list[tuple[str, str | None]]:
    found = []
    for rdn in der.Reader(rdns):
        for pair in der.Reader(rdn.content):
            parts = der.Reader(pair.content)
            found.append((der.oid(parts.read(der.OID, "")), der.text(parts.any())))
    return found


def _items(sequence: bytes) -> list[der.Element]:
    return list(der.Reader(der.Reader(sequence).read(der.SEQUENCE, "").content))


def _other_names(value: bytes | None) -> tuple[str, ...]:
    if value is None:
        return ()
    kinds = [
        each.tag
        for each in _items(value)
        if (each.class_, each.compound) != (der.CONTEXT, False) or each.tag not in _READ_NAMES
    ]
    return tuple(_OTHER_NAMES.get(each, f"[{each}]") for each in kinds)


def _is_ca(value: bytes | None) -> bool:
    """Whether BasicConstraints has any TRUE: what else it says means nothing without it."""
    return value is not None and any(each.tag == _BOOLEAN and any(each.content) for each in _items(value))


def _key_usages(value: bytes) -> frozenset[str]:
    """The names of the bits that are set, as `template` has them. RFC 5280 section 4.2.1.3."""
    content = der.Reader(value).read(der.BIT_STRING, "", compound=False).content[1:]
    bits = "".join(f"{byte:08b}" for byte in content)
    names = (*template.KEY_USAGE_BITS, *(f"bit {at}" for at in range(len(template.KEY_USAGE_BITS), len(bits))))
    return frozenset(name for name, bit in zip(names, bits, strict=False) if bit == "1")
