"""`certplane csr` and `certplane kubeconfig`, against a real server, as people use them."""

from __future__ import annotations

import base64
import contextlib
import re
import subprocess
import sys
import threading

import pytest

import demo
from certplane import testing
from certplane.cli import main
from certplane.golang import goyaml
from certplane.x509 import keys
from certplane.x509.trust import certificates, keypairs


@pytest.fixture
def run(server, tmp_path, monkeypatch, capsys):
    """Runs a command in this process, in an empty directory: exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KUBECONFIG", str(server.data / "admin.conf"))

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["certplane", *arguments])
        with pytest.raises(SystemExit) as ended:
            main.main()
        output = capsys.readouterr()
        assert "PRIVATE" not in output.out + output.err
        assert "Traceback" not in output.err
        return ended.value.code, output.out, output.err

    return run


def kubectl(server, *arguments, text=None):
    command = [demo.find_kubectl(), "--kubeconfig", server.data / "admin.conf", *arguments]
    return subprocess.run(command, input=text, capture_output=True, text=True, timeout=60, check=True).stdout


@contextlib.contextmanager
def deciding(server, decision, name):
    """Approves or denies a request as soon as it exists."""

    def decide():
        kubectl(server, "wait", "--for=create", "--timeout=30s", f"csr/{name}")
        kubectl(server, "certificate", decision, name)

    thread = threading.Thread(target=decide)
    thread.start()
    yield
    thread.join()


# --- csr create ---------------------------------------------------------------------------------------------------


def test_a_certificate_in_one_line(server, run, tmp_path):
    """Key, request, certificate. The key can be read by nobody else, and belongs to the certificate."""
    with deciding(server, "approve", "ann"):
        code, out, err = run("csr", "create", "ann", "--group", "dev", "--duration", "1h", "--wait")
    assert (code, out.splitlines()[0]) == (0, "certificatesigningrequest.certificates.k8s.io/ann created")
    assert re.match(r"ann.crt: valid until 20\d\d-\d\d-\d\dT[0-9:]{8}Z \(5\dm\)$", out.splitlines()[1])
    assert "ann is waiting for approval" in err
    assert (tmp_path / "ann.key").stat().st_mode & 0o777 == 0o600
    chain, key = (tmp_path / "ann.crt").read_bytes(), (tmp_path / "ann.key").read_bytes()
    keypairs.check(chain, key)
    assert certificates.parse_first(chain).subject.rfc4514_string() == "CN=ann,O=dev"


def test_the_steps_one_by_one(server, run, tmp_path):
    """Create prints the commands of approver and requestor; wait and fetch do the rest."""
    code, _, err = run("csr", "create", "bea")
    assert code == 0
    assert "an approver runs: kubectl certificate approve bea" in err
    assert "then: certplane csr fetch bea -o bea.crt" in err
    assert run("csr", "fetch", "bea")[0] == 6
    code, _, err = run("csr", "wait", "bea", "--timeout", "0")
    assert (code, "error: bea is not approved after 0s" in err) == (6, True)
    kubectl(server, "certificate", "approve", "bea")
    code, out, _ = run("csr", "wait", "bea")
    assert (code, out.startswith("bea is issued: valid until ")) == (0, True)
    code, chain, _ = run("csr", "fetch", "bea")
    assert (code, chain.count("BEGIN CERTIFICATE")) == (0, 1)
    assert run("csr", "fetch", "bea", "-o", "bea.crt")[0] == 0
    assert (tmp_path / "bea.crt").read_text() == chain


def test_a_denied_request_leaves_no_key(server, run, tmp_path):
    """Exit code 5, and the reason."""
    with deciding(server, "deny", "cat"):
        code, _, err = run("csr", "create", "cat", "--wait")
    assert code == 5
    assert "error: cat was denied (KubectlDeny: This CSR was denied by kubectl certificate deny.)" in err
    assert list(tmp_path.iterdir()) == []
    assert run("csr", "fetch", "cat")[0] == 5


def test_a_pending_request_keeps_its_key(run, tmp_path):
    """The certificate may still be issued."""
    code, _, err = run("csr", "create", "dan", "--wait", "--timeout", "0")
    assert (code, "hint: wait again with certplane csr wait dan" in err) == (6, True)
    assert [path.name for path in tmp_path.iterdir()] == ["dan.key"]


def test_an_existing_key_is_used_or_replaced_only_on_request(run, tmp_path):
    """With --force, the former one is kept."""
    key = keys.to_pem(keys.generate("RSA-2048"))
    (tmp_path / "eve.key").write_bytes(key)
    (tmp_path / "eve.key").chmod(0o644)
    code, _, err = run("csr", "create", "eve")
    assert (code, "error: eve.key exists already\nhint: use the key in it with --key eve.key" in err) == (2, True)
    code, _, err = run("csr", "create", "eve", "--key", "eve.key")
    assert (code, "other users can read the key eve.key" in err) == (0, True)
    assert run("csr", "create", "eve2", "--key", "eve.key", "--force")[0] == 0
    assert (tmp_path / "eve.key").read_bytes() == key
    (tmp_path / "eve3.key").write_bytes(key)
    assert run("csr", "create", "eve3", "--force")[0] == 0
    assert (tmp_path / "eve3.key.old").read_bytes() == key
    assert (tmp_path / "eve3.key").read_bytes() != key


def test_a_refused_request_changes_no_file(run, tmp_path):
    """The new key is removed, and a former one restored."""
    assert run("csr", "create", "fay")[0] == 0
    former = (tmp_path / "fay.key").read_bytes()
    code, _, err = run("csr", "create", "fay", "--force")
    assert (code, '"fay" already exists' in err, "fay.key was restored" in err) == (2, True, True)
    assert (tmp_path / "fay.key").read_bytes() == former
    code, _, err = run("csr", "create", "fay2", "--group", "system:masters")
    assert (code, "system:masters group is not allowed" in err, "fay2.key was removed" in err) == (2, True, True)
    assert [path.name for path in tmp_path.iterdir()] == ["fay.key"]


def test_without_a_response_the_key_is_kept(server, run, tmp_path, monkeypatch):
    """The server may have received the request."""
    text = (server.data / "admin.conf").read_text()
    (tmp_path / "config").write_text(re.sub(r"server: .*", "server: https://127.0.0.1:1", text))
    code, _, err = run("csr", "create", "gil", "--kubeconfig", "config")
    assert (code, "cannot be reached" in err) == (2, True)
    assert (tmp_path / "gil.key").exists()


def test_a_dry_run_prints_what_kubectl_can_send(server, run, tmp_path, monkeypatch):
    """Without a server; the key is written."""
    monkeypatch.setenv("KUBECONFIG", "/nonexistent")
    options = ["--signer", "example.com/web", "--dns", "a.example.com", "--dry-run"]
    code, manifest, _ = run("csr", "create", "hal", *options)
    assert code == 0
    kubectl(server, "create", "-f", "-", text=manifest)
    spec = goyaml.load(kubectl(server, "get", "csr", "hal", "-o", "yaml"))["spec"]
    assert (spec["usages"], spec["signerName"]) == (["digital signature", "server auth"], "example.com/web")
    keys.from_pem((tmp_path / "hal.key").read_bytes())


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["csr", "create", "x/y"], "invalid name of a certificate request"),
        (["csr", "create", "x", "--dns", "a b"], "not a DNS name"),
        (["csr", "create", "x", "--signer", "web"], "requests for the signer web are not possible"),
        (["csr", "create", "x", "--usage", "server"], "unknown usage: server"),
        (["csr", "create", "x", "--duration", "5m"], "the lifetime 5m is too short"),
        (["csr", "create", "x", "--timeout", "soon", "--wait"], "not a duration: soon"),
        (["csr", "create", "x", "--key-algorithm", "DSA"], "unknown key algorithm: DSA"),
        (["csr", "create", "x", "--key", "missing"], "the key missing cannot be read"),
        (["csr", "create", "x", "--key", "."], "the key . cannot be read"),
        (["csr", "create", "x", "--out-dir", "/dev/null/x"], "the output directory"),
        (["csr", "create", "x", "--context", "none"], 'has no context "none"'),
        (["csr", "wait", "nosuch"], '"nosuch" not found'),
        (["csr", "fetch", "nosuch"], '"nosuch" not found'),
        (["kubeconfig", "create", ""], "the user name is empty"),
        (["kubeconfig", "create", "x", "--csr", "y"], "--csr and --key belong together"),
        (["kubeconfig", "create", "x", "--csr", "y", "--key", "missing"], "the key missing cannot be read"),
        (["kubeconfig", "create", "x" * 65], "more than 64 bytes"),
    ],
)
def test_invalid_arguments_are_refused_before_anything_is_written(run, tmp_path, arguments, error):
    """With an error and a hint, and exit code 2."""
    code, _, err = run(*arguments)
    assert (code, error in err, "\nhint: " in err) == (2, True, True), err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "content", [b"", b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----"]
)
def test_a_file_that_is_no_key_is_an_error(run, tmp_path, content):
    """Its content is not quoted."""
    (tmp_path / "k").write_bytes(content)
    code, _, err = run("csr", "create", "x", "--key", "k")
    assert (code, "error: the key k cannot be used" in err) == (2, True)
    assert "AAAA" not in err


def test_a_fetched_certificate_replaces_no_other_file(server, run, tmp_path):
    """A slip of the hand must not destroy the key."""
    assert run("csr", "create", "ivy")[0] == 0
    kubectl(server, "certificate", "approve", "ivy")
    assert run("csr", "wait", "ivy")[0] == 0
    key = (tmp_path / "ivy.key").read_bytes()
    code, _, err = run("csr", "fetch", "ivy", "-o", "ivy.key")
    assert (code, "error: ivy.key exists and is not a certificate" in err) == (2, True)
    assert (tmp_path / "ivy.key").read_bytes() == key


def test_a_certificate_for_another_key_is_noticed(server, run, tmp_path):
    """The key beside it may be of another request."""
    assert run("csr", "create", "jan")[0] == 0
    kubectl(server, "certificate", "approve", "jan")
    assert "fetch it with certplane csr fetch jan -o jan.crt" in run("csr", "wait", "jan")[2]
    assert "Warning" not in run("csr", "fetch", "jan", "-o", "jan.crt")[2]
    (tmp_path / "jan.key").write_bytes(keys.to_pem(keys.generate("ECDSA-P256")))
    assert "Warning: the certificate is not for the key in jan.key" in run("csr", "fetch", "jan", "-o", "jan.crt")[2]


def test_warnings_of_the_server_are_printed(run, tmp_path):
    """Such as that no signer will sign the request."""
    with testing.ControlPlane(directory=tmp_path / "plane") as other:
        _, _, err = run("--kubeconfig", str(other.kubeconfig), "csr", "create", "x", "--signer", "example.com/none")
    assert 'Warning: unknown signer "example.com/none"' in err


# --- kubeconfig create --------------------------------------------------------------------------------------------


def test_a_kubeconfig_works_and_says_until_when(server, run, tmp_path):
    """With --approve, the command says what it approves."""
    code, out, err = run("kubeconfig", "create", "Kim", "--group", "dev", "--duration", "1h", "--approve")
    assert (code, out.startswith(f"kim.conf: Kim at {server.url}, valid until 20")) == (0, True), err
    assert re.search(r'approving kim-\w{5}: signer kubernetes.io/kube-apiserver-client, common name "Kim", org', err)
    assert (tmp_path / "kim.conf").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["kim.conf"]
    assert (tmp_path / "kim.conf").read_text().startswith("# The certificate in this file is valid until 20")
    command = [demo.find_kubectl(), "--kubeconfig", "kim.conf", "auth", "whoami", "-o", "yaml"]
    answer = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True).stdout
    info = goyaml.load(answer)["status"]["userInfo"]
    assert (info["username"], info["groups"]) == ("Kim", ["dev", "system:authenticated"])
    code, _, err = run("kubeconfig", "create", "Kim")
    assert (code, "error: kim.conf exists already" in err) == (2, True)


def test_a_kubeconfig_that_nobody_approved_in_time_is_continued(server, run, tmp_path):
    """The printed command uses the same request and key."""
    code, _, err = run("kubeconfig", "create", "lea", "--group", "dev", "--timeout", "0")
    assert code == 6
    continuation = re.search(r"^hint: continue with certplane (.*)$", err, re.MULTILINE)[1].split()
    name = continuation[continuation.index("--csr") + 1]
    assert (tmp_path / "lea.conf.key").stat().st_mode & 0o777 == 0o600
    code, _, err = run(*continuation, "--group", "admins")
    assert (code, f"error: the request {name} is not for lea with these groups and this key" in err) == (2, True)
    kubectl(server, "certificate", "approve", name)
    assert run(*continuation)[0] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["lea.conf"]


def test_a_denied_kubeconfig_leaves_no_file(server, run, tmp_path):
    """Exit code 5."""
    run("kubeconfig", "create", "max", "--timeout", "0")
    key = tmp_path / "max.conf.key"
    names = kubectl(server, "get", "csr", "-o", "name").split()
    name = next(name for name in names if "/max-" in name).partition("/")[2]
    kubectl(server, "certificate", "deny", name)
    assert run("kubeconfig", "create", "max", "--csr", name, "--key", "max.conf.key")[0] == 5
    assert not key.exists()
    assert list(tmp_path.iterdir()) == []


def test_the_user_may_not_approve(server, run, tmp_path, monkeypatch):
    """Then the hint says who to ask, and how to continue."""
    assert run("kubeconfig", "create", "ned", "--approve", "--duration", "1h")[0] == 0
    role = ["create", "clusterrole", "ned-requests", "--verb=create,get", "--resource=certificatesigningrequests"]
    kubectl(server, *role)
    kubectl(server, "create", "clusterrolebinding", "ned-requests", "--clusterrole=ned-requests", "--user=ned")
    code, _, err = run("--kubeconfig", "ned.conf", "kubeconfig", "create", "ole", "--approve")
    assert (code, "is forbidden" in err) == (2, True)
    assert "hint: approving needs the permission update on certificatesigningrequests/approval" in err
    assert "certplane kubeconfig create --kubeconfig ned.conf ole --duration" in err
    assert (tmp_path / "ole.conf.key").exists()


def test_credentials_are_not_copied(server, run, tmp_path):
    """Nor the password of a proxy."""
    config = goyaml.load((server.data / "admin.conf").read_text())
    user = config["users"][0]["user"]
    for name in ("certificate", "key"):
        (tmp_path / name).write_bytes(base64.b64decode(user.pop(f"client-{name}-data")))
        user[f"client-{name}"] = name
    (tmp_path / "config").write_text(goyaml.dump(config))
    assert run("kubeconfig", "create", "--kubeconfig=config", "pia", "--approve")[0] == 0
    created = goyaml.load((tmp_path / "pia.conf").read_text())
    assert [entry["name"] for entry in created["users"]] == ["pia"]
    assert set(created["users"][0]["user"]) == {"client-certificate-data", "client-key-data"}
    cluster = created["clusters"][0]["cluster"]
    assert set(cluster) == {"server", "certificate-authority-data"}
