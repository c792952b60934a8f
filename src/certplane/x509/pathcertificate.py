"""What the validation of a path reads in a certificate: names, keys, times and the extensions that limit a path.

`certform` judges the form first, in Go's words; what it lets pass is then read here, so that nothing below has to be
judged again. Fields hold DER as it stands wherever path validation compares bytes. Source: RFC 5280 section 4; Go
`crypto/x509`, `parseCertificate`.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
from collections.abc import Callable, Iterator
from typing import Final

from certplane.x509 import certform, csr, der, nameconstraints, publickeys, signatures

_SEQUENCE, _INTEGER, _BITS, _OCTETS, _OID, _BOOLEAN = 0x30, 0x02, 0x03, 0x04, 0x06, 0x01
_VERSION, _ISSUER_ID, _SUBJECT_ID, _EXTENSIONS = 0xA0, 0x81, 0x82, 0xA3
_UTC_TIME: Final = 0x17
#: Two digits of a year from here on are of the century before: RFC 5280 section 4.1.2.5.1.
_LAST_CENTURY: Final = 50
_SUBJECT_KEY, _KEY_USAGE, _SAN, _CONSTRAINTS = "2.5.29.14", "2.5.29.15", "2.5.29.17", "2.5.29.19"
_NAME_CONSTRAINTS, _POLICIES, _MAPPINGS = "2.5.29.30", "2.5.29.32", "2.5.29.33"
_AUTHORITY_KEY, _POLICY_CONSTRAINTS, _PURPOSES, _INHIBIT_ANY = "2.5.29.35", "2.5.29.36", "2.5.29.37", "2.5.29.54"
#: Extensions that may be critical: whatever else is critical has a meaning that nobody here knows.
_HANDLED: Final = frozenset(
    {
        _KEY_USAGE, _SAN, _CONSTRAINTS, _NAME_CONSTRAINTS, _POLICIES, _MAPPINGS, _POLICY_CONSTRAINTS, _PURPOSES,
        _INHIBIT_ANY, "2.5.29.31",
    }
)  # fmt: skip
_CERT_SIGN: Final = 0x04
_NINTH_BIT: Final = 0x80


class CertificateProblem(ValueError):
    """Bytes that are no certificate. The text is Go's."""


@dataclasses.dataclass(frozen=True, slots=True)
class PolicyLimits:
    """The policies of a certificate and what it says of those below it; OIDs as their content. Numbers are -1 where
    nothing is said.
    """

    policies: tuple[bytes, ...] = ()
    mappings: tuple[tuple[bytes, bytes], ...] = ()
    require_explicit: int = -1
    inhibit_mapping: int = -1
    inhibit_any: int = -1


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class PathCertificate:
    """A certificate. `is_authority` and `path_length` are None without basic constraints, or without a length;
    `may_sign` is what the key usage says of signing certificates, True without one; `purposes` are the OIDs of the
    extended key usage as their content. `alternative_names` is the extension as it stands, None if there is none.
    """

    raw: bytes
    to_be_signed: bytes
    version: int
    serial: int
    issuer: bytes
    subject: bytes
    not_before: datetime.datetime
    not_after: datetime.datetime
    spki: bytes
    key: publickeys.Key
    signature: signatures.Signature
    is_authority: bool | None = None
    path_length: int | None = None
    may_sign: bool = True
    purposes: frozenset[bytes] = frozenset()
    subject_key_id: bytes = b""
    authority_key_id: bytes = b""
    alternative_names: bytes | None = None
    constraints: nameconstraints.Constraints | None = None
    policy_limits: PolicyLimits = PolicyLimits()
    has_unhandled_critical: bool = False

    @property
    def digest(self) -> bytes:
        """SHA-256 of the whole."""
        return hashlib.sha256(self.raw).digest()


def parse(data: bytes) -> PathCertificate:
    """The certificate in a DER document. Raises CertificateProblem."""
    try:
        count = certform.check(data)
        if not count:
            raise CertificateProblem("x509: malformed certificate")
        if count > 1:
            raise CertificateProblem("x509: trailing data")
        return _read(data)
    except (certform.FormProblem, der.DERProblem) as error:
        raise CertificateProblem(str(error)) from error


def _read(data: bytes) -> PathCertificate:
    whole = der.StrictReader(data).inside()
    to_be_signed = whole.read(_SEQUENCE)
    fields = der.StrictReader(to_be_signed.content)
    version = der.small_integer(fields.inside(_VERSION).read(_INTEGER)) + 1 if fields.next_is(_VERSION) else 1
    serial = der.integer(fields.read(_INTEGER))
    oid, parameters = _algorithm(fields.inside())
    issuer = fields.read(_SEQUENCE).raw
    validity = fields.inside()
    not_before, not_after = _moment(validity.any()), _moment(validity.any())
    subject = fields.read(_SEQUENCE).raw
    spki = fields.read(_SEQUENCE)
    whole.read(_SEQUENCE)
    return PathCertificate(
        raw=data,
        to_be_signed=to_be_signed.raw,
        version=version,
        serial=serial,
        issuer=issuer,
        subject=subject,
        not_before=not_before,
        not_after=not_after,
        spki=spki.raw,
        key=_key(spki),
        signature=signatures.Signature(oid, parameters, der.bits(whole.read(_BITS))),
        **(_extensions(fields) if version == 3 else {}),  # type: ignore[arg-type]  # named as the fields
    )


def _algorithm(reader: der.StrictReader) -> tuple[str, bytes]:
    name = der.oid(reader.read(_OID))
    return name, b"" if reader.empty else reader.any().raw


def _key(spki: der.Element) -> publickeys.Key:
    info = der.StrictReader(spki.content)
    oid, parameters = _algorithm(info.inside())
    return publickeys.read(oid, parameters, der.bits(info.read(_BITS)))


def _moment(value: der.Element) -> datetime.datetime:
    """A time whose form was checked."""
    text = value.content.decode("ascii")
    if value.raw[0] == _UTC_TIME:
        text = f"{'19' if int(text[:2]) >= _LAST_CENTURY else '20'}{text}"
    digits, zone = (text[:-1], "") if text.endswith("Z") else (text[:-5], text[-5:])
    try:
        rest = [int(digits[at : at + 2]) for at in range(4, len(digits), 2)]
        moment = datetime.datetime(int(digits[:4]), *rest, tzinfo=datetime.UTC)  # type: ignore[arg-type, misc]  # five numbers at the most
        ahead = datetime.timedelta(hours=int(zone[1:3]), minutes=int(zone[3:])) if zone else datetime.timedelta()
        return moment + ahead if zone.startswith("-") else moment - ahead
    except (ValueError, OverflowError) as error:
        raise CertificateProblem(
            f"x509: malformed {'UTCTime' if value.raw[0] == _UTC_TIME else 'GeneralizedTime'}"
        ) from error


# --- extensions ---------------------------------------------------------------------------------------------------


def _extensions(fields: der.StrictReader) -> dict[str, object]:
    """Fields of a PathCertificate, from the extensions."""
    for first in (_ISSUER_ID, _SUBJECT_ID):
        if fields.next_is(first):
            fields.any()
    if not fields.next_is(_EXTENSIONS):
        return {}
    found: dict[str, bytes] = {}
    critical: set[str] = set()
    extensions = fields.inside(_EXTENSIONS).inside()
    while not extensions.empty:
        extension = extensions.inside()
        oid = der.oid(extension.read(_OID))
        if extension.next_is(_BOOLEAN) and der.boolean(extension.any()):
            critical.add(oid)
        found[oid] = extension.read(_OCTETS).content
    read: dict[str, object] = {"policy_limits": _policy_limits(found)}
    for oid, reader in _READERS.items():
        if oid in found:
            read |= reader(found[oid])
    unhandled = critical - _HANDLED or (_SAN in critical and not _has_names(found[_SAN]))
    constraints = read.get("constraints")
    if isinstance(constraints, nameconstraints.Constraints) and _NAME_CONSTRAINTS in critical:
        unhandled = unhandled or constraints.has_other_types
    return {**read, "has_unhandled_critical": bool(unhandled)}


def _has_names(value: bytes) -> bool:
    names = csr.alternative_names(value)
    return bool(names.dns or names.email or names.ip or names.uri)


def _subject_key_id(value: bytes) -> dict[str, object]:
    return {"subject_key_id": der.StrictReader(value).any().content}


def _key_usage(value: bytes) -> dict[str, object]:
    bits = der.StrictReader(value).read(_BITS).content[1:] + b"\0\0"
    # All nine bits off is as good as no extension.
    says_nothing = not bits[0] and not bits[1] & _NINTH_BIT
    return {"may_sign": says_nothing or bool(bits[0] & _CERT_SIGN)}


def _alternative_names(value: bytes) -> dict[str, object]:
    return {"alternative_names": value}


def _basic_constraints(value: bytes) -> dict[str, object]:
    reader = der.StrictReader(value).inside()
    is_authority = der.boolean(reader.any()) if reader.next_is(_BOOLEAN) else False
    path_length = der.integer(reader.any()) if reader.next_is(_INTEGER) else None
    return {"is_authority": is_authority, "path_length": path_length}


def _name_constraints(value: bytes) -> dict[str, object]:
    return {"constraints": nameconstraints.parse(value)}


def _authority_key_id(value: bytes) -> dict[str, object]:
    reader = der.StrictReader(value).inside()
    return {"authority_key_id": reader.any().content if reader.next_is(0x80) else b""}


def _purposes(value: bytes) -> dict[str, object]:
    return {"purposes": frozenset(each.content for each in der.Reader(der.StrictReader(value).any().content))}


_READERS: Final[dict[str, Callable[[bytes], dict[str, object]]]] = {
    _SUBJECT_KEY: _subject_key_id,
    _KEY_USAGE: _key_usage,
    _SAN: _alternative_names,
    _CONSTRAINTS: _basic_constraints,
    _NAME_CONSTRAINTS: _name_constraints,
    _AUTHORITY_KEY: _authority_key_id,
    _PURPOSES: _purposes,
}


def _policy_limits(found: dict[str, bytes]) -> PolicyLimits:
    require_explicit = inhibit_mapping = inhibit_any = -1
    if _POLICY_CONSTRAINTS in found:
        reader = der.StrictReader(found[_POLICY_CONSTRAINTS]).inside()
        require_explicit = der.small_integer(reader.any()) if reader.next_is(0x80) else -1
        inhibit_mapping = der.small_integer(reader.any()) if reader.next_is(0x81) else -1
    if _INHIBIT_ANY in found:
        inhibit_any = der.small_integer(der.StrictReader(found[_INHIBIT_ANY]).read(_INTEGER))
    return PolicyLimits(
        tuple(policy for (policy,) in _rows(found.get(_POLICIES), 1)),
        tuple((issuer, subject) for issuer, subject in _rows(found.get(_MAPPINGS), 2)),
        require_explicit,
        inhibit_mapping,
        inhibit_any,
    )


def _rows(value: bytes | None, columns: int) -> Iterator[list[bytes]]:
    """A SEQUENCE OF SEQUENCE, as the contents of the first values that each holds. What follows is not looked at: of
    policies it is qualifiers.
    """
    outer = der.StrictReader(value).inside() if value is not None else der.StrictReader(b"")
    while not outer.empty:
        row = outer.inside()
        yield [row.any().content for _ in range(columns)]
