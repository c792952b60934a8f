"""What is valid in roles and bindings."""

from __future__ import annotations

import pytest

from certplane.meta import objects
from certplane.resources import rbac

_BAD = "a b"


@pytest.mark.parametrize(
    ("selector", "paths"),
    [
        (objects.LabelSelector(match_labels={"a": "b"}), []),
        (objects.LabelSelector(match_labels={"a": _BAD}), [".matchLabels", ""]),
        (objects.LabelSelector(match_labels={_BAD: "b"}), [".matchLabels", ""]),
        (
            objects.LabelSelector(
                match_expressions=[
                    objects.LabelSelectorRequirement(key="a", operator="In", values=["b", _BAD]),
                    objects.LabelSelectorRequirement(key="a", operator="Exists", values=[_BAD]),
                ]
            ),
            [".matchExpressions[0].values[1]", ".matchExpressions[1].values", ".matchExpressions[1].values[0]", ""],
        ),
    ],
)
def test_a_selector_with_a_wrong_part_is_wrong_as_a_whole_too(selector, paths):
    """Each part is named, keys and values of labels among them, and then the selector."""
    role = rbac.ClusterRole(rules=[], aggregation_rule=rbac.AggregationRule(cluster_role_selectors=[selector]))
    problems = rbac.CLUSTER_ROLES.validate(role)
    assert [problem.path for problem in problems] == [
        f"aggregationRule.clusterRoleSelectors[0]{path}" for path in paths
    ]
