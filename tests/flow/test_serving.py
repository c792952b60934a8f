"""Kubelets get serving certificates for names that are proven, and everybody is told why others do not."""

from __future__ import annotations

import ipaddress

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from certplane import testing
from certplane.controllers import decisions, proofs, serving, verdicts
from certplane.resources import certificatesigningrequests as csrs
from certplane.resources import events, nodes, rbac
from tests import kubelets
from tests.flow import plane as flow
from tests.flow.approving import ACCOUNT, approving

APPROVED = (decisions.APPROVED, verdicts.PROVEN)


async def test_a_kubelet_gets_what_it_can_prove():
    """From the Node to the certificate, which is for exactly its names."""
    async with approving() as given:
        await given.register()
        await given.ask()
        made = await flow.issued(given.admin, "a")
        names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.DNSName) == ["n1"]
        assert names.get_values_for_type(x509.IPAddress) == [ipaddress.ip_address("10.0.0.1")]
        usages = made.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        assert list(usages) == [ExtendedKeyUsageOID.SERVER_AUTH]
        assert await given.conditions() == [APPROVED]
        assert await given.decision() == APPROVED


async def test_what_is_pending_when_the_approver_starts_is_judged():
    """It looks at everything that is there, not only at what comes."""

    async def before(given):
        await given.register()
        await given.ask()

    async with approving(before=before) as given:
        assert await given.decision() == APPROVED


async def test_a_kubelet_that_is_early_waits_for_its_node():
    """It is approved when the Node says so, without waiting for the next try."""
    async with approving() as given:
        await given.ask()
        decision, reason, message = await given.explained()
        assert (decision, reason) == (decisions.NOT_APPROVED, verdicts.NAME_NOT_PROVEN)
        assert '"n1": node has no Node n1' in message
        assert message.endswith("looked at again in 0s, or when a Node or the inventory says something else")
        assert await given.conditions() == []
        await given.register()
        await flow.issued(given.admin, "a")


async def test_a_node_that_gets_an_address_gets_a_certificate_for_it():
    """The request that waited for it is judged at once; heartbeats judge nothing."""
    async with approving() as given:
        await given.register("n1", ("Hostname", "n1"))
        await given.ask(dns=())
        assert await given.decision() == (decisions.NOT_APPROVED, verdicts.ADDRESS_NOT_PROVEN)
        for _ in range(3):
            heartbeat = await given.kubelet().get(nodes.RESOURCE, "n1")
            heartbeat.status.conditions = [nodes.NodeCondition(type="Ready", status="True", message=str(_))]
            await given.kubelet().update(nodes.RESOURCE, heartbeat, "status")
        await testing.settle(2000)
        assert len(given.told) == 1
        await given.register("n1", ("Hostname", "n1"), ("InternalIP", "10.0.0.1"))
        assert (await given.explained(count=2))[:2] == APPROVED


async def test_what_waits_is_judged_again_with_growing_delays():
    """DNS tells nobody when it changes."""
    table = kubelets.Table({"n1.example.org": proofs.Unanswered("servers are down")})
    said = {"dns": True, "sources": ["node+cidrs", "node+patterns", "node+dns"]}
    async with approving(said, resolver=table) as given:
        await given.register("n1", ("InternalDNS", "n1.example.org"), ("InternalIP", "10.0.0.1"))
        await given.ask(dns=("n1.example.org",))
        decision, reason, message = await given.explained()
        assert (decision, reason) == (decisions.NOT_APPROVED, verdicts.SOURCE_UNAVAILABLE)
        assert "dns could not be asked (servers are down)" in message
        await given.clock.advance(0.2)
        await given.explained(count=2)
        await given.clock.advance(0.3)
        await testing.settle(2000)
        assert len(given.told) == 2
        await given.clock.advance(0.2)
        await given.explained(count=3)
        table.answers["n1.example.org"] = ["10.0.0.1"]
        await given.clock.advance(0.8)
        await flow.issued(given.admin, "a")


async def test_an_inventory_that_is_mended_is_believed(tmp_path):
    """Without a restart, and without waiting for the next try; until then nothing is denied."""
    path = tmp_path / "nodes.yaml"
    async with approving({"inventory": str(path), "sources": ["inventory"]}, inventory=path) as given:
        await given.ask()
        decision, reason, message = await given.explained()
        assert (decision, reason) == (decisions.NOT_APPROVED, verdicts.SOURCE_UNAVAILABLE)
        assert "the inventory cannot be read" in message
        path.write_text("n1: [n1, 10.0.0.1]\n")
        await given.clock.advance(10)
        await flow.issued(given.admin, "a")


async def test_approve_only_denies_nothing():
    """What would be denied is left to others, and everybody is told why; what is proven is approved."""
    async with approving({"mode": "approve-only"}) as given:
        await given.register()
        await given.ask("good")
        await given.ask("bad", dns=("*.example.com",))
        assert await given.decision("good") == APPROVED
        assert await given.decision("bad") == (decisions.NOT_APPROVED, verdicts.WILDCARD_NAME)
        assert await given.conditions("bad") == []
        await flow.decide(given.admin, "bad")
        await flow.issued(given.admin, "bad")


async def test_report_changes_nothing():
    """It says what it would do, for as long as one wants to look at that before."""
    async with approving({"mode": "report"}) as given:
        await given.register()
        await given.ask("good")
        await given.ask("bad", dns=("*.example.com",))
        await given.ask("early", dns=(), ips=("10.0.0.9",))
        assert await given.decision("good") == (serving.WOULD_APPROVE, verdicts.PROVEN)
        assert await given.decision("bad") == (serving.WOULD_DENY, verdicts.WILDCARD_NAME)
        assert await given.decision("early") == (decisions.NOT_APPROVED, verdicts.ADDRESS_NOT_PROVEN)
        for name in ("good", "bad", "early"):
            assert await given.conditions(name) == []

        async def told():
            found = (await given.admin.list(events.RESOURCE)).items
            said = {each.involved_object.name: each.message.partition(":")[0] for each in found}
            return (said.get("good"), said.get("bad")) == ("only reported, not approved", "only reported, not denied")

        await flow.eventually(told)


async def test_a_denial_says_why():
    """On the condition, where the kubelet's log quotes it, and as an Event; and it is counted."""
    async with approving() as given:
        await given.register()
        await given.ask(dns=("n1", "vault.example.org"))
        assert await given.decision() == (decisions.DENIED, verdicts.NAME_NOT_PROVEN)
        (condition,) = (await given.admin.get(csrs.RESOURCE, "a")).status.conditions
        assert (condition.type, condition.reason) == (csrs.DENIED, verdicts.NAME_NOT_PROVEN)
        assert condition.message == (
            '"vault.example.org": node has 10.0.0.1, n1, cidrs say nothing about names, '
            "patterns give n1, n1.example.com"
        )

        async def told():
            return (await given.admin.list(events.RESOURCE, "default")).items

        (event,) = await flow.eventually(told)
        assert (event.reason, event.type) == (verdicts.NAME_NOT_PROVEN, "Warning")
        assert event.message == condition.message
        assert 'decision="Denied",reason="NameNotProven"' in given.plane.telemetry.render().decode()


async def test_a_request_that_is_gone_is_forgotten():
    """It leaves nothing behind that would be judged again."""
    async with approving() as given:
        await given.ask()
        await given.explained()
        await given.admin.delete(csrs.RESOURCE, "a")
        await testing.settle(2000)
        await given.register()
        await given.clock.advance(60)
        assert len(given.told) == 1


async def test_an_approver_without_the_right_says_so():
    """What the server answers ends up on the request; with the right it goes on."""
    async with approving() as given:
        await given.register()
        role = await given.admin.get(rbac.CLUSTER_ROLES, ACCOUNT.name)
        rules, role.rules = role.rules, [each for each in role.rules if each.resources != ["signers"]]
        role = await given.admin.update(rbac.CLUSTER_ROLES, role)
        await given.ask()

        async def told():
            found = (await given.admin.list(events.RESOURCE, "default")).items
            return next((each for each in found if each.reason == decisions.REQUEST_FAILED), None)

        assert "not permitted to approve requests with signerName" in (await flow.eventually(told)).message
        assert await given.conditions() == []
        role.rules = rules
        await given.admin.update(rbac.CLUSTER_ROLES, role)
        await given.clock.advance(60)
        await flow.issued(given.admin, "a")


@pytest.mark.parametrize("name", ["N1", "n1.EXAMPLE.com"])
async def test_letters_are_compared_without_their_case(name):
    """As DNS does."""
    async with approving() as given:
        await given.register("n1", ("Hostname", "n1"), ("InternalDNS", "n1.example.com"), ("InternalIP", "10.0.0.1"))
        await given.ask(dns=(name,))
        assert await given.decision() == APPROVED
