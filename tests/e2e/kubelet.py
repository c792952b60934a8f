"""A client that behaves like a kubelet when it gets and renews its certificates.

Names, usages, requests, watches and files are those of Kubernetes 1.36: `pkg/kubelet/certificate`,
`client-go/util/certificate`. Bodies are protobuf, as kubelets send it (`goclient`).
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import datetime
import hashlib
import http.client
import ipaddress
import os
import pathlib
import ssl
import types

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.e2e import goclient

CSRS = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
CLIENT = "kubernetes.io/kube-apiserver-client-kubelet"
SERVING = "kubernetes.io/kubelet-serving"
CLIENT_USAGES = ["digital signature", "client auth"]
SERVING_USAGES = ["digital signature", "server auth"]
ACCEPT = f"{goclient.PROTOBUF},application/json"
AGENT = "kubelet/v1.36.2 (linux/amd64) kubernetes/4cb5f07"
#: Timeout for a response, in seconds.
PATIENCE = 20


class WaitFailed(Exception):
    """There will be no certificate; the text is client-go's."""


class Wire:
    """Connections under one identity: a token, or a certificate in a file. What `goclient.Client` speaks through."""

    def __init__(self, port, ca, *, token="", pair=None):
        self._port = port
        self._token = token
        self._tls = ssl.create_default_context(cafile=str(ca))
        if pair is not None:
            self._tls.load_cert_chain(str(pair))

    def connect(self, user):
        return http.client.HTTPSConnection("127.0.0.1", self._port, context=self._tls, timeout=PATIENCE)

    def send(self, connection, user, method, path, head, body):
        if self._token:
            head = {**head, "Authorization": f"Bearer {self._token}"}
        connection.request(method, path, body, head)

    def request(self, user, method, path, head, body):
        with contextlib.closing(self.connect(user)) as connection:
            self.send(connection, user, method, path, head, body)
            answer = connection.getresponse()
            fields = {}
            for name, value in answer.getheaders():
                fields.setdefault(name.lower(), []).append(value)
            return types.SimpleNamespace(status=answer.status, headers=fields, data=answer.read())


def new_key():
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key):
    kind = serialization.PrivateFormat.TraditionalOpenSSL
    return key.private_bytes(serialization.Encoding.PEM, kind, serialization.NoEncryption())


def request_pem(key, node, addresses=()):
    """The PKCS#10 of a node, in PEM; `addresses` are (type, address) of its status."""
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "system:nodes"),
            x509.NameAttribute(NameOID.COMMON_NAME, f"system:node:{node}"),
        ]
    )
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    names = alternative_names(addresses)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def alternative_names(addresses):
    """The names that a kubelet with these addresses requests."""
    dns, ips = set(), {}
    for kind, address in addresses:
        if not address:
            continue
        try:
            ips[address] = x509.IPAddress(ipaddress.ip_address(address))
        except ValueError:
            if kind in ("Hostname", "InternalDNS", "ExternalDNS"):
                dns.add(address)
    return [*(x509.DNSName(name) for name in sorted(dns)), *(ips[address] for address in sorted(ips))]


def digest_name(key, node, usages):
    """The name of the bootstrap request, derived from key, node and usages."""
    public = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    digest = hashlib.new("sha512_256")
    for part in (public, f"system:node:{node}".encode(), b"system:nodes", *(usage.encode() for usage in usages)):
        digest.update(base64.urlsafe_b64encode(part).rstrip(b"=") + b"|")
    return "node-csr-" + base64.urlsafe_b64encode(digest.digest()).rstrip(b"=").decode()


def rotation_deadline(begins, ends, chance):
    """When to renew: after 70 to 90 % of the lifetime; `chance` is in [0, 1)."""
    return begins + (ends - begins) * (0.7 + 0.2 * chance)


@dataclasses.dataclass
class Store:
    """The certificates on disk: a dated file for each, and a link to the current one."""

    directory: pathlib.Path
    prefix: str

    @property
    def current(self):
        return self.directory / f"{self.prefix}-current.pem"

    def write(self, certificate, key, now):
        self.directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        path = self.directory / f"{self.prefix}-{now:%Y-%m-%d-%H-%M-%S-%f}.pem"
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as sink:
            sink.write(certificate + key_pem(key))
            os.fsync(handle)
        updated = self.directory / f"{self.prefix}-updated.pem"
        updated.symlink_to(path)
        updated.rename(self.current)

    def certificate(self):
        return x509.load_pem_x509_certificate(self.current.read_bytes())


class Kubelet:
    """A node."""

    def __init__(self, server, directory, name, token):
        self.server = server
        self.name = name
        self.ca = server.data / "pki" / "ca.crt"
        self.client_store = Store(directory, "kubelet-client")
        self.serving_store = Store(directory, "kubelet-server")
        self._temporary = directory / "kubelet-client.key.tmp"
        self._token = token

    # --- identity ------------------------------------------------------------------------------------------------

    def bootstrap_client(self):
        return goclient.Client(Wire(self.server.port, self.ca, token=self._token), agent=AGENT)

    def client(self):
        """The API under its own certificate."""
        return goclient.Client(Wire(self.server.port, self.ca, pair=self.client_store.current), agent=AGENT)

    # --- certificates ---------------------------------------------------------------------------------------------

    def bootstrap(self):
        """The first client certificate, with a bootstrap token; also again after a crash."""
        key = self._bootstrap_key()
        client = self.bootstrap_client()
        request = request_pem(key, self.name)
        created = self.submit(client, CLIENT, request, CLIENT_USAGES, digest_name(key, self.name, CLIENT_USAGES))
        self._check_compatible(created, key)
        self.client_store.write(self.wait(client, created), key, datetime.datetime.now())  # noqa: DTZ005 - as Go names it
        self._temporary.unlink()

    def rotate(self):
        """A new client certificate, requested with the current one."""
        key = new_key()
        client = self.client()
        request = self.submit(client, CLIENT, request_pem(key, self.name), CLIENT_USAGES)
        self.client_store.write(self.wait(client, request), key, datetime.datetime.now())  # noqa: DTZ005 - as above
        return request

    def ask_for_serving(self, addresses):
        """The request for a serving certificate, and its key."""
        key = new_key()
        return self.submit(self.client(), SERVING, request_pem(key, self.name, addresses), SERVING_USAGES), key

    def keep_serving(self, created, key):
        certificate = self.wait(self.client(), created)
        self.serving_store.write(certificate, key, datetime.datetime.now())  # noqa: DTZ005 - as above

    def _bootstrap_key(self):
        if self._temporary.exists():
            return serialization.load_pem_private_key(self._temporary.read_bytes(), None)
        key = new_key()
        self._temporary.parent.mkdir(parents=True, exist_ok=True)
        self._temporary.write_bytes(key_pem(key))
        self._temporary.chmod(0o600)
        return key

    def submit(self, client, signer, request, usages, name=""):
        """Create a request; if the name exists, return the existing one."""
        obj = {
            "apiVersion": "certificates.k8s.io/v1",
            "kind": "CertificateSigningRequest",
            "metadata": {"name": name} if name else {"generateName": "csr-"},
            "spec": {"request": base64.b64encode(request).decode(), "signerName": signer, "usages": usages},
        }
        answer = client.ask("POST", CSRS, obj, accept=ACCEPT)
        if answer.status == 409 and name:
            answer = client.ask("GET", f"{CSRS}/{name}", accept=ACCEPT)
        if answer.status not in (200, 201):
            raise WaitFailed(f"cannot create certificate signing request: {answer.obj['message']}")
        return answer.obj

    def _check_compatible(self, existing, key):
        request = x509.load_pem_x509_csr(base64.b64decode(existing["spec"]["request"]))
        if request.public_key() != key.public_key():
            raise WaitFailed("retrieved csr is not compatible: error validating signature new CSR against old key")
        expected = x509.load_pem_x509_csr(request_pem(key, self.name))
        if request.subject != expected.subject:
            raise WaitFailed("retrieved csr is not compatible: csr subjects differ")

    def wait(self, client, created):
        """The certificate of a request, in PEM. Raises WaitFailed."""
        name, uid = created["metadata"]["name"], created["metadata"]["uid"]
        query = {"fieldSelector": f"metadata.name={name}"}
        listed = client.ask("GET", CSRS, accept=ACCEPT, **query)
        for item in listed.obj.get("items", ()):
            certificate = self._judge(item, name, uid)
            if certificate:
                return certificate
        return self.follow(client, created, listed.obj["metadata"]["resourceVersion"])

    def follow(self, client, created, version):
        """The same, from a revision onwards."""
        name, uid = created["metadata"]["name"], created["metadata"]["uid"]
        query = {"fieldSelector": f"metadata.name={name}"}
        with client.watch(CSRS, ACCEPT, resourceVersion=version, allowWatchBookmarks="true", **query) as watch:
            while (event := watch.next()) is not None:
                if event.type == "BOOKMARK":
                    continue
                if event.type == "DELETED":
                    raise WaitFailed(f'csr "{name}" was deleted')
                certificate = self._judge(event.object, name, uid)
                if certificate:
                    return certificate
        raise WaitFailed("timed out waiting for the condition")

    def _judge(self, csr, name, uid):
        if csr["metadata"]["uid"] != uid:
            raise WaitFailed(f'csr "{name}" changed UIDs')
        approved = False
        for condition in csr["status"].get("conditions", ()):
            if condition["type"] == "Denied":
                raise WaitFailed(
                    f"certificate signing request is denied, reason: {condition['reason']},"
                    f" message: {condition['message']}"
                )
            if condition["type"] == "Failed":
                raise WaitFailed(
                    f"certificate signing request failed, reason: {condition['reason']},"
                    f" message: {condition['message']}"
                )
            approved = approved or condition["type"] == "Approved"
        certificate = base64.b64decode(csr["status"].get("certificate") or "")
        return certificate if approved else b""
