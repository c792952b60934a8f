"""Method and path to RequestInfo. Pure; looks nothing up, so it also answers for resources that do not exist.

Source: `k8s.io/apiserver/pkg/endpoints/request/requestinfo.go`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from certplane.meta import context, names, selectors

_VERBS: Final = {"POST": "create", "GET": "get", "HEAD": "get", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
#: Segments below a namespace that name a part of the namespace, not a kind in it.
_NAMESPACE_SUBRESOURCES: Final = frozenset({"status", "finalize"})
_COLLECTION_VERBS: Final = {"get": "list", "delete": "deletecollection"}


def parse(method: str, path: str, query: Mapping[str, Sequence[str]]) -> context.RequestInfo:
    """What a request is about. `path` is decoded; `query` has its values decoded, in order."""
    parts = path.strip("/").split("/")
    if len(parts) < 3 or parts[0] not in ("api", "apis") or (parts[0] == "apis" and len(parts) < 4):
        return context.RequestInfo(path, method.lower(), is_resource=False)
    group = parts[1] if parts[0] == "apis" else ""
    version, *rest = parts[2:] if parts[0] == "apis" else parts[1:]
    verb = _VERBS.get(method, "")
    by_path = rest[0] == "watch"
    if by_path:
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
    # A watch by path does not always heed a selector, so nobody may rely on it.
    selected = selectors.EVERYTHING if name or by_path else _selected(query)
    if not name:
        # Only lists and watches by query: a selector neither names what a deletion is about, nor a watch by path.
        name = _selected_name(selected) if verb == "get" else ""
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
        field_selector=selected,
    )


def _collection_verb(verb: str, query: Mapping[str, Sequence[str]]) -> str:
    if verb == "get" and "watch" in query and query["watch"][0].lower() not in ("false", "0"):
        return "watch"
    return _COLLECTION_VERBS.get(verb, verb)


def _selected(query: Mapping[str, Sequence[str]]) -> selectors.FieldSelector:
    """What the query asks of the objects of a collection; nothing if nobody can read it."""
    if "fieldSelector" not in query:
        return selectors.EVERYTHING
    try:
        return selectors.parse_fields(query["fieldSelector"][0])
    except Exception:
        return selectors.EVERYTHING


def _selected_name(by: selectors.FieldSelector) -> str:
    """The name that a field selector pins a collection to, so that RBAC's resourceNames apply to it."""
    name = by.exact("metadata.name")
    return name if name and not names.path_segment_problems(name) else ""


def scope(of: context.RequestInfo) -> str:
    """How much a request is about, as it is counted: one object, a namespace, or everything."""
    if of.name or of.verb == "create":
        return "resource"
    return "namespace" if of.namespace else "cluster"
