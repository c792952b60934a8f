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
from collections.abc import Callable, Iterator, Sequence
from typing import Final, TextIO

import prometheus_client
from prometheus_client import (
    exposition,
    gc_collector,
    metrics_core,
    platform_collector,
    process_collector,
    registry,
)

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
_QUEUE_SECONDS: Final = (1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.1, 1, 10)

_LIFETIMES: Final = (
    0, 1800, 3600, 7200, 21600, 43200, 86400, 172800, 345600, 604800, 2592000, 7776000, 15552000, 31104000,
)  # fmt: skip

_MOST_LABELS: Final = 2000

_REQUEST_LABELS: Final = ("verb", "group", "version", "resource", "subresource", "scope")
_OTHERS: Final = ("other", "", "", "", "", "")

#: What a request was about: verb, group, version, resource, subresource, scope.
RequestLabels = tuple[str, str, str, str, str, str]


class Telemetry:
    """The figures of one plane."""

    def __init__(self) -> None:
        self._registry = prometheus_client.CollectorRegistry()
        process_collector.ProcessCollector(registry=self._registry)
        platform_collector.PlatformCollector(registry=self._registry)
        gc_collector.GCCollector(registry=self._registry)
        self._requests = _Requests()
        self._registry.register(self._requests)
        self._signers = prometheus_client.Gauge(
            "certplane_signer_ready",
            "1 if a signer has an authority to sign with; 0, with the reason, if its requests stay unissued.",
            ("signer", "reason"),
            registry=self._registry,
        )
        self._signer_problems: dict[str, str] = {}
        self._decisions = prometheus_client.Counter(
            "certplane_csr_decisions",
            "What controllers decided about requests.",
            ("signer", "decision", "reason"),
            registry=self._registry,
        )
        self._in_flight = prometheus_client.Gauge(
            "apiserver_current_inflight_requests",
            "Requests that are being answered now, without watches.",
            ("request_kind",),
            registry=self._registry,
        )
        self._watches = prometheus_client.Gauge(
            "apiserver_longrunning_requests", "Watches that are open now.", ("verb",), registry=self._registry
        )
        self._expirations = _Expirations()
        self._registry.register(self._expirations)
        self._requested = prometheus_client.Counter(
            "apiserver_certificates_registry_csr_requested_duration",
            "Issued requests that asked for a duration.",
            ("signerName",),
            registry=self._registry,
        )
        self._honored = prometheus_client.Counter(
            "apiserver_certificates_registry_csr_honored_duration",
            "Issued requests that got about the duration that they asked for.",
            ("signerName",),
            registry=self._registry,
        )
        self._queues = _Queues(self._registry)
        self._published = {
            name: (
                prometheus_client.Counter(
                    f"{name}_sync", "What was published, by the code of the last answer.", ("code",),
                    registry=self._registry,
                ),
                prometheus_client.Histogram(
                    f"{name}_sync_duration_seconds", "Seconds that it took.", ("code",), buckets=_PUBLISH_SECONDS,
                    registry=self._registry,
                ),
            )
            for name in (ROOT_CA, TRUST_BUNDLE)
        }  # fmt: skip

    def request(self, labels: RequestLabels, code: int, seconds: float) -> None:
        """Count one request and its time."""
        self._requests.count(labels, code, seconds)

    def in_flight(self, reads: Callable[[], float], writes: Callable[[], float]) -> None:
        """Where to look for the number of requests under way."""
        self._in_flight.labels("readOnly").set_function(reads)
        self._in_flight.labels("mutating").set_function(writes)

    def watches(self, count: Callable[[], float]) -> None:
        """Where to look for the number of open watches."""
        self._watches.labels("WATCH").set_function(count)

    def client_certificate(self, seconds_left: float) -> None:
        """Note how long the certificate of a request will still be valid."""
        self._expirations.times.add(seconds_left)

    def duration(self, signer: str, *, honored: bool) -> None:
        """Count a certificate whose request asked for a duration."""
        self._requested.labels(signer).inc()
        if honored:
            self._honored.labels(signer).inc()

    def signer(self, name: str, problem: str) -> None:
        """Whether a signer works: `problem` is empty if it does. Replaces what was said before."""
        before = self._signer_problems.get(name)
        if before is not None:
            self._signers.remove(name, before)
        self._signer_problems[name] = problem
        self._signers.labels(name, problem).set(0 if problem else 1)

    def decision(self, signer: str, decision: str, reason: str) -> None:
        """Count what a controller decided about a request."""
        self._decisions.labels(signer, decision, reason).inc()

    def published(self, what: str, code: int, seconds: float) -> None:
        """Count one round of a publisher, ROOT_CA or TRUST_BUNDLE."""
        total, durations = self._published[what]
        total.labels(str(code)).inc()
        durations.labels(str(code)).observe(seconds)

    def queue(self, name: str) -> QueueTelemetry:
        """The figures of one work queue."""
        return QueueTelemetry(self._queues, name)

    def render(self) -> bytes:
        """All of it, in Prometheus' text format."""
        return exposition.generate_latest(self._registry)


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

    def into(self, family: metrics_core.HistogramMetricFamily, labels: Sequence[str] = ()) -> None:
        """Add what was counted to a family of the library's."""
        bounds = (*(repr(float(each)) for each in self._bounds), "+Inf")
        counts = itertools.accumulate(map(float, self._counts))
        family.add_metric(labels, list(zip(bounds, counts, strict=True)), self._sum)


class _Expirations(registry.Collector):
    """How long client certificates are still valid when they are used."""

    def __init__(self) -> None:
        self.times = _Times(_LIFETIMES)

    def collect(self) -> Iterator[metrics_core.Metric]:
        """What there is to see, as the library's family."""
        family = metrics_core.HistogramMetricFamily(
            "apiserver_client_certificate_expiration_seconds",
            "Seconds that the client certificates of requests were still valid.",
        )
        self.times.into(family)
        yield family


class _Requests(registry.Collector):
    """Requests, and how long they took."""

    def __init__(self) -> None:
        self._counts: dict[tuple[RequestLabels, int], int] = {}
        self._times: dict[RequestLabels, _Times] = {}

    def count(self, labels: RequestLabels, code: int, seconds: float) -> None:
        key = labels, code
        known = self._counts.get(key)
        if known is None and len(self._counts) >= _MOST_LABELS:
            # Strangers may ask for what they like; that must not fill the memory.
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


class _Queues:
    def __init__(self, registry: prometheus_client.CollectorRegistry) -> None:
        label = ("name",)
        self.depth = prometheus_client.Gauge("workqueue_depth", "Items that wait.", label, registry=registry)
        self.adds = prometheus_client.Counter("workqueue_adds", "Items ever added.", label, registry=registry)
        self.retries = prometheus_client.Counter("workqueue_retries", "Items added again.", label, registry=registry)
        self.waiting = prometheus_client.Histogram(
            "workqueue_queue_duration_seconds",
            "Seconds that items waited.",
            label,
            buckets=_QUEUE_SECONDS,
            registry=registry,
        )
        self.working = prometheus_client.Histogram(
            "workqueue_work_duration_seconds",
            "Seconds that items took.",
            label,
            buckets=_QUEUE_SECONDS,
            registry=registry,
        )


class QueueTelemetry:
    """The figures of one work queue, under their upstream names."""

    def __init__(self, queues: _Queues, name: str) -> None:
        self.depth = queues.depth.labels(name)
        self.adds = queues.adds.labels(name)
        self.retries = queues.retries.labels(name)
        self.waiting = queues.waiting.labels(name)
        self.working = queues.working.labels(name)


# --- the log ------------------------------------------------------------------------------------------------------

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}


class _Formatter(logging.Formatter):
    """One line an event: time, level, logger, text, and what else is known as key=value."""

    def format(self, record: logging.LogRecord) -> str:
        known = {key: value for key, value in vars(record).items() if key not in _STANDARD}
        moment = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        when = moment.isoformat(timespec="milliseconds")[:23] + "Z"
        parts = [when, record.levelname, record.name + ":", _one_line(record.getMessage())]
        parts += [f"{key}={_value(value)}" for key, value in known.items()]
        line = " ".join(parts)
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


def _one_line(text: str) -> str:
    return text.replace("\r", "\\r").replace("\n", "\\n")


_PLAIN: Final = re.compile(r"[\w./:@+-]+")


def _value(value: object) -> str:
    text = str(value)
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
