"""Large anonymous requests, all different, do not increase memory."""

from __future__ import annotations

import base64
import gc
import json
import tracemalloc

from certplane.golang import asn1
from certplane.server import exchange
from certplane.x509 import oids
from tests.flow import plane as flow
from tests.unit.x509 import material

LARGE = 64 * 1024
ROUNDS = 125
#: The limit of all caches together, far below the size of the requests: 2,000 times 64 KB.
LIMIT = 16 * 1024 * 1024
CSRS = "/apis/certificates.k8s.io/v1/certificatesigningrequests"


def _header(name, value, path=CSRS, user=flow.ADMIN):
    return exchange.Request("GET", path, "", exchange.Headers([(name, value.encode())]), identity=user)


def _query(name, value):
    return exchange.Request("GET", CSRS, f"{name}={value}", exchange.Headers([]), identity=flow.ADMIN)


def _body(request, signer_name, name="a"):
    spec = {"request": base64.b64encode(request).decode(), "signerName": signer_name, "usages": ["client auth"]}
    body = json.dumps({"metadata": {"name": name}, "spec": spec}).encode()

    async def chunks():
        yield body

    headers = exchange.Headers([(b"content-type", b"application/json")])
    return exchange.Request("POST", CSRS, "dryRun=All", headers, chunks, identity=flow.ADMIN)


def _requests(number):
    """One request of each type, all different."""
    text = f"{number:08}" + "x" * LARGE
    yield _header(b"accept", f"application/json;a={text}")
    yield _header(b"accept", f"{text}/a")
    yield _header(b"user-agent", text)
    yield _header(b"x-forwarded-for", "10.0.0.1," + text)
    yield _header(b"x-real-ip", text)
    yield _header(b"authorization", f"Bearer {text}", user=None)
    yield _header(b"impersonate-user", text)
    yield _header(b"impersonate-group", text)
    yield _header(b"audit-id", text)
    yield _header(b"accept", "*/*", path=f"/apis/{text}/v1/{text}", user=None)
    yield _query("fieldSelector", f"metadata.name={text[: LARGE // 16]}")
    yield _query("labelSelector", text)
    yield _query("continue", text)
    yield _query("fieldManager", text)
    name = f"a{number:08}." * (LARGE // 10)
    yield _body(material.odd_request(attributes=_names(name)), "kubernetes.io/kube-apiserver-client")
    yield _body(flow.pkcs10(), f"example.com/{name}"[:571])


def _names(name):
    san = material.template.Extension(oids.SUBJECT_ALT_NAME, False, asn1.encode(0x30, asn1.encode(0x82, name.encode())))
    return material.requested(san)


async def test_thousands_of_large_inputs_do_not_increase_memory(caplog):
    """The inputs are header fields, parameters and parts of a PKCS#10, with and without credentials."""
    caplog.set_level("CRITICAL")  # What pytest keeps of the log would count.
    written = []
    async with flow.running(audit_sink=lambda line, **_: written.append(len(line))) as plane:

        async def send(numbers):
            for number in numbers:
                for request in _requests(number):
                    await plane.handler(request)

        await send(range(2))
        gc.collect()
        tracemalloc.start()
        try:
            await send(range(2, 2 + ROUNDS))
            gc.collect()
            grown = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
    assert grown < LIMIT
