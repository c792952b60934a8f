"""The roles in deploy/ are what the controllers need: all goes well with them, and not without any word of them.

What `certplane controllers` does is done against a plane in the process, as the service account of deploy/base, under
the plane's RBAC. The controllers are taken through all that they do; what was forbidden them meanwhile is written down.
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
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from certplane import errors, inside, resources, testing
from certplane.client import api
from certplane.config import controllers
from certplane.controllers import podrequestcleaner, publisher, serving, trustpublisher
from certplane.meta import codec, context
from certplane.resources import certificatesigningrequests as csrs
from certplane.resources import clustertrustbundles as bundles
from certplane.resources import configmaps, events, leases, namespaces, nodes, rbac
from certplane.resources import podcertificaterequests as pcrs
from certplane.store import memory
from certplane.x509 import keys, mint, profiles
from tests.flow import plane as flow
from tests.house import manifests

NAMESPACE = "certplane"
ACCOUNT = context.User(
    f"system:serviceaccount:{NAMESPACE}:certplane-controllers",
    groups=("system:serviceaccounts", f"system:serviceaccounts:{NAMESPACE}", "system:authenticated"),
)
KINDS = {each.kind: each for each in (*rbac.RESOURCES, namespaces.RESOURCE)}
NODE = ("system:node:a", ("system:nodes",))
#: May ask for what it likes, and has nothing approved.
MAKER = context.User("maker", groups=("system:authenticated",))
LEASE = "certplane-controllers"


# --- roles --------------------------------------------------------------------------------------------------------


BASE = [each for each in manifests.kustomized(manifests.DEPLOY / "base") if each["kind"] in KINDS]


def _component(name):
    return list(yaml.safe_load_all((manifests.DEPLOY / "components" / name / "rbac.yaml").read_text("utf-8")))


@dataclasses.dataclass(frozen=True)
class Word:
    """One word of one list of one rule of a role, of which the kind and the name are given."""

    role: tuple[str, str]
    rule: int
    field: str
    word: str

    def __str__(self):
        return "-".join((*self.role, str(self.rule), self.word or "core"))


def _role(of):
    return of["kind"], of["metadata"]["name"]


def _words(roles):
    return [
        Word(_role(each), position, field, word)
        for each in roles
        for position, rule in enumerate(each.get("rules", ()))
        for field, words in rule.items()
        for word in words
    ]


def _without(roles, of):
    """The same roles, with a word less. A rule whose list is empty then goes: no names would be all names."""
    less = copy.deepcopy(roles)
    for each in less:
        if _role(each) == of.role:
            rule = each["rules"][of.rule]
            rule[of.field].remove(of.word)
            if not rule[of.field]:
                del each["rules"][of.rule]
    return less


# --- the controllers ----------------------------------------------------------------------------------------------


class Recorder:
    """A transport that writes down what was forbidden."""

    def __init__(self, transport):
        self._transport = transport
        self.forbidden = []

    async def request(self, method, path, **more):
        answer = await self._transport.request(method, path, **more)
        if answer.status == 403:
            self.forbidden.append(json.loads(answer.body)["message"])
        return answer

    @contextlib.asynccontextmanager
    async def stream(self, method, path, **more):
        async with self._transport.stream(method, path, **more) as answer:
            if answer.status == 403:
                self.forbidden.append(f"watch {path}")
            yield answer


@dataclasses.dataclass(frozen=True)
class Cluster:
    """A plane whose own controllers rest, an administrator's client, and what was forbidden those that work."""

    plane: object
    admin: api.Client
    forbidden: list[str]

    async def until(self, condition):
        """Wait until it has come to that, or something was forbidden."""

        async def happened():
            return self.forbidden or await condition()

        await flow.eventually(happened)


def _anchor():
    key = keys.generate("ECDSA-P256")
    return key, mint.self_signed_ca("kubernetes", key, testing.FakeClock().now(), datetime.timedelta(days=3650))


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    """A directory with a CA, as a Secret is mounted."""
    directory = tmp_path_factory.mktemp("ca")
    key, certificate = _anchor()
    form = serialization.PrivateFormat.PKCS8
    (directory / "tls.crt").write_bytes(certificate)
    (directory / "tls.key").touch(mode=0o600)
    (directory / "tls.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    )
    return directory


@contextlib.asynccontextmanager
async def _cluster(roles, said):
    store, clock = memory.MemoryStore(), testing.FakeClock(testing.FakeClock().now() + datetime.timedelta(seconds=3601))
    how = {"kinds": resources.ALL, "controllers": frozenset()}
    async with flow.running(store, **how) as plane:
        await _an_hour_ago(plane.client(flow.ADMIN))
    async with flow.running(store, clock, **how) as plane:
        admin = plane.client(flow.ADMIN)
        for each in roles:
            kind = KINDS[each["kind"]]
            await admin.create(kind, codec.decode(json.dumps(each), kind.type), each["metadata"].get("namespace", ""))
        recorder = Recorder(plane.client(ACCOUNT)._transport)
        work = inside._Work(controllers.settings({}, said), recorder, plane.clock)
        working = asyncio.ensure_future(work.run(_anchor()[1].decode()))
        try:
            yield Cluster(plane, admin, recorder.forbidden)
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
    await store.close()


async def _an_hour_ago(admin):
    """A request was denied, and a pod's was made."""
    await admin.create(csrs.RESOURCE, flow.new_csr("denied"))
    await flow.decide(admin, "denied", csrs.DENIED)
    await admin.create(pcrs.RESOURCE_V1, _pod_request(), "default")


# --- what they do -------------------------------------------------------------------------------------------------


async def _ask(of, name, signer_name, usages, request):
    await of.admin.create(csrs.RESOURCE, flow.new_csr(name, signer_name, usages, request))


async def _until_issued(of, name):
    async def issued():
        return (await of.admin.get(csrs.RESOURCE, name)).status.certificate

    await of.until(issued)


async def approves_kubelets(of):
    """A kubelet's client certificate is approved after a SubjectAccessReview, and signed."""
    usages = ["digital signature", "client auth"]
    await _ask(of, "kubelet", profiles.KUBE_APISERVER_CLIENT_KUBELET, usages, flow.pkcs10(*NODE))
    await _until_issued(of, "kubelet")


async def signs_for_people(of):
    """What somebody has approved is signed."""
    await _ask(of, "jane", profiles.KUBE_APISERVER_CLIENT, ["client auth"], flow.pkcs10("jane"))
    await flow.decide(of.admin, "jane")
    await _until_issued(of, "jane")


async def signs_serving_certificates(of):
    """So is what a kubelet serves with."""
    usages = ["digital signature", "server auth"]
    await _ask(of, "serving", profiles.KUBELET_SERVING, usages, _serving_request())
    await flow.decide(of.admin, "serving")
    await _until_issued(of, "serving")


async def approves_serving_certificates(of):
    """It is approved without a person, if the node's own object has the names."""
    machine = nodes.Node()
    machine.metadata.name = NODE[0].removeprefix("system:node:")
    made = await of.admin.create(nodes.RESOURCE, machine)
    made.status.addresses = [nodes.NodeAddress(type="Hostname", address="a")]
    await of.admin.update(nodes.RESOURCE, made, "status")
    new = flow.new_csr("proven", profiles.KUBELET_SERVING, ["digital signature", "server auth"], _serving_request())
    user = context.User(NODE[0], groups=(*NODE[1], "system:authenticated"))
    await of.plane.client(user).create(csrs.RESOURCE, new)

    async def approved():
        return csrs.is_approved(await of.admin.get(csrs.RESOURCE, "proven"))

    await of.until(approved)


async def fails(of):
    """What a signer does not permit fails."""
    await _ask(of, "wrong", profiles.KUBE_APISERVER_CLIENT, ["server auth"], flow.pkcs10("jane"))
    await flow.decide(of.admin, "wrong")

    async def failed():
        found = await of.admin.get(csrs.RESOURCE, "wrong")
        return any(each.type == csrs.FAILED for each in found.status.conditions)

    await of.until(failed)


async def cleans_up(of):
    """What was refused an hour ago is deleted."""
    await of.until(lambda: _is_gone(of.admin, csrs.RESOURCE, "denied"))


async def cleans_up_after_pods(of):
    """So is what a pod asked for a while ago."""
    await of.until(lambda: _is_gone(of.admin, pcrs.RESOURCE_V1, "pod", "default"))


async def elects(of):
    """A copy takes the lease, and renews it."""

    async def renewed():
        with contextlib.suppress(errors.NotFound):
            return (await of.admin.get(leases.RESOURCE, LEASE, NAMESPACE)).spec.renew_time
        return None

    await of.until(renewed)
    taken = await renewed()
    await of.plane.clock.advance(5)

    async def renewed_again():
        return await renewed() != taken

    await of.until(renewed_again)


async def tells(of):
    """That nobody approves a request is told as an Event on it, and counted up as long as it is so."""
    binding = rbac.ClusterRoleBinding(
        subjects=[rbac.Subject(kind="User", api_group=rbac.GROUP, name=MAKER.name)],
        role_ref=rbac.RoleRef(api_group=rbac.GROUP, kind="ClusterRole", name="system:node-bootstrapper"),
    )
    binding.metadata.name = "maker"
    await of.admin.create(rbac.CLUSTER_ROLE_BINDINGS, binding)
    usages = ["digital signature", "client auth"]
    signer_name = profiles.KUBE_APISERVER_CLIENT_KUBELET
    request = flow.new_csr("unproven", signer_name, usages, flow.pkcs10(*NODE))
    await of.plane.client(MAKER).create(csrs.RESOURCE, request)

    async def told(times):
        found = (await of.admin.list(events.RESOURCE, "default")).items
        return any(each.involved_object.name == "unproven" and each.count >= times for each in found)

    await of.until(lambda: told(1))
    # Retries come later and later, and Events about them every few minutes.
    await of.plane.clock.advance(900)
    await of.until(lambda: told(2))


async def publishes_the_root_ca(of):
    """The CA's certificate gets into every namespace, and is mended there."""

    async def published():
        with contextlib.suppress(errors.NotFound):
            return (await of.admin.get(configmaps.RESOURCE, publisher.MAP, "default")).data
        return None

    await of.until(published)
    if not of.forbidden:
        found = await of.admin.get(configmaps.RESOURCE, publisher.MAP, "default")
        found.data = {}
        await of.admin.update(configmaps.RESOURCE, found)
        await of.until(published)


async def publishes_trust(of):
    """The CA is published as a bundle of trust, which is mended, and others of the same signer are deleted."""
    other = bundles.ClusterTrustBundle()
    other.metadata.name = f"{trustpublisher.SIGNER.replace('/', ':')}:other"
    other.spec.signer_name, other.spec.trust_bundle = trustpublisher.SIGNER, _anchor()[1].decode()
    await of.admin.create(bundles.RESOURCE, other)

    async def published():
        found = (await of.admin.list(bundles.RESOURCE)).items
        return [each for each in found if each.metadata.name != other.metadata.name]

    await of.until(published)
    if not of.forbidden:
        (found,) = await published()
        right, found.spec.trust_bundle = found.spec.trust_bundle, other.spec.trust_bundle
        await of.admin.update(bundles.RESOURCE, found)

        async def mended():
            return [each.spec.trust_bundle for each in await published()] == [right]

        await of.until(mended)
        await of.until(lambda: _is_gone(of.admin, bundles.RESOURCE, other.metadata.name))


async def _is_gone(client, kind, name, namespace=""):
    try:
        await client.get(kind, name, namespace)
    except errors.NotFound:
        return True
    return False


def _serving_request():
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, NODE[1][0]), x509.NameAttribute(NameOID.COMMON_NAME, NODE[0])]
    )
    names = x509.SubjectAlternativeName([x509.DNSName("a")])
    made = x509.CertificateSigningRequestBuilder().subject_name(name).add_extension(names, critical=False)
    return made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _pod_request():
    key = ec.generate_private_key(ec.SECP256R1())
    stub = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    made = pcrs.PodCertificateRequest(
        spec=pcrs.PodCertificateRequestSpec(
            signer_name="example.com/pods", pod_name="p", pod_uid="1", service_account_name="default",
            service_account_uid="2", node_name="a", node_uid="3",
            stub_pkcs10_request=stub.public_bytes(serialization.Encoding.DER),
        )
    )  # fmt: skip
    made.metadata.name = "pod"
    return made


#: The quickest first: the first thing that is forbidden ends it.
WORK = (elects, cleans_up, approves_kubelets, signs_for_people, signs_serving_certificates, fails, tells)
#: Of each component the controller, and what that does.
COMPONENTS = {
    "serving-approver": (serving.NAME, approves_serving_certificates),
    "root-ca-publisher": (publisher.NAME, publishes_the_root_ca),
    "trust-bundle-publisher": (trustpublisher.NAME, publishes_trust),
    "pod-request-cleaner": (podrequestcleaner.NAME, cleans_up_after_pods),
}


async def _forbidden(roles, authority, names, work):
    """What is forbidden first, if anything is, while controllers work under these roles."""
    said = {
        "controllers": list(names),
        "leader-elect-resource-namespace": NAMESPACE,
        "cluster-signing-cert-file": str(authority / "tls.crt"),
        "cluster-signing-key-file": str(authority / "tls.key"),
    }
    if serving.NAME in names:
        (authority / "rules.yaml").write_text("sources: [node]\n")
        said["serving-approver"] = str(authority / "rules.yaml")
    async with _cluster(roles, said) as made:
        for each in work:
            await each(made)
            if made.forbidden:
                break
        return made.forbidden


def _settings():
    """The controllers of deploy/base."""
    return yaml.safe_load((manifests.DEPLOY / "base/config.yaml").read_text("utf-8"))["controllers"]


async def test_nothing_is_missing(authority):
    """With the roles of deploy/base its controllers do all that they do, and nothing is forbidden."""
    assert [] == await _forbidden(BASE, authority, _settings(), WORK)


@pytest.mark.parametrize("word", _words(BASE), ids=str)
async def test_nothing_is_too_much(word, authority):
    """Without any word of these roles, something is forbidden."""
    assert await _forbidden(_without(BASE, word), authority, _settings(), WORK)


@pytest.mark.parametrize("component", COMPONENTS)
async def test_nothing_is_missing_in_components(component, authority):
    """With those of a component besides, its controller does what it does."""
    name, work = COMPONENTS[component]
    assert [] == await _forbidden(BASE + _component(component), authority, [name], [work])


@pytest.mark.parametrize(
    ("component", "word"),
    [(name, word) for name in COMPONENTS for word in _words(_component(name))],
    ids=str,
)
async def test_nothing_is_too_much_in_components(component, word, authority):
    """Without any word of them, something is forbidden."""
    name, work = COMPONENTS[component]
    assert await _forbidden(BASE + _without(_component(component), word), authority, [name], [work])
