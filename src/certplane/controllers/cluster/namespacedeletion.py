"""Deletes the content of namespaces that are being deleted, reports what is left, and then removes their finalizer.

The finalizer keeps a namespace until it is empty: a namespace that is created later under the same name must not
inherit roles and bindings. Source: kubernetes, `pkg/controller/namespace`.
"""

from __future__ import annotations

import collections
import copy
from collections.abc import Mapping, Sequence
from typing import Final

from certplane import timestamps
from certplane.client import api
from certplane.controllers.runtime.controller import WorkQueue
from certplane.meta.objects import Object
from certplane.meta.resource import AnyResource
from certplane.resources import namespaces
from certplane.resources.namespaces import Namespace, NamespaceCondition

NAME: Final = "namespace-controller"
ACCOUNT: Final = "namespace-controller"
QUEUE: Final = "namespace"
WORKERS: Final = 2
#: Seconds until a namespace is checked again whose content has finalizers of other controllers. Kubernetes takes eight;
#: a check costs a few reads of the cache here, and clients wait for the namespace to disappear.
RECHECK_SECONDS: Final = 1.0
_FINALIZER: Final = "kubernetes"

#: The remaining objects of each kind, by the name of the kind as conditions print it.
Remaining = Mapping[str, Sequence[Object]]

#: The conditions of this controller, with reason and message while there is no problem.
_CONDITIONS: Final = {
    "NamespaceDeletionDiscoveryFailure": ("ResourcesDiscovered", "All resources successfully discovered"),
    "NamespaceDeletionGroupVersionParsingFailure": ("ParsedGroupVersions", "All legacy kube types successfully parsed"),
    "NamespaceDeletionContentFailure": (
        "ContentDeleted",
        "All content successfully deleted, may be waiting on finalization",
    ),
    "NamespaceContentRemaining": ("ContentRemoved", "All content successfully removed"),
    "NamespaceFinalizersRemaining": ("ContentHasNoFinalizers", "All content-preserving finalizers finished"),
}


def needs_deletion(namespace: Namespace) -> bool:
    """Whether a namespace is being deleted and still has a finalizer."""
    return namespace.metadata.deletion_timestamp is not None and bool(namespace.spec.finalizers)


def updated_conditions(
    before: Sequence[NamespaceCondition], remaining: Remaining, now: str
) -> list[NamespaceCondition]:
    """The conditions of a namespace that is being deleted. Existing ones keep their position, and their transition time
    while the status is the same.
    """
    problems = _condition_problems(remaining)
    conditions = {condition.type: condition for condition in before}
    for type_, default in _CONDITIONS.items():
        status, (reason, message) = ("True", problems[type_]) if type_ in problems else ("False", default)
        old = conditions.get(type_)
        since = old.last_transition_time if old is not None and old.status == status else now
        conditions[type_] = NamespaceCondition(
            type=type_, status=status, last_transition_time=since, reason=reason, message=message
        )
    return list(conditions.values())


def _condition_problems(remaining: Remaining) -> dict[str, tuple[str, str]]:
    """Reason and message of the conditions that are true."""
    finalizers = collections.Counter(
        finalizer for objects in remaining.values() for obj in objects for finalizer in obj.metadata.finalizers
    )
    problems: dict[str, tuple[str, str]] = {}
    if remaining:
        counts = sorted(f"{kind} has {len(objects)} resource instances" for kind, objects in remaining.items())
        message = f"Some resources are remaining: {', '.join(counts)}"
        problems["NamespaceContentRemaining"] = "SomeResourcesRemain", message
    if finalizers:
        counts = sorted(f"{finalizer} in {count} resource instances" for finalizer, count in finalizers.items())
        message = f"Some content in the namespace has finalizers remaining: {', '.join(counts)}"
        problems["NamespaceFinalizersRemaining"] = "SomeFinalizersRemain", message
    return problems


class NamespaceDeleter:
    """Reconciles namespaces that are being deleted. `kinds` are all namespaced kinds of the server."""

    def __init__(self, client: api.Client, kinds: Sequence[AnyResource], queue: WorkQueue) -> None:
        self._client = client
        self._kinds = tuple(kinds)
        self._queue = queue

    async def handle(self, namespace: Namespace) -> None:
        if not needs_deletion(namespace):
            return
        name = namespace.metadata.name
        remaining = {
            f"{kind.plural}.{kind.group}": objects
            for kind in self._kinds
            if (objects := await self._delete_content(kind, name))
        }
        updated = await self._update_conditions(namespace, remaining)
        if remaining:
            # Not a failure, so no back-off: other controllers decide how long their finalizers take.
            self._queue.add_after(name, RECHECK_SECONDS)
        elif _FINALIZER in namespace.spec.finalizers:
            finalized = copy.copy(updated)
            finalized.spec = copy.copy(updated.spec)
            finalized.spec.finalizers = [finalizer for finalizer in updated.spec.finalizers if finalizer != _FINALIZER]
            await self._client.update(namespaces.RESOURCE, finalized, "finalize")

    async def _delete_content(self, kind: AnyResource, namespace: str) -> Sequence[Object]:
        """Delete all objects of a kind, unless all are being deleted already; returns those that are left."""
        objects = (await self._client.list(kind, namespace)).items
        if all(obj.metadata.deletion_timestamp is not None for obj in objects):
            return objects
        await self._client.delete_all(kind, namespace)
        return (await self._client.list(kind, namespace)).items

    async def _update_conditions(self, namespace: Namespace, remaining: Remaining) -> Namespace:
        """Write the conditions, if they have changed."""
        now = timestamps.rfc3339(self._queue.clock.now())
        conditions = updated_conditions(namespace.status.conditions, remaining, now)
        if conditions == namespace.status.conditions:
            return namespace
        changed = copy.copy(namespace)
        changed.status = copy.copy(namespace.status)
        changed.status.conditions = conditions
        return await self._client.update(namespaces.RESOURCE, changed, "status")
