"""Reconciliation of the default roles and bindings."""

from __future__ import annotations

from certplane.access import defaults
from certplane.resources import rbac


def _rule(*verbs, resource="pods"):
    return rbac.PolicyRule(verbs=list(verbs), api_groups=[""], resources=[resource])


def _role(*rules, **annotations):
    role = rbac.ClusterRole(rules=list(rules))
    role.metadata.name = "r"
    role.metadata.annotations = annotations
    return role


def _binding(*users, role="r"):
    subjects = [rbac.Subject(kind="User", api_group=rbac.GROUP, name=user) for user in users]
    return rbac.ClusterRoleBinding(subjects=subjects, role_ref=rbac.RoleRef(rbac.GROUP, "ClusterRole", role))


def test_missing_permissions_are_added_and_additions_are_kept():
    """Each missing permission becomes a rule of its own, after the existing rules."""
    updated = defaults.reconcile(_role(_rule("get", "delete")), _role(_rule("get", "list", "watch")))
    assert updated.rules == [_rule("get", "delete"), _rule("list"), _rule("watch")]
    assert defaults.reconcile(updated, _role(_rule("get", "list", "watch"))) is None


def test_labels_and_annotations_are_added_and_never_overwritten():
    """Existing values win."""
    default = _role(_rule("get"), a="1", b="2")
    assert defaults.reconcile(_role(_rule("get"), a="mine"), default).metadata.annotations == {"a": "mine", "b": "2"}


def test_objects_without_autoupdate_are_not_changed():
    """Missing permissions are not added."""
    stored = _role(**{defaults.AUTOUPDATE: "false"})
    assert defaults.reconcile(stored, _role(_rule("get"))) is None


def test_subjects_are_added_and_a_changed_role_is_restored():
    """The role of a binding is immutable, so the result has the role of the default."""
    assert defaults.reconcile(_binding("mine"), _binding("jane")).subjects == _binding("mine", "jane").subjects
    assert defaults.reconcile(_binding("jane", role="other"), _binding("jane")).role_ref.name == "r"
    assert defaults.reconcile(_binding("jane", "mine"), _binding("jane")) is None


def test_events_are_granted_in_both_of_their_groups_by_one_rule():
    """As in Kubernetes."""
    roles = {
        default.object.metadata.name: default.object
        for default in defaults.default_objects()
        if default.plural == "clusterroles"
    }
    for name in ("view", "edit"):
        rules = [rule for rule in roles[f"system:aggregate-to-{name}"].rules if "events" in rule.resources]
        assert [rule.api_groups for rule in rules] == [["", "events.k8s.io"]]


def test_node_rules_have_a_fixed_order():
    """Otherwise a role would differ after a restart."""
    optional = ("podcertificaterequests", "clustertrustbundles")
    for kinds in (set(optional), optional, optional[::-1]):
        resources = [rule.resources for rule in defaults.node_rules(kinds)[-3:]]
        assert resources == [["clustertrustbundles"], ["serviceaccounts"], ["podcertificaterequests"]]
    assert defaults.node_rules(())[-1].resources == ["serviceaccounts"]
