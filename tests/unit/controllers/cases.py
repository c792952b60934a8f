"""CertificateSigningRequests for the pure decisions of controllers."""

from __future__ import annotations

import dataclasses
import datetime

from certplane import signernames, timestamps
from certplane.resources import certificatesigningrequests as csrs
from tests import kubelets

NOW = datetime.datetime(2026, 1, 31, 12, tzinfo=datetime.UTC)
CLIENT_USAGES = ("digital signature", "client auth")


def pkcs10(common_name="system:node:n1", organizations=("system:nodes",), dns=(), names=()):
    """A PKCS#10 in PEM, by default for the client certificate of a node. `names` are additional general names."""
    return kubelets.pkcs10(common_name, dns, (), organizations, names=names)


def condition(type_, age=datetime.timedelta(0), status="True"):
    return csrs.CertificateSigningRequestCondition(
        type=type_, status=status, last_update_time=timestamps.rfc3339(NOW - age)
    )


@dataclasses.dataclass
class Case:
    """A request, by default a valid one of a node."""

    signer: str = signernames.KUBE_APISERVER_CLIENT_KUBELET
    usages: tuple[str, ...] = CLIENT_USAGES
    pkcs10: bytes = dataclasses.field(default_factory=pkcs10)
    username: str = "system:node:n1"
    conditions: tuple[csrs.CertificateSigningRequestCondition, ...] = ()
    certificate: bytes = b""
    age: datetime.timedelta = datetime.timedelta(0)

    def csr(self):
        csr = csrs.CertificateSigningRequest(
            spec=csrs.CertificateSigningRequestSpec(
                request=self.pkcs10, signer_name=self.signer, usages=list(self.usages), username=self.username
            ),
            status=csrs.CertificateSigningRequestStatus(conditions=list(self.conditions), certificate=self.certificate),
        )
        csr.metadata.name = "a"
        csr.metadata.creation_timestamp = timestamps.rfc3339(NOW - self.age)
        return csr
