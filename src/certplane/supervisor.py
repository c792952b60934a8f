"""Keeps work in the background going: what fails is begun again, later and later, and nothing ends unseen.

Work comes in two forms. `every` does something once in a while; `keep` runs something that never ends by itself. Both
are logged when they fail, counted, and *late* from their first failure on until they work again: the next round has
succeeded, or the run has lasted a minute. Rounds are late, too, when they take so long that the next one would be over.

This is the one place that may catch whatever is raised: a task that nobody awaits has nobody else to tell. It does not
know what the work is, and does not look after threads.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import math
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from certplane import clock as clocks
from certplane import errors, telemetry

_log = logging.getLogger("certplane")

_FIRST_DELAY: Final = 1.0
_LONGEST_DELAY: Final = 60.0
#: What has run for so long works.
_STEADY_SECONDS: Final = 60.0
#: How much later than due a round may be, beside one more period: a busy machine is no fault.
_GRACE_SECONDS: Final = 10.0

#: How long work may be late before a server calls itself unready: one compaction, and longer than a backup takes.
_TOLERATED_SECONDS: Final = 300.0

AWAITED_CANCELLED: Final = "something that it waits for was cancelled"

Work = Callable[[], Awaitable[None]]


@dataclasses.dataclass(slots=True)
class _State:
    """How a piece of work fares. `period` is infinite for what never ends by itself."""

    period: float
    #: When the present run began; for rounds, when the last good one ended.
    since: float
    failures: int = 0
    failing_since: float | None = None

    def late_since(self, now: float) -> float | None:
        """Since when the work is late; None if it is not."""
        if self.failing_since is not None:
            lasts = self.period == math.inf and now - self.since >= _STEADY_SECONDS
            return None if lasts else self.failing_since
        due = self.since + self.period
        return due if now > due + self.period + _GRACE_SECONDS else None


class Supervisor:
    """The background work of one process, or of one plane."""

    def __init__(self, clock: clocks.Clock, figures: telemetry.Telemetry) -> None:
        self._clock = clock
        self._figures = figures
        self._states: dict[str, _State] = {}
        self._tasks: list[asyncio.Task[None]] = []
        figures.background(self.late)

    def every(self, name: str, seconds: float, work: Work) -> None:
        """Do something every `seconds`, for the first time after that; sooner again if it failed."""
        self._tasks.append(asyncio.ensure_future(self._repeat(self._state(name, seconds), name, work)))

    def keep(self, name: str, run: Work) -> None:
        """Run something that is to go on until it is cancelled."""
        self._tasks.append(asyncio.ensure_future(self._rerun(self._state(name, math.inf), name, run)))

    async def stop(self) -> None:
        """Cancel everything, and wait until it has ended."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._states.clear()

    def late(self) -> Mapping[str, float]:
        """For how many seconds each piece of work is late; 0 for what is not."""
        return dict.fromkeys(self._states, 0.0) | self._late()

    def overdue(self) -> str | None:
        """Which work has been late for so long that somebody has to look; None if none has."""
        return self.problem(_TOLERATED_SECONDS)

    def problem(self, tolerated: float = 0.0) -> str | None:
        """Which work has been late for `tolerated` seconds or more; None if none has."""
        late = {name: seconds for name, seconds in self._late().items() if seconds >= tolerated}
        return ", ".join(f"{name} has not worked for {seconds:.0f}s" for name, seconds in late.items()) or None

    def _late(self) -> dict[str, float]:
        now = self._clock.monotonic()
        since = {name: state.late_since(now) for name, state in self._states.items()}
        return {name: now - begun for name, begun in since.items() if begun is not None}

    # --- the tasks --------------------------------------------------------------------------------------------------

    def _state(self, name: str, period: float) -> _State:
        if name in self._states:
            raise ValueError(f"there is work called {name} already")
        state = self._states[name] = _State(period, self._clock.monotonic())
        return state

    async def _repeat(self, state: _State, name: str, work: Work) -> None:
        pause = state.period
        while True:
            await self._clock.sleep(pause)
            pause = state.period
            problem = await _problem_of(work)
            if problem is not None:
                pause = min(self._failed(state, name, problem), pause)
            else:
                self._succeeded(state, name)

    async def _rerun(self, state: _State, name: str, run: Work) -> None:
        while True:
            state.since = self._clock.monotonic()
            problem = await _problem_of(run) or errors.CertplaneError("it has ended, which it should not")
            if self._clock.monotonic() - state.since >= _STEADY_SECONDS:
                state.failures, state.failing_since = 0, None
            delay = self._failed(state, name, problem)
            # As long as it does not run, it has not begun either.
            state.since = math.inf
            await self._clock.sleep(delay)

    def _failed(self, state: _State, name: str, error: Exception) -> float:
        """Tell of a failure; the seconds to wait after it."""
        now = self._clock.monotonic()
        if state.failing_since is None:
            state.failing_since = now
        delay: float = min(_FIRST_DELAY * 2 ** min(state.failures, 20), _LONGEST_DELAY)
        state.failures += 1
        self._figures.background_failed(name)
        if state.failures & (state.failures - 1) == 0:
            # The first time, the second, the fourth...: what fails for days must not fill the log.
            extra = {"task": name, "problem": str(error), "failures": state.failures, "again_in": f"{delay:g}s"}
            # What is raised on purpose says enough; of anything else one wants to know where it came from.
            trace = None if isinstance(error, errors.CertplaneError) else error
            _log.error("work in the background failed", extra=extra, exc_info=trace)
        return delay

    def _succeeded(self, state: _State, name: str) -> None:
        state.since = self._clock.monotonic()
        if state.failing_since is not None:
            seconds = f"{state.since - state.failing_since:.0f}"
            _log.info("work in the background goes on", extra={"task": name, "after_seconds": seconds})
        state.failures, state.failing_since = 0, None


def is_cancelled() -> bool:
    """Whether a CancelledError means the present task itself. If not, something that it awaits was cancelled: that is a
    failure like others.
    """
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


async def _problem_of(work: Work) -> Exception | None:
    """Do some work; what it raised, None if it ended well."""
    try:
        await work()
    except asyncio.CancelledError as error:
        if is_cancelled():
            raise
        problem = errors.CertplaneError(AWAITED_CANCELLED)
        problem.__cause__ = error
        return problem
    except Exception as error:
        return error
    return None
