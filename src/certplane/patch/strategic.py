"""Kubernetes' strategic merge patch, on JSON builtins. Pure functions from a document and a patch to a new document.

It merges like a merge patch, but lists with a merge key are merged by key, and there are directives: `$patch` (replace
or delete a map or an item), `$retainKeys` (drop the other members), `$deleteFromPrimitiveList/x`, and
`$setElementOrder/x`, which is processed first, together with its list.

Source: kubernetes, `staging/src/k8s.io/apimachinery/pkg/util/strategicpatch`. An inconsistent patch has the same
response as there, mostly 500 with the text.
"""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
from typing import Any, Final

from certplane.errors import BadRequest, UnknownReasonError, Unprocessable
from certplane.golang import formatting
from certplane.meta.shapes import Field, Shape
from certplane.patch import jsonpatch

_PATCH: Final = "$patch"
_DELETE_PRIMITIVES: Final = "$deleteFromPrimitiveList"
_ELEMENT_ORDER: Final = "$setElementOrder"
_RETAIN_KEYS: Final = "$retainKeys"


class _BadPatch(UnknownReasonError):
    """An inconsistent patch; kube-apiserver answers 500 with the text."""


def merge(document: Mapping[str, object], patch: dict[str, object], shape: Shape) -> dict[str, object]:
    """The document after a strategic merge patch for its type. Processed directives are removed from the patch, as in
    Kubernetes: errors that quote it show it without them.

    Raises UnknownReasonError for directives that contradict the patch, BadRequest for malformed ones.
    """
    jsonpatch.check_depth(patch)
    return _merge_map(document, patch, shape)


def _merge_map(original: Mapping[str, object], patch: dict[str, object], shape: Shape | None) -> dict[str, object]:
    if _PATCH in patch:
        return _follow_directive(patch)
    merged = _retain_keys(original, patch) if _RETAIN_KEYS in patch else dict(original)
    for key in [key for key in patch if key.startswith(_ELEMENT_ORDER)]:
        _order_list(merged, patch, key, shape)
    for key, value in patch.items():
        is_deletion = key.startswith(_DELETE_PRIMITIVES)
        name = _directive_target(key, "primitive list") if is_deletion else key
        before = merged.get(name)
        if value is None:
            merged.pop(name, None)
        elif is_deletion:
            if isinstance(before, list) and isinstance(value, list):
                _check_elements(before, value)
                deleted = set(map(_hashable, value))
                merged[name] = [item for item in before if _hashable(item) not in deleted]
        elif isinstance(value, dict) and isinstance(before, Mapping):
            field = _field(shape, name)
            merged[name] = _merge_map(before, value, field.shape if field is not None else None)
        elif isinstance(value, list) and isinstance(before, list):
            merged[name] = _merge_lists(before, value, _field(shape, name))
        else:
            _set(merged, name, value)
    return merged


def _follow_directive(patch: dict[str, object]) -> dict[str, object]:
    """The result of a patch with a `$patch` directive."""
    directive = patch[_PATCH]
    if directive == "delete":
        return {}
    if directive != "replace":
        raise _unknown_directive(patch)
    del patch[_PATCH]
    return dict(patch)


def _unknown_directive(patch: Mapping[str, object]) -> _BadPatch:
    return _BadPatch(
        f"unknown patch type: {formatting.format_string(patch[_PATCH])} in map: {formatting.format_value(patch)}"
    )


def _retain_keys(original: Mapping[str, object], patch: dict[str, object]) -> dict[str, object]:
    """The members that `$retainKeys` names; the patch may set no others."""
    retained = patch.pop(_RETAIN_KEYS)
    patched = (key for key in patch if not key.startswith((_DELETE_PRIMITIVES, _ELEMENT_ORDER)))
    if not isinstance(retained, list):
        raise BadRequest("invalid patch format of retainKeys")
    names = {name for name in retained if isinstance(name, str)}
    if any(key not in names for key in patched if patch[key] is not None):
        raise BadRequest("invalid patch format of retainKeys")
    return {key: value for key, value in original.items() if key in names}


def _directive_target(key: str, description: str) -> str:
    directive, slash, name = key.partition("/")
    if not slash or directive not in (_DELETE_PRIMITIVES, _ELEMENT_ORDER):
        raise BadRequest(f"invalid patch format of {description}")
    return name


def _field(shape: Shape | None, name: str) -> Field | None:
    return shape.fields.get(name) if shape is not None and shape.kind == "struct" else None


_ABSENT: Final = object()


def _set(merged: dict[str, object], name: str, value: object) -> None:
    """Set a member, without nulls and without the maps that have a `$patch` directive."""
    _drop_nulls(value)
    value = _drop_directives(value)
    if value is _ABSENT:
        merged.pop(name, None)
    else:
        merged[name] = value


def _drop_nulls(value: object) -> None:
    if isinstance(value, dict):
        for key in [name for name, item in value.items() if item is None]:
            del value[key]
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _drop_nulls(item)


def _drop_directives(value: object) -> Any:
    if isinstance(value, dict):
        if _PATCH in value:
            return _ABSENT
        items = {key: _drop_directives(item) for key, item in value.items()}
        return {key: item for key, item in items.items() if item is not _ABSENT}
    if isinstance(value, list):
        return [item for item in map(_drop_directives, value) if item is not _ABSENT]
    return value


# --- lists --------------------------------------------------------------------------------------------------------


def _order_list(merged: dict[str, object], patch: dict[str, object], key: str, shape: Shape | None) -> None:
    """Merge the list of a `$setElementOrder` directive, and sort it."""
    order = _as_list(patch.pop(key))
    name = _directive_target(key, "setElementOrder list")
    before = _as_list(merged[name]) if name in merged else None
    change = _as_list(patch.pop(name)) if name in patch else None
    field = _ordered_field(shape, name)
    merge_key = field.patch_merge_key
    _check_order(change or [], order, merge_key)
    scalar = next((index for index, item in enumerate(order) if merge_key and not isinstance(item, Mapping)), None)
    if scalar is not None:
        raise _BadPatch(f"value for key {scalar} is not a map")
    if change is None and before is None:
        return
    if change is None:
        items = before or []
    else:
        items = _merge_lists(before, change, field) if before is not None else _drop_directives(change)
    if not before and not change:
        raise _BadPatch("no elements in any of the given slices")
    merged[name] = _sort_items(items, order, before or [], merge_key)


def _as_list(value: object) -> list[object]:
    if not isinstance(value, list):
        type_name = formatting.type_name(value) if value is not None else formatting.format_string(value)
        raise _BadPatch(f"expected a []interface {{}}, but received a {type_name}")
    return value


def _ordered_field(shape: Shape | None, name: str) -> Field:
    field = _field(shape, name)
    if field is not None and field.shape.kind == "list":
        return field
    if shape is not None and shape.kind == "struct" and field is None:
        raise _BadPatch(f'unable to find api field in struct {shape.name} for the json field "{name}"')
    if shape is not None and shape.kind == "map":
        raise _BadPatch("merging an object in json but data type is not struct, instead is: map")
    raise _BadPatch("expected slice or array type, but got: struct")


def _merge_lists(before: list[object], patch: list[object], field: Field | None) -> list[object]:
    if field is None or "merge" not in field.patch_strategy.split(","):
        return patch
    if not before and not patch:
        return before
    _check_elements(before, patch)
    key = field.patch_merge_key
    if not isinstance((before or patch)[0], Mapping):
        merged = _unique([*before, *patch])
    else:
        before, patch = _follow_item_directives(before, patch, key)
        merged = _merge_by_key(before, patch, field)
    return _sort_items(merged, patch, before, key)


def _check_elements(*lists: list[object]) -> None:
    """Raises unless all items are of one type, which is no list."""
    type_names = [formatting.type_name(item) for items in lists for item in items]
    if type_names[0] == "[]interface {}":
        raise Unprocessable
    if any(name != type_names[0] for name in type_names):
        raise _BadPatch(f"list element types are not identical: {formatting.format_value(list(lists))}")


def _unique(values: Sequence[object]) -> list[object]:
    unique: dict[object, object] = {}
    for value in values:
        unique.setdefault(_hashable(value), value)
    return list(unique.values())


def _follow_item_directives(before: list[Any], patch: list[Any], key: str) -> tuple[list[Any], list[Any]]:
    """Both lists after the directives in the items of the patch."""
    ordinary = [item for item in patch if _PATCH not in item]
    is_replaced, deleted = False, set()
    for item in patch:
        directive = item.get(_PATCH, _ABSENT)
        if directive == "delete":
            deleted.add(_hashable(_merge_key_value(item, key)))
        elif directive == "merge":
            raise _BadPatch("merging lists cannot yet be specified in the patch")
        elif directive == "replace":
            is_replaced = True
        elif directive is not _ABSENT:
            raise _unknown_directive(item)
    if is_replaced:
        return ordinary, []
    return [item for item in before if key not in item or _hashable(item[key]) not in deleted], ordinary


def _merge_key_value(item: Mapping[str, object], key: str) -> object:
    if key not in item:
        raise _BadPatch(f"map: {formatting.format_value(item)} does not contain declared merge key: {key}")
    return item[key]


def _merge_by_key(before: list[Any], patch: list[Any], field: Field) -> list[Any]:
    key = field.patch_merge_key
    merged = list(before)
    positions: dict[object, int] = {}
    for position, item in enumerate(before):
        if key in item:
            positions.setdefault(_hashable(item[key]), position)
    for item in patch:
        position = positions.setdefault(_hashable(_merge_key_value(item, key)), len(merged))
        if position == len(merged):
            merged.append(item)
        else:
            merged[position] = _merge_map(merged[position], item, field.shape.element)
    return merged


def _identity(item: object, key: str) -> object:
    """The value of an item's merge key; without a merge key, the item itself. Raises for an item that lacks its key."""
    if not key:
        return item
    if not isinstance(item, Mapping):
        raise _BadPatch(f"expected a map[string]interface {{}}, but received a {formatting.type_name(item)}")
    return _merge_key_value(item, key)


def _check_order(patch: list[object], order: Sequence[object], key: str) -> None:
    """Raises unless the items of the patch are a subsequence of the order."""
    if not patch or not order:
        return
    identities = [_identity(item, key) for item in order]
    position = 0
    for item in patch:
        if isinstance(item, Mapping) and _PATCH in item:
            continue
        identity = _identity(item, key)
        while position < len(identities) and identities[position] != identity:
            position += 1
        if position == len(identities):
            raise _BadPatch(
                f"The order in patch list:\n{formatting.format_value(patch)}\n doesn't match {_ELEMENT_ORDER} list:\n"
                f"{formatting.format_value(list(order))}\n"
            )


def _sort_items(items: list[object], order: Sequence[object], before: Sequence[object], key: str) -> list[object]:
    """The items in the given order; items that it does not name keep their former place, or come last.

    Source: `mergeSortedSlice`; users see its order.
    """
    ranks = {_hashable(_identity(item, key)): rank for rank, item in enumerate(order)}
    former_ranks = {_hashable(_identity(item, key)): rank for rank, item in enumerate(before)}
    pairs = [(_hashable(_identity(item, key)), item) for item in items]
    ordered = collections.deque(sorted((pair for pair in pairs if pair[0] in ranks), key=lambda pair: ranks[pair[0]]))
    others = collections.deque(
        sorted((pair for pair in pairs if pair[0] not in ranks), key=lambda pair: former_ranks.get(pair[0], -1))
    )
    result = []
    while ordered and others:
        left, right = former_ranks.get(others[0][0]), former_ranks.get(ordered[0][0])
        next_items = others if left is not None and right is not None and left < right else ordered
        result.append(next_items.popleft()[1])
    return result + [item for _, item in (*ordered, *others)]


def _hashable(value: object) -> object:
    return formatting.marshal_json(value) if isinstance(value, dict | list) else (type(value).__name__, value)
