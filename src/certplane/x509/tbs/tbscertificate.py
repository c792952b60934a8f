"""Parse a certificate before it is signed: read back from its DER, with nothing taken for granted.

What `template` wrote is read here by an independent parser that checks the encoding as well, so that `linter` judges
bytes, not intentions. Only what this signer can have written is understood; everything else is an error. RFC 5280
section 4.1.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable
from typing import Final, TypeVar

from certplane import boundedcache
from certplane.golang import asn1
from certplane.x509 import certificatenames, oids
from certplane.x509.tbs import template

#: Kinds of alternative names: tags of GeneralName, RFC 5280 section 4.2.1.6.
EMAIL, DNS, URI, IP = 1, 2, 6, 7
#: The DER of a name without attributes.
EMPTY_NAME: Final = b"\x30\x00"
_UTC_TIME: Final = 23
_GENERALIZED_TIME: Final = 24
_VERSION, _EXTENSIONS = 0, 3
#: Two-digit years from here on are of the 20th century. RFC 5280 section 4.1.2.5.1.
_FIRST_19XX: Final = 50
_Value = TypeVar("_Value")


@dataclasses.dataclass(frozen=True, slots=True)
class Time:
    """A moment, and whether it was written as UTCTime."""

    moment: datetime.datetime
    is_utc_time: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Name:
    """A subject alternative name: its kind (EMAIL, DNS, URI, IP, or another tag), and its bytes."""

    kind: int
    value: bytes

    @property
    def text(self) -> str:
        return self.value.decode("latin-1")


@dataclasses.dataclass(frozen=True, slots=True)
class Key:
    """A public key: the DER of its algorithm OID and of its parameters (empty if there are none), and its bits."""

    algorithm: bytes
    parameters: bytes
    bits: bytes


@dataclasses.dataclass(frozen=True, slots=True)
class TBSCertificate:
    """The fields of a certificate. `serial` holds the content octets; `issuer`, `subject`, `spki` and the algorithms
    are DER; `attributes` are those of the subject, OID and text. `has_other_fields` says whether there are fields
    besides the extensions. The value of a missing extension is None; of a repeated one, the last value counts.
    """

    version: int
    serial: bytes
    tbs_algorithm: bytes
    signature_algorithm: bytes
    issuer: bytes
    not_before: Time
    not_after: Time
    subject: bytes
    attributes: tuple[tuple[str, str], ...]
    spki: bytes
    key: Key
    has_other_fields: bool
    extensions: tuple[template.Extension, ...]
    key_usage: frozenset[str] | None
    extended_key_usages: tuple[str, ...] | None
    is_ca: bool | None
    key_id: bytes | None
    names: tuple[Name, ...] | None

    @property
    def serial_number(self) -> int:
        return int.from_bytes(self.serial, "big", signed=True)


def parse(certificate: bytes) -> TBSCertificate:
    """Parse a DER certificate. Raises asn1.DERError."""
    outer = asn1.Reader(certificate)
    tbs, signature_algorithm, _ = _members(outer.read_any(), 3)
    fields = _members(tbs)
    version, fields = _explicit(fields, _VERSION)
    if len(fields) < 6:
        raise asn1.syntax_error("sequence truncated")
    serial, tbs_algorithm, issuer, validity, subject, spki = fields[:6]
    extensions, has_other_fields = _extensions(fields[6:])
    not_before, not_after = _members(validity, 2)
    asn1.decode_integer(serial)
    if not outer.empty:
        raise asn1.syntax_error("trailing data")
    values = {extension.oid: extension.value for extension in extensions}
    return TBSCertificate(
        version=asn1.decode_integer(version) + 1 if version is not None else 1,
        serial=serial.content,
        tbs_algorithm=tbs_algorithm.raw,
        signature_algorithm=signature_algorithm.raw,
        issuer=issuer.raw,
        not_before=_time(not_before),
        not_after=_time(not_after),
        subject=subject.raw,
        attributes=tuple(certificatenames.parse_name_attributes(subject.content)),
        spki=spki.raw,
        key=_key(spki),
        has_other_fields=has_other_fields,
        extensions=extensions,
        key_usage=_parse_value(values, oids.KEY_USAGE, _key_usage),
        extended_key_usages=_parse_value(values, oids.EXTENDED_KEY_USAGE, _extended_key_usages),
        is_ca=_parse_value(values, oids.BASIC_CONSTRAINTS, _is_ca),
        key_id=_parse_value(values, oids.AUTHORITY_KEY_ID, _key_id),
        names=_parse_value(values, oids.SUBJECT_ALT_NAME, _names),
    )


def parts(sequence: bytes) -> list[asn1.Element]:
    """The members of a single SEQUENCE. Raises asn1.DERError."""
    reader = asn1.Reader(sequence)
    members = _members(reader.read_any())
    if not reader.empty:
        raise asn1.syntax_error("trailing data")
    return members


def _members(element: asn1.Element, *counts: int) -> list[asn1.Element]:
    """The members of a SEQUENCE. If `counts` are given, their number must be one of those."""
    if (element.class_, element.tag, element.compound) != (0, asn1.TAG_SEQUENCE, True):
        raise asn1.structural_error("expected a sequence")
    members = list(asn1.Reader(element.content))
    if counts and len(members) not in counts:
        raise asn1.structural_error(f"{len(members)} members in a sequence")
    return members


def _explicit(fields: list[asn1.Element], tag: int) -> tuple[asn1.Element | None, list[asn1.Element]]:
    """The content of the first field, if it has this context tag, and the fields after it."""
    if fields and (fields[0].class_, fields[0].tag) == (asn1.CLASS_CONTEXT, tag):
        return asn1.Reader(fields[0].content).read_any(), fields[1:]
    return None, fields


def _extensions(fields: list[asn1.Element]) -> tuple[tuple[template.Extension, ...], bool]:
    """The extensions, and whether there are other fields before or after them."""
    wrappers = [field for field in fields if (field.class_, field.tag) == (asn1.CLASS_CONTEXT, _EXTENSIONS)]
    if not wrappers:
        return (), bool(fields)
    return tuple(_parse_extension(extension.raw) for extension in parts(wrappers[0].content)), len(fields) > 1


# Nearly all extensions of one signer's certificates are the same few bytes; only the names differ.
@boundedcache.memoize()
def _parse_extension(raw: bytes) -> template.Extension:
    oid, *critical, value = _members(asn1.Reader(raw).read_any(), 2, 3)
    if (
        any((flag.tag, flag.content) != (asn1.TAG_BOOLEAN, b"\xff") for flag in critical)
        or value.tag != asn1.TAG_OCTET_STRING
    ):
        raise asn1.structural_error("an extension is malformed")
    return template.Extension(_KNOWN_OIDS.get(oid.raw) or asn1.decode_oid(oid), bool(critical), value.content)


_KNOWN_OIDS: Final = {
    template.encode_oid(oid): oid
    for oid in (
        oids.KEY_USAGE,
        oids.EXTENDED_KEY_USAGE,
        oids.BASIC_CONSTRAINTS,
        oids.SUBJECT_KEY_ID,
        oids.AUTHORITY_KEY_ID,
        oids.SUBJECT_ALT_NAME,
    )
}


def _key(element: asn1.Element) -> Key:
    algorithm, bits = _members(element, 2)
    return Key(*_algorithm(algorithm.raw), asn1.decode_bit_string(bits))


@boundedcache.memoize()
def _algorithm(raw: bytes) -> tuple[bytes, bytes]:
    """The OID and the parameters, in DER."""
    oid, *parameters = _members(asn1.Reader(raw).read_any(), 1, 2)
    return oid.raw, b"".join(element.raw for element in parameters)


def _time(element: asn1.Element) -> Time:
    """RFC 5280 section 4.1.2.5: whole seconds in UTC; two-digit years are those from 1950 to 2049."""
    digits = element.content[:-1]
    lengths = {_UTC_TIME: 12, _GENERALIZED_TIME: 14}
    if lengths.get(element.tag) != len(digits) or element.content[-1:] != b"Z" or not digits.isdigit():
        raise asn1.structural_error("a time is malformed")
    year, rest = int(digits[:-10]), digits[-10:]
    if element.tag == _UTC_TIME:
        year += 1900 if year >= _FIRST_19XX else 2000
    numbers = [int(rest[at : at + 2]) for at in range(0, 10, 2)]
    try:
        moment = datetime.datetime(year, *numbers, tzinfo=datetime.UTC)  # type: ignore[arg-type, misc]  # five numbers
    except ValueError as error:
        raise asn1.structural_error("a time is malformed") from error
    return Time(moment, element.tag == _UTC_TIME)


# --- values of extensions -----------------------------------------------------------------------------------------


def _parse_value(values: dict[str, bytes], oid: str, parse: Callable[[bytes], _Value]) -> _Value | None:
    value = values.get(oid)
    return parse(value) if value is not None else None


@boundedcache.memoize()
def _key_usage(value: bytes) -> frozenset[str]:
    reader = asn1.Reader(value)
    element = reader.read(asn1.TAG_BIT_STRING, "", compound=False)
    asn1.decode_bit_string(element)
    flags = "".join(f"{byte:08b}" for byte in element.content[1:])
    if not reader.empty or len(flags.rstrip("0")) > len(oids.KEY_USAGE_BITS):
        raise asn1.structural_error("a key usage is malformed")
    return frozenset(name for name, flag in zip(oids.KEY_USAGE_BITS, flags, strict=False) if flag == "1")


@boundedcache.memoize()
def _extended_key_usages(value: bytes) -> tuple[str, ...]:
    return tuple(map(asn1.decode_oid, parts(value)))


@boundedcache.memoize()
def _is_ca(value: bytes) -> bool:
    """Whether the CA bit is set. DER omits FALSE; only a CA has a path length."""
    members = parts(value)
    if [(member.tag, member.content) for member in members[:1]] == [(asn1.TAG_BOOLEAN, b"\xff")]:
        if [member.tag for member in members[1:]] not in ([], [asn1.TAG_INTEGER]):
            raise asn1.structural_error("basic constraints are malformed")
        return True
    if members:
        raise asn1.structural_error("basic constraints are malformed")
    return False


@boundedcache.memoize()
def _key_id(value: bytes) -> bytes:
    """The key identifier; `template` writes no other form."""
    members = parts(value)
    if [(member.class_, member.tag) for member in members] != [(asn1.CLASS_CONTEXT, 0)]:
        raise asn1.structural_error("an authority key identifier is malformed")
    return members[0].content


def _names(value: bytes) -> tuple[Name, ...]:
    names = parts(value)
    if any(name.class_ != asn1.CLASS_CONTEXT for name in names):
        raise asn1.structural_error("alternative names are malformed")
    return tuple(Name(name.tag, name.content) for name in names)
