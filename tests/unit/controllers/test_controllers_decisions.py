"""What the controllers decide: pure functions of an object and a time, rule by rule."""

from __future__ import annotations

import dataclasses
import datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from certplane import clock
from certplane.controllers import approver, cleaner, runtime, signer
from certplane.resources import certificatesigningrequests as csrs
from certplane.x509 import profiles

NOW = datetime.datetime(2026, 1, 31, 12, tzinfo=datetime.UTC)
KEY = ec.generate_private_key(ec.SECP256R1())
CLIENT_USAGES = ("digital signature", "client auth")


def request(common_name="system:node:n1", organizations=("system:nodes",), dns=(), emails=()):
    attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, each) for each in organizations]
    attributes.append(x509.NameAttribute(NameOID.COMMON_NAME, common_name))
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(attributes))
    names = [*map(x509.DNSName, dns), *map(x509.RFC822Name, emails)]
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(KEY, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def condition(type_, age=datetime.timedelta(0), status="True"):
    return csrs.CertificateSigningRequestCondition(type=type_, status=status, last_update_time=clock.rfc3339(NOW - age))


@dataclasses.dataclass
class Given:
    """What a case is about; only what differs from a good node's request is said."""

    signer: str = profiles.KUBE_APISERVER_CLIENT_KUBELET
    usages: tuple[str, ...] = CLIENT_USAGES
    pkcs10: bytes = dataclasses.field(default_factory=request)
    username: str = "system:node:n1"
    conditions: tuple[csrs.CertificateSigningRequestCondition, ...] = ()
    certificate: bytes = b""
    age: datetime.timedelta = datetime.timedelta(0)

    def csr(self):
        made = csrs.CertificateSigningRequest(
            spec=csrs.CertificateSigningRequestSpec(
                request=self.pkcs10, signer_name=self.signer, usages=list(self.usages), username=self.username
            ),
            status=csrs.CertificateSigningRequestStatus(conditions=list(self.conditions), certificate=self.certificate),
        )
        made.metadata.name = "a"
        made.metadata.creation_timestamp = clock.rfc3339(NOW - self.age)
        return made


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (Given(), ["selfnodeclient", "nodeclient"]),
        (Given(username="system:bootstrap:abcdef"), ["nodeclient"]),
        (Given(usages=(*CLIENT_USAGES, "key encipherment")), ["selfnodeclient", "nodeclient"]),
        (Given(usages=("client auth",)), []),
        (Given(usages=(*CLIENT_USAGES, "server auth")), []),
        (Given(signer=profiles.KUBE_APISERVER_CLIENT), []),
        (Given(signer=profiles.KUBELET_SERVING), []),
        (Given(pkcs10=request(organizations=("system:masters",))), []),
        (Given(pkcs10=request(organizations=("system:nodes", "system:masters"))), []),
        (Given(pkcs10=request(organizations=())), []),
        (Given(pkcs10=request(common_name="jane"), username="jane"), []),
        (Given(pkcs10=request(dns=("n1.example",))), []),
        (Given(pkcs10=request(emails=("a@example.com",))), []),
        (Given(conditions=(condition(csrs.APPROVED),)), []),
        (Given(conditions=(condition(csrs.DENIED),)), []),
        (Given(certificate=b"x"), []),
    ],
)
def test_the_approver_recognises_nodes_and_nothing_else(given, expected):
    """A request is recognised only if everything about it is a node's client request."""
    assert [each.permission for each in approver.decide(given.csr())] == expected


@pytest.mark.parametrize(
    "decide", [approver.decide, lambda of: signer.decide(of, profiles.BUILT_IN[of.spec.signer_name])]
)
def test_what_cannot_be_parsed_is_tried_again(decide):
    """It was accepted once, so somebody else is at fault: nothing is decided about it."""
    with pytest.raises(runtime.Retry):
        decide(Given(pkcs10=b"nonsense", conditions=()).csr() if decide is approver.decide else _approved_nonsense())


def _approved_nonsense():
    return Given(pkcs10=b"nonsense", conditions=(condition(csrs.APPROVED),)).csr()


SERVING = ("digital signature", "server auth")
LEGACY = "kubernetes.io/legacy-unknown"
ANYBODY = request("jane", ())


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (Given(), signer.Kind.ISSUE),
        (Given(signer=profiles.KUBE_APISERVER_CLIENT, pkcs10=ANYBODY, usages=("client auth",)), signer.Kind.ISSUE),
        (Given(signer=profiles.KUBE_APISERVER_CLIENT, pkcs10=ANYBODY, usages=("server auth",)), signer.Kind.FAIL),
        (Given(signer=profiles.KUBE_APISERVER_CLIENT, pkcs10=ANYBODY, usages=()), signer.Kind.FAIL),
        (Given(signer=profiles.KUBELET_SERVING, pkcs10=request(dns=("n1",)), usages=SERVING), signer.Kind.ISSUE),
        (Given(signer=profiles.KUBELET_SERVING, usages=SERVING), signer.Kind.FAIL),
        (Given(signer=profiles.KUBELET_SERVING, pkcs10=request(dns=("n1",))), signer.Kind.FAIL),
        (Given(signer=profiles.KUBELET_SERVING, pkcs10=request("n1", dns=("n1",)), usages=SERVING), signer.Kind.FAIL),
        (Given(pkcs10=request("jane")), signer.Kind.FAIL),
        (Given(pkcs10=request(organizations=("system:masters",))), signer.Kind.FAIL),
        (Given(pkcs10=request(dns=("n1",))), signer.Kind.FAIL),
        (Given(signer=LEGACY, pkcs10=ANYBODY, usages=("code signing",)), signer.Kind.ISSUE),
        (Given(certificate=b"x"), signer.Kind.NOTHING),
        (Given(conditions=(condition(csrs.APPROVED), condition(csrs.DENIED))), signer.Kind.NOTHING),
        (Given(conditions=(condition(csrs.APPROVED), condition(csrs.FAILED))), signer.Kind.NOTHING),
        (Given(conditions=(condition(csrs.DENIED),)), signer.Kind.NOTHING),
    ],
)
def test_a_signer_issues_what_its_profile_allows(given, expected):
    """Approved requests are issued or fail for good; all others are left alone."""
    if not given.conditions:
        given = dataclasses.replace(given, conditions=(condition(csrs.APPROVED),))
    assert signer.decide(given.csr(), profiles.BUILT_IN[given.signer]).kind is expected


def test_nothing_is_issued_without_approval():
    """An undecided request is left alone, however good it is."""
    assert signer.decide(Given().csr(), profiles.BUILT_IN[Given().signer]).kind is signer.Kind.NOTHING


def test_a_signer_leaves_the_requests_of_others_alone():
    """A request for another signer is none of its business."""
    given = Given(conditions=(condition(csrs.APPROVED),)).csr()
    assert signer.decide(given, profiles.BUILT_IN[LEGACY]).kind is signer.Kind.NOTHING


HOUR, DAY, MINUTE = datetime.timedelta(hours=1), datetime.timedelta(days=1), datetime.timedelta(minutes=1)


@pytest.mark.parametrize(
    ("given", "goes"),
    [
        (Given(age=DAY - MINUTE), False),
        (Given(age=DAY + MINUTE), True),
        (Given(age=2 * DAY, conditions=(condition(csrs.DENIED, HOUR - MINUTE),)), False),
        (Given(age=2 * DAY, conditions=(condition(csrs.DENIED, HOUR + MINUTE),)), True),
        (Given(age=2 * DAY, conditions=(condition(csrs.APPROVED, HOUR + MINUTE),)), False),
        (Given(age=2 * DAY, conditions=(condition(csrs.APPROVED, DAY + MINUTE),)), True),
        (Given(age=2 * DAY, conditions=(condition(csrs.APPROVED, HOUR - MINUTE),), certificate=b"x"), False),
        (Given(age=2 * DAY, conditions=(condition(csrs.APPROVED, HOUR + MINUTE),), certificate=b"x"), True),
        (Given(conditions=(condition(csrs.APPROVED), condition(csrs.FAILED, HOUR + MINUTE))), True),
        (Given(conditions=(condition(csrs.APPROVED), condition(csrs.FAILED, HOUR - MINUTE))), False),
        (Given(age=9 * DAY, conditions=(condition("Other", 8 * DAY),)), False),
    ],
)
def test_the_cleaner_keeps_what_may_be_needed(given, goes):
    """An hour after an answer, a day without one."""
    assert bool(cleaner.decide(given.csr(), NOW)) is goes
