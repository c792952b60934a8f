"""The constraints that a CA certificate sets on what it signs: name constraints and extended key usage.

Verifiers reject certificates that violate the constraints of their CA, at the first handshake; so they are not issued.

Source: RFC 5280 section 4.2.1.10 for names; for extended key usages what Go, OpenSSL and NSS make of that extension in
a CA certificate (RFC 5280 does not say; Baseline Requirements section 7.1.2.2).
"""

from __future__ import annotations

import dataclasses
import ipaddress
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any, Final

from cryptography import x509

from certplane.x509 import oids
from certplane.x509.tbs.tbscertificate import DNS, EMAIL, EMPTY_NAME, IP, URI, Name, TBSCertificate

#: Characters of a name in a violation.
_MAX_QUOTE: Final = 80
_KINDS: Final[dict[int, tuple[type[x509.GeneralName], str]]] = {
    EMAIL: (x509.RFC822Name, "email address"),
    DNS: (x509.DNSName, "DNS name"),
    URI: (x509.UniformResourceIdentifier, "URI"),
    IP: (x509.IPAddress, "IP address"),
}


@dataclasses.dataclass(frozen=True, slots=True)
class IssuerConstraints:
    """Constraints of one CA certificate. All names of a type are permitted if `permitted` has no subtree of that type;
    `extended_key_usages` are OIDs, None if all are permitted.
    """

    permitted: tuple[x509.GeneralName, ...] = ()
    excluded: tuple[x509.GeneralName, ...] = ()
    extended_key_usages: frozenset[str] | None = None

    def name_violations(self, certificate: TBSCertificate) -> Iterator[str]:
        """The names of a certificate that the constraints do not permit."""
        if not (self.permitted or self.excluded):
            return
        for name in certificate.names or ():
            if name.kind in _KINDS:
                yield from self._alternative_name(name)
        if certificate.subject != EMPTY_NAME:
            yield from self._subject(certificate.subject)

    def _alternative_name(self, name: Name) -> Iterator[str]:
        type_, kind = _KINDS[name.kind]
        text = _text(name)
        permitted, excluded = _values(self.permitted, type_), _values(self.excluded, type_)
        if name.kind == URI and (permitted or excluded) and not _host(text):
            # RFC 5280 requires such a URI to be rejected if there are any constraints on URIs.
            yield f"the {kind} {text[:_MAX_QUOTE]!r} has no host to compare with the name constraints of the CA"
            return
        within = _WITHIN[name.kind]
        if permitted and not any(within(text, base) for base in permitted):
            yield f"the {kind} {text[:_MAX_QUOTE]!r} is in no subtree that the CA permits"
        if any(within(text, base) or (name.kind == DNS and _covers(text, base)) for base in excluded):
            yield f"the {kind} {text[:_MAX_QUOTE]!r} is in a subtree that the CA excludes"

    def _subject(self, subject: bytes) -> Iterator[str]:
        permitted, excluded = _values(self.permitted, x509.DirectoryName), _values(self.excluded, x509.DirectoryName)
        if not (permitted or excluded):
            return
        rdns = _normalized(x509.Name.from_bytes(subject))
        if permitted and not any(_starts_with(rdns, base) for base in permitted):
            yield "the subject is in no subtree that the CA permits"
        if any(_starts_with(rdns, base) for base in excluded):
            yield "the subject is in a subtree that the CA excludes"

    def purpose_violations(self, certificate: TBSCertificate) -> Iterator[str]:
        """The extended key usages of a certificate that its CA does not have."""
        permitted = self.extended_key_usages
        if permitted is None or oids.ANY_EXTENDED_KEY_USAGE in permitted:
            return
        for oid in certificate.extended_key_usages or ():
            if oid not in permitted:
                yield f"the extended key usage {oid} is not one of those in the CA certificate"


NONE: Final = IssuerConstraints()


def from_certificate(ca_certificate: x509.Certificate) -> IssuerConstraints:
    """The constraints in a CA certificate."""
    permitted: tuple[x509.GeneralName, ...] = ()
    excluded: tuple[x509.GeneralName, ...] = ()
    extended_key_usages = None
    for extension in ca_certificate.extensions:
        value = extension.value
        if isinstance(value, x509.NameConstraints):
            permitted = tuple(value.permitted_subtrees or ())
            excluded = tuple(value.excluded_subtrees or ())
        elif isinstance(value, x509.ExtendedKeyUsage):
            extended_key_usages = frozenset(oid.dotted_string for oid in value)
    return IssuerConstraints(permitted, excluded, extended_key_usages)


def _values(subtrees: tuple[x509.GeneralName, ...], type_: type[x509.GeneralName]) -> list[Any]:
    return [subtree.value for subtree in subtrees if isinstance(subtree, type_)]


def _text(name: Name) -> str:
    if name.kind == IP and len(name.value) in (4, 16):
        return str(ipaddress.ip_address(name.value))
    return name.text


# --- subtrees -----------------------------------------------------------------------------------------------------


def _is_below(host: str, base: str) -> bool:
    """Whether a host is a subdomain of a base that starts with a dot."""
    return host.lower().endswith(base.lower()) and len(host) > len(base)


def _dns_within(name: str, base: str) -> bool:
    """The base itself and its subdomains; with a leading dot only the subdomains, as in Go and OpenSSL."""
    if not base or base.startswith("."):
        return not base or _is_below(name, base)
    return name.lower() == base.lower() or _is_below(name, f".{base}")


def _covers(name: str, base: str) -> bool:
    """Whether a wildcard name matches the base of a subtree."""
    return name.startswith("*.") and base.lower().lstrip(".").partition(".")[2] == name[2:].lower()


def _host_within(host: str, base: str) -> bool:
    """For mailboxes and URIs a base means that host only; a leading dot means its subdomains."""
    return _is_below(host, base) if base.startswith(".") else host.lower() == base.lower()


def _email_within(name: str, base: str) -> bool:
    mailbox, _, host = name.rpartition("@")
    if "@" not in base:
        return _host_within(host, base)
    base_mailbox, _, base_host = base.rpartition("@")
    return mailbox == base_mailbox and host.lower() == base_host.lower()


def _host(uri: str) -> str:
    try:
        return urllib.parse.urlsplit(uri).hostname or ""
    except ValueError:
        return ""


def _uri_within(name: str, base: str) -> bool:
    return _host_within(_host(name), base)


def _ip_within(name: str, base: Any) -> bool:
    try:
        return ipaddress.ip_address(name) in base
    except ValueError:
        return False


_WITHIN: Final[dict[int, Callable[[str, Any], bool]]] = {
    EMAIL: _email_within,
    DNS: _dns_within,
    URI: _uri_within,
    IP: _ip_within,
}


def _normalized(name: x509.Name) -> list[frozenset[tuple[str, str]]]:
    """The RDNs of a name in a form for comparison: RFC 5280 section 7.1 ignores case and the number of blanks."""
    return [
        frozenset((pair.oid.dotted_string, " ".join(str(pair.value).casefold().split())) for pair in rdn)
        for rdn in name.rdns
    ]


def _starts_with(name: list[frozenset[tuple[str, str]]], base: x509.Name) -> bool:
    prefix = _normalized(base)
    return name[: len(prefix)] == prefix
