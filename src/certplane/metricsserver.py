"""A small HTTP server for metrics: /metrics and /healthz, and nothing else.

A library for HTTP would need a quarter of the memory of an agent. A page may be large, and is sent as it is: it
consists of parts that were rendered before, and is compressed before, too, so that a scrape costs next to nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import re
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final

from certplane import clock, files
from certplane.clock import Clock
from certplane.config.options import Address

_CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_MAX_CONNECTIONS: Final = 16
_HEAD_BYTES: Final = 8192
_HEAD_SECONDS: Final = 5.0
#: How long a client may take to read the whole page.
_PAGE_SECONDS: Final = 30.0
_ACCEPTS_GZIP: Final = re.compile(rb"\r\naccept-encoding:[^\r]*\bgzip\b(?! *; *q=0(?:\.0*)?[,\r ])", re.IGNORECASE)


@dataclasses.dataclass(frozen=True, slots=True)
class Page:
    """What /metrics shows: the parts of a text, and the same compressed, or empty if that does not exist."""

    parts: Sequence[bytes]
    gzipped: bytes = b""


@contextlib.asynccontextmanager
async def served(address: Address | None, metrics: Callable[[], Page], timer: Clock) -> AsyncIterator[None]:
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
                await clock.wait_for(timer, _send(writer, _response(head, metrics)), _PAGE_SECONDS)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            # What was not sent by now would stay in memory.
            writer.transport.abort()
        finally:
            connections -= 1
            writer.close()

    with files.as_setup_error(
        f"metricsAddress: {address.host}:{address.port} cannot be used", "choose an address that is free"
    ):
        server = await asyncio.start_server(answer, address.host, address.port, limit=_HEAD_BYTES)
    async with server:
        yield


async def _send(writer: asyncio.StreamWriter, parts: Sequence[bytes]) -> None:
    # Wait until everything is sent: a slow reader keeps its connection, and no more than one page.
    writer.transport.set_write_buffer_limits(0)
    for part in parts:
        writer.write(part)
        await writer.drain()


def _response(head: bytes, metrics: Callable[[], Page]) -> Sequence[bytes]:
    method, _, rest = head.partition(b" ")
    path = rest.partition(b" ")[0].partition(b"?")[0]
    encoding = ""
    body: Sequence[bytes]
    if method not in (b"GET", b"HEAD"):
        status, body = "405 Method Not Allowed", (b"405 method not allowed\n",)
    elif path == b"/metrics":
        status, page = "200 OK", metrics()
        body = page.parts
        if page.gzipped and _ACCEPTS_GZIP.search(head):
            encoding, body = "Content-Encoding: gzip\r\n", (page.gzipped,)
    elif path == b"/healthz":
        status, body = "200 OK", (b"ok",)
    else:
        status, body = "404 Not Found", (b"404 page not found\n",)
    fields = (
        f"HTTP/1.1 {status}\r\nContent-Type: {_CONTENT_TYPE}\r\n{encoding}"
        f"Content-Length: {sum(map(len, body))}\r\nConnection: close\r\n\r\n"
    )
    return (fields.encode(), *(() if method == b"HEAD" else body))
