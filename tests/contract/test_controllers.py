"""Every controller works in the process of the server and over HTTPS."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import datetime
import functools

import pytest

from certplane import resources, telemetry, testing
from certplane.config import controllernames
from certplane.controllers.approving import signerrules
from certplane.controllers.approving.kubeletserving import approver, rules
from certplane.controllers.cleanup import csrcleaner, podrequestcleaner
from certplane.controllers.publishing import clustertrustbundle, rootcacertpublisher
from certplane.controllers.runtime.eventwriter import EventWriter
from certplane.controllers.signing import signer, signersfile
from certplane.meta import context
from certplane.plane import controllerset
from certplane.plane.controllerconfig import ControllerConfig
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
from certplane.x509 import keys
from certplane.x509.issuance import issue, profiles, selfsigned
from tests import kubelets
from tests.contract import connections
from tests.flow import plane as flow

KUBELET = "kubernetes.io/kube-apiserver-client-kubelet"
NODE = context.User("system:node:n1", groups=("system:nodes", "system:authenticated"))
MANAGER = context.User("system:kube-controller-manager", groups=("system:authenticated",))


def account(name):
    groups = ("system:serviceaccounts", "system:serviceaccounts:kube-system", "system:authenticated")
    return context.User(f"system:serviceaccount:kube-system:{name}", groups=groups)


class Harness:
    """A plane without controllers, and its clients. Controllers run beside it under their own accounts."""

    def __init__(self, server, clock):
        self.server = server
        self.clock = clock
        self.bundle = server.ca.pem.decode()
        self.admin = server.client(flow.ADMIN)


@contextlib.asynccontextmanager
async def run_controllers(transport, tmp_path, enabled, **loaded):
    clock = testing.FakeClock()
    # The plane needs `loaded` too, for the default roles of the controllers.
    config = {"controllers": frozenset(), "kinds": resources.ALL, **loaded}
    async with connections.serve_plane(transport, tmp_path, clock, **config) as server:
        issuer = issue.Issuer(flow.new_authority(clock), datetime.timedelta(days=365))
        harness = Harness(server, clock)
        with concurrent.futures.ThreadPoolExecutor(1) as threads:
            signers = {name: signer.Signer(profile, issuer) for name, profile in profiles.BUILT_IN.items()}
            controller_context = controllerset.ControllerContext(
                config=ControllerConfig(signers=signers, root_ca=harness.bundle, **loaded),
                client=functools.cache(lambda name: server.client(account(name))),
                reader=server.client(MANAGER),
                clock=clock,
                events=EventWriter(server.client(account(controllerset.CERTIFICATE_ACCOUNT)), clock),
                telemetry=telemetry.Telemetry(),
                # `certplane controllers` has no store: the requests themselves hold the records.
                journal=journal.Journal(memory.MemoryStore()) if transport == "in-process" else None,
                threads=threads,
                kinds=resources.ALL,
            )
            runs = controllerset.build_controllers(controller_context, enabled).values()
            tasks = [asyncio.ensure_future(run()) for run in runs]
            try:
                for informer in controller_context.informers.values():
                    await flow.eventually(informer.synced.is_set)
                yield harness
            finally:
                for task in tasks:
                    task.cancel()
                ended = await asyncio.gather(*tasks, return_exceptions=True)
                assert all(isinstance(result, asyncio.CancelledError) for result in ended)


@pytest.fixture(params=connections.TRANSPORTS)
def start(request, tmp_path):
    """Starts controllers by name."""
    return lambda *enabled, **loaded: run_controllers(request.param, tmp_path, enabled, **loaded)


async def deleted(client, kind, name, namespace=""):
    async def is_gone():
        return name not in [obj.metadata.name for obj in (await client.list(kind, namespace)).items]

    await flow.eventually(is_gone)


async def created(client, kind, name, namespace=""):
    async def find():
        return next((obj for obj in (await client.list(kind, namespace)).items if obj.metadata.name == name), None)

    return await flow.eventually(find)


async def test_a_client_certificate_of_a_kubelet_is_approved_and_issued(start):
    """The request is recognized, authorized, approved and signed."""
    enabled = ("certificatesigningrequest-approving-controller", signer.NAME)
    async with start(*enabled) as harness:
        request = flow.pkcs10(NODE.name, ("system:nodes",))
        new = flow.new_csr("a", KUBELET, ("digital signature", "client auth"), request)
        await harness.server.client(NODE).create(csrs.RESOURCE, new)
        assert await flow.issued(harness.admin, "a")


async def test_a_request_that_violates_the_profile_fails(start):
    """The condition Failed has the reason and the violation."""
    async with start(signer.NAME) as harness:
        await harness.admin.create(csrs.RESOURCE, flow.new_csr("a", usages=("server auth",)))
        await flow.decide(harness.admin, "a")

        async def failed():
            csr = await harness.admin.get(csrs.RESOURCE, "a")
            return next((condition for condition in csr.status.conditions if condition.type == csrs.FAILED), None)

        condition = await flow.eventually(failed)
        assert (condition.reason, condition.message) == (
            signer.INVALID,
            "invalid usage for client certificate: server auth",
        )


async def test_a_denied_request_is_deleted(start):
    """An hour after its denial, at the next cleanup."""
    async with start(csrcleaner.NAME) as harness:
        await harness.admin.create(csrs.RESOURCE, flow.new_csr("a"))
        await flow.decide(harness.admin, "a", csrs.DENIED)
        await testing.settle(500)
        await harness.clock.advance(2 * csrcleaner.RULE.interval + 1)
        await deleted(harness.admin, csrs.RESOURCE, "a")


async def test_the_root_ca_is_published_in_every_namespace(start):
    """The ConfigMap is created for a new namespace, and restored when it is changed."""
    async with start(rootcacertpublisher.NAME) as harness:
        namespace = namespaces.Namespace()
        namespace.metadata.name = "home"
        await harness.admin.create(namespaces.RESOURCE, namespace)
        config_map = await created(harness.admin, configmaps.RESOURCE, rootcacertpublisher.CONFIG_MAP, "home")
        assert config_map.data == {"ca.crt": harness.bundle}
        config_map.data = {"ca.crt": "changed"}
        await harness.admin.update(configmaps.RESOURCE, config_map)

        async def repaired():
            return (await harness.admin.get(configmaps.RESOURCE, rootcacertpublisher.CONFIG_MAP, "home")).data == {
                "ca.crt": harness.bundle
            }

        await flow.eventually(repaired)


async def test_the_trust_bundle_is_published_and_earlier_ones_are_deleted(start):
    """Its name is derived from its content. Bundles of other signers are kept."""
    async with start(clustertrustbundle.NAME) as harness:
        earlier = "kubernetes.io:kube-apiserver-serving:earlier"
        for name, signer_name in ((earlier, clustertrustbundle.SIGNER), ("other", "")):
            new = clustertrustbundles.ClusterTrustBundle()
            new.metadata.name = name
            new.spec.signer_name, new.spec.trust_bundle = signer_name, harness.bundle
            await harness.admin.create(clustertrustbundles.RESOURCE, new)
        name = clustertrustbundle.bundle_name(harness.bundle)
        bundle = await created(harness.admin, clustertrustbundles.RESOURCE, name)
        assert (bundle.spec.signer_name, bundle.spec.trust_bundle) == (clustertrustbundle.SIGNER, harness.bundle)
        await deleted(harness.admin, clustertrustbundles.RESOURCE, earlier)
        assert await created(harness.admin, clustertrustbundles.RESOURCE, "other")


async def test_cluster_roles_are_aggregated(start):
    """By their labels."""
    async with start("clusterrole-aggregation-controller") as harness:
        role = rbac.ClusterRole(rules=[rbac.PolicyRule(verbs=["get"], api_groups=["example.com"], resources=["toys"])])
        role.metadata.name = "toys"
        role.metadata.labels = {"rbac.authorization.k8s.io/aggregate-to-view": "true"}
        await harness.admin.create(rbac.CLUSTER_ROLES, role)

        async def aggregated():
            role = await harness.admin.get(rbac.CLUSTER_ROLES, "view")
            return any(rule.resources == ["toys"] for rule in role.rules or ())

        await flow.eventually(aggregated)


async def test_a_namespace_gets_a_service_account_and_is_emptied_before_deletion(start):
    """The account `default` is created in it, and does not block its deletion."""
    async with start("serviceaccount-controller", "namespace-controller") as harness:
        namespace = namespaces.Namespace()
        namespace.metadata.name = "home"
        await harness.admin.create(namespaces.RESOURCE, namespace)
        await created(harness.admin, serviceaccounts.RESOURCE, "default", "home")
        await harness.admin.delete(namespaces.RESOURCE, "home")
        await deleted(harness.admin, namespaces.RESOURCE, "home")


async def test_an_expired_bootstrap_token_is_deleted(start):
    """Without waiting for a periodic cleanup."""
    async with start("token-cleaner-controller") as harness:
        secret = secrets.Secret(type=secrets.BOOTSTRAP_TOKEN)
        secret.metadata.name = "bootstrap-token-abcdef"
        secret.data = {
            "token-id": b"abcdef",
            "token-secret": b"0123456789abcdef",
            "expiration": b"2026-01-01T00:05:00Z",
        }
        await harness.admin.create(secrets.RESOURCE, secret, "kube-system")
        await testing.settle(500)
        await harness.clock.advance(301)
        await deleted(harness.admin, secrets.RESOURCE, "bootstrap-token-abcdef", "kube-system")


async def test_a_pod_certificate_request_is_deleted_after_fifteen_minutes(start):
    """It is kept until then."""
    async with start(podrequestcleaner.NAME) as harness:
        await harness.admin.create(podcertificaterequests.RESOURCE, flow.pod_request(), "default")
        await testing.settle(500)
        await harness.clock.advance(2 * podrequestcleaner.rule(podcertificaterequests.RESOURCE).interval)
        assert await created(harness.admin, podcertificaterequests.RESOURCE, "r", "default")
        await harness.clock.advance(2 * podrequestcleaner.rule(podcertificaterequests.RESOURCE).interval)
        await deleted(harness.admin, podcertificaterequests.RESOURCE, "r", "default")


async def test_an_approval_rule_of_a_custom_signer_approves(start, tmp_path):
    """The CA of that signer issues the certificate."""
    key = keys.generate("ECDSA-P256")
    now = testing.FakeClock().now()
    (tmp_path / "web.crt").write_bytes(selfsigned.self_signed_ca("web", key, now, datetime.timedelta(days=100)))
    (tmp_path / "web.key").touch(mode=0o600)
    (tmp_path / "web.key").write_bytes(keys.to_pem(key))
    (tmp_path / "signers.yaml").write_text(
        "apiVersion: signers.certplane.dev/v1alpha1\nkind: SignerList\nsigners:\n- name: example.com/web\n"
        "  authority: {certFile: web.crt, keyFile: web.key}\n  usages: {allowed: [client auth]}\n"
        "  approval: [{groups: ['system:masters']}]\n"
    )
    signers_file = signersfile.SignersFile(tmp_path / "signers.yaml", datetime.timedelta(days=1))
    signers_file.load()
    async with start(signerrules.NAME, signer.NAME, signers_file=signers_file) as harness:
        await harness.admin.create(csrs.RESOURCE, flow.new_csr("a", "example.com/web"))
        assert (await flow.issued(harness.admin, "a")).issuer.rfc4514_string() == "CN=web"


async def test_proven_names_of_a_kubelet_are_approved(start):
    """By the addresses of its Node, if these are configured as evidence."""
    settings = rules.parse({"sources": ["node"]})
    async with start(approver.NAME, serving_rules=settings) as harness:
        node = nodes.Node()
        node.metadata.name = "n1"
        node = await harness.admin.create(nodes.RESOURCE, node)
        node.status.addresses = [nodes.NodeAddress(type="Hostname", address="n1")]
        await harness.admin.update(nodes.RESOURCE, node, "status")
        request = kubelets.pkcs10(dns=("n1",), ips=())
        new = flow.new_csr("a", "kubernetes.io/kubelet-serving", ("digital signature", "server auth"), request)
        await harness.server.client(NODE).create(csrs.RESOURCE, new)

        async def approved():
            return csrs.is_approved(await harness.admin.get(csrs.RESOURCE, "a"))

        await flow.eventually(approved)


def test_every_controller_has_a_test_here():
    """A new controller needs one, too."""
    known = {
        "certificatesigningrequest-approving-controller",
        signer.NAME,
        csrcleaner.NAME,
        rootcacertpublisher.NAME,
        clustertrustbundle.NAME,
        podrequestcleaner.NAME,
        "signer-rule-approver",
        "kubelet-serving-approver",
        "clusterrole-aggregation-controller",
        "namespace-controller",
        "serviceaccount-controller",
        "token-cleaner-controller",
    }
    assert known == set(controllernames.CONTROLLERS)
