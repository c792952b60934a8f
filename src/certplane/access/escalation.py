"""Nobody grants what he does not have.

Whoever writes a role must hold every permission in it, or the right to `escalate`; whoever binds one must hold what it
grants, or the right to `bind` it. Source: kubernetes, `pkg/registry/rbac/escalation_check.go`,
`.../validation/rule.go`, `k8s.io/component-helpers/auth/rbac/validation`.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from certplane import errors, gotext
from certplane.access import rbac as access
from certplane.meta import codec, context, names
from certplane.registry import admission
from certplane.resources import rbac

_REFERABLE: Final = {"ClusterRole": "clusterroles", "Role": "roles"}
_ROLES: Final = frozenset(_REFERABLE.values())
_BINDINGS: Final = frozenset({"rolebindings", "clusterrolebindings"})
_HOUSEKEEPING: Final = frozenset({"ownerReferences", "finalizers", "managedFields"})
#: Permissions that a refusal lists.
MOST_TOLD: Final = 1000
_EVERYTHING: Final = (
    rbac.PolicyRule(verbs=["*"], api_groups=["*"], resources=["*"]),
    rbac.PolicyRule(verbs=["*"], non_resource_urls=["*"]),
)


def hook(authorizer: access.Authorizer) -> admission.Hook:
    """The guard over the four kinds of RBAC. It judges what was sent, before anybody looks whether that is valid."""

    def guard(of: admission.Review) -> None:
        if of.resource.group != rbac.GROUP or of.operation == "delete":
            return
        user = of.call.user
        if access.MASTERS in user.groups or _only_housekeeping(of):
            return
        if of.resource.plural in _ROLES:
            _guard_role(authorizer, of, user)
        elif of.resource.plural in _BINDINGS:
            _guard_binding(authorizer, of, user)

    return guard


def _only_housekeeping(of: admission.Review) -> bool:
    """Whether an update changes nothing but owner references and finalizers, as garbage collection does."""
    return of.operation == "update" and _guarded(of.new) == _guarded(of.old)


def _guarded(of: Any) -> dict[str, Any]:
    """What of a role or binding nobody changes without being asked for his rights."""
    document: dict[str, Any] = codec.to_builtins(of)
    meta = document["metadata"]
    document["metadata"] = {name: value for name, value in meta.items() if name not in _HOUSEKEEPING}
    return {name: value for name, value in document.items() if value}


def creating(authorizer: access.Authorizer) -> admission.Hook:
    """The check that whoever makes an object by PUT or apply may create it: the right to update does not suffice."""

    def check(of: admission.Review) -> None:
        info = of.call.info
        if of.operation != "create" or info.verb not in ("update", "patch"):
            return
        asked = context.Attributes(
            of.call.user, "create", info.group, info.version, info.resource, info.subresource, info.name, info.namespace
        )
        decision = authorizer.authorize(asked)
        if not decision.allowed:
            raise access.refusal(asked, decision.reason)

    return check


def _guard_role(authorizer: access.Authorizer, of: admission.Review, user: context.User) -> None:
    # The right may name a role, and that is the name in the path: a POST has none.
    info = of.call.info
    if authorizer.authorize(
        context.Attributes(user, "escalate", info.group, "*", info.resource, "", info.name, of.namespace)
    ).allowed:
        return
    _require(authorizer, of, user, of.new.rules or ())
    if _collects(of.new) or _collects(of.old):
        held, _ = authorizer.rules_for(user, "")
        if next(missing(_EVERYTHING, held), None) is not None:
            raise _refusal(of, "must have cluster-admin privileges to use the aggregationRule")


def _collects(of: rbac.Role | rbac.ClusterRole | None) -> bool:
    """Whether a role takes its rules from others."""
    aggregation = getattr(of, "aggregation_rule", None)
    return aggregation is not None and bool(aggregation.cluster_role_selectors)


def _guard_binding(authorizer: access.Authorizer, of: admission.Review, user: context.User) -> None:
    ref = of.new.role_ref
    plural = _REFERABLE.get(ref.kind)
    if plural is None:
        raise errors.UnreasonedError(f"unsupported role reference kind: {gotext.quote(ref.kind)}")
    if authorizer.authorize(
        context.Attributes(user, "bind", ref.api_group, "*", plural, "", ref.name, of.namespace)
    ).allowed:
        return
    homeless = ref.kind == "Role" and not of.namespace
    problem = "Namespace parameter required." if homeless else names.lookup_problem(ref.name)
    if problem:
        raise errors.BadRequest(problem)
    try:
        rules = authorizer.role_rules(ref, of.namespace)
    except errors.NotFound as error:
        raise _not_found(of, ref.name) from error
    _require(authorizer, of, user, rules)


def _require(
    authorizer: access.Authorizer, of: admission.Review, user: context.User, wanted: Sequence[rbac.PolicyRule]
) -> None:
    held, lost = authorizer.rules_for(user, of.namespace)
    who = f"user {gotext.quote(user.name)} (groups={gotext.quote_all(user.groups)}) is attempting to grant RBAC "
    try:
        lacking = list(itertools.islice(missing(wanted, held), MOST_TOLD + 1))
    except TooManyCombinations as error:
        raise _refusal(of, f"{who}permissions in more combinations than can be compared with those held") from error
    if not lacking:
        return
    lines = sorted({_rule_text(each) for each in compact(lacking[:MOST_TOLD])})
    if len(lacking) > MOST_TOLD:
        lines.append("and more")
    why = f"{who}permissions not currently held:\n" + "\n".join(lines)
    if lost:
        problems = [_not_found(of, each.name).message for each in lost]
        why += f"; resolution errors: [{access.aggregate(problems)}]"
    raise _refusal(of, why)


def _not_found(of: admission.Review, name: str) -> errors.NotFound:
    """That there is no such role. The real server reports it under the resource of the request."""
    return errors.NotFound(of.resource.plural, of.resource.group, name)


def _refusal(of: admission.Review, why: str) -> errors.Forbidden:
    return errors.Forbidden.of(of.resource.plural, of.resource.group, of.new.metadata.name, why)


# --- who covers what ----------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Atom:
    """The smallest permission: one verb on one resource of one group, perhaps of one name; or on one path."""

    verb: str
    group: str = ""
    resource: str = ""
    name: str | None = None
    path: str | None = None


class TooManyCombinations(ValueError):
    """What is wanted cannot be held against what is held in reasonable time."""


def missing(wanted: Iterable[rbac.PolicyRule], held: Iterable[rbac.PolicyRule]) -> Iterator[Atom]:
    """The atoms of the wanted rules that no held rule covers, in the order of the rules. Held rules are not combined
    for one atom. Raises TooManyCombinations.
    """
    having = _Held(held)
    for rule in wanted:
        yield from (
            Atom(verb, group, resource, name)
            for group, resource, verb, name in having.lacking(
                (
                    [(each, having.group(each)) for each in rule.api_groups],
                    [(each, having.resource(each)) for each in rule.resources],
                    [(each, having.verb(each)) for each in rule.verbs or ()],
                    [(each, having.name(each)) for each in rule.resource_names or (None,)],
                )
            )
        )
        yield from (
            Atom(verb, path=path)
            for path, verb in having.lacking(
                (
                    [(each, having.path(each)) for each in rule.non_resource_urls],
                    [(each, having.verb(each)) for each in rule.verbs or ()],
                )
            )
        )


#: The values of a part of a rule (its verbs, its groups ...), each with the held rules that have it.
_Level = Sequence[tuple[Any, int]]
#: Looks at a value of a rule while it is held against others: a tenth of a second, during which nobody else is served.
_MOST_LOOKS: Final = 200_000


class _Held:
    """Some rules, by what they have: each is a bit, so that a permission is covered if the bits of its parts have one
    in common. A rule of 900 bytes may have a million permissions: they are told from one another only where the rules
    that are held do.
    """

    def __init__(self, rules: Iterable[rbac.PolicyRule]) -> None:
        self._verbs: dict[str, int] = {}
        self._groups: dict[str, int] = {}
        self._resources: dict[str, int] = {}
        self._names: dict[str, int] = {}
        self._paths: dict[str, int] = {}
        self._prefixes: dict[str, int] = {}
        self._unnamed = 0
        self._looks = 0
        for at, rule in enumerate(rules):
            bit = 1 << at
            for having, values in (
                (self._verbs, rule.verbs or ()),
                (self._groups, rule.api_groups),
                (self._resources, rule.resources),
                (self._names, rule.resource_names),
                (self._paths, rule.non_resource_urls),
                (self._prefixes, [each.rstrip("*") for each in rule.non_resource_urls if each.endswith("*")]),
            ):
                for value in values:
                    having[value] = having.get(value, 0) | bit
            self._unnamed |= 0 if rule.resource_names else bit
        self._lengths = sorted({len(each) for each in self._prefixes})

    def verb(self, verb: str) -> int:
        return self._verbs.get("*", 0) | self._verbs.get(verb, 0)

    def group(self, group: str) -> int:
        return self._groups.get("*", 0) | self._groups.get(group, 0)

    def resource(self, resource: str) -> int:
        _, slash, sub = resource.partition("/")
        of_all = self._resources.get(f"*/{sub}", 0) if slash else 0
        return self._resources.get("*", 0) | self._resources.get(resource, 0) | of_all

    def name(self, name: str | None) -> int:
        return self._unnamed | (self._names.get(name, 0) if name is not None else 0)

    def path(self, path: str) -> int:
        having = self._paths.get(path, 0)
        for length in self._lengths:
            if length > len(path):
                break
            having |= self._prefixes.get(path[:length], 0)
        return having

    def _look(self, values: int) -> None:
        self._looks += values
        if self._looks > _MOST_LOOKS:
            raise TooManyCombinations

    def lacking(self, levels: Sequence[_Level]) -> Iterator[tuple[Any, ...]]:
        """The combinations of a value of each level that no rule has. Raises TooManyCombinations."""
        known: dict[tuple[int, int], _Level] = {}
        self._look(sum(map(len, levels)))

        def narrowed(depth: int, rules: int) -> _Level:
            """The values at a level below which something is lacking, if only these rules are left."""
            if not rules:
                return levels[depth]
            values = known.get((depth, rules))
            if values is None:
                self._look(len(levels[depth]))
                values = known[depth, rules] = [each for each in levels[depth] if lacks(depth + 1, rules & each[1])]
            return values

        def lacks(depth: int, rules: int) -> bool:
            if depth == len(levels):
                return not rules
            return bool(narrowed(depth, rules))

        def combined(depth: int, rules: int) -> Iterator[tuple[Any, ...]]:
            if depth == len(levels):
                yield ()
                return
            for value, having in narrowed(depth, rules):
                for rest in combined(depth + 1, rules & having):
                    yield (value, *rest)

        if all(levels):
            yield from combined(0, -1)


def as_rule(atom: Atom) -> rbac.PolicyRule:
    """The rule that gives just this."""
    if atom.path is not None:
        return rbac.PolicyRule(verbs=[atom.verb], non_resource_urls=[atom.path])
    return _with_verbs([atom.verb], atom.group, atom.resource, atom.name)


def _with_verbs(verbs: list[str], group: str, resource: str, name: str | None) -> rbac.PolicyRule:
    named = [name] if name is not None else []
    return rbac.PolicyRule(verbs=verbs, api_groups=[group], resources=[resource], resource_names=named)


def compact(lacking: Sequence[Atom]) -> list[rbac.PolicyRule]:
    """Atoms as rules: those that differ in the verb only become one, with a verb as often as it is there."""
    paths = [as_rule(atom) for atom in lacking if atom.path is not None]
    merged: dict[tuple[str, str, str | None], list[str]] = {}
    for atom in lacking:
        if atom.path is not None:
            continue
        key = atom.group, atom.resource, atom.name
        if key in merged:
            merged[key].append(atom.verb)
        else:
            merged[key] = [atom.verb]
    return [*paths, *(_with_verbs(verbs, *key) for key, verbs in merged.items())]


def _rule_text(of: rbac.PolicyRule) -> str:
    parts = (
        ("APIGroups", of.api_groups),
        ("Resources", of.resources),
        ("NonResourceURLs", of.non_resource_urls),
        ("ResourceNames", of.resource_names),
        ("Verbs", of.verbs or ()),
    )
    return "{" + ", ".join(f"{name}:{gotext.quote_all(values)}" for name, values in parts if values) + "}"
