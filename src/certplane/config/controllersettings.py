"""Settings of `certplane controllers`: only the controllers, for another API server."""

from __future__ import annotations

import dataclasses
import datetime
import pathlib
from collections.abc import Mapping
from typing import Final

from certplane import errors
from certplane.config import controllernames, options, sharedsettings, signing
from certplane.config.options import Address, Option
from certplane.config.sharedsettings import ControllerSettings

#: Leases hold whole seconds, in 32 bits.
_MIN_LEASE_DURATION: Final = datetime.timedelta(seconds=1)
_MAX_LEASE_DURATION: Final = datetime.timedelta(seconds=2**31 - 1)
#: As in client-go: retries are spread by up to this factor.
_JITTER: Final = 1.2

OPTIONS: Final[tuple[Option, ...]] = (
    Option("kubeconfig", "Kubeconfig of the API server; by default the service account of the pod.", "path", None),
    Option("context", "Context of the kubeconfig; by default its current context."),
    Option("controllers", "'*', or names of controllers; -NAME removes one.", "names", controllernames.REMOTE_DEFAULTS),
    Option("leader-elect", "Run leader election; only the leader is active.", "flag", True),
    Option("leader-elect-lease-duration", "How long replicas wait for a lease that is not renewed.",
           "duration", "15s"),
    Option("leader-elect-renew-deadline", "How long the leader tries to renew before it stops.", "duration", "10s"),
    Option("leader-elect-retry-period", "Time between two attempts to acquire or renew the lease.", "duration", "2s"),
    Option("leader-elect-resource-name", "Name of the Lease.", default="certplane-controllers"),
    Option("leader-elect-resource-namespace", "Namespace of the Lease; by default the pod's, or kube-system."),
    *signing.OPTIONS,
    Option("root-ca-file", "CA certificates to publish; by default those that the kubeconfig trusts.", "path", None),
    Option("kube-api-qps", "Maximum requests a second to the API server; 0 for no limit.", "number", 0),
    Option("kube-api-burst", "Requests that may be sent at once, beyond kube-api-qps.", "number", 30),
    Option("listen-health", "HOST:PORT for /healthz, /livez, /readyz and /metrics, over plain HTTP; none to disable.",
           default="127.0.0.1:10257"),
    sharedsettings.SERVING_APPROVER,
    sharedsettings.DECISION_EVENTS,
    options.LOG_LEVEL,
)  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True)
class LeaderElectionSettings:
    """`resource_name` and `resource_namespace` are those of the Lease; without a namespace, the pod's is used."""

    resource_name: str
    resource_namespace: str
    lease_duration: datetime.timedelta
    renew_deadline: datetime.timedelta
    retry_period: datetime.timedelta


@dataclasses.dataclass(frozen=True, slots=True)
class KubeAPISettings:
    """Limits on requests to the API server: `qps` requests a second (0: no limit), and `burst` at once."""

    qps: int
    burst: int


@dataclasses.dataclass(frozen=True, slots=True)
class Settings:
    """All settings of `controllers`, checked. Without `leader_elect` there is one replica."""

    kubeconfig: pathlib.Path | None
    context: str
    controllers: ControllerSettings
    leader_elect: LeaderElectionSettings | None
    kube_api: KubeAPISettings
    listen_health: Address | None
    log_level: str


def read(flags: Mapping[str, object], file: Mapping[str, object]) -> Settings:
    """Settings from the command line (by field, None for flags that were not set) and a configuration file (by name).

    Raises SetupError, with everything that is wrong.
    """
    problems: options.Problems = []
    values = options.Values(OPTIONS, flags, file, problems)
    settings = Settings(
        kubeconfig=values.path("kubeconfig"),
        context=values.text("context"),
        controllers=sharedsettings.read_controllers(values),
        leader_elect=_read_leader_election(values) if values.flag("leader_elect") else None,
        kube_api=KubeAPISettings(qps=values.number("kube_api_qps", 0), burst=values.number("kube_api_burst", 1)),
        listen_health=None if values.text("listen_health") == "none" else values.address("listen_health"),
        log_level=values.text("log_level"),
    )
    if not settings.controllers.controllers:
        problems.append("--controllers: no controller is left")
    if problems:
        raise errors.SetupError("; ".join(problems), ("certplane controllers --help lists all settings",))
    return settings


def _read_leader_election(values: options.Values) -> LeaderElectionSettings:
    """Checked by the rules of client-go, in its words where it has some."""
    lease, deadline, retry = (
        values.duration(f"leader_elect_{name}", positive=True)
        for name in ("lease_duration", "renew_deadline", "retry_period")
    )
    if lease and not _MIN_LEASE_DURATION <= lease <= _MAX_LEASE_DURATION:
        values.problems.append("--leader-elect-lease-duration: must be between 1s and 2147483647s")
    if lease <= deadline:
        values.problems.append("leaseDuration must be greater than renewDeadline")
    if deadline <= _JITTER * retry:
        values.problems.append("renewDeadline must be greater than retryPeriod*JitterFactor")
    name = values.text("leader_elect_resource_name")
    if not name:
        values.problems.append("--leader-elect-resource-name: must not be empty")
    return LeaderElectionSettings(name, values.text("leader_elect_resource_namespace"), lease, deadline, retry)
