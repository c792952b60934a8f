"""Invalid settings of `certplane controllers`."""

from __future__ import annotations

import pytest

from certplane import errors
from certplane.config import controllersettings


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"controllers": "unknown"}, "unknown controller unknown"),
        ({"controllers": ""}, "no controller is left"),
        ({"leader_elect_lease_duration": "5s"}, "leaseDuration must be greater than renewDeadline"),
        (
            {"leader_elect_lease_duration": "2147483648s"},
            "--leader-elect-lease-duration: must be between 1s and 2147483647s",
        ),
        (
            {
                "leader_elect_lease_duration": "900ms",
                "leader_elect_renew_deadline": "500ms",
                "leader_elect_retry_period": "100ms",
            },
            "--leader-elect-lease-duration: must be between 1s and 2147483647s",
        ),
        ({"leader_elect_retry_period": "9s"}, "renewDeadline must be greater than retryPeriod*JitterFactor"),
        ({"kube_api_qps": "many"}, "--kube-api-qps: must be a number"),
        ({"listen_health": "nowhere"}, "--listen-health: not HOST:PORT"),
        (
            {"cluster_signing_cert_file": "a", "cluster_signing_kubelet_serving_cert_file": "b"},
            '"cluster-signing-kubelet-serving": cannot specify cert without key',
        ),
    ],
)
def test_invalid_settings_are_refused(flags, message):
    """With a hint."""
    with pytest.raises(errors.SetupError) as refused:
        controllersettings.read(flags, {})
    assert message in str(refused.value)
    assert refused.value.hints
