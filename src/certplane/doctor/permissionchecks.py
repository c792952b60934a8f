"""Who may approve, sign, read Secrets, or take every permission: from the four kinds of RBAC.

Approving takes two permissions: to update the subresource `approval`, and `approve` on the virtual resource `signers`;
signing takes `status` and `sign`. A subject is listed if its own bindings grant both. Not detected: users that have one
of them by name and the other one as a member of a group, and what other authorizers than RBAC allow.

Subjects that Kubernetes and kubeadm give these permissions by default are left out: controllers of kube-system,
system:masters, kubeadm:cluster-admins. A group of everybody is an error; a role with * is a warning, and so are service
accounts, whose tokens are in pods; people are listed.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final

from certplane.access.rbac import MASTERS, CompiledRule
from certplane.doctor.findings import Finding, Severity
from certplane.meta.context import Attributes, User
from certplane.resources import certificatesigningrequests as csrs
from certplane.resources.rbac import ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject

#: Users and groups that nobody chooses the members of.
_EVERYBODY: Final = frozenset({"system:authenticated", "system:unauthenticated", "system:anonymous"})
#: Groups of all pods, or all machines that are joining.
_MANY: Final = ("system:serviceaccounts", "system:bootstrappers", "system:nodes")
_TRUSTED_GROUPS: Final = frozenset({MASTERS, "kubeadm:cluster-admins"})
_TRUSTED_USERS: Final = frozenset({"system:kube-controller-manager", "system:kube-scheduler", "system:apiserver"})
_TRUSTED_NAMESPACE: Final = "kube-system"
#: What Kubernetes grants to everybody by default: discovery, health, reviews of oneself.
_DEFAULT_EVERYBODY: Final = frozenset(
    {"system:basic-user", "system:discovery", "system:public-info-viewer", "system:service-account-issuer-discovery"}
)
#: The default role of what a kubelet may ask for with a bootstrap token.
_BOOTSTRAP_PREFIX: Final = "kubeadm:"
_ANYBODY: Final = User("")
#: More than so many subjects with one permission are too many to know.
_MAX_SUBJECTS: Final = 5
_MAX_NAMES: Final = 10

_READ_VERBS: Final = ("get", "list", "watch")
_WRITE_VERBS: Final = ("update", "patch")


@dataclasses.dataclass(frozen=True, slots=True)
class RBACFacts:
    """The objects of RBAC."""

    cluster_roles: Sequence[ClusterRole] = ()
    cluster_role_bindings: Sequence[ClusterRoleBinding] = ()
    roles: Sequence[Role] = ()
    role_bindings: Sequence[RoleBinding] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class _Grant:
    """A role that a binding grants one subject; `namespace` is empty for all namespaces."""

    subject: Subject
    subject_namespace: str
    namespace: str
    binding: str
    role: RoleRef
    rules: tuple[CompiledRule, ...]

    @property
    def subject_text(self) -> str:
        if self.subject.kind == "ServiceAccount":
            return f"ServiceAccount {self.subject_namespace}/{self.subject.name}"
        return f"{self.subject.kind} {self.subject.name}"

    @property
    def binding_text(self) -> str:
        if self.namespace:
            return f"RoleBinding {self.namespace}/{self.binding}"
        return f"ClusterRoleBinding {self.binding}"

    @property
    def revocation(self) -> str:
        """The arguments of kubectl that remove the binding. Users choose names, so they are quoted."""
        binding = shlex.quote(self.binding)
        if self.namespace:
            return f"-n {shlex.quote(self.namespace)} delete rolebinding {binding}"
        return f"delete clusterrolebinding {binding}"


def check(facts: RBACFacts, flags: str = "") -> list[Finding]:
    """Check who has which permission. `flags` are those of kubectl, with a space at the end unless empty."""
    grants = list(_grants(facts))
    cluster = [grant for grant in grants if not grant.namespace]
    found = [
        *_check_signers(cluster, "rbac-approve", "approve", "approval"),
        *_check_signers(cluster, "rbac-sign", "sign", "status"),
        *_check_secrets(grants),
        *_check_wildcards(cluster),
        *_check_escalation(cluster),
        *_check_everybody(grants),
    ]
    summaries = {
        "rbac-approve": "nobody but administrators may approve requests",
        "rbac-sign": "nobody but the signing controller may sign requests",
        "rbac-secrets": "nobody but administrators and controllers may read all Secrets",
        "rbac-escalate": "nobody but administrators may bind, escalate or impersonate",
        "rbac-everybody": "everybody has only the default permissions",
    }
    found = [dataclasses.replace(item, fix=tuple(_command(text, flags) for text in item.fix)) for item in found]
    ids = {finding.id for finding in found}
    return [*found, *(Finding(id_, Severity.OK, text) for id_, text in summaries.items() if id_ not in ids)]


# --- grants -------------------------------------------------------------------------------------------------------


def _grants(facts: RBACFacts) -> Iterator[_Grant]:
    rules: dict[tuple[str, str, str], tuple[CompiledRule, ...]] = {}
    for cluster_role in facts.cluster_roles:
        rules["ClusterRole", "", cluster_role.metadata.name] = _compile(cluster_role.rules)
    for role in facts.roles:
        rules["Role", role.metadata.namespace, role.metadata.name] = _compile(role.rules)
    for cluster_binding in facts.cluster_role_bindings:
        yield from _binding_grants(cluster_binding, "", rules)
    for binding in facts.role_bindings:
        yield from _binding_grants(binding, binding.metadata.namespace, rules)


def _compile(rules: Iterable[PolicyRule] | None) -> tuple[CompiledRule, ...]:
    return tuple(map(CompiledRule, rules or ()))


def _binding_grants(
    binding: ClusterRoleBinding | RoleBinding,
    namespace: str,
    rules: Mapping[tuple[str, str, str], tuple[CompiledRule, ...]],
) -> Iterator[_Grant]:
    ref = binding.role_ref
    granted = rules.get((ref.kind, namespace if ref.kind == "Role" else "", ref.name), ())
    for subject in binding.subjects:
        yield _Grant(subject, subject.namespace or namespace, namespace, binding.metadata.name, ref, granted)


def _is_trusted(grant: _Grant) -> bool:
    """Whether a subject has great permissions by default."""
    subject = grant.subject
    if subject.kind == "Group":
        return subject.name in _TRUSTED_GROUPS
    if subject.kind == "ServiceAccount":
        return grant.subject_namespace == _TRUSTED_NAMESPACE
    return subject.name in _TRUSTED_USERS


def _severity(grant: _Grant) -> Severity:
    """How severe it is that a subject has a great permission."""
    subject = grant.subject
    if _is_everybody(subject) or (subject.kind == "Group" and _is_many(subject.name)):
        return Severity.ERROR
    return Severity.WARNING if subject.kind == "ServiceAccount" else Severity.INFO


def _is_everybody(subject: Subject) -> bool:
    return subject.kind in ("User", "Group") and subject.name in _EVERYBODY


def _is_many(name: str) -> bool:
    return any(name == group or name.startswith(f"{group}:") for group in _MANY)


def _request(verb: str, group: str, resource: str, subresource: str = "", name: str = "") -> Attributes:
    return Attributes(
        user=_ANYBODY, verb=verb, group=group, version="*", resource=resource, subresource=subresource, name=name
    )


# --- the checks ---------------------------------------------------------------------------------------------------


def _check_signers(grants: Sequence[_Grant], id_: str, verb: str, subresource: str) -> Iterator[Finding]:
    """Who may approve or sign, for which signers."""
    by_subject: dict[str, list[_Grant]] = {}
    for grant in grants:
        if not _is_trusted(grant):
            by_subject.setdefault(grant.subject_text, []).append(grant)
    listed = 0
    for subject, own in by_subject.items():
        signers = sorted({name for grant in own for rule in grant.rules for name in _signers(rule, verb)})
        writing = [grant for grant in own if _may_write(grant.rules, subresource)]
        if not signers or not writing:
            continue
        listed += 1
        which = "every signer" if "" in signers else _join(signers)
        granting = [grant for grant in own if any(True for rule in grant.rules for _ in _signers(rule, verb))]
        via = _join(sorted({grant.binding_text for grant in (*granting, *writing)}))
        severity = _severity(own[0])
        if verb == "sign" or "" in signers:
            severity = max(severity, Severity.WARNING)
        text = f"{subject} may {verb} requests for {which}, by {via}"
        yield Finding(id_, severity, text, subject, _revocations(granting))
    if listed > _MAX_SUBJECTS:
        text = f"{listed} subjects may {verb} requests, besides administrators and controllers"
        yield Finding(id_, Severity.WARNING, text, fix=("grant it to one group, of few people",))


def _signers(rule: CompiledRule, verb: str) -> Sequence[str]:
    """The signers for which a rule permits a verb; an empty name stands for every one."""
    probe = next(iter(sorted(rule.names)), "any.example/signer")
    if not rule.allows(_request(verb, csrs.RESOURCE.group, "signers", name=probe)):
        return ()
    return tuple(rule.names) or ("",)


def _may_write(rules: Iterable[CompiledRule], subresource: str) -> bool:
    return any(
        rule.allows(_request(verb, csrs.RESOURCE.group, csrs.RESOURCE.plural, subresource, _some_name(rule)))
        for rule in rules
        for verb in _WRITE_VERBS
    )


def _some_name(rule: CompiledRule) -> str:
    """A name that a rule permits: one of its names, if it has some."""
    return next(iter(sorted(rule.names)), "name")


def _check_secrets(grants: Sequence[_Grant]) -> Iterator[Finding]:
    """Who may read all Secrets, in all namespaces or in kube-system."""

    def reads(rule: CompiledRule) -> bool:
        return not rule.names and any(rule.allows(_request(verb, "", "secrets")) for verb in _READ_VERBS)

    where = ("", _TRUSTED_NAMESPACE)
    yield from _check_each(
        [grant for grant in grants if grant.namespace in where],
        reads,
        "rbac-secrets",
        lambda grant: f"may read Secrets {f'in {grant.namespace}' if grant.namespace else 'in all namespaces'}",
    )


def _check_wildcards(grants: Sequence[_Grant]) -> Iterator[Finding]:
    """Who has a role with all verbs on all resources."""

    def is_all(rule: CompiledRule) -> bool:
        return rule.all_verbs and rule.all_groups and rule.all_resources and not rule.names

    yield from _check_each(
        grants, is_all, "rbac-wildcard", lambda grant: f"has all permissions (* in {grant.role.kind} {grant.role.name})"
    )


def _check_escalation(grants: Sequence[_Grant]) -> Iterator[Finding]:
    """Who may take permissions: bind or escalate roles, or impersonate users."""
    requests = (
        _request("bind", "rbac.authorization.k8s.io", "clusterroles", name="cluster-admin"),
        _request("escalate", "rbac.authorization.k8s.io", "clusterroles", name="cluster-admin"),
        _request("impersonate", "", "users", name="kubernetes-admin"),
        _request("impersonate", "", "groups", name=MASTERS),
    )

    def escalates(rule: CompiledRule) -> bool:
        return not (rule.all_verbs and rule.all_groups and rule.all_resources) and any(map(rule.allows, requests))

    yield from _check_each(
        grants,
        escalates,
        "rbac-escalate",
        lambda grant: f"may bind, escalate or impersonate ({grant.role.kind} {grant.role.name})",
    )


def _check_each(
    grants: Sequence[_Grant],
    matches: Callable[[CompiledRule], bool],
    id_: str,
    describe: Callable[[_Grant], str],
) -> Iterator[Finding]:
    for grant in grants:
        if _is_trusted(grant) or not any(map(matches, grant.rules)):
            continue
        severity = max(_severity(grant), Severity.WARNING)
        text = f"{grant.subject_text} {describe(grant)}, by {grant.binding_text}"
        yield Finding(id_, severity, text, grant.subject_text, _revocations([grant]))


def _check_everybody(grants: Sequence[_Grant]) -> Iterator[Finding]:
    """What is granted to all users or to anonymous clients, besides the defaults."""
    for grant in grants:
        if not _is_everybody(grant.subject) or grant.role.name in _DEFAULT_EVERYBODY:
            continue
        if grant.namespace == "kube-public" and grant.role.name.startswith(_BOOTSTRAP_PREFIX):
            # kubeadm publishes the CA to machines that join.
            continue
        severity = Severity.WARNING
        if any(set(rule.verbs) - {*_READ_VERBS} for rule in grant.rules if rule.resources):
            severity = Severity.ERROR
        text = f"{grant.subject_text} has {grant.role.kind} {grant.role.name}, by {grant.binding_text}"
        yield Finding("rbac-everybody", severity, text, grant.subject_text, _revocations([grant]))


def _command(text: str, flags: str) -> str:
    """Arguments of kubectl as a command; advice as it is."""
    return f"kubectl {flags}{text}" if " delete " in f" {text}" else text


def _revocations(grants: Iterable[_Grant]) -> tuple[str, ...]:
    return tuple(sorted({grant.revocation for grant in grants}))


def _join(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_MAX_NAMES])
    return f"{shown} and {len(names) - _MAX_NAMES} others" if len(names) > _MAX_NAMES else shown
