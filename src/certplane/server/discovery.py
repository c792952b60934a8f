"""What the server has, as documents: /api, /apis and below, /version, /openapi, and the list of paths at /.

All of it follows from the declarations of the kinds. Discovery is made when the server starts, because it is small;
the OpenAPI documents are made when somebody first asks for one, because most servers are never asked right after they
start. Nothing here changes while the server runs, so each document has one hash for life.

Sources: `k8s.io/apiserver/pkg/endpoints/discovery` and `.../discovery/aggregated`; `k8s.io/kube-openapi/pkg/handler`
and `handler3` (paths, hashes, headers); the order of groups is the one of `pkg/controlplane/apiserver/aggregator.go`.
"""

from __future__ import annotations

import dataclasses
import datetime
import email.utils
import functools
import json
import platform
import re
import sys
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import certplane
from certplane import clock as clocks
from certplane import errors
from certplane.meta import codec, goyaml, openapi_v2, protobuf, resource, schema
from certplane.server import exchange, negotiation

#: The Kubernetes version whose API this is. Clients compare it with their own.
API_VERSION: Final = "1.36.2"
_MINOR_VERSION: Final = API_VERSION.rpartition(".")[0]

_JSON: Final = "application/json"
_TEXT: Final = "text/plain; charset=utf-8"
_AGGREGATED: Final = "APIGroupDiscoveryList"
_AGGREGATED_GROUP: Final = "apidiscovery.k8s.io"
#: v2beta1 is gone since Kubernetes 1.35: clients that ask for nothing newer get the plain documents.
_AGGREGATED_VERSIONS: Final = ("v2",)
#: How clients ask for the binary form of OpenAPI 2, and what it is called in the answer.
_BINARY_V2: Final = (
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
    """An answer. An empty content type means that the answer has none, and no body."""

    status: int
    content_type: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()

    def for_(self, asked: exchange.Headers) -> Document:
        """The answer to a request with conditions: itself, or that it is still the same.

        As Go's `http.ServeContent` does, RFC 9110 section 13: tags are compared weakly and count for more than times.
        """
        if self.status != 200:
            return self
        known = dict(self.headers)
        tags = asked.get(b"if-none-match")
        if tags:
            # No tag of our own is like any tag, too.
            offered = [tag.strip().removeprefix("W/") for tag in tags.split(",")]
            same = "*" in offered or known.get("Etag", "") in offered
        else:
            same = _is_since(known.get("Last-Modified", ""), asked.get(b"if-modified-since"))
        if not same:
            return self
        kept = [each for each in self.headers if each[0] != "Last-Modified" or "Etag" not in known]
        return Document(304, "", b"", tuple(kept))


@dataclasses.dataclass(frozen=True, slots=True)
class _GroupVersion:
    """What one version of a group has."""

    group: str
    version: str
    resources: tuple[resource.Resource, ...]
    actions: tuple[resource.Action, ...]

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def path(self) -> str:
        return f"/apis/{self.api_version}" if self.group else f"/api/{self.version}"


@dataclasses.dataclass(frozen=True, slots=True)
class _Hashed:
    """A finished document and the hash of its content."""

    body: bytes
    hash: str

    @property
    def etag(self) -> str:
        return f'"{self.hash}"'


class Discovery:
    """The documents of one server.

    `resources` and `actions` are the catalogue. `server_address` is the host and port under which clients reach the
    server. The clock dates the OpenAPI documents. `others` are finished documents by path, such as an issuer's keys.
    """

    def __init__(
        self,
        resources: Sequence[resource.Resource],
        actions: Sequence[resource.Action],
        *,
        server_address: str,
        clock: clocks.Clock,
        others: Mapping[str, Document] = types.MappingProxyType({}),
    ) -> None:
        self._clock = clock
        self._others = others
        self._modified = email.utils.format_datetime(clock.now(), usegmt=True)
        self._versions = _group_versions(resources, actions)
        self._plain = _plain_documents(self._versions, server_address)
        self._encoded: dict[tuple[str, negotiation.Form], bytes] = {}
        self._aggregated_documents = {
            "/api": _tagged(_aggregated([each for each in self._versions if not each.group])),
            "/apis": _tagged(_aggregated([each for each in self._versions if each.group])),
        }
        self._unrouted = {"/apis", *(f"/apis/{each.group}" for each in self._versions if each.group)}

    def answer(self, of: exchange.Exchange) -> Document | None:
        """The answer to a request; None if the path is none of ours.

        Documents that are older than routes do not look at the method. Raises MethodNotAllowed, NotAcceptable, and
        NoSuchPath for what would be in a group that there is.
        """
        if of.path == "/":
            return self._root()
        if of.path.startswith("/openapi/"):
            return self._openapi(of)
        path = of.path.removesuffix("/")
        if path not in self._unrouted:
            if not self._is_routed(path):
                return None
            if of.method != "GET":
                raise errors.MethodNotAllowed
            negotiation.check_route(of.headers.get(b"accept"), self._offered(path))
        if path == "/version":
            return Document(200, _JSON, _indented(version_information()))
        if path in self._others:
            return self._others[path]
        # With a slash behind it, the root of the groups does not know of the aggregated form.
        form = _aggregated_form(of.headers.get(b"accept")) if path == "/api" or of.path == "/apis" else None
        return self._discover(path, of) if form is None else self._aggregate(path, form, of)

    def _is_routed(self, path: str) -> bool:
        """Whether a route leads here. Raises NoSuchPath if one leads past: to another version of a group."""
        if path in self._plain or path in self._others or path == "/version":
            return True
        root, _, rest = path.removeprefix("/").partition("/")
        if rest and (root == "api" or (root == "apis" and f"/apis/{rest.partition('/')[0]}" in self._plain)):
            raise errors.NoSuchPath
        return False

    def _offered(self, path: str) -> str:
        if path in self._others:
            return self._others[path].content_type
        return _JSON if path == "/version" else negotiation.LISTED

    def _root(self) -> Document:
        paths = sorted({*_OTHER_PATHS, *self._plain, *self._others, "/apis/"})
        return Document(200, _JSON, _indented({"paths": paths}))

    # --- discovery ------------------------------------------------------------------------------------------------

    def _discover(self, path: str, of: exchange.Exchange) -> Document:
        form = negotiation.negotiate(of.headers.get(b"accept"), negotiation.NO_TRANSFORMS)
        if of.wants_pretty:
            form = dataclasses.replace(form, pretty=True)
        body = self._encoded.get((path, form))
        if body is None:
            body = self._encoded[path, form] = _encode(self._plain[path], form)
        return Document(200, form.media_type, body)

    def _aggregate(self, path: str, form: negotiation.Form, of: exchange.Exchange) -> Document:
        document, etag = self._aggregated_documents[path]
        headers = (("Cache-Control", "public"), ("Etag", etag), ("Vary", "Accept"))
        # Here the real server compares the whole field.
        if of.headers.get(b"if-none-match") == etag:
            return Document(304, "", b"", headers)
        if of.wants_pretty:
            form = dataclasses.replace(form, pretty=True)
        body = self._encoded.get((path, form))
        if body is None:
            body = self._encoded[path, form] = _encode(document, form)
        parameters = f";g={_AGGREGATED_GROUP};v={form.meta_version};as={_AGGREGATED}"
        return Document(200, form.media_type + parameters, body, headers)

    # --- OpenAPI --------------------------------------------------------------------------------------------------

    @functools.cached_property
    def _v3_documents(self) -> dict[str, schema.Document]:
        documents = schema.of_roots(_MINOR_VERSION)
        for each in self._versions:
            if each.group:
                documents[f"apis/{each.group}"] = schema.of_group(each.group, _MINOR_VERSION)
            documents[each.path[1:]] = schema.of_group_version(each.resources, each.actions, _MINOR_VERSION)
        return documents

    @functools.cached_property
    def _v3_bodies(self) -> dict[str, _Hashed]:
        return {path: _hashed(document) for path, document in self._v3_documents.items()}

    @functools.cached_property
    def _v3_index(self) -> bytes:
        paths = {path: {"serverRelativeURL": _v3_url(path, found)} for path, found in sorted(self._v3_bodies.items())}
        return codec.encode({"paths": paths})

    @functools.cached_property
    def _v2_document(self) -> schema.Document:
        return openapi_v2.merge(self._v3_documents.values())

    @functools.cached_property
    def _v2_json(self) -> _Hashed:
        return _hashed(self._v2_document)

    @functools.cached_property
    def _v2_binary(self) -> _Hashed:
        body = openapi_v2.encode(self._v2_document)
        return _Hashed(body, schema.digest(body))

    def _openapi(self, of: exchange.Exchange) -> Document | None:
        accept = of.headers.get(b"accept")
        if of.path == "/openapi/v2":
            return self._v2(accept).for_(of.headers)
        if of.path == "/openapi/v3":
            return Document(200, _TEXT, self._v3_index, (("Last-Modified", self._modified),)).for_(of.headers)
        if of.path.startswith("/openapi/v3/"):
            return self._v3(of.path.removeprefix("/openapi/v3/"), accept, of.parameter("hash")).for_(of.headers)
        return None

    def _v3(self, path: str, accept: str, asked: str) -> Document:
        found = self._v3_bodies.get(path)
        if found is None:
            return Document(404, "", b"")
        vary = ("Vary", "Accept")
        if not _accepts(accept, (_JSON,)):
            return Document(406, "", b"", (vary,))
        headers: tuple[tuple[str, str], ...] = (("Etag", found.etag), vary)
        if asked and asked != found.hash:
            return Document(301, _JSON, b"", (*headers, ("Location", _v3_url(path, found))))
        headers = (*headers, ("Last-Modified", self._modified))
        if asked:
            expires = email.utils.format_datetime(self._clock.now() + _YEAR, usegmt=True)
            headers = (*headers, ("Cache-Control", "public, immutable"), ("Expires", expires))
        return Document(200, _JSON, found.body, headers)

    def _v2(self, accept: str) -> Document:
        vary = (("Vary", "Accept-Encoding"), ("Vary", "Accept"))
        chosen = _accepts(accept, (_JSON, *_BINARY_V2))
        if not chosen:
            return Document(406, "", b"", vary)
        found = self._v2_json if chosen == _JSON else self._v2_binary
        headers = (("Etag", found.etag), ("Last-Modified", self._modified), *vary)
        return Document(200, _JSON if chosen == _JSON else _BINARY_V2[-1], found.body, headers)


def _v3_url(path: str, found: _Hashed) -> str:
    return f"/openapi/v3/{path}?hash={found.hash}"


def _hashed(document: Mapping[str, Any]) -> _Hashed:
    body = codec.encode(document)
    return _Hashed(body, schema.digest(body))


def _tagged(document: Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
    return document, f'"{schema.digest(codec.encode(document))}"'


def _encode(document: Mapping[str, Any], form: negotiation.Form) -> bytes:
    if form.media_type == negotiation.PROTOBUF:
        return protobuf.encode_document(document)
    if form.media_type == negotiation.YAML:
        return goyaml.dump(document).encode("utf-8")
    return _indented(document) if form.pretty else codec.encode(document) + b"\n"


def _indented(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, indent=2).encode("ascii")


def _is_since(modified: str, moment: str) -> bool:
    """Whether what was last modified then is no newer than a date that a client sent. Both may be empty or nonsense."""
    try:
        return email.utils.parsedate_to_datetime(modified) <= email.utils.parsedate_to_datetime(moment)
    except (TypeError, ValueError):
        return False


# --- what clients accept ------------------------------------------------------------------------------------------


def _aggregated_form(accept: str) -> negotiation.Form | None:
    """The form of aggregated discovery that is asked for, be it after plain ones; None if it is not."""
    for clause in negotiation.clauses(accept):
        parameters = dict(clause.parameters)
        version = parameters.get("v", "")
        if (parameters.get("as"), parameters.get("g")) != (_AGGREGATED, _AGGREGATED_GROUP):
            continue
        for media_type in negotiation.ACCEPTED:
            if clause.takes(media_type) and version in _AGGREGATED_VERSIONS:
                return negotiation.Form(media_type, _AGGREGATED, version)
    return None


def _accepts(accept: str, offered: Sequence[str]) -> str:
    """The first of the offered media types that is wanted most; empty if none is."""
    for clause in negotiation.clauses(accept or "*/*"):
        for each in offered:
            if clause.takes(each):
                return each
    return ""


# --- the catalogue, in order --------------------------------------------------------------------------------------


def _group_versions(
    resources: Iterable[resource.Resource], actions: Iterable[resource.Action]
) -> tuple[_GroupVersion, ...]:
    found: dict[tuple[str, str], tuple[list[resource.Resource], list[resource.Action]]] = {}
    for each in resources:
        found.setdefault((each.group, each.version), ([], []))[0].append(each)
    for action in actions:
        group, version, _, _ = action.path
        found.setdefault((group, version), ([], []))[1].append(action)
    return tuple(
        _GroupVersion(
            group,
            version,
            tuple(sorted(served, key=_by_plural)),
            tuple(sorted(done, key=_by_plural)),
        )
        for (group, version), (served, done) in sorted(found.items(), key=lambda each: _rank(*each[0]))
    )


def _by_plural(of: resource.Resource | resource.Action) -> str:
    return of.plural


def _rank(group: str, version: str) -> tuple[int, str, tuple[int, int, int]]:
    place = _GROUP_ORDER.index(group) if group in _GROUP_ORDER else len(_GROUP_ORDER)
    return place, group, _version_rank(version)


def _version_rank(version: str) -> tuple[int, int, int]:
    """Stable before beta before alpha, then the higher number first."""
    match = re.fullmatch(r"v([0-9]+)(?:(alpha|beta)([0-9]+))?", version)
    if match is None:
        return 3, 0, 0
    stage = {None: 0, "beta": 1, "alpha": 2}[match[2]]
    return stage, -int(match[1]), -int(match[3] or 0)


# --- plain discovery ----------------------------------------------------------------------------------------------


def _plain_documents(versions: Sequence[_GroupVersion], server_address: str) -> dict[str, dict[str, Any]]:
    """The plain documents by path. What is about the core group has no apiVersion: it is older than that field."""
    groups = _groups(versions)
    documents: dict[str, dict[str, Any]] = {
        "/api": {
            "kind": "APIVersions",
            "versions": [each.version for each in versions if not each.group],
            "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": server_address}],
        },
        "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups},
    }
    for group in groups:
        documents[f"/apis/{group['name']}"] = {"kind": "APIGroup", "apiVersion": "v1", **group}
    for each in versions:
        head = {"kind": "APIResourceList", "apiVersion": "v1"} if each.group else {"kind": "APIResourceList"}
        documents[each.path] = {**head, "groupVersion": each.api_version, "resources": _resources(each)}
    return documents


def _groups(versions: Sequence[_GroupVersion]) -> list[dict[str, Any]]:
    found: dict[str, list[dict[str, str]]] = {}
    for each in versions:
        if each.group:
            found.setdefault(each.group, []).append({"groupVersion": each.api_version, "version": each.version})
    return [{"name": name, "versions": each, "preferredVersion": each[0]} for name, each in found.items()]


def _resources(of: _GroupVersion) -> list[dict[str, Any]]:
    found = [each for kind in of.resources for each in _resource_entries(kind)]
    found.extend(map(_action_entry, of.actions))
    return sorted(found, key=lambda each: str(each["name"]))


def _entry(name: str, singular: str, namespaced: bool, kind: str, verbs: Sequence[str]) -> dict[str, Any]:
    return {"name": name, "singularName": singular, "namespaced": namespaced, "kind": kind, "verbs": list(verbs)}


def _action_entry(of: resource.Action) -> dict[str, Any]:
    if of.parent is None:
        return _entry(of.plural, of.kind.lower(), of.namespaced, of.kind, ("create",))
    entry = _entry(f"{of.parent.plural}/{of.plural}", "", of.namespaced, of.kind, ("create",))
    # Named where they are not those of the list.
    return {**entry, "group": of.group, "version": of.version}


def _resource_entries(of: resource.Resource) -> Iterable[dict[str, Any]]:
    entry = _entry(of.plural, of.singular_name, of.namespaced, of.kind, of.verbs)
    if of.short_names:
        entry["shortNames"] = list(of.short_names)
    if of.categories:
        entry["categories"] = list(of.categories)
    entry["storageVersionHash"] = of.storage_version_hash
    yield entry
    for door in of.subresources:
        yield _entry(f"{of.plural}/{door.name}", "", of.namespaced, of.kind, door.verbs)


# --- aggregated discovery -----------------------------------------------------------------------------------------


def _aggregated(versions: Sequence[_GroupVersion]) -> dict[str, Any]:
    """Everything about some groups in one document, of kind APIGroupDiscoveryList."""
    items: dict[str, list[dict[str, Any]]] = {}
    for each in versions:
        alone = [action for action in each.actions if action.parent is None]
        entries = [_aggregated_resource(kind, each.actions) for kind in each.resources]
        entries += map(_aggregated_action, alone)
        entries.sort(key=lambda entry: str(entry["resource"]))
        items.setdefault(each.group, []).append({"version": each.version, "resources": entries, "freshness": "Current"})
    return {
        "kind": _AGGREGATED,
        "apiVersion": f"{_AGGREGATED_GROUP}/{_AGGREGATED_VERSIONS[-1]}",
        "metadata": {},
        "items": [
            {"metadata": {"name": group} if group else {}, "versions": entries} for group, entries in items.items()
        ],
    }


def _response_kind(kind: str) -> dict[str, str]:
    # Group and version are empty where they are those of the list.
    return {"group": "", "version": "", "kind": kind}


def _aggregated_entry(of: resource.Resource | resource.Action, singular: str, verbs: Sequence[str]) -> dict[str, Any]:
    return {
        "resource": of.plural,
        "responseKind": _response_kind(of.kind),
        "scope": "Namespaced" if of.namespaced else "Cluster",
        "singularResource": singular,
        "verbs": list(verbs),
    }


def _aggregated_action(of: resource.Action) -> dict[str, Any]:
    return _aggregated_entry(of, of.kind.lower(), ("create",))


def _aggregated_resource(of: resource.Resource, actions: Sequence[resource.Action]) -> dict[str, Any]:
    entry = _aggregated_entry(of, of.singular_name, of.verbs)
    if of.short_names:
        entry["shortNames"] = list(of.short_names)
    if of.categories:
        entry["categories"] = list(of.categories)
    below = [
        {"subresource": door.name, "responseKind": _response_kind(of.kind), "verbs": list(door.verbs)}
        for door in of.subresources
    ]
    for each in actions:
        if each.parent is not None and each.parent.plural == of.plural:
            kind = {"group": each.group, "version": each.version, "kind": each.kind}
            below.append({"subresource": each.plural, "responseKind": kind, "verbs": ["create"]})
    if below:
        entry["subresources"] = sorted(below, key=lambda each: str(each["subresource"]))
    return entry


# --- version ------------------------------------------------------------------------------------------------------


def version_information() -> dict[str, str]:
    """The document at /version. Clients read major, minor and gitVersion; our own version is behind the plus sign."""
    major, minor = _MINOR_VERSION.split(".")
    return {
        "major": major,
        "minor": minor,
        "emulationMajor": major,
        "emulationMinor": minor,
        "minCompatibilityMajor": major,
        "minCompatibilityMinor": str(int(minor) - 1),
        "gitVersion": f"v{API_VERSION}+certplane.{certplane.__version__}",
        "gitCommit": "",
        "gitTreeState": "archive",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": f"{platform.python_implementation()} {platform.python_version()}",
        "platform": f"{sys.platform}/{platform.machine()}",
    }
