"""Client certificates rotate over several lives, with real processes and certificates that end within seconds."""

from __future__ import annotations

import contextlib
import datetime
import http.client
import ssl
import subprocess

import demo
from tests.conftest import Server
from tests.e2e import kubelet

LIFETIME = datetime.timedelta(seconds=6)
WHO = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
REVIEW = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}


def now():
    return datetime.datetime.now(datetime.UTC)


def ends(node):
    return node.client_store.certificate().not_valid_after_utc


def is_accepted(server, pair):
    """Whether the server completes a handshake and knows the client of a certificate."""
    tls = ssl.create_default_context(cafile=str(server.data / "pki" / "ca.crt"))
    tls.load_cert_chain(str(pair))
    connection = http.client.HTTPSConnection("127.0.0.1", server.port, context=tls, timeout=20)
    with contextlib.closing(connection):
        try:
            connection.request("GET", "/api/v1/namespaces/kube-public/configmaps/none")
            return connection.getresponse().status != 401
        except (ssl.SSLError, OSError):
            return False


def test_a_kubelet_rotates_over_three_lives(tmp_path):
    """It renews after 70 % of each life, requests all the time, and no request fails. When the third certificate is in
    use, the first one has ended and is refused.
    """
    options = ("--creation-hints=false", f"--cluster-signing-duration={LIFETIME.seconds}s")
    with demo.running(tmp_path / "data", tmp_path / "server.log", *options) as port:
        server = Server(tmp_path / "data", port, tmp_path / "server.log")
        command = [demo.CERTPLANE, "token", "--kubeconfig", str(server.data / "admin.conf"), "create"]
        created = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
        node = kubelet.Kubelet(server, tmp_path / "alpha", "alpha", created.stdout.strip())
        node.bootstrap()
        first = node.client_store.current.resolve()
        serials, answered = [node.client_store.certificate().serial_number], 0
        for _ in range(3):
            # The signer dates certificates back by five minutes, so a life is counted from here.
            deadline = kubelet.rotation_deadline(now(), ends(node), 0.0)
            while now() < deadline:
                answer = node.client().in_json("POST", WHO, REVIEW)
                assert (answer.status, answer.obj["status"]["userInfo"]["username"]) == (201, "system:node:alpha")
                answered += 1
            node.rotate()
            serials.append(node.client_store.certificate().serial_number)
        assert 4 == len(set(serials))
        assert answered > 3
        assert first.exists()
        assert not is_accepted(server, first)
        assert is_accepted(server, node.client_store.current)
