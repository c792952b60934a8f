"""`certplane serve` and its own certificates: renewed while clients are connected, checked at the start, announced."""

from __future__ import annotations

import base64
import contextlib
import datetime
import http.client
import json
import ssl
import subprocess

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

import demo
from certplane.golang import goyaml
from certplane.testing import ControlPlane
from tests.e2e import requests

FAST = ("--key-algorithm", "ECDSA-P256")


@pytest.fixture
def data(tmp_path):
    """A data directory after a first start."""
    with ControlPlane(*FAST, directory=tmp_path) as plane:
        return plane.data_directory


def reissue(data, former, *, begin, end):
    """The same certificate with a new key and another validity, in seconds from now; both in PEM."""
    ca, ca_key = requests.authority(requests.Server(data, 0))
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(former.subject)
        .issuer_name(ca.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + datetime.timedelta(seconds=begin))
        .not_valid_after(now + datetime.timedelta(seconds=end))
    )
    for extension in former.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    return requests.pem(builder.sign(ca_key, hashes.SHA256())), requests.pem(key)


def reissue_serving(data, **validity):
    pair = [data / "pki" / name for name in ("apiserver.crt", "apiserver.key")]
    former = x509.load_pem_x509_certificate(pair[0].read_bytes())
    for path, content in zip(pair, reissue(data, former, **validity), strict=True):
        path.write_bytes(content)
    return pair


def user(data, name="admin.conf"):
    """The user of a kubeconfig, and its certificate."""
    entry = goyaml.load((data / name).read_text())["users"][0]["user"]
    return entry, x509.load_pem_x509_certificate(base64.b64decode(entry["client-certificate-data"]))


def reissue_admin(data, **validity):
    path = data / "admin.conf"
    config = goyaml.load(path.read_text())
    certificate, key = reissue(data, user(data)[1], **validity)
    config["users"][0]["user"] = {
        "client-certificate-data": base64.b64encode(certificate).decode(),
        "client-key-data": base64.b64encode(key).decode(),
    }
    path.write_text(goyaml.dump(config))


def reissue_ca(data, **validity):
    """The same CA with the same key and another validity, also in the kubeconfigs."""
    path = data / "pki" / "ca.crt"
    ca, ca_key = requests.authority(requests.Server(data, 0))
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(ca.subject)
        .issuer_name(ca.subject)
        .public_key(ca.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + datetime.timedelta(seconds=validity["begin"]))
        .not_valid_after(now + datetime.timedelta(seconds=validity["end"]))
    )
    for extension in ca.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    former, new = path.read_bytes(), requests.pem(builder.sign(ca_key, hashes.SHA256()))
    path.write_bytes(new)
    for kubeconfig in data.glob("*.conf"):
        text = kubeconfig.read_bytes()
        kubeconfig.write_bytes(text.replace(base64.b64encode(former), base64.b64encode(new)))


class Client:
    """Connects to a plane with the credential that a kubeconfig has now."""

    def __init__(self, plane, directory, name="admin.conf"):
        self.plane, self.path, self.name = plane, directory / f"{name}.pem", name

    @contextlib.contextmanager
    def connected(self):
        """A new connection, after its handshake."""
        entry, _ = user(self.plane.data_directory, self.name)
        self.path.write_bytes(
            b"".join(base64.b64decode(entry[f"client-{part}-data"]) for part in ("key", "certificate"))
        )
        context = ssl.create_default_context(cafile=self.plane.ca_file)
        context.load_cert_chain(self.path)
        port = int(self.plane.url.rpartition(":")[2])
        with contextlib.closing(http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=10)) as made:
            made.connect()
            yield made

    def get(self, path):
        """Status and body of a response on a new connection, and the server's serial number."""
        with self.connected() as connection:
            raw = connection.sock.getpeercert(binary_form=True)
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode(), x509.load_der_x509_certificate(raw).serial_number


def refused(data, *arguments):
    """The standard error of a start that is refused."""
    command = [demo.CERTPLANE, "serve", "--data-dir", data, "--listen", "127.0.0.1:0", *FAST, *arguments]
    ended = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=30, check=False, stdin=subprocess.DEVNULL
    )
    assert 2 == ended.returncode, ended.stderr
    assert "\nhint: " in ended.stderr
    assert "Traceback" not in ended.stderr
    return ended.stderr


def test_certificates_that_end_soon_are_renewed_while_clients_are_connected(data, tmp_path):
    """They end in eight seconds. The client makes one connection after the other, with the credential that admin.conf
    has then: none fails. A watch that began before the renewal still gets changes afterwards.
    """
    reissue_serving(data, begin=-1, end=8)
    reissue_admin(data, begin=-1, end=8)
    with ControlPlane(*FAST, directory=tmp_path) as plane:
        client = Client(plane, tmp_path)
        _, former = user(data)
        with client.connected() as watching:
            watching.request("GET", "/api/v1/namespaces?watch=true&resourceVersion=0&timeoutSeconds=60")
            watch = watching.getresponse()
            serials, credentials = set(), {former.serial_number}
            statuses = set()
            while len(serials) < 2 or len(credentials) < 2:
                status, _, serial = client.get("/api/v1/namespaces")
                statuses.add(status)
                serials.add(serial)
                credentials.add(user(data)[1].serial_number)
            assert {200} == statuses
            with client.connected() as connection:
                body = json.dumps({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "later"}})
                connection.request("POST", "/api/v1/namespaces", body, {"Content-Type": "application/json"})
                assert 201 == connection.getresponse().status
            names = set()
            while "later" not in names:
                names.add(json.loads(watch.readline())["object"]["metadata"]["name"])
        renewed = x509.load_pem_x509_certificate((data / "pki" / "apiserver.crt").read_bytes())
        assert renewed.not_valid_after_utc > former.not_valid_after_utc + datetime.timedelta(days=300)
        assert 2 == plane.log.count("certificate renewed")
        _, metrics, _ = Client(plane, tmp_path, "super-admin.conf").get("/metrics")
        assert 'certplane_certificate_renewals_total{certificate="apiserver",result="success"} 1.0' in metrics
        end = f'expiration_timestamp_seconds{{certificate="serving",serial_number="{renewed.serial_number:x}"}}'
        assert end in metrics


def test_expired_certificates_of_ours_are_renewed_at_the_start(data, tmp_path):
    """Before the server is ready."""
    reissue_serving(data, begin=-20, end=-10)
    reissue_admin(data, begin=-20, end=-10)
    with ControlPlane(*FAST, directory=tmp_path) as plane:
        assert 200 == Client(plane, tmp_path).get("/api/v1/namespaces")[0]
        assert 2 == plane.log.count("certificate renewed")


def test_an_expired_certificate_without_the_ca_key_is_refused(data):
    """The key is kept elsewhere: nothing can be renewed, and no client could connect."""
    reissue_serving(data, begin=-20, end=-10)
    (data / "pki" / "ca.key").unlink()
    assert "error: the serving certificate" in refused(data)


def test_an_expired_certificate_of_an_operator_is_refused(data, tmp_path):
    """--tls-cert-file is not ours to renew."""
    pair = [tmp_path / "tls.crt", tmp_path / "tls.key"]
    for path, own in zip(pair, reissue_serving(data, begin=-20, end=-10), strict=True):
        own.rename(path)
    flags = ("--tls-cert-file", pair[0], "--tls-private-key-file", pair[1])
    assert f"error: the serving certificate {pair[0]} expired at " in refused(data, *flags)


def test_an_expired_ca_is_refused(data):
    """Nothing that it has signed is valid."""
    reissue_ca(data, begin=-20, end=-10)
    text = refused(data)
    assert f"error: the CA certificate {data / 'pki' / 'ca.crt'} expired at " in text
    assert "docs/operations.md" in text


def test_a_new_name_is_added_to_the_certificate(data, tmp_path):
    """--tls-san has changed: clients that use the new name can connect, and so can the others."""
    with ControlPlane(*FAST, "--tls-san", "pki.example.com", directory=tmp_path) as plane:
        assert 200 == Client(plane, tmp_path).get("/livez")[0]
        assert "certificate lacks names of this server; renewing it" in plane.log
    renewed = x509.load_pem_x509_certificate((data / "pki" / "apiserver.crt").read_bytes())
    names = renewed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {"localhost", "pki.example.com"} <= set(names.get_values_for_type(x509.DNSName))


def test_what_ends_soon_is_announced(data, tmp_path):
    """A CA with five days left, for itself and for the certificates that end with it: in the log, in the health check,
    as an Event, and to users who request a certificate. The server stays ready.
    """
    reissue_ca(data, begin=-3600, end=5 * 86400)
    with ControlPlane(*FAST, directory=tmp_path) as plane:
        client = Client(plane, tmp_path, "super-admin.conf")
        status, text, _ = client.get("/readyz?verbose")
        assert 200 == status
        assert "[!]certificates failed, ignored: " in text
        assert "ca ends in 4d23h" in text
        assert " ERROR certplane: certificate ends within 7 days certificate=ca " in plane.log
        assert "the CA ends within the longest lifetime of its signer" in plane.log
        messages = ""
        while "certificate ca (" not in messages:
            items = json.loads(client.get("/api/v1/namespaces/default/events")[1])["items"]
            messages = "\n".join(item["message"] for item in items if item["reason"] == "CertificateExpiring")
        with client.connected() as connection:
            body = requests.csr("a", requests.pkcs10(), "kubernetes.io/kube-apiserver-client")
            connection.request("POST", requests.CSRS, body, requests.JSON)
            response = connection.getresponse()
            assert 201 == response.status
            assert "its CA ends" in (response.headers["Warning"] or "")


def test_a_certificate_that_is_not_valid_yet_is_announced(data, tmp_path):
    """Most often a clock is wrong, so the server starts, and says so."""
    reissue_admin(data, begin=3600, end=86400)
    with ControlPlane(*FAST, directory=tmp_path) as plane:
        _, text, _ = Client(plane, tmp_path, "super-admin.conf").get("/readyz?verbose")
        assert "admin.conf is not valid before " in text
        assert "certificate is not valid yet" in plane.log
