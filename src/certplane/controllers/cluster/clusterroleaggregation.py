"""Fills in the rules of aggregated ClusterRoles: those whose aggregationRule selects other ClusterRoles by label.

Source: kubernetes, `pkg/controller/clusterroleaggregation`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from certplane.client import api
from certplane.client.informer import Informer
from certplane.meta import selectors
from certplane.resources import rbac
from certplane.resources.rbac import ClusterRole, PolicyRule
from certplane.wire import codec

NAME: Final = "clusterrole-aggregation-controller"
ACCOUNT: Final = "clusterrole-aggregation-controller"
QUEUE: Final = "ClusterRoleAggregator"
WORKERS: Final = 5


def aggregate_rules(role: ClusterRole, roles: Iterable[ClusterRole]) -> list[PolicyRule]:
    """The rules that an aggregated role should have: by selector, then by the name of the selected role, without
    duplicates.
    """
    # Keyed by their JSON, because rules are not hashable and comparing all pairs would be quadratic.
    rules: dict[bytes, PolicyRule] = {}
    by_name = sorted(roles, key=lambda other: other.metadata.name)
    for label_selector in role.aggregation_rule.cluster_role_selectors if role.aggregation_rule is not None else ():
        selector = selectors.from_struct(label_selector)
        for other in by_name:
            is_selected = selector is not None and selector.matches(other.metadata.labels)
            if is_selected and other.metadata.name != role.metadata.name:
                for rule in other.rules or ():
                    rules.setdefault(codec.encode(rule), rule)
    return list(rules.values())


class Aggregator:
    """Reconciles aggregated ClusterRoles. The keys are their names."""

    def __init__(self, client: api.Client, role_informer: Informer[ClusterRole]) -> None:
        self._client = client
        self._roles = role_informer

    def affected_roles(self, role: ClusterRole) -> list[str]:
        """The keys to queue when any ClusterRole has changed: all aggregated ones."""
        del role
        return [other.metadata.name for other in self._roles.objects.values() if other.aggregation_rule is not None]

    async def handle(self, name: str) -> None:
        role = self._roles.get(name)
        if role is None or role.aggregation_rule is None:
            return
        rules = aggregate_rules(role, self._roles.objects.values())
        if rules == (role.rules or []):
            return
        configuration: dict[str, object] = {"metadata": {"name": name}}
        if rules:
            configuration["rules"] = [codec.to_builtins(rule) for rule in rules]
        # Without rules the field is not sent: rules that this controller applied are removed, those of others stay.
        await self._client.apply(rbac.CLUSTER_ROLES, configuration, manager=ACCOUNT)
