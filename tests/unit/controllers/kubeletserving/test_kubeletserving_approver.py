"""Which requests the kubelet-serving approver handles, and which it queues again."""

from __future__ import annotations

import pytest

from certplane import signernames
from certplane.controllers.approving.kubeletserving import approver, evidence, rules
from certplane.controllers.runtime import controller
from certplane.resources import certificatesigningrequests as csrs
from tests import kubelets
from tests.unit.controllers.kubeletserving import nodeinformer

SETTINGS = rules.parse({"sources": ["node"]})


def request(name="a", *conditions, signer=signernames.KUBELET_SERVING, certificate=b""):
    csr = csrs.CertificateSigningRequest(spec=kubelets.spec(kubelets.pkcs10()))
    csr.metadata.name, csr.spec.signer_name, csr.status.certificate = name, signer, certificate
    csr.status.conditions = [csrs.CertificateSigningRequestCondition(type=type_, status="True") for type_ in conditions]
    return csr


@pytest.mark.parametrize(
    ("csr", "expected"),
    [
        (request(), True),
        (request("a", "Noted"), True),
        (request("a", csrs.APPROVED), False),
        (request("a", csrs.DENIED), False),
        (request("a", csrs.FAILED), False),
        (request(certificate=b"x"), False),
        (request(signer=signernames.KUBE_APISERVER_CLIENT), False),
        (request(signer=signernames.KUBE_APISERVER_CLIENT_KUBELET), False),
        (request(signer="example.com/kubelet-serving"), False),
    ],
)
def test_pending_requests(csr, expected):
    """Those for the kubelet-serving signer that are not decided; no others are evaluated."""
    assert approver.is_pending(csr) is expected


async def test_a_node_affects_the_pending_requests_with_its_names():
    """Requests that are deleted or decided are not affected, and other changes of the Node affect no request."""
    informer = nodeinformer.NodeInformer()
    # Nothing is written, so there is no client.
    reconciler = approver.Approver(None, SETTINGS, approver.Sources(evidence.NodeClaims(informer)), lambda *_: None)

    def affected_by(node):
        informer.put(node)
        return sorted(reconciler.affected_csrs(node))

    for name in ("a", "b", "c"):
        with pytest.raises(controller.Retry):
            await reconciler.handle(request(name))
    reconciler.forget(request("b"), None)
    reconciler.forget(request("a"), request("a"))
    await reconciler.handle(request("c", csrs.DENIED))
    assert affected_by(kubelets.node("n2", ("InternalIP", "10.0.0.2"))) == []
    first = kubelets.node("n1", ("InternalIP", "10.0.0.1"))
    assert affected_by(first) == ["a"]
    assert affected_by(first) == []
    assert affected_by(kubelets.node("n1", ("InternalIP", "10.0.0.3"))) == ["a"]
    reconciler.forget(request("a"), None)
    assert affected_by(first) == []
