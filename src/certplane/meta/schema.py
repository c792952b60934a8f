"""OpenAPI 3 documents, from the declarations of the kinds and the types of their objects.

There is one document for each group version, and a small one for each path that only leads to others. What
`kubectl explain`, validation before sending and `kubectl apply` look for is in them: descriptions, required fields,
list types, patch strategies, and `x-kubernetes-group-version-kind` on kinds and operations. Parameters that all
operations of a path have stand at the path.

Source of the form: the documents that kube-apiserver 1.36 serves below /openapi/v3. Ours say the same about the same
kinds, in our own words.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from certplane.meta import answers, objects, protobuf, resource, shape

Document = dict[str, Any]

_REF: Final = "#/components/schemas/"
_META: Final = "io.k8s.apimachinery.pkg.apis.meta.v1"
_QUANTITY: Final = "io.k8s.apimachinery.pkg.api.resource.Quantity"
_VERSION_INFO: Final = "io.k8s.apimachinery.pkg.version.Info"

_FORMS: Final = ("application/json", "application/vnd.kubernetes.protobuf", "application/yaml")
_STREAMS: Final = ("application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch")
PATCHES: Final = (
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
)
_STATUS_TEXTS: Final = {"200": "OK", "201": "Created", "202": "Accepted"}

#: Types that have no fields of their own to show.
_OPAQUE: Final[Mapping[str, Document]] = {
    f"{_META}.Time": {
        "description": "A moment, as RFC 3339 text in UTC: 2026-01-02T15:04:05Z.",
        "type": "string",
        "format": "date-time",
    },
    f"{_META}.MicroTime": {
        "description": "A moment with microseconds, as RFC 3339 text in UTC: 2026-01-02T15:04:05.000000Z.",
        "type": "string",
        "format": "date-time",
    },
    _QUANTITY: {
        "description": "A number with a unit: 500m, 2, 1Gi. The units are n, u, m, k, M, G, T, P, E for powers of ten, "
        "Ki, Mi, Gi, Ti, Pi, Ei for powers of 1024; 1e3 is possible, too.",
        "oneOf": [{"type": "string"}, {"type": "number"}],
    },
    f"{_META}.Patch": {"description": "A change, in the form that the Content-Type names.", "type": "object"},
    f"{_META}.FieldsV1": {
        "description": 'A set of fields as a tree: "f:name" is a field, "k:{...}" and "v:..." are list items, "." is '
        "the field itself.",
        "type": "object",
    },
    "io.k8s.apimachinery.pkg.runtime.RawExtension": {"description": "Any object.", "type": "object"},
    _VERSION_INFO: {
        "description": "Info says which version of the API the server has, and how the server was built.",
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
                ("emulationMajor", "Major version that the server behaves like.", False),
                ("emulationMinor", "Minor version that the server behaves like.", False),
                ("minCompatibilityMajor", "Oldest major version it can work beside.", False),
                ("minCompatibilityMinor", "Oldest minor version it can work beside.", False),
                ("gitVersion", "Whole version, with that of the server behind a plus sign.", True),
                ("gitCommit", "Revision of the source, where it is known.", True),
                ("gitTreeState", "What the server was built from: clean, dirty, or archive.", True),
                ("buildDate", "When the server was built.", True),
                ("goVersion", "Version of Go, for servers written in it.", True),
                ("compiler", "What runs the server.", True),
                ("platform", "System and architecture that the server runs on.", True),
            )
        },
    },
}


def digest(data: bytes) -> str:
    """What names the content of a document in URLs and ETags."""
    return hashlib.sha512(data).hexdigest().upper()


# --- types --------------------------------------------------------------------------------------------------------


class _Schemas:
    """The schemas of one document: whatever is asked for, and what that refers to."""

    def __init__(self, group: str, version: str) -> None:
        self._group = group
        self._version = version
        self._api_version = f"{group}/{version}" if group else version
        self.found: dict[str, Document] = {}

    def ref(self, struct: type[msgspec.Struct], kinds: Iterable[Document] = ()) -> Document:
        """A reference to the schema of a type, which is added. `kinds` are what clients find it by."""
        name = self._name(struct.__name__)
        if not kinds and struct.__name__ in answers.BY_KIND:
            kinds = [_common(struct.__name__)]
        if name not in self.found:
            self.found[name] = {}  # against endless descent, should a type contain itself
            self.found[name] = self._struct(struct, list(kinds))
        return {"$ref": _REF + name}

    def opaque(self, name: str) -> Document:
        self.found[name] = dict(_OPAQUE[name])
        return {"$ref": _REF + name}

    def kind(self, type_: type[objects.Type], kind: str) -> Document:
        return self.ref(type_, [self.gvk(kind)])

    def list_of(self, type_: type[objects.Type], kind: str, list_kind: str) -> Document:
        """A reference to the schema of a list, which is not a type of its own here."""
        name = self._name(list_kind)
        self.found[name] = {
            "description": f"{list_kind} is a list of objects of kind {kind}.",
            "type": "object",
            "required": ["items"],
            "properties": {
                "apiVersion": {"description": "Group and version of the list.", "type": "string"},
                "items": {"description": "The objects.", "type": "array", "items": self.kind(type_, kind)},
                "kind": {"description": f"{list_kind}.", "type": "string"},
                "metadata": {
                    "description": "What every list has.",
                    "default": {},
                    "allOf": [self.ref(answers.ListMeta)],
                },
            },
            "x-kubernetes-group-version-kind": [self.gvk(list_kind)],
        }
        return {"$ref": _REF + name}

    def shared(self, type_: type[objects.Type], *, in_group: bool = False) -> Document:
        """A reference to a document type that every group has; with `in_group`, under its own name as well."""
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
        fields = shape.of(struct).fields.values()
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

    def _field(self, struct: type[msgspec.Struct], field: shape.Field) -> Document:
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

    def _reference(self, struct: type[msgspec.Struct], field: shape.Field) -> Document:
        if field.shape.struct is not None:
            return self.ref(field.shape.struct)
        message = protobuf.field_message(struct.__name__, self._api_version, field.name)
        return self.opaque(_openapi_name(message))

    def _value(self, of: shape.Shape) -> Document:
        if of.struct is not None:
            return self.ref(of.struct)
        if of.kind == "quantity":
            return self.opaque(_QUANTITY)
        if of.element is not None:
            element = self._value(of.element)
            if of.kind == "list":
                return {"type": "array", "items": element}
            return {"type": "object", "additionalProperties": element}
        type_ = "string" if of.kind == "bytes" else of.kind
        return {"type": type_, "format": of.format} if of.format else {"type": type_}


def _common(kind: str) -> Document:
    """What clients find the schema by of a document that is the same in all groups."""
    return {"group": "", "kind": kind, "version": "v1"}


#: What a value is that was left out, for the kinds of value where the documents say it.
_ZERO: Final[Mapping[str, Any]] = {"string": "", "boolean": False, "integer": 0}


def _openapi_name(message: str) -> str:
    return "io.k8s" + message.removeprefix("k8s.io")


def _extensions(field: shape.Field) -> Document:
    found: Document = {}
    if field.keys:
        found["x-kubernetes-list-map-keys"] = list(field.keys)
    if field.list_type:
        found["x-kubernetes-list-type"] = field.list_type
    if field.patch_merge_key:
        found["x-kubernetes-patch-merge-key"] = field.patch_merge_key
    if field.patch_strategy:
        found["x-kubernetes-patch-strategy"] = field.patch_strategy
    return found


# --- parameters ---------------------------------------------------------------------------------------------------

_PARAMETERS: Final[Mapping[str, tuple[str, str]]] = {
    "allowWatchBookmarks": ("boolean", "Whether a watch may send events that only tell how far it has come."),
    "continue": ("string", "Where the last page ended, as that page said. Asks for the next page of a list."),
    "dryRun": ("string", "All: go through every step, and store nothing."),
    "fieldManager": ("string", "Name under which the changed fields are owned, at most 128 printable characters."),
    "fieldSelector": ("string", "Conditions on fields that the objects must meet."),
    "fieldValidation": (
        "string",
        "What to do with unknown or duplicate fields: Ignore, Warn (with a header, the default) or Strict (fail).",
    ),
    "force": ("boolean", "Take fields over from other managers instead of failing. For apply patches only."),
    "gracePeriodSeconds": ("integer", "Seconds the object is given to end by itself."),
    "ignoreStoreReadErrorWithClusterBreakingPotential": ("boolean", "Not used by this server."),
    "labelSelector": ("string", "Conditions on labels that the objects must meet."),
    "limit": ("integer", "How many objects a page of a list has at most."),
    "name": ("string", "Name of the object."),
    "namespace": ("string", "Namespace of the object."),
    "orphanDependents": ("boolean", "Superseded by propagationPolicy."),
    "pretty": ("string", "true: indent the answer for people."),
    "propagationPolicy": ("string", "Orphan, Background or Foreground: what becomes of dependents."),
    "resourceVersion": ("string", "Version of the store that a list must show, or that a watch starts from."),
    "resourceVersionMatch": ("string", "Exact or NotOlderThan: how resourceVersion is meant."),
    "sendInitialEvents": ("boolean", "Whether a watch begins with what there is, as if it had just been added."),
    "shardSelector": ("string", "Not used by this server."),
    "timeoutSeconds": ("integer", "Seconds after which the call ends, whether or not there is more to come."),
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
    found: Document = {"name": name, "in": "query", "description": description}
    if name in _PATH_PARAMETERS:
        found |= {"in": "path", "required": True}
    return found | {"schema": {"type": type_, "uniqueItems": True}}


def _parameters(names: Iterable[str]) -> list[Document]:
    return [_parameter(name) for name in sorted(names)]


# --- operations ---------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class _Verb:
    """How one verb looks as an operation. `noun` goes before the kind in the operation's id."""

    method: str
    action: str
    word: str
    text: str
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
    """What an operation is about: the schema of its objects, their kind, and the words around it in ids and texts.

    `noun` is the kind in the id, and `gvk` what the operation is found by, where they are not the kind's own. With
    `returns_deleted` it is shown as it was when it is deleted.
    """

    kind: str
    schema: Document
    list_schema: Document
    scope: str = ""
    subresource: str = ""
    noun: str = ""
    gvk: Document | None = None
    returns_deleted: bool = False


class _Builder:
    """One document of a group version."""

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
        schema = self.schemas.shared(answers.APIResourceList)
        operation = _index_operation(self._tag, f"get{self._id}APIResources", schema)
        self.paths[f"{self.base}/"] = {"get": operation | {"description": "Which resources there are."}}

    def add_resource(self, of: resource.Resource) -> None:
        schema = self.schemas.kind(of.type, of.kind)
        listed = self.schemas.list_of(of.type, of.kind, of.list_kind)
        scope = "Namespaced" if of.namespaced else ""
        subject = _Subject(of.kind, schema, listed, scope, returns_deleted=of.returns_deleted)
        inside = f"namespaces/{{namespace}}/{of.plural}" if of.namespaced else of.plural
        self._add(inside, subject, [each for each in _COLLECTION if each in of.verbs])
        self._add(f"{inside}/{{name}}", subject, [each for each in _ITEM if each in of.verbs])
        for door in of.subresources:
            behind = dataclasses.replace(subject, subresource=door.name)
            self._add(f"{inside}/{{name}}/{door.name}", behind, [each for each in _ITEM if each in door.verbs])
        if of.namespaced and "list" in of.verbs:
            self._add(of.plural, dataclasses.replace(subject, scope=""), ["list"], everywhere=True)
        if "watch" in of.verbs:
            self._add_watches(of, subject, inside)

    def add_action(self, of: resource.Action) -> None:
        if of.parent is not None:
            self._add_asked_of(of.parent, of)
            return
        schema = self.schemas.kind(of.type, of.kind)
        subject = _Subject(of.kind, schema, schema, "Namespaced" if of.namespaced else "")
        self._add(f"namespaces/{{namespace}}/{of.plural}" if of.namespaced else of.plural, subject, ["create"])

    def _add_asked_of(self, parent: resource.Resource, of: resource.Action) -> None:
        foreign = {"group": of.group, "kind": of.kind, "version": of.version}
        schema = self.schemas.ref(of.type, [foreign])
        subject = _Subject(of.kind, schema, schema, "Namespaced", of.plural, parent.kind, foreign)
        inside = f"namespaces/{{namespace}}/{parent.plural}" if parent.namespaced else parent.plural
        self._add(f"{inside}/{{name}}/{of.plural}", subject, ["create"])

    def _add(self, path: str, subject: _Subject, verbs: Sequence[str], *, everywhere: bool = False) -> None:
        operations = {_VERBS[verb].method: (verb, self._operation(verb, subject)) for verb in verbs}
        if not operations:
            return
        if everywhere:
            operations["get"][1]["operationId"] += "ForAllNamespaces"
        common = frozenset.intersection(*(_VERBS[verb].parameters for verb, _ in operations.values()))
        item: Document = {}
        for method, (verb, operation) in operations.items():
            own = _VERBS[verb].parameters - common
            item[method] = operation | ({"parameters": _parameters(own)} if own else {})
        item["parameters"] = _parameters({"pretty", *common, *_in_path(path)})
        self.paths[f"{self.base}/{path}"] = item

    def _operation(self, verb: str, subject: _Subject) -> Document:
        how = _VERBS[verb]
        what = subject.list_schema if verb == "list" else subject.schema
        if verb == "deletecollection" or (verb == "delete" and not subject.returns_deleted):
            what = self.schemas.shared(answers.Status)
        behind = f" through /{subject.subresource}" if subject.subresource else ""
        noun = f"{subject.scope}{subject.noun or subject.kind}{subject.subresource.capitalize()}"
        name = f"{how.word}{self._id}{how.noun}{noun}"
        found: Document = {
            "tags": [self._tag],
            "description": how.text.format(behind if "{{" in how.text else subject.kind).format(subject.kind),
            "operationId": name,
            "responses": _responses(how.codes, what, streams=verb == "list"),
            "x-kubernetes-action": how.action,
            "x-kubernetes-group-version-kind": subject.gvk or self.schemas.gvk(subject.kind),
        }
        body = self._body(how.method, subject)
        return found | ({"requestBody": body} if body else {})

    def _body(self, method: str, subject: _Subject) -> Document | None:
        if method == "patch":
            schema = self.schemas.opaque(f"{_META}.Patch")
            return {"content": {each: {"schema": schema} for each in PATCHES}, "required": True}
        if method in ("post", "put"):
            return {"content": {"*/*": {"schema": subject.schema}}, "required": True}
        if method == "delete":
            return {"content": {"*/*": {"schema": self.schemas.shared(objects.DeleteOptions, in_group=True)}}}
        return None

    def _add_watches(self, of: resource.Resource, subject: _Subject, inside: str) -> None:
        self._add_watch(inside, subject, f"{subject.scope}{of.kind}List", "watchlist")
        self._add_watch(f"{inside}/{{name}}", subject, f"{subject.scope}{of.kind}", "watch")
        if of.namespaced:
            self._add_watch(of.plural, subject, f"{of.kind}ListForAllNamespaces", "watchlist")

    def _add_watch(self, path: str, subject: _Subject, name: str, action: str) -> None:
        schema = self.schemas.shared(answers.WatchEvent, in_group=True)
        operation = {
            "tags": [self._tag],
            "description": f"Watch {subject.kind}. Superseded by the watch parameter of a list.",
            "operationId": f"watch{self._id}{name}",
            "responses": _responses(("200",), schema, streams=True),
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": self.schemas.gvk(subject.kind),
        }
        parameters = _parameters({"pretty", *_LIST, *_in_path(path)})
        self.paths[f"{self.base}/watch/{path}"] = {"get": operation, "parameters": parameters}


def _in_path(path: str) -> list[str]:
    return [name for name in _PATH_PARAMETERS if f"{{{name}}}" in path]


def _responses(codes: Iterable[str], schema: Document, *, streams: bool = False) -> Document:
    forms = (*_FORMS, *_STREAMS) if streams else _FORMS
    content = {each: {"schema": schema} for each in forms}
    found: Document = {code: {"description": _STATUS_TEXTS[code], "content": content} for code in codes}
    return found | {"401": {"description": "Unauthorized"}}


def _index_operation(tag: str, name: str, schema: Document) -> Document:
    return {"tags": [tag], "operationId": name, "responses": _responses(("200",), schema)}


# --- documents ----------------------------------------------------------------------------------------------------


def _document(schemas: _Schemas, paths: Document, version: str) -> Document:
    return {
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": version},
        "paths": paths,
        "components": {
            "schemas": dict(sorted(schemas.found.items())),
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


def of_group_version(
    resources: Sequence[resource.Resource], actions: Sequence[resource.Action], version: str
) -> Document:
    """The document of one group version: all its kinds, which must not be none. `version` is the API's, `1.36`."""
    group, version_of_group, _, _ = (
        actions[0].path if not resources else (resources[0].group, resources[0].version, "", "")
    )
    builder = _Builder(group, version_of_group)
    builder.add_index()
    for each in resources:
        builder.add_resource(each)
    for action in actions:
        builder.add_action(action)
    return _document(builder.schemas, dict(sorted(builder.paths.items())), version)


def of_group(group: str, version: str) -> Document:
    """The document of the path that lists the versions of a group."""
    words = group.removesuffix(".k8s.io").split(".")
    tag = words[0] + "".join(word.capitalize() for word in words[1:])
    name = f"get{''.join(word.capitalize() for word in words)}APIGroup"
    return _of_index(f"/apis/{group}/", (tag, name, "Which versions the group has."), answers.APIGroup, version)


def of_roots(version: str) -> dict[str, Document]:
    """The documents of the paths above the groups, by path without the leading slash."""
    schemas = _Schemas("", "v1")
    info = {"200": {"description": "OK", "content": {"application/json": {"schema": schemas.opaque(_VERSION_INFO)}}}}
    operation = {
        "tags": ["version"],
        "description": "Which version of the API the server has.",
        "operationId": "getCodeVersion",
        "responses": info | {"401": {"description": "Unauthorized"}},
    }
    return {
        "api": _of_index(
            "/api/", ("core", "getCoreAPIVersions", "Which versions the core group has."), answers.APIVersions, version
        ),
        "apis": _of_index(
            "/apis/", ("apis", "getAPIVersions", "Which groups there are."), answers.APIGroupList, version
        ),
        "version": _document(schemas, {"/version/": {"get": operation}}, version),
    }


def _of_index(path: str, words: tuple[str, str, str], type_: type[objects.Type], version: str) -> Document:
    tag, name, description = words
    schemas = _Schemas("", "v1")
    operation = _index_operation(tag, name, schemas.shared(type_)) | {"description": description}
    return _document(schemas, {path: {"get": operation}}, version)
