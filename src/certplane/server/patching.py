"""PATCH: from a patch body and a stored document to the new object.

Each patch is parsed once and applied as often as it takes to win the race for the object. The texts are those of
`k8s.io/apiserver/pkg/endpoints/handlers/patch.go`, where a patch that leads to a wrong object is reported as a 422 of
nothing in particular, with the patched document (JSON patch, merge patch) or the patch (strategic merge) as its value.
"""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Iterable, Sequence
from typing import Any, Final

from certplane import errors, gotext
from certplane.meta import apply, codec, context, gojson, goyaml, patches, resource, shape, strategic
from certplane.registry import document, ownership, verbs
from certplane.server import bodies

JSON_PATCH: Final = "application/json-patch+json"
MERGE: Final = "application/merge-patch+json"
STRATEGIC: Final = "application/strategic-merge-patch+json"
APPLY: Final = "application/apply-patch+yaml"
_NO_PATCH: Final = "Invalid JSON Patch"
_TYPES: Final = frozenset({JSON_PATCH, MERGE, STRATEGIC, APPLY})


class _WrongPatchType(errors.UnsupportedMediaType):
    def __init__(self) -> None:
        super().__init__("415: Unsupported Media Type", {})


def patch_type(content_type: str) -> str:
    """The kind of patch that a content type names. Raises UnsupportedMediaType."""
    # Compared as it is: a media type in capitals is none of these.
    media = content_type.partition(";")[0]
    if media not in _TYPES:
        raise _WrongPatchType
    return media


class Patch:
    """One patch; it is parsed when there is something to apply it to."""

    def __init__(
        self,
        kind_of_patch: str,
        body: bytes,
        expected: bodies.Expected,
        kind: resource.Resource,
        call: context.Call,
    ) -> None:
        self._type = kind_of_patch
        self._body = body
        self._expected = expected
        self._kind = kind
        self._call = call
        self._strict: tuple[str, ...] = ()
        self._warned = False

    def apply_to(self, stored: document.Document | None, target: verbs.Target) -> Any:
        """The new object. `stored` is None only for server-side apply, which then creates."""
        if self._type == APPLY:
            return self._apply(stored, target)
        assert stored is not None  # noqa: S101 - other patches need something to patch
        if self._type == STRATEGIC:
            return self._merge_strategically(codec.to_builtins(stored.object))
        change = patches.json_patch if self._type == JSON_PATCH else patches.merge_patch
        changed = change(codec.parse_json(stored.wire), self._content)
        # Operations can nest what none of them has nested.
        patches.check_depth(changed)
        patched = patches.closed(changed)
        try:
            return self._read(patched)
        except codec.ReadProblem as error:
            raise _bad_patch(gojson.text(patched), str(error)) from error

    # --- the patch ------------------------------------------------------------------------------------------------

    @functools.cached_property
    def _content(self) -> Any:
        """The patch as a tree; for a strategic merge and an apply, as builtins."""
        if self._type == APPLY:
            return self._parse_apply()
        judged = self._call.field_validation != "Ignore"
        read = {JSON_PATCH: _read_operations, MERGE: _read_merge, STRATEGIC: _read_strategic}[self._type]
        tree, strict = read(self._body, judged=judged)
        self._strict = tuple(itertools.islice(strict, codec.STRICT_LIMIT)) if judged else ()
        return tree

    def _parse_apply(self) -> Any:
        try:
            tree = goyaml.parse(self._body)
        except goyaml.Problem as error:
            raise errors.BadRequest(f"error decoding YAML: error converting YAML to JSON: {error}") from error
        if tree is None:
            return {}
        if not isinstance(tree, gojson.Pairs):
            raise errors.BadRequest(
                f"error decoding YAML: error unmarshaling JSON: while decoding JSON: {_no_map(tree)}"
            )
        doubled = goyaml.duplicates(self._body) if any(gojson.duplicates(tree)) else ()
        self._strict = tuple(doubled[: codec.STRICT_LIMIT])
        return gojson.plain(tree, numbers=True)

    # --- the object -----------------------------------------------------------------------------------------------

    def _read(self, patched: Any) -> Any:
        """The patched document as an object. Raises codec.ReadProblem; the document may be anything by now."""
        api_version, kind = bodies.type_of(patched)
        if not api_version:
            # Go then reads it as its internal type, whose fields have no names in a document: nothing comes of it.
            unknown = (f'unknown field "{key}"' for key, _ in patched if key not in ("apiVersion", "kind"))
            self._judge(list(itertools.islice(unknown, codec.STRICT_LIMIT)))
            return self._kind.type()
        why = bodies.type_problem(api_version, kind or self._kind.kind, self._expected)
        if why:
            raise codec.ReadProblem(why)
        reading = codec.read(patched, self._kind.type)
        self._judge(reading.strict)
        return reading.object

    def _merge_strategically(self, live: dict[str, Any]) -> Any:
        patches.check_depth(self._content)
        patch = copy.deepcopy(self._content)
        merged = strategic.merge(live, patch, shape.of(self._kind.type))
        try:
            reading = codec.restore(merged, self._kind.type)
            self._judge(reading.strict)
        except codec.ReadProblem as error:
            raise _bad_patch(gotext.plain(patch), str(error)) from error
        return reading.object

    def _judge(self, strict: Sequence[str]) -> None:
        """Refuse or warn of what strict decoding finds in the patch and in what it leads to."""
        found = (*self._strict, *strict)
        if found and self._call.field_validation == "Strict":
            raise codec.ReadProblem("strict decoding error: " + ", ".join(found))
        if self._call.field_validation == "Warn" and not self._warned:
            self._warned = True
            self._call.warnings.extend(found)

    # --- server-side apply ----------------------------------------------------------------------------------------

    def _apply(self, stored: document.Document | None, target: verbs.Target) -> Any:
        kind, call = self._kind, self._call
        self._check_apply_type()
        ignored = target.door.ignored_fields if target.door is not None else kind.ignored_fields
        writer = ownership.writer(call, kind.api_version, target.subresource, ignored)
        live = codec.to_builtins(stored.object) if stored is not None else None
        merged = apply.apply(live, self._content, shape.of(kind.type), writer, force=call.force)
        self._judge_apply()
        try:
            return codec.restore(merged, kind.type).object
        except codec.ReadProblem as error:
            why = f"unable to convert unstructured object to {apply.type_text(self._content)}: {error}"
            raise errors.UnreasonedError(
                f"failed to convert new object ({apply.naming(self._content)}) to proper version: {why}"
            ) from error

    def _judge_apply(self) -> None:
        call = self._call
        if self._strict and call.field_validation == "Strict":
            found = "".join(f"\n  {each}" for each in self._strict)
            raise errors.BadRequest(
                f"error strict decoding YAML: error converting YAML to JSON: yaml: unmarshal errors:{found}"
            )
        if call.field_validation == "Warn" and not self._warned:
            self._warned = True
            call.warnings.extend(self._strict)

    def _check_apply_type(self) -> None:
        if (self._content.get("apiVersion"), self._content.get("kind")) != (self._kind.api_version, self._kind.kind):
            raise errors.BadRequest(f"invalid object type: {apply.type_text(self._content)}")


# --- reading patches: a tree, and what strict decoding finds in it ------------------------------------------------


def _read_operations(body: bytes, *, judged: bool) -> tuple[Any, Iterable[str]]:
    """The operations of a JSON patch. Raises BadRequest.

    They are decoded twice, by a strict decoder if somebody cares, and by the one of the patch library.
    """
    tree = _parsed(body, "error decoding patch: " if judged else "")
    if tree is None:
        return [], ()
    if isinstance(tree, gojson.Pairs) or not isinstance(tree, list):
        where = "Go value of type []handlers.jsonPatchOp" if judged else "Go value of type jsonpatch.Patch"
        raise _no_operations(tree, where, judged=judged)
    strict: list[str] = []
    for position, each in enumerate(tree):
        if isinstance(each, gojson.Pairs):
            if judged:
                strict += _operation_problems(each, f"[{position}]", codec.STRICT_LIMIT - len(strict))
        elif each is not None:
            where = "handlers.jsonPatchOp" if judged else "jsonpatch.Operation"
            raise _no_operations(each, f"Go value of type {where}", judged=judged)
    return tree, strict


def _no_operations(found: Any, where: str, *, judged: bool) -> errors.BadRequest:
    prefix = "error decoding patch: " if judged else ""
    return errors.BadRequest(f"{prefix}json: cannot unmarshal {codec.go_kind(found)} into {where}")


def _operation_problems(operation: gojson.Pairs, at: str, most: int) -> Sequence[str]:
    """What a strict decoder finds in an operation, in its order, up to so many. Raises BadRequest for a wrong type."""
    problems: list[str] = []
    seen: set[str] = set()
    for key, item in operation:
        if key in seen:
            problems.append(f'json patch duplicate field "{at}.{key}"')
        seen.add(key)
        if key == "value":
            doubled = gojson.duplicates(item, f"{at}.{key}")
            problems += (f"json patch {each}" for each in itertools.islice(doubled, max(most - len(problems), 0)))
        elif key not in ("op", "path", "from"):
            problems.append(f'json patch unknown field "{at}.{key}"')
        elif item is not None and type(item) is not str:
            why = f"cannot unmarshal {codec.go_kind(item)} into Go struct field jsonPatchOp.{key} of type string"
            raise errors.BadRequest(f"error decoding patch: json: {why}")
    return problems[:most]


def _read_merge(body: bytes, *, judged: bool) -> tuple[Any, Iterable[str]]:
    """A merge patch: an object, or, where nobody looks, a list. Raises BadRequest."""
    try:
        tree = codec.parse_json(body)
    except gojson.SyntaxProblem as error:
        raise errors.BadRequest(f"error decoding patch: {error}" if judged else _NO_PATCH) from error
    if isinstance(tree, gojson.Pairs):
        return tree, gojson.duplicates(tree)
    if judged and tree is not None:
        raise errors.BadRequest(f"error decoding patch: {_no_map(tree)}")
    if isinstance(tree, list):
        return tree, ()
    raise errors.BadRequest(_NO_PATCH)


def _read_strategic(body: bytes, *, judged: bool) -> tuple[Any, Iterable[str]]:
    """A strategic merge patch, as builtins. Raises BadRequest."""
    tree = _parsed(body, "")
    if tree is None:
        return {}, ()
    if not isinstance(tree, gojson.Pairs):
        raise errors.BadRequest(_no_map(tree))
    return gojson.plain(tree, numbers=True), gojson.duplicates(tree) if judged else ()


def _parsed(body: bytes, prefix: str) -> Any:
    try:
        return codec.parse_json(body)
    except gojson.SyntaxProblem as error:
        raise errors.BadRequest(f"{prefix}{error}") from error


def _no_map(tree: Any) -> str:
    return f"json: cannot unmarshal {codec.go_kind(tree)} into Go value of type map[string]interface {{}}"


def _bad_patch(value: str, why: str) -> errors.Invalid:
    return errors.Invalid("", "", "", [errors.invalid("patch", value, why)])
