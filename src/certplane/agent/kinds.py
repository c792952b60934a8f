"""The kinds that the agent reads and writes, with the fields that it uses.

The complete declarations, in `resources`, bring along what a server needs: validation, defaults, signers. An agent runs
on every node and has to be small; with them it would need a tenth more memory.
"""

from __future__ import annotations

from typing import Final

from msgspec import field

from certplane.meta import objects
from certplane.meta.resource import Resource

APPROVED: Final = "Approved"
DENIED: Final = "Denied"
FAILED: Final = "Failed"


class Condition(objects.Type):
    """A condition of a CSR."""

    type: str = ""
    status: str = ""
    reason: str = ""
    message: str = ""


class CSRSpec(objects.Type):
    """What is requested. `expiration_seconds` None: the signer chooses."""

    request: bytes | None = None
    signer_name: str = ""
    expiration_seconds: int | None = None
    usages: list[str] = field(default_factory=list)


class CSRStatus(objects.Type):
    """The decision, and the certificate."""

    conditions: list[Condition] = field(default_factory=list)
    certificate: bytes = b""


class CSR(objects.Object):
    """A CertificateSigningRequest."""

    spec: CSRSpec = field(default_factory=CSRSpec)
    status: CSRStatus = field(default_factory=CSRStatus)

    def condition(self, type_: str) -> Condition | None:
        """The condition of a type; None if there is none."""
        return next((condition for condition in self.status.conditions if condition.type == type_), None)


class ConfigMap(objects.Object):
    """A ConfigMap."""

    data: dict[str, str] = field(default_factory=dict)


class ClusterTrustBundleSpec(objects.Type):
    """CA certificates in PEM, and the signer whose they are, if any."""

    signer_name: str = ""
    trust_bundle: str = ""


class ClusterTrustBundle(objects.Object):
    """A ClusterTrustBundle."""

    spec: ClusterTrustBundleSpec = field(default_factory=ClusterTrustBundleSpec)


CSRS: Final = Resource(
    group="certificates.k8s.io",
    version="v1",
    kind="CertificateSigningRequest",
    plural="certificatesigningrequests",
    type=CSR,
    namespaced=False,
)
CONFIG_MAPS: Final = Resource(
    group="", version="v1", kind="ConfigMap", plural="configmaps", type=ConfigMap, namespaced=True
)
CLUSTER_TRUST_BUNDLES: Final = Resource(
    group="certificates.k8s.io",
    version="v1beta1",
    kind="ClusterTrustBundle",
    plural="clustertrustbundles",
    type=ClusterTrustBundle,
    namespaced=False,
)
