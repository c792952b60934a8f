"""The form of certificates that others made, as Go's crypto/x509 judges it, in its words and in its order.

`status.certificate` is refused for what this finds, and nothing else is asked of it: whether it is the right
certificate, is valid, or was signed at all, nobody looks at. Extensions that Go reads have to be readable; of those
that it does not know the outline is enough. RFC 5280 section 4; Go `crypto/x509`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from typing import Final

from certplane import boundedcache, gotext
from certplane.x509 import csr, der, publickeys

_SEQUENCE, _SET, _INTEGER, _BITS, _OCTETS, _OID, _BOOLEAN = 0x30, 0x31, 0x02, 0x03, 0x04, 0x06, 0x01
_UTC_TIME, _GENERALIZED_TIME = 0x17, 0x18
_VERSION, _ISSUER_ID, _SUBJECT_ID, _EXTENSIONS = 0xA0, 0x81, 0x82, 0xA3
_STRINGS: Final = {
    0x0C: "invalid UTF-8 string",
    0x12: "invalid NumericString",
    0x13: "invalid PrintableString",
    0x14: "",
    0x16: "invalid IA5String",
    0x1E: "invalid BMPString",
}


class FormProblem(ValueError):
    """Bytes that are no certificate. The text is Go's."""


def check(data: bytes) -> int:
    """Check certificates in DER, one after the other, and count them. Raises FormProblem."""
    reader = der.StrictReader(data)
    count = 0
    while not reader.empty:
        with _told("x509: malformed certificate"):
            whole = reader.inside()
        _check_one(whole)
        count += 1
    return count


class _told:  # noqa: N801 - reads as the sentence it is
    """What cannot be read inside is told in these words. A class, as a generator costs four times as much, dozens of
    times a certificate.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if isinstance(error, der.DERProblem):
            raise FormProblem(self._text) from error


def _check_one(whole: der.StrictReader) -> None:
    with _told("x509: malformed tbs certificate"):
        tbs = whole.inside()
    version = _version(tbs)
    with _told("x509: malformed serial number"):
        serial = der.integer(tbs.read(_INTEGER))
    if serial < 0:
        raise FormProblem("x509: negative serial number")
    _check_algorithms(tbs, whole)
    _check_name(tbs)
    with _told("x509: malformed validity"):
        validity = tbs.inside()
    _check_time(validity)
    _check_time(validity)
    _check_name(tbs)
    _check_key(tbs)
    if version > 1:
        _check_rest(tbs, version)
    with _told("x509: malformed signature"):
        der.bits(whole.read(_BITS))


def _version(tbs: der.StrictReader) -> int:
    version = 0
    if tbs.next_is(_VERSION):
        with _told("x509: malformed version"):
            inner = tbs.inside(_VERSION)
            version = der.small_integer(inner.read(_INTEGER))
        if version < 0 or not inner.empty:
            raise FormProblem("x509: malformed version")
    if version > 2:
        raise FormProblem("x509: invalid version")
    return version + 1


def _check_algorithms(tbs: der.StrictReader, whole: der.StrictReader) -> None:
    with _told("x509: malformed signature algorithm identifier"):
        inner = tbs.read(_SEQUENCE).content
    with _told("x509: malformed algorithm identifier"):
        outer = whole.read(_SEQUENCE).content
    if inner != outer:
        raise FormProblem("x509: inner and outer signature algorithm identifiers don't match")
    _algorithm(der.StrictReader(inner))


def _algorithm(reader: der.StrictReader) -> tuple[str, bytes]:
    with _told("x509: malformed OID"):
        name = der.oid(reader.read(_OID))
    with _told("x509: malformed parameters"):
        return name, b"" if reader.empty else reader.any().raw


def _check_name(tbs: der.StrictReader) -> None:
    with _told("x509: malformed issuer"):
        # Of the subject Go says the same.
        name = tbs.read(_SEQUENCE).content
    _check_rdns(name)


# One authority writes the same short pieces all the time.
@boundedcache.remember()
def _check_rdns(content: bytes) -> None:
    wrong = "x509: invalid RDNSequence"
    name = der.StrictReader(content)
    while not name.empty:
        with _told(wrong):
            rdn = name.inside(_SET)
        while not rdn.empty:
            with _told(f"{wrong}: invalid attribute"):
                attribute = rdn.inside()
            with _told(f"{wrong}: invalid attribute type"):
                der.oid(attribute.read(_OID))
            with _told(f"{wrong}: invalid attribute value"):
                value = attribute.any()
            if value.raw[0] not in _STRINGS:
                raise FormProblem(f"{wrong}: invalid attribute value: unsupported string type: {value.raw[0]}")
            with _told(f"{wrong}: invalid attribute value: {_STRINGS[value.raw[0]]}"):
                der.text(value)


def _check_time(validity: der.StrictReader) -> None:
    names = {_UTC_TIME: "UTCTime", _GENERALIZED_TIME: "GeneralizedTime"}
    name = next((name for first, name in names.items() if validity.next_is(first)), None)
    if name is None:
        raise FormProblem("x509: unsupported time format")
    with _told(f"x509: malformed {name}"):
        time = validity.any()
        der.text(time)
    if b"." in time.content:
        raise FormProblem(f"x509: malformed {name}")


def _check_key(tbs: der.StrictReader) -> None:
    with _told("x509: malformed spki"):
        info = tbs.inside()
    with _told("x509: malformed public key algorithm identifier"):
        inner = info.inside()
    algorithm, parameters = _algorithm(inner)
    with _told("x509: malformed subjectPublicKey"):
        bits = der.bits(info.read(_BITS))
    try:
        publickeys.read(algorithm, parameters, bits)
    except publickeys.KeyProblem as error:
        raise FormProblem(str(error)) from error


# --- extensions ---------------------------------------------------------------------------------------------------


def _check_rest(tbs: der.StrictReader, version: int) -> None:
    for first, name in ((_ISSUER_ID, "issuerUniqueID"), (_SUBJECT_ID, "subjectUniqueID")):
        if tbs.next_is(first):
            with _told(f"x509: malformed {name}"):
                tbs.any()
    if version < 3 or not tbs.next_is(_EXTENSIONS):
        return
    with _told("x509: malformed extensions"):
        extensions = tbs.inside(_EXTENSIONS).inside()
    found: dict[str, bytes] = {}
    while not extensions.empty:
        with _told("x509: malformed extension"):
            extension = extensions.read(_SEQUENCE).content
        oid = _outline(extension)[0]
        if oid in found:
            raise FormProblem(f"x509: certificate contains duplicate extension with OID {gotext.quote(oid)}")
        found[oid] = extension
    for extension in found.values():
        _check_extension(extension)


@boundedcache.remember()
def _check_extension(content: bytes) -> None:
    oid, critical, value = _outline(content)
    check = _CHECKS.get(oid)
    if check is not None:
        check(value, critical)


@boundedcache.remember()
def _outline(content: bytes) -> tuple[str, bool, bytes]:
    """The OID of an extension, whether it is critical, and its value."""
    reader = der.StrictReader(content)
    with _told("x509: malformed extension OID field"):
        oid = der.oid(reader.read(_OID))
    critical = False
    if reader.next_is(_BOOLEAN):
        with _told("x509: malformed extension critical field"):
            critical = der.boolean(reader.any())
    with _told("x509: malformed extension value field"):
        return oid, critical, reader.read(_OCTETS).content


def _key_usage(value: bytes, _: bool) -> None:
    with _told("x509: invalid key usage"):
        der.bits(der.StrictReader(value).read(_BITS))


def _basic_constraints(value: bytes, _: bool) -> None:
    with _told("x509: invalid basic constraints"):
        reader = der.StrictReader(value).inside()
        if reader.next_is(_BOOLEAN):
            der.boolean(reader.any())
        if reader.next_is(_INTEGER) and not 0 <= der.integer(reader.any()) < 1 << 63:
            raise der.structure("no path length")


def _alternative_names(value: bytes, _: bool) -> None:
    try:
        csr.alternative_names(value)
    except csr.RequestError as error:
        raise FormProblem(str(error)) from error


def _distribution_points(value: bytes, _: bool) -> None:
    with _told("x509: invalid CRL distribution points"):
        points = der.StrictReader(value).inside()
    with _told("x509: invalid CRL distribution point"):
        while not points.empty:
            point = points.inside()
            if not point.next_is(0xA0):
                continue
            name = point.inside(0xA0).inside(0xA0)
            while name.next_is(0x86):
                name.any()


def _authority_key_id(value: bytes, critical: bool) -> None:
    if critical:
        raise FormProblem("x509: authority key identifier incorrectly marked critical")
    with _told("x509: invalid authority key identifier"):
        reader = der.StrictReader(value).inside()
        if reader.next_is(0x80):
            reader.any()


def _subject_key_id(value: bytes, critical: bool) -> None:
    if critical:
        raise FormProblem("x509: subject key identifier incorrectly marked critical")
    with _told("x509: invalid subject key identifier"):
        der.StrictReader(value).read(_OCTETS)


def _extended_key_usage(value: bytes, _: bool) -> None:
    with _told("x509: invalid extended key usages"):
        reader = der.StrictReader(value).inside()
        while not reader.empty:
            der.oid(reader.read(_OID))


def _policies(value: bytes, _: bool) -> None:
    with _told("x509: invalid certificate policies"):
        reader = der.StrictReader(value).inside()
        seen = set()
        while not reader.empty:
            policy = reader.inside().read(_OID).content
            # Numbers of any size, each in as few bytes as it needs.
            if policy in seen or not re.fullmatch(rb"(?:(?!\x80)[\x80-\xff]*[\x00-\x7f])+", policy):
                raise der.structure("no policy, or one that is there twice")
            seen.add(policy)


def _policy_mappings(value: bytes, _: bool) -> None:
    with _told("x509: invalid policy mappings extension"):
        reader = der.StrictReader(value).inside()
        while not reader.empty:
            mapping = reader.inside()
            mapping.read(_OID)
            mapping.read(_OID)


def _policy_constraints(value: bytes, _: bool) -> None:
    with _told("x509: invalid policy constraints extension"):
        reader = der.StrictReader(value).inside()
        for first in (0x80, 0x81):
            if reader.next_is(first):
                der.small_integer(reader.any())


def _inhibit_any_policy(value: bytes, _: bool) -> None:
    with _told("x509: invalid inhibit any policy extension"):
        der.small_integer(der.StrictReader(value).read(_INTEGER))


def _information_access(value: bytes, critical: bool) -> None:
    if critical:
        raise FormProblem("x509: authority info access incorrectly marked critical")
    with _told("x509: invalid authority info access"):
        reader = der.StrictReader(value).inside()
        while not reader.empty:
            access = reader.inside()
            der.oid(access.read(_OID))
            if access.next_is(0x86):
                access.any()


# --- name constraints ---------------------------------------------------------------------------------------------

_EMAIL, _DNS, _URI, _IP = 0x81, 0x82, 0x86, 0x87
_MAILBOX: Final = re.compile(
    r'("(?:[^"\\\x00\t\n\r]|\\[^\x00\n\r])*"|(?!\.)(?:\\?[A-Za-z0-9!#$%&\'*+/=?^_`{|}~-]|\.(?![.@]))+)@(.*)',
    re.DOTALL,
)


_QUOTED_PAIR: Final = re.compile(r"\\(.)", re.DOTALL)


def _name_constraints(value: bytes, _: bool) -> None:
    wrong = "x509: invalid NameConstraints extension"
    with _told(wrong):
        outer = der.StrictReader(value)
        reader = outer.inside()
        subtrees = [reader.read(first).content for first in (0xA0, 0xA1) if reader.next_is(first)]
    if not outer.empty or not reader.empty:
        raise FormProblem(wrong)
    if not any(subtrees):
        raise FormProblem("x509: empty name constraints extension")
    for each in subtrees:
        names = der.StrictReader(each)
        while not names.empty:
            with _told(wrong):
                name = names.inside().any()
            _check_constraint(name)


def _check_constraint(name: der.Element) -> None:
    first, content = name.raw[0], name.content
    if first == _IP:
        _check_range(content)
    if first not in (_EMAIL, _DNS, _URI):
        return
    text = content.decode("latin-1")
    if not content.isascii():
        raise FormProblem(
            f"x509: invalid constraint value: x509: {gotext.quote(text)} cannot be encoded as an IA5String"
        )
    if first == _DNS and not _is_domain(text):
        raise FormProblem(f"x509: failed to parse dnsName constraint {gotext.quote(text)}")
    if first == _EMAIL and not (mailbox(text) is not None if "@" in text else _is_domain(text)):
        raise FormProblem(f"x509: failed to parse rfc822Name constraint {gotext.quote(text)}")
    if first == _URI:
        if _is_address(text):
            raise FormProblem(f"x509: failed to parse URI constraint {gotext.quote(text)}: cannot be IP address")
        if not _is_domain(text):
            raise FormProblem(f"x509: failed to parse URI constraint {gotext.quote(text)}")


def _is_domain(text: str) -> bool:
    """A domain, or all that are below one; nothing is all domains."""
    return not text or csr.is_domain(text.removeprefix("."))


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return "%" not in text


def mailbox(text: str) -> tuple[str, str] | None:
    """The local part of a mail address, without quotes and backslashes, and its domain; None if it is no address."""
    found = _MAILBOX.fullmatch(text)
    if found is None or not _is_domain(found[2]):
        return None
    local = found[1][1:-1] if found[1].startswith('"') else found[1]
    return _QUOTED_PAIR.sub(r"\1", local), found[2]


def _check_range(content: bytes) -> None:
    if len(content) not in (8, 32):
        raise FormProblem(f"x509: IP constraint contained value of length {len(content)}")
    mask = content[len(content) // 2 :]
    bits = f"{int.from_bytes(mask, 'big'):0{len(mask) * 8}b}"
    if "01" in bits:
        raise FormProblem(f"x509: IP constraint contained invalid mask {mask.hex()}")


_CHECKS: Final[dict[str, Callable[[bytes, bool], None]]] = {
    "2.5.29.14": _subject_key_id,
    "2.5.29.15": _key_usage,
    "2.5.29.17": _alternative_names,
    "2.5.29.19": _basic_constraints,
    "2.5.29.30": _name_constraints,
    "2.5.29.31": _distribution_points,
    "2.5.29.32": _policies,
    "2.5.29.33": _policy_mappings,
    "2.5.29.35": _authority_key_id,
    "2.5.29.36": _policy_constraints,
    "2.5.29.37": _extended_key_usage,
    "2.5.29.54": _inhibit_any_policy,
    "1.3.6.1.5.5.7.1.1": _information_access,
}
