"""Nodes register themselves, and change no other objects."""

from __future__ import annotations

import pytest

from certplane import errors
from certplane.access import tokens
from certplane.config.servesettings import DEFAULTS
from certplane.meta import context
from certplane.resources import nodes, rbac, reviews, serviceaccounts
from certplane.x509 import keys
from tests.flow import plane as flow
from tests.flow.tokens import request_token

KUBELET = context.User("system:node:n1", groups=("system:nodes", "system:authenticated"))


def _node(name="n1", **spec):
    node = nodes.Node(spec=nodes.NodeSpec(**spec))
    node.metadata.name = name
    node.status.addresses = [nodes.NodeAddress(type="InternalIP", address="10.0.0.1")]
    node.status.capacity = {"cpu": "4"}
    return node


async def test_a_kubelet_registers_and_reports_its_status():
    """The status is set at creation, and later only through the subresource."""
    async with flow.running() as plane:
        kubelet = plane.client(KUBELET)
        node = await kubelet.create(nodes.RESOURCE, _node())
        assert node.status.addresses[0].address == "10.0.0.1"
        node.status.conditions = [nodes.NodeCondition(type="Ready", status="True")]
        node.status.capacity = {"memory": "1024Ki"}
        reported = await kubelet.update(nodes.RESOURCE, node, "status")
        assert reported.status.conditions[0].type == "Ready"
        assert reported.status.capacity == {"memory": "1Mi"}
        reported.status.addresses = []
        kept = await kubelet.update(nodes.RESOURCE, reported)
        assert kept.status.addresses[0].address == "10.0.0.1"


async def test_a_kubelet_cannot_change_restricted_fields():
    """It cannot change other nodes, its own taints, or restricted labels, and cannot delete its node."""
    async with flow.running() as plane:
        kubelet, admin = plane.client(KUBELET), plane.client(flow.ADMIN)
        with pytest.raises(errors.Forbidden, match='node "n1" is not allowed to modify node "n2"'):
            await kubelet.create(nodes.RESOURCE, _node("n2"))
        trusted = _node()
        trusted.metadata.labels = {"node-restriction.kubernetes.io/trusted": "yes"}
        with pytest.raises(errors.Forbidden, match="not allowed to set the following labels: node-restriction"):
            await kubelet.create(nodes.RESOURCE, trusted)
        node = _node()
        node.metadata.labels = {"kubernetes.io/hostname": "n1", "example.com/rack": "7", "node.kubernetes.io/x": "y"}
        created = await kubelet.create(nodes.RESOURCE, node)
        created.spec.taints = [nodes.Taint(key="a", effect="NoSchedule")]
        with pytest.raises(errors.Forbidden, match="not allowed to modify taints"):
            await kubelet.update(nodes.RESOURCE, created)
        await admin.create(nodes.RESOURCE, _node("n2"))
        with pytest.raises(errors.Forbidden):
            await kubelet.update(nodes.RESOURCE, await kubelet.get(nodes.RESOURCE, "n2"), "status")
        with pytest.raises(errors.Forbidden):
            await kubelet.delete(nodes.RESOURCE, "n1")


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ({"taints": [nodes.Taint(key="a b", effect="NoSchedule")]}, r"metadata\.taints\[0\]\.key"),
        ({"taints": [nodes.Taint(key="a", effect="Never")]}, 'effect: Unsupported value: "Never"'),
        ({"taints": [nodes.Taint(key="a")]}, "effect: Required value"),
        ({"taints": [nodes.Taint(key="a", effect="NoExecute")] * 2}, "unique by key and effect"),
        ({"pod_cidrs": ["10.0.0.0/33"]}, "must be a valid CIDR"),
    ],
)
async def test_an_invalid_node_is_refused(spec, problem):
    """The error has the field and the reason."""
    async with flow.running() as plane:
        with pytest.raises(errors.Invalid, match=problem):
            await plane.client(flow.ADMIN).create(nodes.RESOURCE, _node(**spec))


async def test_provider_id_and_pod_cidr_are_immutable():
    """providerID and podCIDR are immutable."""
    async with flow.running() as plane:
        client = plane.client(flow.ADMIN)
        node = await client.create(nodes.RESOURCE, _node(provider_id="x://1", pod_cidr="10.1.0.0/24"))
        assert node.spec.pod_cidrs == ["10.1.0.0/24"]
        node.spec.provider_id, node.spec.pod_cidr, node.spec.pod_cidrs = "x://2", "10.2.0.0/24", ["10.2.0.0/24"]
        with pytest.raises(errors.Invalid, match=r"may not change podCIDR.*may not change providerID"):
            await client.update(nodes.RESOURCE, node)


async def test_a_kubelet_gets_only_tokens_bound_to_pods():
    """This applies whatever other permissions it has, because other tokens would not end with a pod."""
    async with flow.running(issuer=tokens.Issuer(DEFAULTS.service_accounts, keys.generate("ECDSA-P256"))) as plane:
        rule = rbac.PolicyRule(verbs=["create"], api_groups=[""], resources=["serviceaccounts/token"])
        await plane.grant_rules(KUBELET, rule)
        kubelet = plane.client(KUBELET)

        async def ask(ref=None):
            token_request = serviceaccounts.TokenRequest(spec=serviceaccounts.TokenRequestSpec(bound_object_ref=ref))
            await request_token(kubelet, token_request, "default", "default")

        with pytest.raises(errors.Forbidden, match="node requested token not bound to a pod"):
            await ask()
        ref = serviceaccounts.BoundObjectReference(kind="Node", api_version="v1", name="n1")
        with pytest.raises(errors.Forbidden, match="node requested token not bound to a pod"):
            await ask(ref)
        ref = serviceaccounts.BoundObjectReference(kind="Pod", api_version="v1", name="p")
        with pytest.raises(errors.Forbidden, match="node requested token with a pod binding without a uid"):
            await ask(ref)
        with pytest.raises(errors.NotFound, match='pod "p" not found'):
            await ask(serviceaccounts.BoundObjectReference(kind="Pod", api_version="v1", name="p", uid="u"))


async def test_a_kubelet_cannot_register_with_a_generated_name():
    """Not with a generated name."""
    async with flow.running() as plane:
        unnamed = nodes.Node()
        unnamed.metadata.generate_name = "n1"
        with pytest.raises(errors.Forbidden, match=r'node "n1" is not allowed to modify node ""'):
            await plane.client(KUBELET).create(nodes.RESOURCE, unnamed)


async def test_a_node_user_without_a_name_is_forbidden():
    """Its permissions cannot be restricted to a node."""
    nameless = context.User("system:node:", groups=("system:nodes", "system:authenticated"))
    async with flow.running() as plane:
        with pytest.raises(errors.Forbidden) as caught:
            await plane.client(nameless).create(reviews.SELF_SUBJECT_REVIEWS, reviews.SelfSubjectReview())
        assert caught.value.message == (
            'selfsubjectreviews.authentication.k8s.io "Unknown" is forbidden: '
            'could not determine node from user "system:node:"'
        )
