"""How many of something an object or a question may have, where a real server counts none; and how long a watch may
last.
"""

from __future__ import annotations

import asyncio
import json

import pytest

from certplane import errors, testing
from certplane.meta import objects
from certplane.resources import certificatesigningrequests as csrs
from certplane.resources import configmaps, namespaces, nodes, rbac
from certplane.server import exchange
from tests.flow import plane as flow

OWNER = objects.OwnerReference(api_version="v1", kind="Node", name="n", uid="u")
MANY = {
    "usages": (csrs.RESOURCE, flow.new_csr(usages=["any"] * 100_000), "spec.usages", 100),
    "labels": (
        configmaps.RESOURCE,
        configmaps.ConfigMap(metadata=objects.ObjectMeta(labels={f"a{at}": "-" for at in range(1_001)})),
        "metadata.labels",
        1000,
    ),
    "finalizers": (
        configmaps.RESOURCE,
        configmaps.ConfigMap(metadata=objects.ObjectMeta(finalizers=["a"] * 100_000)),
        "metadata.finalizers",
        1000,
    ),
    "owners": (
        configmaps.RESOURCE,
        configmaps.ConfigMap(
            metadata=objects.ObjectMeta(
                owner_references=[
                    objects.OwnerReference(api_version="v1", kind="Node", name="n", uid=f"u{at}") for at in range(2_000)
                ]
            )
        ),
        "metadata.ownerReferences",
        1000,
    ),
    "networks": (nodes.RESOURCE, nodes.Node(spec=nodes.NodeSpec(pod_cidrs=["a"] * 101)), "spec.podCIDRs", 100),
    "taints": (
        nodes.RESOURCE,
        nodes.Node(spec=nodes.NodeSpec(taints=[nodes.Taint()] * 1_001)),
        "metadata.taints",
        1000,
    ),
    "finalizers of a namespace": (
        namespaces.RESOURCE,
        namespaces.Namespace(spec=namespaces.NamespaceSpec(finalizers=["a"] * 1_001)),
        "spec.finalizers",
        1000,
    ),
    "selectors": (
        rbac.CLUSTER_ROLES,
        rbac.ClusterRole(aggregation_rule=rbac.AggregationRule(cluster_role_selectors=[objects.LabelSelector()] * 101)),
        "aggregationRule.clusterRoleSelectors",
        100,
    ),
    "labels of a selector": (
        rbac.CLUSTER_ROLES,
        rbac.ClusterRole(
            aggregation_rule=rbac.AggregationRule(
                cluster_role_selectors=[objects.LabelSelector(match_labels={f"a{at}": "b" for at in range(101)})]
            )
        ),
        "aggregationRule.clusterRoleSelectors[0].matchLabels",
        100,
    ),
}


@pytest.mark.parametrize("field", MANY)
async def test_more_than_anybody_needs_is_refused_by_its_number(field):
    """Nothing else is validated or reported."""
    kind, obj, path, most = MANY[field]
    obj.metadata.name = "a"
    async with flow.running() as plane:
        with pytest.raises(errors.Invalid) as refused:
            await plane.client(flow.ADMIN).create(kind, obj, "default" if kind.namespaced else "")
    causes = [cause for cause in refused.value.details["causes"] if cause["field"] == path]
    assert {cause["reason"] for cause in causes} == {"FieldValueTooMany"}
    assert f"must have at most {most} items" in refused.value.message
    assert len(refused.value.message) < 1_000


async def _asked(plane, method, path, body=b"", **headers):
    async def chunks():
        yield body

    fields = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    path, _, query = path.partition("?")
    request = exchange.Request(method, path, query, exchange.Headers(fields), chunks, identity=flow.ADMIN)
    return await flow.assembled(plane)(request)


async def test_a_length_that_no_number_has_is_too_large():
    """Nor is a length with other digits than ASCII."""
    async with flow.running() as plane:
        target = "/api/v1/namespaces/default/configmaps"
        assert (await _asked(plane, "POST", target, b"{}", content_length="9" * 5_000)).status == 413
        assert (await _asked(plane, "POST", target, b"{}", content_length="2")).status == 422


async def test_what_kubectl_had_applied_may_be_anything():
    """The annotation is the user's text: an unreadable one is ignored."""
    target = "/api/v1/namespaces/default/configmaps"
    annotations = {"kubectl.kubernetes.io/last-applied-configuration": "[" * 100_000}
    document = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}}
    obj = {**document, "metadata": {"name": "a", "annotations": annotations}}
    async with flow.running() as plane:
        assert (await _asked(plane, "POST", target, json.dumps(obj).encode())).status == 201
        applied = {**document, "data": {"b": "c"}}
        reply = await _asked(
            plane, "PATCH", f"{target}/a?fieldManager=kubectl", json.dumps(applied).encode(),
            content_type="application/apply-patch+yaml",
        )  # fmt: skip
        assert reply.status == 200


async def test_a_watch_lasts_an_hour_at_the_most():
    """Longer timeouts are shortened, and the watch ends as if the shorter one had been requested."""
    clock = testing.FakeClock()
    async with flow.running(clock=clock) as plane:
        reply = await _asked(plane, "GET", "/api/v1/namespaces?watch=1&timeoutSeconds=9223372036854775807")

        async def read():
            return [piece async for piece in reply.stream]

        reader = asyncio.ensure_future(read())
        for _ in range(3_599):
            await clock.advance(1)
        assert not reader.done()
        await clock.advance(1)
        await asyncio.wait_for(reader, 5)


@pytest.mark.parametrize(
    ("method", "target", "media_type"),
    [
        ("POST", "", "application/json"),
        ("POST", "", "application/yaml"),
        ("PUT", "/a", "application/json"),
        ("PATCH", "/a", "application/merge-patch+json"),
        ("PATCH", "/a", "application/strategic-merge-patch+json"),
        ("PATCH", "/a?fieldManager=b&force=1", "application/apply-patch+yaml"),
    ],
)
async def test_large_bodies_leave_the_loop_to_others(method, target, media_type):
    """Its sender waits for it, while other clients are served."""
    path = "/api/v1/namespaces/default/configmaps"
    small = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}}
    large = json.dumps({**small, "data": {f"k{at}": "v" for at in range(20_000)}}).encode()
    async with flow.running() as plane:
        if method != "POST":
            assert (await _asked(plane, "POST", path, json.dumps(small).encode())).status == 201
        task = asyncio.ensure_future(_asked(plane, method, path + target, large, content_type=media_type))
        turns = 0
        while not task.done():
            await asyncio.sleep(0)
            turns += 1
        assert (await task).status in (200, 201)
    # Without a thread it takes as many turns of the event loop as the store does.
    assert turns > 100


async def test_large_questions_leave_the_loop_to_others():
    """Large documents are validated in the thread, too."""
    review = {"spec": {"resourceAttributes": {"labelSelector": {"requirements": [{"key": "\x01" * 400_000}]}}}}
    async with flow.running() as plane:
        path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
        task = asyncio.ensure_future(_asked(plane, "POST", path, json.dumps(review).encode()))
        turns = 0
        while not task.done():
            await asyncio.sleep(0)
            turns += 1
        assert (await task).status == 422
    assert turns > 100
