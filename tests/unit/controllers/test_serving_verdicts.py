"""What requests for serving certificates deserve: data in, verdict out, rule by rule."""

from __future__ import annotations

import dataclasses
import ipaddress
import re

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from certplane.controllers import proofs, servingrules, verdicts
from certplane.x509 import csr, pem
from tests import kubelets

APPROVE, DENY, WAIT, ASK = verdicts.Kind.APPROVE, verdicts.Kind.DENY, verdicts.Kind.WAIT, verdicts.Kind.ASK


def _id(of):
    """Without addresses in memory: both processes have to call a test the same."""
    return re.sub(" object at 0x[0-9a-f]+", "", str(of))


def claims(*texts):
    return frozenset(map(proofs.san, texts))


def listing(**entries):
    made = {node: claims(*texts) for node, texts in entries.items()}
    return proofs.Listing(made, {each: node for node, found in made.items() for each in found})


def answers(**found):
    """What DNS says, by question; None stands for a failure. Dots are written as underscores here."""
    made = {}
    for question, said in found.items():
        answer = proofs.Answer(problem="timed out") if said is None else proofs.Answer(tuple(map(proofs.san, said)))
        made[proofs.san(question.replace("_", "."))] = answer
    return made


#: The kubelet says so, and a network or a pattern of the administrator's agrees.
RULES = servingrules.parse({"cidrs": ["10.0.0.0/16", "fd00::/64"], "patterns": ["{node}", "{node}.example.com"]}).rules
KNOWN = proofs.Evidence(claims=claims("n1", "n1.example.com", "10.0.0.1", "fd00::1"))
INVENTORY = dataclasses.replace(RULES, alternatives=(("inventory",),))
LISTED = proofs.Evidence(listing=listing(n1=["n1", "10.0.0.1"], n2=["n2", "10.0.0.2"]))


def judge(request=None, evidence=KNOWN, rules=RULES, **spec):
    given = kubelets.pkcs10(**(request or {}))
    return verdicts.judge(verdicts.read(given), kubelets.spec(given, **spec), evidence, rules)


def outcome(found):
    return found.kind, found.reason


# --- the request as a whole ---------------------------------------------------------------------------------------


def extended(*oids):
    return [x509.ExtendedKeyUsage(oids)]


def key_usage(**set_):
    names = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
             "key_cert_sign", "crl_sign", "encipher_only", "decipher_only")  # fmt: skip
    return [x509.KeyUsage(**{name: set_.get(name, False) for name in names})]


def attribute(oid, value):
    return [x509.NameAttribute(oid, value)]


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"key": ec.generate_private_key(ec.SECP384R1())},
        {"key": rsa.generate_private_key(65537, 2048)},
        {"key": ed25519.Ed25519PrivateKey.generate()},
        {"dns": ("n1", "n1.example.com"), "ips": ("10.0.0.1", "fd00::1")},
        {"dns": ("N1.Example.COM",)},
        {"ips": ("::ffff:10.0.0.1",)},
        {"dns": ("n1", "n1"), "ips": ()},
        {"dns": ()},
        {"extensions": [x509.BasicConstraints(ca=False, path_length=None)]},
        {"extensions": extended(ExtendedKeyUsageOID.SERVER_AUTH)},
        {"extensions": key_usage(digital_signature=True, key_encipherment=True)},
    ],
    ids=_id,
)
def test_what_a_kubelet_asks_for_is_approved(request_):
    """Whatever its key is, and whichever of its own names it asks for."""
    assert outcome(judge(request_)) == (APPROVE, verdicts.PROVEN)


def test_usages_with_encipherment_are_a_kubelets_too():
    """One with an RSA key asks so."""
    assert judge(usages=(*kubelets.USAGES, "key encipherment")).kind is APPROVE


@pytest.mark.parametrize(
    ("request_", "spec", "reason"),
    [
        ({}, {"username": "jane"}, verdicts.NOT_A_NODE),
        ({}, {"username": "system:node:"}, verdicts.NOT_A_NODE),
        ({}, {"username": "system:node:N1"}, verdicts.NOT_A_NODE),
        ({}, {"username": "system:node:a/b"}, verdicts.NOT_A_NODE),
        ({}, {"username": "system:node:a b"}, verdicts.NOT_A_NODE),
        ({}, {"groups": ("system:authenticated",)}, verdicts.NOT_A_NODE),
        ({"common_name": "system:node:n2"}, {}, verdicts.IDENTITY_MISMATCH),
        ({"common_name": "System:Node:n1"}, {}, verdicts.IDENTITY_MISMATCH),
        ({"common_name": "system:node:n1\0"}, {}, verdicts.IDENTITY_MISMATCH),
        ({"organizations": ()}, {}, verdicts.IDENTITY_MISMATCH),
        ({"organizations": ("system:masters",)}, {}, verdicts.IDENTITY_MISMATCH),
        ({"organizations": ("system:nodes", "system:masters")}, {}, verdicts.IDENTITY_MISMATCH),
        ({"organizations": ("system:nodes", "system:nodes")}, {}, verdicts.IDENTITY_MISMATCH),
        ({"attributes": attribute(NameOID.COMMON_NAME, "system:node:n1")}, {}, verdicts.SUBJECT_NOT_ALLOWED),
        ({"attributes": attribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "a")}, {}, verdicts.SUBJECT_NOT_ALLOWED),
        ({"attributes": attribute(NameOID.DOMAIN_COMPONENT, "a")}, {}, verdicts.SUBJECT_NOT_ALLOWED),
        ({}, {"usages": ("digital signature",)}, verdicts.USAGES_NOT_ALLOWED),
        ({}, {"usages": ("server auth",)}, verdicts.USAGES_NOT_ALLOWED),
        ({}, {"usages": (*kubelets.USAGES, "client auth")}, verdicts.USAGES_NOT_ALLOWED),
        ({}, {"usages": (*kubelets.USAGES, "cert sign")}, verdicts.USAGES_NOT_ALLOWED),
        ({"names": [x509.RFC822Name("a@example.com")]}, {}, verdicts.NAME_KIND_NOT_ALLOWED),
        ({"names": [x509.UniformResourceIdentifier("spiffe://a/b")]}, {}, verdicts.NAME_KIND_NOT_ALLOWED),
        ({"names": [x509.RegisteredID(x509.ObjectIdentifier("1.2.3"))]}, {}, verdicts.NAME_KIND_NOT_ALLOWED),
        ({"names": [x509.DirectoryName(x509.Name([]))]}, {}, verdicts.NAME_KIND_NOT_ALLOWED),
        (
            {"names": [x509.OtherName(x509.ObjectIdentifier("1.3.6.1.4.1.311.20.2.3"), b"\x0c\x01a")]},
            {},
            verdicts.NAME_KIND_NOT_ALLOWED,
        ),
        ({"extensions": [x509.BasicConstraints(ca=True, path_length=None)]}, {}, verdicts.CA_NOT_ALLOWED),
        ({"extensions": [x509.BasicConstraints(ca=True, path_length=0)]}, {}, verdicts.CA_NOT_ALLOWED),
        ({"extensions": extended(ExtendedKeyUsageOID.CLIENT_AUTH)}, {}, verdicts.EXTENSION_NOT_ALLOWED),
        (
            {"extensions": extended(ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)},
            {},
            verdicts.EXTENSION_NOT_ALLOWED,
        ),
        ({"extensions": key_usage(key_cert_sign=True)}, {}, verdicts.EXTENSION_NOT_ALLOWED),
        (
            {"extensions": [x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")]},
            {},
            verdicts.EXTENSION_NOT_ALLOWED,
        ),
        (
            {"extensions": [x509.NameConstraints([x509.DNSName("example.com")], None)]},
            {},
            verdicts.EXTENSION_NOT_ALLOWED,
        ),
        ({"key": ec.generate_private_key(ec.SECP224R1())}, {}, verdicts.WEAK_KEY),
        ({"key": rsa.generate_private_key(65537, 1024)}, {}, verdicts.WEAK_KEY),
        ({}, {"expiration_seconds": 365 * 86400 + 1}, verdicts.LIFETIME_TOO_LONG),
        ({"dns": (), "ips": ()}, {}, verdicts.NAMES_MISSING),
        ({"ips": [f"10.0.{number // 250}.{number % 250}" for number in range(1000)]}, {}, verdicts.TOO_MANY_NAMES),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)
def test_what_no_kubelet_sends_is_denied(request_, spec, reason):
    """However well its names are proven: nothing about such a request changes any more."""
    known = dataclasses.replace(KNOWN, listing=listing(n1=["n1", "10.0.0.1"]))
    assert outcome(judge(request_, known, **spec)) == (DENY, reason)


@pytest.mark.parametrize("seconds", [None, 600, 365 * 86400])
def test_a_lifetime_within_the_bound_is_approved(seconds):
    """And so is none at all, which is what kubelets ask for: the signer bounds it."""
    assert judge(expiration_seconds=seconds).kind is APPROVE


def test_everything_that_is_wrong_is_said_at_once():
    """Whoever has to mend a request wants to do it once."""
    found = judge({"organizations": ("a",)}, usages=("server auth",))
    assert found.reason == verdicts.IDENTITY_MISMATCH
    assert 'the organization is "a", not system:nodes alone' in found.message
    assert "the usages of a kubelet's server are not server auth" in found.message


# --- names that nobody gets ---------------------------------------------------------------------------------------

GUARDED = servingrules.parse(
    {
        "sources": ["node"],
        "api-server": ["api.example.com", "10.0.0.100", "fd00::100"],
        "service-cidrs": ["10.96.0.0/12"],
        "forbidden": ["vault.example.com", ".corp.example.com", "10.0.66.0/24"],
    }
).rules


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("*", verdicts.WILDCARD_NAME),
        ("*.example.com", verdicts.WILDCARD_NAME),
        ("n1.*.com", verdicts.WILDCARD_NAME),
        ("n*.example.com", verdicts.WILDCARD_NAME),
        ("", verdicts.MALFORMED_NAME),
        (".", verdicts.MALFORMED_NAME),
        ("n1.", verdicts.MALFORMED_NAME),
        ("kubernetes.", verdicts.MALFORMED_NAME),
        (".n1", verdicts.MALFORMED_NAME),
        ("n1..example.com", verdicts.MALFORMED_NAME),
        ("n1\0.example.com", verdicts.MALFORMED_NAME),
        ("n1 ", verdicts.MALFORMED_NAME),
        ("n1\n", verdicts.MALFORMED_NAME),
        ("n_1", verdicts.MALFORMED_NAME),
        ("-n1", verdicts.MALFORMED_NAME),
        ("n1:443", verdicts.MALFORMED_NAME),
        ("https://n1", verdicts.MALFORMED_NAME),
        ("a" * 64, verdicts.MALFORMED_NAME),
        (".".join(["a" * 50] * 6), verdicts.MALFORMED_NAME),
        ("10.0.0.1", verdicts.MALFORMED_NAME),
        ("127.1", verdicts.MALFORMED_NAME),
        ("2130706433", verdicts.MALFORMED_NAME),
        ("0x7f000001", verdicts.MALFORMED_NAME),
        ("localhost", verdicts.FORBIDDEN_NAME),
        ("a.localhost", verdicts.FORBIDDEN_NAME),
        ("kubernetes", verdicts.FORBIDDEN_NAME),
        ("KUBERNETES", verdicts.FORBIDDEN_NAME),
        ("kubernetes.default", verdicts.FORBIDDEN_NAME),
        ("Kubernetes.Default.Svc", verdicts.FORBIDDEN_NAME),
        ("kubernetes.default.svc.cluster.local", verdicts.FORBIDDEN_NAME),
        ("vault.vault.svc", verdicts.FORBIDDEN_NAME),
        ("svc", verdicts.FORBIDDEN_NAME),
        ("10-1-0-1.default.pod.cluster.local", verdicts.FORBIDDEN_NAME),
        ("svc.cluster.local", verdicts.FORBIDDEN_NAME),
        ("api.example.com", verdicts.FORBIDDEN_NAME),
        ("vault.example.com", verdicts.FORBIDDEN_NAME),
        ("a.b.corp.example.com", verdicts.FORBIDDEN_NAME),
    ],
)
def test_names_that_no_kubelet_gets(name, reason):
    """Even if its Node says so and that suffices."""
    given = proofs.Evidence(claims=claims("n1", name))
    found = judge({"dns": ("n1", name), "ips": ()}, given, GUARDED)
    assert outcome(found) == (DENY, reason)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.255.255.255", "::1", "::ffff:127.0.0.1", "::127.0.0.1", "0.0.0.0", "::", "169.254.169.254",
        "fe80::1", "224.0.0.1", "ff02::1", "255.255.255.255", "10.96.0.1", "::ffff:10.96.0.1", "10.0.0.100",
        "::ffff:10.0.0.100", "fd00::100", "10.0.66.6",
    ],
)  # fmt: skip
def test_addresses_that_no_kubelet_gets(address):
    """Nor one that is this machine, everybody's, or the API server's, however it is written."""
    given = proofs.Evidence(claims=claims("n1", address))
    assert outcome(judge({"ips": (address,)}, given, GUARDED)) == (DENY, verdicts.FORBIDDEN_ADDRESS)


@pytest.mark.parametrize("name", ["n1.svcs", "xsvc", "kubernetes.example.com", "xapi.example.com", "n1.cluster.local"])
def test_names_that_only_look_like_those_are_judged_as_others(name):
    """What is forbidden is forbidden label by label."""
    given = proofs.Evidence(claims=claims("n1", name))
    assert judge({"dns": ("n1", name), "ips": ()}, given, GUARDED).kind is APPROVE


def test_an_idn_is_compared_byte_for_byte():
    """What looks like another name to a person is another name here."""
    given = proofs.Evidence(claims=claims("example.com"))
    assert outcome(judge({"dns": ("xn--exmple-cua.com",), "ips": ()}, given, GUARDED)) == (
        WAIT,
        verdicts.NAME_NOT_PROVEN,
    )


# --- proofs -------------------------------------------------------------------------------------------------------


def rules(*sources, **also):
    said = {"sources": list(sources), "cidrs": ["10.0.0.0/16"], "patterns": ["{node}.example.com"], **also}
    return servingrules.parse(said).rules


BOTH = ("inventory", "node+cidrs", "node+patterns")


@pytest.mark.parametrize(
    ("request_", "evidence", "given", "expected"),
    [
        # The kubelet's own word.
        ({}, KNOWN, rules("node"), (APPROVE, verdicts.PROVEN)),
        ({}, proofs.Evidence(), rules("node"), (WAIT, verdicts.NAME_NOT_PROVEN)),
        ({"dns": ()}, proofs.Evidence(claims=claims("n1")), rules("node"), (WAIT, verdicts.ADDRESS_NOT_PROVEN)),
        ({}, KNOWN, RULES, (APPROVE, verdicts.PROVEN)),
        # It does not suffice where a network or a pattern has to agree, and neither does that alone.
        (
            {"ips": ("10.1.0.1",)},
            proofs.Evidence(claims=claims("n1", "10.1.0.1")),
            RULES,
            (DENY, verdicts.ADDRESS_NOT_PROVEN),
        ),
        (
            {"dns": ("vault.example.org",)},
            proofs.Evidence(claims=claims("vault.example.org", "10.0.0.1")),
            RULES,
            (DENY, verdicts.NAME_NOT_PROVEN),
        ),
        ({}, proofs.Evidence(claims=claims()), RULES, (WAIT, verdicts.NAME_NOT_PROVEN)),
        # The administrator's word.
        ({}, LISTED, INVENTORY, (APPROVE, verdicts.PROVEN)),
        ({"ips": ("10.0.0.3",)}, LISTED, INVENTORY, (DENY, verdicts.ADDRESS_NOT_PROVEN)),
        ({"ips": ("10.0.0.2",)}, LISTED, INVENTORY, (DENY, verdicts.BELONGS_TO_ANOTHER)),
        ({}, proofs.Evidence(listing=listing(n2=["n2"])), INVENTORY, (WAIT, verdicts.NAME_NOT_PROVEN)),
        ({}, proofs.Evidence(listing_problem="no such file"), INVENTORY, (WAIT, verdicts.SOURCE_UNAVAILABLE)),
        # What was read before counts, but what is not in it may be in what cannot be read.
        ({}, dataclasses.replace(LISTED, listing_problem="bad"), INVENTORY, (APPROVE, verdicts.PROVEN)),
        (
            {"ips": ("10.0.0.3",)},
            dataclasses.replace(LISTED, listing_problem="bad"),
            INVENTORY,
            (WAIT, verdicts.SOURCE_UNAVAILABLE),
        ),
        # An inventory that was never read may give the name to another.
        ({}, dataclasses.replace(KNOWN, listing_problem="no such file"), RULES, (WAIT, verdicts.SOURCE_UNAVAILABLE)),
        # It takes what it gives to another from everybody, whatever else proves it.
        (
            {"ips": ("10.0.0.2",)},
            dataclasses.replace(LISTED, claims=claims("n1", "10.0.0.2")),
            dataclasses.replace(RULES, alternatives=(("node",),)),
            (DENY, verdicts.BELONGS_TO_ANOTHER),
        ),
        # A dispute is settled by the inventory, or not at all.
        (
            {},
            dataclasses.replace(KNOWN, disputes={proofs.san("10.0.0.1"): ("n2",)}),
            RULES,
            (WAIT, verdicts.CLAIMED_BY_ANOTHER),
        ),
        (
            {},
            dataclasses.replace(LISTED, disputes={proofs.san("10.0.0.1"): ("n2",)}),
            INVENTORY,
            (APPROVE, verdicts.PROVEN),
        ),
        # Networks and patterns alone, where the administrator finds that enough.
        ({"dns": ("n1.example.com",)}, proofs.Evidence(), rules("cidrs", "patterns"), (APPROVE, verdicts.PROVEN)),
        (
            {"dns": ("n2.example.com",)},
            proofs.Evidence(),
            rules("cidrs", "patterns"),
            (DENY, verdicts.NAME_NOT_PROVEN),
        ),
        (
            {"dns": ("n1.example.com.evil.org",)},
            proofs.Evidence(),
            rules("cidrs", "patterns"),
            (DENY, verdicts.NAME_NOT_PROVEN),
        ),
        (
            {"dns": ("x.n1.example.com",)},
            proofs.Evidence(),
            rules("cidrs", "patterns"),
            (DENY, verdicts.NAME_NOT_PROVEN),
        ),
    ],
)
def test_every_name_needs_one_sufficient_combination(request_, evidence, given, expected):
    """Denied is what no sufficient combination can prove any more by the administrator's own word; else it waits."""
    assert outcome(judge(request_, evidence, given)) == expected


def test_one_unproven_name_is_too_many():
    """However many others are proven."""
    found = judge({"dns": ("n1", "n1.example.com", "other.example.com")})
    assert outcome(found) == (DENY, verdicts.NAME_NOT_PROVEN)
    assert found.message.startswith('"other.example.com": ')


def test_a_pattern_follows_the_name_of_a_node_with_dots():
    """A node may be called by its whole name; the pattern has it label by label."""
    given = servingrules.parse({"sources": ["cidrs", "patterns"], "cidrs": ["10.0.0.0/8"], "patterns": ["{node}"]})
    name = "ip-10-0-0-1.ec2.internal"
    found = judge(
        {"common_name": f"system:node:{name}", "dns": (name,)},
        proofs.Evidence(),
        given.rules,
        username=f"system:node:{name}",
    )
    assert found.kind is APPROVE


# --- DNS ----------------------------------------------------------------------------------------------------------

FORWARD = rules("node+cidrs", "dns", dns=True)
BACK = rules("node+cidrs", "patterns", "dns", dns=True, **{"dns-reverse": True})
BY_NAME = rules("patterns", "dns", dns=True)
BY_NAME_AND_BACK = rules("patterns", "dns", dns=True, **{"dns-reverse": True})
NODE_ONLY = proofs.Evidence(claims=claims("10.0.0.1"))


@pytest.mark.parametrize(
    ("name", "said", "expected"),
    [
        ("a.example.org", {"a_example_org": ["10.0.0.1"]}, (APPROVE, verdicts.PROVEN)),
        ("a.example.org", {"a_example_org": ["10.0.0.1", "10.0.0.9"]}, (WAIT, verdicts.NAME_NOT_PROVEN)),
        ("a.example.org", {"a_example_org": ["192.0.2.1"]}, (WAIT, verdicts.NAME_NOT_PROVEN)),
        ("a.example.org", {"a_example_org": ["127.0.0.1"]}, (WAIT, verdicts.NAME_NOT_PROVEN)),
        ("a.example.org", {"a_example_org": []}, (WAIT, verdicts.NAME_NOT_PROVEN)),
        ("a.example.org", {"a_example_org": None}, (WAIT, verdicts.SOURCE_UNAVAILABLE)),
        # What a short name leads to depends on who asks.
        ("n1", {"n1": ["10.0.0.1"]}, (DENY, verdicts.NAME_NOT_PROVEN)),
    ],
)
def test_a_name_that_leads_to_the_node_and_nowhere_else_is_proven(name, said, expected):
    """Every address that DNS has for it must be the node's without DNS. No answer disproves nothing."""
    given = dataclasses.replace(NODE_ONLY, answers=answers(**said))
    assert outcome(judge({"dns": (name,)}, given, FORWARD)) == expected


def test_a_network_that_all_nodes_share_does_not_prove_whose_a_name_is():
    """Another node's name leads into it as well, to an address that is the other's."""
    given = dataclasses.replace(NODE_ONLY, answers=answers(n2_example_org=["10.0.0.2"]))
    found = judge({"dns": ("n2.example.org",)}, given, FORWARD)
    assert outcome(found) == (WAIT, verdicts.NAME_NOT_PROVEN)
    assert "dns leads to 10.0.0.2, which is not proven to be the node's" in found.message


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"10_0_0_1": ["a.example.org"]}, (APPROVE, verdicts.PROVEN)),
        ({"10_0_0_1": ["x.y", "a.example.org"]}, (APPROVE, verdicts.PROVEN)),
        ({"10_0_0_1": ["n1.example.com"]}, (WAIT, verdicts.NAME_NOT_PROVEN)),
        ({"10_0_0_1": []}, (WAIT, verdicts.NAME_NOT_PROVEN)),
        ({"10_0_0_1": None}, (WAIT, verdicts.SOURCE_UNAVAILABLE)),
        ({}, (ASK, "")),
    ],
)
def test_where_asked_an_address_has_to_lead_back_to_the_name(said, expected):
    """So that one answer that is not true is not enough."""
    given = dataclasses.replace(NODE_ONLY, answers=answers(a_example_org=["10.0.0.1"], **said))
    found = judge({"dns": ("a.example.org",)}, given, BACK)
    assert outcome(found) == expected
    assert found.questions == ({proofs.san("10.0.0.1")} if expected[0] is ASK else frozenset())


@pytest.mark.parametrize(
    ("given", "said", "expected"),
    [
        (BY_NAME, {}, (ASK, "")),
        (BY_NAME, {"n1_example_com": ["10.0.0.1"]}, (APPROVE, verdicts.PROVEN)),
        (BY_NAME, {"n1_example_com": ["10.0.0.2", "10.0.0.1"]}, (APPROVE, verdicts.PROVEN)),
        (BY_NAME, {"n1_example_com": ["10.0.0.2"]}, (WAIT, verdicts.ADDRESS_NOT_PROVEN)),
        (BY_NAME, {"n1_example_com": []}, (WAIT, verdicts.ADDRESS_NOT_PROVEN)),
        (BY_NAME, {"n1_example_com": None}, (WAIT, verdicts.SOURCE_UNAVAILABLE)),
        (BY_NAME_AND_BACK, {"n1_example_com": ["10.0.0.1"]}, (ASK, "")),
        (
            BY_NAME_AND_BACK,
            {"n1_example_com": ["10.0.0.1"], "10_0_0_1": ["n1.example.com"]},
            (APPROVE, verdicts.PROVEN),
        ),
        (
            BY_NAME_AND_BACK,
            {"n1_example_com": ["10.0.0.1"], "10_0_0_1": ["x.y"]},
            (WAIT, verdicts.ADDRESS_NOT_PROVEN),
        ),
        (
            BY_NAME_AND_BACK,
            {"n1_example_com": ["10.0.0.2"], "10_0_0_1": ["n1.example.com"]},
            (WAIT, verdicts.ADDRESS_NOT_PROVEN),
        ),
        (
            BY_NAME_AND_BACK,
            {"n1_example_com": ["10.0.0.1"], "10_0_0_1": None},
            (WAIT, verdicts.SOURCE_UNAVAILABLE),
        ),
        # The hostname alone has no dot, and what the kubelet says is no name to begin with.
        (rules("node", "dns", dns=True), {}, (WAIT, verdicts.ADDRESS_NOT_PROVEN)),
    ],
)
def test_an_address_is_proven_by_a_name_of_the_node_that_leads_to_it(given, said, expected):
    """One that is the node's without DNS: made by a pattern, or from the inventory."""
    evidence = proofs.Evidence(claims=claims("n1", "evil.example.org"), answers=answers(**said))
    assert outcome(judge({"dns": ()}, evidence, given)) == expected


def test_names_in_the_inventory_lead_to_addresses_too():
    """An inventory of names alone is enough where DNS knows their addresses."""
    given = rules("inventory", "dns", dns=True, inventory="x")
    evidence = proofs.Evidence(listing=listing(n1=["n1", "n1.internal"]), answers=answers(n1_internal=["10.0.0.1"]))
    assert outcome(judge({"dns": ("n1",)}, evidence, given)) == (APPROVE, verdicts.PROVEN)


def test_dns_is_no_witness_for_itself():
    """A name that leads to an address, and an address that is called by the name, prove nothing about a node."""
    given = rules("inventory+cidrs", "patterns", "dns", dns=True, inventory="x")
    said = answers(a_example_org=["10.0.0.1"], n1_example_com=["10.0.0.1"])
    evidence = proofs.Evidence(listing=listing(), answers=said)
    assert outcome(judge({"dns": ("a.example.org",)}, evidence, given)) == (WAIT, verdicts.NAME_NOT_PROVEN)


def test_dns_is_asked_what_would_help():
    """Nothing about what is proven, forbidden, or wanting something else as well."""
    given = rules("node+cidrs", "node+dns", dns=True)
    assert judge({"dns": ("n1.example.org",)}, KNOWN, given).kind is WAIT
    evidence = dataclasses.replace(KNOWN, claims=claims("n1.example.org", "10.0.0.1"))
    found = judge({"dns": ("n1.example.org",)}, evidence, given)
    assert (found.kind, found.questions) == (ASK, {"n1.example.org"})
    assert judge({"dns": ("n1.example.org", "a.svc")}, evidence, given).kind is DENY


# --- what is said -------------------------------------------------------------------------------------------------


def test_a_refusal_names_the_name_and_what_each_source_said():
    """So that whoever reads it knows which of them to mend."""
    given = dataclasses.replace(LISTED, claims=claims("n1"))
    found = judge({"dns": (), "ips": ("10.0.0.3",)}, given, rules(*BOTH, inventory="x"))
    assert found.message == (
        "10.0.0.3: inventory has 10.0.0.1, n1 for n1, node has n1, cidrs have it, patterns say nothing about addresses"
    )


def test_an_approval_says_what_proved_each_name():
    """It is what an audit asks for first."""
    assert judge().message == 'Every name is proven: "n1" by node and patterns; 10.0.0.1 by node and cidrs'


def test_what_a_stranger_wrote_is_quoted():
    """It ends up in logs and on terminals."""
    found = judge({"dns": ("a\n\x1b[31mb",), "ips": ()})
    assert found.message.startswith(r'"a\n\x1b[31mb": ')


def test_what_a_node_or_dns_says_is_quoted_where_it_has_to_be():
    """They say what strangers wrote."""
    known = proofs.Evidence(claims=frozenset({"a\nb", "n2"}))
    assert judge({"ips": ()}, known, rules("node")).message == r'"n1": node has "a\nb", n2'
    said = dataclasses.replace(NODE_ONLY, answers=answers(a_example_org=["10.0.0.1"], **{"10_0_0_1": ["x\x1b[2K"]}))
    assert r'dns calls 10.0.0.1 "x\x1b[2k"' in judge({"dns": ("a.example.org",)}, said, BACK).message


def test_messages_have_an_end():
    """However many names there are, and however long they are."""
    generous = dataclasses.replace(RULES, most_names=2000)
    found = judge({"dns": [f"{'a' * 60}{number}.example.org" for number in range(1000)]}, KNOWN, generous)
    assert found.kind is DENY
    assert len(found.message) == 2048
    assert found.message.endswith("...")


def test_a_request_that_its_key_did_not_sign_is_not_read():
    """Whoever sends it does not have the key."""
    made = bytearray(pem.first(kubelets.pkcs10()).data)
    made[-1] ^= 1
    with pytest.raises(csr.RequestError, match="verification failure"):
        verdicts.read(pem.encode("CERTIFICATE REQUEST", bytes(made)))


def test_an_address_written_as_ipv6_is_the_ipv4_address():
    """For the proof, and for what is forbidden."""
    assert proofs.plain(ipaddress.ip_address("::ffff:10.0.0.1")) == ipaddress.ip_address("10.0.0.1")
