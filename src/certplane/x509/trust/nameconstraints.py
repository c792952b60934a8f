"""Name constraints along a path: the names that certificates below a CA may have.

The cost is linear in the number of names plus the number of constraints: domains are looked up in a tree of labels from
the top level down, networks by their masks. Names of types that Go does not know are ignored; a critical extension with
constraints on such types is an unhandled critical extension.

Source: RFC 5280 section 4.2.1.10; Go 1.26 `crypto/x509`, `constraints.go`, whose error texts these are. As in Go, a
domain with a leading dot matches only the domains below it, for DNS names as well, and a wildcard name is excluded if
any name that it matches is excluded. Unlike Go, bits of a network address beyond the mask are ignored.
"""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from certplane.golang import asn1, formatting, urls
from certplane.x509 import certificatenames
from certplane.x509.trust import certificatesyntax

_HANDLED_TYPES: Final = frozenset(
    {certificatenames.EMAIL, certificatenames.DNS, certificatenames.URI, certificatenames.IP}
)
_IPV4_BYTES: Final = 4
#: The prefix of IPv4-mapped IPv6 addresses. RFC 4291 section 2.5.5.2.
_MAPPED_PREFIX: Final = bytes(10) + b"\xff\xff"


class NameConstraintError(ValueError):
    """A name that violates a name constraint, or cannot be compared with one. The text is Go's."""


@dataclasses.dataclass(frozen=True, slots=True)
class Constraints:
    """The name constraints of one certificate, by the identifier octet of the type of name. `has_other_types` says
    whether there are constraints on types that are not handled.
    """

    permitted: dict[int, list[bytes]]
    excluded: dict[int, list[bytes]]
    has_other_types: bool


def parse(value: bytes) -> Constraints:
    """Parse an extension whose syntax `certificatesyntax` has checked."""
    reader = asn1.StrictReader(value).read_child()
    subtrees: list[dict[int, list[bytes]]] = []
    has_other_types = False
    for tag in (certificatesyntax.PERMITTED_SUBTREES, certificatesyntax.EXCLUDED_SUBTREES):
        values_by_type: dict[int, list[bytes]] = {}
        names = reader.read_child(tag) if reader.next_is(tag) else asn1.StrictReader(b"")
        while not names.empty:
            name = names.read_child().read_any()
            kind = name.raw[0]
            has_other_types = has_other_types or kind not in _HANDLED_TYPES
            values_by_type.setdefault(kind, []).append(name.content)
        subtrees.append(values_by_type)
    permitted, excluded = subtrees
    return Constraints(permitted, excluded, has_other_types)


class _DomainNode:
    """A label in the tree of the domains that constraints name. `matches_tree`: the domain and all domains below it
    match. `matches_below`: only the domains below it match. `constraint` is the text of the constraint on this domain,
    `child_constraint` that of one on a domain directly below, None if there is none.
    """

    __slots__ = ("child_constraint", "children", "constraint", "matches_below", "matches_tree")

    def __init__(self) -> None:
        self.children: dict[str, _DomainNode] = {}
        self.matches_tree = self.matches_below = False
        self.constraint = ""
        self.child_constraint: str | None = None


class _DomainMatcher:
    """Matches domains against constraints. If they are `excluded`, a wildcard matches those on any name it covers."""

    def __init__(self, constraints: Sequence[str], *, excluded: bool) -> None:
        self._excluded = excluded
        self._matches_all = "" in constraints
        self._root = _DomainNode()
        for constraint in constraints:
            node = parent = self._root
            for label in reversed(constraint.removeprefix(".").lower().split(".")):
                node, parent = node.children.setdefault(label, _DomainNode()), node
            if constraint.startswith("."):
                node.matches_below = True
            else:
                node.matches_tree = True
                parent.child_constraint = constraint.lower()
            node.constraint = node.constraint or constraint

    def match(self, domain: str) -> str | None:
        """The constraint that a domain matches; None if it matches none."""
        if self._matches_all:
            return ""
        node = self._root
        labels = domain.lower().split(".")
        for remaining, label in zip(range(len(labels) - 1, -1, -1), reversed(labels), strict=True):
            child = node.children.get(label)
            if child is None:
                is_wildcard = not remaining and label.startswith("*") and node is not self._root
                return node.child_constraint if is_wildcard and self._excluded else None
            node = child
            if node.matches_tree or (node.matches_below and remaining):
                return node.constraint
        return None


class _MailboxMatcher:
    """Matches mail addresses, each a local part and a domain in lower case, against addresses and domains."""

    def __init__(self, constraints: Sequence[str], *, excluded: bool) -> None:
        mailboxes = [certificatesyntax.parse_mailbox(text) for text in constraints if "@" in text]
        self._mailboxes = {(mailbox[0], mailbox[1].lower()) for mailbox in mailboxes if mailbox is not None}
        domains = [text for text in constraints if "@" not in text]
        self._domains = _DomainMatcher(domains, excluded=excluded) if domains else None

    def match(self, mailbox: tuple[str, str]) -> str | None:
        """The constraint that a mail address matches; None if it matches none."""
        if mailbox in self._mailboxes:
            return f"{mailbox[0]}@{mailbox[1]}"
        return self._domains.match(mailbox[1]) if self._domains is not None else None


class _Family(NamedTuple):
    """Addresses that are compared with each other. IPv4-mapped IPv6 addresses match only networks of such addresses."""

    size: int
    is_mapped: bool


class _NetworkMatcher:
    """Matches IP addresses against networks."""

    def __init__(self, constraints: Sequence[bytes]) -> None:
        """Each constraint is an address followed by a mask of the same length."""
        self._networks: dict[_Family, dict[int, set[int]]] = {}
        for constraint in constraints:
            size = len(constraint) // 2
            family, number = _split_address(constraint[:size])
            mask = int.from_bytes(constraint[size:], "big") & (_IPV4_MASK if family.is_mapped else -1)
            self._networks.setdefault(family, {}).setdefault(mask, set()).add(number & mask)

    def match(self, address: certificatenames.IPAddress) -> str | None:
        """The network that an address is in; None if it is in none."""
        family, number = _split_address(address.packed)
        for mask, networks in self._networks.get(family, {}).items():
            if number & mask in networks:
                bits = address.max_prefixlen if not family.is_mapped else 32
                network = (number & mask).to_bytes(bits // 8, "big")
                return f"{ipaddress.ip_address(network)}/{mask.bit_count()}"
        return None


_IPV4_MASK: Final = 0xFFFFFFFF


def _split_address(packed: bytes) -> tuple[_Family, int]:
    """The family of an address and its number, of a mapped address that of the IPv4 address."""
    is_mapped = len(packed) > _IPV4_BYTES and packed.startswith(_MAPPED_PREFIX)
    return _Family(len(packed), is_mapped), int.from_bytes(packed[12:] if is_mapped else packed, "big")


class _Name(NamedTuple):
    """A name: its type, its value for the matcher, its text for errors, and the error for a malformed name, empty for
    others.
    """

    kind: int
    value: object
    text: str
    problem: str = ""


_TYPE_NAMES: Final = {
    certificatenames.IP: "IP address",
    certificatenames.DNS: "DNS name",
    certificatenames.URI: "URI",
    certificatenames.EMAIL: "email address",
}


def _list_names(alternative_names: certificatenames.AlternativeNames) -> list[_Name]:
    """The names of a certificate, in the order in which they are checked. Raises NameConstraintError."""
    names = [_Name(certificatenames.IP, address, _format_address(address)) for address in alternative_names.ip]
    names += [
        _Name(certificatenames.DNS, name, name, _syntax_error(name, "cannot parse dnsName", name))
        for name in alternative_names.dns
    ]
    hosts = [(uri, _uri_host(uri)) for uri in alternative_names.uri]
    names += [
        _Name(certificatenames.URI, host, uri, _syntax_error(host, "internal error: URI SAN", uri, " failed to parse"))
        for uri, host in hosts
    ]
    for email in alternative_names.email:
        mailbox = certificatesyntax.parse_mailbox(email)
        if mailbox is None:
            raise NameConstraintError(f"cannot parse rfc822Name {formatting.quote(email)}")
        local, domain = mailbox[0], mailbox[1].lower()
        text = f"{local}@{domain}"
        names.append(
            _Name(certificatenames.EMAIL, (local, domain), text, _syntax_error(domain, "cannot parse rfc822Name", text))
        )
    return names


def _format_address(address: certificatenames.IPAddress) -> str:
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def _syntax_error(domain: str, prefix: str, name: str, suffix: str = "") -> str:
    """The error for a name whose domain is malformed; empty if the domain is well-formed or empty."""
    is_valid = not domain or certificatenames.is_domain(domain)
    return "" if is_valid else f"x509: {prefix} {formatting.quote(name)}{suffix}"


def _uri_host(text: str) -> str:
    """The host of a URI, without the port. Raises NameConstraintError if there is none, or if it is an IP address."""
    try:
        host_and_port = urls.parse(text).host
    except urls.URIError as error:
        raise NameConstraintError(f"cannot parse URI {formatting.quote(text)}: {error}") from error
    host = host_and_port.lower()
    if not host:
        raise NameConstraintError(
            f"URI with empty host ({formatting.quote(text)}) cannot be matched against constraints"
        )
    is_bracketed = host.startswith("[") and host.endswith("]")
    if ":" in host and not host.endswith("]"):
        host = host_and_port.rpartition(":")[0]
        if ":" in host and not host.startswith("["):
            reason = f"address {host_and_port}: too many colons in address"
            raise NameConstraintError(f"cannot parse URI host {formatting.quote(host_and_port)}: {reason}")
        host = host.removeprefix("[").removesuffix("]")
    if is_bracketed or _is_address(host):
        raise NameConstraintError(f"URI with IP ({formatting.quote(text)}) cannot be matched against constraints")
    return host


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


class Checker:
    """Checks names against the constraints of one certificate."""

    def __init__(self, constraints: Constraints) -> None:
        self._permitted = dict(_make_matchers(constraints.permitted, excluded=False))
        self._excluded = dict(_make_matchers(constraints.excluded, excluded=True))

    def check(self, alternative_names: certificatenames.AlternativeNames) -> None:
        """Raises NameConstraintError for the first name that a certificate below may not have."""
        for name in _list_names(alternative_names):
            if name.problem:
                raise NameConstraintError(name.problem)
            permitted, excluded = self._permitted.get(name.kind), self._excluded.get(name.kind)
            described = f"{_TYPE_NAMES[name.kind]} {formatting.quote(name.text)}"
            if permitted is not None and permitted(name.value) is None:
                raise NameConstraintError(f"{described} is not permitted by any constraint")
            constraint = excluded(name.value) if excluded is not None else None
            if constraint is not None:
                raise NameConstraintError(f"{described} is excluded by constraint {formatting.quote(constraint)}")


_Match = Callable[[Any], str | None]


def _make_matchers(subtrees: dict[int, list[bytes]], *, excluded: bool) -> Iterator[tuple[int, _Match]]:
    for kind, values in subtrees.items():
        if kind == certificatenames.IP:
            yield kind, _NetworkMatcher(values).match
        elif kind in _HANDLED_TYPES:
            texts = [value.decode("ascii") for value in values]
            matcher_type = _MailboxMatcher if kind == certificatenames.EMAIL else _DomainMatcher
            yield kind, matcher_type(texts, excluded=excluded).match
