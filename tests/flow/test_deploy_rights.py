"""The roles in deploy/ are what the controllers need: all goes well with them, and not without any word of them.

The controllers work against a plane in the process, as the service account of deploy/base, under the plane's RBAC. They
are taken through all that they do, and what the plane forbade them meanwhile is written down.
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

from certplane import errors, manager, telemetry, testing
from certplane.client import api
from certplane.controllers import approver, cleaner, publisher, signer
from certplane.meta import codec, context, objects
from certplane.resources import certificatesigningrequests as csrs
from certplane.resources import configmaps, events, leases, namespaces, rbac
from certplane.x509 import issue, profiles
from tests.flow import plane as flow
from tests.house import manifests

NAMESPACE = "certplane"
ACCOUNT = context.User(
    f"system:serviceaccount:{NAMESPACE}:certplane-controllers",
    groups=("system:serviceaccounts", f"system:serviceaccounts:{NAMESPACE}", "system:authenticated"),
)
KINDS = {each.kind: each for each in (*rbac.RESOURCES, namespaces.RESOURCE)}
NODE = ("system:node:a", ("system:nodes",))


# --- roles --------------------------------------------------------------------------------------------------------


BASE = [each for each in manifests.kustomized(manifests.DEPLOY / "base") if each["kind"] in KINDS]
PUBLISHERS = list(yaml.safe_load_all((manifests.DEPLOY / "components/root-ca-publisher/rbac.yaml").read_text("utf-8")))


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
    """A plane whose own controllers rest, an administrator's client, and the one of the controllers that work."""

    plane: object
    admin: api.Client
    recorder: Recorder
    client: api.Client

    async def until(self, condition):
        """Wait until it has come to that, or something was forbidden."""

        async def happened():
            return self.recorder.forbidden or await condition()

        await flow.eventually(happened)


@contextlib.asynccontextmanager
async def _cluster(roles, *enabled):
    async with flow.running(clock=testing.FakeClock(), controllers=frozenset()) as plane:
        admin = plane.client(flow.ADMIN)
        for each in roles:
            kind = KINDS[each["kind"]]
            await admin.create(kind, codec.decode(json.dumps(each), kind.type), each["metadata"].get("namespace", ""))
        recorder = Recorder(plane.client(ACCOUNT)._transport)
        made = Cluster(plane, admin, recorder, api.Client(recorder))
        tasks = [asyncio.ensure_future(run()) for run in _controllers(made, enabled)]
        try:
            yield made
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def _controllers(of, enabled):
    issuer = issue.Issuer(flow.new_authority(of.plane.clock), datetime.timedelta(days=365))
    crew = manager.Crew(
        client=lambda _: of.client,
        reader=of.client,
        clock=of.plane.clock,
        telemetry=telemetry.Telemetry(),
        signers={name: signer.Signer(profile, issuer) for name, profile in profiles.BUILT_IN.items()},
        threads=of.plane._threads,
        root_ca="a CA",
    )
    return manager.assemble(crew, enabled)


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


async def fails(of):
    """What a signer does not permit fails."""
    await _ask(of, "wrong", profiles.KUBE_APISERVER_CLIENT, ["server auth"], flow.pkcs10("jane"))
    await flow.decide(of.admin, "wrong")

    async def failed():
        found = await of.admin.get(csrs.RESOURCE, "wrong")
        return any(each.type == csrs.FAILED for each in found.status.conditions)

    await of.until(failed)


async def cleans_up(of):
    """What was refused is deleted after an hour."""
    await _ask(of, "denied", profiles.KUBE_APISERVER_CLIENT, ["client auth"], flow.pkcs10("jane"))
    await flow.decide(of.admin, "denied", csrs.DENIED)
    await of.plane.clock.advance(2 * cleaner.INTERVAL + 1)
    await of.until(lambda: _is_gone(of.admin, csrs.RESOURCE, "denied"))


async def elects(of):
    """A copy takes the lease, sees it, and renews it."""
    with contextlib.suppress(errors.Forbidden):
        lease = leases.Lease(spec=leases.LeaseSpec(holder_identity="a", lease_duration_seconds=15))
        lease.metadata.name = "certplane-controllers"
        await of.client.create(leases.RESOURCE, lease, NAMESPACE)
        found = await of.client.get(leases.RESOURCE, "certplane-controllers", NAMESPACE)
        await of.client.update(leases.RESOURCE, found)


async def tells(of):
    """An Event about a request is written, and counted up."""
    with contextlib.suppress(errors.Forbidden):
        about = objects.ObjectReference(kind=csrs.RESOURCE.kind, name="a", api_version=csrs.RESOURCE.api_version)
        event = events.Event(involved_object=about, reason="Test", type="Normal", count=1)
        event.metadata.name = "a.1"
        written = await of.client.create(events.RESOURCE, event, "default")
        written.count = 2
        await of.client.update(events.RESOURCE, written)


async def publishes(of):
    """The CA's certificate gets into every namespace, and is mended there."""

    async def published():
        with contextlib.suppress(errors.NotFound):
            found = await of.admin.get(configmaps.RESOURCE, publisher.MAP, "default")
            return found.data == {"ca.crt": "a CA"}
        return False

    await of.until(published)
    if not of.recorder.forbidden:
        found = await of.admin.get(configmaps.RESOURCE, publisher.MAP, "default")
        found.data = {}
        await of.admin.update(configmaps.RESOURCE, found)
        await of.until(published)


async def _is_gone(client, kind, name):
    try:
        await client.get(kind, name)
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


CERTIFICATES = (approver.NAME, signer.NAME, cleaner.NAME)
#: The quickest first: the first thing that is forbidden ends it.
WORK = (elects, tells, approves_kubelets, signs_for_people, signs_serving_certificates, fails, cleans_up)


async def _forbidden(roles, enabled, work):
    """What is forbidden first, if anything is, while controllers work under these roles."""
    async with _cluster(roles, *enabled) as made:
        for each in work:
            await each(made)
            if made.recorder.forbidden:
                break
        return made.recorder.forbidden


async def test_nothing_is_missing():
    """With the roles of deploy/base the controllers of requests do all that they do, and nothing is forbidden."""
    assert [] == await _forbidden(BASE, CERTIFICATES, WORK)


@pytest.mark.parametrize("word", _words(BASE), ids=str)
async def test_nothing_is_too_much(word):
    """Without any word of these roles, something is forbidden."""
    assert await _forbidden(_without(BASE, word), CERTIFICATES, WORK)


async def test_nothing_is_missing_for_publishers():
    """With those of deploy/components/publishers besides, the publisher of the root CA does what it does."""
    assert [] == await _forbidden(BASE + PUBLISHERS, (publisher.NAME,), (publishes,))


@pytest.mark.parametrize("word", _words(PUBLISHERS), ids=str)
async def test_nothing_is_too_much_for_publishers(word):
    """Without any word of them, something is forbidden."""
    assert await _forbidden(BASE + _without(PUBLISHERS, word), (publisher.NAME,), (publishes,))
