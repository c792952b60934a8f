"""HTTP/1.1 framing without I/O: bytes in, requests out; responses in, bytes out.

Source: RFC 9112 (framing), RFC 9110 (fields); the error texts are those of Go's `net/http`.

Rules
1. One request at a time. Pipelined requests stay in the buffer, unparsed, until the current request has its response.
2. A request that could be parsed in two ways is refused, and the connection is closed. So no bare line feeds, no empty
   lines before a request, no folded fields, no space before a colon, no repeated Host or Content-Length, no
   Content-Length together with Transfer-Encoding, no transfer coding but chunked.
3. Trailers are checked like fields and dropped. `Upgrade` is ignored (RFC 9110 section 7.8): such a request has an
   ordinary body.
4. The response to a request whose body was not read completely is the last one of its connection.
5. The cost of every step is linear in the bytes that it inspects; heads, trailers and chunk overhead have limits.

This module knows nothing of TLS, sockets, time, and the meaning of requests.
"""

from __future__ import annotations

import enum
import http
import re
import urllib.parse
from typing import Final

import msgspec

#: Maximum bytes of a request head, as in Go's server; trailers have the same limit.
HEAD_LIMIT: Final = 1 << 20
#: Maximum bytes of a request target. Go has no such limit; but the target is parsed on the event loop before the client
#: is authenticated, and a megabyte of escapes takes half a second.
TARGET_LIMIT: Final = 64 * 1024
#: Maximum fields of a head. Go has no such limit; a field of four bytes takes a hundred bytes of memory here.
FIELD_LIMIT: Final = 1000
#: Maximum bytes of a chunk header, and of the overhead of all chunks, as in Go's `internal/chunked`.
_CHUNK_LINE_LIMIT: Final = 4096
_CHUNK_OVERHEAD_LIMIT: Final = 16 * 1024

_TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_request_line = re.compile(rb"(" + _TOKEN + rb") ([\x21-\x7e\x80-\xff]+) HTTP/([0-9])\.([0-9])").fullmatch
#: Field values: visible characters, spaces, tabs, and bytes above ASCII (RFC 9110 section 5.5).
_field = re.compile(rb"(" + _TOKEN + rb"):([\t\x20-\x7e\x80-\xff]*)").fullmatch
_chunk_line = re.compile(rb"([0-9A-Fa-f]{1,15})(?:;[\t\x20-\x7e\x80-\xff]*|[ \t]*)").fullmatch
_content_length = re.compile(rb"[0-9]{1,18}").fullmatch
#: The characters of a host with its port (RFC 3986); Go accepts the same.
_host = re.compile(rb"[A-Za-z0-9\-._~!$&'()*+,;=:%\[\]]*").fullmatch
_absolute = re.compile(rb"(?i:https?)://([^/?]*)(.*)").fullmatch
_broken_escape = re.compile(rb"%(?![0-9A-Fa-f]{2})").search
#: The fields that define the framing; all others are passed on uninterpreted.
_FRAMING: Final = frozenset({b"host", b"content-length", b"transfer-encoding", b"connection", b"expect"})

Fields = list[tuple[bytes, bytes]]


class RequestHead(msgspec.Struct, frozen=True):
    """The head of a request. `path` is decoded; `raw_path` and `raw_query` are as they were sent, in Latin-1. The names
    of `fields` are in lower case. `has_body` says that Body and EndOfMessage events follow; `expects_continue` that the
    client waits for 100 Continue before it sends the body.
    """

    method: str
    path: str
    raw_path: str
    raw_query: str
    fields: Fields
    has_body: bool
    expects_continue: bool


class Body(msgspec.Struct, frozen=True):
    """A part of a request's body."""

    data: bytes


class EndOfMessage(msgspec.Struct, frozen=True):
    """The request is complete."""


class Refusal(msgspec.Struct, frozen=True):
    """The request is malformed. The caller has to write `response` and close the connection."""

    status: int
    reason: str
    response: bytes


Event = RequestHead | Body | EndOfMessage | Refusal

_END_OF_MESSAGE: Final = EndOfMessage()
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_STATUS_LINES: Final = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode("ascii") for status in http.HTTPStatus
}
#: Responses without a body, which must not have a Content-Length either (RFC 9110 sections 15.3.5 and 15.4.5).
_BODYLESS: Final = frozenset({204, 304})


class _MalformedRequest(Exception):
    """The request is refused with this status; an empty reason means that Go's response has none."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class _State(enum.Enum):
    """The part of a request that is expected next."""

    HEAD = enum.auto()
    LENGTH = enum.auto()
    CHUNK_LINE = enum.auto()
    CHUNK = enum.auto()
    CHUNK_END = enum.auto()
    TRAILERS = enum.auto()
    #: Nothing until the response has been encoded.
    AWAITING_RESPONSE = enum.auto()
    #: Nothing any more.
    CLOSED = enum.auto()


class StateMachine:
    """The server's side of one connection.

    `receive` takes bytes and returns events. For each RequestHead the caller encodes one response: by
    `encode_response`, or by `start_stream`, any number of `encode_chunk`, and `end_stream`. Then `receive(b"")` returns
    the events of pipelined requests. `closing` says that the connection closes after the current response.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        #: Bytes of the buffer that have been searched for the end of a head or of a line.
        self._searched = 0
        self._state = _State.HEAD
        #: Bytes left of the body, the chunk or the trailers.
        self._left = 0
        self._chunk_overhead = 0
        self._is_chunked_response = False
        #: The request has the method HEAD; it is of HTTP/1.0.
        self._is_head = False
        self._is_http10 = False
        self.closing = False

    # --- requests -------------------------------------------------------------------------------------------------

    @property
    def buffered(self) -> int:
        """Unparsed bytes: an incomplete head, or pipelined requests."""
        return len(self._buffer)

    def receive(self, data: bytes) -> list[Event]:
        """The events that the bytes complete. Bytes of the next request stay in the buffer."""
        if data:
            self._buffer += data
        events: list[Event] = []
        try:
            if self._state is _State.HEAD and self._buffer:
                self._read_head(events)
            if self._state is not _State.AWAITING_RESPONSE and self._state is not _State.HEAD:
                self._read_body(events)
        except _MalformedRequest as error:
            events.append(self._refuse(error))
        return events

    def _refuse(self, error: _MalformedRequest) -> Refusal:
        self._state = _State.CLOSED
        self._buffer.clear()
        self.closing = True
        phrase = f"{error.status} {http.HTTPStatus(error.status).phrase}"
        # As in Go's server, which gives no reason for most malformed requests.
        text = f"{phrase}: {error.reason}" if error.reason else phrase
        head = f"HTTP/1.1 {phrase}\r\ncontent-type: text/plain; charset=utf-8\r\nconnection: close\r\n\r\n"
        return Refusal(error.status, error.reason or "malformed HTTP request", (head + text).encode("ascii"))

    def _read_head(self, events: list[Event]) -> None:
        buffer = self._buffer
        end = buffer.find(b"\r\n\r\n", max(self._searched - 3, 0))
        if max(end, len(buffer) if end < 0 else 0) > HEAD_LIMIT:
            raise _MalformedRequest(431, "")
        if end < 0:
            self._searched = len(buffer)
            _check_first_byte(buffer)
            return
        head = bytes(buffer[:end])
        del buffer[: end + 4]
        self._searched = 0
        if head.count(b"\n") > FIELD_LIMIT:
            raise _MalformedRequest(431, "")
        request = self._parse_head(head)
        events.append(request)
        if not request.has_body:
            self._state = _State.AWAITING_RESPONSE

    def _parse_head(self, head: bytes) -> RequestHead:
        request_line, *lines = head.split(b"\r\n")
        match = _request_line(request_line)
        if match is None:
            raise _MalformedRequest(400, "")
        method, target, major, minor = match.groups()
        if major != b"1" or minor not in (b"0", b"1"):
            raise _MalformedRequest(505, "unsupported protocol version")
        if len(target) > TARGET_LIMIT:
            raise _MalformedRequest(414, "")
        self._is_http10 = minor == b"0"
        fields, framing = _read_fields(lines)
        host = framing.get(b"host", [])
        if len(host) > 1:
            raise _MalformedRequest(400, "too many Host headers")
        if not host and not self._is_http10:
            raise _MalformedRequest(400, "missing required Host header")
        if host and _host(host[0]) is None:
            raise _MalformedRequest(400, "malformed Host header")
        self._is_head = method == b"HEAD"
        self.closing = self.closing or self._is_http10 or _has_close(framing.get(b"connection", []))
        has_body = self._set_framing(framing)
        path, query = _split_target(method, target)
        return RequestHead(
            method=method.decode("ascii"),
            path=_decode_path(path),
            raw_path=path.decode("latin-1"),
            raw_query=query.decode("latin-1"),
            fields=fields,
            has_body=has_body,
            expects_continue=has_body and not self._is_http10 and self._expects_continue(framing),
        )

    def _set_framing(self, framing: dict[bytes, list[bytes]]) -> bool:
        """Determine how the body is delimited (RFC 9112 section 6.3). Returns whether there is a body."""
        codings, lengths = framing.get(b"transfer-encoding"), framing.get(b"content-length")
        if codings is not None:
            if self._is_http10 or lengths is not None:
                raise _MalformedRequest(400, "unexpected Transfer-Encoding")
            if len(codings) > 1 or codings[0].lower() != b"chunked":
                raise _MalformedRequest(501, "unsupported transfer encoding")
            self._state = _State.CHUNK_LINE
            self._chunk_overhead = 0
            return True
        if lengths is None:
            return False
        if len(lengths) > 1 or _content_length(lengths[0]) is None:
            raise _MalformedRequest(400, "bad Content-Length")
        self._left = int(lengths[0])
        self._state = _State.LENGTH
        return self._left > 0

    @staticmethod
    def _expects_continue(framing: dict[bytes, list[bytes]]) -> bool:
        expected = framing.get(b"expect", [])
        if any(value.lower() != b"100-continue" for value in expected):
            raise _MalformedRequest(417, "")
        return bool(expected)

    # --- bodies ---------------------------------------------------------------------------------------------------

    def _read_body(self, events: list[Event]) -> None:
        if self._state is _State.CLOSED:
            self._buffer.clear()
            return
        parts: list[bytes] = []
        position = 0
        try:
            while self._state is not _State.AWAITING_RESPONSE:
                next_position = _STEPS[self._state](self, position, parts)
                if next_position < 0:
                    break
                position = next_position
        finally:
            del self._buffer[:position]
            # The rest is the beginning of a line, whose CRLF can start at its last byte at the earliest.
            self._searched = max(len(self._buffer) - 1, 0)
            if parts:
                events.append(Body(parts[0] if len(parts) == 1 else b"".join(parts)))
        if self._state is _State.AWAITING_RESPONSE:
            self._searched = 0
            events.append(_END_OF_MESSAGE)

    # Each step parses the buffer from a position on, and returns the position behind what it has parsed, or -1 if it
    # needs more bytes.

    def _read_data(self, position: int, parts: list[bytes]) -> int:
        data = bytes(self._buffer[position : position + self._left])
        if not data:
            return -1
        parts.append(data)
        self._left -= len(data)
        return position + len(data)

    def _read_fixed_body(self, position: int, parts: list[bytes]) -> int:
        position = self._read_data(position, parts)
        if not self._left:
            self._state = _State.AWAITING_RESPONSE
        return position

    def _read_chunk(self, position: int, parts: list[bytes]) -> int:
        position = self._read_data(position, parts)
        if not self._left:
            self._state = _State.CHUNK_END
        return position

    def _read_chunk_end(self, position: int, parts: list[bytes]) -> int:
        del parts
        end = bytes(self._buffer[position : position + 2])
        if not b"\r\n".startswith(end):
            raise _MalformedRequest(400, "malformed chunked encoding")
        if len(end) < 2:
            return -1
        self._state = _State.CHUNK_LINE
        return position + 2

    def _read_chunk_line(self, position: int, parts: list[bytes]) -> int:
        del parts
        line = self._read_line(position, _CHUNK_LINE_LIMIT)
        if line is None:
            return -1
        size = _chunk_line(line)
        if size is None:
            raise _MalformedRequest(400, "malformed chunked encoding")
        self._left = int(size[1], 16)
        self._chunk_overhead = max(self._chunk_overhead + len(line) + 2 - 16 - 2 * self._left, 0)
        if self._chunk_overhead > _CHUNK_OVERHEAD_LIMIT:
            raise _MalformedRequest(400, "chunked encoding contains too much non-data")
        if self._left:
            self._state = _State.CHUNK
        else:
            self._state = _State.TRAILERS
            self._left = HEAD_LIMIT
        return position + len(line) + 2

    def _read_trailer(self, position: int, parts: list[bytes]) -> int:
        del parts
        line = self._read_line(position, self._left)
        if line is None:
            return -1
        # A short field costs as much as a longer one, so that the limit of fields holds for trailers, too.
        self._left -= max(len(line) + 2, HEAD_LIMIT // FIELD_LIMIT)
        if not line:
            self._state = _State.AWAITING_RESPONSE
        elif self._left < 0:
            raise _MalformedRequest(400, "too many trailers")
        elif (field := _field(line)) is None or field[1].lower() in _FRAMING:
            raise _MalformedRequest(400, "malformed trailer")
        return position + len(line) + 2

    def _read_line(self, position: int, limit: int) -> bytes | None:
        """The line at a position, without CRLF; None if it is incomplete."""
        end = self._buffer.find(b"\r\n", max(position, self._searched), position + max(limit, 0) + 2)
        if end >= 0:
            return bytes(self._buffer[position:end])
        if len(self._buffer) - position > limit:
            raise _MalformedRequest(400, "header line too long")
        return None

    # --- responses ------------------------------------------------------------------------------------------------

    def encode_response(self, status: int, fields: Fields, body: bytes) -> bytes:
        """A complete response. `fields` are all header fields but those of the framing."""
        if status not in _BODYLESS:
            fields = [*fields, (b"content-length", b"%d" % len(body))]
        head = self._head(status, fields)
        self._end_response()
        return head if self._is_head or status in _BODYLESS else head + body

    def start_stream(self, status: int, fields: Fields) -> bytes:
        """The head of a response that is sent in chunks."""
        # HTTP/1.0 has no chunked coding: there the response ends with the connection.
        self._is_chunked_response = not self._is_http10
        return self._head(
            status, [*fields, (b"transfer-encoding", b"chunked")] if self._is_chunked_response else fields
        )

    def encode_chunk(self, data: bytes) -> bytes:
        """A chunk of the response; nothing for empty data, which would end the response."""
        if not data or self._is_head:
            return b""
        return b"%x\r\n%b\r\n" % (len(data), data) if self._is_chunked_response else data

    def end_stream(self) -> bytes:
        """The end of a response that was sent in chunks."""
        self._end_response()
        return b"0\r\n\r\n" if self._is_chunked_response and not self._is_head else b""

    def _head(self, status: int, fields: Fields) -> bytes:
        # Rule 4: the next bytes are the rest of an unread body.
        if self._state is not _State.AWAITING_RESPONSE:
            self.closing = True
        if self.closing:
            fields = [*fields, (b"connection", b"close")]
        head = b"".join([_STATUS_LINES[status], *[b"%b: %b\r\n" % field for field in fields]])
        if head.count(b"\n") != len(fields) + 1 or head.count(b"\r") != len(fields) + 1:
            raise ValueError("a header field of the response contains a line break")
        return head + b"\r\n"

    def _end_response(self) -> None:
        self._state = _State.CLOSED if self.closing else _State.HEAD
        if self.closing:
            self._buffer.clear()


_STEPS: Final = {
    _State.LENGTH: StateMachine._read_fixed_body,
    _State.CHUNK: StateMachine._read_chunk,
    _State.CHUNK_END: StateMachine._read_chunk_end,
    _State.CHUNK_LINE: StateMachine._read_chunk_line,
    _State.TRAILERS: StateMachine._read_trailer,
}


def _check_first_byte(buffer: bytearray) -> None:
    """Refuse another protocol by its first byte, instead of waiting for the end of the head."""
    if not 0x21 <= buffer[0] <= 0x7E:
        raise _MalformedRequest(400, "")


def _read_fields(lines: list[bytes]) -> tuple[Fields, dict[bytes, list[bytes]]]:
    """All fields, with names in lower case; and the values of the framing fields by name."""
    fields: Fields = []
    framing: dict[bytes, list[bytes]] = {}
    for line in lines:
        field = _field(line)
        if field is None:
            raise _MalformedRequest(400, "")
        name, value = field[1].lower(), field[2].strip(b" \t")
        fields.append((name, value))
        if name in _FRAMING:
            framing.setdefault(name, []).append(value)
    return fields, framing


def _has_close(values: list[bytes]) -> bool:
    return any(token.strip(b" \t").lower() == b"close" for value in values for token in value.split(b","))


def _split_target(method: bytes, target: bytes) -> tuple[bytes, bytes]:
    """Path and query of a request target (RFC 9112 section 3.2): origin form, absolute form, or `*` for OPTIONS."""
    if not target.startswith(b"/"):
        absolute = _absolute(target)
        if absolute is not None and _host(absolute[1]) is not None:
            target = absolute[2] if absolute[2].startswith(b"/") else b"/" + absolute[2]
        elif (method, target) != (b"OPTIONS", b"*"):
            raise _MalformedRequest(400, "")
    path, _, query = target.partition(b"?")
    if _broken_escape(path) is not None:
        raise _MalformedRequest(400, "")
    return path, query


def _decode_path(path: bytes) -> str:
    raw = urllib.parse.unquote_to_bytes(path) if b"%" in path else path
    return raw.decode("utf-8", "replace")
