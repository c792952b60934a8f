"""Invalid input gets a Status with the code of a real API server, and never a failure of the server itself."""

from __future__ import annotations

import json

import pytest

from certplane.resources import certificatesigningrequests as csrs
from tests.flow import plane as flow

CSRS = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
DEEP = 10_001


def _spec(**changed):
    """A CertificateSigningRequest whose PKCS#10 is invalid."""
    spec = {"signerName": flow.CLIENT, "usages": ["client auth"], "request": "bm9uc2Vuc2U=", **changed}
    document = {"metadata": {"name": "x"}, "spec": spec}
    return json.dumps(document).encode()


async def send(plane, method, target, content_type="application/json", body=b""):
    """The response to one request of the administrator."""
    return await flow.respond(plane, method, target, body, content_type=content_type, accept="application/json")


def check_status(response, code):
    """The response is a Status with this code, and not an internal error."""
    assert response.status == code, response.body[:500]
    status = json.loads(response.body)
    assert (status["kind"], status["code"]) == ("Status", code)
    assert status.get("reason") != "InternalError"


BODIES = {
    "empty": (b"", 400),
    "no json": (b"\x00\xff\xfe", 400),
    "half": (b'{"kind":', 400),
    "a list": (b"[]", 400),
    "a string": (b'"x"', 400),
    "nan": (b'{"metadata":{"generation":NaN}}', 400),
    "infinity": (b'{"metadata":{"generation":1e999}}', 400),
    "deep lists": (b"[" * DEEP + b"]" * DEEP, 400),
    "deep objects": (b'{"a":' * DEEP + b"1" + b"}" * DEEP, 400),
    "deep unclosed": (b'{"a":[' * DEEP, 400),
    "wrong kind": (b'{"apiVersion":"v1","kind":"Pod","metadata":{"name":"x"}}', 400),
    "wrong type": (b'{"metadata":{"name":7}}', 400),
    "wrong list": (b'{"spec":{"usages":"client auth"}}', 400),
    "no base64": (b'{"metadata":{"name":"x"},"spec":{"request":"***"}}', 400),
    "text for numbers": (b'{"spec":{"request":["x"]}}', 400),
    "big number": (b'{"spec":{"expirationSeconds":99999999999999999999}}', 400),
    "lone surrogate": (b'{"metadata":{"name":"\\ud800"}}', 422),
    "nul in a name": (b'{"metadata":{"name":"a\\u0000b"}}', 422),
    "slash in a name": (b'{"metadata":{"name":"a/b"}}', 422),
    "no name": (b"{}", 422),
    "null": (b"null", 422),
    "no pem": (_spec(), 422),
    "no usage": (_spec(usages=[]), 422),
    "negative lifetime": (_spec(expirationSeconds=-1), 422),
    "too long": (b'{"metadata":{"name":"' + b"x" * 3_200_000 + b'"}}', 413),
    "long name": (b'{"metadata":{"name":"' + b"x" * 5000 + b'"}}', 422),
    "many labels": (json.dumps({"metadata": {"labels": {f"a{n}": "!" for n in range(5000)}}}).encode(), 422),
}


@pytest.mark.parametrize("name", BODIES)
async def test_invalid_json_bodies(name):
    """A create request is refused with 400, 413 or 422."""
    body, code = BODIES[name]
    async with flow.running() as plane:
        check_status(await send(plane, "POST", CSRS, body=body), code)


@pytest.mark.parametrize("content_type", ["application/yaml", "application/vnd.kubernetes.protobuf"])
@pytest.mark.parametrize("name", ["no json", "deep lists", "deep objects", "too long", "half"])
async def test_invalid_yaml_and_protobuf_bodies(name, content_type):
    """The same bodies are refused in the other encodings."""
    body, code = BODIES[name]
    async with flow.running() as plane:
        check_status(await send(plane, "POST", CSRS, content_type, body), code)


YAML_BOMB = b"a: &a [x,x,x,x,x,x,x,x,x]\n" + b"".join(
    b"%c: &%c [%s]\n" % (97 + n, 97 + n, b",".join([b"*%c" % (96 + n)] * 9)) for n in range(1, 20)
)


async def test_a_yaml_bomb_is_refused():
    """Aliases are counted before they are expanded."""
    async with flow.running() as plane:
        check_status(await send(plane, "POST", CSRS, "application/yaml", YAML_BOMB), 400)


@pytest.mark.parametrize(
    ("content_type", "body", "code"),
    [
        ("application/json-patch+json", b"{}", 400),
        ("application/json-patch+json", b'[{"op":"nonsense","path":"/"}]', 422),
        ("application/json-patch+json", json.dumps([{"op": "test", "path": "/a"}] * 10_001).encode(), 413),
        ("application/json-patch+json", b'[{"op":"copy","from":"/spec","path":"/spec/spec"}]' * 2, 400),
        ("application/merge-patch+json", b"[]", 400),
        ("application/merge-patch+json", b'{"a":' * DEEP + b"1" + b"}" * DEEP, 400),
        ("application/strategic-merge-patch+json", b'{"metadata":{"$patch":"nonsense"}}', 500),
        ("application/strategic-merge-patch+json", b'{"metadata":{"ownerReferences":[{"a":1}]}}', 422),
        ("application/apply-patch+yaml", b": : :", 400),
        ("text/plain", b"x", 415),
    ],
)
async def test_invalid_patches(content_type, body, code):
    """As in the real server, a strategic merge patch with contradictory directives is a 500, with the reason."""
    async with flow.running() as plane:
        await plane.client(flow.ADMIN).create(csrs.RESOURCE, flow.new_csr("patched"))
        path = f"{CSRS}/patched" + ("?fieldManager=x" if "apply" in content_type else "")
        check_status(await send(plane, "PATCH", path, content_type, body), code)


@pytest.mark.parametrize("value", ["", ',"value":null', ',"value":[1]', ',"value":"x"', ',"value":7'])
async def test_a_patch_of_the_whole_object_is_refused(value):
    """The object is unchanged."""
    path = "/api/v1/namespaces/default"
    body = f'[{{"op":"add","path":""{value}}}]'.encode()
    async with flow.running() as plane:
        before = (await send(plane, "GET", path)).body
        check_status(await send(plane, "PATCH", path, "application/json-patch+json", body), 422)
        assert (await send(plane, "GET", path)).body == before


PATHS = {
    "/nonsense": 404,
    "/apis/nonsense.example.com/v1/things": 404,
    "/apis/certificates.k8s.io/v9/certificatesigningrequests": 404,
    f"{CSRS}/a/b/c/d": 404,
    f"{CSRS}/{'x' * 4000}": 404,
    f"{CSRS}?limit=many": 400,
    f"{CSRS}?limit=-1": 200,
    f"{CSRS}?continue=nonsense": 400,
    f"{CSRS}?labelSelector=%3D%3D": 400,
    f"{CSRS}?labelSelector={'(' * 500}": 400,
    f"{CSRS}?fieldSelector={'a,' * 500}": 400,
    f"{CSRS}?timeout=soon": 400,
    f"{CSRS}?{'a=b&' * 5000}": 200,
}


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path[:60])
async def test_invalid_paths_and_queries(path):
    """The status code is that of a real API server."""
    async with flow.running() as plane:
        assert (await send(plane, "GET", path)).status == PATHS[path]


@pytest.mark.parametrize("method", ["BREW", "TRACE", "PROPFIND", "PUT", "OPTIONS", "HEAD"])
async def test_unsupported_methods_of_a_collection(method):
    """They are refused with 405."""
    async with flow.running() as plane:
        assert (await send(plane, method, CSRS)).status == 405
