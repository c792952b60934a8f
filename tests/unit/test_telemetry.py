"""What is counted, and how it is shown."""

from __future__ import annotations

from certplane import telemetry


def shown(of, *names):
    """The lines about some metrics, without their explanations and the buckets."""
    lines = of.render().decode().splitlines()
    return [each for each in lines if each.startswith(names) and "_bucket" not in each]


def test_requests_are_counted_under_kubernetes_labels():
    """With whether they were only tried, and what served them."""
    of = telemetry.Telemetry()
    labels = ("POST", "All", "", "v1", "configmaps", "", "resource", telemetry.COMPONENT)
    of.request(labels, 201, 0.01)
    told = (
        'component="apiserver",dry_run="All",group="",resource="configmaps",scope="resource",subresource="",'
        'verb="POST",version="v1"'
    )
    assert shown(of, "apiserver_request_total") == [f'apiserver_request_total{{code="201",{told}}} 1.0']
    assert shown(of, "apiserver_request_duration_seconds_count") == [
        f"apiserver_request_duration_seconds_count{{{told}}} 1.0"
    ]


def test_users_signers_are_counted_together():
    """Their names are whatever users come up with; those of Kubernetes are few."""
    of = telemetry.Telemetry()
    of.duration("kubernetes.io/kubelet-serving", honored=True)
    of.duration("example.com/a", honored=False)
    of.duration("example.com/b", honored=True)
    name = "apiserver_certificates_registry_csr"
    assert shown(of, name) == [
        f'{name}_requested_duration_total{{signerName="kubernetes.io/kubelet-serving"}} 1.0',
        f'{name}_requested_duration_total{{signerName="other"}} 2.0',
        f'{name}_honored_duration_total{{signerName="kubernetes.io/kubelet-serving"}} 1.0',
        f'{name}_honored_duration_total{{signerName="other"}} 1.0',
    ]


def test_queues_of_one_name_are_shown_as_one():
    """Controllers of the same kind of object share a name, as in Kubernetes."""
    of = telemetry.Telemetry()
    first, second = of.queue("certificate"), of.queue("certificate")
    first.adds, second.adds, second.retries = 2, 3, 1
    first.depth, second.depth = lambda: 1, lambda: 4
    first.running, second.running = lambda: [1.5], lambda: [0.5, 2.0]
    first.waiting.add(0.25)
    second.waiting.add(0.5)
    label = '{name="certificate"}'
    assert shown(of, "workqueue_") == [
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


def test_records_are_counted():
    """By level, and with what was lost; none is ever a reason to refuse a request."""
    of = telemetry.Telemetry()
    of.audit.judged("Metadata")
    of.audit.judged("None")
    of.audit.events += 2
    of.audit.lost = lambda: 7
    assert shown(of, "apiserver_audit") == [
        "apiserver_audit_event_total 2.0",
        'apiserver_audit_level_total{level="Metadata"} 1.0',
        'apiserver_audit_level_total{level="None"} 1.0',
        'apiserver_audit_error_total{plugin="log"} 7.0',
        "apiserver_audit_requests_rejected_total 0.0",
    ]


def test_nothing_is_shown_that_kubernetes_does_not_show():
    """No moments at which counters were made: they would double every counter."""
    of = telemetry.Telemetry()
    of.decision("example.com/a", "Approved", "Rule")
    of.published(telemetry.ROOT_CA, 200, 0.1)
    assert "_created" not in of.render().decode()


def test_bounds_of_buckets_are_written_as_go_writes_them():
    """A label is compared as text: recorded rules and dashboards look for what other Kubernetes servers say."""
    of = telemetry.Telemetry()
    of.client_certificate(700_000.0)
    name = "apiserver_client_certificate_expiration_seconds_bucket"
    lines = [each for each in of.render().decode().splitlines() if each.startswith(name)]
    bounds = [each.partition('le="')[2].partition('"')[0] for each in lines]
    assert bounds == [
        "0", "1800", "3600", "7200", "21600", "43200", "86400", "172800", "345600", "604800", "2.592e+06", "7.776e+06",
        "1.5552e+07", "3.1104e+07", "+Inf",
    ]  # fmt: skip


def test_bounds_of_small_buckets():
    """Client-go's queues begin at ten nanoseconds."""
    of = telemetry.Telemetry()
    of.queue("certificate")
    lines = [each for each in of.render().decode().splitlines() if each.startswith("workqueue_work_duration_seconds_b")]
    bounds = [each.partition('le="')[2].partition('"')[0] for each in lines]
    assert bounds == ["1e-08", "1e-07", "1e-06", "1e-05", "0.0001", "0.001", "0.01", "0.1", "1", "10", "+Inf"]
