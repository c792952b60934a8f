"""Publishes the API server's CA as a ClusterTrustBundle, and removes what it published before.

Source: kubernetes, `pkg/controller/certificates/clustertrustbundlepublisher`; controllers.md 8.
"""

from __future__ import annotations

import hashlib
from typing import Final

from certplane import errors
from certplane.client import api, informer
from certplane.controllers import runtime
from certplane.meta import codec, resource
from certplane.resources import clustertrustbundles

NAME: Final = "kube-apiserver-serving-clustertrustbundle-publisher-controller"
ACCOUNT: Final = "kube-apiserver-serving-clustertrustbundle-publisher"
QUEUE: Final = "ca_cert_publisher_cluster_trust_bundles"
WORKERS: Final = 1
SIGNER: Final = "kubernetes.io/kube-apiserver-serving"
#: There is one thing to do.
KEY: Final = ""


def name_of(bundle: str) -> str:
    """The name under which a bundle is published."""
    digest = hashlib.sha256(bundle.encode()).hexdigest()
    return f"{SIGNER.replace('/', ':')}:{digest[:24]}"


def concerned(changed: clustertrustbundles.ClusterTrustBundle) -> list[str]:
    """What to do when a bundle has changed: everything, if it is one of this signer's."""
    return [KEY] if changed.spec.signer_name == SIGNER else []


class TrustPublisher:
    """The reconciler. It works on all bundles of its signer at once."""

    def __init__(self, client: api.Client, of: resource.Resource, bundles: informer.Informer, bundle: str) -> None:
        self._client = client
        self._resource = of
        self._bundles = bundles
        self._bundle = bundle

    async def handle(self, key: str) -> None:
        del key
        name = name_of(self._bundle)
        await self._publish(name)
        failed: errors.CertplaneError | None = None
        others = [each.metadata.name for each in self._bundles.objects.values() if each.spec.signer_name == SIGNER]
        for each in sorted(set(others) - {name}):
            try:
                await self._client.delete(self._resource, each)
            except errors.NotFound:
                continue
            except (errors.APIError, api.Unreachable) as error:
                failed = error
        if failed is not None:
            raise failed

    async def _publish(self, name: str) -> None:
        stored: clustertrustbundles.ClusterTrustBundle | None = self._bundles.get(name)
        if stored is None:
            new = clustertrustbundles.ClusterTrustBundle()
            new.metadata.name = name
            new.spec.signer_name, new.spec.trust_bundle = SIGNER, self._bundle
            try:
                await self._client.create(self._resource, new)
            except errors.AlreadyExists as error:
                raise runtime.Retry(str(error), quiet=True) from error
        elif stored.spec.trust_bundle != self._bundle:
            changed = codec.decode(codec.encode(stored), clustertrustbundles.ClusterTrustBundle)
            changed.spec.trust_bundle = self._bundle
            await self._client.update(self._resource, changed)
