"""How the default roles and bindings are kept."""

from __future__ import annotations

from certplane.access import defaults
from certplane.resources import rbac


def _rule(*verbs, resource="pods"):
    return rbac.PolicyRule(verbs=list(verbs), api_groups=[""], resources=[resource])


def _role(*rules, **annotations):
    made = rbac.ClusterRole(rules=list(rules))
    made.metadata.name = "r"
    made.metadata.annotations = annotations
    return made


def _binding(*users, role="r"):
    subjects = [rbac.Subject(kind="User", api_group=rbac.GROUP, name=each) for each in users]
    return rbac.ClusterRoleBinding(subjects=subjects, role_ref=rbac.RoleRef(rbac.GROUP, "ClusterRole", role))


def test_what_is_missing_is_added_right_by_right_and_what_was_added_stays():
    """Each right that no rule gives becomes a rule of its own, behind those that are there."""
    new = defaults.reconciled(_role(_rule("get", "delete")), _role(_rule("get", "list", "watch")))
    assert new.rules == [_rule("get", "delete"), _rule("list"), _rule("watch")]
    assert defaults.reconciled(new, _role(_rule("get", "list", "watch"))) is None


def test_labels_and_annotations_are_added_and_never_overwritten():
    """Somebody chose the value that is there."""
    default = _role(_rule("get"), a="1", b="2")
    assert defaults.reconciled(_role(_rule("get"), a="mine"), default).metadata.annotations == {"a": "mine", "b": "2"}


def test_what_is_marked_as_somebodys_own_is_left_alone():
    """However incomplete it is."""
    kept = _role(**{defaults.AUTOUPDATE: "false"})
    assert defaults.reconciled(kept, _role(_rule("get"))) is None


def test_subjects_are_added_and_another_role_is_bound_anew():
    """A binding of another role comes back as the default's, for its role cannot be changed."""
    assert defaults.reconciled(_binding("mine"), _binding("jane")).subjects == _binding("mine", "jane").subjects
    assert defaults.reconciled(_binding("jane", role="other"), _binding("jane")).role_ref.name == "r"
    assert defaults.reconciled(_binding("jane", "mine"), _binding("jane")) is None


def test_events_are_granted_in_both_of_their_groups_by_one_rule():
    """As the roles of a cluster list them."""
    found = {each.object.metadata.name: each.object for each in defaults.wanted() if each.plural == "clusterroles"}
    for name in ("view", "edit"):
        rules = [each for each in found[f"system:aggregate-to-{name}"].rules if "events" in each.resources]
        assert [each.api_groups for each in rules] == [["", "events.k8s.io"]]


def test_the_rules_of_nodes_have_one_order_whichever_kinds_are_served():
    """Or a role would look changed after a restart."""
    optional = ("podcertificaterequests", "clustertrustbundles")
    for kinds in (set(optional), optional, optional[::-1]):
        resources = [each.resources for each in defaults.node_rules(kinds)[-3:]]
        assert resources == [["clustertrustbundles"], ["serviceaccounts"], ["podcertificaterequests"]]
    assert defaults.node_rules(())[-1].resources == ["serviceaccounts"]
