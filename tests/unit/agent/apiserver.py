"""An API server over TLS on a free port, with nothing but CertificateSigningRequests, which a test decides."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import datetime
import json
import ssl
import tempfile

from certplane.agent.settings import CertificateSettings, ServerSettings
from certplane.x509.certificatenames import Subject
from certplane.x509.tbs.template import AltNames
from tests.unit.agent import pairs

_CSRS = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
_REASONS = {403: "Forbidden", 404: "NotFound", 409: "AlreadyExists", 503: "ServiceUnavailable"}
TOKEN = "a-token"
SIGNER = "example.com/web"
#: The name in the certificates of `pairs`.
SETTINGS = CertificateSettings(
    name="web",
    signer_name=SIGNER,
    subject=Subject(common_name="web"),
    names=AltNames(dns=("localhost",)),
    usages=("digital signature", "server auth"),
)


class APIServer:
    """`csrs` are the documents by name; `created` counts the requests that were created. While `refusal` is set, every
    request is answered with this code; `is_silent`: with nothing at all.
    """

    def __init__(self):
        self.csrs = {}
        self.created = 0
        self.refusal = 0
        self.is_silent = False
        self.tokens = []
        self.ca = pairs.CA("server", datetime.datetime.now(datetime.UTC) - pairs.DAY)
        self.port = 0
        self._active = 0
        self._silent = []

    @contextlib.asynccontextmanager
    async def listening(self):
        """Serve while the block runs."""
        key = pairs.new_key()
        certificate = self.ca.issue(key, datetime.datetime.now(datetime.UTC) - pairs.DAY)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with tempfile.NamedTemporaryFile() as file:
            file.write(certificate + pairs.key_pem(key))
            file.flush()
            context.load_cert_chain(file.name)
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=context)
        async with server:
            self.port = server.sockets[0].getsockname()[1]
            yield self
            for writer in self._silent:
                writer.close()

    def kubeconfig(self, directory):
        """Settings that lead to this server, with a token."""
        path = directory / "kubeconfig"
        ca = base64.b64encode(self.ca.pem).decode()
        document = {
            "kind": "Config",
            "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [
                {
                    "name": "c",
                    "cluster": {"server": f"https://127.0.0.1:{self.port}", "certificate-authority-data": ca},
                }
            ],
            "users": [{"name": "u", "user": {"token": TOKEN}}],
        }
        path.write_text(json.dumps(document))
        path.chmod(0o600)
        return ServerSettings(kubeconfig=path)

    async def settle(self):
        """Let requests that are under way come to their end; connections to this loop need some of its rounds."""
        quiet = 0
        while quiet < 100:
            quiet = 0 if self._active else quiet + 1
            await asyncio.sleep(0)

    # --- decisions ----------------------------------------------------------------------------------------------------

    @property
    def csr(self):
        """The newest request."""
        return list(self.csrs.values())[-1]

    def decide(self, kind, reason="", message=""):
        """Add a condition to the newest request."""
        condition = {"type": kind, "status": "True", "reason": reason, "message": message}
        self.csr["status"].setdefault("conditions", []).append(condition)

    def issue(self, certificate):
        """Approve the newest request, and put a certificate on it."""
        self.decide("Approved")
        self.csr["status"]["certificate"] = base64.b64encode(certificate).decode()

    # --- requests -----------------------------------------------------------------------------------------------------

    async def _serve(self, reader, writer):
        self._active += 1
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            fields = dict(line.lower().split(": ", 1) for line in head.splitlines()[1:] if line)
            body = await reader.readexactly(int(fields.get("content-length", "0")))
            self.tokens.append(fields.get("authorization", "").removeprefix("bearer "))
            if self.is_silent:
                self._silent.append(writer)
                return
            code, document = self._answer(*head.split(" ", 2)[:2], body)
            data = json.dumps(document).encode()
            writer.write(f"HTTP/1.1 {code} X\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)
            await writer.drain()
        finally:
            self._active -= 1
            if writer not in self._silent:
                writer.close()

    def _answer(self, method, path, body):
        if self.refusal:
            return self._status(self.refusal)
        if method == "POST" and path == _CSRS:
            document = json.loads(body)
            name = document["metadata"]["name"]
            if name in self.csrs:
                return self._status(409)
            self.created += 1
            document["metadata"]["uid"] = f"uid-{self.created}"
            document["status"] = {}
            self.csrs[name] = document
            return 201, document
        name = path.removeprefix(f"{_CSRS}/")
        return (200, self.csrs[name]) if method == "GET" and name in self.csrs else self._status(404)

    def _status(self, code):
        return code, {
            "kind": "Status",
            "apiVersion": "v1",
            "status": "Failure",
            "message": "refused\nby the test",
            "reason": _REASONS[code],
            "code": code,
        }
