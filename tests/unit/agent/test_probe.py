"""Endpoints that serve a certificate, the wrong one, or none; that hang, speak no TLS, or ask for a client's."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl

import pytest

from certplane.agent import certificatefacts, probe
from certplane.agent.settings import Probe
from certplane.client import tlshandshake
from certplane.clock import SystemClock
from certplane.golang.pem import first_block
from certplane.testing import FakeClock
from tests.unit.agent import pairs


@pytest.fixture(scope="module")
def ca():
    return pairs.CA(start=SystemClock().now() - pairs.DAY)


def _server_context(ca, directory, **leaf):
    """The TLS context of a server with a certificate of the CA; and the certificate in PEM."""
    key = pairs.new_key()
    certificate = ca.issue(key, SystemClock().now() - leaf.pop("age", pairs.DAY), **leaf)
    (directory / "pair.pem").write_bytes(certificate + pairs.key_pem(key))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "pair.pem")
    return context, certificate


@contextlib.asynccontextmanager
async def _serving(handle, context=None):
    """A server on a free port; `handle` gets each connection."""
    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def _close(_, writer):
    writer.close()


async def _probe(port, roots=b"", server_name=""):
    return await probe.probe(Probe("127.0.0.1", port, server_name), SystemClock(), roots)


def _expected(certificate, distrust=None):
    der = first_block(certificate).data
    facts = certificatefacts.read(der)
    return probe.ProbeResult("", facts.serial, facts.not_after, der, distrust)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_the_served_certificate_is_read(version, ca, tmp_path):
    """Whoever issued it. With CA certificates it is verified too."""
    context, certificate = _server_context(ca, tmp_path)
    context.minimum_version = context.maximum_version = version
    async with _serving(_close, context) as port:
        assert _expected(certificate) == await _probe(port)
        assert _expected(certificate, "") == await _probe(port, ca.pem)
        assert _expected(certificate, "") == await _probe(port, ca.pem, "localhost")


async def test_a_certificate_that_is_not_trusted_is_read(ca, tmp_path):
    """And the result says why it is not."""
    context, certificate = _server_context(ca, tmp_path)
    async with _serving(_close, context) as port:
        result = await _probe(port, pairs.CA("other").pem)
        assert _expected(certificate, "unable to get local issuer certificate") == result
        result = await _probe(port, ca.pem, "example.com")
        assert _expected(certificate, result.distrust) == result
        assert result.distrust.startswith("Hostname mismatch")


async def test_an_expired_certificate_is_read(ca, tmp_path):
    """It is what the probe is for."""
    context, certificate = _server_context(ca, tmp_path, age=40 * pairs.DAY)
    async with _serving(_close, context) as port:
        assert _expected(certificate) == await _probe(port)
        assert _expected(certificate, "certificate has expired") == await _probe(port, ca.pem)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_server_that_requires_a_client_certificate_is_read(version, ca, tmp_path):
    """Although it refuses us."""
    context, certificate = _server_context(ca, tmp_path)
    context.minimum_version = context.maximum_version = version
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=ca.pem.decode())
    async with _serving(_close, context) as port:
        assert _expected(certificate) == await _probe(port)
        assert _expected(certificate, "") == await _probe(port, ca.pem)
        result = await _probe(port, pairs.CA("other").pem)
        assert _expected(certificate, result.distrust) == result
        assert result.distrust


async def test_the_name_is_sent(ca, tmp_path):
    """Servers choose the certificate by it."""
    context, _ = _server_context(ca, tmp_path)
    names = []
    context.sni_callback = lambda _, name, __: names.append(name)
    async with _serving(_close, context) as port:
        await _probe(port, server_name="web.example.com")
        await _probe(port)
    assert ["web.example.com", None] == names


# --- endpoints that serve none ------------------------------------------------------------------------------------


async def _problem(port, **options):
    result = await _probe(port, **options)
    assert probe.ProbeResult(result.problem) == result
    return result.problem.removeprefix(f"127.0.0.1:{port} ")


async def test_a_closed_port_is_a_problem():
    """Nobody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        assert "cannot be reached: Connection refused" == await _problem(listener.getsockname()[1])


@pytest.mark.parametrize(
    "greeting", [b"220 mail.example.com ESMTP\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\0" * 9]
)
async def test_a_server_without_tls_is_a_problem(greeting):
    """Whether it speaks first or not."""

    async def greet(_, writer):
        writer.write(greeting)
        writer.close()

    async with _serving(greet) as port:
        assert "does not speak TLS" == await _problem(port)


async def test_a_connection_that_is_closed_is_a_problem():
    """Before anything was sent."""
    async with _serving(_close) as port:
        assert "closed the connection" in await _problem(port)


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (b"\x15\x03\x03\0\x02\x02\x28", "refused the TLS handshake: SSLV3_ALERT_HANDSHAKE_FAILURE"),
        (b"\x15\x03\x03\0\x02\x02\x70", "refused the TLS handshake: TLSV1_UNRECOGNIZED_NAME"),
        (b"\x16\x03\x03\0\x04\x0b\0\0\x09", "refused the TLS handshake: UNEXPECTED_MESSAGE"),
    ],
)
async def test_a_refused_handshake_is_a_problem(answer, problem):
    """With the reason of the alert, or what is wrong with the answer."""

    async def refuse(_, writer):
        writer.write(answer)
        writer.close()

    async with _serving(refuse) as port:
        assert problem == await _problem(port)


@pytest.mark.parametrize("greeting", [b"", b"\x16\x03\x03\x40\x00\x02"], ids=["silent", "in the middle"])
async def test_an_endpoint_that_hangs_is_given_up(greeting):
    """After ten seconds."""
    connected = asyncio.Event()

    async def hang(reader, writer):
        writer.write(greeting)
        await reader.read(1)
        connected.set()
        await reader.read()
        writer.close()

    clock = FakeClock()
    async with _serving(hang) as port:
        running = asyncio.ensure_future(probe.probe(Probe("127.0.0.1", port), clock))
        await connected.wait()
        await clock.advance(9.9)
        assert not running.done()
        await clock.advance(0.2)
        result = await running
    assert f"127.0.0.1:{port} did not complete a TLS handshake within 10 s" == result.problem


async def test_an_endless_handshake_is_given_up():
    """Before it fills the memory."""

    async def flood(_, writer):
        # Warnings, which a client may ignore, would go on for ever; this is one long message.
        writer.write(b"\x16\x03\x03\x40\x00" + b"\x02\xff\xff\xff" + b"\0" * 16380)
        with contextlib.suppress(OSError):
            while True:
                writer.write(b"\x16\x03\x03\x40\x00" + b"\0" * 16384)
                await writer.drain()

    async with _serving(flood) as port:
        problem = await _problem(port)
    assert problem.startswith(("sent more than 262144 bytes", "refused the TLS handshake"))


async def test_invalid_ca_certificates_are_a_problem(ca, tmp_path):
    """Of the probe, not of the agent."""
    context, _ = _server_context(ca, tmp_path)
    async with _serving(_close, context) as port:
        assert (await _problem(port, roots=b"no certificate")).startswith("cannot be probed: ")


@pytest.mark.parametrize("size", range(0, 120, 7))
def test_truncated_records_hold_no_complete_certificate(size):
    """A server may close the connection at any byte."""
    certificate = b"c" * 90
    message = b"\x0b\0\0\x60" + b"\0\0\x5d" + b"\0\0\x5a" + certificate
    record = b"\x16\x03\x03\0" + bytes([len(message)]) + message
    assert certificate == tlshandshake._find_certificate(record)
    assert (tlshandshake._find_certificate(record[:size]) == certificate) == (size >= len(record))
