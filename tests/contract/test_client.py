"""The client is the same from inside the process and over HTTPS."""

from __future__ import annotations

import asyncio

import pytest

from certplane import errors, testing
from certplane.client import api
from certplane.meta import context
from certplane.resources import certificatesigningrequests as csrs
from certplane.resources import configmaps
from certplane.store import memory
from tests.contract import connections
from tests.flow import plane as flow


@pytest.fixture(params=connections.TRANSPORTS)
async def server(request, tmp_path):
    store = memory.MemoryStore()
    # What was forgotten before the plane was there, it cannot tell.
    before = await store.create("/before", b"it began")
    await store.compact((await store.update("/before", b"and went on", before.mod_revision)).mod_revision)
    how = {"store": store, "controllers": frozenset()}
    async with connections.serve_plane(request.param, tmp_path, testing.FakeClock(), **how) as made:
        yield made
    await store.close()


def config_map(name, **data):
    made = configmaps.ConfigMap(data=data)
    made.metadata.name = name
    return made


async def test_what_is_created_can_be_read_changed_and_deleted(server):
    """With every verb, text beyond ASCII included."""
    client = server.client(flow.ADMIN)
    made = await client.create(configmaps.RESOURCE, config_map("a", key="Grüße, 世界"), "default")
    assert (await client.get(configmaps.RESOURCE, "a", "default")).data == {"key": "Grüße, 世界"}
    made.data = {"key": "two"}
    changed = await client.update(configmaps.RESOURCE, made)
    assert changed.data == {"key": "two"}
    said = {"metadata": {"name": "a", "namespace": "default"}, "data": {"other": "three"}}
    applied = await client.apply(configmaps.RESOURCE, said, manager="server")
    assert applied.data == {"key": "two", "other": "three"}
    await client.delete(configmaps.RESOURCE, "a", "default", uid=made.metadata.uid)
    with pytest.raises(errors.NotFound):
        await client.get(configmaps.RESOURCE, "a", "default")


async def test_refusals_are_raised_as_what_they_are(server):
    """The Status of the server, with its class and its text."""
    client = server.client(flow.ADMIN)
    made = await client.create(configmaps.RESOURCE, config_map("a"), "default")
    with pytest.raises(errors.AlreadyExists, match='configmaps "a" already exists'):
        await client.create(configmaps.RESOURCE, config_map("a"), "default")
    made.data = {"key": "one"}
    await client.update(configmaps.RESOURCE, made)
    with pytest.raises(errors.Conflict, match="the object has been modified"):
        await client.update(configmaps.RESOURCE, made)
    with pytest.raises(errors.Invalid, match="metadata"):
        await client.create(configmaps.RESOURCE, config_map("A B"), "default")
    stranger = server.client(context.User("stranger", groups=("system:authenticated",)))
    with pytest.raises(errors.Forbidden, match='User "stranger" cannot list resource "configmaps"'):
        await stranger.list(configmaps.RESOURCE)
    with pytest.raises(errors.NotFound):
        await client.read("/apis/no.such.group/v1")


async def test_a_long_list_comes_in_pages_and_whole(server):
    """All of it, at one revision."""
    client = server.client(flow.ADMIN)
    for number in range(25):
        await client.create(configmaps.RESOURCE, config_map(f"m{number:02}"), "default")
    found = await client.list(configmaps.RESOURCE, "default", page=10)
    assert [each.metadata.name for each in found.items if each.metadata.name.startswith("m")] == [
        f"m{number:02}" for number in range(25)
    ]
    assert int(found.resource_version) > 0


async def test_a_watch_shows_every_change_in_order(server):
    """From the revision of a list on, until it is left."""
    client = server.client(flow.ADMIN)
    start = (await client.list(configmaps.RESOURCE, "default")).resource_version
    seen = []
    async with client.watch(configmaps.RESOURCE, start, "default") as events:
        made = await client.create(configmaps.RESOURCE, config_map("a"), "default")
        made.data = {"key": "one"}
        await client.update(configmaps.RESOURCE, made)
        await client.delete(configmaps.RESOURCE, "a", "default")
        async for event in events:
            seen.append((event.type, event.object.data))
            if event.type == "DELETED":
                break
    assert seen == [("ADDED", {}), ("MODIFIED", {"key": "one"}), ("DELETED", {"key": "one"})]


async def test_a_watch_from_too_long_ago_is_refused(server):
    """So that whoever watches lists again."""
    client = server.client(flow.ADMIN)

    async def watch():
        async with client.watch(configmaps.RESOURCE, "1", "default") as events:
            return [each async for each in events]

    with pytest.raises(errors.Expired):
        await watch()


async def test_several_watches_and_requests_are_under_way_at_once(server):
    """None waits for another."""
    client = server.client(flow.ADMIN)
    start = (await client.list(csrs.RESOURCE)).resource_version

    async def first_event():
        async with client.watch(csrs.RESOURCE, start) as events:
            return (await anext(events)).object.metadata.name

    watching = [asyncio.ensure_future(first_event()) for _ in range(30)]
    await asyncio.gather(*(client.list(configmaps.RESOURCE) for _ in range(30)))
    await client.create(csrs.RESOURCE, flow.new_csr("a"))
    assert await asyncio.gather(*watching) == ["a"] * 30


async def test_a_name_is_never_part_of_the_path(server):
    """Whatever is in it."""
    client = server.client(flow.ADMIN)
    for name in ("a b", "ü", "a?b", "a#b", "%2e"):
        with pytest.raises((errors.NotFound, errors.BadRequest)):
            await client.get(configmaps.RESOURCE, name, "default")


async def test_unreachable_is_no_answer(tmp_path):
    """Where nobody listens there is no Status."""
    clock = testing.FakeClock()
    async with connections.serve_plane("https", tmp_path, clock, controllers=frozenset()) as server:
        client = server.client(flow.ADMIN)
        port, server.port = server.port, 1
        nobody = server.client(flow.ADMIN)
        with pytest.raises(api.Unreachable, match=r"127\.0\.0\.1:1 cannot be reached"):
            await nobody.get(configmaps.RESOURCE, "a", "default")
        server.port = port
        assert (await client.list(configmaps.RESOURCE, "default")).items == []
