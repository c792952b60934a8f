"""HTTP/1.1 framing without I/O: bytes in, requests out; answers in, bytes out.

Source: RFC 9112 (framing), RFC 9110 (fields); the texts of refusals are those of Go's `net/http`.

Rules
1. One request at a time. What a client sends behind a request waits, unread, until that request has its answer.
2. What could be read in two ways is refused, and the connection closes: a request has one reading or none. So no bare
   line feeds, no empty lines before a request, no folded fields, no space before a colon, no repeated Host or
   Content-Length, no Content-Length beside Transfer-Encoding, no transfer coding but chunked.
3. Trailers are checked like fields and dropped. `Upgrade` is ignored (RFC 9110 section 7.8): the body of such a request
   is its body.
4. An answer to a request that was not read to its end is the last one of its connection.
5. Every step costs as much as the bytes that it looks at; heads, trailers and the overhead of chunks have limits.

What this module does not know: TLS, sockets, time, and what requests mean.
"""

from __future__ import annotations

import enum
import http
import re
import urllib.parse
from typing import Final

import msgspec

#: Bytes of a request's head, as Go's server takes them; trailers may have as many.
HEAD_LIMIT: Final = 1 << 20
#: Bytes of a request's target. Go has no such limit; but what is asked in it is looked at on the event loop, where a
#: megabyte of escapes takes half a second, before anybody has said who he is.
TARGET_LIMIT: Final = 64 * 1024
#: Fields of a head. Go has no such limit; a field may be as short as four bytes, and each costs a hundred here.
FIELD_LIMIT: Final = 1000
#: Bytes of the line before a chunk, and what all of them may waste, as in Go's `internal/chunked`.
_CHUNK_LINE_LIMIT: Final = 4096
_CHUNK_WASTE_LIMIT: Final = 16 * 1024

_TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_request_line = re.compile(rb"(" + _TOKEN + rb") ([\x21-\x7e\x80-\xff]+) HTTP/([0-9])\.([0-9])").fullmatch
#: Field values: visible characters, spaces, tabs, and bytes above ASCII (RFC 9110 section 5.5).
_field = re.compile(rb"(" + _TOKEN + rb"):([\t\x20-\x7e\x80-\xff]*)").fullmatch
_chunk_line = re.compile(rb"([0-9A-Fa-f]{1,15})(?:;[\t\x20-\x7e\x80-\xff]*|[ \t]*)").fullmatch
_content_length = re.compile(rb"[0-9]{1,18}").fullmatch
#: What RFC 3986 lets a host be, with its port; Go takes the same letters.
_host = re.compile(rb"[A-Za-z0-9\-._~!$&'()*+,;=:%\[\]]*").fullmatch
_absolute = re.compile(rb"(?i:https?)://([^/?]*)(.*)").fullmatch
_broken_escape = re.compile(rb"%(?![0-9A-Fa-f]{2})").search
#: The fields that say how a message is framed; all others pass through unread.
_FRAMING: Final = frozenset({b"host", b"content-length", b"transfer-encoding", b"connection", b"expect"})

Fields = list[tuple[bytes, bytes]]


class Request(msgspec.Struct, frozen=True):
    """The head of a request. `path` is decoded, `raw_path` and `raw_query` are as they were sent, in Latin-1. `fields`
    have names in lower case. `has_body` tells whether Body and End events follow; `expects_continue` whether the client
    waits to be told that its body is wanted.
    """

    method: str
    path: str
    raw_path: str
    raw_query: str
    fields: Fields
    has_body: bool
    expects_continue: bool


class Body(msgspec.Struct, frozen=True):
    """A piece of a request's body."""

    data: bytes


class End(msgspec.Struct, frozen=True):
    """The request is complete."""


class Refused(msgspec.Struct, frozen=True):
    """What was sent is no request. `answer` is to be written, and the connection to be closed."""

    status: int
    reason: str
    answer: bytes


Event = Request | Body | End | Refused

_END: Final = End()
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_STATUS_LINES: Final = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode("ascii") for status in http.HTTPStatus
}
#: Answers without a body, which must not tell its length either (RFC 9110 sections 15.3.5 and 15.4.5).
_BODYLESS: Final = frozenset({204, 304})


class _Problem(Exception):
    """A request that is refused."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class _Reading(enum.Enum):
    """What of a request is expected next."""

    HEAD = enum.auto()
    LENGTH = enum.auto()
    CHUNK_LINE = enum.auto()
    CHUNK = enum.auto()
    CHUNK_END = enum.auto()
    TRAILERS = enum.auto()
    #: Nothing until the answer is given.
    NOTHING = enum.auto()
    #: Nothing ever again.
    CLOSED = enum.auto()


class Machine:
    """The server's side of one connection.

    `receive` takes bytes and gives events. Each Request is answered once: by `answer`, or by `begin`, any number of
    `piece`, and `end`. Then `receive(b"")` gives what waited behind it. `closing` says that the connection ends with
    the present answer.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        #: How much of the buffer was searched for the end of a head or of a line.
        self._searched = 0
        self._reading = _Reading.HEAD
        self._left = 0
        self._waste = 0
        self._chunked_answer = False
        self._is_head = False
        self._is_old = False
        self.closing = False

    # --- requests -------------------------------------------------------------------------------------------------

    @property
    def buffered(self) -> int:
        """Bytes that wait: an unfinished head, or what was sent before the last answer was given."""
        return len(self._buffer)

    def receive(self, data: bytes) -> list[Event]:
        """What the bytes complete. Bytes that belong to the next request are kept."""
        if data:
            self._buffer += data
        events: list[Event] = []
        try:
            if self._reading is _Reading.HEAD and self._buffer:
                self._read_head(events)
            if self._reading is not _Reading.NOTHING and self._reading is not _Reading.HEAD:
                self._read_body(events)
        except _Problem as problem:
            events.append(self._refuse(problem))
        return events

    def _refuse(self, problem: _Problem) -> Refused:
        self._reading = _Reading.CLOSED
        self._buffer.clear()
        self.closing = True
        phrase = f"{problem.status} {http.HTTPStatus(problem.status).phrase}"
        # As in Go's server, which says nothing else about lines that are none.
        text = f"{phrase}: {problem.reason}" if problem.reason else phrase
        head = f"HTTP/1.1 {phrase}\r\ncontent-type: text/plain; charset=utf-8\r\nconnection: close\r\n\r\n"
        return Refused(problem.status, problem.reason or "malformed HTTP request", (head + text).encode("ascii"))

    def _read_head(self, events: list[Event]) -> None:
        buffer = self._buffer
        end = buffer.find(b"\r\n\r\n", max(self._searched - 3, 0))
        if max(end, len(buffer) if end < 0 else 0) > HEAD_LIMIT:
            raise _Problem(431, "")
        if end < 0:
            self._searched = len(buffer)
            _look_ahead(buffer)
            return
        head = bytes(buffer[:end])
        del buffer[: end + 4]
        self._searched = 0
        if head.count(b"\n") > FIELD_LIMIT:
            raise _Problem(431, "")
        request = self._request(head)
        events.append(request)
        if not request.has_body:
            self._reading = _Reading.NOTHING

    def _request(self, head: bytes) -> Request:
        first, *lines = head.split(b"\r\n")
        line = _request_line(first)
        if line is None:
            raise _Problem(400, "")
        method, target, major, minor = line.groups()
        if major != b"1" or minor not in (b"0", b"1"):
            raise _Problem(505, "unsupported protocol version")
        if len(target) > TARGET_LIMIT:
            raise _Problem(414, "")
        self._is_old = minor == b"0"
        fields, framing = _read_fields(lines)
        host = framing.get(b"host", [])
        if len(host) > 1:
            raise _Problem(400, "too many Host headers")
        if not host and not self._is_old:
            raise _Problem(400, "missing required Host header")
        if host and _host(host[0]) is None:
            raise _Problem(400, "malformed Host header")
        self._is_head = method == b"HEAD"
        self.closing = self.closing or self._is_old or _has_close(framing.get(b"connection", []))
        has_body = self._frame(framing)
        path, query = _split_target(method, target)
        return Request(
            method=method.decode("ascii"),
            path=_decode_path(path),
            raw_path=path.decode("latin-1"),
            raw_query=query.decode("latin-1"),
            fields=fields,
            has_body=has_body,
            expects_continue=has_body and not self._is_old and self._expects_continue(framing),
        )

    def _frame(self, framing: dict[bytes, list[bytes]]) -> bool:
        """Find out how the body is delimited (RFC 9112 section 6.3); tell whether there is one."""
        codings, lengths = framing.get(b"transfer-encoding"), framing.get(b"content-length")
        if codings is not None:
            if self._is_old or lengths is not None:
                raise _Problem(400, "Transfer-Encoding in a request that is framed otherwise")
            if len(codings) > 1 or codings[0].lower() != b"chunked":
                raise _Problem(501, "unsupported transfer encoding")
            self._reading = _Reading.CHUNK_LINE
            self._waste = 0
            return True
        if lengths is None:
            return False
        if len(lengths) > 1 or _content_length(lengths[0]) is None:
            raise _Problem(400, "bad Content-Length")
        self._left = int(lengths[0])
        self._reading = _Reading.LENGTH
        return self._left > 0

    @staticmethod
    def _expects_continue(framing: dict[bytes, list[bytes]]) -> bool:
        expected = framing.get(b"expect", [])
        if any(value.lower() != b"100-continue" for value in expected):
            raise _Problem(417, "")
        return bool(expected)

    # --- bodies ---------------------------------------------------------------------------------------------------

    def _read_body(self, events: list[Event]) -> None:
        if self._reading is _Reading.CLOSED:
            self._buffer.clear()
            return
        pieces: list[bytes] = []
        position = 0
        try:
            while self._reading is not _Reading.NOTHING:
                step = _STEPS[self._reading](self, position, pieces)
                if step < 0:
                    break
                position = step
        finally:
            del self._buffer[:position]
            # What is left is the beginning of a line, in which only the end of the next bytes can be the line's.
            self._searched = max(len(self._buffer) - 1, 0)
            if pieces:
                events.append(Body(pieces[0] if len(pieces) == 1 else b"".join(pieces)))
        if self._reading is _Reading.NOTHING:
            self._searched = 0
            events.append(_END)

    # Each step looks at the buffer from a position on, and gives the position behind what it has read, or -1 if it
    # needs more.

    def _take(self, position: int, pieces: list[bytes]) -> int:
        data = bytes(self._buffer[position : position + self._left])
        if not data:
            return -1
        pieces.append(data)
        self._left -= len(data)
        return position + len(data)

    def _take_length(self, position: int, pieces: list[bytes]) -> int:
        position = self._take(position, pieces)
        if not self._left:
            self._reading = _Reading.NOTHING
        return position

    def _take_chunk(self, position: int, pieces: list[bytes]) -> int:
        position = self._take(position, pieces)
        if not self._left:
            self._reading = _Reading.CHUNK_END
        return position

    def _take_chunk_end(self, position: int, pieces: list[bytes]) -> int:
        del pieces
        end = bytes(self._buffer[position : position + 2])
        if not b"\r\n".startswith(end):
            raise _Problem(400, "malformed chunked encoding")
        if len(end) < 2:
            return -1
        self._reading = _Reading.CHUNK_LINE
        return position + 2

    def _take_chunk_line(self, position: int, pieces: list[bytes]) -> int:
        del pieces
        line = self._line(position, _CHUNK_LINE_LIMIT)
        if line is None:
            return -1
        size = _chunk_line(line)
        if size is None:
            raise _Problem(400, "malformed chunked encoding")
        self._left = int(size[1], 16)
        self._waste = max(self._waste + len(line) + 2 - 16 - 2 * self._left, 0)
        if self._waste > _CHUNK_WASTE_LIMIT:
            raise _Problem(400, "chunked encoding contains too much non-data")
        if self._left:
            self._reading = _Reading.CHUNK
        else:
            self._reading = _Reading.TRAILERS
            self._left = HEAD_LIMIT
        return position + len(line) + 2

    def _take_trailer(self, position: int, pieces: list[bytes]) -> int:
        del pieces
        line = self._line(position, self._left)
        if line is None:
            return -1
        # A field of a few bytes costs as much as a longer one: its limit is that of fields.
        self._left -= max(len(line) + 2, HEAD_LIMIT // FIELD_LIMIT)
        if not line:
            self._reading = _Reading.NOTHING
        elif self._left < 0:
            raise _Problem(400, "too many trailers")
        elif (field := _field(line)) is None or field[1].lower() in _FRAMING:
            raise _Problem(400, "malformed trailer")
        return position + len(line) + 2

    def _line(self, position: int, limit: int) -> bytes | None:
        """The line at a position, without its end; None if it is not complete."""
        end = self._buffer.find(b"\r\n", max(position, self._searched), position + max(limit, 0) + 2)
        if end >= 0:
            return bytes(self._buffer[position:end])
        if len(self._buffer) - position > limit:
            raise _Problem(400, "header line too long")
        return None

    # --- answers --------------------------------------------------------------------------------------------------

    def answer(self, status: int, fields: Fields, body: bytes) -> bytes:
        """An answer in one piece. `fields` tell everything but the framing."""
        if status not in _BODYLESS:
            fields = [*fields, (b"content-length", b"%d" % len(body))]
        head = self._head(status, fields)
        self._end_exchange()
        return head if self._is_head or status in _BODYLESS else head + body

    def begin(self, status: int, fields: Fields) -> bytes:
        """The head of an answer that comes in pieces."""
        # Old clients know no chunks: for them the answer ends with the connection.
        self._chunked_answer = not self._is_old
        return self._head(status, [*fields, (b"transfer-encoding", b"chunked")] if self._chunked_answer else fields)

    def piece(self, data: bytes) -> bytes:
        """A piece of the answer; empty for an empty one."""
        if not data or self._is_head:
            return b""
        return b"%x\r\n%b\r\n" % (len(data), data) if self._chunked_answer else data

    def end(self) -> bytes:
        """The end of an answer that came in pieces."""
        self._end_exchange()
        return b"0\r\n\r\n" if self._chunked_answer and not self._is_head else b""

    def _head(self, status: int, fields: Fields) -> bytes:
        # Rule 4: what follows is the rest of a body that nobody wanted.
        if self._reading is not _Reading.NOTHING:
            self.closing = True
        if self.closing:
            fields = [*fields, (b"connection", b"close")]
        head = b"".join([_STATUS_LINES[status], *[b"%b: %b\r\n" % field for field in fields]])
        if head.count(b"\n") != len(fields) + 1 or head.count(b"\r") != len(fields) + 1:
            raise ValueError("a header field of an answer has a line break")
        return head + b"\r\n"

    def _end_exchange(self) -> None:
        self._reading = _Reading.CLOSED if self.closing else _Reading.HEAD
        if self.closing:
            self._buffer.clear()


_STEPS: Final = {
    _Reading.LENGTH: Machine._take_length,
    _Reading.CHUNK: Machine._take_chunk,
    _Reading.CHUNK_END: Machine._take_chunk_end,
    _Reading.CHUNK_LINE: Machine._take_chunk_line,
    _Reading.TRAILERS: Machine._take_trailer,
}


def _look_ahead(buffer: bytearray) -> None:
    """Refuse what cannot become a request, as soon as its first bytes show it: whoever speaks another protocol is told
    at once, instead of being waited for.
    """
    if not 0x21 <= buffer[0] <= 0x7E:
        raise _Problem(400, "")


def _read_fields(lines: list[bytes]) -> tuple[Fields, dict[bytes, list[bytes]]]:
    """All fields, names in lower case, and those that frame the message by name."""
    fields: Fields = []
    framing: dict[bytes, list[bytes]] = {}
    for line in lines:
        field = _field(line)
        if field is None:
            raise _Problem(400, "")
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
            raise _Problem(400, "")
    path, _, query = target.partition(b"?")
    if _broken_escape(path) is not None:
        raise _Problem(400, "")
    return path, query


def _decode_path(path: bytes) -> str:
    raw = urllib.parse.unquote_to_bytes(path) if b"%" in path else path
    return raw.decode("utf-8", "replace")
