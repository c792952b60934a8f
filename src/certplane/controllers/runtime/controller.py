"""The work queue and the workers that every controller is made of.

A key is handled by one worker at a time; if it is added meanwhile, it is handled once more afterwards. A key that
failed is retried after a delay that doubles each time, up to 1000 s, and all retries together are limited to ten a
second with a burst of a hundred. Source: kubernetes, `pkg/controller/certificates/certificate_controller.go`;
client-go `util/workqueue`.
"""

from __future__ import annotations

import asyncio
import collections
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, TypeVar

from certplane import errors, supervisor
from certplane.client.api import Unreachable
from certplane.client.informer import AnyInformer, Informer
from certplane.clock import Clock
from certplane.meta.objects import Object
from certplane.telemetry import QueueTelemetry
from certplane.tokenbucket import TokenBucket

T = TypeVar("T", bound=Object)

_log = logging.getLogger("certplane.controllers")

#: Seconds before the first retry: of client-go's default queue, and of the CSR controllers' queues.
BASE_DELAY: Final = 0.005
CSR_BASE_DELAY: Final = 0.2
_MAX_DELAY: Final = 1000.0
_RETRIES_PER_SECOND: Final = 10.0
_RETRY_BURST: Final = 100
#: Doublings of the base delay, at most: a key may fail for months, and 2**n must stay a float.
_MAX_DOUBLINGS: Final = 20


class Retry(errors.CertplaneError):
    """Handling a key failed and has to be retried. `quiet`: the failure is expected, so it is logged at DEBUG. `reason`
    is a code. `on_scheduled` is called with the seconds until the retry; it records the failure instead of the log.
    """

    def __init__(
        self,
        message: str,
        *,
        quiet: bool = False,
        reason: str = "",
        on_scheduled: Callable[[float], None] | None = None,
    ) -> None:
        super().__init__(message)
        self.quiet = quiet
        self.reason = reason
        self.on_scheduled = on_scheduled


class WorkQueue:
    """The keys that wait for a worker, without duplicates, in the order in which they were added."""

    def __init__(self, clock: Clock, telemetry: QueueTelemetry, *, base_delay: float = BASE_DELAY) -> None:
        self.clock = clock
        self._base_delay = base_delay
        self._telemetry = telemetry
        self._waiting: collections.deque[str] = collections.deque()
        #: When each waiting key was added, and when the handling of each key in work began.
        self._added_at: dict[str, float] = {}
        self._started_at: dict[str, float] = {}
        #: Keys that were added while they were handled.
        self._dirty: set[str] = set()
        self._failures: dict[str, int] = {}
        self._retries = TokenBucket(clock, _RETRIES_PER_SECOND, _RETRY_BURST)
        #: Workers that wait for a key: each key that is added wakes one of them.
        self._idle: collections.deque[asyncio.Future[None]] = collections.deque()
        self._delayed: dict[str, tuple[float, asyncio.Task[None]]] = {}
        telemetry.depth = self.__len__
        telemetry.running = lambda: [clock.monotonic() - started_at for started_at in self._started_at.values()]

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, key: str) -> None:
        """Add a key, unless it is waiting already."""
        if key in self._started_at:
            self._dirty.add(key)
        elif key not in self._added_at:
            self._added_at[key] = self.clock.monotonic()
            self._waiting.append(key)
            self._telemetry.adds += 1
            self._wake_worker()

    async def get(self) -> str:
        """Wait for the next key. The worker calls `done` after handling it."""
        while not self._waiting:
            waiter = asyncio.get_running_loop().create_future()
            self._idle.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                if waiter.done() and not waiter.cancelled() and self._waiting:
                    # This worker was woken for a key and is cancelled: another one has to take it.
                    self._wake_worker()
                raise
        key = self._waiting.popleft()
        now = self.clock.monotonic()
        self._telemetry.waiting.add(now - self._added_at.pop(key))
        self._started_at[key] = now
        return key

    def _wake_worker(self) -> None:
        while self._idle:
            waiter = self._idle.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    def done(self, key: str) -> None:
        """Mark a key as handled; it waits again if it was added meanwhile."""
        self._telemetry.working.add(self.clock.monotonic() - self._started_at.pop(key))
        if key in self._dirty:
            self._dirty.discard(key)
            self.add(key)

    def forget(self, key: str) -> None:
        """Reset the retry delay of a key that succeeded."""
        self._failures.pop(key, None)

    def add_rate_limited(self, key: str) -> float:
        """Add a key that failed after its retry delay; returns the delay in seconds."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        self._telemetry.retries += 1
        backoff = min(self._base_delay * 2 ** min(failures, _MAX_DOUBLINGS), _MAX_DELAY)
        delay: float = max(backoff, self._retries.reserve())
        self.add_after(key, delay)
        return delay

    def add_after(self, key: str, seconds: float) -> None:
        """Add a key after a delay, unless it is added earlier anyway."""
        due = self.clock.monotonic() + seconds
        if key in self._delayed:
            earlier, task = self._delayed[key]
            if earlier <= due:
                return
            task.cancel()
        self._delayed[key] = due, asyncio.ensure_future(self._add_delayed(key, seconds))

    def close(self) -> None:
        """Stop all timers. Their keys are added now, so that workers that are started again find them."""
        delayed, self._delayed = self._delayed, {}
        for key, (_, task) in delayed.items():
            task.cancel()
            self.add(key)

    async def _add_delayed(self, key: str, delay: float) -> None:
        await self.clock.sleep(delay)
        del self._delayed[key]
        self.add(key)


#: Reconciles what a key names. Raises Retry, errors.APIError, Unreachable.
Handler = Callable[[str], Awaitable[None]]
#: The keys to queue when an object has changed.
KeyFunc = Callable[[T], Iterable[str]]


def name_key(obj: Object) -> list[str]:
    """The key of a controller whose keys are the names of the objects."""
    return [obj.metadata.name]


def namespace_key(obj: Object) -> list[str]:
    """The key of a controller whose keys are namespaces."""
    return [obj.metadata.namespace]


def with_object(informer: Informer[T], handle_object: Callable[[T], Awaitable[None]]) -> Handler:
    """A handler that looks up the object of a key in an informer, and does nothing if it was deleted. The object is
    shared and must not be changed.
    """

    async def handle(key: str) -> None:
        obj = informer.get(key)
        if obj is not None:
            await handle_object(obj)

    return handle


def measure(handler: Handler, clock: Clock, observe: Callable[[int, float], None]) -> Handler:
    """The same handler; `observe` is called with the HTTP code of each sync (200 if it succeeded) and its seconds."""

    async def handle(key: str) -> None:
        started_at, code = clock.monotonic(), 500
        try:
            await handler(key)
            code = 200
        except errors.APIError as error:
            code = error.code
            raise
        finally:
            observe(code, clock.monotonic() - started_at)

    return handle


async def create_in_namespace(creation: Awaitable[T]) -> None:
    """Await the creation of an object that every namespace has. It is no error if the object exists already, or if the
    namespace is gone or terminating.
    """
    try:
        await creation
    except (errors.AlreadyExists, errors.NotFound):
        return
    except errors.Forbidden as error:
        causes = (error.details or {}).get("causes", ())
        if not any(cause.get("reason") == "NamespaceTerminating" for cause in causes):
            raise


class Controller:
    """Workers that handle the keys of a queue, and the informers that fill it."""

    def __init__(self, name: str, queue: WorkQueue, handler: Handler, *, workers: int) -> None:
        self.name = name
        self._queue = queue
        self._handler = handler
        self._workers = workers
        self._informers: list[AnyInformer] = []

    def watch(self, informer: Informer[T], keys: KeyFunc[T] = name_key) -> Controller:
        """Queue the keys of each object that changes in an informer."""

        def on_change(before: T | None, after: T | None) -> None:
            obj = after if after is not None else before
            if obj is not None:
                for key in keys(obj):
                    self._queue.add(key)

        informer.subscribe(on_change)
        self._informers.append(informer)
        return self

    async def run(self) -> None:
        """Handle keys until cancelled; begins when all informers have synced."""
        for informer in self._informers:
            await informer.synced.wait()
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._workers):
                    group.create_task(self._work())
        finally:
            self._queue.close()

    async def _work(self) -> None:
        while True:
            key = await self._queue.get()
            try:
                await self._handler(key)
                self._queue.forget(key)
            except (Retry, errors.APIError, Unreachable) as error:
                self._retry(key, error)
            except Exception:
                # A bug that one object triggers must not stop the work on all others.
                _log.exception("sync failed", extra={"controller": self.name, "object": key})
                self._queue.add_rate_limited(key)
            except asyncio.CancelledError:
                if supervisor.is_cancelled():
                    # The key is handled again if the workers are started again.
                    self._queue.add(key)
                    raise
                extra = {"controller": self.name, "object": key, "error": supervisor.AWAITED_CANCELLED}
                _log.warning("sync failed", extra=extra)
                self._queue.add_rate_limited(key)
            finally:
                self._queue.done(key)

    def _retry(self, key: str, error: errors.CertplaneError) -> None:
        on_scheduled = error.on_scheduled if isinstance(error, Retry) else None
        is_quiet = on_scheduled is not None or (isinstance(error, Retry) and error.quiet)
        extra = {"controller": self.name, "object": key, "error": str(error)}
        _log.log(logging.DEBUG if is_quiet else logging.WARNING, "sync failed", extra=extra)
        delay = self._queue.add_rate_limited(key)
        if on_scheduled is not None:
            on_scheduled(delay)
