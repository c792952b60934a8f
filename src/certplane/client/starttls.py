"""What a client says before TLS in protocols that begin in plain text: PostgreSQL, SMTP and LDAP.

Nothing is sent but the request to start TLS, and what must precede it. What the server says is limited in size; the
caller limits the time. Sources: PostgreSQL "Message Formats" (SSLRequest), RFC 3207, RFC 4511 section 4.14.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from certplane.golang import formatting

#: Bytes of a line, and lines of a reply, of an SMTP server.
_MAX_LINE: Final = 2048
_MAX_LINES: Final = 100
#: Bytes of an answer of an LDAP server: a result and a text.
_MAX_LDAP: Final = 16 * 1024
_MAX_QUOTE: Final = 80
#: The length, 8, and the number that stands for the version of the protocol.
_SSL_REQUEST: Final = b"\0\0\0\x08\x04\xd2\x16\x2f"
_START_TLS_OID: Final = b"1.3.6.1.4.1.1466.20037"
#: LDAPMessage { messageID 1, extendedReq { requestName } }
_LDAP_REQUEST: Final = b"\x30\x1d\x02\x01\x01\x77\x18\x80\x16" + _START_TLS_OID
_EXTENDED_RESPONSE: Final = 0x78
_SEQUENCE: Final = 0x30


class StartTLSError(Exception):
    """The server does not start TLS. The text follows the address of the server."""


async def start(protocol: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Ask a server to start TLS. Raises StartTLSError, OSError."""
    try:
        await PROTOCOLS[protocol](reader, writer)
    except asyncio.IncompleteReadError as error:
        raise StartTLSError(f"closed the connection before TLS ({protocol})") from error
    except (asyncio.LimitOverrunError, ValueError) as error:
        raise StartTLSError(f"does not speak {protocol}") from error


async def _postgres(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(_SSL_REQUEST)
    await writer.drain()
    answer = await reader.readexactly(1)
    if answer == b"N":
        raise StartTLSError("has TLS turned off (postgres)")
    if answer != b"S":
        raise StartTLSError("does not speak postgres")


async def _smtp(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await _smtp_reply(reader, b"220")
    for command, code in ((b"EHLO certplane\r\n", b"250"), (b"STARTTLS\r\n", b"220")):
        writer.write(command)
        await writer.drain()
        await _smtp_reply(reader, code)


async def _smtp_reply(reader: asyncio.StreamReader, code: bytes) -> None:
    for _ in range(_MAX_LINES):
        line = await reader.readuntil(b"\n")
        if len(line) > _MAX_LINE or not line[:3].isdigit():
            raise StartTLSError("does not speak smtp")
        if line[:3] != code:
            text = formatting.shorten(line.decode("utf-8", "replace").strip(), _MAX_QUOTE)
            raise StartTLSError(f"does not start TLS (smtp): {formatting.quote(text)}")
        if line[3:4] != b"-":
            return
    raise StartTLSError("sends an endless reply (smtp)")


async def _ldap(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(_LDAP_REQUEST)
    await writer.drain()
    message = await _ber_content(reader, _SEQUENCE)
    # The message id, as one byte: it is that of the request.
    if message[:3] != b"\x02\x01\x01" or len(message) < 5 or message[3] != _EXTENDED_RESPONSE:
        raise StartTLSError("does not speak ldap")
    header = 2 + (message[4] & 0x7F if message[4] & 0x80 else 0)
    result = message[3 + header : 3 + header + 3]
    if result[:2] != b"\x0a\x01" or len(result) < 3:
        raise StartTLSError("does not speak ldap")
    if result[2]:
        raise StartTLSError(f"does not start TLS (ldap): result code {result[2]}")


async def _ber_content(reader: asyncio.StreamReader, tag: int) -> bytes:
    first, length = await reader.readexactly(2)
    if first != tag:
        raise StartTLSError("does not speak ldap")
    if length & 0x80:
        # Servers that follow BER may write any length in four bytes.
        size = await reader.readexactly(min(length & 0x7F, 8))
        length = int.from_bytes(size)
    if length > _MAX_LDAP:
        raise StartTLSError("does not speak ldap")
    return await reader.readexactly(length)


#: What each protocol needs.
PROTOCOLS: Final[Mapping[str, Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]]] = {
    "postgres": _postgres,
    "smtp": _smtp,
    "ldap": _ldap,
}
