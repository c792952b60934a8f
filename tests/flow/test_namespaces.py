"""Namespaces come and go, and what lived in them goes with them."""

from __future__ import annotations

import pytest

from certplane import errors
from certplane.resources import configmaps, namespaces, rbac
from tests.flow import plane as flow


def _named(of, name):
    of.metadata.name = name
    return of


async def _gone(client, name):
    try:
        await client.get(namespaces.RESOURCE, name)
    except errors.NotFound:
        return True
    return False


async def test_a_deleted_namespace_takes_its_contents_along():
    """Who makes a namespace of the same name later inherits no role binding."""
    async with flow.running() as plane:
        client = plane.client(flow.ADMIN)
        await client.create(namespaces.RESOURCE, _named(namespaces.Namespace(), "team"))
        await client.create(configmaps.RESOURCE, _named(configmaps.ConfigMap(data={"a": "b"}), "settings"), "team")
        binding = rbac.RoleBinding(
            subjects=[rbac.Subject(kind="User", api_group=rbac.GROUP, name="jane")],
            role_ref=rbac.RoleRef(api_group=rbac.GROUP, kind="ClusterRole", name="admin"),
        )
        await client.create(rbac.ROLE_BINDINGS, _named(binding, "jane"), "team")
        await client.delete(namespaces.RESOURCE, "team")
        await flow.eventually(lambda: _gone(client, "team"))
        assert (await client.list(rbac.ROLE_BINDINGS, "team")).items == []
        assert (await client.list(configmaps.RESOURCE, "team")).items == []


async def test_a_namespace_waits_for_what_does_not_go():
    """An object with a finalizer keeps its namespace, in which nothing new is made, until it goes."""
    async with flow.running() as plane:
        client = plane.client(flow.ADMIN)
        await client.create(namespaces.RESOURCE, _named(namespaces.Namespace(), "team"))
        held = _named(configmaps.ConfigMap(), "held")
        held.metadata.finalizers = ["example.com/held"]
        await client.create(configmaps.RESOURCE, held, "team")
        await client.delete(namespaces.RESOURCE, "team")
        await plane.clock.advance(10)
        assert (await client.get(namespaces.RESOURCE, "team")).status.phase == "Terminating"
        with pytest.raises(errors.Forbidden, match="being terminated"):
            await client.create(configmaps.RESOURCE, _named(configmaps.ConfigMap(), "late"), "team")
        marked = await client.get(configmaps.RESOURCE, "held", "team")
        marked.metadata.finalizers = []
        await client.update(configmaps.RESOURCE, marked)
        for _ in range(10):
            await plane.clock.advance(10)
        assert await _gone(client, "team")
