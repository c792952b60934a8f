"""Warnings on a request: which signer will not sign it, why, and which one would."""

from __future__ import annotations

import dataclasses
import datetime

import pytest
from cryptography import x509

from certplane import signernames
from certplane.access import csrwarnings
from certplane.x509.issuance import profiles
from tests.unit.x509 import material

SERVING = ("digital signature", "server auth")
CLIENT = ("digital signature", "client auth")


@dataclasses.dataclass
class Signer:
    profile: profiles.Profile
    problem: str = ""


def known_signers(**custom):
    built_in = {name: Signer(profile) for name, profile in profiles.BUILT_IN.items()}
    return built_in | {
        f"example.com/{name}": Signer(profiles.Profile(signer=f"example.com/{name}", **rules))
        for name, rules in custom.items()
    }


def requested(common_name="jane", organizations=(), usages=CLIENT, *, dns=(), expiration=None, key=None, is_ca=False):
    extensions = [x509.BasicConstraints(ca=True, path_length=None)] if is_ca else []
    verified = material.request(key, common_name, organizations, dns, extensions=extensions)
    return profiles.RequestedCertificate(verified.request, usages, "jane", expiration)


def find_warnings(name, requested, signers, ca_remaining=None):
    def availability(signer):
        return csrwarnings.Availability(signer.problem, ca_remaining)

    return list(csrwarnings.find_warnings(name, requested, signers, availability))


NODE = {"common_name": "system:node:n1", "organizations": ("system:nodes",)}


@pytest.mark.parametrize(
    ("name", "sent", "warnings"),
    [
        (signernames.KUBE_APISERVER_CLIENT, requested(), []),
        (signernames.LEGACY_UNKNOWN, requested(usages=("any",)), []),
        (
            signernames.KUBE_APISERVER_CLIENT,
            requested(**NODE, usages=SERVING, dns=("n1",)),
            [
                ("signer kubernetes.io/kube-apiserver-client will not sign this request: invalid usage for client "
                "certificate: server auth; use signer kubernetes.io/kubelet-serving instead")
            ],
        ),
        (
            signernames.KUBELET_SERVING,
            requested(**NODE),
            [
                ("signer kubernetes.io/kubelet-serving will not sign this request: DNS or IP subjectAltName is "
                "required; use signer kubernetes.io/kube-apiserver-client-kubelet instead")
            ],
        ),
        (
            signernames.KUBE_APISERVER_CLIENT_KUBELET,
            requested(usages=("code signing",)),
            [
                ("signer kubernetes.io/kube-apiserver-client-kubelet will not sign this request: subject organization "
                "is not system:nodes; no signer of this server accepts it; define one with certplane serve --signers")
            ],
        ),
        (
            "kubernetes.io/kube-apiserver-clients",
            requested(),
            [
                ('unknown signer "kubernetes.io/kube-apiserver-clients"; '
                'did you mean "kubernetes.io/kube-apiserver-client"?')
            ],
        ),
        (
            "kubernetes.io/kubelet-servin",
            requested(usages=("code signing",)),
            [
                ('unknown signer "kubernetes.io/kubelet-servin"; did you mean "kubernetes.io/kubelet-serving"?')
            ],
        ),
        (
            "example.org/other",
            requested(usages=("any",)),
            [
                ('unknown signer "example.org/other"; define it with certplane serve --signers, or run a controller '
                "that signs for it")
            ],
        ),
    ],
)  # fmt: skip
def test_warnings(name, sent, warnings):
    """A warning has the violation, and the closest signer that would sign. There is none if the signer would sign."""
    assert find_warnings(name, sent, known_signers()) == warnings


def test_the_same_signer_with_more_usages():
    """It is not proposed instead of itself."""
    node = requested(**NODE, usages=("server auth",), dns=("n1",))
    (warning,) = find_warnings(signernames.KUBELET_SERVING, node, known_signers())
    assert warning.endswith("; request the usages digital signature, server auth")


def test_a_signer_that_needs_more_usages_is_proposed_with_them():
    """The signer for kubelets accepts certain sets of usages only."""
    signers = known_signers()
    clients = signers[signernames.KUBE_APISERVER_CLIENT]
    clients.profile = dataclasses.replace(
        clients.profile, reserved_names=lambda requested: iter([f"{requested.pkcs10.common_name}: no"])
    )
    node = requested(**NODE, usages=("client auth",))
    assert find_warnings(signernames.KUBE_APISERVER_CLIENT, node, signers) == [
        (
            "signer kubernetes.io/kube-apiserver-client will not sign this request: system:node:n1: no; use signer "
            "kubernetes.io/kube-apiserver-client-kubelet instead, with the usages client auth, digital signature"
        )
    ]


def test_a_weak_key_causes_a_warning():
    """The request would fail after its approval."""
    weak = requested(key=material.key("RSA-1024"))
    warnings = find_warnings(signernames.KUBE_APISERVER_CLIENT, weak, known_signers())
    assert warnings == [
        (
            "signer kubernetes.io/kube-apiserver-client will not sign this request: weak public key: the RSA modulus "
            "has 1024 bits; the minimum is 2048; use another key"
        )
    ]


def test_a_request_for_a_ca_certificate_causes_a_warning():
    """Kubernetes' signers ignore the CA constraint; custom signers refuse or grant it."""
    warnings = find_warnings(signernames.KUBE_APISERVER_CLIENT, requested(is_ca=True), known_signers())
    assert warnings == [
        "signer kubernetes.io/kube-apiserver-client does not issue CA certificates; the certificate will not be a CA"
    ]
    signers = known_signers(ca={"ca_requests": profiles.CARequests.ALLOW}, leaf={})
    assert find_warnings("example.com/ca", requested(is_ca=True), signers) == []
    (refused,) = find_warnings("example.com/leaf", requested(is_ca=True), signers)
    assert "CA certificate" in refused


def test_a_signer_without_a_key_causes_a_warning():
    """At the creation of the request."""
    signers = known_signers()
    signers[signernames.KUBE_APISERVER_CLIENT].problem = "no certificate and key to sign with"
    warnings = find_warnings(signernames.KUBE_APISERVER_CLIENT, requested(), signers)
    assert warnings == [
        "signer kubernetes.io/kube-apiserver-client cannot sign at present: no certificate and key to sign with"
    ]


def test_a_shortened_lifetime_causes_a_warning():
    """The warning has the maximum."""
    signers = known_signers(short={"max_lifetime": datetime.timedelta(hours=1)})
    warnings = find_warnings("example.com/short", requested(expiration=7200), signers)
    assert warnings == ["signer example.com/short: maximum lifetime is 1h; the request will be shortened"]


@pytest.mark.parametrize(
    ("expiration", "remaining", "warned"),
    [
        (None, datetime.timedelta(hours=24), False),
        (None, datetime.timedelta(hours=23, minutes=54, seconds=30), True),
        (7200, datetime.timedelta(hours=2), False),
        (7200, datetime.timedelta(hours=1), True),
        (3600, datetime.timedelta(hours=2), False),
        (86400 * 30, datetime.timedelta(hours=25), False),
    ],
)
def test_a_ca_that_ends_within_the_lifetime_causes_a_warning(expiration, remaining, warned):
    """The lifetime is what is requested, or the default, but not more than the maximum."""
    signers = known_signers(
        web={"default_lifetime": datetime.timedelta(hours=24), "max_lifetime": datetime.timedelta(hours=25)}
    )
    warnings = find_warnings("example.com/web", requested(expiration=expiration), signers, remaining)
    assert warned == any("its CA ends in" in warning for warning in warnings)


def test_the_warning_about_the_end_of_the_ca_has_both_durations():
    """What is left, and what would be granted; without a default, that is the maximum."""
    signers = known_signers(web={"max_lifetime": datetime.timedelta(days=365)})
    remaining = datetime.timedelta(days=4, hours=23, minutes=59, seconds=59)
    assert [
        "signer example.com/web: its CA ends in 119h59m; the certificate will end with it, not after 8760h"
    ] == find_warnings("example.com/web", requested(), signers, remaining)


def test_custom_signers_are_proposed():
    """If their usages are restricted."""
    signers = known_signers(web={"usages": SERVING, "required_usages": ("server auth",)}, any={})
    warnings = find_warnings("example.com/wev", requested(usages=SERVING, dns=("a",)), signers)
    assert warnings == ['unknown signer "example.com/wev"; did you mean "example.com/web"?']
