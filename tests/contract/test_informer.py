"""An informer has the objects of the server, whatever happens to the connection."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses

import pytest

from certplane import errors, testing
from certplane.client import api, informer
from certplane.resources import configmaps
from tests.contract import connections
from tests.flow import plane as flow


class FaultyTransport:
    """A transport whose streams can be cut, and whose responses can be replaced. Implements `api.Transport`."""

    def __init__(self, transport):
        self._transport = transport
        self._cut = asyncio.Event()
        self.lists = 0
        self.watches = 0
        self.replacement = None
        self.from_first_revision = False

    def cut(self):
        """End all open streams by an error. Later streams are not affected."""
        broken, self._cut = self._cut, asyncio.Event()
        broken.set()

    async def send(self, request):
        self.lists += request.method == "GET"
        response = await self._transport.send(request)
        if self.replacement is not None:
            return api.Response(200, {"content-type": "text/html"}, self.replacement)
        return response

    @contextlib.asynccontextmanager
    async def stream(self, request):
        self.watches += 1
        if self.from_first_revision:
            self.from_first_revision = False
            query = [(key, "1" if key == "resourceVersion" else value) for key, value in request.query]
            request = dataclasses.replace(request, query=query)
        async with self._transport.stream(request) as response:
            yield dataclasses.replace(response, chunks=self._until_cut(response.chunks, self._cut))

    async def _until_cut(self, chunks, cut):
        cutting = asyncio.ensure_future(cut.wait())
        try:
            while True:
                chunk = asyncio.ensure_future(anext(chunks, None))
                await asyncio.wait({chunk, cutting}, return_when=asyncio.FIRST_COMPLETED)
                if cut.is_set():
                    chunk.cancel()
                    await asyncio.gather(chunk, return_exceptions=True)
                    raise api.Unreachable("cut")
                if chunk.result() is None:
                    return
                yield chunk.result()
        finally:
            cutting.cancel()


class RunningInformer:
    """An informer, its transport, and a client that changes the collection."""

    def __init__(self, server, clock):
        self.server = server
        self.clock = clock
        self.transport = FaultyTransport(server.transport(flow.ADMIN))
        self.admin = server.client(flow.ADMIN)
        self.informer = informer.Informer(api.Client(self.transport), configmaps.RESOURCE, clock)

    async def until(self, condition):
        """Let time pass until a condition holds."""

        async def advanced():
            await self.clock.advance(1)
            return condition()

        await flow.eventually(advanced)

    async def until_known(self, name):
        """Let time pass until the informer has an object."""
        await self.until(lambda: self.informer.get(name, "default"))

    async def add(self, name):
        config_map = configmaps.ConfigMap()
        config_map.metadata.name = name
        await self.admin.create(configmaps.RESOURCE, config_map, "default")


@pytest.fixture(params=connections.TRANSPORTS)
async def following(request, tmp_path):
    clock = testing.FakeClock()
    store = await connections.compacted_store()
    config = {"store": store, "controllers": frozenset()}
    async with connections.serve_plane(request.param, tmp_path, clock, **config) as server:
        following = RunningInformer(server, clock)
        running = asyncio.ensure_future(following.informer.run())
        await flow.eventually(following.informer.synced.is_set)
        yield following
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    await store.close()


async def test_a_broken_watch_is_resumed(following):
    """The collection is not listed again, and no change is missed."""
    await following.add("a")
    await following.until_known("a")
    following.transport.cut()
    await following.add("b")
    await following.until_known("b")
    assert (following.transport.lists, following.transport.watches) == (1, 2)


async def test_the_collection_is_listed_again_after_a_compaction(following):
    """An object that was deleted in between is removed from the informer."""
    await following.add("a")
    await following.until_known("a")
    following.transport.from_first_revision = True
    following.transport.cut()
    await following.admin.delete(configmaps.RESOURCE, "a", "default")
    await following.until(lambda: following.informer.get("a", "default") is None)
    assert following.transport.lists == 2


@pytest.mark.parametrize("body", [b"<html>Please log in</html>", b"", b'{"kind":"Status"}', b"[1]"])
async def test_a_response_of_another_server_is_reported_as_unreachable(following, body):
    """Such as the page of a proxy. Later requests are not affected."""
    following.transport.replacement = body
    client = api.Client(following.transport)
    with pytest.raises(api.Unreachable, match="the response is not from an API server"):
        await client.list(configmaps.RESOURCE)
    following.transport.replacement = None
    with pytest.raises(errors.NotFound):
        await client.get(configmaps.RESOURCE, "a", "default")
