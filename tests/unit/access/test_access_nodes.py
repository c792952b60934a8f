"""The node authorizer."""

from __future__ import annotations

import pytest

from certplane.access import nodes
from certplane.meta import context, selectors


@pytest.mark.parametrize(
    ("name", "groups", "expected"),
    [
        ("system:node:n1", ("system:nodes",), True),
        ("system:node:n1", ("system:authenticated",), False),
        ("n1", ("system:nodes",), False),
        ("system:nodes:n1", ("system:nodes",), False),
        ("system:bootstrap:abc", ("system:nodes",), False),
    ],
)
def test_a_node_has_the_name_prefix_and_the_group(name, groups, expected):
    """A user with only one of them is no node."""
    assert nodes.is_node(context.User(name, groups=groups)) is expected


class EmptyCollection:
    """A collection without entries."""

    def subscribe(self, callback):
        pass

    def list(self):
        return [], 0


def _authorizer(*kinds):
    return nodes.Authorizer(lambda _: EmptyCollection(), lambda _: None, lambda *_: None, kinds)


NODE = context.User("system:node:n1", groups=("system:nodes",))


@pytest.mark.parametrize(
    ("verb", "group", "resource", "namespace", "name", "reason"),
    [
        ("get", "coordination.k8s.io", "leases", "kube-node-lease", "n1", None),
        ("create", "coordination.k8s.io", "leases", "kube-node-lease", "", None),
        (
            "get",
            "coordination.k8s.io",
            "leases",
            "kube-node-lease",
            "n2",
            "can only access node lease with the same name as the requesting node",
        ),
        (
            "update",
            "coordination.k8s.io",
            "leases",
            "kube-system",
            "n1",
            'can only access leases in the "kube-node-lease" system namespace',
        ),
        (
            "list",
            "coordination.k8s.io",
            "leases",
            "",
            "",
            "can only get, create, update, patch, or delete a node lease",
        ),
        ("get", "", "secrets", "ns", "s", "no relationship found between node 'n1' and this object"),
        ("list", "", "secrets", "ns", "", "No Object name found"),
        ("list", "", "configmaps", "", "", "can only read namespaced object of this type"),
        ("update", "", "configmaps", "ns", "c", "can only read resources of this type"),
        ("get", "", "serviceaccounts", "ns", "a", "no relationship found between node 'n1' and this object"),
        ("list", "", "serviceaccounts", "ns", "", "can only create tokens for individual service accounts"),
        ("create", "resource.k8s.io", "resourceslices", "", "", None),
        (
            "get",
            "resource.k8s.io",
            "resourceslices",
            "",
            "s",
            "no relationship found between node 'n1' and this object",
        ),
        (
            "deletecollection",
            "resource.k8s.io",
            "resourceslices",
            "",
            "",
            "can only list/watch/deletecollection resourceslices with nodeName field selector",
        ),
        ("create", "", "serviceaccounts/token", "ns", "a", "no relationship found between node 'n1' and this object"),
        ("get", "", "nodes", "", "n1", None),
        ("get", "", "nodes", "", "n2", "node 'n1' cannot read 'n2', only its own Node object"),
        ("list", "", "nodes", "", "", "node 'n1' cannot read all nodes, only its own Node object"),
        ("patch", "", "nodes/status", "", "n1", None),
        ("list", "", "pods", "", "", "can only list/watch pods with spec.nodeName field selector"),
        ("create", "", "pods", "ns", "", None),
        ("get", "certificates.k8s.io", "certificatesigningrequests", "", "x", None),
        ("delete", "certificates.k8s.io", "certificatesigningrequests", "", "x", ""),
    ],
)
def test_node_authorizer_decisions(verb, group, resource, namespace, name, reason):
    """A node may access its own objects; a refusal gives the reason."""
    authorizer = _authorizer()
    resource, _, subresource = resource.partition("/")
    attributes = context.Attributes(NODE, verb, group, "v1", resource, subresource, name, namespace)
    decision = authorizer.authorize(attributes)
    assert (decision.allowed, decision.reason) == (reason is None, reason or "")


@pytest.mark.parametrize(
    ("selector", "allowed"),
    [
        ("spec.nodeName=n1", True),
        ("spec.nodeName==n1,metadata.name=x", True),
        ("spec.nodeName=n2", False),
        ("spec.nodeName!=n1", False),
        ("", False),
        # A single condition on the name; its value contains the text of another one.
        (r"metadata.name!=x\,spec.nodeName\=n1", False),
    ],
)
@pytest.mark.parametrize(
    ("group", "resource"),
    [("", "pods"), ("certificates.k8s.io", "podcertificaterequests"), ("resource.k8s.io", "resourceslices")],
)
def test_a_node_lists_with_a_selector_for_itself(group, resource, selector, allowed):
    """The parsed conditions count, not the text of the selector."""
    authorizer = _authorizer("podcertificaterequests")
    field_selector = selectors.parse_fields(selector)
    attributes = context.Attributes(NODE, "list", group, "v1", resource, field_selector=field_selector)
    assert authorizer.authorize(attributes).allowed is allowed


@pytest.mark.parametrize(("verb", "resource"), [("create", "podcertificaterequests"), ("get", "clustertrustbundles")])
def test_permissions_on_optional_kinds_depend_on_the_served_kinds(verb, resource):
    """If a kind is not served, the refusal has no reason."""
    attributes = context.Attributes(NODE, verb, "certificates.k8s.io", "v1beta1", resource, namespace="ns", name="x")
    assert _authorizer(resource).authorize(attributes).allowed
    assert _authorizer().authorize(attributes).reason == ""
    assert not _authorizer().authorize(attributes).allowed
