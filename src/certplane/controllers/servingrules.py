"""What has to be proven before a kubelet's serving certificate is approved, as the administrator says it.

`parse` reads it from a mapping (a section of a configuration file) and judges all of it at once; `Rules` is what is
left of it for judging requests. docs/kubelet-serving.md says what each source of proof is worth.
"""

from __future__ import annotations

import dataclasses
import enum
import ipaddress
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from certplane import errors, gotext
from certplane.config import options
from certplane.controllers import proofs

#: The sources of proof.
NODE: Final = "node"
INVENTORY: Final = "inventory"
CIDRS: Final = "cidrs"
PATTERNS: Final = "patterns"
DNS: Final = "dns"
SOURCES: Final = (NODE, INVENTORY, CIDRS, PATTERNS, DNS)

#: What suffices where nothing is said: the administrator's word, or the kubelet's if another source agrees.
_BY_DEFAULT: Final = ((INVENTORY,), (NODE, CIDRS), (NODE, PATTERNS), (NODE, DNS))
_PLACE: Final = "{node}"

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Mode(enum.Enum):
    """What is done about a judgement."""

    ENFORCE = "enforce"
    APPROVE_ONLY = "approve-only"
    REPORT = "report"


# --- what nobody gets ---------------------------------------------------------------------------------------------

#: This machine, the API server, everybody, nobody.
_NAMES: Final = ("localhost", "localhost.localdomain", "ip6-localhost", "kubernetes", "kubernetes.default")
_SUFFIXES: Final = (".localhost", ".svc")
_NETWORKS: Final = tuple(
    map(
        ipaddress.ip_network,
        # Of the two old forms of IPv4 inside IPv6 the mapped one counts as IPv4; the compatible one is in ::/96.
        ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "255.255.255.255/32", "::/96", "fe80::/10",
         "ff00::/8"),
    )
)  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True)
class Forbidden:
    """Names and addresses that no source can prove. A suffix begins with a dot."""

    names: frozenset[str] = frozenset(_NAMES)
    suffixes: tuple[str, ...] = _SUFFIXES
    networks: tuple[Network, ...] = _NETWORKS

    def covers(self, claimed: proofs.San) -> bool:
        """Whether nobody gets this."""
        if isinstance(claimed, str):
            # What is forbidden below a name is forbidden as that name.
            return claimed in self.names or f".{claimed}".endswith(self.suffixes)
        return is_within(claimed, self.networks)


def is_within(address: proofs.Address, networks: Sequence[Network]) -> bool:
    """Whether an address is in one of the networks; those of the other family have none of it."""
    return any(address in each for each in networks)


# --- rules --------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Rules:
    """What suffices: one of the `alternatives`, each of which is sources that have to agree. `longest` is in seconds.
    `reverse`: what DNS proves has to lead back too, from the address to the name.
    """

    alternatives: tuple[tuple[str, ...], ...]
    cidrs: tuple[Network, ...] = ()
    patterns: tuple[str, ...] = ()
    reverse: bool = False
    longest: int = 365 * 86400
    most_names: int = 32
    forbidden: Forbidden = dataclasses.field(default_factory=Forbidden)

    def names_of(self, node: str) -> tuple[str, ...]:
        """The names that the patterns give to a node."""
        return tuple(each.replace(_PLACE, node) for each in self.patterns)


@dataclasses.dataclass(frozen=True, slots=True)
class Settings:
    """Everything that can be said. No `inventory`: there is no such file. `patience` is the seconds for one answer of
    DNS; None: it is not asked.
    """

    rules: Rules
    mode: Mode = Mode.APPROVE_ONLY
    inventory: pathlib.Path | None = None
    patience: float | None = None


# --- reading ------------------------------------------------------------------------------------------------------

_LABEL: Final = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_NAME: Final = re.compile(rf"{_LABEL}(\.{_LABEL})*")
KEYS: Final = (
    "mode", "sources", "cidrs", "patterns", "inventory", "dns", "dns-reverse", "dns-timeout", "longest-lifetime",
    "most-names", "api-server", "service-cidrs", "cluster-domain", "forbidden",
)  # fmt: skip
_HINT: Final = "docs/kubelet-serving.md has an example, and says what each source proves"


class _Reader:
    """Takes values out of a mapping and notes what is wrong with them; something harmless stands for those."""

    def __init__(self, said: Mapping[str, Any]) -> None:
        self._said = said
        self.problems = [f"there is no setting {each}" for each in said if each not in KEYS]

    def has(self, key: str) -> bool:
        return self._said.get(key) is not None

    def texts(self, key: str) -> list[str]:
        found = self._said.get(key)
        found = [] if found is None else found
        if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
            self.problems.append(f"{key}: must be a list of texts")
            return []
        return found

    def text(self, key: str, default: str) -> str:
        found = self._said.get(key)
        if not isinstance(found, str | None):
            self.problems.append(f"{key}: must be a text, not {found!r}")
            return default
        return default if found is None else found

    def flag(self, key: str) -> bool:
        found = self._said.get(key)
        if not isinstance(found, bool | None):
            self.problems.append(f"{key}: must be true or false, not {found!r}")
        return found is True

    def number(self, key: str, default: int) -> int:
        found = self._said[key] if self.has(key) else default
        if isinstance(found, bool) or not isinstance(found, int) or found < 1:
            self.problems.append(f"{key}: must be a number, at least 1, not {found!r}")
            return default
        return found

    def seconds(self, key: str, default: str) -> float:
        text = self.text(key, default)
        found = gotext.parse_duration(text)
        if found is None or found.total_seconds() <= 0:
            self.problems.append(f"{key}: must be a duration such as {default}, not {text!r}")
            return 1.0
        return found.total_seconds()

    def each(self, key: str, read: Callable[[str], Any], what: str) -> list[Any]:
        """The items of a list, read; `read` gives None for what is none of `what`."""
        found = [(text, read(text)) for text in self.texts(key)]
        for text in (text for text, value in found if value is None):
            meant = options.network_meant(text) if "network" in what else ""
            self.problems.append(f"{key}: {text!r} is no {what}{f'; did you mean {meant}?' if meant else ''}")
        return [value for _, value in found if value is not None]


def parse(said: Any) -> Settings:
    """The settings in a mapping, by name. Raises SetupError with everything that is wrong."""
    if not isinstance(said, Mapping):
        raise errors.SetupError("the approver of kubelet serving certificates has no mapping of settings", (_HINT,))
    reader = _Reader(said)
    inventory = reader.text("inventory", "")
    asks_dns = reader.flag("dns")
    cidrs = tuple(reader.each("cidrs", _network, "network"))
    patterns = tuple(reader.each("patterns", _pattern, f"DNS name with {_PLACE} in it"))
    there = {NODE: True, INVENTORY: inventory, CIDRS: cidrs, PATTERNS: patterns, DNS: asks_dns}
    rules = Rules(
        alternatives=_alternatives(reader, frozenset(each for each, has in there.items() if has)),
        cidrs=cidrs,
        patterns=patterns,
        reverse=asks_dns and reader.flag("dns-reverse"),
        longest=int(reader.seconds("longest-lifetime", "8760h")),
        most_names=reader.number("most-names", 32),
        forbidden=_forbidden(reader),
    )
    patience = reader.seconds("dns-timeout", "5s") if asks_dns else None
    made = Settings(rules, _mode(reader), pathlib.Path(inventory) if inventory else None, patience)
    problems = reader.problems or _gaps(rules)
    if problems:
        listed = "; ".join(problems)
        raise errors.SetupError(f"the approver of kubelet serving certificates cannot work so: {listed}", (_HINT,))
    return made


def _mode(reader: _Reader) -> Mode:
    text = reader.text("mode", Mode.APPROVE_ONLY.value)
    try:
        return Mode(text)
    except ValueError:
        reader.problems.append(f"mode: must be one of {', '.join(each.value for each in Mode)}, not {text}")
        return Mode.REPORT


def _network(text: str) -> Network | None:
    try:
        found = ipaddress.ip_network(text)
    except ValueError:
        return None
    # What is written with the IPv4 inside IPv6 would never match: addresses are compared as IPv4.
    return None if isinstance(found, ipaddress.IPv6Network) and found.network_address.ipv4_mapped else found


def _pattern(text: str) -> str | None:
    """One without a place for the node would give its name to all of them."""
    probe = text.lower().replace(_PLACE, "node")
    return text.lower() if _PLACE in text and _NAME.fullmatch(probe) else None


def _alternatives(reader: _Reader, configured: frozenset[str]) -> tuple[tuple[str, ...], ...]:
    if not reader.has("sources"):
        return tuple(each for each in _BY_DEFAULT if configured.issuperset(each))
    found = []
    for text in reader.texts("sources"):
        parts = tuple(part.strip() for part in text.split("+"))
        reader.problems += [
            f"sources: there is no source {part!r}; there are {', '.join(SOURCES)}"
            for part in parts
            if part not in SOURCES
        ]
        reader.problems += [
            f"sources: {part} is named, and {part} is not set"
            for part in parts
            if part in SOURCES and part not in configured
        ]
        found.append(parts)
    return tuple(found)


def _gaps(rules: Rules) -> list[str]:
    """A kubelet asks for its hostname and at least one address: without a way to prove both nothing is ever approved.
    DNS leads from one to the other, so that it proves one where the other can be proven without it.
    """
    name = _can_prove(rules, {NODE, INVENTORY, PATTERNS})
    address = _can_prove(rules, {NODE, INVENTORY, CIDRS})
    by_dns = (
        address and _can_prove(rules, {NODE, INVENTORY, PATTERNS, DNS}),
        name and _can_prove(rules, {NODE, INVENTORY, CIDRS, DNS}),
    )
    problems = [] if name or by_dns[0] else ["nothing can prove a name: set an inventory, patterns, or cidrs and dns"]
    return (
        problems
        if address or by_dns[1]
        else [*problems, "nothing can prove an address: set an inventory, cidrs, or patterns and dns"]
    )


def _can_prove(rules: Rules, sources: set[str]) -> bool:
    return any(sources.issuperset(each) for each in rules.alternatives)


def _forbidden(reader: _Reader) -> Forbidden:
    given = reader.each("api-server", _exactly, "name or address")
    given += reader.each("forbidden", _forbidden_item, "name, .suffix, address or network")
    given += reader.each("service-cidrs", _network, "network")
    given += _suffixes(reader)
    texts = [each for each in given if isinstance(each, str)]
    return Forbidden(
        frozenset((*_NAMES, *(each for each in texts if not each.startswith(".")))),
        (*_SUFFIXES, *(each for each in texts if each.startswith("."))),
        (*_NETWORKS, *(each for each in given if not isinstance(each, str))),
    )


def _suffixes(reader: _Reader) -> list[str]:
    """Of Services and pods; machines may be in the same domain."""
    domain = reader.text("cluster-domain", "cluster.local").lower()
    if not _NAME.fullmatch(domain):
        reader.problems.append(f"cluster-domain: {domain!r} is no DNS name")
    return [f".svc.{domain}", f".pod.{domain}"]


def _exactly(text: str) -> str | Network | None:
    found = proofs.address(text)
    if found is not None:
        return ipaddress.ip_network(found)
    return text.lower() if _NAME.fullmatch(text.lower()) else None


def _forbidden_item(text: str) -> str | Network | None:
    if text.startswith("."):
        return text.lower() if _NAME.fullmatch(text[1:].lower()) else None
    return _network(text) if "/" in text else _exactly(text)
