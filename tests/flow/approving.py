"""A control plane with an approver of kubelets' serving certificates, and the machines that want some."""

from __future__ import annotations

import asyncio
import contextlib

from certplane.client import informer
from certplane.controllers import decisions, proofs, runtime, serving, servingrules
from certplane.meta import context
from certplane.resources import certificatesigningrequests as csrs
from certplane.resources import nodes, rbac
from certplane.x509 import profiles
from tests import kubelets
from tests.flow import plane as flow

ACCOUNT = context.User(
    f"system:serviceaccount:kube-system:{serving.ACCOUNT}",
    groups=("system:serviceaccounts", "system:serviceaccounts:kube-system", "system:authenticated"),
)
#: The least rights with which it works; docs/kubelet-serving.md has them too.
RULES = (
    ("certificates.k8s.io", "certificatesigningrequests", ("list", "watch"), ()),
    ("certificates.k8s.io", "certificatesigningrequests/approval", ("update",), ()),
    ("certificates.k8s.io", "signers", ("approve",), (profiles.KUBELET_SERVING,)),
    ("", "nodes", ("list", "watch"), ()),
    ("", "events", ("create", "update"), ()),
)
#: The kubelet says so, and a network or a pattern agrees.
SAID = {"mode": "enforce", "cidrs": ["10.0.0.0/16"], "patterns": ["{node}", "{node}.example.com"]}


def node_user(name="n1"):
    return context.User(f"system:node:{name}", groups=("system:nodes", "system:authenticated"))


async def grant(admin, user, *rules):
    """Give somebody rights: pairs of group, resource, verbs and names."""
    role = rbac.ClusterRole(
        rules=[
            rbac.PolicyRule(api_groups=[group], resources=[plural], verbs=list(verbs), resource_names=list(names))
            for group, plural, verbs, names in rules
        ]
    )
    binding = rbac.ClusterRoleBinding(
        subjects=[rbac.Subject(kind="User", api_group=rbac.GROUP, name=user.name)],
        role_ref=rbac.RoleRef(api_group=rbac.GROUP, kind="ClusterRole", name=user.name),
    )
    role.metadata.name = binding.metadata.name = user.name
    await admin.create(rbac.CLUSTER_ROLES, role)
    await admin.create(rbac.CLUSTER_ROLE_BINDINGS, binding)


class Approving:
    """What a test does, and what it sees of it."""

    def __init__(self, plane):
        self.plane = plane
        self.clock = plane.clock
        self.admin = plane.client(flow.ADMIN)
        self.told = []

    def kubelet(self, name="n1"):
        return self.plane.client(node_user(name))

    async def register(self, name="n1", *addresses):
        """A kubelet says who it is, and later perhaps something else."""
        wanted = kubelets.node(name, *(addresses or (("Hostname", name), ("InternalIP", "10.0.0.1"))))
        client = self.kubelet(name)
        known = {each.metadata.name for each in (await self.admin.list(nodes.RESOURCE)).items}
        if name not in known:
            return await client.create(nodes.RESOURCE, wanted)
        found = await client.get(nodes.RESOURCE, name)
        found.status.addresses = wanted.status.addresses
        return await client.update(nodes.RESOURCE, found, "status")

    async def ask(self, name="a", user=None, signer=profiles.KUBELET_SERVING, **given):
        """Somebody sends a request, by default node n1; what is no part of the request is one of its spec."""
        spec = {key: given.pop(key) for key in ("usages", "expiration_seconds", "username", "groups") if key in given}
        request = kubelets.pkcs10(**given)
        new = flow.new_csr(name, signer, spec.pop("usages", kubelets.USAGES), request, **spec)
        return await self.plane.client(user or node_user()).create(csrs.RESOURCE, new)

    async def decision(self, name="a"):
        """The first thing that is said about a request: decision and reason."""
        return (await self.explained(name))[:2]

    async def explained(self, name="a", count=1):
        """What is said about a request for the so-manieth time: decision, reason, message."""

        def found():
            about = [each[1:] for each in self.told if each[0] == name]
            return about[count - 1] if len(about) >= count else None

        return await flow.eventually(found)

    async def conditions(self, name="a"):
        found = await self.admin.get(csrs.RESOURCE, name)
        return [(each.type, each.reason) for each in found.status.conditions]


@contextlib.asynccontextmanager
async def approving(said=None, *, resolver=None, inventory=None, before=None):
    """A plane with an approver that was told this; `inventory` is the path of a file. `before` is what happens until
    it starts.
    """
    settings = servingrules.parse({**SAID, **(said or {})})
    async with flow.running() as plane:
        made = Approving(plane)
        await grant(made.admin, ACCOUNT, *RULES)
        if before is not None:
            await before(made)
        client = plane.client(ACCOUNT)
        told = decisions.Decisions(client, plane.clock, plane.telemetry)

        def note(of, decision, reason, message):
            made.told.append((of.metadata.name, decision, reason, message))
            told.note(of, decision, reason, message)

        requests = informer.Informer(client, csrs.RESOURCE, plane.clock)
        machines = informer.Informer(client, nodes.RESOURCE, plane.clock)
        listing = proofs.Inventory(inventory, plane.clock) if inventory is not None else None
        sources = serving.Sources(proofs.Claims(machines), listing, resolver)
        approver = serving.Approver(client, settings, sources, note)
        requests.subscribe(approver.forget)
        figures = plane.telemetry.queue(serving.QUEUE)
        queue = runtime.Queue(plane.clock, figures, first_delay=runtime.CSR_FIRST_DELAY)
        handle = runtime.each(requests, told.following(approver.handle))
        controller = runtime.Controller(serving.NAME, queue, handle, workers=serving.WORKERS)
        controller.follow(requests).follow(machines, approver.concerned)
        running = (told.run(), requests.run(), machines.run(), controller.run(), approver.run(queue))
        tasks = [asyncio.ensure_future(each) for each in running]
        try:
            yield made
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
