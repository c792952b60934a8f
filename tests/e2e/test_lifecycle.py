"""From start to shutdown: signals, addresses, and files that change while a server runs."""

from __future__ import annotations

import contextlib
import http.client
import os
import pathlib
import re
import signal
import socket
import ssl
import subprocess
import sys

import pytest

import demo
from tests.e2e import requests

ROOT = pathlib.Path(__file__).resolve().parents[2]
SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}


class Process:
    """A command whose log is read line by line."""

    def __init__(self, *arguments, **options):
        self.running = subprocess.Popen(
            [demo.CERTPLANE, *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            **options,
        )
        self.lines = []

    def until(self, text):
        """The next line that has this text."""
        for line in self.running.stdout:
            self.lines.append(line)
            if text in line:
                return line
        raise AssertionError("".join(self.lines))

    def send(self, number):
        self.running.send_signal(number)

    def end(self):
        """The exit code; the rest of the log."""
        rest, _ = self.running.communicate(timeout=30)
        self.lines.append(rest)
        return self.running.returncode

    @property
    def log(self):
        return "".join(self.lines)


@contextlib.contextmanager
def started(*arguments, **options):
    process = Process(*arguments, **options)
    try:
        yield process
    finally:
        process.running.kill()
        process.running.wait()
        process.running.stdout.close()


def served(process):
    """The port in the server's log."""
    return int(re.search(r"address=\S+:(\d+)", process.until(" serving "))[1])


def serve(data, *arguments, listen="127.0.0.1:0", **options):
    fast = ("--key-algorithm", "ECDSA-P256")
    return started("serve", "--data-dir", data, "--listen", listen, *fast, *arguments, **options)


def certificate_of(data, port):
    """The serving certificate, in DER."""
    settings = ssl.create_default_context(cafile=data / "pki" / "ca.crt")
    settings.check_hostname = False
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as connection,
        settings.wrap_socket(connection, server_hostname="localhost") as tls,
    ):
        return tls.getpeercert(binary_form=True)


def server_in(path):
    return re.search(r"^    server: (.*)$", path.read_text(), re.MULTILINE)[1]


# --- signals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("command", ["serve", "controllers"])
def test_a_signal_before_imports_stops_the_start(command, number, tmp_path):
    """A signal before any import ends it with 0, even if the parent process has it blocked."""

    def block():
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)

    where = ("--data-dir", tmp_path / "data") if command == "serve" else ("--kubeconfig", tmp_path / "none")
    # Python prints its imports.
    environment = os.environ | {"PYTHONPROFILEIMPORTTIME": "1"}
    with started(command, *where, preexec_fn=block, env=environment) as process:
        process.send(signal.SIGHUP)
        process.send(number)
        assert process.end() == 0
    loaded = {line.rpartition("|")[2].strip() for line in process.log.splitlines()}
    assert "certplane" in loaded
    assert not loaded & {"asyncio", "click", "cryptography", "certplane.errors"}
    assert all(line.startswith("import time:") for line in process.log.splitlines())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_during_the_start_stops_it(number, tmp_path):
    """The current step is finished, nothing follows, and the exit code is 0."""
    pipe = tmp_path / "tokens"
    os.mkfifo(pipe)
    with serve(tmp_path / "data", "--token-auth-file", pipe) as process:
        with pipe.open("w") as sink:
            # It is now reading the pipe, and continues when the pipe is closed.
            process.send(signal.SIGHUP)
            process.send(number)
            sink.write("t,u,1\n")
        assert process.end() == 0
    assert " serving " not in process.log
    assert "Traceback" not in process.log
    assert not (tmp_path / "data" / "admin.conf").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_does_not_change_the_exit_code(number, tmp_path):
    """The exit code is 0, however many signals follow."""
    with serve(tmp_path / "data") as process:
        served(process)
        while process.running.poll() is None:
            process.send(number)
        assert process.end() == 0
    assert "Traceback" not in process.log


def test_sighup_stops_no_process(own_server, tmp_path):
    """A server and controllers reload their files and continue."""
    health = f"127.0.0.1:{demo.free_port()}"
    arguments = ("--kubeconfig", own_server.data / "super-admin.conf", "--listen-health", health)
    with serve(tmp_path / "other") as server, started("controllers", *arguments) as controllers:
        served(server)
        controllers.until("acquired lease")
        for process in (server, controllers):
            for _ in range(3):
                process.send(signal.SIGHUP)
                process.until("SIGHUP received; reloading files")
            process.send(signal.SIGTERM)
            assert process.end() == 0


def test_the_audit_log_is_reopened_on_sighup(tmp_path):
    """Log rotation tools send SIGHUP after they have moved the file."""
    data = tmp_path / "data"
    with serve(data) as process:
        port = served(process)
        log = data / "audit.log"
        log.rename(data / "audit.log.1")
        process.send(signal.SIGHUP)
        process.until("SIGHUP")
        server = requests.Server(data, port)
        with contextlib.closing(requests.client(server, tmp_path)) as client:
            client.request(
                "admin", "POST", requests.CSRS, requests.JSON, requests.csr("after-rotation", requests.pkcs10())
            )
        process.send(signal.SIGTERM)
        assert process.end() == 0
    assert "after-rotation" in log.read_text()
    assert "after-rotation" not in (data / "audit.log.1").read_text()


def test_an_incomplete_body_does_not_delay_the_stop(tmp_path):
    """The request gets 503 as a Status, and the process ends."""
    data = tmp_path / "data"
    with serve(data) as process:
        port = served(process)
        server = requests.Server(data, port)
        client = requests.client(server, tmp_path)
        with contextlib.closing(client.connect("admin")) as connection:
            connection.putrequest("POST", requests.CSRS)
            connection.putheader("Content-Type", "application/json")
            connection.putheader("Content-Length", "1000")
            connection.endheaders()
            connection.send(b"{")
            # After this response the other request has arrived.
            with contextlib.closing(requests.client(server, tmp_path)) as other:
                assert other.request("admin", "GET", "/readyz", {}, None).status == 200
            process.send(signal.SIGTERM)
            answer = connection.getresponse()
            assert answer.status == 503
            assert answer.getheader("retry-after") == "1"
            assert b'"reason":"ServiceUnavailable"' in answer.read().replace(b" ", b"")
        assert process.end() == 0


# --- addresses ----------------------------------------------------------------------------------------------------


def test_kubeconfigs_have_the_bound_port(tmp_path):
    """Also for port 0, and after the port has changed."""
    data = tmp_path / "data"
    for _ in range(2):
        with serve(data) as process:
            port = served(process)
            assert server_in(data / "admin.conf") == f"https://127.0.0.1:{port}"
            assert server_in(data / "super-admin.conf") == f"https://127.0.0.1:{port}"
            process.send(signal.SIGTERM)
            assert process.end() == 0


def test_a_second_process_does_not_change_the_kubeconfigs(own_server):
    """The error says that the data directory is in use."""
    before = (own_server.data / "admin.conf").read_bytes()
    with started("serve", "--data-dir", own_server.data, "--listen", "127.0.0.1:0") as process:
        assert process.end() == 2
    assert "in use by another process" in process.log
    assert before == (own_server.data / "admin.conf").read_bytes()


def test_kubeconfigs_are_not_written_if_the_port_is_in_use(tmp_path):
    """If the server cannot start, no kubeconfig is written or changed."""
    data = tmp_path / "data"
    with serve(data) as process:
        served(process)
        process.send(signal.SIGTERM)
        assert process.end() == 0
    before = (data / "admin.conf").read_bytes()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with serve(data, listen=f"127.0.0.1:{taken.getsockname()[1]}") as process:
            assert process.end() == 2
    assert "error: cannot listen" in process.log
    assert before == (data / "admin.conf").read_bytes()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_make_up_stops_on_a_signal_and_keeps_its_port(number, tmp_path):
    """The control plane stops, and the next start uses the same port."""
    ports = []
    for _ in range(2):
        process = subprocess.Popen(
            [sys.executable, ROOT / "tools" / "up.py"],
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        with process:
            ports.append(re.search(r":(\d+)$", process.stdout.readline())[1])
            process.send_signal(number)
            process.communicate(timeout=30)
        assert process.returncode == 0
        with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", int(ports[-1])), timeout=5):
            pass
    assert ports[0] == ports[1]


# --- files that change --------------------------------------------------------------------------------------------


def status(data, port, *, identity=None, token=""):
    """The status code that a client gets: with the certificate and key in the file `identity`, or with a token."""
    settings = ssl.create_default_context(cafile=data / "pki" / "ca.crt")
    if identity is not None:
        settings.load_cert_chain(identity)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    with contextlib.closing(http.client.HTTPSConnection("127.0.0.1", port, context=settings, timeout=10)) as connection:
        connection.request("GET", "/version", headers=headers)
        return connection.getresponse().status


def test_a_renewed_serving_certificate_is_loaded(tmp_path):
    """SIGHUP loads it at once. A certificate that does not match the key is not loaded, and the error is logged."""
    data = tmp_path / "data"
    with serve(data) as process:
        port = served(process)
        before = certificate_of(data, port)
        certificate, key = requests.certificate(*requests.authority(requests.Server(data, port)), usages=(), name="new")
        (data / "pki" / "apiserver.crt").write_bytes(requests.pem(certificate))
        process.send(signal.SIGHUP)
        line = process.until("files reload failed")
        assert "tls: private key" in line
        assert certificate_of(data, port) == before
        (data / "pki" / "apiserver.key").write_bytes(requests.pem(key))
        process.send(signal.SIGHUP)
        process.until("files reloaded")
        assert certificate_of(data, port) != before


def test_a_replaced_client_ca_is_loaded(tmp_path):
    """The new CA is trusted and the previous one is not, without a restart."""
    data, file, identity = tmp_path / "data", tmp_path / "clients.crt", tmp_path / "client.pem"
    with serve(data) as process:
        served(process)
        process.send(signal.SIGTERM)
        assert process.end() == 0
    authority = requests.authority(requests.Server(data, 0))
    other = requests.certificate(*authority, usages=(), is_ca=True, name="other")
    file.write_bytes(requests.pem(other[0]))
    identity.write_bytes(requests.pem(*requests.certificate(*authority, name="jane")))
    with serve(data, "--client-ca-file", file) as process:
        port = served(process)
        file.write_bytes(requests.pem(authority[0]))
        process.send(signal.SIGHUP)
        process.until("files reloaded")
        assert status(data, port, identity=identity) == 200
        file.write_bytes(b"half a certificate")
        process.send(signal.SIGHUP)
        process.until("files reload failed")
        assert status(data, port, identity=identity) == 200
        file.write_bytes(requests.pem(other[0]))
        process.send(signal.SIGHUP)
        process.until("files reloaded")
        assert status(data, port, identity=identity) == 401


def test_a_revoked_token_is_refused(tmp_path):
    """The token file is read again without a signal."""
    data, file = tmp_path / "data", tmp_path / "tokens.csv"
    file.write_text("old,jane,1\n")
    file.chmod(0o600)
    with serve(data, "--token-auth-file", file) as process:
        port = served(process)
        assert (status(data, port, token="old"), status(data, port, token="new")) == (200, 401)
        file.write_text("new,jane,1\n")
        process.until("files reloaded")
        assert (status(data, port, token="old"), status(data, port, token="new")) == (401, 200)


def _replace_ca(certificate, key):
    """A new CA in two files."""
    ca, ca_key = requests.authority_pair()
    certificate.write_bytes(requests.pem(ca))
    key.write_bytes(requests.pem(ca_key))
    key.chmod(0o600)
    return ca


def _write_signers(path, *names):
    entries = "".join(
        f"- name: {name}\n  authority: {{certFile: signer.crt, keyFile: signer.key}}\n"
        "  usages: {allowed: [client auth]}\n"
        for name in names
    )
    path.write_text(f"apiVersion: signers.certplane.dev/v1alpha1\nkind: SignerList\nsigners:\n{entries}")


def _check_reloads(process, ca_files, signers):
    """A new CA, another signer and a broken file are noticed at SIGHUP, and without it."""
    end = _replace_ca(*ca_files).not_valid_after_utc.strftime("%Y-%m-%dT%H:%M:%SZ")
    process.send(signal.SIGHUP)
    assert f"ca_not_after={end}" in process.until("signer uses another CA: its files have changed")
    _write_signers(signers, "example.com/a", "example.com/b")
    process.send(signal.SIGHUP)
    assert "example.com/b" in process.until("signers reloaded")
    signers.write_text("signers: [")
    process.until("signers reload failed; keeping the previous configuration")
    ca_files[1].write_text("half a key")
    process.until("signer keeps using its previous CA: the CA files have a problem")
    _replace_ca(*ca_files)
    process.until("signer uses another CA: its files have changed")


@pytest.fixture
def signers(tmp_path):
    """A file for --signers, with one signer, whose CA is beside it."""
    path = tmp_path / "signers.yaml"
    _replace_ca(tmp_path / "signer.crt", tmp_path / "signer.key")
    _write_signers(path, "example.com/a")
    return path


def test_a_server_reloads_the_cas_of_signers(tmp_path, signers):
    """The default CA is that of the data directory."""
    data = tmp_path / "data"
    with serve(data, "--signers", signers) as process:
        served(process)
        _check_reloads(process, (data / "pki" / "ca.crt", data / "pki" / "ca.key"), signers)
        process.send(signal.SIGTERM)
        assert process.end() == 0


def test_controllers_reload_the_cas_of_signers_and_announce_their_end(own_server, tmp_path, signers):
    """As the server does, in their log, their metrics and their health check."""
    health = f"127.0.0.1:{demo.free_port()}"
    ca_files = (tmp_path / "ca.crt", tmp_path / "ca.key")
    _replace_ca(*ca_files)
    arguments = ("--kubeconfig", own_server.data / "super-admin.conf", "--listen-health", health, "--signers", signers)
    pair = ("--cluster-signing-cert-file", ca_files[0], "--cluster-signing-key-file", ca_files[1])
    with started("controllers", *arguments, *pair) as controllers:
        # The CAs of these tests are valid for a day.
        line = controllers.until("certificate ends within 7 days")
        assert "certificate=signer:" in line
        controllers.until("acquired lease")
        _check_reloads(controllers, ca_files, signers)
        with contextlib.closing(http.client.HTTPConnection(health, timeout=10)) as connection:
            connection.request("GET", "/metrics")
            metrics = connection.getresponse().read().decode()
            assert 'certplane_certificate_expiration_timestamp_seconds{certificate="signer:kubernetes.io/' in metrics
            connection.request("GET", "/readyz?verbose")
            response = connection.getresponse()
            assert 200 == response.status
            assert "[!]certificates failed, ignored" in response.read().decode()
        controllers.send(signal.SIGTERM)
        assert controllers.end() == 0
