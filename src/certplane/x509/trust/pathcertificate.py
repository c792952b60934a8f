"""A certificate as path validation needs it: names, keys, times and the extensions that limit a path.

`certificatesyntax` checks the syntax first, with Go's errors, so the code here may rely on it. Fields hold the original
DER wherever path validation compares bytes. Source: RFC 5280 section 4; Go `crypto/x509`, `parseCertificate`.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
from collections.abc import Callable, Iterator
from typing import Final

from certplane.golang import asn1, dertags
from certplane.x509 import certificatenames, oids, publickeys, signatures
from certplane.x509.trust import certificatesyntax, nameconstraints

#: Two-digit years from this one on belong to the 20th century. RFC 5280 section 4.1.2.5.1.
_CENTURY_PIVOT: Final = 50
#: Extensions that may be critical. Any other critical extension is unhandled.
_HANDLED: Final = frozenset(
    {
        oids.KEY_USAGE,
        oids.SUBJECT_ALT_NAME,
        oids.BASIC_CONSTRAINTS,
        oids.NAME_CONSTRAINTS,
        oids.CRL_DISTRIBUTION_POINTS,
        oids.CERTIFICATE_POLICIES,
        oids.POLICY_MAPPINGS,
        oids.POLICY_CONSTRAINTS,
        oids.EXTENDED_KEY_USAGE,
        oids.INHIBIT_ANY_POLICY,
    }
)
#: keyCertSign in the first byte of a key usage, decipherOnly in the second one.
_CERT_SIGN: Final = 0x04
_DECIPHER_ONLY: Final = 0x80


class CertificateParseError(ValueError):
    """Bytes that are not one well-formed certificate. The text is Go's."""


@dataclasses.dataclass(frozen=True, slots=True)
class PolicyLimits:
    """The policies of a certificate and its limits for the policies below. OIDs are the content of their DER; numbers
    are -1 if absent.
    """

    policies: tuple[bytes, ...] = ()
    mappings: tuple[tuple[bytes, bytes], ...] = ()
    require_explicit: int = -1
    inhibit_mapping: int = -1
    inhibit_any: int = -1


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class PathCertificate:
    """A certificate. `is_ca` is the CA bit, None without basic constraints; `path_length` is None without a
    limit. `may_sign` is keyCertSign of the key usage, True without key usage. `purposes` are the OIDs of the extended
    key usage, as the content of their DER. `alternative_names` is the value of the extension in DER, None without it.
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
    key: publickeys.ParsedKey
    signature: signatures.Signature
    is_ca: bool | None = None
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
        """SHA-256 of the certificate."""
        return hashlib.sha256(self.raw).digest()


def parse(data: bytes) -> PathCertificate:
    """The certificate in a DER document. Raises CertificateParseError."""
    try:
        count = certificatesyntax.check(data)
        if not count:
            raise CertificateParseError("x509: malformed certificate")
        if count > 1:
            raise CertificateParseError("x509: trailing data")
        return _parse(data)
    except (certificatesyntax.CertificateSyntaxError, asn1.DERError) as error:
        raise CertificateParseError(str(error)) from error


def _parse(data: bytes) -> PathCertificate:
    certificate = asn1.StrictReader(data).read_child()
    to_be_signed = certificate.read(dertags.SEQUENCE)
    fields = asn1.StrictReader(to_be_signed.content)
    version = 1
    if fields.next_is(certificatesyntax.VERSION):
        version += asn1.decode_int64(fields.read_child(certificatesyntax.VERSION).read(dertags.INTEGER))
    serial = asn1.decode_integer(fields.read(dertags.INTEGER))
    oid, parameters = _read_algorithm(fields.read_child())
    issuer = fields.read(dertags.SEQUENCE).raw
    validity = fields.read_child()
    not_before, not_after = _parse_time(validity.read_any()), _parse_time(validity.read_any())
    subject = fields.read(dertags.SEQUENCE).raw
    spki = fields.read(dertags.SEQUENCE)
    certificate.read(dertags.SEQUENCE)
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
        key=_parse_key(spki),
        signature=signatures.Signature(oid, parameters, asn1.decode_bit_string(certificate.read(dertags.BIT_STRING))),
        **(_parse_extensions(fields) if version == 3 else {}),  # type: ignore[arg-type]  # the keys are names of fields
    )


def _read_algorithm(reader: asn1.StrictReader) -> tuple[str, bytes]:
    oid = asn1.decode_oid(reader.read(dertags.OID))
    return oid, b"" if reader.empty else reader.read_any().raw


def _parse_key(spki: asn1.Element) -> publickeys.ParsedKey:
    info = asn1.StrictReader(spki.content)
    oid, parameters = _read_algorithm(info.read_child())
    return publickeys.parse(oid, parameters, asn1.decode_bit_string(info.read(dertags.BIT_STRING)))


def _parse_time(value: asn1.Element) -> datetime.datetime:
    """A time whose syntax was checked. Raises CertificateParseError if it is not a valid date."""
    is_utc_time = value.raw[0] == dertags.UTC_TIME
    text = value.content.decode("ascii")
    if is_utc_time:
        text = f"{'19' if int(text[:2]) >= _CENTURY_PIVOT else '20'}{text}"
    digits, zone = (text[:-1], "") if text.endswith("Z") else (text[:-5], text[-5:])
    try:
        rest = [int(digits[start : start + 2]) for start in range(4, len(digits), 2)]
        local = datetime.datetime(int(digits[:4]), *rest, tzinfo=datetime.UTC)  # type: ignore[arg-type, misc]  # at most five numbers
        offset = datetime.timedelta(hours=int(zone[1:3]), minutes=int(zone[3:])) if zone else datetime.timedelta()
        return local + offset if zone.startswith("-") else local - offset
    except (ValueError, OverflowError) as error:
        raise CertificateParseError(f"x509: malformed {'UTCTime' if is_utc_time else 'GeneralizedTime'}") from error


# --- extensions ---------------------------------------------------------------------------------------------------


def _parse_extensions(fields: asn1.StrictReader) -> dict[str, object]:
    """The extensions, as fields of a PathCertificate."""
    for tag in (certificatesyntax.ISSUER_UNIQUE_ID, certificatesyntax.SUBJECT_UNIQUE_ID):
        if fields.next_is(tag):
            fields.read_any()
    if not fields.next_is(certificatesyntax.EXTENSIONS):
        return {}
    values: dict[str, bytes] = {}
    critical: set[str] = set()
    extensions = fields.read_child(certificatesyntax.EXTENSIONS).read_child()
    while not extensions.empty:
        extension = extensions.read_child()
        oid = asn1.decode_oid(extension.read(dertags.OID))
        if extension.next_is(dertags.BOOLEAN) and asn1.decode_boolean(extension.read_any()):
            critical.add(oid)
        values[oid] = extension.read(dertags.OCTET_STRING).content
    parsed: dict[str, object] = {"policy_limits": _parse_policy_limits(values)}
    for oid, parse_value in _PARSERS.items():
        if oid in values:
            parsed |= parse_value(values[oid])
    is_unhandled = bool(critical - _HANDLED)
    if oids.SUBJECT_ALT_NAME in critical:
        is_unhandled = is_unhandled or not _has_handled_names(values[oids.SUBJECT_ALT_NAME])
    constraints = parsed.get("constraints")
    if oids.NAME_CONSTRAINTS in critical and isinstance(constraints, nameconstraints.Constraints):
        is_unhandled = is_unhandled or constraints.has_other_types
    return {**parsed, "has_unhandled_critical": is_unhandled}


def _has_handled_names(value: bytes) -> bool:
    names = certificatenames.parse_alternative_names(value)
    return bool(names.dns or names.email or names.ip or names.uri)


def _parse_subject_key_id(value: bytes) -> dict[str, object]:
    return {"subject_key_id": asn1.StrictReader(value).read_any().content}


def _parse_key_usage(value: bytes) -> dict[str, object]:
    bits = asn1.StrictReader(value).read(dertags.BIT_STRING).content[1:] + b"\0\0"
    # As in Go, a key usage without any of its nine bits counts as absent.
    is_absent = not bits[0] and not bits[1] & _DECIPHER_ONLY
    return {"may_sign": is_absent or bool(bits[0] & _CERT_SIGN)}


def _parse_alternative_names(value: bytes) -> dict[str, object]:
    return {"alternative_names": value}


def _parse_basic_constraints(value: bytes) -> dict[str, object]:
    reader = asn1.StrictReader(value).read_child()
    is_ca = asn1.decode_boolean(reader.read_any()) if reader.next_is(dertags.BOOLEAN) else False
    path_length = asn1.decode_integer(reader.read_any()) if reader.next_is(dertags.INTEGER) else None
    return {"is_ca": is_ca, "path_length": path_length}


def _parse_name_constraints(value: bytes) -> dict[str, object]:
    return {"constraints": nameconstraints.parse(value)}


def _parse_authority_key_id(value: bytes) -> dict[str, object]:
    reader = asn1.StrictReader(value).read_child()
    return {"authority_key_id": reader.read_any().content if reader.next_is(certificatesyntax.KEY_IDENTIFIER) else b""}


def _parse_purposes(value: bytes) -> dict[str, object]:
    sequence = asn1.StrictReader(value).read_any()
    return {"purposes": frozenset(purpose.content for purpose in asn1.Reader(sequence.content))}


_PARSERS: Final[dict[str, Callable[[bytes], dict[str, object]]]] = {
    oids.SUBJECT_KEY_ID: _parse_subject_key_id,
    oids.KEY_USAGE: _parse_key_usage,
    oids.SUBJECT_ALT_NAME: _parse_alternative_names,
    oids.BASIC_CONSTRAINTS: _parse_basic_constraints,
    oids.NAME_CONSTRAINTS: _parse_name_constraints,
    oids.AUTHORITY_KEY_ID: _parse_authority_key_id,
    oids.EXTENDED_KEY_USAGE: _parse_purposes,
}


def _parse_policy_limits(values: dict[str, bytes]) -> PolicyLimits:
    require_explicit = inhibit_mapping = inhibit_any = -1
    if oids.POLICY_CONSTRAINTS in values:
        reader = asn1.StrictReader(values[oids.POLICY_CONSTRAINTS]).read_child()
        if reader.next_is(certificatesyntax.REQUIRE_EXPLICIT_POLICY):
            require_explicit = asn1.decode_int64(reader.read_any())
        if reader.next_is(certificatesyntax.INHIBIT_POLICY_MAPPING):
            inhibit_mapping = asn1.decode_int64(reader.read_any())
    if oids.INHIBIT_ANY_POLICY in values:
        inhibit_any = asn1.decode_int64(asn1.StrictReader(values[oids.INHIBIT_ANY_POLICY]).read(dertags.INTEGER))
    return PolicyLimits(
        policies=tuple(policy for (policy,) in _read_rows(values.get(oids.CERTIFICATE_POLICIES), 1)),
        mappings=tuple((issuer, subject) for issuer, subject in _read_rows(values.get(oids.POLICY_MAPPINGS), 2)),
        require_explicit=require_explicit,
        inhibit_mapping=inhibit_mapping,
        inhibit_any=inhibit_any,
    )


def _read_rows(value: bytes | None, columns: int) -> Iterator[list[bytes]]:
    """The rows of a SEQUENCE OF SEQUENCE: the contents of the first values in each. Further values, such as policy
    qualifiers, are not read.
    """
    outer = asn1.StrictReader(value).read_child() if value is not None else asn1.StrictReader(b"")
    while not outer.empty:
        row = outer.read_child()
        yield [row.read_any().content for _ in range(columns)]
