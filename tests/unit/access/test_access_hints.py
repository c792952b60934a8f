"""What whoever makes a request is told of it: which signer will not sign it, why, and which one would."""

from __future__ import annotations

import dataclasses
import datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from certplane.access import hints
from certplane.x509 import csr, profiles

KEY = ec.generate_private_key(ec.SECP256R1())
SERVING = ("digital signature", "server auth")
CLIENT = ("digital signature", "client auth")


@dataclasses.dataclass
class Signer:
    profile: profiles.Profile
    problem: str = ""


def known(**own):
    found = {name: Signer(profile) for name, profile in profiles.BUILT_IN.items()}
    return found | {
        f"example.com/{name}": Signer(profiles.Profile(signer=f"example.com/{name}", **rules))
        for name, rules in own.items()
    }


def asked(common_name="jane", organizations=(), usages=CLIENT, *, dns=(), expiration=None, key=KEY, is_ca=False):
    attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, each) for each in organizations]
    attributes.append(x509.NameAttribute(NameOID.COMMON_NAME, common_name))
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(attributes))
    if dns:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(each) for each in dns]), False)
    if is_ca:
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    request = csr.parse(builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    return profiles.Asked(request, usages, "jane", expiration)


NODE = {"common_name": "system:node:n1", "organizations": ("system:nodes",)}


@pytest.mark.parametrize(
    ("name", "what", "told"),
    [
        (profiles.KUBE_APISERVER_CLIENT, asked(), []),
        (profiles.LEGACY_UNKNOWN, asked(usages=("any",)), []),
        (
            profiles.KUBE_APISERVER_CLIENT,
            asked(**NODE, usages=SERVING, dns=("n1",)),
            [
                ("kubernetes.io/kube-apiserver-client will not sign this: invalid usage for client certificate: server "
                "auth; kubernetes.io/kubelet-serving would")
            ],
        ),
        (
            profiles.KUBELET_SERVING,
            asked(**NODE),
            [
                ("kubernetes.io/kubelet-serving will not sign this: DNS or IP subjectAltName is required; "
                "kubernetes.io/kube-apiserver-client-kubelet would")
            ],
        ),
        (
            profiles.KUBE_APISERVER_CLIENT_KUBELET,
            asked(usages=("code signing",)),
            [
                ("kubernetes.io/kube-apiserver-client-kubelet will not sign this: subject organization is not "
                "system:nodes; no signer here would: certplane serve --signers declares one of your own")
            ],
        ),
        (
            "kubernetes.io/kube-apiserver-clients",
            asked(),
            [
                ('no signer here is called "kubernetes.io/kube-apiserver-clients"; '
                "kubernetes.io/kube-apiserver-client would")
            ],
        ),
        (
            "kubernetes.io/kubelet-servin",
            asked(usages=("code signing",)),
            [
                ('no signer here is called "kubernetes.io/kubelet-servin"; did you mean '
                "kubernetes.io/kubelet-serving?")
            ],
        ),
        ("example.org/other", asked(usages=("any",)), ['no signer here is called "example.org/other"']),
    ],
)  # fmt: skip
def test_hints(name, what, told):
    """Nothing where all is well; else what is wrong, and the nearest signer that would do."""
    assert list(hints.hints(name, what, known(), lambda of: of.problem)) == told


def test_a_signer_that_wants_more_usages_is_named_with_them():
    """That of clients gives no names of nodes, and that of kubelets takes certain sets of usages only."""
    signers = known()
    clients = signers[profiles.KUBE_APISERVER_CLIENT]
    clients.profile = dataclasses.replace(clients.profile, reserved=lambda of: iter([f"{of.request.common_name}: no"]))
    node = asked(**NODE, usages=("client auth",))
    assert list(hints.hints(profiles.KUBE_APISERVER_CLIENT, node, signers, lambda of: of.problem)) == [
        (
            "kubernetes.io/kube-apiserver-client will not sign this: system:node:n1: no; "
            "kubernetes.io/kube-apiserver-client-kubelet would, with the usages client auth, digital signature"
        )
    ]


def test_a_key_that_no_signer_takes_is_told_of():
    """It would become Failed once it is approved."""
    weak = asked(key=rsa.generate_private_key(65537, 1024))
    found = list(hints.hints(profiles.KUBE_APISERVER_CLIENT, weak, known(), lambda of: of.problem))
    assert found == [
        (
            "kubernetes.io/kube-apiserver-client will not sign this: the public key is refused: the RSA modulus has "
            "1024 bits, and 2048 are needed"
        )
    ]


def test_whoever_asks_for_a_ca_is_told_that_none_will_come():
    """Kubernetes' signers ignore the wish; users' own refuse it, or grant it."""
    found = list(hints.hints(profiles.KUBE_APISERVER_CLIENT, asked(is_ca=True), known(), lambda of: of.problem))
    assert found == ["kubernetes.io/kube-apiserver-client issues no CA certificates: this will not become one"]
    signers = known(ca={"authority": True}, leaf={})
    assert list(hints.hints("example.com/ca", asked(is_ca=True), signers, lambda of: of.problem)) == []
    (refused,) = hints.hints("example.com/leaf", asked(is_ca=True), signers, lambda of: of.problem)
    assert "CA certificate" in refused


def test_a_signer_without_a_key_is_told_of():
    """Before anybody waits for it."""
    signers = known()
    signers[profiles.KUBE_APISERVER_CLIENT].problem = "no certificate and key to sign with"
    found = list(hints.hints(profiles.KUBE_APISERVER_CLIENT, asked(), signers, lambda of: of.problem))
    assert found == ["kubernetes.io/kube-apiserver-client cannot sign now: no certificate and key to sign with"]


def test_a_lifetime_that_is_cut_is_told_of():
    """With what is given instead."""
    signers = known(short={"longest": datetime.timedelta(hours=1)})
    found = list(hints.hints("example.com/short", asked(expiration=7200), signers, lambda of: of.problem))
    assert found == ["example.com/short gives 3600 seconds at the most"]


def test_users_own_signers_are_proposed():
    """As any other, if they say what they are for."""
    signers = known(web={"usages": SERVING, "required_usages": ("server auth",)}, any={})
    found = list(hints.hints("example.com/wev", asked(usages=SERVING, dns=("a",)), signers, lambda of: of.problem))
    assert found == ['no signer here is called "example.com/wev"; example.com/web would']
