"""Parses method and path into a RequestInfo. Pure; the resource need not exist.

Source: `k8s.io/apiserver/pkg/endpoints/request/requestinfo.go`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from certplane.errors import BadRequest
from certplane.meta import context, names, selectors

_VERBS: Final = {"POST": "create", "GET": "get", "HEAD": "get", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
#: Path segments below a namespace that are subresources of the namespace, not kinds in it.
_NAMESPACE_SUBRESOURCES: Final = frozenset({"status", "finalize"})
_COLLECTION_VERBS: Final = {"get": "list", "delete": "deletecollection"}


def parse(method: str, path: str, query: Mapping[str, Sequence[str]]) -> context.RequestInfo:
    """Parse a request. `path` is decoded; `query` has decoded values in order."""
    parts = path.strip("/").split("/")
    if len(parts) < 3 or parts[0] not in ("api", "apis") or (parts[0] == "apis" and len(parts) < 4):
        return context.RequestInfo(path, method.lower(), is_resource=False)
    group = parts[1] if parts[0] == "apis" else ""
    version, *rest = parts[2:] if parts[0] == "apis" else parts[1:]
    verb = _VERBS.get(method, "")
    is_watch_path = rest[0] == "watch"
    if is_watch_path:
        verb = "watch"
        rest = rest[1:]
    if not rest:
        return context.RequestInfo(path, method.lower(), is_resource=False)
    namespace = ""
    if rest[0] == "namespaces" and len(rest) > 1:
        namespace = rest[1]
        if len(rest) > 2 and rest[2] not in _NAMESPACE_SUBRESOURCES:
            rest = rest[2:]
    resource = rest[0]
    name = rest[1] if len(rest) > 1 else ""
    # A watch by path does not always apply its selector, so authorization must not depend on it.
    field_selector = selectors.EVERYTHING if name or is_watch_path else _field_selector(query)
    if not name:
        # Only for lists and watches by query: in a deletion, or a watch by path, the selector does not set the name.
        name = _selected_name(field_selector) if verb == "get" else ""
        verb = _collection_verb(verb, query)
    return context.RequestInfo(
        path=path,
        verb=verb,
        is_resource=True,
        group=group,
        version=version,
        namespace=namespace,
        resource=resource,
        subresource=rest[2] if len(rest) > 2 else "",
        name=name,
        parts=tuple(rest),
        field_selector=field_selector,
    )


def _collection_verb(verb: str, query: Mapping[str, Sequence[str]]) -> str:
    if verb == "get" and "watch" in query and query["watch"][0].lower() not in ("false", "0"):
        return "watch"
    return _COLLECTION_VERBS.get(verb, verb)


def _field_selector(query: Mapping[str, Sequence[str]]) -> selectors.FieldSelector:
    """The field selector of a collection; everything if it cannot be parsed."""
    if "fieldSelector" not in query:
        return selectors.EVERYTHING
    try:
        return selectors.parse_fields(query["fieldSelector"][0])
    except BadRequest:
        return selectors.EVERYTHING


def _selected_name(field_selector: selectors.FieldSelector) -> str:
    """The one name that a field selector selects, so that RBAC's resourceNames apply to it; empty if there is none."""
    name = field_selector.required_value("metadata.name")
    return name if name and not names.path_segment_problems(name) else ""


def scope(info: context.RequestInfo) -> str:
    """The scope label of metrics: resource, namespace or cluster."""
    if info.name or info.verb == "create":
        return "resource"
    return "namespace" if info.namespace else "cluster"
