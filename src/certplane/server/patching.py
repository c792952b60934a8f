"""PATCH: applies a patch to a stored document.

Each patch is parsed once, and applied again after each conflict with another write. The error texts are those of
`k8s.io/apiserver/pkg/endpoints/handlers/patch.go`, where a patch that results in an invalid object is a 422 without a
kind, whose value is the patched document (JSON patch, merge patch) or the patch (strategic merge).
"""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Iterable, Sequence
from typing import Any, Final, Generic, TypeVar

from certplane import errors
from certplane.golang import formatting, gojson, goyaml
from certplane.meta import context
from certplane.meta.objects import Object
from certplane.meta.resource import Resource
from certplane.patch import apply, jsonpatch, strategic
from certplane.registry import managedfields, verbs
from certplane.registry.encodedobjects import EncodedObject
from certplane.server import bodies
from certplane.wire import codec

T = TypeVar("T", bound=Object)

JSON_PATCH: Final = "application/json-patch+json"
MERGE: Final = "application/merge-patch+json"
STRATEGIC: Final = "application/strategic-merge-patch+json"
APPLY: Final = "application/apply-patch+yaml"
_INVALID_JSON_PATCH: Final = "Invalid JSON Patch"
_TYPES: Final = frozenset({JSON_PATCH, MERGE, STRATEGIC, APPLY})


class _UnknownPatchType(errors.UnsupportedMediaType):
    def __init__(self) -> None:
        super().__init__("415: Unsupported Media Type", {})


def patch_type(content_type: str) -> str:
    """The media type of a patch. Raises UnsupportedMediaType."""
    # Compared case-sensitively, as in kube-apiserver.
    media_type = content_type.partition(";")[0]
    if media_type not in _TYPES:
        raise _UnknownPatchType
    return media_type


class Patch(Generic[T]):
    """One patch; it is parsed when it is first applied."""

    def __init__(
        self,
        patch_type: str,
        body: bytes,
        expected: bodies.Expected[T],
        resource: Resource[T],
        call: context.VerbContext,
    ) -> None:
        self._type = patch_type
        self._body = body
        self._expected = expected
        self._resource = resource
        self._call = call
        self._strict_errors: tuple[str, ...] = ()
        self._has_warned = False

    def apply_to(self, stored: EncodedObject[T] | None, target: verbs.Target) -> T:
        """The new object. `stored` is None only for server-side apply, which then creates the object."""
        if self._type == APPLY:
            return self._apply(stored, target)
        assert stored is not None  # noqa: S101 - other patches need something to patch
        if self._type == STRATEGIC:
            return self._strategic_merge(codec.to_builtins(stored.object))
        change = jsonpatch.json_patch if self._type == JSON_PATCH else jsonpatch.merge_patch
        changed = change(codec.parse_json(stored.wire), self._content)
        # Several operations together can nest deeper than each of them.
        jsonpatch.check_depth(changed)
        patched = jsonpatch.sort_members(changed)
        try:
            return self._decode(patched)
        except codec.DecodeError as error:
            raise _invalid_result(gojson.encode(patched), str(error)) from error

    # --- the patch ------------------------------------------------------------------------------------------------

    @functools.cached_property
    def _content(self) -> Any:
        """The parsed patch: a tree; for strategic merge and apply, builtins."""
        if self._type == APPLY:
            return self._parse_apply()
        is_checked = self._call.field_validation != "Ignore"
        parse = {JSON_PATCH: _parse_operations, MERGE: _parse_merge, STRATEGIC: _parse_strategic}[self._type]
        tree, strict_errors = parse(self._body, is_checked=is_checked)
        self._strict_errors = tuple(itertools.islice(strict_errors, codec.STRICT_LIMIT)) if is_checked else ()
        return tree

    def _parse_apply(self) -> object:
        try:
            tree = goyaml.parse(self._body)
        except goyaml.YAMLError as error:
            raise errors.BadRequest(f"error decoding YAML: error converting YAML to JSON: {error}") from error
        if tree is None:
            return {}
        if not isinstance(tree, gojson.Pairs):
            raise errors.BadRequest(
                f"error decoding YAML: error unmarshaling JSON: while decoding JSON: {_not_a_map(tree)}"
            )
        duplicates = goyaml.find_duplicates(self._body) if any(gojson.find_duplicates(tree)) else ()
        self._strict_errors = tuple(duplicates[: codec.STRICT_LIMIT])
        return gojson.to_builtins(tree, numbers=True)

    # --- the object -----------------------------------------------------------------------------------------------

    def _decode(self, patched: Any) -> T:
        """Decode the patched document, which may be anything. Raises codec.DecodeError."""
        api_version, kind = bodies.type_of(patched)
        if not api_version:
            # Go decodes into its internal type, whose fields have no JSON names, so the object is empty.
            unknown = (f'unknown field "{key}"' for key, _ in patched if key not in ("apiVersion", "kind"))
            self._apply_field_validation(list(itertools.islice(unknown, codec.STRICT_LIMIT)))
            return self._resource.type()
        problem = bodies.type_problem(api_version, kind or self._resource.kind, self._expected)
        if problem:
            raise codec.DecodeError(problem)
        reading = codec.decode_tree(patched, self._resource.type)
        self._apply_field_validation(reading.strict_errors)
        return reading.object

    def _strategic_merge(self, live: dict[str, object]) -> T:
        jsonpatch.check_depth(self._content)
        patch = copy.deepcopy(self._content)
        merged = strategic.merge(live, patch, self._resource.shape)
        try:
            reading = codec.from_unstructured(merged, self._resource.type)
            self._apply_field_validation(reading.strict_errors)
        except codec.DecodeError as error:
            raise _invalid_result(formatting.format_value(patch), str(error)) from error
        return reading.object

    def _apply_field_validation(self, strict_errors: Sequence[str]) -> None:
        """Refuse the strict decoding errors of the patch and of the patched object, or add them to the warnings."""
        all_errors = (*self._strict_errors, *strict_errors)
        if all_errors and self._call.field_validation == "Strict":
            raise codec.DecodeError("strict decoding error: " + ", ".join(all_errors))
        if self._call.field_validation == "Warn" and not self._has_warned:
            self._has_warned = True
            self._call.warnings.extend(all_errors)

    # --- server-side apply ----------------------------------------------------------------------------------------

    def _apply(self, stored: EncodedObject[T] | None, target: verbs.Target) -> T:
        resource, call = self._resource, self._call
        self._check_apply_type()
        ignored = target.subresource.reset_fields if target.subresource is not None else resource.reset_fields
        manager = managedfields.field_manager(call, resource.api_version, target.subresource_name, ignored)
        live = codec.to_builtins(stored.object) if stored is not None else None
        merged = apply.apply(live, self._content, resource.shape, manager, force=call.force)
        self._validate_apply_fields()
        try:
            return codec.from_unstructured(merged, resource.type).object
        except codec.DecodeError as error:
            detail = f"unable to convert unstructured object to {apply.format_type(self._content)}: {error}"
            raise errors.UnknownReasonError(
                f"failed to convert new object ({apply.format_identity(self._content)}) to proper version: {detail}"
            ) from error

    def _validate_apply_fields(self) -> None:
        call = self._call
        if self._strict_errors and call.field_validation == "Strict":
            lines = "".join(f"\n  {error}" for error in self._strict_errors)
            raise errors.BadRequest(
                f"error strict decoding YAML: error converting YAML to JSON: yaml: unmarshal errors:{lines}"
            )
        if call.field_validation == "Warn" and not self._has_warned:
            self._has_warned = True
            call.warnings.extend(self._strict_errors)

    def _check_apply_type(self) -> None:
        content, resource = self._content, self._resource
        if (content.get("apiVersion"), content.get("kind")) != (resource.api_version, resource.kind):
            raise errors.BadRequest(f"invalid object type: {apply.format_type(self._content)}")


# --- parsing: each function returns the parsed patch and its strict decoding errors -------------------------------


def _parse_operations(body: bytes, *, is_checked: bool) -> tuple[object, Iterable[str]]:
    """The operations of a JSON patch. Raises BadRequest.

    kube-apiserver decodes them twice: with a strict decoder unless fieldValidation is Ignore, and in the patch library.
    """
    tree = _parse_json(body, "error decoding patch: " if is_checked else "")
    if tree is None:
        return [], ()
    if isinstance(tree, gojson.Pairs) or not isinstance(tree, list):
        go_type = "[]handlers.jsonPatchOp" if is_checked else "jsonpatch.Patch"
        raise _not_operations(tree, go_type, is_checked=is_checked)
    strict_errors: list[str] = []
    for index, operation in enumerate(tree):
        if isinstance(operation, gojson.Pairs):
            if is_checked:
                remaining = codec.STRICT_LIMIT - len(strict_errors)
                strict_errors += _operation_problems(operation, f"[{index}]", remaining)
        elif operation is not None:
            go_type = "handlers.jsonPatchOp" if is_checked else "jsonpatch.Operation"
            raise _not_operations(operation, go_type, is_checked=is_checked)
    return tree, strict_errors


def _not_operations(value: object, go_type: str, *, is_checked: bool) -> errors.BadRequest:
    prefix = "error decoding patch: " if is_checked else ""
    return errors.BadRequest(f"{prefix}json: cannot unmarshal {codec.go_kind(value)} into Go value of type {go_type}")


def _operation_problems(operation: gojson.Pairs, path: str, limit: int) -> Sequence[str]:
    """The strict decoding errors of an operation, in order, up to a limit. Raises BadRequest for a wrong type."""
    problems: list[str] = []
    seen: set[str] = set()
    for key, item in operation:
        if key in seen:
            problems.append(f'json patch duplicate field "{path}.{key}"')
        seen.add(key)
        if key == "value":
            duplicates = gojson.find_duplicates(item, f"{path}.{key}")
            problems += (
                f"json patch {duplicate}" for duplicate in itertools.islice(duplicates, max(limit - len(problems), 0))
            )
        elif key not in ("op", "path", "from"):
            problems.append(f'json patch unknown field "{path}.{key}"')
        elif item is not None and type(item) is not str:
            detail = f"cannot unmarshal {codec.go_kind(item)} into Go struct field jsonPatchOp.{key} of type string"
            raise errors.BadRequest(f"error decoding patch: json: {detail}")
    return problems[:limit]


def _parse_merge(body: bytes, *, is_checked: bool) -> tuple[object, Iterable[str]]:
    """A merge patch: an object; or a list, if fieldValidation is Ignore. Raises BadRequest."""
    try:
        tree = codec.parse_json(body)
    except gojson.JSONSyntaxError as error:
        raise errors.BadRequest(f"error decoding patch: {error}" if is_checked else _INVALID_JSON_PATCH) from error
    if isinstance(tree, gojson.Pairs):
        return tree, gojson.find_duplicates(tree)
    if is_checked and tree is not None:
        raise errors.BadRequest(f"error decoding patch: {_not_a_map(tree)}")
    if isinstance(tree, list):
        return tree, ()
    raise errors.BadRequest(_INVALID_JSON_PATCH)


def _parse_strategic(body: bytes, *, is_checked: bool) -> tuple[object, Iterable[str]]:
    """A strategic merge patch, as builtins. Raises BadRequest."""
    tree = _parse_json(body, "")
    if tree is None:
        return {}, ()
    if not isinstance(tree, gojson.Pairs):
        raise errors.BadRequest(_not_a_map(tree))
    return gojson.to_builtins(tree, numbers=True), gojson.find_duplicates(tree) if is_checked else ()


def _parse_json(body: bytes, prefix: str) -> object:
    try:
        return codec.parse_json(body)
    except gojson.JSONSyntaxError as error:
        raise errors.BadRequest(f"{prefix}{error}") from error


def _not_a_map(tree: object) -> str:
    return f"json: cannot unmarshal {codec.go_kind(tree)} into Go value of type map[string]interface {{}}"


def _invalid_result(value: str, detail: str) -> errors.Invalid:
    return errors.Invalid("", "", "", [errors.invalid("patch", value, detail)])
