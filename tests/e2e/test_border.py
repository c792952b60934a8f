"""Attacks on the connection: a real process, real sockets, and bytes that no client library sends."""

from __future__ import annotations

import contextlib
import json
import re
import resource
import socket
import ssl
import subprocess

import pytest

import demo
from tests.conftest import Server
from tests.e2e import requests

ADMIN = ("system:masters",)


@pytest.fixture(scope="module")
def client(server, tmp_path_factory):
    with contextlib.closing(requests.client(server, tmp_path_factory.mktemp("client"))) as client:
        yield client


@pytest.fixture(scope="module")
def admin(server, tmp_path_factory):
    """A file with the certificate and key of a user who may impersonate."""
    path = tmp_path_factory.mktemp("admin") / "admin.pem"
    ca, ca_key = requests.authority(server)
    certificate, key = requests.certificate(ca, ca_key, name="border-admin", organizations=ADMIN)
    path.write_bytes(requests.pem(certificate, key))
    return path


@contextlib.contextmanager
def connected(server, identity=None):
    """A TLS connection, with or without a client certificate."""
    context = ssl.create_default_context(cafile=server.data / "pki" / "ca.crt")
    if identity is not None:
        context.load_cert_chain(identity)
    plain = socket.create_connection(("127.0.0.1", server.port), timeout=20)
    with contextlib.closing(context.wrap_socket(plain, server_hostname="127.0.0.1")) as connection:
        yield connection


def answers(connection):
    """Everything received until the other side closes."""
    received = b""
    with contextlib.suppress(TimeoutError, OSError):
        while piece := connection.recv(65536):
            received += piece
    return received


WHOAMI = json.dumps({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}).encode()
REVIEWS = b"/apis/authentication.k8s.io/v1/selfsubjectreviews"


def test_trailers_are_not_header_fields(server, admin):
    """Groups in a trailer are not added to an impersonated user."""
    head = b"POST " + REVIEWS + b" HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nImpersonate-User: jane\r\n"
    chunks = b"%x\r\n%b\r\n0\r\nImpersonate-Group: system:masters\r\n\r\n" % (len(WHOAMI), WHOAMI)
    with connected(server, admin) as connection:
        connection.sendall(head + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n" + chunks)
        received = answers(connection)

    assert received.startswith(b"HTTP/1.1 201 ")
    user = json.loads(received.partition(b"\r\n\r\n")[2])["status"]["userInfo"]
    assert (user["username"], user["groups"]) == ("jane", ["system:authenticated"])


def test_the_body_of_an_upgrade_request_is_not_parsed_as_a_request(server, admin):
    """A body that looks like a request is a body: one request, one response."""
    inner = b"GET /api/v1/namespaces HTTP/1.1\r\nHost: x\r\n\r\n"
    head = b"POST " + REVIEWS + b" HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    with connected(server, admin) as connection:
        connection.sendall(head + b"Connection: Upgrade\r\nUpgrade: foo\r\nContent-Length: %d\r\n\r\n" % len(inner))
        connection.sendall(inner)
        connection.sendall(b"GET /version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        received = answers(connection)

    assert re.findall(rb"HTTP/1.1 (\d+) ", received) == [b"400", b"200"]
    assert b"NamespaceList" not in received


def _metric(client, name):
    text = client.request("admin", "GET", "/metrics", {}, None).data.decode()
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name))


def test_watches_end_with_their_connection(server, client, admin):
    """Twenty watches, each with a pipelined request, and then a disconnect: the watches end."""
    before = _metric(client, "apiserver_longrunning_requests{")
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            connection = stack.enter_context(connected(server, admin))
            connection.sendall(b"GET /api/v1/namespaces?watch=1 HTTP/1.1\r\nHost: x\r\n\r\n")
            assert connection.recv(12) == b"HTTP/1.1 200"
            connection.sendall(b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n" * 10)
        assert _metric(client, "apiserver_longrunning_requests{") == before + 20
    for _ in range(100):
        # Each check is a round trip to the event loop that has to notice it.
        if _metric(client, "apiserver_longrunning_requests{") == before:
            return
    pytest.fail("watches of closed connections did not end")


def test_plain_http_gets_an_error_message(server):
    """With Go's text, so that a user who forgot the s of https sees it."""
    with contextlib.closing(socket.create_connection(("127.0.0.1", server.port), timeout=20)) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert answers(plain).endswith(b"Client sent an HTTP request to an HTTPS server.\n")


def test_a_failed_handshake_is_counted_and_logged(server, client):
    """A failed handshake is logged, so that an operator can find the cause."""
    before = _metric(client, "apiserver_tls_handshake_errors_total")
    with contextlib.closing(socket.create_connection(("127.0.0.1", server.port), timeout=20)) as plain:
        plain.sendall(b"\x16\x03\x01\x00\x05hello")
        assert answers(plain)[:1] == b"\x15"
    assert _metric(client, "apiserver_tls_handshake_errors_total") == before + 1
    assert "TLS handshake failed" in server.log.read_text()


@contextlib.contextmanager
def limited(directory, descriptors):
    """A server with a limit of descriptors, and its process."""
    data, port = directory / "data", demo.free_port()
    with (directory / "server.log").open("wb") as sink:
        process = subprocess.Popen(
            [
                *("sh", "-c", f'ulimit -n {descriptors}; exec "$@"', "sh"),
                *(demo.CERTPLANE, "serve", "--data-dir", data, "--listen", f"127.0.0.1:{port}"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
        )
        try:
            demo.wait_until_ready(process, data, port, directory / "server.log")
            yield Server(data, port, directory / "server.log"), process
        finally:
            process.terminate()
            process.wait(timeout=15)


def _response_after_disconnects(server, client):
    """The response to a new client, as soon as the server has noticed that others have disconnected."""
    for _ in range(100):
        client.request("admin", "GET", "/readyz", {}, None)
        with contextlib.suppress(OSError), connected(server) as connection:
            connection.sendall(b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            return answers(connection)
    pytest.fail("no new connection was accepted")


@pytest.mark.parametrize(
    ("later", "reason"),
    [(256, "connections"), (48, "descriptors")],
    ids=["limit of connections", "limit of descriptors"],
)
def test_connections_are_refused_when_descriptors_run_out(later, reason, tmp_path):
    """Connections above the limit are refused and counted. Existing connections are served, including writes. When the
    others have disconnected, new connections are accepted.
    """
    with limited(tmp_path, 256) as (server, process), contextlib.closing(requests.client(server, tmp_path)) as client:
        before = client.request("admin", "POST", requests.CSRS, requests.JSON, requests.csr("a", requests.pkcs10()))
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (later, 256))
        with contextlib.ExitStack() as stack:
            for _ in range(300):
                stack.enter_context(
                    contextlib.closing(socket.create_connection(("127.0.0.1", server.port), timeout=20))
                )
            meanwhile = client.request(
                "admin", "POST", requests.CSRS, requests.JSON, requests.csr("b", requests.pkcs10())
            )
            refused = _metric(client, f'certplane_connections_refused_total{{reason="{reason}"}}')
        afterwards = _response_after_disconnects(server, client)

    assert (before.status, meanwhile.status) == (201, 201)
    assert refused > 0
    assert afterwards.startswith(b"HTTP/1.1 200 ")
