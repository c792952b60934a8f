"""Publishes the CA certificate in every namespace, as the ConfigMap kube-root-ca.crt, and reverts changes to it.

Source: kubernetes, `pkg/controller/certificates/rootcacertpublisher`.
"""

from __future__ import annotations

from typing import Final

from certplane.client import api
from certplane.client.informer import Informer
from certplane.controllers.runtime import controller
from certplane.errors import SetupError
from certplane.resources import configmaps, namespaces
from certplane.resources.configmaps import ConfigMap
from certplane.resources.namespaces import Namespace
from certplane.wire import codec

NAME: Final = "root-ca-certificate-publisher-controller"
ACCOUNT: Final = "root-ca-cert-publisher"
QUEUE: Final = "root_ca_cert_publisher"
WORKERS: Final = 1
CONFIG_MAP: Final = "kube-root-ca.crt"
_DATA_KEY: Final = "ca.crt"
_DESCRIPTION: Final = "kubernetes.io/description"
_DESCRIPTION_TEXT: Final = (
    "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the "
    "internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes "
    "clusters."
)


def decide(stored: ConfigMap | None, namespace: str, bundle: str) -> ConfigMap | None:
    """The ConfigMap to write; None if the stored one is correct."""
    if stored is None:
        created = ConfigMap(data={_DATA_KEY: bundle})
        created.metadata.name, created.metadata.namespace = CONFIG_MAP, namespace
        created.metadata.annotations = {_DESCRIPTION: _DESCRIPTION_TEXT}
        return created
    if stored.data == {_DATA_KEY: bundle} and stored.metadata.annotations.get(_DESCRIPTION):
        return None
    changed = codec.decode(codec.encode(stored), ConfigMap)
    changed.data = {_DATA_KEY: bundle}
    # As in Kubernetes: any description is accepted, but an update writes the standard one.
    changed.metadata.annotations = {**changed.metadata.annotations, _DESCRIPTION: _DESCRIPTION_TEXT}
    return changed


def affected_namespaces(config_map: ConfigMap) -> list[str]:
    """The keys to queue when a ConfigMap has changed: its namespace, if it is the published one."""
    return [config_map.metadata.namespace] if config_map.metadata.name == CONFIG_MAP else []


class Publisher:
    """Reconciles the ConfigMap of each namespace with `decide`. The keys are namespaces."""

    def __init__(
        self,
        client: api.Client,
        namespace_informer: Informer[Namespace],
        config_map_informer: Informer[ConfigMap],
        bundle: str,
    ) -> None:
        self._client = client
        self._namespaces = namespace_informer
        self._config_maps = config_map_informer
        self._bundle = bundle

    async def handle(self, name: str) -> None:
        namespace = self._namespaces.get(name)
        if namespace is None or namespace.status.phase != namespaces.ACTIVE:
            return
        stored = self._config_maps.get(CONFIG_MAP, name)
        config_map = decide(stored, name, self._bundle)
        if config_map is None:
            return
        if stored is not None:
            await self._client.update(configmaps.RESOURCE, config_map)
            return
        await controller.create_in_namespace(self._client.create(configmaps.RESOURCE, config_map, name))


def decode_bundle(content: bytes, source: str) -> str:
    """The PEM text of certificates. `source` names them in the error. Raises SetupError if the text is not ASCII."""
    try:
        return content.decode("ascii")
    except UnicodeDecodeError as error:
        hint = "--root-ca-file must be a file of PEM certificates"
        raise SetupError(f"{source} are not PEM", (hint,)) from error
