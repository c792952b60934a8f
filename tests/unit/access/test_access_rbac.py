"""The index of bindings that the RBAC authorizer decides by, and the texts of its refusals."""

from __future__ import annotations

import pytest

from certplane import errors
from certplane.access import rbac as authorization
from certplane.meta import context
from certplane.resources import rbac
from tests.unit.access import rbaccluster
from tests.unit.access.rbaccluster import binding, role, subject

READ = rbac.PolicyRule(verbs=["get"], api_groups=["g"], resources=["things"])
WRITE = rbac.PolicyRule(verbs=["update"], api_groups=["g"], resources=["things"])
PATHS = rbac.PolicyRule(verbs=["get"], non_resource_urls=["/things"])
JANE = context.User("jane", groups=("makers",))
ROBOT = context.User("system:serviceaccount:team:robot", groups=("system:serviceaccounts",))


@pytest.mark.parametrize(
    ("granted", "user", "allowed"),
    [
        (subject("User", "jane"), JANE, True),
        (subject("User", "Jane"), JANE, False),
        (subject("User", "makers"), JANE, False),
        (subject("User", "*"), JANE, False),
        (subject("Group", "makers"), JANE, True),
        (subject("Group", "jane"), JANE, False),
        (subject("Group", "*"), JANE, False),
        (subject("Robot", "jane"), JANE, False),
        (subject("Robot", "robot", "team"), ROBOT, False),
        (subject("User", "system:serviceaccount:team:robot"), ROBOT, True),
        (subject("ServiceAccount", "robot", "team"), ROBOT, True),
        (subject("ServiceAccount", "robot", "other"), ROBOT, False),
        (subject("ServiceAccount", "robot"), ROBOT, False),
        (subject("ServiceAccount", "jane", "team"), JANE, False),
        (subject("User", "g:makers"), JANE, False),
        (subject("Group", "u:jane"), JANE, False),
    ],
)
async def test_a_cluster_role_binding_grants_to_its_subjects_only(granted, user, allowed):
    """A user by name, a group by membership, a service account by namespace and name; no subject is a pattern."""
    objects = role("reader", READ), binding("b", "ClusterRole/reader", subject("User", "other"), granted)
    async with rbaccluster.running(*objects) as cluster:
        assert cluster.decide(user).allowed is allowed


@pytest.mark.parametrize(
    ("granted", "allowed"),
    [
        (subject("ServiceAccount", "robot"), True),
        (subject("ServiceAccount", "robot", "team"), True),
        (subject("ServiceAccount", "robot", "other"), False),
    ],
)
async def test_a_role_binding_implies_the_namespace_of_a_service_account(granted, allowed):
    """A subject without a namespace is an account in the namespace of the binding; with one, in that one."""
    objects = role("reader", READ), binding("b", "ClusterRole/reader", granted, namespace="team")
    async with rbaccluster.running(*objects) as cluster:
        assert cluster.decide(ROBOT, namespace="team").allowed is allowed


async def test_an_account_of_another_namespace_can_be_bound():
    """The binding grants in its own namespace, to the account of the namespace in the subject."""
    granted = subject("ServiceAccount", "robot", "team")
    objects = role("reader", READ), binding("b", "ClusterRole/reader", granted, namespace="shared")
    async with rbaccluster.running(*objects) as cluster:
        assert cluster.decide(ROBOT, namespace="shared").allowed
        assert not cluster.decide(ROBOT, namespace="team").allowed
        assert not cluster.decide(context.User("system:serviceaccount:shared:robot"), namespace="shared").allowed


async def test_a_role_binding_grants_in_its_namespace_only():
    """Neither in another namespace, nor cluster-wide, nor on paths, although the ClusterRole has more."""
    objects = (
        role("reader", READ, PATHS),
        binding("b", "ClusterRole/reader", subject("User", "jane"), namespace="team"),
    )
    async with rbaccluster.running(*objects) as cluster:
        assert cluster.decide(JANE, namespace="team").allowed
        assert not cluster.decide(JANE, namespace="other").allowed
        assert not cluster.decide(JANE).allowed
        for namespace in ("", "team"):
            assert not cluster.decide(JANE, namespace=namespace, path="/things", is_resource=False).allowed


async def test_a_cluster_role_binding_grants_in_every_namespace():
    """And cluster-wide, also where a namespace has bindings of its own."""
    objects = (
        role("reader", READ, PATHS),
        binding("b", "ClusterRole/reader", subject("User", "jane")),
        binding("b", "ClusterRole/reader", subject("User", "other"), namespace="team"),
    )
    async with rbaccluster.running(*objects) as cluster:
        for namespace in ("", "team", "empty"):
            assert cluster.decide(JANE, namespace=namespace).allowed
        assert cluster.decide(JANE, path="/things", is_resource=False).allowed


async def test_roles_are_told_apart_by_kind_and_namespace():
    """A role of the same name in another namespace, or of the other kind, is not the one that was bound."""
    objects = (
        role("r", PATHS),
        role("r", READ, namespace="a"),
        role("r", WRITE, namespace="b"),
        *(binding("b", "Role/r", subject("User", "jane"), namespace=namespace) for namespace in ("a", "b", "c")),
        binding("cluster", "ClusterRole/r", subject("User", "jane"), namespace="a"),
    )
    async with rbaccluster.running(*objects) as cluster:
        verbs = ("get", "update")
        allowed = {
            namespace: [verb for verb in verbs if cluster.decide(JANE, verb, namespace).allowed] for namespace in "abc"
        }
        assert allowed == {"a": ["get"], "b": ["update"], "c": []}


async def test_masters_are_allowed_everything_without_any_role():
    """By the group, not by a user of that name."""
    async with rbaccluster.running() as cluster:
        assert cluster.decide(context.User("x", groups=("a", authorization.MASTERS))).allowed
        assert not cluster.decide(context.User(authorization.MASTERS)).allowed


async def test_an_allowed_request_names_the_binding():
    """With the subject that matched, as the audit log reports it."""
    objects = (
        role("reader", READ),
        binding("one", "ClusterRole/reader", subject("Group", "makers")),
        binding("two", "ClusterRole/reader", subject("ServiceAccount", "robot"), namespace="team"),
    )
    async with rbaccluster.running(*objects) as cluster:
        assert cluster.decide(JANE).reason == (
            'RBAC: allowed by ClusterRoleBinding "one" of ClusterRole "reader" to Group "makers"'
        )
        assert cluster.decide(ROBOT, namespace="team").reason == (
            'RBAC: allowed by RoleBinding "two/team" of ClusterRole "reader" to ServiceAccount "robot/team"'
        )


async def test_a_missing_role_grants_nothing_and_hides_no_other():
    """A refusal names each missing role once; a role that exists is still used."""
    lost = (
        binding("a", "ClusterRole/lost", subject("User", "jane")),
        binding("b", "ClusterRole/lost", subject("Group", "makers")),
        binding("c", "Role/gone", subject("User", "jane"), namespace="team"),
    )
    reader = role("reader", READ), binding("d", "ClusterRole/reader", subject("User", "jane"))
    async with rbaccluster.running(*lost, *reader) as cluster:
        assert cluster.decide(JANE).allowed
        cluster_role = 'clusterrole.rbac.authorization.k8s.io "lost" not found'
        assert cluster.decide(JANE, "update") == authorization.Decision(False, f"RBAC: {cluster_role}")
        assert cluster.decide(JANE, "update", "team") == authorization.Decision(
            False, f'RBAC: [{cluster_role}, role.rbac.authorization.k8s.io "gone" not found]'
        )
        assert cluster.decide(ROBOT, "update") == authorization.Decision(False)
        rules, missing = cluster.authorizer.rules_for(JANE, "team")
        assert rules == [READ]
        assert [ref.name for ref in missing] == ["lost", "lost", "gone"]


async def test_every_change_takes_effect_at_once():
    """Of roles and of bindings, by creation, update and deletion."""
    reader, granted = role("reader", READ), binding("b", "ClusterRole/reader", subject("User", "jane"))
    local, local_binding = (
        role("local", READ, namespace="team"),
        binding("b", "Role/local", subject("User", "jane"), namespace="team"),
    )
    async with rbaccluster.running() as cluster:

        def allowed(namespace=""):
            return [verb for verb in ("get", "update") if cluster.decide(JANE, verb, namespace).allowed]

        assert allowed() == []
        await cluster.write(granted)
        assert allowed() == []
        await cluster.write(reader)
        assert allowed() == ["get"]
        await cluster.write(role("reader", WRITE))
        assert allowed() == ["update"]
        await cluster.write(local_binding)
        await cluster.write(local)
        assert allowed("team") == ["get", "update"]
        await cluster.write(role("local", namespace="team"))
        assert allowed("team") == ["update"]
        await cluster.write(local)
        await cluster.delete(granted)
        assert (allowed(), allowed("team")) == ([], ["get"])
        await cluster.delete(local)
        assert allowed("team") == []


async def test_the_rules_of_a_user_are_those_of_the_namespace_and_of_the_cluster():
    """Without a namespace only the cluster-wide ones."""
    objects = (
        role("reader", READ),
        role("writer", WRITE, namespace="team"),
        binding("a", "ClusterRole/reader", subject("Group", "makers")),
        binding("b", "Role/writer", subject("User", "jane"), namespace="team"),
    )
    async with rbaccluster.running(*objects) as cluster:
        assert cluster.authorizer.rules_for(JANE, "") == ([READ], [])
        assert cluster.authorizer.rules_for(JANE, "team") == ([READ, WRITE], [])
        assert cluster.authorizer.rules_for(ROBOT, "team") == ([], [])


@pytest.mark.parametrize(
    ("kind", "name", "namespace", "message"),
    [
        ("ClusterRole", "gone", "", 'clusterroles.rbac.authorization.k8s.io "gone" not found'),
        ("ClusterRole", "local", "team", 'clusterroles.rbac.authorization.k8s.io "local" not found'),
        ("Role", "local", "other", 'roles.rbac.authorization.k8s.io "local" not found'),
        ("Role", "reader", "team", 'roles.rbac.authorization.k8s.io "reader" not found'),
    ],
)
async def test_the_rules_of_a_role_that_does_not_exist(kind, name, namespace, message):
    """NotFound, also if the other kind or another namespace has a role of that name."""
    async with rbaccluster.running(role("reader", READ), role("local", READ, namespace="team")) as cluster:
        with pytest.raises(errors.NotFound) as caught:
            cluster.authorizer.role_rules(rbac.RoleRef(rbac.GROUP, kind, name), namespace)
        assert caught.value.message == message


@pytest.mark.parametrize(
    ("attributes", "reason", "message"),
    [
        (
            {"group": "g", "resource": "things", "name": "a"},
            "",
            'things.g "a" is forbidden: User "jane" cannot get resource "things" in API group "g" at the cluster scope',
        ),
        (
            {"group": "", "resource": "pods", "subresource": "log", "namespace": "team"},
            "RBAC: x",
            (
                'pods is forbidden: User "jane" cannot get resource "pods/log" in API group "" '
                'in the namespace "team": RBAC: x'
            ),
        ),
        (
            {"group": "<g>", "resource": "a&b", "namespace": "'n'"},
            "<kept>",
            (
                'a&b.<g> is forbidden: User "jane" cannot get resource "a&amp;b" in API group "&lt;g&gt;" '
                "in the namespace \"'n'\": <kept>"
            ),
        ),
        ({"path": "/<x>", "is_resource": False}, "", 'forbidden: User "jane" cannot get path "/&lt;x&gt;"'),
        ({"path": "/x", "is_resource": False}, "why", 'forbidden: User "jane" cannot get path "/x": why'),
    ],
)
def test_refusals_have_the_texts_of_kube_apiserver(attributes, reason, message):
    """What the client chose is escaped for HTML, except for quotes; a reason is not escaped."""
    refusal = authorization.refusal(context.Attributes(JANE, "get", **attributes), reason)
    assert (refusal.code, refusal.message) == (403, message)
