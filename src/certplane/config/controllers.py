"""Settings of `certplane controllers`: the controllers alone, against somebody else's API server."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any, Final

from certplane import errors
from certplane.config import crew, options, signing
from certplane.config.options import Option

#: client-go's own condition: renewals are jittered by so much.
_JITTER: Final = 1.2

OPTIONS: Final[tuple[Option, ...]] = (
    Option("kubeconfig", "Where the API server is and who we are; by default what a pod is told.", "path", None),
    Option("context", "Context of the kubeconfig; by default its current one."),
    Option("controllers", "'*', or names of controllers; -NAME leaves one out.", "names", crew.ABROAD),
    Option("leader-elect", "Whether copies agree on one that works.", "flag", True),
    Option("leader-elect-lease-duration", "When others may take over from one that is silent.", "duration", "15s"),
    Option("leader-elect-renew-deadline", "When one that cannot renew stops.", "duration", "10s"),
    Option("leader-elect-retry-period", "How often it is renewed, and tried for.", "duration", "2s"),
    Option("leader-elect-resource-name", "Name of the Lease.", default="certplane-controllers"),
    Option("leader-elect-resource-namespace", "Its namespace; by default the pod's, else kube-system."),
    *signing.OPTIONS,
    Option("root-ca-file", "Certificates to publish; by default those that the kubeconfig trusts.", "path", None),
    Option("kube-api-qps", "Requests a second at the most; 0 for any number.", "number", 0),
    Option("kube-api-burst", "How many may come at once beyond it.", "number", 30),
    Option("listen-health", "HOST:PORT for /healthz, /livez, /readyz and /metrics, without TLS; none for none.",
           default="127.0.0.1:10257"),
    options.SERVING_APPROVER,
    options.DECISION_EVENTS,
    options.LOG_LEVEL,
)  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True)
class Election:
    """How copies agree on a leader; times in seconds."""

    name: str
    namespace: str
    lease: float
    deadline: float
    retry: float


@dataclasses.dataclass(frozen=True, slots=True)
class Settings:
    """Everything that `controllers` has to know, judged. No `election`: there is one copy. `rate` is requests a
    second (0: any) and burst.
    """

    kubeconfig: pathlib.Path | None
    context: str
    controllers: frozenset[str]
    election: Election | None
    signing: signing.Signing
    root_ca_file: pathlib.Path | None
    rate: tuple[int, int]
    health: tuple[str, int] | None
    decision_events: bool
    serving_approver: pathlib.Path | None
    log_level: str


def settings(flags: Mapping[str, Any], file: Mapping[str, Any]) -> Settings:
    """Settings from the command line (by field, None where nothing was said) and a configuration file (by name).

    Raises SetupError, with everything that is wrong.
    """
    problems: options.Problems = []
    values = options.Values(OPTIONS, flags, file, problems)
    found = Settings(
        kubeconfig=values.path("kubeconfig"),
        context=values.text("context"),
        controllers=crew.chosen(values.names("controllers"), list(crew.CONTROLLERS), problems),
        election=_election(values) if values.flag("leader_elect") else None,
        signing=signing.read(values),
        root_ca_file=values.path("root_ca_file"),
        rate=(values.number("kube_api_qps", 0), values.number("kube_api_burst", 1)),
        health=None if values.text("listen_health") == "none" else values.address("listen_health"),
        decision_events=values.flag("decision_events"),
        serving_approver=values.path("serving_approver"),
        log_level=values.text("log_level"),
    )
    if not found.controllers:
        problems.append("--controllers: none is left")
    if problems:
        raise errors.SetupError("; ".join(problems), ("certplane controllers --help lists all settings",))
    return found


def _election(values: options.Values) -> Election:
    """The rules of client-go's leader election; in its words where it has some."""
    lease, deadline, retry = (
        values.duration(f"leader_elect_{each}", positive=True).total_seconds()
        for each in ("lease_duration", "renew_deadline", "retry_period")
    )
    if lease <= deadline:
        values.problems.append("leaseDuration must be greater than renewDeadline")
    if deadline <= _JITTER * retry:
        values.problems.append("renewDeadline must be greater than retryPeriod*JitterFactor")
    name = values.text("leader_elect_resource_name")
    if not name:
        values.problems.append("--leader-elect-resource-name: must not be empty")
    return Election(name, values.text("leader_elect_resource_namespace"), lease, deadline, retry)
