"""The API client behaves the same in-process and over HTTPS."""

from __future__ import annotations

import asyncio

import pytest

from certplane import errors, testing
from certplane.client import api
from certplane.resources import certificatesigningrequests as csrs
from certplane.resources import configmaps
from tests.contract import connections
from tests.flow import plane as flow


@pytest.fixture(params=connections.TRANSPORTS)
async def server(request, tmp_path):
    store = await connections.compacted_store()
    config = {"store": store, "controllers": frozenset()}
    async with connections.serve_plane(request.param, tmp_path, testing.FakeClock(), **config) as served:
        yield served
    await store.close()


def config_map(name, **data):
    new = configmaps.ConfigMap(data=data)
    new.metadata.name = name
    return new


async def test_objects_are_created_read_updated_applied_and_deleted(server):
    """Text beyond ASCII is unchanged."""
    client = server.client(flow.ADMIN)
    created = await client.create(configmaps.RESOURCE, config_map("a", key="Grüße, 世界"), "default")
    assert (await client.get(configmaps.RESOURCE, "a", "default")).data == {"key": "Grüße, 世界"}
    created.data = {"key": "two"}
    changed = await client.update(configmaps.RESOURCE, created)
    assert changed.data == {"key": "two"}
    patch = {"metadata": {"name": "a", "namespace": "default"}, "data": {"other": "three"}}
    applied = await client.apply(configmaps.RESOURCE, patch, manager="server")
    assert applied.data == {"key": "two", "other": "three"}
    await client.delete(configmaps.RESOURCE, "a", "default", uid=created.metadata.uid)
    with pytest.raises(errors.NotFound):
        await client.get(configmaps.RESOURCE, "a", "default")


async def test_errors_are_raised_by_their_reason(server):
    """With the message of the server."""
    client = server.client(flow.ADMIN)
    created = await client.create(configmaps.RESOURCE, config_map("a"), "default")
    with pytest.raises(errors.AlreadyExists, match='configmaps "a" already exists'):
        await client.create(configmaps.RESOURCE, config_map("a"), "default")
    created.data = {"key": "one"}
    await client.update(configmaps.RESOURCE, created)
    with pytest.raises(errors.Conflict, match="the object has been modified"):
        await client.update(configmaps.RESOURCE, created)
    with pytest.raises(errors.Invalid, match="metadata"):
        await client.create(configmaps.RESOURCE, config_map("A B"), "default")
    jane = server.client(flow.JANE)
    with pytest.raises(errors.Forbidden, match='User "jane" cannot list resource "configmaps"'):
        await jane.list(configmaps.RESOURCE)
    with pytest.raises(errors.NotFound):
        await client.read("/apis/no.such.group/v1")


async def test_a_list_in_pages_is_complete(server):
    """The client fetches all pages, and returns one list with a resourceVersion."""
    client = server.client(flow.ADMIN)
    for number in range(25):
        await client.create(configmaps.RESOURCE, config_map(f"m{number:02}"), "default")
    config_maps = await client.list(configmaps.RESOURCE, "default", page=10)
    assert [obj.metadata.name for obj in config_maps.items if obj.metadata.name.startswith("m")] == [
        f"m{number:02}" for number in range(25)
    ]
    assert int(config_maps.resource_version) > 0


async def test_a_watch_delivers_every_change_in_order(server):
    """From the resourceVersion of a list on."""
    client = server.client(flow.ADMIN)
    start = (await client.list(configmaps.RESOURCE, "default")).resource_version
    delivered = []
    async with client.watch(configmaps.RESOURCE, start, "default") as events:
        created = await client.create(configmaps.RESOURCE, config_map("a"), "default")
        created.data = {"key": "one"}
        await client.update(configmaps.RESOURCE, created)
        await client.delete(configmaps.RESOURCE, "a", "default")
        async for event in events:
            delivered.append((event.type, event.object.data))
            if event.type == "DELETED":
                break
    assert delivered == [("ADDED", {}), ("MODIFIED", {"key": "one"}), ("DELETED", {"key": "one"})]


async def test_a_watch_from_a_compacted_revision_is_refused(server):
    """With Expired, so that the client lists again."""
    client = server.client(flow.ADMIN)

    async def watch():
        async with client.watch(configmaps.RESOURCE, "1", "default") as events:
            return [event async for event in events]

    with pytest.raises(errors.Expired):
        await watch()


async def test_watches_and_requests_run_concurrently(server):
    """Thirty open watches block neither lists nor a create."""
    client = server.client(flow.ADMIN)
    start = (await client.list(csrs.RESOURCE)).resource_version

    async def first_event():
        async with client.watch(csrs.RESOURCE, start) as events:
            return (await anext(events)).object.metadata.name

    watching = [asyncio.ensure_future(first_event()) for _ in range(30)]
    await asyncio.gather(*(client.list(configmaps.RESOURCE) for _ in range(30)))
    await client.create(csrs.RESOURCE, flow.new_csr("a"))
    assert await asyncio.gather(*watching) == ["a"] * 30


async def test_names_are_escaped_in_paths(server):
    """A name with special characters does not change the path."""
    client = server.client(flow.ADMIN)
    for name in ("a b", "ü", "a?b", "a#b", "%2e"):
        with pytest.raises((errors.NotFound, errors.BadRequest)):
            await client.get(configmaps.RESOURCE, name, "default")


async def test_paths_are_not_escaped_by_the_caller(server):
    """A percent sign in a name is a percent sign, not the start of an escape sequence of another name."""
    client = server.client(flow.ADMIN)
    await client.create(configmaps.RESOURCE, config_map("a"), "default")
    with pytest.raises(errors.BadRequest, match='"%61": may not contain'):
        await client.get(configmaps.RESOURCE, "%61", "default")
    response = await server.transport(flow.ADMIN).send(api.Request("GET", "/api/v1/namespaces/default/configmaps%2Fa"))
    assert response.status == 404


async def test_an_unreachable_server_is_reported_as_such(tmp_path):
    """There is no Status of a server that does not answer."""
    clock = testing.FakeClock()
    async with connections.serve_plane("https", tmp_path, clock, controllers=frozenset()) as server:
        client = server.client(flow.ADMIN)
        port, server.port = server.port, 1
        unreachable = server.client(flow.ADMIN)
        with pytest.raises(api.Unreachable, match=r"127\.0\.0\.1:1 cannot be reached"):
            await unreachable.get(configmaps.RESOURCE, "a", "default")
        server.port = port
        assert (await client.list(configmaps.RESOURCE, "default")).items == []
