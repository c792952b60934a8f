"""Documents as trees of typed fields: which fields they have, where two differ, and how one is laid over another.

A *field set* is a set of paths. A path's elements are written as in FieldsV1: `f:name`, `k:{"type":"x"}` for an item of
a list with keys, `v:"x"` for an item of a set, `i:0` for any other item. Lists without keys and types marked as atomic
are one field each, whatever is in them.

It knows nothing of owners. Source: `sigs.k8s.io/structured-merge-diff`, typed/{validate,tofieldset,compare,merge,
remove}.go.
"""

from __future__ import annotations

import collections
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from certplane import gotext
from certplane.meta import shape

Path = tuple[str, ...]
Set = frozenset[Path]

NONE: Final[Set] = frozenset()
#: What a value is: its type, and the field that holds it, which says how lists are merged.
_Typed = tuple[shape.Shape, shape.Field | None]
_Children = dict[str, tuple[Any, _Typed]]


class SchemaProblem(Exception):
    """A document does not fit its type; `str` has all that is wrong, as structured-merge-diff prints it."""


@dataclasses.dataclass(frozen=True, slots=True)
class Changes:
    """Where two documents differ."""

    added: Set = NONE
    modified: Set = NONE
    removed: Set = NONE

    @property
    def touched(self) -> Set:
        return self.added | self.modified


# --- does a document fit its type ---------------------------------------------------------------------------------


def check(document: Any, of: shape.Shape) -> None:
    """Raises SchemaProblem, with everything that is wrong."""
    problems = [f"{text(where)}: {what}" for where, what in _problems(document, (of, None), ())]
    if problems:
        raise SchemaProblem(
            problems[0] if len(problems) == 1 else "errors:\n" + "\n".join(f"  {each}" for each in problems)
        )


def _problems(value: Any, typed: _Typed, where: Path) -> Iterator[tuple[Path, str]]:
    of = typed[0]
    if value is None:
        return
    if of.kind == "list":
        yield from _list_problems(value, typed, where)
    elif of.kind in ("struct", "map"):
        yield from _map_problems(value, of, where)
    elif of.kind in ("time", "microtime", "quantity") and isinstance(value, Mapping | list):
        # Types that decode themselves say no more of themselves than this.
        yield where, f"expected any scalar, got {_pointer(value)}"
    elif of.kind in ("string", "bytes") and not isinstance(value, str):
        yield where, f"expected string, got &value.valueUnstructured{{Value:{gotext.syntax(value)}}}"
    elif of.kind == "boolean" and not isinstance(value, bool):
        yield where, f"expected boolean, got {_pointer(value)}"
    elif of.kind == "integer" and (isinstance(value, bool) or not isinstance(value, int | float)):
        yield where, f"expected numeric (int or float), got {gotext.type_name(value)}"


def _list_problems(value: Any, typed: _Typed, where: Path) -> Iterator[tuple[Path, str]]:
    of, field = typed
    if not isinstance(value, list):
        yield where, f"expected list, got {_pointer(value)}"
        return
    assert of.element is not None  # noqa: S101 - lists have one
    seen: set[str] = set()
    for position, item in enumerate(value):
        try:
            element = f"i:{position}" if is_atomic(of, field) else _element(item, typed)
        except SchemaProblem as error:
            yield where, f"element {position}: {error}"
            return
        if element in seen:
            yield where, f"duplicate entries for key {text((element,))}"
        seen.add(element)
        yield from _problems(item, (of.element, None), (*where, element))


def _map_problems(value: Any, of: shape.Shape, where: Path) -> Iterator[tuple[Path, str]]:
    if not isinstance(value, Mapping):
        yield where, f"expected map, got {_pointer(value)}"
        return
    for name, item in value.items():
        known = of.fields.get(name)
        path = (*where, f"f:{name}")
        if of.kind == "map":
            assert of.element is not None  # noqa: S101 - maps have one
            yield from _problems(item, (of.element, None), path)
        elif known is not None:
            yield from _problems(item, (known.shape, known), path)
        else:
            yield path, "field not declared in schema"
            return


def _pointer(value: Any) -> str:
    """`%v` of a pointer to a struct that holds the value."""
    return f"&{{{gotext.plain(value)}}}"


# --- the parts of a value -----------------------------------------------------------------------------------------


def is_atomic(of: shape.Shape, field: shape.Field | None) -> bool:
    """Whether a value is one field, whatever is in it."""
    if of.kind == "list":
        return field is None or field.list_type not in ("map", "set")
    return of.atomic if of.kind in ("struct", "map") else True


class _Doubled(list[Any]):
    """The items of a list that have one key."""

    __slots__ = ()


def _children(value: Any, typed: _Typed) -> _Children:
    """The parts of a map, struct or keyed list, by path element, in order. Raises SchemaProblem."""
    of = typed[0]
    if not value:
        return {}
    if of.kind == "list":
        return _items(value, typed)
    if of.kind == "map":
        assert of.element is not None  # noqa: S101 - maps have one
        return {f"f:{name}": (each, (of.element, None)) for name, each in value.items()}
    fields = of.fields
    return {f"f:{name}": (each, (fields[name].shape, fields[name])) for name, each in value.items()}


def _items(value: list[Any], typed: _Typed) -> _Children:
    element_type = typed[0].element
    assert element_type is not None  # noqa: S101 - lists have one
    found: _Children = {}
    for item in value:
        element = _element(item, typed)
        if element in found:
            before = found[element][0]
            if isinstance(before, _Doubled):
                before.append(item)
                continue
            item = _Doubled([before, item])
        found[element] = (item, (element_type, None))
    return found


def _element(item: Any, typed: _Typed) -> str:
    """The path element of an item of a set, or of a list with keys. Raises SchemaProblem."""
    of, field = typed
    assert of.element is not None  # noqa: S101 - lists have one
    assert field is not None  # noqa: S101 - only fields say how their lists are merged
    if field.list_type == "set":
        if isinstance(item, Mapping):
            raise SchemaProblem("associative list without keys has an element that's a map type")
        if isinstance(item, list):
            raise SchemaProblem("not supported: associative list with lists as elements")
        if item is None:
            raise SchemaProblem("associative list without keys has an element that's an explicit null")
        return f"v:{_json(item)}"
    if item is None:
        raise SchemaProblem("associative list with keys may not have a null element")
    if not isinstance(item, Mapping):
        raise SchemaProblem("associative list with keys may not have non-map elements")
    # What is always written has a default, and that is empty.
    defaults = {name: "" for name in field.keys if not of.element.fields[name].omitempty}
    keys = {name: item.get(name, defaults.get(name)) for name in field.keys if name in item or name in defaults}
    if not keys:
        raise SchemaProblem(
            f"associative list with keys has an element that omits all key fields {gotext.quote_all(field.keys)} "
            "(and doesn't have default values for any key fields)"
        )
    return f"k:{_json(keys)}"


# --- what a document has ------------------------------------------------------------------------------------------


def field_set(document: Any, of: shape.Shape) -> Set:
    """All paths that a document speaks of. It has been checked."""
    found: set[Path] = set()
    _collect(document, (of, None), (), found)
    return frozenset(found)


def _collect(value: Any, typed: _Typed, where: Path, found: set[Path]) -> None:
    of = typed[0]
    if is_atomic(*typed):
        found.add(where)
        return
    for element, (child, child_type) in _children(value, typed).items():
        path = (*where, element)
        if isinstance(child, _Doubled):
            found.add(path)
            continue
        _collect(child, child_type, path, found)
        if of.kind != "struct" or child is None or child == {}:
            found.add(path)


# --- where two documents differ -----------------------------------------------------------------------------------

_ABSENT: Final = object()


def compare(before: Any, after: Any, of: shape.Shape) -> Changes:
    """Where two documents differ. Items of one key that stand in a list twice count as one. Raises SchemaProblem."""
    found = _Found()
    found.walk(before, after, (of, None), ())
    return Changes(frozenset(found.added), frozenset(found.modified), frozenset(found.removed))


class _Found:
    """A comparison under way."""

    def __init__(self) -> None:
        self.added: set[Path] = set()
        self.modified: set[Path] = set()
        self.removed: set[Path] = set()

    def walk(self, before: Any, after: Any, typed: _Typed, where: Path) -> None:
        if before is _ABSENT:
            self.added.add(where)
        elif after is _ABSENT:
            self.removed.add(where)
        elif before == after:
            return
        elif is_atomic(*typed) or (not before and not after):
            self.modified.add(where)
            return
        if is_atomic(*typed):
            return
        old = {} if before is _ABSENT else _children(before, typed)
        new = {} if after is _ABSENT else _children(after, typed)
        for element in (*old, *(each for each in new if each not in old)):
            left, child_type = old.get(element) or (_ABSENT, new[element][1])
            right = new[element][0] if element in new else _ABSENT
            self._walk_child(left, right, child_type, (*where, element))

    def _walk_child(self, left: Any, right: Any, typed: _Typed, where: Path) -> None:
        if not isinstance(left, _Doubled) and not isinstance(right, _Doubled):
            self.walk(left, right, typed, where)
        elif not isinstance(right, _Doubled):
            if right is not _ABSENT:
                self.walk(_ABSENT, right, typed, where)
            self.removed.add(where)
        elif not isinstance(left, _Doubled):
            if left is not _ABSENT:
                self.walk(left, _ABSENT, typed, where)
            self.added.add(where)
        elif left != right:
            self.modified.add(where)


# --- one document over another ------------------------------------------------------------------------------------


def merge(live: Any, config: Any, of: shape.Shape) -> Any:
    """The live value with what the applied one says on top."""
    return _merged(live, config, (of, None))


def _merged(live: Any, config: Any, typed: _Typed) -> Any:
    if is_atomic(*typed) or not live:
        return config
    if config is None:
        return live
    if typed[0].kind == "list":
        return _merged_items(live, config, typed)
    merged = dict(live)
    for element, (value, child_type) in _children(config, typed).items():
        name = element[2:]
        merged[name] = _merged(live[name], value, child_type) if name in live else value
    return merged


def _merged_items(live: list[Any], config: list[Any], typed: _Typed) -> list[Any]:
    """Items of both lists. What both have stands in the applied order; what only one has keeps its neighbours."""
    left = [(_element(each, typed), each) for each in live]
    wanted = [_element(each, typed) for each in config]
    merged = _overlaid(live, config, typed)
    known = {element for element, _ in left}
    due = collections.deque(each for each in wanted if each in known)
    out: list[Any] = []
    at = 0
    for element in wanted:
        # What only the live list has comes first, up to the next item that both have.
        while at < len(left) and left[at][0] != element:
            here, item = left[at]
            if due and due[0] == here:
                break
            at += 1
            if here not in merged:
                out.append(item)
            elif not due:
                break
        at += at < len(left) and left[at][0] == element
        out.append(merged[element])
        if due and due[0] == element:
            due.popleft()
    return out + [item for element, item in left[at:] if element not in merged]


def _overlaid(live: list[Any], config: list[Any], typed: _Typed) -> dict[str, Any]:
    """The applied items, each over the live one of its key; over none if that stands there twice."""
    before = _items(live, typed)
    found = {}
    for element, (item, child_type) in _items(config, typed).items():
        old = before.get(element, (None, child_type))[0]
        found[element] = _merged(None if isinstance(old, _Doubled) else old, item, child_type)
    return found


def remove(document: Any, of: shape.Shape, gone: Set) -> Any:
    """A document without some of its fields. A container goes when nothing is left in it."""
    return _removed(document, (of, None), (), gone)


def _removed(value: Any, typed: _Typed, where: Path, gone: Set) -> Any:
    of = typed[0]
    if is_atomic(*typed) or not value:
        return value
    if of.kind == "list":
        assert of.element is not None  # noqa: S101 - lists have one
        element_type = (of.element, None)
        paths = [((*where, _element(item, typed)), item) for item in value]
        return [_removed(item, element_type, path, gone) for path, item in paths if path not in gone]
    kept = {}
    for element, (child, child_type) in _children(value, typed).items():
        path = (*where, element)
        rest = _removed(child, child_type, path, gone)
        # What nobody ever owned stays, and its container with it.
        stays = isinstance(child, Mapping | list) and rest and not is_atomic(*child_type)
        if path not in gone or stays:
            kept[element[2:]] = rest
    return kept


# --- paths --------------------------------------------------------------------------------------------------------


def parse(tree: Any) -> Set | None:
    """The paths that a FieldsV1 tree holds; None if it is none."""
    found: set[Path] = set()
    return frozenset(found) if _parse(tree, (), found) else None


#: Steps of a path. The types of this server need ten; each step of the way to many fields is kept for each of them.
_LONGEST_PATH: Final = 32


def _parse(tree: Any, where: Path, found: set[Path]) -> bool:
    if not isinstance(tree, Mapping) or len(where) > _LONGEST_PATH:
        return False
    if not tree and where:
        found.add(where)
    for element, below in tree.items():
        if element == ".":
            found.add(where)
        elif not _is_element(element) or not _parse(below, (*where, element), found):
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


def tree(fields: Set) -> dict[str, Any]:
    """The FieldsV1 tree of a set."""
    root: dict[str, Any] = {}
    for path in in_order(fields):
        node = root
        for depth, element in enumerate(path):
            if element not in node:
                node[element] = {}
            elif not node[element] and path[: depth + 1] in fields and depth + 1 < len(path):
                node[element]["."] = {}
            node = node[element]
    return root


_RANK: Final = {"f": 0, "k": 1, "v": 2, "i": 3}


def in_order(paths: Sequence[Path] | Set) -> list[Path]:
    """Paths as they are listed: names first, then keys, values and positions."""
    # One text for each: to compare lists of many takes seconds, in which no other thread can do anything.
    return sorted(paths, key=lambda path: "".join([f"{_RANK[element[0]]}{element}\0" for element in path]))


def text(path: Path) -> str:
    """A path as conflicts and problems print it."""
    found = ""
    for element in path:
        kind, _, rest = element.partition(":")
        if kind == "f":
            found += f".{rest}"
        elif kind == "k":
            found += "[" + ",".join(f"{name}={_json(value)}" for name, value in json.loads(rest).items()) + "]"
        else:
            found += f"[={rest}]" if kind == "v" else f"[{rest}]"
    return found


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
