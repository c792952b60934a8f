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
        home = find(of.namespace)
        if home is None:
            raise errors.NotFound("namespaces", "", of.namespace)
        if home.metadata.deletion_timestamp is not None:
            raise _going_away(of)

    return check


def _going_away(of: admission.Review) -> errors.Forbidden:
    why = f"unable to create new content in namespace {of.namespace} because it is being terminated"
    error = errors.Forbidden.of(of.resource.plural, of.resource.group, of.name or "Unknown", why)
    cause = {
        "reason": "NamespaceTerminating",
        "message": f"namespace {of.namespace} is being terminated",
        "field": "metadata.namespace",
    }
    error.details = {**(error.details or {}), "causes": [cause]}
    return error
