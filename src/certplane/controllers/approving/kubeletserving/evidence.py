"""Evidence that a DNS name or an IP address belongs to a node, and the sources that it is collected from.

- Node objects (`NodeClaims`). A kubelet writes its own status, so an entry there proves only that the kubelet wants the
  name; a name that *another* Node claims is in dispute.
- The inventory (`InventoryFile`), a file of the administrator: each name and address belongs to one node.
- DNS (`Resolver`), forward and reverse; as trustworthy as the path to the resolver.

The result is an `Evidence`, plain data, so that the policy needs no I/O. Names are compared in lower case, and an
IPv4-mapped IPv6 address is compared as the IPv4 address.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
import functools
import ipaddress
import logging
import pathlib
import socket
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final, Protocol, TypeVar

from certplane import clock, reload
from certplane.client.informer import Informer
from certplane.clock import Clock
from certplane.errors import CertplaneError, SetupError
from certplane.golang import goyaml
from certplane.meta import names
from certplane.reload import CompletionCheck, Wakeup
from certplane.resources.nodes import Node

_log = logging.getLogger("certplane.controllers")

T = TypeVar("T")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
#: A subject alternative name: a DNS name in lower case, or an IP address.
SAN = str | Address

_MAX_FILE_SIZE: Final = 8 << 20
_MAX_PROBLEMS: Final = 10


def unmap_ipv4(address: Address) -> Address:
    """10.0.0.1 for `::ffff:10.0.0.1`, as clients treat it; any other address as it is."""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def parse_address(text: str) -> Address | None:
    """The IP address, or None if the text is not one. A scoped address (`fe80::1%eth0`) is valid on one host only, so
    it is None as well.
    """
    try:
        return None if "%" in text else unmap_ipv4(ipaddress.ip_address(text))
    except ValueError:
        return None


def parse_san(text: str) -> SAN:
    """An IP address if the text is one, otherwise a DNS name in lower case; as a kubelet reads it."""
    return parse_address(text) or text.lower()


# --- the evidence -------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Inventory:
    """The content of the inventory file: the names and addresses of each node, and the owner of each."""

    entries: Mapping[str, frozenset[SAN]]
    owners: Mapping[SAN, str]


@dataclasses.dataclass(frozen=True, slots=True)
class DNSAnswer:
    """The addresses of a name, or the names of an address. `problem` is set if the lookup failed."""

    records: tuple[SAN, ...] = ()
    problem: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Evidence:
    """What is known about the names of one node. `claims` are those in its Node object, None if there is no Node.
    `other_claimants` are the other nodes that claim a name. `inventory` is None if there is no file, or if it was never
    readable; `inventory_problem` is set while the file is unreadable. `dns_answers` are by the name or address that was
    looked up.
    """

    claims: frozenset[SAN] | None = None
    other_claimants: Mapping[SAN, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    inventory: Inventory | None = None
    inventory_problem: str = ""
    dns_answers: Mapping[SAN, DNSAnswer] = dataclasses.field(default_factory=dict)


# --- Node objects -------------------------------------------------------------------------------------------------

_IP_TYPES: Final = ("InternalIP", "ExternalIP")
_DNS_TYPES: Final = ("InternalDNS", "ExternalDNS")


def requested_sans(node: Node) -> frozenset[SAN]:
    """The names and addresses that the kubelet of a Node requests. Source: kubernetes,
    `pkg/kubelet/certificate/kubelet.go`.
    """
    sans = set()
    for entry in node.status.addresses:
        san = parse_san(entry.address)
        is_name = isinstance(san, str)
        is_requested = (
            entry.type == "Hostname",
            entry.type in _DNS_TYPES and is_name,
            entry.type in _IP_TYPES and not is_name,
        )
        if entry.address and any(is_requested):
            sans.add(san)
    return frozenset(sans)


class NodeClaims:
    """The names and addresses that Node objects claim, and which nodes claim each. `update` has to be called for every
    change of a Node.
    """

    def __init__(self, informer: Informer[Node]) -> None:
        self._nodes = informer
        self._claims: dict[str, frozenset[SAN]] = {}
        self._claimants: dict[SAN, set[str]] = {}

    def update(self, node_name: str) -> frozenset[SAN]:
        """Read a Node that was added, changed or deleted; returns the names that it claims or released since."""
        before = self._claims.pop(node_name, frozenset())
        node = self._nodes.get(node_name)
        # The name of a node is always its own, whatever addresses it reports.
        after = frozenset() if node is None else requested_sans(node) | {node_name}
        for san in before - after:
            self._claimants[san].discard(node_name)
            if not self._claimants[san]:
                del self._claimants[san]
        for san in after - before:
            self._claimants.setdefault(san, set()).add(node_name)
        if after:
            self._claims[node_name] = after
        return before ^ after

    def of_node(self, node_name: str) -> frozenset[SAN] | None:
        """The names that a node claims; None if there is no such Node."""
        node = self._nodes.get(node_name)
        return None if node is None else requested_sans(node)

    def other_claimants(self, san: SAN, node_name: str) -> tuple[str, ...]:
        """The nodes other than this one that claim a name."""
        return tuple(sorted(self._claimants.get(san, set()) - {node_name}))


# --- the inventory ------------------------------------------------------------------------------------------------


def parse_inventory(data: bytes) -> Inventory:
    """Parse an inventory: YAML, a list of names and addresses for each node. Raises SetupError."""
    try:
        document = goyaml.load(data)
        problems = [f"duplicate key {key}" for key in goyaml.find_duplicates(data)]
    except goyaml.YAMLError as error:
        raise SetupError(str(error)) from error
    if not isinstance(document, dict):
        raise SetupError("must be a mapping from node names to lists of names and addresses")
    entries: dict[str, frozenset[SAN]] = {}
    owners: dict[SAN, str] = {}
    for node, items in document.items():
        problems += _entry_problems(node, items)
        is_readable = isinstance(items, list) and all(isinstance(item, str) for item in items)
        entries[node] = frozenset(map(parse_san, items)) if is_readable else frozenset()
        for san in entries[node]:
            if owners.setdefault(san, node) != node:
                problems.append(f"{san} is assigned to both {owners[san]} and {node}")
    if problems:
        raise SetupError("; ".join(problems[:_MAX_PROBLEMS]))
    return Inventory(MappingProxyType(entries), MappingProxyType(owners))


def _entry_problems(node: str, items: object) -> list[str]:
    problems = [f"{node} is not a valid node name"] if names.dns1123_subdomain_problems(node) else []
    if not isinstance(items, list):
        return [*problems, f"{node}: must be a list of names and addresses"]
    for item in items:
        if not isinstance(item, str):
            problems.append(f"{node}: {item!r} is not a string")
        elif parse_address(item) is None and names.dns1123_subdomain_problems(item.lower()):
            problems.append(f"{node}: {item!r} is neither an IP address nor a DNS name")
    return problems


class InventoryFile:
    """The inventory in a file that is reloaded when it changes. While the file is unreadable or invalid the previous
    inventory stays in use; the problem is logged once.
    """

    def __init__(self, path: pathlib.Path, clock: Clock, wakeup: Wakeup | None = None) -> None:
        self._path = path
        self._clock = clock
        self._wakeup = wakeup or Wakeup()
        self._completion = CompletionCheck()
        self._data: bytes | None = None
        self.inventory: Inventory | None = None
        self.problem = ""
        self.reload(is_requested=True)

    def reload(self, *, is_requested: bool = False) -> bool:
        """Read the file. New content is used when two successive calls have read it, and at once with `is_requested`.
        Returns whether there is a new inventory; if the file cannot be used, see `problem`.
        """
        try:
            data = self._read()
            is_complete = self._completion.is_complete(data, is_requested=is_requested)
            if data == self._data:
                self.problem = ""
                return False
            if not is_complete:
                return False
            inventory = parse_inventory(data)
        except (OSError, SetupError) as error:
            self._set_problem(str(error))
            return False
        self._data, self.inventory, self.problem = data, inventory, ""
        return True

    async def run(self, on_change: Callable[[], None]) -> None:
        """Check the file periodically until cancelled; `on_change` is called when there is a new inventory."""
        while True:
            is_requested = await self._wakeup.sleep(self._clock, reload.INTERVAL_SECONDS)
            if await asyncio.to_thread(self.reload, is_requested=is_requested):
                _log.info("inventory reloaded", extra={"path": self._path})
                on_change()

    def _read(self) -> bytes:
        if self._path.exists() and not self._path.is_file():
            raise SetupError("not a regular file")
        with self._path.open("rb") as file:
            data = file.read(_MAX_FILE_SIZE + 1)
        if len(data) > _MAX_FILE_SIZE:
            raise SetupError(f"larger than {_MAX_FILE_SIZE} bytes")
        return data

    def _set_problem(self, problem: str) -> None:
        if problem != self.problem:
            text = "inventory reload failed; keeping the previous inventory"
            if self.inventory is None:
                text = "inventory load failed; no request will be approved"
            _log.warning(text, extra={"path": self._path, "error": problem})
        self.problem = problem


# --- DNS ----------------------------------------------------------------------------------------------------------


class ResolutionFailed(CertplaneError):
    """A DNS lookup failed: the resolver returned neither records nor a negative answer."""


class Resolver(Protocol):
    """Looks up names and addresses in DNS. A negative answer is an empty sequence; raises ResolutionFailed."""

    async def addresses(self, name: str) -> Sequence[Address]:
        """The addresses of an absolute name."""
        ...

    async def names(self, address: Address) -> Sequence[str]:
        """The names of an address."""
        ...


async def resolve(resolver: Resolver | None, san: SAN) -> DNSAnswer:
    """Look up the addresses of a name, or the names of an address."""
    if resolver is None:
        return DNSAnswer(problem="DNS is disabled")
    try:
        if isinstance(san, str):
            return DNSAnswer(tuple(sorted(set(map(unmap_ipv4, await resolver.addresses(san))), key=str)))
        return DNSAnswer(tuple(sorted({name.lower().removesuffix(".") for name in await resolver.names(san)})))
    except ResolutionFailed as error:
        return DNSAnswer(problem=str(error))


_THREADS: Final = 16
#: The codes of a negative answer: of getaddrinfo (RFC 3493), and of gethostbyaddr (HOST_NOT_FOUND and NO_DATA of
#: netdb.h). Their numbers overlap on some systems.
_NO_ADDRESS: Final = frozenset({socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)})
_NO_NAME: Final = frozenset({1, 4})


class SystemResolver:
    """The resolver of the operating system. It runs in threads of its own, because its calls block and cannot be
    cancelled. `timeout` is in seconds.
    """

    def __init__(self, clock: Clock, timeout: float) -> None:
        self._clock = clock
        self._timeout = timeout
        self._threads: concurrent.futures.ThreadPoolExecutor | None = None

    async def addresses(self, name: str) -> Sequence[Address]:
        # The trailing dot makes the name absolute: the search list of a pod would add the domains of Services.
        lookup = functools.partial(socket.getaddrinfo, f"{name}.", None, type=socket.SOCK_STREAM)
        rows = await self._run_with_timeout(lookup)
        parsed = (parse_address(str(row[4][0]).partition("%")[0]) for row in rows or ())
        return [address for address in parsed if address is not None]

    async def names(self, address: Address) -> Sequence[str]:
        host = await self._run_with_timeout(functools.partial(socket.gethostbyaddr, str(address)))
        return () if host is None else [name for name in (host[0], *host[1]) if name]

    async def _run_with_timeout(self, lookup: Callable[[], T]) -> T | None:
        """The result of a lookup; None for a negative answer."""
        if self._threads is None:
            self._threads = concurrent.futures.ThreadPoolExecutor(_THREADS, thread_name_prefix="certplane-dns")
        running = asyncio.get_running_loop().run_in_executor(self._threads, lookup)
        try:
            return await clock.wait_for(self._clock, running, self._timeout)
        except TimeoutError as error:
            raise ResolutionFailed(f"no answer within {self._timeout:g}s") from error
        except OSError as error:
            negative = {socket.gaierror: _NO_ADDRESS, socket.herror: _NO_NAME}.get(type(error), frozenset())
            if error.errno in negative:
                return None
            raise ResolutionFailed(error.strerror or str(error)) from error

    def close(self) -> None:
        """Cancel pending lookups. A later lookup starts new threads."""
        threads, self._threads = self._threads, None
        if threads is not None:
            threads.shutdown(wait=False, cancel_futures=True)
