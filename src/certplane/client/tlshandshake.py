"""Read the certificate of a TLS endpoint, whether it is trusted or not, also from servers that require a client
certificate. Nothing but a handshake is sent, after what a protocol needs to start TLS. Time and size are limited.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import socket
import ssl
from typing import Final

from certplane import clock
from certplane.client import starttls
from certplane.client.starttls import StartTLSError
from certplane.clock import Clock

SECONDS: Final = 10.0
_MAX_BYTES: Final = 256 * 1024
_CHUNK: Final = 16 * 1024
#: RFC 8446 section 5.1, 4; RFC 5246 section 7.4.2.
_HANDSHAKE_RECORD: Final = 22
_ALERT_RECORD: Final = 21
_CERTIFICATE_MESSAGE: Final = 11


@dataclasses.dataclass(frozen=True, slots=True)
class Endpoint:
    """Where to connect. `server_name` is the host if it is empty; `start_tls` is one of `starttls.PROTOCOLS`, or empty
    for TLS from the first byte on.
    """

    host: str
    port: int
    server_name: str = ""
    start_tls: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Served:
    """The certificate that an endpoint serves, in DER, and why it is not trusted: empty if it is, None if that was not
    checked.
    """

    certificate: bytes
    distrust: str | None


class HandshakeError(Exception):
    """No certificate could be read. The text follows the address of the endpoint."""


async def read(endpoint: Endpoint, timer: Clock, roots: bytes = b"") -> Served:
    """Read the certificate of an endpoint. `roots` are CA certificates in PEM, or empty. Raises HandshakeError."""
    try:
        handshake = await _run(endpoint, timer, roots)
        distrust = handshake.distrust
        if roots and not handshake.certificate:
            # A certificate that was not trusted cannot be read in that handshake.
            handshake = await _run(endpoint, timer, b"")
    except TimeoutError as error:
        raise HandshakeError(f"did not complete a TLS handshake within {SECONDS:g} s") from error
    return Served(handshake.certificate, distrust if roots else None)


async def _run(endpoint: Endpoint, timer: Clock, roots: bytes) -> Handshake:
    handshake = Handshake(endpoint, roots)
    await clock.wait_for(timer, handshake.run(), SECONDS)
    return handshake


class Handshake:
    """One handshake. Afterwards `certificate` is what the server sent, in DER, empty if that is unknown because it is
    not trusted; `distrust` says why it is not.
    """

    def __init__(self, endpoint: Endpoint, roots: bytes) -> None:
        self._endpoint = endpoint
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._received = b""
        self.certificate = b""
        self.distrust = ""
        try:
            context = _context(roots)
            self._tls = context.wrap_bio(
                self._incoming, self._outgoing, server_hostname=endpoint.server_name or endpoint.host
            )
        except (ssl.SSLError, ValueError) as error:
            raise HandshakeError(f"cannot be probed: {error}") from error

    async def run(self) -> None:
        """Raises HandshakeError."""
        try:
            reader, writer = await asyncio.open_connection(self._endpoint.host, self._endpoint.port)
        except OSError as error:
            raise HandshakeError(f"cannot be reached: {_reason(error)}") from error
        try:
            if self._endpoint.start_tls:
                await starttls.start(self._endpoint.start_tls, reader, writer)
            await self._shake_hands(reader, writer)
        except StartTLSError as error:
            raise HandshakeError(str(error)) from error
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
                raise HandshakeError(f"sent more than {_MAX_BYTES} bytes in the TLS handshake")
            if self._received[0] not in (_HANDSHAKE_RECORD, _ALERT_RECORD):
                raise HandshakeError("does not speak TLS")
            self._incoming.write(chunk)

    def _read_despite(self, problem: str) -> None:
        """Find the certificate although the handshake failed. In TLS 1.2 it is not encrypted, and servers that require
        a client certificate refuse the handshake only after they have sent it, and after we have accepted it.
        """
        self.certificate = _find_certificate(self._received)
        if not self.certificate:
            raise HandshakeError(problem)


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
