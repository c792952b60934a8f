"""`certplane certs` as a process: over kubeadm's directories, over a data directory, and killed while it writes."""

from __future__ import annotations

import base64
import datetime
import http.client
import json
import signal
import socket
import ssl
import subprocess

import pytest
import yaml

import demo
from tests import kubeadmpki

YEAR = datetime.timedelta(days=365)
SILENT = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)


def run(*arguments, directory=None, timeout=60):
    return subprocess.run(
        [demo.CERTPLANE, "certs", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        stdin=subprocess.DEVNULL,
        cwd=directory,
    )


def succeeded(*arguments, **options):
    result = run(*arguments, **options)
    assert (0, "") == (result.returncode, result.stderr), result
    return result.stdout


@pytest.fixture
def directory(tmp_path):
    return kubeadmpki.create(tmp_path / "kubernetes", datetime.datetime.now(datetime.UTC) - YEAR / 2)


def flags(directory):
    return "--cert-dir", directory.pki, "--kubeconfig-dir", directory.root, "--kubeconfig", directory.root / "none"


def residual_days(document):
    return {row["name"]: row["residualTime"] // 86400 for row in document["certificates"]}


def test_openssl_accepts_the_renewed_certificates_of_a_kubeadm_directory(directory):
    """Each is signed by its CA, is for its key, and begins five minutes ago; kubelet.conf and the CAs are unchanged."""
    before = {path: path.read_bytes() for path in directory.root.rglob("*") if path.is_file()}
    assert "Done renewing certificates." in succeeded("renew", "all", *flags(directory))
    document = json.loads(succeeded("check-expiration", *flags(directory), "-o", "json"))
    assert {364} == set(residual_days(document).values())
    for base_name, (ca, *_) in kubeadmpki.LEAFS.items():
        certificate, key = (directory.pki / f"{base_name}.{suffix}" for suffix in ("crt", "key"))
        openssl("verify", "-CAfile", directory.pki / f"{ca}.crt", certificate)
        public_key = openssl("x509", "-in", certificate, "-noout", "-pubkey")
        assert public_key == openssl("pkey", "-in", key, "-pubout")
        assert "2048 bit" in openssl("x509", "-in", certificate, "-noout", "-text")
    unchanged = {path.name for path, content in before.items() if path.read_bytes() == content}
    assert {
        "ca.crt",
        "ca.key",
        "front-proxy-ca.crt",
        "front-proxy-ca.key",
        "sa.key",
        "sa.pub",
        "kubelet.conf",
    } == unchanged


def openssl(*arguments):
    command = ["openssl", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout


def user_of(port, kubeconfig):
    """Whom a server authenticates by the certificate in a kubeconfig, and the server's serial number."""
    config = yaml.safe_load(kubeconfig.read_text())
    user, cluster = config["users"][0]["user"], config["clusters"][0]["cluster"]
    trusted = base64.b64decode(cluster["certificate-authority-data"]).decode()
    context = ssl.create_default_context(cadata=trusted)
    pair = kubeconfig.with_name("pair.pem")
    pair.write_bytes(b"".join(base64.b64decode(user[f"client-{part}-data"]) for part in ("certificate", "key")))
    context.load_cert_chain(pair)
    connection = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=15)
    try:
        connection.request("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", b"{}")
        serial = connection.sock.getpeercert()["serialNumber"]
        return json.loads(connection.getresponse().read())["status"]["userInfo"]["username"], serial
    finally:
        connection.close()
        pair.unlink()


def test_a_running_server_accepts_renewed_kubeconfigs_and_starts_with_the_renewed_pair(tmp_path):
    """Its data directory is renewed while it runs."""
    data = tmp_path / "data"
    with demo.running(data, tmp_path / "server.log") as port:
        before, serial = user_of(port, data / "admin.conf")
        output = succeeded("renew", "all", "--data-dir", data)
        assert 3 == output.count(" renewed\n")
        assert "kubernetes-admin" == before == user_of(port, data / "admin.conf")[0]
        assert (data / "admin.conf.old").exists()
    with demo.running(data, tmp_path / "server.log") as port:
        user, renewed = user_of(port, data / "super-admin.conf")
    assert "kubernetes-super-admin" == user
    assert serial != renewed
    assert 4 == run("check-expiration", "--data-dir", data, "--within", "53w").returncode
    assert 0 == run("check-expiration", "--data-dir", data, "--within", "51w").returncode


CLUSTER_CONFIGURATION = """\
apiVersion: kubeadm.k8s.io/v1beta4
kind: ClusterConfiguration
certificatesDir: /nowhere
encryptionAlgorithm: ECDSA-P384
certificateValidityPeriod: 480h0m0s
etcd:
  external:
    endpoints: [https://10.0.0.1:2379]
"""


def test_the_configuration_is_read_from_the_cluster(own_server, directory):
    """With kubeadm's lines before the result. --cert-dir has precedence over the cluster's directory."""
    admin = own_server.data / "admin.conf"
    config_map = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "kubeadm-config", "namespace": "kube-system"},
        "data": {"ClusterConfiguration": CLUSTER_CONFIGURATION},
    }
    subprocess.run(
        [demo.find_kubectl(), "--kubeconfig", admin, "create", "-f", "-"],
        input=json.dumps(config_map).encode(), check=True, timeout=30, capture_output=True,
    )  # fmt: skip
    flags = "--cert-dir", directory.pki, "--kubeconfig-dir", directory.root, "--kubeconfig", admin
    assert [
        '[renew] Reading configuration from the "kubeadm-config" ConfigMap in namespace "kube-system"...',
        "[renew] Use 'kubeadm init phase upload-config kubeadm --config your-config-file' to re-upload it.",
        "",
        "certificate for serving the Kubernetes API renewed",
    ] == succeeded("renew", "apiserver", *flags).splitlines()
    document = json.loads(succeeded("check-expiration", *flags, "-o", "json"))
    assert 19 == residual_days(document)["apiserver"]
    assert [] == [row["name"] for row in document["certificates"] if "etcd" in row["name"]]
    assert "(384 bit)" in openssl("x509", "-in", directory.pki / "apiserver.crt", "-noout", "-text")


@pytest.mark.parametrize("is_listening", [False, True])
def test_a_cluster_that_does_not_answer_is_no_obstacle(directory, is_listening):
    """Its certificate may have expired; the settings are the defaults then. A server that hangs is not waited for."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        if not is_listening:
            server.close()
        admin = directory.root / "admin.conf"
        admin.write_text(admin.read_text().replace("https://10.1.2.3:6443", f"https://127.0.0.1:{port}"))
        arguments = "--cert-dir", directory.pki, "--kubeconfig-dir", directory.root, "--kubeconfig", admin
        result = run("check-expiration", *arguments)
    assert 0 == result.returncode
    assert [
        '[check-expiration] Reading configuration from the "kubeadm-config" ConfigMap in namespace "kube-system"...',
        ("[check-expiration] Error reading configuration from the Cluster. Falling back to default configuration"),
        "",
    ] == result.stdout.splitlines()[:3]
    assert 12 == len(result.stdout.partition("\n\n")[2].partition("\n\n")[0].splitlines())
    assert result.stderr.startswith("warning: ")


@pytest.mark.parametrize("name", ["apiserver.crt.new", "apiserver.key.old", "apiserver.crt.old"])
def test_a_killed_renewal_leaves_a_matching_pair_or_is_completed(directory, name):
    """It is killed after it has written a file. The next renewal succeeds, and the lock is free."""
    certificate, key = (directory.pki / f"apiserver.{suffix}" for suffix in ("crt", "key"))
    options = (*flags(directory), "--key-algorithm", "ECDSA-P256")
    process = subprocess.Popen([demo.CERTPLANE, "certs", "renew", "apiserver", *map(str, options)], **SILENT)
    while process.poll() is None and not (directory.pki / name).exists():
        pass
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=15)
    succeeded("renew", "apiserver", *options)
    assert openssl("x509", "-in", certificate, "-noout", "-pubkey") == openssl("pkey", "-in", key, "-pubout")
    assert not certificate.with_name("apiserver.crt.new").exists()


def test_renewals_at_the_same_time_do_not_interleave(directory):
    """They wait for each other."""
    command = [demo.CERTPLANE, "certs", "renew", "all", *map(str, flags(directory)), "--key-algorithm", "ECDSA-P256"]
    processes = [
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for _ in range(3)
    ]
    for process in processes:
        output, _ = process.communicate(timeout=60)
        assert 0 == process.returncode, output
    document = json.loads(succeeded("check-expiration", *flags(directory), "-o", "json"))
    assert {364} == set(residual_days(document).values())
