"""HTTP/1.1 for a client: the bytes of a request, and the response from a stream.

Everything that the server sends is limited and checked: lines, header fields, lengths. A response that two programs
could understand differently is refused. The body has a length, comes in chunks, or ends with the connection. RFC 9112.
"""

from __future__ import annotations

import asyncio
import dataclasses
import re
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from typing import Final, Protocol, TypeVar

T = TypeVar("T")

_STATUS_LINE: Final = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: ([\t -\xff]*))?")
_FIELD: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t -\xff]*)")
_LENGTH: Final = re.compile(r"[0-9]{1,15}")
_CHUNK_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,12})[ \t]*(?:;[\t -\xff]*)?")
_FORBIDDEN: Final = re.compile(r"[\0-\x08\n-\x1f\x7f]")
#: Characters of the reason phrase that are kept.
_MAX_REASON: Final = 100
#: Responses such as 103 that come before the real one.
_MAX_INTERIM: Final = 8
_READ_BYTES: Final = 64 << 10


class ProtocolError(Exception):
    """The server does not speak HTTP/1.1, or not correctly. The text continues "the server at ..."."""


class Wait(Protocol):
    """Waits for a read. Raises TimeoutError if it takes too long."""

    async def __call__(self, reading: Awaitable[T], /) -> T: ...


@dataclasses.dataclass(frozen=True, slots=True)
class Head:
    """The head of a response. `reason` is the text after the status, for messages. The names of the fields are in lower
    case; values of one name are joined by a comma.
    """

    status: int
    reason: str
    fields: Mapping[str, str]


def request_head(method: str, target: str, fields: Sequence[tuple[str, str]]) -> bytes:
    """The bytes of a request up to its body. Raises ValueError for a field that would be more than one."""
    lines = [f"{method} {target} HTTP/1.1"]
    for name, value in fields:
        if _FORBIDDEN.search(name + value):
            raise ValueError(f"the header field {name!r} has characters that are not allowed")
        lines.append(f"{name}: {value}")
    return "\r\n".join([*lines, "", ""]).encode("utf-8")


class ResponseReader:
    """Reads one response. The limit of the stream limits a line, and the head as a whole."""

    def __init__(self, stream: asyncio.StreamReader, wait: Wait) -> None:
        self._stream = stream
        self._wait = wait
        self._received = False
        #: Whether the response was read to its end.
        self.is_complete = False

    async def head(self) -> Head:
        """The head of the response. Raises ProtocolError, OSError, TimeoutError."""
        for _ in range(_MAX_INTERIM):
            head = _parse_head(await self._until(b"\r\n\r\n", "its header"))
            if head.status >= 200:
                return head
            if head.status == 101:
                break
        raise ProtocolError(f"responds with {head.status}, which was not requested")

    async def body(self, head: Head, method: str) -> AsyncIterator[bytes]:
        """The body, as it arrives. Raises as `head` does."""
        if head.fields.get("content-encoding", "identity").lower() != "identity":
            raise ProtocolError("responds with a compressed body, which was not requested")
        async for part in self._framed_body(head, method):
            yield part
        self.is_complete = True

    def _framed_body(self, head: Head, method: str) -> AsyncIterator[bytes]:
        coding, length = head.fields.get("transfer-encoding"), head.fields.get("content-length")
        if method == "HEAD" or head.status in (204, 304):
            return self._sized(0)
        if coding is not None:
            if coding.lower() != "chunked" or length is not None:
                raise ProtocolError("responds with a body whose length is not clear")
            return self._chunks()
        if length is None:
            return self._rest()
        # A proxy may have joined equal fields.
        lengths = {value.strip() for value in length.split(",")}
        if len(lengths) != 1 or not _LENGTH.fullmatch(min(lengths)):
            raise ProtocolError("responds with a body whose length is not clear")
        return self._sized(int(min(lengths)))

    async def _sized(self, size: int) -> AsyncIterator[bytes]:
        while size:
            part = await self._read(min(size, _READ_BYTES))
            if not part:
                raise ProtocolError("closed the connection in the middle of its response")
            size -= len(part)
            yield part

    async def _rest(self) -> AsyncIterator[bytes]:
        while part := await self._read(_READ_BYTES):
            yield part

    async def _chunks(self) -> AsyncIterator[bytes]:
        while True:
            match = _CHUNK_SIZE.fullmatch((await self._until(b"\r\n", "a chunk"))[:-2])
            if match is None:
                raise ProtocolError("sends an invalid chunk")
            size = int(match[1], 16)
            if not size:
                break
            async for part in self._sized(size):
                yield part
            if await self._until(b"\r\n", "a chunk") != b"\r\n":
                raise ProtocolError("sends an invalid chunk")
        # Trailers, which nobody has asked for: an endless number of them is no response.
        for _ in range(_MAX_INTERIM):
            if await self._until(b"\r\n", "its trailer") == b"\r\n":
                return
        raise ProtocolError("sends too many trailer fields")

    async def _read(self, size: int) -> bytes:
        return await self._wait(self._stream.read(size))

    async def _until(self, end: bytes, what: str) -> bytes:
        try:
            line = await self._wait(self._stream.readuntil(end))
        except asyncio.IncompleteReadError as error:
            self._received = self._received or bool(error.partial)
            when = "in the middle of its response" if self._received else "without a response"
            raise ProtocolError(f"closed the connection {when}") from error
        except asyncio.LimitOverrunError as error:
            raise ProtocolError(f"sends too many bytes in {what}") from error
        self._received = True
        return line


def _parse_head(data: bytes) -> Head:
    status_line, *lines = data[:-4].split(b"\r\n")
    match = _STATUS_LINE.fullmatch(status_line)
    if match is None:
        raise ProtocolError("does not speak HTTP/1.1")
    fields: dict[str, str] = {}
    for line in lines:
        field = _FIELD.fullmatch(line)
        if field is None:
            raise ProtocolError("sends an invalid header field")
        name, value = field[1].decode("ascii").lower(), field[2].strip(b" \t").decode("utf-8", "replace")
        fields[name] = f"{fields[name]}, {value}" if name in fields else value
    reason = (match[2] or b"")[:_MAX_REASON].decode("utf-8", "replace")
    return Head(int(match[1]), "".join(character for character in reason if character.isprintable()).strip(), fields)
