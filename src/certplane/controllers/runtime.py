"""What every controller is made of: a queue of names, workers, and patience.

A name is worked on by one worker at a time; what happens to it meanwhile brings it back afterwards, once. A failure
brings it back later and later: a first delay, doubled each time up to 1000 s, and all retries together no faster than
ten a second beyond a burst of a hundred. Source: kubernetes, `pkg/controller/certificates/certificate_controller.go`;
client-go `util/workqueue`.
"""

from __future__ import annotations

import asyncio
import collections
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

from certplane import clock as clocks
from certplane import errors, supervisor, telemetry
from certplane.client import api, informer

_log = logging.getLogger("certplane.controllers")

#: What client-go's queues wait before the first retry, in seconds; those of the CSR controllers wait longer.
FIRST_DELAY: Final = 0.005
CSR_FIRST_DELAY: Final = 0.2
_LONGEST_DELAY: Final = 1000.0
_RETRIES_PER_SECOND: Final = 10.0
_RETRY_BURST: Final = 100.0


class Retry(errors.CertplaneError):
    """Not done; try again later. `quiet`: the log need not say so. `reason` says why in one word. `told` is called
    with the seconds until then, and tells whom it concerns.
    """

    def __init__(
        self, message: str, *, quiet: bool = False, reason: str = "", told: Callable[[float], None] | None = None
    ) -> None:
        super().__init__(message)
        self.quiet = quiet
        self.reason = reason
        self.told = told


class Queue:
    """Names that wait for a worker."""

    def __init__(
        self, clock: clocks.Clock, figures: telemetry.QueueTelemetry, *, first_delay: float = FIRST_DELAY
    ) -> None:
        self.clock = clock
        self._first_delay = first_delay
        self._figures = figures
        self._waiting: collections.deque[str] = collections.deque()
        self._since: dict[str, float] = {}
        self._working: dict[str, float] = {}
        self._again: set[str] = set()
        self._failures: dict[str, int] = {}
        self._tokens = _RETRY_BURST
        self._refilled = clock.monotonic()
        #: Workers that wait for a name: each name that comes wakes one of them.
        self._idle: collections.deque[asyncio.Future[None]] = collections.deque()
        self._delayed: dict[str, tuple[float, asyncio.Task[None]]] = {}
        figures.depth = self.__len__
        figures.running = lambda: [clock.monotonic() - since for since in self._working.values()]

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, name: str) -> None:
        """Have a name worked on; nothing new if it waits already."""
        if name in self._working:
            self._again.add(name)
        elif name not in self._since:
            self._since[name] = self.clock.monotonic()
            self._waiting.append(name)
            self._figures.adds += 1
            self._wake()

    async def get(self) -> str:
        """The next name. Give it back with `done`."""
        while not self._waiting:
            waiter = asyncio.get_running_loop().create_future()
            self._idle.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                if waiter.done() and not waiter.cancelled() and self._waiting:
                    # It was this one's turn: another one has to take the name.
                    self._wake()
                raise
        name = self._waiting.popleft()
        now = self.clock.monotonic()
        self._figures.waiting.add(now - self._since.pop(name))
        self._working[name] = now
        return name

    def _wake(self) -> None:
        while self._idle:
            waiter = self._idle.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    def done(self, name: str) -> None:
        """A name has been worked on."""
        self._figures.working.add(self.clock.monotonic() - self._working.pop(name))
        if name in self._again:
            self._again.discard(name)
            self.add(name)

    def forget(self, name: str) -> None:
        """It went well: the next failure is the first."""
        self._failures.pop(name, None)

    def retry(self, name: str) -> float:
        """It went wrong: bring the name back later; the seconds until then."""
        failures = self._failures.get(name, 0)
        self._failures[name] = failures + 1
        self._figures.retries += 1
        # The exponent is capped before the power is taken: names fail for months.
        delay: float = max(min(self._first_delay * 2 ** min(failures, 20), _LONGEST_DELAY), self._reserve())
        self.add_after(name, delay)
        return delay

    def add_after(self, name: str, seconds: float) -> None:
        """Have a name worked on after a while; nothing new if it comes back earlier anyway."""
        due = self.clock.monotonic() + seconds
        if name in self._delayed:
            earlier, task = self._delayed[name]
            if earlier <= due:
                return
            task.cancel()
        self._delayed[name] = due, asyncio.ensure_future(self._add_after(name, seconds))

    def close(self) -> None:
        """End what waits for its time: whoever takes names again finds them all."""
        delayed, self._delayed = self._delayed, {}
        for name, (_, task) in delayed.items():
            task.cancel()
            self.add(name)

    async def _add_after(self, name: str, delay: float) -> None:
        await self.clock.sleep(delay)
        del self._delayed[name]
        self.add(name)

    def _reserve(self) -> float:
        """Take a token from the bucket; the seconds until it would have been there."""
        now = self.clock.monotonic()
        self._tokens = min(_RETRY_BURST, self._tokens + (now - self._refilled) * _RETRIES_PER_SECOND)
        self._refilled = now
        self._tokens -= 1
        return max(0.0, -self._tokens / _RETRIES_PER_SECOND)


#: Works on what has a key. Raises Retry, errors.APIError, api.Unreachable.
Handle = Callable[[str], Awaitable[None]]
#: The keys to work on when an object has changed.
Concerned = Callable[[Any], Iterable[str]]


def own_name(of: Any) -> list[str]:
    """The key of what is worked on by its name."""
    return [of.metadata.name]


def its_namespace(of: Any) -> list[str]:
    """The key of what is worked on by the namespace that something is in."""
    return [of.metadata.namespace]


def each(source: informer.Informer, handle: Callable[[Any], Awaitable[None]]) -> Handle:
    """Works on the object of a name; on nothing, if it is gone. It must not be changed."""

    async def look_up(name: str) -> None:
        found = source.get(name)
        if found is not None:
            await handle(found)

    return look_up


def measured(handle: Handle, clock: clocks.Clock, observe: Callable[[int, float], None]) -> Handle:
    """The same work; `observe` is told the code of each round (200 if all went well) and its seconds."""

    async def work(name: str) -> None:
        begun, code = clock.monotonic(), 500
        try:
            await handle(name)
            code = 200
        except errors.APIError as error:
            code = error.code
            raise
        finally:
            observe(code, clock.monotonic() - begun)

    return work


async def into_namespace(creation: Awaitable[Any]) -> None:
    """Create what every namespace has; that somebody else was faster, or that the namespace is going, is no fault."""
    try:
        await creation
    except (errors.AlreadyExists, errors.NotFound):
        return
    except errors.Forbidden as error:
        causes = (error.details or {}).get("causes", ())
        if not any(cause.get("reason") == "NamespaceTerminating" for cause in causes):
            raise


class Controller:
    """Brings everything that has a key to where it should be."""

    def __init__(self, name: str, queue: Queue, handle: Handle, *, workers: int) -> None:
        self.name = name
        self._queue = queue
        self._handle = handle
        self._workers = workers
        self._sources: list[informer.Informer] = []

    def follow(self, source: informer.Informer, concerned: Concerned = own_name) -> Controller:
        """Work on the keys that a change of an object there concerns."""

        def changed(before: Any, after: Any) -> None:
            for key in concerned(after if after is not None else before):
                self._queue.add(key)

        source.subscribe(changed)
        self._sources.append(source)
        return self

    async def run(self) -> None:
        """Work until cancelled."""
        for source in self._sources:
            await source.synced.wait()
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._workers):
                    group.create_task(self._work())
        finally:
            self._queue.close()

    async def _work(self) -> None:
        while True:
            name = await self._queue.get()
            try:
                await self._handle(name)
                self._queue.forget(name)
            except (Retry, errors.APIError, api.Unreachable) as error:
                told = error.told if isinstance(error, Retry) else None
                quiet = told is not None or (isinstance(error, Retry) and error.quiet)
                extra = {"controller": self.name, "object": name, "problem": str(error)}
                _log.log(logging.DEBUG if quiet else logging.WARNING, "sync failed", extra=extra)
                delay = self._queue.retry(name)
                if told is not None:
                    told(delay)
            except Exception:
                # One object that nobody thought of must not stop the work on all others.
                _log.exception("sync failed", extra={"controller": self.name, "object": name})
                self._queue.retry(name)
            except asyncio.CancelledError:
                if supervisor.is_cancelled():
                    # Half done: if the workers are started again, this name is first among others.
                    self._queue.add(name)
                    raise
                extra = {"controller": self.name, "object": name, "problem": supervisor.AWAITED_CANCELLED}
                _log.warning("sync failed", extra=extra)
                self._queue.retry(name)
            finally:
                self._queue.done(name)
