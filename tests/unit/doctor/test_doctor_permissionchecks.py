"""Who may approve, sign, read Secrets, and take permissions."""

from __future__ import annotations

import pytest

from certplane.access import defaults
from certplane.doctor import permissionchecks
from certplane.doctor.findings import Severity
from certplane.doctor.permissionchecks import RBACFacts
from certplane.meta.objects import ObjectMeta
from certplane.resources import rbac
from certplane.resources.rbac import PolicyRule, RoleRef, Subject

CSR = "certificates.k8s.io"
CLIENT = "kubernetes.io/kube-apiserver-client"
USER = ("User", "jane", "")
GROUP = ("Group", "ops", "")
ACCOUNT = ("ServiceAccount", "robot", "default")
UPDATE = {"api_groups": [CSR], "resources": ["certificatesigningrequests/approval"], "verbs": ["update"]}
STATUS = {"api_groups": [CSR], "resources": ["certificatesigningrequests/status"], "verbs": ["patch"]}


def signer(verb, *names):
    return {"api_groups": [CSR], "resources": ["signers"], "verbs": [verb], "resource_names": list(names)}


def granted(*rules, subject=USER, namespace="", role="role", kind="ClusterRole"):
    """One binding of one role to one subject."""
    compiled = [PolicyRule(**rule) for rule in rules]
    kind_, name, subject_namespace = subject
    who = Subject(kind=kind_, name=name, namespace=subject_namespace)
    ref = RoleRef(kind=kind, name=role)
    role_namespace = namespace if kind == "Role" else ""
    meta = ObjectMeta(name=role, namespace=role_namespace)
    roles = [rbac.Role(metadata=meta, rules=compiled)] if kind == "Role" else []
    cluster_roles = [rbac.ClusterRole(metadata=meta, rules=compiled)] if kind == "ClusterRole" else []
    bound = ObjectMeta(name="binding", namespace=namespace)
    if namespace:
        return RBACFacts(cluster_roles, (), roles, [rbac.RoleBinding(metadata=bound, role_ref=ref, subjects=[who])])
    binding = rbac.ClusterRoleBinding(metadata=bound, role_ref=ref, subjects=[who])
    return RBACFacts(cluster_roles, [binding], roles, ())


def found(facts):
    return {(f.id, f.severity.name, f.what) for f in permissionchecks.check(facts) if f.severity > Severity.OK}


def kinds(facts):
    return sorted({(id_, severity) for id_, severity, _ in found(facts)})


def default_facts():
    """The default objects of certplane, as those of Kubernetes."""
    objects = [item.object for item in defaults.default_objects()]

    def of(type_):
        return [item for item in objects if isinstance(item, type_)]

    return RBACFacts(
        of(rbac.ClusterRole), of(rbac.ClusterRoleBinding), of(rbac.Role), of(rbac.RoleBinding)
    )  # fmt: skip


def test_the_default_permissions_are_right():
    """Nothing is found in a new installation, and the defaults are not empty."""
    facts = default_facts()
    assert facts.cluster_roles
    assert facts.cluster_role_bindings
    assert found(facts) == set()


@pytest.mark.parametrize(("verb", "rule", "id_"), [("approve", UPDATE, "rbac-approve"), ("sign", STATUS, "rbac-sign")])
def test_both_permissions_are_needed(verb, rule, id_):
    """One of them alone approves and signs nothing."""
    assert kinds(granted(rule)) == []
    assert kinds(granted(signer(verb, CLIENT))) == []
    severity = "INFO" if verb == "approve" else "WARNING"
    text = f"User jane may {verb} requests for {CLIENT}, by ClusterRoleBinding binding"
    assert found(granted(rule, signer(verb, CLIENT))) == {(id_, severity, text)}


@pytest.mark.parametrize(
    ("subject", "names", "severity"),
    [
        (USER, [CLIENT], "INFO"),
        (USER, [], "WARNING"),
        (GROUP, ["example.com/*"], "INFO"),
        (ACCOUNT, [CLIENT], "WARNING"),
        (("Group", "system:serviceaccounts", ""), [CLIENT], "ERROR"),
        (("Group", "system:serviceaccounts:dev", ""), [CLIENT], "ERROR"),
        (("Group", "system:bootstrappers:kubeadm", ""), [CLIENT], "ERROR"),
        (("Group", "system:authenticated", ""), [CLIENT], "ERROR"),
        (("User", "system:anonymous", ""), [CLIENT], "ERROR"),
        (("User", "system:serviceaccounts", ""), [CLIENT], "INFO"),
    ],
)
def test_the_severity_depends_on_the_subject(subject, names, severity):
    """Groups of everybody are worse than service accounts, and these are worse than people."""
    items = found(granted(UPDATE, signer("approve", *names), subject=subject))
    assert [item[1] for item in items if item[0] == "rbac-approve"] == [severity]


@pytest.mark.parametrize(
    "subject",
    [
        ("Group", "system:masters", ""),
        ("Group", "kubeadm:cluster-admins", ""),
        ("User", "system:kube-controller-manager", ""),
        ("ServiceAccount", "certificate-controller", "kube-system"),
    ],
)
def test_administrators_and_controllers_are_left_out(subject):
    """They have these permissions by default."""
    everything = {"api_groups": ["*"], "resources": ["*"], "verbs": ["*"]}
    assert kinds(granted(everything, subject=subject)) == []


def test_permissions_from_several_bindings_are_combined():
    """One role permits to update, another to approve: both bindings are named."""
    one, two = granted(UPDATE, role="one"), granted(signer("approve", CLIENT), role="two")
    two.cluster_role_bindings[0].metadata.name = "other"
    bindings = [*one.cluster_role_bindings, *two.cluster_role_bindings]
    facts = RBACFacts([*one.cluster_roles, *two.cluster_roles], bindings)
    ((_, _, text),) = found(facts)
    assert text.endswith("by ClusterRoleBinding binding, ClusterRoleBinding other")


def test_a_role_in_a_namespace_approves_nothing():
    """Requests have no namespace."""
    assert kinds(granted(UPDATE, signer("approve"), namespace="kube-system")) == []


def test_too_many_approvers():
    """Six people are more than five."""
    facts = granted(UPDATE, signer("approve", CLIENT))
    binding = facts.cluster_role_bindings[0]
    binding.subjects = [Subject(kind="User", name=f"u{number}") for number in range(6)]
    assert ("rbac-approve", "WARNING") in kinds(facts)
    binding.subjects = binding.subjects[:5]
    assert kinds(facts) == [("rbac-approve", "INFO")]


@pytest.mark.parametrize(
    ("rule", "where", "expected"),
    [
        ({"api_groups": [""], "resources": ["secrets"], "verbs": ["get"]}, "", True),
        ({"api_groups": [""], "resources": ["secrets"], "verbs": ["list"]}, "kube-system", True),
        ({"api_groups": [""], "resources": ["secrets"], "verbs": ["get"]}, "default", False),
        ({"api_groups": [""], "resources": ["secrets"], "verbs": ["create"]}, "", False),
        ({"api_groups": [""], "resources": ["secrets"], "verbs": ["get"], "resource_names": ["one"]}, "", False),
        ({"api_groups": ["*"], "resources": ["*"], "verbs": ["get"]}, "", True),
        ({"api_groups": [""], "resources": ["configmaps"], "verbs": ["get"]}, "", False),
    ],
)
def test_who_reads_secrets(rule, where, expected):
    """All Secrets, of the cluster or of kube-system."""
    assert kinds(granted(rule, namespace=where)) == ([("rbac-secrets", "WARNING")] if expected else [])


def test_a_wildcard_grants_everything():
    """It is named as such, and so are the permissions that follow from it."""
    everything = {"api_groups": ["*"], "resources": ["*"], "verbs": ["*"]}
    assert kinds(granted(everything, subject=GROUP)) == [
        ("rbac-approve", "WARNING"),
        ("rbac-secrets", "WARNING"),
        ("rbac-sign", "WARNING"),
        ("rbac-wildcard", "WARNING"),
    ]


@pytest.mark.parametrize(
    ("group", "resource", "verb", "expected"),
    [
        ("rbac.authorization.k8s.io", "clusterroles", "bind", True),
        ("rbac.authorization.k8s.io", "clusterroles", "escalate", True),
        ("", "users", "impersonate", True),
        ("", "groups", "impersonate", True),
        ("rbac.authorization.k8s.io", "clusterroles", "get", False),
        ("", "serviceaccounts", "impersonate", False),
    ],
)
def test_who_takes_permissions(group, resource, verb, expected):
    """By binding, escalating or impersonating."""
    rule = {"api_groups": [group], "resources": [resource], "verbs": [verb]}
    assert kinds(granted(rule)) == ([("rbac-escalate", "WARNING")] if expected else [])


@pytest.mark.parametrize(("verb", "severity"), [("get", "WARNING"), ("create", "ERROR")])
@pytest.mark.parametrize("name", ["system:authenticated", "system:unauthenticated"])
def test_what_everybody_has(verb, severity, name):
    """Beyond the default roles."""
    rule = {"api_groups": [""], "resources": ["configmaps"], "verbs": [verb]}
    facts = granted(rule, subject=("Group", name, ""), namespace="default")
    assert kinds(facts) == [("rbac-everybody", severity)]
    (finding,) = (item for item in permissionchecks.check(facts) if item.severity > Severity.OK)
    assert finding.fix == ("kubectl -n default delete rolebinding binding",)


def test_a_binding_to_a_role_that_does_not_exist_grants_nothing():
    """And is no reason to fail."""
    facts = granted(UPDATE, signer("approve", CLIENT))
    assert kinds(RBACFacts((), facts.cluster_role_bindings)) == []


def test_names_in_commands_are_quoted():
    """The name of a binding may have any characters but slashes, and the command is to be pasted."""
    facts = granted(UPDATE, signer("approve"))
    facts.cluster_role_bindings[0].metadata.name = "x; rm -rf $HOME"
    (finding,) = (item for item in permissionchecks.check(facts, "--context a ") if item.severity > Severity.OK)
    assert finding.fix == ("kubectl --context a delete clusterrolebinding 'x; rm -rf $HOME'",)
