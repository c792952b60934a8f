"""`certplane serve` as a real process: files, exit codes, signals."""

from __future__ import annotations

import contextlib
import datetime
import http.client
import json
import os
import signal
import ssl
import stat
import subprocess

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa

import demo
from tests.e2e import requests


def serve(*arguments, timeout=30):
    """Run the command until it exits by itself, because startup is refused."""
    return subprocess.run(
        [demo.CERTPLANE, "serve", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        stdin=subprocess.DEVNULL,
    )


@contextlib.contextmanager
def started(data, *arguments):
    """A server process that the test stops itself; its port and the process."""
    port = demo.free_port()
    log = data.parent / f"{data.name}.log"
    with log.open("ab") as sink:
        process = subprocess.Popen(
            [demo.CERTPLANE, "serve", "--data-dir", data, "--listen", f"127.0.0.1:{port}", *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
        )
        try:
            demo.wait_until_ready(process, data, port, log)
            yield port, process
        finally:
            process.kill()
            process.wait()


def get(data, port, path, user_chain=None):
    """One GET; status and body."""
    context = ssl.create_default_context(cafile=data / "pki" / "ca.crt")
    if user_chain is not None:
        context.load_cert_chain(user_chain)
    with contextlib.closing(http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=10)) as connection:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def test_the_first_start_creates_missing_files(own_server):
    """The PKI in kubeadm's layout and two kubeconfigs; keys are readable only by the owner."""
    data = own_server.data
    assert stat.S_IMODE(data.stat().st_mode) == 0o700
    secret = {"pki/ca.key", "pki/apiserver.key", "admin.conf", "super-admin.conf"}
    assert {stat.S_IMODE((data / name).stat().st_mode) for name in secret} == {0o600}
    ca = x509.load_pem_x509_certificate((data / "pki" / "ca.crt").read_bytes())
    assert ca.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert ca.public_key().key_size == 2048
    serving = x509.load_pem_x509_certificate((data / "pki" / "apiserver.crt").read_bytes())
    names = serving.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "localhost" in names.get_values_for_type(x509.DNSName)
    assert "127.0.0.1" in map(str, names.get_values_for_type(x509.IPAddress))


def test_health_and_version_need_no_credentials(own_server):
    """Health and version answer without credentials; verbose health lists its checks."""
    assert get(own_server.data, own_server.port, "/livez") == (200, "ok")
    assert get(own_server.data, own_server.port, "/healthz") == (200, "ok")
    status, text = get(own_server.data, own_server.port, "/readyz?verbose")
    assert status == 200
    assert "[+]etcd ok" in text
    assert text.endswith("readyz check passed\n")
    assert json.loads(get(own_server.data, own_server.port, "/version")[1])["minor"] == "36"


def test_no_private_key_is_logged(own_server, tmp_path):
    """Neither the log nor a response contains a private key."""
    client = requests.client(own_server, tmp_path)
    with contextlib.closing(client):
        everything = client.request("admin", "GET", requests.CSRS, {}, None).data
    assert b"PRIVATE KEY" not in everything
    assert "PRIVATE KEY" not in own_server.log.read_text()


def test_idle_clients_do_not_delay_the_stop(tmp_path):
    """At SIGTERM the process exits with 0, though a client keeps its connection and reads nothing."""
    data = tmp_path / "data"
    with contextlib.ExitStack() as stack:
        port, process = stack.enter_context(started(data))
        client = stack.enter_context(contextlib.closing(requests.client(requests.Server(data, port), tmp_path)))
        assert client.request("admin", "GET", "/api/v1/namespaces", {}, None).status == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == 0


def test_a_stop_ends_watches_properly(tmp_path):
    """The last chunk of a watch arrives when the server stops: clients see an end, not a broken connection."""
    data = tmp_path / "data"
    with started(data) as (port, process):
        server = requests.Server(data, port)
        client = requests.client(server, tmp_path)
        connection = client.connect("admin")
        with contextlib.closing(connection):
            connection.request("GET", "/api/v1/namespaces?watch=true&resourceVersion=0")
            answer = connection.getresponse()
            assert json.loads(answer.readline())["type"] == "ADDED"
            process.send_signal(signal.SIGTERM)
            answer.read()
            assert answer.isclosed()
        assert process.wait(timeout=10) == 0


def test_a_second_process_is_refused(own_server):
    """Two processes do not share a data directory."""
    refused = serve("--data-dir", own_server.data, "--listen", f"127.0.0.1:{demo.free_port()}")
    assert refused.returncode == 2
    assert "error: " in refused.stderr
    assert "hint: " in refused.stderr
    assert "Traceback" not in refused.stderr


def test_objects_survive_a_restart(tmp_path):
    """A restart keeps objects and revisions, so a watch resumes from its revision."""
    data = tmp_path / "data"
    with started(data) as (port, process):
        server = requests.Server(data, port)
        client = requests.client(server, tmp_path)
        with contextlib.closing(client):
            created = client.request(
                "admin", "POST", requests.CSRS, requests.JSON, requests.csr("a", requests.pkcs10())
            )
            before = json.loads(created.data)["metadata"]["resourceVersion"]
            client.request("admin", "POST", requests.CSRS, requests.JSON, requests.csr("b", requests.pkcs10()))
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == 0
    with started(data) as (port, _):
        server = requests.Server(data, port)
        client = requests.client(server, tmp_path)
        with contextlib.closing(client):
            path = f"{requests.CSRS}?watch=1&resourceVersion={before}&timeoutSeconds=1"
            events = client.request("admin", "GET", path, {}, None).data.splitlines()
    assert [json.loads(event)["object"]["metadata"]["name"] for event in events] == ["b"]


def _write_pair(directory, certificate, key, mode=0o600):
    directory.mkdir(parents=True)
    (directory / "ca.crt").write_bytes(requests.pem(certificate))
    (directory / "ca.key").write_bytes(requests.pem(key))
    (directory / "ca.key").chmod(mode)


def _self_signed(*, is_ca):
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    created = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(is_ca, None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return created, key


def _others_can_read(pki):
    _write_pair(pki, *_self_signed(is_ca=True), mode=0o644)


def _key_of_another(pki):
    _write_pair(pki, _self_signed(is_ca=True)[0], rsa.generate_private_key(65537, 2048))


def _no_authority(pki):
    _write_pair(pki, *_self_signed(is_ca=False))


def _truncated(pki):
    _write_pair(pki, *_self_signed(is_ca=True))
    (pki / "ca.crt").write_bytes((pki / "ca.crt").read_bytes()[:100])


@pytest.mark.parametrize("broken", [_others_can_read, _key_of_another, _no_authority, _truncated])
def test_an_invalid_pki_is_refused_and_not_changed(broken, tmp_path):
    """The exit code is 2, there are error: and hint: lines, and nothing was written."""
    data = tmp_path / "data"
    broken(data / "pki")
    before = {path: path.read_bytes() for path in data.rglob("*") if path.is_file()}
    refused = serve("--data-dir", data, "--listen", f"127.0.0.1:{demo.free_port()}")
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-2].startswith("error: ") or "error: " in refused.stderr
    assert "hint: " in refused.stderr
    assert "Traceback" not in refused.stderr
    assert {path: path.read_bytes() for path in data.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    "arguments",
    [
        ["--listen", "nonsense"],
        ["--controllers", "unknown"],
        ["--cluster-signing-duration", "soon"],
        ["--token-auth-file", "missing.csv"],
        ["--client-ca-file", "missing.crt"],
        ["--tls-cert-file", "only.crt"],
        ["--config", "missing.yaml"],
        ["--store", "etcd:nowhere"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_invalid_settings_are_refused_with_an_error(arguments, tmp_path):
    """The exit code is 2, and there is an error: line and no traceback."""
    address = [] if "--listen" in arguments else ["--listen", f"127.0.0.1:{demo.free_port()}"]
    refused = serve("--data-dir", tmp_path / "data", *address, *arguments)
    assert refused.returncode == 2
    assert "error: " in refused.stderr.lower()
    assert "Traceback" not in refused.stderr


def test_a_signer_without_a_key_is_reported(tmp_path):
    """Requests stay pending, and the reason is in the health check, the log and a metric."""
    data = tmp_path / "data"
    missing = tmp_path / "missing"
    flags = ("--cluster-signing-cert-file", missing, "--cluster-signing-key-file", missing)
    with started(data, *flags) as (port, _):
        server = requests.Server(data, port)
        client = requests.client(server, tmp_path)
        with contextlib.closing(client):
            health = client.request("admin", "GET", "/readyz?verbose", {}, None)
            metrics = client.request("admin", "GET", "/metrics", {}, None)
    assert health.status == 200
    assert b"signer-kube-apiserver-client" in health.data
    assert str(missing).encode() in health.data
    lines = metrics.data.decode().splitlines()
    line = next(line for line in lines if "signer_ready" in line and "kubelet-serving" in line)
    assert str(missing) in line
    assert line.endswith(" 0.0")


def test_settings_come_from_a_file_and_flags_take_precedence(tmp_path):
    """--config has the same names; flags take precedence."""
    config = tmp_path / "config.yaml"
    config.write_text("key-algorithm: ECDSA-P256\nanonymous-auth: false\n")
    data = tmp_path / "data"
    with started_without_anonymous_access(data, config) as (port, _):
        assert get(data, port, "/livez")[0] == 401
    ca = x509.load_pem_x509_certificate((data / "pki" / "ca.crt").read_bytes())
    assert isinstance(ca.public_key(), ec.EllipticCurvePublicKey)
    with started(data, "--config", config, "--anonymous-auth=true") as (port, _):
        assert get(data, port, "/livez") == (200, "ok")


@contextlib.contextmanager
def started_without_anonymous_access(data, config):
    """A server without anonymous access: it is ready as soon as it refuses."""
    port = demo.free_port()
    with (data.parent / "refusing.log").open("wb") as sink:
        process = subprocess.Popen(
            [demo.CERTPLANE, "serve", "--data-dir", data, "--listen", f"127.0.0.1:{port}", "--config", config],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
        )
        try:
            while process.poll() is None:
                with contextlib.suppress(OSError):
                    get(data, port, "/livez")
                    break
            yield port, process
        finally:
            process.kill()
            process.wait()


@pytest.mark.parametrize(
    ("usages", "days", "status"),
    [
        ((x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH,), (-1, 1), 200),
        ((), (-1, 1), 200),
        ((x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH,), (-2, -1), 401),
        ((x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH,), (1, 2), 401),
    ],
    ids=["good", "any use", "expired", "not yet"],
)
def test_the_validity_period_of_client_certificates_is_checked(usages, days, status, server, tmp_path):
    """Expired and early certificates get 401 from the application, and a reason in the log."""
    identity = tmp_path / "client.pem"
    identity.write_bytes(requests.pem(*requests.certificate(*requests.authority(server), usages=usages, days=days)))
    answer, _ = get(server.data, server.port, "/version", identity)
    assert answer == status
    if status == 401:
        assert "unauthorized" in server.log.read_text()


def test_client_certificates_may_be_sent_with_intermediates(server, tmp_path):
    """A chain that leads to the client CA identifies its leaf."""
    middle, middle_key = requests.certificate(*requests.authority(server), usages=(), is_ca=True, name="middle")
    leaf, leaf_key = requests.certificate(middle, middle_key, name="jane")
    identity = tmp_path / "client.pem"
    identity.write_bytes(requests.pem(leaf, middle, leaf_key))
    status, text = get(server.data, server.port, "/api/v1/namespaces", identity)
    assert status == 403
    assert 'User \\"jane\\" cannot list' in text


def _signed_by_another_ca(server):
    other, other_key = _self_signed(is_ca=True)
    return requests.certificate(other, other_key, name="kubernetes-admin")


def _for_servers_only(server):
    server_auth = (x509.oid.ExtendedKeyUsageOID.SERVER_AUTH,)
    return requests.certificate(*requests.authority(server), usages=server_auth)


@pytest.mark.parametrize("make", [_signed_by_another_ca, _for_servers_only])
def test_untrusted_client_certificates_get_401(make, server, tmp_path):
    """A certificate of another authority, or one for servers only, gets 401 as a Status, and a reason in the log."""
    identity = tmp_path / "client.pem"
    identity.write_bytes(requests.pem(*make(server)))

    status, text = get(server.data, server.port, "/version", identity)

    assert (status, json.loads(text)["reason"]) == (401, "Unauthorized")
    assert "unauthorized" in server.log.read_text()


def test_help_writes_no_files(tmp_path):
    """--help writes no files."""
    answer = subprocess.run(
        [demo.CERTPLANE, "--help"], cwd=tmp_path, capture_output=True, text=True, check=True, env={**os.environ}
    )
    assert "serve" in answer.stdout
    assert not list(tmp_path.iterdir())


def test_the_audit_log_records_approvals_by_default(tmp_path):
    """From the first start on, without settings; only the owner can read the file."""
    data = tmp_path / "data"
    with started(data) as (port, _):
        server = requests.Server(data, port)
        with contextlib.closing(requests.client(server, tmp_path)) as client:
            assert client.request("admin", "POST", requests.CSRS, requests.JSON, requests.csr("a", requests.pkcs10()))
            csr = json.loads(client.request("admin", "GET", f"{requests.CSRS}/a", {}, None).data)
            csr["status"]["conditions"] = [{"type": "Approved", "status": "True", "reason": "R"}]
            body = json.dumps(csr).encode()
            answer = client.request("admin", "PUT", f"{requests.CSRS}/a/approval", requests.JSON, body)
            assert answer.status == 200
    log = data / "audit.log"
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    command = [demo.CERTPLANE, "audit", "approvals", "--log", str(log), "--since", "1h"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.splitlines()
    assert shown[0].split()[:4] == ["WHEN", "DECISION", "CSR", "BY"]
    assert shown[1].split()[1:3] == ["Approved", "a"]
    missing = subprocess.run([*command[:4], str(tmp_path / "no.log")], capture_output=True, text=True, check=False)
    assert (missing.returncode, missing.stderr.startswith("error: the audit log")) == (2, True)
