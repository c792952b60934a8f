"""The deletion of namespaces: the conditions that report it."""

from __future__ import annotations

from certplane.controllers.cluster import namespacedeletion
from certplane.resources import configmaps, namespaces


def test_conditions_keep_their_transition_time():
    """While their status is the same; conditions of other controllers are not changed."""
    foreign = namespaces.NamespaceCondition(type="Foreign", status="True")
    first = namespacedeletion.updated_conditions(
        [foreign], {"configmaps.": [configmaps.ConfigMap()]}, "2026-01-01T00:00:00Z"
    )
    later = namespacedeletion.updated_conditions(first, {}, "2026-01-01T00:00:08Z")
    assert later[0] == foreign
    assert {condition.type: (condition.status, condition.last_transition_time) for condition in later[1:]} == {
        "NamespaceDeletionDiscoveryFailure": ("False", "2026-01-01T00:00:00Z"),
        "NamespaceDeletionGroupVersionParsingFailure": ("False", "2026-01-01T00:00:00Z"),
        "NamespaceDeletionContentFailure": ("False", "2026-01-01T00:00:00Z"),
        "NamespaceContentRemaining": ("False", "2026-01-01T00:00:08Z"),
        "NamespaceFinalizersRemaining": ("False", "2026-01-01T00:00:00Z"),
    }
