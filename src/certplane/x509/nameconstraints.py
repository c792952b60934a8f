"""Name constraints along a path: which names the certificates below an authority may have.

The cost is linear in names and constraints together: domains are found by walking a tree of labels from the top level
down, networks by their masks. A name of another type than the four that Go knows is not looked at; a constraint on
another type makes a critical extension one that is not understood.

Source: RFC 5280 section 4.2.1.10; Go 1.26 `crypto/x509`, `constraints.go`, whose texts these are. As there, a domain
with a dot in front is for what is below it alone, also among DNS names, and a wildcard is excluded with any name that
it could stand for. Unlike Go, networks whose address has bits beyond the mask count as the networks that they are in.
"""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from certplane import gotext
from certplane.x509 import certform, csr, der, uris

_EMAIL, _DNS, _URI, _IP = 0x81, 0x82, 0x86, 0x87
_PERMITTED, _EXCLUDED = 0xA0, 0xA1
_TYPES: Final = frozenset({_EMAIL, _DNS, _URI, _IP})
_IPV4_BYTES: Final = 4
_MAPPED: Final = bytes(10) + b"\xff\xff"


class ConstraintProblem(ValueError):
    """A name that an authority may not vouch for. The text is Go's."""


@dataclasses.dataclass(frozen=True, slots=True)
class Constraints:
    """Those of one certificate, by the first byte of the type of name. `has_other_types`: there are some that nobody
    here can hold names against.
    """

    permitted: dict[int, list[bytes]]
    excluded: dict[int, list[bytes]]
    has_other_types: bool


def parse(value: bytes) -> Constraints:
    """An extension whose form was checked by `certform`."""
    reader = der.StrictReader(value).inside()
    subtrees: list[dict[int, list[bytes]]] = []
    has_other_types = False
    for first in (_PERMITTED, _EXCLUDED):
        found: dict[int, list[bytes]] = {}
        names = reader.inside(first) if reader.next_is(first) else der.StrictReader(b"")
        while not names.empty:
            name = names.inside().any()
            kind = name.raw[0]
            has_other_types = has_other_types or kind not in _TYPES
            found.setdefault(kind, []).append(name.content)
        subtrees.append(found)
    permitted, excluded = subtrees
    return Constraints(permitted, excluded, has_other_types)


class _Domain:
    """A label of domains that constraints name, from the top level down: whether the domain itself and all below it
    match, or only those below it; the constraint, for the text; and one on a domain a label below, if there is one.
    """

    __slots__ = ("below", "child", "constraint", "only_below", "whole")

    def __init__(self) -> None:
        self.below: dict[str, _Domain] = {}
        self.whole = self.only_below = False
        self.constraint = ""
        self.child: str | None = None


class _Domains:
    """Matches domains against constraints. Of `excluded` ones a wildcard matches what it could stand for."""

    def __init__(self, constraints: Sequence[str], *, excluded: bool) -> None:
        self._excluded = excluded
        self._all = "" in constraints
        self._root = _Domain()
        for each in constraints:
            place = parent = self._root
            for label in reversed(each.removeprefix(".").lower().split(".")):
                place, parent = place.below.setdefault(label, _Domain()), place
            if each.startswith("."):
                place.only_below = True
            else:
                place.whole = True
                parent.child = each.lower()
            place.constraint = place.constraint or each

    def match(self, domain: str) -> str | None:
        """The constraint that a domain is in; None if it is in none."""
        if self._all:
            return ""
        place = self._root
        labels = domain.lower().split(".")
        for left, label in zip(range(len(labels) - 1, -1, -1), reversed(labels), strict=True):
            found = place.below.get(label)
            if found is None:
                is_wildcard = not left and label.startswith("*") and place is not self._root
                return place.child if is_wildcard and self._excluded else None
            place = found
            if place.whole or (place.only_below and left):
                return place.constraint
        return None


class _Mailboxes:
    """Matches mail addresses, each its local part and its domain."""

    def __init__(self, constraints: Sequence[str], *, excluded: bool) -> None:
        whole = [certform.mailbox(each) for each in constraints if "@" in each]
        self._whole = {(each[0], each[1].lower()) for each in whole if each is not None}
        domains = [each for each in constraints if "@" not in each]
        self._domains = _Domains(domains, excluded=excluded) if domains else None

    def match(self, mailbox: tuple[str, str]) -> str | None:
        if mailbox in self._whole:
            return f"{mailbox[0]}@{mailbox[1]}"
        return self._domains.match(mailbox[1]) if self._domains is not None else None


class _Networks:
    """Matches addresses. An IPv6 address that stands for one of IPv4 is in networks of such addresses alone."""

    def __init__(self, constraints: Sequence[bytes]) -> None:
        self._by_mask: dict[tuple[int, bool], dict[int, set[int]]] = {}
        for each in constraints:
            half = len(each) // 2
            family, number = _family(each[:half])
            mask = int.from_bytes(each[half:], "big") & (_LOW if family[1] else -1)
            self._by_mask.setdefault(family, {}).setdefault(mask, set()).add(number & mask)

    def match(self, address: csr.IPAddress) -> str | None:
        family, number = _family(address.packed)
        for mask, networks in self._by_mask.get(family, {}).items():
            if number & mask in networks:
                bits = address.max_prefixlen if not family[1] else 32
                first = (number & mask).to_bytes(bits // 8, "big")
                return f"{ipaddress.ip_address(first)}/{mask.bit_count()}"
        return None


_LOW: Final = 0xFFFFFFFF


def _family(packed: bytes) -> tuple[tuple[int, bool], int]:
    """Size in bytes, and whether it stands for an IPv4 address; and the number, of such an address its last half."""
    is_mapped = len(packed) > _IPV4_BYTES and packed.startswith(_MAPPED)
    return (len(packed), is_mapped), int.from_bytes(packed[12:] if is_mapped else packed, "big")


class _Name(NamedTuple):
    """A name as it is matched and as it is told, with its type; and what is wrong with it, empty if nothing is."""

    kind: int
    value: Any
    text: str
    problem: str = ""


_WORDS: Final = {_IP: "IP address", _DNS: "DNS name", _URI: "URI", _EMAIL: "email address"}


def _names(names: csr.AltNames) -> list[_Name]:
    """The names of a certificate, in the order in which they are looked at. Raises ConstraintProblem."""
    found = [_Name(_IP, each, _address_text(each)) for each in names.ip]
    found += [_Name(_DNS, each, each, _malformed(each, "cannot parse dnsName", each)) for each in names.dns]
    hosts = [(each, _host(each)) for each in names.uri]
    found += [
        _Name(_URI, host, uri, _malformed(host, "internal error: URI SAN", uri, " failed to parse"))
        for uri, host in hosts
    ]
    for email in names.email:
        mailbox = certform.mailbox(email)
        if mailbox is None:
            raise ConstraintProblem(f"cannot parse rfc822Name {gotext.quote(email)}")
        local, domain = mailbox[0], mailbox[1].lower()
        text = f"{local}@{domain}"
        found.append(_Name(_EMAIL, (local, domain), text, _malformed(domain, "cannot parse rfc822Name", text)))
    return found


def _address_text(address: csr.IPAddress) -> str:
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def _malformed(domain: str, text: str, name: str, rest: str = "") -> str:
    is_good = not domain or csr.is_domain(domain)
    return "" if is_good else f"x509: {text} {gotext.quote(name)}{rest}"


def _host(text: str) -> str:
    """The host of a URI. Raises ConstraintProblem if it has none, or an address."""
    try:
        whole = uris.parse(text).host
    except uris.URIProblem as error:
        raise ConstraintProblem(f"cannot parse URI {gotext.quote(text)}: {error}") from error
    host = whole.lower()
    if not host:
        raise ConstraintProblem(f"URI with empty host ({gotext.quote(text)}) cannot be matched against constraints")
    is_bracketed = host.startswith("[") and host.endswith("]")
    if ":" in host and not host.endswith("]"):
        host = whole.rpartition(":")[0]
        if ":" in host and not host.startswith("["):
            why = f"address {whole}: too many colons in address"
            raise ConstraintProblem(f"cannot parse URI host {gotext.quote(whole)}: {why}")
        host = host.removeprefix("[").removesuffix("]")
    if is_bracketed or _is_address(host):
        raise ConstraintProblem(f"URI with IP ({gotext.quote(text)}) cannot be matched against constraints")
    return host


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


class Checker:
    """Holds names against the constraints of one certificate, made ready for many names."""

    def __init__(self, constraints: Constraints) -> None:
        self._permitted = dict(_matchers(constraints.permitted, excluded=False))
        self._excluded = dict(_matchers(constraints.excluded, excluded=True))

    def check(self, names: csr.AltNames) -> None:
        """Raises ConstraintProblem for the first name that a certificate below may not have."""
        for each in _names(names):
            if each.problem:
                raise ConstraintProblem(each.problem)
            permitted, excluded = self._permitted.get(each.kind), self._excluded.get(each.kind)
            told = f"{_WORDS[each.kind]} {gotext.quote(each.text)}"
            if permitted is not None and permitted(each.value) is None:
                raise ConstraintProblem(f"{told} is not permitted by any constraint")
            constraint = excluded(each.value) if excluded is not None else None
            if constraint is not None:
                raise ConstraintProblem(f"{told} is excluded by constraint {gotext.quote(constraint)}")


_Match = Callable[[Any], str | None]


def _matchers(subtrees: dict[int, list[bytes]], *, excluded: bool) -> Iterator[tuple[int, _Match]]:
    for kind, values in subtrees.items():
        if kind == _IP:
            yield kind, _Networks(values).match
        elif kind in _TYPES:
            texts = [each.decode("ascii") for each in values]
            made = _Mailboxes(texts, excluded=excluded) if kind == _EMAIL else _Domains(texts, excluded=excluded)
            yield kind, made.match
