"""Warnings on a request: which signer will not sign it, why, and which one would."""

from __future__ import annotations

import dataclasses
import datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from certplane.access import hints
from certplane.x509.issuance import profiles
from certplane.x509.pkcs10 import certificaterequest

KEY = ec.generate_private_key(ec.SECP256R1())
SERVING = ("digital signature", "server auth")
CLIENT = ("digital signature", "client auth")


@dataclasses.dataclass
class Signer:
    profile: profiles.Profile
    problem: str = ""


def known_signers(**declared):
    built_in = {name: Signer(profile) for name, profile in profiles.BUILT_IN.items()}
    return built_in | {
        f"example.com/{name}": Signer(profiles.Profile(signer=f"example.com/{name}", **rules))
        for name, rules in declared.items()
    }


def asked(common_name="jane", organizations=(), usages=CLIENT, *, dns=(), expiration=None, key=KEY, is_ca=False):
    attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, name) for name in organizations]
    attributes.append(x509.NameAttribute(NameOID.COMMON_NAME, common_name))
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(attributes))
    if dns:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in dns]), False)
    if is_ca:
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    request = certificaterequest.parse(builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    return profiles.RequestedCertificate(request, usages, "jane", expiration)


def find_hints(name, asked, signers):
    return list(hints.find_hints(name, asked, signers, lambda signer: signer.problem))


NODE = {"common_name": "system:node:n1", "organizations": ("system:nodes",)}


@pytest.mark.parametrize(
    ("name", "sent", "warnings"),
    [
        (profiles.KUBE_APISERVER_CLIENT, asked(), []),
        (profiles.LEGACY_UNKNOWN, asked(usages=("any",)), []),
        (
            profiles.KUBE_APISERVER_CLIENT,
            asked(**NODE, usages=SERVING, dns=("n1",)),
            [
                ("signer kubernetes.io/kube-apiserver-client will not sign this request: invalid usage for client "
                "certificate: server auth; use signer kubernetes.io/kubelet-serving instead")
            ],
        ),
        (
            profiles.KUBELET_SERVING,
            asked(**NODE),
            [
                ("signer kubernetes.io/kubelet-serving will not sign this request: DNS or IP subjectAltName is "
                "required; use signer kubernetes.io/kube-apiserver-client-kubelet instead")
            ],
        ),
        (
            profiles.KUBE_APISERVER_CLIENT_KUBELET,
            asked(usages=("code signing",)),
            [
                ("signer kubernetes.io/kube-apiserver-client-kubelet will not sign this request: subject organization "
                "is not system:nodes; no signer of this server accepts it; declare one with certplane serve --signers")
            ],
        ),
        (
            "kubernetes.io/kube-apiserver-clients",
            asked(),
            [
                ('unknown signer "kubernetes.io/kube-apiserver-clients"; '
                'did you mean "kubernetes.io/kube-apiserver-client"?')
            ],
        ),
        (
            "kubernetes.io/kubelet-servin",
            asked(usages=("code signing",)),
            [
                ('unknown signer "kubernetes.io/kubelet-servin"; did you mean "kubernetes.io/kubelet-serving"?')
            ],
        ),
        (
            "example.org/other",
            asked(usages=("any",)),
            [
                ('unknown signer "example.org/other"; declare it with certplane serve --signers, or run a controller '
                "that signs for it")
            ],
        ),
    ],
)  # fmt: skip
def test_hints(name, sent, warnings):
    """None if the signer would sign; else what is wrong, and the closest signer that would sign."""
    assert find_hints(name, sent, known_signers()) == warnings


def test_the_same_signer_with_more_usages():
    """It is not proposed instead of itself."""
    node = asked(**NODE, usages=("server auth",), dns=("n1",))
    (warning,) = find_hints(profiles.KUBELET_SERVING, node, known_signers())
    assert warning.endswith("; request the usages digital signature, server auth")


def test_a_signer_that_needs_more_usages_is_proposed_with_them():
    """The signer for kubelets accepts certain sets of usages only."""
    signers = known_signers()
    clients = signers[profiles.KUBE_APISERVER_CLIENT]
    clients.profile = dataclasses.replace(
        clients.profile, reserved_names=lambda asked: iter([f"{asked.request.common_name}: no"])
    )
    node = asked(**NODE, usages=("client auth",))
    assert find_hints(profiles.KUBE_APISERVER_CLIENT, node, signers) == [
        (
            "signer kubernetes.io/kube-apiserver-client will not sign this request: system:node:n1: no; use signer "
            "kubernetes.io/kube-apiserver-client-kubelet instead, with the usages client auth, digital signature"
        )
    ]


def test_a_weak_key_is_warned_of():
    """The request would become Failed after its approval."""
    weak = asked(key=rsa.generate_private_key(65537, 1024))
    warnings = find_hints(profiles.KUBE_APISERVER_CLIENT, weak, known_signers())
    assert warnings == [
        (
            "signer kubernetes.io/kube-apiserver-client will not sign this request: weak public key: the RSA modulus "
            "has 1024 bits; the minimum is 2048; use another key"
        )
    ]


def test_a_request_for_a_ca_is_warned_of():
    """Kubernetes' signers ignore the CA constraint; declared signers refuse or grant it."""
    warnings = find_hints(profiles.KUBE_APISERVER_CLIENT, asked(is_ca=True), known_signers())
    assert warnings == [
        "signer kubernetes.io/kube-apiserver-client does not issue CA certificates; the certificate will not be a CA"
    ]
    signers = known_signers(ca={"allow_ca": True}, leaf={})
    assert find_hints("example.com/ca", asked(is_ca=True), signers) == []
    (refused,) = find_hints("example.com/leaf", asked(is_ca=True), signers)
    assert "CA certificate" in refused


def test_a_signer_without_a_key_is_warned_of():
    """At the creation of the request."""
    signers = known_signers()
    signers[profiles.KUBE_APISERVER_CLIENT].problem = "no certificate and key to sign with"
    warnings = find_hints(profiles.KUBE_APISERVER_CLIENT, asked(), signers)
    assert warnings == [
        "signer kubernetes.io/kube-apiserver-client cannot sign at present: no certificate and key to sign with"
    ]


def test_a_shortened_lifetime_is_warned_of():
    """The warning has the maximum."""
    signers = known_signers(short={"max_lifetime": datetime.timedelta(hours=1)})
    warnings = find_hints("example.com/short", asked(expiration=7200), signers)
    assert warnings == ["signer example.com/short: maximum lifetime is 1h; the request will be shortened"]


def test_declared_signers_are_proposed():
    """If they restrict usages."""
    signers = known_signers(web={"usages": SERVING, "required_usages": ("server auth",)}, any={})
    warnings = find_hints("example.com/wev", asked(usages=SERVING, dns=("a",)), signers)
    assert warnings == ['unknown signer "example.com/wev"; did you mean "example.com/web"?']
