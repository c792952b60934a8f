"""The watch: reads each source again and again, and keeps the metrics ready.

Each source is on its own. One that lies, hangs or vanishes is reported in `x509_source_up`, and what was last read of
it is still shown: a certificate does not stop to end because its directory cannot be read. One task reads one source,
so the sources never wait for each other.

In a process that has other tasks, such as a control plane:

    watch = Watch([InventorySource("inventory", inventory.certificates), ...], timer)
    supervisor.run_forever("expiry-watch", watch.run)
    ... watch.page() -> the lines to serve, watch.findings() -> what notifications need
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from certplane import clock
from certplane.clock import Clock
from certplane.expiry import exposition
from certplane.expiry.exposition import Snapshot
from certplane.expiry.findings import Collector, Finding, Source, SourceProblem
from certplane.golang import formatting
from certplane.metricsserver import Page
from certplane.reload import Wakeup

_log = logging.getLogger("certplane.watch")

_MAX_PROBLEM: Final = 300
#: How late `x509_cert_expired` may be.
_REFRESH_SECONDS: Final = 30.0


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """How often each source is read, how long that may take, both in seconds, and how many certificates of each are
    kept.
    """

    interval: float = 300.0
    timeout: float = 60.0
    certificates: int = 10_000


@dataclasses.dataclass(slots=True)
class SourceState:
    """What is known of a source. `problem` is empty if the last reading succeeded; `is_read` once one has. `findings`
    and the counts are those of the last successful reading; `read_at` is its time, in POSIX seconds.
    """

    source: Source
    problem: str = ""
    is_read: bool = False
    errors: int = 0
    read_at: float = 0.0
    seconds: float = 0.0
    certificates: int = 0
    omitted: int = 0
    findings: Sequence[Finding] = ()
    snapshot: Snapshot | None = None


class Watch:
    """The sources, and what was read. For one event loop."""

    def __init__(self, sources: Sequence[Source], timer: Clock, limits: Limits) -> None:
        self._clock = timer
        self._limits = limits
        self.states = [SourceState(source) for source in sources]
        self._wakeup = Wakeup()
        self._page = Page(())
        self._callbacks: list[Callable[[], None]] = []
        self._lock = asyncio.Lock()
        self._extra: Callable[[], str] = lambda: ""

    def page(self) -> Page:
        """The metrics, ready to be sent."""
        return self._page

    def findings(self) -> Iterator[tuple[SourceState, Finding]]:
        """What was last read of each source."""
        for state in self.states:
            for finding in state.findings:
                yield state, finding

    def on_change(self, callback: Callable[[], None]) -> None:
        """Call a function whenever a source was read."""
        self._callbacks.append(callback)

    def add_metrics(self, lines: Callable[[], str]) -> None:
        """Show more lines in the metrics, such as those of notifications."""
        self._extra = lines

    def read_now(self) -> None:
        """Read all sources at once, for an operator who does not want to wait."""
        self._wakeup.wake()

    async def read_once(self) -> None:
        """Read each source one time."""
        await asyncio.gather(*map(self._read, self.states))

    async def run(self) -> None:
        """Read the sources until cancelled."""
        async with asyncio.TaskGroup() as group:
            for state in self.states:
                group.create_task(self._repeat(state))
            group.create_task(self._refresh())

    async def _repeat(self, state: SourceState) -> None:
        while True:
            await self._read(state)
            await self._publish(state)
            await self._wakeup.sleep(self._clock, self._limits.interval)

    async def _read(self, state: SourceState) -> None:
        collector = Collector(self._limits.certificates)
        begin = self._clock.monotonic()
        try:
            await clock.wait_for(self._clock, state.source.read(collector), self._limits.timeout)
        except SourceProblem as error:
            self._fail(state, str(error))
        except TimeoutError:
            self._fail(state, f"it was not read within {self._limits.timeout:g} s")
        except Exception as error:
            # A bug, for example in a parser, must not end the watch of the other sources.
            self._fail(state, f"{type(error).__name__}", error)
        else:
            if state.problem:
                _log.info("source read again", extra={"source": state.source.name})
            state.problem, state.is_read = "", True
            state.findings = collector.findings()
            state.certificates, state.omitted = collector.certificates, collector.omitted
            state.read_at = self._clock.now().timestamp()
        state.seconds = self._clock.monotonic() - begin

    def _fail(self, state: SourceState, problem: str, unexpected: Exception | None = None) -> None:
        text = formatting.shorten(problem, _MAX_PROBLEM)
        state.errors += 1
        if text != state.problem:
            state.problem = text
            _log.warning(
                "source cannot be read", extra={"source": state.source.name, "error": text}, exc_info=unexpected
            )

    async def _publish(self, state: SourceState) -> None:
        """Render what was read, in a thread: it takes a second for a hundred thousand certificates."""
        async with self._lock:
            if not state.problem:
                now = self._clock.now().timestamp()
                state.snapshot = await asyncio.to_thread(
                    exposition.render, state.source.name, state.findings, now, state.snapshot
                )
            await self._assemble()
        for callback in self._callbacks:
            callback()

    async def _refresh(self) -> None:
        while True:
            await self._clock.sleep(_REFRESH_SECONDS)
            async with self._lock:
                now = self._clock.now().timestamp()
                for state in self.states:
                    if state.snapshot is not None and now >= state.snapshot.next_change:
                        state.snapshot = await asyncio.to_thread(exposition.refresh, state.snapshot, now)
                await self._assemble()

    async def _assemble(self) -> None:
        snapshots = [state.snapshot for state in self.states if state.snapshot is not None]
        head = "".join((*_lines(self.states), self._extra())).encode()
        self._page = await asyncio.to_thread(exposition.page, head, snapshots)


#: The metrics of sources: name, type, help and value.
_METRICS: Final[Sequence[tuple[str, str, str, Callable[[SourceState], float]]]] = (
    ("x509_source_up", "gauge", "1 if the source could be read, else 0.",
     lambda state: state.is_read and not state.problem),
    ("x509_source_errors_total", "counter", "Readings of the source that failed.", lambda state: state.errors),
    ("certplane_watch_certificates", "gauge", "Certificates and revocation lists in the source.",
     lambda state: state.certificates),
    ("certplane_watch_omitted_certificates", "gauge",
     "Certificates and problems in the source without metrics of their own, because there are too many.",
     lambda state: state.omitted),
    ("certplane_watch_read_timestamp_seconds", "gauge", "When the source was last read, in seconds since 1970.",
     lambda state: state.read_at),
    ("certplane_watch_read_duration_seconds", "gauge", "How long the last reading took.", lambda state: state.seconds),
)  # fmt: skip


def _lines(states: Sequence[SourceState]) -> Iterator[str]:
    for name, kind, text, value in _METRICS:
        yield f"# HELP {name} {text}\n# TYPE {name} {kind}\n"
        for state in states:
            source = exposition.label_value("source", state.source.name)
            number = float(value(state))
            shown = f"{number:.0f}" if number == int(number) else f"{number:.3f}"
            yield f'{name}{{source="{source}",source_kind="{state.source.kind}"}} {shown}\n'
