"""Keep a file of CA certificates current: from a ConfigMap such as kube-root-ca.crt, or from ClusterTrustBundles.

What is published is written at once, so that a new CA is trusted before certificates of it appear. A CA certificate
that is no longer published stays in the file as long as a certificate in use depends on it: as long as the certificate
has a chain to it, and none to a published one. In use are the current certificates of the agent and those that its
probes found, because a program may serve the former certificate until it is restarted. So a CA may be withdrawn on the
API server at any time: on each host it disappears when the host has renewed. Certificates of other hosts are not known
here; whoever withdraws a CA waits for them.

An empty or invalid bundle never replaces a good one. If only some certificates of it cannot be parsed, the others are
added, and nothing is removed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Final

from certplane import errors, files
from certplane.agent import filegroup, kinds
from certplane.agent.certificatefacts import PEM_LABEL
from certplane.agent.filegroup import FileProblem, NewFile
from certplane.agent.settings import TrustBundle
from certplane.client.api import Client
from certplane.errors import CertplaneError
from certplane.golang import formatting, pem
from certplane.meta import resource
from certplane.x509.trust import pathcertificate, pathvalidation
from certplane.x509.trust.pathcertificate import CertificateParseError, PathCertificate
from certplane.x509.trust.pathvalidation import PathValidationError

#: The limit of Kubernetes for a ConfigMap and for a trust bundle, and of certificates in all bundles of a signer.
_MAX_BYTES: Final = 1024 * 1024
_MAX_CERTIFICATES: Final = 500
_MODE: Final = 0o644
#: Bundles are large: a page of the usual size would not fit in the memory of an agent.
_PAGE: Final = 10
#: The newest version first.
_VERSIONS: Final = (resource.later_version(kinds.CLUSTER_TRUST_BUNDLES, "v1"), kinds.CLUSTER_TRUST_BUNDLES)


class BundleProblem(CertplaneError):
    """A bundle that cannot be fetched, used or written. The text is for log and status."""


@dataclasses.dataclass(frozen=True, slots=True)
class Merged:
    """The CA certificates to write, in PEM; how many they are; how many of them are no longer published but needed, and
    how many published ones cannot be parsed.
    """

    content: bytes
    certificates: int
    retained: int = 0
    unparsable: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Updated:
    """Whether the file was written, and what it holds."""

    is_changed: bool
    bundle: Merged


# --- merging ------------------------------------------------------------------------------------------------------


def merge(on_disk: bytes, published: bytes, in_use: Sequence[bytes]) -> Merged:
    """The bundle to write. All texts are PEM; each of `in_use` is a certificate with its chain, leaf first. Raises
    BundleProblem if no certificate is published.
    """
    new, unparsable = _parse_published(published)
    new_raw = {certificate.raw for certificate in new}
    withdrawn = [old for old in _parse(on_disk)[0] if old.raw not in new_raw]
    if not unparsable and withdrawn:
        chains = [chain for chain in (_parse(text)[0] for text in in_use) if chain]
        dependent = [chain for chain in chains if not _has_path(chain, new)]
        withdrawn = [old for old in withdrawn if any(_has_path(chain, [old]) for chain in dependent)]
    kept = withdrawn[: max(0, _MAX_CERTIFICATES - len(new))]
    content = b"".join(pem.encode(PEM_LABEL, certificate.raw) for certificate in (*new, *kept))
    return Merged(content, len(new) + len(kept), len(kept), unparsable)


def _parse_published(published: bytes) -> tuple[list[PathCertificate], int]:
    if len(published) > _MAX_BYTES:
        raise BundleProblem(f"the published bundle has more than {_MAX_BYTES} bytes")
    if any(block.label != PEM_LABEL for block in pem.blocks(published)):
        # A key that was published by mistake must not be copied to more places.
        raise BundleProblem("the published bundle has PEM blocks that are no certificates")
    new, unparsable = _parse(published)
    if not new:
        raise BundleProblem("the published bundle has no certificate")
    if len(new) > _MAX_CERTIFICATES:
        raise BundleProblem(f"the published bundle has more than {_MAX_CERTIFICATES} certificates")
    return new, unparsable


def _parse(text: bytes) -> tuple[list[PathCertificate], int]:
    """The certificates in a text, without duplicates, and the number of those that cannot be parsed."""
    certificates: dict[bytes, PathCertificate] = {}
    unparsable = 0
    for block in pem.blocks(text):
        if block.label != PEM_LABEL or block.data in certificates:
            continue
        try:
            certificates[block.data] = pathcertificate.parse(block.data)
        except CertificateParseError:
            unparsable += 1
    return list(certificates.values()), unparsable


def _has_path(chain: Sequence[PathCertificate], anchors: Sequence[PathCertificate]) -> bool:
    """Whether signatures lead from the leaf of a chain to an anchor. Times and usages do not matter: a certificate that
    has expired may be in use, and depends on its CA.
    """
    reached, remaining = [chain[0]], list(chain[1:])
    # Each round uses at least one of the certificates, or ends.
    while reached:
        child = reached.pop()
        if any(child.raw == anchor.raw or _is_signed(child, anchor) for anchor in anchors):
            return True
        parents = [parent for parent in remaining if _is_signed(child, parent)]
        remaining = [other for other in remaining if other not in parents]
        reached += parents
    return False


def _is_signed(child: PathCertificate, parent: PathCertificate) -> bool:
    if child.issuer != parent.subject:
        return False
    try:
        pathvalidation.check_signature(child, parent)
    except PathValidationError:
        return False
    return True


# --- fetching and writing -----------------------------------------------------------------------------------------


async def update(client: Client, bundle: TrustBundle, in_use: Sequence[bytes]) -> Updated:
    """Fetch a bundle and write its file if that differs. Raises BundleProblem, and what a Client raises."""
    published = await fetch(client, bundle)
    try:
        on_disk = files.read_regular(bundle.path, 2 * _MAX_BYTES)
    except FileNotFoundError:
        on_disk = b""
    except OSError as error:
        # What cannot be read may hold a CA that is needed.
        raise BundleProblem(f"{bundle.path} cannot be read: {files.error_text(error)}") from error
    merged = merge(on_disk, published, in_use)
    file = NewFile(bundle.path, merged.content, _MODE)
    if filegroup.is_current(file):
        return Updated(False, merged)
    try:
        filegroup.replace([file])
    except FileProblem as error:
        raise BundleProblem(str(error)) from error
    return Updated(True, merged)


def find_problems(bundle: TrustBundle) -> list[str]:
    """What would keep `update` from writing; each problem begins with the name of a field of the configuration."""
    problem = filegroup.directory_problem(bundle.path.parent)
    if not problem and bundle.path.is_dir():
        problem = f"{bundle.path} is a directory"
    return [f"path: {problem}"] if problem else []


async def fetch(client: Client, bundle: TrustBundle) -> bytes:
    """The published bundle, in PEM. Raises BundleProblem, and what a Client raises."""
    if bundle.config_map is not None:
        place = bundle.config_map
        config_map = await client.get(kinds.CONFIG_MAPS, place.name, place.namespace)
        if place.key not in config_map.data:
            key = formatting.quote(place.key)
            raise BundleProblem(f"the ConfigMap {place.namespace}/{place.name} has no key {key}")
        return config_map.data[place.key].encode()
    if bundle.cluster_trust_bundle:
        return "\n".join(await _by_name(client, bundle.cluster_trust_bundle)).encode()
    return "\n".join(await _by_signer(client, bundle.signer_name)).encode()


async def _by_name(client: Client, name: str) -> Sequence[str]:
    problem: errors.NotFound | None = None
    for kind in _VERSIONS:
        try:
            return [(await client.get(kind, name)).spec.trust_bundle]
        except errors.NotFound as error:
            problem = error
    raise BundleProblem(f"there is no ClusterTrustBundle {name}") from problem


async def _by_signer(client: Client, signer_name: str) -> Sequence[str]:
    """The bundles of a signer, in the order of their names. Several have the same certificates while a CA is replaced;
    they are dropped as duplicates.
    """
    problem: errors.NotFound | None = None
    for kind in _VERSIONS:
        try:
            listing = await client.list(kind, page=_PAGE)
        except errors.NotFound as error:
            problem = error
            continue
        matching = [item for item in listing.items if item.spec.signer_name == signer_name]
        if not matching:
            raise BundleProblem(f"there is no ClusterTrustBundle of the signer {signer_name}")
        return [item.spec.trust_bundle for item in sorted(matching, key=lambda item: item.metadata.name)]
    raise BundleProblem("the API server has no ClusterTrustBundles") from problem


def as_chain(certificate: bytes) -> bytes:
    """A certificate in DER, such as a probe returns, as an element of `in_use`."""
    return pem.encode(PEM_LABEL, certificate)
