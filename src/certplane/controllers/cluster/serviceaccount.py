"""Creates the service account `default` in every namespace.

Source: kubernetes, `pkg/controller/serviceaccount/serviceaccounts_controller.go`.
"""

from __future__ import annotations

from typing import Final

from certplane.client import api
from certplane.client.informer import Informer
from certplane.controllers.runtime import controller
from certplane.resources import namespaces, serviceaccounts
from certplane.resources.namespaces import Namespace
from certplane.resources.serviceaccounts import ServiceAccount

NAME: Final = "serviceaccount-controller"
ACCOUNT: Final = "service-account-controller"
QUEUE: Final = "serviceaccount"
WORKERS: Final = 1
_DEFAULT: Final = "default"


class DefaultAccountCreator:
    """Reconciles the default account of each namespace. The keys are namespaces."""

    def __init__(
        self, client: api.Client, namespace_informer: Informer[Namespace], account_informer: Informer[ServiceAccount]
    ) -> None:
        self._client = client
        self._namespaces = namespace_informer
        self._accounts = account_informer

    async def handle(self, name: str) -> None:
        namespace = self._namespaces.get(name)
        if namespace is None or namespace.status.phase != namespaces.ACTIVE or self._accounts.get(_DEFAULT, name):
            return
        account = ServiceAccount()
        account.metadata.name, account.metadata.namespace = _DEFAULT, name
        await controller.create_in_namespace(self._client.create(serviceaccounts.RESOURCE, account, name))
