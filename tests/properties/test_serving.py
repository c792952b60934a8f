"""For all requests and evidence: what is approved is proven, and missing evidence never denies."""

from __future__ import annotations

import dataclasses

from hypothesis import given, settings
from hypothesis import strategies as st

from certplane.controllers.approving.kubeletserving import evidence, policy, rules
from tests import kubelets

NAMES = ("n1", "n1.example.com", "n2.example.com", "a.example.org", "*.example.com", "kubernetes", "n1.", "N1")
ADDRESSES = ("10.0.0.1", "10.0.0.2", "::ffff:10.0.0.1", "127.0.0.1", "192.0.2.1", "fd00::1")
VALID = ("n1", "n1.example.com", "n2.example.com", "a.example.org", "10.0.0.1", "10.0.0.2", "192.0.2.1", "fd00::1")
BASE = policy.parse_request(kubelets.pkcs10())
RULES = rules.parse({"cidrs": ["10.0.0.0/16"], "patterns": ["{node}", "{node}.example.com"], "dns": True}).rules

sans = st.sampled_from(list(map(evidence.parse_san, VALID)))
requests = st.builds(
    lambda names, addresses: dataclasses.replace(
        BASE,
        pkcs10=dataclasses.replace(
            BASE.pkcs10,
            dns_names=tuple(names),
            ip_addresses=tuple(evidence.ipaddress.ip_address(address) for address in addresses),
        ),
    ),
    # Mostly names of the node, because one other name prevents the approval.
    st.lists(st.sampled_from((*NAMES[:2] * 8, *NAMES)), max_size=2),
    st.lists(st.sampled_from((*ADDRESSES[:1] * 12, *ADDRESSES)), max_size=2),
)


def _inventory(owners):
    entries = {node: frozenset(san for san, owner in owners.items() if owner == node) for node in owners.values()}
    return evidence.Inventory(entries, owners)


answer = st.builds(evidence.DNSAnswer, st.lists(sans, max_size=2).map(tuple)) | st.just(
    evidence.DNSAnswer(problem="no answer")
)
evidences = st.builds(
    evidence.Evidence,
    claims=st.none() | st.frozensets(sans, min_size=3),
    other_claimants=st.dictionaries(sans, st.just(("n2",)), max_size=2),
    inventory=st.none() | st.dictionaries(sans, st.sampled_from(("n1", "n1", "n1", "n2"))).map(_inventory),
    inventory_problem=st.sampled_from(("", "", "", "it cannot be read")),
    dns_answers=st.dictionaries(sans, answer),
)
alternatives = st.lists(
    st.lists(st.sampled_from(rules.SOURCES), min_size=1, max_size=2, unique=True).map(tuple),
    min_size=2,
    max_size=4,
)
any_rules = st.builds(
    lambda chosen, reverse: dataclasses.replace(RULES, alternatives=tuple(chosen), dns_reverse=reverse),
    alternatives,
    st.booleans(),
)


UNANSWERED = evidence.DNSAnswer(problem="no answer")


def evaluate(request, evidence, rules_):
    return policy.evaluate(request, kubelets.spec(b""), evidence, rules_)


def _proves(source, san, evidence, rules_):
    """Whether a source proves a name; a second, shorter implementation."""
    if source == "node":
        return san in (evidence.claims or ())
    if source == "inventory":
        return evidence.inventory is not None and evidence.inventory.owners.get(san) == "n1"
    if source == "cidrs":
        return not isinstance(san, str) and rules.is_within(san, rules_.cidrs)
    return san in ("n1", "n1.example.com")


def _is_allowed(san, evidence):
    """Whether n1 may have a name, if something proves it."""
    owner = evidence.inventory.owners.get(san) if evidence.inventory is not None else None
    return str(san) in VALID and (owner == "n1" or (owner is None and san not in evidence.other_claimants))


def _is_proven(san, evidence, rules_):
    """Whether n1 may have a name, and an alternative without DNS proves it."""
    alternatives = [alternative for alternative in rules_.alternatives if "dns" not in alternative]
    agreed = (all(_proves(source, san, evidence, rules_) for source in alternative) for alternative in alternatives)
    return _is_allowed(san, evidence) and any(agreed)


@settings(max_examples=1000, deadline=None)
@given(requests, evidences, any_rules)
def test_approved_names_are_proven(request, evidence, rules_):
    """Every name of an approved request is proven, and proven requests are approved. DNS can prove more names, but none
    that cannot belong to the node.
    """
    is_approved = evaluate(request, evidence, rules_).action is policy.Action.APPROVE
    is_unread = evidence.inventory is None and bool(evidence.inventory_problem)
    proven = bool(request.sans) and not is_unread and all(_is_proven(san, evidence, rules_) for san in request.sans)
    assert is_approved or not proven
    if is_approved and not proven:
        assert any("dns" in alternative for alternative in rules_.alternatives)
        assert request.sans
        assert not is_unread
        assert all(_is_allowed(san, evidence) for san in request.sans)


@settings(max_examples=1000, deadline=None)
@given(requests, evidences, any_rules, st.data())
def test_missing_evidence_never_denies(request, evidence, rules_, data):
    """A request that would be approved stays pending, or is still approved, if a part of the evidence is missing."""
    if evaluate(request, evidence, rules_).action is not policy.Action.APPROVE:
        return
    less = data.draw(
        st.sampled_from(
            (
                dataclasses.replace(evidence, claims=None),
                dataclasses.replace(evidence, claims=frozenset()),
                dataclasses.replace(evidence, inventory=None, inventory_problem="it cannot be read"),
                dataclasses.replace(evidence, inventory_problem="it cannot be read"),
                dataclasses.replace(evidence, dns_answers={}),
                dataclasses.replace(evidence, dns_answers=dict.fromkeys(evidence.dns_answers, UNANSWERED)),
            )
        )
    )
    assert evaluate(request, less, rules_).action is not policy.Action.DENY


@settings(max_examples=400, deadline=None)
@given(requests, requests, evidences, any_rules)
def test_an_additional_name_never_causes_an_approval(one, other, evidence, rules_):
    """An additional name never turns another decision into an approval."""
    both = dataclasses.replace(
        one,
        pkcs10=dataclasses.replace(
            one.pkcs10,
            dns_names=one.pkcs10.dns_names + other.pkcs10.dns_names,
            ip_addresses=one.pkcs10.ip_addresses + other.pkcs10.ip_addresses,
        ),
    )
    if evaluate(both, evidence, rules_).action is policy.Action.APPROVE and one.sans:
        assert evaluate(one, evidence, rules_).action is policy.Action.APPROVE
