"""The RBAC authorizer: rules and attributes to a decision, over an index that follows the store.

The index has grants by subject (user or group): those of ClusterRoleBindings, and by namespace those of RoleBindings.
Rules are compiled to sets. RBAC can only allow; a request that no rule allows is refused. Members of system:masters are
allowed everything, whatever is stored.

Source: kubernetes, `plugin/pkg/auth/authorizer/rbac`, `pkg/apis/rbac/v1/evaluation_helpers.go`.
"""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Generic, TypeVar

from certplane import errors
from certplane.golang import formatting
from certplane.meta.context import Attributes, User
from certplane.meta.resource import AnyObject
from certplane.resources import rbac
from certplane.store.watchcache import Collection, Entry, Event

MASTERS: Final = "system:masters"
_SERVICE_ACCOUNT: Final = "system:serviceaccount:"


@dataclasses.dataclass(frozen=True, slots=True)
class Decision:
    """Whether a request is allowed. `reason` names the binding that allows it, or the roles that do not exist."""

    allowed: bool
    reason: str = ""


_ALLOWED_MASTER: Final = Decision(allowed=True)
_NO_OPINION: Final = Decision(allowed=False)


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
        self.prefixes = tuple(path.rstrip("*") for path in rule.non_resource_urls if path.endswith("*"))
        self.all_verbs = "*" in self.verbs
        self.all_groups = "*" in self.groups
        self.all_resources = "*" in self.resources

    def allows(self, attributes: Attributes) -> bool:
        """Whether this rule alone allows a request."""
        if not (self.all_verbs or attributes.verb in self.verbs):
            return False
        if not attributes.is_resource:
            return attributes.path in self.paths or (bool(self.prefixes) and attributes.path.startswith(self.prefixes))
        return (
            (self.all_groups or attributes.group in self.groups)
            and (self.all_resources or self._has_resource(attributes))
            and (not self.names or attributes.name in self.names)
        )

    def _has_resource(self, attributes: Attributes) -> bool:
        if not attributes.subresource:
            return attributes.resource in self.resources
        return (
            f"{attributes.resource}/{attributes.subresource}" in self.resources
            or f"*/{attributes.subresource}" in self.resources
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Grant:
    """What one binding grants one of its subjects. `missing_role` is the reference to a role that does not exist."""

    rules: tuple[CompiledRule, ...]
    reason: str
    missing_role: rbac.RoleRef | None = None


# --- the index ----------------------------------------------------------------------------------------------------


def _subject_key(subject: rbac.Subject, namespace: str) -> str | None:
    """The key of a subject in the index: `u:NAME` or `g:NAME`; None if it can never match."""
    if subject.kind == "User":
        return f"u:{subject.name}"
    if subject.kind == "Group":
        return f"g:{subject.name}"
    if subject.kind == "ServiceAccount" and (subject.namespace or namespace):
        return f"u:{_SERVICE_ACCOUNT}{subject.namespace or namespace}:{subject.name}"
    return None


def _subject_text(subject: rbac.Subject, namespace: str) -> str:
    if subject.kind == "ServiceAccount":
        return f'ServiceAccount "{subject.name}/{subject.namespace or namespace}"'
    return f"{subject.kind} {formatting.quote(subject.name)}"


_Grants = dict[str, list[Grant]]


@dataclasses.dataclass(slots=True)
class _Index:
    """Grants by subject: for all namespaces, and by namespace."""

    cluster: _Grants = dataclasses.field(default_factory=dict)
    namespaced: dict[str, _Grants] = dataclasses.field(default_factory=dict)


T = TypeVar("T")
Decode = Callable[[Entry], AnyObject]


class Authorizer:
    """Authorizes from the collections of the four RBAC kinds. The index is rebuilt after a change of one of them."""

    def __init__(self, collection: Callable[[str], Collection], decode: Callable[[str], Decode]) -> None:
        """`collection` returns the collection of a plural, `decode` the function that decodes its entries."""

        def source(plural: str) -> _Source[AnyObject]:
            collection(plural).subscribe(self._changed)
            return _Source(collection(plural), decode(plural))

        self._index: _Index | None = None
        self._cluster_roles: _Source[rbac.ClusterRole] = source("clusterroles")
        self._cluster_role_bindings: _Source[rbac.ClusterRoleBinding] = source("clusterrolebindings")
        self._roles: _Source[rbac.Role] = source("roles")
        self._role_bindings: _Source[rbac.RoleBinding] = source("rolebindings")

    def _changed(self, events: Sequence[Event]) -> None:
        del events
        self._index = None

    def authorize(self, attributes: Attributes) -> Decision:
        """Whether a request is allowed. Takes a few microseconds."""
        if MASTERS in attributes.user.groups:
            return _ALLOWED_MASTER
        missing_roles: list[rbac.RoleRef] = []
        for grant in self._grants(attributes.user, attributes.namespace if attributes.is_resource else ""):
            if grant.missing_role is not None:
                missing_roles.append(grant.missing_role)
                continue
            for rule in grant.rules:
                if rule.allows(attributes):
                    return Decision(True, grant.reason)
        if missing_roles:
            return Decision(False, f"RBAC: {aggregate(list(map(not_found, missing_roles)))}")
        return _NO_OPINION

    def rules_for(self, user: User, namespace: str) -> tuple[list[rbac.PolicyRule], list[rbac.RoleRef]]:
        """All rules of a user in a namespace (cluster-wide rules only, if it is empty), and the missing roles."""
        rules: list[rbac.PolicyRule] = []
        missing_roles: list[rbac.RoleRef] = []
        for grant in self._grants(user, namespace):
            if grant.missing_role is not None:
                missing_roles.append(grant.missing_role)
            rules.extend(compiled.rule for compiled in grant.rules)
        return rules, missing_roles

    def role_rules(self, ref: rbac.RoleRef, namespace: str) -> Sequence[rbac.PolicyRule]:
        """The rules of the role that a binding names. Raises NotFound."""
        source = self._cluster_roles if ref.kind == "ClusterRole" else self._roles
        role = source.get(f"{namespace}/{ref.name}" if ref.kind == "Role" else ref.name)
        if role is None:
            plural = "clusterroles" if ref.kind == "ClusterRole" else "roles"
            raise errors.NotFound(plural, rbac.GROUP, ref.name)
        return role.rules or ()

    def _grants(self, user: User, namespace: str) -> Iterator[Grant]:
        index = self._index
        if index is None:
            index = self._index = self._build()
        keys = (f"u:{user.name}", *(f"g:{group}" for group in user.groups))
        tables = (index.cluster, index.namespaced[namespace]) if namespace in index.namespaced else (index.cluster,)
        for table in tables:
            for key in keys:
                yield from table.get(key, ())

    def _build(self) -> _Index:
        index = _Index()
        compiled: dict[tuple[str, str, str], tuple[CompiledRule, ...]] = {}
        for cluster_binding in self._cluster_role_bindings.all():
            self._add(index.cluster, cluster_binding, "", compiled)
        for binding in self._role_bindings.all():
            namespace = binding.metadata.namespace
            self._add(index.namespaced.setdefault(namespace, {}), binding, namespace, compiled)
        return index

    def _add(
        self,
        table: _Grants,
        binding: rbac.RoleBinding | rbac.ClusterRoleBinding,
        namespace: str,
        compiled: dict[tuple[str, str, str], tuple[CompiledRule, ...]],
    ) -> None:
        ref = binding.role_ref
        key = (ref.kind, namespace if ref.kind == "Role" else "", ref.name)
        missing_role = None
        if key not in compiled:
            try:
                compiled[key] = tuple(map(CompiledRule, self.role_rules(ref, namespace)))
            except errors.NotFound:
                missing_role = ref
        rules = compiled.get(key, ())
        kind = "RoleBinding" if namespace else "ClusterRoleBinding"
        name = f"{binding.metadata.name}/{namespace}" if namespace else binding.metadata.name
        for subject in binding.subjects:
            subject_key = _subject_key(subject, namespace)
            if subject_key is not None:
                reason = (
                    f"RBAC: allowed by {kind} {formatting.quote(name)} of {ref.kind} {formatting.quote(ref.name)} "
                    f"to {_subject_text(subject, namespace)}"
                )
                table.setdefault(subject_key, []).append(Grant(rules, reason, missing_role))


class _Source(Generic[T]):
    """A collection, and the function that decodes its entries."""

    def __init__(self, collection: Collection, decode: Callable[[Entry], T]) -> None:
        self._collection = collection
        self._decode = decode

    def all(self) -> Iterator[T]:
        entries, _ = self._collection.list()
        return map(self._decode, entries)

    def get(self, name: str) -> T | None:
        entry = self._collection.get(self._collection.prefix + name)
        return self._decode(entry) if entry is not None else None


def not_found(ref: rbac.RoleRef) -> str:
    """The error text for a role that does not exist."""
    return f"{ref.kind.lower()}.{rbac.GROUP} {formatting.quote(ref.name)} not found"


def aggregate(texts: Sequence[str]) -> str:
    """Several errors as Go prints them: one bare, more in brackets, without duplicates."""
    unique = list(dict.fromkeys(texts))
    return unique[0] if len(unique) == 1 else "[" + ", ".join(unique) + "]"


# --- refusals -----------------------------------------------------------------------------------------------------


def refusal(attributes: Attributes, reason: str = "") -> errors.Forbidden:
    """The 403 for a request that is not allowed. Source: `k8s.io/apiserver/.../responsewriters/errors.go`."""
    user = formatting.quote(attributes.user.name)
    if not attributes.is_resource:
        why = f"User {user} cannot {attributes.verb} path {formatting.quote(attributes.path)}"
        return errors.Forbidden(f"forbidden: {_escaped(why)}" + (f": {reason}" if reason else ""), {})
    resource = f"{attributes.resource}/{attributes.subresource}" if attributes.subresource else attributes.resource
    where = (
        f"in the namespace {formatting.quote(attributes.namespace)}" if attributes.namespace else "at the cluster scope"
    )
    why = _escaped(
        f"User {user} cannot {attributes.verb} resource {formatting.quote(resource)} in API group "
        f"{formatting.quote(attributes.group)} {where}"
    )
    return errors.Forbidden.for_object(
        attributes.resource, attributes.group, attributes.name, why + (f": {reason}" if reason else "")
    )


def _escaped(text: str) -> str:
    return html.escape(text, quote=False)
