"""Certificate policies along a path. RFC 5280 section 6.1, RFC 9618."""

from __future__ import annotations

import pytest

from certplane.x509.trust import certificatepolicies, pathcertificate
from tests.unit.x509 import chains

ANY, P1, P2, P3 = "2.5.29.32.0", "1.2.3.1", "1.2.3.2", "1.2.3.3"


def are_valid(*certificates):
    """Whether a path is valid; `certificates` are the fields of those below the anchor, the leaf last."""
    path = [{"subject": "anchor", "issuer": "anchor", "ca": True}]
    for index, fields in enumerate(certificates):
        is_leaf = index == len(certificates) - 1
        defaults = {"subject": "leaf" if is_leaf else f"ca{index}", "issuer": path[0]["subject"], "ca": not is_leaf}
        path.insert(0, defaults | fields)
    parsed = [pathcertificate.parse(chains.certificate({"key": 0, "signer": 0} | fields)) for fields in path]
    return certificatepolicies.are_valid(parsed)


def policies(*oids):
    return {"policies": list(oids)}


@pytest.mark.parametrize("leaf", [{}, policies(P1), policies(ANY)])
@pytest.mark.parametrize("ca", [{}, policies(P2)])
def test_no_policy_is_needed_unless_a_certificate_requires_one(ca, leaf):
    """Whatever the certificates have; an anchor that is itself the leaf needs none either."""
    assert are_valid(ca, leaf)
    assert are_valid()


@pytest.mark.parametrize(
    ("ca", "leaf", "valid"),
    [
        ((P1,), (P1,), True),
        ((P1, P2), (P2, P3), True),
        ((P1,), (P2,), False),
        ((P1,), (), False),
        ((), (P1,), False),
        ((ANY,), (P2,), True),
        ((ANY,), (), False),
        ((P1,), (ANY,), True),
        ((ANY,), (ANY,), True),
    ],
)
def test_a_required_policy_is_one_of_every_certificate(ca, leaf, valid):
    """anyPolicy stands for all."""
    assert are_valid(policies(*ca) | {"explicit": 0}, policies(*leaf)) is valid


@pytest.mark.parametrize(("explicit", "valid"), [(0, False), (1, False), (2, False), (3, True), (4, True)])
def test_a_policy_is_required_after_a_number_of_certificates(explicit, valid):
    """Of two CAs and a leaf, none of which has a policy, the upper CA sets the number."""
    assert are_valid({"explicit": explicit}, {}, {}) is valid


@pytest.mark.parametrize(("explicit", "valid"), [(1, False), (2, True)])
def test_self_issued_certificates_are_not_counted(explicit, valid):
    """A CA that issued itself a certificate with a new key; any other CA in its place is counted."""
    assert are_valid({"explicit": explicit}, {"subject": "ca0", "issuer": "ca0"}, {"issuer": "ca0"}) is valid
    assert not are_valid({"explicit": explicit}, {}, {})


@pytest.mark.parametrize(("own", "valid"), [((P1,), True), ((), False)])
def test_a_leaf_may_require_a_policy_of_itself(own, valid):
    """With 0; with another number it requires nothing."""
    ca = policies(P1)
    assert are_valid(ca, policies(*own) | {"explicit": 0}) is valid
    assert are_valid(ca, policies(*own) | {"explicit": 1})


@pytest.mark.parametrize(("inhibit", "valid"), [(0, False), (1, True)])
def test_any_policy_can_be_inhibited(inhibit, valid):
    """For certificates below a number of CAs."""
    assert are_valid(policies(P1) | {"explicit": 0, "inhibit_any": inhibit}, policies(ANY)) is valid
    assert are_valid(policies(P1) | {"explicit": 0, "inhibit_any": inhibit}, policies(P1))


def test_any_policy_of_a_self_issued_ca_is_not_inhibited():
    """RFC 5280 section 6.1.3 d.2; that of a leaf is."""
    upper = policies(P1) | {"explicit": 0, "inhibit_any": 0}
    self_issued = {"subject": "ca0", "issuer": "ca0"}
    assert are_valid(upper, policies(ANY) | self_issued, policies(P1) | {"issuer": "ca0"})
    assert not are_valid(upper, policies(ANY), policies(P1))
    assert not are_valid(upper, policies(ANY) | self_issued | {"subject": "ca0"})


@pytest.mark.parametrize(
    ("ca", "mappings", "leaf", "valid"),
    [
        ((P1,), [(P1, P2)], (P2,), True),
        ((P1,), [(P1, P2)], (P1,), False),
        ((P1,), [(P1, P2), (P1, P3)], (P3,), True),
        ((P1,), [(P1, P2), (P1, P3)], (P2,), True),
        ((P1,), [(P1, P1)], (P1,), True),
        ((P1, P3), [(P1, P2)], (P3,), True),
        ((P1,), [(P3, P2)], (P2,), False),
        ((P1,), [(P3, P2)], (P1,), True),
        ((ANY,), [(P1, P2)], (P2,), True),
        ((ANY,), [(P1, P2)], (P3,), True),
        ((P1,), [(ANY, P2)], (P1,), False),
        ((P1,), [(P2, ANY)], (P1,), False),
        ((P1,), [(P1, P2)], (ANY,), True),
    ],
)
def test_policies_are_mapped_to_others(ca, mappings, leaf, valid):
    """A CA says which policies below it are equivalent to its own; anyPolicy cannot be mapped."""
    fields = policies(*ca) | {"mappings": mappings, "explicit": 0}
    assert are_valid(fields, policies(*leaf)) is valid


@pytest.mark.parametrize(
    ("inhibit", "leaf", "valid"),
    [(0, (P2,), False), (0, (P1,), False), (0, (P3,), True), (1, (P2,), True), (1, (P1,), False)],
)
def test_mappings_can_be_inhibited(inhibit, leaf, valid):
    """Then a policy that is mapped is not valid any more, whereas others are."""
    upper = policies(P1, P3) | {"explicit": 0, "inhibit_mapping": inhibit}
    mapping = policies(P1, P3) | {"mappings": [(P1, P2)]}
    assert are_valid(upper, mapping, policies(*leaf)) is valid


@pytest.mark.parametrize(("inhibit", "valid"), [(1, False), (2, True)])
def test_mappings_are_inhibited_below_a_number_of_cas(inhibit, valid):
    """The number is that of the CAs below whose mappings count."""
    upper = policies(P1) | {"explicit": 0, "inhibit_mapping": inhibit}
    assert are_valid(upper, policies(P1), policies(P1) | {"mappings": [(P1, P2)]}, policies(P2)) is valid


def test_a_mapping_of_a_leaf_means_nothing():
    """It is no CA."""
    leaf = policies(P1) | {"mappings": [(P1, P2), (ANY, P3)]}
    assert are_valid(policies(P1) | {"explicit": 0}, leaf)
