"""The ways to a plane: from inside its process, and over HTTPS on a free port."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress

from cryptography.hazmat.primitives.asymmetric import ec

from certplane.client import api, credentials, kubeconfig, remote
from certplane.clock import SystemClock
from certplane.server import local
from certplane.server.connection import listener as listeners
from certplane.server.connection import tls
from certplane.x509 import authority, certificates, keys, mint, pem, template
from tests.flow import plane as flow

KINDS = ("inside", "https")
_LIFETIME = datetime.timedelta(days=3650)


class Authority:
    """A CA of a test: for the server, and for whoever comes."""

    def __init__(self, clock):
        self._clock = clock
        key = ec.generate_private_key(ec.SECP256R1())
        self.pem = mint.self_signed_ca("doors", key, clock.now(), _LIFETIME)
        self._authority = authority.Authority(pem.first(self.pem).data, key)

    def pair(self, what):
        """A certificate and its key, in PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        return mint.leaf(what, key, self._authority, self._clock.now(), _LIFETIME), keys.to_pem(key)

    def client(self, user):
        """What a user proves its name with."""
        groups = tuple(each for each in user.groups if each != "system:authenticated")
        return self.pair(mint.Leaf(user.name, groups))


@contextlib.asynccontextmanager
async def listening(handler, ca):
    """The port on which a handler answers over TLS."""
    names = template.AltNames(dns=("localhost",), ip=(ipaddress.ip_address("127.0.0.1"),))
    certificate, key = ca.pair(mint.Leaf("server", names=names))
    context = tls.ServingContext(certificate, key, ca.pem)
    with contextlib.closing(listeners.bind("127.0.0.1", 0)) as bound:
        port = bound.getsockname()[1]
        listener = listeners.Listener(handler, bound, context, SystemClock())
        serving = asyncio.ensure_future(listener.serve())
        await flow.eventually(lambda: listener.started)
        try:
            yield port
        finally:
            listener.stop()
            await serving


def access(port, ca, source):
    return kubeconfig.Access(f"https://127.0.0.1:{port}", source, credentials.Inline(ca.pem))


class Doors:
    """A plane, and clients of it."""

    def __init__(self, plane, ca, port, stack):
        self.plane = plane
        self.ca = ca
        self.port = port
        self._stack = stack

    def transport(self, user):
        if not self.port:
            return local.Transport(self.plane.handler, user, "door")
        certificate, key = self.ca.client(user)
        held = credentials.Held(certificate=credentials.Inline(certificate), key=credentials.Inline(key))
        made = remote.Transport(access(self.port, self.ca, held), "door")
        self._stack.push_async_callback(made.aclose)
        return made

    def client(self, user):
        return api.Client(self.transport(user))


@contextlib.asynccontextmanager
async def open_to(kind, tmp_path, clock, **how):
    """A plane and a way to it."""
    ca = Authority(clock)
    verifier = certificates.ClientVerifier(ca.pem)
    async with flow.running(clock=clock, client_ca=verifier, **how) as plane, contextlib.AsyncExitStack() as stack:
        port = await stack.enter_async_context(listening(plane.handler, ca)) if kind == "https" else 0
        yield Doors(plane, ca, port, stack)
        # Watches have to end before the server can.
        plane.drain()
