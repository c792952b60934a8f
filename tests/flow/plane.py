"""Control planes in process for flow tests, requests to them, and the invariants that are checked at the end."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from certplane import testing
from certplane.golang import pem
from certplane.resources import certificatesigningrequests as csrs
from certplane.resources import clustertrustbundles as bundles
from certplane.resources import podcertificaterequests as pcrs
from certplane.server import exchange, pipeline
from certplane.testing import builders

ADMIN = testing.ADMIN
JANE = testing.user("jane")
CLIENT = builders.CLIENT_SIGNER

decide = testing.decide
eventually = testing.eventually
new_authority = testing.new_authority
pkcs10 = testing.new_pkcs10


@contextlib.asynccontextmanager
async def running(store=None, clock=None, **settings):
    """A `testing.Plane` between start and stop, with the same arguments. Its invariants are checked at the end."""
    async with testing.Plane(clock, store=store, **settings) as plane:
        original = dataclasses.replace(plane.dependencies)
        yield plane
        # The check sends requests itself: a route that a test has blocked would block it.
        replace_services(plane, **{field.name: getattr(original, field.name) for field in dataclasses.fields(original)})
        await check_invariants(plane)


async def respond(plane, method, target, body=b"", *, user=ADMIN, fields=(), **headers):
    """The response to one HTTP request. `target` is a path, possibly with a query. A body that is neither bytes nor str
    is sent as JSON. Header fields are keyword arguments with `_` for `-`, or pairs of bytes in `fields`; without a
    `user`, the plane authenticates the request.
    """
    if isinstance(body, str):
        body = body.encode()
    elif not isinstance(body, bytes):
        body = json.dumps(body, ensure_ascii=False).encode()

    async def chunks():
        yield body

    path, _, query = target.partition("?")
    pairs = [*fields, *((name.replace("_", "-").encode(), value.encode()) for name, value in headers.items())]
    request = exchange.Request(method, path, query, exchange.Headers(pairs), chunks, identity=user)
    return await plane.handler(request)


async def ask(plane, target, method="GET", user=ADMIN, body=b"", **headers):
    """Status and body of a response; of a watch, only the first part of the body."""
    response = await respond(plane, method, target, body, user=user, **headers)
    if response.stream is None:
        return response.status, response.body
    async with contextlib.aclosing(response.stream) as stream:
        return response.status, await anext(stream)


async def request_json(plane, method, target, body=b"", **options):
    """Status and decoded JSON of a response; arguments are those of `respond`."""
    response = await respond(plane, method, target, body, **options)
    return response.status, json.loads(response.body)


def warning_texts(response):
    """The texts of the Warning headers of a response."""
    values = [value.decode() for name, value in response.headers if name == b"warning"]
    return [re.fullmatch(r'299 - "((?:[^"\\]|\\.)*)"', value).group(1) for value in values]


def replace_services(plane, **services):
    """Replace services of the pipeline, such as `authenticate`, for the following requests."""
    for name, service in services.items():
        setattr(plane.dependencies, name, service)
    plane.handler = pipeline.assemble(plane.dependencies)


def new_csr(name="a", *arguments, **spec):
    return testing.new_csr(name, *arguments, **spec)


def pod_request(node="n1"):
    """A request for a pod that does not exist."""
    stub = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(testing.new_key(), hashes.SHA256())
    pcr = pcrs.PodCertificateRequest(
        spec=pcrs.PodCertificateRequestSpec(
            signer_name="example.com/pods", pod_name="p", pod_uid="1", service_account_name="default",
            service_account_uid="2",
            node_name=node, node_uid="3", stub_pkcs10_request=stub.public_bytes(serialization.Encoding.DER),
        )
    )  # fmt: skip
    pcr.metadata.name = "r"
    return pcr


def trust_bundle(name="roots", signer_name=""):
    """A ClusterTrustBundle with one new CA."""
    ca = new_authority(testing.FakeClock())
    spec = bundles.ClusterTrustBundleSpec(
        signer_name=signer_name, trust_bundle=pem.encode("CERTIFICATE", ca.raw).decode()
    )
    bundle = bundles.ClusterTrustBundle(spec=spec)
    bundle.metadata.name = name
    return bundle


async def issued(client, name):
    """The parsed certificate of a request, as soon as there is one."""
    return x509.load_pem_x509_certificate(await testing.issued_certificate(client, name))


async def check_invariants(plane):
    """Nothing was issued unapproved or twice, every certificate has the requested subject and key, and the watch cache
    equals the store.
    """
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
    collection = plane.cache.collection(csrs.RESOURCE.prefix)
    cached = {item.key: item.mod_revision for item in collection.list()[0]}
    stored = {item.key: item.mod_revision for item in (await plane.store.list(csrs.RESOURCE.prefix)).items}
    assert cached == {key: revision for key, revision in stored.items() if key not in collection.corrupt}
