"""Server-side apply and managedFields: who owns which field, and what happens when two want the same one.

The theory. A document is a tree; a *field set* is a set of paths in it. Every manager (a name, an operation, a
subresource) owns a set, kept in `metadata.managedFields`. Every kind of write goes the same way:

* an **update** (POST, PUT, other patches) is compared with what was there: what it added or modified, its manager takes
  from all others; what it removed, everybody loses;
* an **apply** says with its whole document what its manager wants to own: the document is merged into the live object,
  fields that the manager owned before, does not mention any more and nobody else owns are removed, and a field that
  another manager owns with a different value is a conflict, unless the apply is forced.

What is in a document, and where two differ, is told by `fieldsets`; this module does not know what a field means.
Fields that a door resets (`ignored`) never enter a set.

Source: KEP-555; `sigs.k8s.io/structured-merge-diff` (merge/update.go); `k8s.io/apimachinery/pkg/util/managedfields`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from certplane import errors, gotext
from certplane.meta import codec, fieldsets, shape
from certplane.meta.fieldsets import NONE, Set

_MAX_UPDATERS: Final = 10
_ANCIENT: Final = "ancient-changes"
_BEFORE: Final = "before-first-apply"
#: The program that also applies on the client's side, and where it keeps what it applied.
_KUBECTL: Final = "kubectl"
_LAST_APPLIED: Final = "kubectl.kubernetes.io/last-applied-configuration"

#: System metadata, which nobody comes to own by writing it.
_STRIPPED: Final[Set] = frozenset(
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
class Writer:
    """Who writes, through which door, in which version, when; `ignored` are the dotted paths that the door resets."""

    manager: str
    api_version: str
    subresource: str = ""
    ignored: tuple[str, ...] = ()
    now: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class _Key:
    """What tells managers apart. Appliers are the same in every version."""

    operation: str
    manager: str
    subresource: str
    api_version: str

    @property
    def identifier(self) -> str:
        """What the real server calls this manager inside; it sorts by that."""
        parts = {"manager": self.manager, "operation": self.operation, "apiVersion": self.api_version}
        parts["subresource"] = self.subresource
        return gotext.json_text({name: value for name, value in parts.items() if value})


@dataclasses.dataclass(frozen=True, slots=True)
class _Owned:
    fields: Set
    time: str
    api_version: str


_Managers = dict[_Key, _Owned]


# --- the two entrances --------------------------------------------------------------------------------------------


def update(
    live: Mapping[str, Any] | None, new: Mapping[str, Any], of: shape.Shape, writer: Writer
) -> list[dict[str, Any]]:
    """The managedFields after a write that is no apply. `live` is None when the object is created.

    The client may send managedFields of its own in `new` (not through a subresource); invalid ones count as none. An
    empty list, or one empty entry, resets them all.
    """
    sent = new.get("metadata", {}).get("managedFields")
    kept = (live or {}).get("metadata", {}).get("managedFields") or []
    if writer.subresource:
        managers = _decode(kept) or {}
    elif sent in ([], [{}]):
        managers = {}
    else:
        managers = _decode(sent or []) or _decode(kept) or {}
    if live is not None and not managers:
        # Tracking begins with the creation, or with the first apply.
        return []
    before = _bare(live) if live is not None else _blank(of)
    try:
        return _encode(_updated(before, _bare(new), of, writer, _convertible(managers, writer)))
    except fieldsets.SchemaProblem:
        # Of lists whose items cannot be told apart nobody owns anything; nor of anything else, then.
        return []


def apply(
    live: Mapping[str, Any] | None, config: Mapping[str, Any], of: shape.Shape, writer: Writer, *, force: bool
) -> dict[str, Any]:
    """The object after an apply, with its managedFields. `live` is None when the object is created by it.

    Raises errors.BadRequest for managedFields in the document, errors.UnreasonedError for one that does not fit its
    type, errors.ApplyConflict.
    """
    meta = config.get("metadata")
    sent = meta.get("managedFields") if isinstance(meta, Mapping) else None
    if isinstance(sent, list) and all(isinstance(each, Mapping) for each in sent):
        raise errors.BadRequest("metadata.managedFields must be nil")
    try:
        fieldsets.check(config, of)
    except fieldsets.SchemaProblem as error:
        raise errors.UnreasonedError(f"failed to create typed patch object ({naming(config)}): {error}") from error
    before = _bare(live) if live is not None else _blank(of)
    managers = _decode((live or {}).get("metadata", {}).get("managedFields") or []) or {}
    try:
        if live is not None and not managers:
            first = dataclasses.replace(writer, manager=_BEFORE, subresource="")
            managers = _updated(_blank(of), before, of, first, managers)
        result, managers = _applied(before, config, of, writer, _convertible(managers, writer), force=force)
    except fieldsets.SchemaProblem as error:
        raise errors.UnreasonedError(f"failed to create typed live object ({naming(before)}): {error}") from error
    meta = {**(result.get("metadata") or {}), "managedFields": _encode(managers)}
    if not meta["managedFields"]:
        del meta["managedFields"]
    if writer.manager == _KUBECTL and (meta.get("annotations") or {}).get(_LAST_APPLIED):
        # Whoever goes back to client-side apply goes on from here.
        meta["annotations"] = {**meta["annotations"], _LAST_APPLIED: _last_applied_text(config)}
    return {**result, "metadata": meta}


def naming(config: Mapping[str, Any]) -> str:
    """How errors name an applied document: `namespace/name; group/version, Kind=kind`."""
    meta = config.get("metadata")
    name, namespace = (_string(meta, "name"), _string(meta, "namespace"))
    return f"{namespace}/{name}; {type_text(config)}"


def type_text(config: Mapping[str, Any]) -> str:
    """What a document says that it is, as Go prints it: `group/version, Kind=kind`."""
    group, _, version = _string(config, "apiVersion").rpartition("/")
    return f"{group}/{version}, Kind={_string(config, 'kind')}"


def _string(of: Any, name: str) -> str:
    value = of.get(name) if isinstance(of, Mapping) else None
    return value if isinstance(value, str) else ""


# --- who owns what after a change ---------------------------------------------------------------------------------


def _updated(
    before: Mapping[str, Any], after: Mapping[str, Any], of: shape.Shape, writer: Writer, managers: _Managers
) -> _Managers:
    changes = fieldsets.compare(before, after, of)
    # What the writer cannot change is not gone either, whatever it sent: it will be put back.
    touched, gone = (_without(each, writer.ignored) for each in (changes.touched, changes.removed))
    managers = _dispossessed(managers, None, touched | gone)
    if taken := touched - _STRIPPED:
        key = _Key("Update", writer.manager, writer.subresource, writer.api_version)
        former = managers[key].fields if key in managers else NONE
        managers[key] = _Owned(former | taken, writer.now, writer.api_version)
    return _capped(managers)


def _convertible(managers: _Managers, writer: Writer) -> _Managers:
    """The managers whose fields can be told in the writer's form of the object. Another group's cannot (an Event has
    two), and whoever wrote there is forgotten.
    """

    def group(api_version: str) -> str:
        return api_version.rpartition("/")[0]

    own = group(writer.api_version)
    return {key: owned for key, owned in managers.items() if group(owned.api_version) == own}


def _applied(
    before: Mapping[str, Any],
    config: Mapping[str, Any],
    of: shape.Shape,
    writer: Writer,
    managers: _Managers,
    *,
    force: bool,
) -> tuple[Mapping[str, Any], _Managers]:
    """The object (without managedFields) and its managers after an apply. Raises errors.ApplyConflict."""
    key = _Key("Apply", writer.manager, writer.subresource, "")
    last = managers.get(key, _Owned(NONE, "", writer.api_version))
    wanted = _without(fieldsets.field_set(config, of), writer.ignored) - _STRIPPED
    managers = {**managers, key: _Owned(wanted, last.time, writer.api_version)}
    merged = _pruned(fieldsets.merge(before, config, of), last.fields, managers, of)
    changes = fieldsets.compare(before, merged, of)
    touched, gone = (_without(each, writer.ignored) for each in (changes.touched, changes.removed))
    if not force:
        allowed = _last_applied(before, of, writer) if writer.manager == _KUBECTL else NONE
        _refuse_conflicts(managers, key, touched, allowed)
    managers = _dispossessed(managers, key, touched | gone)
    if merged == before:
        return before, managers
    if key in managers:
        managers[key] = dataclasses.replace(managers[key], time=writer.now)
    return merged, managers


def _refuse_conflicts(managers: _Managers, applier: _Key, touched: Set, allowed: Set) -> None:
    """Raises errors.ApplyConflict if others own what an apply touches, and not all of that is allowed."""
    conflicts = {
        _name(key): [fieldsets.text(path) for path in fieldsets.in_order(found)]
        for key, owned in managers.items()
        if key != applier and (found := (owned.fields & touched) - allowed)
    }
    if conflicts:
        raise errors.ApplyConflict([(name, conflicts[name]) for name in sorted(conflicts)])


def _dispossessed(managers: _Managers, but: _Key | None, fields: Set) -> _Managers:
    """The managers when all but one have lost some fields. Who owns nothing any more is gone."""
    left = {
        key: owned if key == but else dataclasses.replace(owned, fields=owned.fields - fields)
        for key, owned in managers.items()
    }
    return {key: owned for key, owned in left.items() if owned.fields}


def _pruned(merged: Any, last: Set, managers: _Managers, of: shape.Shape) -> Any:
    """Without the fields that the manager owned and no longer mentions, if nobody else owns them."""
    owned = _with_containers(NONE.union(*(each.fields for each in managers.values())))
    gone = _with_containers(last) - owned
    return fieldsets.remove(merged, of, gone) if gone else merged


def _with_containers(fields: Set) -> Set:
    """A set, with the named fields on the way to its members."""
    return frozenset(
        path[:length]
        for path in fields
        for length in range(1, len(path) + 1)
        if length == len(path) or path[length - 1].startswith("f:")
    )


def _capped(managers: _Managers) -> _Managers:
    """At most ten updaters have an entry each; of each version, the oldest beyond that share one."""
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
        # Once for all of them: a client may send as many as fit into a body.
        kept = managers[shared].fields if shared in managers else NONE
        managers[shared] = dataclasses.replace(owners[-1], fields=kept.union(*(each.fields for each in owners)))
    return managers


def _name(key: _Key) -> str:
    text = json.dumps(key.manager, ensure_ascii=False)
    if key.subresource:
        text += f" with subresource {json.dumps(key.subresource)}"
    return f"{text} using {key.api_version}" if key.operation == "Update" else text


def _without(fields: Set, ignored: Sequence[str]) -> Set:
    """A set without what lies under the ignored paths."""
    prefixes = [tuple(f"f:{part}" for part in each.split(".")) for each in ignored]
    return frozenset(path for path in fields if not any(path[: len(prefix)] == prefix for prefix in prefixes))


# --- from client-side apply ---------------------------------------------------------------------------------------


def _last_applied(live: Mapping[str, Any], of: shape.Shape, writer: Writer) -> Set:
    """The fields that kubectl's client-side apply has set and that still are as it set them: it may have them back."""
    try:
        config = json.loads((live["metadata"].get("annotations") or {}).get(_LAST_APPLIED, ""))
        if not isinstance(config, dict) or config.get("apiVersion") != writer.api_version:
            return NONE
        fieldsets.check(config, of)
    except (ValueError, RecursionError, fieldsets.SchemaProblem):
        # An annotation may hold anything, and be nested as deep as it is long.
        return NONE
    changes = fieldsets.compare(config, live, of)
    return fieldsets.field_set(config, of) - changes.touched - changes.removed


def _last_applied_text(config: Mapping[str, Any]) -> str:
    """An applied document as kubectl keeps it in an annotation, which is not in there again."""
    meta = dict(config.get("metadata") or {})
    if meta.get("annotations"):
        meta["annotations"] = {name: value for name, value in meta["annotations"].items() if name != _LAST_APPLIED}
    text = json.dumps({**config, "metadata": meta}, sort_keys=True, separators=(",", ":"), ensure_ascii=False) + "\n"
    return gotext.escape_html(text.encode("utf-8")).decode("utf-8")


# --- managedFields on the wire ------------------------------------------------------------------------------------


def _decode(entries: Sequence[Mapping[str, Any]]) -> _Managers | None:
    """The managers in a list of entries; None if one of them is not valid."""
    managers: _Managers = {}
    for entry in entries:
        operation, api_version = entry.get("operation"), entry.get("apiVersion", "")
        if operation not in ("Apply", "Update") or not api_version or entry.get("fieldsType") != "FieldsV1":
            return None
        fields = fieldsets.parse(entry.get("fieldsV1") or {})
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


def _encode(managers: _Managers) -> list[dict[str, Any]]:
    keys = sorted(
        managers, key=lambda key: (key.operation, managers[key].time, key.manager, key.api_version, key.subresource)
    )
    entries = []
    for key in keys:
        owned = managers[key]
        entry: dict[str, Any] = {"manager": key.manager, "operation": key.operation, "apiVersion": owned.api_version}
        if owned.time:
            entry["time"] = owned.time
        entry |= {"fieldsType": "FieldsV1", "fieldsV1": fieldsets.tree(owned.fields)}
        if key.subresource:
            entry["subresource"] = key.subresource
        entries.append(entry)
    return entries


def _bare(document: Mapping[str, Any]) -> dict[str, Any]:
    """A document without its managedFields."""
    meta = document.get("metadata") or {}
    return {**document, "metadata": {name: value for name, value in meta.items() if name != "managedFields"}}


def _blank(of: shape.Shape) -> dict[str, Any]:
    """An object of a type that says nothing, as it looks on the wire: parts that are always written are there."""
    assert of.struct is not None  # noqa: S101 - objects are structs
    return codec.to_builtins(of.struct())
