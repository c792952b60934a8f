"""Puts the CA's certificate into every namespace, as ConfigMap kube-root-ca.crt, and keeps it as it should be.

Source: kubernetes, `pkg/controller/certificates/rootcacertpublisher`; controllers.md 7.
"""

from __future__ import annotations

from typing import Final

from certplane import errors
from certplane.client import api, informer
from certplane.controllers import runtime
from certplane.meta import codec
from certplane.resources import configmaps, namespaces

NAME: Final = "root-ca-certificate-publisher-controller"
ACCOUNT: Final = "root-ca-cert-publisher"
QUEUE: Final = "root_ca_cert_publisher"
WORKERS: Final = 1
MAP: Final = "kube-root-ca.crt"
_KEY: Final = "ca.crt"
_DESCRIPTION: Final = "kubernetes.io/description"
_TEXT: Final = (
    "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the "
    "internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes "
    "clusters."
)


def decide(stored: configmaps.ConfigMap | None, namespace: str, bundle: str) -> configmaps.ConfigMap | None:
    """What the ConfigMap should become; None if it is as it should be."""
    if stored is None:
        wanted = configmaps.ConfigMap(data={_KEY: bundle})
        wanted.metadata.name, wanted.metadata.namespace = MAP, namespace
        wanted.metadata.annotations = {_DESCRIPTION: _TEXT}
        return wanted
    if stored.data == {_KEY: bundle} and stored.metadata.annotations.get(_DESCRIPTION):
        return None
    new = codec.decode(codec.encode(stored), configmaps.ConfigMap)
    new.data = {_KEY: bundle}
    # Any description will do until something has to be mended; then it is ours again.
    new.metadata.annotations = {**new.metadata.annotations, _DESCRIPTION: _TEXT}
    return new


def namespaces_of(changed: configmaps.ConfigMap) -> list[str]:
    """The namespaces to look at when a ConfigMap has changed."""
    return [changed.metadata.namespace] if changed.metadata.name == MAP else []


class Publisher:
    """The reconciler around it: its keys are namespaces."""

    def __init__(self, client: api.Client, homes: informer.Informer, maps: informer.Informer, bundle: str) -> None:
        self._client = client
        self._homes = homes
        self._maps = maps
        self._bundle = bundle

    async def handle(self, namespace: str) -> None:
        home = self._homes.get(namespace)
        if home is None or home.status.phase != namespaces.ACTIVE:
            return
        stored = self._maps.get(MAP, namespace)
        new = decide(stored, namespace, self._bundle)
        if new is None:
            return
        if stored is not None:
            await self._client.update(configmaps.RESOURCE, new)
            return
        await runtime.into_namespace(self._client.create(configmaps.RESOURCE, new, namespace))


def bundle_of(content: bytes, source: object) -> str:
    """The text to publish, which comes from some file. Raises SetupError if it is none."""
    try:
        return content.decode("ascii")
    except UnicodeDecodeError as error:
        raise errors.SetupError(
            f"the root CA file {source} is not PEM", ("--root-ca-file names certificates, in PEM",)
        ) from error
