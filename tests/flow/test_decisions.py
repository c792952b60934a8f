"""Every decision about a request is recorded: an Event on it, and a metric."""

from __future__ import annotations

import asyncio
import datetime
import logging

from certplane import testing
from certplane.controllers.approving import kubeletclient
from certplane.controllers.runtime import decisions, eventwriter
from certplane.controllers.signing import signer
from certplane.meta import context
from certplane.resources import certificatesigningrequests as csrs
from certplane.resources import events
from certplane.x509.issuance import issue, profiles
from tests.flow import plane as flow

KUBELET = "kubernetes.io/kube-apiserver-client-kubelet"
USAGES = ("digital signature", "client auth")
NODE = context.User("system:node:n1", groups=("system:nodes", "system:authenticated"))


def _kubelet_csr(name="a"):
    return flow.new_csr(name, KUBELET, USAGES, flow.pkcs10("system:node:n1", ("system:nodes",)))


async def _events(plane, name="a"):
    """The Events on a request, oldest first: decision, reason, type, count."""
    items = (await plane.client(flow.ADMIN).list(events.RESOURCE, "default")).items
    about = [event for event in items if event.involved_object.name == name]
    about.sort(key=lambda event: int(event.metadata.resource_version))
    return [
        (event.metadata.annotations[decisions.DECISION_ANNOTATION], event.reason, event.type, event.count)
        for event in about
    ]


async def _eventually_events(plane, count):
    async def enough():
        reported = await _events(plane)
        return reported if len(reported) >= count else None

    return await flow.eventually(enough)


async def test_approval_and_issuance_have_events():
    """They have their reasons and type Normal, and are counted by a metric."""
    async with flow.running() as plane:
        await plane.client(NODE).create(csrs.RESOURCE, _kubelet_csr())
        await flow.issued(plane.client(flow.ADMIN), "a")
        assert await _eventually_events(plane, 2) == [
            (decisions.APPROVED, kubeletclient.REASON, "Normal", 1),
            (decisions.ISSUED, signer.SIGNED, "Normal", 1),
        ]
        counted = plane.telemetry.render().decode()
        assert f'certplane_csr_decisions_total{{decision="Issued",reason="Signed",signer="{KUBELET}"}} 1.0' in counted


async def test_lint_warnings_are_in_the_event():
    """A certificate with warnings is issued; the message says which rules it violates."""
    usages = (*USAGES, "key encipherment")
    async with flow.running() as plane:
        client = plane.client(flow.ADMIN)
        for name, requested in (("plain", USAGES), ("warned", usages)):
            await client.create(csrs.RESOURCE, flow.new_csr(name, usages=requested))
            await flow.decide(client, name)
            await flow.issued(client, name)

        async def messages():
            items = (await client.list(events.RESOURCE, "default")).items
            by_name = {event.involved_object.name: event.message for event in items if event.reason == signer.SIGNED}
            return by_name if len(by_name) == 2 else None

        by_name = await flow.eventually(messages)
        assert "lint warnings: " in by_name["warned"]
        assert "[usage-for-key-type: " in by_name["warned"]
        assert "usage-for-key-type" not in by_name["plain"]


async def test_a_refused_automatic_approval_has_an_event():
    """If the requestor lacks the permission for automatic approval, the request stays pending, as in Kubernetes; the
    Event has the reason.
    """
    async with flow.running() as plane:
        creator = testing.user("creator")
        await plane.bind("system:node-bootstrapper", creator)
        await plane.client(creator).create(csrs.RESOURCE, _kubelet_csr())
        reported = await _eventually_events(plane, 1)
        assert (decisions.RETRIED, kubeletclient.NOT_ALLOWED, "Warning", 1) in reported
        assert (await plane.client().get(csrs.RESOURCE, "a")).status.conditions == []


async def test_a_signer_without_a_key_writes_an_event():
    """The request stays approved and unissued; the Event names the missing setting."""
    problem = "no certificate and key to sign with"
    signers = {name: signer.Signer(profile, problem=problem) for name, profile in profiles.BUILT_IN.items()}
    async with flow.running(signers=signers) as plane:
        admin = plane.client(flow.ADMIN)
        await admin.create(csrs.RESOURCE, flow.new_csr())
        await flow.decide(admin, "a")
        assert await _eventually_events(plane, 1) == [(decisions.NOT_ISSUED, signer.NOT_CONFIGURED, "Warning", 1)]
        event = (await admin.list(events.RESOURCE, "default")).items[0]
        assert problem in event.message


async def test_repeated_decisions_share_an_event():
    """There is one Event for each reason; its count is updated at most every few minutes."""
    async with flow.running(controllers=frozenset()) as plane:
        admin = plane.client(flow.ADMIN)
        csr = await admin.create(csrs.RESOURCE, flow.new_csr())
        writer = eventwriter.EventWriter(admin, plane.clock)
        recorder = decisions.DecisionRecorder(writer, plane.telemetry)
        task = asyncio.ensure_future(writer.run())
        for _ in range(3):
            recorder.record(csr, decisions.NOT_ISSUED, "TestReason", "first")
        await testing.settle(500)
        assert await _events(plane) == [(decisions.NOT_ISSUED, "TestReason", "Warning", 1)]
        await plane.clock.advance(301)
        recorder.record(csr, decisions.NOT_ISSUED, "TestReason", "second")
        await testing.settle(500)
        assert await _events(plane) == [(decisions.NOT_ISSUED, "TestReason", "Warning", 2)]
        task.cancel()


async def test_a_repeated_event_is_created_again_after_its_deletion():
    """Events are deleted an hour after their last change."""
    async with flow.running(controllers=frozenset()) as plane:
        admin = plane.client(flow.ADMIN)
        csr = await admin.create(csrs.RESOURCE, flow.new_csr())
        writer = eventwriter.EventWriter(admin, plane.clock)
        recorder = decisions.DecisionRecorder(writer, plane.telemetry)
        task = asyncio.ensure_future(writer.run())
        recorder.record(csr, decisions.NOT_ISSUED, "TestReason", "first")
        await _eventually_events(plane, 1)
        (event,) = (await admin.list(events.RESOURCE, "default")).items
        await admin.delete(events.RESOURCE, event.metadata.name, "default")
        await plane.clock.advance(301)
        recorder.record(csr, decisions.NOT_ISSUED, "TestReason", "second")
        assert [(decisions.NOT_ISSUED, "TestReason", "Warning", 1)] == await _eventually_events(plane, 1)
        task.cancel()


async def test_requests_with_invalid_event_names_have_events():
    """The names of kubelets' requests contain upper-case letters and underscores."""
    async with flow.running() as plane:
        await plane.client(NODE).create(csrs.RESOURCE, _kubelet_csr("node-csr-AbC_d"))

        assert await flow.eventually(lambda: _events(plane, "node-csr-AbC_d"))


async def test_decisions_without_events_are_counted():
    """With decision events disabled, certificates are issued and the metric counts the decisions."""
    async with flow.running(decision_events=False) as plane:
        await plane.client(NODE).create(csrs.RESOURCE, _kubelet_csr())
        await flow.issued(plane.client(flow.ADMIN), "a")
        await testing.settle(500)
        assert await _events(plane) == []
        assert "certplane_csr_decisions_total{" in plane.telemetry.render().decode()


async def test_a_retried_decision_is_logged_once(caplog):
    """It is logged as a decision with the time of the retry, and not also as a failure of the controller."""
    long_ago = testing.FakeClock(datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC))
    issuer = issue.Issuer(flow.new_authority(long_ago), datetime.timedelta(days=365))
    signers = {flow.CLIENT: signer.Signer(profiles.BUILT_IN[flow.CLIENT], issuer)}
    async with flow.running(signers=signers) as plane:
        admin = plane.client(flow.ADMIN)
        await admin.create(csrs.RESOURCE, flow.new_csr())
        await flow.decide(admin, "a")
        await flow.eventually(lambda: [record for record in caplog.records if getattr(record, "csr", "") == "a"])
        lines = [record for record in caplog.records if "the signer has expired" in record.__dict__.get("detail", "")]
        assert [(line.getMessage(), line.levelname) for line in lines] == [("controller decision", "WARNING")]
        assert lines[0].detail.endswith("; retry in 0.2s")
        assert "sync failed" not in [record.getMessage() for record in caplog.records if record.levelno >= logging.INFO]
