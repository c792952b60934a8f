"""Who says that a name or an address is a node's: the evidence about a serving certificate, and where it comes from.

- Node objects: what kubelets say about themselves (`Claims`). A kubelet writes its own status, so of its owner this
  proves nothing but that it wants the name; of a name that *another* claims it proves that there is a dispute.
- The inventory: a file of the administrator's (`Inventory`): each name and address belongs to one node.
- DNS (`Resolver`): where a name leads, and what an address is called; as true as the way to the resolver is safe.

All of it is gathered into an `Evidence`, which is data: judging it needs no I/O. Names are compared in lower case, and
an IPv4 address that is written as IPv6 is the IPv4 address.
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
from typing import Any, Final, Protocol, TypeVar

from certplane import clock as clocks
from certplane import errors, reload
from certplane.client import informer
from certplane.meta import goyaml, names
from certplane.resources import nodes

_log = logging.getLogger("certplane.controllers")

T = TypeVar("T")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
#: A subject alternative name: a DNS name in lower case, or an address.
San = str | Address

_LOOK_SECONDS: Final = 10.0
_LARGEST_FILE: Final = 8 << 20
_MOST_PROBLEMS: Final = 10


def plain(address: Address) -> Address:
    """The address that is meant: `::ffff:10.0.0.1` is 10.0.0.1, and clients take it for that."""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def address(text: str) -> Address | None:
    """The address that a text is; None if it is none. One with a zone means something on one machine only."""
    try:
        return None if "%" in text else plain(ipaddress.ip_address(text))
    except ValueError:
        return None


def san(text: str) -> San:
    """What a kubelet makes of a name or address."""
    return address(text) or text.lower()


# --- the evidence -------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Listing:
    """An inventory: what belongs to each node, and whose each name and address is."""

    entries: Mapping[str, frozenset[San]]
    owners: Mapping[San, str]


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """What DNS says: addresses of a name, or names of an address. A `problem` says why it said nothing."""

    found: tuple[San, ...] = ()
    problem: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Evidence:
    """Everything that is known about a node's names. `claims` are what its Node says, None if there is no Node;
    `disputes` who else claims something; `answers` what DNS said, by what it was asked. A `listing` of None was never
    read.
    """

    claims: frozenset[San] | None = None
    disputes: Mapping[San, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    listing: Listing | None = None
    listing_problem: str = ""
    answers: Mapping[San, Answer] = dataclasses.field(default_factory=dict)


# --- Node objects -------------------------------------------------------------------------------------------------

_IP_TYPES: Final = ("InternalIP", "ExternalIP")
_DNS_TYPES: Final = ("InternalDNS", "ExternalDNS")


def claims_of(node: nodes.Node) -> frozenset[San]:
    """The names that its kubelet would ask for. Source: kubernetes, `pkg/kubelet/certificate/kubelet.go`."""
    found = set()
    for each in node.status.addresses:
        said = san(each.address)
        is_name = isinstance(said, str)
        fits = (each.type == "Hostname", each.type in _DNS_TYPES and is_name, each.type in _IP_TYPES and not is_name)
        if each.address and any(fits):
            found.add(said)
    return frozenset(found)


class Claims:
    """What Node objects say, and who says the same. Knows what `changed` was told."""

    def __init__(self, machines: informer.Informer) -> None:
        self._machines = machines
        self._known: dict[str, frozenset[San]] = {}
        self._claimants: dict[San, set[str]] = {}

    def changed(self, node: str) -> frozenset[San]:
        """Look at a node that came, changed or went; what it claims now and did not before, or the reverse."""
        before = self._known.pop(node, frozenset())
        found = self._machines.get(node)
        # Nobody else's certificate is for the name of a node, whatever addresses that has.
        now = frozenset() if found is None else claims_of(found) | {node}
        for each in before - now:
            self._claimants[each].discard(node)
            if not self._claimants[each]:
                del self._claimants[each]
        for each in now - before:
            self._claimants.setdefault(each, set()).add(node)
        if now:
            self._known[node] = now
        return before ^ now

    def of(self, node: str) -> frozenset[San] | None:
        """What a node claims; None if there is no such Node."""
        found = self._machines.get(node)
        return None if found is None else claims_of(found)

    def others(self, claimed: San, node: str) -> tuple[str, ...]:
        """The nodes but this one that claim something."""
        return tuple(sorted(self._claimants.get(claimed, set()) - {node}))


# --- the inventory ------------------------------------------------------------------------------------------------


def read_listing(data: bytes) -> Listing:
    """The inventory in a YAML document: a list of names and addresses for each node. Raises SetupError."""
    try:
        said = goyaml.load(data)
        problems = [f"{each} is there twice" for each in goyaml.duplicates(data)]
    except goyaml.Problem as error:
        raise errors.SetupError(str(error)) from error
    if not isinstance(said, dict):
        raise errors.SetupError("it is no mapping of nodes to their names and addresses")
    entries: dict[str, frozenset[San]] = {}
    owners: dict[San, str] = {}
    for node, listed in said.items():
        problems += _entry_problems(node, listed)
        found = frozenset(map(san, listed)) if isinstance(listed, list) and all(map(_is_text, listed)) else frozenset()
        for each in found:
            if owners.setdefault(each, node) != node:
                problems.append(f"{each} is given to both {owners[each]} and {node}")
        entries[node] = found
    if problems:
        raise errors.SetupError("; ".join(problems[:_MOST_PROBLEMS]))
    return Listing(MappingProxyType(entries), MappingProxyType(owners))


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _entry_problems(node: str, listed: Any) -> list[str]:
    problems = [f"{node} cannot be the name of a node"] if names.dns1123_subdomain_problems(node) else []
    if not isinstance(listed, list):
        return [*problems, f"{node} has no list of names and addresses"]
    for each in listed:
        if not isinstance(each, str):
            problems.append(f"{node}: {each!r} is no text")
        elif address(each) is None and names.dns1123_subdomain_problems(each.lower()):
            problems.append(f"{node}: {each!r} is neither an address nor a DNS name")
    return problems


class Inventory:
    """A file that is followed. What cannot be read is told once, and what was read before goes on counting."""

    def __init__(self, path: pathlib.Path, clock: clocks.Clock, wakeup: reload.Wakeup | None = None) -> None:
        self._path = path
        self._clock = clock
        self._wakeup = wakeup or reload.Wakeup()
        self._data: bytes | None = None
        self.listing: Listing | None = None
        self.problem = ""
        self.look()

    def look(self) -> bool:
        """Read the file; whether what it says has changed."""
        try:
            data = self._read()
            if data == self._data and not self.problem:
                return False
            listing = read_listing(data)
        except (OSError, errors.SetupError) as error:
            self._complain(str(error))
            return False
        changed = data != self._data
        self._data, self.listing, self.problem = data, listing, ""
        return changed

    async def run(self, changed: Callable[[], None]) -> None:
        """Follow the file until cancelled; `changed` is called when it says something else."""
        while True:
            await self._wakeup.sleep(self._clock, _LOOK_SECONDS)
            if await asyncio.to_thread(self.look):
                _log.info("inventory read", extra={"file": str(self._path)})
                changed()

    def _read(self) -> bytes:
        if self._path.exists() and not self._path.is_file():
            raise errors.SetupError("it is no file")
        with self._path.open("rb") as file:
            data = file.read(_LARGEST_FILE + 1)
        if len(data) > _LARGEST_FILE:
            raise errors.SetupError(f"it has more than {_LARGEST_FILE} bytes")
        return data

    def _complain(self, problem: str) -> None:
        if problem != self.problem:
            _log.warning("inventory cannot be read", extra={"file": str(self._path), "problem": problem})
        self.problem = problem


# --- DNS ----------------------------------------------------------------------------------------------------------


class Unanswered(errors.CertplaneError):
    """DNS was asked and did not say: neither that there is something nor that there is nothing."""


class Resolver(Protocol):
    """Asks DNS. Nothing found is an empty answer; raises Unanswered where there is none."""

    async def addresses(self, name: str) -> Sequence[Address]:
        """The addresses of an absolute name."""
        ...

    async def names(self, address: Address) -> Sequence[str]:
        """What an address is called."""
        ...


async def ask(resolver: Resolver | None, question: San) -> Answer:
    """The addresses of a name, or the names of an address."""
    if resolver is None:
        return Answer(problem="DNS is not to be asked")
    try:
        if isinstance(question, str):
            return Answer(tuple(sorted(set(map(plain, await resolver.addresses(question))), key=str)))
        return Answer(tuple(sorted({each.lower().removesuffix(".") for each in await resolver.names(question)})))
    except Unanswered as error:
        return Answer(problem=str(error))


_THREADS: Final = 16
#: What getaddrinfo says when DNS says that there is nothing (RFC 3493), and gethostbyaddr: HOST_NOT_FOUND and NO_DATA
#: of netdb.h. Their numbers overlap on some systems.
_NO_ADDRESS: Final = frozenset({socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)})
_NO_NAME: Final = frozenset({1, 4})


class SystemResolver:
    """The machine's own resolver, with threads of its own: it cannot be interrupted, and must not hold up others."""

    def __init__(self, clock: clocks.Clock, seconds: float) -> None:
        self._clock = clock
        self._seconds = seconds
        self._threads: concurrent.futures.ThreadPoolExecutor | None = None

    async def addresses(self, name: str) -> Sequence[Address]:
        # With a dot at its end a name is absolute: the search list of a pod leads to whoever has a Service.
        work = functools.partial(socket.getaddrinfo, f"{name}.", None, type=socket.SOCK_STREAM)
        rows = await self._within(work)
        return [found for row in rows or () if (found := address(str(row[4][0]).partition("%")[0])) is not None]

    async def names(self, address: Address) -> Sequence[str]:
        found = await self._within(functools.partial(socket.gethostbyaddr, str(address)))
        return () if found is None else [each for each in (found[0], *found[1]) if each]

    async def _within(self, work: Callable[[], T]) -> T | None:
        """What comes of it in time; None if DNS says that there is nothing."""
        if self._threads is None:
            self._threads = concurrent.futures.ThreadPoolExecutor(_THREADS, thread_name_prefix="certplane-dns")
        asked: asyncio.Future[Any] = asyncio.get_running_loop().run_in_executor(self._threads, work)
        patience: asyncio.Future[Any] = asyncio.ensure_future(self._clock.sleep(self._seconds))
        try:
            await asyncio.wait((asked, patience), return_when=asyncio.FIRST_COMPLETED)
            if not asked.done():
                raise Unanswered(f"no answer within {self._seconds:g}s")
            found: T = asked.result()
            return found
        except OSError as error:
            codes = {socket.gaierror: _NO_ADDRESS, socket.herror: _NO_NAME}.get(type(error), frozenset())
            if error.errno in codes:
                return None
            raise Unanswered(error.strerror or str(error)) from error
        finally:
            asked.cancel()
            patience.cancel()

    def close(self) -> None:
        """End the questions under way. Another one begins anew."""
        threads, self._threads = self._threads, None
        if threads is not None:
            threads.shutdown(wait=False, cancel_futures=True)
