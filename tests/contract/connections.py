"""Connections to a plane: inside its process, and over HTTPS on a free port."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress

from certplane.client import api, credentials, kubeconfig, lighttransport, remote
from certplane.clock import SystemClock
from certplane.server import local
from certplane.server.connection import listener as listeners
from certplane.server.connection import tls
from certplane.store import memory
from certplane.x509.issuance import selfsigned
from certplane.x509.tbs import template
from certplane.x509.trust import clientcertificates
from tests.flow import plane as flow
from tests.unit.server.connection import memory as inmemory

TRANSPORTS = ("in-process", "https", "https-light")
_LIFETIME = datetime.timedelta(days=3650)


#: Each makes a transport over HTTPS from a ClientConfig.
HTTPS_TRANSPORTS = {
    "https": lambda config: remote.HTTPSTransport(config, "test"),
    "https-light": lambda config: lighttransport.LightTransport(config, "test", SystemClock()),
}


class Authority(inmemory.CA):
    """A CA for the certificates of the server and of its clients."""

    def __init__(self, clock):
        super().__init__("connections", clock.now(), _LIFETIME)

    def client(self, user):
        """The client certificate of a user, and its key."""
        groups = tuple(group for group in user.groups if group != "system:authenticated")
        return self.issue(selfsigned.Leaf(user.name, groups))


@contextlib.asynccontextmanager
async def listening(handler, ca):
    """The port on which a handler answers over TLS."""
    names = template.AltNames(dns=("localhost",), ip=(ipaddress.ip_address("127.0.0.1"),))
    certificate, key = ca.issue(selfsigned.Leaf("server", names=names))
    context = tls.ServingContext(certificate, key, ca.pem)
    with contextlib.closing(listeners.bind("127.0.0.1", 0)) as bound:
        port = bound.getsockname()[1]
        listener = listeners.Listener(handler, bound, context, SystemClock())
        serving = asyncio.ensure_future(listener.serve())
        try:
            yield port
        finally:
            listener.stop()
            await serving


def client_config(port, ca, source):
    return kubeconfig.ClientConfig(f"https://127.0.0.1:{port}", source, credentials.Inline(ca.pem))


class ServedPlane:
    """A plane, and clients of it."""

    def __init__(self, plane, ca, port, new_transport, stack):
        """Without a `port`, clients are in the process."""
        self.plane = plane
        self.ca = ca
        self.port = port
        self._new_transport = new_transport
        self._stack = stack

    def transport(self, user):
        if not self.port:
            return local.InProcessTransport(self.plane.handler, user, "test")
        certificate, key = self.ca.client(user)
        source = credentials.StoredCredentials(certificate=credentials.Inline(certificate), key=credentials.Inline(key))
        transport = self._new_transport(client_config(self.port, self.ca, source))
        self._stack.push_async_callback(transport.aclose)
        return transport

    def client(self, user):
        return api.Client(self.transport(user))


async def compacted_store():
    """A store in memory whose first revision is compacted: a watch cannot start there."""
    store = memory.MemoryStore()
    first = await store.create("/first", b"1")
    await store.compact((await store.update("/first", b"2", first.mod_revision)).mod_revision)
    return store


@contextlib.asynccontextmanager
async def serve_plane(transport, tmp_path, clock, **config):
    """A plane, and clients that reach it through one of TRANSPORTS."""
    ca = Authority(clock)
    verifier = clientcertificates.ClientVerifier(ca.pem)
    async with flow.running(clock=clock, client_ca=verifier, **config) as plane, contextlib.AsyncExitStack() as stack:
        port = 0 if transport == "in-process" else await stack.enter_async_context(listening(plane.handler, ca))
        yield ServedPlane(plane, ca, port, HTTPS_TRANSPORTS.get(transport), stack)
        # Watches have to end before the server can.
        plane.drain()
