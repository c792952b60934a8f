"""What the approver of kubelets' serving certificates looks at, and what it remembers."""

from __future__ import annotations

import pytest

from certplane.controllers import proofs, runtime, serving, servingrules
from certplane.resources import certificatesigningrequests as csrs
from certplane.x509 import profiles
from tests import kubelets

SETTINGS = servingrules.parse({"sources": ["node"]})


def request(name="a", *conditions, signer=profiles.KUBELET_SERVING, certificate=b""):
    made = csrs.CertificateSigningRequest(spec=kubelets.spec(kubelets.pkcs10()))
    made.metadata.name, made.spec.signer_name, made.status.certificate = name, signer, certificate
    made.status.conditions = [csrs.CertificateSigningRequestCondition(type=each, status="True") for each in conditions]
    return made


@pytest.mark.parametrize(
    ("of", "expected"),
    [
        (request(), True),
        (request("a", "Noted"), True),
        (request("a", csrs.APPROVED), False),
        (request("a", csrs.DENIED), False),
        (request("a", csrs.FAILED), False),
        (request(certificate=b"x"), False),
        (request(signer=profiles.KUBE_APISERVER_CLIENT), False),
        (request(signer=profiles.KUBE_APISERVER_CLIENT_KUBELET), False),
        (request(signer="example.com/kubelet-serving"), False),
    ],
)
def test_pending_is_what_nobody_has_decided(of, expected):
    """And what is for kubelets' serving certificates: no other is ever judged."""
    assert serving.is_pending(of) is expected


class Machines:
    """Node objects, as an informer has them."""

    def __init__(self):
        self.objects = {}

    def get(self, name):
        return self.objects.get(name)


async def test_a_request_that_waits_is_concerned_by_nodes_with_its_names():
    """Until it is gone or decided; and by no other change of them."""
    machines = Machines()
    # Nothing is written, so there is no client.
    approver = serving.Approver(None, SETTINGS, serving.Sources(proofs.Claims(machines)), lambda *_: None)

    def appears(node):
        machines.objects[node.metadata.name] = node
        return sorted(approver.concerned(node))

    for each in ("a", "b", "c"):
        with pytest.raises(runtime.Retry):
            await approver.handle(request(each))
    approver.forget(request("b"), None)
    approver.forget(request("a"), request("a"))
    await approver.handle(request("c", csrs.DENIED))
    assert appears(kubelets.node("n2", ("InternalIP", "10.0.0.2"))) == []
    first = kubelets.node("n1", ("InternalIP", "10.0.0.1"))
    assert appears(first) == ["a"]
    assert appears(first) == []
    assert appears(kubelets.node("n1", ("InternalIP", "10.0.0.3"))) == ["a"]
    approver.forget(request("a"), None)
    assert appears(first) == []
