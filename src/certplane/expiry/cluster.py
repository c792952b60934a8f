"""Sources in a cluster: Secrets, ConfigMaps, ClusterTrustBundles and the certificates of CSRs.

Each kind is a source of its own: the permission for one may be missing. Objects are fetched in pages, and a page is
forgotten before the next one is fetched. A Secret holds keys: nothing of it is kept but the certificates under the
chosen names, and Secrets of other types are not even fetched.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Generic, TypeVar

import msgspec

import certplane
from certplane import errors
from certplane.client import api, kubeconfig
from certplane.client.api import Client
from certplane.client.credentials import CredentialProblem
from certplane.client.lighttransport import LightTransport
from certplane.clock import Clock
from certplane.errors import SetupError
from certplane.expiry import files, findings
from certplane.expiry.findings import Collector, Finding, Labels, Source, SourceProblem
from certplane.expiry.settings import Cluster, SecretSelection
from certplane.golang import formatting
from certplane.meta import objects
from certplane.meta.resource import Resource
from certplane.x509.trust import inventory, revocationlists
from certplane.x509.trust.inventory import Item

USER_AGENT: Final = f"certplane-watch/{certplane.__version__}"

_MAX_MESSAGE: Final = 200
#: Objects of one source: a server that lies has no end.
_MAX_OBJECTS: Final = 1_000_000
_PAGE: Final = 250
_PEM_BEGIN: Final = b"-----BEGIN "

T = TypeVar("T", bound=objects.Object)


# --- kinds, with the fields that are used -------------------------------------------------------------------------


class _Secret(objects.Object):
    """A Secret."""

    data: dict[str, bytes] = msgspec.field(default_factory=dict)
    type: str = ""


class _ConfigMap(objects.Object):
    """A ConfigMap."""

    data: dict[str, str] = msgspec.field(default_factory=dict)
    binary_data: dict[str, bytes] = msgspec.field(default_factory=dict)


class _BundleSpec(objects.Type):
    """CA certificates in PEM."""

    trust_bundle: str = ""


class _Bundle(objects.Object):
    """A ClusterTrustBundle."""

    spec: _BundleSpec = msgspec.field(default_factory=_BundleSpec)


class _CSRStatus(objects.Type):
    """The certificate."""

    certificate: bytes = b""


class _CSR(objects.Object):
    """A CertificateSigningRequest."""

    status: _CSRStatus = msgspec.field(default_factory=_CSRStatus)


_SECRETS: Final = Resource(group="", version="v1", kind="Secret", plural="secrets", type=_Secret, namespaced=True)
_CONFIG_MAPS: Final = Resource(
    group="", version="v1", kind="ConfigMap", plural="configmaps", type=_ConfigMap, namespaced=True
)
_CSRS: Final = Resource(
    group="certificates.k8s.io",
    version="v1",
    kind="CertificateSigningRequest",
    plural="certificatesigningrequests",
    type=_CSR,
    namespaced=False,
)
#: The newest version first; which of them a server has depends on its age and its flags.
_BUNDLES: Final = tuple(
    Resource(
        group="certificates.k8s.io",
        version=version,
        kind="ClusterTrustBundle",
        plural="clustertrustbundles",
        type=_Bundle,
        namespaced=False,
    )
    for version in ("v1", "v1beta1", "v1alpha1")
)


# --- reading ------------------------------------------------------------------------------------------------------

Connect = Callable[[], Client]


class ObjectSource(Generic[T]):
    """The objects of one kind. `resources` are versions of it, of which the first one that the server has is read.
    `contents` returns what may hold certificates in an object, by key.
    """

    def __init__(
        self,
        name: str,
        connect: Connect,
        resources: Sequence[Resource[T]],
        contents: Callable[[T], Iterator[tuple[str, bytes]]],
        queries: Sequence[tuple[str, str]],
    ) -> None:
        """`queries` are namespaces, empty for all, and field selectors."""
        self.name = name
        self.kind = resources[0].plural
        self._connect = connect
        self._resources = resources
        self._contents = contents
        self._queries = queries

    async def read(self, findings: Collector) -> None:
        """See `Source.read`."""
        try:
            client = self._connect()
            for namespace, selector in self._queries:
                await self._read(client, namespace, selector, findings)
        except errors.Forbidden as error:
            raise SourceProblem(f"{_text(error)} (it needs a role that may list {self.kind})") from error
        except (errors.APIError, api.Unreachable, CredentialProblem, SetupError) as error:
            raise SourceProblem(_text(error)) from error

    async def _read(self, client: Client, namespace: str, selector: str, collector: Collector) -> None:
        count = 0
        for number, resource in enumerate(self._resources, 1):
            try:
                async for listing in client.pages(resource, namespace, page=_PAGE, field_selector=selector):
                    count += len(listing.items)
                    if count > _MAX_OBJECTS:
                        raise SourceProblem(f"there are more than {_MAX_OBJECTS} objects")
                    for obj in listing.items:
                        findings.all_of(self._inspect(resource, obj), collector)
            except errors.NotFound:
                if number == len(self._resources):
                    raise
            else:
                return

    def _inspect(self, resource: Resource[T], obj: T) -> Iterator[Finding]:
        metadata = obj.metadata
        path = f"{resource.kind} {'/'.join(filter(None, (metadata.namespace, metadata.name)))}"
        prefix = _PREFIXES[resource.kind]
        place = ((f"{prefix}_namespace", metadata.namespace), (f"{prefix}_name", metadata.name))
        for key, content in self._contents(obj):
            labels = (*place, (f"{prefix}_key", key))
            yield from inspect(path, key, labels, content)


#: What the labels of a kind begin with.
_PREFIXES: Final = {
    "Secret": "secret",
    "ConfigMap": "configmap",
    "ClusterTrustBundle": "clustertrustbundle",
    "CertificateSigningRequest": "csr",
}


def inspect(path: str, place: str, labels: Labels, content: bytes) -> Iterator[Finding]:
    """The certificates and revocation lists in a text, and its problems."""
    items = inventory.inspect(content, needs_pem=True)
    lists = revocationlists.inspect(content)
    if not items and not lists:
        items = [Item(problem="it holds no certificate" if content else "it is empty")]
    for number, item in enumerate(items, 1):
        part = f"{place} #{number}" if len(items) > 1 else place
        yield Finding(path, part.strip(), labels, item)
    for found in lists:
        yield files.revocation_list(path, place, labels, found)


def _text(error: Exception) -> str:
    return formatting.shorten(files.printable(str(error)), _MAX_MESSAGE)


# --- the sources of a cluster -------------------------------------------------------------------------------------


def sources(name: str, settings: Cluster, timer: Clock) -> Iterator[Source]:
    """One source for each kind that is read. The kubeconfig is read at every reading: others replace it."""

    def connect() -> Client:
        if settings.kubeconfig is not None:
            config = kubeconfig.load(settings.kubeconfig, context=settings.context)
        else:
            config = kubeconfig.in_cluster()
        return Client(LightTransport(config, USER_AGENT, timer))

    namespaces = settings.namespaces or ("",)
    if settings.secrets:
        queries = [(namespace, f"type={selection.type}") for namespace in namespaces for selection in settings.secrets]
        yield ObjectSource(f"{name}/secrets", connect, (_SECRETS,), _secret_contents(settings.secrets), queries)
    if settings.config_maps:
        contents = _config_map_contents(settings.config_maps)
        yield ObjectSource(
            f"{name}/configmaps", connect, (_CONFIG_MAPS,), contents, [(namespace, "") for namespace in namespaces]
        )
    if settings.trust_bundles:
        yield ObjectSource(f"{name}/clustertrustbundles", connect, _BUNDLES, _bundle_contents, [("", "")])
    if settings.csrs:
        yield ObjectSource(f"{name}/certificatesigningrequests", connect, (_CSRS,), _csr_contents, [("", "")])


def _secret_contents(selections: Sequence[SecretSelection]) -> Callable[[_Secret], Iterator[tuple[str, bytes]]]:
    keys = {selection.type: selection.keys for selection in selections}

    def contents(secret: _Secret) -> Iterator[tuple[str, bytes]]:
        patterns = keys.get(secret.type, ())
        for key, content in secret.data.items():
            # An empty ca.crt is what a controller writes that does not know the CA.
            if _matches(key, patterns) and (content or key in patterns[:1]):
                yield key, content

    return contents


def _config_map_contents(patterns: Sequence[str]) -> Callable[[_ConfigMap], Iterator[tuple[str, bytes]]]:
    def contents(config_map: _ConfigMap) -> Iterator[tuple[str, bytes]]:
        values = {key: text.encode() for key, text in config_map.data.items()} | config_map.binary_data
        for key, content in values.items():
            # Other programs have a ca.crt of another format, or none yet.
            if _matches(key, patterns) and _PEM_BEGIN in content:
                yield key, content

    return contents


def _matches(key: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(key, pattern) for pattern in patterns)


def _bundle_contents(bundle: _Bundle) -> Iterator[tuple[str, bytes]]:
    yield "", bundle.spec.trust_bundle.encode()


def _csr_contents(csr: _CSR) -> Iterator[tuple[str, bytes]]:
    if csr.status.certificate:
        yield "", csr.status.certificate
