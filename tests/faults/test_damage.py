"""One value in the store that nobody can read: it costs that object alone."""

from __future__ import annotations

import asyncio
import re

import pytest

from certplane import errors
from certplane.resources import DEFAULT, configmaps, events, namespaces, rbac, secrets, serviceaccounts
from certplane.resources import certificatesigningrequests as csrs
from certplane.store import memory, sqlite
from tests.faults import outsider
from tests.flow import plane as flow

DAMAGES = {
    "nothing": lambda value: b"",
    "garbage": lambda value: b"\x00\xff garbage",
    "cut": lambda value: value[: len(value) // 2],
    "one byte": lambda value: value.replace(b'"metadata":{', b'"metadata":[', 1),
    "another type": lambda value: re.sub(rb'"name":"[^"]*"', b'"name":5', value, count=1),
    "another object": lambda value: re.sub(rb'"name":"[^"]*"', b'"name":"other"', value, count=1),
    "another kind": lambda value: value.replace(b'"kind":"', b'"kind":"X', 1),
    "no uid": lambda value: re.sub(rb'"uid":"[^"]*",', b"", value, count=1),
    "a time that is none": lambda value: re.sub(rb'"creationTimestamp":"[^"]*"', b'"creationTimestamp":"x"', value),
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


def _ids(value):
    return value.plural if hasattr(value, "plural") else value or "-"


async def _filled(store):
    """A plane has worked on the store: there are objects of many kinds."""
    async with flow.running(store) as plane:
        client = plane.client(flow.ADMIN)
        for name in ("a", "b"):
            await client.create(csrs.RESOURCE, flow.new_csr(name))
        for kind in (configmaps.RESOURCE, secrets.RESOURCE, events.RESOURCE):
            for name in ("mine", "an-event", "sound"):
                made = kind.type()
                made.metadata.name, made.metadata.namespace = name, "default"
                if kind is events.RESOURCE:
                    made.involved_object.namespace = "default"
                await client.create(kind, made, "default")
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
        each.metadata.name for each in (await client.list(kind)).items if each.metadata.namespace == namespace
    ]
    for other in DEFAULT:
        await client.list(other)
    await client.create(csrs.RESOURCE, flow.new_csr("later"))
    await flow.decide(client, "later")
    await flow.issued(client, "later")
    answer = await client._transport.request("GET", "/readyz", query=[("verbose", "")])
    text = answer.body.decode()
    assert answer.status == 200
    assert "[!]stored-values not working, tolerated: 1 cannot be read, and are left out: the log names them" in text
    assert plane.supervisor.problem() is None


@pytest.fixture(scope="module")
def contents():
    """What a store has after a plane has worked on it: values by key."""

    async def fill():
        store = memory.MemoryStore()
        await _filled(store)
        return {each.key: each.value for each in (await store.list("/registry/")).items}

    return asyncio.run(fill())


#: Every kind of damage to one object, and one kind of damage to every object.
CASES = [(*OBJECTS[0], each) for each in DAMAGES] + [(*each, "garbage") for each in OBJECTS[1:]]


@pytest.mark.parametrize(("kind", "namespace", "name", "damage"), CASES, ids=_ids)
async def test_a_damaged_value_costs_its_object_alone(kind, namespace, name, damage, contents, caplog):
    """The start, lists, watches, controllers and RBAC go on without it; the log names it."""
    store = memory.MemoryStore()
    key = kind.key(namespace, name)
    for each, value in contents.items():
        await store.create(each, DAMAGES[damage](value) if each == key else value)
    async with flow.running(store) as plane:
        await _check(plane, kind, namespace, name)
        await plane.clock.advance(61)
        assert plane.supervisor.problem() is None
    assert [each.key for each in caplog.records if "cannot be read and is left out" in each.getMessage()] == [key]


async def test_a_damaged_value_is_gone_when_it_is_overwritten():
    """Whoever repairs the store, with certplane stopped, has the object back at the next start."""
    store = memory.MemoryStore()
    await _filled(store)
    key = csrs.RESOURCE.key("", "a")
    sound = await store.get(key)
    damaged = await store.update(key, b"garbage", sound.mod_revision)
    await store.update(key, sound.value, damaged.mod_revision)
    async with flow.running(store) as plane:
        assert (await plane.client(flow.ADMIN).get(csrs.RESOURCE, "a")).metadata.name == "a"
        assert plane.cache.damaged == 0


DAMAGED_ROWS = [
    "UPDATE revisions SET value = 'text' WHERE key = '{key}'",
    "UPDATE revisions SET value = 5 WHERE key = '{key}'",
    "UPDATE revisions SET value = CAST(X'ff00ff' AS TEXT) WHERE key = '{key}'",
    "UPDATE revisions SET value = value || 'x', version = 'x', create_revision = 'y' WHERE key = '{key}'",
]


@pytest.mark.parametrize("statement", DAMAGED_ROWS)
async def test_a_damaged_row_costs_its_object_alone(statement, tmp_path):
    """Whatever type somebody has put there."""
    path = tmp_path / "store.sqlite"
    store = sqlite.open_store(path)
    await _filled(store)
    await store.close()
    outsider.run(path, statement.format(key=csrs.RESOURCE.key("", "a")))
    store = sqlite.open_store(path)
    async with flow.running(store) as plane:
        await _check(plane, csrs.RESOURCE, "", "a")
    await store.close()


async def test_a_damaged_key_costs_its_object_alone(tmp_path):
    """A key that is no text is not read; everything else is."""
    path = tmp_path / "store.sqlite"
    store = sqlite.open_store(path)
    await _filled(store)
    await store.close()
    key = csrs.RESOURCE.key("", "a")
    outsider.run(path, f"UPDATE revisions SET key = CAST(X'2fff' AS TEXT) WHERE key = '{key}'")
    store = sqlite.open_store(path)
    async with flow.running(store) as plane:
        client = plane.client(flow.ADMIN)
        assert [each.metadata.name for each in (await client.list(csrs.RESOURCE)).items] == ["b"]
        await client.create(csrs.RESOURCE, flow.new_csr("later"))
    await store.close()
