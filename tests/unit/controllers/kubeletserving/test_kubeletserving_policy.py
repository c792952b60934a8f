"""The policy for kubelet serving certificates, rule by rule."""

from __future__ import annotations

import dataclasses
import ipaddress
import re

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from certplane.controllers.approving.kubeletserving import evidence, policy, rules
from certplane.golang import pem
from certplane.x509.pkcs10 import certificaterequest
from tests import kubelets

APPROVE, DENY, WAIT, LOOK_UP = policy.Action.APPROVE, policy.Action.DENY, policy.Action.WAIT, policy.Action.LOOK_UP


def _id(value):
    """Without memory addresses: test names must be the same in all processes."""
    return re.sub(" object at 0x[0-9a-f]+", "", str(value))


def claims(*texts):
    return frozenset(map(evidence.parse_san, texts))


def inventory(**entries):
    sans = {node: claims(*texts) for node, texts in entries.items()}
    return evidence.Inventory(sans, {san: node for node, owned in sans.items() for san in owned})


def answers(**records):
    """DNS answers by the name or address looked up, with underscores for dots; None stands for a failed lookup."""
    return {
        evidence.parse_san(name.replace("_", ".")): (
            evidence.DNSAnswer(problem="timed out")
            if values is None
            else evidence.DNSAnswer(tuple(map(evidence.parse_san, values)))
        )
        for name, values in records.items()
    }


#: The Node object has the name, and a network or a pattern confirms it.
RULES = rules.parse({"cidrs": ["10.0.0.0/16", "fd00::/64"], "patterns": ["{node}", "{node}.example.com"]}).rules
KNOWN = evidence.Evidence(claims=claims("n1", "n1.example.com", "10.0.0.1", "fd00::1"))
INVENTORY = dataclasses.replace(RULES, alternatives=(("inventory",),))
LISTED = evidence.Evidence(inventory=inventory(n1=["n1", "10.0.0.1"], n2=["n2", "10.0.0.2"]))


def evaluate(request=None, evidence=KNOWN, rules=RULES, **spec):
    pkcs10 = kubelets.pkcs10(**(request or {}))
    return policy.evaluate(policy.parse_request(pkcs10), kubelets.spec(pkcs10, **spec), evidence, rules)


def result(decision):
    return decision.action, decision.reason


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
def test_requests_of_kubelets_are_approved(request_):
    """With any kind of key, and for any of the node's names."""
    assert result(evaluate(request_)) == (APPROVE, policy.PROVEN)


def test_key_encipherment_is_allowed():
    """Kubelets with an RSA key request it."""
    assert evaluate(usages=(*kubelets.USAGES, "key encipherment")).action is APPROVE


@pytest.mark.parametrize(
    ("request_", "spec", "reason"),
    [
        ({}, {"username": "jane"}, policy.NOT_A_NODE),
        ({}, {"username": "system:node:"}, policy.NOT_A_NODE),
        ({}, {"username": "system:node:N1"}, policy.NOT_A_NODE),
        ({}, {"username": "system:node:a/b"}, policy.NOT_A_NODE),
        ({}, {"username": "system:node:a b"}, policy.NOT_A_NODE),
        ({}, {"groups": ("system:authenticated",)}, policy.NOT_A_NODE),
        ({"common_name": "system:node:n2"}, {}, policy.IDENTITY_MISMATCH),
        ({"common_name": "System:Node:n1"}, {}, policy.IDENTITY_MISMATCH),
        ({"common_name": "system:node:n1\0"}, {}, policy.IDENTITY_MISMATCH),
        ({"organizations": ()}, {}, policy.IDENTITY_MISMATCH),
        ({"organizations": ("system:masters",)}, {}, policy.IDENTITY_MISMATCH),
        ({"organizations": ("system:nodes", "system:masters")}, {}, policy.IDENTITY_MISMATCH),
        ({"organizations": ("system:nodes", "system:nodes")}, {}, policy.IDENTITY_MISMATCH),
        ({"attributes": attribute(NameOID.COMMON_NAME, "system:node:n1")}, {}, policy.SUBJECT_NOT_ALLOWED),
        ({"attributes": attribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "a")}, {}, policy.SUBJECT_NOT_ALLOWED),
        ({"attributes": attribute(NameOID.DOMAIN_COMPONENT, "a")}, {}, policy.SUBJECT_NOT_ALLOWED),
        ({}, {"usages": ("digital signature",)}, policy.USAGES_NOT_ALLOWED),
        ({}, {"usages": ("server auth",)}, policy.USAGES_NOT_ALLOWED),
        ({}, {"usages": (*kubelets.USAGES, "client auth")}, policy.USAGES_NOT_ALLOWED),
        ({}, {"usages": (*kubelets.USAGES, "cert sign")}, policy.USAGES_NOT_ALLOWED),
        ({"names": [x509.RFC822Name("a@example.com")]}, {}, policy.NAME_KIND_NOT_ALLOWED),
        ({"names": [x509.UniformResourceIdentifier("spiffe://a/b")]}, {}, policy.NAME_KIND_NOT_ALLOWED),
        ({"names": [x509.RegisteredID(x509.ObjectIdentifier("1.2.3"))]}, {}, policy.NAME_KIND_NOT_ALLOWED),
        ({"names": [x509.DirectoryName(x509.Name([]))]}, {}, policy.NAME_KIND_NOT_ALLOWED),
        (
            {"names": [x509.OtherName(x509.ObjectIdentifier("1.3.6.1.4.1.311.20.2.3"), b"\x0c\x01a")]},
            {},
            policy.NAME_KIND_NOT_ALLOWED,
        ),
        ({"extensions": [x509.BasicConstraints(ca=True, path_length=None)]}, {}, policy.CA_NOT_ALLOWED),
        ({"extensions": [x509.BasicConstraints(ca=True, path_length=0)]}, {}, policy.CA_NOT_ALLOWED),
        ({"extensions": extended(ExtendedKeyUsageOID.CLIENT_AUTH)}, {}, policy.EXTENSION_NOT_ALLOWED),
        (
            {"extensions": extended(ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)},
            {},
            policy.EXTENSION_NOT_ALLOWED,
        ),
        ({"extensions": key_usage(key_cert_sign=True)}, {}, policy.EXTENSION_NOT_ALLOWED),
        (
            {"extensions": [x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")]},
            {},
            policy.EXTENSION_NOT_ALLOWED,
        ),
        (
            {"extensions": [x509.NameConstraints([x509.DNSName("example.com")], None)]},
            {},
            policy.EXTENSION_NOT_ALLOWED,
        ),
        ({"key": ec.generate_private_key(ec.SECP224R1())}, {}, policy.WEAK_KEY),
        ({"key": rsa.generate_private_key(65537, 1024)}, {}, policy.WEAK_KEY),
        ({}, {"expiration_seconds": 365 * 86400 + 1}, policy.LIFETIME_TOO_LONG),
        ({"dns": (), "ips": ()}, {}, policy.NAMES_MISSING),
        ({"ips": [f"10.0.{number // 250}.{number % 250}" for number in range(1000)]}, {}, policy.TOO_MANY_NAMES),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_requests_that_no_kubelet_sends_are_denied(request_, spec, reason):
    """Such a request can never be approved, even if all its names are proven."""
    known = dataclasses.replace(KNOWN, inventory=inventory(n1=["n1", "10.0.0.1"]))
    assert result(evaluate(request_, known, **spec)) == (DENY, reason)


@pytest.mark.parametrize("seconds", [None, 600, 365 * 86400])
def test_lifetimes_up_to_the_maximum_are_approved(seconds):
    """So is a request without a lifetime, as kubelets send it: the signer limits it."""
    assert evaluate(expiration_seconds=seconds).action is APPROVE


def test_all_problems_are_reported_at_once():
    """The message has all problems, the reason is that of the first."""
    decision = evaluate({"organizations": ("a",)}, usages=("server auth",))
    assert decision.reason == policy.IDENTITY_MISMATCH
    assert 'the organization is "a"; must be system:nodes alone' in decision.message
    assert "the usages are server auth; must be digital signature, server auth" in decision.message


# --- forbidden names ----------------------------------------------------------------------------------------------

GUARDED = rules.parse(
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
        ("*", policy.WILDCARD_NAME),
        ("*.example.com", policy.WILDCARD_NAME),
        ("n1.*.com", policy.WILDCARD_NAME),
        ("n*.example.com", policy.WILDCARD_NAME),
        ("", policy.MALFORMED_NAME),
        (".", policy.MALFORMED_NAME),
        ("n1.", policy.MALFORMED_NAME),
        ("kubernetes.", policy.MALFORMED_NAME),
        (".n1", policy.MALFORMED_NAME),
        ("n1..example.com", policy.MALFORMED_NAME),
        ("n1\0.example.com", policy.MALFORMED_NAME),
        ("n1 ", policy.MALFORMED_NAME),
        ("n1\n", policy.MALFORMED_NAME),
        ("n_1", policy.MALFORMED_NAME),
        ("-n1", policy.MALFORMED_NAME),
        ("n1:443", policy.MALFORMED_NAME),
        ("https://n1", policy.MALFORMED_NAME),
        ("a" * 64, policy.MALFORMED_NAME),
        (".".join(["a" * 50] * 6), policy.MALFORMED_NAME),
        ("10.0.0.1", policy.MALFORMED_NAME),
        ("127.1", policy.MALFORMED_NAME),
        ("2130706433", policy.MALFORMED_NAME),
        ("0x7f000001", policy.MALFORMED_NAME),
        ("localhost", policy.FORBIDDEN_NAME),
        ("localhost.localdomain", policy.FORBIDDEN_NAME),
        ("ip6-localhost", policy.FORBIDDEN_NAME),
        ("a.localhost", policy.FORBIDDEN_NAME),
        ("kubernetes", policy.FORBIDDEN_NAME),
        ("KUBERNETES", policy.FORBIDDEN_NAME),
        ("kubernetes.default", policy.FORBIDDEN_NAME),
        ("Kubernetes.Default.Svc", policy.FORBIDDEN_NAME),
        ("kubernetes.default.svc.cluster.local", policy.FORBIDDEN_NAME),
        ("vault.vault.svc", policy.FORBIDDEN_NAME),
        ("svc", policy.FORBIDDEN_NAME),
        ("10-1-0-1.default.pod.cluster.local", policy.FORBIDDEN_NAME),
        ("svc.cluster.local", policy.FORBIDDEN_NAME),
        ("api.example.com", policy.FORBIDDEN_NAME),
        ("vault.example.com", policy.FORBIDDEN_NAME),
        ("a.b.corp.example.com", policy.FORBIDDEN_NAME),
    ],
)
def test_forbidden_and_malformed_names_are_denied(name, reason):
    """Even if the Node object has them and that is sufficient evidence."""
    known = evidence.Evidence(claims=claims("n1", name))
    decision = evaluate({"dns": ("n1", name), "ips": ()}, known, GUARDED)
    assert result(decision) == (DENY, reason)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.255.255.255", "::1", "::ffff:127.0.0.1", "::127.0.0.1", "0.0.0.0", "::", "169.254.169.254",
        "fe80::1", "224.0.0.1", "ff02::1", "255.255.255.255", "10.96.0.1", "::ffff:10.96.0.1", "10.0.0.100",
        "::ffff:10.0.0.100", "fd00::100", "10.0.66.6",
    ],
)  # fmt: skip
def test_forbidden_addresses_are_denied(address):
    """In every notation: loopback, multicast, those of the API server, and the configured ones."""
    known = evidence.Evidence(claims=claims("n1", address))
    assert result(evaluate({"ips": (address,)}, known, GUARDED)) == (DENY, policy.FORBIDDEN_ADDRESS)


@pytest.mark.parametrize("name", ["n1.svcs", "xsvc", "kubernetes.example.com", "xapi.example.com", "n1.cluster.local"])
def test_similar_names_are_not_forbidden(name):
    """Suffixes are compared by whole labels."""
    known = evidence.Evidence(claims=claims("n1", name))
    assert evaluate({"dns": ("n1", name), "ips": ()}, known, GUARDED).action is APPROVE


def test_an_internationalized_name_is_compared_as_bytes():
    """A name that only looks the same is a different name."""
    known = evidence.Evidence(claims=claims("example.com"))
    assert result(evaluate({"dns": ("xn--exmple-cua.com",), "ips": ()}, known, GUARDED)) == (
        WAIT,
        policy.NAME_NOT_PROVEN,
    )


# --- evidence -----------------------------------------------------------------------------------------------------


def rules_of(*sources, **also):
    document = {"sources": list(sources), "cidrs": ["10.0.0.0/16"], "patterns": ["{node}.example.com"], **also}
    return rules.parse(document).rules


BOTH = ("inventory", "node+cidrs", "node+patterns")


@pytest.mark.parametrize(
    ("request_", "evidence", "rules_", "expected"),
    [
        # The Node object alone.
        ({}, KNOWN, rules_of("node"), (APPROVE, policy.PROVEN)),
        ({}, evidence.Evidence(), rules_of("node"), (WAIT, policy.NAME_NOT_PROVEN)),
        ({"dns": ()}, evidence.Evidence(claims=claims("n1")), rules_of("node"), (WAIT, policy.ADDRESS_NOT_PROVEN)),
        ({}, KNOWN, RULES, (APPROVE, policy.PROVEN)),
        # A network or a pattern has to confirm it; neither is sufficient alone.
        (
            {"ips": ("10.1.0.1",)},
            evidence.Evidence(claims=claims("n1", "10.1.0.1")),
            RULES,
            (DENY, policy.ADDRESS_NOT_PROVEN),
        ),
        (
            {"dns": ("vault.example.org",)},
            evidence.Evidence(claims=claims("vault.example.org", "10.0.0.1")),
            RULES,
            (DENY, policy.NAME_NOT_PROVEN),
        ),
        ({}, evidence.Evidence(claims=claims()), RULES, (WAIT, policy.NAME_NOT_PROVEN)),
        # The inventory.
        ({}, LISTED, INVENTORY, (APPROVE, policy.PROVEN)),
        ({"ips": ("10.0.0.3",)}, LISTED, INVENTORY, (DENY, policy.ADDRESS_NOT_PROVEN)),
        ({"ips": ("10.0.0.2",)}, LISTED, INVENTORY, (DENY, policy.BELONGS_TO_ANOTHER)),
        ({}, evidence.Evidence(inventory=inventory(n2=["n2"])), INVENTORY, (WAIT, policy.NAME_NOT_PROVEN)),
        ({}, evidence.Evidence(inventory_problem="no such file"), INVENTORY, (WAIT, policy.SOURCE_UNAVAILABLE)),
        # The previous inventory is used, but what is not in it may be in the unreadable file.
        ({}, dataclasses.replace(LISTED, inventory_problem="bad"), INVENTORY, (APPROVE, policy.PROVEN)),
        (
            {"ips": ("10.0.0.3",)},
            dataclasses.replace(LISTED, inventory_problem="bad"),
            INVENTORY,
            (WAIT, policy.SOURCE_UNAVAILABLE),
        ),
        # An inventory that was never readable may assign the name to another node.
        ({}, dataclasses.replace(KNOWN, inventory_problem="no such file"), RULES, (WAIT, policy.SOURCE_UNAVAILABLE)),
        # What it assigns to one node is denied to all others, whatever the other evidence.
        (
            {"ips": ("10.0.0.2",)},
            dataclasses.replace(LISTED, claims=claims("n1", "10.0.0.2")),
            dataclasses.replace(RULES, alternatives=(("node",),)),
            (DENY, policy.BELONGS_TO_ANOTHER),
        ),
        # Only the inventory settles a dispute between nodes.
        (
            {},
            dataclasses.replace(KNOWN, other_claimants={evidence.parse_san("10.0.0.1"): ("n2",)}),
            RULES,
            (WAIT, policy.CLAIMED_BY_ANOTHER),
        ),
        (
            {},
            dataclasses.replace(LISTED, other_claimants={evidence.parse_san("10.0.0.1"): ("n2",)}),
            INVENTORY,
            (APPROVE, policy.PROVEN),
        ),
        # Networks and patterns alone, if so configured.
        ({"dns": ("n1.example.com",)}, evidence.Evidence(), rules_of("cidrs", "patterns"), (APPROVE, policy.PROVEN)),
        (
            {"dns": ("n2.example.com",)},
            evidence.Evidence(),
            rules_of("cidrs", "patterns"),
            (DENY, policy.NAME_NOT_PROVEN),
        ),
        (
            {"dns": ("n1.example.com.evil.org",)},
            evidence.Evidence(),
            rules_of("cidrs", "patterns"),
            (DENY, policy.NAME_NOT_PROVEN),
        ),
        (
            {"dns": ("x.n1.example.com",)},
            evidence.Evidence(),
            rules_of("cidrs", "patterns"),
            (DENY, policy.NAME_NOT_PROVEN),
        ),
    ],
)
def test_each_name_needs_one_alternative(request_, evidence, rules_, expected):
    """It is denied only if every alternative excludes it by the configuration; otherwise it waits."""
    assert result(evaluate(request_, evidence, rules_)) == expected


def test_one_name_without_evidence_is_enough_to_deny():
    """The other names can be proven."""
    decision = evaluate({"dns": ("n1", "n1.example.com", "other.example.com")})
    assert result(decision) == (DENY, policy.NAME_NOT_PROVEN)
    assert decision.message.startswith('"other.example.com": ')


def test_a_pattern_accepts_a_node_name_with_dots():
    """Node names may be fully qualified."""
    alternatives = rules.parse(
        {"sources": ["cidrs", "patterns"], "cidrs": ["10.0.0.0/8"], "patterns": ["{node}"]}
    ).rules
    name = "ip-10-0-0-1.ec2.internal"
    decision = evaluate(
        {"common_name": f"system:node:{name}", "dns": (name,)},
        evidence.Evidence(),
        alternatives,
        username=f"system:node:{name}",
    )
    assert decision.action is APPROVE


# --- DNS ----------------------------------------------------------------------------------------------------------

FORWARD = rules_of("node+cidrs", "dns", dns=True)
BACK = rules_of("node+cidrs", "patterns", "dns", dns=True, **{"dns-reverse": True})
BY_NAME = rules_of("patterns", "dns", dns=True)
BY_NAME_AND_BACK = rules_of("patterns", "dns", dns=True, **{"dns-reverse": True})
NODE_ONLY = evidence.Evidence(claims=claims("10.0.0.1"))


@pytest.mark.parametrize(
    ("name", "records", "expected"),
    [
        ("a.example.org", {"a_example_org": ["10.0.0.1"]}, (APPROVE, policy.PROVEN)),
        ("a.example.org", {"a_example_org": ["10.0.0.1", "10.0.0.9"]}, (WAIT, policy.NAME_NOT_PROVEN)),
        ("a.example.org", {"a_example_org": ["192.0.2.1"]}, (WAIT, policy.NAME_NOT_PROVEN)),
        ("a.example.org", {"a_example_org": ["127.0.0.1"]}, (WAIT, policy.NAME_NOT_PROVEN)),
        ("a.example.org", {"a_example_org": []}, (WAIT, policy.NAME_NOT_PROVEN)),
        ("a.example.org", {"a_example_org": None}, (WAIT, policy.SOURCE_UNAVAILABLE)),
        # What a name without a dot resolves to depends on the search list.
        ("n1", {"n1": ["10.0.0.1"]}, (DENY, policy.NAME_NOT_PROVEN)),
    ],
)
def test_a_name_is_proven_by_its_addresses(name, records, expected):
    """Every address in DNS must be proven without DNS. A failed lookup does not exclude a name."""
    known = dataclasses.replace(NODE_ONLY, dns_answers=answers(**records))
    assert result(evaluate({"dns": (name,)}, known, FORWARD)) == expected


def test_a_shared_network_does_not_prove_the_owner_of_a_name():
    """The name of another node resolves to an address in the same network."""
    known = dataclasses.replace(NODE_ONLY, dns_answers=answers(n2_example_org=["10.0.0.2"]))
    decision = evaluate({"dns": ("n2.example.org",)}, known, FORWARD)
    assert result(decision) == (WAIT, policy.NAME_NOT_PROVEN)
    assert "dns resolves it to 10.0.0.2, which is not proven to belong to the node" in decision.message


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ({"10_0_0_1": ["a.example.org"]}, (APPROVE, policy.PROVEN)),
        ({"10_0_0_1": ["x.y", "a.example.org"]}, (APPROVE, policy.PROVEN)),
        ({"10_0_0_1": ["n1.example.com"]}, (WAIT, policy.NAME_NOT_PROVEN)),
        ({"10_0_0_1": []}, (WAIT, policy.NAME_NOT_PROVEN)),
        ({"10_0_0_1": None}, (WAIT, policy.SOURCE_UNAVAILABLE)),
        ({}, (LOOK_UP, "")),
    ],
)
def test_dns_reverse_requires_the_reverse_lookup(records, expected):
    """One forged answer is not sufficient then."""
    known = dataclasses.replace(NODE_ONLY, dns_answers=answers(a_example_org=["10.0.0.1"], **records))
    decision = evaluate({"dns": ("a.example.org",)}, known, BACK)
    assert result(decision) == expected
    assert decision.lookups == ({evidence.parse_san("10.0.0.1")} if expected[0] is LOOK_UP else frozenset())


@pytest.mark.parametrize(
    ("rules_", "records", "expected"),
    [
        (BY_NAME, {}, (LOOK_UP, "")),
        (BY_NAME, {"n1_example_com": ["10.0.0.1"]}, (APPROVE, policy.PROVEN)),
        (BY_NAME, {"n1_example_com": ["10.0.0.2", "10.0.0.1"]}, (APPROVE, policy.PROVEN)),
        (BY_NAME, {"n1_example_com": ["10.0.0.2"]}, (WAIT, policy.ADDRESS_NOT_PROVEN)),
        (BY_NAME, {"n1_example_com": []}, (WAIT, policy.ADDRESS_NOT_PROVEN)),
        (BY_NAME, {"n1_example_com": None}, (WAIT, policy.SOURCE_UNAVAILABLE)),
        (BY_NAME_AND_BACK, {"n1_example_com": ["10.0.0.1"]}, (LOOK_UP, "")),
        (
            BY_NAME_AND_BACK,
            {"n1_example_com": ["10.0.0.1"], "10_0_0_1": ["n1.example.com"]},
            (APPROVE, policy.PROVEN),
        ),
        (
            BY_NAME_AND_BACK,
            {"n1_example_com": ["10.0.0.1"], "10_0_0_1": ["x.y"]},
            (WAIT, policy.ADDRESS_NOT_PROVEN),
        ),
        (
            BY_NAME_AND_BACK,
            {"n1_example_com": ["10.0.0.2"], "10_0_0_1": ["n1.example.com"]},
            (WAIT, policy.ADDRESS_NOT_PROVEN),
        ),
        (
            BY_NAME_AND_BACK,
            {"n1_example_com": ["10.0.0.1"], "10_0_0_1": None},
            (WAIT, policy.SOURCE_UNAVAILABLE),
        ),
        # The hostname has no dot, and names from the Node object are not looked up.
        (rules_of("node", "dns", dns=True), {}, (WAIT, policy.ADDRESS_NOT_PROVEN)),
    ],
)
def test_an_address_is_proven_by_a_name_that_resolves_to_it(rules_, records, expected):
    """The name comes from a pattern or the inventory, and is proven without DNS."""
    known = evidence.Evidence(claims=claims("n1", "evil.example.org"), dns_answers=answers(**records))
    assert result(evaluate({"dns": ()}, known, rules_)) == expected


def test_names_in_the_inventory_prove_their_addresses():
    """An inventory of names is sufficient if DNS has their addresses."""
    alternatives = rules_of("inventory", "dns", dns=True, inventory="x")
    known = evidence.Evidence(
        inventory=inventory(n1=["n1", "n1.internal"]), dns_answers=answers(n1_internal=["10.0.0.1"])
    )
    assert result(evaluate({"dns": ("n1",)}, known, alternatives)) == (APPROVE, policy.PROVEN)


def test_dns_does_not_confirm_itself():
    """A forward and a reverse record alone prove nothing about a node."""
    alternatives = rules_of("inventory+cidrs", "patterns", "dns", dns=True, inventory="x")
    dns_answers = answers(a_example_org=["10.0.0.1"], n1_example_com=["10.0.0.1"])
    known = evidence.Evidence(inventory=inventory(), dns_answers=dns_answers)
    assert result(evaluate({"dns": ("a.example.org",)}, known, alternatives)) == (WAIT, policy.NAME_NOT_PROVEN)


def test_only_useful_lookups_are_made():
    """Names that are proven, forbidden, or need other evidence as well are not looked up."""
    alternatives = rules_of("node+cidrs", "node+dns", dns=True)
    assert evaluate({"dns": ("n1.example.org",)}, KNOWN, alternatives).action is WAIT
    known = dataclasses.replace(KNOWN, claims=claims("n1.example.org", "10.0.0.1"))
    decision = evaluate({"dns": ("n1.example.org",)}, known, alternatives)
    assert (decision.action, decision.lookups) == (LOOK_UP, {"n1.example.org"})
    assert evaluate({"dns": ("n1.example.org", "a.svc")}, known, alternatives).action is DENY


# --- messages -----------------------------------------------------------------------------------------------------


def test_a_denial_has_the_name_and_the_result_of_each_source():
    """It shows which source has to be corrected."""
    known = dataclasses.replace(LISTED, claims=claims("n1"))
    decision = evaluate({"dns": (), "ips": ("10.0.0.3",)}, known, rules_of(*BOTH, inventory="x"))
    assert decision.message == (
        "10.0.0.3: inventory lists 10.0.0.1, n1 for n1, node lists n1, cidrs contain it, "
        "patterns do not apply to addresses"
    )


def test_an_approval_has_the_sources_of_each_name():
    """For audits."""
    assert evaluate().message == 'every name is proven: "n1" by node and patterns; 10.0.0.1 by node and cidrs'


def test_names_from_the_request_are_quoted():
    """The message is written to logs and terminals."""
    decision = evaluate({"dns": ("a\n\x1b[31mb",), "ips": ()})
    assert decision.message.startswith(r'"a\n\x1b[31mb": ')


def test_names_from_nodes_and_dns_are_quoted_if_necessary():
    """They are untrusted as well."""
    known = evidence.Evidence(claims=frozenset({"a\nb", "n2"}))
    assert evaluate({"ips": ()}, known, rules_of("node")).message == r'"n1": node lists "a\nb", n2'
    known = dataclasses.replace(
        NODE_ONLY, dns_answers=answers(a_example_org=["10.0.0.1"], **{"10_0_0_1": ["x\x1b[2K"]})
    )
    assert r'dns resolves 10.0.0.1 back to "x\x1b[2k"' in evaluate({"dns": ("a.example.org",)}, known, BACK).message


def test_the_length_of_messages_is_limited():
    """For any number and length of names."""
    generous = dataclasses.replace(RULES, max_names=2000)
    decision = evaluate({"dns": [f"{'a' * 60}{number}.example.org" for number in range(1000)]}, KNOWN, generous)
    assert decision.action is DENY
    assert len(decision.message) == 2048
    assert decision.message.endswith("...")


def test_a_request_with_a_wrong_signature_is_rejected():
    """Its sender does not have the private key."""
    der = bytearray(pem.first_block(kubelets.pkcs10()).data)
    der[-1] ^= 1
    with pytest.raises(certificaterequest.RequestError, match="verification failure"):
        policy.parse_request(pem.encode("CERTIFICATE REQUEST", bytes(der)))


def test_ipv4_mapped_addresses_are_ipv4():
    """For evidence and for forbidden addresses."""
    assert evidence.unmap_ipv4(ipaddress.ip_address("::ffff:10.0.0.1")) == ipaddress.ip_address("10.0.0.1")
