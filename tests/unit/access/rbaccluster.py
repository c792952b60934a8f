"""The four RBAC kinds in a memory store, and the authorizer that follows it: what tests of this folder share."""

from __future__ import annotations

import contextlib

from certplane.access import rbac as authorization
from certplane.meta import context
from certplane.registry import encodedobjects
from certplane.resources import rbac
from certplane.store import memory, watchcache

KINDS = {
    resource.plural: resource
    for resource in (rbac.CLUSTER_ROLES, rbac.CLUSTER_ROLE_BINDINGS, rbac.ROLES, rbac.ROLE_BINDINGS)
}
PLURALS = {resource.type: plural for plural, resource in KINDS.items()}


class Cluster:
    """The four RBAC kinds in a store, and an authorizer that follows it."""

    def __init__(self, store, cache):
        self._store = store
        self._cache = cache
        self.authorizer = authorization.Authorizer(
            lambda plural: cache.collection(KINDS[plural].prefix),
            lambda plural: lambda entry: encodedobjects.from_entry(KINDS[plural], entry).object,
        )

    async def write(self, obj):
        """Create or replace an object."""
        resource = KINDS[PLURALS[type(obj)]]
        key = resource.key(obj.metadata.namespace, obj.metadata.name)
        value = encodedobjects.encode_object(resource, obj)
        stored = await self._store.get(key)
        if stored is None:
            await self._store.create(key, value)
        else:
            await self._store.update(key, value, stored.mod_revision)
        await self._cache.fresh()

    async def delete(self, obj):
        resource = KINDS[PLURALS[type(obj)]]
        key = resource.key(obj.metadata.namespace, obj.metadata.name)
        await self._store.delete(key, (await self._store.get(key)).mod_revision)
        await self._cache.fresh()

    def decide(self, user, verb="get", namespace="", **attributes):
        """The decision about a verb on things, or on a path."""
        return self.authorizer.authorize(
            context.Attributes(user, verb, group="g", resource="things", namespace=namespace, **attributes)
        )


@contextlib.asynccontextmanager
async def running(*objects):
    store = memory.MemoryStore()
    cache = watchcache.WatchCache(store, [resource.prefix for resource in KINDS.values()])
    await cache.start()
    try:
        cluster = Cluster(store, cache)
        for obj in objects:
            await cluster.write(obj)
        yield cluster
    finally:
        cache.close()
        await store.close()


def named(obj, name, namespace=""):
    """An object with its kind and the metadata of a stored object."""
    resource = KINDS[PLURALS[type(obj)]]
    obj.kind, obj.api_version = resource.kind, resource.api_version
    obj.metadata.name, obj.metadata.namespace, obj.metadata.uid = name, namespace, f"{namespace}/{name}"
    return obj


def role(name, *rules, namespace=""):
    """A Role, or a ClusterRole without a namespace."""
    return named((rbac.Role if namespace else rbac.ClusterRole)(rules=list(rules)), name, namespace)


def binding(name, ref, *subjects, namespace=""):
    """A RoleBinding, or a ClusterRoleBinding without a namespace. `ref` is kind/name."""
    kind, _, role_name = ref.partition("/")
    type_ = rbac.RoleBinding if namespace else rbac.ClusterRoleBinding
    obj = type_(subjects=list(subjects), role_ref=rbac.RoleRef(rbac.GROUP, kind, role_name))
    return named(obj, name, namespace)


def subject(kind, name, namespace=""):
    return rbac.Subject(kind=kind, name=name, namespace=namespace)
