"""Which client certificates are accepted, with real processes, a plain TLS client, and kubectl."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import http.client
import json
import pathlib
import re
import ssl
import subprocess

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

import demo
from certplane.golang import pem
from certplane.resources import certificatesigningrequests as csrs
from tests.e2e import requests
from tests.e2e.test_controllers import WITHOUT, admin, approve, copy_of, until
from tests.e2e.test_kubectl import KUBECTLS
from tests.e2e.test_serve import get, started
from tests.unit.x509 import chains

NOW = datetime.datetime.now(datetime.UTC)
WHOAMI = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
ROOT = {"subject": "root", "issuer": "root", "key": 0, "signer": 0, "ca": True, "usage": 0x06, "skid": "r"}
ISSUING = ROOT | {"subject": "kubernetes", "key": 1, "skid": "i", "akid": "r"}
LEAF = {"subject": "jane", "issuer": "kubernetes", "key": 8, "signer": 1, "akid": "i", "purposes": ["client"]}
#: Usages of a key, as the first byte of the extension.
NON_REPUDIATION, KEY_ENCIPHERMENT, DATA_ENCIPHERMENT, SIGNATURE = 0x40, 0x20, 0x10, 0x80
NS_SERVER = 0x40


def certificate(fields):
    return pem.encode("CERTIFICATE", chains.certificate(fields | {"around": NOW}))


def private(number):
    form = serialization.PrivateFormat.PKCS8
    return chains.key(number).private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


@dataclasses.dataclass(frozen=True)
class Place:
    """A server, and where its files are."""

    data: pathlib.Path
    port: int
    log: pathlib.Path


def authority_of(place):
    return place.data / "pki" / "ca.crt"


@contextlib.contextmanager
def serving(directory, client_ca):
    """A server with some certificates in its client CA file."""
    file = directory / "clients.crt"
    file.write_bytes(b"".join(map(certificate, client_ca)))
    log = directory / "server.log"
    with demo.running(directory / "data", log, "--client-ca-file", str(file)) as port:
        yield Place(directory / "data", port, log)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The client CA file holds a root."""
    with serving(tmp_path_factory.mktemp("root"), [ROOT]) as place:
        yield place


@pytest.fixture(scope="module")
def partial(tmp_path_factory):
    """The client CA file holds an issuing CA, and no root."""
    with serving(tmp_path_factory.mktemp("issuing"), [ISSUING]) as place:
        yield place


def pair(directory, leaf, *others):
    """A certificate chain and its key, in two files."""
    chain, key = directory / "client.crt", directory / "client.key"
    chain.write_bytes(b"".join(map(certificate, (leaf, *others))))
    key.write_bytes(private(leaf["key"]))
    return chain, key


def ask(place, chain, key):
    """Status code and body of a SelfSubjectReview."""
    context = ssl.create_default_context(cafile=authority_of(place))
    # Some libraries refuse to use a weak key.
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    context.load_cert_chain(chain, key)
    address = ("127.0.0.1", place.port)
    with contextlib.closing(http.client.HTTPSConnection(*address, context=context, timeout=10)) as connection:
        connection.request("POST", WHOAMI, b"{}", {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


def kubectl(place, chain, key, home):
    """What `kubectl auth whoami` prints, and its exit code."""
    command = [
        KUBECTLS[max(KUBECTLS)], "--kubeconfig", "/dev/null", "--server", f"https://127.0.0.1:{place.port}",
        "--certificate-authority", authority_of(place), "--client-certificate", chain, "--client-key", key,
        "auth", "whoami", "-o", "jsonpath={.status.userInfo.username}",
    ]  # fmt: skip
    environment = {"HOME": str(home), "PATH": "/usr/bin:/bin"}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)


def log_in(place, chain, key, home):
    status, body = ask(place, chain, key)
    assert (status, body["status"]["userInfo"]["username"]) == (201, "jane")
    result = kubectl(place, chain, key, home)
    assert (result.returncode, result.stdout) == (0, "jane"), result.stderr


UNDER_ROOT = {"issuer": "root", "signer": 0, "akid": "r"}


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"usage": SIGNATURE}, id="digitalSignature"),
        pytest.param({"usage": KEY_ENCIPHERMENT}, id="keyEncipherment only"),
        pytest.param({"usage": KEY_ENCIPHERMENT | DATA_ENCIPHERMENT}, id="keyEncipherment and dataEncipherment"),
        pytest.param(
            {"usage": KEY_ENCIPHERMENT | DATA_ENCIPHERMENT, "purposes": ["server", "client"]}, id="for both, by hand"
        ),
        pytest.param({"usage": NON_REPUDIATION}, id="nonRepudiation"),
        pytest.param({"ca": True}, id="CA:TRUE"),
        pytest.param({"purposes": ["any"]}, id="any purpose"),
        pytest.param({"purposes": []}, id="no purpose"),
        pytest.param({"nscert": NS_SERVER}, id="nsCertType=server beside clientAuth"),
        pytest.param({"key": 5}, id="Ed25519"),
        pytest.param({"key": 7}, id="RSA-1024"),
    ],
)
def test_certificates_that_are_accepted(changes, whole, tmp_path):
    """The same as by kube-apiserver."""
    log_in(whole, *pair(tmp_path, LEAF | UNDER_ROOT | changes), tmp_path)


async def test_an_issued_certificate_authenticates(own_server, tmp_path):
    """A certificate with the usages key encipherment and client auth only is accepted."""
    chain, key = tmp_path / "client.crt", tmp_path / "client.key"
    new_key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "jane")])
    pkcs10 = x509.CertificateSigningRequestBuilder().subject_name(name).sign(new_key, hashes.SHA256())
    key.write_bytes(requests.pem(new_key))
    async with admin(own_server.data) as client:
        await approve(
            client, "jane", pkcs10.public_bytes(serialization.Encoding.PEM), ["key encipherment", "client auth"]
        )
        issued = await until(client, csrs.RESOURCE, lambda csr: csr.status.certificate)
    chain.write_bytes(issued.status.certificate)
    log_in(own_server, chain, key, tmp_path)


@pytest.mark.parametrize("sent", [[], [ISSUING]], ids=["leaf only", "with the issuing CA"])
def test_an_issuing_ca_is_a_trust_anchor(sent, partial, tmp_path):
    """Whether the client sends it or not. The server does not have its root certificate."""
    log_in(partial, *pair(tmp_path, LEAF, *sent), tmp_path)


def test_sent_intermediates_complete_the_chain(whole, tmp_path):
    """The client sends the issuing CA with its certificate."""
    log_in(whole, *pair(tmp_path, LEAF, ISSUING), tmp_path)


REFUSED = [
    pytest.param({"issuer": "other", "signer": 9}, "unknown_authority", id="another CA"),
    pytest.param({"signer": 9}, "unknown_authority", id="another CA with the same name"),
    pytest.param({"issuer": "jane", "signer": 8, "akid": "j"}, "unknown_authority", id="self-signed"),
    pytest.param({"from": -9, "to": -1}, "expired", id="expired"),
    pytest.param({"from": 1, "to": 9}, "not_yet_valid", id="not yet valid"),
    pytest.param({"purposes": ["server"]}, "usage", id="for servers only"),
]


@pytest.mark.parametrize(("changes", "_"), REFUSED)
def test_certificates_that_are_refused(changes, _, whole, tmp_path):
    """401 as a Status, because kubectl would retry a closed connection for 15 seconds."""
    chain, key = pair(tmp_path, LEAF | UNDER_ROOT | changes)
    status, body = ask(whole, chain, key)
    assert (status, body["kind"], body["reason"]) == (401, "Status", "Unauthorized")
    result = kubectl(whole, chain, key, tmp_path)
    assert result.returncode == 1
    assert "(Unauthorized)" in result.stderr


COUNTED = re.compile(r'^certplane_client_certificates_refused_total{reason="(\w+)"} (\S+)$', re.MULTILINE)


def test_refusals_are_logged_and_counted(tmp_path):
    """There is one log line for each reason, with the number of refusals."""
    with serving(tmp_path, [ROOT]) as place:
        for row in REFUSED:
            ask(place, *pair(tmp_path, LEAF | UNDER_ROOT | row.values[0]))
        lines = [line for line in place.log.read_text().splitlines() if "unauthorized" in line]
        for line, reason in zip(lines, ("unknown_authority", "expired", "not_yet_valid", "usage"), strict=True):
            assert f"cause={reason}" in line
            assert 'subject="CN=jane"' in line
            assert "source=127.0.0.1" in line
        assert dict(COUNTED.findall(metrics(place))) == {
            "unknown_authority": "3.0",
            "expired": "1.0",
            "not_yet_valid": "1.0",
            "usage": "1.0",
        }


def metrics(place):
    """The metrics, as an administrator with a certificate from the root."""
    root = x509.load_pem_x509_certificate(certificate(ROOT))
    identity = place.log.with_name("admin.pem")
    identity.write_bytes(requests.pem(*requests.certificate(root, chains.key(0), organizations=("system:masters",))))
    status, text = get(place.data, place.port, "/metrics", identity)
    assert status == 200
    return text


# --- an issuing CA in the PKI directory ---------------------------------------------------------------------------


@pytest.fixture
def issuing_directory(tmp_path):
    """A data directory with an issuing CA whose root is kept elsewhere."""
    directory = tmp_path / "data"
    (directory / "pki").mkdir(parents=True, mode=0o700)
    directory.chmod(0o700)
    (directory / "pki" / "ca.crt").write_bytes(certificate(ISSUING))
    (directory / "pki" / "ca.key").write_bytes(private(ISSUING["key"]))
    (directory / "pki" / "ca.key").chmod(0o600)
    return directory


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ([KUBECTLS[max(KUBECTLS)], "--kubeconfig", "admin.conf", "auth", "whoami"], "kubernetes-admin"),
        ([demo.CERTPLANE, "token", "--kubeconfig", "admin.conf", "create"], "."),
    ],
    ids=["kubectl", "certplane token"],
)
def test_kubeconfigs_under_an_issuing_ca_work(command, expected, issuing_directory):
    """The server starts, is trusted, and accepts their certificates."""
    with started(issuing_directory):
        result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=issuing_directory)
        assert expected in result.stdout, result.stderr


async def test_controllers_trust_a_server_under_an_issuing_ca(issuing_directory):
    """They sign with this CA, and the server accepts the certificates."""
    with started(issuing_directory, "--controllers", WITHOUT), copy_of(issuing_directory, "copy"):
        async with admin(issuing_directory) as client:
            await approve(client, "jane")
            issued = await until(client, csrs.RESOURCE, lambda csr: csr.status.certificate)
    leaf = x509.load_pem_x509_certificate(issued.status.certificate)
    assert leaf.issuer.rfc4514_string() == "CN=kubernetes"
