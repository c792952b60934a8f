"""The name of every metric and how to emit it, and what a line of the log looks like.

Metrics that mean what Kubernetes' mean have Kubernetes' names, so that existing dashboards and alerts work; our own
begin with `certplane_`. A `Telemetry` has a registry of its own: two planes in one process do not mix their figures.
"""

from __future__ import annotations

import bisect
import contextlib
import datetime
import itertools
import json
import logging
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, TextIO

import prometheus_client
from prometheus_client import (
    exposition,
    gc_collector,
    metrics_core,
    platform_collector,
    process_collector,
    registry,
)

from certplane import gotext

_SECONDS: Final = (
    0.005,
    0.025,
    0.05,
    0.1,
    0.2,
    0.4,
    0.6,
    0.8,
    1.0,
    1.25,
    1.5,
    2,
    3,
    4,
    5,
    6,
    8,
    10,
    15,
    20,
    30,
    45,
    60,
)
#: Publishers, as upstream names their metrics.
ROOT_CA: Final = "root_ca_cert_publisher"
TRUST_BUNDLE: Final = "clustertrustbundle_publisher"
_PUBLISH_SECONDS: Final = tuple(0.001 * 2**power for power in range(15))
_QUEUE_SECONDS: Final = tuple(10.0**power for power in range(-8, 2))

_LIFETIMES: Final = (
    0, 1800, 3600, 7200, 21600, 43200, 86400, 172800, 345600, 604800, 2592000, 7776000, 15552000, 31104000,
)  # fmt: skip

#: How many combinations of labels a metric has at the most, and the longest label: names of Kubernetes end there.
_MOST_LABELS: Final = 2000
_LONGEST_LABEL: Final = 253

_ABOUT: Final = ("group", "version", "resource", "subresource", "scope", "component")
_REQUEST_LABELS: Final = ("verb", "dry_run", *_ABOUT)
_OTHERS: Final = ("other", "", "", "", "", "", "", "")
#: What serves resources, as opposed to other paths: the word of kube-apiserver.
COMPONENT: Final = "apiserver"

#: What a request was about: verb, dry run, group, version, resource, subresource, scope, component.
RequestLabels = tuple[str, str, str, str, str, str, str, str]
#: What a watch is about: group, version, resource, subresource, scope, component.
WatchLabels = tuple[str, str, str, str, str, str]

#: Signers whose names are labels; all others are one.
_NAMED_SIGNERS: Final = "kubernetes.io/"


class Telemetry:
    """The figures of one plane."""

    def __init__(self) -> None:
        self._registry = prometheus_client.CollectorRegistry()
        process_collector.ProcessCollector(registry=self._registry)
        platform_collector.PlatformCollector(registry=self._registry)
        gc_collector.GCCollector(registry=self._registry)
        self.audit = AuditTelemetry()
        self._requests = _Requests()
        self._signers = prometheus_client.Gauge(
            "certplane_signer_ready",
            "1 if a signer has an authority to sign with; 0, with the reason, if its requests stay unissued.",
            ("signer", "reason"),
            registry=self._registry,
        )
        self._signer_problems: dict[str, str] = {}
        self._decisions = _Counts(
            "certplane_csr_decisions", "What controllers decided about requests.", "signer", "decision", "reason"
        )
        self._in_flight = _Gauges(
            "apiserver_current_inflight_requests",
            "Requests that are being answered now, without watches.",
            "request_kind",
        )
        self._watches = _Gauges("apiserver_longrunning_requests", "Watches that are open now.", "verb", *_ABOUT)
        self._objects = _Gauges("apiserver_resource_objects", "Objects that are stored.", "group", "resource")
        self._expirations = _Histograms(
            "apiserver_client_certificate_expiration_seconds",
            "Seconds that the client certificates of requests were still valid.",
            _LIFETIMES,
        )
        self._refused_connections = _Counts(
            "certplane_connections_refused", "Connections that were ended before they had an answer.", "reason"
        )
        self._tls_errors = _Counts("apiserver_tls_handshake_errors", "TLS handshakes that came to nothing.")
        self._refused_certificates = _Counts(
            "certplane_client_certificates_refused",
            "Requests with a client certificate that was refused, by the reason.",
            "reason",
        )
        self._requested = _Counts(
            "apiserver_certificates_registry_csr_requested_duration",
            "Issued requests that asked for a duration.",
            "signerName",
        )
        self._honored = _Counts(
            "apiserver_certificates_registry_csr_honored_duration",
            "Issued requests that got about the duration that they asked for.",
            "signerName",
        )
        self._reloads = _Counts(
            "certplane_file_reloads", "Files that were read again because they had changed.", "file", "result"
        )
        self._failures = _Counts(
            "certplane_background_failures", "How often work in the background failed, and was begun again.", "task"
        )
        self._late = _Gauges(
            "certplane_background_late_seconds", "Seconds for which work in the background has not worked.", "task"
        )
        self._queues = _Queues()
        self._published = {
            name: (
                _Counts(f"{name}_sync", "What was published, by the code of the last answer.", "code"),
                _Histograms(f"{name}_sync_duration_seconds", "Seconds that it took.", _PUBLISH_SECONDS, "code"),
            )
            for name in (ROOT_CA, TRUST_BUNDLE)
        }
        collectors: list[registry.Collector] = [
            self._requests, self._in_flight, self._watches, self._objects, self._expirations, self._requested,
            self._honored, self.audit, self._decisions, self._failures, self._late, self._queues, self._reloads,
            self._refused_connections, self._tls_errors, self._refused_certificates,
            *itertools.chain(*self._published.values()),
        ]  # fmt: skip
        for each in collectors:
            self._registry.register(each)

    def request(self, labels: RequestLabels, code: int, seconds: float) -> None:
        """Count one request and its time."""
        self._requests.count(labels, code, seconds)

    def in_flight(self, reads: Callable[[], float], writes: Callable[[], float]) -> None:
        """Where to look for the number of requests under way."""
        self._in_flight.look = lambda: {("readOnly",): reads(), ("mutating",): writes()}

    def watches(self, count: Callable[[], Mapping[WatchLabels, int]]) -> None:
        """Where to look for the number of open watches."""
        self._watches.look = lambda: {("WATCH", *labels): number for labels, number in count().items()}

    def objects(self, count: Callable[[], Mapping[tuple[str, str], int]]) -> None:
        """Where to look for the number of stored objects, by group and resource."""
        self._objects.look = count

    def client_certificate(self, seconds_left: float) -> None:
        """Note how long the certificate of a request will still be valid."""
        self._expirations.observe(seconds_left)

    def refused_connection(self, reason: str) -> None:
        """Count a connection that got no further, by why: tls, http, handshakes, connections, descriptors, memory."""
        self._refused_connections.add(reason)
        if reason == "tls":
            self._tls_errors.add()

    def client_certificate_refused(self, reason: str) -> None:
        """Count a request with a client certificate that was refused. Reasons are few."""
        self._refused_certificates.add(reason)

    def duration(self, signer: str, *, honored: bool) -> None:
        """Count a certificate whose request asked for a duration."""
        # Names of signers are whatever users come up with.
        label = signer if signer.startswith(_NAMED_SIGNERS) else "other"
        self._requested.add(label)
        if honored:
            self._honored.add(label)

    def signer(self, name: str, problem: str) -> None:
        """Whether a signer works: `problem` is empty if it does. Replaces what was said before."""
        before = self._signer_problems.get(name)
        if before is not None:
            self._signers.remove(name, before)
        self._signer_problems[name] = problem
        self._signers.labels(name, problem).set(0 if problem else 1)

    def decision(self, signer: str, decision: str, reason: str) -> None:
        """Count what a controller decided about a request."""
        self._decisions.add(signer, decision, reason)

    def reloaded(self, name: str, went_well: bool) -> None:
        """Count files that were to be used anew; `name` is one of a few that we gave them."""
        self._reloads.add(name, "success" if went_well else "error")

    def background_failed(self, task: str) -> None:
        """Count a failure of work in the background."""
        self._failures.add(task)

    def background(self, late: Callable[[], Mapping[str, float]]) -> None:
        """Where to look for how late work in the background is."""
        self._late.look = lambda: {(task,): seconds for task, seconds in late().items()}

    def published(self, what: str, code: int, seconds: float) -> None:
        """Count one round of a publisher, ROOT_CA or TRUST_BUNDLE."""
        total, durations = self._published[what]
        total.add(str(code))
        durations.observe(seconds, str(code))

    def queue(self, name: str) -> QueueTelemetry:
        """The figures of one work queue."""
        return self._queues.queue(name)

    def render(self) -> bytes:
        """All of it, in Prometheus' text format."""
        return exposition.generate_latest(self._registry)


# --- what is counted in plain numbers, and shown on demand ---------------------------------------------------------

# The library's own counters take a lock for each addition, on the way of every request, and bring `_created` series
# that Kubernetes' metrics do not have. So it shows what is counted here, and counts nothing.


class _Times:
    """A histogram in a plain list: it is added to for every request. What the library wants is made on demand."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def add(self, seconds: float) -> None:
        self._counts[bisect.bisect_left(self._bounds, seconds)] += 1
        self._sum += seconds

    @classmethod
    def together(cls, several: Sequence[_Times]) -> _Times:
        """The sum of histograms with the same bounds."""
        made = cls(several[0]._bounds)
        made._counts = [sum(counts) for counts in zip(*(each._counts for each in several), strict=True)]
        made._sum = sum(each._sum for each in several)
        return made

    def into(self, family: metrics_core.HistogramMetricFamily, labels: Sequence[str] = ()) -> None:
        """Add what was counted to a family of the library's."""
        bounds = (*map(gotext.float_text, self._bounds), "+Inf")
        counts = itertools.accumulate(map(float, self._counts))
        family.add_metric(labels, list(zip(bounds, counts, strict=True)), self._sum)


def _is_too_much(labels: Sequence[str], known: int) -> bool:
    """Whether labels that were not seen before are counted with the others: strangers may ask for what they like, and
    that must not fill the memory.
    """
    return known >= _MOST_LABELS or any(len(label) > _LONGEST_LABEL for label in labels)


class _Counts(registry.Collector):
    """A counter. Its name has no `_total` here, and has it where it is shown."""

    def __init__(self, name: str, text: str, *labels: str) -> None:
        self._name = name
        self._text = text
        self._labels = labels
        self._found: dict[tuple[str, ...], int] = {}

    def add(self, *labels: str) -> None:
        if labels not in self._found and _is_too_much(labels, len(self._found)):
            labels = ("other", *[""] * (len(labels) - 1))
        self._found[labels] = self._found.get(labels, 0) + 1

    def collect(self) -> Iterator[metrics_core.Metric]:
        """What there is to see, as the library's family."""
        family = metrics_core.CounterMetricFamily(self._name, self._text, labels=self._labels)
        for labels, count in list(self._found.items()):
            family.add_metric(labels, count)
        yield family


class _Histograms(registry.Collector):
    """How values are spread over bounds. Without labels it is shown from the beginning."""

    def __init__(self, name: str, text: str, bounds: Sequence[float], *labels: str) -> None:
        self._name = name
        self._text = text
        self._bounds = bounds
        self._labels = labels
        self._found: dict[tuple[str, ...], _Times] = {} if labels else {(): _Times(bounds)}

    def observe(self, value: float, *labels: str) -> None:
        times = self._found.get(labels)
        if times is None:
            times = self._found[labels] = _Times(self._bounds)
        times.add(value)

    def collect(self) -> Iterator[metrics_core.Metric]:
        """What there is to see, as the library's family."""
        family = metrics_core.HistogramMetricFamily(self._name, self._text, labels=self._labels)
        for labels, times in list(self._found.items()):
            times.into(family, labels)
        yield family


def _nothing() -> Mapping[Any, float]:
    return {}


class _Gauges(registry.Collector):
    """Numbers that are looked up when somebody asks for them: `look` gives them by labels."""

    def __init__(self, name: str, text: str, *labels: str) -> None:
        self._name = name
        self._text = text
        self._labels = labels
        self.look: Callable[[], Mapping[Any, float]] = _nothing

    def collect(self) -> Iterator[metrics_core.Metric]:
        """What there is to see, as the library's family."""
        family = metrics_core.GaugeMetricFamily(self._name, self._text, labels=self._labels)
        for labels, value in self.look().items():
            family.add_metric(labels, value)
        yield family


class AuditTelemetry(registry.Collector):
    """What became of the records of requests. `lost` tells how many could not be written, `sampled_out` how many were
    counted instead.
    """

    def __init__(self) -> None:
        self.events = 0
        self.levels: dict[str, int] = {}
        self.lost: Callable[[], int] = lambda: 0
        self.sampled_out: Callable[[], int] = lambda: 0

    def judged(self, level: str) -> None:
        """A request is recorded at a level."""
        self.levels[level] = self.levels.get(level, 0) + 1

    def collect(self) -> Iterator[metrics_core.Metric]:
        """What there is to see, as the library's families."""
        yield metrics_core.CounterMetricFamily("apiserver_audit_event", "Audit records written.", value=self.events)
        levels = metrics_core.CounterMetricFamily(
            "apiserver_audit_level", "Requests, by the level at which they are recorded.", labels=("level",)
        )
        for level, count in self.levels.items():
            levels.add_metric((level,), count)
        yield levels
        lost = metrics_core.CounterMetricFamily(
            "apiserver_audit_error", "Audit records that could not be written.", labels=("plugin",)
        )
        lost.add_metric(("log",), self.lost())
        yield lost
        yield metrics_core.CounterMetricFamily(
            "certplane_audit_left_out",
            "Requests of nobody known that changed nothing, and were counted instead of recorded.",
            value=self.sampled_out(),
        )
        yield metrics_core.CounterMetricFamily(
            "apiserver_audit_requests_rejected",
            "Requests refused because they could not be recorded. There are none: records fail no request.",
            value=0,
        )


class _Requests(registry.Collector):
    """Requests, and how long they took."""

    def __init__(self) -> None:
        self._counts: dict[tuple[RequestLabels, int], int] = {}
        self._times: dict[RequestLabels, _Times] = {}

    def count(self, labels: RequestLabels, code: int, seconds: float) -> None:
        key = labels, code
        known = self._counts.get(key)
        if known is None and _is_too_much(labels, len(self._counts)):
            key, labels = (_OTHERS, code), _OTHERS
            known = self._counts.get(key)
        self._counts[key] = (known or 0) + 1
        if labels[0] != "WATCH":
            times = self._times.get(labels)
            if times is None:
                times = self._times[labels] = _Times(_SECONDS)
            times.add(seconds)

    def collect(self) -> Iterator[metrics_core.Metric]:
        """What there is to see, as the library's families."""
        total = metrics_core.CounterMetricFamily(
            "apiserver_request",
            "Requests, by what they were about and the code of the answer.",
            labels=(*_REQUEST_LABELS, "code"),
        )
        for (labels, code), count in list(self._counts.items()):
            total.add_metric((*labels, str(code)), count)
        yield total
        durations = metrics_core.HistogramMetricFamily(
            "apiserver_request_duration_seconds",
            "Seconds from a request to the beginning of its answer. Watches are not counted.",
            labels=_REQUEST_LABELS,
        )
        for labels, times in list(self._times.items()):
            times.into(durations, labels)
        yield durations


class QueueTelemetry:
    """The figures of one work queue. Those of queues with the same name are shown as one."""

    def __init__(self) -> None:
        self.adds = 0
        self.retries = 0
        self.waiting = _Times(_QUEUE_SECONDS)
        self.working = _Times(_QUEUE_SECONDS)
        #: How many items wait, and for how many seconds each that is not done has been worked on.
        self.depth: Callable[[], int] = lambda: 0
        self.running: Callable[[], Sequence[float]] = lambda: ()


class _Queues(registry.Collector):
    """All work queues, under the names of client-go."""

    def __init__(self) -> None:
        self._known: dict[str, list[QueueTelemetry]] = {}

    def queue(self, name: str) -> QueueTelemetry:
        made = QueueTelemetry()
        self._known.setdefault(name, []).append(made)
        return made

    def collect(self) -> Iterator[metrics_core.Metric]:
        """What there is to see, as the library's families."""
        label = ("name",)
        depth = metrics_core.GaugeMetricFamily("workqueue_depth", "Items that wait.", labels=label)
        adds = metrics_core.CounterMetricFamily("workqueue_adds", "Items ever added.", labels=label)
        retries = metrics_core.CounterMetricFamily("workqueue_retries", "Items added again.", labels=label)
        unfinished = metrics_core.GaugeMetricFamily(
            "workqueue_unfinished_work_seconds",
            "Seconds spent on items that are not done. Large values tell of workers that are stuck.",
            labels=label,
        )
        longest = metrics_core.GaugeMetricFamily(
            "workqueue_longest_running_processor_seconds", "Seconds spent on the oldest of them.", labels=label
        )
        waiting = metrics_core.HistogramMetricFamily(
            "workqueue_queue_duration_seconds", "Seconds that items waited.", labels=label
        )
        working = metrics_core.HistogramMetricFamily(
            "workqueue_work_duration_seconds", "Seconds that items took.", labels=label
        )
        for name, queues in self._known.items():
            labels = (name,)
            running = [seconds for each in queues for seconds in each.running()]
            depth.add_metric(labels, sum(each.depth() for each in queues))
            adds.add_metric(labels, sum(each.adds for each in queues))
            retries.add_metric(labels, sum(each.retries for each in queues))
            unfinished.add_metric(labels, sum(running))
            longest.add_metric(labels, max(running, default=0.0))
            _Times.together([each.waiting for each in queues]).into(waiting, labels)
            _Times.together([each.working for each in queues]).into(working, labels)
        yield from (depth, adds, retries, unfinished, longest, waiting, working)


# --- the log ------------------------------------------------------------------------------------------------------

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}


#: Characters of a text or a value, and of a traceback, which ends with what an error says: strangers' requests are
#: among what is told.
_LONGEST_TEXT: Final = 2048
_LONGEST_TRACEBACK: Final = 32 * 1024


class _Formatter(logging.Formatter):
    """One line an event: time, level, logger, text, and what else is known as key=value."""

    def format(self, record: logging.LogRecord) -> str:
        known = {key: value for key, value in vars(record).items() if key not in _STANDARD}
        moment = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        when = moment.isoformat(timespec="milliseconds")[:23] + "Z"
        text = gotext.shortened(record.getMessage(), _LONGEST_TEXT)
        parts = [when, record.levelname, record.name + ":", _one_line(text)]
        parts += [f"{key}={_value(value)}" for key, value in known.items()]
        line = " ".join(parts)
        if record.exc_info:
            line += "\n" + gotext.shortened(self.formatException(record.exc_info), _LONGEST_TRACEBACK)
        return line


def _one_line(text: str) -> str:
    return text.replace("\r", "\\r").replace("\n", "\\n")


_PLAIN: Final = re.compile(r"[\w./:@+-]+")


def _value(value: object) -> str:
    text = gotext.shortened(str(value), _LONGEST_TEXT)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)


@contextlib.contextmanager
def logging_to(stream: TextIO = sys.stderr, level: str = "INFO") -> Iterator[None]:
    """Have events of this process written to a stream, as long as the block lasts."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_Formatter())
    root = logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(level)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(before)
