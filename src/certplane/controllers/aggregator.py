"""Collects the rules of aggregated ClusterRoles: those whose aggregationRule names others by their labels.

Source: kubernetes, `pkg/controller/clusterroleaggregation`; controllers.md 9.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from certplane.client import api, informer
from certplane.meta import codec, selectors
from certplane.resources import rbac

NAME: Final = "clusterrole-aggregation-controller"
ACCOUNT: Final = "clusterrole-aggregation-controller"
QUEUE: Final = "ClusterRoleAggregator"
WORKERS: Final = 5


def collected(of: rbac.ClusterRole, others: Iterable[rbac.ClusterRole]) -> list[rbac.PolicyRule]:
    """The rules that a role should have: in the order of its selectors, then of the names, each once."""
    # By their text, as rules are no keys: there may be very many, of very many roles.
    rules: dict[bytes, rbac.PolicyRule] = {}
    by_name = sorted(others, key=lambda each: each.metadata.name)
    for each in of.aggregation_rule.cluster_role_selectors if of.aggregation_rule is not None else ():
        selector = selectors.from_struct(each)
        for other in by_name:
            selected = selector is not None and selector.matches(other.metadata.labels)
            if selected and other.metadata.name != of.metadata.name:
                for rule in other.rules or ():
                    rules.setdefault(codec.encode(rule), rule)
    return list(rules.values())


class Aggregator:
    """The reconciler around it. Its key is the name of an aggregated role."""

    def __init__(self, client: api.Client, roles: informer.Informer) -> None:
        self._client = client
        self._roles = roles

    def concerned(self, changed: rbac.ClusterRole) -> list[str]:
        """The roles to look at when one has changed: all that collect."""
        del changed
        return [each.metadata.name for each in self._roles.objects.values() if each.aggregation_rule is not None]

    async def handle(self, name: str) -> None:
        of = self._roles.get(name)
        if of is None or of.aggregation_rule is None:
            return
        rules = collected(of, self._roles.objects.values())
        if rules == (of.rules or []):
            return
        said: dict[str, Any] = {"metadata": {"name": name}}
        if rules:
            said["rules"] = [codec.to_builtins(each) for each in rules]
        # Without any, what was applied before goes, and what somebody else wrote stays.
        await self._client.apply(rbac.CLUSTER_ROLES, said, manager=ACCOUNT)
