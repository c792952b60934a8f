"""Look at the certificate that a TLS endpoint serves: a program may still serve the former one.

The certificate is read whether it is trusted or not; it is verified as well if there are CA certificates.
"""

from __future__ import annotations

import dataclasses
import datetime

from certplane.agent import certificatefacts
from certplane.agent.settings import Probe
from certplane.client import tlshandshake
from certplane.client.tlshandshake import Endpoint, HandshakeError
from certplane.clock import Clock
from certplane.x509.trust.pathcertificate import CertificateParseError


@dataclasses.dataclass(frozen=True, slots=True)
class ProbeResult:
    """`problem` says why no certificate could be read; otherwise it is empty, and the other fields are those of the
    certificate that is served: `serial` in lower-case hex, `certificate` in DER. `distrust` says why it is not trusted
    by the CA certificates or has another name; it is empty if it is trusted, None if that was not checked.
    """

    problem: str = ""
    serial: str = ""
    not_after: datetime.datetime | None = None
    certificate: bytes = b""
    distrust: str | None = None


async def probe(target: Probe, timer: Clock, roots: bytes = b"") -> ProbeResult:
    """Read the certificate of an endpoint. `roots` are CA certificates in PEM, or empty."""
    try:
        served = await tlshandshake.read(Endpoint(target.host, target.port, target.server_name), timer, roots)
        facts = certificatefacts.read(served.certificate)
    except HandshakeError as error:
        return ProbeResult(f"{target.host}:{target.port} {error}")
    except CertificateParseError as error:
        return ProbeResult(f"{target.host}:{target.port} serves a certificate that cannot be parsed: {error}")
    return ProbeResult("", facts.serial, facts.not_after, served.certificate, served.distrust)
