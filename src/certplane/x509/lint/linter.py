"""Lint a certificate before the CA key is used: rules as data, each with its source.

An ERROR stops issuance: the certificate would be broken, dangerous, or not what its signer promises, because of a fault
of ours or an attack. A WARNING stops nothing: kube-controller-manager issues such certificates on request and people
use them; an approver or a signer's profile may be stricter.

The rules read the bytes that will be signed (`tbscertificate`), not the values they were built from. Where `pkilint` is
installed, its RFC 5280 validators inspect the same bytes, too.

Sources: RFC 5280 unless another is named; BR are the CA/Browser Forum's Baseline Requirements; `signer` is the
contract of the Kubernetes signers (https://kubernetes.io/docs/reference/access-authn-authz/certificate-signing-requests/).
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from certplane.golang import asn1, dertags
from certplane.x509 import oids
from certplane.x509.lint import issuerconstraints, pkilinter
from certplane.x509.tbs import tbscertificate, template
from certplane.x509.tbs.tbscertificate import DNS, EMAIL, EMPTY_NAME, IP, URI, TBSCertificate


class Severity(enum.Enum):
    """An error stops issuance; a warning is reported with the decision to issue."""

    ERROR = "error"
    WARNING = "warning"


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """A violation of a rule."""

    rule: str
    severity: Severity
    citation: str
    text: str

    def __str__(self) -> str:
        return f"{self.text} [{self.rule}: {self.citation}]"


@dataclasses.dataclass(frozen=True, slots=True)
class IssuerPolicy:
    """What the certificates of an issuer have to comply with. `issuer` is the CA's subject in DER, `key_id` its key
    identifier (None if it has none), `algorithm` the DER AlgorithmIdentifier of its signatures, `not_after` its end of
    validity; `max_lifetime` includes back-dating.
    """

    issuer: bytes
    key_id: bytes | None
    algorithm: bytes
    not_after: datetime.datetime
    max_lifetime: datetime.timedelta
    issues_ca: bool = False
    constraints: issuerconstraints.IssuerConstraints = issuerconstraints.NONE


#: The violations in a certificate, one text each.
Check = Callable[[TBSCertificate, IssuerPolicy], Iterable[str]]


@dataclasses.dataclass(frozen=True, slots=True)
class Rule:
    """One rule, with its source."""

    id: str
    severity: Severity
    citation: str
    check: Check


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """The parsed certificate, None if it cannot be parsed, and the findings, errors first."""

    certificate: TBSCertificate | None
    findings: tuple[Finding, ...]


def run(encoded: bytes, policy: IssuerPolicy) -> Result:
    """Lint a DER certificate."""
    try:
        certificate = tbscertificate.parse(encoded)
    except asn1.DERError as error:
        text = f"the certificate cannot be parsed: {error}"
        return Result(None, (Finding("structure", Severity.ERROR, "4.1", text),))
    findings = [
        Finding(rule.id, rule.severity, rule.citation, text)
        for rule in RULES
        for text in itertools.islice(rule.check(certificate, policy), _MAX_FINDINGS)
    ]
    findings += _pkilint_findings(encoded)
    findings.sort(key=lambda finding: finding.severity.value)
    return Result(certificate, tuple(findings))


#: Findings of one rule: a request may have two thousand names, and the findings become a condition and an Event.
_MAX_FINDINGS: Final = 5
#: Characters of a name in a finding.
_MAX_QUOTE: Final = 80


def _quoted(text: str) -> str:
    return repr(text) if len(text) <= _MAX_QUOTE else f"{text[:_MAX_QUOTE]!r}..."


def _pkilint_findings(encoded: bytes) -> Iterator[Finding]:
    for code, text in pkilinter.findings(encoded):
        yield Finding(code, Severity.WARNING, "pkilint", text)


# --- basic fields ---------------------------------------------------------------------------------------------------

#: Bits. BR 7.1.
_MIN_SERIAL_BITS: Final = 64
#: Octets. Section 4.1.2.2.
_MAX_SERIAL_OCTETS: Final = 20
#: The last year that is written as UTCTime. Section 4.1.2.5.
_LAST_UTC_YEAR: Final = 2049


def _version(certificate: TBSCertificate, _: IssuerPolicy) -> Iterator[str]:
    if certificate.version != 3:
        yield f"the version is {certificate.version}; extensions need version 3"


def _other_fields(certificate: TBSCertificate, _: IssuerPolicy) -> Iterator[str]:
    if certificate.has_other_fields:
        yield "there are fields other than the extensions"


def _serial_size(certificate: TBSCertificate, _: IssuerPolicy) -> Iterator[str]:
    if certificate.serial_number <= 0:
        yield "the serial number is not positive"
    if len(certificate.serial) > _MAX_SERIAL_OCTETS:
        yield f"the serial number has {len(certificate.serial)} octets"


def _serial_entropy(certificate: TBSCertificate, _: IssuerPolicy) -> Iterator[str]:
    # One number does not show entropy. But of 128 random bits the upper 64 are all zero once in 2**64 certificates,
    # while a counter or a time in their place is found at once.
    if certificate.serial_number.bit_length() <= _MIN_SERIAL_BITS:
        bits = certificate.serial_number.bit_length()
        yield f"the serial number has {bits} bits; it cannot be from the random generator"


def _algorithms(certificate: TBSCertificate, policy: IssuerPolicy) -> Iterator[str]:
    if certificate.tbs_algorithm != certificate.signature_algorithm:
        yield "the signature algorithms inside and outside of the signed part differ"
    if certificate.tbs_algorithm != policy.algorithm:
        yield "the signature algorithm is not that of the CA"


def _issuer(certificate: TBSCertificate, policy: IssuerPolicy) -> Iterator[str]:
    if certificate.issuer != policy.issuer:
        yield "the issuer differs from the subject of the CA"


def _time_encoding(certificate: TBSCertificate, _: IssuerPolicy) -> Iterator[str]:
    for time in (certificate.not_before, certificate.not_after):
        if time.is_utc_time != (time.moment.year <= _LAST_UTC_YEAR):
            yield f"{time.moment:%Y-%m-%d} is encoded with the wrong type of time"


def _time_order(certificate: TBSCertificate, _: IssuerPolicy) -> Iterator[str]:
    if certificate.not_before.moment > certificate.not_after.moment:
        yield "notAfter is before notBefore"


def _lifetime(certificate: TBSCertificate, policy: IssuerPolicy) -> Iterator[str]:
    if certificate.not_after.moment - certificate.not_before.moment > policy.max_lifetime:
        lifetime = certificate.not_after.moment - certificate.not_before.moment
        yield f"the lifetime is {lifetime}; the maximum is {policy.max_lifetime}"
    if certificate.not_after.moment > policy.not_after:
        yield "the certificate is valid for longer than the CA"


# --- subject and names --------------------------------------------------------------------------------------------

#: Attribute types that are issued, with their name and their maximum length in characters: RFC 5280 appendix A.1.
_BOUNDS: Final = {
    oids.COMMON_NAME: ("common name", 64),
    oids.SERIAL_NUMBER: ("serial number", 64),
    oids.COUNTRY: ("country", 2),
    oids.LOCALITY: ("locality", 128),
    oids.PROVINCE: ("province", 128),
    oids.STREET_ADDRESS: ("street address", 128),
    oids.ORGANIZATION: ("organization", 64),
    oids.ORGANIZATIONAL_UNIT: ("organizational unit", 64),
    oids.POSTAL_CODE: ("postal code", 40),
}
_LABEL: Final = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOST: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
#: Characters. RFC 1034 section 3.1 allows 255 octets with the length of each label.
_MAX_HOST: Final = 253
_MAILBOX: Final = re.compile(r"[^\s@<>\x00-\x1f\x7f]+")
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:.")
_ACE: Final = "xn--"


def _attributes(certificate: TBSCertificate, _: IssuerPolicy) -> Iterator[str]:
    for oid, value in certificate.attributes:
        name, max_length = _BOUNDS.get(oid, (oid, 0))
        if not max_length:
            yield f"the subject has an attribute that is not copied: {oid}"
        elif not value:
            yield f"the {name} is empty"
        elif len(value) > max_length:
            yield f"the {name} has {len(value)} characters; the maximum is {max_length}"


def _nul(certificate: TBSCertificate, _: IssuerPolicy) -> Iterator[str]:
    if any("\0" in value for _, value in certificate.attributes):
        yield "the subject contains a NUL, where some programs truncate the name"
    if any(b"\0" in name.value for name in certificate.names or () if name.kind != IP):
        yield "an alternative name contains a NUL, where some programs truncate the name"


def _empty_identity(certificate: TBSCertificate, _: IssuerPolicy) -> Iterator[str]:
    if certificate.subject == EMPTY_NAME and not certificate.names:
        yield "the certificate has neither a subject nor an alternative name"


def _subject_is_issuer(certificate: TBSCertificate, _: IssuerPolicy) -> Iterator[str]:
    if certificate.subject == certificate.issuer:
        yield "the subject is the name of the CA: verifiers may take the certificate for self-signed"


def _name_criticality(certificate: TBSCertificate, _: IssuerPolicy) -> Iterator[str]:
    for extension in certificate.extensions:
        if extension.oid == oids.SUBJECT_ALT_NAME and extension.critical != (certificate.subject == EMPTY_NAME):
            critical = "critical" if extension.critical else "not critical"
            yield f"the alternative names are {critical}, which does not fit the subject"


def _name_kinds(certificate: TBSCertificate, _: IssuerPolicy) -> Iterator[str]:
    if certificate.names == ():
        yield "the extension for alternative names is empty"
    for name in certificate.names or ():
        if name.kind not in (EMAIL, DNS, URI, IP):
            yield f"an alternative name has type {name.kind}, which is not issued"
        elif name.kind == IP and len(name.value) not in (4, 16):
            yield f"an IP address has {len(name.value)} octets"
        elif name.kind != IP and not name.value.isascii():
            yield f"an alternative name is not in ASCII: {_quoted(name.text)}"


def _name_constraints(certificate: TBSCertificate, policy: IssuerPolicy) -> Iterator[str]:
    return policy.constraints.name_violations(certificate)


def _empty_names(certificate: TBSCertificate, _: IssuerPolicy) -> Iterator[str]:
    if any(not name.value.strip() for name in certificate.names or () if name.kind != IP):
        yield "an alternative name is empty"


def _nonstandard_hosts(certificate: TBSCertificate) -> Iterator[str]:
    """The DNS names that are not in preferred syntax once a wildcard label on the left is removed."""
    for name in certificate.names or ():
        text = name.text.removeprefix("*.")
        if name.kind == DNS and name.value.strip() and not (_HOST.fullmatch(text) and len(text) <= _MAX_HOST):
            yield name.text


def _dns_syntax(certificate: TBSCertificate, _: IssuerPolicy) -> Iterator[str]:
    for host in _nonstandard_hosts(certificate):
        if host.endswith("."):
            yield f"the DNS name {_quoted(host)} ends with a dot"
        elif "*" not in host:
            yield f"the DNS name {_quoted(host)} is not in the preferred syntax"


def _dns_wildcards(certificate: TBSCertificate, _: IssuerPolicy) -> Iterator[str]:
    for host in _nonstandard_hosts(certificate):
        if "*" in host:
            yield f"the DNS name {_quoted(host)} has a wildcard that is not the complete leftmost label of several"


def _dns_punycode(certificate: TBSCertificate, _: IssuerPolicy) -> Iterator[str]:
    for name in certificate.names or ():
        if name.kind == DNS and _ACE in name.text.lower():
            for label in name.text.lower().split("."):
                if label.startswith(_ACE) and not _is_punycode(label.removeprefix(_ACE)):
                    yield f"the label {_quoted(label)} is not valid Punycode"


def _is_punycode(text: str) -> bool:
    """RFC 5891 section 4.2.1: the text decodes to non-ASCII, and that encodes to the same text."""
    try:
        decoded = text.encode("ascii")[:63].decode("punycode")
        is_unicode = not decoded.isascii() and decoded.isprintable()
        return is_unicode and decoded.encode("punycode").decode("ascii") == text
    except (UnicodeError, OverflowError, ValueError):
        return False


def _emails(certificate: TBSCertificate, _: IssuerPolicy) -> Iterator[str]:
    for name in certificate.names or ():
        if name.kind == EMAIL and name.value.strip():
            mailbox, at, host = name.text.rpartition("@")
            if not at or not _MAILBOX.fullmatch(mailbox) or not _HOST.fullmatch(host):
                yield f"the email address {_quoted(name.text)} is not of the form mailbox@host"


def _uris(certificate: TBSCertificate, _: IssuerPolicy) -> Iterator[str]:
    for name in certificate.names or ():
        if name.kind == URI and name.value.strip():
            if not _SCHEME.match(name.text):
                yield f"the URI {_quoted(name.text)} has no scheme"
            elif re.match(r"[^:]*://(?:[/?#]|$)", name.text):
                yield f"the URI {_quoted(name.text)} has no host"


# --- the key ------------------------------------------------------------------------------------------------------

_RSA: Final = template.encode_oid(oids.RSA_ENCRYPTION)
_EC: Final = template.encode_oid(oids.EC_PUBLIC_KEY)
_ED25519: Final = template.encode_oid(oids.ED25519)
#: BR 6.1.6 recommends a range from here.
_MIN_EXPONENT: Final = 65537


def _key_encoding(certificate: TBSCertificate, _: IssuerPolicy) -> Iterator[str]:
    key = certificate.key
    if key.algorithm == _RSA and key.parameters != dertags.ENCODED_NULL:
        yield "the parameters of an RSA key must be NULL"
    elif key.algorithm == _EC and key.parameters[:1] != _EC[:1]:
        yield "the parameters of an ECDSA key must name its curve"
    elif key.algorithm == _ED25519 and key.parameters:
        yield "an Ed25519 key has no parameters"
    elif key.algorithm not in (_RSA, _EC, _ED25519):
        yield "the public key is of an unsupported kind"


def _exponent(certificate: TBSCertificate, _: IssuerPolicy) -> Iterator[str]:
    if certificate.key.algorithm != _RSA:
        return
    try:
        _modulus, exponent = map(asn1.decode_integer, tbscertificate.parts(certificate.key.bits))
    except (asn1.DERError, ValueError):
        yield "the RSA key cannot be parsed"
        return
    if exponent < _MIN_EXPONENT:
        yield f"the RSA exponent is {exponent}, and {_MIN_EXPONENT} or more is recommended"


def _usage_of_key(certificate: TBSCertificate, _: IssuerPolicy) -> Iterator[str]:
    usage = certificate.key_usage or frozenset()
    is_rsa = certificate.key.algorithm == _RSA
    if not is_rsa and usage & {"key_encipherment", "data_encipherment"}:
        yield "the key usage contains encipherment, which only RSA keys can do"
    if is_rsa and "key_agreement" in usage:
        yield "the key usage contains key agreement, which RSA keys cannot do"


# --- extensions ---------------------------------------------------------------------------------------------------

#: Extensions that are issued, and whether they are critical. Alternative names have a separate rule.
_CRITICAL: Final = {
    oids.KEY_USAGE: True,
    oids.EXTENDED_KEY_USAGE: False,
    oids.BASIC_CONSTRAINTS: True,
    oids.SUBJECT_KEY_ID: False,
    oids.AUTHORITY_KEY_ID: False,
    oids.SUBJECT_ALT_NAME: None,
}


def _duplicates(certificate: TBSCertificate, _: IssuerPolicy) -> Iterator[str]:
    if len({extension.oid for extension in certificate.extensions}) != len(certificate.extensions):
        yield "an extension is repeated"


def _unknown(certificate: TBSCertificate, _: IssuerPolicy) -> Iterator[str]:
    for extension in certificate.extensions:
        # Only CA certificates have a subject key identifier: nothing refers to that of others.
        if extension.oid not in _CRITICAL or (extension.oid == oids.SUBJECT_KEY_ID and not certificate.is_ca):
            yield f"the extension {extension.oid} is not one that the signer issues"


def _criticality(certificate: TBSCertificate, _: IssuerPolicy) -> Iterator[str]:
    for extension in certificate.extensions:
        if _CRITICAL.get(extension.oid) not in (None, extension.critical):
            yield f"the extension {extension.oid} is {'' if extension.critical else 'not '}critical"


def _constraints(certificate: TBSCertificate, policy: IssuerPolicy) -> Iterator[str]:
    if certificate.is_ca is None:
        yield "the basic constraints are missing"
    elif certificate.is_ca and not policy.issues_ca:
        yield "the certificate is a CA certificate, which this signer does not issue"


def _usage(certificate: TBSCertificate, _: IssuerPolicy) -> Iterator[str]:
    if certificate.key_usage is not None and not certificate.key_usage:
        yield "the key usage has no bit set"
    if certificate.extended_key_usages == ():
        yield "the extended key usage is empty"


def _ca_extended_key_usage(certificate: TBSCertificate, policy: IssuerPolicy) -> Iterator[str]:
    return policy.constraints.purpose_violations(certificate)


def _usage_combinations(certificate: TBSCertificate, _: IssuerPolicy) -> Iterator[str]:
    usage = certificate.key_usage or frozenset()
    if usage & {"encipher_only", "decipher_only"} and "key_agreement" not in usage:
        yield "encipher only and decipher only have no meaning without key agreement"
    if "key_cert_sign" in usage and not certificate.is_ca:
        yield "the key usage contains cert sign, which only CA certificates may have"
    if certificate.is_ca and "key_cert_sign" not in usage:
        yield "the certificate is a CA certificate, but its key usage does not contain cert sign"


def _any_purpose(certificate: TBSCertificate, _: IssuerPolicy) -> Iterator[str]:
    if oids.ANY_EXTENDED_KEY_USAGE in (certificate.extended_key_usages or ()):
        yield "the certificate may be used for any purpose"


def _authority_key(certificate: TBSCertificate, policy: IssuerPolicy) -> Iterator[str]:
    # As in Go, a certificate that bears its issuer's name has none.
    expected = policy.key_id if certificate.subject != certificate.issuer else None
    if certificate.key_id != expected:
        yield "the authority key identifier is not that of the CA"


# --- the rules -----------------------------------------------------------------------------------------------------

_E, _W = Severity.ERROR, Severity.WARNING

#: In the order of the fields of a certificate.
RULES: Final[Sequence[Rule]] = (
    Rule("version", _E, "4.1.2.1", _version),
    Rule("unexpected-fields", _E, "4.1.2.8", _other_fields),
    Rule("serial-size", _E, "4.1.2.2", _serial_size),
    Rule("serial-entropy", _E, "BR 7.1", _serial_entropy),
    Rule("signature-algorithm", _E, "4.1.1.2, 4.1.2.3", _algorithms),
    Rule("issuer", _E, "4.1.2.4", _issuer),
    Rule("time-encoding", _E, "4.1.2.5", _time_encoding),
    Rule("time-order", _E, "4.1.2.5", _time_order),
    Rule("lifetime", _E, "signer: expiration", _lifetime),
    Rule("subject-attributes", _W, "appendix A.1", _attributes),
    Rule("nul-character", _E, "CVE-2009-2408", _nul),
    Rule("empty-identity", _W, "4.1.2.6", _empty_identity),
    Rule("subject-is-issuer", _W, "3.2", _subject_is_issuer),
    Rule("key-encoding", _E, "RFC 3279 2.3.1, RFC 5480 2.1.1, RFC 8410 3", _key_encoding),
    Rule("rsa-exponent", _W, "BR 6.1.6, RFC 8017 3.1", _exponent),
    Rule("extension-duplicate", _E, "4.2", _duplicates),
    Rule("extension-unknown", _E, "signer: permitted x509 extensions", _unknown),
    Rule("extension-criticality", _E, "4.2.1.1, 4.2.1.3, 4.2.1.9, 4.2.1.12", _criticality),
    Rule("usage-empty", _E, "4.2.1.3, 4.2.1.12", _usage),
    Rule("ca-extended-key-usage", _E, "BR 7.1.2.2, Go crypto/x509", _ca_extended_key_usage),
    Rule("usage-combination", _W, "4.2.1.3, 4.2.1.9", _usage_combinations),
    Rule("usage-for-key-type", _W, "RFC 3279 2.3.1, RFC 5480 3, RFC 8410 5", _usage_of_key),
    Rule("any-extended-key-usage", _W, "BR 7.1.2.7.10", _any_purpose),
    Rule("basic-constraints", _E, "4.2.1.9, signer: CA bit", _constraints),
    Rule("authority-key-identifier", _E, "4.2.1.1", _authority_key),
    Rule("alternative-names-criticality", _E, "4.2.1.6", _name_criticality),
    Rule("alternative-name-type", _E, "4.2.1.6", _name_kinds),
    Rule("name-constraints", _E, "4.2.1.10", _name_constraints),
    Rule("alternative-name-empty", _W, "4.2.1.6", _empty_names),
    Rule("dns-syntax", _W, "4.2.1.6, RFC 1034 3.5", _dns_syntax),
    Rule("dns-wildcard", _W, "RFC 9525 6.3", _dns_wildcards),
    Rule("dns-punycode", _W, "RFC 5890 2.3.2.1, RFC 3492", _dns_punycode),
    Rule("email-syntax", _W, "4.2.1.6, RFC 5321 4.1.2", _emails),
    Rule("uri-syntax", _W, "4.2.1.6, RFC 3986 3", _uris),
)
