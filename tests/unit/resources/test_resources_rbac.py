"""Validation of ClusterRoles."""

from __future__ import annotations

import pytest

from certplane.meta import objects
from certplane.resources import rbac

_INVALID = "a b"


@pytest.mark.parametrize(
    ("selector", "paths"),
    [
        (objects.LabelSelector(match_labels={"a": "b"}), []),
        (objects.LabelSelector(match_labels={"a": _INVALID}), [".matchLabels", ""]),
        (objects.LabelSelector(match_labels={_INVALID: "b"}), [".matchLabels", ""]),
        (
            objects.LabelSelector(
                match_expressions=[
                    objects.LabelSelectorRequirement(key="a", operator="In", values=["b", _INVALID]),
                    objects.LabelSelectorRequirement(key="a", operator="Exists", values=[_INVALID]),
                ]
            ),
            [".matchExpressions[0].values[1]", ".matchExpressions[1].values", ".matchExpressions[1].values[0]", ""],
        ),
    ],
)
def test_invalid_selectors_of_aggregation_rules_are_refused(selector, paths):
    """Each invalid key and value is reported, and then the selector as a whole."""
    role = rbac.ClusterRole(rules=[], aggregation_rule=rbac.AggregationRule(cluster_role_selectors=[selector]))
    problems = rbac.CLUSTER_ROLES.validate(role)
    assert [problem.path for problem in problems] == [
        f"aggregationRule.clusterRoleSelectors[0]{path}" for path in paths
    ]
