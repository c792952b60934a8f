"""Empties namespaces that are being deleted, tells what is left in them, and then lets them go.

A namespace is kept by a finalizer of its own until nothing lives in it any more: what is made later under the same name
must not inherit roles and bindings. Source: kubernetes, `pkg/controller/namespace`.
"""

from __future__ import annotations

import collections
import copy
from collections.abc import Mapping, Sequence
from typing import Any, Final

from certplane import clock
from certplane.client import api
from certplane.controllers import runtime
from certplane.meta import resource
from certplane.resources import namespaces

NAME: Final = "namespace-controller"
ACCOUNT: Final = "namespace-controller"
QUEUE: Final = "namespace"
WORKERS: Final = 2
#: Seconds until what waits for somebody else's finalizer is looked at again. Kubernetes takes eight; a look costs a
#: few reads of the cache here, and whoever removed the finalizer waits for the namespace to go.
PATIENCE: Final = 1.0
_FINALIZER: Final = "kubernetes"

#: By the name of a kind, as conditions write it: what is left of it.
Remains = Mapping[str, Sequence[Any]]

#: The conditions that this controller keeps, with reason and message while all is well.
_WELL: Final = {
    "NamespaceDeletionDiscoveryFailure": ("ResourcesDiscovered", "All resources successfully discovered"),
    "NamespaceDeletionGroupVersionParsingFailure": ("ParsedGroupVersions", "All legacy kube types successfully parsed"),
    "NamespaceDeletionContentFailure": (
        "ContentDeleted",
        "All content successfully deleted, may be waiting on finalization",
    ),
    "NamespaceContentRemaining": ("ContentRemoved", "All content successfully removed"),
    "NamespaceFinalizersRemaining": ("ContentHasNoFinalizers", "All content-preserving finalizers finished"),
}


def is_to_be_emptied(of: namespaces.Namespace) -> bool:
    """Whether a namespace is being deleted and still waits for somebody."""
    return of.metadata.deletion_timestamp is not None and bool(of.spec.finalizers)


def conditions(
    before: Sequence[namespaces.NamespaceCondition], remains: Remains, now: str
) -> list[namespaces.NamespaceCondition]:
    """What a namespace says while it is being emptied. What it said before keeps its place, and its time while its
    status stays the same.
    """
    troubles = _troubles(remains)
    known = {each.type: each for each in before}
    for type_, well in _WELL.items():
        status, (reason, message) = ("True", troubles[type_]) if type_ in troubles else ("False", well)
        old = known.get(type_)
        since = old.last_transition_time if old is not None and old.status == status else now
        known[type_] = namespaces.NamespaceCondition(
            type=type_, status=status, last_transition_time=since, reason=reason, message=message
        )
    return list(known.values())


def _troubles(remains: Remains) -> dict[str, tuple[str, str]]:
    finalizers = collections.Counter(
        finalizer for items in remains.values() for item in items for finalizer in item.metadata.finalizers
    )
    found: dict[str, tuple[str, str]] = {}
    if remains:
        listed = ", ".join(sorted(f"{kind} has {len(items)} resource instances" for kind, items in remains.items()))
        found["NamespaceContentRemaining"] = "SomeResourcesRemain", f"Some resources are remaining: {listed}"
    if finalizers:
        listed = ", ".join(sorted(f"{each} in {count} resource instances" for each, count in finalizers.items()))
        message = f"Some content in the namespace has finalizers remaining: {listed}"
        found["NamespaceFinalizersRemaining"] = "SomeFinalizersRemain", message
    return found


class Emptier:
    """The reconciler around it. `kinds` are all that live in namespaces."""

    def __init__(self, client: api.Client, kinds: Sequence[resource.Resource], queue: runtime.Queue) -> None:
        self._client = client
        self._kinds = tuple(kinds)
        self._queue = queue

    async def handle(self, of: namespaces.Namespace) -> None:
        if not is_to_be_emptied(of):
            return
        name = of.metadata.name
        remains = {
            f"{kind.plural}.{kind.group}": left for kind in self._kinds if (left := await self._empty(kind, name))
        }
        told = await self._tell(of, remains)
        if remains:
            # Not a failure: how long finalizers take is not for this controller to say.
            self._queue.add_after(name, PATIENCE)
        elif _FINALIZER in of.spec.finalizers:
            new = copy.copy(told)
            new.spec = copy.copy(told.spec)
            new.spec.finalizers = [each for each in told.spec.finalizers if each != _FINALIZER]
            await self._client.update(namespaces.RESOURCE, new, "finalize")

    async def _empty(self, kind: resource.Resource, namespace: str) -> Sequence[Any]:
        """Delete what is there of a kind, if anything is not being deleted yet; what is left of it then."""
        found = (await self._client.list(kind, namespace)).items
        if all(each.metadata.deletion_timestamp is not None for each in found):
            return found
        await self._client.delete_all(kind, namespace)
        return (await self._client.list(kind, namespace)).items

    async def _tell(self, of: namespaces.Namespace, remains: Remains) -> namespaces.Namespace:
        """Write the conditions, if they are news."""
        now = clock.rfc3339(self._queue.clock.now())
        said = conditions(of.status.conditions, remains, now)
        if said == of.status.conditions:
            return of
        new = copy.copy(of)
        new.status = copy.copy(of.status)
        new.status.conditions = said
        told: namespaces.Namespace = await self._client.update(namespaces.RESOURCE, new, "status")
        return told
