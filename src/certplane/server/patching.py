"""PATCH: from a patch body and a stored document to the new object.

Each patch is parsed once and applied as often as it takes to win the race for the object. The texts are those of
`k8s.io/apiserver/pkg/endpoints/handlers/patch.go`, where a patch that leads to a wrong object is reported as a 422 of
nothing in particular, with the patched document (JSON patch, merge patch) or the patch (strategic merge) as its value.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any, Final

from certplane import errors, gotext
from certplane.meta import apply, codec, context, gojson, patches, resource, shape
from certplane.registry import document, ownership, verbs
from certplane.server import bodies

JSON_PATCH: Final = "application/json-patch+json"
MERGE: Final = "application/merge-patch+json"
STRATEGIC: Final = "application/strategic-merge-patch+json"
APPLY: Final = "application/apply-patch+yaml"
_KUBECTL: Final = "kubectl"
_LAST_APPLIED: Final = "kubectl.kubernetes.io/last-applied-configuration"
_TYPES: Final = frozenset({JSON_PATCH, MERGE, STRATEGIC, APPLY})


class _WrongPatchType(errors.UnsupportedMediaType):
    def __init__(self) -> None:
        super().__init__("415: Unsupported Media Type", {})


def patch_type(content_type: str) -> str:
    """The kind of patch that a content type names. Raises UnsupportedMediaType."""
    media = content_type.partition(";")[0].strip().lower()
    if media not in _TYPES:
        raise _WrongPatchType
    return media


class Patch:
    """One patch, parsed."""

    def __init__(
        self,
        kind_of_patch: str,
        body: bytes,
        expected: bodies.Expected,
        kind: resource.Resource,
        call: context.Call,
    ) -> None:
        self._type = kind_of_patch
        self._expected = expected
        self._kind = kind
        self._call = call
        self._duplicates: tuple[str, ...] = ()
        self._warned = False
        self._content = self._parse(body)

    def apply_to(self, stored: document.Document | None, target: verbs.Target) -> Any:
        """The new object. `stored` is None only for server-side apply, which then creates."""
        if self._type == APPLY:
            return self._apply(stored, target)
        assert stored is not None  # noqa: S101 - other patches need something to patch
        live = codec.to_builtins(stored.object)
        if self._type == STRATEGIC:
            patched = patches.strategic_merge_patch(live, self._content, shape.of(self._kind.type))
            report = self._go_text
        else:
            change = patches.json_patch if self._type == JSON_PATCH else patches.merge_patch
            patched = change(live, self._content)
            report = functools.partial(_document_text, patched, live)
        return self._read(patched, report)

    # --- the patch ------------------------------------------------------------------------------------------------

    def _parse(self, body: bytes) -> Any:
        if self._type == APPLY:
            return self._parse_apply(body)
        prefix = "" if self._type == STRATEGIC else "error decoding patch: "
        try:
            tree = codec.parse_json(body)
        except gojson.SyntaxProblem as error:
            raise errors.BadRequest(f"{prefix}{error}") from error
        if self._type == JSON_PATCH:
            if not isinstance(tree, list) or isinstance(tree, gojson.Pairs):
                kind = codec.go_kind(tree)
                raise errors.BadRequest(
                    f"error decoding patch: json: cannot unmarshal {kind} into Go value of type []handlers.jsonPatchOp"
                )
        elif not isinstance(tree, gojson.Pairs):
            kind = codec.go_kind(tree)
            raise errors.BadRequest(
                f"{prefix}json: cannot unmarshal {kind} into Go value of type map[string]interface {{}}"
            )
        self._duplicates = tuple(gojson.duplicates(tree))
        return gojson.plain(tree, numbers=True)

    def _parse_apply(self, body: bytes) -> Any:
        try:
            tree = codec.parse_yaml(body)
        except codec.YAMLProblem as error:
            raise errors.BadRequest(f"error decoding YAML: {error}") from error
        if not isinstance(tree, gojson.Pairs):
            kind = codec.go_kind(tree)
            raise errors.BadRequest(
                f"error decoding YAML: json: cannot unmarshal {kind} into Go value of type map[string]interface {{}}"
            )
        self._duplicates = tuple(codec.yaml_duplicates(body)) if gojson.duplicates(tree) else ()
        return gojson.plain(tree, numbers=True)

    # --- the object -----------------------------------------------------------------------------------------------

    def _read(self, patched: Any, report: Any) -> Any:
        """The patched document as an object; what is wrong with it is the patch's fault."""
        kind = self._kind
        # A JSON patch may put anything in the place of the whole document.
        sent_kind = patched.get("kind", kind.kind) if isinstance(patched, Mapping) else kind.kind
        if sent_kind != kind.kind and self._type != STRATEGIC:
            why = (
                f"no kind {gotext.quote(str(patched['kind']))} is registered for version "
                f'{gotext.quote(str(patched.get("apiVersion", "")))} in scheme "pkg/api/legacyscheme/scheme.go:30"'
            )
            raise _bad_patch(report(), why)
        try:
            reading = codec.read(patched, kind.type)
        except codec.ReadProblem as error:
            raise _bad_patch(report(), _restoring(str(error)) if self._type == STRATEGIC else str(error)) from error
        self._judge([*self._duplicates, *reading.strict], report)
        return reading.object

    def _judge(self, strict: list[str], report: Any) -> None:
        if not strict:
            return
        if self._call.field_validation == "Strict":
            raise _bad_patch(report(), "strict decoding error: " + ", ".join(strict))
        if self._call.field_validation == "Warn" and not self._warned:
            self._warned = True
            self._call.warnings.extend(strict)

    def _go_text(self) -> str:
        return go_map_text(self._content)

    # --- server-side apply ----------------------------------------------------------------------------------------

    def _apply(self, stored: document.Document | None, target: verbs.Target) -> Any:
        kind, call = self._kind, self._call
        self._check_apply_type()
        ignored = target.door.ignored_fields if target.door is not None else kind.ignored_fields
        writer = ownership.writer(call, kind.api_version, target.subresource, ignored)
        live = codec.to_builtins(stored.object) if stored is not None else None
        merged = apply.apply(live, self._content, shape.of(kind.type), writer, force=call.force)
        if self._duplicates and not self._warned:
            self._warned = True
            if call.field_validation == "Strict":
                raise errors.BadRequest("error strict decoding YAML: " + ", ".join(self._duplicates))
            if call.field_validation == "Warn":
                call.warnings.extend(self._duplicates)
        new = bodies.strictly(merged, self._expected, call)
        if call.field_manager == _KUBECTL and _LAST_APPLIED in new.metadata.annotations:
            # Whoever goes back to client-side apply goes on from here.
            text = json.dumps(self._content, sort_keys=True, separators=(",", ":"), ensure_ascii=False) + "\n"
            new.metadata.annotations[_LAST_APPLIED] = gotext.escape_html(text.encode("utf-8")).decode("utf-8")
        if stored is None and not new.metadata.name:
            new.metadata.name = target.name
        return new

    def _check_apply_type(self) -> None:
        api_version, kind = self._content.get("apiVersion", ""), self._content.get("kind", "")
        if not kind or not api_version:
            raise errors.BadRequest(f"invalid object type: {api_version}, Kind={kind}")
        if (api_version, kind) != (self._kind.api_version, self._kind.kind):
            raise errors.BadRequest(f"invalid object type: {api_version}, Kind={kind}")


def _bad_patch(value: str, why: str) -> errors.Invalid:
    return errors.Invalid("", "", "", [errors.invalid("patch", value, why)])


def _restoring(text: str) -> str:
    """Strategic merge goes through Go's unstructured converter, which has words of its own for a wrong type."""
    kind = text.partition("cannot unmarshal ")[2].partition(" ")[0]
    if not kind:
        return text
    wanted = text.rpartition("of type ")[2]
    names = {"object": "map[string]interface {}", "array": "[]interface {}", "number": "int64"}
    plain = {"map[string]string": "map", "string": "string", "bool": "bool"}
    what = "slice" if wanted.startswith("[]") else plain.get(wanted, "struct")
    return f"cannot restore {what} from {names.get(kind, kind)}"


def _document_text(patched: Any, live: Any) -> str:
    """The patched document as the patch library prints it: objects that were touched have their keys sorted."""
    return gotext.json_text(_touched_sorted(patched, live))


def _touched_sorted(patched: Any, live: Any) -> Any:
    if not isinstance(patched, dict) or patched == live:
        return patched
    before = live if isinstance(live, dict) else {}
    return {key: _touched_sorted(patched[key], before.get(key)) for key in sorted(patched)}


def go_map_text(value: Any) -> str:
    """`%v` of a decoded document: maps with sorted keys, lists, and bare values."""
    if isinstance(value, Mapping):
        return "map[" + " ".join(f"{key}:{go_map_text(value[key])}" for key in sorted(value)) + "]"
    if isinstance(value, list):
        return "[" + " ".join(go_map_text(each) for each in value) + "]"
    if value is None:
        return "<nil>"
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
