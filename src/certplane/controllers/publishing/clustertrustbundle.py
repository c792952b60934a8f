"""Publishes the API server's CA as a ClusterTrustBundle, and deletes the bundles that it published before.

Source: kubernetes, `pkg/controller/certificates/clustertrustbundlepublisher`.
"""

from __future__ import annotations

import hashlib
from typing import Final

from certplane.client import api
from certplane.client.informer import Informer
from certplane.controllers.runtime.controller import Retry
from certplane.errors import AlreadyExists, APIError, CertplaneError, NotFound
from certplane.meta.resource import Resource
from certplane.resources.clustertrustbundles import ClusterTrustBundle
from certplane.wire import codec

NAME: Final = "kube-apiserver-serving-clustertrustbundle-publisher-controller"
ACCOUNT: Final = "kube-apiserver-serving-clustertrustbundle-publisher"
QUEUE: Final = "ca_cert_publisher_cluster_trust_bundles"
WORKERS: Final = 1
SIGNER: Final = "kubernetes.io/kube-apiserver-serving"
#: The only key: all bundles of the signer are reconciled together.
KEY: Final = ""


def bundle_name(trust_bundle: str) -> str:
    """The name of the object under which a PEM bundle is published."""
    digest = hashlib.sha256(trust_bundle.encode()).hexdigest()
    return f"{SIGNER.replace('/', ':')}:{digest[:24]}"


def affected_keys(bundle: ClusterTrustBundle) -> list[str]:
    """The key to queue when a bundle has changed, if it is one of this signer."""
    return [KEY] if bundle.spec.signer_name == SIGNER else []


class Publisher:
    """Reconciles the bundles of the signer. `resource` is the version of the kind that the server has, `trust_bundle`
    the PEM to publish.
    """

    def __init__(
        self,
        client: api.Client,
        resource: Resource[ClusterTrustBundle],
        informer: Informer[ClusterTrustBundle],
        trust_bundle: str,
    ) -> None:
        self._client = client
        self._resource = resource
        self._informer = informer
        self._trust_bundle = trust_bundle

    async def handle(self, key: str) -> None:
        del key
        current = bundle_name(self._trust_bundle)
        await self._publish(current)
        failure: CertplaneError | None = None
        bundles = self._informer.objects.values()
        names = {bundle.metadata.name for bundle in bundles if bundle.spec.signer_name == SIGNER}
        for name in sorted(names - {current}):
            try:
                await self._client.delete(self._resource, name)
            except NotFound:
                continue
            except (APIError, api.Unreachable) as error:
                failure = error
        if failure is not None:
            raise failure

    async def _publish(self, name: str) -> None:
        stored = self._informer.get(name)
        if stored is None:
            bundle = ClusterTrustBundle()
            bundle.metadata.name = name
            bundle.spec.signer_name, bundle.spec.trust_bundle = SIGNER, self._trust_bundle
            try:
                await self._client.create(self._resource, bundle)
            except AlreadyExists as error:
                raise Retry(str(error), quiet=True) from error
        elif stored.spec.trust_bundle != self._trust_bundle:
            changed = codec.decode(codec.encode(stored), ClusterTrustBundle)
            changed.spec.trust_bundle = self._trust_bundle
            await self._client.update(self._resource, changed)
