"""Nobody grants what he does not have.

Whoever writes a role must hold every permission in it, or the right to `escalate`; whoever binds one must hold what it
grants, or the right to `bind` it. Source: kubernetes, `pkg/registry/rbac/escalation_check.go`,
`.../validation/rule.go`, `k8s.io/component-helpers/auth/rbac/validation`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
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
        if missing(_EVERYTHING, held):
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
    lacking = missing(wanted, held)
    if not lacking:
        return
    lines = sorted({_rule_text(each) for each in compact(lacking)})
    why = (
        f"user {gotext.quote(user.name)} (groups={gotext.quote_all(user.groups)}) is attempting to grant RBAC "
        "permissions not currently held:\n" + "\n".join(lines)
    )
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


def atoms(rules: Sequence[rbac.PolicyRule]) -> Iterator[Atom]:
    """The atoms of some rules, in the order of the rules."""
    for rule in rules:
        for group in rule.api_groups:
            for resource in rule.resources:
                for verb in rule.verbs or ():
                    for name in rule.resource_names or (None,):
                        yield Atom(verb, group, resource, name)
        for path in rule.non_resource_urls:
            for verb in rule.verbs or ():
                yield Atom(verb, path=path)


def missing(wanted: Sequence[rbac.PolicyRule], held: Sequence[rbac.PolicyRule]) -> list[Atom]:
    """The atoms of the wanted rules that no held rule covers. Held rules are not combined for one atom."""
    return [atom for atom in atoms(wanted) if not any(covers(rule, atom) for rule in held)]


def covers(rule: rbac.PolicyRule, atom: Atom) -> bool:
    """Whether one rule gives one atom."""
    verbs = rule.verbs or ()
    if "*" not in verbs and atom.verb not in verbs:
        return False
    if atom.path is not None:
        return any(_covers_path(each, atom.path) for each in rule.non_resource_urls)
    if "*" not in rule.api_groups and atom.group not in rule.api_groups:
        return False
    if "*" not in rule.resources and atom.resource not in rule.resources:
        _, slash, sub = atom.resource.partition("/")
        if not slash or f"*/{sub}" not in rule.resources:
            return False
    return not rule.resource_names or (atom.name is not None and atom.name in rule.resource_names)


def _covers_path(held: str, wanted: str) -> bool:
    return held in ("*", wanted) or (held.endswith("*") and wanted.startswith(held.rstrip("*")))


def as_rule(atom: Atom) -> rbac.PolicyRule:
    """The rule that gives just this."""
    if atom.path is not None:
        return rbac.PolicyRule(verbs=[atom.verb], non_resource_urls=[atom.path])
    named = [atom.name] if atom.name is not None else []
    return rbac.PolicyRule(verbs=[atom.verb], api_groups=[atom.group], resources=[atom.resource], resource_names=named)


def compact(lacking: Sequence[Atom]) -> list[rbac.PolicyRule]:
    """Atoms as rules: those that differ in the verb only become one, with a verb as often as it is there."""
    paths = [as_rule(atom) for atom in lacking if atom.path is not None]
    merged: dict[tuple[str, str, str | None], rbac.PolicyRule] = {}
    for atom in lacking:
        if atom.path is not None:
            continue
        key = atom.group, atom.resource, atom.name
        if key in merged:
            merged[key].verbs = [*(merged[key].verbs or ()), atom.verb]
        else:
            merged[key] = as_rule(atom)
    return [*paths, *merged.values()]


def _rule_text(of: rbac.PolicyRule) -> str:
    parts = (
        ("APIGroups", of.api_groups),
        ("Resources", of.resources),
        ("NonResourceURLs", of.non_resource_urls),
        ("ResourceNames", of.resource_names),
        ("Verbs", of.verbs or ()),
    )
    return "{" + ", ".join(f"{name}:{gotext.quote_all(values)}" for name, values in parts if values) + "}"
