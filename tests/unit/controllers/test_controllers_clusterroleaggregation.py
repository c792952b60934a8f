"""The rules of aggregated ClusterRoles."""

from __future__ import annotations

import pytest

from certplane.controllers.cluster import clusterroleaggregation
from certplane.meta import objects
from certplane.resources import rbac


def rule(resource):
    return rbac.PolicyRule(verbs=["get"], api_groups=[""], resources=[resource])


def role(name, *resources, **labels):
    new = rbac.ClusterRole(rules=[rule(resource) for resource in resources] or None)
    new.metadata.name, new.metadata.labels = name, labels
    return new


def aggregated(*label_selectors, name="all", **labels):
    new = role(name, "own", **labels)
    new.aggregation_rule = rbac.AggregationRule(cluster_role_selectors=list(label_selectors))
    return new


def by_label(**labels):
    return objects.LabelSelector(match_labels=labels)


def resources(target, *candidates):
    rules = clusterroleaggregation.aggregate_rules(target, candidates)
    return [resource for policy_rule in rules for resource in policy_rule.resources]


CANDIDATES = (role("c", "pods", "nodes", team="x"), role("a", "secrets", team="x"), role("b", "leases", team="y"))


@pytest.mark.parametrize(
    ("label_selectors", "expected"),
    [
        ([], []),
        ([by_label(team="x")], ["secrets", "pods", "nodes"]),
        ([by_label(team="y"), by_label(team="x")], ["leases", "secrets", "pods", "nodes"]),
        ([by_label(team="z")], []),
        ([by_label(team="x", other="1")], []),
        ([objects.LabelSelector()], ["secrets", "leases", "pods", "nodes"]),
    ],
)
def test_rules_are_collected_by_selector_and_then_by_name(label_selectors, expected):
    """All labels of a selector must match, and an empty selector matches every role."""
    assert resources(aggregated(*label_selectors), *CANDIDATES) == expected


def test_a_role_does_not_aggregate_itself():
    """Its previous rules would never be removed."""
    target = aggregated(by_label(team="x"), team="x")
    assert resources(target, target, *CANDIDATES) == ["secrets", "pods", "nodes"]


def test_equal_rules_are_collected_once():
    """The same rule in several roles, and a role that several selectors match."""
    target = aggregated(by_label(team="x"), by_label(team="x"))
    assert resources(target, role("a", "pods", team="x"), role("b", "pods", "nodes", team="x")) == ["pods", "nodes"]


def test_an_invalid_selector_is_an_error():
    """The rules of the role are not changed then."""
    requirement = objects.LabelSelectorRequirement(key="team", operator="Unknown", values=["x"])
    with pytest.raises(ValueError, match="not a valid selector operator: Unknown"):
        resources(aggregated(objects.LabelSelector(match_expressions=[requirement])), *CANDIDATES)


def test_a_role_without_an_aggregation_rule_has_no_rules():
    """The controller does not change such a role."""
    assert resources(role("plain", "pods"), *CANDIDATES) == []
