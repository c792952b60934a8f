"""The limits of a profile: names and lifetimes that are just permitted, and the texts for what is not."""

from __future__ import annotations

import datetime

import pytest

from certplane import signernames
from certplane.x509.issuance import profiles
from certplane.x509.issuance.profiles import CARequests
from certplane.x509.pkcs10 import certificaterequest
from certplane.x509.tbs import template
from tests.unit.x509 import material


def violations(rules, request=None, usages=("server auth",), expiration=None):
    request = request or material.request()
    requested = profiles.RequestedCertificate(request.request, usages, "jane", expiration)
    return list(profiles.violations(profiles.Profile(signer="example.com/a", **rules), requested))


@pytest.mark.parametrize(("count", "permitted"), [(0, True), (3, True), (4, False)])
def test_the_maximum_number_of_names_is_permitted(count, permitted):
    """Names of all kinds count together."""
    request = material.request(dns=["a.example"][:count], addresses=[f"10.0.0.{number}" for number in range(count - 1)])
    expected = [] if permitted else [f"there are {count} subjectAltNames; the maximum is 3"]
    assert violations({"max_names": 3}, request) == expected


@pytest.mark.parametrize(("seconds", "permitted"), [(3599, False), (3600, True), (None, True)])
def test_the_minimum_lifetime_is_permitted(seconds, permitted):
    """A request without a lifetime gets that of the signer."""
    expected = [] if permitted else ["expirationSeconds is 3599; the minimum is 3600"]
    assert violations({"min_lifetime": datetime.timedelta(hours=1)}, expiration=seconds) == expected


@pytest.mark.parametrize(
    ("bits", "permitted"), [("RSA-2048", True), ("RSA-2047", True), ("RSA-2049", False), ("RSA-4096", False)]
)
def test_the_minimum_size_of_rsa_keys_is_permitted(bits, permitted):
    """Of a key with 2048 bits."""
    request = material.request(material.key("RSA-2048"))
    expected = [] if permitted else [f"the key is RSA-2048; the signer permits {bits}"]
    assert violations({"keys": (bits,)}, request) == expected


def test_an_asterisk_matches_every_character():
    """A line break as well: the pattern must not depend on what a name contains."""
    request = material.request(common_name="a\nb")
    assert violations({"common_name": ("a*b",)}, request) == []
    assert violations({"common_name": ("a*",)}, request) == []
    assert violations({"common_name": ("a",)}, request) != []


@pytest.mark.parametrize(
    ("kind", "options", "text"),
    [
        ("dns", {"dns": ["a.example"]}, "DNS subjectAltNames are not allowed"),
        ("ip", {"addresses": ["10.0.0.1", "10.0.0.2"]}, "IP subjectAltNames are not allowed"),
    ],
)
def test_names_of_a_kind_that_is_not_permitted_are_reported_once(kind, options, text):
    """The text is that of kube-controller-manager. A kind without a limit is not reported."""
    assert violations({kind: ()}, material.request(**options)) == [text]
    assert violations({kind: None}, material.request(**options)) == []
    assert violations({kind: ()}) == []


def test_ipv4_networks_do_not_contain_mapped_addresses():
    """An address is issued as it was requested, so it is compared so."""
    request = material.request(addresses=["::ffff:10.0.0.1"])
    assert violations({"ip": ("::ffff:0:0/96",)}, request) == []
    assert len(violations({"ip": ("10.0.0.0/8",)}, request)) == 1


@pytest.mark.parametrize(
    ("sets", "usages", "permitted"),
    [
        ((("a", "b"),), ("b", "a"), True),
        ((("a", "b"),), ("a", "b", "a"), True),
        ((("a", "b"),), ("a",), False),
        ((("a", "b"),), ("a", "b", "c"), False),
        ((("a", "b"), ("a",)), ("a",), True),
    ],
)
def test_usages_have_to_be_one_of_the_sets(sets, usages, permitted):
    """In any order, and neither fewer nor more."""
    expected = [] if permitted else ["usages did not match [a b]"]
    assert violations({"usage_sets": tuple(map(frozenset, sets))}, usages=usages) == expected


def ca_request():
    attributes = material.requested(template.basic_constraints(ca=True))
    return certificaterequest.verified(material.odd_request(attributes=attributes))


@pytest.mark.parametrize(
    ("ca_requests", "expected"),
    [
        (CARequests.ALLOW, []),
        (CARequests.IGNORE, []),
        (CARequests.REFUSE, ["a CA certificate is not allowed"]),
    ],
)
def test_a_request_for_a_ca_certificate_is_allowed_ignored_or_refused(ca_requests, expected):
    """IGNORE: an end-entity certificate is issued."""
    assert violations({"ca_requests": ca_requests}, ca_request()) == expected


@pytest.mark.parametrize("signer", [signernames.KUBE_APISERVER_CLIENT, signernames.LEGACY_UNKNOWN])
def test_built_in_signers_ignore_that_a_ca_certificate_was_requested(signer):
    """As kube-controller-manager does."""
    requested = profiles.RequestedCertificate(ca_request().request, ("client auth",))
    assert profiles.permits(profiles.BUILT_IN[signer], requested)


@pytest.mark.parametrize(
    ("organizations", "permitted"),
    [(("x", "y"), True), (("y", "x"), False), (("x",), False), (("x", "y", "y"), False), ((), False)],
)
def test_the_exact_organizations_are_a_list(organizations, permitted):
    """Each once, and in this order."""
    expected = [] if permitted else ["subject organization is not x, y"]
    assert violations({"exact_organizations": ("x", "y")}, material.request(organizations=organizations)) == expected


@pytest.mark.parametrize(
    ("signer", "expected"),
    [
        (
            signernames.KUBE_APISERVER_CLIENT_KUBELET,
            [
                "subject organization is not system:nodes",
                "DNS subjectAltNames are not allowed",
                "IP subjectAltNames are not allowed",
                "subject common name does not begin with system:node:",
                "usages did not match [client auth digital signature key encipherment]",
            ],
        ),
        (
            signernames.KUBELET_SERVING,
            [
                "subject organization is not system:nodes",
                "usages did not match [digital signature key encipherment server auth]",
                "subject common name does not begin with system:node:",
            ],
        ),
    ],
)
def test_the_violations_of_a_signer_for_kubelets_have_a_fixed_order(signer, expected):
    """That of kube-controller-manager, whose Failed condition has the first one."""
    request = material.request(dns=["n1"], addresses=["10.0.0.1"])
    requested = profiles.RequestedCertificate(request.request, ("code signing",))
    assert list(profiles.violations(profiles.BUILT_IN[signer], requested)) == expected
