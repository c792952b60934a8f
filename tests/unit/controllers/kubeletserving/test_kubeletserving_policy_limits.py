"""Limits of the policy for kubelet serving certificates, and the reasons of requests that wait."""

from __future__ import annotations

import dataclasses

import pytest

from certplane.controllers.approving.kubeletserving import evidence, policy, rules
from tests import kubelets

APPROVE, DENY, WAIT = policy.Action.APPROVE, policy.Action.DENY, policy.Action.WAIT


def claims(*texts):
    return frozenset(map(evidence.parse_san, texts))


def evaluate(request, known, alternatives, **document):
    pkcs10 = kubelets.pkcs10(**request)
    settings = {"cidrs": ["10.0.0.0/16"], "patterns": ["{node}"], "sources": list(alternatives), **document}
    parsed = rules.parse(settings).rules
    decision = policy.evaluate(policy.parse_request(pkcs10), kubelets.spec(pkcs10), known, parsed)
    return decision.action, decision.reason


@pytest.mark.parametrize(("count", "expected"), [(4, (APPROVE, policy.PROVEN)), (5, (DENY, policy.TOO_MANY_NAMES))])
@pytest.mark.parametrize("kind", ["names", "addresses", "both"])
def test_the_maximum_number_of_names_is_approved(kind, count, expected):
    """Names and addresses count together, repeated ones as well."""
    dns, ips = {"names": (count, 0), "addresses": (0, count), "both": (1, count - 1)}[kind]
    request = {"dns": ["n1"] * dns, "ips": ["10.0.0.1"] * ips}
    known = evidence.Evidence(claims=claims("n1", "10.0.0.1"))
    assert evaluate(request, known, ["node"], **{"max-names": 4}) == expected


@pytest.mark.parametrize("name", ["0x", "n1.0x", "n1.0xff", "n1.0", "1"])
def test_a_name_that_ends_in_a_number_is_malformed(name):
    """Also for an empty hexadecimal number, which some programs read as zero."""
    known = evidence.Evidence(claims=claims("n1", name))
    assert evaluate({"dns": ["n1", name], "ips": []}, known, ["node"]) == (DENY, policy.MALFORMED_NAME)


@pytest.mark.parametrize("name", ["x0", "n1.x0", "n1.0xg", "0x.n1"])
def test_a_name_that_ends_in_letters_is_not_a_number(name):
    """Only the last label counts."""
    known = evidence.Evidence(claims=claims("n1", name))
    assert evaluate({"dns": ["n1", name], "ips": []}, known, ["node"]) == (APPROVE, policy.PROVEN)


@pytest.mark.parametrize(
    ("alternatives", "expected"),
    [
        (["inventory", "node"], (WAIT, policy.SOURCE_UNAVAILABLE)),
        (["inventory+patterns", "node"], (WAIT, policy.ADDRESS_NOT_PROVEN)),
        (["inventory+cidrs", "node"], (WAIT, policy.SOURCE_UNAVAILABLE)),
        (["patterns+inventory", "node"], (WAIT, policy.ADDRESS_NOT_PROVEN)),
        (["patterns+inventory", "cidrs+node"], (WAIT, policy.ADDRESS_NOT_PROVEN)),
    ],
)
def test_an_unavailable_source_is_the_reason_only_if_it_could_prove_the_name(alternatives, expected):
    """Not if another source of the same alternative excludes it."""
    request = {"dns": [], "ips": ["10.0.0.9"]}
    document = {"inventory": "x"}
    known = evidence.Evidence(claims=claims("n1"))
    assert evaluate(request, known, alternatives, **document) == expected
    available = dataclasses.replace(known, inventory=evidence.Inventory({}, {}))
    assert evaluate(request, available, alternatives, **document) == (WAIT, policy.ADDRESS_NOT_PROVEN)


def test_reverse_lookups_belong_to_dns():
    """Without DNS the setting has no effect."""
    document = {"cidrs": ["10.0.0.0/16"], "patterns": ["{node}"], "dns-reverse": True}
    assert not rules.parse(document).rules.dns_reverse
    assert rules.parse({**document, "dns": True}).rules.dns_reverse
