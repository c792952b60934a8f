"""A control plane in the process, for tests: memory store, fake clock, no socket. And its invariants."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from certplane import testing
from certplane.config.servesettings import DEFAULTS, APISettings
from certplane.config.sharedsettings import ControllerSettings
from certplane.controllers.signing import signer
from certplane.golang import pem
from certplane.meta import context
from certplane.plane.assembly import AuditConfig, Plane, PlaneConfig
from certplane.plane.controllerconfig import ControllerConfig
from certplane.resources import certificatesigningrequests as csrs
from certplane.resources import podcertificaterequests as pcrs
from certplane.server import pipeline
from certplane.store import memory
from certplane.x509.issuance import authority, issue, profiles, selfsigned

ADMIN = context.User("admin", groups=("system:masters", "system:authenticated"))
JANE = context.User("jane", groups=("system:authenticated",))
CLIENT = "kubernetes.io/kube-apiserver-client"
#: Iterations of the event loop that are enough for everything here; a signature is made in a thread.
PATIENCE = 200_000


def new_authority(clock):
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = selfsigned.self_signed_ca("kubernetes", key, clock.now(), datetime.timedelta(days=3650))
    return authority.Authority(pem.first_block(certificate).data, key)


def _pop(type_, values, prefix=""):
    """Those of `values` that are fields of a dataclass."""
    names = {field.name for field in dataclasses.fields(type_)}
    keys = [key for key in values if key.startswith(prefix) and key.removeprefix(prefix) in names]
    return {key.removeprefix(prefix): values.pop(key) for key in keys}


def plane_config(**values):
    """The configuration of a plane with other values than the defaults, given by the names that they have in whichever
    section they are; those of the audit log begin with audit_.
    """
    settings = dataclasses.replace(DEFAULTS.controllers, **_pop(ControllerSettings, values))
    controllers = ControllerConfig(settings, **_pop(ControllerConfig, values))
    api = dataclasses.replace(DEFAULTS.api, **_pop(APISettings, values))
    audit = _pop(AuditConfig, values, "audit_")
    if audit:
        audit = AuditConfig(**{"sink": lambda line, **_: None, **audit})
    return PlaneConfig(controllers=controllers, api=api, audit=audit or None, **values)


@contextlib.asynccontextmanager
async def running(store=None, clock=None, signers=None, **config):
    """A plane between start and stop. Its invariants are checked at the end. `config` is as for `plane_config`."""
    clock = clock or testing.FakeClock()
    owns_store = store is None
    store = store if store is not None else memory.MemoryStore()
    if signers is None:
        issuer = issue.Issuer(new_authority(clock), datetime.timedelta(days=365))
        signers = {name: signer.Signer(profile, issuer) for name, profile in profiles.BUILT_IN.items()}
    plane = Plane(store, clock, plane_config(signers=signers, **config))
    await plane.start()
    try:
        yield plane
        await check_invariants(plane)
    finally:
        await plane.stop()
        if owns_store:
            await store.close()


def assembled(plane):
    """The handler of the plane, assembled again: for tests that have replaced one of its services."""
    return pipeline.assemble(plane.services)


eventually = testing.eventually
pkcs10 = testing.new_pkcs10


def new_csr(name="a", *arguments, **spec):
    return testing.new_csr(name, *arguments, **spec)


def pod_request(node="n1"):
    """A request for a pod that does not exist."""
    key = ec.generate_private_key(ec.SECP256R1())
    stub = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    pcr = pcrs.PodCertificateRequest(
        spec=pcrs.PodCertificateRequestSpec(
            signer_name="example.com/pods", pod_name="p", pod_uid="1", service_account_name="default",
            service_account_uid="2",
            node_name=node, node_uid="3", stub_pkcs10_request=stub.public_bytes(serialization.Encoding.DER),
        )
    )  # fmt: skip
    pcr.metadata.name = "r"
    return pcr


async def decide(client, name, type_=csrs.APPROVED):
    """Approve or deny a request, through the subresource."""
    csr = await client.get(csrs.RESOURCE, name)
    csr.status.conditions.append(csrs.CertificateSigningRequestCondition(type=type_, status="True", reason="Test"))
    return await client.update(csrs.RESOURCE, csr, "approval")


async def issued(client, name):
    """The certificate of a request, once it is there."""

    async def certificate():
        return (await client.get(csrs.RESOURCE, name)).status.certificate

    return x509.load_pem_x509_certificate(await eventually(certificate))


async def check_invariants(plane):
    """Nothing was issued unapproved or twice, and every certificate has the requested subject and key."""
    serials = set()
    for csr in (await plane.client(ADMIN).list(csrs.RESOURCE)).items:
        types = [condition.type for condition in csr.status.conditions]
        assert len(types) == len(set(types))
        assert not {csrs.APPROVED, csrs.DENIED} <= set(types)
        if csr.status.certificate:
            assert csrs.APPROVED in types
            certificate = x509.load_pem_x509_certificate(csr.status.certificate)
            request = x509.load_pem_x509_csr(csr.spec.request)
            assert certificate.subject == request.subject
            assert certificate.public_key() == request.public_key()
            assert certificate.serial_number not in serials
            serials.add(certificate.serial_number)
    cached = {item.key: item.mod_revision for item in plane.cache.collection(csrs.RESOURCE.prefix).list()[0]}
    stored = {item.key: item.mod_revision for item in (await plane.store.list(csrs.RESOURCE.prefix)).items}
    damaged = plane.cache.collection(csrs.RESOURCE.prefix).damaged
    assert cached == {key: revision for key, revision in stored.items() if key not in damaged}
