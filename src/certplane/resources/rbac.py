"""The four kinds of rbac.authorization.k8s.io: roles say what may be done, bindings say by whom.

One file for all four, because they share their types and most of their rules.
Source: kubernetes, `pkg/apis/rbac/validation`, `pkg/registry/rbac`.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Final

from msgspec import field

from certplane import errors
from certplane.meta import names, objects, resource, validation
from certplane.meta.objects import always, doc

GROUP: Final = "rbac.authorization.k8s.io"
Problems = list[errors.FieldProblem]


def _none() -> None:
    return None


class PolicyRule(objects.Type):
    """PolicyRule permits some verbs on some resources, or on some paths that are no resources."""

    verbs: Annotated[
        list[str] | None, doc("What may be done; * for everything.", list_type="atomic", required=True)
    ] = always(_none)
    api_groups: Annotated[
        list[str], doc("API groups of the resources; the core group is empty, * stands for all.", list_type="atomic")
    ] = field(default_factory=list)
    resources: Annotated[
        list[str],
        doc("Resources, or resource/subresource; * for all, */name for a subresource of all.", list_type="atomic"),
    ] = field(default_factory=list)
    resource_names: Annotated[list[str], doc("Names of single objects. Empty for all objects.", list_type="atomic")] = (
        field(default_factory=list)
    )
    non_resource_urls: Annotated[
        list[str],
        doc(
            "Paths that are no resources; a * at the end stands for any rest. Only in a ClusterRole.",
            list_type="atomic",
        ),
    ] = field(default_factory=list, name="nonResourceURLs")


class Role(objects.Object):
    """Role is a set of permissions within a namespace."""

    rules: Annotated[list[PolicyRule] | None, doc("What the role permits.", list_type="atomic")] = always(_none)


class AggregationRule(objects.Type):
    """AggregationRule says from which other ClusterRoles the rules of this one are collected."""

    cluster_role_selectors: Annotated[
        list[objects.LabelSelector],
        doc("Labels of the ClusterRoles to collect from; any of the selectors will do.", list_type="atomic"),
    ] = field(default_factory=list)


class ClusterRole(objects.Object):
    """ClusterRole is a set of permissions that a binding grants everywhere, or in one namespace."""

    rules: Annotated[list[PolicyRule] | None, doc("What the role permits.", list_type="atomic")] = always(_none)
    aggregation_rule: Annotated[
        AggregationRule | None,
        doc("If set, the rules are collected from other ClusterRoles, and changes to them are overwritten."),
    ] = None


class Subject(objects.Type):
    """Subject is a user, a group or a service account."""

    atomic: ClassVar[bool] = True

    kind: Annotated[str, doc("User, Group or ServiceAccount.", required=True)] = always(str)
    api_group: Annotated[str, doc("rbac.authorization.k8s.io for users and groups, empty for service accounts.")] = ""
    name: Annotated[str, doc("Name of the subject.", required=True)] = always(str)
    namespace: Annotated[str, doc("Namespace of a service account.")] = ""


class RoleRef(objects.Type):
    """RoleRef names the role that a binding grants."""

    atomic: ClassVar[bool] = True

    api_group: Annotated[str, doc("rbac.authorization.k8s.io.")] = always(str)
    kind: Annotated[str, doc("Role or ClusterRole.", required=True)] = always(str)
    name: Annotated[str, doc("Name of the role.", required=True)] = always(str)


class RoleBinding(objects.Object):
    """RoleBinding grants a role to some subjects, within a namespace."""

    subjects: Annotated[list[Subject], doc("Who is granted the role.", list_type="atomic")] = field(
        default_factory=list
    )
    role_ref: Annotated[RoleRef, doc("Which role is granted. Cannot be changed.", required=True)] = always(RoleRef)


class ClusterRoleBinding(objects.Object):
    """ClusterRoleBinding grants a ClusterRole to some subjects, everywhere."""

    subjects: Annotated[list[Subject], doc("Who is granted the role.", list_type="atomic")] = field(
        default_factory=list
    )
    role_ref: Annotated[RoleRef, doc("Which role is granted. Cannot be changed.", required=True)] = always(RoleRef)


# --- roles --------------------------------------------------------------------------------------------------------


def _drop_empty_rules(new: Role | ClusterRole) -> None:
    """No rules are stored as null, however they were sent: protobuf does not tell the two apart."""
    new.rules = new.rules or None


def _rule_problems(rules: Sequence[PolicyRule] | None, *, namespaced: bool) -> Problems:
    problems: Problems = []
    for at, rule in enumerate(rules or ()):
        path = f"rules[{at}]"
        if not rule.verbs:
            problems.append(errors.required(f"{path}.verbs", "verbs must contain at least one value"))
        if rule.non_resource_urls:
            if namespaced:
                why = "namespaced rules cannot apply to non-resource URLs"
                problems.append(errors.invalid(f"{path}.nonResourceURLs", rule.non_resource_urls, why))
            if rule.api_groups or rule.resources or rule.resource_names:
                why = "rules cannot apply to both regular resources and non-resource URLs"
                problems.append(errors.invalid(f"{path}.nonResourceURLs", rule.non_resource_urls, why))
            continue
        if not rule.api_groups:
            why = "resource rules must supply at least one api group"
            problems.append(errors.required(f"{path}.apiGroups", why))
        if not rule.resources:
            why = "resource rules must supply at least one resource"
            problems.append(errors.required(f"{path}.resources", why))
    return problems


def _role_problems(new: Role) -> Problems:
    return _rule_problems(new.rules, namespaced=True)


def _cluster_role_problems(new: ClusterRole) -> Problems:
    problems = _rule_problems(new.rules, namespaced=False)
    aggregation = new.aggregation_rule
    if aggregation is None:
        return problems
    path = "aggregationRule.clusterRoleSelectors"
    if not aggregation.cluster_role_selectors:
        why = "at least one clusterRoleSelector required if aggregationRule is non-nil"
        problems.append(errors.required(path, why))
    if too_many := validation.count_problems(aggregation.cluster_role_selectors, path):
        return [*problems, *too_many]
    for at, selector in enumerate(aggregation.cluster_role_selectors):
        problems.extend(_selector_problems(selector, f"{path}[{at}]"))
    return problems


def _selector_problems(of: objects.LabelSelector, path: str) -> Problems:
    problems = [
        *validation.count_problems(of.match_labels, f"{path}.matchLabels"),
        *validation.count_problems(of.match_expressions, f"{path}.matchExpressions"),
    ]
    if problems:
        return problems
    for key, value in sorted(of.match_labels.items()):
        problems.extend(errors.invalid(f"{path}.matchLabels", key, each) for each in names.qualified_name_problems(key))
        problems.extend(
            errors.invalid(f"{path}.matchLabels", value, each) for each in names.label_value_problems(value)
        )
    for at, each in enumerate(of.match_expressions):
        problems.extend(validation.selector_requirement_problems(each, f"{path}.matchExpressions[{at}]"))
    # Whatever is wrong with a part is said once more of the whole.
    return [*problems, errors.invalid(path, None, "invalid label selector.")] if problems else []


# --- bindings -----------------------------------------------------------------------------------------------------


def _default_binding(new: Any) -> None:
    new.role_ref.api_group = new.role_ref.api_group or GROUP
    for each in new.subjects:
        if each.kind in ("User", "Group") and not each.api_group:
            each.api_group = GROUP


def _role_ref_problems(of: RoleRef, kinds: tuple[str, ...]) -> Problems:
    problems: Problems = []
    if of.api_group != GROUP:
        problems.append(errors.not_supported("roleRef.apiGroup", of.api_group, (GROUP,)))
    if of.kind not in kinds:
        problems.append(errors.not_supported("roleRef.kind", of.kind, kinds))
    if not of.name:
        problems.append(errors.required("roleRef.name"))
    else:
        problems.extend(errors.invalid("roleRef.name", of.name, each) for each in names.path_segment_problems(of.name))
    return problems


def _subject_problems(subjects: Sequence[Subject], *, namespaced: bool) -> Problems:
    problems: Problems = []
    for at, each in enumerate(subjects):
        path = f"subjects[{at}]"
        if not each.name:
            problems.append(errors.required(f"{path}.name"))
        if each.kind == "ServiceAccount":
            if each.name:
                problems.extend(
                    errors.invalid(f"{path}.name", each.name, why)
                    for why in names.dns1123_subdomain_problems(each.name)
                )
            if each.api_group:
                problems.append(errors.not_supported(f"{path}.apiGroup", each.api_group, ("",)))
            if not namespaced and not each.namespace:
                problems.append(errors.required(f"{path}.namespace"))
        elif each.kind in ("User", "Group"):
            if each.api_group != GROUP:
                problems.append(errors.not_supported(f"{path}.apiGroup", each.api_group, (GROUP,)))
        else:
            problems.append(errors.not_supported(f"{path}.kind", each.kind, ("ServiceAccount", "User", "Group")))
    return problems


def _role_binding_problems(new: RoleBinding) -> Problems:
    return [
        *_role_ref_problems(new.role_ref, ("Role", "ClusterRole")),
        *_subject_problems(new.subjects, namespaced=True),
    ]


def _cluster_role_binding_problems(new: ClusterRoleBinding) -> Problems:
    return [
        *_role_ref_problems(new.role_ref, ("ClusterRole",)),
        *_subject_problems(new.subjects, namespaced=False),
    ]


def _unchanged_role_ref(new: Any, old: Any) -> Problems:
    if new.role_ref == old.role_ref:
        return []
    ref = new.role_ref
    value = {"APIGroup": ref.api_group, "Kind": ref.kind, "Name": ref.name}
    return [errors.invalid("roleRef", value, "cannot change roleRef")]


# --- columns ------------------------------------------------------------------------------------------------------


def _name_column() -> resource.Column:
    return resource.Column("Name", "Name of the object.", lambda of, _: of.metadata.name, format="name")


_ROLE_COLUMNS: Final = (
    _name_column(),
    resource.Column(
        "Created At",
        "When the server created the object.",
        lambda of, _: of.metadata.creation_timestamp,
        type="date",
    ),
)


def _subjects(kind: str) -> Any:
    def cell(of: Any, now: datetime.datetime) -> str:
        del now
        found = (each for each in of.subjects if each.kind == kind)
        if kind == "ServiceAccount":
            return ", ".join(f"{each.namespace}/{each.name}" for each in found)
        return ", ".join(each.name for each in found)

    return cell


_BINDING_COLUMNS: Final = (
    _name_column(),
    resource.Column("Role", "The role that is granted.", lambda of, _: f"{of.role_ref.kind}/{of.role_ref.name}"),
    resource.Column("Age", "Time since the binding was created.", resource.age),
    resource.Column("Users", "Users that are granted the role.", _subjects("User"), priority=1),
    resource.Column("Groups", "Groups that are granted the role.", _subjects("Group"), priority=1),
    resource.Column(
        "ServiceAccounts", "Service accounts that are granted the role.", _subjects("ServiceAccount"), priority=1
    ),
)

CLUSTER_ROLE_BINDINGS: Final = resource.Resource(
    group=GROUP,
    version="v1",
    former=("v1beta1", "v1alpha1"),
    kind="ClusterRoleBinding",
    plural="clusterrolebindings",
    type=ClusterRoleBinding,
    namespaced=False,
    owns=("subjects", "roleRef"),
    default=_default_binding,
    name_problems=names.path_segment_problems,
    validate=_cluster_role_binding_problems,
    validate_update=lambda new, old: [*_cluster_role_binding_problems(new), *_unchanged_role_ref(new, old)],
    columns=_BINDING_COLUMNS,
    creates_on_update=True,
)
CLUSTER_ROLES: Final = resource.Resource(
    group=GROUP,
    version="v1",
    former=("v1beta1", "v1alpha1"),
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
    creates_on_update=True,
)
ROLE_BINDINGS: Final = resource.Resource(
    group=GROUP,
    version="v1",
    former=("v1beta1", "v1alpha1"),
    kind="RoleBinding",
    plural="rolebindings",
    type=RoleBinding,
    namespaced=True,
    owns=("subjects", "roleRef"),
    default=_default_binding,
    name_problems=names.path_segment_problems,
    validate=_role_binding_problems,
    validate_update=lambda new, old: [*_role_binding_problems(new), *_unchanged_role_ref(new, old)],
    columns=_BINDING_COLUMNS,
    creates_on_update=True,
)
ROLES: Final = resource.Resource(
    group=GROUP,
    version="v1",
    former=("v1beta1", "v1alpha1"),
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
    creates_on_update=True,
)

RESOURCES: Final = (CLUSTER_ROLE_BINDINGS, CLUSTER_ROLES, ROLE_BINDINGS, ROLES)
