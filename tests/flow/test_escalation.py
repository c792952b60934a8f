"""Nobody grants what he does not have, whichever way he writes it."""

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
    made = rbac.ClusterRole(rules=list(rules), **more)
    made.metadata.name = name
    return made


def _binding(name, role, *users, kind="ClusterRole"):
    subjects = [rbac.Subject(kind="User", api_group=rbac.GROUP, name=each) for each in users]
    made = rbac.ClusterRoleBinding(subjects=subjects, role_ref=rbac.RoleRef(api_group=rbac.GROUP, kind=kind, name=role))
    made.metadata.name = name
    return made


async def _granted(plane, *rules):
    """Jane's client, after she was granted these rules and the right to write roles and bindings."""
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
    """And under the name that was sent: one that is to be generated is none yet."""
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
    """So it serves whoever makes that role by PUT or apply, and nobody who makes it by POST."""
    one = rbac.PolicyRule(
        verbs=["escalate"], api_groups=[rbac.GROUP], resources=["clusterroles"], resource_names=["mine"]
    )
    async with flow.running() as plane:
        jane = await _granted(plane, one)
        with pytest.raises(errors.Forbidden, match="not currently held"):
            await jane.create(rbac.CLUSTER_ROLES, _role("mine", SECRETS))
        said = {"metadata": {"name": "mine"}, "rules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]}
        await jane.apply(rbac.CLUSTER_ROLES, said, manager="jane")
        with pytest.raises(errors.Forbidden, match="not currently held"):
            await jane.apply(rbac.CLUSTER_ROLES, {**said, "metadata": {"name": "other"}}, manager="jane")


async def test_what_changes_no_right_needs_none():
    """Garbage collection goes on, and so does an update of nothing; a label is somebody's decision."""
    async with flow.running() as plane:
        jane = await _granted(plane)
        made = await plane.client(flow.ADMIN).create(rbac.CLUSTER_ROLES, _role("r", SECRETS))
        same = await jane.update(rbac.CLUSTER_ROLES, made)
        assert same.metadata.resource_version == made.metadata.resource_version
        same.metadata.finalizers = ["example.com/wait"]
        kept = await jane.update(rbac.CLUSTER_ROLES, same)
        kept.metadata.labels = {"rbac.authorization.k8s.io/aggregate-to-admin": "true"}
        with pytest.raises(errors.Forbidden, match="not currently held"):
            await jane.update(rbac.CLUSTER_ROLES, kept)


async def test_only_who_may_do_everything_lets_a_role_collect_rules():
    """Before and after a change: otherwise what is collected could be kept, or narrowed for others."""
    collects = rbac.AggregationRule(cluster_role_selectors=[objects.LabelSelector(match_labels={"a": "b"})])
    async with flow.running() as plane:
        jane = await _granted(plane)
        with pytest.raises(errors.Forbidden, match="must have cluster-admin privileges to use the aggregationRule"):
            await jane.create(rbac.CLUSTER_ROLES, _role("r", aggregation_rule=collects))
        made = await plane.client(flow.ADMIN).create(rbac.CLUSTER_ROLES, _role("r", aggregation_rule=collects))
        made.aggregation_rule = None
        with pytest.raises(errors.Forbidden, match="must have cluster-admin privileges"):
            await jane.update(rbac.CLUSTER_ROLES, made)


@pytest.mark.parametrize(
    ("binding", "error", "message"),
    [
        (_binding("b", ""), errors.BadRequest, "Name parameter required."),
        (_binding("b", "a/b"), errors.BadRequest, "Name parameter invalid: \"a/b\": may not contain '/'"),
        (_binding("b", "r", kind="Role"), errors.BadRequest, "Namespace parameter required."),
        (_binding("b", "r", kind="Foo"), errors.UnreasonedError, 'unsupported role reference kind: "Foo"'),
        (
            _binding("b", "gone"),
            errors.NotFound,
            'clusterrolebindings.rbac.authorization.k8s.io "gone" not found',
        ),
    ],
)
async def test_a_role_that_cannot_be_looked_up_cannot_be_bound(binding, error, message):
    """Who may not bind it learns of the lookup; what is valid is asked later."""
    async with flow.running() as plane:
        jane = await _granted(plane)
        with pytest.raises(error) as caught:
            await jane.create(rbac.CLUSTER_ROLE_BINDINGS, binding)
        assert caught.value.message == message


async def test_roles_that_are_missing_are_told_of_with_what_is_lacking():
    """Under the resource of the request, as lookups in its course name them."""
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
