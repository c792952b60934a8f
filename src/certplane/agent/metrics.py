"""Metrics of the agent, and the small HTTP server that shows them.

Where the kubelet has such a metric, it has the kubelet's name, and a label for the certificate: existing alerts work
unchanged. A library for metrics, or for HTTP, would need a quarter of the agent's memory.
"""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from typing import Final

from certplane import clock, files
from certplane.agent.status import BundleStatus
from certplane.clock import Clock
from certplane.config.options import Address

#: The buckets of kubelet_certificate_manager_server_rotation_seconds.
_ROTATION_SECONDS: Final = (60, 3600, 14400, 86400, 604800, 2592000, 7776000, 15552000, 31104000, 124416000)
_CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_MAX_CONNECTIONS: Final = 16
_HEAD_BYTES: Final = 8192
_HEAD_SECONDS: Final = 5.0


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


@contextlib.asynccontextmanager
async def served(address: Address | None, metrics: Callable[[], str], timer: Clock) -> AsyncIterator[None]:
    """Serve /metrics and /healthz at an address while the block runs. Raises SetupError if it cannot be used."""
    if address is None:
        yield
        return
    connections = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        try:
            if connections <= _MAX_CONNECTIONS:
                head = await clock.wait_for(timer, reader.readuntil(b"\r\n\r\n"), _HEAD_SECONDS)
                writer.write(_response(head, metrics))
                await clock.wait_for(timer, writer.drain(), _HEAD_SECONDS)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            connections -= 1
            writer.close()

    with files.as_setup_error(
        f"metricsAddress: {address.host}:{address.port} cannot be used", "choose an address that is free"
    ):
        server = await asyncio.start_server(answer, address.host, address.port, limit=_HEAD_BYTES)
    async with server:
        yield


def _response(head: bytes, metrics: Callable[[], str]) -> bytes:
    method, _, rest = head.partition(b" ")
    path = rest.partition(b" ")[0].partition(b"?")[0]
    if method not in (b"GET", b"HEAD"):
        status, body = "405 Method Not Allowed", b"405 method not allowed\n"
    elif path == b"/metrics":
        status, body = "200 OK", metrics().encode()
    elif path == b"/healthz":
        status, body = "200 OK", b"ok"
    else:
        status, body = "404 Not Found", b"404 page not found\n"
    fields = (
        f"HTTP/1.1 {status}\r\nContent-Type: {_CONTENT_TYPE}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n"
    )
    return f"{fields}\r\n".encode() + (b"" if method == b"HEAD" else body)
