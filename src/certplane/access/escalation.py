"""Nobody grants what he does not have.

Whoever writes a role must hold every permission in it, or the right to `escalate`; whoever binds one must hold what it
grants, or the right to `bind` it. Source: kubernetes, `pkg/registry/rbac/escalation_check.go`,
`.../validation/rule.go`, `k8s.io/component-helpers/auth/rbac/validation`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Final

from certplane import errors, gotext
from certplane.access import rbac as access
from certplane.meta import context
from certplane.registry import admission
from certplane.resources import rbac

_ROLES: Final = frozenset({"roles", "clusterroles"})
_BINDINGS: Final = frozenset({"rolebindings", "clusterrolebindings"})
_EVERYTHING: Final = (
    rbac.PolicyRule(verbs=["*"], api_groups=["*"], resources=["*"]),
    rbac.PolicyRule(verbs=["*"], non_resource_urls=["*"]),
)


def hook(authorizer: access.Authorizer) -> admission.Hook:
    """The guard over the four kinds of RBAC."""

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
    if of.operation != "update" or of.old is None:
        return False
    new, old = of.new.metadata, of.old.metadata
    same = (new.labels, new.annotations) == (old.labels, old.annotations)
    changed = (new.owner_references, new.finalizers) != (old.owner_references, old.finalizers)
    if of.resource.plural in _ROLES:
        return same and changed and _role_content(of.new) == _role_content(of.old)
    return same and changed and (of.new.subjects, of.new.role_ref) == (of.old.subjects, of.old.role_ref)


def _role_content(of: rbac.Role | rbac.ClusterRole) -> tuple[object, object]:
    return of.rules or [], getattr(of, "aggregation_rule", None)


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
    name = of.name if of.operation == "update" else ""
    if _may(authorizer, user, "escalate", of.resource.plural, name, of.namespace):
        return
    _require(authorizer, of, user, of.new.rules or ())
    aggregation = getattr(of.new, "aggregation_rule", None) or getattr(of.old, "aggregation_rule", None)
    if aggregation is not None:
        held, _ = authorizer.rules_for(user, "")
        if missing(_EVERYTHING, held):
            raise _refusal(of, "must have cluster-admin privileges to use the aggregationRule")


def _guard_binding(authorizer: access.Authorizer, of: admission.Review, user: context.User) -> None:
    ref = of.new.role_ref
    plural = "clusterroles" if ref.kind == "ClusterRole" else "roles"
    if _may(authorizer, user, "bind", plural, ref.name, of.namespace):
        return
    try:
        rules = authorizer.role_rules(ref, of.namespace)
    except errors.NotFound as error:
        # The real server reports the missing role under the resource of the request.
        raise errors.NotFound(of.resource.plural, of.resource.group, ref.name) from error
    _require(authorizer, of, user, rules)


def _may(
    authorizer: access.Authorizer, user: context.User, verb: str, resource: str, name: str, namespace: str
) -> bool:
    asked = context.Attributes(user, verb, rbac.GROUP, "*", resource, "", name, namespace)
    return authorizer.authorize(asked).allowed


def _require(
    authorizer: access.Authorizer, of: admission.Review, user: context.User, wanted: Sequence[rbac.PolicyRule]
) -> None:
    held, problems = authorizer.rules_for(user, of.namespace)
    lacking = missing(wanted, held)
    if not lacking:
        return
    lines = sorted({_rule_text(each) for each in compact(lacking)})
    why = (
        f"user {gotext.quote(user.name)} (groups={gotext.quote_all(user.groups)}) is attempting to grant RBAC "
        "permissions not currently held:\n" + "\n".join(lines)
    )
    if problems:
        why += f"; resolution errors: [{access.aggregate(problems)}]"
    raise _refusal(of, why)


def _refusal(of: admission.Review, why: str) -> errors.Forbidden:
    return errors.Forbidden.of(of.resource.plural, of.resource.group, of.name, why)


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


def compact(lacking: Sequence[Atom]) -> list[rbac.PolicyRule]:
    """Atoms as rules: those that differ in the verb only become one."""
    merged: dict[tuple[str, str, str | None], list[str]] = {}
    rules = []
    for atom in lacking:
        if atom.path is not None:
            rules.append(rbac.PolicyRule(verbs=[atom.verb], non_resource_urls=[atom.path]))
            continue
        verbs = merged.setdefault((atom.group, atom.resource, atom.name), [])
        if atom.verb not in verbs:
            verbs.append(atom.verb)
    for (group, resource, name), verbs in merged.items():
        names = [name] if name is not None else []
        rules.append(rbac.PolicyRule(verbs=verbs, api_groups=[group], resources=[resource], resource_names=names))
    return rules


def _rule_text(of: rbac.PolicyRule) -> str:
    parts = (
        ("APIGroups", of.api_groups),
        ("Resources", of.resources),
        ("NonResourceURLs", of.non_resource_urls),
        ("ResourceNames", of.resource_names),
        ("Verbs", of.verbs or ()),
    )
    return "{" + ", ".join(f"{name}:{gotext.quote_all(values)}" for name, values in parts if values) + "}"
