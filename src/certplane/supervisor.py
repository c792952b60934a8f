"""Supervises background tasks: a task that fails is restarted with exponential back-off, logged and counted.

There are two kinds of task. `run_every` runs a function periodically; `run_forever` runs a function that must not
return. A task is *late* from its first failure until it works again: until the next round succeeds, or until a run has
lasted a minute. A periodic task is also late when a round takes so long that the next round would be over by now.

This is the one place that may catch every exception: a background task has no caller to report to. It does not
know what the tasks do, and does not supervise threads.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import math
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from certplane.clock import Clock
from certplane.errors import CertplaneError
from certplane.telemetry import Telemetry

_log = logging.getLogger("certplane")

_FIRST_DELAY: Final = 1.0
_LONGEST_DELAY: Final = 60.0
#: A run that has lasted this long counts as working.
_STEADY_SECONDS: Final = 60.0
#: How late a round may be, in addition to one more period: a busy machine is not a fault.
_GRACE_SECONDS: Final = 10.0

#: How long a task may be late before the server reports that it is not ready: one compaction, and longer than a backup
#: takes.
_TOLERATED_SECONDS: Final = 300.0

AWAITED_CANCELLED: Final = "a task that it awaits was cancelled"

Work = Callable[[], Awaitable[None]]


@dataclasses.dataclass(slots=True)
class _State:
    """The state of one task. `period` is infinite for a task that runs forever."""

    period: float
    #: When the present run began; for a periodic task, when the last successful round ended.
    since: float
    failures: int = 0
    failing_since: float | None = None

    def late_since(self, now: float) -> float | None:
        """Since when the task is late; None if it is not."""
        if self.failing_since is not None:
            is_steady = self.period == math.inf and now - self.since >= _STEADY_SECONDS
            return None if is_steady else self.failing_since
        due = self.since + self.period
        return due if now > due + self.period + _GRACE_SECONDS else None


class Supervisor:
    """The background tasks of one process, or of one plane."""

    def __init__(self, clock: Clock, telemetry: Telemetry) -> None:
        self._clock = clock
        self._telemetry = telemetry
        self._states: dict[str, _State] = {}
        self._tasks: list[asyncio.Task[None]] = []
        telemetry.observe_background(self.late_seconds)

    def run_every(self, name: str, seconds: float, work: Work) -> None:
        """Call `work` every `seconds`, for the first time after `seconds`; sooner after a failure."""
        self._tasks.append(asyncio.ensure_future(self._repeat(self._add_state(name, seconds), name, work)))

    def run_forever(self, name: str, run: Work) -> None:
        """Call `run`, which must not return, until it is cancelled; restart it whenever it ends."""
        self._tasks.append(asyncio.ensure_future(self._rerun(self._add_state(name, math.inf), name, run)))

    async def stop(self) -> None:
        """Cancel all tasks, and wait until they have ended."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._states.clear()

    def late_seconds(self) -> Mapping[str, float]:
        """For how many seconds each task is late, by name; 0 for a task that is not."""
        return dict.fromkeys(self._states, 0.0) | self._late()

    def late_too_long(self) -> str | None:
        """Which tasks have been late for so long that an operator must look; None if there are none."""
        return self.problem(_TOLERATED_SECONDS)

    def problem(self, tolerated: float = 0.0) -> str | None:
        """Which tasks have been late for `tolerated` seconds or more; None if there are none."""
        late = {name: seconds for name, seconds in self._late().items() if seconds >= tolerated}
        return ", ".join(self._describe(name, seconds) for name, seconds in late.items()) or None

    def _describe(self, name: str, seconds: float) -> str:
        # A task may be late without a failure: a round takes longer than its period.
        state = "is late by" if self._states[name].failing_since is None else "has been failing for"
        return f"{name} {state} {seconds:.0f}s"

    def _late(self) -> dict[str, float]:
        now = self._clock.monotonic()
        late_since = {name: state.late_since(now) for name, state in self._states.items()}
        return {name: now - since for name, since in late_since.items() if since is not None}

    # --- the tasks --------------------------------------------------------------------------------------------------

    def _add_state(self, name: str, period: float) -> _State:
        if name in self._states:
            raise ValueError(f"there is already a background task called {name}")
        state = self._states[name] = _State(period, self._clock.monotonic())
        return state

    async def _repeat(self, state: _State, name: str, work: Work) -> None:
        pause = state.period
        while True:
            await self._clock.sleep(pause)
            pause = state.period
            error = await _run(work)
            if error is not None:
                pause = min(self._record_failure(state, name, error), pause)
            else:
                self._record_success(state, name)

    async def _rerun(self, state: _State, name: str, run: Work) -> None:
        while True:
            state.since = self._clock.monotonic()
            error = await _run(run) or CertplaneError("the task ended unexpectedly")
            if self._clock.monotonic() - state.since >= _STEADY_SECONDS:
                state.failures, state.failing_since = 0, None
            delay = self._record_failure(state, name, error)
            # While it waits for its restart, it has not begun: it cannot count as steady.
            state.since = math.inf
            await self._clock.sleep(delay)

    def _record_failure(self, state: _State, name: str, error: Exception) -> float:
        """Count and log a failure. Returns the seconds to wait before the next try."""
        now = self._clock.monotonic()
        if state.failing_since is None:
            state.failing_since = now
        delay: float = min(_FIRST_DELAY * 2 ** min(state.failures, 20), _LONGEST_DELAY)
        state.failures += 1
        self._telemetry.count_background_failure(name)
        if state.failures & (state.failures - 1) == 0:
            # Only failures 1, 2, 4, 8...: a task that fails for days must not fill the log.
            extra = {"task": name, "error": str(error), "failures": state.failures, "retry_in": f"{delay:g}s"}
            # The message of an error of ours says enough; any other error needs its traceback.
            traceback = None if isinstance(error, CertplaneError) else error
            _log.error("background task failed", extra=extra, exc_info=traceback)
        return delay

    def _record_success(self, state: _State, name: str) -> None:
        state.since = self._clock.monotonic()
        if state.failing_since is not None:
            seconds = f"{state.since - state.failing_since:.0f}"
            _log.info("background task recovered", extra={"task": name, "after_seconds": seconds})
        state.failures, state.failing_since = 0, None


def is_cancelled() -> bool:
    """Whether a CancelledError cancels the present task itself. If not, something that the task awaits was cancelled,
    which is an ordinary failure.
    """
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


async def _run(work: Work) -> Exception | None:
    """Call `work`. Returns what it raised, None if it succeeded."""
    try:
        await work()
    except asyncio.CancelledError as cancelled:
        if is_cancelled():
            raise
        error = CertplaneError(AWAITED_CANCELLED)
        error.__cause__ = cancelled
        return error
    except Exception as error:
        # A task may fail with anything, also with a bug. It is restarted, and the failure is counted and logged.
        return error
    return None
