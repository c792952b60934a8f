"""Prevents privilege escalation through RBAC objects.

A user who writes a role must have every permission in it, or the verb `escalate` on it. A user who binds a role must
have every permission that it grants, or the verb `bind` on it. Source: kubernetes,
`pkg/registry/rbac/escalation_check.go`, `.../validation/rule.go`, `k8s.io/component-helpers/auth/rbac/validation`.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from certplane import errors
from certplane.access import rbac
from certplane.golang import formatting
from certplane.meta import names
from certplane.meta.context import Attributes, User
from certplane.meta.objects import Object
from certplane.registry.admission import AdmissionAttributes, Hook
from certplane.resources.rbac import GROUP, ClusterRole, PolicyRule, Role
from certplane.wire import codec

_REFERABLE: Final = {"ClusterRole": "clusterroles", "Role": "roles"}
_ROLES: Final = frozenset(_REFERABLE.values())
_BINDINGS: Final = frozenset({"rolebindings", "clusterrolebindings"})
#: Metadata fields that the garbage collector changes.
_GARBAGE_COLLECTION_FIELDS: Final = frozenset({"ownerReferences", "finalizers", "managedFields"})
#: The maximum number of permissions that a refusal lists.
MAX_LISTED: Final = 1000
_EVERYTHING: Final = (
    PolicyRule(verbs=["*"], api_groups=["*"], resources=["*"]),
    PolicyRule(verbs=["*"], non_resource_urls=["*"]),
)


def hook(authorizer: rbac.Authorizer) -> Hook:
    """A `mutate` hook for the four RBAC kinds. It checks the object as it was sent, before validation."""

    def check(write: AdmissionAttributes) -> None:
        if write.resource.group != GROUP or write.operation == "delete":
            return
        user = write.call.user
        if rbac.MASTERS in user.groups or _is_garbage_collection(write):
            return
        if write.resource.plural in _ROLES:
            _check_role(authorizer, write, user)
        elif write.resource.plural in _BINDINGS:
            _check_binding(authorizer, write, user)

    return check


def _is_garbage_collection(write: AdmissionAttributes) -> bool:
    """Whether an update changes nothing but owner references and finalizers, as garbage collection does."""
    return write.operation == "update" and _checked_part(write.new) == _checked_part(write.old)


def _checked_part(obj: Object) -> dict[str, object]:
    """The fields of a role or binding whose change needs the check."""
    document = codec.to_builtins(obj)
    meta = document["metadata"]
    document["metadata"] = {name: value for name, value in meta.items() if name not in _GARBAGE_COLLECTION_FIELDS}
    return {name: value for name, value in document.items() if value}


def creation_hook(authorizer: rbac.Authorizer) -> Hook:
    """A `check` hook: creating an object with PUT or server-side apply takes the verb `create` as well."""

    def check(write: AdmissionAttributes) -> None:
        info = write.call.info
        if write.operation != "create" or info.verb not in ("update", "patch"):
            return
        attributes = Attributes(
            write.call.user,
            "create",
            info.group,
            info.version,
            info.resource,
            info.subresource,
            info.name,
            info.namespace,
        )
        decision = authorizer.authorize(attributes)
        if not decision.allowed:
            raise rbac.refusal(attributes, decision.reason)

    return check


def _check_role(authorizer: rbac.Authorizer, write: AdmissionAttributes, user: User) -> None:
    # A rule with resourceNames is compared with the name in the path; a POST has none.
    info = write.call.info
    if authorizer.authorize(
        Attributes(user, "escalate", info.group, "*", info.resource, "", info.name, write.namespace)
    ).allowed:
        return
    _require_permissions(authorizer, write, user, write.new.rules or ())
    if _aggregates(write.new) or _aggregates(write.old):
        user_rules, _ = authorizer.rules_for(user, "")
        if next(missing(_EVERYTHING, user_rules), None) is not None:
            raise _refusal(write, "must have cluster-admin privileges to use the aggregationRule")


def _aggregates(role: Role | ClusterRole | None) -> bool:
    """Whether a role gets its rules from other roles."""
    aggregation = getattr(role, "aggregation_rule", None)
    return aggregation is not None and bool(aggregation.cluster_role_selectors)


def _check_binding(authorizer: rbac.Authorizer, write: AdmissionAttributes, user: User) -> None:
    ref = write.new.role_ref
    plural = _REFERABLE.get(ref.kind)
    if plural is None:
        raise errors.UnknownReasonError(f"unsupported role reference kind: {formatting.quote(ref.kind)}")
    if authorizer.authorize(
        Attributes(user, "bind", ref.api_group, "*", plural, "", ref.name, write.namespace)
    ).allowed:
        return
    without_namespace = ref.kind == "Role" and not write.namespace
    problem = "Namespace parameter required." if without_namespace else names.lookup_problem(ref.name)
    if problem:
        raise errors.BadRequest(problem)
    try:
        rules = authorizer.role_rules(ref, write.namespace)
    except errors.NotFound as error:
        raise _not_found(write, ref.name) from error
    _require_permissions(authorizer, write, user, rules)


def _require_permissions(
    authorizer: rbac.Authorizer, write: AdmissionAttributes, user: User, granted: Sequence[PolicyRule]
) -> None:
    user_rules, missing_roles = authorizer.rules_for(user, write.namespace)
    attempt = (
        f"user {formatting.quote(user.name)} (groups={formatting.quote_all(user.groups)}) is attempting to grant RBAC "
    )
    try:
        permissions = list(itertools.islice(missing(granted, user_rules), MAX_LISTED + 1))
    except TooManyCombinations as error:
        raise _refusal(write, f"{attempt}permissions in too many combinations to check") from error
    if not permissions:
        return
    lines = sorted({_rule_text(rule) for rule in compact(permissions[:MAX_LISTED])})
    if len(permissions) > MAX_LISTED:
        lines.append("and more")
    why = f"{attempt}permissions not currently held:\n" + "\n".join(lines)
    if missing_roles:
        problems = [_not_found(write, role_ref.name).message for role_ref in missing_roles]
        why += f"; resolution errors: [{rbac.aggregate(problems)}]"
    raise _refusal(write, why)


def _not_found(write: AdmissionAttributes, name: str) -> errors.NotFound:
    """The error for a role that does not exist. kube-apiserver reports it with the resource of the request."""
    return errors.NotFound(write.resource.plural, write.resource.group, name)


def _refusal(write: AdmissionAttributes, why: str) -> errors.Forbidden:
    return errors.Forbidden.for_object(write.resource.plural, write.resource.group, write.new.metadata.name, why)


# --- comparing rules ----------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Permission:
    """A single permission: one verb on one resource of one group, with `name` on one object only; or on one path."""

    verb: str
    group: str = ""
    resource: str = ""
    name: str | None = None
    path: str | None = None


class TooManyCombinations(ValueError):
    """The rules cannot be compared in reasonable time."""


def missing(granted: Iterable[PolicyRule], user_rules: Iterable[PolicyRule]) -> Iterator[Permission]:
    """The permissions of the granted rules that no rule of the user covers, in the order of the rules. One rule of the
    user has to cover a permission completely. Raises TooManyCombinations.
    """
    index = _UserRules(user_rules)
    for rule in granted:
        yield from (
            Permission(verb, group, resource, name)
            for group, resource, verb, name in index.uncovered(
                (
                    [(group, index.group(group)) for group in rule.api_groups],
                    [(resource, index.resource(resource)) for resource in rule.resources],
                    [(verb, index.verb(verb)) for verb in rule.verbs or ()],
                    [(name, index.name(name)) for name in rule.resource_names or (None,)],
                )
            )
        )
        yield from (
            Permission(verb, path=path)
            for path, verb in index.uncovered(
                (
                    [(path, index.path(path)) for path in rule.non_resource_urls],
                    [(verb, index.verb(verb)) for verb in rule.verbs or ()],
                )
            )
        )


#: The values of one part of a rule (its verbs, its groups ...), each with a bit set of the user's rules that match it.
_Level = Sequence[tuple[Any, int]]
#: Limit of values that are compared: about a tenth of a second, in which the event loop serves no other request.
_MAX_COMPARISONS: Final = 200_000


class _UserRules:
    """The rules of a user, indexed by their values. A rule is a bit; a permission is covered if the bit sets of its
    parts have a bit in common. A rule of 900 bytes may contain a million permissions, so combinations are enumerated
    only where the bit sets differ.
    """

    def __init__(self, rules: Iterable[PolicyRule]) -> None:
        self._verbs: dict[str, int] = {}
        self._groups: dict[str, int] = {}
        self._resources: dict[str, int] = {}
        self._names: dict[str, int] = {}
        self._paths: dict[str, int] = {}
        self._prefixes: dict[str, int] = {}
        self._unnamed = 0
        self._comparisons = 0
        for position, rule in enumerate(rules):
            bit = 1 << position
            for index, values in (
                (self._verbs, rule.verbs or ()),
                (self._groups, rule.api_groups),
                (self._resources, rule.resources),
                (self._names, rule.resource_names),
                (self._paths, rule.non_resource_urls),
                (self._prefixes, [path.rstrip("*") for path in rule.non_resource_urls if path.endswith("*")]),
            ):
                for value in values:
                    index[value] = index.get(value, 0) | bit
            self._unnamed |= 0 if rule.resource_names else bit
        self._prefix_lengths = sorted({len(prefix) for prefix in self._prefixes})

    def verb(self, verb: str) -> int:
        return self._verbs.get("*", 0) | self._verbs.get(verb, 0)

    def group(self, group: str) -> int:
        return self._groups.get("*", 0) | self._groups.get(group, 0)

    def resource(self, resource: str) -> int:
        _, slash, subresource = resource.partition("/")
        any_resource = self._resources.get(f"*/{subresource}", 0) if slash else 0
        return self._resources.get("*", 0) | self._resources.get(resource, 0) | any_resource

    def name(self, name: str | None) -> int:
        return self._unnamed | (self._names.get(name, 0) if name is not None else 0)

    def path(self, path: str) -> int:
        rules = self._paths.get(path, 0)
        for length in self._prefix_lengths:
            if length > len(path):
                break
            rules |= self._prefixes.get(path[:length], 0)
        return rules

    def _count(self, values: int) -> None:
        self._comparisons += values
        if self._comparisons > _MAX_COMPARISONS:
            raise TooManyCombinations

    def uncovered(self, levels: Sequence[_Level]) -> Iterator[tuple[Any, ...]]:
        """The combinations of one value per level that no rule of the user covers. Raises TooManyCombinations."""
        uncovered_values: dict[tuple[int, int], _Level] = {}
        self._count(sum(map(len, levels)))

        def values_at(depth: int, rules: int) -> _Level:
            """The values of a level that lead to uncovered combinations, if `rules` match the levels before it."""
            if not rules:
                return levels[depth]
            values = uncovered_values.get((depth, rules))
            if values is None:
                self._count(len(levels[depth]))
                values = [
                    (value, matching) for value, matching in levels[depth] if is_uncovered(depth + 1, rules & matching)
                ]
                uncovered_values[depth, rules] = values
            return values

        def is_uncovered(depth: int, rules: int) -> bool:
            if depth == len(levels):
                return not rules
            return bool(values_at(depth, rules))

        def combinations(depth: int, rules: int) -> Iterator[tuple[object, ...]]:
            if depth == len(levels):
                yield ()
                return
            for value, matching in values_at(depth, rules):
                for rest in combinations(depth + 1, rules & matching):
                    yield (value, *rest)

        if all(levels):
            yield from combinations(0, -1)


def as_rule(permission: Permission) -> PolicyRule:
    """The rule that grants this permission only."""
    if permission.path is not None:
        return PolicyRule(verbs=[permission.verb], non_resource_urls=[permission.path])
    return _with_verbs([permission.verb], permission.group, permission.resource, permission.name)


def _with_verbs(verbs: list[str], group: str, resource: str, name: str | None) -> PolicyRule:
    resource_names = [name] if name is not None else []
    return PolicyRule(verbs=verbs, api_groups=[group], resources=[resource], resource_names=resource_names)


def compact(permissions: Sequence[Permission]) -> list[PolicyRule]:
    """Permissions as rules. Those that differ in the verb only become one rule; repeated verbs are kept."""
    paths = [as_rule(permission) for permission in permissions if permission.path is not None]
    merged: dict[tuple[str, str, str | None], list[str]] = {}
    for permission in permissions:
        if permission.path is None:
            key = permission.group, permission.resource, permission.name
            merged.setdefault(key, []).append(permission.verb)
    return [*paths, *(_with_verbs(verbs, *key) for key, verbs in merged.items())]


def _rule_text(rule: PolicyRule) -> str:
    parts = (
        ("APIGroups", rule.api_groups),
        ("Resources", rule.resources),
        ("NonResourceURLs", rule.non_resource_urls),
        ("ResourceNames", rule.resource_names),
        ("Verbs", rule.verbs or ()),
    )
    return "{" + ", ".join(f"{name}:{formatting.quote_all(values)}" for name, values in parts if values) + "}"
