"""A control plane in the process: memory store, a clock that obeys, no socket. And its invariants."""

from __future__ import annotations

import asyncio
import contextlib
import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from certplane import app, testing
from certplane.controllers import signer
from certplane.meta import context
from certplane.resources import certificatesigningrequests as csrs
from certplane.resources import podcertificaterequests as pcrs
from certplane.server import pipeline
from certplane.store import memory
from certplane.x509 import authority, issue, mint, pem, profiles

ADMIN = context.User("admin", groups=("system:masters", "system:authenticated"))
JANE = context.User("jane", groups=("system:authenticated",))
CLIENT = "kubernetes.io/kube-apiserver-client"
#: Turns of the event loop that anything here needs at most; signing takes its time in a thread.
PATIENCE = 200_000


def new_authority(clock):
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = mint.self_signed_ca("kubernetes", key, clock.now(), datetime.timedelta(days=3650))
    return authority.Authority(pem.first(certificate).data, key)


@contextlib.asynccontextmanager
async def running(store=None, clock=None, signers=None, **how):
    """A plane between start and stop. Its invariants hold in the end."""
    clock = clock or testing.FakeClock()
    own = store is None
    store = store if store is not None else memory.MemoryStore()
    if signers is None:
        issuer = issue.Issuer(new_authority(clock), datetime.timedelta(days=365))
        signers = {name: signer.Signer(profile, issuer) for name, profile in profiles.BUILT_IN.items()}
    made = app.Plane(store, clock, app.How(signers=signers, **how))
    await made.start()
    try:
        yield made
        await check_invariants(made)
    finally:
        await made.stop()
        if own:
            await store.close()


def assembled(plane):
    """The way through the plane, made anew from its services: for tests that have changed one."""
    return pipeline.assemble(plane.services)


async def eventually(condition):
    """Let the plane work until something holds."""
    for _ in range(PATIENCE):
        found = condition()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return found
        await asyncio.sleep(0)
    raise AssertionError("it never happened")


def pkcs10(common_name="jane", organizations=()):
    key = ec.generate_private_key(ec.SECP256R1())
    names = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, each) for each in organizations]
    name = x509.Name([*names, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    made = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    return made.public_bytes(serialization.Encoding.PEM)


def new_csr(name="a", signer_name=CLIENT, usages=("client auth",), request=None, **spec):
    made = csrs.CertificateSigningRequest(
        spec=csrs.CertificateSigningRequestSpec(
            request=request or pkcs10(), signer_name=signer_name, usages=list(usages), **spec
        )
    )
    made.metadata.name = name
    return made


def pod_request(node="n1"):
    """A request for a pod that nobody knows."""
    key = ec.generate_private_key(ec.SECP256R1())
    stub = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    made = pcrs.PodCertificateRequest(
        spec=pcrs.PodCertificateRequestSpec(
            signer_name="example.com/pods", pod_name="p", pod_uid="1", service_account_name="default",
            service_account_uid="2",
            node_name=node, node_uid="3", stub_pkcs10_request=stub.public_bytes(serialization.Encoding.DER),
        )
    )  # fmt: skip
    made.metadata.name = "r"
    return made


async def decide(client, name, type_=csrs.APPROVED):
    """Approve (or deny) a request, through its door."""
    found = await client.get(csrs.RESOURCE, name)
    found.status.conditions.append(csrs.CertificateSigningRequestCondition(type=type_, status="True", reason="Test"))
    return await client.update(csrs.RESOURCE, found, "approval")


async def issued(client, name):
    """The certificate of a request, once it is there."""

    async def certificate():
        return (await client.get(csrs.RESOURCE, name)).status.certificate

    return x509.load_pem_x509_certificate(await eventually(certificate))


async def check_invariants(plane):
    """What holds at the end of every flow: nothing issued unapproved or twice, and what came out is what was asked."""
    serials = set()
    for each in (await plane.client(ADMIN).list(csrs.RESOURCE)).items:
        types = [condition.type for condition in each.status.conditions]
        assert len(types) == len(set(types))
        assert not {csrs.APPROVED, csrs.DENIED} <= set(types)
        if each.status.certificate:
            assert csrs.APPROVED in types
            certificate = x509.load_pem_x509_certificate(each.status.certificate)
            request = x509.load_pem_x509_csr(each.spec.request)
            assert certificate.subject == request.subject
            assert certificate.public_key() == request.public_key()
            assert certificate.serial_number not in serials
            serials.add(certificate.serial_number)
    cached = {each.key: each.mod_revision for each in plane.cache.collection(csrs.RESOURCE.prefix).list()[0]}
    stored = {each.key: each.mod_revision for each in (await plane.store.list(csrs.RESOURCE.prefix)).items}
    damaged = plane.cache.collection(csrs.RESOURCE.prefix).damaged
    assert cached == {key: revision for key, revision in stored.items() if key not in damaged}
