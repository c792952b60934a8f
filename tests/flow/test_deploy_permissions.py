"""The roles in deploy/ are minimal: the controllers work with them, and not if any item is missing.

`certplane controllers` runs against a plane in process, as the service account of deploy/base, under the plane's RBAC.
The tests make the controllers do all their work, and record what was forbidden.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import dataclasses
import datetime
import json

import pytest
import yaml

from certplane import errors, resources, signernames, testing
from certplane.client import api
from certplane.config import controllersettings
from certplane.controllers.approving.kubeletserving import approver
from certplane.controllers.cleanup import podrequestcleaner
from certplane.controllers.publishing import clustertrustbundle, rootcacertpublisher
from certplane.meta import context
from certplane.plane import controllerconfig, controllers
from certplane.resources import certificatesigningrequests as csrs
from certplane.resources import clustertrustbundles as bundles
from certplane.resources import configmaps, events, leases, namespaces, nodes, rbac
from certplane.resources import podcertificaterequests as pcrs
from certplane.store import memory
from certplane.wire import codec
from certplane.x509 import keys
from certplane.x509.issuance import selfsigned
from tests.flow import plane as flow
from tests.house import manifests

NAMESPACE = "certplane"
ACCOUNT = context.User(
    f"system:serviceaccount:{NAMESPACE}:certplane-controllers",
    groups=("system:serviceaccounts", f"system:serviceaccounts:{NAMESPACE}", "system:authenticated"),
)
KINDS = {kind.kind: kind for kind in (*rbac.RESOURCES, namespaces.RESOURCE)}
NODE = ("system:node:a", ("system:nodes",))
#: May create any request, and approve none.
CREATOR = testing.user("creator")
LEASE = "certplane-controllers"


# --- roles ------------------------------------------------------------------------------------------------------------


BASE = [document for document in manifests.kustomized(manifests.DEPLOY / "base") if document["kind"] in KINDS]


def _component(name):
    return list(yaml.safe_load_all((manifests.DEPLOY / "components" / name / "rbac.yaml").read_text("utf-8")))


@dataclasses.dataclass(frozen=True)
class RoleItem:
    """One item in one list of one rule of a role, with the kind and name of the role."""

    role: tuple[str, str]
    rule: int
    field: str
    item: str

    def __str__(self):
        return "-".join((*self.role, str(self.rule), self.item or "core"))


def _role(document):
    return document["kind"], document["metadata"]["name"]


def _role_items(roles):
    return [
        RoleItem(_role(role), position, field, item)
        for role in roles
        for position, rule in enumerate(role.get("rules", ()))
        for field, values in rule.items()
        for item in values
    ]


def _without(roles, removed):
    """The same roles without one item. A rule with an empty list is removed, because no names would mean all names."""
    less = copy.deepcopy(roles)
    for role in less:
        if _role(role) == removed.role:
            rule = role["rules"][removed.rule]
            rule[removed.field].remove(removed.item)
            if not rule[removed.field]:
                del role["rules"][removed.rule]
    return less


# --- the controllers --------------------------------------------------------------------------------------------------


class Recorder:
    """A transport that records Forbidden errors."""

    def __init__(self, transport):
        self._transport = transport
        self.forbidden = []

    async def send(self, request):
        answer = await self._transport.send(request)
        if answer.status == 403:
            self.forbidden.append(json.loads(answer.body)["message"])
        return answer

    @contextlib.asynccontextmanager
    async def stream(self, request):
        async with self._transport.stream(request) as answer:
            if answer.status == 403:
                self.forbidden.append(f"watch {request.path}")
            yield answer


@dataclasses.dataclass(frozen=True)
class Cluster:
    """A plane without controllers, an administrator's client, and what was forbidden to the tested controllers."""

    plane: object
    admin: api.Client
    forbidden: list[str]

    async def until(self, condition):
        """Wait until a condition holds, or something was forbidden."""

        async def is_done():
            return self.forbidden or await condition()

        await flow.eventually(is_done)


def _new_ca():
    """The key of a new CA, and its certificate in PEM."""
    key = keys.generate("ECDSA-P256")
    return key, selfsigned.self_signed_ca("kubernetes", key, testing.FakeClock().now(), datetime.timedelta(days=3650))


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    """A directory with a CA, as a Secret is mounted."""
    directory = tmp_path_factory.mktemp("ca")
    key, certificate = _new_ca()
    (directory / "tls.crt").write_bytes(certificate)
    (directory / "tls.key").touch(mode=0o600)
    (directory / "tls.key").write_bytes(keys.to_pem(key))
    return directory


@contextlib.asynccontextmanager
async def _cluster(roles, settings):
    store, clock = memory.MemoryStore(), testing.FakeClock(testing.FakeClock().now() + datetime.timedelta(seconds=3601))
    options = {"kinds": resources.ALL, "controllers": frozenset()}
    async with flow.running(store, **options) as plane:
        await _create_old_requests(plane.client(flow.ADMIN))
    async with flow.running(store, clock, **options) as plane:
        admin = plane.client(flow.ADMIN)
        for role in roles:
            kind = KINDS[role["kind"]]
            await admin.create(kind, codec.decode(json.dumps(role), kind.type), role["metadata"].get("namespace", ""))
        recorder = Recorder(plane.client(ACCOUNT).transport)
        command = controllersettings.read({}, settings)
        config = controllerconfig.load_controllers(command.controllers, root_ca=_new_ca()[1].decode())
        runner = controllers.ControllerRunner(command, config, recorder, plane.clock)
        working = asyncio.ensure_future(runner.run())
        try:
            yield Cluster(plane, admin, recorder.forbidden)
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
    await store.close()


async def _create_old_requests(admin):
    """A denied CertificateSigningRequest, and a PodCertificateRequest."""
    await admin.create(csrs.RESOURCE, flow.new_csr("denied"))
    await flow.decide(admin, "denied", csrs.DENIED)
    await admin.create(pcrs.RESOURCE_V1, flow.pod_request(), "default")


# --- the work of the controllers --------------------------------------------------------------------------------------


async def _ask(cluster, name, signer_name, usages, request):
    await cluster.admin.create(csrs.RESOURCE, flow.new_csr(name, signer_name, usages, request))


async def _until_issued(cluster, name):
    async def issued():
        return (await cluster.admin.get(csrs.RESOURCE, name)).status.certificate

    await cluster.until(issued)


async def approves_kubelets(cluster):
    """A kubelet's client certificate is approved after a SubjectAccessReview, and signed."""
    usages = ["digital signature", "client auth"]
    await _ask(cluster, "kubelet", signernames.KUBE_APISERVER_CLIENT_KUBELET, usages, flow.pkcs10(*NODE))
    await _until_issued(cluster, "kubelet")


async def signs_for_users(cluster):
    """Approved requests are signed."""
    await _ask(cluster, "jane", signernames.KUBE_APISERVER_CLIENT, ["client auth"], flow.pkcs10("jane"))
    await flow.decide(cluster.admin, "jane")
    await _until_issued(cluster, "jane")


async def signs_serving_certificates(cluster):
    """Serving certificates of kubelets are signed."""
    usages = ["digital signature", "server auth"]
    await _ask(cluster, "serving", signernames.KUBELET_SERVING, usages, _serving_request())
    await flow.decide(cluster.admin, "serving")
    await _until_issued(cluster, "serving")


async def approves_serving_certificates(cluster):
    """They are approved if the Node object has the names."""
    machine = nodes.Node()
    machine.metadata.name = NODE[0].removeprefix("system:node:")
    node = await cluster.admin.create(nodes.RESOURCE, machine)
    node.status.addresses = [nodes.NodeAddress(type="Hostname", address="a")]
    await cluster.admin.update(nodes.RESOURCE, node, "status")
    csr = flow.new_csr("proven", signernames.KUBELET_SERVING, ["digital signature", "server auth"], _serving_request())
    user = context.User(NODE[0], groups=(*NODE[1], "system:authenticated"))
    await cluster.plane.client(user).create(csrs.RESOURCE, csr)

    async def approved():
        return csrs.is_approved(await cluster.admin.get(csrs.RESOURCE, "proven"))

    await cluster.until(approved)


async def fails(cluster):
    """A request that the signer does not permit fails."""
    await _ask(cluster, "wrong", signernames.KUBE_APISERVER_CLIENT, ["server auth"], flow.pkcs10("jane"))
    await flow.decide(cluster.admin, "wrong")

    async def failed():
        csr = await cluster.admin.get(csrs.RESOURCE, "wrong")
        return any(condition.type == csrs.FAILED for condition in csr.status.conditions)

    await cluster.until(failed)


async def cleans_up(cluster):
    """A request that was denied an hour ago is deleted."""
    await cluster.until(lambda: _is_gone(cluster.admin, csrs.RESOURCE, "denied"))


async def cleans_up_after_pods(cluster):
    """An old PodCertificateRequest is deleted."""
    await cluster.until(lambda: _is_gone(cluster.admin, pcrs.RESOURCE_V1, "r", "default"))


async def elects(cluster):
    """A replica acquires the lease, and renews it."""

    async def renewed():
        with contextlib.suppress(errors.NotFound):
            return (await cluster.admin.get(leases.RESOURCE, LEASE, NAMESPACE)).spec.renew_time
        return None

    await cluster.until(renewed)
    taken = await renewed()
    await cluster.plane.clock.advance(5)

    async def renewed_again():
        return await renewed() != taken

    await cluster.until(renewed_again)


async def writes_events(cluster):
    """A request that is not approved automatically gets an Event, whose count grows while it is pending."""
    await cluster.plane.bind("system:node-bootstrapper", CREATOR)
    usages = ["digital signature", "client auth"]
    signer_name = signernames.KUBE_APISERVER_CLIENT_KUBELET
    request = flow.new_csr("unproven", signer_name, usages, flow.pkcs10(*NODE))
    await cluster.plane.client(CREATOR).create(csrs.RESOURCE, request)

    async def is_reported(times):
        items = (await cluster.admin.list(events.RESOURCE, "default")).items
        return any(event.involved_object.name == "unproven" and event.count >= times for event in items)

    await cluster.until(lambda: is_reported(1))
    # Retries back off, and Events about them are written every few minutes.
    await cluster.plane.clock.advance(900)
    await cluster.until(lambda: is_reported(2))


async def publishes_the_root_ca(cluster):
    """The CA certificate is published in every namespace, and restored after changes."""

    async def published():
        with contextlib.suppress(errors.NotFound):
            return (await cluster.admin.get(configmaps.RESOURCE, rootcacertpublisher.CONFIG_MAP, "default")).data
        return None

    await cluster.until(published)
    if not cluster.forbidden:
        config_map = await cluster.admin.get(configmaps.RESOURCE, rootcacertpublisher.CONFIG_MAP, "default")
        config_map.data = {}
        await cluster.admin.update(configmaps.RESOURCE, config_map)
        await cluster.until(published)


async def publishes_trust(cluster):
    """The CA is published as a ClusterTrustBundle and restored; other bundles of the signer are deleted."""
    other = bundles.ClusterTrustBundle()
    other.metadata.name = f"{clustertrustbundle.SIGNER.replace('/', ':')}:other"
    other.spec.signer_name, other.spec.trust_bundle = clustertrustbundle.SIGNER, _new_ca()[1].decode()
    await cluster.admin.create(bundles.RESOURCE, other)

    async def published():
        items = (await cluster.admin.list(bundles.RESOURCE)).items
        return [bundle for bundle in items if bundle.metadata.name != other.metadata.name]

    await cluster.until(published)
    if not cluster.forbidden:
        (published_bundle,) = await published()
        right, published_bundle.spec.trust_bundle = published_bundle.spec.trust_bundle, other.spec.trust_bundle
        await cluster.admin.update(bundles.RESOURCE, published_bundle)

        async def restored():
            return [bundle.spec.trust_bundle for bundle in await published()] == [right]

        await cluster.until(restored)
        await cluster.until(lambda: _is_gone(cluster.admin, bundles.RESOURCE, other.metadata.name))


async def _is_gone(client, kind, name, namespace=""):
    try:
        await client.get(kind, name, namespace)
    except errors.NotFound:
        return True
    return False


def _serving_request():
    return flow.pkcs10(*NODE, dns=("a",))


#: The quickest first, because a test ends at the first Forbidden error.
WORK = (elects, cleans_up, approves_kubelets, signs_for_users, signs_serving_certificates, fails, writes_events)
#: For each component the controller, and its flow.
COMPONENTS = {
    "serving-approver": (approver.NAME, approves_serving_certificates),
    "root-ca-publisher": (rootcacertpublisher.NAME, publishes_the_root_ca),
    "trust-bundle-publisher": (clustertrustbundle.NAME, publishes_trust),
    "pod-request-cleaner": (podrequestcleaner.NAME, cleans_up_after_pods),
}


async def _forbidden(roles, authority, names, work):
    """The first Forbidden error, if there is one, while controllers run with these roles."""
    settings = {
        "controllers": list(names),
        "leader-elect-resource-namespace": NAMESPACE,
        "cluster-signing-cert-file": str(authority / "tls.crt"),
        "cluster-signing-key-file": str(authority / "tls.key"),
    }
    if approver.NAME in names:
        (authority / "rules.yaml").write_text("sources: [node]\n")
        settings["serving-approver"] = str(authority / "rules.yaml")
    async with _cluster(roles, settings) as cluster:
        for step in work:
            await step(cluster)
            if cluster.forbidden:
                break
        return cluster.forbidden


def _settings():
    """The controllers of deploy/base."""
    return yaml.safe_load((manifests.DEPLOY / "base/config.yaml").read_text("utf-8"))["controllers"]


async def test_base_roles_are_sufficient(authority):
    """With the roles of deploy/base, its controllers work and nothing is forbidden."""
    assert [] == await _forbidden(BASE, authority, _settings(), WORK)


@pytest.mark.parametrize("item", _role_items(BASE), ids=str)
async def test_base_roles_are_minimal(item, authority):
    """If any item of these roles is missing, something is forbidden."""
    assert await _forbidden(_without(BASE, item), authority, _settings(), WORK)


@pytest.mark.parametrize("component", COMPONENTS)
async def test_component_roles_are_sufficient(component, authority):
    """With the roles of a component as well, its controller works and nothing is forbidden."""
    name, work = COMPONENTS[component]
    assert [] == await _forbidden(BASE + _component(component), authority, [name], [work])


@pytest.mark.parametrize(
    ("component", "item"),
    [(name, item) for name in COMPONENTS for item in _role_items(_component(name))],
    ids=str,
)
async def test_component_roles_are_minimal(component, item, authority):
    """If any item of the roles of a component is missing, something is forbidden."""
    name, work = COMPONENTS[component]
    assert await _forbidden(BASE + _without(_component(component), item), authority, [name], [work])
