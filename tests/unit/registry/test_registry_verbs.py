"""Writes of the registry that meet other writes, hooks, dry runs, and damaged values."""

from __future__ import annotations

import contextlib
import dataclasses

import pytest
from msgspec import structs

from certplane import errors, testing
from certplane.meta import context, objects
from certplane.meta.resource import Subresource
from certplane.registry import encodedobjects, verbs
from certplane.registry.admission import Admission
from certplane.registry.verbs import Deletion, Target, UpdateMethod
from certplane.resources import configmaps
from certplane.store import memory, watchcache

RESOURCE = configmaps.RESOURCE
KEY = RESOURCE.key("default", "a")
TARGET = Target("default", "a")
OTHER, OTHER_KEY = Target("default", "other"), RESOURCE.key("default", "other")
USER = context.User("jane")
#: The number of attempts after which a write gives up, as its caller sees it.
ATTEMPTS = 16


class ContendedStore(memory.MemoryStore):
    """Before each of the next `rivals` updates and deletions, another writer changes the same key."""

    def __init__(self):
        super().__init__()
        self.rivals = 0
        self.attempts = 0

    async def update(self, key, value, expected, archived=()):
        await self._let_rival_write(key)
        return await super().update(key, value, expected, archived)

    async def delete(self, key, expected):
        await self._let_rival_write(key)
        return await super().delete(key, expected)

    async def _let_rival_write(self, key):
        self.attempts += 1
        if self.rivals:
            self.rivals -= 1
            stored = await self.get(key)
            changed = encodedobjects.decode_object(RESOURCE, stored.value)
            changed.data["rival"] = str(self.attempts)
            await super().update(key, encodedobjects.encode_object(RESOURCE, changed), stored.mod_revision)


@contextlib.asynccontextmanager
async def registry(hooks=None, resource=RESOURCE, store=None, find_corruption=lambda *_: ""):
    store = store or ContendedStore()
    cache = watchcache.WatchCache(store, [resource.prefix], find_corruption=find_corruption)
    await cache.start()
    try:
        yield verbs.Registry(resource, store, cache, hooks or Admission())
    finally:
        cache.close()
        await store.close()


def call(verb="update", **fields):
    clock = testing.FakeClock()
    info = context.RequestInfo("", verb, True, "", "v1", "default", "configmaps", name="a")
    return context.VerbContext(USER, info, clock.now(), **fields)


def config_map(name="a", data=None, **metadata):
    return configmaps.ConfigMap(data=data or {}, metadata=objects.ObjectMeta(name=name, **metadata))


def changed(**data):
    """Builds the stored object with other data, as a patch does."""

    def build(stored):
        new = encodedobjects.decode_object(RESOURCE, stored.value)
        new.data.update(data)
        return new

    return build


async def created(reg, obj=None):
    return (await reg.create(call("create"), "default", obj or config_map())).object


async def stored_object(reg):
    return encodedobjects.decode_object(RESOURCE, (await reg.store.get(KEY)).value)


# --- contention ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rivals", [0, 1, ATTEMPTS - 1])
async def test_an_update_is_repeated_on_what_another_writer_stored(rivals):
    """No change is lost: neither that of the patch, nor those of the other writer."""
    async with registry() as reg:
        await created(reg)
        reg.store.rivals = rivals
        outcome = await reg.update(call(), TARGET, changed(own="x"), UpdateMethod.PATCH)
        expected = {"own": "x"} | ({"rival": str(rivals)} if rivals else {})
        assert outcome.document.object.data == (await stored_object(reg)).data == expected
        assert reg.store.attempts == rivals + 1


async def test_an_update_gives_up_after_a_number_of_attempts():
    """With a conflict, and nothing of it stored."""
    async with registry() as reg:
        await created(reg)
        reg.store.rivals = ATTEMPTS
        with pytest.raises(errors.Conflict):
            await reg.update(call(), TARGET, changed(own="x"), UpdateMethod.PATCH)
        assert (await stored_object(reg)).data == {"rival": str(ATTEMPTS)}
        assert reg.store.attempts == ATTEMPTS


async def test_an_update_with_a_resource_version_is_not_repeated():
    """The client has seen that revision only: it gets the conflict."""
    async with registry() as reg:
        old = await created(reg)
        reg.store.rivals = 1

        def build(_):
            return config_map(data={"own": "x"}, resource_version=old.metadata.resource_version)

        with pytest.raises(errors.Conflict, match="the object has been modified"):
            await reg.update(call(), TARGET, build, UpdateMethod.REPLACE)
        assert (await stored_object(reg)).data == {"rival": "1"}


@pytest.mark.parametrize("rivals", [0, 1, ATTEMPTS - 1])
async def test_a_deletion_is_repeated(rivals):
    """Without preconditions, whatever another writer has stored is deleted."""
    async with registry() as reg:
        await created(reg)
        reg.store.rivals = rivals
        outcome = await reg.delete(call("delete"), TARGET, Deletion())
        assert outcome.deleted
        assert await reg.store.get(KEY) is None


async def test_a_deletion_gives_up_after_a_number_of_attempts():
    """With a conflict, and the object is still there."""
    async with registry() as reg:
        await created(reg)
        reg.store.rivals = ATTEMPTS
        with pytest.raises(errors.Conflict):
            await reg.delete(call("delete"), TARGET, Deletion())
        assert await reg.store.get(KEY) is not None


async def test_preconditions_hold_for_what_is_deleted():
    """They are checked again after another writer came first."""
    async with registry() as reg:
        meta = (await created(reg)).metadata
        reg.store.rivals = 1
        with pytest.raises(errors.Conflict, match="the ResourceVersion in the precondition"):
            await reg.delete(call("delete"), TARGET, Deletion(meta.uid, meta.resource_version))
        assert (await stored_object(reg)).data == {"rival": "1"}
        with pytest.raises(errors.Conflict, match="the UID in the precondition"):
            await reg.delete(call("delete"), TARGET, Deletion("another"))
        assert (await reg.delete(call("delete"), TARGET, Deletion(meta.uid))).deleted


async def test_an_update_of_an_object_that_is_deleted_meanwhile():
    """It is not created again."""

    class DeletingStore(memory.MemoryStore):
        async def update(self, key, value, expected, archived=()):
            await self.delete(key, expected)
            return await super().update(key, value, expected, archived)

    async with registry(store=DeletingStore()) as reg:
        await created(reg)
        with pytest.raises(errors.NotFound):
            await reg.update(call(), TARGET, changed(own="x"), UpdateMethod.PATCH)
        assert await reg.store.get(KEY) is None


# --- hooks --------------------------------------------------------------------------------------------------------


class Hooks:
    """Records which hooks ran, and what they saw of the data."""

    def __init__(self):
        self.seen = []
        self.admission = Admission(**{name: (self._hook(name),) for name in ("mutate", "check", "after")})

    def _hook(self, name):
        def hook(review):
            data = [None if obj is None else dict(obj.data) for obj in (review.old, review.new)]
            self.seen.append((name, review.operation, review.name, *data))

        return hook


async def test_hooks_see_the_stored_object_and_the_new_one():
    """Before each attempt to write; `after` hooks only see updates that were stored."""
    hooks = Hooks()
    async with registry(hooks.admission) as reg:
        await created(reg)
        assert hooks.seen == [("mutate", "create", "a", None, {}), ("check", "create", "a", None, {})]
        hooks.seen.clear()
        reg.store.rivals = 1
        await reg.update(call(), TARGET, changed(own="x"), UpdateMethod.PATCH)
        first, second = ({}, {"own": "x"}), ({"rival": "1"}, {"rival": "1", "own": "x"})
        assert hooks.seen == [
            ("mutate", "update", "a", *first),
            ("check", "update", "a", *first),
            ("mutate", "update", "a", *second),
            ("check", "update", "a", *second),
            ("after", "update", "a", *second),
        ]
        hooks.seen.clear()
        await reg.delete(call("delete"), TARGET, Deletion())
        assert hooks.seen == [(name, "delete", "a", second[1], None) for name in ("mutate", "check")]


async def test_after_hooks_do_not_see_what_is_not_stored():
    """Neither a dry run, nor an update that changes nothing."""
    hooks = Hooks()
    async with registry(hooks.admission) as reg:
        await created(reg)
        await reg.update(call(dry_run=True), TARGET, changed(own="x"), UpdateMethod.PATCH)
        await reg.update(call(), TARGET, changed(), UpdateMethod.PATCH)
        assert "after" not in [name for name, *_ in hooks.seen]


@pytest.mark.parametrize("stage", ["mutate", "check"])
@pytest.mark.parametrize("operation", ["create", "update", "delete"])
async def test_a_hook_refuses_a_write(stage, operation):
    """Then nothing is stored or deleted."""

    def refuse(review):
        if review.operation == operation:
            raise errors.BadRequest("refused")

    async with registry(Admission(**{stage: (refuse,)})) as reg:
        if operation != "create":
            await created(reg)
        before = await reg.store.get(KEY)
        writes = {
            "create": lambda: created(reg),
            "update": lambda: reg.update(call(), TARGET, changed(own="x"), UpdateMethod.PATCH),
            "delete": lambda: reg.delete(call("delete"), TARGET, Deletion()),
        }
        with pytest.raises(errors.BadRequest, match="refused"):
            await writes[operation]()
        assert await reg.store.get(KEY) == before


# --- dry runs -----------------------------------------------------------------------------------------------------


async def test_a_dry_run_answers_like_a_write_and_stores_nothing():
    """Also for an object that is only marked as being deleted, and for one that is deleted with its last finalizer."""
    async with registry() as reg:
        with_finalizer = config_map(finalizers=["example.com/wait"])
        assert (await reg.create(call("create", dry_run=True), "default", config_map())).object.metadata.uid
        assert await reg.store.get(KEY) is None
        await created(reg, with_finalizer)
        await created(reg, config_map("other"))
        before = await reg.store.get(KEY)
        with pytest.raises(errors.AlreadyExists):
            await reg.create(call("create", dry_run=True), "default", config_map())
        outcome = await reg.update(call(dry_run=True), TARGET, changed(own="x"), UpdateMethod.PATCH)
        assert outcome.document.object.data == {"own": "x"}
        assert (await reg.delete(call("delete", dry_run=True), OTHER, Deletion())).deleted
        assert await reg.store.get(OTHER_KEY) is not None
        outcome = await reg.delete(call("delete", dry_run=True), TARGET, Deletion())
        assert (outcome.deleted, outcome.document.object.metadata.deletion_timestamp is None) == (False, False)
        assert await reg.store.get(KEY) == before
        await reg.delete(call("delete"), TARGET, Deletion())
        marked = await reg.store.get(KEY)

        def without_finalizers(stored):
            new = changed()(stored)
            new.metadata.finalizers = []
            return new

        outcome = await reg.update(call(dry_run=True), TARGET, without_finalizers, UpdateMethod.PATCH)
        assert outcome.deleted
        assert await reg.store.get(KEY) == marked
        assert (await reg.update(call(), TARGET, without_finalizers, UpdateMethod.PATCH)).deleted
        assert await reg.store.get(KEY) is None


# --- deletion with finalizers -------------------------------------------------------------------------------------


async def test_a_repeated_deletion_changes_nothing():
    """The time of the first one stays; a policy that adds a finalizer is still carried out."""
    async with registry() as reg:
        await created(reg, config_map(finalizers=["example.com/wait"]))
        first = (await reg.delete(call("delete"), TARGET, Deletion())).document.object.metadata
        later = call("delete")
        later.now = later.now.replace(year=later.now.year + 1)
        again = (await reg.delete(later, TARGET, Deletion())).document.object.metadata
        assert again == first
        assert (first.deletion_grace_period_seconds, first.finalizers) == (0, ["example.com/wait"])
        orphaning = (await reg.delete(later, TARGET, Deletion(propagation="Orphan"))).document.object.metadata
        assert orphaning.finalizers == ["example.com/wait", "orphan"]
        assert orphaning.deletion_timestamp == first.deletion_timestamp


async def test_what_blocks_a_deletion_keeps_the_object():
    """It is only marked, and without a grace period; it goes with the update after which nothing blocks it."""
    resource = dataclasses.replace(RESOURCE, blocks_deletion=lambda obj: obj.data.get("wait") == "yes")
    async with registry(resource=resource) as reg:
        await created(reg, config_map(data={"wait": "yes"}))
        outcome = await reg.delete(call("delete"), TARGET, Deletion())
        meta = outcome.document.object.metadata
        assert (outcome.deleted, meta.deletion_grace_period_seconds) == (False, None)
        assert meta.deletion_timestamp is not None
        assert not (await reg.update(call(), TARGET, changed(x="y"), UpdateMethod.PATCH)).deleted
        assert (await reg.update(call(), TARGET, changed(wait="no"), UpdateMethod.PATCH)).deleted
        assert await reg.store.get(KEY) is None


# --- creation by an update ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "allow_create_on_update", "uid", "error"),
    [
        (UpdateMethod.APPLY, False, "", None),
        (
            UpdateMethod.APPLY,
            False,
            "1",
            "uid mismatch: the provided object specified uid 1, and no existing object was found",
        ),
        (UpdateMethod.REPLACE, True, "", None),
        (UpdateMethod.REPLACE, True, "1", "Precondition failed: UID in precondition: 1, UID in object meta: "),
        (UpdateMethod.REPLACE, False, "", "not found"),
        (UpdateMethod.PATCH, True, "", "not found"),
    ],
)
async def test_an_update_of_a_missing_object(method, allow_create_on_update, uid, error):
    """Creates it by server-side apply, and by PUT if the kind says so; never with the UID of another object."""
    resource = dataclasses.replace(RESOURCE, allow_create_on_update=allow_create_on_update)
    async with registry(resource=resource) as reg:

        async def update():
            return await reg.update(call(), TARGET, lambda _: config_map(uid=uid, resource_version="7"), method)

        if error is None:
            outcome = await update()
            assert outcome.created
            assert outcome.document.object.metadata.uid not in ("", uid)
            assert await reg.store.get(KEY) is not None
        else:
            with pytest.raises((errors.NotFound, errors.Conflict)) as caught:
                await update()
            assert error in caught.value.message
            assert await reg.store.get(KEY) is None


async def test_a_subresource_of_a_missing_object_is_not_found():
    """Server-side apply to it creates nothing."""
    async with registry() as reg:
        target = Target("default", "a", Subresource("status", owns=("data",)))
        with pytest.raises(errors.NotFound):
            await reg.update(call(), target, lambda _: config_map(), UpdateMethod.APPLY)
        assert await reg.store.get(KEY) is None


# --- damaged values -----------------------------------------------------------------------------------------------


async def test_a_damaged_value_is_neither_updated_nor_created_again():
    """It can be deleted by other means only; the error says why it cannot be read."""
    store = memory.MemoryStore()
    await store.create(KEY, b"garbage")
    damage = "value is not a ConfigMap of v1"
    async with registry(
        store=store, find_corruption=lambda prefix, key, value: damage if value == b"garbage" else ""
    ) as reg:
        for method in UpdateMethod:
            with pytest.raises(errors.InternalError) as caught:
                await reg.update(call(), TARGET, lambda _: config_map(), method)
            assert caught.value.message.endswith(f'unable to decode key "{KEY}": {damage}')
        with pytest.raises(errors.InternalError):
            await reg.delete(call("delete"), TARGET, Deletion())
        with pytest.raises(errors.AlreadyExists):
            await created(reg)
        assert (await store.get(KEY)).value == b"garbage"


async def test_a_closed_store_is_reported_as_unavailable():
    """A client may retry."""
    async with registry() as reg:
        await created(reg)
        await reg.store.close()
        for write in (
            lambda: reg.create(call("create"), "default", config_map("b")),
            lambda: reg.update(call(), TARGET, changed(own="x"), UpdateMethod.PATCH),
            lambda: reg.delete(call("delete"), TARGET, Deletion()),
        ):
            with pytest.raises(errors.ServiceUnavailable):
                await write()


async def test_the_system_sets_its_own_metadata():
    """Whatever a client sends as UID, times, generation or self link."""
    sent = {"uid": "mine", "self_link": "/x", "deletion_timestamp": "2020-01-01T00:00:00Z", "generation": 7}
    sent |= {"creation_timestamp": "2020-01-01T00:00:00Z", "deletion_grace_period_seconds": 5, "namespace": "default"}
    async with registry() as reg:
        meta = (await created(reg, config_map(**sent))).metadata
        assert meta.uid not in ("", "mine")
        assert meta.creation_timestamp.startswith(str(testing.FakeClock().now().year))
        assert (meta.self_link, meta.deletion_timestamp, meta.deletion_grace_period_seconds) == ("", None, None)

        def build(stored):
            new = changed(own="x")(stored)
            new.metadata = structs.replace(
                new.metadata, self_link="/x", generation=9, creation_timestamp="2020-01-01T00:00:00Z", namespace="x"
            )
            return new

        after = (await reg.update(call(), TARGET, build, UpdateMethod.PATCH)).document.object.metadata
        assert (after.self_link, after.generation, after.creation_timestamp, after.namespace) == (
            "",
            meta.generation,
            meta.creation_timestamp,
            "default",
        )


async def test_a_deletion_that_waits_for_finalizers_is_a_new_generation():
    """Once; an object without a generation gets none."""
    async with registry() as reg:
        await created(reg, config_map(finalizers=["example.com/wait"], generation=7))
        for _ in range(2):
            outcome = await reg.delete(call("delete"), TARGET, Deletion())
            assert outcome.document.object.metadata.generation == 8
    async with registry() as reg:
        await created(reg, config_map(finalizers=["example.com/wait"]))
        outcome = await reg.delete(call("delete"), TARGET, Deletion())
        assert not outcome.document.object.metadata.generation


async def test_an_update_cannot_undo_a_deletion():
    """A PUT without the deletionTimestamp keeps that of the stored object."""
    async with registry() as reg:
        await created(reg, config_map(finalizers=["example.com/wait"]))
        deleted_at = (await reg.delete(call("delete"), TARGET, Deletion())).document.object.metadata.deletion_timestamp
        outcome = await reg.update(
            call(),
            TARGET,
            lambda _: config_map(data={"own": "x"}, finalizers=["example.com/wait"]),
            UpdateMethod.REPLACE,
        )
        assert outcome.document.object.metadata.deletion_timestamp == deleted_at
