"""Empties namespaces that are being deleted, and then lets them go.

A namespace is kept by a finalizer of its own until nothing lives in it any more: what is made later under the same name
must not inherit roles and bindings. Source: kubernetes, `pkg/controller/namespace`.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Final

from certplane.client import api
from certplane.controllers import runtime
from certplane.meta import resource
from certplane.resources import namespaces

NAME: Final = "namespace-controller"
ACCOUNT: Final = "namespace-controller"
QUEUE: Final = "namespace"
WORKERS: Final = 2
_FINALIZER: Final = "kubernetes"


def is_to_be_emptied(of: namespaces.Namespace) -> bool:
    """Whether a namespace is being deleted and still waits for this controller."""
    return of.metadata.deletion_timestamp is not None and _FINALIZER in of.spec.finalizers


class Emptier:
    """The reconciler around it. `kinds` are all that live in namespaces."""

    def __init__(self, client: api.Client, kinds: Sequence[resource.Resource]) -> None:
        self._client = client
        self._kinds = tuple(kinds)

    async def handle(self, of: namespaces.Namespace) -> None:
        if not is_to_be_emptied(of):
            return
        name = of.metadata.name
        for kind in self._kinds:
            await self._client.delete_all(kind, name)
        for kind in self._kinds:
            if (await self._client.list(kind, name)).items:
                raise runtime.Retry(f"namespace {name} still has {kind.plural}", quiet=True)
        new = copy.copy(of)
        new.spec = copy.copy(of.spec)
        new.spec.finalizers = [each for each in of.spec.finalizers if each != _FINALIZER]
        await self._client.update(namespaces.RESOURCE, new, "finalize")
