"""Limits on the number of items in objects and requests, where a real API server has none, and on the duration of a
watch.
"""

from __future__ import annotations

import asyncio
import json
import threading

import pytest

from certplane import errors, offload, testing
from certplane.meta import objects
from certplane.resources import certificatesigningrequests as csrs
from certplane.resources import configmaps, namespaces, nodes, rbac
from tests.flow import plane as flow

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
async def test_too_many_items_are_refused(field):
    """The field is reported as FieldValueTooMany; its items are not validated or reported."""
    kind, obj, path, most = MANY[field]
    obj.metadata.name = "a"
    async with flow.running() as plane:
        with pytest.raises(errors.Invalid) as refused:
            await plane.client(flow.ADMIN).create(kind, obj, "default" if kind.namespaced else "")
    causes = [cause for cause in refused.value.details["causes"] if cause["field"] == path]
    assert {cause["reason"] for cause in causes} == {"FieldValueTooMany"}
    assert f"must have at most {most} items" in refused.value.message
    assert len(refused.value.message) < 1_000


async def test_an_unparsable_content_length_is_too_large():
    """A length with thousands of digits is answered with 413, before the body is read."""
    async with flow.running() as plane:
        target = "/api/v1/namespaces/default/configmaps"
        assert (await flow.respond(plane, "POST", target, b"{}", content_length="9" * 5_000)).status == 413
        assert (await flow.respond(plane, "POST", target, b"{}", content_length="2")).status == 422


async def test_an_invalid_last_applied_annotation_is_ignored():
    """The annotation is text of the user."""
    target = "/api/v1/namespaces/default/configmaps"
    annotations = {"kubectl.kubernetes.io/last-applied-configuration": "[" * 100_000}
    document = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}}
    obj = {**document, "metadata": {"name": "a", "annotations": annotations}}
    async with flow.running() as plane:
        assert (await flow.respond(plane, "POST", target, json.dumps(obj).encode())).status == 201
        applied = {**document, "data": {"b": "c"}}
        reply = await flow.respond(
            plane, "PATCH", f"{target}/a?fieldManager=kubectl", json.dumps(applied).encode(),
            content_type="application/apply-patch+yaml",
        )  # fmt: skip
        assert reply.status == 200


async def test_a_watch_lasts_at_most_one_hour():
    """Longer timeouts are shortened, and the watch ends as if the shorter one had been requested."""
    clock = testing.FakeClock()
    async with flow.running(clock=clock) as plane:
        reply = await flow.respond(plane, "GET", "/api/v1/namespaces?watch=1&timeoutSeconds=9223372036854775807")

        async def read():
            return [piece async for piece in reply.stream]

        reader = asyncio.ensure_future(read())
        await clock.advance(3_599)
        assert not reader.done()
        await clock.advance(1)
        await flow.eventually(reader.done)
        reader.result()


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
async def test_large_bodies_do_not_block_the_event_loop(method, target, media_type):
    """They are decoded in a thread: while it is busy they wait, and other requests are answered."""
    path = "/api/v1/namespaces/default/configmaps"
    small = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}}
    large = json.dumps({**small, "data": {f"k{at}": "v" for at in range(20_000)}}).encode()
    async with flow.running() as plane:
        if method != "POST":
            assert (await flow.respond(plane, "POST", path, json.dumps(small).encode())).status == 201
        request = flow.respond(plane, method, path + target, large, content_type=media_type)
        response = await _respond_after_others(plane, request)
    assert response.status in (200, 201)


async def _respond_after_others(plane, request):
    """The response to a large request, which waits for the busy thread while another request is answered."""
    may_continue = threading.Event()
    blocked = asyncio.ensure_future(offload.run(offload.INLINE_BYTES + 1, may_continue.wait, 60))
    task = asyncio.ensure_future(request)
    try:
        await testing.settle(500)
        assert not task.done()
        assert (await flow.respond(plane, "GET", "/api/v1/namespaces/default")).status == 200
    finally:
        may_continue.set()
    assert await blocked
    return await task


async def test_large_reviews_do_not_block_the_event_loop():
    """They are validated in a thread."""
    review = {"spec": {"resourceAttributes": {"labelSelector": {"requirements": [{"key": "\x01" * 400_000}]}}}}
    async with flow.running() as plane:
        path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
        response = await _respond_after_others(plane, flow.respond(plane, "POST", path, review))
    assert response.status == 422
