"""What create, update and delete mean, once, for every kind. Reading is in `reads`.

The order of one write is fixed, and clients can see it in which error they get (certificates-api.md 4.1, 4.2):

    create   mutate hooks -> system metadata, generated name -> prepare -> validate -> check hooks -> store
    update   lookup -> make the new object -> mutate hooks -> resourceVersion -> restore what is not owned -> prepare
             -> validate -> check hooks -> store, unless nothing changed

Identity comes from the call, never from a body: a kind's `prepare_create` takes it. A write that lost a race is made
again from what is stored now, so hooks may run more than once. Source: `k8s.io/apiserver/pkg/registry/rest`,
`.../generic/registry/store.go`.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import operator
import secrets
from collections.abc import Callable, Sequence
from typing import Any, Final

from msgspec import structs

from certplane import clock, errors, gotext, offload
from certplane.meta import context, objects, resource, shape, validation
from certplane.registry import admission, document, ownership
from certplane.store import contract, watchcache

_GENERATED_ALPHABET: Final = "bcdfghjklmnpqrstvwxz2456789"
_GENERATED_LENGTH: Final = 5
_GENERATED_BASE: Final = 58
_GENERATED_TRIES: Final = 8
_RACES: Final = 16

#: Makes the new object from the stored document (None: there is none, and the write would create it).
Make = Callable[[document.Document | None], Any]


class Style(enum.Enum):
    """How an update says what it wants: the whole object (PUT), a change of it (PATCH), or what it cares for
    (apply).
    """

    REPLACE = "replace"
    PATCH = "patch"
    APPLY = "apply"


@dataclasses.dataclass(frozen=True, slots=True)
class Target:
    """Which object a write is about, and through which door."""

    namespace: str
    name: str
    door: resource.Subresource | None = None

    @property
    def subresource(self) -> str:
        return self.door.name if self.door is not None else ""


@dataclasses.dataclass(frozen=True, slots=True)
class Deletion:
    """How an object is to be deleted: on which conditions, and what becomes of its dependents."""

    uid: str | None = None
    resource_version: str | None = None
    propagation: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """What a write left: the document, and whether it was created by this write or is gone through it."""

    document: document.Document
    created: bool = False
    deleted: bool = False


class Registry:
    """The objects of one kind, in one store."""

    def __init__(
        self,
        of: resource.Resource,
        store: contract.Store,
        cache: watchcache.WatchCache,
        hooks: admission.Admission,
    ) -> None:
        self.resource = of
        self.store = store
        self.cache = cache
        self.collection = cache.collection(of.prefix)
        self._hooks = hooks
        self._shape = shape.of(of.type)
        self._restore = {
            "": _restorer(of.type, _path_tree(of.owns), at_top=True),
            **{each.name: _restorer(of.type, _path_tree(each.owns), at_top=True) for each in of.subresources},
        }

    # --- create ---------------------------------------------------------------------------------------------------

    async def create(self, call: context.Call, namespace: str, new: Any, *, applied: bool = False) -> document.Document:
        """Store a new object and return it. `new` is the caller's to give away: it is changed.

        `applied`: it comes from server-side apply, which has recorded the owners of its fields. Raises AlreadyExists,
        Invalid, Forbidden, and whatever a hook refuses with.
        """
        of = self.resource
        _fill_type(of, new)
        clear_system_metadata(new.metadata)
        new.metadata.namespace = namespace if of.namespaced else ""
        of.default(new)
        call.warnings.extend(validation.drop_duplicate_owners(new.metadata))
        sent_version = new.metadata.resource_version
        if not applied:
            await offload.run(call.size, self._record_fields, None, new, call, None)
        self._run(self._hooks.mutate, "create", Target(namespace, _name_or_prefix(new)), new, None, call)
        new.metadata.uid = objects.new_uid()
        new.metadata.creation_timestamp = clock.rfc3339(call.now)
        generated = not new.metadata.name and bool(new.metadata.generate_name)
        for tries_left in range(_GENERATED_TRIES if generated else 1, 0, -1):
            if generated:
                new.metadata.name = generate_name(new.metadata.generate_name)
            try:
                return await self._create_named(call, namespace, new, sent_version)
            except errors.AlreadyExists:
                if not generated:
                    raise
                if tries_left == 1:
                    raise errors.AlreadyExists(*of.identity, new.metadata.name, generated=True) from None
        raise AssertionError("unreachable")  # the loop returns or raises

    async def _create_named(self, call: context.Call, namespace: str, new: Any, sent_version: str) -> document.Document:
        of = self.resource
        new.metadata.resource_version = ""
        of.prepare_create(new, call)
        await offload.run(call.size, self._validate_create, call, new)
        of.canonicalise(new)
        self._run(self._hooks.check, "create", Target(namespace, new.metadata.name), new, None, call)
        if _is_version(sent_version):
            raise errors.UnreasonedError("resourceVersion should not be set on objects to be created")
        key = of.key(namespace, new.metadata.name)
        if call.dry_run:
            stored = self.collection.get(key)
            if stored is not None:
                raise self._exists(stored)
            return document.of_object(of, new)
        try:
            written = await self.store.create(key, document.freeze(of, new))
        except contract.KeyExists as error:
            raise self._exists(error.current) from error
        except contract.StoreClosed as error:
            raise errors.ServiceUnavailable(str(error)) from error
        return self._written(written)

    def _validate_create(self, call: context.Call, new: Any) -> None:
        of = self.resource
        problems = [
            *validation.validate_meta(new.metadata, of.name_problems, namespaced=of.namespaced),
            *of.validate(new),
        ]
        # The generic rules for names speak only when the kind itself had nothing to object to.
        problems = problems or validation.validate_path_segments(new.metadata)
        if problems:
            raise errors.Invalid(of.kind, of.stored.group, new.metadata.name, problems)
        call.warnings.extend(of.warnings(new))

    # --- update ---------------------------------------------------------------------------------------------------

    async def update(self, call: context.Call, target: Target, make: Make, style: Style) -> Outcome:
        """Change an object, as often as it takes to win the race for it.

        `make` gets the stored document and returns a new object of its own each time.
        Raises NotFound, Conflict, Invalid, Forbidden, and whatever `make` or a hook refuses with.
        """
        of = self.resource
        for _ in range(_RACES):
            await self.cache.fresh()
            entry = self.collection.get(of.key(target.namespace, target.name))
            if entry is None:
                self._refuse_damaged(target)
                return await self._update_missing(call, target, make, style)
            stored = document.of_entry(of, entry)
            # A small patch of a large object takes as long as a large one.
            size = max(call.size, len(stored.value))
            new = await offload.run(size, make, stored)
            await self._admit_update(call, target, stored, new, style)
            try:
                outcome = await self._store_update(call, stored, entry, new)
            except contract.RevisionMismatch:
                continue
            except contract.StoreClosed as error:
                raise errors.ServiceUnavailable(str(error)) from error
            if outcome.document is not stored and not call.dry_run:
                self._run(self._hooks.after, "update", target, new, stored.object, call)
            return outcome
        raise errors.Conflict.of(*of.identity, target.name)

    async def _update_missing(self, call: context.Call, target: Target, make: Make, style: Style) -> Outcome:
        of = self.resource
        creates = style is Style.APPLY or (style is Style.REPLACE and of.creates_on_update)
        if not creates or target.door is not None:
            raise errors.NotFound(*of.identity, target.name)
        new = await offload.run(call.size, make, None)
        if new.metadata.uid:
            if style is Style.REPLACE:
                raise self._other_uid(target, new, "")
            why = (
                f"uid mismatch: the provided object specified uid {new.metadata.uid}, and no existing object was found"
            )
            raise errors.Conflict.of(*of.identity, target.name, why)
        new.metadata.resource_version = ""
        applied = style is Style.APPLY
        return Outcome(await self.create(call, target.namespace, new, applied=applied), created=True)

    async def _admit_update(
        self, call: context.Call, target: Target, stored: document.Document, new: Any, style: Style
    ) -> None:
        of, old = self.resource, stored.object
        size = max(call.size, len(stored.value))
        _fill_type(of, new)
        of.default(new)
        call.warnings.extend(validation.drop_duplicate_owners(new.metadata))
        if style is not Style.APPLY:
            await offload.run(size, self._record_fields, old, new, call, target.door)
        self._run(self._hooks.mutate, "update", target, new, old, call)
        self._check_version(target, stored, new, style)
        _keep_system_metadata(new.metadata, old.metadata, namespaced=of.namespaced)
        self._restore[target.subresource](new, old)
        if target.door is not None:
            target.door.prepare(new, old, call)
        else:
            of.prepare_update(new, old, call)
        await offload.run(size, self._validate_update, call, target, new, old)
        of.canonicalise(new)
        self._run(self._hooks.check, "update", target, new, old, call)

    def _check_version(self, target: Target, stored: document.Document, new: Any, style: Style) -> None:
        of = self.resource
        old_uid = stored.object.metadata.uid
        if style is Style.REPLACE and new.metadata.uid not in ("", old_uid):
            raise self._other_uid(target, new, old_uid)
        version = new.metadata.resource_version
        if version in ("", "0"):
            if not of.unconditional_update:
                missing = errors.invalid("metadata.resourceVersion", 0, "must be specified for an update")
                raise errors.Invalid(*of.identity, target.name, [missing])
            return
        try:
            wanted = gotext.parse_uint(version)
        except ValueError as error:
            raise errors.UnreasonedError(str(error)) from error
        if wanted != stored.revision:
            raise errors.Conflict.of(*of.identity, target.name)

    def _other_uid(self, target: Target, new: Any, old_uid: str) -> errors.Conflict:
        """The conflict of a PUT whose object is another one than the stored one, or there is none."""
        key = self.resource.key(target.namespace, target.name)
        why = (
            f"StorageError: invalid object, Code: 4, Key: {key}, ResourceVersion: 0, AdditionalErrorMsg: "
            f"Precondition failed: UID in precondition: {new.metadata.uid}, UID in object meta: {old_uid}"
        )
        return errors.Conflict.of(*self.resource.identity, target.name, why)

    def _validate_update(self, call: context.Call, target: Target, new: Any, old: Any) -> None:
        of, door = self.resource, target.door
        whole = validation.validate_meta(new.metadata, of.name_problems, namespaced=of.namespaced)
        change = validation.validate_meta_update(new.metadata, old.metadata)
        again = {resource.Recheck.NOTHING: [], resource.Recheck.CHANGE: change, resource.Recheck.ALL: [*whole, *change]}
        own = door.validate(new, old, call.now) if door is not None else of.validate_update(new, old)
        problems = [*whole, *change, *again[(door or of).rechecks], *own]
        if problems:
            raise errors.Invalid(of.kind, of.stored.group, target.name, problems)
        call.warnings.extend(of.warnings(new))

    async def _store_update(
        self, call: context.Call, stored: document.Document, entry: watchcache.Entry, new: Any
    ) -> Outcome:
        of = self.resource
        new.metadata.resource_version = ""
        encoded = document.freeze(of, new)
        if new.metadata.deletion_timestamp is not None and not new.metadata.finalizers and not of.holds(new):
            if call.dry_run:
                return Outcome(document.Document(of, encoded, stored.revision), deleted=True)
            change = await self.store.delete(entry.key, entry.mod_revision)
            return Outcome(document.Document(of, encoded, change.revision), deleted=True)
        if encoded == entry.value or self._is_later_only(stored, new):
            return Outcome(stored)
        if call.dry_run:
            return Outcome(document.Document(of, encoded, stored.revision))
        written = await self.store.update(entry.key, encoded, entry.mod_revision)
        return Outcome(self._written(written))

    def _is_later_only(self, stored: document.Document, new: Any) -> bool:
        """Whether nothing is new but when somebody wrote last: then nothing was written."""
        now, before = new.metadata.managed_fields or [], stored.object.metadata.managed_fields or []
        if not now or [each.manager for each in now] != [each.manager for each in before]:
            return False
        earlier = [structs.replace(each, time=old.time) for each, old in zip(now, before, strict=True)]
        new.metadata.managed_fields = earlier
        same = document.freeze(self.resource, new) == stored.value
        new.metadata.managed_fields = now
        return same

    # --- delete ---------------------------------------------------------------------------------------------------

    async def delete(self, call: context.Call, target: Target, how: Deletion) -> Outcome:
        """Delete an object, or mark it as being deleted while it has finalizers (`deleted` is False then).

        Raises NotFound, Conflict.
        """
        of = self.resource
        for _ in range(_RACES):
            await self.cache.fresh()
            entry = self.collection.get(of.key(target.namespace, target.name))
            if entry is None:
                raise self.missing(target.namespace, target.name)
            stored = document.of_entry(of, entry)
            self._check_preconditions(target, stored, how)
            self._run((*self._hooks.mutate, *self._hooks.check), "delete", target, None, stored.object, call)
            try:
                return await self._store_delete(call, stored, entry, how)
            except contract.RevisionMismatch:
                continue
            except contract.StoreClosed as error:
                raise errors.ServiceUnavailable(str(error)) from error
        raise errors.Conflict.of(*of.identity, target.name)

    def _check_preconditions(self, target: Target, stored: document.Document, how: Deletion) -> None:
        of, meta = self.resource, stored.object.metadata
        again = "The object might have been deleted and then recreated"
        if how.uid is not None and how.uid != meta.uid:
            why = f"the UID in the precondition ({how.uid}) does not match the UID in record ({meta.uid}). {again}"
            raise errors.Conflict.of(of.stored.kind, of.stored.group, target.name, why)
        if how.resource_version is not None and how.resource_version != meta.resource_version:
            why = (
                f"the ResourceVersion in the precondition ({how.resource_version}) does not match the "
                f"ResourceVersion in record ({meta.resource_version}). The object might have been modified"
            )
            raise errors.Conflict.of(of.stored.kind, of.stored.group, target.name, why)

    async def _store_delete(
        self, call: context.Call, stored: document.Document, entry: watchcache.Entry, how: Deletion
    ) -> Outcome:
        of, meta = self.resource, stored.object.metadata
        finalizers = _finalizers(meta.finalizers, how.propagation)
        held = of.holds(stored.object)
        if not finalizers and not held:
            if not call.dry_run:
                await self.store.delete(entry.key, entry.mod_revision)
            return Outcome(stored, deleted=True)
        if meta.deletion_timestamp is not None and finalizers == meta.finalizers:
            return Outcome(stored)
        new = document.thaw(of, entry.value)
        new.metadata.deletion_timestamp = meta.deletion_timestamp or clock.rfc3339(call.now)
        if not held:
            new.metadata.deletion_grace_period_seconds = 0
        if new.metadata.generation:
            new.metadata.generation += 1
        new.metadata.finalizers = finalizers
        of.prepare_delete(new)
        encoded = document.freeze(of, new)
        if call.dry_run:
            return Outcome(document.Document(of, encoded, stored.revision))
        written = await self.store.update(entry.key, encoded, entry.mod_revision)
        return Outcome(self._written(written))

    # --- what they share ------------------------------------------------------------------------------------------

    def _run(
        self, hooks: Sequence[admission.Hook], operation: str, target: Target, new: Any, old: Any, call: context.Call
    ) -> None:
        if hooks:
            review = admission.Review(
                operation, self.resource, target.subresource, target.namespace, target.name, new, old, call
            )
            for hook in hooks:
                hook(review)

    def _record_fields(self, old: Any, new: Any, call: context.Call, door: resource.Subresource | None) -> None:
        """Keep managedFields, where there is something to keep: most CSRs have no field that anybody could own."""
        of = self.resource
        ignored = door.ignored_fields if door is not None else of.ignored_fields
        sent = new.metadata.managed_fields
        tracked = _has_fields(new, ignored) if old is None else bool(sent or old.metadata.managed_fields)
        if not tracked:
            new.metadata.managed_fields = None
            return
        name = door.name if door is not None else ""
        ownership.record(old, new, self._shape, ownership.writer(call, of.api_version, name, ignored))

    def missing(self, namespace: str, name: str) -> errors.APIError:
        """The error about an object that is not there, or cannot be read."""
        key = self.resource.key(namespace, name)
        why = self.collection.damaged.get(key)
        if why is None:
            return errors.NotFound(*self.resource.identity, name)
        return errors.InternalError(f"unable to decode key {gotext.quote(key)}: {why}")

    def is_damaged(self, namespace: str, name: str) -> bool:
        """Whether there is something under the name that cannot be read."""
        return self.resource.key(namespace, name) in self.collection.damaged

    def _refuse_damaged(self, target: Target) -> None:
        if self.is_damaged(target.namespace, target.name):
            raise self.missing(target.namespace, target.name)

    def _exists(self, stored: contract.KeyValue | watchcache.Entry) -> errors.AlreadyExists:
        of = self.resource
        if stored.key in self.collection.damaged:
            return errors.AlreadyExists(*of.identity, stored.key.rpartition("/")[2])
        meta = document.thaw(of, stored.value).metadata
        return errors.AlreadyExists(*of.identity, meta.name, deleting=meta.deletion_timestamp is not None)

    def _written(self, written: contract.KeyValue) -> document.Document:
        """The document of a finished write; the cache's own, if it still shows this revision, so that work is
        shared.
        """
        entry = self.collection.get(written.key)
        if entry is not None and entry.mod_revision == written.mod_revision:
            return document.of_entry(self.resource, entry)
        return document.Document(self.resource, written.value, written.mod_revision)


# --- small rules --------------------------------------------------------------------------------------------------


def generate_name(prefix: str) -> str:
    """A name from a generateName: the prefix, cut to 58 bytes, and five random characters."""
    base = prefix.encode("utf-8")[:_GENERATED_BASE].decode("utf-8", "ignore")
    return base + "".join(secrets.choice(_GENERATED_ALPHABET) for _ in range(_GENERATED_LENGTH))


def _is_version(text: str) -> bool:
    """Whether a text names a version of an object. What is no number names none."""
    try:
        return gotext.parse_uint(text) != 0
    except ValueError:
        return False


def _name_or_prefix(new: Any) -> str:
    name: str = new.metadata.name or new.metadata.generate_name
    return name


def _fill_type(of: resource.Resource, new: Any) -> None:
    new.kind, new.api_version = of.kind, of.api_version


def clear_system_metadata(meta: objects.ObjectMeta) -> None:
    """Forget what only a server says of an object."""
    meta.uid = meta.self_link = ""
    meta.creation_timestamp = meta.deletion_timestamp = meta.deletion_grace_period_seconds = None


def _keep_system_metadata(new: objects.ObjectMeta, old: objects.ObjectMeta, *, namespaced: bool) -> None:
    new.uid = new.uid or old.uid
    new.creation_timestamp = old.creation_timestamp
    new.self_link = ""
    new.generation = old.generation
    new.namespace = old.namespace if namespaced else ""
    new.deletion_timestamp = old.deletion_timestamp or new.deletion_timestamp
    if new.deletion_grace_period_seconds is None:
        new.deletion_grace_period_seconds = old.deletion_grace_period_seconds


def _finalizers(existing: Sequence[str], propagation: str) -> list[str]:
    """The finalizers after a deletion with this policy. The two of the garbage collector come last."""
    if not propagation:
        return list(existing)
    kept = [each for each in existing if each not in ("orphan", "foregroundDeletion")]
    added = {"Orphan": ["orphan"], "Foreground": ["foregroundDeletion"]}
    return kept + added.get(propagation, [])


_METADATA_FIELDS: Final = operator.attrgetter(
    "managed_fields", "generate_name", "labels", "annotations", "owner_references", "finalizers"
)


def _has_fields(new: Any, ignored: Sequence[str]) -> bool:
    """Whether a new object could have fields that somebody owns: cheap, and wrong only on the careful side."""
    return any(_METADATA_FIELDS(new.metadata)) or not all(name in ignored for name in _top_fields(new.__class__))


@functools.cache
def _top_fields(type_: Any) -> tuple[str, ...]:
    return tuple(name for name in shape.of(type_).fields if name not in _OBJECT_FIELDS)


_OBJECT_FIELDS: Final = frozenset({"kind", "apiVersion", "metadata"})

_PathTree = dict[str, "_PathTree"]


def _path_tree(paths: Sequence[str]) -> _PathTree:
    tree: _PathTree = {}
    for path in paths:
        node = tree
        for part in path.split("."):
            node = node.setdefault(part, {})
    return tree


def _restorer(type_: Any, owned: _PathTree, *, at_top: bool = False) -> Callable[[Any, Any], None]:
    """A function (new, old) that gives `new` everything of `old` that is not owned."""
    restored = []
    deeper = []
    for name, field in shape.of(type_).fields.items():
        if at_top and name in _OBJECT_FIELDS:
            continue
        if name not in owned:
            restored.append(field.attribute)
        elif owned[name]:
            if field.shape.struct is None:
                raise TypeError(f"{type_.__name__}.{name} has no fields of its own")
            deeper.append((field.attribute, _restorer(field.shape.struct, owned[name])))

    def restore(new: Any, old: Any) -> None:
        for attribute in restored:
            setattr(new, attribute, getattr(old, attribute))
        for attribute, restore_part in deeper:
            restore_part(getattr(new, attribute), getattr(old, attribute))

    return restore
