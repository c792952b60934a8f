"""The pure decisions of the controllers, rule by rule."""

from __future__ import annotations

import dataclasses
import datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from certplane import timestamps
from certplane.controllers.approving import kubeletclient
from certplane.controllers.cleanup import csrcleaner
from certplane.controllers.runtime import controller
from certplane.controllers.signing import signer
from certplane.resources import certificatesigningrequests as csrs
from certplane.x509.issuance import profiles

NOW = datetime.datetime(2026, 1, 31, 12, tzinfo=datetime.UTC)
KEY = ec.generate_private_key(ec.SECP256R1())
CLIENT_USAGES = ("digital signature", "client auth")


def request(common_name="system:node:n1", organizations=("system:nodes",), dns=(), emails=()):
    attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization) for organization in organizations]
    attributes.append(x509.NameAttribute(NameOID.COMMON_NAME, common_name))
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(attributes))
    names = [*map(x509.DNSName, dns), *map(x509.RFC822Name, emails)]
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(KEY, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def condition(type_, age=datetime.timedelta(0), status="True"):
    return csrs.CertificateSigningRequestCondition(
        type=type_, status=status, last_update_time=timestamps.rfc3339(NOW - age)
    )


@dataclasses.dataclass
class Case:
    """A request; by default a valid one of a node."""

    signer: str = profiles.KUBE_APISERVER_CLIENT_KUBELET
    usages: tuple[str, ...] = CLIENT_USAGES
    pkcs10: bytes = dataclasses.field(default_factory=request)
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


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        (Case(), ["selfnodeclient", "nodeclient"]),
        (Case(username="system:bootstrap:abcdef"), ["nodeclient"]),
        (Case(usages=(*CLIENT_USAGES, "key encipherment")), ["selfnodeclient", "nodeclient"]),
        (Case(usages=("client auth",)), []),
        (Case(usages=(*CLIENT_USAGES, "server auth")), []),
        (Case(signer=profiles.KUBE_APISERVER_CLIENT), []),
        (Case(signer=profiles.KUBELET_SERVING), []),
        (Case(pkcs10=request(organizations=("system:masters",))), []),
        (Case(pkcs10=request(organizations=("system:nodes", "system:masters"))), []),
        (Case(pkcs10=request(organizations=())), []),
        (Case(pkcs10=request(common_name="jane"), username="jane"), []),
        (Case(pkcs10=request(dns=("n1.example",))), []),
        (Case(pkcs10=request(emails=("a@example.com",))), []),
        (Case(conditions=(condition(csrs.APPROVED),)), []),
        (Case(conditions=(condition(csrs.DENIED),)), []),
        (Case(certificate=b"x"), []),
    ],
)
def test_recognized_requests(case, expected):
    """A request is recognized only if it is a client request of a node in every respect."""
    assert [recognizer.permission for recognizer in kubeletclient.decide(case.csr())] == expected


@pytest.mark.parametrize(
    "decide", [kubeletclient.decide, lambda csr: signer.decide(csr, profiles.BUILT_IN[csr.spec.signer_name])]
)
def test_a_request_that_cannot_be_parsed_is_retried(decide):
    """The server accepted it, so nothing is decided about it."""
    with pytest.raises(controller.Retry):
        decide(
            Case(pkcs10=b"nonsense", conditions=()).csr() if decide is kubeletclient.decide else _approved_nonsense()
        )


def _approved_nonsense():
    return Case(pkcs10=b"nonsense", conditions=(condition(csrs.APPROVED),)).csr()


SERVING = ("digital signature", "server auth")
LEGACY = "kubernetes.io/legacy-unknown"
ANYBODY = request("jane", ())


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        (Case(), signer.ActionKind.ISSUE),
        (Case(signer=profiles.KUBE_APISERVER_CLIENT, pkcs10=ANYBODY, usages=("client auth",)), signer.ActionKind.ISSUE),
        (Case(signer=profiles.KUBE_APISERVER_CLIENT, pkcs10=ANYBODY, usages=("server auth",)), signer.ActionKind.FAIL),
        (Case(signer=profiles.KUBE_APISERVER_CLIENT, pkcs10=ANYBODY, usages=()), signer.ActionKind.FAIL),
        (Case(signer=profiles.KUBELET_SERVING, pkcs10=request(dns=("n1",)), usages=SERVING), signer.ActionKind.ISSUE),
        (Case(signer=profiles.KUBELET_SERVING, usages=SERVING), signer.ActionKind.FAIL),
        (Case(signer=profiles.KUBELET_SERVING, pkcs10=request(dns=("n1",))), signer.ActionKind.FAIL),
        (
            Case(signer=profiles.KUBELET_SERVING, pkcs10=request("n1", dns=("n1",)), usages=SERVING),
            signer.ActionKind.FAIL,
        ),
        (Case(pkcs10=request("jane")), signer.ActionKind.FAIL),
        (Case(pkcs10=request(organizations=("system:masters",))), signer.ActionKind.FAIL),
        (Case(pkcs10=request(dns=("n1",))), signer.ActionKind.FAIL),
        (Case(signer=LEGACY, pkcs10=ANYBODY, usages=("code signing",)), signer.ActionKind.ISSUE),
        (Case(certificate=b"x"), signer.ActionKind.NOTHING),
        (Case(conditions=(condition(csrs.APPROVED), condition(csrs.DENIED))), signer.ActionKind.NOTHING),
        (Case(conditions=(condition(csrs.APPROVED), condition(csrs.FAILED))), signer.ActionKind.NOTHING),
        (Case(conditions=(condition(csrs.DENIED),)), signer.ActionKind.NOTHING),
    ],
)
def test_a_signer_issues_what_its_profile_allows(case, expected):
    """Approved requests are issued or fail for good; all others are left alone."""
    if not case.conditions:
        case = dataclasses.replace(case, conditions=(condition(csrs.APPROVED),))
    assert signer.decide(case.csr(), profiles.BUILT_IN[case.signer]).kind is expected


def test_nothing_is_issued_without_approval():
    """An undecided request is left alone, however good it is."""
    assert signer.decide(Case().csr(), profiles.BUILT_IN[Case().signer]).kind is signer.ActionKind.NOTHING


def test_a_signer_leaves_the_requests_of_others_alone():
    """A request for another signer is none of its business."""
    case = Case(conditions=(condition(csrs.APPROVED),)).csr()
    assert signer.decide(case, profiles.BUILT_IN[LEGACY]).kind is signer.ActionKind.NOTHING


HOUR, DAY, MINUTE = datetime.timedelta(hours=1), datetime.timedelta(days=1), datetime.timedelta(minutes=1)


@pytest.mark.parametrize(
    ("case", "is_deleted"),
    [
        (Case(age=DAY - MINUTE), False),
        (Case(age=DAY + MINUTE), True),
        (Case(age=2 * DAY, conditions=(condition(csrs.DENIED, HOUR - MINUTE),)), False),
        (Case(age=2 * DAY, conditions=(condition(csrs.DENIED, HOUR + MINUTE),)), True),
        (Case(age=2 * DAY, conditions=(condition(csrs.APPROVED, HOUR + MINUTE),)), False),
        (Case(age=2 * DAY, conditions=(condition(csrs.APPROVED, DAY + MINUTE),)), True),
        (Case(age=2 * DAY, conditions=(condition(csrs.APPROVED, HOUR - MINUTE),), certificate=b"x"), False),
        (Case(age=2 * DAY, conditions=(condition(csrs.APPROVED, HOUR + MINUTE),), certificate=b"x"), True),
        (Case(conditions=(condition(csrs.APPROVED), condition(csrs.FAILED, HOUR + MINUTE))), True),
        (Case(conditions=(condition(csrs.APPROVED), condition(csrs.FAILED, HOUR - MINUTE))), False),
        (Case(age=9 * DAY, conditions=(condition("Other", 8 * DAY),)), False),
    ],
)
def test_the_age_at_which_the_cleaner_deletes(case, is_deleted):
    """An hour after an answer, a day without one."""
    assert bool(csrcleaner.decide(case.csr(), NOW)) is is_deleted
