"""From a request to a certificate, and every other outcome of a request."""

from __future__ import annotations

import datetime
import re

import pytest

from certplane import errors, signernames, testing
from certplane.controllers.signing import signer
from certplane.meta import context
from certplane.resources import certificatesigningrequests as csrs
from certplane.store import memory
from certplane.x509.issuance import profiles
from tests.flow import plane as flow


async def test_an_approved_request_is_issued():
    """The certificate is in the status, with the requested lifetime."""
    async with flow.running() as plane:
        client = plane.client(flow.ADMIN)
        await client.create(csrs.RESOURCE, flow.new_csr(expiration_seconds=600))
        await flow.decide(client, "a")
        certificate = await flow.issued(client, "a")
        now = plane.clock.now()
        assert certificate.not_valid_after_utc == now + datetime.timedelta(seconds=600)
        assert certificate.not_valid_before_utc == now - datetime.timedelta(minutes=5)


@pytest.mark.parametrize("decision", [None, csrs.DENIED])
async def test_nothing_is_issued_without_approval(decision):
    """A pending and a denied request have no certificate, however long they wait."""
    async with flow.running() as plane:
        client = plane.client(flow.ADMIN)
        await client.create(csrs.RESOURCE, flow.new_csr())
        if decision:
            await flow.decide(client, "a", decision)
        await plane.clock.advance(3000)
        assert (await client.get(csrs.RESOURCE, "a")).status.certificate == b""


async def test_the_requestor_is_the_authenticated_user():
    """The fields about the requestor in a request body are dropped."""
    async with flow.running() as plane:
        sent = flow.new_csr(username="root", groups=["system:masters"], uid="0", extra={"a": ["b"]})
        created = await plane.client(flow.ADMIN).create(csrs.RESOURCE, sent)
        spec = created.spec
        assert (spec.username, spec.groups, spec.uid, spec.extra) == ("admin", list(flow.ADMIN.groups), "", {})


async def test_a_request_that_the_signer_does_not_permit_fails():
    """The Failed condition has the reason."""
    async with flow.running() as plane:
        client = plane.client(flow.ADMIN)
        await client.create(csrs.RESOURCE, flow.new_csr(usages=["server auth"]))
        await flow.decide(client, "a")

        async def failed():
            csr = await client.get(csrs.RESOURCE, "a")
            return [condition for condition in csr.status.conditions if condition.type == csrs.FAILED]

        (condition,) = await flow.eventually(failed)
        assert condition.reason == "SignerValidationFailure"


async def test_a_permitted_kubelet_request_is_approved():
    """The approver recognizes a node's client request and asks RBAC."""
    async with flow.running() as plane:
        admin = plane.client(flow.ADMIN)
        await plane.bind("system:certificates.k8s.io:certificatesigningrequests:nodeclient", "system:bootstrappers")
        await plane.bind("system:node-bootstrapper", "system:bootstrappers")
        kubelet = plane.client(
            context.User("system:bootstrap:abcdef", groups=("system:bootstrappers", "system:authenticated"))
        )
        request = flow.new_csr(
            "node",
            signernames.KUBE_APISERVER_CLIENT_KUBELET,
            ["digital signature", "client auth"],
            flow.pkcs10("system:node:n1", ["system:nodes"]),
        )
        await kubelet.create(csrs.RESOURCE, request)
        certificate = await flow.issued(admin, "node")
        assert certificate.subject.rfc4514_string() == "CN=system:node:n1,O=system:nodes"


async def test_a_signer_without_a_key_leaves_requests_pending():
    """A metric has the reason."""
    signers = {name: signer.Signer(profile, problem="no key") for name, profile in profiles.BUILT_IN.items()}
    async with flow.running(signers=signers) as plane:
        client = plane.client(flow.ADMIN)
        await client.create(csrs.RESOURCE, flow.new_csr())
        await flow.decide(client, "a")
        await plane.clock.advance(60)
        assert (await client.get(csrs.RESOURCE, "a")).status.certificate == b""
        assert 'certplane_signer_ready{reason="no key"' in plane.telemetry.render().decode()


async def test_users_without_roles_are_forbidden():
    """The error has the user, the verb, the resource and the scope."""
    async with flow.running() as plane:
        with pytest.raises(errors.Forbidden) as refused:
            await plane.client(flow.JANE).list(csrs.RESOURCE)
        assert str(refused.value) == (
            'certificatesigningrequests.certificates.k8s.io is forbidden: User "jane" cannot list resource '
            '"certificatesigningrequests" in API group "certificates.k8s.io" at the cluster scope'
        )


async def test_old_requests_are_deleted():
    """Issued requests are deleted after an hour, undecided ones after a day."""
    async with flow.running() as plane:
        client = plane.client(flow.ADMIN)
        await client.create(csrs.RESOURCE, flow.new_csr("waits"))
        await client.create(csrs.RESOURCE, flow.new_csr("done"))
        await flow.decide(client, "done")
        await flow.issued(client, "done")

        async def names():
            return [csr.metadata.name for csr in (await client.list(csrs.RESOURCE)).items]

        assert await names() == ["done", "waits"]
        for _ in range(3):
            await plane.clock.advance(3600)
        assert await names() == ["waits"]
        for _ in range(24):
            await plane.clock.advance(3600)
        assert await names() == []


async def test_controllers_wait_while_the_server_is_draining():
    """Controllers whose watches end at once wait before they retry, so that the process can stop."""
    async with flow.running() as plane:
        await testing.settle()
        plane.drain()
        await testing.settle(500)
        count = _request_count(plane)
        await testing.settle(5_000)
        assert _request_count(plane) == count
        assert len(plane.watches) == 0
        await plane.clock.advance(60)
        assert _request_count(plane) > count


def _request_count(plane):
    """The number of completed requests."""
    counts = re.findall(r"^apiserver_request_total{.*} ([0-9.e+]+)$", plane.telemetry.render().decode(), re.MULTILINE)
    return sum(map(float, counts))


async def test_approved_requests_are_issued_after_a_restart():
    """What was approved while there was no key is issued by the next process on the same store."""
    store = memory.MemoryStore()
    unconfigured = {name: signer.Signer(profile, problem="no key") for name, profile in profiles.BUILT_IN.items()}
    async with flow.running(store, signers=unconfigured) as plane:
        client = plane.client(flow.ADMIN)
        await client.create(csrs.RESOURCE, flow.new_csr())
        await flow.decide(client, "a")
    async with flow.running(store) as plane:
        await flow.issued(plane.client(flow.ADMIN), "a")


async def test_a_decision_cannot_be_removed_or_reversed():
    """A decision stays: it cannot be removed or reversed."""
    async with flow.running() as plane:
        client = plane.client(flow.ADMIN)
        await client.create(csrs.RESOURCE, flow.new_csr(signer_name="example.com/x"))
        approved = await flow.decide(client, "a")
        approved.status.conditions = []
        with pytest.raises(errors.Invalid):
            await client.update(csrs.RESOURCE, approved, "approval")
        with pytest.raises(errors.Invalid):
            await flow.decide(client, "a", csrs.DENIED)


async def test_a_node_renews_its_own_certificate():
    """Without a further binding, a node may request a certificate for its own name only, and may not approve."""
    async with flow.running() as plane:
        node = plane.client(context.User("system:node:n1", groups=("system:nodes", "system:authenticated")))
        usages = ["digital signature", "client auth"]
        pkcs10 = flow.pkcs10("system:node:n1", ["system:nodes"])
        await node.create(csrs.RESOURCE, flow.new_csr("own", signernames.KUBE_APISERVER_CLIENT_KUBELET, usages, pkcs10))
        # kubeadm's binding lets nodes renew by themselves.
        assert (await flow.issued(node, "own")).subject.rfc4514_string() == "CN=system:node:n1,O=system:nodes"
        other = flow.pkcs10("system:node:n2", ["system:nodes"])
        with pytest.raises(errors.Forbidden, match="can only create a node CSR with CN=system:node:n1"):
            await node.create(
                csrs.RESOURCE, flow.new_csr("x", signernames.KUBE_APISERVER_CLIENT_KUBELET, usages, other)
            )
        await node.create(csrs.RESOURCE, flow.new_csr("y"))
        with pytest.raises(errors.Forbidden):
            await flow.decide(node, "y")
