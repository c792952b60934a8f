"""The metrics of an agent."""

from __future__ import annotations

import prometheus_client.parser
import pytest

from certplane.agent import metrics
from certplane.agent.metrics import Ages, CertificateMetrics

NOW = 1_000_000.0


def samples(certificates):
    """All values, by name and labels."""
    families = prometheus_client.parser.text_string_to_metric_families(metrics.render(certificates, [], NOW))
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value for family in families for sample in family.samples
    }


def test_a_client_certificate():
    """It has the kubelet's names, and the rest as timestamps."""
    item = CertificateMetrics("node", False, NOW + 500, NOW + 100, errors=3, renewals=2, has_problem=True)
    assert samples([item]) == {
        ("kubelet_certificate_manager_client_ttl_seconds", "node"): 500,
        ("kubelet_certificate_manager_client_expiration_renew_errors_total", "node"): 3,
        ("certplane_agent_certificate_expiration_timestamp_seconds", "node"): NOW + 500,
        ("certplane_agent_certificate_renewal_timestamp_seconds", "node"): NOW + 100,
        ("certplane_agent_renewals_total", "node"): 2,
        ("certplane_agent_certificate_problem", "node"): 1,
    }


@pytest.mark.parametrize("not_after", [None, NOW - 1], ids=["none", "expired"])
def test_without_a_valid_certificate(not_after):
    """The time to live is infinite, as the kubelet shows it."""
    values = samples([CertificateMetrics("node", False, not_after)])
    assert values[("kubelet_certificate_manager_client_ttl_seconds", "node")] == float("inf")


def test_a_serving_certificate():
    """It has the names of the kubelet's serving certificate, and the ages of the replaced ones."""
    ages = Ages()
    for seconds in (50, 60, 61, 10**10):
        ages.add(seconds)
    values = samples([CertificateMetrics("web", True, NOW + 5, is_served=False, ages=ages)])
    name = "kubelet_certificate_manager_server_rotation_seconds"
    assert values[(f"{name}_bucket", "60", "web")] == 2
    assert values[(f"{name}_bucket", "3600", "web")] == 3
    assert values[(f"{name}_bucket", "+Inf", "web")] == values[(f"{name}_count", "web")] == 4
    assert values[(f"{name}_sum", "web")] == 10**10 + 171
    assert values[("kubelet_certificate_manager_server_ttl_seconds", "web")] == 5
    assert values[("certplane_agent_certificate_served", "web")] == 0
