"""Both ends of a connection in memory: a transport, and a TLS client."""

from __future__ import annotations

import asyncio
import datetime
import ssl

from cryptography.hazmat.primitives.asymmetric import ec

from certplane.golang import pem
from certplane.server.connection import tls
from certplane.x509 import keys
from certplane.x509.issuance import authority, selfsigned
from certplane.x509.tbs import template

NOW = datetime.datetime.now(datetime.UTC)
LIFETIME = datetime.timedelta(days=10)


class Transport:
    """The part of a transport that a connection uses. `unsent` is the number of bytes that the client has not read."""

    def __init__(self):
        self.written = b""
        self.unsent = 0
        self.is_closed = self.is_aborted = self.is_paused = self.is_half_closed = False
        self.has_written = asyncio.Event()

    def get_extra_info(self, name):
        return {"peername": ("192.0.2.1", 5)}.get(name)

    def get_write_buffer_size(self):
        return self.unsent

    def write(self, data):
        assert not self.is_half_closed
        self.written += data
        self.has_written.set()

    def write_eof(self):
        self.is_half_closed = True

    def is_closing(self):
        return self.is_closed or self.is_aborted

    def pause_reading(self):
        assert not self.is_paused
        self.is_paused = True

    def resume_reading(self):
        assert self.is_paused
        self.is_paused = False

    def close(self):
        self.is_closed = True

    def abort(self):
        self.is_aborted = True


class CA:
    """A CA for server and client certificates."""

    def __init__(self, name, now=NOW, lifetime=LIFETIME):
        self._validity = now, lifetime
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.pem = selfsigned.self_signed_ca(name, self.key, *self._validity)
        self.authority = authority.Authority(pem.first_block(self.pem).data, self.key)

    def issue(self, leaf, key=None):
        """A certificate and its key, in PEM."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        return selfsigned.issue_leaf(leaf, key, self.authority, *self._validity), keys.to_pem(key)


class Stalled(Exception):
    """Each side of a handshake waits for the other."""


class Client:
    """A TLS client in memory. `handshake` leaves the session established, or raises the error of either side."""

    def __init__(self, session, ca, identity=None, version=None, alpn=()):
        settings = ssl.create_default_context(cadata=ca.pem.decode())
        settings.set_ciphers("DEFAULT:@SECLEVEL=0")
        if identity is not None:
            settings.load_cert_chain(identity)
        if version is not None:
            settings.minimum_version = settings.maximum_version = version
        if alpn:
            settings.set_alpn_protocols(alpn)
        self.session = session
        #: Modifies flights on their way to the server.
        self.tamper = bytes
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = settings.wrap_bio(self._incoming, self._outgoing, server_hostname="localhost")

    def flight(self, cut=1 << 20):
        """Carry the client's bytes to the server, split, and the server's back; return the plaintext that arrived."""
        sent, plaintext = self.tamper(self._outgoing.read()), b""
        for start in range(0, len(sent), cut):
            plaintext += self.session.receive(sent[start : start + cut])
        received = self.session.take_outgoing()
        self._incoming.write(received)
        if not self.session.is_established and not sent and not received:
            raise Stalled
        return plaintext

    def handshake(self, cut=1 << 20):
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                self.flight(cut)
            else:
                self.flight(cut)
                return self

    def read(self, sent):
        self._incoming.write(sent)
        pieces = b""
        while True:
            try:
                pieces += self.tls.read(1 << 20)
            except ssl.SSLWantReadError:
                return pieces


class TLS:
    """A CA, and the TLS context of a server."""

    def __init__(self):
        self.ca = CA("clients")
        names = template.AltNames(dns=("localhost",))
        self.context = tls.ServingContext(*self.ca.issue(selfsigned.Leaf("server", names=names)), self.ca.pem)
