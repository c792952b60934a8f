"""Documents as trees of typed fields: their field sets, the differences between two documents, merging and removing.

A *field set* is a set of paths. The elements of a path are written as in FieldsV1: `f:name`, `k:{"type":"x"}` for an
item of a list with keys, `v:"x"` for an item of a set, `i:0` for any other item. A list without keys, or a value of an
atomic type, is one field, whatever it contains.

This module knows nothing of managers. Source: `sigs.k8s.io/structured-merge-diff`,
typed/{validate,tofieldset,compare,merge,remove}.go.
"""

from __future__ import annotations

import collections
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from certplane.golang import formatting
from certplane.meta.shapes import Field, Shape

Path = tuple[str, ...]
FieldSet = frozenset[Path]

EMPTY: Final[FieldSet] = frozenset()


class _Typed(NamedTuple):
    """The type of a value, and the field that holds it, which says how lists are merged; None for an item."""

    shape: Shape
    field: Field | None = None


_Children = dict[str, tuple[Any, _Typed]]


class SchemaError(Exception):
    """A document does not fit its type; `str` has all errors, as structured-merge-diff prints them."""


@dataclasses.dataclass(frozen=True, slots=True)
class Changes:
    """The differences between two documents."""

    added: FieldSet = EMPTY
    modified: FieldSet = EMPTY
    removed: FieldSet = EMPTY

    @property
    def touched(self) -> FieldSet:
        return self.added | self.modified


# --- validation ---------------------------------------------------------------------------------------------------


def validate(document: object, shape: Shape) -> None:
    """Raises SchemaError, with all errors, if a document does not fit its type."""
    problems = [f"{format_path(path)}: {text}" for path, text in _problems(document, _Typed(shape), ())]
    if problems:
        raise SchemaError(
            problems[0] if len(problems) == 1 else "errors:\n" + "\n".join(f"  {problem}" for problem in problems)
        )


def _problems(value: object, typed: _Typed, path: Path) -> Iterator[tuple[Path, str]]:
    kind = typed.shape.kind
    if value is None:
        return
    if kind == "list":
        yield from _list_problems(value, typed, path)
    elif kind in ("struct", "map"):
        yield from _map_problems(value, typed.shape, path)
    elif kind in ("time", "microtime", "quantity") and isinstance(value, Mapping | list):
        # Types with their own decoder are scalars in the schema.
        yield path, f"expected any scalar, got {_pointer(value)}"
    elif kind in ("string", "bytes") and not isinstance(value, str):
        yield path, f"expected string, got &value.valueUnstructured{{Value:{formatting.format_syntax(value)}}}"
    elif kind == "boolean" and not isinstance(value, bool):
        yield path, f"expected boolean, got {_pointer(value)}"
    elif kind == "integer" and (isinstance(value, bool) or not isinstance(value, int | float)):
        yield path, f"expected numeric (int or float), got {formatting.type_name(value)}"


def _list_problems(value: object, typed: _Typed, path: Path) -> Iterator[tuple[Path, str]]:
    shape, field = typed
    if not isinstance(value, list):
        yield path, f"expected list, got {_pointer(value)}"
        return
    assert shape.element is not None  # noqa: S101 - lists have one
    seen: set[str] = set()
    for position, item in enumerate(value):
        try:
            element = f"i:{position}" if is_atomic(shape, field) else _element(item, typed)
        except SchemaError as error:
            yield path, f"element {position}: {error}"
            return
        if element in seen:
            yield path, f"duplicate entries for key {format_path((element,))}"
        seen.add(element)
        yield from _problems(item, _Typed(shape.element), (*path, element))


def _map_problems(value: object, shape: Shape, path: Path) -> Iterator[tuple[Path, str]]:
    if not isinstance(value, Mapping):
        yield path, f"expected map, got {_pointer(value)}"
        return
    for name, item in value.items():
        field = shape.fields.get(name)
        item_path = (*path, f"f:{name}")
        if shape.kind == "map":
            assert shape.element is not None  # noqa: S101 - maps have one
            yield from _problems(item, _Typed(shape.element), item_path)
        elif field is not None:
            yield from _problems(item, _Typed(field.shape, field), item_path)
        else:
            yield item_path, "field not declared in schema"
            return


def _pointer(value: object) -> str:
    """`%v` of a pointer to a struct that holds the value."""
    return f"&{{{formatting.format_value(value)}}}"


# --- children of a value ------------------------------------------------------------------------------------------


def is_atomic(shape: Shape, field: Field | None) -> bool:
    """Whether a value is one field, whatever it contains."""
    if shape.kind == "list":
        return field is None or field.list_type not in ("map", "set")
    return shape.atomic if shape.kind in ("struct", "map") else True


class _DuplicateItems(list[object]):
    """The items of a list that have the same key."""

    __slots__ = ()


def _children(value: Any, typed: _Typed) -> _Children:
    """The children of a map, struct or keyed list, by path element, in order. Raises SchemaError."""
    shape = typed.shape
    if not value:
        return {}
    if shape.kind == "list":
        return _items(value, typed)
    if shape.kind == "map":
        assert shape.element is not None  # noqa: S101 - maps have one
        return {f"f:{name}": (item, _Typed(shape.element)) for name, item in value.items()}
    fields = shape.fields
    return {f"f:{name}": (item, _Typed(fields[name].shape, fields[name])) for name, item in value.items()}


def _items(value: list[object], typed: _Typed) -> _Children:
    element_shape = typed.shape.element
    assert element_shape is not None  # noqa: S101 - lists have one
    items: _Children = {}
    for item in value:
        element = _element(item, typed)
        if element in items:
            previous = items[element][0]
            if isinstance(previous, _DuplicateItems):
                previous.append(item)
                continue
            item = _DuplicateItems([previous, item])
        items[element] = (item, _Typed(element_shape))
    return items


def _element(item: object, typed: _Typed) -> str:
    """The path element of an item of a set, or of a list with keys. Raises SchemaError."""
    shape, field = typed
    assert shape.element is not None  # noqa: S101 - lists have one
    assert field is not None  # noqa: S101 - only a field says how its list is merged
    if field.list_type == "set":
        if isinstance(item, Mapping):
            raise SchemaError("associative list without keys has an element that's a map type")
        if isinstance(item, list):
            raise SchemaError("not supported: associative list with lists as elements")
        if item is None:
            raise SchemaError("associative list without keys has an element that's an explicit null")
        return f"v:{_json(item)}"
    if item is None:
        raise SchemaError("associative list with keys may not have a null element")
    if not isinstance(item, Mapping):
        raise SchemaError("associative list with keys may not have non-map elements")
    # A key field that is always written has a default, the empty string.
    defaults = {name: "" for name in field.keys if not shape.element.fields[name].omitempty}
    keys = {name: item.get(name, defaults.get(name)) for name in field.keys if name in item or name in defaults}
    if not keys:
        raise SchemaError(
            f"associative list with keys has an element that omits all key fields {formatting.quote_all(field.keys)} "
            "(and doesn't have default values for any key fields)"
        )
    return f"k:{_json(keys)}"


# --- field sets ---------------------------------------------------------------------------------------------------


def field_set(document: object, shape: Shape) -> FieldSet:
    """The set of all fields of a valid document."""
    paths: set[Path] = set()
    _collect(document, _Typed(shape), (), paths)
    return frozenset(paths)


def _collect(value: object, typed: _Typed, path: Path, paths: set[Path]) -> None:
    if is_atomic(*typed):
        paths.add(path)
        return
    for element, (child, child_type) in _children(value, typed).items():
        child_path = (*path, element)
        if isinstance(child, _DuplicateItems):
            paths.add(child_path)
            continue
        _collect(child, child_type, child_path, paths)
        if typed.shape.kind != "struct" or child is None or child == {}:
            paths.add(child_path)


# --- comparison ---------------------------------------------------------------------------------------------------

_ABSENT: Final = object()


def compare(before: object, after: object, shape: Shape) -> Changes:
    """The differences between two documents. List items with the same key count as one. Raises SchemaError."""
    comparison = _Comparison()
    comparison.walk(before, after, _Typed(shape), ())
    return Changes(frozenset(comparison.added), frozenset(comparison.modified), frozenset(comparison.removed))


class _Comparison:
    """The state of a comparison."""

    def __init__(self) -> None:
        self.added: set[Path] = set()
        self.modified: set[Path] = set()
        self.removed: set[Path] = set()

    def walk(self, before: object, after: object, typed: _Typed, path: Path) -> None:
        if before is _ABSENT:
            self.added.add(path)
        elif after is _ABSENT:
            self.removed.add(path)
        elif before == after:
            return
        elif is_atomic(*typed) or (not before and not after):
            self.modified.add(path)
            return
        if is_atomic(*typed):
            return
        old = {} if before is _ABSENT else _children(before, typed)
        new = {} if after is _ABSENT else _children(after, typed)
        for element in (*old, *(element for element in new if element not in old)):
            left, child_type = old.get(element) or (_ABSENT, new[element][1])
            right = new[element][0] if element in new else _ABSENT
            self._walk_child(left, right, child_type, (*path, element))

    def _walk_child(self, left: object, right: object, typed: _Typed, path: Path) -> None:
        if not isinstance(left, _DuplicateItems) and not isinstance(right, _DuplicateItems):
            self.walk(left, right, typed, path)
        elif not isinstance(right, _DuplicateItems):
            if right is not _ABSENT:
                self.walk(_ABSENT, right, typed, path)
            self.removed.add(path)
        elif not isinstance(left, _DuplicateItems):
            if left is not _ABSENT:
                self.walk(left, _ABSENT, typed, path)
            self.added.add(path)
        elif left != right:
            self.modified.add(path)


# --- merging and removing -----------------------------------------------------------------------------------------


def merge(live: object, config: object, shape: Shape) -> object:
    """The live document, overridden by the fields of the applied one."""
    return _merge(live, config, _Typed(shape))


def _merge(live: Any, config: Any, typed: _Typed) -> Any:
    if is_atomic(*typed) or not live:
        return config
    if config is None:
        return live
    if typed.shape.kind == "list":
        return _merge_items(live, config, typed)
    merged = dict(live)
    for element, (value, child_type) in _children(config, typed).items():
        name = element[2:]
        merged[name] = _merge(live[name], value, child_type) if name in live else value
    return merged


def _merge_items(live: list[object], config: list[object], typed: _Typed) -> list[object]:
    """The items of both lists. Common items are in the applied order; the others stay beside their neighbours."""
    live_items = [(_element(item, typed), item) for item in live]
    applied = [_element(item, typed) for item in config]
    merged = _merge_by_element(live, config, typed)
    live_elements = {element for element, _ in live_items}
    common = collections.deque(element for element in applied if element in live_elements)
    result: list[object] = []
    position = 0
    for element in applied:
        # Items that only the live list has come first, up to the next common item.
        while position < len(live_items) and live_items[position][0] != element:
            live_element, item = live_items[position]
            if common and common[0] == live_element:
                break
            position += 1
            if live_element not in merged:
                result.append(item)
            elif not common:
                break
        position += position < len(live_items) and live_items[position][0] == element
        result.append(merged[element])
        if common and common[0] == element:
            common.popleft()
    return result + [item for element, item in live_items[position:] if element not in merged]


def _merge_by_element(live: list[object], config: list[object], typed: _Typed) -> dict[str, object]:
    """The applied items, each merged with the live item of the same key, if there is exactly one."""
    live_items = _items(live, typed)
    merged = {}
    for element, (item, child_type) in _items(config, typed).items():
        live_item = live_items.get(element, (None, child_type))[0]
        merged[element] = _merge(None if isinstance(live_item, _DuplicateItems) else live_item, item, child_type)
    return merged


def remove(document: object, shape: Shape, removed: FieldSet) -> object:
    """A document without the removed fields. A container is removed when nothing is left in it."""
    return _remove(document, _Typed(shape), (), removed)


def _remove(value: Any, typed: _Typed, path: Path, removed: FieldSet) -> Any:
    shape = typed.shape
    if is_atomic(*typed) or not value:
        return value
    if shape.kind == "list":
        assert shape.element is not None  # noqa: S101 - lists have one
        item_type = _Typed(shape.element)
        items = [((*path, _element(item, typed)), item) for item in value]
        return [_remove(item, item_type, item_path, removed) for item_path, item in items if item_path not in removed]
    remaining = {}
    for element, (child, child_type) in _children(value, typed).items():
        child_path = (*path, element)
        rest = _remove(child, child_type, child_path, removed)
        # Fields without an owner stay, and their container with them.
        stays = isinstance(child, Mapping | list) and rest and not is_atomic(*child_type)
        if child_path not in removed or stays:
            remaining[element[2:]] = rest
    return remaining


# --- FieldsV1 and paths -------------------------------------------------------------------------------------------


def parse_fields_v1(tree: object) -> FieldSet | None:
    """The field set of a FieldsV1 tree; None if the tree is invalid."""
    paths: set[Path] = set()
    return frozenset(paths) if _parse(tree, (), paths) else None


#: Maximum elements of a path: every path holds all its elements, so memory grows with depth times fields. The types of
#: this server need ten.
_MAX_PATH_LENGTH: Final = 32


def _parse(tree: object, path: Path, paths: set[Path]) -> bool:
    if not isinstance(tree, Mapping) or len(path) > _MAX_PATH_LENGTH:
        return False
    if not tree and path:
        paths.add(path)
    for element, subtree in tree.items():
        if element == ".":
            paths.add(path)
        elif not _is_element(element) or not _parse(subtree, (*path, element), paths):
            return False
    return True


def _is_element(element: str) -> bool:
    kind, colon, rest = element[:1], element[1:2], element[2:]
    if colon != ":" or kind not in _RANK:
        return False
    if kind == "f":
        return True
    try:
        value = json.loads(rest)
    except ValueError:
        return False
    return kind == "v" or isinstance(value, dict if kind == "k" else int)


def to_fields_v1(fields: FieldSet) -> dict[str, object]:
    """The FieldsV1 tree of a field set."""
    root: dict[str, Any] = {}
    for path in sort_paths(fields):
        node = root
        for depth, element in enumerate(path):
            if element not in node:
                node[element] = {}
            elif not node[element] and path[: depth + 1] in fields and depth + 1 < len(path):
                node[element]["."] = {}
            node = node[element]
    return root


_RANK: Final = {"f": 0, "k": 1, "v": 2, "i": 3}


def sort_paths(paths: Sequence[Path] | FieldSet) -> list[Path]:
    """Paths in the order of FieldsV1: names first, then keys, values and positions."""
    # The key is one string: comparing tuples of many paths would block all threads for seconds.
    return sorted(paths, key=lambda path: "".join([f"{_RANK[element[0]]}{element}\0" for element in path]))


def format_path(path: Path) -> str:
    """A path as conflicts and errors print it."""
    text = ""
    for element in path:
        kind, _, rest = element.partition(":")
        if kind == "f":
            text += f".{rest}"
        elif kind == "k":
            text += "[" + ",".join(f"{name}={_json(value)}" for name, value in json.loads(rest).items()) + "]"
        else:
            text += f"[={rest}]" if kind == "v" else f"[{rest}]"
    return text


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
