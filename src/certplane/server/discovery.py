"""The discovery documents: /api, /apis and below, /version, /openapi, and the list of paths at /.

All are generated from the declarations of the kinds. Discovery is generated at the start, because it is small; the
OpenAPI documents at the first request for one, because few servers get such a request right after the start. Nothing
here changes while the server runs, so each document has a constant hash.

Sources: `k8s.io/apiserver/pkg/endpoints/discovery` and `.../discovery/aggregated`; `k8s.io/kube-openapi/pkg/handler`
and `handler3` (paths, hashes, headers); the order of groups is the one of `pkg/controlplane/apiserver/aggregator.go`.
"""

from __future__ import annotations

import dataclasses
import datetime
import email.utils
import functools
import platform
import re
import sys
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import certplane
from certplane import errors
from certplane.clock import Clock
from certplane.meta.resource import AnyKind, AnyResource, AnyVirtualResource
from certplane.openapi import openapi2, openapi3
from certplane.server import negotiation, rendering
from certplane.server.exchange import Headers, Request
from certplane.wire import codec, protobuf

#: The Kubernetes version of the API. Clients compare it with their own.
_MINOR_VERSION: Final = certplane.API_VERSION.rpartition(".")[0]

_JSON: Final = "application/json"
_TEXT: Final = "text/plain; charset=utf-8"
_AGGREGATED: Final = "APIGroupDiscoveryList"
_AGGREGATED_GROUP: Final = "apidiscovery.k8s.io"
#: v2beta1 was removed in Kubernetes 1.35: clients that accept nothing newer get the plain documents.
_AGGREGATED_VERSIONS: Final = ("v2",)
#: The media types of OpenAPI 2 in protobuf: as clients accept it, and as the response has it.
_PROTOBUF_V2: Final = (
    "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
    "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
)
_GROUP_ORDER: Final = (
    "", "events.k8s.io", "authentication.k8s.io", "authorization.k8s.io", "certificates.k8s.io",
    "rbac.authorization.k8s.io", "coordination.k8s.io",
)  # fmt: skip
_OTHER_PATHS: Final = (
    "/", "/healthz", "/livez", "/metrics", "/openapi/v2", "/openapi/v3", "/openapi/v3/", "/readyz", "/version",
)  # fmt: skip
_YEAR: Final = datetime.timedelta(days=365)


@dataclasses.dataclass(frozen=True, slots=True)
class Document:
    """A document with its HTTP status and headers. An empty content type means that there is no body."""

    status: int
    content_type: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()

    def for_conditional(self, request_headers: Headers) -> Document:
        """The document, or 304 if the conditions of the request say that the client has it.

        As in Go's `http.ServeContent`, RFC 9110 section 13: tags are compared weakly and take precedence over times.
        """
        if self.status != 200:
            return self
        headers = dict(self.headers)
        if_none_match = request_headers.get(b"if-none-match")
        if if_none_match:
            # A document without a tag matches the wildcard, too.
            tags = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
            is_same = "*" in tags or headers.get("Etag", "") in tags
        else:
            is_same = _is_unmodified(headers.get("Last-Modified", ""), request_headers.get(b"if-modified-since"))
        if not is_same:
            return self
        kept = [field for field in self.headers if field[0] != "Last-Modified" or "Etag" not in headers]
        return Document(304, "", b"", tuple(kept))


@dataclasses.dataclass(frozen=True, slots=True)
class _GroupVersion:
    """The stored and the virtual resources of one version of a group."""

    group: str
    version: str
    resources: tuple[AnyResource, ...]
    virtuals: tuple[AnyVirtualResource, ...]

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def path(self) -> str:
        return f"/apis/{self.api_version}" if self.group else f"/api/{self.version}"


@dataclasses.dataclass(frozen=True, slots=True)
class _HashedBody:
    """An encoded document and the hash of its content."""

    body: bytes
    hash: str

    @property
    def etag(self) -> str:
        return f'"{self.hash}"'


class Discovery:
    """The documents of one server.

    `resources` and `virtuals` are the catalogue. `server_address` is the host and port at which clients reach the
    server. The clock dates the OpenAPI documents. `others` are further documents by path, such as an issuer's keys.
    """

    def __init__(
        self,
        resources: Sequence[AnyResource],
        virtuals: Sequence[AnyVirtualResource],
        *,
        server_address: str,
        clock: Clock,
        others: Mapping[str, Document] = types.MappingProxyType({}),
    ) -> None:
        self._clock = clock
        self._others = others
        self._modified = email.utils.format_datetime(clock.now(), usegmt=True)
        self._versions = _group_versions(resources, virtuals)
        self._plain = _plain_documents(self._versions, server_address)
        self._encoded: dict[tuple[str, negotiation.Representation], bytes] = {}
        self._aggregated_documents = {
            "/api": _with_etag(_aggregated([version for version in self._versions if not version.group])),
            "/apis": _with_etag(_aggregated([version for version in self._versions if version.group])),
        }
        self._unrouted = {"/apis", *(f"/apis/{version.group}" for version in self._versions if version.group)}

    def respond(self, request: Request) -> Document | None:
        """The document for a request; None if there is none at the path.

        As in kube-apiserver, documents without a go-restful route accept any method. Raises MethodNotAllowed,
        NotAcceptable, and NoSuchPath for an unknown path in an existing group.
        """
        if request.path == "/":
            return self._root()
        if request.path.startswith("/openapi/"):
            return self._openapi(request)
        path = request.path.removesuffix("/")
        if path not in self._unrouted:
            if not self._is_routed(path):
                return None
            if request.method != "GET":
                raise errors.MethodNotAllowed
            negotiation.check_media_types(request.headers.get(b"accept"), self._media_types(path))
        if path == "/version":
            return Document(200, _JSON, rendering.indent(codec.encode(version_information())))
        if path in self._others:
            return self._others[path]
        # `/apis/` with a trailing slash has no aggregated form.
        form = _aggregated_form(request.headers.get(b"accept")) if path == "/api" or request.path == "/apis" else None
        return self._discover(path, request) if form is None else self._aggregate(path, form, request)

    def _is_routed(self, path: str) -> bool:
        """Whether there is a route for the path. Raises NoSuchPath for an unknown version of an existing group."""
        if path in self._plain or path in self._others or path == "/version":
            return True
        root, _, rest = path.removeprefix("/").partition("/")
        if rest and (root == "api" or (root == "apis" and f"/apis/{rest.partition('/')[0]}" in self._plain)):
            raise errors.NoSuchPath
        return False

    def _media_types(self, path: str) -> str:
        if path in self._others:
            return self._others[path].content_type
        return _JSON if path == "/version" else negotiation.MEDIA_TYPES

    def _root(self) -> Document:
        paths = sorted({*_OTHER_PATHS, *self._plain, *self._others, "/apis/"})
        return Document(200, _JSON, rendering.indent(codec.encode({"paths": paths})))

    # --- discovery ------------------------------------------------------------------------------------------------

    def _discover(self, path: str, request: Request) -> Document:
        form = negotiation.negotiate(request.headers.get(b"accept"), negotiation.NO_TRANSFORMS)
        if request.wants_pretty:
            form = dataclasses.replace(form, pretty=True)
        body = self._encoded.get((path, form))
        if body is None:
            body = self._encoded[path, form] = _encode(self._plain[path], form)
        return Document(200, form.media_type, body)

    def _aggregate(self, path: str, form: negotiation.Representation, request: Request) -> Document:
        document, etag = self._aggregated_documents[path]
        headers = (("Cache-Control", "public"), ("Etag", etag), ("Vary", "Accept"))
        # Here kube-apiserver compares the whole field.
        if request.headers.get(b"if-none-match") == etag:
            return Document(304, "", b"", headers)
        if request.wants_pretty:
            form = dataclasses.replace(form, pretty=True)
        body = self._encoded.get((path, form))
        if body is None:
            body = self._encoded[path, form] = _encode(document, form)
        parameters = f";g={_AGGREGATED_GROUP};v={form.meta_version};as={_AGGREGATED}"
        return Document(200, form.media_type + parameters, body, headers)

    # --- OpenAPI --------------------------------------------------------------------------------------------------

    @functools.cached_property
    def _v3_documents(self) -> dict[str, openapi3.Document]:
        documents = openapi3.root_documents(_MINOR_VERSION)
        for version in self._versions:
            if version.group:
                documents[f"apis/{version.group}"] = openapi3.group_document(version.group, _MINOR_VERSION)
            documents[version.path[1:]] = openapi3.group_version_document(
                version.resources, version.virtuals, _MINOR_VERSION
            )
        return documents

    @functools.cached_property
    def _v3_bodies(self) -> dict[str, _HashedBody]:
        return {path: _hash(document) for path, document in self._v3_documents.items()}

    @functools.cached_property
    def _v3_index(self) -> bytes:
        paths = {path: {"serverRelativeURL": _v3_url(path, body)} for path, body in sorted(self._v3_bodies.items())}
        return codec.encode({"paths": paths})

    @functools.cached_property
    def _v2_document(self) -> openapi3.Document:
        return openapi2.from_openapi3(self._v3_documents.values())

    @functools.cached_property
    def _v2_json(self) -> _HashedBody:
        return _hash(self._v2_document)

    @functools.cached_property
    def _v2_protobuf(self) -> _HashedBody:
        body = openapi2.encode(self._v2_document)
        return _HashedBody(body, openapi3.digest(body))

    def _openapi(self, request: Request) -> Document | None:
        accept = request.headers.get(b"accept")
        if request.path == "/openapi/v2":
            return self._v2(accept).for_conditional(request.headers)
        if request.path == "/openapi/v3":
            return Document(200, _TEXT, self._v3_index, (("Last-Modified", self._modified),)).for_conditional(
                request.headers
            )
        if request.path.startswith("/openapi/v3/"):
            document = self._v3(request.path.removeprefix("/openapi/v3/"), accept, request.parameter("hash"))
            return document.for_conditional(request.headers)
        return None

    def _v3(self, path: str, accept: str, requested_hash: str) -> Document:
        hashed = self._v3_bodies.get(path)
        if hashed is None:
            return Document(404, "", b"")
        vary = ("Vary", "Accept")
        if not _select_media_type(accept, (_JSON,)):
            return Document(406, "", b"", (vary,))
        headers: tuple[tuple[str, str], ...] = (("Etag", hashed.etag), vary)
        if requested_hash and requested_hash != hashed.hash:
            return Document(301, _JSON, b"", (*headers, ("Location", _v3_url(path, hashed))))
        headers = (*headers, ("Last-Modified", self._modified))
        if requested_hash:
            expires = email.utils.format_datetime(self._clock.now() + _YEAR, usegmt=True)
            headers = (*headers, ("Cache-Control", "public, immutable"), ("Expires", expires))
        return Document(200, _JSON, hashed.body, headers)

    def _v2(self, accept: str) -> Document:
        vary = (("Vary", "Accept-Encoding"), ("Vary", "Accept"))
        media_type = _select_media_type(accept, (_JSON, *_PROTOBUF_V2))
        if not media_type:
            return Document(406, "", b"", vary)
        hashed = self._v2_json if media_type == _JSON else self._v2_protobuf
        headers = (("Etag", hashed.etag), ("Last-Modified", self._modified), *vary)
        return Document(200, _JSON if media_type == _JSON else _PROTOBUF_V2[-1], hashed.body, headers)


def _v3_url(path: str, hashed: _HashedBody) -> str:
    return f"/openapi/v3/{path}?hash={hashed.hash}"


def _hash(document: Mapping[str, object]) -> _HashedBody:
    body = codec.encode(document)
    return _HashedBody(body, openapi3.digest(body))


def _with_etag(document: Mapping[str, object]) -> tuple[Mapping[str, object], str]:
    return document, f'"{openapi3.digest(codec.encode(document))}"'


def _encode(document: Mapping[str, object], form: negotiation.Representation) -> bytes:
    if form.media_type == negotiation.PROTOBUF:
        return protobuf.encode_document(document)
    return rendering.encode_json(codec.encode(document), form)


def _is_unmodified(last_modified: str, if_modified_since: str) -> bool:
    """Whether Last-Modified is not after If-Modified-Since. Both may be empty; the client's may be invalid."""
    try:
        return email.utils.parsedate_to_datetime(last_modified) <= email.utils.parsedate_to_datetime(if_modified_since)
    except (TypeError, ValueError):
        return False


# --- content negotiation ------------------------------------------------------------------------------------------


def _aggregated_form(accept: str) -> negotiation.Representation | None:
    """The accepted form of aggregated discovery, even if plain discovery comes first; None if it is not accepted."""
    for clause in negotiation.parse_accept(accept):
        parameters = dict(clause.parameters)
        version = parameters.get("v", "")
        if (parameters.get("as"), parameters.get("g")) != (_AGGREGATED, _AGGREGATED_GROUP):
            continue
        for media_type in negotiation.SUPPORTED:
            if clause.matches(media_type) and version in _AGGREGATED_VERSIONS:
                return negotiation.Representation(media_type, _AGGREGATED, version)
    return None


def _select_media_type(accept: str, media_types: Sequence[str]) -> str:
    """The first media type that matches the best clause of the Accept header; empty if none matches."""
    for clause in negotiation.parse_accept(accept or "*/*"):
        for media_type in media_types:
            if clause.matches(media_type):
                return media_type
    return ""


# --- the order of groups, versions and resources ------------------------------------------------------------------


def _group_versions(
    resources: Iterable[AnyResource], virtuals: Iterable[AnyVirtualResource]
) -> tuple[_GroupVersion, ...]:
    by_version: dict[tuple[str, str], tuple[list[AnyResource], list[AnyVirtualResource]]] = {}
    for resource in resources:
        by_version.setdefault((resource.group, resource.version), ([], []))[0].append(resource)
    for virtual in virtuals:
        group, version, _, _ = virtual.path
        by_version.setdefault((group, version), ([], []))[1].append(virtual)
    return tuple(
        _GroupVersion(
            group,
            version,
            tuple(sorted(version_resources, key=_plural)),
            tuple(sorted(version_actions, key=_plural)),
        )
        for (group, version), (version_resources, version_actions) in sorted(
            by_version.items(), key=lambda item: _rank(*item[0])
        )
    )


def _plural(kind: AnyKind) -> str:
    return kind.plural


def _rank(group: str, version: str) -> tuple[int, str, tuple[int, int, int]]:
    index = _GROUP_ORDER.index(group) if group in _GROUP_ORDER else len(_GROUP_ORDER)
    return index, group, _version_rank(version)


def _version_rank(version: str) -> tuple[int, int, int]:
    """Stable before beta before alpha, then the higher number first."""
    match = re.fullmatch(r"v([0-9]+)(?:(alpha|beta)([0-9]+))?", version)
    if match is None:
        return 3, 0, 0
    stage = {None: 0, "beta": 1, "alpha": 2}[match[2]]
    return stage, -int(match[1]), -int(match[3] or 0)


# --- plain discovery ----------------------------------------------------------------------------------------------


def _plain_documents(versions: Sequence[_GroupVersion], server_address: str) -> dict[str, dict[str, object]]:
    """The plain documents by path. Those of the core group have no apiVersion: they are older than that field."""
    groups = _groups(versions)
    documents: dict[str, dict[str, object]] = {
        "/api": {
            "kind": "APIVersions",
            "versions": [version.version for version in versions if not version.group],
            "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": server_address}],
        },
        "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups},
    }
    for group in groups:
        documents[f"/apis/{group['name']}"] = {"kind": "APIGroup", "apiVersion": "v1", **group}
    for version in versions:
        head = {"kind": "APIResourceList", "apiVersion": "v1"} if version.group else {"kind": "APIResourceList"}
        documents[version.path] = {**head, "groupVersion": version.api_version, "resources": _resources(version)}
    return documents


def _groups(versions: Sequence[_GroupVersion]) -> list[dict[str, object]]:
    by_group: dict[str, list[dict[str, str]]] = {}
    for version in versions:
        if version.group:
            entry = {"groupVersion": version.api_version, "version": version.version}
            by_group.setdefault(version.group, []).append(entry)
    return [{"name": name, "versions": entries, "preferredVersion": entries[0]} for name, entries in by_group.items()]


def _resources(group_version: _GroupVersion) -> list[dict[str, object]]:
    entries = [entry for resource in group_version.resources for entry in _resource_entries(resource)]
    entries.extend(map(_virtual_entry, group_version.virtuals))
    return sorted(entries, key=lambda entry: str(entry["name"]))


def _entry(name: str, singular: str, namespaced: bool, kind: str, verbs: Sequence[str]) -> dict[str, object]:
    return {"name": name, "singularName": singular, "namespaced": namespaced, "kind": kind, "verbs": list(verbs)}


def _virtual_entry(virtual: AnyVirtualResource) -> dict[str, object]:
    if virtual.parent is None:
        return _entry(virtual.plural, virtual.kind.lower(), virtual.namespaced, virtual.kind, ("create",))
    entry = _entry(f"{virtual.parent.plural}/{virtual.plural}", "", virtual.namespaced, virtual.kind, ("create",))
    # Group and version are given only if they differ from those of the list.
    return {**entry, "group": virtual.group, "version": virtual.version}


def _resource_entries(resource: AnyResource) -> Iterable[dict[str, object]]:
    entry = _entry(resource.plural, resource.singular_name, resource.namespaced, resource.kind, resource.verbs)
    if resource.short_names:
        entry["shortNames"] = list(resource.short_names)
    entry["storageVersionHash"] = resource.storage_version_hash
    yield entry
    for subresource in resource.subresources:
        name = f"{resource.plural}/{subresource.name}"
        yield _entry(name, "", resource.namespaced, resource.kind, subresource.verbs)


# --- aggregated discovery -----------------------------------------------------------------------------------------


def _aggregated(versions: Sequence[_GroupVersion]) -> dict[str, object]:
    """The APIGroupDiscoveryList of some groups."""
    by_group: dict[str, list[dict[str, Any]]] = {}
    for version in versions:
        top_level_virtuals = [virtual for virtual in version.virtuals if virtual.parent is None]
        entries = [_aggregated_resource(resource, version.virtuals) for resource in version.resources]
        entries += map(_aggregated_virtual, top_level_virtuals)
        entries.sort(key=lambda entry: str(entry["resource"]))
        version_entry = {"version": version.version, "resources": entries, "freshness": "Current"}
        by_group.setdefault(version.group, []).append(version_entry)
    return {
        "kind": _AGGREGATED,
        "apiVersion": f"{_AGGREGATED_GROUP}/{_AGGREGATED_VERSIONS[-1]}",
        "metadata": {},
        "items": [
            {"metadata": {"name": group} if group else {}, "versions": entries} for group, entries in by_group.items()
        ],
    }


def _response_kind(kind: str) -> dict[str, str]:
    # Group and version are empty if they are those of the list.
    return {"group": "", "version": "", "kind": kind}


def _aggregated_entry(kind: AnyKind, singular: str, verbs: Sequence[str]) -> dict[str, object]:
    return {
        "resource": kind.plural,
        "responseKind": _response_kind(kind.kind),
        "scope": "Namespaced" if kind.namespaced else "Cluster",
        "singularResource": singular,
        "verbs": list(verbs),
    }


def _aggregated_virtual(virtual: AnyVirtualResource) -> dict[str, object]:
    return _aggregated_entry(virtual, virtual.kind.lower(), ("create",))


def _aggregated_resource(resource: AnyResource, virtuals: Sequence[AnyVirtualResource]) -> dict[str, object]:
    entry = _aggregated_entry(resource, resource.singular_name, resource.verbs)
    if resource.short_names:
        entry["shortNames"] = list(resource.short_names)
    subresources = [
        {
            "subresource": subresource.name,
            "responseKind": _response_kind(resource.kind),
            "verbs": list(subresource.verbs),
        }
        for subresource in resource.subresources
    ]
    for virtual in virtuals:
        if virtual.parent is not None and virtual.parent.plural == resource.plural:
            kind = {"group": virtual.group, "version": virtual.version, "kind": virtual.kind}
            subresources.append({"subresource": virtual.plural, "responseKind": kind, "verbs": ["create"]})
    if subresources:
        entry["subresources"] = sorted(subresources, key=lambda subresource: str(subresource["subresource"]))
    return entry


# --- version ------------------------------------------------------------------------------------------------------


def version_information() -> dict[str, str]:
    """The document at /version. Clients read major, minor and gitVersion, which has our own version as a suffix."""
    major, minor = _MINOR_VERSION.split(".")
    return {
        "major": major,
        "minor": minor,
        "emulationMajor": major,
        "emulationMinor": minor,
        "minCompatibilityMajor": major,
        "minCompatibilityMinor": str(int(minor) - 1),
        "gitVersion": f"v{certplane.API_VERSION}+certplane.{certplane.__version__}",
        "gitCommit": "",
        "gitTreeState": "archive",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": f"{platform.python_implementation()} {platform.python_version()}",
        "platform": f"{sys.platform}/{platform.machine()}",
    }
