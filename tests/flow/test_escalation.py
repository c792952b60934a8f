"""A user cannot grant permissions that he does not have, with any verb."""

from __future__ import annotations

import pytest

from certplane import errors, testing
from certplane.meta import objects
from certplane.resources import rbac
from tests.flow import plane as flow

JANE = testing.user("jane", "team")
WRITE_ROLES = rbac.PolicyRule(
    verbs=["create", "update", "patch", "get"],
    api_groups=[rbac.GROUP],
    resources=["clusterroles", "clusterrolebindings", "roles", "rolebindings"],
)
READ_SECRETS = rbac.PolicyRule(verbs=["get", "list"], api_groups=[""], resources=["secrets"])


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
    await plane.grant_rules(JANE, WRITE_ROLES, *rules)
    return plane.client(JANE)


def _reason(caught):
    return caught.value.message.partition("is forbidden: ")[2]


async def test_missing_permissions_are_listed_for_each_verb():
    """Verbs of one resource are combined in the order of the rules, with repetitions; lines are sorted."""
    async with flow.running() as plane:
        jane = await _granted(plane, rbac.PolicyRule(verbs=["get"], api_groups=[""], resources=["secrets"]))
        with pytest.raises(errors.Forbidden) as caught:
            await jane.create(rbac.CLUSTER_ROLES, _role("r", READ_SECRETS, WRITE_ROLES, READ_SECRETS))
        assert _reason(caught) == (
            'user "jane" (groups=["team" "system:authenticated"]) is attempting to grant RBAC permissions not '
            'currently held:\n{APIGroups:[""], Resources:["secrets"], Verbs:["list" "list"]}'
        )


async def test_escalation_is_checked_before_validation():
    """The error has the name that was sent, which is empty if it will be generated."""
    async with flow.running() as plane:
        jane = await _granted(plane)
        wrong = _role("r", rbac.PolicyRule(verbs=["get"], api_groups=[""], resources=["x"], non_resource_urls=["/x"]))
        with pytest.raises(errors.Forbidden, match="NonResourceURLs"):
            await jane.create(rbac.CLUSTER_ROLES, wrong)
        unnamed = _role("", READ_SECRETS)
        unnamed.metadata.generate_name = "r-"
        with pytest.raises(errors.Forbidden, match=r"^clusterroles\.rbac\.authorization\.k8s\.io is forbidden"):
            await jane.create(rbac.CLUSTER_ROLES, unnamed)


async def test_escalate_with_resource_names_applies_to_the_name_in_the_path():
    """It permits creation by PUT or apply, and not by POST."""
    one = rbac.PolicyRule(
        verbs=["escalate"], api_groups=[rbac.GROUP], resources=["clusterroles"], resource_names=["mine"]
    )
    async with flow.running() as plane:
        jane = await _granted(plane, one)
        with pytest.raises(errors.Forbidden, match="not currently held"):
            await jane.create(rbac.CLUSTER_ROLES, _role("mine", READ_SECRETS))
        document = {"metadata": {"name": "mine"}, "rules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]}
        await jane.apply(rbac.CLUSTER_ROLES, document, manager="jane")
        with pytest.raises(errors.Forbidden, match="not currently held"):
            await jane.apply(rbac.CLUSTER_ROLES, {**document, "metadata": {"name": "other"}}, manager="jane")


async def test_writes_without_new_permissions_are_allowed():
    """Finalizers may be changed and empty updates sent without permission to grant; changing a label is a grant."""
    async with flow.running() as plane:
        jane = await _granted(plane)
        role = await plane.client(flow.ADMIN).create(rbac.CLUSTER_ROLES, _role("r", READ_SECRETS))
        same = await jane.update(rbac.CLUSTER_ROLES, role)
        assert same.metadata.resource_version == role.metadata.resource_version
        same.metadata.finalizers = ["example.com/wait"]
        kept = await jane.update(rbac.CLUSTER_ROLES, same)
        kept.metadata.labels = {"rbac.authorization.k8s.io/aggregate-to-admin": "true"}
        with pytest.raises(errors.Forbidden, match="not currently held"):
            await jane.update(rbac.CLUSTER_ROLES, kept)


async def test_aggregation_rules_require_cluster_admin():
    """This applies to the role before and after the change; otherwise aggregated rules could be kept."""
    collects = rbac.AggregationRule(cluster_role_selectors=[objects.LabelSelector(match_labels={"a": "b"})])
    async with flow.running() as plane:
        jane = await _granted(plane)
        with pytest.raises(errors.Forbidden, match="must have cluster-admin privileges to use the aggregationRule"):
            await jane.create(rbac.CLUSTER_ROLES, _role("r", aggregation_rule=collects))
        role = await plane.client(flow.ADMIN).create(rbac.CLUSTER_ROLES, _role("r", aggregation_rule=collects))
        role.aggregation_rule = None
        with pytest.raises(errors.Forbidden, match="must have cluster-admin privileges"):
            await jane.update(rbac.CLUSTER_ROLES, role)


async def test_namespaced_roles_and_bindings_are_checked():
    """Bindings are checked for Roles and for ClusterRoles."""
    role = rbac.Role(rules=[READ_SECRETS])
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


async def test_permissions_in_a_namespace_can_be_granted_in_it():
    """They cannot be granted in another namespace."""
    async with flow.running() as plane:
        jane, admin = await _granted(plane), plane.client(flow.ADMIN)
        held = rbac.RoleBinding(
            subjects=[rbac.Subject(kind="User", api_group=rbac.GROUP, name="jane")],
            role_ref=rbac.RoleRef(api_group=rbac.GROUP, kind="ClusterRole", name="secrets"),
        )
        held.metadata.name = "held"
        await admin.create(rbac.CLUSTER_ROLES, _role("secrets", READ_SECRETS))
        await admin.create(rbac.ROLE_BINDINGS, held, "default")
        role = rbac.Role(rules=[READ_SECRETS])
        role.metadata.name = "r"
        await jane.create(rbac.ROLES, role, "default")
        with pytest.raises(errors.Forbidden, match="not currently held"):
            await jane.create(rbac.ROLES, role, "kube-system")


@pytest.mark.parametrize("style", ["apply", "put"])
async def test_creation_by_put_or_apply_requires_create(style):
    """For existing objects, update or patch is sufficient."""
    changes = rbac.PolicyRule(
        verbs=["update", "patch"], api_groups=[rbac.GROUP], resources=["clusterroles", "clusterrolebindings"]
    )
    async with flow.running() as plane:
        admin = plane.client(flow.ADMIN)
        await plane.grant_rules(JANE, changes)
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
async def test_binding_an_unknown_role_is_refused(binding, error, message):
    """The error of the lookup precedes validation."""
    async with flow.running() as plane:
        jane = await _granted(plane)
        with pytest.raises(error) as caught:
            await jane.create(rbac.CLUSTER_ROLE_BINDINGS, binding)
        assert caught.value.message == message


async def test_missing_roles_are_listed_as_resolution_errors():
    """They are named with the resource of the request, as in Kubernetes."""
    async with flow.running() as plane:
        jane = await _granted(plane)
        await plane.bind("gone", JANE)
        await plane.bind("lost", JANE)
        with pytest.raises(errors.Forbidden) as caught:
            await jane.create(rbac.CLUSTER_ROLE_BINDINGS, _binding("b", "system:kube-dns"))
        assert _reason(caught).endswith(
            '; resolution errors: [[clusterrolebindings.rbac.authorization.k8s.io "gone" not found, '
            'clusterrolebindings.rbac.authorization.k8s.io "lost" not found]]'
        )
