"""JSON patch, merge patch and strategic merge patch, on JSON builtins. Pure: documents in, a new document out.

JSON patch (RFC 6902) is our own because its failures are part of the interface: which of them are 422, which text they
have, and how many operations are too many. Merge patch is RFC 7386. Strategic merge patch is Kubernetes' own: lists
that the type marks are merged by key, and directives (`$patch`, `$deleteFromPrimitiveList/x`, `$setElementOrder/x`,
`$retainKeys`) say what merging cannot. Source: kubernetes, `staging/src/k8s.io/apimachinery/pkg/util/strategicpatch`.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from certplane import errors, gotext
from certplane.meta import gojson, shape

OPERATIONS_LIMIT: Final = 10_000
#: Bytes that the copy operations of one patch may add: each may double the document.
COPY_LIMIT: Final = 3 * 1024 * 1024
_DEPTH_LIMIT: Final = 256
_INDEX: Final = re.compile(r"0|[1-9][0-9]{0,8}", re.ASCII)

# --- JSON patch ---------------------------------------------------------------------------------------------------


def json_patch(document: Any, operations: Sequence[Any]) -> Any:
    """The document after the operations. Raises Unprocessable when one does not apply, RequestEntityTooLarge."""
    if len(operations) > OPERATIONS_LIMIT:
        raise errors.RequestEntityTooLarge(
            f"The allowed maximum operations in a JSON patch is {OPERATIONS_LIMIT}, got {len(operations)}"
        )
    _check_depth(operations)
    root = {"": copy.deepcopy(document)}
    copied = 0
    for operation in operations:
        if not isinstance(operation, Mapping):
            raise errors.Unprocessable
        name = operation.get("op")
        act = _OPERATIONS.get(name) if isinstance(name, str) else None
        if act is None:
            raise errors.Unprocessable
        if act is _copy:
            copied += len(gotext.json_text(_found(root, operation)))
            if copied > COPY_LIMIT:
                raise errors.RequestEntityTooLarge(
                    "Unable to complete the copy, the accumulated size increase of copy is "
                    f"{copied}, exceeding the limit {COPY_LIMIT}"
                )
        act(root, operation)
    return root[""]


def _check_depth(patch: Any) -> None:
    if gojson.deeper_than(patch, _DEPTH_LIMIT):
        raise errors.BadRequest("json: exceeded max depth")


def _tokens(operation: Mapping[str, Any], name: str) -> list[str]:
    pointer = operation.get(name)
    if not isinstance(pointer, str) or (pointer and not pointer.startswith("/")):
        raise errors.Unprocessable
    return ["", *(part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:])]


def _parent(root: Any, tokens: Sequence[str]) -> Any:
    at = root
    for token in tokens[:-1]:
        at = _child(at, token)
    return at


def _child(at: Any, token: str) -> Any:
    if isinstance(at, dict) and token in at:
        return at[token]
    if isinstance(at, list):
        return at[_position(token, len(at) - 1)]
    raise errors.Unprocessable


def _position(token: str, last: int) -> int:
    if _INDEX.fullmatch(token) is None or int(token) > last:
        raise errors.Unprocessable
    return int(token)


def _put(root: Any, tokens: Sequence[str], value: Any) -> None:
    parent = _parent(root, tokens)
    if isinstance(parent, dict):
        parent[tokens[-1]] = value
    elif isinstance(parent, list):
        position = len(parent) if tokens[-1] == "-" else _position(tokens[-1], len(parent))
        parent.insert(position, value)
    else:
        raise errors.Unprocessable


def _take(root: Any, tokens: Sequence[str]) -> Any:
    if len(tokens) == 1:
        # There is always a document.
        raise errors.Unprocessable
    parent = _parent(root, tokens)
    if isinstance(parent, dict) and tokens[-1] in parent:
        return parent.pop(tokens[-1])
    if isinstance(parent, list):
        return parent.pop(_position(tokens[-1], len(parent) - 1))
    raise errors.Unprocessable


def _value(operation: Mapping[str, Any]) -> Any:
    return copy.deepcopy(operation.get("value"))


def _add(root: Any, operation: Mapping[str, Any]) -> None:
    _put(root, _tokens(operation, "path"), _value(operation))


def _remove(root: Any, operation: Mapping[str, Any]) -> None:
    _take(root, _tokens(operation, "path"))


def _replace(root: Any, operation: Mapping[str, Any]) -> None:
    tokens = _tokens(operation, "path")
    parent = _parent(root, tokens)
    if isinstance(parent, dict):
        # The library that Kubernetes uses also replaces a member that is not there.
        parent[tokens[-1]] = _value(operation)
    elif isinstance(parent, list):
        parent[_position(tokens[-1], len(parent) - 1)] = _value(operation)
    else:
        raise errors.Unprocessable


def _move(root: Any, operation: Mapping[str, Any]) -> None:
    source, target = _tokens(operation, "from"), _tokens(operation, "path")
    if len(target) > len(source) and target[: len(source)] == source:
        raise errors.Unprocessable
    _put(root, target, _take(root, source))


def _copy(root: Any, operation: Mapping[str, Any]) -> None:
    _put(root, _tokens(operation, "path"), copy.deepcopy(_found(root, operation)))


def _found(root: Any, operation: Mapping[str, Any]) -> Any:
    source = _tokens(operation, "from")
    return _child(_parent(root, source), source[-1])


def _test(root: Any, operation: Mapping[str, Any]) -> None:
    tokens = _tokens(operation, "path")
    parent = _parent(root, tokens)
    missing = isinstance(parent, dict) and tokens[-1] not in parent
    found = None if missing else _child(parent, tokens[-1])
    if not _equal(found, operation.get("value")):
        raise errors.Unprocessable


def _equal(left: Any, right: Any) -> bool:
    # True == 1 in Python, not in JSON.
    if isinstance(left, bool) != isinstance(right, bool):
        return False
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_equal(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_equal, left, right))
    return bool(left == right)


_OPERATIONS: Final[Mapping[Any, Callable[[Any, Mapping[str, Any]], None]]] = {
    "add": _add,
    "remove": _remove,
    "replace": _replace,
    "move": _move,
    "copy": _copy,
    "test": _test,
}

# --- merge patch --------------------------------------------------------------------------------------------------


def merge_patch(document: Any, patch: Any) -> Any:
    """RFC 7386: objects merge, null removes, everything else replaces."""
    _check_depth(patch)
    return _merged(document, patch)


def _merged(document: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    merged = dict(document) if isinstance(document, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = _merged(merged.get(key), value)
    return merged


# --- strategic merge patch ----------------------------------------------------------------------------------------

_PATCH: Final = "$patch"
_DELETE_PRIMITIVES: Final = "$deleteFromPrimitiveList/"
_ELEMENT_ORDER: Final = "$setElementOrder/"
_RETAIN_KEYS: Final = "$retainKeys"


class _BadPatch(errors.UnreasonedError):
    """A patch that contradicts itself; the real server answers 500 with the text."""


def strategic_merge_patch(document: Any, patch: Any, of: shape.Shape) -> Any:
    """The document after a strategic merge patch for its type.

    Raises UnreasonedError for directives that contradict the patch, BadRequest for malformed ones.
    """
    _check_depth(patch)
    return _merge_map(document, patch, of)


def _merge_map(original: Any, patch: Mapping[str, Any], of: shape.Shape | None) -> Any:
    directive = patch.get(_PATCH)
    if directive == "replace":
        return {key: copy.deepcopy(value) for key, value in patch.items() if key != _PATCH}
    if directive == "delete":
        return {}
    if directive not in (None, "merge"):
        raise _BadPatch(f"unknown patch type found: {directive}")
    merged = dict(original) if isinstance(original, Mapping) else {}
    if _RETAIN_KEYS in patch:
        kept = _listed(patch[_RETAIN_KEYS], "retainKeys")
        merged = {key: value for key, value in merged.items() if key in kept}
    for key, value in patch.items():
        if key.startswith(_DELETE_PRIMITIVES):
            _listed(value, "primitive list")
            name = key.removeprefix(_DELETE_PRIMITIVES)
            if isinstance(merged.get(name), list):
                merged[name] = [each for each in merged[name] if each not in value]
    for key, value in patch.items():
        if not key.startswith(("$patch", _RETAIN_KEYS, _DELETE_PRIMITIVES, _ELEMENT_ORDER)):
            order = patch.get(_ELEMENT_ORDER + key)
            if order is not None:
                _listed(order, "setElementOrder list")
            _merge_member(merged, key, value, _field(of, key), order)
    for key, value in patch.items():
        name = key.removeprefix(_ELEMENT_ORDER)
        if name != key and name not in patch and isinstance(merged.get(name), list):
            order = _listed(value, "setElementOrder list")
            merged[name] = _ordered(merged[name], order, merged[name], _merge_key(_field(of, name)))
    return merged


def _listed(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise errors.BadRequest(f"invalid patch format of {what}")
    return value


def _field(of: shape.Shape | None, name: str) -> shape.Field | None:
    return of.fields.get(name) if of is not None and of.kind == "struct" else None


def _merge_key(field: shape.Field | None) -> str:
    return field.patch_merge_key if field is not None else ""


def _merge_member(
    merged: dict[str, Any], key: str, value: Any, field: shape.Field | None, order: Sequence[Any] | None
) -> None:
    if value is None:
        merged.pop(key, None)
    elif isinstance(value, Mapping):
        inner = field.shape if field is not None else None
        before = merged.get(key)
        merged[key] = _merge_map(before if isinstance(before, Mapping) else {}, value, inner)
    elif isinstance(value, list) and field is not None and "merge" in field.patch_strategy.split(","):
        merged[key] = _merge_list(merged.get(key) or [], value, field, order)
    else:
        merged[key] = copy.deepcopy(value)


def _merge_list(original: Any, patch: list[Any], field: shape.Field, order: Sequence[Any] | None) -> list[Any]:
    before = original if isinstance(original, list) else []
    key = field.patch_merge_key
    if order is not None:
        _check_order(patch, order, key)
    if not key:
        merged = [*before, *(each for each in patch if each not in before)]
    else:
        merged = _merge_by_key(before, patch, field)
    if order is None:
        order = [each for each in patch if not (isinstance(each, Mapping) and _PATCH in each)]
    return _ordered(merged, order, before, key)


def _merge_by_key(before: list[Any], patch: list[Any], field: shape.Field) -> list[Any]:
    key = field.patch_merge_key
    merged = list(before)
    for each in patch:
        if not isinstance(each, Mapping):
            raise _BadPatch(f"expected element of list to be a map, got {gotext.json_text(each)}")
    for each in patch:
        directive = each.get(_PATCH)
        if directive == "replace":
            return [dict(item) for item in patch if _PATCH not in item]
        if key not in each:
            raise _BadPatch(f"map: {_go_map(each)} does not contain declared merge key: {key}")
        position = next((at for at, item in enumerate(merged) if item.get(key) == each[key]), None)
        if directive == "delete":
            if position is not None:
                del merged[position]
        elif position is None:
            merged.append(_merge_map({}, each, field.shape.element))
        else:
            merged[position] = _merge_map(merged[position], each, field.shape.element)
    return merged


def _identity(item: Any, key: str) -> Any:
    return item.get(key) if key and isinstance(item, Mapping) else item


def _check_order(patch: list[Any], order: Sequence[Any], key: str) -> None:
    """What is patched must stand in the wanted order, as a subsequence of it."""
    wanted = [_identity(each, key) for each in order]
    at = 0
    for each in patch:
        if isinstance(each, Mapping) and _PATCH in each:
            continue
        identity = _identity(each, key)
        while at < len(wanted) and wanted[at] != identity:
            at += 1
        if at == len(wanted):
            raise _BadPatch(
                f"The order in patch list:\n{_go_list(patch)}\n doesn't match {_ELEMENT_ORDER[:-1]} list:\n"
                f"{_go_list(order)}\n"
            )


def _ordered(items: list[Any], order: Sequence[Any], before: Sequence[Any], key: str) -> list[Any]:
    """The items in the wanted order; those that it does not name go where they stood before, or behind.

    Source: `mergeSortedSlice` of `k8s.io/apimachinery/pkg/util/strategicpatch`, whose order users see.
    """
    wanted = {_hashable(_identity(each, key)): rank for rank, each in enumerate(order)}
    stood = {_hashable(_identity(each, key)): rank for rank, each in enumerate(before)}
    identities = [(_hashable(_identity(each, key)), each) for each in items]
    named = sorted((each for each in identities if each[0] in wanted), key=lambda each: wanted[each[0]])
    others = sorted((each for each in identities if each[0] not in wanted), key=lambda each: stood.get(each[0], -1))
    result = []
    while named and others:
        left, right = stood.get(others[0][0]), stood.get(named[0][0])
        first = others if left is not None and right is not None and left < right else named
        result.append(first.pop(0)[1])
    return result + [each for _, each in (*named, *others)]


def _hashable(value: Any) -> Any:
    return gotext.json_text(value) if isinstance(value, dict | list) else (type(value).__name__, value)


def _go_list(values: Sequence[Any]) -> str:
    return "[" + " ".join(_go_map(each) for each in values) + "]"


def _go_map(value: Any) -> str:
    if isinstance(value, Mapping):
        return "map[" + " ".join(f"{key}:{_go_map(value[key])}" for key in sorted(value)) + "]"
    return str(value)
