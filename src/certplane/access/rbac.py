"""May they? Rules and attributes to a decision: pure functions over an index that follows the store.

A question finds its answer by subject: for the user and each of the groups, the index has the rules that cluster-wide
bindings grant, and by namespace those of role bindings. Rules are compiled to sets. RBAC only ever allows; what nobody
allows is refused. Members of system:masters are allowed everything, whatever is stored.

Source: kubernetes, `plugin/pkg/auth/authorizer/rbac`, `pkg/apis/rbac/v1/evaluation_helpers.go`.
"""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from certplane import errors, gotext
from certplane.meta import context
from certplane.resources import rbac
from certplane.store import watchcache

MASTERS: Final = "system:masters"
_SERVICE_ACCOUNT: Final = "system:serviceaccount:"


@dataclasses.dataclass(frozen=True, slots=True)
class Decision:
    """The answer, and why: the reason names the binding that allows, or the roles that could not be found."""

    allowed: bool
    reason: str = ""


_MASTER: Final = Decision(allowed=True)
_NO: Final = Decision(allowed=False)


# --- rules --------------------------------------------------------------------------------------------------------


class CompiledRule:
    """A rule whose lists are sets."""

    __slots__ = (
        "all_groups",
        "all_resources",
        "all_verbs",
        "groups",
        "names",
        "paths",
        "prefixes",
        "resources",
        "rule",
        "verbs",
    )

    def __init__(self, rule: rbac.PolicyRule) -> None:
        self.rule = rule
        self.verbs = frozenset(rule.verbs or ())
        self.groups = frozenset(rule.api_groups)
        self.resources = frozenset(rule.resources)
        self.names = frozenset(rule.resource_names)
        self.paths = frozenset(rule.non_resource_urls)
        self.prefixes = tuple(each.rstrip("*") for each in rule.non_resource_urls if each.endswith("*"))
        self.all_verbs = "*" in self.verbs
        self.all_groups = "*" in self.groups
        self.all_resources = "*" in self.resources

    def allows(self, of: context.Attributes) -> bool:
        """Whether this rule alone allows a request."""
        if not (self.all_verbs or of.verb in self.verbs):
            return False
        if not of.is_resource:
            return of.path in self.paths or (bool(self.prefixes) and of.path.startswith(self.prefixes))
        return (
            (self.all_groups or of.group in self.groups)
            and (self.all_resources or self._has_resource(of))
            and (not self.names or of.name in self.names)
        )

    def _has_resource(self, of: context.Attributes) -> bool:
        if not of.subresource:
            return of.resource in self.resources
        return f"{of.resource}/{of.subresource}" in self.resources or f"*/{of.subresource}" in self.resources


@dataclasses.dataclass(frozen=True, slots=True)
class Grant:
    """What one binding gives one of its subjects. `lost` is the reference to a role that does not exist."""

    rules: tuple[CompiledRule, ...]
    reason: str
    lost: rbac.RoleRef | None = None


# --- the index ----------------------------------------------------------------------------------------------------


def _subject_key(of: rbac.Subject, namespace: str) -> str | None:
    """How a subject is found: `u:NAME` or `g:NAME`; None if it can never match."""
    if of.kind == "User":
        return f"u:{of.name}"
    if of.kind == "Group":
        return f"g:{of.name}"
    if of.kind == "ServiceAccount" and (of.namespace or namespace):
        return f"u:{_SERVICE_ACCOUNT}{of.namespace or namespace}:{of.name}"
    return None


def _subject_text(of: rbac.Subject, namespace: str) -> str:
    if of.kind == "ServiceAccount":
        return f'ServiceAccount "{of.name}/{of.namespace or namespace}"'
    return f"{of.kind} {gotext.quote(of.name)}"


_Grants = dict[str, list[Grant]]


@dataclasses.dataclass(slots=True)
class _Index:
    """Grants by subject: cluster-wide, and by namespace."""

    everywhere: _Grants = dataclasses.field(default_factory=dict)
    within: dict[str, _Grants] = dataclasses.field(default_factory=dict)


Decode = Callable[[watchcache.Entry], Any]


class Authorizer:
    """Answers from the four collections of RBAC kinds. The index is remade when one of them has changed."""

    def __init__(self, collection: Callable[[str], watchcache.Collection], decode: Callable[[str], Decode]) -> None:
        """By the plural of a kind, `collection` gives its entries, `decode` what turns them into objects."""

        def source(plural: str) -> _Source:
            collection(plural).subscribe(self._changed)
            return _Source(collection(plural), decode(plural))

        self._index: _Index | None = None
        self._cluster_roles = source("clusterroles")
        self._cluster_role_bindings = source("clusterrolebindings")
        self._roles = source("roles")
        self._role_bindings = source("rolebindings")

    def _changed(self, events: Sequence[watchcache.Event]) -> None:
        del events
        self._index = None

    def authorize(self, of: context.Attributes) -> Decision:
        """Whether a request is allowed. A microsecond or a few."""
        if MASTERS in of.user.groups:
            return _MASTER
        lost: list[rbac.RoleRef] = []
        for grant in self._grants(of.user, of.namespace if of.is_resource else ""):
            if grant.lost is not None:
                lost.append(grant.lost)
                continue
            for rule in grant.rules:
                if rule.allows(of):
                    return Decision(True, grant.reason)
        return Decision(False, f"RBAC: {aggregate(list(map(not_found, lost)))}") if lost else _NO

    def rules_for(self, user: context.User, namespace: str) -> tuple[list[rbac.PolicyRule], list[rbac.RoleRef]]:
        """All rules that a user has in a namespace (everywhere, if it is empty), and the roles that do not exist."""
        rules: list[rbac.PolicyRule] = []
        lost: list[rbac.RoleRef] = []
        for grant in self._grants(user, namespace):
            if grant.lost is not None:
                lost.append(grant.lost)
            rules.extend(each.rule for each in grant.rules)
        return rules, lost

    def role_rules(self, ref: rbac.RoleRef, namespace: str) -> Sequence[rbac.PolicyRule]:
        """The rules of the role that a binding names. Raises NotFound."""
        source = self._cluster_roles if ref.kind == "ClusterRole" else self._roles
        role = source.get(f"{namespace}/{ref.name}" if ref.kind == "Role" else ref.name)
        if role is None:
            plural = "clusterroles" if ref.kind == "ClusterRole" else "roles"
            raise errors.NotFound(plural, rbac.GROUP, ref.name)
        return role.rules or ()

    def _grants(self, user: context.User, namespace: str) -> Iterator[Grant]:
        index = self._index
        if index is None:
            index = self._index = self._build()
        keys = (f"u:{user.name}", *(f"g:{group}" for group in user.groups))
        tables = (index.everywhere, index.within[namespace]) if namespace in index.within else (index.everywhere,)
        for table in tables:
            for key in keys:
                yield from table.get(key, ())

    def _build(self) -> _Index:
        index = _Index()
        compiled: dict[tuple[str, str, str], tuple[CompiledRule, ...]] = {}
        for binding in self._cluster_role_bindings.all():
            self._add(index.everywhere, binding, "", compiled)
        for binding in self._role_bindings.all():
            namespace = binding.metadata.namespace
            self._add(index.within.setdefault(namespace, {}), binding, namespace, compiled)
        return index

    def _add(
        self,
        table: _Grants,
        binding: Any,
        namespace: str,
        compiled: dict[tuple[str, str, str], tuple[CompiledRule, ...]],
    ) -> None:
        ref: rbac.RoleRef = binding.role_ref
        key = (ref.kind, namespace if ref.kind == "Role" else "", ref.name)
        lost = None
        if key not in compiled:
            try:
                compiled[key] = tuple(map(CompiledRule, self.role_rules(ref, namespace)))
            except errors.NotFound:
                lost = ref
        rules = compiled.get(key, ())
        kind = "RoleBinding" if namespace else "ClusterRoleBinding"
        name = f"{binding.metadata.name}/{namespace}" if namespace else binding.metadata.name
        for subject in binding.subjects:
            where = _subject_key(subject, namespace)
            if where is not None:
                reason = (
                    f"RBAC: allowed by {kind} {gotext.quote(name)} of {ref.kind} {gotext.quote(ref.name)} "
                    f"to {_subject_text(subject, namespace)}"
                )
                table.setdefault(where, []).append(Grant(rules, reason, lost))


class _Source:
    """A collection and how to read it."""

    def __init__(self, collection: watchcache.Collection, decode: Decode) -> None:
        self._collection = collection
        self._decode = decode

    def all(self) -> Iterator[Any]:
        entries, _ = self._collection.list()
        return map(self._decode, entries)

    def get(self, name: str) -> Any:
        entry = self._collection.get(self._collection.prefix + name)
        return self._decode(entry) if entry is not None else None


def not_found(ref: rbac.RoleRef) -> str:
    """How an authorizer says that a role does not exist."""
    return f"{ref.kind.lower()}.{rbac.GROUP} {gotext.quote(ref.name)} not found"


def aggregate(texts: Sequence[str]) -> str:
    """Several errors as Go prints them: one bare, more in brackets, duplicates left out."""
    unique = list(dict.fromkeys(texts))
    return unique[0] if len(unique) == 1 else "[" + ", ".join(unique) + "]"


# --- refusals -----------------------------------------------------------------------------------------------------


def refusal(of: context.Attributes, reason: str = "") -> errors.Forbidden:
    """The 403 for a request that nobody allows. Source: `k8s.io/apiserver/.../responsewriters/errors.go`."""
    user = gotext.quote(of.user.name)
    if not of.is_resource:
        why = f"User {user} cannot {of.verb} path {gotext.quote(of.path)}"
        return errors.Forbidden(f"forbidden: {_escaped(why)}" + (f": {reason}" if reason else ""), {})
    resource = f"{of.resource}/{of.subresource}" if of.subresource else of.resource
    where = f"in the namespace {gotext.quote(of.namespace)}" if of.namespace else "at the cluster scope"
    why = _escaped(
        f"User {user} cannot {of.verb} resource {gotext.quote(resource)} in API group {gotext.quote(of.group)} {where}"
    )
    return errors.Forbidden.of(of.resource, of.group, of.name, why + (f": {reason}" if reason else ""))


def _escaped(text: str) -> str:
    return html.escape(text, quote=False)
