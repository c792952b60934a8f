"""JSON patch (RFC 6902) and merge patch (RFC 7386). Pure: a document and a patch in, a new document out.

Both are our own because their failures are part of the interface, and because what the document looks like afterwards
can be seen: errors quote it. Documents are trees as `gojson.parse` gives them, or builtins. What a patch does not look
into stays as it was written: `Pairs`, with the order and the duplicates of their members, and numbers by their
spelling. What it looks into is opened, a dict from then on, and is written with its keys sorted (`closed`).

Source: `gopkg.in/evanphx/json-patch.v4`, which Kubernetes uses, with its liberties: indices count from the end when
they are negative, replacing and copying do not ask whether the member is there, a pointer may lack its first slash.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from certplane import errors
from certplane.meta import gojson

OPERATIONS_LIMIT: Final = 10_000
#: Bytes that the copy operations of one patch may add: each may double the document.
COPY_LIMIT: Final = 3 * 1024 * 1024
#: Items of lists that all operations together may shift, by inserting before them or removing: some milliseconds.
SHIFT_LIMIT: Final = 10_000_000
DEPTH_LIMIT: Final = 256
_INDEX: Final = re.compile(r"[+-]?[0-9]{1,9}", re.ASCII)


def check_depth(patch: Any) -> None:
    """Refuse what is nested deeper than code that recurses can bear. Raises BadRequest."""
    if gojson.deeper_than(patch, DEPTH_LIMIT):
        raise errors.BadRequest("json: exceeded max depth")


def closed(tree: Any) -> Any:
    """A patched document in the order in which it is written: the members of what was opened are sorted."""
    if isinstance(tree, dict):
        return gojson.Pairs((key, closed(tree[key])) for key in sorted(tree))
    if isinstance(tree, list) and not isinstance(tree, gojson.Pairs):
        return [closed(each) for each in tree]
    return tree


def _open(parent: Any, key: Any) -> Any:
    """The container at a place of an open one, opened; None if there is none."""
    found = parent[key]
    if isinstance(found, gojson.Pairs):
        found = parent[key] = dict(found)
    return found if isinstance(found, dict | list) else None


# --- JSON patch ---------------------------------------------------------------------------------------------------


def json_patch(document: Any, operations: Sequence[Any]) -> Any:
    """The document after the operations. Raises Unprocessable when one does not apply, RequestEntityTooLarge."""
    if len(operations) > OPERATIONS_LIMIT:
        raise errors.RequestEntityTooLarge(
            f"The allowed maximum operations in a JSON patch is {OPERATIONS_LIMIT}, got {len(operations)}"
        )
    check_depth(operations)
    work = _Work(copy.deepcopy(document))
    for each in operations:
        operation = dict(each) if isinstance(each, gojson.Pairs) else each
        name = operation.get("op") if isinstance(operation, Mapping) else None
        act = _OPERATIONS.get(name) if isinstance(name, str) else None
        if act is None:
            raise errors.Unprocessable
        act(work, operation)
    return work.root[""]


class _Work:
    """A document under way: its root, so that it can be replaced; what copies have added to it; and how many items of
    lists had to make room.
    """

    def __init__(self, document: Any) -> None:
        self.root: dict[str, Any] = {"": document}
        self.copied = 0
        self._shifted = 0
        _open(self.root, "")

    def place(self, operation: Mapping[str, Any], name: str) -> tuple[Any, str]:
        """The container that a pointer leads into, and the key in there. Raises Unprocessable."""
        parts = _pointer(operation, name).split("/")
        if len(parts) < 2:
            raise errors.Unprocessable
        at = _open(self.root, "")
        for part in parts[1:-1]:
            key = _key(at, _unescaped(part))
            if isinstance(at, dict) and key not in at:
                raise errors.Unprocessable
            at = _open(at, key)
            if at is None:
                raise errors.Unprocessable
        return at, _unescaped(parts[-1])

    def put(self, at: Any, name: str, value: Any) -> None:
        """Set a member, or insert an item. Raises Unprocessable, RequestEntityTooLarge."""
        if isinstance(at, dict):
            at[name] = value
            return
        # One more place than items: an item may stand behind the last one.
        index = len(at) if name == "-" else _index(name, len(at) + 1)
        self._shift(len(at) - index)
        at.insert(index, value)

    def take(self, at: Any, name: str) -> Any:
        """Remove a member or an item, and give it. Raises Unprocessable, RequestEntityTooLarge."""
        if isinstance(at, dict):
            if name not in at:
                raise errors.Unprocessable
            return at.pop(name)
        index = _index(name, len(at))
        self._shift(len(at) - index)
        return at.pop(index)

    def _shift(self, items: int) -> None:
        self._shifted += items
        if self._shifted > SHIFT_LIMIT:
            raise errors.RequestEntityTooLarge(
                f"The allowed maximum of list items that the operations of a JSON patch may shift is {SHIFT_LIMIT}"
            )


def _pointer(operation: Mapping[str, Any], name: str) -> str:
    pointer = operation.get(name)
    if not isinstance(pointer, str) or isinstance(pointer, gojson.Number):
        raise errors.Unprocessable
    return pointer


def _unescaped(part: str) -> str:
    return part.replace("~1", "/").replace("~0", "~")


def _key(at: Any, name: str) -> Any:
    """What a part of a pointer means in a container: a name, or the index of an item that exists."""
    return name if isinstance(at, dict) else _index(name, len(at))


def _index(name: str, length: int) -> int:
    index = int(name) if _INDEX.fullmatch(name) else length
    if not -length <= index < length:
        raise errors.Unprocessable
    return index % length


def _found(at: Any, name: str) -> Any:
    """The value at a place; a member that is not there is null."""
    return at.get(name) if isinstance(at, dict) else at[_index(name, len(at))]


def _value(operation: Mapping[str, Any]) -> Any:
    return copy.deepcopy(operation.get("value"))


def _add(work: _Work, operation: Mapping[str, Any]) -> None:
    work.put(*work.place(operation, "path"), _value(operation))


def _remove(work: _Work, operation: Mapping[str, Any]) -> None:
    work.take(*work.place(operation, "path"))


def _replace(work: _Work, operation: Mapping[str, Any]) -> None:
    if _pointer(operation, "path") == "":
        work.root[""] = _value(operation)
        if _open(work.root, "") is None:
            raise errors.Unprocessable
        return
    at, name = work.place(operation, "path")
    at[_key(at, name)] = _value(operation)


def _move(work: _Work, operation: Mapping[str, Any]) -> None:
    value = work.take(*work.place(operation, "from"))
    work.put(*work.place(operation, "path"), value)


def _copy(work: _Work, operation: Mapping[str, Any]) -> None:
    value = _found(*work.place(operation, "from"))
    at, name = work.place(operation, "path")
    # Moves can nest what no operation has nested.
    check_depth(value)
    work.copied += len(gojson.text(closed(value)))
    if work.copied > COPY_LIMIT:
        raise errors.Unprocessable
    work.put(at, name, copy.deepcopy(value))


def _test(work: _Work, operation: Mapping[str, Any]) -> None:
    whole = _pointer(operation, "path") == ""
    at, name = (work.root, "") if whole else work.place(operation, "path")
    wanted = operation.get("value")
    if isinstance(at, dict) and name not in at:
        if wanted is not None:
            raise errors.Unprocessable
    elif not _equal(at, _key(at, name), wanted):
        raise errors.Unprocessable


def _equal(at: Any, key: Any, wanted: Any) -> bool:
    """Whether the value at a place is another one; numbers are the same if they are written alike.

    What is looked into is opened, as Go's library does it too: each of many operations costs its own size then, and not
    that of what it is compared with.
    """
    opened = _open(at, key)
    if opened is None:
        # True == 1 in Python, not in JSON; nor is a number the string of its digits.
        return type(at[key]) is type(wanted) and bool(at[key] == wanted)
    if isinstance(opened, dict):
        if not isinstance(wanted, gojson.Pairs | dict):
            return False
        members = dict(wanted)
        return opened.keys() == members.keys() and all(_equal(opened, name, members[name]) for name in members)
    if isinstance(wanted, gojson.Pairs) or not isinstance(wanted, list):
        return False
    return len(opened) == len(wanted) and all(_equal(opened, index, each) for index, each in enumerate(wanted))


_OPERATIONS: Final[Mapping[str, Callable[[_Work, Mapping[str, Any]], None]]] = {
    "add": _add,
    "remove": _remove,
    "replace": _replace,
    "move": _move,
    "copy": _copy,
    "test": _test,
}

# --- merge patch --------------------------------------------------------------------------------------------------


def merge_patch(document: Any, patch: Any) -> Any:
    """Objects merge, null removes, everything else replaces. In what is new there is nothing to remove."""
    check_depth(patch)
    return _merged(document, patch)


def _merged(document: Any, patch: Any) -> Any:
    if not isinstance(document, gojson.Pairs | Mapping):
        return _pruned(patch)
    if not isinstance(patch, gojson.Pairs | Mapping):
        return copy.deepcopy(patch)
    merged = dict(document)
    for key, value in dict(patch).items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = _merged(merged.get(key), value)
    return merged


def _pruned(value: Any) -> Any:
    """A value without the nulls in its objects, all of them opened."""
    # The frequent ones first: whether something is a Mapping is found out slowly.
    if isinstance(value, str):
        return value
    if type(value) is not list and isinstance(value, gojson.Pairs | Mapping):
        return {key: _pruned(each) for key, each in dict(value).items() if each is not None}
    return [_pruned(each) for each in value] if isinstance(value, list) else value
