"""A declaration is held against a request: every part of it, and the patterns in it."""

from __future__ import annotations

import datetime
import ipaddress

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

from certplane.x509.issuance import profiles
from certplane.x509.pkcs10 import certificaterequest

P256 = ec.generate_private_key(ec.SECP256R1())
_GENERAL = {
    "dns": x509.DNSName,
    "email": x509.RFC822Name,
    "uri": x509.UniformResourceIdentifier,
    "ip": lambda text: x509.IPAddress(ipaddress.ip_address(text)),
}


def request(common_name="a", organizations=(), key=P256, *, is_ca=False, **names):
    attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, each) for each in organizations]
    attributes += [x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else []
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(attributes))
    general = [_GENERAL[kind](each) for kind, values in names.items() for each in values]
    if general:
        builder = builder.add_extension(x509.SubjectAlternativeName(general), critical=False)
    if is_ca:
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return certificaterequest.parse(builder.sign(key, algorithm).public_bytes(serialization.Encoding.PEM))


def violations(profile, pkcs10=None, usages=("server auth",), username="jane", expiration=None):
    requested = profiles.RequestedCertificate(pkcs10 or request(), usages, username, expiration)
    return list(profiles.violations(profiles.Profile(signer="example.com/a", **profile), requested))


def test_a_signer_that_says_nothing_permits_all_but_authorities():
    """Whatever key, names and usages; a CA certificate has to be allowed."""
    everything = request("x", ("o",), dns=["a.b", "*.c"], email=["a@b"], ip=["10.0.0.1"], uri=["spiffe://a/b"])
    assert violations({}, everything) == []
    assert violations({}, request(is_ca=True)) == ["a CA certificate is not allowed"]
    assert violations({"allow_ca": True}, request(is_ca=True)) == []


@pytest.mark.parametrize(
    ("key", "allowed", "is_permitted"),
    [
        (P256, ("ECDSA-P256",), True),
        (P256, ("ECDSA-P384", "RSA-2048", "Ed25519"), False),
        (ec.generate_private_key(ec.SECP384R1()), ("ECDSA-P384",), True),
        (ed25519.Ed25519PrivateKey.generate(), ("Ed25519",), True),
        (rsa.generate_private_key(65537, 2048), ("RSA-2048",), True),
        (rsa.generate_private_key(65537, 2048), ("RSA-3072",), False),
        (P256, (), False),
    ],
)
def test_keys(key, allowed, is_permitted):
    """By kind; RSA from a size on."""
    assert (violations({"keys": allowed}, request(key=key)) == []) is is_permitted


def test_the_key_that_is_refused_is_named():
    """And what it may be."""
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
def test_texts(pattern, name, is_permitted):
    """Anchored, with case; only the star means anything."""
    assert (violations({"common_name": (pattern,)}, request(name or "")) == []) is is_permitted


@pytest.mark.parametrize("username", ["*", "j*", ""])
def test_a_name_is_no_pattern(username):
    """Whoever is called like one does not match others."""
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
def test_dns_names(pattern, name, is_permitted):
    """Label by label."""
    assert (violations({"dns": (pattern,)}, request(dns=[name])) == []) is is_permitted


def test_wildcards_may_be_refused():
    """Although a pattern would match them."""
    requested = request(dns=["*.example.com"])
    assert violations({"dns": ("*.example.com",)}, requested) == []
    assert violations({"dns": ("*.example.com",), "allow_wildcards": False}, requested) == [
        'DNS subjectAltName "*.example.com" is not allowed: it has a wildcard'
    ]


def test_addresses():
    """In networks, of either version."""
    allowed = {"ip": ("10.0.0.0/8", "2001:db8::/32")}
    assert violations(allowed, request(ip=["10.1.2.3", "2001:db8::1"])) == []
    assert violations(allowed, request(ip=["11.1.2.3"])) == [
        'IP subjectAltName "11.1.2.3" is not allowed: the signer permits 10.0.0.0/8 or 2001:db8::/32'
    ]


def test_other_names():
    """URIs and addresses of people are texts."""
    allowed = {"uri": ("spiffe://example.com/ns/*",), "email": ("*@example.com",)}
    assert violations(allowed, request(uri=["spiffe://example.com/ns/a/sa/b"], email=["a@example.com"])) == []
    assert len(violations(allowed, request(uri=["spiffe://other/ns/a"], email=["a@example.com.evil"]))) == 2


def test_how_many_names():
    """Some may be needed, and there may be too many."""
    assert violations({"required_names": ("dns", "uri")}) == ["DNS or URI subjectAltName is required"]
    assert violations({"required_names": ("dns", "uri")}, request(uri=["a:b"])) == []
    assert violations({"max_names": 2}, request(dns=["a", "b"], ip=["10.0.0.1"])) == [
        "there are 3 subjectAltNames; the maximum is 2"
    ]


def test_subject():
    """Each organization has to match; all of them may be prescribed."""
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


def test_usages():
    """Those that may, and those that must."""
    rules = {"usages": ("server auth", "digital signature"), "required_usages": ("server auth",)}
    assert violations(rules) == []
    assert violations(rules, usages=("client auth",)) == [
        "invalid usage for certificate: client auth",
        "missing required usage for certificate: server auth",
    ]


def test_lifetimes():
    """Too short is refused; too long is cut, elsewhere."""
    rules = {"min_lifetime": datetime.timedelta(hours=1), "max_lifetime": datetime.timedelta(hours=2)}
    assert violations(rules, expiration=600) == ["expirationSeconds is 600; the minimum is 3600"]
    assert (
        violations(rules, expiration=3600)
        == violations(rules, expiration=None)
        == violations(rules, expiration=86400)
        == []
    )


def test_the_order_is_part_of_the_declaration():
    """The first thing that is broken is what is told."""
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
def test_who_is_approved_without_a_person(approval, expected):
    """Whom a rule names, for what is permitted."""
    profile = profiles.Profile(signer="example.com/a", common_name=("a",), approval=approval)
    assert profiles.may_approve(profile, profiles.RequestedCertificate(request(), (), "jane"), ("makers",)) is expected
    assert not profiles.may_approve(profile, profiles.RequestedCertificate(request("b"), (), "jane"), ("makers",))


CLIENT, ENCIPHERMENT = ("client auth", "digital signature"), ("key encipherment",)
SERVING = ("server auth", "digital signature")


@pytest.mark.parametrize(
    ("signer", "usages", "is_permitted"),
    [
        (profiles.KUBE_APISERVER_CLIENT, CLIENT[:1], True),
        (profiles.KUBE_APISERVER_CLIENT, (*CLIENT, *ENCIPHERMENT), True),
        (profiles.KUBE_APISERVER_CLIENT, CLIENT[1:], False),
        (profiles.KUBE_APISERVER_CLIENT, (*CLIENT, "server auth"), False),
        (profiles.KUBE_APISERVER_CLIENT, (*CLIENT, "cert sign"), False),
        (profiles.KUBE_APISERVER_CLIENT_KUBELET, CLIENT, True),
        (profiles.KUBE_APISERVER_CLIENT_KUBELET, (*CLIENT, *ENCIPHERMENT), True),
        (profiles.KUBE_APISERVER_CLIENT_KUBELET, CLIENT[:1], False),
        (profiles.KUBE_APISERVER_CLIENT_KUBELET, (*CLIENT, "server auth"), False),
        (profiles.KUBELET_SERVING, SERVING, True),
        (profiles.KUBELET_SERVING, (*SERVING, *ENCIPHERMENT), True),
        (profiles.KUBELET_SERVING, SERVING[:1], False),
        (profiles.KUBELET_SERVING, (*SERVING, "client auth"), False),
        (profiles.LEGACY_UNKNOWN, ("code signing",), True),
    ],
)
def test_usages_that_a_built_in_signer_permits(signer, usages, is_permitted):
    """No more than what its certificates are for: that of a client serves nothing."""
    names = {"dns": ["n1"]} if signer == profiles.KUBELET_SERVING else {}
    requested = profiles.RequestedCertificate(request("system:node:n1", ("system:nodes",), **names), usages)
    assert profiles.permits(profiles.BUILT_IN[signer], requested) is is_permitted


@pytest.mark.parametrize(
    ("signer", "changes", "is_permitted"),
    [
        (profiles.KUBE_APISERVER_CLIENT_KUBELET, {}, True),
        (profiles.KUBE_APISERVER_CLIENT_KUBELET, {"common_name": "jane"}, False),
        (profiles.KUBE_APISERVER_CLIENT_KUBELET, {"common_name": "x:system:node:n1"}, False),
        (profiles.KUBE_APISERVER_CLIENT_KUBELET, {"organizations": ("system:nodes", "system:masters")}, False),
        (profiles.KUBE_APISERVER_CLIENT_KUBELET, {"organizations": ()}, False),
        (profiles.KUBE_APISERVER_CLIENT_KUBELET, {"dns": ["n1"]}, False),
        (profiles.KUBE_APISERVER_CLIENT_KUBELET, {"ip": ["10.0.0.1"]}, False),
        (profiles.KUBE_APISERVER_CLIENT_KUBELET, {"email": ["a@example.com"]}, False),
        (profiles.KUBE_APISERVER_CLIENT_KUBELET, {"uri": ["spiffe://a/b"]}, False),
        (profiles.KUBELET_SERVING, {}, False),
        (profiles.KUBELET_SERVING, {"dns": ["n1"]}, True),
        (profiles.KUBELET_SERVING, {"ip": ["10.0.0.1"]}, True),
        (profiles.KUBELET_SERVING, {"dns": ["n1"], "common_name": "jane"}, False),
        (profiles.KUBELET_SERVING, {"dns": ["n1"], "organizations": ("system:nodes", "x")}, False),
        (profiles.KUBELET_SERVING, {"dns": ["n1"], "email": ["a@example.com"]}, False),
        (profiles.KUBELET_SERVING, {"dns": ["n1"], "uri": ["spiffe://a/b"]}, False),
    ],
)
def test_names_that_a_signer_for_kubelets_permits(signer, changes, is_permitted):
    """The identity of a node, and for a server its names and addresses."""
    fields = {"common_name": "system:node:n1", "organizations": ("system:nodes",), **changes}
    usages = SERVING if signer == profiles.KUBELET_SERVING else CLIENT
    requested = profiles.RequestedCertificate(request(**fields), usages)
    assert profiles.permits(profiles.BUILT_IN[signer], requested) is is_permitted
