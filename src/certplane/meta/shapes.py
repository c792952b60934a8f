"""Descriptions of the wire types: reflection on the Structs of `objects` and `resources`, done once per type.

Code that handles documents generically (the decoder of client documents, strategic merge patch, server-side apply,
OpenAPI, protobuf) walks this description instead of the annotations.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Mapping
from typing import Any

import msgspec

from certplane.meta.objects import Type


@dataclasses.dataclass(frozen=True, slots=True)
class Shape:
    """The description of a wire type.

    `kind` is one of string, boolean, integer, bytes, time, microtime, quantity, raw, list, map, struct. `go` is the
    name that Go's decoder prints for it. `element` describes a list's items or a map's values. A struct has `fields` by
    JSON name, in order, and `struct`, its class. `format` is OpenAPI's (int32, int64, byte, date-time).
    """

    kind: str
    go: str
    format: str = ""
    element: Shape | None = None
    struct: type[msgspec.Struct] | None = None

    @property
    def fields(self) -> Mapping[str, Field]:
        return _fields(self.struct) if self.struct is not None else {}

    @property
    def atomic(self) -> bool:
        """Whether server-side apply owns a value of this struct as a whole."""
        return self.struct is not None and getattr(self.struct, "atomic", False)

    @property
    def name(self) -> str:
        """Go's name of a struct, without the package; empty for other kinds."""
        return self.struct.__name__ if self.struct is not None else ""


@dataclasses.dataclass(frozen=True, slots=True)
class Field:
    """A field of a struct. `name` is its JSON name, `attribute` its Python name. `nullable`: None differs from the zero
    value (a pointer in Go, or a slice that is written even when nil). `omitempty`: omitted when empty.
    """

    name: str
    attribute: str
    shape: Shape
    nullable: bool
    omitempty: bool
    description: str
    required: bool
    list_type: str
    keys: tuple[str, ...]
    patch_strategy: str
    patch_merge_key: str
    enum: tuple[str, ...]


_NATIVE = {str: ("string", "string", ""), bool: ("boolean", "bool", ""), bytes: ("bytes", "[]uint8", "byte")}


@functools.cache
def shape_of(struct: type[msgspec.Struct]) -> Shape:
    """The description of a Struct."""
    return Shape("struct", struct.__name__, struct=struct)


@functools.cache
def _fields(struct: type[msgspec.Struct]) -> Mapping[str, Field]:
    hints = typing.get_type_hints(struct, include_extras=True)
    fields = {info.encode_name: _field(info, hints[info.name]) for info in msgspec.structs.fields(struct)}
    return types.MappingProxyType(fields)


def _field(info: msgspec.structs.FieldInfo, hint: object) -> Field:
    extra: dict[str, Any] = {}
    description = ""
    if typing.get_origin(hint) is typing.Annotated:
        hint, *metas = typing.get_args(hint)
        for meta in metas:
            extra.update(meta.extra or {})
            description = meta.description or description
    nullable = False
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        (hint,) = (argument for argument in typing.get_args(hint) if argument is not types.NoneType)
        nullable = True
    shape = _shape(hint, extra)
    if "go" in extra and shape.go != extra["go"]:
        shape = dataclasses.replace(shape, go=extra["go"])
    omitempty = info.default_factory in (list, dict) or info.default is not msgspec.NODEFAULT
    return Field(
        name=info.encode_name,
        attribute=info.name,
        shape=shape,
        nullable=nullable,
        omitempty=omitempty,
        description=description,
        required=extra.get("required", False),
        list_type=extra.get("list_type", ""),
        keys=extra.get("keys", ()),
        patch_strategy=extra.get("patch_strategy", ""),
        patch_merge_key=extra.get("patch_merge_key", ""),
        enum=extra.get("enum", ()),
    )


def _shape(hint: Any, outer: Mapping[str, Any] = types.MappingProxyType({})) -> Shape:
    extra = dict(outer)
    if typing.get_origin(hint) is typing.Annotated:
        hint, *metas = typing.get_args(hint)
        for meta in metas:
            extra.update(meta.extra or {})
    format_ = extra.get("format", "")
    if format_ == "date-time":
        return Shape("time", extra["go"], format_)
    if format_ == "micro-time":
        return Shape("microtime", extra["go"], "date-time")
    if format_ == "quantity":
        return Shape("quantity", extra["go"])
    if hint is msgspec.Raw:
        return Shape("raw", "", "")
    if hint is int:
        return Shape("integer", format_, format_)
    if hint in _NATIVE:
        kind, go, format_ = _NATIVE[hint]
        return Shape(kind, extra.get("go", go), format_)
    origin = typing.get_origin(hint)
    if origin is list:
        element = _shape(typing.get_args(hint)[0])
        return Shape("list", extra.get("go", f"[]{_qualified(element)}"), element=element)
    if origin is dict:
        element = _shape(typing.get_args(hint)[1])
        return Shape("map", f"map[string]{_qualified(element)}", element=element)
    if isinstance(hint, type) and issubclass(hint, Type):
        return shape_of(hint)
    raise TypeError(f"not a wire type: {hint!r}")


def _qualified(shape: Shape) -> str:
    return f"v1.{shape.go}" if shape.kind == "struct" else shape.go
