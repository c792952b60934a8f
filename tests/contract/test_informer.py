"""The copy of a collection follows the server through whatever happens to the connection."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses

import pytest

from certplane import errors, testing
from certplane.client import api, informer
from certplane.resources import configmaps
from certplane.store import memory
from tests.contract import connections
from tests.flow import plane as flow


class Unsteady:
    """A way to a server that can be cut, or over which somebody else answers. Implements `api.Transport`."""

    def __init__(self, transport):
        self._transport = transport
        self._cut = asyncio.Event()
        self.lists = 0
        self.watches = 0
        self.instead = None
        self.too_late = False

    def cut(self):
        """All streams break; later ones do not."""
        broken, self._cut = self._cut, asyncio.Event()
        broken.set()

    async def send(self, request):
        self.lists += request.method == "GET"
        response = await self._transport.send(request)
        if self.instead is not None:
            return api.Response(200, {"content-type": "text/html"}, self.instead)
        return response

    @contextlib.asynccontextmanager
    async def stream(self, request):
        self.watches += 1
        if self.too_late:
            self.too_late = False
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


class Following:
    """An informer at work."""

    def __init__(self, server, clock):
        self.server = server
        self.clock = clock
        self.way = Unsteady(server.transport(flow.ADMIN))
        self.admin = server.client(flow.ADMIN)
        self.informer = informer.Informer(api.Client(self.way), configmaps.RESOURCE, clock)

    async def until(self, condition):
        """Let time pass until something holds."""

        async def tried():
            await self.clock.advance(1)
            return condition()

        await flow.eventually(tried)

    async def seen(self, name):
        """Once the copy has it."""
        await self.until(lambda: self.informer.get(name, "default"))

    async def add(self, name):
        made = configmaps.ConfigMap()
        made.metadata.name = name
        await self.admin.create(configmaps.RESOURCE, made, "default")


@pytest.fixture(params=connections.TRANSPORTS)
async def following(request, tmp_path):
    clock = testing.FakeClock()
    store = memory.MemoryStore()
    # What was forgotten before the plane was there, it cannot tell.
    before = await store.create("/before", b"it began")
    await store.compact((await store.update("/before", b"and went on", before.mod_revision)).mod_revision)
    how = {"store": store, "controllers": frozenset()}
    async with connections.serve_plane(request.param, tmp_path, clock, **how) as server:
        made = Following(server, clock)
        running = asyncio.ensure_future(made.informer.run())
        await flow.eventually(made.informer.synced.is_set)
        yield made
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    await store.close()


async def test_a_broken_watch_goes_on_where_it_ended(following):
    """Nothing is listed again, and nothing that happened meanwhile is missed."""
    await following.add("a")
    await following.seen("a")
    following.way.cut()
    await following.add("b")
    await following.seen("b")
    assert (following.way.lists, following.way.watches) == (1, 2)


async def test_what_was_forgotten_is_listed_again(following):
    """The revision at which the watch broke is gone: what was deleted meanwhile leaves the copy."""
    await following.add("a")
    await following.seen("a")
    following.way.too_late = True
    following.way.cut()
    await following.admin.delete(configmaps.RESOURCE, "a", "default")
    await following.until(lambda: following.informer.get("a", "default") is None)
    assert following.way.lists == 2


@pytest.mark.parametrize("answer", [b"<html>Please log in</html>", b"", b'{"kind":"Status"}', b"[1]"])
async def test_what_no_api_server_says_is_no_answer(following, answer):
    """A proxy that answers with a page of its own ends no controller: it is as if nobody had answered."""
    following.way.instead = answer
    client = api.Client(following.way)
    with pytest.raises(api.Unreachable, match="the answer is not from an API server"):
        await client.list(configmaps.RESOURCE)
    following.way.instead = None
    with pytest.raises(errors.NotFound):
        await client.get(configmaps.RESOURCE, "a", "default")
