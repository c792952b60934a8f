"""Metrics, and the format of the log."""

from __future__ import annotations

from certplane import telemetry


def shown(figures, *names):
    """The lines of some metrics, without comments and buckets."""
    lines = figures.render().decode().splitlines()
    return [line for line in lines if line.startswith(names) and "_bucket" not in line]


def test_requests_are_counted_under_kubernetes_labels():
    """Including dry run and component."""
    figures = telemetry.Telemetry()
    labels = ("POST", "All", "", "v1", "configmaps", "", "resource", telemetry.COMPONENT)
    figures.count_request(labels, 201, 0.01)
    expected_labels = (
        'component="apiserver",dry_run="All",group="",resource="configmaps",scope="resource",subresource="",'
        'verb="POST",version="v1"'
    )
    assert shown(figures, "apiserver_request_total") == [f'apiserver_request_total{{code="201",{expected_labels}}} 1.0']
    assert shown(figures, "apiserver_request_duration_seconds_count") == [
        f"apiserver_request_duration_seconds_count{{{expected_labels}}} 1.0"
    ]


def test_custom_signers_share_one_label():
    """Users choose their names. Those of Kubernetes are few."""
    figures = telemetry.Telemetry()
    figures.count_requested_duration("kubernetes.io/kubelet-serving", honored=True)
    figures.count_requested_duration("example.com/a", honored=False)
    figures.count_requested_duration("example.com/b", honored=True)
    name = "apiserver_certificates_registry_csr"
    assert shown(figures, name) == [
        f'{name}_requested_duration_total{{signerName="kubernetes.io/kubelet-serving"}} 1.0',
        f'{name}_requested_duration_total{{signerName="other"}} 2.0',
        f'{name}_honored_duration_total{{signerName="kubernetes.io/kubelet-serving"}} 1.0',
        f'{name}_honored_duration_total{{signerName="other"}} 1.0',
    ]


def test_queues_of_one_name_are_shown_as_one():
    """Controllers of the same kind of object share a name, as in Kubernetes."""
    figures = telemetry.Telemetry()
    first, second = figures.queue("certificate"), figures.queue("certificate")
    first.adds, second.adds, second.retries = 2, 3, 1
    first.depth, second.depth = lambda: 1, lambda: 4
    first.running, second.running = lambda: [1.5], lambda: [0.5, 2.0]
    first.waiting.add(0.25)
    second.waiting.add(0.5)
    label = '{name="certificate"}'
    assert shown(figures, "workqueue_") == [
        f"workqueue_depth{label} 5.0",
        f"workqueue_adds_total{label} 5.0",
        f"workqueue_retries_total{label} 1.0",
        f"workqueue_unfinished_work_seconds{label} 4.0",
        f"workqueue_longest_running_processor_seconds{label} 2.0",
        f"workqueue_queue_duration_seconds_count{label} 2.0",
        f"workqueue_queue_duration_seconds_sum{label} 0.75",
        f"workqueue_work_duration_seconds_count{label} 0.0",
        f"workqueue_work_duration_seconds_sum{label} 0.0",
    ]


def test_audit_records_are_counted():
    """By level, and those that were lost; no request is rejected because of its record."""
    figures = telemetry.Telemetry()
    figures.audit.count_level("Metadata")
    figures.audit.count_level("None")
    figures.audit.events += 2
    figures.audit.lost = lambda: 7
    assert shown(figures, "apiserver_audit") == [
        "apiserver_audit_event_total 2.0",
        'apiserver_audit_level_total{level="Metadata"} 1.0',
        'apiserver_audit_level_total{level="None"} 1.0',
        'apiserver_audit_error_total{plugin="log"} 7.0',
        "apiserver_audit_requests_rejected_total 0.0",
    ]


def test_counters_have_no_created_series():
    """Kubernetes has none, and they would double the number of series."""
    figures = telemetry.Telemetry()
    figures.count_decision("example.com/a", "Approved", "Rule")
    figures.count_publication(telemetry.ROOT_CA, 200, 0.1)
    assert "_created" not in figures.render().decode()


def test_bounds_of_buckets_are_written_as_go_writes_them():
    """Recording rules and dashboards compare the label as text."""
    figures = telemetry.Telemetry()
    figures.observe_certificate_lifetime(700_000.0)
    name = "apiserver_client_certificate_expiration_seconds_bucket"
    lines = [line for line in figures.render().decode().splitlines() if line.startswith(name)]
    bounds = [line.partition('le="')[2].partition('"')[0] for line in lines]
    assert bounds == [
        "0", "1800", "3600", "7200", "21600", "43200", "86400", "172800", "345600", "604800", "2.592e+06", "7.776e+06",
        "1.5552e+07", "3.1104e+07", "+Inf",
    ]  # fmt: skip


def test_bounds_of_small_buckets():
    """The buckets of client-go's queues begin at ten nanoseconds."""
    figures = telemetry.Telemetry()
    figures.queue("certificate")
    lines = [
        line for line in figures.render().decode().splitlines() if line.startswith("workqueue_work_duration_seconds_b")
    ]
    bounds = [line.partition('le="')[2].partition('"')[0] for line in lines]
    assert bounds == ["1e-08", "1e-07", "1e-06", "1e-05", "0.0001", "0.001", "0.01", "0.1", "1", "10", "+Inf"]


def test_long_labels_are_counted_together():
    """Unauthenticated clients choose them, and must not fill the memory."""
    figures = telemetry.Telemetry()
    for number in range(3):
        labels = ("GET", "", f"{number}" + "x" * 300, "v1", "a", "", "cluster", telemetry.COMPONENT)
        figures.count_request(labels, 403, 0.01)
        figures.count_decision("example.com/" + f"{number}" + "x" * 300, "Failed", "x")
    assert [line.rpartition(" ")[2] for line in shown(figures, "apiserver_request_total")] == ["3.0"]
    assert [line.rpartition(" ")[2] for line in shown(figures, "certplane_csr_decisions_total")] == ["3.0"]
