"""Look at the certificate that a TLS endpoint serves: a program may still serve the former one.

The certificate is read whether it is trusted or not, also from servers that require a client certificate; it is
verified as well if there are CA certificates. Nothing but a handshake is sent. Time and size are limited.
"""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import os
import socket
import ssl
from typing import Final

from certplane import clock
from certplane.agent import certificatefacts
from certplane.agent.settings import Probe
from certplane.clock import Clock
from certplane.x509.trust.pathcertificate import CertificateParseError

_SECONDS: Final = 10.0
_MAX_BYTES: Final = 256 * 1024
_CHUNK: Final = 16 * 1024
#: RFC 8446 section 5.1, 4; RFC 5246 section 7.4.2.
_HANDSHAKE_RECORD: Final = 22
_ALERT_RECORD: Final = 21
_CERTIFICATE_MESSAGE: Final = 11


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


class _ProbeError(Exception):
    """No certificate could be read."""


async def probe(target: Probe, timer: Clock, roots: bytes = b"") -> ProbeResult:
    """Read the certificate of an endpoint. `roots` are CA certificates in PEM, or empty."""
    try:
        try:
            handshake = await _run(target, timer, roots)
            distrust = handshake.distrust
            if roots and not handshake.certificate:
                # A certificate that was not trusted cannot be read in that handshake.
                handshake = await _run(target, timer, b"")
        except TimeoutError as error:
            raise _ProbeError(f"did not complete a TLS handshake within {_SECONDS:g} s") from error
        facts = certificatefacts.read(handshake.certificate)
    except _ProbeError as error:
        return ProbeResult(f"{target.host}:{target.port} {error}")
    except CertificateParseError as error:
        return ProbeResult(f"{target.host}:{target.port} serves a certificate that cannot be parsed: {error}")
    return ProbeResult("", facts.serial, facts.not_after, handshake.certificate, distrust if roots else None)


async def _run(target: Probe, timer: Clock, roots: bytes) -> _Handshake:
    handshake = _Handshake(target, roots)
    await clock.wait_for(timer, handshake.run(), _SECONDS)
    return handshake


class _Handshake:
    """One handshake. Afterwards `certificate` is what the server sent, in DER, empty if that is unknown because it is
    not trusted; `distrust` says why it is not.
    """

    def __init__(self, target: Probe, roots: bytes) -> None:
        self._target = target
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._received = b""
        self.certificate = b""
        self.distrust = ""
        try:
            context = _context(roots)
            self._tls = context.wrap_bio(
                self._incoming, self._outgoing, server_hostname=target.server_name or target.host
            )
        except (ssl.SSLError, ValueError) as error:
            raise _ProbeError(f"cannot be probed: {error}") from error

    async def run(self) -> None:
        """Raises _ProbeError."""
        try:
            reader, writer = await asyncio.open_connection(self._target.host, self._target.port)
        except OSError as error:
            raise _ProbeError(f"cannot be reached: {_reason(error)}") from error
        try:
            await self._shake_hands(reader, writer)
        except ssl.SSLCertVerificationError as error:
            self.distrust = error.verify_message
        except ssl.SSLError as error:
            self._read_despite(f"refused the TLS handshake: {error.reason or error}")
        except OSError as error:
            self._read_despite(f"closed the connection: {_reason(error)}")
        finally:
            writer.transport.abort()

    async def _shake_hands(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                self._tls.do_handshake()
                self.certificate = self._tls.getpeercert(binary_form=True) or b""
                return
            except ssl.SSLWantReadError:
                writer.write(self._outgoing.read())
                await writer.drain()
            chunk = await reader.read(_CHUNK)
            self._received += chunk
            if not chunk:
                self._read_despite("closed the connection during the TLS handshake")
                return
            if len(self._received) > _MAX_BYTES:
                raise _ProbeError(f"sent more than {_MAX_BYTES} bytes in the TLS handshake")
            if self._received[0] not in (_HANDSHAKE_RECORD, _ALERT_RECORD):
                raise _ProbeError("does not speak TLS")
            self._incoming.write(chunk)

    def _read_despite(self, problem: str) -> None:
        """Find the certificate although the handshake failed. In TLS 1.2 it is not encrypted, and servers that require
        a client certificate refuse the handshake only after they have sent it, and after we have accepted it.
        """
        self.certificate = _find_certificate(self._received)
        if not self.certificate:
            raise _ProbeError(problem)


def _context(roots: bytes) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if roots:
        # As in Go, every certificate of the bundle is a trust anchor.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.load_verify_locations(cadata=roots.decode("ascii", "replace"))
    else:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        # A weak certificate is to be read too. Nothing is sent over this connection.
        context.set_ciphers("ALL:@SECLEVEL=0")
    return context


def _find_certificate(received: bytes) -> bytes:
    """The first certificate, in DER, in the records of a TLS 1.2 server; empty if there is none."""
    messages = b""
    while len(received) >= 5 and received[0] == _HANDSHAKE_RECORD:
        end = 5 + int.from_bytes(received[3:5])
        messages += received[5:end]
        received = received[end:]
    while len(messages) >= 4:
        end = 4 + int.from_bytes(messages[1:4])
        if messages[0] == _CERTIFICATE_MESSAGE:
            # The length of the list, then the length of its first certificate.
            body = messages[4:end]
            return body[6 : 6 + int.from_bytes(body[3:6])]
        messages = messages[end:]
    return b""


def _reason(error: OSError) -> str:
    """The reason alone: asyncio's own text has all addresses of a name that was tried."""
    if isinstance(error, socket.gaierror) or not error.errno:
        return error.strerror or str(error)
    return os.strerror(error.errno)
