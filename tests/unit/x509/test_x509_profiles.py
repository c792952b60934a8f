"""Profiles of signers: their rules and patterns."""

from __future__ import annotations

import datetime
import ipaddress

import pytest
from cryptography import x509

from certplane import signernames
from certplane.x509.issuance import profiles
from certplane.x509.issuance.profiles import CARequests
from tests.unit.x509 import material

_GENERAL = {
    "dns": x509.DNSName,
    "email": x509.RFC822Name,
    "uri": x509.UniformResourceIdentifier,
    "ip": lambda text: x509.IPAddress(ipaddress.ip_address(text)),
}


def request(common_name="a", organizations=(), key=None, *, is_ca=False, **names):
    general = [_GENERAL[kind](value) for kind, values in names.items() for value in values]
    extensions = [x509.BasicConstraints(ca=True, path_length=None)] if is_ca else []
    verified = material.request(key, common_name, organizations, names=general, extensions=extensions)
    return verified.request


def violations(profile, pkcs10=None, usages=("server auth",), username="jane", expiration=None):
    requested = profiles.RequestedCertificate(pkcs10 or request(), usages, username, expiration)
    return list(profiles.violations(profiles.Profile(signer="example.com/a", **profile), requested))


def test_an_empty_profile_permits_everything_except_ca_certificates():
    """They must be allowed explicitly."""
    everything = request("x", ("o",), dns=["a.b", "*.c"], email=["a@b"], ip=["10.0.0.1"], uri=["spiffe://a/b"])
    assert violations({}, everything) == []
    assert violations({}, request(is_ca=True)) == ["a CA certificate is not allowed"]
    assert violations({"ca_requests": CARequests.ALLOW}, request(is_ca=True)) == []


@pytest.mark.parametrize(
    ("key", "allowed", "is_permitted"),
    [
        (material.key(), ("ECDSA-P256",), True),
        (material.key(), ("ECDSA-P384", "RSA-2048", "Ed25519"), False),
        (material.key("P-384"), ("ECDSA-P384",), True),
        (material.key("Ed25519"), ("Ed25519",), True),
        (material.key("RSA-2048"), ("RSA-2048",), True),
        (material.key("RSA-2048"), ("RSA-3072",), False),
        (material.key(), (), False),
    ],
)
def test_permitted_keys(key, allowed, is_permitted):
    """By type; RSA by its minimum size."""
    assert (violations({"keys": allowed}, request(key=key)) == []) is is_permitted


def test_the_error_has_the_type_of_the_key():
    """The permitted types follow."""
    assert violations({"keys": ("RSA-3072", "Ed25519")}) == [
        "the key is ECDSA-P256; the signer permits RSA-3072 or Ed25519"
    ]


@pytest.mark.parametrize(
    ("pattern", "name", "is_permitted"),
    [
        ("a", "a", True),
        ("a", "A", False),
        ("a", "ab", False),
        ("a*", "abc", True),
        ("*", "", True),
        ("a*c", "abbc", True),
        ("a*c", "abbcd", False),
        ("a.c", "abc", False),
        ("team-*", "x team-1", False),
        ("{username}", "jane", True),
        ("{username}", "john", False),
        ("svc:{username}:*", "svc:jane:web", True),
    ],
)
def test_text_patterns(pattern, name, is_permitted):
    """They match the whole text, in the same case. Only the asterisk is special."""
    assert (violations({"common_name": (pattern,)}, request(name or "")) == []) is is_permitted


@pytest.mark.parametrize("username", ["*", "j*", ""])
def test_a_user_name_is_no_pattern(username):
    """A user name with an asterisk, or an empty one, does not match other names."""
    assert violations({"common_name": ("{username}",)}, request("jane"), username=username) != []
    assert violations({"common_name": ("{username}*",)}, request("jane"), username=username) != []
    assert violations({"dns": ("{username}.example.com",)}, request(dns=["a.example.com"]), username=username) != []


@pytest.mark.parametrize(
    ("pattern", "name", "is_permitted"),
    [
        ("a.example.com", "a.example.com", True),
        ("a.example.com", "A.Example.COM", True),
        ("*.example.com", "a.example.com", True),
        ("*.example.com", "a.b.example.com", False),
        ("*.example.com", "example.com", False),
        ("*.example.com", "aexample.com", False),
        ("**.example.com", "a.b.example.com", True),
        ("**.example.com", "example.com", False),
        ("**.example.com", "a..example.com", False),
        ("a.*.com", "a.b.com", False),
        ("{username}.example.com", "jane.example.com", True),
        ("{username}.example.com", "john.example.com", False),
    ],
)
def test_dns_patterns(pattern, name, is_permitted):
    """Labels are compared one by one, in any case."""
    assert (violations({"dns": (pattern,)}, request(dns=[name])) == []) is is_permitted


def test_wildcards_can_be_forbidden():
    """Even if a pattern matches them."""
    requested = request(dns=["*.example.com"])
    assert violations({"dns": ("*.example.com",)}, requested) == []
    assert violations({"dns": ("*.example.com",), "allow_wildcards": False}, requested) == [
        'DNS subjectAltName "*.example.com" is not allowed: it has a wildcard'
    ]


def test_permitted_networks():
    """Of IPv4 and IPv6."""
    allowed = {"ip": ("10.0.0.0/8", "2001:db8::/32")}
    assert violations(allowed, request(ip=["10.1.2.3", "2001:db8::1"])) == []
    assert violations(allowed, request(ip=["11.1.2.3"])) == [
        'IP subjectAltName "11.1.2.3" is not allowed: the signer permits 10.0.0.0/8 or 2001:db8::/32'
    ]


def test_uri_and_email_patterns():
    """They are compared as texts."""
    allowed = {"uri": ("spiffe://example.com/ns/*",), "email": ("*@example.com",)}
    assert violations(allowed, request(uri=["spiffe://example.com/ns/a/sa/b"], email=["a@example.com"])) == []
    assert len(violations(allowed, request(uri=["spiffe://other/ns/a"], email=["a@example.com.evil"]))) == 2


def test_the_number_of_names():
    """Some types can be required, and the total can be limited."""
    assert violations({"required_names": ("dns", "uri")}) == ["DNS or URI subjectAltName is required"]
    assert violations({"required_names": ("dns", "uri")}, request(uri=["a:b"])) == []
    assert violations({"max_names": 2}, request(dns=["a", "b"], ip=["10.0.0.1"])) == [
        "there are 3 subjectAltNames; the maximum is 2"
    ]


def test_organizations():
    """Each must match a pattern, or exactly these are required."""
    requested = request("a", ("x", "y"))
    assert violations({"organizations": ("x",)}, requested) == [
        'subject organization "y" is not allowed: the signer permits x'
    ]
    assert violations({"organizations": ()}, requested) == [
        'subject organization "x" is not allowed: the signer permits none',
        'subject organization "y" is not allowed: the signer permits none',
    ]
    assert violations({"exact_organizations": ("x", "y")}, requested) == []
    assert violations({"exact_organizations": ("x",)}, requested) == ["subject organization is not x"]


def test_permitted_and_required_usages():
    """Each violation is reported."""
    rules = {"usages": ("server auth", "digital signature"), "required_usages": ("server auth",)}
    assert violations(rules) == []
    assert violations(rules, usages=("client auth",)) == [
        "invalid usage for certificate: client auth",
        "missing required usage for certificate: server auth",
    ]


def test_the_minimum_lifetime():
    """A lifetime above the maximum is permitted: the issuer reduces it."""
    rules = {"min_lifetime": datetime.timedelta(hours=1), "max_lifetime": datetime.timedelta(hours=2)}
    assert violations(rules, expiration=600) == ["expirationSeconds is 600; the minimum is 3600"]
    assert (
        violations(rules, expiration=3600)
        == violations(rules, expiration=None)
        == violations(rules, expiration=86400)
        == []
    )


def test_the_order_of_the_rules():
    """The first violation in the order of the profile is reported."""
    rules = {"common_name": ("x",), "usages": (), "order": ("usages", "common_name")}
    requested = profiles.RequestedCertificate(request(), ("server auth",))
    with pytest.raises(profiles.ProfileViolation, match="invalid usage"):
        profiles.verify(profiles.Profile(signer="example.com/a", **rules), requested)


@pytest.mark.parametrize(
    ("approval", "expected"),
    [
        ((), False),
        ((profiles.Approval(users=("jane",)),), True),
        ((profiles.Approval(users=("john",)), profiles.Approval(groups=("makers",))), True),
        ((profiles.Approval(groups=("others",)),), False),
    ],
)
def test_automatic_approval(approval, expected):
    """A rule must match the user, and the profile must permit the request."""
    profile = profiles.Profile(signer="example.com/a", common_name=("a",), approval=approval)
    assert profiles.may_approve(profile, profiles.RequestedCertificate(request(), (), "jane"), ("makers",)) is expected
    assert not profiles.may_approve(profile, profiles.RequestedCertificate(request("b"), (), "jane"), ("makers",))


CLIENT, ENCIPHERMENT = ("client auth", "digital signature"), ("key encipherment",)
SERVING = ("server auth", "digital signature")


@pytest.mark.parametrize(
    ("signer", "usages", "is_permitted"),
    [
        (signernames.KUBE_APISERVER_CLIENT, CLIENT[:1], True),
        (signernames.KUBE_APISERVER_CLIENT, (*CLIENT, *ENCIPHERMENT), True),
        (signernames.KUBE_APISERVER_CLIENT, CLIENT[1:], False),
        (signernames.KUBE_APISERVER_CLIENT, (*CLIENT, "server auth"), False),
        (signernames.KUBE_APISERVER_CLIENT, (*CLIENT, "cert sign"), False),
        (signernames.KUBE_APISERVER_CLIENT_KUBELET, CLIENT, True),
        (signernames.KUBE_APISERVER_CLIENT_KUBELET, (*CLIENT, *ENCIPHERMENT), True),
        (signernames.KUBE_APISERVER_CLIENT_KUBELET, CLIENT[:1], False),
        (signernames.KUBE_APISERVER_CLIENT_KUBELET, (*CLIENT, "server auth"), False),
        (signernames.KUBELET_SERVING, SERVING, True),
        (signernames.KUBELET_SERVING, (*SERVING, *ENCIPHERMENT), True),
        (signernames.KUBELET_SERVING, SERVING[:1], False),
        (signernames.KUBELET_SERVING, (*SERVING, "client auth"), False),
        (signernames.LEGACY_UNKNOWN, ("code signing",), True),
    ],
)
def test_usages_of_built_in_signers(signer, usages, is_permitted):
    """Only those for the purpose of the certificate."""
    names = {"dns": ["n1"]} if signer == signernames.KUBELET_SERVING else {}
    requested = profiles.RequestedCertificate(request("system:node:n1", ("system:nodes",), **names), usages)
    assert profiles.permits(profiles.BUILT_IN[signer], requested) is is_permitted


@pytest.mark.parametrize(
    ("signer", "changes", "is_permitted"),
    [
        (signernames.KUBE_APISERVER_CLIENT_KUBELET, {}, True),
        (signernames.KUBE_APISERVER_CLIENT_KUBELET, {"common_name": "jane"}, False),
        (signernames.KUBE_APISERVER_CLIENT_KUBELET, {"common_name": "x:system:node:n1"}, False),
        (signernames.KUBE_APISERVER_CLIENT_KUBELET, {"organizations": ("system:nodes", "system:masters")}, False),
        (signernames.KUBE_APISERVER_CLIENT_KUBELET, {"organizations": ()}, False),
        (signernames.KUBE_APISERVER_CLIENT_KUBELET, {"dns": ["n1"]}, False),
        (signernames.KUBE_APISERVER_CLIENT_KUBELET, {"ip": ["10.0.0.1"]}, False),
        (signernames.KUBE_APISERVER_CLIENT_KUBELET, {"email": ["a@example.com"]}, False),
        (signernames.KUBE_APISERVER_CLIENT_KUBELET, {"uri": ["spiffe://a/b"]}, False),
        (signernames.KUBELET_SERVING, {}, False),
        (signernames.KUBELET_SERVING, {"dns": ["n1"]}, True),
        (signernames.KUBELET_SERVING, {"ip": ["10.0.0.1"]}, True),
        (signernames.KUBELET_SERVING, {"dns": ["n1"], "common_name": "jane"}, False),
        (signernames.KUBELET_SERVING, {"dns": ["n1"], "organizations": ("system:nodes", "x")}, False),
        (signernames.KUBELET_SERVING, {"dns": ["n1"], "email": ["a@example.com"]}, False),
        (signernames.KUBELET_SERVING, {"dns": ["n1"], "uri": ["spiffe://a/b"]}, False),
    ],
)
def test_names_of_kubelet_signers(signer, changes, is_permitted):
    """The subject is that of a node. A serving certificate has DNS names or addresses, and others have neither."""
    fields = {"common_name": "system:node:n1", "organizations": ("system:nodes",), **changes}
    usages = SERVING if signer == signernames.KUBELET_SERVING else CLIENT
    requested = profiles.RequestedCertificate(request(**fields), usages)
    assert profiles.permits(profiles.BUILT_IN[signer], requested) is is_permitted
