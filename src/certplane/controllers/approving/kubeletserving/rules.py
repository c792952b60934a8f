"""The rules of the approver of kubelet serving certificates, as an administrator configures them.

`parse` validates a mapping (the YAML file of `--serving-approver`) and reports all problems at once. The policy is
evaluated against the resulting `Rules`. docs/kubelet-serving.md says how much each source proves.
"""

from __future__ import annotations

import dataclasses
import difflib
import enum
import ipaddress
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from certplane.config import options
from certplane.controllers.approving.kubeletserving import evidence
from certplane.controllers.approving.kubeletserving.evidence import SAN, Address
from certplane.errors import SetupError
from certplane.golang import formatting
from certplane.resources import certificatesigningrequests as csrs

#: The sources of evidence.
NODE: Final = "node"
INVENTORY: Final = "inventory"
CIDRS: Final = "cidrs"
PATTERNS: Final = "patterns"
DNS: Final = "dns"
SOURCES: Final = (NODE, INVENTORY, CIDRS, PATTERNS, DNS)

#: The default of `sources`: the inventory alone, or the Node object confirmed by another source.
_DEFAULT_ALTERNATIVES: Final = ((INVENTORY,), (NODE, CIDRS), (NODE, PATTERNS), (NODE, DNS))
_NODE_PLACEHOLDER: Final = "{node}"

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Mode(enum.Enum):
    """Which decisions are carried out."""

    ENFORCE = "enforce"
    APPROVE_ONLY = "approve-only"
    REPORT = "report"


# --- forbidden names ----------------------------------------------------------------------------------------------

#: Names and addresses of the local host, the API server, groups of hosts (multicast, broadcast), and no host.
_NAMES: Final = ("localhost", "localhost.localdomain", "ip6-localhost", "kubernetes", "kubernetes.default")
_SUFFIXES: Final = (".localhost", ".svc")
_NETWORKS: Final = tuple(
    map(
        ipaddress.ip_network,
        # IPv4-mapped IPv6 addresses are compared as IPv4; the deprecated IPv4-compatible ones are in ::/96.
        ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "255.255.255.255/32", "::/96", "fe80::/10",
         "ff00::/8"),
    )
)  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True)
class Forbidden:
    """Names and addresses that are never approved, whatever the evidence. A suffix begins with a dot."""

    names: frozenset[str] = frozenset(_NAMES)
    suffixes: tuple[str, ...] = _SUFFIXES
    networks: tuple[Network, ...] = _NETWORKS

    def covers(self, san: SAN) -> bool:
        """Whether a name or address is forbidden."""
        if isinstance(san, str):
            # A forbidden suffix forbids the domain itself as well.
            return san in self.names or f".{san}".endswith(self.suffixes)
        return is_within(san, self.networks)


def is_within(address: Address, networks: Sequence[Network]) -> bool:
    """Whether an address is in one of the networks. A network of the other address family contains no address."""
    return any(address in network for network in networks)


# --- rules --------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Rules:
    """What is sufficient evidence: one of the `alternatives`, each a set of sources that have to agree. `max_lifetime`
    is in seconds. With `dns_reverse` a DNS name is accepted only if its addresses resolve back to it.
    """

    alternatives: tuple[tuple[str, ...], ...]
    cidrs: tuple[Network, ...] = ()
    patterns: tuple[str, ...] = ()
    dns_reverse: bool = False
    max_lifetime: int = 365 * 86400
    max_names: int = 32
    forbidden: Forbidden = dataclasses.field(default_factory=Forbidden)

    def expand_patterns(self, node_name: str) -> tuple[str, ...]:
        """The names that the patterns give to a node."""
        return tuple(pattern.replace(_NODE_PLACEHOLDER, node_name) for pattern in self.patterns)


@dataclasses.dataclass(frozen=True, slots=True)
class Settings:
    """The whole configuration. `inventory` is the path of the file, None if there is none. `dns_timeout` is in seconds
    for each lookup, None if DNS is disabled.
    """

    rules: Rules
    mode: Mode = Mode.APPROVE_ONLY
    inventory: pathlib.Path | None = None
    dns_timeout: float | None = None


# --- parsing ------------------------------------------------------------------------------------------------------

_LABEL: Final = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_DNS_NAME: Final = re.compile(rf"{_LABEL}(\.{_LABEL})*")
FIELDS: Final = (
    "mode", "sources", "cidrs", "patterns", "inventory", "dns", "dns-reverse", "dns-timeout", "max-lifetime",
    "max-names", "api-server", "service-cidrs", "cluster-domain", "forbidden",
)  # fmt: skip
_HINT: Final = "see docs/kubelet-serving.md for an example and for what each source proves"


class _Reader:
    """Reads typed values from a mapping and collects `problems`; a default is returned for an invalid value."""

    def __init__(self, document: Mapping[str, object]) -> None:
        self._document = document
        self.problems = [_unknown_field(field) for field in document if field not in FIELDS]

    def has(self, field: str) -> bool:
        return self._document.get(field) is not None

    def strings(self, field: str) -> list[str]:
        value = self._document.get(field)
        value = [] if value is None else value
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            self.problems.append(f"{field}: must be a list of strings")
            return []
        return value

    def string(self, field: str, default: str) -> str:
        value = self._document.get(field)
        if not isinstance(value, str | None):
            self.problems.append(f"{field}: must be a string, not {value!r}")
            return default
        return default if value is None else value

    def boolean(self, field: str) -> bool:
        value = self._document.get(field)
        if not isinstance(value, bool | None):
            self.problems.append(f"{field}: must be true or false, not {value!r}")
        return value is True

    def integer(self, field: str, default: int) -> int:
        value = self._document[field] if self.has(field) else default
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            self.problems.append(f"{field}: must be an integer of at least 1, not {value!r}")
            return default
        return value

    def seconds(self, field: str, default: str) -> float:
        text = self.string(field, default)
        duration = formatting.parse_duration(text)
        if duration is None or duration.total_seconds() <= 0:
            self.problems.append(f"{field}: must be a positive duration such as {default}, not {text!r}")
            return 0.0
        return duration.total_seconds()

    def lifetime(self, field: str, default: str) -> int:
        """A maximum of spec.expirationSeconds, and so at least the API's minimum of that field."""
        seconds = self.seconds(field, default)
        if 0 < seconds < csrs.MIN_EXPIRATION_SECONDS:
            self.problems.append(f"{field}: must be at least 10m, the minimum of spec.expirationSeconds")
        return int(seconds)

    def items(self, field: str, parse_item: Callable[[str], Any], description: str) -> list[Any]:
        """The items of a list, parsed; `parse_item` returns None for what does not fit the `description`."""
        parsed = [(text, parse_item(text)) for text in self.strings(field)]
        for text in (text for text, value in parsed if value is None):
            network = options.network_meant(text) if "network" in description else ""
            suggestion = f"; did you mean {network}?" if network else ""
            self.problems.append(f"{field}: {text!r} is not a {description}{suggestion}")
        return [value for _, value in parsed if value is not None]


def _unknown_field(field: object) -> str:
    similar = difflib.get_close_matches(str(field), FIELDS, 1)
    return f'unknown field "{field}"' + (f'; did you mean "{similar[0]}"?' if similar else "")


def parse(document: object) -> Settings:
    """Parse the configuration. Raises SetupError with all problems."""
    if not isinstance(document, Mapping):
        raise SetupError("invalid rules of the kubelet-serving approver: must be a mapping", (_HINT,))
    reader = _Reader(document)
    inventory = reader.string("inventory", "")
    has_dns = reader.boolean("dns")
    cidrs = tuple(reader.items("cidrs", _parse_network, "network"))
    patterns = tuple(reader.items("patterns", _parse_pattern, f"DNS name that contains {_NODE_PLACEHOLDER}"))
    is_configured = {NODE: True, INVENTORY: inventory, CIDRS: cidrs, PATTERNS: patterns, DNS: has_dns}
    configured = frozenset(source for source, value in is_configured.items() if value)
    rules = Rules(
        alternatives=_read_alternatives(reader, configured),
        cidrs=cidrs,
        patterns=patterns,
        dns_reverse=has_dns and reader.boolean("dns-reverse"),
        max_lifetime=reader.lifetime("max-lifetime", "8760h"),
        max_names=reader.integer("max-names", 32),
        forbidden=_read_forbidden(reader),
    )
    dns_timeout = reader.seconds("dns-timeout", "5s") if has_dns else None
    settings = Settings(rules, _read_mode(reader), pathlib.Path(inventory) if inventory else None, dns_timeout)
    problems = reader.problems or _coverage_problems(rules)
    if problems:
        raise SetupError(f"invalid rules of the kubelet-serving approver: {'; '.join(problems)}", (_HINT,))
    return settings


def _read_mode(reader: _Reader) -> Mode:
    text = reader.string("mode", Mode.APPROVE_ONLY.value)
    try:
        return Mode(text)
    except ValueError:
        reader.problems.append(f"mode: must be one of {', '.join(mode.value for mode in Mode)}, not {text}")
        return Mode.REPORT


def _parse_network(text: str) -> Network | None:
    try:
        network = ipaddress.ip_network(text)
    except ValueError:
        return None
    # A network of IPv4-mapped addresses would never match, because those are compared as IPv4.
    is_mapped = isinstance(network, ipaddress.IPv6Network) and network.network_address.ipv4_mapped
    return None if is_mapped else network


def _parse_pattern(text: str) -> str | None:
    """A pattern in lower case; None without the placeholder, because all nodes would share the name."""
    example = text.lower().replace(_NODE_PLACEHOLDER, "node")
    return text.lower() if _NODE_PLACEHOLDER in text and _DNS_NAME.fullmatch(example) else None


def _read_alternatives(reader: _Reader, configured: frozenset[str]) -> tuple[tuple[str, ...], ...]:
    if not reader.has("sources"):
        return tuple(sources for sources in _DEFAULT_ALTERNATIVES if configured.issuperset(sources))
    alternatives = []
    for text in reader.strings("sources"):
        sources = tuple(source.strip() for source in text.split("+"))
        reader.problems += [
            f"sources: unknown source {source!r}; must be one of {', '.join(SOURCES)}"
            for source in sources
            if source not in SOURCES
        ]
        reader.problems += [
            f"sources: {source} is used, but {source} is not set"
            for source in sources
            if source in SOURCES and source not in configured
        ]
        alternatives.append(sources)
    return tuple(alternatives)


def _coverage_problems(rules: Rules) -> list[str]:
    """A kubelet requests its hostname and at least one address, so the rules must be able to prove both, or nothing is
    ever approved. DNS links names to addresses: it proves either of them if the other can be proven without DNS.
    """
    can_prove_name = _can_prove(rules, {NODE, INVENTORY, PATTERNS})
    can_prove_address = _can_prove(rules, {NODE, INVENTORY, CIDRS})
    name_by_dns = can_prove_address and _can_prove(rules, {NODE, INVENTORY, PATTERNS, DNS})
    address_by_dns = can_prove_name and _can_prove(rules, {NODE, INVENTORY, CIDRS, DNS})
    problems = []
    if not (can_prove_name or name_by_dns):
        problems.append("no source can prove a DNS name: set inventory, patterns, or cidrs and dns")
    if not (can_prove_address or address_by_dns):
        problems.append("no source can prove an IP address: set inventory, cidrs, or patterns and dns")
    return problems


def _can_prove(rules: Rules, sources: set[str]) -> bool:
    return any(sources.issuperset(alternative) for alternative in rules.alternatives)


def _read_forbidden(reader: _Reader) -> Forbidden:
    items = reader.items("api-server", _parse_host, "name or address")
    items += reader.items("forbidden", _parse_forbidden_item, "name, .suffix, address or network")
    items += reader.items("service-cidrs", _parse_network, "network")
    items += _read_cluster_suffixes(reader)
    texts = [item for item in items if isinstance(item, str)]
    return Forbidden(
        frozenset((*_NAMES, *(text for text in texts if not text.startswith(".")))),
        (*_SUFFIXES, *(text for text in texts if text.startswith("."))),
        (*_NETWORKS, *(item for item in items if not isinstance(item, str))),
    )


def _read_cluster_suffixes(reader: _Reader) -> list[str]:
    """The domains of Services and pods. The cluster domain itself is allowed: nodes may have names in it."""
    domain = reader.string("cluster-domain", "cluster.local").lower()
    if not _DNS_NAME.fullmatch(domain):
        reader.problems.append(f"cluster-domain: {domain!r} is not a DNS name")
    return [f".svc.{domain}", f".pod.{domain}"]


def _parse_host(text: str) -> str | Network | None:
    """A DNS name in lower case, or an address as the network that contains it alone."""
    address = evidence.parse_address(text)
    if address is not None:
        return ipaddress.ip_network(address)
    return text.lower() if _DNS_NAME.fullmatch(text.lower()) else None


def _parse_forbidden_item(text: str) -> str | Network | None:
    if text.startswith("."):
        return text.lower() if _DNS_NAME.fullmatch(text[1:].lower()) else None
    return _parse_network(text) if "/" in text else _parse_host(text)
