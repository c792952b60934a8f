"""The hook that keeps users from granting permissions that they do not have."""

from __future__ import annotations

import pytest

from certplane import errors, testing
from certplane.access import escalation
from certplane.access import rbac as authorization
from certplane.meta import context, objects
from certplane.registry.admission import AdmissionAttributes
from certplane.resources import rbac
from tests.unit.access import rbaccluster
from tests.unit.access.rbaccluster import KINDS, PLURALS, binding, named, role, subject

JANE = context.User("jane", groups=("makers",))
READ = rbac.PolicyRule(verbs=["get"], api_groups=["g"], resources=["things"])


def granted(*rules, namespace=""):
    """What gives Jane these rules: cluster-wide, or in a namespace."""
    return (
        role("jane", *rules),
        binding("jane", "ClusterRole/jane", subject("User", "jane"), namespace=namespace),
    )


def right(verb, resource, *names):
    """A rule for a verb on a kind of the RBAC group."""
    return rbac.PolicyRule(verbs=[verb], api_groups=[rbac.GROUP], resources=[resource], resource_names=list(names))


def check(cluster, new, old=None, user=JANE, operation="", path_name=None):
    """Admit a write of `new`, which replaces `old`. `path_name` is the name in the path, empty for a POST."""
    resource = KINDS[PLURALS[type(new if new is not None else old)]]
    operation = operation or ("create" if old is None else "update")
    meta = (new if new is not None else old).metadata
    if path_name is None:
        path_name = "" if operation == "create" else meta.name
    info = context.RequestInfo("", operation, True, rbac.GROUP, "v1", meta.namespace, resource.plural, name=path_name)
    clock = testing.FakeClock()
    call = context.VerbContext(user, info, clock.now())
    review = AdmissionAttributes(operation, resource, "", meta.namespace, meta.name, new, old, call)
    escalation.hook(cluster.authorizer)(review)


def is_admitted(*arguments, **options):
    try:
        check(*arguments, **options)
    except errors.Forbidden:
        return False
    return True


# --- bind and escalate --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "ref", "namespace", "admitted"),
    [
        (right("bind", "clusterroles"), "ClusterRole/r", "", True),
        (right("bind", "clusterroles"), "ClusterRole/r", "team", True),
        (right("bind", "clusterroles"), "Role/r", "team", False),
        (right("bind", "clusterroles", "r"), "ClusterRole/r", "", True),
        (right("bind", "clusterroles", "other"), "ClusterRole/r", "", False),
        (right("bind", "roles", "r"), "Role/r", "team", True),
        (right("bind", "roles", "r"), "ClusterRole/r", "team", False),
        (right("escalate", "clusterroles"), "ClusterRole/r", "", False),
        (rbac.PolicyRule(verbs=["bind"], api_groups=["g"], resources=["clusterroles"]), "ClusterRole/r", "", False),
    ],
)
async def test_the_verb_bind_on_a_role_permits_its_binding(rule, ref, namespace, admitted):
    """By the kind and the name of the role that is bound, without the permissions of that role."""
    roles = role("r", READ), role("r", READ, namespace="team")
    async with rbaccluster.running(*roles, *granted(rule)) as cluster:
        assert is_admitted(cluster, binding("new", ref, subject("User", "x"), namespace=namespace)) is admitted


async def test_the_verb_bind_in_a_namespace_holds_there_only():
    """A RoleBinding of another namespace, and a ClusterRoleBinding, are refused."""
    rules = granted(right("bind", "clusterroles"), namespace="team")
    async with rbaccluster.running(role("r", READ), *rules) as cluster:
        for namespace, admitted in (("team", True), ("other", False), ("", False)):
            assert is_admitted(cluster, binding("new", "ClusterRole/r", namespace=namespace)) is admitted


async def test_the_verb_escalate_in_a_namespace_holds_there_only():
    """For Roles of that namespace, and for no ClusterRole."""
    rules = granted(right("escalate", "roles"), right("escalate", "clusterroles"), namespace="team")
    async with rbaccluster.running(*rules) as cluster:
        for namespace, admitted in (("team", True), ("other", False), ("", False)):
            assert is_admitted(cluster, role("new", READ, namespace=namespace)) is admitted


async def test_the_verb_escalate_on_one_role_goes_by_the_name_in_the_path():
    """The name in the body is the client's choice: a POST has no name in its path."""
    async with rbaccluster.running(*granted(right("escalate", "clusterroles", "mine"))) as cluster:
        assert not is_admitted(cluster, role("mine", READ))
        assert is_admitted(cluster, role("mine", READ), path_name="mine")
        assert is_admitted(cluster, role("mine", READ), role("mine"))
        assert not is_admitted(cluster, role("other", READ), path_name="other")


async def test_permissions_of_a_namespace_may_be_granted_there_only():
    """By a Role or a RoleBinding; cluster-wide ones may be granted everywhere."""
    async with rbaccluster.running(role("r", READ), *granted(READ, namespace="team")) as cluster:
        for namespace, admitted in (("team", True), ("other", False), ("", False)):
            assert is_admitted(cluster, role("new", READ, namespace=namespace)) is admitted
            assert is_admitted(cluster, binding("new", "ClusterRole/r", namespace=namespace)) is admitted
    async with rbaccluster.running(role("r", READ), *granted(READ)) as cluster:
        for namespace in ("team", ""):
            assert is_admitted(cluster, role("new", READ, namespace=namespace))
            assert is_admitted(cluster, binding("new", "ClusterRole/r", namespace=namespace))


# --- what is checked ----------------------------------------------------------------------------------------------


def with_meta(obj, **fields):
    for field, value in fields.items():
        setattr(obj.metadata, field, value)
    return obj


@pytest.mark.parametrize(
    ("fields", "admitted"),
    [
        ({}, True),
        ({"owner_references": [objects.OwnerReference("v1", "Node", "n1", "1")]}, True),
        ({"finalizers": ["example.com/wait"]}, True),
        ({"managed_fields": [objects.ManagedFieldsEntry(manager="x")]}, True),
        ({"labels": {"a": "b"}}, False),
        ({"annotations": {"a": "b"}}, False),
        ({"owner_references": [objects.OwnerReference("v1", "Node", "n1", "1")], "labels": {"a": "b"}}, False),
    ],
)
async def test_garbage_collection_needs_no_permission(fields, admitted):
    """It changes owner references and finalizers. Labels decide which roles are aggregated."""
    old_role, old_binding = role("r", READ), binding("b", "ClusterRole/r", subject("User", "x"))
    async with rbaccluster.running(old_role, old_binding) as cluster:
        assert is_admitted(cluster, with_meta(role("r", READ), **fields), old_role) is admitted
        new_binding = with_meta(binding("b", "ClusterRole/r", subject("User", "x")), **fields)
        assert is_admitted(cluster, new_binding, old_binding) is admitted


async def test_a_new_subject_needs_the_permissions_of_the_role():
    """Whoever adds himself to a binding would have them."""
    old = binding("b", "ClusterRole/r", subject("User", "x"))
    new = binding("b", "ClusterRole/r", subject("User", "x"), subject("User", "jane"))
    async with rbaccluster.running(role("r", READ), old) as cluster:
        assert not is_admitted(cluster, new, old)


async def test_a_deletion_and_a_master_are_not_checked():
    """A deletion grants nothing; members of system:masters may do everything."""
    async with rbaccluster.running(role("r", READ)) as cluster:
        check(cluster, None, role("r", READ), operation="delete")
        check(cluster, role("new", READ), user=context.User("x", groups=(authorization.MASTERS,)))
        assert not is_admitted(cluster, role("new", READ), user=context.User(authorization.MASTERS))


# --- aggregation --------------------------------------------------------------------------------------------------

ALL_RESOURCES = rbac.PolicyRule(verbs=["*"], api_groups=["*"], resources=["*"])
ALL_PATHS = rbac.PolicyRule(verbs=["*"], non_resource_urls=["*"])


def aggregating(*label_selectors):
    selectors = [objects.LabelSelector(match_labels=labels) for labels in label_selectors]
    return named(rbac.ClusterRole(aggregation_rule=rbac.AggregationRule(cluster_role_selectors=selectors)), "all")


@pytest.mark.parametrize(
    ("rules", "admitted"),
    [
        ((ALL_RESOURCES, ALL_PATHS), True),
        ((right("escalate", "clusterroles"),), True),
        ((ALL_PATHS,), False),
        ((rbac.PolicyRule(verbs=["get"], api_groups=["*"], resources=["*"]), ALL_PATHS), False),
        ((rbac.PolicyRule(verbs=["*"], api_groups=["g"], resources=["*"]), ALL_PATHS), False),
        ((rbac.PolicyRule(verbs=["*"], api_groups=["*"], resources=["*/x"]), ALL_PATHS), False),
    ],
)
async def test_an_aggregation_rule_takes_all_permissions(rules, admitted):
    """Or the verb escalate, before and after a change: roles to come are aggregated, too."""
    async with rbaccluster.running(*granted(*rules)) as cluster:
        assert is_admitted(cluster, aggregating({"a": "b"})) is admitted
        assert is_admitted(cluster, role("all"), aggregating({"a": "b"})) is admitted


async def test_permissions_of_a_namespace_are_not_enough_for_an_aggregation_rule():
    """A ClusterRole can be bound cluster-wide."""
    async with rbaccluster.running(*granted(ALL_RESOURCES, ALL_PATHS, namespace="team")) as cluster:
        assert not is_admitted(cluster, aggregating({"a": "b"}))


async def test_an_aggregation_rule_without_selectors_takes_no_permission():
    """It aggregates nothing."""
    async with rbaccluster.running() as cluster:
        check(cluster, aggregating())
        with pytest.raises(errors.Forbidden, match="must have cluster-admin privileges to use the aggregationRule"):
            check(cluster, aggregating({}))


# --- limits -------------------------------------------------------------------------------------------------------


async def test_a_refusal_lists_a_limited_number_of_permissions():
    """One more than the limit shows as "and more"; the limit itself does not."""

    def many(count):
        return rbac.PolicyRule(verbs=["get"], api_groups=["g"], resources=[f"r{number:04}" for number in range(count)])

    async with rbaccluster.running() as cluster:
        for count in (escalation.MAX_LISTED, escalation.MAX_LISTED + 1):
            with pytest.raises(errors.Forbidden) as caught:
                check(cluster, role("new", many(count)))
            lines = caught.value.message.splitlines()[1:]
            assert lines[: escalation.MAX_LISTED] == [
                f'{{APIGroups:["g"], Resources:["r{number:04}"], Verbs:["get"]}}'
                for number in range(escalation.MAX_LISTED)
            ]
            assert lines[escalation.MAX_LISTED :] == (["and more"] if count > escalation.MAX_LISTED else [])


async def test_rules_that_cannot_be_compared_are_refused():
    """Not admitted, and not an internal error."""
    values = [f"{number:x}" for number in range(100)]
    held = [
        rbac.PolicyRule(verbs=[verb], api_groups=values[at:], resources=values[at:]) for at, verb in enumerate(values)
    ]
    held += [
        rbac.PolicyRule(verbs=["*"], api_groups=[group], resources=values[at::2]) for at, group in enumerate(values)
    ]
    held += [rbac.PolicyRule(verbs=["*"], api_groups=["*"], resources=["*"], resource_names=[name]) for name in values]
    wanted = rbac.PolicyRule(verbs=values, api_groups=values, resources=values, resource_names=values)
    async with rbaccluster.running(*granted(*held)) as cluster:
        with pytest.raises(errors.Forbidden, match="permissions in too many combinations to check"):
            check(cluster, role("new", wanted))


@pytest.mark.parametrize(
    "fields",
    [{"resources": ["*/"]}, {"resources": ["things/"]}, {"resources": ["things"], "resource_names": [""]}],
)
async def test_empty_values_of_a_rule_cover_nothing(fields):
    """An empty subresource is not the resource itself, and an empty name is not every object."""
    held = rbac.PolicyRule(verbs=["get"], api_groups=["g"], **fields)
    async with rbaccluster.running(*granted(held)) as cluster:
        assert not is_admitted(cluster, role("new", READ))
