"""Creation and deletion of namespaces."""

from __future__ import annotations

import asyncio
import threading

import pytest

from certplane import errors, offload, testing
from certplane.access import tokens
from certplane.config.servesettings import DEFAULTS
from certplane.controllers.cluster import namespacedeletion
from certplane.meta import context
from certplane.resources import configmaps, namespaces, rbac, serviceaccounts
from certplane.x509 import keys
from tests.flow import plane as flow
from tests.flow.tokens import request_token


def _named(obj, name):
    obj.metadata.name = name
    return obj


async def _is_gone(client, name):
    try:
        await client.get(namespaces.RESOURCE, name)
    except errors.NotFound:
        return True
    return False


async def test_deleting_a_namespace_deletes_its_contents():
    """A new namespace of the same name inherits no role binding."""
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
        await flow.eventually(lambda: _is_gone(client, "team"))
        assert (await client.list(rbac.ROLE_BINDINGS, "team")).items == []
        assert (await client.list(configmaps.RESOURCE, "team")).items == []


async def test_creation_fails_if_the_namespace_is_deleted_meanwhile():
    """A large object is validated in a thread; its namespace may be deleted in the meantime."""
    async with flow.running() as plane:
        client = plane.client(flow.ADMIN)
        await client.create(namespaces.RESOURCE, _named(namespaces.Namespace(), "team"))
        info = context.RequestInfo("create", "", is_resource=True, version="v1", resource="configmaps")
        call = context.VerbContext(flow.ADMIN, info, plane.clock.now())
        call.size = 10 * offload.INLINE_BYTES
        config_map = _named(configmaps.ConfigMap(), "late")
        may_continue = threading.Event()
        blocked = asyncio.ensure_future(offload.run(call.size, may_continue.wait, 60))
        creating = asyncio.ensure_future(
            plane.registries["v1/configmaps"].create(call, "team", config_map, applied=True)
        )
        await testing.settle(10)
        try:
            await client.delete(namespaces.RESOURCE, "team")
            await flow.eventually(lambda: _is_gone(client, "team"))
        finally:
            may_continue.set()
        assert await blocked
        with pytest.raises(errors.NotFound, match='namespaces "team" not found'):
            await creating


async def test_a_finalizer_of_an_object_keeps_its_namespace():
    """Nothing can be created in the terminating namespace."""
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
        assert await _is_gone(client, "team")


async def test_conditions_of_a_terminating_namespace():
    """They name the remaining kinds and finalizers."""
    async with flow.running() as plane:
        client = plane.client(flow.ADMIN)
        namespace = _named(namespaces.Namespace(), "team")
        namespace.spec.finalizers = ["example.com/mine"]
        await client.create(namespaces.RESOURCE, namespace)
        held = _named(configmaps.ConfigMap(), "held")
        held.metadata.finalizers = ["example.com/held"]
        await client.create(configmaps.RESOURCE, held, "team")
        await client.delete(namespaces.RESOURCE, "team")
        await flow.eventually(lambda: _has_condition(client, "NamespaceContentRemaining", "True"))
        assert await _messages(client) == {
            "NamespaceDeletionDiscoveryFailure": "All resources successfully discovered",
            "NamespaceDeletionGroupVersionParsingFailure": "All legacy kube types successfully parsed",
            "NamespaceDeletionContentFailure": "All content successfully deleted, may be waiting on finalization",
            "NamespaceContentRemaining": "Some resources are remaining: configmaps. has 1 resource instances",
            "NamespaceFinalizersRemaining": (
                "Some content in the namespace has finalizers remaining: example.com/held in 1 resource instances"
            ),
        }
        marked = await client.get(configmaps.RESOURCE, "held", "team")
        marked.metadata.finalizers = []
        await client.update(configmaps.RESOURCE, marked)
        await plane.clock.advance(namespacedeletion.RECHECK_SECONDS)
        await flow.eventually(lambda: _has_condition(client, "NamespaceContentRemaining", "False"))
        await flow.eventually(lambda: _has_finalizers(client, ["example.com/mine"]))
        assert (await _messages(client))["NamespaceFinalizersRemaining"] == "All content-preserving finalizers finished"
        last = await client.get(namespaces.RESOURCE, "team")
        last.spec.finalizers = []
        await client.update(namespaces.RESOURCE, last, "finalize")
        assert await _is_gone(client, "team")


async def _has_condition(client, type_, status):
    conditions = (await client.get(namespaces.RESOURCE, "team")).status.conditions
    return any((condition.type, condition.status) == (type_, status) for condition in conditions)


async def _messages(client):
    return {
        condition.type: condition.message
        for condition in (await client.get(namespaces.RESOURCE, "team")).status.conditions
    }


async def _has_finalizers(client, finalizers):
    return (await client.get(namespaces.RESOURCE, "team")).spec.finalizers == finalizers


async def test_nothing_is_created_in_a_missing_or_terminating_namespace():
    """This applies to objects and to tokens."""
    issuer = tokens.Issuer(DEFAULTS.service_accounts, keys.generate("ECDSA-P256"))
    async with flow.running(issuer=issuer) as plane:
        client = plane.client(flow.ADMIN)
        token_request = serviceaccounts.TokenRequest()
        with pytest.raises(errors.NotFound, match='namespaces "team" not found'):
            await request_token(client, token_request, "default", "team")
        held = _named(namespaces.Namespace(), "team")
        held.metadata.finalizers = ["example.com/held"]
        await client.create(namespaces.RESOURCE, held)
        await client.delete(namespaces.RESOURCE, "team")
        with pytest.raises(errors.Forbidden, match='serviceaccounts "default" is forbidden: unable to create new'):
            await request_token(client, token_request, "default", "team")
        with pytest.raises(errors.Forbidden, match='configmaps "Unknown" is forbidden: unable to create new'):
            await client.create(configmaps.RESOURCE, configmaps.ConfigMap(), "team")
        terminating = await client.get(namespaces.RESOURCE, "team")
        terminating.metadata.finalizers = []
        await client.update(namespaces.RESOURCE, terminating)
