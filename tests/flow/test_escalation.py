"""A user cannot grant permissions that he does not have, with any verb."""

from __future__ import annotations

import pytest

from certplane import errors
from certplane.meta import context, objects
from certplane.resources import rbac
from tests.flow import plane as flow

JANE = context.User("jane", groups=("team", "system:authenticated"))
WRITES = rbac.PolicyRule(
    verbs=["create", "update", "patch", "get"],
    api_groups=[rbac.GROUP],
    resources=["clusterroles", "clusterrolebindings", "roles", "rolebindings"],
)
SECRETS = rbac.PolicyRule(verbs=["get", "list"], api_groups=[""], resources=["secrets"])


def _role(name, *rules, **more):
    role = rbac.ClusterRole(rules=list(rules), **more)
    role.metadata.name = name
    return role


def _binding(name, role, *users, kind="ClusterRole"):
    subjects = [rbac.Subject(kind="User", api_group=rbac.GROUP, name=user) for user in users]
    binding = rbac.ClusterRoleBinding(
        subjects=subjects, role_ref=rbac.RoleRef(api_group=rbac.GROUP, kind=kind, name=role)
    )
    binding.metadata.name = name
    return binding


async def _granted(plane, *rules):
    """Jane's client, with these rules and permission to write roles and bindings."""
    admin = plane.client(flow.ADMIN)
    await admin.create(rbac.CLUSTER_ROLES, _role("jane", WRITES, *rules))
    await admin.create(rbac.CLUSTER_ROLE_BINDINGS, _binding("jane", "jane", "jane"))
    return plane.client(JANE)


def _said(caught):
    return caught.value.message.partition("is forbidden: ")[2]


async def test_what_is_lacking_is_listed_verb_by_verb_and_as_often_as_it_is_asked_for():
    """Verbs of one resource come together, in the order of the rules; lines are sorted."""
    async with flow.running() as plane:
        jane = await _granted(plane, rbac.PolicyRule(verbs=["get"], api_groups=[""], resources=["secrets"]))
        with pytest.raises(errors.Forbidden) as caught:
            await jane.create(rbac.CLUSTER_ROLES, _role("r", SECRETS, WRITES, SECRETS))
        assert _said(caught) == (
            'user "jane" (groups=["team" "system:authenticated"]) is attempting to grant RBAC permissions not '
            'currently held:\n{APIGroups:[""], Resources:["secrets"], Verbs:["list" "list"]}'
        )


async def test_what_may_not_be_granted_is_refused_before_anybody_looks_whether_it_is_valid():
    """And under the name that was sent, which is empty if it will be generated."""
    async with flow.running() as plane:
        jane = await _granted(plane)
        wrong = _role("r", rbac.PolicyRule(verbs=["get"], api_groups=[""], resources=["x"], non_resource_urls=["/x"]))
        with pytest.raises(errors.Forbidden, match="NonResourceURLs"):
            await jane.create(rbac.CLUSTER_ROLES, wrong)
        unnamed = _role("", SECRETS)
        unnamed.metadata.generate_name = "r-"
        with pytest.raises(errors.Forbidden, match=r"^clusterroles\.rbac\.authorization\.k8s\.io is forbidden"):
            await jane.create(rbac.CLUSTER_ROLES, unnamed)


async def test_the_right_to_escalate_one_role_goes_by_the_name_in_the_path():
    """So it works for creation by PUT or apply, and not by POST."""
    one = rbac.PolicyRule(
        verbs=["escalate"], api_groups=[rbac.GROUP], resources=["clusterroles"], resource_names=["mine"]
    )
    async with flow.running() as plane:
        jane = await _granted(plane, one)
        with pytest.raises(errors.Forbidden, match="not currently held"):
            await jane.create(rbac.CLUSTER_ROLES, _role("mine", SECRETS))
        document = {"metadata": {"name": "mine"}, "rules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]}
        await jane.apply(rbac.CLUSTER_ROLES, document, manager="jane")
        with pytest.raises(errors.Forbidden, match="not currently held"):
            await jane.apply(rbac.CLUSTER_ROLES, {**document, "metadata": {"name": "other"}}, manager="jane")


async def test_what_changes_no_right_needs_none():
    """Changed finalizers and empty updates need no permission; a changed label does."""
    async with flow.running() as plane:
        jane = await _granted(plane)
        role = await plane.client(flow.ADMIN).create(rbac.CLUSTER_ROLES, _role("r", SECRETS))
        same = await jane.update(rbac.CLUSTER_ROLES, role)
        assert same.metadata.resource_version == role.metadata.resource_version
        same.metadata.finalizers = ["example.com/wait"]
        kept = await jane.update(rbac.CLUSTER_ROLES, same)
        kept.metadata.labels = {"rbac.authorization.k8s.io/aggregate-to-admin": "true"}
        with pytest.raises(errors.Forbidden, match="not currently held"):
            await jane.update(rbac.CLUSTER_ROLES, kept)


async def test_only_who_may_do_everything_lets_a_role_collect_rules():
    """Before and after a change; otherwise aggregated rules could be kept."""
    collects = rbac.AggregationRule(cluster_role_selectors=[objects.LabelSelector(match_labels={"a": "b"})])
    async with flow.running() as plane:
        jane = await _granted(plane)
        with pytest.raises(errors.Forbidden, match="must have cluster-admin privileges to use the aggregationRule"):
            await jane.create(rbac.CLUSTER_ROLES, _role("r", aggregation_rule=collects))
        role = await plane.client(flow.ADMIN).create(rbac.CLUSTER_ROLES, _role("r", aggregation_rule=collects))
        role.aggregation_rule = None
        with pytest.raises(errors.Forbidden, match="must have cluster-admin privileges"):
            await jane.update(rbac.CLUSTER_ROLES, role)


async def test_roles_of_a_namespace_are_checked_like_those_of_the_cluster():
    """And so are their bindings, to roles of either kind."""
    role = rbac.Role(rules=[SECRETS])
    role.metadata.name = "r"
    async with flow.running() as plane:
        jane = await _granted(plane)
        with pytest.raises(errors.Forbidden, match="not currently held"):
            await jane.create(rbac.ROLES, role, "default")
        await plane.client(flow.ADMIN).create(rbac.ROLES, role, "default")
        for kind, name in (("Role", "r"), ("ClusterRole", "cluster-admin")):
            binding = rbac.RoleBinding(
                subjects=[rbac.Subject(kind="User", api_group=rbac.GROUP, name="jane")],
                role_ref=rbac.RoleRef(api_group=rbac.GROUP, kind=kind, name=name),
            )
            binding.metadata.name = "b"
            with pytest.raises(errors.Forbidden, match="not currently held"):
                await jane.create(rbac.ROLE_BINDINGS, binding, "default")


async def test_the_rights_of_a_namespace_may_be_granted_there():
    """What a user may do in one namespace, he may grant in it, and nowhere else."""
    async with flow.running() as plane:
        jane, admin = await _granted(plane), plane.client(flow.ADMIN)
        held = rbac.RoleBinding(
            subjects=[rbac.Subject(kind="User", api_group=rbac.GROUP, name="jane")],
            role_ref=rbac.RoleRef(api_group=rbac.GROUP, kind="ClusterRole", name="secrets"),
        )
        held.metadata.name = "held"
        await admin.create(rbac.CLUSTER_ROLES, _role("secrets", SECRETS))
        await admin.create(rbac.ROLE_BINDINGS, held, "default")
        role = rbac.Role(rules=[SECRETS])
        role.metadata.name = "r"
        await jane.create(rbac.ROLES, role, "default")
        with pytest.raises(errors.Forbidden, match="not currently held"):
            await jane.create(rbac.ROLES, role, "kube-system")


@pytest.mark.parametrize("style", ["apply", "put"])
async def test_creating_with_another_verb_takes_the_right_to_create(style):
    """Neither PUT nor server-side apply is a way around it; what exists needs it no more."""
    changes = rbac.PolicyRule(
        verbs=["update", "patch"], api_groups=[rbac.GROUP], resources=["clusterroles", "clusterrolebindings"]
    )
    async with flow.running() as plane:
        admin = plane.client(flow.ADMIN)
        await admin.create(rbac.CLUSTER_ROLES, _role("changes", changes))
        await admin.create(rbac.CLUSTER_ROLE_BINDINGS, _binding("changes", "changes", "jane"))
        jane = plane.client(JANE)

        async def write():
            if style == "put":
                await jane.update(rbac.CLUSTER_ROLES, _role("r"))
            else:
                await jane.apply(rbac.CLUSTER_ROLES, {"metadata": {"name": "r"}, "rules": []}, manager="jane")

        with pytest.raises(errors.Forbidden, match='cannot create resource "clusterroles"'):
            await write()
        await admin.create(rbac.CLUSTER_ROLES, _role("r"))
        await write()


@pytest.mark.parametrize(
    ("binding", "error", "message"),
    [
        (_binding("b", ""), errors.BadRequest, "Name parameter required."),
        (_binding("b", "a/b"), errors.BadRequest, "Name parameter invalid: \"a/b\": may not contain '/'"),
        (_binding("b", "r", kind="Role"), errors.BadRequest, "Namespace parameter required."),
        (_binding("b", "r", kind="Foo"), errors.UnknownReasonError, 'unsupported role reference kind: "Foo"'),
        (
            _binding("b", "gone"),
            errors.NotFound,
            'clusterrolebindings.rbac.authorization.k8s.io "gone" not found',
        ),
    ],
)
async def test_a_role_that_cannot_be_looked_up_cannot_be_bound(binding, error, message):
    """The error of the lookup precedes validation."""
    async with flow.running() as plane:
        jane = await _granted(plane)
        with pytest.raises(error) as caught:
            await jane.create(rbac.CLUSTER_ROLE_BINDINGS, binding)
        assert caught.value.message == message


async def test_roles_that_are_missing_are_told_of_with_what_is_lacking():
    """With the resource of the request, as in Kubernetes."""
    async with flow.running() as plane:
        jane = await _granted(plane)
        admin = plane.client(flow.ADMIN)
        await admin.create(rbac.CLUSTER_ROLE_BINDINGS, _binding("x", "gone", "jane"))
        await admin.create(rbac.CLUSTER_ROLE_BINDINGS, _binding("y", "lost", "jane"))
        with pytest.raises(errors.Forbidden) as caught:
            await jane.create(rbac.CLUSTER_ROLE_BINDINGS, _binding("b", "system:kube-dns"))
        assert _said(caught).endswith(
            '; resolution errors: [[clusterrolebindings.rbac.authorization.k8s.io "gone" not found, '
            'clusterrolebindings.rbac.authorization.k8s.io "lost" not found]]'
        )
