"""A replica that is no longer the leader sends no write, whatever the write has waited for since it was attempted."""

from __future__ import annotations

import asyncio
import contextlib
import datetime

import pytest

from certplane import errors, testing
from certplane.client import api, credentials, permissions, ratelimit, remote
from certplane.config.controllersettings import LeaderElectionSettings
from certplane.controllers.runtime import leaderelection
from certplane.resources import configmaps
from tests.contract import connections
from tests.flow import plane as flow

SETTINGS = LeaderElectionSettings("lock", "kube-system", *(datetime.timedelta(seconds=value) for value in (15, 10, 2)))
#: Seconds after which the leader must have renewed its Lease.
DEADLINE = 10


@pytest.fixture(params=connections.TRANSPORTS)
async def server(request, tmp_path):
    async with serving(request.param, tmp_path) as served:
        yield served


@pytest.fixture
async def https_server(tmp_path):
    async with serving("https", tmp_path) as served:
        yield served


def serving(transport, tmp_path):
    return connections.serve_plane(transport, tmp_path, testing.FakeClock(), controllers=frozenset())


def config_map(name):
    new = configmaps.ConfigMap()
    new.metadata.name = name
    return new


async def new_leader(server):
    """The elector of a replica that is the leader, and renews its Lease no more."""
    elector = leaderelection.LeaderElector(server.client(flow.ADMIN), SETTINGS, "a", server.plane.clock)
    await elector.acquire()
    assert elector.is_leader
    return elector


async def exists(server, name):
    try:
        await server.client(flow.ADMIN).get(configmaps.RESOURCE, name, "default")
    except errors.NotFound:
        return False
    return True


async def test_a_write_that_waits_for_the_rate_limit_is_not_sent(server):
    """The limit is that of `--kube-api-qps`. A read that waits just as long is sent."""
    clock, elector = server.plane.clock, await new_leader(server)
    limited = ratelimit.RateLimitedTransport(server.transport(flow.ADMIN), clock, 1 / (2 * DEADLINE), 1)
    client = api.Client(
        leaderelection.FencedTransport(permissions.PermissionReportingTransport(limited, clock), elector)
    )
    await client.create(configmaps.RESOURCE, config_map("one"), "default")
    reading = asyncio.ensure_future(client.get(configmaps.RESOURCE, "one", "default"))
    writing = asyncio.ensure_future(client.create(configmaps.RESOURCE, config_map("two"), "default"))
    await testing.settle()
    await clock.advance(5 * DEADLINE)
    with pytest.raises(api.Unreachable, match="not sent: this process is not the leader"):
        await writing
    assert (await reading).metadata.name == "one"
    assert not await exists(server, "two")


async def test_what_is_called_before_sending_can_prevent_it(server):
    """It is called once for a request that is sent once, and may raise anything."""
    calls = []

    class RefusedError(Exception):
        pass

    def refuse():
        raise RefusedError

    transport = server.transport(flow.ADMIN)
    path = "/api/v1/namespaces/default"
    request = api.Request("GET", path, before_sending=lambda: calls.append(1))
    assert (await transport.send(request)).status == 200
    assert calls == [1]
    async with transport.stream(request) as response:
        assert response.status == 200
    assert calls == [1, 1]
    with pytest.raises(RefusedError):
        await transport.send(api.Request("DELETE", path, before_sending=refuse))
    with pytest.raises(RefusedError):
        async with transport.stream(api.Request("DELETE", path, before_sending=refuse)):
            pass
    assert (await transport.send(api.Request("GET", path))).status == 200


async def test_writes_are_not_streamed(server):
    """Nothing needs it, and so it is not fenced."""
    fenced = leaderelection.FencedTransport(server.transport(flow.ADMIN), await new_leader(server))
    with pytest.raises(ValueError, match="a DELETE request cannot be streamed"):
        fenced.stream(api.Request("DELETE", "/api/v1/namespaces/default"))


# --- what a request waits for over HTTPS --------------------------------------------------------------------------


class Source:
    """Credentials that are obtained by a function, which gets the number of the attempt. Implements
    `credentials.Source`.
    """

    def __init__(self, obtain):
        self._obtain = obtain
        self.attempts = 0

    async def identity(self):
        self.attempts += 1
        return await self._obtain(self.attempts)

    def reject(self):
        return True


@contextlib.asynccontextmanager
async def fenced_client(server, source, port):
    elector = await new_leader(server)
    config = connections.client_config(port, server.ca, source)
    async with contextlib.aclosing(remote.HTTPSTransport(config, "test")) as transport:
        yield api.Client(leaderelection.FencedTransport(transport, elector))


async def test_a_write_that_waits_for_credentials_is_not_sent(https_server):
    """An exec plugin may take a minute."""

    async def obtain(_):
        await https_server.plane.clock.advance(DEADLINE + 1)
        return credentials.Identity("", *https_server.ca.client(flow.ADMIN))

    async with fenced_client(https_server, Source(obtain), https_server.port) as client:
        with pytest.raises(api.Unreachable, match="not sent: this process is not the leader"):
            await client.create(configmaps.RESOURCE, config_map("a"), "default")
    assert not await exists(https_server, "a")


async def test_a_refused_write_is_not_sent_again(https_server):
    """The leadership ends while new credentials are obtained."""

    async def obtain(attempt):
        if attempt == 1:
            return credentials.Identity("Bearer invalid")
        await https_server.plane.clock.advance(DEADLINE + 1)
        return credentials.Identity("", *https_server.ca.client(flow.ADMIN))

    source = Source(obtain)
    async with fenced_client(https_server, source, https_server.port) as client:
        with pytest.raises(api.Unreachable, match="not sent: this process is not the leader"):
            await client.create(configmaps.RESOURCE, config_map("a"), "default")
    assert source.attempts == 2
    assert not await exists(https_server, "a")


class Relay:
    """Forwards connections to a port, when it is released."""

    def __init__(self, port):
        self._port = port
        self.connected, self.released = asyncio.Event(), asyncio.Event()

    async def handle(self, reader, writer):
        self.connected.set()
        await self.released.wait()
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self._port)
        await asyncio.gather(self._copy(reader, inner_writer), self._copy(inner_reader, writer))

    async def _copy(self, reader, writer):
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.close()


async def test_a_write_that_waits_for_a_connection_is_not_sent(https_server):
    """Until the TLS handshake is complete."""

    async def obtain(_):
        return credentials.Identity("", *https_server.ca.client(flow.ADMIN))

    relay = Relay(https_server.port)
    relaying = await asyncio.start_server(relay.handle, "127.0.0.1", 0)
    port = relaying.sockets[0].getsockname()[1]
    async with relaying, fenced_client(https_server, Source(obtain), port) as client:
        writing = asyncio.ensure_future(client.create(configmaps.RESOURCE, config_map("a"), "default"))
        await relay.connected.wait()
        await https_server.plane.clock.advance(DEADLINE + 1)
        relay.released.set()
        with pytest.raises(api.Unreachable, match="not sent: this process is not the leader"):
            await writing
    assert not await exists(https_server, "a")
