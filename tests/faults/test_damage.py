"""A damaged value in the store affects no other object."""

from __future__ import annotations

import asyncio
import re

import pytest

from certplane import errors
from certplane.client import api
from certplane.resources import DEFAULT, configmaps, events, namespaces, rbac, secrets, serviceaccounts
from certplane.resources import certificatesigningrequests as csrs
from certplane.store import memory, sqlite
from tests.faults import otherprocess
from tests.flow import plane as flow

DAMAGES = {
    "empty": lambda value: b"",
    "garbage": lambda value: b"\x00\xff garbage",
    "truncated": lambda value: value[: len(value) // 2],
    "one byte": lambda value: value.replace(b'"metadata":{', b'"metadata":[', 1),
    "another type": lambda value: re.sub(rb'"name":"[^"]*"', b'"name":5', value, count=1),
    "another object": lambda value: re.sub(rb'"name":"[^"]*"', b'"name":"other"', value, count=1),
    "another kind": lambda value: value.replace(b'"kind":"', b'"kind":"X', 1),
    "no uid": lambda value: re.sub(rb'"uid":"[^"]*",', b"", value, count=1),
    "an invalid time": lambda value: re.sub(rb'"creationTimestamp":"[^"]*"', b'"creationTimestamp":"x"', value),
    "too deep": lambda value: value[:-1] + b',"x":' + b"[" * 5000 + b"]" * 5000 + b"}",
}
OBJECTS = [
    (csrs.RESOURCE, "", "a"),
    (rbac.CLUSTER_ROLES, "", "admin"),
    (rbac.CLUSTER_ROLE_BINDINGS, "", "cluster-admin"),
    (namespaces.RESOURCE, "", "default"),
    (configmaps.RESOURCE, "default", "mine"),
    (secrets.RESOURCE, "default", "mine"),
    (serviceaccounts.RESOURCE, "default", "default"),
    (events.RESOURCE, "default", "an-event"),
]


def _id(value):
    return value.plural if hasattr(value, "plural") else value or "-"


async def _filled(store):
    """Let a plane create objects of many kinds in a store."""
    async with flow.running(store) as plane:
        client = plane.client(flow.ADMIN)
        for name in ("a", "b"):
            await client.create(csrs.RESOURCE, flow.new_csr(name))
        for kind in (configmaps.RESOURCE, secrets.RESOURCE, events.RESOURCE):
            for name in ("mine", "an-event", "undamaged"):
                obj = kind.type()
                obj.metadata.name, obj.metadata.namespace = name, "default"
                if kind is events.RESOURCE:
                    obj.involved_object.namespace = "default"
                await client.create(kind, obj, "default")
        await plane.clock.advance(5)


async def _check(plane, kind, namespace, name):
    """The object answers with an error that names its key; everything else works."""
    client = plane.client(flow.ADMIN)
    key = kind.key(namespace, name)
    expected = re.escape(f'unable to decode key "{key}": ')
    with pytest.raises(errors.InternalError, match=expected) as refused:
        await client.get(kind, name, namespace)
    assert refused.value.code == 500
    with pytest.raises(errors.InternalError, match=expected):
        await client.delete(kind, name, namespace)
    new = kind.type()
    new.metadata.name, new.metadata.namespace = name, namespace
    with pytest.raises(errors.APIError):
        await client.update(kind, new)
    with pytest.raises(errors.APIError):
        await client.create(kind, new, namespace)
    assert name not in [
        obj.metadata.name for obj in (await client.list(kind)).items if obj.metadata.namespace == namespace
    ]
    for other in DEFAULT:
        await client.list(other)
    await client.create(csrs.RESOURCE, flow.new_csr("later"))
    await flow.decide(client, "later")
    await flow.issued(client, "later")
    answer = await client.transport.send(api.Request("GET", "/readyz", [("verbose", "")]))
    text = answer.body.decode()
    assert answer.status == 200
    problem = "1 stored objects cannot be decoded and are not served; the log has their keys"
    assert f"[!]stored-values failed, ignored: {problem}" in text
    assert plane.supervisor.problem() is None


@pytest.fixture(scope="module")
def contents():
    """The values of a store that a plane has used, by key."""

    async def fill():
        store = memory.MemoryStore()
        await _filled(store)
        return {item.key: item.value for item in (await store.list("/registry/")).items}

    return asyncio.run(fill())


#: Every kind of damage to one object, and one kind of damage to every object.
CASES = [(*OBJECTS[0], damage) for damage in DAMAGES] + [(*obj, "garbage") for obj in OBJECTS[1:]]


@pytest.mark.parametrize(("kind", "namespace", "name", "damage"), CASES, ids=_id)
async def test_a_damaged_value_affects_no_other_object(kind, namespace, name, damage, contents, caplog):
    """Startup, lists, watches, controllers and RBAC work without the object; the log has its key."""
    store = memory.MemoryStore()
    key = kind.key(namespace, name)
    for stored_key, value in contents.items():
        await store.create(stored_key, DAMAGES[damage](value) if stored_key == key else value)
    async with flow.running(store) as plane:
        await _check(plane, kind, namespace, name)
        await plane.clock.advance(61)
        assert plane.supervisor.problem() is None
    assert [record.key for record in caplog.records if "cannot read stored object" in record.getMessage()] == [key]


async def test_a_repaired_value_is_read_again():
    """After a repair while certplane is stopped, the object is back at the next start."""
    store = memory.MemoryStore()
    await _filled(store)
    key = csrs.RESOURCE.key("", "a")
    undamaged = await store.get(key)
    damaged = await store.update(key, b"garbage", undamaged.mod_revision)
    await store.update(key, undamaged.value, damaged.mod_revision)
    async with flow.running(store) as plane:
        assert (await plane.client(flow.ADMIN).get(csrs.RESOURCE, "a")).metadata.name == "a"
        assert plane.cache.corrupt == 0


DAMAGED_ROWS = [
    "UPDATE revisions SET value = 'text' WHERE key = '{key}'",
    "UPDATE revisions SET value = 5 WHERE key = '{key}'",
    "UPDATE revisions SET value = CAST(X'ff00ff' AS TEXT) WHERE key = '{key}'",
    "UPDATE revisions SET value = value || 'x', version = 'x', create_revision = 'y' WHERE key = '{key}'",
]


@pytest.mark.parametrize("statement", DAMAGED_ROWS)
async def test_a_damaged_row_affects_no_other_object(statement, tmp_path):
    """The columns of the row have values of other types."""
    path = tmp_path / "store.sqlite"
    store = sqlite.open_store(path)
    await _filled(store)
    await store.close()
    otherprocess.run(path, statement.format(key=csrs.RESOURCE.key("", "a")))
    store = sqlite.open_store(path)
    async with flow.running(store) as plane:
        await _check(plane, csrs.RESOURCE, "", "a")
    await store.close()


async def test_a_damaged_key_affects_no_other_object(tmp_path):
    """A key that is not UTF-8 is skipped."""
    path = tmp_path / "store.sqlite"
    store = sqlite.open_store(path)
    await _filled(store)
    await store.close()
    key = csrs.RESOURCE.key("", "a")
    otherprocess.run(path, f"UPDATE revisions SET key = CAST(X'2fff' AS TEXT) WHERE key = '{key}'")
    store = sqlite.open_store(path)
    async with flow.running(store) as plane:
        client = plane.client(flow.ADMIN)
        assert [csr.metadata.name for csr in (await client.list(csrs.RESOURCE)).items] == ["b"]
        await client.create(csrs.RESOURCE, flow.new_csr("later"))
    await store.close()
