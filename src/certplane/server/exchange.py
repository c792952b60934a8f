"""One HTTP exchange: what came in, what the stages found out about it, and what goes back."""

from __future__ import annotations

import datetime
import re
import urllib.parse
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from certplane import errors
from certplane.meta import context

#: Bytes of a body at the most, as in kube-apiserver.
BODY_LIMIT = 3 * 1024 * 1024
_MOST_DIGITS: Final = 18

HeaderList = Sequence[tuple[bytes, bytes]]


class Headers:
    """The header fields of a request. Names are lower case."""

    __slots__ = ("_fields", "_first")

    def __init__(self, fields: HeaderList) -> None:
        self._fields = fields
        # Of a name that is there several times the first counts, so it is put in last.
        self._first = dict(reversed(fields))

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        return iter(self._fields)

    def get(self, name: bytes) -> str:
        """The value of a field; of the first one if there are several; empty if there is none."""
        value = self._first.get(name)
        return "" if value is None else value.decode("latin-1")

    def all(self, name: bytes) -> list[str]:
        return [value.decode("latin-1") for key, value in self._fields if key == name]


class ClientGone(Exception):
    """The client went away before it had sent all of its request."""


def no_body() -> AsyncIterator[bytes]:
    async def nothing() -> AsyncIterator[bytes]:
        pieces: tuple[bytes, ...] = ()
        for piece in pieces:
            yield piece

    return nothing()


#: What Go's strconv.ParseBool takes for true.
_TRUE: Final = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_LONG_AGO: Final = datetime.datetime.min.replace(tzinfo=datetime.UTC)
_NOT_CLASSIFIED: Final = context.RequestInfo("", "", is_resource=False)


class Exchange(msgspec.Struct):
    """A request under way. The stages of the pipeline fill in the second half, in their order.

    `path` is decoded, `raw_path` as it was sent (empty from inside the process), `query` maps names to decoded values
    in order. `peer_chain` is the client's certificate chain in DER, leaf first, as the handshake delivered it; verified
    by nobody yet. `identity` is set for calls that come from
    inside the process, where no credentials are needed. `chunks` delivers the body.
    """

    method: str
    path: str
    raw_query: str
    headers: Headers
    chunks: Callable[[], AsyncIterator[bytes]] = no_body
    peer_chain: Sequence[bytes] = ()
    source: str = ""
    raw_path: str = ""
    identity: context.User | None = None

    # `note_request` and `note_response` are set where bodies may have to be recorded.
    request_id: str = ""
    received: datetime.datetime = _LONG_AGO
    query: Mapping[str, Sequence[str]] = {}
    info: context.RequestInfo = _NOT_CLASSIFIED
    user: context.User = context.ANONYMOUS
    constraint: str = ""
    attributes: context.Attributes | None = None
    classified: bool = False
    warnings: list[str] = []
    annotations: dict[str, str] = {}
    note_request: Callable[[Any], None] | None = None
    note_response: Callable[[Callable[[], bytes]], None] | None = None

    async def body(self) -> bytes:
        """The whole body. Raises RequestEntityTooLarge beyond the limit, before more of it is read."""
        declared = self.headers.get(b"content-length")
        # The length first: Python does not read numbers of any length.
        if declared.isascii() and declared.isdigit() and (len(declared) > _MOST_DIGITS or int(declared) > BODY_LIMIT):
            raise _too_large()
        parts: list[bytes] = []
        size = 0
        async for chunk in self.chunks():
            size += len(chunk)
            if size > BODY_LIMIT:
                raise _too_large()
            parts.append(chunk)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    @property
    def wants_pretty(self) -> bool:
        """Whether the answer should be indented: if that is asked for, or if a person seems to ask."""
        asked = self.parameter("pretty")
        if asked:
            return asked in _TRUE
        return self.headers.get(b"user-agent").startswith(("curl", "Wget", "Mozilla/5.0"))

    def parameter(self, name: str) -> str:
        values = self.query.get(name)
        return values[0] if values else ""


def _too_large() -> errors.RequestEntityTooLarge:
    return errors.RequestEntityTooLarge(f"limit is {BODY_LIMIT}")


#: An escape that is none, or the separator of old.
_BROKEN: Final = re.compile(r"%(?![0-9A-Fa-f]{2})|;")


def parse_query(raw: str) -> Mapping[str, Sequence[str]]:
    """The parameters of a query string, in order, empty values kept; those that Go does not understand left out."""
    if not raw:
        return {}
    if _BROKEN.search(raw):
        raw = "&".join(pair for pair in raw.split("&") if not _BROKEN.search(pair))
    found: dict[str, list[str]] = {}
    for name, value in urllib.parse.parse_qsl(raw, keep_blank_values=True, max_num_fields=None):
        found.setdefault(name, []).append(value)
    return found


class Reply(msgspec.Struct):
    """What goes back. `stream`, if set, delivers the body piece by piece and replaces `body`; closing it ends what
    feeds it. `headers` are further fields, names in lower case. `outcome` is the Status in the body, if it is one.
    """

    status: int
    content_type: str
    body: bytes = b""
    stream: AsyncIterator[bytes] | None = None
    headers: list[tuple[bytes, bytes]] = []
    outcome: Mapping[str, Any] | None = None


Handler = Callable[[Exchange], Awaitable[Reply]]
