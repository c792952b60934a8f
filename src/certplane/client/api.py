"""Typed verbs over any Kubernetes API: the only way in which controllers and tools read and write objects.

A `Client` knows kinds by their declaration and sends requests through a `Transport`: over HTTPS, or inside the process
of the server without a socket. A refusal is raised as the `errors.APIError` that its Status names; a request without a
complete response as `Unreachable`. Nothing is retried here: the caller knows when to retry, and whether.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Final, Generic, Protocol, TypeVar

import msgspec

from certplane import errors
from certplane.meta.objects import Object
from certplane.meta.resource import AnyKind, AnyResource, Resource, VirtualResource
from certplane.wire import codec

T = TypeVar("T", bound=Object)
T_co = TypeVar("T_co", bound=Object, covariant=True)
_R = TypeVar("_R")

_JSON: Final = "application/json"
#: Bytes of one event of a watch. etcd stores objects of at most 1.5 MiB, which are larger in JSON.
_MAX_EVENT: Final = 16 << 20
#: Bytes of the response that refuses a watch: a Status.
_MAX_REFUSAL: Final = 1 << 20
#: Pages of a list without an item, one after the other.
_MAX_EMPTY_PAGES: Final = 1000
_HEADERS: Final = {"accept": _JSON, "content-type": _JSON}


class Unreachable(errors.CertplaneError):
    """There was no response, or it was incomplete. The server may have executed the request all the same."""


class ResponseTooLarge(Unreachable):
    """The response is larger than the transport accepts."""


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """A request to an API server. `path` and `query` are not escaped yet. `before_sending` is called immediately before
    each attempt to send it, and prevents that with an exception.
    """

    method: str
    path: str
    query: Sequence[tuple[str, str]] = ()
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    body: bytes = b""
    before_sending: Callable[[], None] = lambda: None


async def _no_chunks() -> AsyncIterator[bytes]:
    # Without a yield this would be no generator.
    for chunk in tuple[bytes, ...]():
        yield chunk


@dataclasses.dataclass(frozen=True, slots=True)
class Response:
    """A response. `Transport.send` returns it whole, in `body`; `Transport.stream` returns its body in `chunks`, as
    they arrive. The names of headers are in lower case.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes = b""
    chunks: AsyncIterator[bytes] = dataclasses.field(default_factory=_no_chunks)

    async def read(self, limit: int = _MAX_REFUSAL) -> bytes:
        """The body, whichever way it comes, but no more of it after `limit` bytes."""
        body = bytearray(self.body)
        async for chunk in self.chunks:
            body += chunk
            if len(body) >= limit:
                break
        return bytes(body)


class Transport(Protocol):
    """Sends requests to an API server, under one identity. Raises Unreachable, and what `before_sending` raises.

    A transport that waits for something, such as a connection, calls `Request.before_sending` after that, and again
    before a retry. A transport around another one passes it on.
    """

    async def send(self, request: Request) -> Response:
        """Send a request and wait for the whole response."""
        ...

    def stream(self, request: Request) -> contextlib.AbstractAsyncContextManager[Response]:
        """Send a request and stream the response; leaving the context closes it."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class Listing(Generic[T_co]):
    """A collection at one revision."""

    items: Sequence[T_co]
    resource_version: str


@dataclasses.dataclass(frozen=True, slots=True)
class WatchEvent(Generic[T_co]):
    """ADDED, MODIFIED, DELETED or BOOKMARK, and the object. A bookmark's object has nothing but a resourceVersion."""

    type: str
    object: T_co


class _Meta(msgspec.Struct):
    resource_version: str = msgspec.field(default="", name="resourceVersion")
    continue_: str = msgspec.field(default="", name="continue")


class _List(msgspec.Struct):
    metadata: _Meta
    items: list[msgspec.Raw]


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


_lists: Final = msgspec.json.Decoder(_List)
_watch_events: Final = msgspec.json.Decoder(_Event)


class Client:
    """The verbs."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport

    async def read(self, path: str) -> object:
        """A document that is not a Kubernetes object, such as one of discovery. Raises errors.NotFound."""
        return _read(await self._send(Request("GET", path, headers=_HEADERS)), msgspec.json.decode)

    async def get(self, resource: Resource[T], name: str, namespace: str = "") -> T:
        """One object. Raises errors.NotFound."""
        return _object(resource, await self._send(Request("GET", _path(resource, namespace, name), headers=_HEADERS)))

    async def list(
        self, resource: Resource[T], namespace: str = "", *, page: int = 500, field_selector: str = ""
    ) -> Listing[T]:
        """All objects, or those that a field selector selects, fetched page by page. A page that is too large is
        requested anew with fewer objects. Raises errors.Expired if a page was requested too late; start again.
        """
        items: list[T] = []
        version = ""
        async for listing in self.pages(resource, namespace, page=page, field_selector=field_selector):
            items += listing.items
            version = listing.resource_version
        return Listing(items, version)

    async def pages(
        self, resource: Resource[T], namespace: str = "", *, page: int = 500, field_selector: str = ""
    ) -> AsyncIterator[Listing[T]]:
        """The same, one page after the other, for collections that may not fit into the memory."""
        selector = [("fieldSelector", field_selector)] if field_selector else []
        continue_: list[tuple[str, str]] = []
        empty = 0
        while True:
            query = [("limit", str(page)), *selector, *continue_]
            request = Request("GET", _path(resource, namespace), query, _HEADERS)
            try:
                listing = _read(await self._send(request), _lists.decode)
            except ResponseTooLarge:
                if page == 1:
                    raise
                page = max(1, page // 8)
                continue
            items = [_object(resource, item) for item in listing.items]
            yield Listing(items, listing.metadata.resource_version)
            if not listing.metadata.continue_:
                return
            next_page = [("continue", listing.metadata.continue_)]
            # A server may stop early where few objects are selected.
            empty = 0 if listing.items else empty + 1
            if next_page == continue_ or empty > _MAX_EMPTY_PAGES:
                raise Unreachable("the response is not from an API server: the pages of the list do not end")
            continue_ = next_page

    @contextlib.asynccontextmanager
    async def watch(
        self, resource: Resource[T], resource_version: str, namespace: str = ""
    ) -> AsyncIterator[AsyncIterator[WatchEvent[T]]]:
        """Changes after a revision, with bookmarks, until the server ends the stream.

        Raises errors.Expired (on entering, or while reading) when the revision is too old.
        """
        query = [("watch", "true"), ("resourceVersion", resource_version), ("allowWatchBookmarks", "true")]
        request = Request("GET", _path(resource, namespace), query, _HEADERS)
        async with self.transport.stream(request) as response:
            if response.status != 200:
                raise _failure(await response.read(), response.status)
            yield _events(resource, response.chunks)

    async def create(self, kind: Resource[T] | VirtualResource[T], obj: T, namespace: str = "") -> T:
        """Create an object, or submit a review. Raises errors.AlreadyExists, errors.Invalid."""
        request = Request("POST", _path(kind, namespace), headers=_HEADERS, body=_body(kind, obj))
        return _object(kind, await self._send(request))

    async def update(self, resource: Resource[T], obj: T, subresource: str = "") -> T:
        """Replace an object, or a part of it through a subresource. Raises errors.Conflict if it has changed since."""
        path = _path(resource, obj.metadata.namespace, obj.metadata.name, subresource)
        return _object(resource, await self._send(Request("PUT", path, headers=_HEADERS, body=_body(resource, obj))))

    async def apply(self, resource: Resource[T], fields: Mapping[str, Any], *, manager: str) -> T:
        """Server-side apply with force: `manager` owns exactly these fields afterwards."""
        metadata = fields["metadata"]
        document = {"apiVersion": resource.api_version, "kind": resource.kind, **fields}
        path = _path(resource, metadata.get("namespace", ""), metadata["name"])
        query = [("fieldManager", manager), ("force", "true")]
        headers = {**_HEADERS, "content-type": "application/apply-patch+yaml"}
        return _object(resource, await self._send(Request("PATCH", path, query, headers, codec.encode(document))))

    async def delete(self, resource: AnyResource, name: str, namespace: str = "", *, uid: str = "") -> None:
        """Raises errors.NotFound; errors.Conflict if the object of this name has another UID."""
        body = codec.encode({"preconditions": {"uid": uid}}) if uid else b""
        await self._send(Request("DELETE", _path(resource, namespace, name), headers=_HEADERS, body=body))

    async def delete_all(self, resource: AnyResource, namespace: str) -> None:
        """Delete all objects of a kind in a namespace. Those with finalizers are only marked as being deleted."""
        await self._send(Request("DELETE", _path(resource, namespace), headers=_HEADERS))

    async def _send(self, request: Request) -> bytes:
        response = await self.transport.send(request)
        if not 200 <= response.status < 300:
            raise _failure(response.body, response.status)
        return response.body


async def _events(resource: Resource[T], chunks: AsyncIterator[bytes]) -> AsyncIterator[WatchEvent[T]]:
    async for line in _lines(chunks):
        event = _read(line, _watch_events.decode)
        if event.type == "ERROR":
            raise _failure(bytes(event.object), 500)
        yield WatchEvent(event.type, _object(resource, event.object))


async def _lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The lines of a stream. Raises Unreachable for one that is too long. The time is linear, however short the chunks
    are.
    """
    rest = bytearray()
    async for chunk in chunks:
        *lines, last = chunk.split(b"\n")
        for line in lines:
            rest += line
            yield bytes(rest)
            rest.clear()
        rest += last
        if len(rest) > _MAX_EVENT:
            raise Unreachable(f"the watch sends an event of more than {_MAX_EVENT} bytes")


def _object(kind: Resource[T] | VirtualResource[T], encoded: bytes | msgspec.Raw) -> T:
    return _read(bytes(encoded), lambda data: codec.decode(data, kind.type))


def _read(data: bytes, decode: Callable[[bytes], _R]) -> _R:
    """Decode a response. Raises Unreachable for one that no API server sends, but something in between."""
    try:
        return decode(data)
    except (ValueError, RecursionError) as error:
        raise Unreachable(f"the response is not from an API server: {error}") from error


def _path(kind: AnyKind, namespace: str = "", name: str = "", subresource: str = "") -> str:
    root = f"/apis/{kind.group}/{kind.version}" if kind.group else f"/api/{kind.version}"
    scope = f"/namespaces/{namespace}" if kind.namespaced and namespace else ""
    return root + scope + "".join(f"/{part}" for part in (kind.plural, name, subresource) if part)


def _body(kind: AnyKind, obj: Object) -> bytes:
    obj.kind, obj.api_version = kind.kind, kind.api_version
    return codec.encode(obj)


def _failure(body: bytes, code: int) -> errors.APIError:
    try:
        status = msgspec.json.decode(body)
    except (ValueError, RecursionError):
        status = None
    if not isinstance(status, dict):
        text = body[: 4 * errors.MAX_MESSAGE_LENGTH].decode("utf-8", "replace").strip()
        status = {"message": text or f"the server responded with code {code}"}
    return errors.from_status(status, code)
