"""Each controller brings about what it is there for: from inside the process, and over HTTPS."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import datetime
import functools

import pytest

from certplane import manager, resources, telemetry, testing
from certplane.config import crew
from certplane.controllers import (
    cleaner,
    podrequestcleaner,
    publisher,
    ruleapprover,
    serving,
    servingrules,
    signer,
    signerfile,
    trustpublisher,
)
from certplane.meta import context
from certplane.resources import certificatesigningrequests as csrs
from certplane.resources import (
    clustertrustbundles,
    configmaps,
    namespaces,
    nodes,
    podcertificaterequests,
    rbac,
    secrets,
    serviceaccounts,
)
from certplane.store import journal, memory
from certplane.x509 import issue, keys, mint, profiles
from tests import kubelets
from tests.contract import doors
from tests.flow import plane as flow

KUBELET = "kubernetes.io/kube-apiserver-client-kubelet"
NODE = context.User("system:node:n1", groups=("system:nodes", "system:authenticated"))
MANAGER = context.User("system:kube-controller-manager", groups=("system:authenticated",))


def account(name):
    groups = ("system:serviceaccounts", "system:serviceaccounts:kube-system", "system:authenticated")
    return context.User(f"system:serviceaccount:kube-system:{name}", groups=groups)


class Crew:
    """Controllers at work on a plane that has none itself, each under its own account."""

    def __init__(self, door, clock):
        self.door = door
        self.clock = clock
        self.bundle = door.ca.pem.decode()
        self.admin = door.client(flow.ADMIN)


@contextlib.asynccontextmanager
async def at_work(kind, tmp_path, enabled, **ours):
    clock = testing.FakeClock()
    # A plane has the roles of our own controllers if it is told what these go by.
    how = {"controllers": frozenset(), "kinds": resources.ALL, **ours}
    async with doors.open_to(kind, tmp_path, clock, **how) as door:
        issuer = issue.Issuer(flow.new_authority(clock), datetime.timedelta(days=365))
        made = Crew(door, clock)
        with concurrent.futures.ThreadPoolExecutor(1) as threads:
            hands = manager.Crew(
                client=functools.cache(lambda name: door.client(account(name))),
                reader=door.client(MANAGER),
                clock=clock,
                telemetry=telemetry.Telemetry(),
                signers={name: signer.Signer(profile, issuer) for name, profile in profiles.BUILT_IN.items()},
                # Abroad there is no store: the requests themselves keep what is to be signed.
                journal=journal.Journal(memory.MemoryStore()) if kind == "inside" else None,
                threads=threads,
                root_ca=made.bundle,
                kinds=resources.ALL,
                **ours,
            )
            tasks = [asyncio.ensure_future(each()) for each in manager.assemble(hands, enabled).values()]
            try:
                for each in hands.followed:
                    await flow.eventually(each.synced.is_set)
                yield made
            finally:
                for task in tasks:
                    task.cancel()
                ended = await asyncio.gather(*tasks, return_exceptions=True)
                assert not [each for each in ended if not isinstance(each, asyncio.CancelledError)]


@pytest.fixture(params=doors.KINDS)
def working(request, tmp_path):
    """Controllers by name, at work."""
    return lambda *enabled, **ours: at_work(request.param, tmp_path, enabled, **ours)


async def gone(client, kind, name, namespace=""):
    async def is_gone():
        return name not in [each.metadata.name for each in (await client.list(kind, namespace)).items]

    await flow.eventually(is_gone)


async def there(client, kind, name, namespace=""):
    async def find():
        return next((each for each in (await client.list(kind, namespace)).items if each.metadata.name == name), None)

    return await flow.eventually(find)


async def test_a_kubelets_request_is_approved_and_issued(working):
    """Recognised, asked about, approved, signed."""
    enabled = ("certificatesigningrequest-approving-controller", signer.NAME)
    async with working(*enabled) as crew_:
        request = flow.pkcs10(NODE.name, ("system:nodes",))
        new = flow.new_csr("a", KUBELET, ("digital signature", "client auth"), request)
        await crew_.door.client(NODE).create(csrs.RESOURCE, new)
        assert await flow.issued(crew_.admin, "a")


async def test_a_request_that_its_signer_does_not_permit_fails(working):
    """With the condition that says so."""
    async with working(signer.NAME) as crew_:
        await crew_.admin.create(csrs.RESOURCE, flow.new_csr("a", usages=("server auth",)))
        await flow.decide(crew_.admin, "a")

        async def failed():
            found = await crew_.admin.get(csrs.RESOURCE, "a")
            return next((each for each in found.status.conditions if each.type == csrs.FAILED), None)

        condition = await flow.eventually(failed)
        assert (condition.reason, condition.message) == (
            signer.INVALID,
            "invalid usage for client certificate: server auth",
        )


async def test_what_is_done_with_is_deleted(working):
    """A denied request after an hour, at the next look."""
    async with working(cleaner.NAME) as crew_:
        await crew_.admin.create(csrs.RESOURCE, flow.new_csr("a"))
        await flow.decide(crew_.admin, "a", csrs.DENIED)
        await testing.settle(500)
        await crew_.clock.advance(2 * cleaner.INTERVAL + 1)
        await gone(crew_.admin, csrs.RESOURCE, "a")


async def test_the_root_ca_is_published(working):
    """In a namespace as soon as there is one, and again when it is spoiled."""
    async with working(publisher.NAME) as crew_:
        made = namespaces.Namespace()
        made.metadata.name = "home"
        await crew_.admin.create(namespaces.RESOURCE, made)
        found = await there(crew_.admin, configmaps.RESOURCE, publisher.MAP, "home")
        assert found.data == {"ca.crt": crew_.bundle}
        found.data = {"ca.crt": "spoiled"}
        await crew_.admin.update(configmaps.RESOURCE, found)

        async def mended():
            return (await crew_.admin.get(configmaps.RESOURCE, publisher.MAP, "home")).data == {"ca.crt": crew_.bundle}

        await flow.eventually(mended)


async def test_the_trust_bundle_is_published_and_former_ones_are_removed(working):
    """Under a name made of its content."""
    async with working(trustpublisher.NAME) as crew_:
        former = "kubernetes.io:kube-apiserver-serving:former"
        for name, signer_name in ((former, trustpublisher.SIGNER), ("other", "")):
            new = clustertrustbundles.ClusterTrustBundle()
            new.metadata.name = name
            new.spec.signer_name, new.spec.trust_bundle = signer_name, crew_.bundle
            await crew_.admin.create(clustertrustbundles.RESOURCE, new)
        name = trustpublisher.name_of(crew_.bundle)
        found = await there(crew_.admin, clustertrustbundles.RESOURCE, name)
        assert (found.spec.signer_name, found.spec.trust_bundle) == (trustpublisher.SIGNER, crew_.bundle)
        await gone(crew_.admin, clustertrustbundles.RESOURCE, former)
        assert await there(crew_.admin, clustertrustbundles.RESOURCE, "other")


async def test_roles_are_aggregated(working):
    """By their labels."""
    async with working("clusterrole-aggregation-controller") as crew_:
        role = rbac.ClusterRole(rules=[rbac.PolicyRule(verbs=["get"], api_groups=["example.com"], resources=["toys"])])
        role.metadata.name = "toys"
        role.metadata.labels = {"rbac.authorization.k8s.io/aggregate-to-view": "true"}
        await crew_.admin.create(rbac.CLUSTER_ROLES, role)

        async def collected():
            found = await crew_.admin.get(rbac.CLUSTER_ROLES, "view")
            return any(each.resources == ["toys"] for each in found.rules or ())

        await flow.eventually(collected)


async def test_a_namespace_has_its_account_and_is_emptied_in_the_end(working):
    """From its first moment to its last."""
    async with working("serviceaccount-controller", "namespace-controller") as crew_:
        made = namespaces.Namespace()
        made.metadata.name = "home"
        await crew_.admin.create(namespaces.RESOURCE, made)
        await there(crew_.admin, serviceaccounts.RESOURCE, "default", "home")
        await crew_.admin.delete(namespaces.RESOURCE, "home")
        await gone(crew_.admin, namespaces.RESOURCE, "home")


async def test_a_token_that_is_over_is_deleted(working):
    """When it is over, not later."""
    async with working("token-cleaner-controller") as crew_:
        made = secrets.Secret(type=secrets.BOOTSTRAP_TOKEN)
        made.metadata.name = "bootstrap-token-abcdef"
        made.data = {
            "token-id": b"abcdef",
            "token-secret": b"0123456789abcdef",
            "expiration": b"2026-01-01T00:05:00Z",
        }
        await crew_.admin.create(secrets.RESOURCE, made, "kube-system")
        await testing.settle(500)
        await crew_.clock.advance(301)
        await gone(crew_.admin, secrets.RESOURCE, "bootstrap-token-abcdef", "kube-system")


async def test_a_pods_request_is_deleted_after_a_while(working):
    """A quarter of an hour, whatever became of it."""
    async with working(podrequestcleaner.NAME) as crew_:
        await crew_.admin.create(podcertificaterequests.RESOURCE, flow.pod_request(), "default")
        await testing.settle(500)
        await crew_.clock.advance(2 * podrequestcleaner.INTERVAL)
        assert await there(crew_.admin, podcertificaterequests.RESOURCE, "r", "default")
        await crew_.clock.advance(2 * podrequestcleaner.INTERVAL)
        await gone(crew_.admin, podcertificaterequests.RESOURCE, "r", "default")


async def test_a_rule_of_a_signer_approves(working, tmp_path):
    """Of one that users declare."""
    key = keys.generate("ECDSA-P256")
    now = testing.FakeClock().now()
    (tmp_path / "web.crt").write_bytes(mint.self_signed_ca("web", key, now, datetime.timedelta(days=100)))
    (tmp_path / "web.key").touch(mode=0o600)
    (tmp_path / "web.key").write_bytes(keys.to_pem(key))
    (tmp_path / "signers.yaml").write_text(
        "apiVersion: signers.certplane.dev/v1alpha1\nkind: SignerList\nsigners:\n- name: example.com/web\n"
        "  authority: {certFile: web.crt, keyFile: web.key}\n  usages: {allowed: [client auth]}\n"
        "  approval: [{groups: ['system:masters']}]\n"
    )
    declared = signerfile.SignerFile(tmp_path / "signers.yaml", datetime.timedelta(days=1))
    declared.load()
    async with working(ruleapprover.NAME, signer.NAME, declared=declared) as crew_:
        await crew_.admin.create(csrs.RESOURCE, flow.new_csr("a", "example.com/web"))
        assert (await flow.issued(crew_.admin, "a")).issuer.rfc4514_string() == "CN=web"


async def test_a_kubelets_proven_names_are_approved(working):
    """By what its Node says, where that is enough."""
    rules = servingrules.parse({"sources": ["node"]})
    async with working(serving.NAME, serving=rules) as crew_:
        machine = nodes.Node()
        machine.metadata.name = "n1"
        made = await crew_.admin.create(nodes.RESOURCE, machine)
        made.status.addresses = [nodes.NodeAddress(type="Hostname", address="n1")]
        await crew_.admin.update(nodes.RESOURCE, made, "status")
        request = kubelets.pkcs10(dns=("n1",), ips=())
        new = flow.new_csr("a", "kubernetes.io/kubelet-serving", ("digital signature", "server auth"), request)
        await crew_.door.client(NODE).create(csrs.RESOURCE, new)

        async def approved():
            return csrs.is_approved(await crew_.admin.get(csrs.RESOURCE, "a"))

        await flow.eventually(approved)


def test_every_controller_is_looked_at():
    """One that is new has to come here, too."""
    known = {
        "certificatesigningrequest-approving-controller",
        signer.NAME,
        cleaner.NAME,
        publisher.NAME,
        trustpublisher.NAME,
        podrequestcleaner.NAME,
        "signer-rule-approver",
        "kubelet-serving-approver",
        "clusterrole-aggregation-controller",
        "namespace-controller",
        "serviceaccount-controller",
        "token-cleaner-controller",
    }
    assert known == set(crew.CONTROLLERS)
