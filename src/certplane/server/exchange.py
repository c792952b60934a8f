"""One HTTP exchange: the request, what the stages of the pipeline learn about it, and the response."""

from __future__ import annotations

import datetime
import re
import urllib.parse
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Final

import msgspec

from certplane import errors
from certplane.meta.context import ANONYMOUS, Attributes, RequestInfo, User

#: Maximum size of a request body in bytes, as in kube-apiserver.
BODY_LIMIT = 3 * 1024 * 1024
#: Digits of a Content-Length that fit into 63 bits.
_MAX_LENGTH_DIGITS: Final = 18

HeaderList = Sequence[tuple[bytes, bytes]]


class Headers:
    """The header fields of a request. Field names are in lower case."""

    __slots__ = ("_fields", "_first")

    def __init__(self, fields: HeaderList) -> None:
        self._fields = fields
        # The first value of a repeated field wins, so it is inserted last.
        self._first = dict(reversed(fields))

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        return iter(self._fields)

    def get(self, name: bytes) -> str:
        """The value of the first field with this name; empty if there is none."""
        value = self._first.get(name)
        return "" if value is None else value.decode("latin-1")

    def all(self, name: bytes) -> list[str]:
        """The values of all fields with this name, in order."""
        return [value.decode("latin-1") for key, value in self._fields if key == name]


class ClientGone(Exception):
    """The client disconnected before it had sent the whole request."""


async def no_body() -> AsyncIterator[bytes]:
    """The chunks of an empty body."""
    chunks: tuple[bytes, ...] = ()
    for chunk in chunks:
        yield chunk


#: The strings that Go's strconv.ParseBool parses as true.
_TRUE: Final = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_LONG_AGO: Final = datetime.datetime.min.replace(tzinfo=datetime.UTC)
_NOT_CLASSIFIED: Final = RequestInfo("", "", is_resource=False)


class Request(msgspec.Struct):
    """A request in flight. The stages of the pipeline fill in the second half, in their order.

    `path` is decoded; `raw_path` is as it was sent (empty for in-process calls); `query` maps names to their decoded
    values in order. `peer_chain` is the client's certificate chain in DER, leaf first, as the TLS handshake delivered
    it, not verified. `identity` is set for in-process calls, which need no credentials. `chunks` yields the body.
    `classified` says that a flow schema applies, so the response carries its headers. `note_request` and
    `note_response` are set where the audit policy may record bodies.
    """

    method: str
    path: str
    raw_query: str
    headers: Headers
    chunks: Callable[[], AsyncIterator[bytes]] = no_body
    peer_chain: Sequence[bytes] = ()
    source: str = ""
    raw_path: str = ""
    identity: User | None = None

    request_id: str = ""
    received: datetime.datetime = _LONG_AGO
    query: Mapping[str, Sequence[str]] = {}
    info: RequestInfo = _NOT_CLASSIFIED
    user: User = ANONYMOUS
    constraint: str = ""
    attributes: Attributes | None = None
    classified: bool = False
    warnings: list[str] = []
    annotations: dict[str, str] = {}
    note_request: Callable[[object], None] | None = None
    note_response: Callable[[Callable[[], bytes]], None] | None = None

    async def body(self) -> bytes:
        """The whole body. Raises RequestEntityTooLarge as soon as it exceeds the limit, and reads no further."""
        length = self.headers.get(b"content-length")
        # Count the digits first: int() raises for strings of more than 4300 digits.
        if length.isascii() and length.isdigit() and (len(length) > _MAX_LENGTH_DIGITS or int(length) > BODY_LIMIT):
            raise _too_large()
        chunks: list[bytes] = []
        size = 0
        async for chunk in self.chunks():
            size += len(chunk)
            if size > BODY_LIMIT:
                raise _too_large()
            chunks.append(chunk)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    @property
    def wants_pretty(self) -> bool:
        """Whether to indent the response: by the `pretty` parameter, or by default for curl, wget and browsers."""
        pretty = self.parameter("pretty")
        if pretty:
            return pretty in _TRUE
        return self.headers.get(b"user-agent").startswith(("curl", "Wget", "Mozilla/5.0"))

    def parameter(self, name: str) -> str:
        """The first value of a query parameter; empty if it is absent."""
        values = self.query.get(name)
        return values[0] if values else ""


def _too_large() -> errors.RequestEntityTooLarge:
    return errors.RequestEntityTooLarge(f"limit is {BODY_LIMIT}")


#: A malformed percent escape, or a semicolon, which Go no longer accepts as a separator.
_BROKEN: Final = re.compile(r"%(?![0-9A-Fa-f]{2})|;")


def parse_query(raw: str) -> Mapping[str, Sequence[str]]:
    """The parameters of a query string, in order, with empty values. Drops those that Go's url.ParseQuery rejects."""
    if not raw:
        return {}
    if _BROKEN.search(raw):
        raw = "&".join(pair for pair in raw.split("&") if not _BROKEN.search(pair))
    parameters: dict[str, list[str]] = {}
    for name, value in urllib.parse.parse_qsl(raw, keep_blank_values=True, max_num_fields=None):
        parameters.setdefault(name, []).append(value)
    return parameters


class Response(msgspec.Struct):
    """The response to a request.

    `stream`, if set, yields the body in chunks and replaces `body`; closing it stops its source. `headers` are the
    header fields besides Content-Type, with names in lower case. `status_object` is the Status in the body, if it is
    one.
    """

    status: int
    content_type: str
    body: bytes = b""
    stream: AsyncIterator[bytes] | None = None
    headers: list[tuple[bytes, bytes]] = []
    status_object: Mapping[str, object] | None = None


Handler = Callable[[Request], Awaitable[Response]]
