"""JSON patch (RFC 6902) and merge patch (RFC 7386). Pure functions from a document and a patch to a new document.

Both are implemented here because clients see their errors and the exact text of the result, which errors quote.
Documents are trees of `gojson.parse`, or builtins. Parts that a patch does not access keep their spelling: `Pairs`,
with the order and the duplicates of their members, and numbers as written. Objects that a patch accesses are converted
to dicts, and are written with sorted keys (`sort_members`).

Source: `gopkg.in/evanphx/json-patch.v4`, which Kubernetes uses, with its deviations: negative indices count from the
end, replace and copy accept a member that does not exist, a pointer may lack its first slash.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from certplane import errors
from certplane.errors import Unprocessable
from certplane.golang import gojson

#: Maximum operations of a patch; Kubernetes' limit.
OPERATIONS_LIMIT: Final = 10_000
#: Maximum bytes that the copy operations of a patch may add: each may double the document.
COPY_LIMIT: Final = 3 * 1024 * 1024
#: Maximum list items that the operations of a patch may shift by inserting or removing: some milliseconds.
SHIFT_LIMIT: Final = 10_000_000
#: Maximum nesting that recursive code can process.
DEPTH_LIMIT: Final = 256
_INDEX: Final = re.compile(r"[+-]?[0-9]{1,9}", re.ASCII)


def check_depth(patch: object) -> None:
    """Raises BadRequest for a value that is nested too deep for recursive code."""
    if gojson.is_deeper_than(patch, DEPTH_LIMIT):
        raise errors.BadRequest("json: exceeded max depth")


def sort_members(tree: object) -> object:
    """A patched document as it is written: dicts become `Pairs` with sorted keys."""
    if isinstance(tree, dict):
        return gojson.Pairs((key, sort_members(tree[key])) for key in sorted(tree))
    if isinstance(tree, list) and not isinstance(tree, gojson.Pairs):
        return [sort_members(item) for item in tree]
    return tree


def _open(parent: Any, key: Any) -> Any:
    """The dict or list in a dict or list; `Pairs` are replaced by a dict. None if the value is no container."""
    value = parent[key]
    if isinstance(value, gojson.Pairs):
        value = parent[key] = dict(value)
    return value if isinstance(value, dict | list) else None


# --- JSON patch ---------------------------------------------------------------------------------------------------


def json_patch(document: Any, operations: Sequence[Any]) -> Any:
    """The document after the operations. Raises Unprocessable when one does not apply, RequestEntityTooLarge."""
    if len(operations) > OPERATIONS_LIMIT:
        raise errors.RequestEntityTooLarge(
            f"The allowed maximum operations in a JSON patch is {OPERATIONS_LIMIT}, got {len(operations)}"
        )
    check_depth(operations)
    patched = _Patched(copy.deepcopy(document))
    for pairs in operations:
        operation = dict(pairs) if isinstance(pairs, gojson.Pairs) else pairs
        name = operation.get("op") if isinstance(operation, Mapping) else None
        execute = _OPERATIONS.get(name) if isinstance(name, str) else None
        if execute is None:
            raise Unprocessable
        execute(patched, operation)
    return patched.root[""]


class _Patched:
    """A document that is being patched. `root` has it under the key "", so that an operation can replace the whole
    document. `copied` counts the bytes that copy operations have added.
    """

    def __init__(self, document: object) -> None:
        self.root: dict[str, object] = {"": document}
        self.copied = 0
        self._shifted = 0
        _open(self.root, "")

    def resolve(self, operation: Mapping[str, object], field: str) -> tuple[Any, str]:
        """The container that the pointer in a field of the operation leads into, and the last segment of the pointer.
        Raises Unprocessable.
        """
        segments = _pointer(operation, field).split("/")
        if len(segments) < 2:
            raise Unprocessable
        container = _open(self.root, "")
        for segment in segments[1:-1]:
            key = _key(container, _unescape(segment))
            if isinstance(container, dict) and key not in container:
                raise Unprocessable
            container = _open(container, key)
            if container is None:
                raise Unprocessable
        return container, _unescape(segments[-1])

    def add(self, container: Any, segment: str, value: Any) -> None:
        """Set a member, or insert an item. Raises Unprocessable, RequestEntityTooLarge."""
        if isinstance(container, dict):
            container[segment] = value
            return
        # len + 1: an item may be inserted after the last one.
        index = len(container) if segment == "-" else _index(segment, len(container) + 1)
        self._shift(len(container) - index)
        container.insert(index, value)

    def remove(self, container: Any, segment: str) -> Any:
        """Remove a member or an item, and return it. Raises Unprocessable, RequestEntityTooLarge."""
        if isinstance(container, dict):
            if segment not in container:
                raise Unprocessable
            return container.pop(segment)
        index = _index(segment, len(container))
        self._shift(len(container) - index)
        return container.pop(index)

    def _shift(self, items: int) -> None:
        self._shifted += items
        if self._shifted > SHIFT_LIMIT:
            raise errors.RequestEntityTooLarge(
                f"The allowed maximum of list items that the operations of a JSON patch may shift is {SHIFT_LIMIT}"
            )


def _pointer(operation: Mapping[str, object], field: str) -> str:
    pointer = operation.get(field)
    if not isinstance(pointer, str) or isinstance(pointer, gojson.Number):
        raise Unprocessable
    return pointer


def _unescape(segment: str) -> str:
    return segment.replace("~1", "/").replace("~0", "~")


def _key(container: Any, segment: str) -> Any:
    """The key that a segment of a pointer means in a container: a name, or the index of an existing item."""
    return segment if isinstance(container, dict) else _index(segment, len(container))


def _index(segment: str, length: int) -> int:
    index = int(segment) if _INDEX.fullmatch(segment) else length
    if not -length <= index < length:
        raise Unprocessable
    return index % length


def _get(container: Any, segment: str) -> Any:
    """The value under a segment in a container; None for a member that does not exist."""
    return container.get(segment) if isinstance(container, dict) else container[_index(segment, len(container))]


def _value(operation: Mapping[str, object]) -> object:
    return copy.deepcopy(operation.get("value"))


def _add(patched: _Patched, operation: Mapping[str, object]) -> None:
    patched.add(*patched.resolve(operation, "path"), _value(operation))


def _remove(patched: _Patched, operation: Mapping[str, object]) -> None:
    patched.remove(*patched.resolve(operation, "path"))


def _replace(patched: _Patched, operation: Mapping[str, object]) -> None:
    if _pointer(operation, "path") == "":
        patched.root[""] = _value(operation)
        if _open(patched.root, "") is None:
            raise Unprocessable
        return
    container, segment = patched.resolve(operation, "path")
    container[_key(container, segment)] = _value(operation)


def _move(patched: _Patched, operation: Mapping[str, object]) -> None:
    value = patched.remove(*patched.resolve(operation, "from"))
    patched.add(*patched.resolve(operation, "path"), value)


def _copy(patched: _Patched, operation: Mapping[str, object]) -> None:
    value = _get(*patched.resolve(operation, "from"))
    container, segment = patched.resolve(operation, "path")
    # Move operations can nest values deeper than the patch is nested.
    check_depth(value)
    patched.copied += len(gojson.encode(sort_members(value)))
    if patched.copied > COPY_LIMIT:
        raise Unprocessable
    patched.add(container, segment, copy.deepcopy(value))


def _test(patched: _Patched, operation: Mapping[str, object]) -> None:
    is_root = _pointer(operation, "path") == ""
    container, segment = (patched.root, "") if is_root else patched.resolve(operation, "path")
    expected = operation.get("value")
    if isinstance(container, dict) and segment not in container:
        if expected is not None:
            raise Unprocessable
    elif not _equal(container, _key(container, segment), expected):
        raise Unprocessable


def _equal(container: Any, key: Any, expected: Any) -> bool:
    """Whether the value under a key equals another one; numbers are equal if they are written alike.

    Compared objects are converted to dicts, as in Go's library: then the cost of an operation depends on its own size,
    and not on that of the value in the document.
    """
    value = _open(container, key)
    if value is None:
        # Compare types, too: True == 1 in Python, and a gojson.Number equals the string of its digits.
        return type(container[key]) is type(expected) and bool(container[key] == expected)
    if isinstance(value, dict):
        if not isinstance(expected, gojson.Pairs | dict):
            return False
        members = dict(expected)
        return value.keys() == members.keys() and all(_equal(value, name, members[name]) for name in members)
    if isinstance(expected, gojson.Pairs) or not isinstance(expected, list):
        return False
    return len(value) == len(expected) and all(_equal(value, index, item) for index, item in enumerate(expected))


_OPERATIONS: Final[Mapping[str, Callable[[_Patched, Mapping[str, object]], None]]] = {
    "add": _add,
    "remove": _remove,
    "replace": _replace,
    "move": _move,
    "copy": _copy,
    "test": _test,
}

# --- merge patch --------------------------------------------------------------------------------------------------


def merge_patch(document: object, patch: object) -> object:
    """The document after a merge patch: objects are merged, null removes a member, any other value replaces."""
    check_depth(patch)
    return _merge(document, patch)


def _merge(document: object, patch: object) -> object:
    if not isinstance(document, gojson.Pairs | Mapping):
        return _without_nulls(patch)
    if not isinstance(patch, gojson.Pairs | Mapping):
        return copy.deepcopy(patch)
    merged = dict(document)
    for key, value in dict(patch).items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = _merge(merged.get(key), value)
    return merged


def _without_nulls(value: object) -> object:
    """A value with its objects converted to dicts, without their nulls."""
    # Frequent types first: isinstance is slow for Mapping.
    if isinstance(value, str):
        return value
    if type(value) is not list and isinstance(value, gojson.Pairs | Mapping):
        return {key: _without_nulls(item) for key, item in dict(value).items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value
