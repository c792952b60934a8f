"""What the certificate of an authority lets it vouch for: names in its subtrees, and purposes that it has itself.

An authority that was made for one domain, one network or one purpose says so in its own certificate, and verifiers
hold it to that: what it signs beyond is rejected by all of them, at the first handshake. So it is found before.

Source: RFC 5280 section 4.2.1.10 for names; for purposes what Go, OpenSSL and NSS make of the extended key usage of an
authority (RFC 5280 says nothing; Baseline Requirements, section 7.1.2.2).
"""

from __future__ import annotations

import dataclasses
import ipaddress
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any, Final

from cryptography import x509

from certplane.x509 import candidate

_EMAIL, _DNS, _URI, _IP = 1, 2, 6, 7
_ANY_PURPOSE: Final = "2.5.29.37.0"
_EMPTY_NAME: Final = b"\x30\x00"
_LONGEST: Final = 80
_KINDS: Final[dict[int, tuple[type[x509.GeneralName], str]]] = {
    _EMAIL: (x509.RFC822Name, "email address"),
    _DNS: (x509.DNSName, "DNS name"),
    _URI: (x509.UniformResourceIdentifier, "URI"),
    _IP: (x509.IPAddress, "IP address"),
}


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """Those of one authority. Without `permitted` of a type all names of that type are; `purposes` are OIDs, None for
    all.
    """

    permitted: tuple[x509.GeneralName, ...] = ()
    excluded: tuple[x509.GeneralName, ...] = ()
    purposes: frozenset[str] | None = None

    def names(self, of: candidate.Candidate) -> Iterator[str]:
        """What is wrong with the names of a certificate: none of them may be outside."""
        if not (self.permitted or self.excluded):
            return
        for each in of.names or ():
            if each.kind in _KINDS:
                yield from self._name(each)
        if of.subject != _EMPTY_NAME:
            yield from self._subject(of.subject)

    def _name(self, name: candidate.Name) -> Iterator[str]:
        type_, what = _KINDS[name.kind]
        text = _text(name)
        permitted, excluded = _values(self.permitted, type_), _values(self.excluded, type_)
        if name.kind == _URI and (permitted or excluded) and not _host(text):
            # RFC 5280: then it must be rejected, whatever the constraints are.
            yield f"the {what} {text[:_LONGEST]!r} has no host that the authority's constraints could be held against"
            return
        within = _WITHIN[name.kind]
        if permitted and not any(within(text, base) for base in permitted):
            yield f"the {what} {text[:_LONGEST]!r} is in no subtree that the authority may vouch for"
        if any(within(text, base) or (name.kind == _DNS and _covers(text, base)) for base in excluded):
            yield f"the {what} {text[:_LONGEST]!r} is in a subtree that the authority must not vouch for"

    def _subject(self, subject: bytes) -> Iterator[str]:
        permitted, excluded = _values(self.permitted, x509.DirectoryName), _values(self.excluded, x509.DirectoryName)
        if not (permitted or excluded):
            return
        found = _relative(x509.Name.from_bytes(subject))
        if permitted and not any(_begins(found, base) for base in permitted):
            yield "the subject is in no subtree that the authority may vouch for"
        if any(_begins(found, base) for base in excluded):
            yield "the subject is in a subtree that the authority must not vouch for"

    def uses(self, of: candidate.Candidate) -> Iterator[str]:
        """What is wrong with its purposes: each must be one of the authority's."""
        if self.purposes is None or _ANY_PURPOSE in self.purposes:
            return
        for each in of.purposes or ():
            if each not in self.purposes:
                yield f"the authority may not vouch for the purpose {each}: its own certificate does not name it"


NONE: Final = Limits()


def of_certificate(authority: x509.Certificate) -> Limits:
    """The limits that a CA certificate sets."""
    permitted: tuple[x509.GeneralName, ...] = ()
    excluded: tuple[x509.GeneralName, ...] = ()
    purposes = None
    for each in authority.extensions:
        if isinstance(each.value, x509.NameConstraints):
            permitted = tuple(each.value.permitted_subtrees or ())
            excluded = tuple(each.value.excluded_subtrees or ())
        elif isinstance(each.value, x509.ExtendedKeyUsage):
            purposes = frozenset(purpose.dotted_string for purpose in each.value)
    return Limits(permitted, excluded, purposes)


def _values(subtrees: tuple[x509.GeneralName, ...], type_: type[x509.GeneralName]) -> list[Any]:
    return [each.value for each in subtrees if isinstance(each, type_)]


def _text(name: candidate.Name) -> str:
    if name.kind == _IP and len(name.value) in (4, 16):
        return str(ipaddress.ip_address(name.value))
    return name.text


# --- subtrees -----------------------------------------------------------------------------------------------------


def _is_below(host: str, base: str) -> bool:
    """Whether a host has labels of its own before those of a base that begins with a dot."""
    return host.lower().endswith(base.lower()) and len(host) > len(base)


def _dns_within(name: str, base: str) -> bool:
    """A name, and all below it. With a leading dot only those below, as Go and OpenSSL have it."""
    if not base or base.startswith("."):
        return not base or _is_below(name, base)
    return name.lower() == base.lower() or _is_below(name, f".{base}")


def _covers(name: str, base: str) -> bool:
    """Whether a wildcard stands for a name that a subtree begins with."""
    return name.startswith("*.") and base.lower().lstrip(".").partition(".")[2] == name[2:].lower()


def _host_within(host: str, base: str) -> bool:
    """For mailboxes and URIs a host is this host alone; those below it need the dot."""
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
    _EMAIL: _email_within,
    _DNS: _dns_within,
    _URI: _uri_within,
    _IP: _ip_within,
}


def _relative(name: x509.Name) -> list[frozenset[tuple[str, str]]]:
    """The parts of a name, ready to be compared: RFC 5280 section 7.1 ignores case, and how many blanks there are."""
    return [
        frozenset((each.oid.dotted_string, " ".join(str(each.value).casefold().split())) for each in part)
        for part in name.rdns
    ]


def _begins(name: list[frozenset[tuple[str, str]]], base: x509.Name) -> bool:
    beginning = _relative(base)
    return name[: len(beginning)] == beginning
