"""How much is done at once, and for how long: the manners of a server under load.

A request that finds too many others under way is turned away at once and told to come again; one that takes too long is
ended. Reads and writes are counted apart, so that a flood of the ones does not stop the others. Watches are long by
nature and neither counted nor ended here; members of system:masters are never turned away, so that somebody can always
look what is going on. Source: `k8s.io/apiserver/pkg/server/filters/maxinflight.go`,
`.../endpoints/filters/request_deadline.go`.
"""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Final

from certplane import clock as clocks
from certplane import telemetry
from certplane.meta import options
from certplane.server import exchange

_READS: Final = frozenset({"get", "list", "watch", "head", "options"})
_SUPERUSERS: Final = "system:masters"
#: How often requests under way are looked at, in seconds.
ROUND: Final = 1.0


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """Requests at once, reads and writes; and the seconds that one may take."""

    reads: int = 400
    writes: int = 200
    seconds: float = 60.0


class Ticket:
    """A request under way. `overdue` once it was ended because it took too long."""

    __slots__ = ("deadline", "is_read", "overdue", "task")

    def __init__(self, *, is_read: bool, deadline: float, task: asyncio.Task[object] | None) -> None:
        self.is_read = is_read
        self.deadline = deadline
        self.task = task
        self.overdue = False


class InFlight:
    """The requests under way."""

    def __init__(self, clock: clocks.Clock, limits: Limits, figures: telemetry.Telemetry) -> None:
        self._clock = clock
        self._limits = limits
        self._reads = self._writes = 0
        self._tickets: set[Ticket] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        figures.in_flight(lambda: self._reads, lambda: self._writes)

    def enter(self, of: exchange.Exchange) -> Ticket | None:
        """A ticket, to be given back with `leave`; None if there are too many others."""
        is_read = of.info.verb in _READS
        if of.identity is not None:
            # Calls from inside wait for nobody outside, and their tasks are not ours to end.
            ticket = Ticket(is_read=is_read, deadline=0.0, task=None)
        else:
            full = self._reads >= self._limits.reads if is_read else self._writes >= self._limits.writes
            if full and _SUPERUSERS not in of.user.groups:
                return None
            seconds = min(options.timeout(of.query) or self._limits.seconds, self._limits.seconds)
            # To ask which loop runs takes a system call, each time.
            self._loop = self._loop or asyncio.get_running_loop()
            task = asyncio.current_task(self._loop)
            ticket = Ticket(is_read=is_read, deadline=self._clock.monotonic() + seconds, task=task)
            self._tickets.add(ticket)
        if is_read:
            self._reads += 1
        else:
            self._writes += 1
        return ticket

    def leave(self, ticket: Ticket) -> None:
        self._tickets.discard(ticket)
        if ticket.is_read:
            self._reads -= 1
        else:
            self._writes -= 1

    async def end_overdue(self) -> None:
        """End what takes too long. Call it every ROUND seconds."""
        now = self._clock.monotonic()
        # One look at all each second costs less than a timer for each.
        for ticket in [each for each in self._tickets if each.deadline < now and not each.overdue]:
            ticket.overdue = True
            if ticket.task is not None:
                ticket.task.cancel()
