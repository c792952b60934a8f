"""`certplane doctor` and `certplane status`: processes of their own, beside a server or a damaged directory."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import hashlib
import json
import os
import pty
import re
import shutil
import struct
import subprocess
import termios

import pytest

import demo
from certplane.x509 import keys
from tests import kubeadmpki
from tests.e2e import requests

OTHER_KEY = keys.to_pem(keys.generate("RSA-2048"))
CLIENT = "kubernetes.io/kube-apiserver-client"


def run(*arguments, cwd=None, **environment):
    """Exit code, standard output and standard error of a command, without a kubeconfig of its own."""
    kept = {name: value for name, value in os.environ.items() if name not in ("KUBECONFIG", "NO_COLOR")}
    result = subprocess.run(
        [demo.CERTPLANE, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        stdin=subprocess.DEVNULL,
        cwd=cwd,
        env={**kept, "HOME": "/nonexistent", **environment},
    )
    assert "Traceback" not in result.stderr
    assert "PRIVATE" not in result.stdout + result.stderr
    return result.returncode, result.stdout, result.stderr


def report(*arguments):
    """The exit code, and the findings that are not ok, as pairs of id and severity."""
    code, output, errors = run("doctor", *arguments, "-o", "json")
    assert errors == ""
    document = json.loads(output)
    assert (document["kind"], document["apiVersion"]) == ("DoctorReport", "doctor.certplane.io/v1alpha1")
    wrong = sorted({(item["id"], item["severity"]) for item in document["findings"] if item["severity"] != "ok"})
    return code, wrong, document


def content(directory):
    """What would differ if the command had changed anything: names, modes, contents."""
    return {
        str(path): (path.lstat().st_mode, hashlib.sha256(path.read_bytes()).digest() if path.is_file() else b"")
        for path in directory.rglob("*")
    }


def kubectl(server, *arguments, text=None):
    command = [demo.find_kubectl(), "--kubeconfig", server.data / "admin.conf", *arguments]
    return subprocess.run(command, input=text, capture_output=True, text=True, timeout=60, check=True).stdout


# --- beside a running server --------------------------------------------------------------------------------------


def test_a_new_installation_is_in_order(own_server):
    """With its settings, by its kubeconfig alone, and found without flags; the server is not disturbed."""
    code, wrong, document = report("--data-dir", own_server.data)
    assert (code, wrong) == (0, [])
    ids = {item["id"] for item in document["findings"]}
    assert {"file-mode", "ca-key", "store", "disk-space", "clock-skew", "server-ready", "controllers"} <= ids
    assert {"rbac-approve", "rbac-sign", "rbac-secrets", "csr-pending"} <= ids
    assert document["summary"]["error"] == 0
    assert document["sources"] == [f"data directory {own_server.data}", f"server 127.0.0.1:{own_server.port}"]
    assert report("--kubeconfig", own_server.data / "admin.conf")[:2] == (0, [])
    (own_server.data.parent / "certplane-data").symlink_to("data")
    code, output, _ = run("doctor", cwd=own_server.data.parent)
    assert output.splitlines()[-1] == "0 errors, 0 warnings, 0 notes, 18 checks ok"
    assert code == 0
    assert "[+]etcd ok" in kubectl(own_server, "get", "--raw", "/readyz?verbose")


def test_who_may_approve_is_found(own_server):
    """Everybody may: an error, with the name of the binding and the command that deletes it."""
    role = ("--verb=update", "--resource=certificatesigningrequests.certificates.k8s.io/approval")
    kubectl(own_server, "create", "clusterrole", "approver", *role)
    rule = {"apiGroups": ["certificates.k8s.io"], "resources": ["signers"], "verbs": ["approve"]}
    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": "signer"},
        "rules": [{**rule, "resourceNames": [CLIENT]}],
    }
    kubectl(own_server, "create", "-f", "-", text=json.dumps(role))
    for binding, group in (("approver", "ops"), ("signer", "ops"), ("all", "system:authenticated")):
        granted = "signer" if binding == "all" else binding
        arguments = (f"--clusterrole={granted}", f"--group={group}")
        kubectl(own_server, "create", "clusterrolebinding", binding, *arguments)
    code, wrong, document = report("--data-dir", own_server.data)
    assert code == 7
    assert wrong == [("rbac-approve", "info"), ("rbac-everybody", "error")]
    (approve,) = (item for item in document["findings"] if item["id"] == "rbac-approve")
    assert approve["what"] == (
        f"Group ops may approve requests for {CLIENT}, by ClusterRoleBinding approver, ClusterRoleBinding signer"
    )
    (everybody,) = (item for item in document["findings"] if item["id"] == "rbac-everybody")
    assert everybody["fix"] == [f"kubectl --kubeconfig {own_server.data}/admin.conf delete clusterrolebinding all"]
    assert everybody["docs"] == "docs/doctor.md#rbac-everybody"


def test_requests_that_wait_are_found(own_server, tmp_path):
    """By doctor as a note, by status with their number and the oldest one, before and after the approval."""
    with contextlib.closing(requests.client(own_server, tmp_path)) as admin:
        for name in ("jane", "joe"):
            body = requests.csr(name, requests.pkcs10(name), CLIENT)
            assert admin.request("admin", "POST", requests.CSRS, requests.JSON, body).status == 201
    code, wrong, _ = report("--data-dir", own_server.data)
    assert (code, wrong) == (0, [("csr-pending", "info")])
    status = json.loads(run("status", "--data-dir", own_server.data, "-o", "json")[1])
    assert (status["requests"]["pending"], status["requests"]["issued"]) == (2, 0)
    assert status["requests"]["oldestPending"]["name"] in ("jane", "joe")
    kubectl(own_server, "certificate", "approve", "jane")
    kubectl(own_server, "wait", "--for=jsonpath={.status.certificate}", "csr/jane", "--timeout=30s")
    code, output, errors = run("status", "--data-dir", own_server.data)
    assert (code, errors) == (0, "")
    assert re.search(r"^Server +https://127\.0\.0\.1:\d+  ready$", output, re.MULTILINE)
    assert re.search(r"^Version +v1\.36\.", output, re.MULTILINE)
    assert re.search(r"^User +kubernetes-admin \(kubeadm:cluster-admins, system:authenticated\)$", output, re.MULTILINE)
    assert "1 pending, 1 approved and 0 denied today, 1 issued, 0 failed" in output
    assert re.search(rf"^ +oldest pending for \d+s: joe for {CLIENT}$", output, re.MULTILINE)
    assert re.search(rf"^Signers +ready +{CLIENT}$", output, re.MULTILINE)
    assert "csr/jane" in output
    assert re.search(rf"^Approved +\d+s ago +jane of \S+ for {CLIENT}: KubectlApprove$", output, re.MULTILINE)


def test_status_of_a_server_that_does_not_answer(own_server, tmp_path):
    """Exit code 2, with a hint."""
    text = (own_server.data / "admin.conf").read_text()
    (tmp_path / "admin.conf").write_text(re.sub(r"server: .*", "server: https://127.0.0.1:1", text))
    code, output, errors = run("status", "--kubeconfig", tmp_path / "admin.conf")
    assert (code, output) == (2, "")
    assert "cannot be reached" in errors
    assert "hint: " in errors
    code, wrong, _ = report("--kubeconfig", tmp_path / "admin.conf")
    assert (code, wrong) == (7, [("server", "error")])


def on_terminal(width, *arguments, **environment):
    """The output of a command on a terminal of some columns."""
    own, other = pty.openpty()
    fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 50, width, 0, 0))
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "KUBECONFIG")}
    command = [demo.CERTPLANE, *map(str, arguments)]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=other, stderr=other, env={**kept, "TERM": "xterm", **environment}
    ) as process:
        os.close(other)
        output = bytearray()
        with contextlib.suppress(OSError):
            while chunk := os.read(own, 65536):
                output += chunk
        process.wait(timeout=60)
    os.close(own)
    return output.decode()


def test_the_output_fits_the_terminal(own_server):
    """Colours on a terminal, unless NO_COLOR is set; only what is to be copied is longer than a line."""
    for command in ("status", "doctor"):
        arguments = (command, "--data-dir", own_server.data)
        coloured, plain = on_terminal(60, *arguments), on_terminal(60, *arguments, NO_COLOR="1")
        assert "\x1b[3" in coloured
        assert "\x1b" not in plain
        lines = plain.replace("\r\n", "\n").splitlines()
        assert len(lines) > 10
        long = [line for line in lines if len(line) > 60 and " fix: " not in line and own_server.data.name not in line]
        assert long == []
        assert "\x1b" not in run(*arguments)[1]


# --- a damaged directory ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A data directory whose server has stopped."""
    directory = tmp_path_factory.mktemp("original")
    with demo.running(directory / "data", directory / "log"):
        pass
    return directory / "data"


@pytest.fixture
def data(original, tmp_path):
    tmp_path.chmod(0o700)
    shutil.copytree(original, tmp_path / "data")
    return tmp_path / "data"


STOPPED = ("server", "warning")


def test_a_stopped_server_is_a_warning(data):
    """And everything on the disk is checked."""
    before = content(data)
    assert report("--data-dir", data)[:2] == (4, [STOPPED])
    assert content(data) == before


def chmod(mode):
    return lambda path: path.chmod(mode)


def link(path):
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


@pytest.mark.parametrize(
    ("file", "damage", "expected"),
    [
        ("pki/ca.key", chmod(0o644), ("file-mode", "error")),
        ("pki/ca.key", chmod(0o640), ("file-mode", "error")),
        ("admin.conf", chmod(0o604), ("file-mode", "error")),
        ("store.sqlite", chmod(0o644), ("file-mode", "error")),
        ("pki/ca.crt", chmod(0o666), ("file-mode", "error")),
        ("pki", chmod(0o770), ("directory-mode", "error")),
        (".", chmod(0o777), ("directory-mode", "error")),
        ("audit.log", chmod(0o644), ("log-mode", "error")),
        ("super-admin.conf", link, ("file-kind", "error")),
        ("pki/ca.key", lambda path: path.write_bytes(OTHER_KEY), ("ca-key", "error")),
        ("pki/ca.key", lambda path: path.write_bytes(b"hello"), ("ca-key", "error")),
        ("pki/ca.key", lambda path: path.unlink(), ("ca-key", "error")),
        ("pki/apiserver.key", lambda path: path.write_bytes(OTHER_KEY), ("certificate-key", "error")),
        ("pki/apiserver.crt", lambda path: path.write_bytes(b""), ("certificate-unreadable", "error")),
        ("admin.conf", lambda path: path.write_bytes(path.read_bytes()[:700]), ("certificate-unreadable", "error")),
        ("store.sqlite", lambda path: path.write_bytes(b"hello" * 1000), ("store", "error")),
        ("new.pem", lambda path: path.write_bytes(OTHER_KEY) and path.chmod(0o644), ("file-mode", "error")),
    ],
)
def test_one_damage_is_found(data, file, damage, expected):
    """With exit code 7, and a command; nothing is changed."""
    damage(data / file)
    before = content(data)
    code, wrong, document = report("--data-dir", data)
    assert code == 7
    assert expected in wrong
    finding = next(item for item in document["findings"] if (item["id"], item["severity"]) == expected)
    assert finding["fix"]
    assert finding["why"]
    assert content(data) == before


def test_a_directory_with_everything_broken(data):
    """Each problem has its finding, and none hides the others."""
    (data / "pki" / "ca.key").write_bytes(OTHER_KEY)
    (data / "pki" / "ca.key").chmod(0o644)
    (data / "pki" / "apiserver.crt").write_bytes(b"-----BEGIN CERTIFICATE-----\n")
    (data / "store.sqlite").write_bytes(os.urandom(10000))
    (data / "admin.conf").write_bytes(b"\x00\xff\x1b[31m")
    (data / "audit.log").chmod(0o666)
    (data / "pki" / "\x1b[31mred\n.crt").write_bytes(b"x")
    (data / "pki").chmod(0o777)
    code, wrong, _ = report("--data-dir", data)
    assert code == 7
    assert {id_ for id_, _ in wrong} >= {
        "ca-key", "certificate-unreadable", "directory-mode", "file-mode", "log-mode", "server", "store",
    }  # fmt: skip
    _, text, _ = run("doctor", "--data-dir", data)
    assert "\x1b" not in text
    assert "\\x1b[31mred\\n.crt" in text
    assert re.search(r"^ +fix: chmod 600 \S+ca\.key$", text, re.MULTILINE)
    assert re.search(r"^ +see: docs/doctor\.md#ca-key$", text, re.MULTILINE)
    code, only, _ = run("doctor", "--data-dir", data, "--severity", "error")
    assert code == 7
    *lines, _summary = [line for line in only.splitlines() if not line.startswith(" ")]
    assert {line.split()[0] for line in lines} == {"error"}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ("listen: nowhere\n", ("settings", "error")),
        ("audit-log-path: none\n", ("audit-off", "warning")),
        ("cluster-signing-duration: 87600h\n", ("long-lifetime", "warning")),
        ("token-auth-file: tokens.csv\n", ("file-missing", "error")),
        ("cluster-signing-cert-file: no.crt\ncluster-signing-key-file: no.key\n", ("ca-unreadable", "error")),
        ("signers: no.yaml\n", ("file-missing", "error")),
    ],
)
def test_settings_are_those_of_serve(data, tmp_path, settings, expected):
    """From its configuration file; the data directory of a flag is examined although the settings are invalid."""
    (tmp_path / "serve.yaml").write_text(settings)
    code, wrong, document = report("--config", tmp_path / "serve.yaml", "--data-dir", data)
    assert expected in wrong
    assert code == (7 if expected[1] == "error" else 4)
    assert "certificate-key" in {item["id"] for item in document["findings"]}


def test_a_custom_signer_under_the_ca_of_the_clients(data, tmp_path):
    """Its CA is that of the data directory."""
    (tmp_path / "signers.yaml").write_text(
        f"""\
apiVersion: signers.certplane.dev/v1alpha1
kind: SignerList
signers:
- name: example.com/web
  authority: {{certFile: {data}/pki/ca.crt, keyFile: {data}/pki/ca.key}}
  usages: {{allowed: [server auth]}}
"""
    )
    code, wrong, document = report("--data-dir", data, "--signers", tmp_path / "signers.yaml")
    assert (code, wrong) == (7, [STOPPED, ("signers-client-ca", "error")]), document


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["doctor", "--data-dir", "nowhere"], "there is no data directory nowhere"),
        (["doctor", "--directory", "nowhere"], "there is no directory nowhere"),
        (["doctor", "--config", "nowhere"], "nowhere"),
        (["doctor", "--kubeconfig", "nowhere"], "nowhere"),
        (["doctor", "--severity", "bad"], "bad"),
        (["doctor"], "there is no kubeconfig"),
        (["status"], "there is no kubeconfig"),
        (["status", "--data-dir", "nowhere"], "there is no data directory nowhere"),
    ],
)
def test_what_cannot_run_is_an_error(tmp_path, arguments, error):
    """Exit code 2, an error and a hint."""
    code, output, errors = run(*arguments, cwd=tmp_path)
    assert (code, output) == (2, "")
    assert errors.startswith("error: ")
    assert error in errors
    assert "\nhint: " in errors


# --- kubeadm ------------------------------------------------------------------------------------------------------


def test_a_directory_of_kubeadm(tmp_path):
    """In order; then with a readable key, a missing flag, another key and a certificate that ends."""
    now = datetime.datetime.now(datetime.UTC)
    root = tmp_path / "kubernetes"
    directory = kubeadmpki.create(root, now)
    (root / "admin.conf").unlink()
    assert report("--directory", root)[:2] == (0, [])
    (directory.pki / "front-proxy-ca.key").chmod(0o644)
    ending = kubeadmpki.new_ca("kube-apiserver", now, 5 * kubeadmpki.YEAR / 365)
    kubeadmpki.write_pair(directory.pki, "apiserver", ending)
    (directory.pki / "etcd" / "server.key").write_bytes(OTHER_KEY)
    (root / "manifests").mkdir()
    manifest = root / "manifests" / "kube-controller-manager.yaml"
    manifest.write_text(
        "spec: {containers: [{command: [kube-controller-manager, --cluster-signing-cert-file=/pki/ca.crt]}]}"
    )
    code, wrong, document = report("--directory", root)
    assert code == 7
    assert wrong == [
        ("certificate-end", "error"), ("certificate-key", "error"), ("file-mode", "error"), ("settings", "error"),
    ]  # fmt: skip
    texts = {item["id"]: item["what"] for item in document["findings"]}
    assert "no --cluster-signing-key-file" in texts["settings"]
    assert "front-proxy-ca.key" in texts["file-mode"]


def test_other_files_in_a_data_directory(data):
    """A link that the server does not use is followed; one that leads nowhere, or up, is a warning; a pipe is left."""
    (data / "extra").mkdir(mode=0o755)
    (data / "extra" / "good.crt").symlink_to(data / "pki" / "ca.crt")
    (data / "extra" / "lost").symlink_to("nowhere")
    (data / "extra" / "up").symlink_to("..")
    os.mkfifo(data / "extra" / "pipe", 0o600)
    code, wrong, _ = report("--data-dir", data)
    assert (code, wrong) == (4, [("file-access", "warning"), STOPPED])
    for name in ("lost", "up"):
        (data / "extra" / name).unlink()
    assert report("--data-dir", data)[:2] == (4, [STOPPED])
