"""The approver of client certificates of kubelets: which requests it recognizes."""

from __future__ import annotations

import pytest
from cryptography import x509

from certplane import signernames
from certplane.controllers.approving import kubeletclient
from certplane.controllers.runtime import controller
from certplane.resources import certificatesigningrequests as csrs
from tests.unit.controllers import cases


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        (cases.Case(), ["selfnodeclient", "nodeclient"]),
        (cases.Case(username="system:bootstrap:abcdef"), ["nodeclient"]),
        (cases.Case(usages=(*cases.CLIENT_USAGES, "key encipherment")), ["selfnodeclient", "nodeclient"]),
        (cases.Case(usages=("client auth",)), []),
        (cases.Case(usages=(*cases.CLIENT_USAGES, "server auth")), []),
        (cases.Case(signer=signernames.KUBE_APISERVER_CLIENT), []),
        (cases.Case(signer=signernames.KUBELET_SERVING), []),
        (cases.Case(pkcs10=cases.pkcs10(organizations=("system:masters",))), []),
        (cases.Case(pkcs10=cases.pkcs10(organizations=("system:nodes", "system:masters"))), []),
        (cases.Case(pkcs10=cases.pkcs10(organizations=())), []),
        (cases.Case(pkcs10=cases.pkcs10(common_name="jane"), username="jane"), []),
        (cases.Case(pkcs10=cases.pkcs10(dns=("n1.example",))), []),
        (cases.Case(pkcs10=cases.pkcs10(names=(x509.RFC822Name("a@example.com"),))), []),
        (cases.Case(conditions=(cases.condition(csrs.APPROVED),)), []),
        (cases.Case(conditions=(cases.condition(csrs.DENIED),)), []),
        (cases.Case(certificate=b"x"), []),
    ],
)
def test_client_requests_of_nodes_are_recognized(case, expected):
    """With the permissions that can approve them. No other request is recognized."""
    assert [recognizer.permission for recognizer in kubeletclient.decide(case.csr())] == expected


def test_a_request_that_cannot_be_parsed_is_retried():
    """The server accepted it, so nothing is decided about it."""
    with pytest.raises(controller.Retry):
        kubeletclient.decide(cases.Case(pkcs10=b"nonsense").csr())
