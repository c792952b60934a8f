"""Send one document to a web server: for webhooks. The URL may be a secret, so errors have nothing of it but the host.

Redirects are not followed, and of the response only the status counts. Time and size are limited.
"""

from __future__ import annotations

import asyncio
import ssl
import urllib.parse
from collections.abc import Awaitable, Sequence
from typing import Final, TypeVar

from certplane import clock
from certplane.client import http1, httprequests
from certplane.client.http1 import ProtocolError, ResponseReader
from certplane.clock import Clock

T = TypeVar("T")

SECONDS: Final = 15.0
_HEAD_BYTES: Final = 16 * 1024


class PostError(Exception):
    """The document was not accepted. The text names nothing of the URL but the host."""


def check_url(url: str) -> urllib.parse.SplitResult:
    """The parts of a URL. Raises PostError, whose text does not quote it."""
    try:
        parts = urllib.parse.urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise PostError("the URL is not valid") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise PostError("the URL must begin with https:// or http:// and have a host")
    if not url.isascii() or not url.isprintable() or " " in url:
        raise PostError("the URL has characters that must be escaped")
    if parts.username is not None or parts.password is not None:
        raise PostError("the URL has a user or a password, which is not supported")
    return parts


async def post(
    url: str, body: bytes, fields: Sequence[tuple[str, str]], timer: Clock, ca_certificates: str = ""
) -> None:
    """Send a document, with its header fields. `ca_certificates` are in PEM; empty for those of the system. Raises
    PostError.
    """
    parts = check_url(url)
    host = parts.hostname or ""
    try:
        status = await clock.wait_for(timer, _post(parts, body, fields, ca_certificates), SECONDS)
    except TimeoutError as error:
        raise PostError(f"{host} did not respond within {SECONDS:g} s") from error
    except ssl.SSLCertVerificationError as error:
        raise PostError(f"{host} is not trusted: {error.verify_message}") from error
    except ssl.SSLError as error:
        raise PostError(f"{host}: the TLS handshake failed: {error.reason or 'unknown reason'}") from error
    except ProtocolError as error:
        raise PostError(f"{host} {error}") from error
    except OSError as error:
        raise PostError(f"{host} cannot be reached: {httprequests.reason(error)}") from error
    if not 200 <= status < 300:
        raise PostError(f"{host} responded with status {status}")


async def _post(
    parts: urllib.parse.SplitResult, body: bytes, fields: Sequence[tuple[str, str]], ca_certificates: str
) -> int:
    host, is_tls = parts.hostname or "", parts.scheme == "https"
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    head = http1.request_head(
        "POST",
        target,
        [
            ("host", parts.netloc),
            ("connection", "close"),
            ("content-type", "application/json"),
            ("content-length", str(len(body))),
            *fields,
        ],
    )
    context = ssl.create_default_context(cadata=ca_certificates or None) if is_tls else None
    reader, writer = await asyncio.open_connection(
        host, parts.port or (443 if is_tls else 80), ssl=context, limit=_HEAD_BYTES
    )
    try:
        writer.write(head + body)
        await writer.drain()
        return (await ResponseReader(reader, _without_limit).head()).status
    finally:
        writer.transport.abort()
        # The loop closes the socket in its next round.
        await asyncio.sleep(0)


async def _without_limit(step: Awaitable[T], /) -> T:
    # The time is limited as a whole.
    return await step
