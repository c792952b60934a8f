"""The HTTP clients of the cases, with certificates that are issued by the server's CA. Threads read the streams."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import http.client
import json
import pathlib
import socket
import ssl
import threading
import time
import urllib.parse

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

USER_AGENT = "conformance/1.0"


class Identities:
    """Client certificates issued by the server's client CA, for the identities in identities.json."""

    def __init__(self, table, ca_cert_path, ca_key_path, directory):
        self.table = table
        self.ca_pem = pathlib.Path(ca_cert_path).read_bytes()
        self.ca_cert = x509.load_pem_x509_certificate(self.ca_pem)
        self.ca_path = ca_cert_path
        self.ca_key = serialization.load_pem_private_key(pathlib.Path(ca_key_path).read_bytes(), None)
        self.dir = pathlib.Path(directory)
        self.cache = {}

    def mint(self, spec):
        key = ec.generate_private_key(ec.SECP256R1())
        attrs = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, o) for o in spec.get("o", [])]
        attrs += [x509.NameAttribute(NameOID.COMMON_NAME, spec["cn"])]
        if spec.get("uid"):
            attrs.append(x509.NameAttribute(x509.ObjectIdentifier("1.3.6.1.4.1.57683.2"), spec["uid"]))
        now = datetime.datetime.now(datetime.UTC)
        cert = (
            x509.CertificateBuilder()
            .subject_name(x509.Name(attrs))
            .issuer_name(self.ca_cert.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=5))
            .not_valid_after(now + datetime.timedelta(days=30))
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), False)
            .sign(self.ca_key, hashes.SHA256())
        )
        path = self.dir / (hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest() + ".pem")
        with open(path, "wb") as f:
            f.write(cert.public_bytes(serialization.Encoding.PEM))
            f.write(
                key.private_bytes(
                    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
                )
            )
        return path

    def context(self, name):
        if name not in self.cache:
            spec = self.table[name]
            ctx = ssl.create_default_context(cafile=self.ca_path)
            if spec.get("cn"):
                ctx.load_cert_chain(self.mint(spec))
            self.cache[name] = ctx
        return self.cache[name]

    def headers(self, name):
        return self.table[name].get("headers", {})


class Response:
    def __init__(self, status, headers, data):
        self.status, self.headers, self.data = status, headers, data


class Client:
    def __init__(self, server, ids, timeout=30):
        self.timeout = timeout
        u = urllib.parse.urlsplit(server)
        self.host, self.port = u.hostname, u.port or 443
        self.ids = ids
        self.conns = {}

    def close(self):
        for conn in self.conns.values():
            conn.close()

    def connect(self, user, timeout=None):
        timeout = timeout or self.timeout
        c = http.client.HTTPSConnection(self.host, self.port, timeout=timeout, context=self.ids.context(user))
        c.connect()
        c.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return c

    def send(self, conn, user, method, path, headers, body):
        conn.putrequest(method, path, skip_accept_encoding=True)
        names = {k.lower() for k in headers}
        allh = dict(self.ids.headers(user))
        if "user-agent" not in names:
            allh["User-Agent"] = USER_AGENT
        allh.update(headers)
        for k, v in allh.items():
            for one in v if isinstance(v, list) else [v]:
                if one is not None:
                    conn.putheader(k, one)
        if body is not None:
            conn.putheader("Content-Length", str(len(body)))
        elif method in ("POST", "PUT", "PATCH"):
            conn.putheader("Content-Length", "0")
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            conn.endheaders(body)

    def request(self, user, method, path, headers, body):
        for attempt in (0, 1):
            conn = self.conns.pop(user, None)
            fresh = conn is None
            if fresh:
                conn = self.connect(user)
            try:
                self.send(conn, user, method, path, headers, body)
                r = conn.getresponse()
                data = r.read()
            except (http.client.HTTPException, OSError):
                conn.close()
                if fresh or attempt:
                    raise
                continue
            except BaseException:
                conn.close()
                raise
            hdrs = {}
            for k, v in r.getheaders():
                hdrs.setdefault(k.lower(), []).append(v)
            if r.will_close:
                conn.close()
            else:
                self.conns[user] = conn
            return Response(r.status, hdrs, data)
        return None

    def stream(self, user, method, path, headers, body, seconds, events=None):
        """Open a watch; returns a Stream that collects documents in the background."""
        conn = self.connect(user, timeout=seconds)
        self.send(conn, user, method, path, headers, body)
        r = conn.getresponse()
        hdrs = {}
        for k, v in r.getheaders():
            hdrs.setdefault(k.lower(), []).append(v)
        return Stream(conn, r, hdrs, seconds, events)


class Stream:
    def __init__(self, conn, r, headers, seconds, events):
        self.conn, self.r, self.headers, self.status = conn, r, headers, r.status
        self.lines, self.closed, self.want = [], False, events
        self.end = time.monotonic() + seconds
        self.thread = threading.Thread(target=self.pump, daemon=True)
        self.thread.start()

    def pump(self):
        try:
            while time.monotonic() < self.end:
                line = self.r.readline()
                if not line:
                    break
                if line.strip():
                    self.lines.append(line)
                if self.want and len(self.lines) >= self.want:
                    break
        except Exception:
            pass
        self.closed = True
        with contextlib.suppress(Exception):
            self.conn.close()

    def wait(self, events=None, seconds=10):
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.closed and (events is None or len(self.lines) < events):
            time.sleep(0.02)
        lines = list(self.lines)
        if events is not None:
            lines = lines[:events]
        self.end = 0
        with contextlib.suppress(Exception):
            self.conn.sock and self.conn.sock.shutdown(socket.SHUT_RDWR)
        return b"".join(lines)
