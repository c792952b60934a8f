"""The metrics, their names, and how to record them.

Metrics with the meaning of a Kubernetes metric have its name, so that existing dashboards and alerts work; our own
begin with `certplane_`. Each `Telemetry` has its own registry: two planes in one process do not mix their metrics.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import prometheus_client
from prometheus_client import (
    exposition,
    gc_collector,
    metrics_core,
    platform_collector,
    process_collector,
    registry,
)

from certplane.golang import formatting

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
#: The publishing controllers, as Kubernetes names their metrics.
ROOT_CA: Final = "root_ca_cert_publisher"
TRUST_BUNDLE: Final = "clustertrustbundle_publisher"
_PUBLISH_SECONDS: Final = tuple(0.001 * 2**power for power in range(15))
_QUEUE_SECONDS: Final = tuple(10.0**power for power in range(-8, 2))

_LIFETIMES: Final = (
    0, 1800, 3600, 7200, 21600, 43200, 86400, 172800, 345600, 604800, 2592000, 7776000, 15552000, 31104000,
)  # fmt: skip

#: The maximum number of label combinations of a metric, and the maximum length of a label: that of a Kubernetes name.
_MAX_SERIES: Final = 2000
_MAX_LABEL_LENGTH: Final = 253

_ABOUT: Final = ("group", "version", "resource", "subresource", "scope", "component")
_REQUEST_LABELS: Final = ("verb", "dry_run", *_ABOUT)
_OTHERS: Final = ("other", "", "", "", "", "", "", "")
#: The `component` label of requests for resources, as in kube-apiserver; empty for other paths.
COMPONENT: Final = "apiserver"

#: Labels of a request: verb, dry run, group, version, resource, subresource, scope, component.
RequestLabels = tuple[str, str, str, str, str, str, str, str]
#: Labels of a watch: group, version, resource, subresource, scope, component.
WatchLabels = tuple[str, str, str, str, str, str]

#: Signers with this prefix have labels of their own; all others share one.
_NAMED_SIGNERS: Final = "kubernetes.io/"


class Telemetry:
    """The metrics of one plane."""

    def __init__(self) -> None:
        self._registry = prometheus_client.CollectorRegistry()
        process_collector.ProcessCollector(registry=self._registry)
        platform_collector.PlatformCollector(registry=self._registry)
        gc_collector.GCCollector(registry=self._registry)
        self._create_request_metrics()
        self._create_controller_metrics()
        self._create_task_metrics()
        self._create_certificate_metrics()
        collectors: list[registry.Collector] = [
            self._requests, self._in_flight, self._watches, self._objects, self._expirations, self._requested,
            self._honored, self.audit, self._decisions, self._failures, self._late, self._queues, self._reloads,
            self._refused_connections, self._tls_errors, self._refused_certificates, self._certificate_ends,
            self._lifetime_cuts, self._renewals,
            *itertools.chain(*self._published.values()),
        ]  # fmt: skip
        for collector in collectors:
            self._registry.register(collector)

    def _create_request_metrics(self) -> None:
        self.audit = AuditTelemetry()
        self._requests = _Requests()
        self._in_flight = _Gauges(
            "apiserver_current_inflight_requests",
            "Requests in progress, without watches.",
            "request_kind",
        )
        self._watches = _Gauges("apiserver_longrunning_requests", "Open watches.", "verb", *_ABOUT)
        self._objects = _Gauges("apiserver_resource_objects", "Stored objects.", "group", "resource")
        self._expirations = _Histograms(
            "apiserver_client_certificate_expiration_seconds",
            "Remaining lifetime of the client certificates of requests, in seconds.",
            _LIFETIMES,
        )
        self._refused_connections = _Counts(
            "certplane_connections_refused", "Connections closed before a response was sent, by reason.", "reason"
        )
        self._tls_errors = _Counts("apiserver_tls_handshake_errors", "Failed TLS handshakes.")
        self._refused_certificates = _Counts(
            "certplane_client_certificates_refused",
            "Requests with a client certificate that was refused, by reason.",
            "reason",
        )

    def _create_controller_metrics(self) -> None:
        self._signers = prometheus_client.Gauge(
            "certplane_signer_ready",
            "1 if a signer's CA files are usable; 0, with the reason, if something is wrong with them or the signer.",
            ("signer", "reason"),
            registry=self._registry,
        )
        self._signer_problems: dict[str, str] = {}
        self._decisions = _Counts(
            "certplane_csr_decisions", "Decisions of controllers about requests.", "signer", "decision", "reason"
        )
        self._requested = _Counts(
            "apiserver_certificates_registry_csr_requested_duration",
            "Issued certificates whose request had a duration.",
            "signerName",
        )
        self._honored = _Counts(
            "apiserver_certificates_registry_csr_honored_duration",
            "Issued certificates with about the requested duration.",
            "signerName",
        )
        self._queues = _Queues()
        self._published = {
            name: (
                _Counts(f"{name}_sync", "Publications, by the HTTP code of the last response.", "code"),
                _Histograms(f"{name}_sync_duration_seconds", "Seconds per publication.", _PUBLISH_SECONDS, "code"),
            )
            for name in (ROOT_CA, TRUST_BUNDLE)
        }

    def _create_task_metrics(self) -> None:
        self._reloads = _Counts("certplane_file_reloads", "Reloads of changed files, by result.", "file", "result")
        self._failures = _Counts(
            "certplane_background_failures", "Failures of background tasks; each is restarted.", "task"
        )
        self._late = _Gauges(
            "certplane_background_late_seconds",
            "Seconds since a background task last succeeded, while it fails.",
            "task",
        )

    def _create_certificate_metrics(self) -> None:
        self._certificate_ends = _Gauges(
            "certplane_certificate_expiration_timestamp_seconds",
            "When the certificates that this process works with end, in seconds since 1970.",
            "certificate",
            "serial_number",
        )
        self._lifetime_cuts = _Gauges(
            "certplane_signer_lifetime_cut_seconds",
            "By how much the end of a signer's CA now shortens its longest certificates; 0 if it does not.",
            "signer",
        )
        self._renewals = _Counts(
            "certplane_certificate_renewals",
            "Renewals of certificates of the control plane itself, by result.",
            "certificate",
            "result",
        )

    def count_request(self, labels: RequestLabels, code: int, seconds: float) -> None:
        """Count one request, and its duration in seconds."""
        self._requests.count(labels, code, seconds)

    def observe_inflight(self, reads: Callable[[], float], writes: Callable[[], float]) -> None:
        """Set the functions that return the number of requests in progress."""
        self._in_flight.values = lambda: {("readOnly",): reads(), ("mutating",): writes()}

    def observe_watches(self, count: Callable[[], Mapping[WatchLabels, int]]) -> None:
        """Set the function that returns the number of open watches."""
        self._watches.values = lambda: {("WATCH", *labels): number for labels, number in count().items()}

    def observe_objects(self, count: Callable[[], Mapping[tuple[str, str], int]]) -> None:
        """Set the function that returns the number of stored objects, by group and resource."""
        self._objects.values = count

    def observe_certificate_lifetime(self, seconds_left: float) -> None:
        """Record the remaining lifetime of a client certificate."""
        self._expirations.observe(seconds_left)

    def count_refused_connection(self, reason: str) -> None:
        """Count a refused connection. Reasons: tls, http, handshakes, connections, descriptors, memory."""
        self._refused_connections.add(reason)
        if reason == "tls":
            self._tls_errors.add()

    def count_refused_certificate(self, reason: str) -> None:
        """Count a request whose client certificate was refused. Callers must use a small set of reasons."""
        self._refused_certificates.add(reason)

    def count_requested_duration(self, signer: str, *, honored: bool) -> None:
        """Count an issued certificate whose request had a duration."""
        # Users choose the names of signers, so most share one label.
        label = signer if signer.startswith(_NAMED_SIGNERS) else "other"
        self._requested.add(label)
        if honored:
            self._honored.add(label)

    def set_signer(self, name: str, problem: str) -> None:
        """Set the state of a signer: `problem` is empty if it works."""
        previous = self._signer_problems.get(name)
        if previous is not None:
            self._signers.remove(name, previous)
        self._signer_problems[name] = problem
        self._signers.labels(name, problem).set(0 if problem else 1)

    def count_decision(self, signer: str, decision: str, reason: str) -> None:
        """Count a decision of a controller about a request."""
        self._decisions.add(signer, decision, reason)

    def count_reload(self, name: str, succeeded: bool) -> None:
        """Count a reload of files. Callers must use a small set of names."""
        self._reloads.add(name, "success" if succeeded else "error")

    def observe_certificates(self, ends: Callable[[], Mapping[tuple[str, str], float]]) -> None:
        """Set the function that returns when certificates end, by name and serial number."""
        self._certificate_ends.values = ends

    def observe_lifetime_cuts(self, seconds: Callable[[], Mapping[str, float]]) -> None:
        """Set the function that returns by how much CAs shorten the longest certificates of signers, by signer."""
        self._lifetime_cuts.values = lambda: {(signer,): cut for signer, cut in seconds().items()}

    def count_renewal(self, certificate: str, succeeded: bool) -> None:
        """Count a renewal. Callers must use a small set of names."""
        self._renewals.add(certificate, "success" if succeeded else "error")

    def count_background_failure(self, task: str) -> None:
        """Count a failure of a background task."""
        self._failures.add(task)

    def observe_background(self, late_seconds: Callable[[], Mapping[str, float]]) -> None:
        """Set the function that returns how late background tasks are, by name."""
        self._late.values = lambda: {(task,): seconds for task, seconds in late_seconds().items()}

    def count_publication(self, publisher: str, code: int, seconds: float) -> None:
        """Count one round of a publisher, ROOT_CA or TRUST_BUNDLE."""
        total, durations = self._published[publisher]
        total.add(str(code))
        durations.observe(seconds, str(code))

    def queue(self, name: str) -> QueueTelemetry:
        """The metrics of one work queue."""
        return self._queues.queue(name)

    def render(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return exposition.generate_latest(self._registry)


# --- collectors ---------------------------------------------------------------------------------------------------

# The counters of prometheus_client take a lock for each addition, in every request, and add `_created` series that
# Kubernetes' metrics do not have. So values are counted here as plain numbers, and the library only renders them.


class _Times:
    """A histogram in a plain list, because every request adds to it. The library's form is made when it is scraped."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def add(self, seconds: float) -> None:
        self._counts[bisect.bisect_left(self._bounds, seconds)] += 1
        self._sum += seconds

    @classmethod
    def total(cls, histograms: Sequence[_Times]) -> _Times:
        """The sum of histograms with the same bounds."""
        total = cls(histograms[0]._bounds)
        total._counts = [sum(counts) for counts in zip(*(times._counts for times in histograms), strict=True)]
        total._sum = sum(times._sum for times in histograms)
        return total

    def add_to(self, family: metrics_core.HistogramMetricFamily, labels: Sequence[str] = ()) -> None:
        """Add the counts to a metric family of the library."""
        bounds = (*map(formatting.format_float, self._bounds), "+Inf")
        counts = itertools.accumulate(map(float, self._counts))
        family.add_metric(labels, list(zip(bounds, counts, strict=True)), self._sum)


def _exceeds_limits(labels: Sequence[str], series: int) -> bool:
    """Whether new labels are counted as "other", given the number of known series: unauthenticated clients choose the
    labels, and must not fill the memory.
    """
    return series >= _MAX_SERIES or any(len(label) > _MAX_LABEL_LENGTH for label in labels)


class _Counts(registry.Collector):
    """A counter. The library appends `_total` to its name."""

    def __init__(self, name: str, text: str, *labels: str) -> None:
        self._name = name
        self._text = text
        self._labels = labels
        self._counts: dict[tuple[str, ...], int] = {}

    def add(self, *labels: str) -> None:
        if labels not in self._counts and _exceeds_limits(labels, len(self._counts)):
            labels = ("other", *[""] * (len(labels) - 1))
        self._counts[labels] = self._counts.get(labels, 0) + 1

    def collect(self) -> Iterator[metrics_core.Metric]:
        """The metric family for the library."""
        family = metrics_core.CounterMetricFamily(self._name, self._text, labels=self._labels)
        for labels, count in list(self._counts.items()):
            family.add_metric(labels, count)
        yield family


class _Histograms(registry.Collector):
    """A histogram. Without labels it is shown from the start, with zeros."""

    def __init__(self, name: str, text: str, bounds: Sequence[float], *labels: str) -> None:
        self._name = name
        self._text = text
        self._bounds = bounds
        self._labels = labels
        self._times: dict[tuple[str, ...], _Times] = {} if labels else {(): _Times(bounds)}

    def observe(self, value: float, *labels: str) -> None:
        times = self._times.get(labels)
        if times is None:
            times = self._times[labels] = _Times(self._bounds)
        times.add(value)

    def collect(self) -> Iterator[metrics_core.Metric]:
        """The metric family for the library."""
        family = metrics_core.HistogramMetricFamily(self._name, self._text, labels=self._labels)
        for labels, times in list(self._times.items()):
            times.add_to(family, labels)
        yield family


def _no_values() -> Mapping[object, float]:
    return {}


class _Gauges(registry.Collector):
    """A gauge that is read when it is scraped: `values` returns its values by labels."""

    def __init__(self, name: str, text: str, *labels: str) -> None:
        self._name = name
        self._text = text
        self._labels = labels
        self.values: Callable[[], Mapping[Any, float]] = _no_values

    def collect(self) -> Iterator[metrics_core.Metric]:
        """The metric family for the library."""
        family = metrics_core.GaugeMetricFamily(self._name, self._text, labels=self._labels)
        for labels, value in self.values().items():
            family.add_metric(labels, value)
        yield family


class AuditTelemetry(registry.Collector):
    """The metrics of the audit log. `failed` counts records that could not be made; `lost` returns how many could not
    be written, `dropped` how many requests were counted instead of recorded.
    """

    def __init__(self) -> None:
        self.events = 0
        self.failed = 0
        self.levels: dict[str, int] = {}
        self.lost: Callable[[], int] = lambda: 0
        self.dropped: Callable[[], int] = lambda: 0

    def count_level(self, level: str) -> None:
        """Count a request by the level of its audit record."""
        self.levels[level] = self.levels.get(level, 0) + 1

    def collect(self) -> Iterator[metrics_core.Metric]:
        """The metric families for the library."""
        yield metrics_core.CounterMetricFamily("apiserver_audit_event", "Audit records written.", value=self.events)
        levels = metrics_core.CounterMetricFamily(
            "apiserver_audit_level", "Requests, by audit level.", labels=("level",)
        )
        for level, count in self.levels.items():
            levels.add_metric((level,), count)
        yield levels
        lost = metrics_core.CounterMetricFamily(
            "apiserver_audit_error", "Audit records that could not be written.", labels=("plugin",)
        )
        lost.add_metric(("log",), self.failed + self.lost())
        yield lost
        yield metrics_core.CounterMetricFamily(
            "certplane_audit_left_out",
            "Unauthenticated requests without effect that were counted instead of recorded.",
            value=self.dropped(),
        )
        yield metrics_core.CounterMetricFamily(
            "apiserver_audit_requests_rejected",
            "Requests refused because they could not be recorded. Always 0: a failed record fails no request.",
            value=0,
        )


class _Requests(registry.Collector):
    """Requests and their durations."""

    def __init__(self) -> None:
        self._counts: dict[tuple[RequestLabels, int], int] = {}
        self._times: dict[RequestLabels, _Times] = {}

    def count(self, labels: RequestLabels, code: int, seconds: float) -> None:
        key = labels, code
        count = self._counts.get(key)
        if count is None and _exceeds_limits(labels, len(self._counts)):
            key, labels = (_OTHERS, code), _OTHERS
            count = self._counts.get(key)
        self._counts[key] = (count or 0) + 1
        if labels[0] != "WATCH":
            times = self._times.get(labels)
            if times is None:
                times = self._times[labels] = _Times(_SECONDS)
            times.add(seconds)

    def collect(self) -> Iterator[metrics_core.Metric]:
        """The metric families for the library."""
        total = metrics_core.CounterMetricFamily(
            "apiserver_request",
            "Requests, by verb, resource and HTTP code.",
            labels=(*_REQUEST_LABELS, "code"),
        )
        for (labels, code), count in list(self._counts.items()):
            total.add_metric((*labels, str(code)), count)
        yield total
        durations = metrics_core.HistogramMetricFamily(
            "apiserver_request_duration_seconds",
            "Seconds from a request to the beginning of its response, without watches.",
            labels=_REQUEST_LABELS,
        )
        for labels, times in list(self._times.items()):
            times.add_to(durations, labels)
        yield durations


class QueueTelemetry:
    """The metrics of one work queue. Queues with the same name are shown as one."""

    def __init__(self) -> None:
        self.adds = 0
        self.retries = 0
        self.waiting = _Times(_QUEUE_SECONDS)
        self.working = _Times(_QUEUE_SECONDS)
        #: The number of waiting items, and the seconds for which each item in progress has been processed.
        self.depth: Callable[[], int] = lambda: 0
        self.running: Callable[[], Sequence[float]] = lambda: ()


class _Queues(registry.Collector):
    """All work queues, under the names of client-go."""

    def __init__(self) -> None:
        self._queues: dict[str, list[QueueTelemetry]] = {}

    def queue(self, name: str) -> QueueTelemetry:
        queue = QueueTelemetry()
        self._queues.setdefault(name, []).append(queue)
        return queue

    def collect(self) -> Iterator[metrics_core.Metric]:
        """The metric families for the library."""
        label = ("name",)
        depth = metrics_core.GaugeMetricFamily("workqueue_depth", "Waiting items.", labels=label)
        adds = metrics_core.CounterMetricFamily("workqueue_adds", "Added items.", labels=label)
        retries = metrics_core.CounterMetricFamily("workqueue_retries", "Items added again for a retry.", labels=label)
        unfinished = metrics_core.GaugeMetricFamily(
            "workqueue_unfinished_work_seconds",
            "Seconds spent on items in progress. Large values indicate stuck workers.",
            labels=label,
        )
        longest = metrics_core.GaugeMetricFamily(
            "workqueue_longest_running_processor_seconds", "Seconds spent on the oldest item in progress.", labels=label
        )
        waiting = metrics_core.HistogramMetricFamily(
            "workqueue_queue_duration_seconds", "Seconds that items waited.", labels=label
        )
        working = metrics_core.HistogramMetricFamily(
            "workqueue_work_duration_seconds", "Seconds that processing an item took.", labels=label
        )
        for name, queues in self._queues.items():
            labels = (name,)
            running = [seconds for queue in queues for seconds in queue.running()]
            depth.add_metric(labels, sum(queue.depth() for queue in queues))
            adds.add_metric(labels, sum(queue.adds for queue in queues))
            retries.add_metric(labels, sum(queue.retries for queue in queues))
            unfinished.add_metric(labels, sum(running))
            longest.add_metric(labels, max(running, default=0.0))
            _Times.total([queue.waiting for queue in queues]).add_to(waiting, labels)
            _Times.total([queue.working for queue in queues]).add_to(working, labels)
        yield from (depth, adds, retries, unfinished, longest, waiting, working)
