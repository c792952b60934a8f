"""Limits on requests in flight: how many at once, and for how long.

A request that arrives while too many others are in flight is refused with 429; one that passes its deadline is
cancelled. Reads and writes are counted separately, so that a flood of one kind does not block the other. Watches are
long-running: they are neither counted nor cancelled here. Members of system:masters are never refused, so that an
administrator can always diagnose an overloaded server. Source: `k8s.io/apiserver/pkg/server/filters/maxinflight.go`,
`.../endpoints/filters/request_deadline.go`.
"""

from __future__ import annotations

import asyncio
from typing import Final

from certplane.clock import Clock
from certplane.config.servesettings import RequestLimits
from certplane.meta import options
from certplane.server.exchange import Request
from certplane.telemetry import Telemetry

_READS: Final = frozenset({"get", "list", "watch", "head", "options"})
_SUPERUSERS: Final = "system:masters"
#: Seconds between two checks of the deadlines.
CHECK_INTERVAL: Final = 1.0


class InFlightRequest:
    """A request in flight. `timed_out` is set once it was cancelled at its deadline."""

    __slots__ = ("deadline", "is_read", "task", "timed_out")

    def __init__(self, *, is_read: bool, deadline: float, task: asyncio.Task[object] | None) -> None:
        self.is_read = is_read
        self.deadline = deadline
        self.task = task
        self.timed_out = False


class InFlightLimiter:
    """Counts the requests in flight and enforces the limits."""

    def __init__(self, clock: Clock, limits: RequestLimits, telemetry: Telemetry) -> None:
        self._clock = clock
        self._max_reads = limits.max_requests_inflight
        self._max_writes = limits.max_mutating_requests_inflight
        self._timeout = limits.request_timeout.total_seconds()
        self._reads = self._writes = 0
        self._requests: set[InFlightRequest] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        telemetry.observe_inflight(lambda: self._reads, lambda: self._writes)

    def admit(self, request: Request) -> InFlightRequest | None:
        """Count a request, until it is passed to `release`; None if too many requests are in flight."""
        is_read = request.info.verb in _READS
        if request.identity is not None:
            # In-process calls have no limit, and the limiter must not cancel their tasks.
            in_flight = InFlightRequest(is_read=is_read, deadline=0.0, task=None)
        else:
            is_full = self._reads >= self._max_reads if is_read else self._writes >= self._max_writes
            if is_full and _SUPERUSERS not in request.user.groups:
                return None
            seconds = min(options.timeout(request.query) or self._timeout, self._timeout)
            # asyncio.get_running_loop() costs a system call each time.
            self._loop = self._loop or asyncio.get_running_loop()
            task = asyncio.current_task(self._loop)
            in_flight = InFlightRequest(is_read=is_read, deadline=self._clock.monotonic() + seconds, task=task)
            self._requests.add(in_flight)
        if is_read:
            self._reads += 1
        else:
            self._writes += 1
        return in_flight

    def release(self, in_flight: InFlightRequest) -> None:
        """The request has ended."""
        self._requests.discard(in_flight)
        if in_flight.is_read:
            self._reads -= 1
        else:
            self._writes -= 1

    async def cancel_timed_out(self) -> None:
        """Cancel the requests that have passed their deadline. Call it every CHECK_INTERVAL seconds."""
        now = self._clock.monotonic()
        # One scan a second costs less than a timer for each request.
        late = [in_flight for in_flight in self._requests if in_flight.deadline < now and not in_flight.timed_out]
        for in_flight in late:
            in_flight.timed_out = True
            if in_flight.task is not None:
                in_flight.task.cancel()
