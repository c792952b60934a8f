"""The server that shows metrics."""

from __future__ import annotations

import asyncio
import contextlib
import gzip

import pytest

import demo
from certplane import metricsserver
from certplane.config.options import Address
from certplane.metricsserver import Page
from certplane.testing import FakeClock


async def ask(port, text):
    """What the server sends after some bytes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(text)
    try:
        return await reader.read()
    finally:
        writer.close()


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (b"GET /metrics HTTP/1.1\r\n\r\n", b"200 OK"),
        (b"GET /metrics?a=b HTTP/1.1\r\nHost: a\r\n\r\n", b"200 OK"),
        (b"GET /healthz HTTP/1.1\r\n\r\n", b"200 OK"),
        (b"GET / HTTP/1.1\r\n\r\n", b"404 Not Found"),
        (b"POST /metrics HTTP/1.1\r\n\r\n", b"405 Method Not Allowed"),
        (b"\x16\x03\x01\r\n\r\n", b"405 Method Not Allowed"),
    ],
)
async def test_the_server(text, status):
    """It has two paths."""
    port = demo.free_port()
    async with metricsserver.served(Address("127.0.0.1", port), lambda: Page((b"metric ", b"1\n")), FakeClock()):
        head, _, body = (await ask(port, text)).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 " + status)
    assert (body == b"metric 1\n") == (b"200" in status and b"metrics" in text)


async def test_a_head_without_end():
    """It is bounded in size: the connection is closed."""
    port = demo.free_port()
    async with metricsserver.served(Address("127.0.0.1", port), lambda: Page(()), FakeClock()):
        assert await ask(port, b"a" * 100_000) == b""


async def test_a_client_that_is_silent():
    """The connection is closed after five seconds."""
    port, clock = demo.free_port(), FakeClock()
    async with metricsserver.served(Address("127.0.0.1", port), lambda: Page(()), clock):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while not clock.sleepers:  # noqa: ASYNC110 - the clock has no event for it
            await asyncio.sleep(0)
        await clock.advance(5)
        assert await reader.read() == b""
        writer.close()


@pytest.mark.parametrize(
    ("field", "is_compressed"),
    [
        (b"Accept-Encoding: gzip", True),
        (b"accept-encoding: deflate, gzip;q=1.0, *", True),
        (b"Accept-Encoding: gzip;q=0", False),
        (b"Accept-Encoding: identity", False),
        (b"X-Other: gzip", False),
    ],
)
async def test_a_compressed_page(field, is_compressed):
    """It is sent to clients that accept it."""
    port = demo.free_port()
    page = Page((b"metric 1\n",), gzip.compress(b"metric 1\n"))
    async with metricsserver.served(Address("127.0.0.1", port), lambda: page, FakeClock()):
        head, _, body = (await ask(port, b"GET /metrics HTTP/1.1\r\n" + field + b"\r\n\r\n")).partition(b"\r\n\r\n")
    assert is_compressed == (b"\r\nContent-Encoding: gzip\r\n" in head)
    assert f"Content-Length: {len(body)}".encode() in head
    assert (gzip.decompress(body) if is_compressed else body) == b"metric 1\n"


async def test_a_client_that_does_not_read():
    """It is cut off after 30 seconds, and its page is forgotten."""
    port, clock = demo.free_port(), FakeClock()
    page = Page((b"m" * (32 << 20),))
    async with metricsserver.served(Address("127.0.0.1", port), lambda: page, clock):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        writer.write(b"GET /metrics HTTP/1.1\r\n\r\n")
        await reader.readexactly(1)
        while not clock.sleepers:  # noqa: ASYNC110 - the clock has no event for it
            await asyncio.sleep(0)
        await clock.advance(31)
        received = 0
        with contextlib.suppress(ConnectionResetError):
            while chunk := await reader.read(1 << 20):
                received += len(chunk)
        assert received < 32 << 20
        writer.close()
