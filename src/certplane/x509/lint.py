"""What is looked for in a certificate before the CA key is used: rules as data, each with its source.

An ERROR stops the issuance: the certificate would be broken, dangerous, or not what this signer promises, which is a
fault of ours or somebody's trick. A WARNING stops nothing: kube-controller-manager issues such certificates on request,
people use them, and it is for an approver or a signer's profile to be stricter; but somebody should know.

The rules read the bytes that will be signed (`candidate`), not what they were made from. Where `pkilint` is installed,
its validators for RFC 5280 look at the same bytes besides.

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

from certplane.x509 import candidate, der, limits, pkilinter, template


class Severity(enum.Enum):
    """What a finding does: an error stops the issuance, a warning is only told."""

    ERROR = "error"
    WARNING = "warning"


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """What a rule has found."""

    rule: str
    severity: Severity
    citation: str
    text: str

    def __str__(self) -> str:
        return f"{self.text} [{self.rule}: {self.citation}]"


@dataclasses.dataclass(frozen=True, slots=True)
class Contract:
    """What an issuer owes: the CA's subject, key identifier (None if it has none), signature algorithm and end, its
    longest lifetime, back-dating included, whether it issues CA certificates, and what the CA may vouch for.
    """

    issuer: bytes
    key_id: bytes | None
    algorithm: bytes
    not_after: datetime.datetime
    longest: datetime.timedelta
    issues_authorities: bool = False
    limits: limits.Limits = limits.NONE


#: What a rule has to say; nothing if all is well.
Check = Callable[[candidate.Candidate, Contract], Iterable[str]]


@dataclasses.dataclass(frozen=True, slots=True)
class Rule:
    """One rule, with its source."""

    id: str
    severity: Severity
    citation: str
    check: Check


def run(certificate: bytes, contract: Contract) -> tuple[candidate.Candidate | None, tuple[Finding, ...]]:
    """A DER certificate as it was read, None if it cannot be, and what there is to say about it, errors first."""
    try:
        read = candidate.read(certificate)
    except der.DERProblem as error:
        return None, (Finding("structure", Severity.ERROR, "4.1", f"the certificate cannot be read: {error}"),)
    found = [
        Finding(rule.id, rule.severity, rule.citation, text)
        for rule in RULES
        for text in itertools.islice(rule.check(read, contract), _MOST)
    ]
    found += _foreign(certificate)
    found.sort(key=lambda each: each.severity.value)
    return read, tuple(found)


#: Findings of one rule: a request may have a thousand names.
_MOST: Final = 5
_LONGEST_QUOTE: Final = 80


def _quoted(text: str) -> str:
    return repr(text) if len(text) <= _LONGEST_QUOTE else f"{text[:_LONGEST_QUOTE]!r}..."


def _foreign(certificate: bytes) -> Iterator[Finding]:
    for code, text in pkilinter.findings(certificate):
        yield Finding(code, Severity.WARNING, "pkilint", text)


# --- the outline --------------------------------------------------------------------------------------------------

_LEAST_ENTROPY: Final = 64
_LONGEST_SERIAL: Final = 20
_LAST_UTC_TIME: Final = 2049


def _version(of: candidate.Candidate, _: Contract) -> Iterator[str]:
    if of.version != 3:
        yield f"version {of.version}, where extensions need version 3"


def _surplus(of: candidate.Candidate, _: Contract) -> Iterator[str]:
    if of.surplus:
        yield "there are fields besides the extensions"


def _serial_size(of: candidate.Candidate, _: Contract) -> Iterator[str]:
    if of.serial_number <= 0:
        yield "the serial number is not positive"
    if len(of.serial) > _LONGEST_SERIAL:
        yield f"the serial number has {len(of.serial)} octets"


def _serial_entropy(of: candidate.Candidate, _: Contract) -> Iterator[str]:
    # One number shows no entropy. But of 128 random bits the upper 64 are zero once in 2**64 certificates; a counter
    # or a time in their place shows at once.
    if of.serial_number.bit_length() <= _LEAST_ENTROPY:
        yield f"the serial number has {of.serial_number.bit_length()} bits, so that it is not from our generator"


def _algorithms(of: candidate.Candidate, contract: Contract) -> Iterator[str]:
    if of.inner_algorithm != of.outer_algorithm:
        yield "the signature algorithms inside and outside differ"
    if of.inner_algorithm != contract.algorithm:
        yield "the signature algorithm is not the authority's"


def _issuer(of: candidate.Candidate, contract: Contract) -> Iterator[str]:
    if of.issuer != contract.issuer:
        yield "the issuer is not the authority's subject, byte for byte"


def _time_encoding(of: candidate.Candidate, _: Contract) -> Iterator[str]:
    for each in (of.not_before, of.not_after):
        if each.is_utc_time != (each.moment.year <= _LAST_UTC_TIME):
            yield f"{each.moment:%Y-%m-%d} has the wrong type of time"


def _time_order(of: candidate.Candidate, _: Contract) -> Iterator[str]:
    if of.not_before.moment > of.not_after.moment:
        yield "the certificate ends before it begins"


def _lifetime(of: candidate.Candidate, contract: Contract) -> Iterator[str]:
    if of.not_after.moment - of.not_before.moment > contract.longest:
        yield f"it lives for {of.not_after.moment - of.not_before.moment}, and {contract.longest} is the longest"
    if of.not_after.moment > contract.not_after:
        yield "it outlives the authority"


# --- subject and names --------------------------------------------------------------------------------------------

_EMPTY_NAME: Final = b"\x30\x00"
_EMAIL, _DNS, _URI, _IP = 1, 2, 6, 7
#: The name of the attribute, and its upper bound in characters: RFC 5280 appendix A.1.
_BOUNDS: Final = {
    "2.5.4.3": ("common name", 64),
    "2.5.4.5": ("serial number", 64),
    "2.5.4.6": ("country", 2),
    "2.5.4.7": ("locality", 128),
    "2.5.4.8": ("province", 128),
    "2.5.4.9": ("street address", 128),
    "2.5.4.10": ("organization", 64),
    "2.5.4.11": ("organizational unit", 64),
    "2.5.4.17": ("postal code", 40),
}
_LABEL: Final = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOST: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_LONGEST_HOST: Final = 253
_MAILBOX: Final = re.compile(r"[^\s@<>\x00-\x1f\x7f]+")
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:.")
_ACE: Final = "xn--"


def _attributes(of: candidate.Candidate, _: Contract) -> Iterator[str]:
    for oid, value in of.attributes:
        name, longest = _BOUNDS.get(oid, (oid, 0))
        if not longest:
            yield f"the subject has an attribute that is not copied: {oid}"
        elif not value:
            yield f"the {name} is empty"
        elif len(value) > longest:
            yield f"the {name} has {len(value)} characters, {longest} are the most"


def _nul(of: candidate.Candidate, _: Contract) -> Iterator[str]:
    if any("\0" in value for _, value in of.attributes):
        yield "a NUL in the subject, where some programs take the name to end"
    if any(b"\0" in each.value for each in of.names or () if each.kind != _IP):
        yield "a NUL in an alternative name, where some programs take the name to end"


def _nobody(of: candidate.Candidate, _: Contract) -> Iterator[str]:
    if of.subject == _EMPTY_NAME and not of.names:
        yield "neither a subject nor an alternative name: it names nobody"


def _own_issuer(of: candidate.Candidate, _: Contract) -> Iterator[str]:
    if of.subject == of.issuer:
        yield "the subject is the authority's own name: verifiers may take it for self-signed"


def _name_criticality(of: candidate.Candidate, _: Contract) -> Iterator[str]:
    for each in of.extensions:
        if each.oid == template.SUBJECT_ALT_NAME and each.critical != (of.subject == _EMPTY_NAME):
            yield f"the alternative names are {'' if each.critical else 'not '}critical, which fits no such subject"


def _name_kinds(of: candidate.Candidate, _: Contract) -> Iterator[str]:
    if of.names == ():
        yield "there are no names among the alternative names"
    for each in of.names or ():
        if each.kind not in (_EMAIL, _DNS, _URI, _IP):
            yield f"an alternative name of type {each.kind}, which is not issued"
        elif each.kind == _IP and len(each.value) not in (4, 16):
            yield f"an IP address of {len(each.value)} octets"
        elif each.kind != _IP and not each.value.isascii():
            yield f"an alternative name is not in ASCII: {_quoted(each.text)}"


def _foreign_names(of: candidate.Candidate, contract: Contract) -> Iterator[str]:
    return contract.limits.names(of)


def _empty_names(of: candidate.Candidate, _: Contract) -> Iterator[str]:
    if any(not each.value.strip() for each in of.names or () if each.kind != _IP):
        yield "an alternative name is empty"


def _odd_hosts(of: candidate.Candidate) -> Iterator[str]:
    """The DNS names that are not just letters, digits, hyphens and dots in the right places; wildcards at the left are
    taken off.
    """
    for each in of.names or ():
        text = each.text.removeprefix("*.")
        if each.kind == _DNS and each.value.strip() and not (_HOST.fullmatch(text) and len(text) <= _LONGEST_HOST):
            yield each.text


def _dns_syntax(of: candidate.Candidate, _: Contract) -> Iterator[str]:
    for each in _odd_hosts(of):
        if each.endswith("."):
            yield f"the DNS name {_quoted(each)} ends with a dot"
        elif "*" not in each:
            yield f"the DNS name {_quoted(each)} is not in the preferred syntax"


def _dns_wildcards(of: candidate.Candidate, _: Contract) -> Iterator[str]:
    for each in _odd_hosts(of):
        if "*" in each:
            yield f"the DNS name {_quoted(each)} has a wildcard that is not the whole of the leftmost of several labels"


def _dns_punycode(of: candidate.Candidate, _: Contract) -> Iterator[str]:
    for each in of.names or ():
        if each.kind == _DNS and _ACE in each.text.lower():
            for label in each.text.lower().split("."):
                if label.startswith(_ACE) and not _is_punycode(label.removeprefix(_ACE)):
                    yield f"the label {_quoted(label)} is no encoded Unicode"


def _is_punycode(text: str) -> bool:
    """RFC 5891 section 4.2.1: what is decoded and encoded again is the same, and needed it."""
    try:
        decoded = text.encode("ascii")[:63].decode("punycode")
        needed = not decoded.isascii() and decoded.isprintable()
        return needed and decoded.encode("punycode").decode("ascii") == text
    except (UnicodeError, OverflowError, ValueError):
        return False


def _emails(of: candidate.Candidate, _: Contract) -> Iterator[str]:
    for each in of.names or ():
        if each.kind == _EMAIL and each.value.strip():
            mailbox, at, host = each.text.rpartition("@")
            if not at or not _MAILBOX.fullmatch(mailbox) or not _HOST.fullmatch(host):
                yield f"the email address {_quoted(each.text)} is not of the form mailbox@host"


def _uris(of: candidate.Candidate, _: Contract) -> Iterator[str]:
    for each in of.names or ():
        if each.kind == _URI and each.value.strip():
            if not _SCHEME.match(each.text):
                yield f"the URI {_quoted(each.text)} has no scheme"
            elif re.match(r"[^:]*://(?:[/?#]|$)", each.text):
                yield f"the URI {_quoted(each.text)} has no host"


# --- the key ------------------------------------------------------------------------------------------------------

_RSA: Final = template.oid("1.2.840.113549.1.1.1")
_EC: Final = template.oid("1.2.840.10045.2.1")
_ED25519: Final = template.oid("1.3.101.112")
_NULL: Final = b"\x05\x00"
_ADVISED_EXPONENT: Final = 65537


def _key_encoding(of: candidate.Candidate, _: Contract) -> Iterator[str]:
    key = of.key
    if key.algorithm == _RSA and key.parameters != _NULL:
        yield "the parameters of an RSA key must be NULL"
    elif key.algorithm == _EC and key.parameters[:1] != _EC[:1]:
        yield "the parameters of an ECDSA key must name its curve"
    elif key.algorithm == _ED25519 and key.parameters:
        yield "an Ed25519 key has no parameters"
    elif key.algorithm not in (_RSA, _EC, _ED25519):
        yield "the public key is of a kind that nothing is issued for"


def _exponent(of: candidate.Candidate, _: Contract) -> Iterator[str]:
    if of.key.algorithm != _RSA:
        return
    try:
        _modulus, exponent = map(der.integer, candidate.parts(of.key.bits))
    except (der.DERProblem, ValueError):
        yield "the numbers of the RSA key cannot be read"
        return
    if exponent < _ADVISED_EXPONENT:
        yield f"the RSA exponent is {exponent}, and {_ADVISED_EXPONENT} or more is advised"


def _usage_of_key(of: candidate.Candidate, _: Contract) -> Iterator[str]:
    usage = of.key_usage or frozenset()
    is_rsa = of.key.algorithm == _RSA
    if not is_rsa and usage & {"key_encipherment", "data_encipherment"}:
        yield "the key usage speaks of encipherment, which only RSA keys can do"
    if is_rsa and "key_agreement" in usage:
        yield "the key usage speaks of key agreement, which RSA keys cannot do"


# --- extensions ---------------------------------------------------------------------------------------------------

#: Those that are issued, and whether they are critical. The alternative names have a rule of their own.
_CRITICAL: Final = {
    template.KEY_USAGE: True,
    template.EXTENDED_KEY_USAGE: False,
    template.BASIC_CONSTRAINTS: True,
    template.SUBJECT_KEY_ID: False,
    template.AUTHORITY_KEY_ID: False,
    template.SUBJECT_ALT_NAME: None,
}
_ANY_PURPOSE: Final = "2.5.29.37.0"


def _duplicates(of: candidate.Candidate, _: Contract) -> Iterator[str]:
    if len({each.oid for each in of.extensions}) != len(of.extensions):
        yield "an extension is there twice"


def _unknown(of: candidate.Candidate, _: Contract) -> Iterator[str]:
    for each in of.extensions:
        # Certificates that are no authority's have no identifier of their own key: nobody points to it.
        if each.oid not in _CRITICAL or (each.oid == template.SUBJECT_KEY_ID and not of.is_authority):
            yield f"the extension {each.oid} is not one that is issued"


def _criticality(of: candidate.Candidate, _: Contract) -> Iterator[str]:
    for each in of.extensions:
        if _CRITICAL.get(each.oid) not in (None, each.critical):
            yield f"the extension {each.oid} is {'' if each.critical else 'not '}critical"


def _constraints(of: candidate.Candidate, contract: Contract) -> Iterator[str]:
    if of.is_authority is None:
        yield "there are no basic constraints"
    elif of.is_authority and not contract.issues_authorities:
        yield "the certificate is one of an authority, which this signer does not issue"


def _usage(of: candidate.Candidate, _: Contract) -> Iterator[str]:
    if of.key_usage is not None and not of.key_usage:
        yield "the key usage has no bit set"
    if of.purposes == ():
        yield "the extended key usage names no purpose"


def _foreign_purposes(of: candidate.Candidate, contract: Contract) -> Iterator[str]:
    return contract.limits.uses(of)


def _odd_usage(of: candidate.Candidate, _: Contract) -> Iterator[str]:
    usage = of.key_usage or frozenset()
    if usage & {"encipher_only", "decipher_only"} and "key_agreement" not in usage:
        yield "encipher only and decipher only mean nothing without key agreement"
    if "key_cert_sign" in usage and not of.is_authority:
        yield "the key usage speaks of signing certificates, which only authorities may"
    if of.is_authority and "key_cert_sign" not in usage:
        yield "the certificate is one of an authority, and its key usage does not speak of signing certificates"


def _any_purpose(of: candidate.Candidate, _: Contract) -> Iterator[str]:
    if _ANY_PURPOSE in (of.purposes or ()):
        yield "the certificate may be used for any purpose"


def _authority_key(of: candidate.Candidate, contract: Contract) -> Iterator[str]:
    # A certificate that bears its issuer's own name has none in Go, nor here.
    expected = contract.key_id if of.subject != of.issuer else None
    if of.key_id != expected:
        yield "the authority key identifier is not that of the authority"


# --- the list -----------------------------------------------------------------------------------------------------

_E, _W = Severity.ERROR, Severity.WARNING

#: In the order of a certificate.
RULES: Final[Sequence[Rule]] = (
    Rule("version", _E, "4.1.2.1", _version),
    Rule("surplus", _E, "4.1.2.8", _surplus),
    Rule("serial-size", _E, "4.1.2.2", _serial_size),
    Rule("serial-entropy", _E, "BR 7.1", _serial_entropy),
    Rule("signature-algorithm", _E, "4.1.1.2, 4.1.2.3", _algorithms),
    Rule("issuer", _E, "4.1.2.4", _issuer),
    Rule("time-encoding", _E, "4.1.2.5", _time_encoding),
    Rule("time-order", _E, "4.1.2.5", _time_order),
    Rule("lifetime", _E, "signer: expiration", _lifetime),
    Rule("subject-attributes", _W, "appendix A.1", _attributes),
    Rule("nul", _E, "CVE-2009-2408", _nul),
    Rule("nobody", _W, "4.1.2.6", _nobody),
    Rule("own-issuer", _W, "3.2", _own_issuer),
    Rule("key-encoding", _E, "RFC 3279 2.3.1, RFC 5480 2.1.1, RFC 8410 3", _key_encoding),
    Rule("rsa-exponent", _W, "BR 6.1.6, RFC 8017 3.1", _exponent),
    Rule("extension-duplicate", _E, "4.2", _duplicates),
    Rule("extension-unknown", _E, "signer: permitted x509 extensions", _unknown),
    Rule("extension-criticality", _E, "4.2.1.1, 4.2.1.3, 4.2.1.9, 4.2.1.12", _criticality),
    Rule("usage", _E, "4.2.1.3, 4.2.1.12", _usage),
    Rule("usage-of-authority", _E, "BR 7.1.2.2, Go crypto/x509", _foreign_purposes),
    Rule("usage-meaning", _W, "4.2.1.3, 4.2.1.9", _odd_usage),
    Rule("usage-of-key", _W, "RFC 3279 2.3.1, RFC 5480 3, RFC 8410 5", _usage_of_key),
    Rule("any-purpose", _W, "BR 7.1.2.7.10", _any_purpose),
    Rule("basic-constraints", _E, "4.2.1.9, signer: CA bit", _constraints),
    Rule("authority-key", _E, "4.2.1.1", _authority_key),
    Rule("names-criticality", _E, "4.2.1.6", _name_criticality),
    Rule("names-kinds", _E, "4.2.1.6", _name_kinds),
    Rule("names-of-authority", _E, "4.2.1.10", _foreign_names),
    Rule("names-empty", _W, "4.2.1.6", _empty_names),
    Rule("dns-syntax", _W, "4.2.1.6, RFC 1034 3.5", _dns_syntax),
    Rule("dns-wildcard", _W, "RFC 9525 6.3", _dns_wildcards),
    Rule("dns-punycode", _W, "RFC 5890 2.3.2.1, RFC 3492", _dns_punycode),
    Rule("email-syntax", _W, "4.2.1.6, RFC 5321 4.1.2", _emails),
    Rule("uri-syntax", _W, "4.2.1.6, RFC 3986 3", _uris),
)
