"""Generates the OpenAPI 3 documents from the declarations of the kinds and the types of their objects.

There is one document for each group version, and a small one for each index path. They contain what `kubectl explain`,
client-side validation and `kubectl apply` use: descriptions, required fields, list types, patch strategies, and
`x-kubernetes-group-version-kind` on kinds and operations. Parameters that all operations of a path share are defined at
the path.

Model: the documents that kube-apiserver 1.36 serves below /openapi/v3. Ours are equivalent, with descriptions of our
own.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from certplane.meta import objects, responses, shapes
from certplane.meta.objects import Type
from certplane.meta.resource import AnyKind, AnyResource, AnyVirtualResource
from certplane.meta.shapes import Field, Shape
from certplane.wire import protobuf

Document = dict[str, Any]

_REF: Final = "#/components/schemas/"
_META: Final = "io.k8s.apimachinery.pkg.apis.meta.v1"
_QUANTITY: Final = "io.k8s.apimachinery.pkg.api.resource.Quantity"
_VERSION_INFO: Final = "io.k8s.apimachinery.pkg.version.Info"

_MEDIA_TYPES: Final = ("application/json", "application/vnd.kubernetes.protobuf", "application/yaml")
_STREAM_MEDIA_TYPES: Final = ("application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch")
PATCHES: Final = (
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
)
_STATUS_TEXTS: Final = {"200": "OK", "201": "Created", "202": "Accepted"}

#: Types without fields.
_OPAQUE: Final[Mapping[str, Document]] = {
    f"{_META}.Time": {
        "description": "A time in RFC 3339 format, in UTC: 2026-01-02T15:04:05Z.",
        "type": "string",
        "format": "date-time",
    },
    f"{_META}.MicroTime": {
        "description": "A time in RFC 3339 format with microseconds, in UTC: 2026-01-02T15:04:05.000000Z.",
        "type": "string",
        "format": "date-time",
    },
    _QUANTITY: {
        "description": "A number with a unit: 500m, 2, 1Gi. The units are n, u, m, k, M, G, T, P, E for powers of ten, "
        "Ki, Mi, Gi, Ti, Pi, Ei for powers of 1024; a decimal exponent (1e3) is also valid.",
        "oneOf": [{"type": "string"}, {"type": "number"}],
    },
    f"{_META}.Patch": {"description": "A patch, in the format of the Content-Type.", "type": "object"},
    f"{_META}.FieldsV1": {
        "description": 'A set of fields as a tree: "f:name" is a field, "k:{...}" and "v:..." are list items, "." is '
        "the field itself.",
        "type": "object",
    },
    "io.k8s.apimachinery.pkg.runtime.RawExtension": {"description": "Any object.", "type": "object"},
    _VERSION_INFO: {
        "description": "Info is the version of the API and of the server.",
        "type": "object",
        "required": [
            "major",
            "minor",
            "gitVersion",
            "gitCommit",
            "gitTreeState",
            "buildDate",
            "goVersion",
            "compiler",
            "platform",
        ],
        "properties": {
            name: {"type": "string", "description": description, **({"default": ""} if default else {})}
            for name, description, default in (
                ("major", "Major version of the API.", True),
                ("minor", "Minor version of the API.", True),
                ("emulationMajor", "Major version that the server emulates.", False),
                ("emulationMinor", "Minor version that the server emulates.", False),
                ("minCompatibilityMajor", "Minimum compatible major version.", False),
                ("minCompatibilityMinor", "Minimum compatible minor version.", False),
                ("gitVersion", "Full version of the API, a plus sign, and the version of the server.", True),
                ("gitCommit", "Git commit of the source, if known.", True),
                ("gitTreeState", "State of the source: clean, dirty or archive.", True),
                ("buildDate", "When the server was built.", True),
                ("goVersion", "Version of Go; empty for servers not written in Go.", True),
                ("compiler", "Implementation of the language that runs the server.", True),
                ("platform", "Operating system and architecture of the server.", True),
            )
        },
    },
}


def digest(data: bytes) -> str:
    """The hash of a document in URLs and ETags."""
    return hashlib.sha512(data).hexdigest().upper()


# --- types --------------------------------------------------------------------------------------------------------


class _Schemas:
    """Collects the schemas of one document: the requested ones, and those that they refer to."""

    def __init__(self, group: str, version: str) -> None:
        self._group = group
        self._version = version
        self._api_version = f"{group}/{version}" if group else version
        self.schemas: dict[str, Document] = {}

    def ref(self, struct: type[msgspec.Struct], kinds: Iterable[Document] = ()) -> Document:
        """Add the schema of a type, and return a reference to it. `kinds` are its group version kinds."""
        name = self._name(struct.__name__)
        if not kinds and struct.__name__ in responses.BY_KIND:
            kinds = [_common(struct.__name__)]
        if name not in self.schemas:
            self.schemas[name] = {}  # stops the recursion if a type contains itself
            self.schemas[name] = self._struct(struct, list(kinds))
        return {"$ref": _REF + name}

    def opaque(self, name: str) -> Document:
        self.schemas[name] = dict(_OPAQUE[name])
        return {"$ref": _REF + name}

    def kind(self, type_: type[Type], kind: str) -> Document:
        return self.ref(type_, [self.gvk(kind)])

    def list_of(self, type_: type[Type], kind: str, list_kind: str) -> Document:
        """Add the schema of a list, for which there is no Struct, and return a reference to it."""
        name = self._name(list_kind)
        self.schemas[name] = {
            "description": f"{list_kind} is a list of objects of kind {kind}.",
            "type": "object",
            "required": ["items"],
            "properties": {
                "apiVersion": {"description": "API group and version of the list.", "type": "string"},
                "items": {"description": "The objects.", "type": "array", "items": self.kind(type_, kind)},
                "kind": {"description": f"{list_kind}.", "type": "string"},
                "metadata": {
                    "description": "Metadata of the list.",
                    "default": {},
                    "allOf": [self.ref(responses.ListMeta)],
                },
            },
            "x-kubernetes-group-version-kind": [self.gvk(list_kind)],
        }
        return {"$ref": _REF + name}

    def shared(self, type_: type[Type], *, in_group: bool = False) -> Document:
        """Add a type that all groups share, and return a reference; with `in_group`, also as a kind of this group."""
        kind = type_.__name__
        kinds = [_common(kind)]
        if in_group and self._group:
            kinds.append(self.gvk(kind))
        return self.ref(type_, kinds)

    def gvk(self, kind: str) -> Document:
        return {"group": self._group, "kind": kind, "version": self._version}

    def _name(self, name: str) -> str:
        return _openapi_name(protobuf.message_name(name, self._api_version))

    def _struct(self, struct: type[msgspec.Struct], kinds: list[Document]) -> Document:
        fields = shapes.shape_of(struct).fields.values()
        schema: Document = {"description": " ".join((struct.__doc__ or "").split()), "type": "object"}
        required = [field.name for field in fields if field.required]
        if required:
            schema["required"] = required
        if fields:
            schema["properties"] = {field.name: self._field(struct, field) for field in fields}
        if getattr(struct, "atomic", False):
            schema["x-kubernetes-map-type"] = "atomic"
        if kinds:
            schema["x-kubernetes-group-version-kind"] = kinds
        return schema

    def _field(self, struct: type[msgspec.Struct], field: Field) -> Document:
        schema: Document = {"description": field.description}
        kind = field.shape.kind
        if kind in ("struct", "time", "microtime", "raw"):
            if kind == "struct" and not field.nullable:
                schema["default"] = {}
            schema["allOf"] = [self._reference(struct, field)]
        else:
            schema |= self._value(field.shape)
            if kind in _ZERO and not (field.nullable or field.omitempty):
                schema["default"] = _ZERO[kind]
        if field.enum:
            target = schema["items"] if kind == "list" else schema
            target["enum"] = sorted(field.enum)
        return schema | _extensions(field)

    def _reference(self, struct: type[msgspec.Struct], field: Field) -> Document:
        if field.shape.struct is not None:
            return self.ref(field.shape.struct)
        message = protobuf.field_message(struct.__name__, self._api_version, field.name)
        return self.opaque(_openapi_name(message))

    def _value(self, shape: Shape) -> Document:
        if shape.struct is not None:
            return self.ref(shape.struct)
        if shape.kind == "quantity":
            return self.opaque(_QUANTITY)
        if shape.element is not None:
            element = self._value(shape.element)
            if shape.kind == "list":
                return {"type": "array", "items": element}
            return {"type": "object", "additionalProperties": element}
        type_ = "string" if shape.kind == "bytes" else shape.kind
        return {"type": type_, "format": shape.format} if shape.format else {"type": type_}


def _common(kind: str) -> Document:
    """The group version kind of a type that all groups share."""
    return {"group": "", "kind": kind, "version": "v1"}


#: The defaults of fields that are always written, for the kinds of values that have a default in the documents.
_ZERO: Final[Mapping[str, object]] = {"string": "", "boolean": False, "integer": 0}


def _openapi_name(message: str) -> str:
    return "io.k8s" + message.removeprefix("k8s.io")


def _extensions(field: Field) -> Document:
    extensions: Document = {}
    if field.keys:
        extensions["x-kubernetes-list-map-keys"] = list(field.keys)
    if field.list_type:
        extensions["x-kubernetes-list-type"] = field.list_type
    if field.patch_merge_key:
        extensions["x-kubernetes-patch-merge-key"] = field.patch_merge_key
    if field.patch_strategy:
        extensions["x-kubernetes-patch-strategy"] = field.patch_strategy
    return extensions


# --- parameters ---------------------------------------------------------------------------------------------------

_PARAMETERS: Final[Mapping[str, tuple[str, str]]] = {
    "allowWatchBookmarks": ("boolean", "Whether a watch may send BOOKMARK events, which have only a resourceVersion."),
    "continue": ("string", "Token from the previous page of a list. Requests the next page."),
    "dryRun": ("string", "All: process the request without storing the result."),
    "fieldManager": ("string", "Name of the manager that owns the changed fields, at most 128 printable characters."),
    "fieldSelector": ("string", "Selects objects by their fields."),
    "fieldValidation": (
        "string",
        "Handling of unknown or duplicate fields: Ignore, Warn (by a Warning header; the default) or Strict (fail).",
    ),
    "force": ("boolean", "Take over fields of other managers instead of failing. For apply patches only."),
    "gracePeriodSeconds": ("integer", "Seconds for a graceful termination of the object."),
    "ignoreStoreReadErrorWithClusterBreakingPotential": ("boolean", "Not used by this server."),
    "labelSelector": ("string", "Selects objects by their labels."),
    "limit": ("integer", "Maximum number of objects in a page of a list."),
    "name": ("string", "Name of the object."),
    "namespace": ("string", "Namespace of the object."),
    "orphanDependents": ("boolean", "Deprecated: use propagationPolicy."),
    "pretty": ("string", "true: indent the response."),
    "propagationPolicy": ("string", "Orphan, Background or Foreground: how dependents are deleted."),
    "resourceVersion": ("string", "Version of the store at which a list is read, or from which a watch starts."),
    "resourceVersionMatch": ("string", "Exact or NotOlderThan: how resourceVersion is applied."),
    "sendInitialEvents": ("boolean", "Whether a watch starts with ADDED events for all existing objects."),
    "shardSelector": ("string", "Not used by this server."),
    "timeoutSeconds": ("integer", "Seconds after which the server ends the request."),
    "watch": ("boolean", "Send changes as they happen instead of a list."),
}
_PATH_PARAMETERS: Final = frozenset({"name", "namespace"})

_LIST: Final = frozenset(
    {
        "allowWatchBookmarks", "continue", "fieldSelector", "labelSelector", "limit", "resourceVersion",
        "resourceVersionMatch", "sendInitialEvents", "shardSelector", "timeoutSeconds", "watch",
    }
)  # fmt: skip
_WRITE: Final = frozenset({"dryRun", "fieldManager", "fieldValidation"})
_DELETE: Final = frozenset(
    {
        "dryRun", "gracePeriodSeconds", "ignoreStoreReadErrorWithClusterBreakingPotential", "orphanDependents",
        "propagationPolicy",
    }
)  # fmt: skip
_NONE: Final[frozenset[str]] = frozenset()


def _parameter(name: str) -> Document:
    type_, description = _PARAMETERS[name]
    parameter: Document = {"name": name, "in": "query", "description": description}
    if name in _PATH_PARAMETERS:
        parameter |= {"in": "path", "required": True}
    return parameter | {"schema": {"type": type_, "uniqueItems": True}}


def _parameters(names: Iterable[str]) -> list[Document]:
    return [_parameter(name) for name in sorted(names)]


# --- operations ---------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class _Verb:
    """The operation of a verb: its HTTP method, x-kubernetes-action, the prefix of its id, and its description. `noun`
    comes before the kind in the id.
    """

    method: str
    action: str
    id_prefix: str
    description: str
    parameters: frozenset[str]
    codes: tuple[str, ...]
    noun: str = ""


_VERBS: Final[Mapping[str, _Verb]] = {
    "list": _Verb("get", "list", "list", "List or watch objects of kind {}.", _LIST, ("200",)),
    "create": _Verb("post", "post", "create", "Create a {}.", _WRITE, ("200", "201", "202")),
    "deletecollection": _Verb(
        "delete", "deletecollection", "delete", "Delete all selected objects of kind {}.",
        _LIST - {"allowWatchBookmarks", "watch"} | _DELETE, ("200",), "Collection",
    ),
    "get": _Verb("get", "get", "read", "Read the {{}}{}.", _NONE, ("200",)),
    "update": _Verb("put", "put", "replace", "Replace the {{}}{}.", _WRITE, ("200", "201")),
    "delete": _Verb("delete", "delete", "delete", "Delete the {{}}{}.", _DELETE, ("200", "202")),
    "patch": _Verb("patch", "patch", "patch", "Change some fields of the {{}}{}.", _WRITE | {"force"}, ("200", "201")),
}  # fmt: skip
_COLLECTION: Final = ("list", "create", "deletecollection")
_ITEM: Final = ("get", "update", "delete", "patch")


@dataclasses.dataclass(frozen=True, slots=True)
class _Subject:
    """The kind that operations are about: the schemas of its objects and lists, and the parts of their ids.

    `noun` is the kind in the id, and `gvk` the group version kind of the operation, if they differ from the kind's.
    `return_deleted_object`: a deletion returns the object.
    """

    kind: str
    schema: Document
    list_schema: Document
    scope: str = ""
    subresource: str = ""
    noun: str = ""
    gvk: Document | None = None
    return_deleted_object: bool = False


class _Builder:
    """Builds the document of a group version."""

    def __init__(self, group: str, version: str) -> None:
        self.schemas = _Schemas(group, version)
        self._version = version
        self._group = group
        words = (group or "core").removesuffix(".k8s.io").split(".")
        self._id = "".join(word.capitalize() for word in (*words, version))
        self._tag = words[0] + "".join(word.capitalize() for word in words[1:]) + f"_{version}"
        self.base = f"/apis/{group}/{version}" if group else f"/api/{version}"
        self.paths: Document = {}

    def add_index(self) -> None:
        schema = self.schemas.shared(responses.APIResourceList)
        operation = _index_operation(self._tag, f"get{self._id}APIResources", schema)
        self.paths[f"{self.base}/"] = {"get": operation | {"description": "List the resources."}}

    def add_resource(self, resource: AnyResource) -> None:
        schema = self.schemas.kind(resource.type, resource.kind)
        list_schema = self.schemas.list_of(resource.type, resource.kind, resource.list_kind)
        scope = "Namespaced" if resource.namespaced else ""
        subject = _Subject(
            resource.kind, schema, list_schema, scope, return_deleted_object=resource.return_deleted_object
        )
        path = _collection_path(resource)
        self._add(path, subject, [verb for verb in _COLLECTION if verb in resource.verbs])
        self._add(f"{path}/{{name}}", subject, [verb for verb in _ITEM if verb in resource.verbs])
        for subresource in resource.subresources:
            verbs = [verb for verb in _ITEM if verb in subresource.verbs]
            self._add(
                f"{path}/{{name}}/{subresource.name}",
                dataclasses.replace(subject, subresource=subresource.name),
                verbs,
            )
        if resource.namespaced and "list" in resource.verbs:
            self._add(resource.plural, dataclasses.replace(subject, scope=""), ["list"], all_namespaces=True)
        if "watch" in resource.verbs:
            self._add_watches(resource, subject)

    def add_virtual(self, virtual: AnyVirtualResource) -> None:
        if virtual.parent is not None:
            self._add_virtual_subresource(virtual.parent, virtual)
            return
        schema = self.schemas.kind(virtual.type, virtual.kind)
        subject = _Subject(virtual.kind, schema, schema, "Namespaced" if virtual.namespaced else "")
        self._add(_collection_path(virtual), subject, ["create"])

    def _add_virtual_subresource(self, parent: AnyResource, virtual: AnyVirtualResource) -> None:
        gvk = {"group": virtual.group, "kind": virtual.kind, "version": virtual.version}
        schema = self.schemas.ref(virtual.type, [gvk])
        subject = _Subject(virtual.kind, schema, schema, "Namespaced", virtual.plural, parent.kind, gvk)
        self._add(f"{_collection_path(parent)}/{{name}}/{virtual.plural}", subject, ["create"])

    def _add(self, path: str, subject: _Subject, verbs: Sequence[str], *, all_namespaces: bool = False) -> None:
        operations = {_VERBS[verb].method: (verb, self._operation(verb, subject)) for verb in verbs}
        if not operations:
            return
        if all_namespaces:
            operations["get"][1]["operationId"] += "ForAllNamespaces"
        common = frozenset.intersection(*(_VERBS[verb].parameters for verb, _ in operations.values()))
        item: Document = {}
        for method, (verb, operation) in operations.items():
            parameters = _VERBS[verb].parameters - common
            item[method] = operation | ({"parameters": _parameters(parameters)} if parameters else {})
        item["parameters"] = _parameters({"pretty", *common, *_path_parameters(path)})
        self.paths[f"{self.base}/{path}"] = item

    def _operation(self, name: str, subject: _Subject) -> Document:
        verb = _VERBS[name]
        schema = subject.list_schema if name == "list" else subject.schema
        if name == "deletecollection" or (name == "delete" and not subject.return_deleted_object):
            schema = self.schemas.shared(responses.Status)
        suffix = f" through /{subject.subresource}" if subject.subresource else ""
        noun = f"{subject.scope}{subject.noun or subject.kind}{subject.subresource.capitalize()}"
        description = verb.description.format(suffix if "{{" in verb.description else subject.kind)
        operation: Document = {
            "tags": [self._tag],
            "description": description.format(subject.kind),
            "operationId": f"{verb.id_prefix}{self._id}{verb.noun}{noun}",
            "responses": _responses(verb.codes, schema, streams=name == "list"),
            "x-kubernetes-action": verb.action,
            "x-kubernetes-group-version-kind": subject.gvk or self.schemas.gvk(subject.kind),
        }
        body = self._body(verb.method, subject)
        return operation | ({"requestBody": body} if body else {})

    def _body(self, method: str, subject: _Subject) -> Document | None:
        if method == "patch":
            schema = self.schemas.opaque(f"{_META}.Patch")
            return {"content": {media_type: {"schema": schema} for media_type in PATCHES}, "required": True}
        if method in ("post", "put"):
            return {"content": {"*/*": {"schema": subject.schema}}, "required": True}
        if method == "delete":
            return {"content": {"*/*": {"schema": self.schemas.shared(objects.DeleteOptions, in_group=True)}}}
        return None

    def _add_watches(self, resource: AnyResource, subject: _Subject) -> None:
        path = _collection_path(resource)
        self._add_watch(path, subject, f"{subject.scope}{resource.kind}List", "watchlist")
        self._add_watch(f"{path}/{{name}}", subject, f"{subject.scope}{resource.kind}", "watch")
        if resource.namespaced:
            self._add_watch(resource.plural, subject, f"{resource.kind}ListForAllNamespaces", "watchlist")

    def _add_watch(self, path: str, subject: _Subject, name: str, action: str) -> None:
        schema = self.schemas.shared(responses.WatchEvent, in_group=True)
        operation = {
            "tags": [self._tag],
            "description": f"Watch {subject.kind}. Deprecated: use the watch parameter of a list.",
            "operationId": f"watch{self._id}{name}",
            "responses": _responses(("200",), schema, streams=True),
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": self.schemas.gvk(subject.kind),
        }
        parameters = _parameters({"pretty", *_LIST, *_path_parameters(path)})
        self.paths[f"{self.base}/watch/{path}"] = {"get": operation, "parameters": parameters}


def _collection_path(kind: AnyKind) -> str:
    return f"namespaces/{{namespace}}/{kind.plural}" if kind.namespaced else kind.plural


def _path_parameters(path: str) -> list[str]:
    return [name for name in _PATH_PARAMETERS if f"{{{name}}}" in path]


def _responses(codes: Iterable[str], schema: Document, *, streams: bool = False) -> Document:
    media_types = (*_MEDIA_TYPES, *_STREAM_MEDIA_TYPES) if streams else _MEDIA_TYPES
    content = {media_type: {"schema": schema} for media_type in media_types}
    by_code: Document = {code: {"description": _STATUS_TEXTS[code], "content": content} for code in codes}
    return by_code | {"401": {"description": "Unauthorized"}}


def _index_operation(tag: str, name: str, schema: Document) -> Document:
    return {"tags": [tag], "operationId": name, "responses": _responses(("200",), schema)}


# --- documents ----------------------------------------------------------------------------------------------------


def _document(schemas: _Schemas, paths: Document, version: str) -> Document:
    return {
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": version},
        "paths": paths,
        "components": {
            "schemas": dict(sorted(schemas.schemas.items())),
            "securitySchemes": {
                "BearerToken": {
                    "type": "apiKey",
                    "description": "A bearer token.",
                    "name": "authorization",
                    "in": "header",
                }
            },
        },
    }


def group_version_document(
    resources: Sequence[AnyResource], virtuals: Sequence[AnyVirtualResource], version: str
) -> Document:
    """The document of one group version, which must have a kind. `version` is that of the API (`1.36`)."""
    group, group_version, _, _ = (
        virtuals[0].path if not resources else (resources[0].group, resources[0].version, "", "")
    )
    builder = _Builder(group, group_version)
    builder.add_index()
    for resource in resources:
        builder.add_resource(resource)
    for virtual in virtuals:
        builder.add_virtual(virtual)
    return _document(builder.schemas, dict(sorted(builder.paths.items())), version)


def group_document(group: str, version: str) -> Document:
    """The document of the path that lists the versions of a group."""
    words = group.removesuffix(".k8s.io").split(".")
    tag = words[0] + "".join(word.capitalize() for word in words[1:])
    name = f"get{''.join(word.capitalize() for word in words)}APIGroup"
    return _index_document(
        f"/apis/{group}/", (tag, name, "List the versions of the group."), responses.APIGroup, version
    )


def root_documents(version: str) -> dict[str, Document]:
    """The documents of /api/, /apis/ and /version/, by path without slashes."""
    schemas = _Schemas("", "v1")
    version_info = {"schema": schemas.opaque(_VERSION_INFO)}
    operation = {
        "tags": ["version"],
        "description": "Get the version of the API and of the server.",
        "operationId": "getCodeVersion",
        "responses": {
            "200": {"description": "OK", "content": {"application/json": version_info}},
            "401": {"description": "Unauthorized"},
        },
    }
    return {
        "api": _index_document(
            "/api/",
            ("core", "getCoreAPIVersions", "List the versions of the core group."),
            responses.APIVersions,
            version,
        ),
        "apis": _index_document(
            "/apis/", ("apis", "getAPIVersions", "List the groups."), responses.APIGroupList, version
        ),
        "version": _document(schemas, {"/version/": {"get": operation}}, version),
    }


def _index_document(path: str, texts: tuple[str, str, str], type_: type[Type], version: str) -> Document:
    tag, name, description = texts
    schemas = _Schemas("", "v1")
    operation = _index_operation(tag, name, schemas.shared(type_)) | {"description": description}
    return _document(schemas, {path: {"get": operation}}, version)
