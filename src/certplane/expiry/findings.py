"""What sources find: certificates, revocation lists and problems, each with its place; and how many of them are kept.

Whoever can write to a place that is watched chooses how many certificates are in it. So a reading keeps a limited
number: those that end soonest, because these are what the watch is for. It counts the others.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Iterable, Sequence
from typing import Final, Protocol

from certplane.x509.trust.inventory import Item

#: Of things that are not certificates, such as problems.
_NEVER: Final = datetime.datetime.max.replace(tzinfo=datetime.UTC)

#: Names and values of metrics' labels.
Labels = tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """A certificate, a revocation list or a problem. `path` and `place` say where it is, to people: a file and a part
    of it, or an object and a key. `labels` say the same to machines. A revocation list has its own times in `item`:
    `not_after` is when the next list is due.
    """

    path: str
    place: str
    labels: Labels
    item: Item
    is_revocation_list: bool = False


class SourceProblem(Exception):
    """A source that cannot be read as a whole. The text holds no secret."""


class Collector:
    """Keeps what a source finds: at most `limit` certificates, those that end soonest, and as many problems."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._dated: list[Finding] = []
        self._problems: list[Finding] = []
        #: How many certificates and revocation lists there are, with those that are not kept.
        self.certificates = 0
        #: How many certificates, lists and problems are not kept.
        self.omitted = 0

    def add(self, finding: Finding) -> None:
        """Add what was found."""
        if finding.item.not_after is None:
            # Notes, such as that of an encrypted key, are for people who look at one file.
            if finding.item.problem or finding.is_revocation_list:
                self._add(self._problems, finding)
            return
        self.certificates += 1
        self._add(self._dated, finding)

    def _add(self, kept: list[Finding], finding: Finding) -> None:
        kept.append(finding)
        # Sorting seldom, and so many at once, costs little for each.
        if len(kept) > 2 * self._limit:
            self._cut(kept)

    def _cut(self, kept: list[Finding]) -> None:
        kept.sort(key=_end)
        self.omitted += max(0, len(kept) - self._limit)
        del kept[self._limit :]

    def findings(self) -> Sequence[Finding]:
        """What is kept: what ends soonest first, then the problems."""
        self._cut(self._dated)
        self._cut(self._problems)
        return (*self._dated, *self._problems)


def _end(finding: Finding) -> datetime.datetime:
    return finding.item.not_after or _NEVER


class Source(Protocol):
    """A place with certificates. `name` is unique; `kind` is one of few words."""

    @property
    def name(self) -> str: ...

    @property
    def kind(self) -> str: ...

    async def read(self, findings: Collector) -> None:
        """Read everything. What cannot be read of it becomes a problem. Raises SourceProblem if nothing can be read.

        The caller limits the time, by cancelling; a later reading may begin while the former one has not ended yet.
        """
        ...


def all_of(items: Iterable[Finding], findings: Collector) -> None:
    """Add several."""
    for item in items:
        findings.add(item)
