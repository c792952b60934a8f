"""`certplane explain csr`: every reason why a request has no certificate is answered in one sentence, with the fix."""

from __future__ import annotations

import json

import yaml

from certplane.resources import certificatesigningrequests as csrs
from certplane.resources import events as event_kinds
from certplane.resources import rbac
from certplane.wire import codec
from tests.flow import plane as flow
from tests.flow.explaining import explain

NO_CONTROLLERS = {"controllers": frozenset()}
READER = rbac.PolicyRule(api_groups=[csrs.RESOURCE.group], resources=[csrs.RESOURCE.plural], verbs=["get"])


async def create(plane, name="a", user=flow.ADMIN, **spec):
    return await plane.client(user).create(csrs.RESOURCE, flow.new_csr(name, **spec))


async def test_nobody_approved():
    """Who may approve is answered with the command."""
    async with flow.running() as plane:
        await create(plane)
        explained = await explain(plane)
    assert (explained.code, explained.sentence) == ("NotApproved", "nobody has approved it")
    assert explained.fixes == ["kubectl certificate approve a, or deny it"]
    assert "csr/a is Pending: nobody has approved it\nfix: kubectl certificate approve a" in explained.text


async def test_who_may_approve_is_named_with_the_roles():
    """The two permissions may come from two roles; who has one of them is named apart."""
    async with flow.running() as plane:
        await create(plane)
        await plane.grant(flow.JANE, "update", resource="certificatesigningrequests/approval")
        await plane.grant(flow.JANE, "approve", resource="signers")
        tom = flow.testing.user("tom")
        await plane.grant(tom, "approve", resource="signers")
        await plane.grant_rules(tom, READER)
        explained = await explain(plane)
        (jane, half) = [holder for holder in explained.findings.approval.holders if holder.kind == "User"]
        assert ("jane", True) == (jane.name, jane.is_complete)
        assert ("tom", False) == (half.name, half.is_complete)
        text = " ".join(explained.text.split())
        assert f"User jane, by ClusterRole {jane.subresource.role} (binding {jane.subresource.binding}) and" in text
        assert "lacks the permission for the subresource" in text


async def test_the_rule_that_would_permit_an_approval_can_be_pasted():
    """A ClusterRole with the printed rules permits it, and no less does."""
    async with flow.running() as plane:
        await create(plane)
        await plane.grant_rules(flow.JANE, READER)
        explained = await explain(plane, user=flow.JANE)
        someone = "somebody who may approve for kubernetes.io/kube-apiserver-client"
        assert explained.fixes[0] == f"{someone} runs kubectl certificate approve a"
        rules = explained.findings.approval.missing_rules
        assert len(rules) == 2
        assert all(rule in explained.fixes[1] for rule in rules)
        for rule in rules:
            assert (await explain(plane, user=flow.JANE)).fixes[0] != "kubectl certificate approve a, or deny it"
            await plane.grant_rules(flow.JANE, codec.decode(codec.encode(yaml.safe_load(rule)[0]), rbac.PolicyRule))
        assert (await explain(plane, user=flow.JANE)).fixes == ["kubectl certificate approve a, or deny it"]
        await plane.approve("a", flow.JANE)


async def test_what_may_not_be_read_is_said():
    """The explanation goes on without the Events and the roles."""
    async with flow.running() as plane:
        await create(plane)
        await plane.grant_rules(flow.JANE, READER)
        explained = await explain(plane, user=flow.JANE)
    assert "others unknown: the roles were not read: you may not read this" in explained.text
    assert "the Events were not read: you may not read this" in explained.text
    assert explained.findings.facts.events.rule == "- {apiGroups: [''], resources: [events], verbs: [list]}"


async def test_an_issued_request():
    """The answer says until when, and how to fetch it."""
    async with flow.running() as plane:
        await create(plane)
        await plane.approve("a")
        await plane.certificate("a")
        explained = await explain(plane)
    assert explained.code == "Issued"
    assert explained.fixes == ["certplane csr fetch a"]


async def test_a_denied_request():
    """The answer has the reason; a request cannot be changed."""
    async with flow.running() as plane:
        await create(plane)
        await plane.deny("a")
        explained = await explain(plane)
    assert (explained.code, explained.sentence) == ("Denied", "it was denied (Test)")
    assert explained.fixes[-1] == "create a new request: under another name, or after kubectl delete csr a"


# --- the signer ---------------------------------------------------------------------------------------------------


async def approved(plane, **spec):
    """A request that is approved, and the signer's controller has looked at it."""
    await create(plane, **spec)
    await plane.approve("a")
    await plane.clock.advance(31)


async def events(plane):
    """Type, reason and message of the Events about requests."""
    listed = await plane.client().list(event_kinds.RESOURCE, "default")
    return [(event.type, event.reason, event.message) for event in listed.items]


async def test_approved_for_a_signer_that_is_none(caplog):
    """The approver is warned, half a minute later there is an Event and a line in the log, and the answer has the name
    that was meant. An approval is final, so the request has to be created anew.
    """
    caplog.set_level("INFO", "certplane.controllers")
    async with flow.running() as plane:
        await create(plane, signer_name="kubernetes.io/kube-apiserver-clients")
        assert (await explain(plane)).code == "UnknownSigner"
        csr = json.loads(codec.encode(await plane.client().get(csrs.RESOURCE, "a")))
        csr["status"] = {"conditions": [{"type": "Approved", "status": "True", "reason": "Test"}]}
        path = "/apis/certificates.k8s.io/v1/certificatesigningrequests/a/approval"
        response = await flow.respond(plane, "PUT", path, csr, content_type="application/json")
        (warning,) = flow.warning_texts(response)
        assert warning.startswith("approved, but nothing will be issued: unknown signer")
        await plane.clock.advance(29)
        assert await events(plane) == []
        await plane.clock.advance(2)
        ((type_, reason, message),) = await flow.eventually(lambda: events(plane))
        explained = await explain(plane)
    assert (type_, reason) == ("Warning", "UnknownSigner")
    assert message.startswith('no signer of this server is called "kubernetes.io/kube-apiserver-clients"')
    assert [record.reason for record in caplog.records if record.message == "controller decision"] == ["UnknownSigner"]
    assert explained.sentence == 'approved, but no signer is called "kubernetes.io/kube-apiserver-clients"'
    assert explained.fixes == [
        'did you mean "kubernetes.io/kube-apiserver-client"?',
        "create a new request: under another name, or after kubectl delete csr a",
    ]
    assert "UnknownSigner" in explained.text


async def test_a_signer_of_another_controller_causes_no_event():
    """It signs within half a minute."""
    async with flow.running() as plane:
        await create(plane, signer_name="example.com/other")
        await plane.approve("a")
        csr = await plane.client().get(csrs.RESOURCE, "a")
        await plane.client().update(csrs.RESOURCE, csrs.with_condition(csr, csrs.FAILED, "Test", ""), "status")
        await plane.clock.advance(60)
        assert await events(plane) == []
