"""Whatever is asked for and whatever is known: what is approved is proven, and want of knowledge denies nothing."""

from __future__ import annotations

import dataclasses

from hypothesis import given, settings
from hypothesis import strategies as st

from certplane.controllers import proofs, servingrules, verdicts
from tests import kubelets

NAMES = ("n1", "n1.example.com", "n2.example.com", "a.example.org", "*.example.com", "kubernetes", "n1.", "N1")
ADDRESSES = ("10.0.0.1", "10.0.0.2", "::ffff:10.0.0.1", "127.0.0.1", "192.0.2.1", "fd00::1")
GOOD = ("n1", "n1.example.com", "n2.example.com", "a.example.org", "10.0.0.1", "10.0.0.2", "192.0.2.1", "fd00::1")
BASE = verdicts.read(kubelets.pkcs10())
RULES = servingrules.parse({"cidrs": ["10.0.0.0/16"], "patterns": ["{node}", "{node}.example.com"], "dns": True}).rules

sans = st.sampled_from(list(map(proofs.san, GOOD)))
requests = st.builds(
    lambda names, addresses: dataclasses.replace(
        BASE,
        csr=dataclasses.replace(
            BASE.csr,
            dns_names=tuple(names),
            ip_addresses=tuple(proofs.ipaddress.ip_address(each) for each in addresses),
        ),
    ),
    # Mostly its own: what is wrong in one name need not be tried in several.
    st.lists(st.sampled_from((*NAMES[:2] * 8, *NAMES)), max_size=2),
    st.lists(st.sampled_from((*ADDRESSES[:1] * 12, *ADDRESSES)), max_size=2),
)


def _listing(owners):
    entries = {node: frozenset(each for each, owner in owners.items() if owner == node) for node in owners.values()}
    return proofs.Listing(entries, owners)


answer = st.builds(proofs.Answer, st.lists(sans, max_size=2).map(tuple)) | st.just(proofs.Answer(problem="silent"))
evidences = st.builds(
    proofs.Evidence,
    claims=st.none() | st.frozensets(sans, min_size=3),
    disputes=st.dictionaries(sans, st.just(("n2",)), max_size=2),
    listing=st.none() | st.dictionaries(sans, st.sampled_from(("n1", "n1", "n1", "n2"))).map(_listing),
    listing_problem=st.sampled_from(("", "", "", "it is gone")),
    answers=st.dictionaries(sans, answer),
)
alternatives = st.lists(
    st.lists(st.sampled_from(servingrules.SOURCES), min_size=1, max_size=2, unique=True).map(tuple),
    min_size=2,
    max_size=4,
)
rules = st.builds(
    lambda chosen, back: dataclasses.replace(RULES, alternatives=tuple(chosen), reverse=back),
    alternatives,
    st.booleans(),
)


def judge(request, evidence, by):
    return verdicts.judge(request, kubelets.spec(b""), evidence, by)


def _says(source, san, evidence, by):
    """What a source says, written in the shortest way."""
    if source == "node":
        return san in (evidence.claims or ())
    if source == "inventory":
        return evidence.listing is not None and evidence.listing.owners.get(san) == "n1"
    if source == "cidrs":
        return not isinstance(san, str) and servingrules.is_within(san, by.cidrs)
    return san in ("n1", "n1.example.com")


def _may_be_its(san, evidence):
    """Whether n1 may have a name at all, if something proves it."""
    owner = evidence.listing.owners.get(san) if evidence.listing is not None else None
    return str(san) in GOOD and (owner == "n1" or (owner is None and san not in evidence.disputes))


def _is_proven(san, evidence, by):
    """Whether n1 may have a name, and sources agree on it; those are not DNS."""
    agreed = (all(_says(source, san, evidence, by) for source in each) for each in by.alternatives if "dns" not in each)
    return _may_be_its(san, evidence) and any(agreed)


@settings(max_examples=1000, deadline=None)
@given(requests, evidences, rules)
def test_what_is_approved_is_proven(request, evidence, by):
    """Every name of it, and what is proven is approved. DNS proves more, but nothing that cannot be the node's."""
    is_approved = judge(request, evidence, by).kind is verdicts.Kind.APPROVE
    unread = evidence.listing is None and bool(evidence.listing_problem)
    proven = bool(request.sans) and not unread and all(_is_proven(each, evidence, by) for each in request.sans)
    assert is_approved or not proven
    if is_approved and not proven:
        assert any("dns" in each for each in by.alternatives)
        assert request.sans
        assert not unread
        assert all(_may_be_its(each, evidence) for each in request.sans)


@settings(max_examples=1000, deadline=None)
@given(requests, evidences, rules, st.data())
def test_not_knowing_denies_nothing(request, evidence, by, data):
    """What would be approved waits, or is still approved, if something of the evidence is missing."""
    if judge(request, evidence, by).kind is not verdicts.Kind.APPROVE:
        return
    less = data.draw(
        st.sampled_from(
            (
                dataclasses.replace(evidence, claims=None),
                dataclasses.replace(evidence, claims=frozenset()),
                dataclasses.replace(evidence, listing=None, listing_problem="it is gone"),
                dataclasses.replace(evidence, listing_problem="it is gone"),
                dataclasses.replace(evidence, answers={}),
                dataclasses.replace(evidence, answers=dict.fromkeys(evidence.answers, proofs.Answer(problem="silent"))),
            )
        )
    )
    assert judge(request, less, by).kind is not verdicts.Kind.DENY


@settings(max_examples=400, deadline=None)
@given(requests, requests, evidences, rules)
def test_more_names_are_never_easier(one, other, evidence, by):
    """Nothing becomes good by what stands beside it."""
    both = dataclasses.replace(
        one,
        csr=dataclasses.replace(
            one.csr,
            dns_names=one.csr.dns_names + other.csr.dns_names,
            ip_addresses=one.csr.ip_addresses + other.csr.ip_addresses,
        ),
    )
    if judge(both, evidence, by).kind is verdicts.Kind.APPROVE and one.sans:
        assert judge(one, evidence, by).kind is verdicts.Kind.APPROVE
