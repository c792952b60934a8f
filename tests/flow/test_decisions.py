"""Every decision about a request is recorded: an Event on it, and a metric."""

from __future__ import annotations

import asyncio
import datetime
import logging

from certplane import testing
from certplane.controllers.approving import kubeletclient
from certplane.controllers.runtime import decisions
from certplane.controllers.signing import signer
from certplane.meta import context
from certplane.resources import certificatesigningrequests as csrs
from certplane.resources import events, rbac
from certplane.x509.issuance import issue, profiles
from tests.flow import plane as flow

KUBELET = "kubernetes.io/kube-apiserver-client-kubelet"
USAGES = ("digital signature", "client auth")
NODE = context.User("system:node:n1", groups=("system:nodes", "system:authenticated"))


def _kubelet_csr(name="a"):
    return flow.new_csr(name, KUBELET, USAGES, flow.pkcs10("system:node:n1", ("system:nodes",)))


async def _told(plane, name="a"):
    """The Events on a request, oldest first: decision, reason, type, count."""
    items = (await plane.client(flow.ADMIN).list(events.RESOURCE, "default")).items
    about = [event for event in items if event.involved_object.name == name]
    about.sort(key=lambda event: int(event.metadata.resource_version))
    return [
        (event.metadata.annotations[decisions.DECISION_ANNOTATION], event.reason, event.type, event.count)
        for event in about
    ]


async def _eventually_told(plane, count):
    async def enough():
        reported = await _told(plane)
        return reported if len(reported) >= count else None

    return await flow.eventually(enough)


async def test_an_approval_and_a_certificate_are_told():
    """With their reasons, and with type Normal."""
    async with flow.running() as plane:
        await plane.client(NODE).create(csrs.RESOURCE, _kubelet_csr())
        await flow.issued(plane.client(flow.ADMIN), "a")
        assert await _eventually_told(plane, 2) == [
            (decisions.APPROVED, kubeletclient.REASON, "Normal", 1),
            (decisions.ISSUED, signer.SIGNED, "Normal", 1),
        ]
        counted = plane.telemetry.render().decode()
        assert f'certplane_csr_decisions_total{{decision="Issued",reason="Signed",signer="{KUBELET}"}} 1.0' in counted


async def test_a_request_that_nobody_may_have_approved_says_so():
    """It stays pending, as in Kubernetes; the Event gives the reason, and counts the retries."""
    async with flow.running() as plane:
        maker = context.User("maker", groups=("system:authenticated",))
        binding = rbac.ClusterRoleBinding(
            subjects=[rbac.Subject(kind="User", api_group=rbac.GROUP, name=maker.name)],
            role_ref=rbac.RoleRef(api_group=rbac.GROUP, kind="ClusterRole", name="system:node-bootstrapper"),
        )
        binding.metadata.name = "maker"
        await plane.client(flow.ADMIN).create(rbac.CLUSTER_ROLE_BINDINGS, binding)
        await plane.client(maker).create(csrs.RESOURCE, _kubelet_csr())
        reported = await _eventually_told(plane, 1)
        assert (decisions.RETRIED, kubeletclient.NOT_ALLOWED, "Warning", 1) in reported


async def test_a_signer_without_a_key_says_so_on_the_request():
    """Approved and not issued: the Event names the missing setting."""
    problem = "no certificate and key to sign with"
    signers = {name: signer.Signer(profile, problem=problem) for name, profile in profiles.BUILT_IN.items()}
    async with flow.running(signers=signers) as plane:
        admin = plane.client(flow.ADMIN)
        await admin.create(csrs.RESOURCE, flow.new_csr())
        await flow.decide(admin, "a")
        assert await _eventually_told(plane, 1) == [(decisions.NOT_ISSUED, signer.NOT_CONFIGURED, "Warning", 1)]
        event = (await admin.list(events.RESOURCE, "default")).items[0]
        assert problem in event.message


async def test_the_same_again_is_counted_not_repeated():
    """One Event for each reason; its count is updated at most every few minutes."""
    async with flow.running(controllers=frozenset()) as plane:
        admin = plane.client(flow.ADMIN)
        csr = await admin.create(csrs.RESOURCE, flow.new_csr())
        recorder = decisions.DecisionRecorder(admin, plane.clock, plane.telemetry)
        task = asyncio.ensure_future(recorder.run())
        for _ in range(3):
            recorder.record(csr, decisions.NOT_ISSUED, "Because", "it is so")
        await testing.settle(500)
        assert await _told(plane) == [(decisions.NOT_ISSUED, "Because", "Warning", 1)]
        await plane.clock.advance(301)
        recorder.record(csr, decisions.NOT_ISSUED, "Because", "it is still so")
        await testing.settle(500)
        assert await _told(plane) == [(decisions.NOT_ISSUED, "Because", "Warning", 2)]
        task.cancel()


async def test_names_that_an_event_cannot_have_are_no_obstacle():
    """The names of kubelets' requests have upper case letters."""
    async with flow.running() as plane:
        await plane.client(NODE).create(csrs.RESOURCE, _kubelet_csr("node-csr-AbC_d"))

        async def told():
            return await _told(plane, "node-csr-AbC_d")

        assert await flow.eventually(told)


async def test_decisions_are_made_where_events_are_not_wanted():
    """Without Events, the metric still counts them."""
    async with flow.running(decision_events=False) as plane:
        await plane.client(NODE).create(csrs.RESOURCE, _kubelet_csr())
        await flow.issued(plane.client(flow.ADMIN), "a")
        await testing.settle(500)
        assert await _told(plane) == []
        assert "certplane_csr_decisions_total{" in plane.telemetry.render().decode()


async def test_what_is_tried_again_is_logged_once(caplog):
    """As a decision, with the time of the retry, and not as a failure of the controller as well."""
    long_ago = testing.FakeClock(datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC))
    issuer = issue.Issuer(flow.new_authority(long_ago), datetime.timedelta(days=365))
    signers = {flow.CLIENT: signer.Signer(profiles.BUILT_IN[flow.CLIENT], issuer)}
    async with flow.running(signers=signers) as plane:
        admin = plane.client(flow.ADMIN)
        await admin.create(csrs.RESOURCE, flow.new_csr())
        await flow.decide(admin, "a")
        await flow.eventually(lambda: [record for record in caplog.records if getattr(record, "csr", "") == "a"])
        lines = [record for record in caplog.records if "the signer has expired" in record.__dict__.get("why", "")]
        assert [(line.getMessage(), line.levelname) for line in lines] == [("decision", "WARNING")]
        assert lines[0].why.endswith("; retry in 0.2s")
        assert "sync failed" not in [record.getMessage() for record in caplog.records if record.levelno >= logging.INFO]
