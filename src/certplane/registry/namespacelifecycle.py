"""Admission of creations by namespace: refused if the namespace does not exist or is being deleted.

Kubernetes' admission plugin NamespaceLifecycle. Source: `k8s.io/apiserver/pkg/admission/plugin/namespace/lifecycle`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from certplane import errors
from certplane.meta.objects import Object
from certplane.registry.admission import AdmissionAttributes, Hook

#: Namespaces that cannot be deleted.
PROTECTED_NAMESPACES: Final = frozenset({"default", "kube-system", "kube-public"})


def hook(find: Callable[[str], Object | None]) -> Hook:
    """The admission hook. `find` returns the Namespace with a name, None if there is none."""

    def check(write: AdmissionAttributes) -> None:
        if write.resource.plural == "namespaces" and not write.resource.group:
            if write.operation == "delete" and write.name in PROTECTED_NAMESPACES:
                raise errors.Forbidden.for_object("namespaces", "", write.name, "this namespace may not be deleted")
            return
        if write.operation != "create" or not write.resource.namespaced:
            return
        check_namespace(find(write.namespace), write.namespace, write.resource.identity, write.name)

    return check


def check_namespace(namespace: Object | None, namespace_name: str, kind: tuple[str, str], name: str) -> None:
    """Check that an object may be created in a namespace. `namespace` is None if it does not exist; `kind` is plural
    and group of the object. Raises NotFound, Forbidden.
    """
    if namespace is None:
        raise errors.NotFound("namespaces", "", namespace_name)
    if namespace.metadata.deletion_timestamp is None:
        return
    why = f"unable to create new content in namespace {namespace_name} because it is being terminated"
    error = errors.Forbidden.for_object(*kind, name or "Unknown", why)
    cause = {
        "reason": "NamespaceTerminating",
        "message": f"namespace {namespace_name} is being terminated",
        "field": "metadata.namespace",
    }
    error.details = {**(error.details or {}), "causes": [cause]}
    raise error
