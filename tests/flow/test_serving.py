"""The kubelet-serving approver: proven names get a certificate, and the reason is recorded for all others."""

from __future__ import annotations

import ipaddress

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from certplane import testing
from certplane.controllers.approving.kubeletserving import approver, evidence, policy
from certplane.controllers.runtime import decisions
from certplane.resources import certificatesigningrequests as csrs
from certplane.resources import events, nodes, rbac
from tests import kubelets
from tests.flow import plane as flow
from tests.flow.approving import approver_plane

APPROVED = (decisions.APPROVED, policy.PROVEN)


async def test_a_kubelet_with_proven_names_gets_a_certificate():
    """The certificate has exactly the requested names."""
    async with approver_plane() as cluster:
        await cluster.register()
        await cluster.request()
        certificate = await flow.issued(cluster.admin, "a")
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.DNSName) == ["n1"]
        assert names.get_values_for_type(x509.IPAddress) == [ipaddress.ip_address("10.0.0.1")]
        usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        assert list(usages) == [ExtendedKeyUsageOID.SERVER_AUTH]
        assert await cluster.conditions() == [APPROVED]
        assert await cluster.decision() == APPROVED


async def test_requests_from_before_the_start_are_handled():
    """Requests that exist when the approver starts are approved."""

    async def before(cluster):
        await cluster.register()
        await cluster.request()

    async with approver_plane(before=before) as cluster:
        assert await cluster.decision() == APPROVED


async def test_a_request_waits_for_its_node():
    """It is approved when the Node is registered, without waiting for the retry."""
    async with approver_plane() as cluster:
        await cluster.request()
        decision, reason, message = await cluster.recorded_decision()
        assert (decision, reason) == (decisions.NOT_APPROVED, policy.NAME_NOT_PROVEN)
        assert '"n1": node n1 does not exist' in message
        assert message.endswith("retry in 0s, or when a Node or the inventory changes")
        assert await cluster.conditions() == []
        await cluster.register()
        await flow.issued(cluster.admin, "a")


async def test_a_new_address_of_a_node_causes_another_evaluation():
    """The pending request is evaluated at once; heartbeats have no effect."""
    async with approver_plane() as cluster:
        await cluster.register("n1", ("Hostname", "n1"))
        await cluster.request(dns=())
        assert await cluster.decision() == (decisions.NOT_APPROVED, policy.ADDRESS_NOT_PROVEN)
        for number in range(3):
            heartbeat = await cluster.kubelet().get(nodes.RESOURCE, "n1")
            heartbeat.status.conditions = [nodes.NodeCondition(type="Ready", status="True", message=str(number))]
            await cluster.kubelet().update(nodes.RESOURCE, heartbeat, "status")
        await testing.settle(2000)
        assert len(cluster.recorded) == 1
        await cluster.register("n1", ("Hostname", "n1"), ("InternalIP", "10.0.0.1"))
        assert (await cluster.recorded_decision(count=2))[:2] == APPROVED


async def test_pending_requests_are_retried_with_growing_delays():
    """A change in DNS is found by a retry only."""
    table = kubelets.TableResolver({"n1.example.org": evidence.ResolutionFailed("servers are down")})
    settings = {"dns": True, "sources": ["node+cidrs", "node+patterns", "node+dns"]}
    async with approver_plane(settings, resolver=table) as cluster:
        await cluster.register("n1", ("InternalDNS", "n1.example.org"), ("InternalIP", "10.0.0.1"))
        await cluster.request(dns=("n1.example.org",))
        decision, reason, message = await cluster.recorded_decision()
        assert (decision, reason) == (decisions.NOT_APPROVED, policy.SOURCE_UNAVAILABLE)
        assert "dns is unavailable (servers are down)" in message
        await cluster.clock.advance(0.2)
        await cluster.recorded_decision(count=2)
        await cluster.clock.advance(0.3)
        await testing.settle(2000)
        assert len(cluster.recorded) == 2
        await cluster.clock.advance(0.2)
        await cluster.recorded_decision(count=3)
        table.records["n1.example.org"] = ["10.0.0.1"]
        await cluster.clock.advance(0.8)
        await flow.issued(cluster.admin, "a")


async def test_a_corrected_inventory_is_used(tmp_path):
    """It is used without a restart and without waiting for the retry; nothing is denied before."""
    path = tmp_path / "nodes.yaml"
    async with approver_plane({"inventory": str(path), "sources": ["inventory"]}, inventory=path) as cluster:
        await cluster.request()
        decision, reason, message = await cluster.recorded_decision()
        assert (decision, reason) == (decisions.NOT_APPROVED, policy.SOURCE_UNAVAILABLE)
        assert "the inventory is unreadable" in message
        path.write_text("n1: [n1, 10.0.0.1]\n")
        cluster.wakeup.wake()
        await flow.issued(cluster.admin, "a")


async def test_approve_only_denies_nothing():
    """What would be denied stays pending, with the reason recorded; what is proven is approved."""
    async with approver_plane({"mode": "approve-only"}) as cluster:
        await cluster.register()
        await cluster.request("good")
        await cluster.request("bad", dns=("*.example.com",))
        assert await cluster.decision("good") == APPROVED
        assert await cluster.decision("bad") == (decisions.NOT_APPROVED, policy.WILDCARD_NAME)
        assert await cluster.conditions("bad") == []
        await flow.decide(cluster.admin, "bad")
        await flow.issued(cluster.admin, "bad")


async def test_report_changes_nothing():
    """It records the decisions, and leaves all requests pending."""
    async with approver_plane({"mode": "report"}) as cluster:
        await cluster.register()
        await cluster.request("good")
        await cluster.request("bad", dns=("*.example.com",))
        await cluster.request("early", dns=(), ips=("10.0.0.9",))
        assert await cluster.decision("good") == (approver.WOULD_APPROVE, policy.PROVEN)
        assert await cluster.decision("bad") == (approver.WOULD_DENY, policy.WILDCARD_NAME)
        assert await cluster.decision("early") == (decisions.NOT_APPROVED, policy.ADDRESS_NOT_PROVEN)
        for name in ("good", "bad", "early"):
            assert await cluster.conditions(name) == []

        async def events_written():
            items = (await cluster.admin.list(events.RESOURCE)).items
            messages = {event.involved_object.name: event.message.partition(":")[0] for event in items}
            return (messages.get("good"), messages.get("bad")) == (
                "only reported, not approved",
                "only reported, not denied",
            )

        await flow.eventually(events_written)


async def test_a_denial_has_a_reason():
    """The condition, the Event and the metric have it."""
    async with approver_plane() as cluster:
        await cluster.register()
        await cluster.request(dns=("n1", "vault.example.org"))
        assert await cluster.decision() == (decisions.DENIED, policy.NAME_NOT_PROVEN)
        (condition,) = (await cluster.admin.get(csrs.RESOURCE, "a")).status.conditions
        assert (condition.type, condition.reason) == (csrs.DENIED, policy.NAME_NOT_PROVEN)
        assert condition.message == (
            '"vault.example.org": node lists 10.0.0.1, n1, cidrs do not apply to names, '
            "patterns expand to n1, n1.example.com"
        )

        async def events_written():
            return (await cluster.admin.list(events.RESOURCE, "default")).items

        (event,) = await flow.eventually(events_written)
        assert (event.reason, event.type) == (policy.NAME_NOT_PROVEN, "Warning")
        assert event.message == condition.message
        assert 'decision="Denied",reason="NameNotProven"' in cluster.plane.telemetry.render().decode()


async def test_a_deleted_request_is_not_evaluated_again():
    """It is not evaluated again."""
    async with approver_plane() as cluster:
        await cluster.request()
        await cluster.recorded_decision()
        await cluster.admin.delete(csrs.RESOURCE, "a")
        await testing.settle(2000)
        await cluster.register()
        await cluster.clock.advance(60)
        assert len(cluster.recorded) == 1


async def test_a_missing_permission_is_recorded():
    """The error of the server is recorded on the request; the request is approved once the permission is granted."""
    async with approver_plane() as cluster:
        await cluster.register()
        role = cluster.role
        rules, role.rules = role.rules, [rule for rule in role.rules if rule.resources != ["signers"]]
        role = await cluster.admin.update(rbac.CLUSTER_ROLES, role)
        await cluster.request()

        async def events_written():
            items = (await cluster.admin.list(events.RESOURCE, "default")).items
            return next((event for event in items if event.reason == decisions.REQUEST_FAILED), None)

        assert "not permitted to approve requests with signerName" in (await flow.eventually(events_written)).message
        assert await cluster.conditions() == []
        role.rules = rules
        await cluster.admin.update(rbac.CLUSTER_ROLES, role)
        await cluster.clock.advance(60)
        await flow.issued(cluster.admin, "a")


@pytest.mark.parametrize("name", ["N1", "n1.EXAMPLE.com"])
async def test_names_are_compared_without_case(name):
    """As in DNS, upper-case names are those of the Node."""
    async with approver_plane() as cluster:
        await cluster.register("n1", ("Hostname", "n1"), ("InternalDNS", "n1.example.com"), ("InternalIP", "10.0.0.1"))
        await cluster.request(dns=(name,))
        assert await cluster.decision() == APPROVED
