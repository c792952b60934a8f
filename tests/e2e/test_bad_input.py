"""Whatever is sent, the answer is a Status with the code of a real API server, and the server goes on serving."""

from __future__ import annotations

import contextlib
import gzip
import json
import random
import socket
import ssl

import pytest

from tests.e2e import requests

DEEP = 10_001


def _spec(**changed):
    return requests.csr("x", b"nonsense", **changed)


BODIES = {
    "nothing": (b"", 400),
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


@pytest.fixture(scope="module")
def client(server, tmp_path_factory):
    with contextlib.closing(requests.client(server, tmp_path_factory.mktemp("client"))) as client:
        yield client


@pytest.fixture(autouse=True)
def _still_serving(client):
    """After every test the server still answers, and has no failure of its own in its log."""
    yield
    assert client.request("admin", "GET", "/readyz", {}, None).data == b"ok"


def _is_status(answer, code):
    assert answer.status == code, answer.data[:500]
    status = json.loads(answer.data)
    assert (status["kind"], status["code"]) == ("Status", code)


@pytest.mark.parametrize("name", BODIES)
def test_no_body_confuses_a_create(name, client):
    """POST answers with 400, 413 or 422."""
    body, code = BODIES[name]
    _is_status(client.request("admin", "POST", requests.CSRS, requests.JSON, body), code)


@pytest.mark.parametrize("content_type", ["application/yaml", "application/vnd.kubernetes.protobuf"])
@pytest.mark.parametrize("name", ["no json", "deep lists", "deep objects", "too long", "half"])
def test_no_body_confuses_another_form(name, content_type, client):
    """The same in YAML and protobuf: refused, never a failure of the server."""
    headers = {"Content-Type": content_type, "Accept": "application/json"}
    answer = client.request("admin", "POST", requests.CSRS, headers, BODIES[name][0])
    assert answer.status in (400, 413, 422)
    assert json.loads(answer.data)["kind"] == "Status"


YAML_BOMB = b"a: &a [x,x,x,x,x,x,x,x,x]\n" + b"".join(
    b"%c: &%c [%s]\n" % (97 + n, 97 + n, b",".join([b"*%c" % (96 + n)] * 9)) for n in range(1, 20)
)


def test_a_yaml_bomb_does_not_go_off(client):
    """Aliases that multiply are refused before they are expanded."""
    headers = {"Content-Type": "application/yaml", "Accept": "application/json"}
    _is_status(client.request("admin", "POST", requests.CSRS, headers, YAML_BOMB), 400)


@pytest.mark.parametrize(
    ("content_type", "body", "codes"),
    [
        ("application/json-patch+json", b"{}", (400,)),
        ("application/json-patch+json", b'[{"op":"nonsense","path":"/"}]', (422,)),
        ("application/json-patch+json", json.dumps([{"op": "test", "path": "/a"}] * 10_001).encode(), (413,)),
        ("application/json-patch+json", b'[{"op":"copy","from":"/spec","path":"/spec/spec"}]' * 2, (400,)),
        ("application/merge-patch+json", b"[]", (400, 422)),
        ("application/merge-patch+json", b'{"a":' * DEEP + b"1" + b"}" * DEEP, (400,)),
        ("application/strategic-merge-patch+json", b'{"metadata":{"$patch":"nonsense"}}', (500,)),
        ("application/strategic-merge-patch+json", b'{"metadata":{"ownerReferences":[{"a":1}]}}', (422,)),
        ("application/apply-patch+yaml", b": : :", (400,)),
        ("text/plain", b"x", (415,)),
    ],
)
def test_no_patch_confuses_an_update(content_type, body, codes, client):
    """PATCH answers as the real server does, which calls a strategic merge patch that contradicts itself a 500: with
    the reason in words, and not as a failure of its own.
    """
    client.request("admin", "POST", requests.CSRS, requests.JSON, requests.csr("patched", requests.pkcs10()))
    path = f"{requests.CSRS}/patched" + ("?fieldManager=x" if "apply" in content_type else "")
    answer = client.request("admin", "PATCH", path, {"Content-Type": content_type, "Accept": "application/json"}, body)
    assert answer.status in codes, answer.data[:300]
    status = json.loads(answer.data)
    assert status["kind"] == "Status"
    assert status.get("reason") != "InternalError"


PATHS = {
    "/nonsense": 404,
    "/apis/nonsense.example.com/v1/things": 404,
    "/apis/certificates.k8s.io/v9/certificatesigningrequests": 404,
    f"{requests.CSRS}/a/b/c/d": 404,
    f"{requests.CSRS}/%00": 404,
    f"{requests.CSRS}/%ff%fe": 404,
    f"{requests.CSRS}/..%2f..%2fetc": 404,
    f"{requests.CSRS}/{'x' * 4000}": 404,
    f"{requests.CSRS}?limit=many": 400,
    f"{requests.CSRS}?limit=-1": 200,
    f"{requests.CSRS}?continue=nonsense": 400,
    f"{requests.CSRS}?labelSelector=%3D%3D": 400,
    f"{requests.CSRS}?labelSelector={'(' * 500}": 400,
    f"{requests.CSRS}?fieldSelector={'a,' * 500}": 400,
    f"{requests.CSRS}?timeout=soon": 400,
    f"{requests.CSRS}?{'a=b&' * 5000}": 200,
}


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path[:60])
def test_no_path_confuses_a_read(path, client):
    """GET answers what a real API server answers, whatever the path."""
    assert client.request("admin", "GET", path, {"Accept": "application/json"}, None).status == PATHS[path]


@pytest.mark.parametrize("method", ["BREW", "TRACE", "PROPFIND", "PUT", "OPTIONS", "HEAD"])
def test_no_method_confuses_a_collection(method, client):
    """A method that means nothing here is refused."""
    assert client.request("admin", method, requests.CSRS, requests.JSON, None).status in (400, 403, 405)


def test_mutations_of_a_good_request_are_judged(client):
    """A thousand damaged copies of a good body: created or refused, and never a 5xx."""
    good = requests.csr("mutant", requests.pkcs10())
    chance = random.Random(1)
    codes = set()
    for _ in range(1000):
        body = bytearray(good)
        for _ in range(chance.randint(1, 4)):
            body[chance.randrange(len(body))] = chance.randrange(256)
        answer = client.request("admin", "POST", f"{requests.CSRS}?dryRun=All", requests.JSON, bytes(body))
        codes.add(answer.status)
    assert codes <= {201, 400, 403, 404, 409, 422}


def _raw(server, tls=True):
    plain = socket.create_connection(("127.0.0.1", server.port), timeout=10)
    if not tls:
        return plain
    context = ssl.create_default_context(cafile=server.data / "pki" / "ca.crt")
    return context.wrap_socket(plain, server_hostname="127.0.0.1")


@pytest.mark.parametrize(
    "sent",
    [
        b"\r\n\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: nonsense\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET / HTTP/1.1\r\n" + b"A: " + b"x" * 2_000_000 + b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 100,
        bytes(range(256)) * 4,
    ],
    ids=["newlines", "no path", "version", "length", "chunks", "long header", "tls in tls", "bytes"],
)
def test_what_is_no_http_is_refused(sent, server):
    """The connection ends; everybody else is served."""
    with contextlib.closing(_raw(server)) as connection:
        with contextlib.suppress(OSError):
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(OSError):
            answer = connection.recv(65536)
            assert not answer.startswith(b"HTTP/1.1 5")


@pytest.mark.parametrize("value", ["", ',"value":null', ',"value":[1]', ',"value":"x"', ',"value":7'])
def test_a_patch_may_not_make_nothing_of_an_object(client, value):
    """Whatever stands in the place of the whole document is refused, and the object stays."""
    path = "/api/v1/namespaces/default"
    headers = {"Content-Type": "application/json-patch+json"}
    body = f'[{{"op":"add","path":""{value}}}]'.encode()
    assert 400 <= client.request("admin", "PATCH", path, headers, body).status < 500
    assert client.request("admin", "GET", path, {}, None).status == 200


def test_a_head_has_its_limit(server):
    """Header fields of more than a megabyte are refused with the code for it, as Go's server does."""
    with contextlib.closing(_raw(server)) as connection:
        connection.sendall(b"GET /readyz HTTP/1.1\r\nHost: x\r\n")
        with contextlib.suppress(OSError):
            for number in range(70):
                connection.sendall(b"x-%d: " % number + b"a" * 16_000 + b"\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 431 ")


def test_slow_and_vanished_clients_cost_nobody_else_anything(server, client):
    """Half requests, half handshakes and watches that nobody reads, all left open: others are served meanwhile."""
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            half = stack.enter_context(contextlib.closing(_raw(server)))
            half.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc")
            stack.enter_context(contextlib.closing(_raw(server, tls=False))).sendall(b"\x16\x03")
        for _ in range(20):
            unread = stack.enter_context(contextlib.closing(client.connect("admin")))
            unread.request("GET", f"{requests.CSRS}?watch=1&resourceVersion=0")
        request = requests.pkcs10()
        for number in range(100):
            body = requests.csr(f"meanwhile-{number}", request)
            assert client.request("admin", "POST", requests.CSRS, requests.JSON, body).status == 201
    deleted = client.request("admin", "DELETE", requests.CSRS, {"Accept": "application/json"}, None)
    assert deleted.status == 200


def test_large_answers_are_compressed_for_those_who_can_read_it(client):
    """From 128 KiB on, and only then, and only if it was offered; what comes out is the same."""
    request = requests.pkcs10()
    for number in range(150):
        body = requests.csr(f"big-{number}", request)
        assert client.request("admin", "POST", requests.CSRS, requests.JSON, body).status == 201
    plain = client.request("admin", "GET", requests.CSRS, {}, None)
    packed = client.request("admin", "GET", requests.CSRS, {"Accept-Encoding": "br, gzip;q=0.5"}, None)
    small = client.request("admin", "GET", f"{requests.CSRS}?limit=1", {"Accept-Encoding": "gzip"}, None)
    refused = client.request("admin", "GET", requests.CSRS, {"Accept-Encoding": "gzip;q=0, br"}, None)
    schemas = client.request("admin", "GET", "/openapi/v2", {"Accept-Encoding": "gzip"}, None)
    found = {name.lower(): value for name, value in packed.headers.items()}
    assert (found.get("content-encoding"), found.get("vary")) == (["gzip"], ["Accept-Encoding"])
    assert json.loads(gzip.decompress(packed.data))["items"] == json.loads(plain.data)["items"]
    assert "content-encoding" not in {name.lower() for name in (*plain.headers, *small.headers, *refused.headers)}
    # What varies with the encoding anyway says so once.
    assert schemas.headers["vary"] == ["Accept-Encoding", "Accept"]
    client.request("admin", "DELETE", requests.CSRS, {"Accept": "application/json"}, None)
