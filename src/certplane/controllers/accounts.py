"""Gives every namespace its service account `default`.

Source: kubernetes, `pkg/controller/serviceaccount/serviceaccounts_controller.go`.
"""

from __future__ import annotations

from typing import Final

from certplane.client import api, informer
from certplane.controllers import runtime
from certplane.resources import namespaces, serviceaccounts

NAME: Final = "serviceaccount-controller"
ACCOUNT: Final = "service-account-controller"
QUEUE: Final = "serviceaccount"
WORKERS: Final = 1
_DEFAULT: Final = "default"


class Accounts:
    """The reconciler: its keys are namespaces."""

    def __init__(self, client: api.Client, homes: informer.Informer, accounts: informer.Informer) -> None:
        self._client = client
        self._homes = homes
        self._accounts = accounts

    async def handle(self, namespace: str) -> None:
        home = self._homes.get(namespace)
        if home is None or home.status.phase != namespaces.ACTIVE or self._accounts.get(_DEFAULT, namespace):
            return
        new = serviceaccounts.ServiceAccount()
        new.metadata.name, new.metadata.namespace = _DEFAULT, namespace
        await runtime.into_namespace(self._client.create(serviceaccounts.RESOURCE, new, namespace))
