"""Metrics of the agent. `metricsserver` serves them.

Where the kubelet has such a metric, it has the kubelet's name, and a label for the certificate: existing alerts work
unchanged. A library for metrics would need too much of the agent's memory.
"""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from certplane.agent.status import BundleStatus

#: The buckets of kubelet_certificate_manager_server_rotation_seconds.
_ROTATION_SECONDS: Final = (60, 3600, 14400, 86400, 604800, 2592000, 7776000, 15552000, 31104000, 124416000)


class Ages:
    """How long certificates were in use, counted in buckets."""

    def __init__(self) -> None:
        self.counts = [0] * len(_ROTATION_SECONDS)
        self.count = 0
        self.total = 0.0

    def add(self, seconds: float) -> None:
        """Count a certificate that was replaced."""
        for number in range(bisect.bisect_left(_ROTATION_SECONDS, seconds), len(_ROTATION_SECONDS)):
            self.counts[number] += 1
        self.count += 1
        self.total += seconds


@dataclasses.dataclass(slots=True)
class CertificateMetrics:
    """The figures of one certificate. `not_after` and `renewal` are POSIX seconds, None for none. `is_server`: its
    metrics are those of the kubelet's serving certificate.
    """

    name: str
    is_server: bool
    not_after: float | None = None
    renewal: float | None = None
    errors: int = 0
    renewals: int = 0
    has_problem: bool = False
    is_served: bool | None = None
    ages: Ages = dataclasses.field(default_factory=Ages)

    def ttl(self, now: float) -> float:
        """Seconds until the certificate expires; infinity without a valid one, as in the kubelet."""
        return self.not_after - now if self.not_after is not None and self.not_after > now else float("inf")


def render(certificates: Iterable[CertificateMetrics], bundles: Iterable[BundleStatus], now: float) -> str:
    """The metrics in the text format of Prometheus. `now` is in POSIX seconds."""
    everything = list(certificates)
    servers = [item for item in everything if item.is_server]
    clients = [item for item in everything if not item.is_server]
    ttl, failed = "Seconds until the certificate expires; +Inf without a valid one.", "Failed attempts to renew it."
    lines = [
        *_family("kubelet_certificate_manager_client_ttl_seconds", "gauge", ttl, clients, lambda item: item.ttl(now)),
        *_family("kubelet_certificate_manager_server_ttl_seconds", "gauge", ttl, servers, lambda item: item.ttl(now)),
        *_family("kubelet_certificate_manager_client_expiration_renew_errors", "counter", failed, clients, _errors),
        *_family("kubelet_server_expiration_renew_errors", "counter", failed, servers, _errors),
        *_rotations(servers),
    ]
    for name, kind, text, value in _OWN:
        lines += _family(f"certplane_agent_{name}", kind, text, everything, value)
    return "".join(f"{line}\n" for line in (*lines, *_bundle_lines(list(bundles))))


def _bundle_lines(bundles: Sequence[BundleStatus]) -> Iterator[str]:
    if not bundles:
        return
    for name, text, value in _BUNDLES:
        yield f"# HELP certplane_agent_trust_bundle_{name} {text}"
        yield f"# TYPE certplane_agent_trust_bundle_{name} gauge"
        for item in bundles:
            path = item.path.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
            yield f'certplane_agent_trust_bundle_{name}{{path="{path}"}} {value(item)}'


#: The metrics of trust bundles: name, help and value.
_BUNDLES: Final[Sequence[tuple[str, str, Callable[[BundleStatus], int]]]] = (
    ("certificates", "CA certificates in the file, after the first update.", lambda item: item.certificates),
    ("retained", "CA certificates in the file that are no longer published, but needed.", lambda item: item.retained),
    ("problem", "1 if the bundle cannot be read or written.", lambda item: int(bool(item.problem))),
)


def _errors(item: CertificateMetrics) -> float:
    return item.errors


#: Our own metrics: name, type, help, and value, which is None if there is none.
_OWN: Final[Sequence[tuple[str, str, str, Callable[[CertificateMetrics], float | None]]]] = (
    ("certificate_expiration_timestamp_seconds", "gauge", "When the certificate expires, in seconds since 1970.",
     lambda item: item.not_after),
    ("certificate_renewal_timestamp_seconds", "gauge", "When the certificate will be renewed, in seconds since 1970.",
     lambda item: item.renewal),
    ("renewals_total", "counter", "Certificates that were obtained.", lambda item: item.renewals),
    ("certificate_problem", "gauge", "1 if the certificate cannot be renewed, installed or served.",
     lambda item: item.has_problem),
    ("certificate_served", "gauge", "1 if the endpoint serves the current certificate, else 0.",
     lambda item: item.is_served),
)  # fmt: skip


def _family(
    name: str,
    kind: str,
    text: str,
    items: Sequence[CertificateMetrics],
    value: Callable[[CertificateMetrics], float | None],
) -> list[str]:
    values = [(item.name, value(item)) for item in items]
    # Names of certificates are DNS labels: nothing in them has to be escaped.
    samples = [f'{name}{{certificate="{label}"}} {_text(number)}' for label, number in values if number is not None]
    return [f"# HELP {name} {text}", f"# TYPE {name} {kind}", *samples] if samples else []


def _text(number: float) -> str:
    return "+Inf" if number == float("inf") else f"{number:.0f}"


def _rotations(certificates: Sequence[CertificateMetrics]) -> list[str]:
    name = "kubelet_certificate_manager_server_rotation_seconds"
    if not certificates:
        return []
    lines = [f"# HELP {name} How long the replaced certificates were in use.", f"# TYPE {name} histogram"]
    for item in certificates:
        for limit, count in zip(_ROTATION_SECONDS, item.ages.counts, strict=True):
            lines.append(f'{name}_bucket{{certificate="{item.name}",le="{limit}"}} {count}')
        lines.append(f'{name}_bucket{{certificate="{item.name}",le="+Inf"}} {item.ages.count}')
        lines.append(f'{name}_sum{{certificate="{item.name}"}} {item.ages.total:.0f}')
        lines.append(f'{name}_count{{certificate="{item.name}"}} {item.ages.count}')
    return lines
