"""Typed verbs over any Kubernetes API: the only door that controllers and tools have to the state.

A `Client` knows kinds by their declaration and talks through a `Transport`, which carries bytes: from inside the
process without a socket, or over HTTPS. What the server refuses is raised as the `errors.APIError` that its Status
names; what never reached a server is raised as `Unreachable`. Nothing is retried here: who calls knows better when and
whether.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Final, Protocol, TypeVar

import msgspec

from certplane import errors
from certplane.meta import codec, resource

T = TypeVar("T")

_JSON: Final = "application/json"
_HEADERS: Final = {"accept": _JSON, "content-type": _JSON}


class Unreachable(errors.CertplaneError):
    """The server could not be asked, or its answer did not come whole. It may have done what it was asked for."""


class Response(Protocol):
    """A whole answer."""

    @property
    def status(self) -> int: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    @property
    def body(self) -> bytes: ...


class Chunks(Protocol):
    """An answer that comes piece by piece."""

    @property
    def status(self) -> int: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    @property
    def chunks(self) -> AsyncIterator[bytes]: ...


class Transport(Protocol):
    """Carries requests to an API server, under one identity. Raises Unreachable."""

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> Response:
        """Send one request and wait for its answer."""
        ...

    def stream(
        self,
        method: str,
        path: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> contextlib.AbstractAsyncContextManager[Chunks]:
        """Send one request whose answer does not end; leaving the context ends it."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class Listing:
    """A collection at one revision."""

    items: Sequence[Any]
    resource_version: str


@dataclasses.dataclass(frozen=True, slots=True)
class WatchEvent:
    """ADDED, MODIFIED, DELETED or BOOKMARK, and the object. Of a bookmark only the resourceVersion means something."""

    type: str
    object: Any


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
        self._transport = transport

    async def read(self, path: str) -> Any:
        """A document that is no object, such as one of discovery. Raises errors.NotFound."""
        return _read(await self._send("GET", path), msgspec.json.decode)

    async def get(self, of: resource.Resource, name: str, namespace: str = "") -> Any:
        """One object. Raises errors.NotFound."""
        return _object(of, await self._send("GET", _path(of, namespace, name)))

    async def list(self, of: resource.Resource, namespace: str = "", *, page: int = 500) -> Listing:
        """All objects, fetched page by page. Raises errors.Expired when a page came too late; start again then."""
        query = [("limit", str(page))]
        items: list[Any] = []
        while True:
            found = _read(await self._send("GET", _path(of, namespace), query=query), _lists.decode)
            items += [_object(of, each) for each in found.items]
            if not found.metadata.continue_:
                return Listing(items, found.metadata.resource_version)
            query = [("limit", str(page)), ("continue", found.metadata.continue_)]

    @contextlib.asynccontextmanager
    async def watch(
        self, of: resource.Resource, resource_version: str, namespace: str = ""
    ) -> AsyncIterator[AsyncIterator[WatchEvent]]:
        """Changes after a revision, with bookmarks, until the server ends the stream.

        Raises errors.Expired (on entering, or while reading) when the revision is too old.
        """
        query = [("watch", "true"), ("resourceVersion", resource_version), ("allowWatchBookmarks", "true")]
        async with self._transport.stream("GET", _path(of, namespace), query=query, headers=_HEADERS) as answer:
            if answer.status != 200:
                raise _failure(b"".join([chunk async for chunk in answer.chunks]), answer.status)
            yield _events(of, answer.chunks)

    async def create(self, of: resource.Resource | resource.Action, new: Any, namespace: str = "") -> Any:
        """Create an object, or ask a question. Raises errors.AlreadyExists, errors.Invalid."""
        return _object(of, await self._send("POST", _path(of, namespace), body=_body(of, new)))

    async def ask(self, of: resource.Action, question: Any, name: str, namespace: str = "") -> Any:
        """Ask something of one object, such as for a token of a service account. Raises errors.NotFound."""
        if of.parent is None:
            raise ValueError(f"{of.kind} is asked of no object")
        path = _path(of.parent, namespace, name, of.plural)
        return _object(of, await self._send("POST", path, body=_body(of, question)))

    async def update(self, of: resource.Resource, new: Any, subresource: str = "") -> Any:
        """Replace an object, or a part of it through a subresource. Raises errors.Conflict if it has changed since."""
        path = _path(of, new.metadata.namespace, new.metadata.name, subresource)
        return _object(of, await self._send("PUT", path, body=_body(of, new)))

    async def apply(self, of: resource.Resource, said: Mapping[str, Any], *, manager: str) -> Any:
        """Have the server hold what is said, and nothing else of what this manager said before; others give way."""
        meta = said["metadata"]
        document = {"apiVersion": of.api_version, "kind": of.kind, **said}
        query = [("fieldManager", manager), ("force", "true")]
        path = _path(of, meta.get("namespace", ""), meta["name"])
        headers = {**_HEADERS, "content-type": "application/apply-patch+yaml"}
        body = codec.encode(document)
        return _object(of, await self._send("PATCH", path, query=query, body=body, headers=headers))

    async def delete(self, of: resource.Resource, name: str, namespace: str = "", *, uid: str = "") -> None:
        """Raises errors.NotFound; errors.Conflict if the object of this name has another UID."""
        body = codec.encode({"preconditions": {"uid": uid}}) if uid else b""
        await self._send("DELETE", _path(of, namespace, name), body=body)

    async def delete_all(self, of: resource.Resource, namespace: str) -> None:
        """Delete everything of a kind in a namespace. What has finalizers is marked and stays for a while."""
        await self._send("DELETE", _path(of, namespace))

    async def _send(
        self,
        method: str,
        path: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        body: bytes = b"",
        headers: Mapping[str, str] = _HEADERS,
    ) -> bytes:
        answer = await self._transport.request(method, path, query=query, headers=headers, body=body)
        if not 200 <= answer.status < 300:
            raise _failure(answer.body, answer.status)
        return answer.body


async def _events(of: resource.Resource, chunks: AsyncIterator[bytes]) -> AsyncIterator[WatchEvent]:
    rest = b""
    async for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            event = _read(line, _watch_events.decode)
            if event.type == "ERROR":
                raise _failure(bytes(event.object), 500)
            yield WatchEvent(event.type, _object(of, event.object))


def _object(of: resource.Resource | resource.Action, encoded: bytes | msgspec.Raw) -> Any:
    return _read(bytes(encoded), lambda data: codec.decode(data, of.type))


def _read(data: bytes, decode: Callable[[bytes], T]) -> T:
    """What an answer says. Raises Unreachable for what no API server says: something between us and it spoke."""
    try:
        return decode(data)
    except ValueError as error:
        raise Unreachable(f"the answer is not an API server's: {error}") from error


def _path(of: resource.Resource | resource.Action, namespace: str = "", name: str = "", subresource: str = "") -> str:
    root = f"/apis/{of.group}/{of.version}" if of.group else f"/api/{of.version}"
    scope = f"/namespaces/{namespace}" if of.namespaced and namespace else ""
    return root + scope + "".join(f"/{part}" for part in (of.plural, name, subresource) if part)


def _body(of: resource.Resource | resource.Action, new: Any) -> bytes:
    new.kind, new.api_version = of.kind, of.api_version
    return codec.encode(new)


def _failure(body: bytes, code: int) -> errors.APIError:
    try:
        status = msgspec.json.decode(body)
    except msgspec.DecodeError:
        status = None
    if not isinstance(status, dict):
        status = {"message": body.decode("utf-8", "replace").strip() or f"the server answered with code {code}"}
    return errors.from_status(status, code)
