"""Who is a node."""

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
def test_name_and_group_make_a_node(name, groups, expected):
    """Neither alone does."""
    assert nodes.is_node(context.User(name, groups=groups)) is expected


class Nobody:
    """A collection in which nothing is."""

    def subscribe(self, callback):
        pass

    def list(self):
        return [], 0


def _authorizer(*kinds):
    return nodes.Authorizer(lambda _: Nobody(), lambda _: None, lambda *_: None, kinds)


NODE = context.User("system:node:n1", groups=("system:nodes",))


@pytest.mark.parametrize(
    ("verb", "group", "resource", "namespace", "name", "why"),
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
def test_what_a_node_may(verb, group, resource, namespace, name, why):
    """Its own, what everybody may, and for the rest it hears why not."""
    authorizer = _authorizer()
    resource, _, subresource = resource.partition("/")
    asked = context.Attributes(NODE, verb, group, "v1", resource, subresource, name, namespace)
    decision = authorizer.authorize(asked)
    assert (decision.allowed, decision.reason) == (why is None, why or "")


@pytest.mark.parametrize(
    ("selector", "allowed"),
    [
        ("spec.nodeName=n1", True),
        ("spec.nodeName==n1,metadata.name=x", True),
        ("spec.nodeName=n2", False),
        ("spec.nodeName!=n1", False),
        ("", False),
        # One condition, on the name: its value only looks as if there were a second.
        (r"metadata.name!=x\,spec.nodeName=n1", False),
        (r"metadata.name!=x\,spec.nodeName\=n1", False),
    ],
)
@pytest.mark.parametrize(
    ("group", "resource"),
    [("", "pods"), ("certificates.k8s.io", "podcertificaterequests"), ("resource.k8s.io", "resourceslices")],
)
def test_a_node_lists_what_it_selects_as_its_own(group, resource, selector, allowed):
    """By the condition itself, not by what the text of a selector contains."""
    authorizer = _authorizer("podcertificaterequests")
    try:
        selected = selectors.parse_fields(selector)
    except Exception:
        selected = selectors.EVERYTHING
    asked = context.Attributes(NODE, "list", group, "v1", resource, field_selector=selected)
    assert authorizer.authorize(asked).allowed is allowed


@pytest.mark.parametrize(("verb", "resource"), [("create", "podcertificaterequests"), ("get", "clustertrustbundles")])
def test_rights_on_optional_kinds_come_with_the_kinds(verb, resource):
    """Where they are not served, nodes have no right to them, and hear nothing about them."""
    asked = context.Attributes(NODE, verb, "certificates.k8s.io", "v1beta1", resource, namespace="ns", name="x")
    assert _authorizer(resource).authorize(asked).allowed
    assert _authorizer().authorize(asked).reason == ""
    assert not _authorizer().authorize(asked).allowed
