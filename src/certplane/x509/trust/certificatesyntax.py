"""The syntax of certificates issued elsewhere, checked as in Go's crypto/x509: the same errors in the same order.

`status.certificate` must pass these checks and no others: neither validity nor signature are checked, nor whether it is
the requested certificate. Extensions that Go parses must be well-formed; of others only OID, critical flag and value
are parsed. Source: RFC 5280 section 4; Go `crypto/x509`, `parseCertificate`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from typing import Final

from certplane import boundedcache
from certplane.golang import asn1, dertags, formatting
from certplane.x509 import certificatenames, oids, publickeys

#: Fields of a TBSCertificate with context-specific tags. RFC 5280 section 4.1.
VERSION: Final = dertags.context_constructed(0)
ISSUER_UNIQUE_ID: Final = dertags.context(1)
SUBJECT_UNIQUE_ID: Final = dertags.context(2)
EXTENSIONS: Final = dertags.context_constructed(3)
#: Fields of extensions. RFC 5280 sections 4.2.1.1, 4.2.1.10 and 4.2.1.11.
KEY_IDENTIFIER: Final = dertags.context(0)
PERMITTED_SUBTREES: Final = dertags.context_constructed(0)
EXCLUDED_SUBTREES: Final = dertags.context_constructed(1)
REQUIRE_EXPLICIT_POLICY: Final = dertags.context(0)
INHIBIT_POLICY_MAPPING: Final = dertags.context(1)

#: The string types of attribute values, with the error texts for malformed ones.
_STRING_ERRORS: Final = {
    dertags.UTF8_STRING: "invalid UTF-8 string",
    dertags.NUMERIC_STRING: "invalid NumericString",
    dertags.PRINTABLE_STRING: "invalid PrintableString",
    dertags.T61_STRING: "",
    dertags.IA5_STRING: "invalid IA5String",
    dertags.BMP_STRING: "invalid BMPString",
}
_TIME_NAMES: Final = {dertags.UTC_TIME: "UTCTime", dertags.GENERALIZED_TIME: "GeneralizedTime"}


class CertificateSyntaxError(ValueError):
    """Bytes that are not a well-formed certificate. The text is Go's."""


def check(data: bytes) -> int:
    """Check certificates in DER, one after the other, and count them. Raises CertificateSyntaxError."""
    reader = asn1.StrictReader(data)
    count = 0
    while not reader.empty:
        with _report_as("x509: malformed certificate"):
            certificate = reader.read_child()
        _check_certificate(certificate)
        count += 1
    return count


class _report_as:  # noqa: N801 - used like a function: with _report_as("text")
    """Replaces a DERError by a CertificateSyntaxError with this text. A class because contextlib's generators are four
    times as slow, and a certificate needs dozens.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if isinstance(error, asn1.DERError):
            raise CertificateSyntaxError(self._text) from error


def _check_certificate(certificate: asn1.StrictReader) -> None:
    with _report_as("x509: malformed tbs certificate"):
        tbs = certificate.read_child()
    version = _read_version(tbs)
    with _report_as("x509: malformed serial number"):
        serial = asn1.decode_integer(tbs.read(dertags.INTEGER))
    if serial < 0:
        raise CertificateSyntaxError("x509: negative serial number")
    _check_algorithms(tbs, certificate)
    _check_name(tbs)
    with _report_as("x509: malformed validity"):
        validity = tbs.read_child()
    _check_time(validity)
    _check_time(validity)
    _check_name(tbs)
    _check_key(tbs)
    if version > 1:
        _check_optional_fields(tbs, version)
    with _report_as("x509: malformed signature"):
        asn1.decode_bit_string(certificate.read(dertags.BIT_STRING))


def _read_version(tbs: asn1.StrictReader) -> int:
    version = 0
    if tbs.next_is(VERSION):
        with _report_as("x509: malformed version"):
            field = tbs.read_child(VERSION)
            version = asn1.decode_int64(field.read(dertags.INTEGER))
        if version < 0 or not field.empty:
            raise CertificateSyntaxError("x509: malformed version")
    if version > 2:
        raise CertificateSyntaxError("x509: invalid version")
    return version + 1


def _check_algorithms(tbs: asn1.StrictReader, certificate: asn1.StrictReader) -> None:
    with _report_as("x509: malformed signature algorithm identifier"):
        inner = tbs.read(dertags.SEQUENCE).content
    with _report_as("x509: malformed algorithm identifier"):
        outer = certificate.read(dertags.SEQUENCE).content
    if inner != outer:
        raise CertificateSyntaxError("x509: inner and outer signature algorithm identifiers don't match")
    _read_algorithm(asn1.StrictReader(inner))


def _read_algorithm(reader: asn1.StrictReader) -> tuple[str, bytes]:
    with _report_as("x509: malformed OID"):
        oid = asn1.decode_oid(reader.read(dertags.OID))
    with _report_as("x509: malformed parameters"):
        return oid, b"" if reader.empty else reader.read_any().raw


def _check_name(tbs: asn1.StrictReader) -> None:
    with _report_as("x509: malformed issuer"):
        # Go has the same text for the subject.
        name = tbs.read(dertags.SEQUENCE).content
    _check_rdns(name)


# Names and extensions are cached because the certificates of one CA have many in common.
@boundedcache.memoize()
def _check_rdns(content: bytes) -> None:
    invalid = "x509: invalid RDNSequence"
    name = asn1.StrictReader(content)
    while not name.empty:
        with _report_as(invalid):
            rdn = name.read_child(dertags.SET)
        while not rdn.empty:
            with _report_as(f"{invalid}: invalid attribute"):
                attribute = rdn.read_child()
            with _report_as(f"{invalid}: invalid attribute type"):
                asn1.decode_oid(attribute.read(dertags.OID))
            with _report_as(f"{invalid}: invalid attribute value"):
                value = attribute.read_any()
            if value.raw[0] not in _STRING_ERRORS:
                raise CertificateSyntaxError(
                    f"{invalid}: invalid attribute value: unsupported string type: {value.raw[0]}"
                )
            with _report_as(f"{invalid}: invalid attribute value: {_STRING_ERRORS[value.raw[0]]}"):
                asn1.decode_string(value)


def _check_time(validity: asn1.StrictReader) -> None:
    name = next((name for tag, name in _TIME_NAMES.items() if validity.next_is(tag)), None)
    if name is None:
        raise CertificateSyntaxError("x509: unsupported time format")
    with _report_as(f"x509: malformed {name}"):
        time = validity.read_any()
        asn1.decode_string(time)
    if b"." in time.content:
        raise CertificateSyntaxError(f"x509: malformed {name}")


def _check_key(tbs: asn1.StrictReader) -> None:
    with _report_as("x509: malformed spki"):
        info = tbs.read_child()
    with _report_as("x509: malformed public key algorithm identifier"):
        identifier = info.read_child()
    algorithm, parameters = _read_algorithm(identifier)
    with _report_as("x509: malformed subjectPublicKey"):
        bits = asn1.decode_bit_string(info.read(dertags.BIT_STRING))
    try:
        publickeys.parse(algorithm, parameters, bits)
    except publickeys.PublicKeyError as error:
        raise CertificateSyntaxError(str(error)) from error


# --- extensions ---------------------------------------------------------------------------------------------------


def _check_optional_fields(tbs: asn1.StrictReader, version: int) -> None:
    for tag, name in ((ISSUER_UNIQUE_ID, "issuerUniqueID"), (SUBJECT_UNIQUE_ID, "subjectUniqueID")):
        if tbs.next_is(tag):
            with _report_as(f"x509: malformed {name}"):
                tbs.read_any()
    if version < 3 or not tbs.next_is(EXTENSIONS):
        return
    with _report_as("x509: malformed extensions"):
        extensions = tbs.read_child(EXTENSIONS).read_child()
    content_by_oid: dict[str, bytes] = {}
    while not extensions.empty:
        with _report_as("x509: malformed extension"):
            content = extensions.read(dertags.SEQUENCE).content
        oid = _split_extension(content)[0]
        if oid in content_by_oid:
            quoted = formatting.quote(oid)
            raise CertificateSyntaxError(f"x509: certificate contains duplicate extension with OID {quoted}")
        content_by_oid[oid] = content
    for content in content_by_oid.values():
        _check_extension(content)


@boundedcache.memoize()
def _check_extension(content: bytes) -> None:
    oid, critical, value = _split_extension(content)
    check = _CHECKS.get(oid)
    if check is not None:
        check(value, critical)


@boundedcache.memoize()
def _split_extension(content: bytes) -> tuple[str, bool, bytes]:
    """The OID of an extension, whether it is critical, and its value."""
    reader = asn1.StrictReader(content)
    with _report_as("x509: malformed extension OID field"):
        oid = asn1.decode_oid(reader.read(dertags.OID))
    critical = False
    if reader.next_is(dertags.BOOLEAN):
        with _report_as("x509: malformed extension critical field"):
            critical = asn1.decode_boolean(reader.read_any())
    with _report_as("x509: malformed extension value field"):
        return oid, critical, reader.read(dertags.OCTET_STRING).content


def _check_key_usage(value: bytes, _: bool) -> None:
    with _report_as("x509: invalid key usage"):
        asn1.decode_bit_string(asn1.StrictReader(value).read(dertags.BIT_STRING))


def _check_basic_constraints(value: bytes, _: bool) -> None:
    with _report_as("x509: invalid basic constraints"):
        reader = asn1.StrictReader(value).read_child()
        if reader.next_is(dertags.BOOLEAN):
            asn1.decode_boolean(reader.read_any())
        if reader.next_is(dertags.INTEGER) and not 0 <= asn1.decode_integer(reader.read_any()) < 1 << 63:
            raise asn1.structural_error("invalid path length")


def _check_alternative_names(value: bytes, _: bool) -> None:
    try:
        certificatenames.parse_alternative_names(value)
    except certificatenames.AlternativeNamesError as error:
        raise CertificateSyntaxError(str(error)) from error


def _check_distribution_points(value: bytes, _: bool) -> None:
    with _report_as("x509: invalid CRL distribution points"):
        points = asn1.StrictReader(value).read_child()
    with _report_as("x509: invalid CRL distribution point"):
        while not points.empty:
            point = points.read_child()
            # distributionPoint, fullName: RFC 5280 section 4.2.1.13.
            if not point.next_is(dertags.context_constructed(0)):
                continue
            names = point.read_child(dertags.context_constructed(0)).read_child(dertags.context_constructed(0))
            while names.next_is(certificatenames.URI):
                names.read_any()


def _check_authority_key_id(value: bytes, critical: bool) -> None:
    if critical:
        raise CertificateSyntaxError("x509: authority key identifier incorrectly marked critical")
    with _report_as("x509: invalid authority key identifier"):
        reader = asn1.StrictReader(value).read_child()
        if reader.next_is(KEY_IDENTIFIER):
            reader.read_any()


def _check_subject_key_id(value: bytes, critical: bool) -> None:
    if critical:
        raise CertificateSyntaxError("x509: subject key identifier incorrectly marked critical")
    with _report_as("x509: invalid subject key identifier"):
        asn1.StrictReader(value).read(dertags.OCTET_STRING)


def _check_extended_key_usage(value: bytes, _: bool) -> None:
    with _report_as("x509: invalid extended key usages"):
        reader = asn1.StrictReader(value).read_child()
        while not reader.empty:
            asn1.decode_oid(reader.read(dertags.OID))


#: Arcs of any size, minimally encoded.
_OID_CONTENT: Final = re.compile(rb"(?:(?!\x80)[\x80-\xff]*[\x00-\x7f])+")


def _check_policies(value: bytes, _: bool) -> None:
    with _report_as("x509: invalid certificate policies"):
        reader = asn1.StrictReader(value).read_child()
        seen = set()
        while not reader.empty:
            policy = reader.read_child().read(dertags.OID).content
            if policy in seen or not _OID_CONTENT.fullmatch(policy):
                raise asn1.structural_error("invalid or duplicate policy")
            seen.add(policy)


def _check_policy_mappings(value: bytes, _: bool) -> None:
    with _report_as("x509: invalid policy mappings extension"):
        reader = asn1.StrictReader(value).read_child()
        while not reader.empty:
            mapping = reader.read_child()
            mapping.read(dertags.OID)
            mapping.read(dertags.OID)


def _check_policy_constraints(value: bytes, _: bool) -> None:
    with _report_as("x509: invalid policy constraints extension"):
        reader = asn1.StrictReader(value).read_child()
        for tag in (REQUIRE_EXPLICIT_POLICY, INHIBIT_POLICY_MAPPING):
            if reader.next_is(tag):
                asn1.decode_int64(reader.read_any())


def _check_inhibit_any_policy(value: bytes, _: bool) -> None:
    with _report_as("x509: invalid inhibit any policy extension"):
        asn1.decode_int64(asn1.StrictReader(value).read(dertags.INTEGER))


def _check_information_access(value: bytes, critical: bool) -> None:
    if critical:
        raise CertificateSyntaxError("x509: authority info access incorrectly marked critical")
    with _report_as("x509: invalid authority info access"):
        reader = asn1.StrictReader(value).read_child()
        while not reader.empty:
            access = reader.read_child()
            asn1.decode_oid(access.read(dertags.OID))
            if access.next_is(certificatenames.URI):
                access.read_any()


# --- name constraints ---------------------------------------------------------------------------------------------

_MAILBOX: Final = re.compile(
    r'("(?:[^"\\\x00\t\n\r]|\\[^\x00\n\r])*"|(?!\.)(?:\\?[A-Za-z0-9!#$%&\'*+/=?^_`{|}~-]|\.(?![.@]))+)@(.*)',
    re.DOTALL,
)


_QUOTED_PAIR: Final = re.compile(r"\\(.)", re.DOTALL)


def _check_name_constraints(value: bytes, _: bool) -> None:
    invalid = "x509: invalid NameConstraints extension"
    with _report_as(invalid):
        outer = asn1.StrictReader(value)
        reader = outer.read_child()
        subtrees = [reader.read(tag).content for tag in (PERMITTED_SUBTREES, EXCLUDED_SUBTREES) if reader.next_is(tag)]
    if not outer.empty or not reader.empty:
        raise CertificateSyntaxError(invalid)
    if not any(subtrees):
        raise CertificateSyntaxError("x509: empty name constraints extension")
    for subtree in subtrees:
        names = asn1.StrictReader(subtree)
        while not names.empty:
            with _report_as(invalid):
                name = names.read_child().read_any()
            _check_constraint(name)


def _check_constraint(name: asn1.Element) -> None:
    kind, content = name.raw[0], name.content
    if kind == certificatenames.IP:
        _check_network(content)
    if kind not in (certificatenames.EMAIL, certificatenames.DNS, certificatenames.URI):
        return
    text = content.decode("latin-1")
    quoted = formatting.quote(text)
    if not content.isascii():
        raise CertificateSyntaxError(
            f"x509: invalid constraint value: x509: {quoted} cannot be encoded as an IA5String"
        )
    if kind == certificatenames.DNS and not _is_domain(text):
        raise CertificateSyntaxError(f"x509: failed to parse dnsName constraint {quoted}")
    if kind == certificatenames.EMAIL and not (parse_mailbox(text) is not None if "@" in text else _is_domain(text)):
        raise CertificateSyntaxError(f"x509: failed to parse rfc822Name constraint {quoted}")
    if kind == certificatenames.URI:
        if _is_address(text):
            raise CertificateSyntaxError(f"x509: failed to parse URI constraint {quoted}: cannot be IP address")
        if not _is_domain(text):
            raise CertificateSyntaxError(f"x509: failed to parse URI constraint {quoted}")


def _is_domain(text: str) -> bool:
    """Whether a constraint is a domain, or with a leading dot the domains below one; empty means all domains."""
    return not text or certificatenames.is_domain(text.removeprefix("."))


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return "%" not in text


def parse_mailbox(text: str) -> tuple[str, str] | None:
    """The local part of a mail address, without quotes and backslashes, and its domain; None for other texts."""
    match = _MAILBOX.fullmatch(text)
    if match is None or not _is_domain(match[2]):
        return None
    local = match[1][1:-1] if match[1].startswith('"') else match[1]
    return _QUOTED_PAIR.sub(r"\1", local), match[2]


def _check_network(content: bytes) -> None:
    if len(content) not in (8, 32):
        raise CertificateSyntaxError(f"x509: IP constraint contained value of length {len(content)}")
    mask = content[len(content) // 2 :]
    bits = f"{int.from_bytes(mask, 'big'):0{len(mask) * 8}b}"
    if "01" in bits:
        raise CertificateSyntaxError(f"x509: IP constraint contained invalid mask {mask.hex()}")


_CHECKS: Final[dict[str, Callable[[bytes, bool], None]]] = {
    oids.SUBJECT_KEY_ID: _check_subject_key_id,
    oids.KEY_USAGE: _check_key_usage,
    oids.SUBJECT_ALT_NAME: _check_alternative_names,
    oids.BASIC_CONSTRAINTS: _check_basic_constraints,
    oids.NAME_CONSTRAINTS: _check_name_constraints,
    oids.CRL_DISTRIBUTION_POINTS: _check_distribution_points,
    oids.CERTIFICATE_POLICIES: _check_policies,
    oids.POLICY_MAPPINGS: _check_policy_mappings,
    oids.AUTHORITY_KEY_ID: _check_authority_key_id,
    oids.POLICY_CONSTRAINTS: _check_policy_constraints,
    oids.EXTENDED_KEY_USAGE: _check_extended_key_usage,
    oids.INHIBIT_ANY_POLICY: _check_inhibit_any_policy,
    oids.AUTHORITY_INFORMATION_ACCESS: _check_information_access,
}
