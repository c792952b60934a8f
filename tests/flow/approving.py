"""A plane in process with the kubelet-serving approver, and the nodes that request certificates."""

from __future__ import annotations

import asyncio
import contextlib

from certplane import reload, signernames
from certplane.client import informer
from certplane.controllers.approving.kubeletserving import approver, evidence, rules
from certplane.controllers.runtime import controller, decisions, eventwriter
from certplane.meta import context
from certplane.resources import certificatesigningrequests as csrs
from certplane.resources import nodes, rbac
from tests import kubelets
from tests.flow import plane as flow

ACCOUNT = context.User(
    f"system:serviceaccount:kube-system:{approver.ACCOUNT}",
    groups=("system:serviceaccounts", "system:serviceaccounts:kube-system", "system:authenticated"),
)
#: The minimal permissions of the approver; docs/kubelet-serving.md has them too.
RULES = (
    ("certificates.k8s.io", "certificatesigningrequests", ("list", "watch"), ()),
    ("certificates.k8s.io", "certificatesigningrequests/approval", ("update",), ()),
    ("certificates.k8s.io", "signers", ("approve",), (signernames.KUBELET_SERVING,)),
    ("", "nodes", ("list", "watch"), ()),
    ("", "events", ("create", "update"), ()),
)
#: The Node object has the name, and a network or a pattern confirms it.
SETTINGS = {"mode": "enforce", "cidrs": ["10.0.0.0/16"], "patterns": ["{node}", "{node}.example.com"]}


def node_user(name="n1"):
    return context.User(f"system:node:{name}", groups=("system:nodes", "system:authenticated"))


async def grant(plane, user, *rules):
    """Grant permissions to a user; each is a tuple of API group, resource, verbs and resource names. Returns the
    ClusterRole.
    """
    return await plane.grant_rules(
        user,
        *(
            rbac.PolicyRule(api_groups=[group], resources=[plural], verbs=list(verbs), resource_names=list(names))
            for group, plural, verbs, names in rules
        ),
    )


class ApproverPlane:
    """What a test does with the plane, and the decisions that were recorded."""

    def __init__(self, plane):
        self.plane = plane
        self.clock = plane.clock
        self.admin = plane.client(flow.ADMIN)
        self.recorded = []
        #: The inventory file, and what makes the approver read it at once, as SIGHUP does.
        self.inventory = None
        self.wakeup = reload.Wakeup()
        #: The ClusterRole of the approver.
        self.role = None

    def kubelet(self, name="n1"):
        return self.plane.client(node_user(name))

    async def register(self, name="n1", *addresses):
        """A kubelet creates its Node, or updates the addresses of an existing one."""
        node = kubelets.node(name, *(addresses or (("Hostname", name), ("InternalIP", "10.0.0.1"))))
        client = self.kubelet(name)
        registered = {stored.metadata.name for stored in (await self.admin.list(nodes.RESOURCE)).items}
        if name not in registered:
            return await client.create(nodes.RESOURCE, node)
        stored = await client.get(nodes.RESOURCE, name)
        stored.status.addresses = node.status.addresses
        return await client.update(nodes.RESOURCE, stored, "status")

    async def request(self, name="a", user=None, signer=signernames.KUBELET_SERVING, **fields):
        """Create a request, by default as node n1. `fields` are of the spec, or of the PKCS#10 (`kubelets.pkcs10`)."""
        spec_fields = ("usages", "expiration_seconds", "username", "groups")
        spec = {key: fields.pop(key) for key in spec_fields if key in fields}
        request = kubelets.pkcs10(**fields)
        new = flow.new_csr(name, signer, spec.pop("usages", kubelets.USAGES), request, **spec)
        return await self.plane.client(user or node_user()).create(csrs.RESOURCE, new)

    async def decision(self, name="a"):
        """Decision and reason that were recorded first for a request."""
        return (await self.recorded_decision(name))[:2]

    async def recorded_decision(self, name="a", count=1):
        """The decision that was recorded as number `count` for a request: decision, reason, message."""

        def get():
            recorded = [decision[1:] for decision in self.recorded if decision[0] == name]
            return recorded[count - 1] if len(recorded) >= count else None

        return await flow.eventually(get)

    async def conditions(self, name="a"):
        csr = await self.admin.get(csrs.RESOURCE, name)
        return [(condition.type, condition.reason) for condition in csr.status.conditions]


@contextlib.asynccontextmanager
async def approver_plane(settings=None, *, resolver=None, inventory=None, before=None):
    """A plane with a running approver. `settings` override SETTINGS, `inventory` is the path of a file, `before` runs
    before the approver starts.
    """
    parsed = rules.parse({**SETTINGS, **(settings or {})})
    async with flow.running() as plane:
        harness = ApproverPlane(plane)
        harness.role = await grant(plane, ACCOUNT, *RULES)
        if before is not None:
            await before(harness)
        client = plane.client(ACCOUNT)
        writer = eventwriter.EventWriter(client, plane.clock)
        recorder = decisions.DecisionRecorder(writer, plane.telemetry)

        def record(csr, decision, reason, message):
            harness.recorded.append((csr.metadata.name, decision, reason, message))
            recorder.record(csr, decision, reason, message)

        csr_informer = informer.Informer(client, csrs.RESOURCE, plane.clock)
        node_informer = informer.Informer(client, nodes.RESOURCE, plane.clock)
        if inventory is not None:
            harness.inventory = evidence.InventoryFile(inventory, plane.clock, harness.wakeup)
        sources = approver.Sources(evidence.NodeClaims(node_informer), harness.inventory, resolver)
        reconciler = approver.Approver(client, parsed, sources, record)
        csr_informer.subscribe(reconciler.forget)
        queue_telemetry = plane.telemetry.queue(approver.QUEUE)
        queue = controller.WorkQueue(plane.clock, queue_telemetry, base_delay=controller.CSR_BASE_DELAY)
        handle = controller.with_object(csr_informer, recorder.record_failures(reconciler.handle))
        running = controller.Controller(approver.NAME, queue, handle, workers=approver.WORKERS)
        running.watch(csr_informer).watch(node_informer, reconciler.affected_csrs)
        loops = (writer.run(), csr_informer.run(), node_informer.run(), running.run(), reconciler.run(queue))
        tasks = [asyncio.ensure_future(loop) for loop in loops]
        try:
            yield harness
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
