"""Namespaces as places: nothing is made in one that does not exist or is going away.

Kubernetes' admission plugin NamespaceLifecycle. Source: `k8s.io/apiserver/pkg/admission/plugin/namespace/lifecycle`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from certplane import errors
from certplane.registry import admission

#: They hold what the system needs, and cannot be deleted.
IMMORTAL: Final = frozenset({"default", "kube-system", "kube-public"})


def hook(find: Callable[[str], Any | None]) -> admission.Hook:
    """The check; `find` gives the Namespace of a name."""

    def check(of: admission.Review) -> None:
        if of.resource.plural == "namespaces" and not of.resource.group:
            if of.operation == "delete" and of.name in IMMORTAL:
                raise errors.Forbidden.of("namespaces", "", of.name, "this namespace may not be deleted")
            return
        if of.operation != "create" or not of.resource.namespaced:
            return
        require(find(of.namespace), of.namespace, of.resource.identity, of.name)

    return check


def require(home: Any | None, namespace: str, kind: tuple[str, str], name: str) -> None:
    """Check that something may be made in a namespace, given as the Namespace if there is one; `kind` is its plural and
    group. Raises NotFound, Forbidden.
    """
    if home is None:
        raise errors.NotFound("namespaces", "", namespace)
    if home.metadata.deletion_timestamp is None:
        return
    why = f"unable to create new content in namespace {namespace} because it is being terminated"
    error = errors.Forbidden.of(*kind, name or "Unknown", why)
    cause = {
        "reason": "NamespaceTerminating",
        "message": f"namespace {namespace} is being terminated",
        "field": "metadata.namespace",
    }
    error.details = {**(error.details or {}), "causes": [cause]}
    raise error
