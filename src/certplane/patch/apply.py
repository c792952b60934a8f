"""Server-side apply and managedFields: which manager owns which field, and conflicts between managers.

A document is a tree; a *field set* is a set of paths in it. Every manager (a name, an operation, a subresource) owns a
set, stored in `metadata.managedFields`. There are two kinds of writes:

* an **update** (POST, PUT, other patches) is compared with the live object: its manager takes over the fields that it
  added or modified; all managers lose the fields that it removed;
* an **apply** sends a document of all fields that its manager wants to own. The document is merged into the live
  object. Fields that the manager owned before, that the document omits and that no other manager owns are removed. A
  field that another manager owns with a different value is a conflict, unless the apply is forced.

`fieldsets` computes the fields of a document and the differences between two; this module does not know what a field
means. Fields that a subresource resets (`reset_fields`) never enter a set.

Source: KEP-555; `sigs.k8s.io/structured-merge-diff` (merge/update.go); `k8s.io/apimachinery/pkg/util/managedfields`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from certplane import errors
from certplane.golang import formatting
from certplane.meta.shapes import Shape
from certplane.patch import fieldsets
from certplane.patch.fieldsets import EMPTY, FieldSet
from certplane.wire import codec

#: An object as JSON builtins. The shape that comes with it says what its members are.
JSONObject = Mapping[str, Any]

_MAX_UPDATERS: Final = 10
_ANCIENT: Final = "ancient-changes"
_BEFORE_FIRST_APPLY: Final = "before-first-apply"
#: kubectl also has client-side apply, which keeps the applied document in an annotation.
_KUBECTL: Final = "kubectl"
_LAST_APPLIED: Final = "kubectl.kubernetes.io/last-applied-configuration"

#: System metadata, which no manager owns.
_STRIPPED: Final[FieldSet] = frozenset(
    {("f:apiVersion",), ("f:kind",), ("f:metadata",)}
    | {
        ("f:metadata", f"f:{name}")
        for name in (
            "name", "namespace", "creationTimestamp", "selfLink", "uid", "clusterName", "generation", "managedFields",
            "resourceVersion",
        )
    }
)  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True)
class FieldManager:
    """The field manager of a write, with the version, subresource and time (RFC 3339) of the write. `reset_fields` are
    the dotted paths that the write cannot change.
    """

    name: str
    api_version: str
    subresource: str = ""
    reset_fields: tuple[str, ...] = ()
    now: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class _Key:
    """The identity of a manager. `api_version` is empty for an applier, which is the same in every version."""

    operation: str
    manager: str
    subresource: str
    api_version: str

    @property
    def identifier(self) -> str:
        """The identifier that Kubernetes sorts managers by."""
        parts = {"manager": self.manager, "operation": self.operation, "apiVersion": self.api_version}
        parts["subresource"] = self.subresource
        return formatting.marshal_json({name: value for name, value in parts.items() if value})


@dataclasses.dataclass(frozen=True, slots=True)
class _Owned:
    fields: FieldSet
    time: str
    api_version: str


_Managers = dict[_Key, _Owned]


# --- update and apply ---------------------------------------------------------------------------------------------


def update(live: JSONObject | None, new: JSONObject, shape: Shape, manager: FieldManager) -> list[dict[str, object]]:
    """The managedFields after a write that is no apply. `live` is None for a create.

    The client may send managedFields in `new`, except to a subresource; invalid ones are ignored. An empty list, or a
    list of one empty entry, resets them.
    """
    sent = new.get("metadata", {}).get("managedFields")
    stored = (live or {}).get("metadata", {}).get("managedFields") or []
    if manager.subresource:
        managers = _decode(stored) or {}
    elif sent in ([], [{}]):
        managers = {}
    else:
        managers = _decode(sent or []) or _decode(stored) or {}
    if live is not None and not managers:
        # Tracking starts with the create, or with the first apply.
        return []
    before = _without_managed_fields(live) if live is not None else _empty_object(shape)
    after = _without_managed_fields(new)
    try:
        return _encode(_update_managers(before, after, shape, manager, _convertible(managers, manager)))
    except fieldsets.SchemaError:
        # The items of a list cannot be identified: Kubernetes then drops all managedFields.
        return []


def apply(
    live: JSONObject | None, config: JSONObject, shape: Shape, manager: FieldManager, *, force: bool
) -> dict[str, object]:
    """The object after an apply of the document `config`, with its managedFields. `live` is None for a create.

    Raises errors.BadRequest for managedFields in the document, errors.UnknownReasonError for a document that does not
    fit its type, errors.ApplyConflict.
    """
    meta = config.get("metadata")
    sent = meta.get("managedFields") if isinstance(meta, Mapping) else None
    if isinstance(sent, list) and all(isinstance(entry, Mapping) for entry in sent):
        raise errors.BadRequest("metadata.managedFields must be nil")
    try:
        fieldsets.validate(config, shape)
    except fieldsets.SchemaError as error:
        text = f"failed to create typed patch object ({format_identity(config)}): {error}"
        raise errors.UnknownReasonError(text) from error
    before = _without_managed_fields(live) if live is not None else _empty_object(shape)
    managers = _decode((live or {}).get("metadata", {}).get("managedFields") or []) or {}
    try:
        if live is not None and not managers:
            first = dataclasses.replace(manager, name=_BEFORE_FIRST_APPLY, subresource="")
            managers = _update_managers(_empty_object(shape), before, shape, first, managers)
        result, managers = _apply(before, config, shape, manager, _convertible(managers, manager), force=force)
    except fieldsets.SchemaError as error:
        text = f"failed to create typed live object ({format_identity(before)}): {error}"
        raise errors.UnknownReasonError(text) from error
    meta = {**(result.get("metadata") or {}), "managedFields": _encode(managers)}
    if not meta["managedFields"]:
        del meta["managedFields"]
    if manager.name == _KUBECTL and (meta.get("annotations") or {}).get(_LAST_APPLIED):
        # Kept up to date, so that a later client-side apply compares with this document.
        meta["annotations"] = {**meta["annotations"], _LAST_APPLIED: _last_applied_text(config)}
    return {**result, "metadata": meta}


def format_identity(config: Mapping[str, object]) -> str:
    """The identity of an applied document in errors: `namespace/name; group/version, Kind=kind`."""
    meta = config.get("metadata")
    name, namespace = (_string(meta, "name"), _string(meta, "namespace"))
    return f"{namespace}/{name}; {format_type(config)}"


def format_type(config: Mapping[str, object]) -> str:
    """The type of a document, as Go prints it: `group/version, Kind=kind`."""
    group, _, version = _string(config, "apiVersion").rpartition("/")
    return f"{group}/{version}, Kind={_string(config, 'kind')}"


def _string(document: object, name: str) -> str:
    value = document.get(name) if isinstance(document, Mapping) else None
    return value if isinstance(value, str) else ""


# --- ownership after a write --------------------------------------------------------------------------------------


def _update_managers(
    before: Mapping[str, object], after: Mapping[str, object], shape: Shape, manager: FieldManager, managers: _Managers
) -> _Managers:
    changes = fieldsets.compare(before, after, shape)
    # The registry restores the fields that the write cannot change, so they are not removed either.
    touched = _without(changes.touched, manager.reset_fields)
    removed = _without(changes.removed, manager.reset_fields)
    managers = _disown(managers, None, touched | removed)
    if acquired := touched - _STRIPPED:
        key = _Key("Update", manager.name, manager.subresource, manager.api_version)
        owned = managers[key].fields if key in managers else EMPTY
        managers[key] = _Owned(owned | acquired, manager.now, manager.api_version)
    return _cap_updaters(managers)


def _convertible(managers: _Managers, manager: FieldManager) -> _Managers:
    """The managers whose fields exist in that version of the object. Those of another group (Event has two) do
    not, and are dropped.
    """

    def group(api_version: str) -> str:
        return api_version.rpartition("/")[0]

    manager_group = group(manager.api_version)
    return {key: owned for key, owned in managers.items() if group(owned.api_version) == manager_group}


def _apply(
    before: Mapping[str, object],
    config: Mapping[str, object],
    shape: Shape,
    manager: FieldManager,
    managers: _Managers,
    *,
    force: bool,
) -> tuple[JSONObject, _Managers]:
    """The object (without managedFields) and its managers after an apply. Raises errors.ApplyConflict."""
    key = _Key("Apply", manager.name, manager.subresource, "")
    last = managers.get(key, _Owned(EMPTY, "", manager.api_version))
    applied = _without(fieldsets.field_set(config, shape), manager.reset_fields) - _STRIPPED
    managers = {**managers, key: _Owned(applied, last.time, manager.api_version)}
    merged = _prune(fieldsets.merge(before, config, shape), last.fields, managers, shape)
    changes = fieldsets.compare(before, merged, shape)
    touched = _without(changes.touched, manager.reset_fields)
    removed = _without(changes.removed, manager.reset_fields)
    if not force:
        allowed = _last_applied(before, shape, manager) if manager.name == _KUBECTL else EMPTY
        _check_conflicts(managers, key, touched, allowed)
    managers = _disown(managers, key, touched | removed)
    if merged == before:
        return before, managers
    if key in managers:
        managers[key] = dataclasses.replace(managers[key], time=manager.now)
    return merged, managers


def _check_conflicts(managers: _Managers, applier: _Key, touched: FieldSet, allowed: FieldSet) -> None:
    """Raises errors.ApplyConflict if other managers own touched fields that are not allowed."""
    conflicts = {
        _format_manager(key): [fieldsets.format_path(path) for path in fieldsets.sort_paths(fields)]
        for key, owned in managers.items()
        if key != applier and (fields := (owned.fields & touched) - allowed)
    }
    if conflicts:
        raise errors.ApplyConflict([(name, conflicts[name]) for name in sorted(conflicts)])


def _disown(managers: _Managers, exempt: _Key | None, fields: FieldSet) -> _Managers:
    """Remove fields from all managers but one, and drop the managers that own nothing any more."""
    reduced = {
        key: owned if key == exempt else dataclasses.replace(owned, fields=owned.fields - fields)
        for key, owned in managers.items()
    }
    return {key: owned for key, owned in reduced.items() if owned.fields}


def _prune(merged: object, last: FieldSet, managers: _Managers, shape: Shape) -> Any:
    """Remove the fields that the manager owned and the document omits, if no other manager owns them."""
    owned = _with_containers(EMPTY.union(*(manager.fields for manager in managers.values())))
    removed = _with_containers(last) - owned
    return fieldsets.remove(merged, shape, removed) if removed else merged


def _with_containers(fields: FieldSet) -> FieldSet:
    """A set, and the named fields that contain its members."""
    return frozenset(
        path[:length]
        for path in fields
        for length in range(1, len(path) + 1)
        if length == len(path) or path[length - 1].startswith("f:")
    )


def _cap_updaters(managers: _Managers) -> _Managers:
    """Merge the oldest updaters of each version into one entry, so that at most ten remain."""
    updaters = [key for key in managers if key.operation == "Update"]
    updaters.sort(key=lambda key: (managers[key].time, key.identifier))
    surplus = len(updaters) - _MAX_UPDATERS
    first: dict[str, _Key] = {}
    merged: dict[_Key, list[_Owned]] = {}
    for key in updaters:
        if surplus <= 0:
            break
        if key.api_version not in first:
            first[key.api_version] = key
            continue
        shared = _Key("Update", _ANCIENT, "", key.api_version)
        if shared not in managers:
            managers[shared] = managers.pop(first[key.api_version])
        merged.setdefault(shared, []).append(managers.pop(key))
        surplus -= 1
    for shared, owners in merged.items():
        # One union for all of them: a client may send as many entries as fit into a body.
        fields = managers[shared].fields if shared in managers else EMPTY
        managers[shared] = dataclasses.replace(owners[-1], fields=fields.union(*(owned.fields for owned in owners)))
    return managers


def _format_manager(key: _Key) -> str:
    text = json.dumps(key.manager, ensure_ascii=False)
    if key.subresource:
        text += f" with subresource {json.dumps(key.subresource)}"
    return f"{text} using {key.api_version}" if key.operation == "Update" else text


def _without(fields: FieldSet, reset_fields: Sequence[str]) -> FieldSet:
    """A set without the reset fields, and all fields below them."""
    prefixes = [tuple(f"f:{name}" for name in path.split(".")) for path in reset_fields]
    return frozenset(path for path in fields if not any(path[: len(prefix)] == prefix for prefix in prefixes))


# --- migration from client-side apply -----------------------------------------------------------------------------


def _last_applied(live: JSONObject, shape: Shape, manager: FieldManager) -> FieldSet:
    """The fields that kubectl's client-side apply set and no other manager changed since: kubectl may take them
    without a conflict.
    """
    try:
        config = json.loads((live["metadata"].get("annotations") or {}).get(_LAST_APPLIED, ""))
        if not isinstance(config, dict) or config.get("apiVersion") != manager.api_version:
            return EMPTY
        fieldsets.validate(config, shape)
    except (ValueError, RecursionError, fieldsets.SchemaError):
        # An annotation may hold anything, and be nested as deep as it is long.
        return EMPTY
    changes = fieldsets.compare(config, live, shape)
    return fieldsets.field_set(config, shape) - changes.touched - changes.removed


def _last_applied_text(config: JSONObject) -> str:
    """An applied document as kubectl keeps it in an annotation: without that annotation."""
    meta = dict(config.get("metadata") or {})
    if meta.get("annotations"):
        meta["annotations"] = {name: value for name, value in meta["annotations"].items() if name != _LAST_APPLIED}
    text = json.dumps({**config, "metadata": meta}, sort_keys=True, separators=(",", ":"), ensure_ascii=False) + "\n"
    return formatting.escape_html(text.encode("utf-8")).decode("utf-8")


# --- managedFields on the wire ------------------------------------------------------------------------------------


def _decode(entries: Sequence[JSONObject]) -> _Managers | None:
    """The managers in a list of entries; None if one of them is not valid."""
    managers: _Managers = {}
    for entry in entries:
        operation, api_version = entry.get("operation"), entry.get("apiVersion", "")
        if operation not in ("Apply", "Update") or not api_version or entry.get("fieldsType") != "FieldsV1":
            return None
        fields = fieldsets.parse_fields_v1(entry.get("fieldsV1") or {})
        if fields is None:
            return None
        key = _Key(
            operation,
            entry.get("manager", ""),
            entry.get("subresource", ""),
            api_version if operation == "Update" else "",
        )
        managers[key] = _Owned(fields, entry.get("time") or "", api_version)
    return managers


def _encode(managers: _Managers) -> list[dict[str, object]]:
    keys = sorted(
        managers, key=lambda key: (key.operation, managers[key].time, key.manager, key.api_version, key.subresource)
    )
    entries = []
    for key in keys:
        owned = managers[key]
        entry: dict[str, object] = {"manager": key.manager, "operation": key.operation, "apiVersion": owned.api_version}
        if owned.time:
            entry["time"] = owned.time
        entry |= {"fieldsType": "FieldsV1", "fieldsV1": fieldsets.to_fields_v1(owned.fields)}
        if key.subresource:
            entry["subresource"] = key.subresource
        entries.append(entry)
    return entries


def _without_managed_fields(document: JSONObject) -> dict[str, object]:
    meta = document.get("metadata") or {}
    return {**document, "metadata": {name: value for name, value in meta.items() if name != "managedFields"}}


def _empty_object(shape: Shape) -> dict[str, object]:
    """An object without content, as it is encoded: with the fields that are always written."""
    assert shape.struct is not None  # noqa: S101 - objects are structs
    return codec.to_builtins(shape.struct())
