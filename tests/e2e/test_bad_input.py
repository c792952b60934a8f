"""Invalid input over a real socket: the server refuses it and continues to serve. Other invalid input is tested in
tests/flow/test_bad_input.py.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import ssl

import pytest

from tests.e2e import requests


@pytest.fixture(scope="module")
def client(server, tmp_path_factory):
    with contextlib.closing(requests.client(server, tmp_path_factory.mktemp("client"))) as client:
        yield client


@pytest.fixture(autouse=True)
def _still_serving(client):
    """After every test the server still answers."""
    yield
    assert client.request("admin", "GET", "/readyz", {}, None).data == b"ok"


@pytest.mark.parametrize(
    ("method", "path", "body", "code"),
    [
        ("POST", requests.CSRS, b"\x00\xff\xfe", 400),
        ("POST", requests.CSRS, b'{"metadata":{"name":"' + b"x" * 3_200_000 + b'"}}', 413),
        ("GET", f"{requests.CSRS}/%00", None, 404),
        ("GET", f"{requests.CSRS}/%ff%fe", None, 404),
        ("GET", f"{requests.CSRS}/..%2f..%2fetc", None, 404),
        ("BREW", requests.CSRS, None, 405),
    ],
    ids=["not JSON", "too large", "NUL", "not UTF-8", "escaped slashes", "method"],
)
def test_invalid_requests_get_a_status(method, path, body, code, client):
    """An error response has a Status, also over a real socket."""
    answer = client.request("admin", method, path, {**requests.JSON, "Accept": "application/json"}, body)
    assert answer.status == code, answer.data[:500]
    assert json.loads(answer.data)["kind"] == "Status"


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
def test_invalid_http_is_refused(sent, server):
    """The connection is closed, without a 5xx."""
    with contextlib.closing(_raw(server)) as connection:
        with contextlib.suppress(OSError):
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(OSError):
            answer = connection.recv(65536)
            assert not answer.startswith(b"HTTP/1.1 5")


def test_oversized_header_fields_get_431(server):
    """The limit is a megabyte, as in Go."""
    with contextlib.closing(_raw(server)) as connection:
        connection.sendall(b"GET /readyz HTTP/1.1\r\nHost: x\r\n")
        with contextlib.suppress(OSError):
            for number in range(70):
                connection.sendall(b"x-%d: " % number + b"a" * 16_000 + b"\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 431 ")


def test_slow_and_stalled_clients_do_not_affect_others(server, client):
    """Incomplete requests and handshakes and unread watches stay open, while other clients are served."""
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


def test_large_responses_are_compressed_if_the_client_accepts_gzip(client):
    """From 128 KiB on, and only if the client accepts gzip."""
    request = requests.pkcs10()
    for number in range(150):
        body = requests.csr(f"big-{number}", request)
        assert client.request("admin", "POST", requests.CSRS, requests.JSON, body).status == 201
    plain = client.request("admin", "GET", requests.CSRS, {}, None)
    packed = client.request("admin", "GET", requests.CSRS, {"Accept-Encoding": "br, gzip;q=0.5"}, None)
    small = client.request("admin", "GET", f"{requests.CSRS}?limit=1", {"Accept-Encoding": "gzip"}, None)
    refused = client.request("admin", "GET", requests.CSRS, {"Accept-Encoding": "gzip;q=0, br"}, None)
    schemas = client.request("admin", "GET", "/openapi/v2", {"Accept-Encoding": "gzip"}, None)
    headers = {name.lower(): value for name, value in packed.headers.items()}
    assert (headers.get("content-encoding"), headers.get("vary")) == (["gzip"], ["Accept-Encoding"])
    assert json.loads(gzip.decompress(packed.data))["items"] == json.loads(plain.data)["items"]
    assert "content-encoding" not in {name.lower() for name in (*plain.headers, *small.headers, *refused.headers)}
    # Vary names the encoding only once.
    assert schemas.headers["vary"] == ["Accept-Encoding", "Accept"]
    client.request("admin", "DELETE", requests.CSRS, {"Accept": "application/json"}, None)
