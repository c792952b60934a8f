"""Strategic merge patch, Kubernetes' own, on JSON builtins. Pure: a document and a patch in, a new document out.

It merges like a merge patch, but lists that the type marks are merged by key, and directives say what merging cannot:
`$patch` (replace or delete a map or an item), `$retainKeys` (drop the other members), `$deleteFromPrimitiveList/x`, and
`$setElementOrder/x`. An order is looked at first, together with the list that it orders.

Source: kubernetes, `staging/src/k8s.io/apimachinery/pkg/util/strategicpatch`. A patch that contradicts itself is
answered as there: mostly 500 with the text.
"""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
from typing import Any, Final

from certplane import errors, gotext
from certplane.meta import patches, shape

_PATCH: Final = "$patch"
_DELETE_PRIMITIVES: Final = "$deleteFromPrimitiveList"
_ELEMENT_ORDER: Final = "$setElementOrder"
_RETAIN_KEYS: Final = "$retainKeys"


class _BadPatch(errors.UnreasonedError):
    """A patch that contradicts itself; the real server answers 500 with the text."""


def merge(document: Mapping[str, Any], patch: dict[str, Any], of: shape.Shape) -> dict[str, Any]:
    """The document after a strategic merge patch for its type. Of the patch, directives that are done are taken out:
    where an error quotes it, they are missing.

    Raises UnreasonedError for directives that contradict the patch, BadRequest for malformed ones.
    """
    patches.check_depth(patch)
    return _merge_map(document, patch, of)


def _merge_map(original: Mapping[str, Any], patch: dict[str, Any], of: shape.Shape | None) -> dict[str, Any]:
    if _PATCH in patch:
        return _directed(patch)
    merged = _retained(original, patch) if _RETAIN_KEYS in patch else dict(original)
    for key in [each for each in patch if each.startswith(_ELEMENT_ORDER)]:
        _order_list(merged, patch, key, of)
    for key, value in patch.items():
        deletes = key.startswith(_DELETE_PRIMITIVES)
        name = _listed_name(key, "primitive list") if deletes else key
        before = merged.get(name)
        if value is None:
            merged.pop(name, None)
        elif deletes:
            if isinstance(before, list) and isinstance(value, list):
                _check_elements(before, value)
                gone = set(map(_hashable, value))
                merged[name] = [each for each in before if _hashable(each) not in gone]
        elif isinstance(value, dict) and isinstance(before, Mapping):
            field = _field(of, name)
            merged[name] = _merge_map(before, value, field.shape if field is not None else None)
        elif isinstance(value, list) and isinstance(before, list):
            merged[name] = _merge_lists(before, value, _field(of, name))
        else:
            _set(merged, name, value)
    return merged


def _directed(patch: dict[str, Any]) -> dict[str, Any]:
    """What a map becomes that has a directive."""
    directive = patch[_PATCH]
    if directive == "delete":
        return {}
    if directive != "replace":
        raise _unknown_directive(patch)
    del patch[_PATCH]
    return dict(patch)


def _unknown_directive(patch: Mapping[str, Any]) -> _BadPatch:
    return _BadPatch(f"unknown patch type: {gotext.as_string(patch[_PATCH])} in map: {gotext.plain(patch)}")


def _retained(original: Mapping[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    """The members that `$retainKeys` names; the patch may speak of no others."""
    kept = patch.pop(_RETAIN_KEYS)
    spoken = (key for key in patch if not key.startswith((_DELETE_PRIMITIVES, _ELEMENT_ORDER)))
    if not isinstance(kept, list):
        raise errors.BadRequest("invalid patch format of retainKeys")
    names = {each for each in kept if isinstance(each, str)}
    if any(key not in names for key in spoken if patch[key] is not None):
        raise errors.BadRequest("invalid patch format of retainKeys")
    return {key: value for key, value in original.items() if key in names}


def _listed_name(key: str, what: str) -> str:
    directive, slash, name = key.partition("/")
    if not slash or directive not in (_DELETE_PRIMITIVES, _ELEMENT_ORDER):
        raise errors.BadRequest(f"invalid patch format of {what}")
    return name


def _field(of: shape.Shape | None, name: str) -> shape.Field | None:
    return of.fields.get(name) if of is not None and of.kind == "struct" else None


_GONE: Final = object()


def _set(merged: dict[str, Any], name: str, value: Any) -> None:
    """Take a value as it is, but for nulls and for maps that are directives."""
    _drop_nulls(value)
    found = _undirected(value)
    if found is _GONE:
        merged.pop(name, None)
    else:
        merged[name] = found


def _drop_nulls(value: Any) -> None:
    if isinstance(value, dict):
        for key in [name for name, each in value.items() if each is None]:
            del value[key]
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _drop_nulls(each)


def _undirected(value: Any) -> Any:
    if isinstance(value, dict):
        if _PATCH in value:
            return _GONE
        inner = {key: _undirected(each) for key, each in value.items()}
        return {key: each for key, each in inner.items() if each is not _GONE}
    if isinstance(value, list):
        return [each for each in map(_undirected, value) if each is not _GONE]
    return value


# --- lists --------------------------------------------------------------------------------------------------------


def _order_list(merged: dict[str, Any], patch: dict[str, Any], key: str, of: shape.Shape | None) -> None:
    """Merge the list that an order is about, and bring it into that order."""
    order = _as_list(patch.pop(key))
    name = _listed_name(key, "setElementOrder list")
    before = _as_list(merged[name]) if name in merged else None
    change = _as_list(patch.pop(name)) if name in patch else None
    field = _ordered_field(of, name)
    _check_order(change or [], order, field.patch_merge_key)
    bare = next((at for at, each in enumerate(order) if field.patch_merge_key and not isinstance(each, Mapping)), None)
    if bare is not None:
        raise _BadPatch(f"value for key {bare} is not a map")
    if change is None and before is None:
        return
    if change is None:
        found = before or []
    else:
        found = _merge_lists(before, change, field) if before is not None else _undirected(change)
    if not before and not change:
        raise _BadPatch("no elements in any of the given slices")
    merged[name] = _ordered(found, order, before or [], field.patch_merge_key)


def _as_list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        what = gotext.type_name(value) if value is not None else gotext.as_string(value)
        raise _BadPatch(f"expected a []interface {{}}, but received a {what}")
    return value


def _ordered_field(of: shape.Shape | None, name: str) -> shape.Field:
    field = _field(of, name)
    if field is not None and field.shape.kind == "list":
        return field
    if of is not None and of.kind == "struct" and field is None:
        raise _BadPatch(f'unable to find api field in struct {of.name} for the json field "{name}"')
    if of is not None and of.kind == "map":
        raise _BadPatch("merging an object in json but data type is not struct, instead is: map")
    raise _BadPatch("expected slice or array type, but got: struct")


def _merge_lists(before: list[Any], patch: list[Any], field: shape.Field | None) -> list[Any]:
    if field is None or "merge" not in field.patch_strategy.split(","):
        return patch
    if not before and not patch:
        return before
    _check_elements(before, patch)
    key = field.patch_merge_key
    if not isinstance((before or patch)[0], Mapping):
        merged = _unique([*before, *patch])
    else:
        before, patch = _follow_directives(before, patch, key)
        merged = _merge_by_key(before, patch, field)
    return _ordered(merged, patch, before, key)


def _check_elements(*lists: list[Any]) -> None:
    """All items are of one type, which is no list."""
    kinds = [gotext.type_name(each) for one in lists for each in one]
    if kinds[0] == "[]interface {}":
        raise errors.Unprocessable
    if any(each != kinds[0] for each in kinds):
        raise _BadPatch(f"list element types are not identical: {gotext.plain(list(lists))}")


def _unique(values: Sequence[Any]) -> list[Any]:
    found: dict[Any, Any] = {}
    for each in values:
        found.setdefault(_hashable(each), each)
    return list(found.values())


def _follow_directives(before: list[Any], patch: list[Any], key: str) -> tuple[list[Any], list[Any]]:
    """The two lists of maps after the items that are directives."""
    ordinary = [each for each in patch if _PATCH not in each]
    replaced, gone = False, set()
    for each in patch:
        directive = each.get(_PATCH, _GONE)
        if directive == "delete":
            gone.add(_hashable(_key_of(each, key)))
        elif directive == "merge":
            raise _BadPatch("merging lists cannot yet be specified in the patch")
        elif directive == "replace":
            replaced = True
        elif directive is not _GONE:
            raise _unknown_directive(each)
    if replaced:
        return ordinary, []
    return [each for each in before if key not in each or _hashable(each[key]) not in gone], ordinary


def _key_of(item: Mapping[str, Any], key: str) -> Any:
    if key not in item:
        raise _BadPatch(f"map: {gotext.plain(item)} does not contain declared merge key: {key}")
    return item[key]


def _merge_by_key(before: list[Any], patch: list[Any], field: shape.Field) -> list[Any]:
    key = field.patch_merge_key
    merged = list(before)
    places: dict[Any, int] = {}
    for at, each in enumerate(before):
        if key in each:
            places.setdefault(_hashable(each[key]), at)
    for each in patch:
        at = places.setdefault(_hashable(_key_of(each, key)), len(merged))
        if at == len(merged):
            merged.append(each)
        else:
            merged[at] = _merge_map(merged[at], each, field.shape.element)
    return merged


def _identity(item: Any, key: str) -> Any:
    """What tells an item apart. Raises for one of a keyed list that has no key."""
    if not key:
        return item
    if not isinstance(item, Mapping):
        raise _BadPatch(f"expected a map[string]interface {{}}, but received a {gotext.type_name(item)}")
    return _key_of(item, key)


def _check_order(patch: list[Any], order: Sequence[Any], key: str) -> None:
    """What is patched must stand in the wanted order, as a subsequence of it."""
    if not patch or not order:
        return
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
                f"The order in patch list:\n{gotext.plain(patch)}\n doesn't match {_ELEMENT_ORDER} list:\n"
                f"{gotext.plain(list(order))}\n"
            )


def _ordered(items: list[Any], order: Sequence[Any], before: Sequence[Any], key: str) -> list[Any]:
    """The items in the wanted order; those that it does not name go where they stood before, or behind.

    Source: `mergeSortedSlice`, whose order users see.
    """
    wanted = {_hashable(_identity(each, key)): rank for rank, each in enumerate(order)}
    stood = {_hashable(_identity(each, key)): rank for rank, each in enumerate(before)}
    identities = [(_hashable(_identity(each, key)), each) for each in items]
    named = collections.deque(sorted((each for each in identities if each[0] in wanted), key=lambda it: wanted[it[0]]))
    others = collections.deque(
        sorted((each for each in identities if each[0] not in wanted), key=lambda it: stood.get(it[0], -1))
    )
    result = []
    while named and others:
        left, right = stood.get(others[0][0]), stood.get(named[0][0])
        first = others if left is not None and right is not None and left < right else named
        result.append(first.popleft()[1])
    return result + [each for _, each in (*named, *others)]


def _hashable(value: Any) -> Any:
    return gotext.json_text(value) if isinstance(value, dict | list) else (type(value).__name__, value)
