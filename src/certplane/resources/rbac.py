"""The four kinds of rbac.authorization.k8s.io: roles are sets of permissions, bindings grant them to subjects.

They are in one file because they share types and validation.
Source: kubernetes, `pkg/apis/rbac/validation`, `pkg/registry/rbac`.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from typing import Annotated, ClassVar, Final

from msgspec import field

from certplane import errors
from certplane.errors import Problems
from certplane.meta import names, objects, resource, validation
from certplane.meta.objects import always, doc

GROUP: Final = "rbac.authorization.k8s.io"


def _none() -> None:
    return None


class PolicyRule(objects.Type):
    """PolicyRule permits verbs on resources, or on non-resource paths."""

    verbs: Annotated[list[str] | None, doc("Permitted verbs; * for all.", list_type="atomic", required=True)] = always(
        _none
    )
    api_groups: Annotated[
        list[str], doc("API groups of the resources; empty for the core group, * for all.", list_type="atomic")
    ] = field(default_factory=list)
    resources: Annotated[
        list[str],
        doc(
            "Resources as resource or resource/subresource; * for all, */name for a subresource of all.",
            list_type="atomic",
        ),
    ] = field(default_factory=list)
    resource_names: Annotated[list[str], doc("Names of objects. Empty for all objects.", list_type="atomic")] = field(
        default_factory=list
    )
    non_resource_urls: Annotated[
        list[str],
        doc(
            "Non-resource paths; * at the end matches any suffix. Only in a ClusterRole.",
            list_type="atomic",
        ),
    ] = field(default_factory=list, name="nonResourceURLs")


class Role(objects.Object):
    """Role is a set of permissions within a namespace."""

    rules: Annotated[list[PolicyRule] | None, doc("Rules of the role.", list_type="atomic")] = always(_none)


class AggregationRule(objects.Type):
    """AggregationRule selects the ClusterRoles whose rules are combined in this one."""

    cluster_role_selectors: Annotated[
        list[objects.LabelSelector],
        doc("Label selectors of ClusterRoles. Those that match any of the selectors are combined.", list_type="atomic"),
    ] = field(default_factory=list)


class ClusterRole(objects.Object):
    """ClusterRole is a set of permissions, granted cluster-wide by a ClusterRoleBinding or in a namespace by a
    RoleBinding.
    """

    rules: Annotated[list[PolicyRule] | None, doc("Rules of the role.", list_type="atomic")] = always(_none)
    aggregation_rule: Annotated[
        AggregationRule | None,
        doc("If set, the rules are combined from other ClusterRoles; direct changes to rules are overwritten."),
    ] = None


class Subject(objects.Type):
    """Subject is a user, a group or a service account."""

    atomic: ClassVar[bool] = True

    kind: Annotated[str, doc("Kind of the subject: User, Group or ServiceAccount.", required=True)] = always(str)
    api_group: Annotated[
        str,
        doc("API group of the subject: rbac.authorization.k8s.io for users and groups, empty for service accounts."),
    ] = ""
    name: Annotated[str, doc("Name of the subject.", required=True)] = always(str)
    namespace: Annotated[str, doc("Namespace of the service account; empty for users and groups.")] = ""


class RoleRef(objects.Type):
    """RoleRef refers to the role that a binding grants."""

    atomic: ClassVar[bool] = True

    api_group: Annotated[str, doc("API group of the role: rbac.authorization.k8s.io.")] = always(str)
    kind: Annotated[str, doc("Kind of the role: Role or ClusterRole.", required=True)] = always(str)
    name: Annotated[str, doc("Name of the role.", required=True)] = always(str)


class RoleBinding(objects.Object):
    """RoleBinding grants a role to subjects, within a namespace."""

    subjects: Annotated[list[Subject], doc("Subjects that are granted the role.", list_type="atomic")] = field(
        default_factory=list
    )
    role_ref: Annotated[RoleRef, doc("The granted role. Immutable.", required=True)] = always(RoleRef)


class ClusterRoleBinding(objects.Object):
    """ClusterRoleBinding grants a ClusterRole to subjects, cluster-wide."""

    subjects: Annotated[list[Subject], doc("Subjects that are granted the role.", list_type="atomic")] = field(
        default_factory=list
    )
    role_ref: Annotated[RoleRef, doc("The granted role. Immutable.", required=True)] = always(RoleRef)


# --- roles --------------------------------------------------------------------------------------------------------


def _drop_empty_rules(role: Role | ClusterRole) -> None:
    """Store an empty list of rules as null: protobuf does not distinguish them."""
    role.rules = role.rules or None


def _rule_problems(rules: Sequence[PolicyRule] | None, *, namespaced: bool) -> Problems:
    problems: Problems = []
    for index, rule in enumerate(rules or ()):
        path = f"rules[{index}]"
        if not rule.verbs:
            problems.append(errors.required(f"{path}.verbs", "verbs must contain at least one value"))
        if rule.non_resource_urls:
            if namespaced:
                detail = "namespaced rules cannot apply to non-resource URLs"
                problems.append(errors.invalid(f"{path}.nonResourceURLs", rule.non_resource_urls, detail))
            if rule.api_groups or rule.resources or rule.resource_names:
                detail = "rules cannot apply to both regular resources and non-resource URLs"
                problems.append(errors.invalid(f"{path}.nonResourceURLs", rule.non_resource_urls, detail))
            continue
        if not rule.api_groups:
            detail = "resource rules must supply at least one api group"
            problems.append(errors.required(f"{path}.apiGroups", detail))
        if not rule.resources:
            detail = "resource rules must supply at least one resource"
            problems.append(errors.required(f"{path}.resources", detail))
    return problems


def _role_problems(role: Role) -> Problems:
    return _rule_problems(role.rules, namespaced=True)


def _cluster_role_problems(role: ClusterRole) -> Problems:
    problems = _rule_problems(role.rules, namespaced=False)
    aggregation = role.aggregation_rule
    if aggregation is None:
        return problems
    path = "aggregationRule.clusterRoleSelectors"
    if not aggregation.cluster_role_selectors:
        detail = "at least one clusterRoleSelector required if aggregationRule is non-nil"
        problems.append(errors.required(path, detail))
    if too_many := validation.count_problems(aggregation.cluster_role_selectors, path):
        return [*problems, *too_many]
    for index, selector in enumerate(aggregation.cluster_role_selectors):
        problems.extend(_selector_problems(selector, f"{path}[{index}]"))
    return problems


def _selector_problems(selector: objects.LabelSelector, path: str) -> Problems:
    problems = [
        *validation.count_problems(selector.match_labels, f"{path}.matchLabels"),
        *validation.count_problems(selector.match_expressions, f"{path}.matchExpressions"),
    ]
    if problems:
        return problems
    for key, value in sorted(selector.match_labels.items()):
        details = names.qualified_name_problems(key)
        problems.extend(errors.invalid(f"{path}.matchLabels", key, detail) for detail in details)
        details = names.label_value_problems(value)
        problems.extend(errors.invalid(f"{path}.matchLabels", value, detail) for detail in details)
    for index, requirement in enumerate(selector.match_expressions):
        problems.extend(validation.selector_requirement_problems(requirement, f"{path}.matchExpressions[{index}]"))
    # Kubernetes adds a problem of the whole selector to those of its parts.
    return [*problems, errors.invalid(path, None, "invalid label selector.")] if problems else []


# --- bindings -----------------------------------------------------------------------------------------------------


def _default_binding(binding: RoleBinding | ClusterRoleBinding) -> None:
    binding.role_ref.api_group = binding.role_ref.api_group or GROUP
    for subject in binding.subjects:
        if subject.kind in ("User", "Group") and not subject.api_group:
            subject.api_group = GROUP


def _role_ref_problems(role_ref: RoleRef, kinds: tuple[str, ...]) -> Problems:
    problems: Problems = []
    if role_ref.api_group != GROUP:
        problems.append(errors.not_supported("roleRef.apiGroup", role_ref.api_group, (GROUP,)))
    if role_ref.kind not in kinds:
        problems.append(errors.not_supported("roleRef.kind", role_ref.kind, kinds))
    if not role_ref.name:
        problems.append(errors.required("roleRef.name"))
    else:
        problems.extend(
            errors.invalid("roleRef.name", role_ref.name, detail)
            for detail in names.path_segment_problems(role_ref.name)
        )
    return problems


def _subject_problems(subjects: Sequence[Subject], *, namespaced: bool) -> Problems:
    problems: Problems = []
    for index, subject in enumerate(subjects):
        path = f"subjects[{index}]"
        if not subject.name:
            problems.append(errors.required(f"{path}.name"))
        if subject.kind == "ServiceAccount":
            if subject.name:
                problems.extend(
                    errors.invalid(f"{path}.name", subject.name, detail)
                    for detail in names.dns1123_subdomain_problems(subject.name)
                )
            if subject.api_group:
                problems.append(errors.not_supported(f"{path}.apiGroup", subject.api_group, ("",)))
            if not namespaced and not subject.namespace:
                problems.append(errors.required(f"{path}.namespace"))
        elif subject.kind in ("User", "Group"):
            if subject.api_group != GROUP:
                problems.append(errors.not_supported(f"{path}.apiGroup", subject.api_group, (GROUP,)))
        else:
            problems.append(errors.not_supported(f"{path}.kind", subject.kind, ("ServiceAccount", "User", "Group")))
    return problems


def _role_binding_problems(binding: RoleBinding) -> Problems:
    return [
        *_role_ref_problems(binding.role_ref, ("Role", "ClusterRole")),
        *_subject_problems(binding.subjects, namespaced=True),
    ]


def _cluster_role_binding_problems(binding: ClusterRoleBinding) -> Problems:
    return [
        *_role_ref_problems(binding.role_ref, ("ClusterRole",)),
        *_subject_problems(binding.subjects, namespaced=False),
    ]


def _role_ref_change_problems(new: RoleBinding | ClusterRoleBinding, old: RoleBinding | ClusterRoleBinding) -> Problems:
    if new.role_ref == old.role_ref:
        return []
    ref = new.role_ref
    value = {"APIGroup": ref.api_group, "Kind": ref.kind, "Name": ref.name}
    return [errors.invalid("roleRef", value, "cannot change roleRef")]


# --- columns ------------------------------------------------------------------------------------------------------


def _name_column() -> resource.Column[objects.Object]:
    return resource.Column("Name", "Name of the object.", lambda obj, _: obj.metadata.name, format="name")


_ROLE_COLUMNS: Final[tuple[resource.Column[objects.Object], ...]] = (
    _name_column(),
    resource.Column(
        "Created At",
        "Time when the object was created.",
        lambda obj, _: obj.metadata.creation_timestamp,
        type="date",
    ),
)


def _subject_cell(kind: str) -> Callable[[RoleBinding | ClusterRoleBinding, datetime.datetime], str]:
    def cell(obj: RoleBinding | ClusterRoleBinding, now: datetime.datetime) -> str:
        del now
        subjects = (subject for subject in obj.subjects if subject.kind == kind)
        if kind == "ServiceAccount":
            return ", ".join(f"{subject.namespace}/{subject.name}" for subject in subjects)
        return ", ".join(subject.name for subject in subjects)

    return cell


_BINDING_COLUMNS: Final[tuple[resource.Column[RoleBinding | ClusterRoleBinding], ...]] = (
    _name_column(),
    resource.Column("Role", "The granted role.", lambda obj, _: f"{obj.role_ref.kind}/{obj.role_ref.name}"),
    resource.Column("Age", "Time since the binding was created.", resource.age),
    resource.Column("Users", "Users that are granted the role.", _subject_cell("User"), priority=1),
    resource.Column("Groups", "Groups that are granted the role.", _subject_cell("Group"), priority=1),
    resource.Column(
        "ServiceAccounts", "Service accounts that are granted the role.", _subject_cell("ServiceAccount"), priority=1
    ),
)

CLUSTER_ROLE_BINDINGS: Final[resource.Resource[ClusterRoleBinding]] = resource.Resource(
    group=GROUP,
    version="v1",
    former_versions=("v1beta1", "v1alpha1"),
    kind="ClusterRoleBinding",
    plural="clusterrolebindings",
    type=ClusterRoleBinding,
    namespaced=False,
    owns=("subjects", "roleRef"),
    default=_default_binding,
    name_problems=names.path_segment_problems,
    validate=_cluster_role_binding_problems,
    validate_update=lambda new, old: [*_cluster_role_binding_problems(new), *_role_ref_change_problems(new, old)],
    columns=_BINDING_COLUMNS,
    allow_create_on_update=True,
)
CLUSTER_ROLES: Final[resource.Resource[ClusterRole]] = resource.Resource(
    group=GROUP,
    version="v1",
    former_versions=("v1beta1", "v1alpha1"),
    kind="ClusterRole",
    plural="clusterroles",
    type=ClusterRole,
    namespaced=False,
    owns=("rules", "aggregationRule"),
    name_problems=names.path_segment_problems,
    validate=_cluster_role_problems,
    validate_update=lambda new, _: _cluster_role_problems(new),
    canonicalise=_drop_empty_rules,
    columns=_ROLE_COLUMNS,
    allow_create_on_update=True,
)
ROLE_BINDINGS: Final[resource.Resource[RoleBinding]] = resource.Resource(
    group=GROUP,
    version="v1",
    former_versions=("v1beta1", "v1alpha1"),
    kind="RoleBinding",
    plural="rolebindings",
    type=RoleBinding,
    namespaced=True,
    owns=("subjects", "roleRef"),
    default=_default_binding,
    name_problems=names.path_segment_problems,
    validate=_role_binding_problems,
    validate_update=lambda new, old: [*_role_binding_problems(new), *_role_ref_change_problems(new, old)],
    columns=_BINDING_COLUMNS,
    allow_create_on_update=True,
)
ROLES: Final[resource.Resource[Role]] = resource.Resource(
    group=GROUP,
    version="v1",
    former_versions=("v1beta1", "v1alpha1"),
    kind="Role",
    plural="roles",
    type=Role,
    namespaced=True,
    owns=("rules",),
    name_problems=names.path_segment_problems,
    validate=_role_problems,
    validate_update=lambda new, _: _role_problems(new),
    canonicalise=_drop_empty_rules,
    columns=_ROLE_COLUMNS,
    allow_create_on_update=True,
)

RESOURCES: Final = (CLUSTER_ROLE_BINDINGS, CLUSTER_ROLES, ROLE_BINDINGS, ROLES)
