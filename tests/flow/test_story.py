"""From a request to a certificate, and every way in which it may end otherwise."""

from __future__ import annotations

import datetime

import pytest

from certplane import errors, testing
from certplane.controllers.signing import signer
from certplane.meta import context
from certplane.resources import certificatesigningrequests as csrs
from certplane.resources import rbac
from certplane.store import memory
from certplane.x509.issuance import profiles
from tests.flow import plane as flow


async def test_an_approved_request_is_issued():
    """Create, approve, and the certificate is in the status, for ten minutes from now."""
    async with flow.running() as plane:
        client = plane.client(flow.ADMIN)
        await client.create(csrs.RESOURCE, flow.new_csr(expiration_seconds=600))
        await flow.decide(client, "a")
        certificate = await flow.issued(client, "a")
        now = plane.clock.now()
        assert certificate.not_valid_after_utc == now + datetime.timedelta(seconds=600)
        assert certificate.not_valid_before_utc == now - datetime.timedelta(minutes=5)


@pytest.mark.parametrize("decision", [None, csrs.DENIED])
async def test_nothing_is_issued_that_nobody_approved(decision):
    """A pending and a denied request have no certificate, however long they wait."""
    async with flow.running() as plane:
        client = plane.client(flow.ADMIN)
        await client.create(csrs.RESOURCE, flow.new_csr())
        if decision:
            await flow.decide(client, "a", decision)
        await plane.clock.advance(3000)
        assert (await client.get(csrs.RESOURCE, "a")).status.certificate == b""


async def test_identity_comes_from_the_caller():
    """What a body says about who asks is dropped."""
    async with flow.running() as plane:
        sent = flow.new_csr(username="root", groups=["system:masters"], uid="0", extra={"a": ["b"]})
        created = await plane.client(flow.ADMIN).create(csrs.RESOURCE, sent)
        spec = created.spec
        assert (spec.username, spec.groups, spec.uid, spec.extra) == ("admin", list(flow.ADMIN.groups), "", {})


async def test_a_request_that_no_signer_may_sign_fails():
    """A signer says on the object why it never will."""
    async with flow.running() as plane:
        client = plane.client(flow.ADMIN)
        await client.create(csrs.RESOURCE, flow.new_csr(usages=["server auth"]))
        await flow.decide(client, "a")

        async def failed():
            csr = await client.get(csrs.RESOURCE, "a")
            return [condition for condition in csr.status.conditions if condition.type == csrs.FAILED]

        (condition,) = await flow.eventually(failed)
        assert condition.reason == "SignerValidationFailure"


async def test_a_kubelet_that_may_is_approved():
    """The approver recognises a node's client request and asks RBAC."""
    async with flow.running() as plane:
        admin = plane.client(flow.ADMIN)
        binding = rbac.ClusterRoleBinding(
            subjects=[rbac.Subject(kind="Group", api_group=rbac.GROUP, name="system:bootstrappers")],
            role_ref=rbac.RoleRef(
                api_group=rbac.GROUP,
                kind="ClusterRole",
                name="system:certificates.k8s.io:certificatesigningrequests:nodeclient",
            ),
        )
        binding.metadata.name = "bootstrap"
        await admin.create(rbac.CLUSTER_ROLE_BINDINGS, binding)
        second = rbac.ClusterRoleBinding(
            subjects=binding.subjects,
            role_ref=rbac.RoleRef(api_group=rbac.GROUP, kind="ClusterRole", name="system:node-bootstrapper"),
        )
        second.metadata.name = "bootstrappers-create"
        await admin.create(rbac.CLUSTER_ROLE_BINDINGS, second)
        kubelet = plane.client(
            context.User("system:bootstrap:abcdef", groups=("system:bootstrappers", "system:authenticated"))
        )
        request = flow.new_csr(
            "node",
            profiles.KUBE_APISERVER_CLIENT_KUBELET,
            ["digital signature", "client auth"],
            flow.pkcs10("system:node:n1", ["system:nodes"]),
        )
        await kubelet.create(csrs.RESOURCE, request)
        certificate = await flow.issued(admin, "node")
        assert certificate.subject.rfc4514_string() == "CN=system:node:n1,O=system:nodes"


async def test_without_a_key_requests_wait_and_the_reason_is_told():
    """A signer that cannot sign leaves requests approved, and says why where people look."""
    signers = {name: signer.Signer(profile, problem="no key") for name, profile in profiles.BUILT_IN.items()}
    async with flow.running(signers=signers) as plane:
        client = plane.client(flow.ADMIN)
        await client.create(csrs.RESOURCE, flow.new_csr())
        await flow.decide(client, "a")
        await plane.clock.advance(60)
        assert (await client.get(csrs.RESOURCE, "a")).status.certificate == b""
        assert 'certplane_signer_ready{reason="no key"' in plane.telemetry.render().decode()


async def test_strangers_may_do_nothing():
    """Who has no role is refused, in words that name everything."""
    async with flow.running() as plane:
        with pytest.raises(errors.Forbidden) as refused:
            await plane.client(flow.JANE).list(csrs.RESOURCE)
        assert str(refused.value) == (
            'certificatesigningrequests.certificates.k8s.io is forbidden: User "jane" cannot list resource '
            '"certificatesigningrequests" in API group "certificates.k8s.io" at the cluster scope'
        )


async def test_what_has_served_its_purpose_is_cleaned_up():
    """Issued requests go after an hour, undecided ones after a day."""
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


async def test_a_draining_server_is_left_alone():
    """Controllers whose watches end as they begin wait before they try again: the process can stop."""
    async with flow.running() as plane:
        await testing.settle()
        plane.drain()
        turns = plane.clock.sleepers
        await testing.settle(500)
        assert plane.clock.sleepers >= turns
        assert len(plane.watches) == 0


async def test_a_new_plane_goes_on_where_the_last_one_was():
    """What was approved while nobody signed is issued by the next process on the same store."""
    store = memory.MemoryStore()
    nobody = {name: signer.Signer(profile, problem="no key") for name, profile in profiles.BUILT_IN.items()}
    async with flow.running(store, signers=nobody) as plane:
        client = plane.client(flow.ADMIN)
        await client.create(csrs.RESOURCE, flow.new_csr())
        await flow.decide(client, "a")
    async with flow.running(store) as plane:
        await flow.issued(plane.client(flow.ADMIN), "a")


async def test_unapproving_is_impossible():
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


async def test_a_node_asks_for_itself_and_renews():
    """Without a binding a node may ask for its own name and read requests; not for another's, and not approve."""
    async with flow.running() as plane:
        node = plane.client(context.User("system:node:n1", groups=("system:nodes", "system:authenticated")))
        usages = ["digital signature", "client auth"]
        pkcs10 = flow.pkcs10("system:node:n1", ["system:nodes"])
        await node.create(csrs.RESOURCE, flow.new_csr("own", profiles.KUBE_APISERVER_CLIENT_KUBELET, usages, pkcs10))
        # kubeadm's binding lets nodes renew by themselves.
        assert (await flow.issued(node, "own")).subject.rfc4514_string() == "CN=system:node:n1,O=system:nodes"
        other = flow.pkcs10("system:node:n2", ["system:nodes"])
        with pytest.raises(errors.Forbidden, match="can only create a node CSR with CN=system:node:n1"):
            await node.create(csrs.RESOURCE, flow.new_csr("x", profiles.KUBE_APISERVER_CLIENT_KUBELET, usages, other))
        await node.create(csrs.RESOURCE, flow.new_csr("y"))
        with pytest.raises(errors.Forbidden):
            await flow.decide(node, "y")
