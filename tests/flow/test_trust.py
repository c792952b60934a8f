"""The optional kinds: ClusterTrustBundle and PodCertificateRequest."""

from __future__ import annotations

import pytest

from certplane import errors, resources
from certplane.meta import context
from certplane.resources import clustertrustbundles as bundles
from certplane.resources import nodes, rbac
from certplane.resources import podcertificaterequests as pcrs
from tests.flow import plane as flow

NODE = context.User("system:node:n1", groups=("system:nodes", "system:authenticated"))
SIGNER = "example.com/pods"


def _running():
    return flow.running(kinds=(*resources.DEFAULT, *resources.OPTIONAL))


async def _grant(plane, verbs, resource, names=()):
    """Grant Jane some verbs on a resource of certificates.k8s.io."""
    rule = rbac.PolicyRule(
        verbs=verbs, api_groups=["certificates.k8s.io"], resources=[resource], resource_names=list(names)
    )
    await plane.grant_rules(flow.JANE, rule)


async def test_a_bundle_is_served_in_two_versions():
    """A bundle that is created as v1beta1 can be read and changed as v1, and the reverse."""
    async with _running() as plane:
        client = plane.client(flow.ADMIN)
        await client.create(bundles.RESOURCE, flow.trust_bundle())
        bundle = await client.get(bundles.RESOURCE_V1, "roots")
        assert bundle.api_version == "certificates.k8s.io/v1"
        bundle.metadata.labels = {"a": "b"}
        await client.update(bundles.RESOURCE_V1, bundle)
        again = await client.get(bundles.RESOURCE, "roots")
        assert (again.api_version, again.metadata.labels) == ("certificates.k8s.io/v1beta1", {"a": "b"})
        assert again.metadata.uid == bundle.metadata.uid


async def test_a_bundle_of_a_signer_requires_attest():
    """Permission to create bundles is not sufficient for bundles of a signer; changing finalizers needs no such
    permission.
    """
    async with _running() as plane:
        admin, jane = plane.client(flow.ADMIN), plane.client(flow.JANE)
        await _grant(plane, ["create", "get", "update"], "clustertrustbundles")
        with pytest.raises(errors.Forbidden, match=r'not permitted to attest for signerName "example\.com/pods"'):
            await jane.create(bundles.RESOURCE, flow.trust_bundle("example.com:pods:a", SIGNER))
        await jane.create(bundles.RESOURCE, flow.trust_bundle())
        await admin.create(bundles.RESOURCE, flow.trust_bundle("example.com:pods:a", SIGNER))
        kept = await jane.get(bundles.RESOURCE, "example.com:pods:a")
        kept.metadata.finalizers = ["example.com/keep"]
        kept = await jane.update(bundles.RESOURCE, kept)
        kept.metadata.labels = {"a": "b"}
        with pytest.raises(errors.Forbidden):
            await jane.update(bundles.RESOURCE, kept)
        await _grant(plane, ["attest"], "signers", [SIGNER])
        await jane.update(bundles.RESOURCE, kept)


async def test_the_status_of_a_pod_request_requires_sign():
    """Without permission to sign for the signer, the response is a 422."""
    async with _running() as plane:
        admin, jane = plane.client(flow.ADMIN), plane.client(flow.JANE)
        await admin.create(pcrs.RESOURCE, flow.pod_request(), "default")
        await _grant(plane, ["get", "update"], "podcertificaterequests/status")
        await _grant(plane, ["get"], "podcertificaterequests")
        request = await jane.get(pcrs.RESOURCE, "r", "default")
        assert request.spec.max_expiration_seconds == 86400
        now = "2026-01-01T00:00:00Z"
        denied = pcrs.objects.Condition(type=pcrs.DENIED, status="True", reason="No", last_transition_time=now)
        request.status.conditions = [denied]
        with pytest.raises(errors.Invalid, match=r'"jane" is not permitted to "sign" for signer "example\.com/pods"'):
            await jane.update(pcrs.RESOURCE, request, "status")
        await _grant(plane, ["sign"], "signers", ["example.com/*"])
        await jane.update(pcrs.RESOURCE, request, "status")
        answered = await admin.get(pcrs.RESOURCE, "r", "default")
        answered.status.conditions = []
        with pytest.raises(errors.Invalid, match="immutable after PodCertificateRequest is issued"):
            await admin.update(pcrs.RESOURCE, answered, "status")


async def test_a_node_creates_requests_for_its_own_pods_only():
    """A request for another node is refused; one with an unknown node or pod, or another UID of the node, gets an error
    and can be retried.
    """
    async with _running() as plane:
        admin, node = plane.client(flow.ADMIN), plane.client(NODE)
        with pytest.raises(errors.Forbidden, match='not the requesting node "n1"'):
            await node.create(pcrs.RESOURCE, flow.pod_request("n2"), "default")
        with pytest.raises(errors.UnknownReasonError, match=r'while retrieving node "n1" .* node "n1" not found'):
            await node.create(pcrs.RESOURCE, flow.pod_request(), "default")
        machine = nodes.Node()
        machine.metadata.name = "n1"
        uid = (await admin.create(nodes.RESOURCE, machine)).metadata.uid
        with pytest.raises(errors.UnknownReasonError, match=rf'names node UID ".*", inconsistent .* \("{uid}"\)'):
            await node.create(pcrs.RESOURCE, flow.pod_request(), "default")
        request = flow.pod_request()
        request.spec.node_uid = uid
        with pytest.raises(errors.UnknownReasonError, match=r'while retrieving pod "default/p" .* pod "p" not found'):
            await node.create(pcrs.RESOURCE, request, "default")
        with pytest.raises(errors.Forbidden, match="with nodeName field selector"):
            await node.list(pcrs.RESOURCE)


async def test_a_node_reads_the_requests_of_its_own_pods_only():
    """A node cannot read requests of another node."""
    async with _running() as plane:
        admin, node = plane.client(flow.ADMIN), plane.client(NODE)
        await admin.create(pcrs.RESOURCE, flow.pod_request(), "default")
        other = flow.pod_request("n2")
        other.metadata.name = "other"
        await admin.create(pcrs.RESOURCE, other, "default")
        assert (await node.get(pcrs.RESOURCE, "r", "default")).spec.node_name == "n1"
        with pytest.raises(errors.Forbidden, match="no relationship found"):
            await node.get(pcrs.RESOURCE, "other", "default")


async def test_optional_kinds_are_disabled_by_default():
    """Without --runtime-config, the resource is not found, as in Kubernetes 1.36."""
    async with flow.running() as plane:
        with pytest.raises(errors.NotFound):
            await plane.client(flow.ADMIN).list(bundles.RESOURCE)


@pytest.mark.parametrize(
    ("switches", "expected"),
    [
        ({}, []),
        (
            {"certificates.k8s.io/v1beta1": True},
            [("v1beta1", "clustertrustbundles"), ("v1beta1", "podcertificaterequests")],
        ),
        ({"certificates.k8s.io/v1beta1/clustertrustbundles": True}, [("v1beta1", "clustertrustbundles")]),
        ({"certificates.k8s.io/v1/podcertificaterequests": True}, [("v1", "podcertificaterequests")]),
        (
            {"api/all": True, "certificates.k8s.io/v1beta1": False},
            [("v1", "clustertrustbundles"), ("v1", "podcertificaterequests")],
        ),
    ],
)  # fmt: skip
def test_the_most_specific_key_of_runtime_config_counts(switches, expected):
    """A resource precedes its version, a version api/beta, and that api/all."""
    extra = resources.served(switches)[len(resources.DEFAULT) :]
    assert [(kind.version, kind.plural) for kind in extra] == expected


@pytest.mark.parametrize("switches", [{"certificates.k8s.io/v9": True}, {"v1/secrets": False}, {"v1": False}])
def test_invalid_runtime_config_is_refused(switches):
    """Unknown keys are refused, and disabling kinds that are always served."""
    with pytest.raises(errors.SetupError):
        resources.served(switches)
