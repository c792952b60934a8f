"""The verbs create, update and delete, once for all kinds. `reads` has get, list and watch.

The steps of a write have a fixed order. Clients see it, because it decides which error they get:

    create   mutate hooks -> system metadata, generated name -> prepare -> validate -> check hooks -> store
    update   lookup -> build the new object -> mutate hooks -> resourceVersion -> restore fields that the subresource
             does not own -> prepare -> validate -> check hooks -> store, unless nothing changed

The identity in an object comes from the call, never from the body: a kind's `prepare_create` sets it. A write that
meets a newer revision is repeated from what is stored then, so hooks may run more than once. Source:
`k8s.io/apiserver/pkg/registry/rest`, `.../generic/registry/store.go`.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import operator
import secrets
from collections.abc import Callable, Sequence
from typing import Any, Final, Generic, TypeAlias, TypeVar

from msgspec import Struct, structs

from certplane import errors, offload, timestamps
from certplane.golang import formatting
from certplane.meta import objects, shapes, validation
from certplane.meta.context import VerbContext
from certplane.meta.objects import Object, ObjectMeta
from certplane.meta.resource import AnyResource, AnySubresource, MetadataValidation, Resource
from certplane.registry import admission, encodedobjects, managedfields
from certplane.registry.encodedobjects import EncodedObject
from certplane.store import contract
from certplane.store.contract import KeyValue
from certplane.store.watchcache import Entry, WatchCache

T = TypeVar("T", bound=Object)

#: Generated names, as in `k8s.io/apiserver/pkg/storage/names`: no vowels and no digits that look like letters; 58 bytes
#: of prefix and 5 characters make the 63 bytes of a DNS label; 8 attempts, as in `maxNameGenerationCreateAttempts`.
_GENERATED_ALPHABET: Final = "bcdfghjklmnpqrstvwxz2456789"
_GENERATED_LENGTH: Final = 5
_GENERATED_BASE: Final = 58
_GENERATED_ATTEMPTS: Final = 8
#: Attempts of a write that meets a newer revision each time. Real contention ends sooner; the limit ends a livelock.
_WRITE_ATTEMPTS: Final = 16

#: Builds the new object from the stored one (None: there is none, and the write would create it).
Build = Callable[[EncodedObject[T] | None], T]


class UpdateMethod(enum.Enum):
    """What the body of an update contains: the whole object (PUT), a patch (PATCH), or the fields that the field
    manager owns (server-side apply).
    """

    REPLACE = "replace"
    PATCH = "patch"
    APPLY = "apply"


@dataclasses.dataclass(frozen=True, slots=True)
class Target:
    """The object of a write, and the subresource that it is written through; None for the object itself."""

    namespace: str
    name: str
    subresource: AnySubresource | None = None

    @property
    def subresource_name(self) -> str:
        return self.subresource.name if self.subresource is not None else ""


@dataclasses.dataclass(frozen=True, slots=True)
class Deletion:
    """Options of a deletion: preconditions (None: no condition), and the propagation policy for dependents."""

    uid: str | None = None
    resource_version: str | None = None
    propagation: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome(Generic[T]):
    """The result of a write: the object, and whether the write created or deleted it."""

    document: EncodedObject[T]
    created: bool = False
    deleted: bool = False


class Registry(Generic[T]):
    """The objects of one kind, in one store."""

    def __init__(
        self,
        resource: Resource[T],
        store: contract.Store,
        cache: WatchCache,
        hooks: admission.Admission,
    ) -> None:
        self.resource = resource
        self.store = store
        self.cache = cache
        self.collection = cache.collection(resource.prefix)
        self._hooks = hooks
        self._shape = resource.shape
        self._restore = {
            "": _restorer(resource.type, _path_tree(resource.owns), at_top=True),
            **{
                subresource.name: _restorer(resource.type, _path_tree(subresource.owns), at_top=True)
                for subresource in resource.subresources
            },
        }

    # --- create ---------------------------------------------------------------------------------------------------

    async def create(self, call: VerbContext, namespace: str, new: T, *, applied: bool = False) -> EncodedObject[T]:
        """Store a new object and return its document. `new` is modified; the caller must not use it afterwards.

        `applied`: server-side apply has already set managedFields. Raises AlreadyExists, Invalid, Forbidden, and the
        errors of hooks.
        """
        resource = self.resource
        _fill_type(resource, new)
        clear_system_metadata(new.metadata)
        new.metadata.namespace = namespace if resource.namespaced else ""
        resource.default(new)
        call.warnings.extend(validation.drop_duplicate_owners(new.metadata))
        sent_version = new.metadata.resource_version
        if not applied:
            await offload.run(call.size, self._record_fields, None, new, call, None)
        self._run(self._hooks.mutate, "create", Target(namespace, _name_or_prefix(new)), new, None, call)
        new.metadata.uid = objects.new_uid()
        new.metadata.creation_timestamp = timestamps.rfc3339(call.now)
        generated = not new.metadata.name and bool(new.metadata.generate_name)
        for attempts_left in range(_GENERATED_ATTEMPTS if generated else 1, 0, -1):
            if generated:
                new.metadata.name = generate_name(new.metadata.generate_name)
            try:
                return await self._create_named(call, namespace, new, sent_version)
            except errors.AlreadyExists:
                if not generated:
                    raise
                if attempts_left == 1:
                    raise errors.AlreadyExists(*resource.identity, new.metadata.name, generated=True) from None
        raise AssertionError("unreachable")  # the loop returns or raises

    async def _create_named(self, call: VerbContext, namespace: str, new: T, sent_version: str) -> EncodedObject[T]:
        resource = self.resource
        new.metadata.resource_version = ""
        resource.prepare_create(new, call)
        await offload.run(call.size, self._validate_create, call, new)
        resource.canonicalise(new)
        self._run(self._hooks.check, "create", Target(namespace, new.metadata.name), new, None, call)
        if _is_version(sent_version):
            raise errors.UnknownReasonError("resourceVersion should not be set on objects to be created")
        key = resource.key(namespace, new.metadata.name)
        if call.dry_run:
            stored = self.collection.get(key)
            if stored is not None:
                raise self._exists(stored)
            return encodedobjects.from_object(resource, new)
        try:
            written = await self.store.create(key, encodedobjects.encode_object(resource, new))
        except contract.KeyExists as error:
            raise self._exists(error.current) from error
        except contract.StoreClosed as error:
            raise errors.ServiceUnavailable(str(error)) from error
        return self._written(written)

    def _validate_create(self, call: VerbContext, new: T) -> None:
        resource = self.resource
        problems = [
            *validation.validate_meta(new.metadata, resource.name_problems, namespaced=resource.namespaced),
            *resource.validate(new),
        ]
        # kube-apiserver checks path segments only if the kind's own validation has found nothing.
        problems = problems or validation.validate_path_segments(new.metadata)
        if problems:
            raise errors.Invalid(resource.kind, resource.storage_resource.group, new.metadata.name, problems)
        call.warnings.extend(resource.warnings(new))

    # --- update ---------------------------------------------------------------------------------------------------

    async def update(self, call: VerbContext, target: Target, build: Build[T], method: UpdateMethod) -> Outcome[T]:
        """Change an object; repeat it when another write comes first.

        `build` gets the stored document and returns a new object at each call. Raises NotFound, Conflict, Invalid,
        Forbidden, and the errors of `build` and of hooks.
        """
        resource = self.resource
        for _ in range(_WRITE_ATTEMPTS):
            await self.cache.fresh()
            entry = self.collection.get(resource.key(target.namespace, target.name))
            if entry is None:
                self._refuse_corrupt(target)
                return await self._update_missing(call, target, build, method)
            stored = encodedobjects.from_entry(resource, entry)
            # The cost of a patch depends on the object as well as on the body.
            size = max(call.size, len(stored.value))
            new = await offload.run(size, build, stored)
            await self._admit_update(call, target, stored, new, method)
            try:
                outcome = await self._store_update(call, target, stored, entry, new)
            except contract.RevisionMismatch:
                continue
            except contract.StoreClosed as error:
                raise errors.ServiceUnavailable(str(error)) from error
            if outcome.document is not stored and not call.dry_run:
                self._run(self._hooks.after, "update", target, new, stored.object, call)
            return outcome
        raise errors.Conflict.for_object(*resource.identity, target.name)

    async def _update_missing(
        self, call: VerbContext, target: Target, build: Build[T], method: UpdateMethod
    ) -> Outcome[T]:
        resource = self.resource
        creates = method is UpdateMethod.APPLY or (method is UpdateMethod.REPLACE and resource.allow_create_on_update)
        if not creates or target.subresource is not None:
            raise errors.NotFound(*resource.identity, target.name)
        new = await offload.run(call.size, build, None)
        if new.metadata.uid:
            if method is UpdateMethod.REPLACE:
                raise self._other_uid(target, new, "")
            why = (
                f"uid mismatch: the provided object specified uid {new.metadata.uid}, and no existing object was found"
            )
            raise errors.Conflict.for_object(*resource.identity, target.name, why)
        new.metadata.resource_version = ""
        applied = method is UpdateMethod.APPLY
        return Outcome(await self.create(call, target.namespace, new, applied=applied), created=True)

    async def _admit_update(
        self, call: VerbContext, target: Target, stored: EncodedObject[T], new: T, method: UpdateMethod
    ) -> None:
        resource, old = self.resource, stored.object
        size = max(call.size, len(stored.value))
        _fill_type(resource, new)
        resource.default(new)
        call.warnings.extend(validation.drop_duplicate_owners(new.metadata))
        if method is not UpdateMethod.APPLY:
            await offload.run(size, self._record_fields, old, new, call, target.subresource)
        self._run(self._hooks.mutate, "update", target, new, old, call)
        self._check_version(target, stored, new, method)
        _keep_system_metadata(new.metadata, old.metadata, namespaced=resource.namespaced)
        self._restore[target.subresource_name](new, old)
        if target.subresource is not None:
            target.subresource.prepare(new, old, call)
        else:
            resource.prepare_update(new, old, call)
        await offload.run(size, self._validate_update, call, target, new, old)
        resource.canonicalise(new)
        self._run(self._hooks.check, "update", target, new, old, call)

    def _check_version(self, target: Target, stored: EncodedObject[T], new: T, method: UpdateMethod) -> None:
        resource = self.resource
        old_uid = stored.object.metadata.uid
        if method is UpdateMethod.REPLACE and new.metadata.uid not in ("", old_uid):
            raise self._other_uid(target, new, old_uid)
        version = new.metadata.resource_version
        if version in ("", "0"):
            if not resource.allow_unconditional_update:
                missing = errors.invalid("metadata.resourceVersion", 0, "must be specified for an update")
                raise errors.Invalid(*resource.identity, target.name, [missing])
            return
        try:
            revision = formatting.parse_uint(version)
        except ValueError as error:
            raise errors.UnknownReasonError(str(error)) from error
        if revision != stored.revision:
            raise errors.Conflict.for_object(*resource.identity, target.name)

    def _other_uid(self, target: Target, new: T, old_uid: str) -> errors.Conflict:
        """The conflict of a PUT with a UID that is not the stored object's; `old_uid` is empty if nothing is stored."""
        key = self.resource.key(target.namespace, target.name)
        why = (
            f"StorageError: invalid object, Code: 4, Key: {key}, ResourceVersion: 0, AdditionalErrorMsg: "
            f"Precondition failed: UID in precondition: {new.metadata.uid}, UID in object meta: {old_uid}"
        )
        return errors.Conflict.for_object(*self.resource.identity, target.name, why)

    def _validate_update(self, call: VerbContext, target: Target, new: T, old: T) -> None:
        resource, subresource = self.resource, target.subresource
        whole = validation.validate_meta(new.metadata, resource.name_problems, namespaced=resource.namespaced)
        change = validation.validate_meta_update(new.metadata, old.metadata)
        repeated = {
            MetadataValidation.NOTHING: [],
            MetadataValidation.CHANGE: change,
            MetadataValidation.ALL: [*whole, *change],
        }
        if subresource is not None:
            specific = subresource.validate(new, old, call.now)
        else:
            specific = resource.validate_update(new, old)
        problems = [*whole, *change, *repeated[(subresource or resource).metadata_validation], *specific]
        if problems:
            raise errors.Invalid(resource.kind, resource.storage_resource.group, target.name, problems)
        call.warnings.extend(resource.warnings(new))

    async def _store_update(
        self, call: VerbContext, target: Target, stored: EncodedObject[T], entry: Entry, new: T
    ) -> Outcome[T]:
        resource = self.resource
        new.metadata.resource_version = ""
        encoded = encodedobjects.encode_object(resource, new)
        if (
            new.metadata.deletion_timestamp is not None
            and not new.metadata.finalizers
            and not resource.blocks_deletion(new)
        ):
            if call.dry_run:
                return Outcome(EncodedObject(resource, encoded, stored.revision), deleted=True)
            change = await self.store.delete(entry.key, entry.mod_revision)
            return Outcome(EncodedObject(resource, encoded, change.revision), deleted=True)
        if encoded == entry.value or self._differs_in_time_only(stored, new):
            return Outcome(stored)
        if call.dry_run:
            return Outcome(EncodedObject(resource, encoded, stored.revision))
        write = self._attributes("update", target, new, stored.object, call)
        archived = await self._hooks.archive(write)
        written = await self.store.update(entry.key, encoded, entry.mod_revision, archived)
        return Outcome(self._written(written))

    def _differs_in_time_only(self, stored: EncodedObject[T], new: T) -> bool:
        """Whether only times in managedFields differ from what is stored: such a write is not stored."""
        entries, old_entries = new.metadata.managed_fields or [], stored.object.metadata.managed_fields or []
        if not entries or [entry.manager for entry in entries] != [entry.manager for entry in old_entries]:
            return False
        with_old_times = [
            structs.replace(entry, time=old_entry.time) for entry, old_entry in zip(entries, old_entries, strict=True)
        ]
        new.metadata.managed_fields = with_old_times
        same = encodedobjects.encode_object(self.resource, new) == stored.value
        new.metadata.managed_fields = entries
        return same

    # --- delete ---------------------------------------------------------------------------------------------------

    async def delete(self, call: VerbContext, target: Target, options: Deletion) -> Outcome[T]:
        """Delete an object; if it has finalizers, only set its deletionTimestamp (`deleted` is False then).

        Raises NotFound, Conflict.
        """
        resource = self.resource
        for _ in range(_WRITE_ATTEMPTS):
            await self.cache.fresh()
            entry = self.collection.get(resource.key(target.namespace, target.name))
            if entry is None:
                raise self.missing(target.namespace, target.name)
            stored = encodedobjects.from_entry(resource, entry)
            self._check_preconditions(target, stored, options)
            self._run((*self._hooks.mutate, *self._hooks.check), "delete", target, None, stored.object, call)
            try:
                return await self._store_delete(call, stored, entry, options)
            except contract.RevisionMismatch:
                continue
            except contract.StoreClosed as error:
                raise errors.ServiceUnavailable(str(error)) from error
        raise errors.Conflict.for_object(*resource.identity, target.name)

    def _check_preconditions(self, target: Target, stored: EncodedObject[T], options: Deletion) -> None:
        resource, meta = self.resource, stored.object.metadata
        again = "The object might have been deleted and then recreated"
        if options.uid is not None and options.uid != meta.uid:
            why = f"the UID in the precondition ({options.uid}) does not match the UID in record ({meta.uid}). {again}"
            raise errors.Conflict.for_object(
                resource.storage_resource.kind, resource.storage_resource.group, target.name, why
            )
        if options.resource_version is not None and options.resource_version != meta.resource_version:
            why = (
                f"the ResourceVersion in the precondition ({options.resource_version}) does not match the "
                f"ResourceVersion in record ({meta.resource_version}). The object might have been modified"
            )
            raise errors.Conflict.for_object(
                resource.storage_resource.kind, resource.storage_resource.group, target.name, why
            )

    async def _store_delete(
        self, call: VerbContext, stored: EncodedObject[T], entry: Entry, options: Deletion
    ) -> Outcome[T]:
        resource, meta = self.resource, stored.object.metadata
        finalizers = _finalizers(meta.finalizers, options.propagation)
        blocked = resource.blocks_deletion(stored.object)
        if not finalizers and not blocked:
            if not call.dry_run:
                await self.store.delete(entry.key, entry.mod_revision)
            return Outcome(stored, deleted=True)
        if meta.deletion_timestamp is not None and finalizers == meta.finalizers:
            return Outcome(stored)
        new = encodedobjects.decode_object(resource, entry.value)
        new.metadata.deletion_timestamp = meta.deletion_timestamp or timestamps.rfc3339(call.now)
        if not blocked:
            new.metadata.deletion_grace_period_seconds = 0
        if new.metadata.generation:
            new.metadata.generation += 1
        new.metadata.finalizers = finalizers
        resource.prepare_delete(new)
        encoded = encodedobjects.encode_object(resource, new)
        if call.dry_run:
            return Outcome(EncodedObject(resource, encoded, stored.revision))
        written = await self.store.update(entry.key, encoded, entry.mod_revision)
        return Outcome(self._written(written))

    # --- shared steps ---------------------------------------------------------------------------------------------

    def _run(
        self,
        hooks: Sequence[admission.Hook],
        operation: str,
        target: Target,
        new: T | None,
        old: T | None,
        call: VerbContext,
    ) -> None:
        if hooks:
            write = self._attributes(operation, target, new, old, call)
            for hook in hooks:
                hook(write)

    def _attributes(
        self, operation: str, target: Target, new: T | None, old: T | None, call: VerbContext
    ) -> admission.AdmissionAttributes:
        return admission.AdmissionAttributes(
            operation, self.resource, target.subresource_name, target.namespace, target.name, new, old, call
        )

    def _record_fields(self, old: T | None, new: T, call: VerbContext, subresource: AnySubresource | None) -> None:
        """Update managedFields if there is anything to track: most CSRs have no field that a manager could own."""
        resource = self.resource
        ignored = subresource.reset_fields if subresource is not None else resource.reset_fields
        sent = new.metadata.managed_fields
        tracked = _has_fields(new, ignored) if old is None else bool(sent or old.metadata.managed_fields)
        if not tracked:
            new.metadata.managed_fields = None
            return
        name = subresource.name if subresource is not None else ""
        managedfields.record(
            old, new, self._shape, managedfields.field_manager(call, resource.api_version, name, ignored)
        )

    def missing(self, namespace: str, name: str) -> errors.APIError:
        """The error for an object that does not exist, or whose stored value cannot be read."""
        key = self.resource.key(namespace, name)
        why = self.collection.corrupt.get(key)
        if why is None:
            return errors.NotFound(*self.resource.identity, name)
        return errors.InternalError(f"unable to decode key {formatting.quote(key)}: {why}")

    def is_corrupt(self, namespace: str, name: str) -> bool:
        """Whether the stored value of an object cannot be read."""
        return self.resource.key(namespace, name) in self.collection.corrupt

    def _refuse_corrupt(self, target: Target) -> None:
        if self.is_corrupt(target.namespace, target.name):
            raise self.missing(target.namespace, target.name)

    def _exists(self, stored: KeyValue | Entry) -> errors.AlreadyExists:
        resource = self.resource
        if stored.key in self.collection.corrupt:
            return errors.AlreadyExists(*resource.identity, stored.key.rpartition("/")[2])
        meta = encodedobjects.decode_object(resource, stored.value).metadata
        return errors.AlreadyExists(*resource.identity, meta.name, deleting=meta.deletion_timestamp is not None)

    def _written(self, written: KeyValue) -> EncodedObject[T]:
        """The object of a finished write. It is the cache's if the cache still has this revision, to share its
        encoded forms.
        """
        entry = self.collection.get(written.key)
        if entry is not None and entry.mod_revision == written.mod_revision:
            return encodedobjects.from_entry(self.resource, entry)
        return EncodedObject(self.resource, written.value, written.mod_revision)


#: A registry of a kind that is not known here.
AnyRegistry: TypeAlias = Registry[Any]


# --- metadata and names -------------------------------------------------------------------------------------------


def generate_name(prefix: str) -> str:
    """A name from a generateName: the prefix, cut to 58 bytes, and five random characters."""
    base = prefix.encode("utf-8")[:_GENERATED_BASE].decode("utf-8", "ignore")
    return base + "".join(secrets.choice(_GENERATED_ALPHABET) for _ in range(_GENERATED_LENGTH))


def _is_version(text: str) -> bool:
    """Whether a text is a resourceVersion other than 0."""
    try:
        return formatting.parse_uint(text) != 0
    except ValueError:
        return False


def _name_or_prefix(new: Object) -> str:
    return new.metadata.name or new.metadata.generate_name


def _fill_type(resource: AnyResource, new: Object) -> None:
    new.kind, new.api_version = resource.kind, resource.api_version


def clear_system_metadata(meta: ObjectMeta) -> None:
    """Clear the fields of metadata that only the server sets."""
    meta.uid = meta.self_link = ""
    meta.creation_timestamp = meta.deletion_timestamp = meta.deletion_grace_period_seconds = None


def _keep_system_metadata(new: ObjectMeta, old: ObjectMeta, *, namespaced: bool) -> None:
    new.uid = new.uid or old.uid
    new.creation_timestamp = old.creation_timestamp
    new.self_link = ""
    new.generation = old.generation
    new.namespace = old.namespace if namespaced else ""
    new.deletion_timestamp = old.deletion_timestamp or new.deletion_timestamp
    if new.deletion_grace_period_seconds is None:
        new.deletion_grace_period_seconds = old.deletion_grace_period_seconds


def _finalizers(existing: Sequence[str], propagation: str) -> list[str]:
    """The finalizers after a deletion with this policy; those of the garbage collector come last."""
    if not propagation:
        return list(existing)
    kept = [finalizer for finalizer in existing if finalizer not in ("orphan", "foregroundDeletion")]
    added = {"Orphan": ["orphan"], "Foreground": ["foregroundDeletion"]}
    return kept + added.get(propagation, [])


_METADATA_FIELDS: Final = operator.attrgetter(
    "managed_fields", "generate_name", "labels", "annotations", "owner_references", "finalizers"
)


def _has_fields(new: Object, ignored: Sequence[str]) -> bool:
    """Whether a new object may have fields that a manager could own. May be true for an object without such fields."""
    return any(_METADATA_FIELDS(new.metadata)) or not all(name in ignored for name in _top_fields(new.__class__))


@functools.cache
def _top_fields(type_: type[Object]) -> tuple[str, ...]:
    return tuple(name for name in shapes.shape_of(type_).fields if name not in _OBJECT_FIELDS)


_OBJECT_FIELDS: Final = frozenset({"kind", "apiVersion", "metadata"})

_PathTree = dict[str, "_PathTree"]


def _path_tree(paths: Sequence[str]) -> _PathTree:
    tree: _PathTree = {}
    for path in paths:
        node = tree
        for part in path.split("."):
            node = node.setdefault(part, {})
    return tree


def _restorer(type_: type[Struct], owned: _PathTree, *, at_top: bool = False) -> Callable[[Struct, Struct], None]:
    """A function (new, old) that copies all fields from `old` to `new` that `owned` does not contain."""
    restored = []
    partly_owned = []
    for name, field in shapes.shape_of(type_).fields.items():
        if at_top and name in _OBJECT_FIELDS:
            continue
        if name not in owned:
            restored.append(field.attribute)
        elif owned[name]:
            if field.shape.struct is None:
                raise TypeError(f"{type_.__name__}.{name} has no fields of its own")
            partly_owned.append((field.attribute, _restorer(field.shape.struct, owned[name])))

    def restore(new: Struct, old: Struct) -> None:
        for attribute in restored:
            setattr(new, attribute, getattr(old, attribute))
        for attribute, restore_part in partly_owned:
            restore_part(getattr(new, attribute), getattr(old, attribute))

    return restore
