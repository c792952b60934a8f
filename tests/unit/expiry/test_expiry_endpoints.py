"""Live endpoints: TLS from the first byte on, and after STARTTLS; those that refuse or talk nonsense are problems."""

from __future__ import annotations

import asyncio
import contextlib
import ssl

import pytest

from certplane.clock import SystemClock
from certplane.config.options import Address
from certplane.expiry.endpoints import EndpointSource
from certplane.expiry.settings import EndpointSettings
from tests.unit.agent import pairs
from tests.unit.expiry import material

#: What servers expect and send before TLS: pairs of a request and the answer to it.
DIALOGUES = {
    "": [],
    "postgres": [(b"\0\0\0\x08\x04\xd2\x16\x2f", b"S")],
    "smtp": [
        (b"", b"220-mail\r\n220 ready\r\n"),
        (b"EHLO certplane\r\n", b"250-mail\r\n250 STARTTLS\r\n"),
        (b"STARTTLS\r\n", b"220 go\r\n"),
    ],
    "ldap": [
        (
            b"\x30\x1d\x02\x01\x01\x77\x18\x80\x161.3.6.1.4.1.1466.20037",
            b"\x30\x0c\x02\x01\x01\x78\x07\x0a\x01\0\x04\0\x04\0",
        )
    ],
}


@contextlib.asynccontextmanager
async def serving(tmp_path, dialogue, *, has_tls=True):
    (tmp_path / "pair.pem").write_bytes(material.leaf("live") + pairs.key_pem(material.KEY))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "pair.pem")

    async def handle(reader, writer):
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            for request, answer in dialogue:
                assert request == await reader.readexactly(len(request))
                writer.write(answer)
                await writer.drain()
            if has_tls:
                await writer.start_tls(context)
        writer.transport.abort()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def ask(port, protocol, **fields):
    source = EndpointSource(
        "live", [EndpointSettings(Address("127.0.0.1", port), start_tls=protocol, **fields)], SystemClock()
    )
    (finding,) = await material.read(source)
    return finding.item.subject, finding.item.problem


@pytest.mark.parametrize("protocol", DIALOGUES)
async def test_the_served_certificate(protocol, tmp_path):
    """Whoever issued it."""
    async with serving(tmp_path, DIALOGUES[protocol]) as port:
        assert ("live", "") == await ask(port, protocol)


@pytest.mark.parametrize(
    ("protocol", "dialogue", "problem"),
    [
        ("postgres", [(b"", b"N")], "it has TLS turned off (postgres)"),
        ("postgres", [(b"", b"HTTP/1.1")], "it does not speak postgres"),
        ("smtp", [(b"", b"554 no\r\n")], 'it does not start TLS (smtp): "554 no"'),
        ("smtp", [(b"", b"x" * 70000)], "it does not speak smtp"),
        ("smtp", [(b"", b"220-a\r\n" * 200)], "it sends an endless reply (smtp)"),
        ("ldap", [(b"", b"\x30\x0c\x02\x01\x01\x78\x07\x0a\x01\x35\x04\0\x04\0")],
         "it does not start TLS (ldap): result code 53"),
        ("ldap", [(b"", b"\x30\x84\xff\xff\xff\xff")], "it does not speak ldap"),
        ("ldap", [(b"\x30" + b"\x1d", b""), (b"\x02\x01\x01\x77\x18\x80\x161.3.6.1.4.1.1466.20037", b"")],
         "it closed the connection before TLS (ldap)"),
    ],
)  # fmt: skip
async def test_a_server_that_does_not_start_tls(protocol, dialogue, problem, tmp_path):
    """The problem says what it did."""
    async with serving(tmp_path, dialogue, has_tls=False) as port:
        assert ("", problem) == await ask(port, protocol)


async def test_a_ca_file(tmp_path):
    """A certificate of another CA is a problem, and its end is shown all the same."""
    (tmp_path / "ca.pem").write_bytes(pairs.CA("other").pem)
    async with serving(tmp_path, []) as port:
        subject, problem = await ask(port, "", ca_file=tmp_path / "ca.pem")
        assert "live" == subject
        assert problem.startswith("it is not trusted: ")
        assert ("", f"the file {tmp_path}/gone cannot be read: No such file or directory") == await ask(
            port, "", ca_file=tmp_path / "gone"
        )
