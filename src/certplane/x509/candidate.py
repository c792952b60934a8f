"""A certificate as it is about to be: read back from its DER, with nothing taken for granted.

What `template` wrote is read here by other means, down to how things are encoded, so that `lint` judges bytes and not
intentions. Only what this signer can have written is understood: everything else is a problem by itself. RFC 5280
section 4.1.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable
from typing import Final, TypeVar

from certplane import boundedcache
from certplane.x509 import csr, der, template

_UTC_TIME: Final = 23
_GENERALIZED_TIME: Final = 24
_VERSION, _EXTENSIONS = 0, 3
_CENTURY: Final = 50
_Read = TypeVar("_Read")


@dataclasses.dataclass(frozen=True, slots=True)
class Time:
    """A moment, and whether it was written as UTCTime."""

    moment: datetime.datetime
    is_utc_time: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Name:
    """A subject alternative name: the tag of its type (1 email, 2 DNS, 6 URI, 7 IP), and its bytes."""

    kind: int
    value: bytes

    @property
    def text(self) -> str:
        return self.value.decode("latin-1")


@dataclasses.dataclass(frozen=True, slots=True)
class Key:
    """A public key: its algorithm and parameters in DER (no bytes if there are none), and what its bits say."""

    algorithm: bytes
    parameters: bytes
    bits: bytes


@dataclasses.dataclass(frozen=True, slots=True)
class Candidate:
    """What a certificate says. `serial` is as it is encoded; issuer, subject and `spki` are DER, `attributes` those of
    the subject: OID and text. `surplus` tells whether there are fields besides the extensions. Of an extension that is
    missing, what it says is None; of one that is there twice, the last one counts.
    """

    version: int
    serial: bytes
    inner_algorithm: bytes
    outer_algorithm: bytes
    issuer: bytes
    not_before: Time
    not_after: Time
    subject: bytes
    attributes: tuple[tuple[str, str], ...]
    spki: bytes
    key: Key
    surplus: bool
    extensions: tuple[template.Extension, ...]
    key_usage: frozenset[str] | None
    purposes: tuple[str, ...] | None
    is_authority: bool | None
    key_id: bytes | None
    names: tuple[Name, ...] | None

    @property
    def serial_number(self) -> int:
        return int.from_bytes(self.serial, "big", signed=True)


def read(certificate: bytes) -> Candidate:
    """A DER certificate. Raises DERProblem."""
    outer = der.Reader(certificate)
    tbs, algorithm, _ = _members(outer.any(), 3)
    fields = _members(tbs)
    version, fields = _explicit(fields, _VERSION)
    if len(fields) < 6:
        raise der.syntax("sequence truncated")
    serial, inner, issuer, validity, subject, spki = fields[:6]
    extensions, rest = _extensions(fields[6:])
    begins, ends = _members(validity, 2)
    der.integer(serial)
    if not outer.empty:
        raise der.syntax("trailing data")
    values = {each.oid: each.value for each in extensions}
    return Candidate(
        version=der.integer(version) + 1 if version is not None else 1,
        serial=serial.content,
        inner_algorithm=inner.raw,
        outer_algorithm=algorithm.raw,
        issuer=issuer.raw,
        not_before=_time(begins),
        not_after=_time(ends),
        subject=subject.raw,
        attributes=tuple(csr.name_attributes(subject.content)),
        spki=spki.raw,
        key=_key(spki),
        surplus=rest,
        extensions=extensions,
        key_usage=_value(values, template.KEY_USAGE, _key_usage),
        purposes=_value(values, template.EXTENDED_KEY_USAGE, _purposes),
        is_authority=_value(values, template.BASIC_CONSTRAINTS, _is_authority),
        key_id=_value(values, template.AUTHORITY_KEY_ID, _key_id),
        names=_value(values, template.SUBJECT_ALT_NAME, _names),
    )


def parts(sequence: bytes) -> list[der.Element]:
    """The members of the one SEQUENCE that the bytes must be. Raises DERProblem."""
    reader = der.Reader(sequence)
    found = _members(reader.any())
    if not reader.empty:
        raise der.syntax("trailing data")
    return found


def _members(of: der.Element, *counts: int) -> list[der.Element]:
    """Those of a SEQUENCE, and as many as there must be."""
    if (of.class_, of.tag, of.compound) != (0, der.SEQUENCE, True):
        raise der.structure("no sequence where there must be one")
    found = list(der.Reader(of.content))
    if counts and len(found) not in counts:
        raise der.structure(f"{len(found)} members in a sequence")
    return found


def _explicit(fields: list[der.Element], tag: int) -> tuple[der.Element | None, list[der.Element]]:
    """What the first field holds, if it has this context tag; and the other fields."""
    if fields and (fields[0].class_, fields[0].tag) == (der.CONTEXT, tag):
        return der.Reader(fields[0].content).any(), fields[1:]
    return None, fields


def _extensions(fields: list[der.Element]) -> tuple[tuple[template.Extension, ...], bool]:
    """The extensions, and whether there are other fields before or behind them."""
    holders = [each for each in fields if (each.class_, each.tag) == (der.CONTEXT, _EXTENSIONS)]
    if not holders:
        return (), bool(fields)
    return tuple(_read_extension(each.raw) for each in parts(holders[0].content)), len(fields) > 1


# Of what a signer issues, nearly all extensions are the same bytes, and short; the names are not.
@boundedcache.remember()
def _read_extension(raw: bytes) -> template.Extension:
    name, *flag, value = _members(der.Reader(raw).any(), 2, 3)
    if any((each.tag, each.content) != (der.BOOLEAN, b"\xff") for each in flag) or value.tag != der.OCTET_STRING:
        raise der.structure("an extension is malformed")
    return template.Extension(_KNOWN.get(name.raw) or der.oid(name), bool(flag), value.content)


_KNOWN: Final = {
    template.oid(each): each
    for each in (
        template.KEY_USAGE,
        template.EXTENDED_KEY_USAGE,
        template.BASIC_CONSTRAINTS,
        template.SUBJECT_KEY_ID,
        template.AUTHORITY_KEY_ID,
        template.SUBJECT_ALT_NAME,
    )
}


def _key(of: der.Element) -> Key:
    algorithm, bits = _members(of, 2)
    return Key(*_algorithm(algorithm.raw), der.bits(bits))


@boundedcache.remember()
def _algorithm(raw: bytes) -> tuple[bytes, bytes]:
    """The OID and the parameters, in DER."""
    name, *parameters = _members(der.Reader(raw).any(), 1, 2)
    return name.raw, b"".join(each.raw for each in parameters)


def _time(of: der.Element) -> Time:
    """RFC 5280 section 4.1.2.5: to the second, in Zulu; two digits of a year are of 1950 to 2049."""
    digits = of.content[:-1]
    lengths = {_UTC_TIME: 12, _GENERALIZED_TIME: 14}
    if lengths.get(of.tag) != len(digits) or of.content[-1:] != b"Z" or not digits.isdigit():
        raise der.structure("a time is malformed")
    year, rest = int(digits[:-10]), digits[-10:]
    if of.tag == _UTC_TIME:
        year += 1900 if year >= _CENTURY else 2000
    numbers = [int(rest[at : at + 2]) for at in range(0, 10, 2)]
    try:
        moment = datetime.datetime(year, *numbers, tzinfo=datetime.UTC)  # type: ignore[arg-type, misc]  # five numbers
    except ValueError as error:
        raise der.structure("a time is malformed") from error
    return Time(moment, of.tag == _UTC_TIME)


# --- values of extensions -----------------------------------------------------------------------------------------


def _value(values: dict[str, bytes], oid: str, reader: Callable[[bytes], _Read]) -> _Read | None:
    found = values.get(oid)
    return reader(found) if found is not None else None


@boundedcache.remember()
def _key_usage(value: bytes) -> frozenset[str]:
    reader = der.Reader(value)
    element = reader.read(der.BIT_STRING, "", compound=False)
    der.bits(element)
    flags = "".join(f"{byte:08b}" for byte in element.content[1:])
    if not reader.empty or len(flags.rstrip("0")) > len(template.KEY_USAGE_BITS):
        raise der.structure("a key usage is malformed")
    return frozenset(name for name, flag in zip(template.KEY_USAGE_BITS, flags, strict=False) if flag == "1")


@boundedcache.remember()
def _purposes(value: bytes) -> tuple[str, ...]:
    return tuple(map(der.oid, parts(value)))


@boundedcache.remember()
def _is_authority(value: bytes) -> bool:
    """Whether the CA bit is set. DER leaves FALSE out; only a CA has a path length."""
    found = parts(value)
    if [(each.tag, each.content) for each in found[:1]] == [(der.BOOLEAN, b"\xff")]:
        if [each.tag for each in found[1:]] not in ([], [der.INTEGER]):
            raise der.structure("basic constraints are malformed")
        return True
    if found:
        raise der.structure("basic constraints are malformed")
    return False


@boundedcache.remember()
def _key_id(value: bytes) -> bytes:
    """The only form that is written: by key identifier."""
    found = parts(value)
    if [(each.class_, each.tag) for each in found] != [(der.CONTEXT, 0)]:
        raise der.structure("an authority key identifier is malformed")
    return found[0].content


def _names(value: bytes) -> tuple[Name, ...]:
    found = parts(value)
    if any(each.class_ != der.CONTEXT for each in found):
        raise der.structure("alternative names are malformed")
    return tuple(Name(each.tag, each.content) for each in found)
