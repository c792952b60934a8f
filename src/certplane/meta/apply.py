"""Server-side apply and managedFields: who owns which field, and what happens when two want the same one.

The theory. A document is a tree; a *field set* is a set of paths in it. Every manager (a name, an operation, a
subresource) owns a set, kept in `metadata.managedFields`. Every kind of write goes the same way:

* an **update** (POST, PUT, other patches) is compared with what was there: what it added or modified, its manager takes
  from all others; what it removed, everybody loses;
* an **apply** says with its whole document what its manager wants to own: the document is merged into the live object,
  fields that the manager owned before, does not mention any more and nobody else owns are removed, and a field that
  another manager owns with a different value is a conflict, unless the apply is forced.

A path's elements are written as in FieldsV1: `f:name`, `k:{"type":"x"}` for an item of a list with keys, `v:"x"` for an
item of a set, `.` for the node itself. Lists without keys and types marked as atomic are owned as a whole.

It does not know what a field means; fields that a door resets (`ignored`) never enter a set.

Source: KEP-555; `sigs.k8s.io/structured-merge-diff` (merge/update.go, typed/{compare,merge,tofieldset}.go);
`k8s.io/apimachinery/pkg/util/managedfields`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from certplane import errors
from certplane.meta import codec, shape

Path = tuple[str, ...]
Set = frozenset[Path]

_NONE: Final[Set] = frozenset()
_MAX_UPDATERS: Final = 10
_ANCIENT: Final = "ancient-changes"
_BEFORE: Final = "before-first-apply"

#: System metadata, which nobody owns.
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


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class _Key:
    """What tells managers apart. Appliers are the same in every version."""

    operation: str
    manager: str
    subresource: str
    api_version: str


@dataclasses.dataclass(frozen=True, slots=True)
class _Owned:
    fields: Set
    time: str
    api_version: str


_Managers = dict[_Key, _Owned]


class SchemaProblem(Exception):
    """A document does not fit its type; `str` has all that is wrong, as structured-merge-diff prints it."""


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
    return _encode(_updated(before, _bare(new), of, writer, managers))


def apply(
    live: Mapping[str, Any] | None, config: Mapping[str, Any], of: shape.Shape, writer: Writer, *, force: bool
) -> dict[str, Any]:
    """The object after an apply, with its managedFields. `live` is None when the object is created by it.

    Raises errors.BadRequest for managedFields in the document, errors.UnreasonedError for one that does not fit its
    type, errors.ApplyConflict.
    """
    meta = config.get("metadata")
    meta = meta if isinstance(meta, Mapping) else {}
    if meta.get("managedFields") is not None:
        raise errors.BadRequest("metadata.managedFields must be nil")
    try:
        wanted = _field_set(config, of)
    except SchemaProblem as error:
        what = f"{meta.get('namespace', '')}/{meta.get('name', '')}; {config['apiVersion']}, Kind={config['kind']}"
        raise errors.UnreasonedError(f"failed to create typed patch object ({what}): {error}") from error
    before = _bare(live) if live is not None else _blank(of)
    managers = _decode((live or {}).get("metadata", {}).get("managedFields") or []) or {}
    if live is not None and not managers:
        first = dataclasses.replace(writer, manager=_BEFORE, subresource="")
        managers = _updated(_blank(of), before, of, first, managers)
    key = _Key("Apply", writer.manager, writer.subresource, "")
    last = managers.get(key, _Owned(_NONE, "", writer.api_version))
    managers[key] = _Owned(_without(wanted, writer.ignored), last.time, writer.api_version)
    merged = _merge(before, config, of)
    merged = _pruned(merged, last.fields, managers, of)
    changes = _compare(before, merged, of)
    _settle(managers, key, changes, writer, force=force)
    result = merged if changes else before
    if changes and key in managers:
        managers[key] = dataclasses.replace(managers[key], time=writer.now)
    result = {**result, "metadata": {**result.get("metadata", {}), "managedFields": _encode(managers)}}
    if not result["metadata"]["managedFields"]:
        del result["metadata"]["managedFields"]
    return result


# --- who owns what after a change ---------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class _Changes:
    """Where two documents differ."""

    added: Set = _NONE
    modified: Set = _NONE
    removed: Set = _NONE

    def __bool__(self) -> bool:
        return bool(self.added or self.modified or self.removed)


def _updated(
    before: Mapping[str, Any], after: Mapping[str, Any], of: shape.Shape, writer: Writer, managers: _Managers
) -> _Managers:
    try:
        changes = _compare(before, after, of)
    except SchemaProblem:
        # What cannot be compared (items of one key twice) is left to validation; ownership stays as it was.
        return managers
    key = _Key("Update", writer.manager, writer.subresource, writer.api_version)
    former = managers.get(key)
    taken = _without(changes.added | changes.modified, writer.ignored)
    _settle(managers, None, changes, writer, force=True)
    left = managers.pop(key).fields if key in managers else _NONE
    if taken or left:
        fields = left | taken
        time = former.time if former is not None and former.fields == fields else writer.now
        managers[key] = _Owned(fields, time, writer.api_version)
    return _capped(managers)


def _settle(managers: _Managers, writer_key: _Key | None, changes: _Changes, writer: Writer, *, force: bool) -> None:
    """Take from everybody but `writer_key` what was changed or is gone. Raises errors.ApplyConflict unless forced."""
    touched = _without(changes.added | changes.modified, writer.ignored)
    conflicts = {
        key: sorted(found, key=_order)
        for key, owned in managers.items()
        if key != writer_key and (found := owned.fields & touched)
    }
    if conflicts and not force:
        raise errors.ApplyConflict(
            [(_name(key), [_text(path) for path in conflicts[key]]) for key in sorted(conflicts, key=_name)]
        )
    for key in list(managers):
        owned = managers[key]
        if key != writer_key:
            owned = dataclasses.replace(owned, fields=owned.fields - touched - changes.removed)
        fields = owned.fields - _STRIPPED
        if fields:
            managers[key] = dataclasses.replace(owned, fields=fields)
        else:
            del managers[key]


def _capped(managers: _Managers) -> _Managers:
    """At most ten updaters have an entry each; the oldest beyond that share one."""
    updaters = sorted((key for key in managers if key.operation == "Update"), key=lambda key: (managers[key].time, key))
    for key in updaters[: max(0, len(updaters) - _MAX_UPDATERS)]:
        if key.manager == _ANCIENT:
            continue
        old = managers.pop(key)
        shared = _Key("Update", _ANCIENT, "", key.api_version)
        known = managers.get(shared, _Owned(_NONE, "", key.api_version))
        managers[shared] = _Owned(known.fields | old.fields, max(known.time, old.time), key.api_version)
    return managers


def _name(key: _Key) -> str:
    text = json.dumps(key.manager, ensure_ascii=False)
    if key.subresource:
        text += f" with subresource {json.dumps(key.subresource)}"
    return f"{text} using {key.api_version}" if key.operation == "Update" else text


def _without(fields: Set, ignored: Sequence[str]) -> Set:
    """A set without system metadata and without what lies under the ignored paths."""
    prefixes = [tuple(f"f:{part}" for part in each.split(".")) for each in ignored]
    return frozenset(
        path
        for path in fields
        if path not in _STRIPPED and not any(path[: len(prefix)] == prefix for prefix in prefixes)
    )


# --- walking documents by their type ------------------------------------------------------------------------------


def _is_atomic(of: shape.Shape, field: shape.Field | None) -> bool:
    """Whether a value is owned as a whole."""
    if of.kind == "list":
        return field is None or field.list_type not in ("map", "set")
    if of.kind in ("struct", "map"):
        return of.atomic
    return True


def _children(
    value: Any, of: shape.Shape, field: shape.Field | None, where: Path
) -> dict[str, tuple[Any, shape.Shape, shape.Field | None]]:
    """The parts of a map, struct or keyed list, by path element, in order. Raises SchemaProblem."""
    if value is None:
        return {}
    if of.kind == "list":
        return _items(value, of, field, where)
    if not isinstance(value, Mapping):
        raise SchemaProblem(f"{_text(where)}: expected map, got {_go(value)}")
    if of.kind == "map":
        assert of.element is not None  # noqa: S101 - maps have one
        return {f"f:{name}": (each, of.element, None) for name, each in value.items()}
    found: dict[str, tuple[Any, shape.Shape, shape.Field | None]] = {}
    for name, each in value.items():
        known = of.fields.get(name)
        if known is None:
            raise SchemaProblem(f"{_text((*where, f'f:{name}'))}: field not declared in schema")
        found[f"f:{name}"] = (each, known.shape, known)
    return found


def _items(
    value: Any, of: shape.Shape, field: shape.Field | None, where: Path
) -> dict[str, tuple[Any, shape.Shape, shape.Field | None]]:
    assert of.element is not None  # noqa: S101 - lists have one
    assert field is not None  # noqa: S101 - only fields say how their lists are merged
    if not isinstance(value, list):
        raise SchemaProblem(f"{_text(where)}: expected list, got {_go(value)}")
    found: dict[str, tuple[Any, shape.Shape, shape.Field | None]] = {}
    for position, item in enumerate(value):
        element = _item_element(item, of.element, field, f"{_text(where)}: element {position}")
        if element in found:
            raise SchemaProblem(f"{_text(where)}: duplicate entries for key {_text((element,))}")
        found[element] = (item, of.element, None)
    return found


def _item_element(item: Any, of: shape.Shape, field: shape.Field, where: str) -> str:
    if field.list_type == "set":
        return f"v:{_json(item)}"
    if not isinstance(item, Mapping):
        raise SchemaProblem(f"{where}: associative list with keys may not have non-map elements")
    keys = {}
    for name in field.keys:
        value = item.get(name)
        if value is None and of.fields[name].omitempty:
            raise SchemaProblem(
                f"{where}: associative list with keys has an element that omits key field {_json(name)} "
                "(and doesn't have default value)"
            )
        keys[name] = "" if value is None else value
    return f"k:{_json(keys)}"


_EXPECTED: Final = {
    "string": (str, "string"), "bytes": (str, "string"), "time": (str, "string"), "microtime": (str, "string"),
    "boolean": (bool, "boolean"), "integer": (int, "numeric (int or float)"),
}  # fmt: skip


def _field_set(value: Any, of: shape.Shape) -> Set:
    """All paths that a document speaks of. Raises SchemaProblem, with everything that is wrong."""
    found: set[Path] = set()
    problems: list[str] = []
    _collect(value, of, None, (), (found, problems))
    if problems:
        raise SchemaProblem(
            problems[0] if len(problems) == 1 else "errors:\n" + "\n".join(f"  {each}" for each in problems)
        )
    return frozenset(found)


def _collect(
    value: Any, of: shape.Shape, field: shape.Field | None, where: Path, out: tuple[set[Path], list[str]]
) -> None:
    found, problems = out
    if _is_atomic(of, field):
        expected = _EXPECTED.get(of.kind)
        if expected is not None and value is not None and not _is_a(value, expected[0]):
            problems.append(f"{_text(where)}: expected {expected[1]}, got {_go(value)}")
        found.add(where)
        return
    try:
        children = _children(value, of, field, where)
    except SchemaProblem as error:
        problems.append(str(error))
        return
    for element, (child, child_shape, child_field) in children.items():
        path = (*where, element)
        _collect(child, child_shape, child_field, path, out)
        if of.kind != "struct" or child is None or child == {}:
            found.add(path)


def _is_a(value: Any, wanted: type) -> bool:
    if isinstance(value, bool):
        return wanted is bool
    return isinstance(value, wanted) or (wanted is int and isinstance(value, float))


_ABSENT: Final = object()


def _compare(before: Any, after: Any, of: shape.Shape) -> _Changes:
    """Where two documents differ. Raises SchemaProblem for what has no type."""
    added: set[Path] = set()
    modified: set[Path] = set()
    removed: set[Path] = set()
    _walk(before, after, (of, None), (), (added, modified, removed))
    return _Changes(frozenset(added) - _STRIPPED, frozenset(modified) - _STRIPPED, frozenset(removed) - _STRIPPED)


def _walk(
    before: Any,
    after: Any,
    of: tuple[shape.Shape, shape.Field | None],
    where: Path,
    out: tuple[set[Path], set[Path], set[Path]],
) -> None:
    added, modified, removed = out
    if before is _ABSENT:
        added.add(where)
    elif after is _ABSENT:
        removed.add(where)
    elif before == after:
        return
    if _is_atomic(*of):
        if before is not _ABSENT and after is not _ABSENT:
            modified.add(where)
        return
    old = {} if before is _ABSENT else _children(before, *of, where)
    new = {} if after is _ABSENT else _children(after, *of, where)
    for element in old.keys() | new.keys():
        left, child, field = old.get(element) or (_ABSENT, *new[element][1:])
        right = new[element][0] if element in new else _ABSENT
        _walk(left, right, (child, field), (*where, element), out)


def _merge(live: Any, config: Any, of: shape.Shape, field: shape.Field | None = None) -> Any:
    """The live value with what the applied one says on top."""
    if _is_atomic(of, field) or not live:
        return config
    if config is None:
        return live
    if of.kind == "list":
        return _merge_items(live, config, of, field)
    merged = dict(live)
    for element, (value, child_shape, child_field) in _children(config, of, field, ()).items():
        name = element[2:]
        merged[name] = _merge(live[name], value, child_shape, child_field) if name in live else value
    return merged


def _merge_items(live: Any, config: Any, of: shape.Shape, field: shape.Field | None) -> list[Any]:
    """Items of both lists. What both have stands in the applied order; what only one has keeps its neighbours."""
    left, right = _items(live, of, field, ()), _items(config, of, field, ())
    merged: dict[str, Any] = {}
    old = iter(left)
    for element, (value, *_) in right.items():
        if element in left and element not in merged:
            for each in old:
                if each not in right:
                    merged[each] = left[each][0]
                elif each == element:
                    break
            assert of.element is not None  # noqa: S101 - lists have one
            merged[element] = _merge(left[element][0], value, of.element)
        elif element not in merged:
            for each in _leading_own(left, right, merged):
                merged[each] = left[each][0]
            merged[element] = value
    for each, (value, *_) in left.items():
        merged.setdefault(each, value)
    return list(merged.values())


def _leading_own(left: Mapping[str, Any], right: Mapping[str, Any], merged: Mapping[str, Any]) -> Iterator[str]:
    """The live items that come before the next shared one and are not placed yet."""
    for each in list(left):
        if each in merged:
            continue
        if each in right:
            return
        yield each


def _pruned(merged: Any, last: Set, managers: _Managers, of: shape.Shape) -> Any:
    """Without the fields that the manager owned and no longer mentions, if nobody else owns them."""
    if not last:
        return merged
    owned = _with_containers(frozenset().union(*(each.fields for each in managers.values())))
    gone = _with_containers(last) - owned
    return _remove(merged, of, None, (), gone) if gone else merged


def _with_containers(fields: Set) -> Set:
    """A set, with the named fields on the way to its members."""
    return frozenset(
        path[:length]
        for path in fields
        for length in range(1, len(path) + 1)
        if length == len(path) or path[length - 1].startswith("f:")
    )


def _remove(value: Any, of: shape.Shape, field: shape.Field | None, where: Path, gone: Set) -> Any:
    if _is_atomic(of, field) or value is None:
        return value
    kept = {}
    for element, (child, child_shape, child_field) in _children(value, of, field, where).items():
        path = (*where, element)
        if path not in gone:
            kept[element] = _remove(child, child_shape, child_field, path, gone)
        elif element.startswith("f:") and isinstance(child, Mapping | list):
            # A container goes when nothing is left in it: what nobody ever owned stays.
            rest = _remove(child, child_shape, child_field, path, gone)
            if rest and not _is_atomic(child_shape, child_field):
                kept[element] = rest
    if of.kind == "list":
        return list(kept.values())
    return {element[2:]: each for element, each in kept.items()}


# --- managedFields on the wire ------------------------------------------------------------------------------------


def _decode(entries: Sequence[Mapping[str, Any]]) -> _Managers | None:
    """The managers in a list of entries; None if one of them is not valid."""
    managers: _Managers = {}
    for entry in entries:
        operation, fields = entry.get("operation"), entry.get("fieldsV1")
        if operation not in ("Apply", "Update") or entry.get("fieldsType") != "FieldsV1":
            return None
        found: set[Path] = set()
        if fields is not None and not _parse_fields(fields, (), found):
            return None
        api_version = entry.get("apiVersion", "")
        key = _Key(
            operation,
            entry.get("manager", ""),
            entry.get("subresource", ""),
            api_version if operation == "Update" else "",
        )
        managers[key] = _Owned(frozenset(found), entry.get("time") or "", api_version)
    return managers


def _parse_fields(tree: Any, where: Path, found: set[Path]) -> bool:
    if not isinstance(tree, Mapping):
        return False
    if not tree and where:
        found.add(where)
    for element, below in tree.items():
        if element == ".":
            found.add(where)
        elif element[:2] not in ("f:", "k:", "v:", "i:") or not _parse_fields(below, (*where, element), found):
            return False
    return True


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
        entry |= {"fieldsType": "FieldsV1", "fieldsV1": _tree(owned.fields)}
        if key.subresource:
            entry["subresource"] = key.subresource
        entries.append(entry)
    return entries


def _tree(fields: Set) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path in sorted(fields, key=_order):
        node = tree
        for depth, element in enumerate(path):
            if element not in node:
                node[element] = {}
            elif not node[element] and path[: depth + 1] in fields and depth + 1 < len(path):
                node[element]["."] = {}
            node = node[element]
    return tree


_RANK: Final = {"f": 0, "k": 1, "v": 2, "i": 3}


def _order(path: Path) -> list[tuple[int, str]]:
    return [(_RANK[element[0]], element) for element in path]


def _text(path: Path) -> str:
    """A path as conflicts and problems print it."""
    found = ""
    for element in path:
        kind, _, rest = element.partition(":")
        if kind == "f":
            found += f".{rest}"
        elif kind == "k":
            found += "[" + ",".join(f"{name}={_json(value)}" for name, value in json.loads(rest).items()) + "]"
        elif kind == "v":
            found += f"[={rest}]"
        else:
            found += f"[{rest}]"
    return found


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def _go(value: Any) -> str:
    return f"&value.valueUnstructured{{Value:{_go_syntax(value)}}}"


def _go_syntax(value: Any) -> str:
    if isinstance(value, Mapping):
        inner = ", ".join(f"{_json(name)}:{_go_syntax(each)}" for name, each in sorted(value.items()))
        return f"map[string]interface {{}}{{{inner}}}"
    if isinstance(value, list):
        return "[]interface {}{" + ", ".join(map(_go_syntax, value)) + "}"
    return "interface {}(nil)" if value is None else _json(value)


def _bare(document: Mapping[str, Any]) -> dict[str, Any]:
    """A document without its managedFields."""
    meta = document.get("metadata") or {}
    return {**document, "metadata": {name: value for name, value in meta.items() if name != "managedFields"}}


def _blank(of: shape.Shape) -> dict[str, Any]:
    """An object of a type that says nothing, as it looks on the wire: parts that are always written are there."""
    assert of.struct is not None  # noqa: S101 - objects are structs
    return codec.to_builtins(of.struct())
