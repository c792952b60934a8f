"""Nodes register themselves, and say something about nobody else."""

from __future__ import annotations

import pytest

from certplane import errors
from certplane.meta import context
from certplane.resources import nodes
from tests.flow import plane as flow

KUBELET = context.User("system:node:n1", groups=("system:nodes", "system:authenticated"))


def _node(name="n1", **spec):
    made = nodes.Node(spec=nodes.NodeSpec(**spec))
    made.metadata.name = name
    made.status.addresses = [nodes.NodeAddress(type="InternalIP", address="10.0.0.1")]
    made.status.capacity = {"cpu": "4"}
    return made


async def test_a_kubelet_registers_and_reports():
    """The status comes with the creation, and later through its own door only."""
    async with flow.running() as plane:
        kubelet = plane.client(KUBELET)
        made = await kubelet.create(nodes.RESOURCE, _node())
        assert made.status.addresses[0].address == "10.0.0.1"
        made.status.conditions = [nodes.NodeCondition(type="Ready", status="True")]
        made.status.capacity = {"memory": "1024Ki"}
        reported = await kubelet.update(nodes.RESOURCE, made, "status")
        assert reported.status.conditions[0].type == "Ready"
        assert reported.status.capacity == {"memory": "1Mi"}
        reported.status.addresses = []
        kept = await kubelet.update(nodes.RESOURCE, reported)
        assert kept.status.addresses[0].address == "10.0.0.1"


async def test_a_kubelet_says_nothing_about_others():
    """Not another node, not its own taints, no label that others judge it by."""
    async with flow.running() as plane:
        kubelet, admin = plane.client(KUBELET), plane.client(flow.ADMIN)
        with pytest.raises(errors.Forbidden, match='node "n1" is not allowed to modify node "n2"'):
            await kubelet.create(nodes.RESOURCE, _node("n2"))
        trusted = _node()
        trusted.metadata.labels = {"node-restriction.kubernetes.io/trusted": "yes"}
        with pytest.raises(errors.Forbidden, match="not allowed to set the following labels: node-restriction"):
            await kubelet.create(nodes.RESOURCE, trusted)
        own = _node()
        own.metadata.labels = {"kubernetes.io/hostname": "n1", "example.com/rack": "7", "node.kubernetes.io/x": "y"}
        made = await kubelet.create(nodes.RESOURCE, own)
        made.spec.taints = [nodes.Taint(key="a", effect="NoSchedule")]
        with pytest.raises(errors.Forbidden, match="not allowed to modify taints"):
            await kubelet.update(nodes.RESOURCE, made)
        await admin.create(nodes.RESOURCE, _node("n2"))
        with pytest.raises(errors.Forbidden):
            await kubelet.update(nodes.RESOURCE, await kubelet.get(nodes.RESOURCE, "n2"), "status")
        with pytest.raises(errors.Forbidden):
            await kubelet.delete(nodes.RESOURCE, "n1")


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ({"taints": [nodes.Taint(key="a b", effect="NoSchedule")]}, r"spec\.taints\[0\]\.key"),
        ({"taints": [nodes.Taint(key="a", effect="Never")]}, 'effect: Unsupported value: "Never"'),
        ({"taints": [nodes.Taint(key="a")]}, "effect: Required value"),
        ({"taints": [nodes.Taint(key="a", effect="NoExecute")] * 2}, "unique by key and effect"),
        ({"pod_cidrs": ["10.0.0.0/33"]}, "must be a valid CIDR"),
    ],
)
async def test_a_node_that_cannot_be_is_refused(spec, problem):
    """With the field and the reason."""
    async with flow.running() as plane:
        with pytest.raises(errors.Invalid, match=problem):
            await plane.client(flow.ADMIN).create(nodes.RESOURCE, _node(**spec))


async def test_where_a_node_came_from_is_said_once():
    """Its provider's name and its pods' addresses do not change."""
    async with flow.running() as plane:
        client = plane.client(flow.ADMIN)
        made = await client.create(nodes.RESOURCE, _node(provider_id="x://1", pod_cidr="10.1.0.0/24"))
        assert made.spec.pod_cidrs == ["10.1.0.0/24"]
        made.spec.provider_id, made.spec.pod_cidr, made.spec.pod_cidrs = "x://2", "10.2.0.0/24", ["10.2.0.0/24"]
        with pytest.raises(errors.Invalid, match=r"may not change podCIDR.*may not change providerID"):
            await client.update(nodes.RESOURCE, made)
