"""Encodes and decodes objects as JSON.

There are two decoders:

* `decode` is for trusted bytes: from the store, or from an API server. It is fast (msgspec).
* `decode_tree` is for documents of clients. It follows Go's `encoding/json` where clients can see it: names are
  case-sensitive, null is absence, integers must be written as integers, base64 may contain line breaks, the first wrong
  type is reported with Go's text, unknown and duplicate fields are collected, not refused. It takes a tree of builtins,
  so JSON, YAML and the results of patches are all decoded by the same code.

`encode` writes compact JSON in the order of the fields, escaped like Go's.

This module knows Structs and their shapes, but not kinds, media types or HTTP. YAML is in `goyaml`.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import dataclasses
import datetime
import functools
import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, NoReturn, TypeVar

import msgspec

from certplane import timestamps
from certplane.errors import CertplaneError
from certplane.golang import formatting, gojson
from certplane.meta import quantity, shapes
from certplane.meta.shapes import Shape

T = TypeVar("T", bound=msgspec.Struct)

_encoder = msgspec.json.Encoder()


def encode(value: object) -> bytes:
    """Encode a Struct, or builtins, as compact JSON."""
    return formatting.escape_html(_encoder.encode(value))


@functools.cache
def _decoder(type_: type[msgspec.Struct]) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(type_)


def decode(data: bytes, type_: type[T]) -> T:
    """Decode trusted bytes. Unknown fields are dropped.

    Raises ValueError if the bytes are not an object of the type (a corrupt store, a foreign server).
    """
    obj: T = _decoder(type_).decode(data)
    return obj


def to_builtins(value: msgspec.Struct) -> dict[str, Any]:
    """An object as JSON builtins, the form that patches and server-side apply work on."""
    document: dict[str, object] = msgspec.json.decode(_encoder.encode(value))
    return document


# --- documents of clients -----------------------------------------------------------------------------------------


def parse_json(data: bytes) -> object:
    """Parse a JSON document, keeping duplicate keys (`gojson.Pairs`) and the spelling of numbers (`gojson.Number`).

    Raises gojson.JSONSyntaxError with Go's text. The standard library parses the common case; input that it treats
    differently from Go (depth, surrogates, invalid UTF-8, errors) is left to `gojson`.
    """
    if b"\\ud" not in data and b"\\uD" not in data:
        try:
            return json.loads(
                data.decode("utf-8"),
                object_pairs_hook=gojson.Pairs,
                parse_int=gojson.Number,
                parse_float=gojson.Number,
                parse_constant=_refuse_constant,
            )
        except (ValueError, RecursionError):
            pass
    return gojson.parse(data)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)


#: Maximum strict decoding errors that are collected for a document.
STRICT_LIMIT = 100


class DecodeError(CertplaneError):
    """A document does not fit its type; the text is Go's. Callers add which type was expected. `not_base64` is the path
    and the value of the field, if that is the reason.
    """

    def __init__(self, message: str, not_base64: tuple[str, str] | None = None) -> None:
        super().__init__(message)
        self.not_base64 = not_base64


@dataclasses.dataclass(slots=True)
class _State:
    """The state of decoding a document: the path of the present value, the first error, and the strict errors."""

    path: list[str | int] = dataclasses.field(default_factory=list)
    structs: list[str] = dataclasses.field(default_factory=list)
    error: str = ""
    not_base64: tuple[str, str] | None = None
    strict: dict[str, None] = dataclasses.field(default_factory=dict)

    def field(self) -> str:
        """The path as strict errors print it: `status.conditions[0].type`."""
        text = ""
        for part in self.path:
            if isinstance(part, int):
                text += f"[{part}]"
            else:
                text += f".{part}" if text else part
        return text

    def fail(self, text: str) -> None:
        self.error = self.error or text

    def fail_strict(self, text: str) -> None:
        """Record a strict decoding error at the present path: each once, and at most STRICT_LIMIT."""
        if len(self.strict) < STRICT_LIMIT:
            self.strict.setdefault(f"{text} {formatting.quote(self.field())}")

    def fail_type(self, value: object, go: str, _kind: str) -> None:
        """Record a value that is not of Go's type `go`, whose kind is struct, map, slice, string, bool or int64."""
        self.fail(f"json: cannot unmarshal {go_kind(value)} into {self._target()} of type {go}")

    def fail_number(self, literal: str, go: str) -> int:
        """Record a number that is no integer of Go's type `go`. Returns the value to continue with."""
        self.fail(f"json: cannot unmarshal number {literal} into {self._target()} of type {go}")
        return 0

    def fail_base64(self, offset: int, value: str) -> None:
        if not self.error:
            self.not_base64 = self.field(), value
        self.fail(f"illegal base64 data at input byte {offset}")

    def fail_time(self, value: object) -> None:
        self.fail_type(value, "string", "string")

    def _target(self) -> str:
        # Go prints neither list positions nor map keys; map keys are marked by their class.
        names = [part for part in self.path if isinstance(part, str) and not isinstance(part, _MapKey)]
        return f"Go struct field {self.structs[-1]}.{'.'.join(names)}" if self.structs and names else "Go value"


class _MapKey(str):
    __slots__ = ()


_GO_KINDS = {"array": "slice", "object": "map", "string": "string", "bool": "bool"}


class _ConverterState(_State):
    """The state of decoding an unstructured document, like Go's converter: it has other error texts, and accepts whole
    numbers in any spelling. Source: `k8s.io/apimachinery/pkg/runtime/converter.go`.
    """

    def fail_type(self, value: object, go: str, kind: str) -> None:
        value_kind = _GO_KINDS.get(go_kind(value)) or ("float64" if isinstance(value, float) else "int64")
        if kind == "struct":
            self.fail(f"cannot restore struct from: {value_kind}")
        elif kind in ("map", "slice"):
            self.fail(f"cannot restore {kind} from {value_kind}")
        elif kind == "string" and value_kind == "int64":
            # Go's reflection can convert an integer to a string; the converter refuses it.
            self.fail(f"cannot convert {value_kind} to {go}")
        else:
            self.fail(f"unrecognized type: {kind}")

    def fail_number(self, literal: str, go: str) -> int:
        number = float(literal)
        if number.is_integer():
            unsigned, _, bits = go.rpartition("int")
            half = 0 if unsigned else 1 << int(bits) - 1
            return (int(number) + half) % (1 << int(bits)) - half
        self.fail(f"cannot convert float64 to {go}")
        return 0

    def fail_base64(self, offset: int, value: str) -> None:
        if not self.error:
            self.not_base64 = self.field(), value
        self.fail(f"error decoding from json: illegal base64 data at input byte {offset}")

    def fail_time(self, value: object) -> None:
        # Go's Time decodes itself, and does not know its field.
        self.fail(f"json: cannot unmarshal {go_kind(value)} into Go value of type string")


def go_kind(value: object) -> str:
    """Go's name for the kind of a JSON value in decoding errors."""
    if isinstance(value, gojson.Number):
        return "number"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, str):
        return "string"
    if isinstance(value, int | float):
        return "number"
    return "object" if isinstance(value, gojson.Pairs | Mapping) else "array"


@dataclasses.dataclass(frozen=True, slots=True)
class Decoded(Generic[T]):
    """An object, and its strict decoding errors: `unknown field "x"`, `duplicate field "y"`."""

    object: T
    strict_errors: tuple[str, ...]


def decode_tree(tree: object, type_: type[T]) -> Decoded[T]:
    """Decode a tree of builtins, or of `parse_json`. Raises DecodeError with Go's text."""
    return _decode(tree, type_, _State())


def from_unstructured(document: Mapping[str, object], type_: type[T]) -> Decoded[T]:
    """Decode a document like Go's converter, which sorts strict errors. Raises DecodeError with the
    converter's text.
    """
    decoded = _decode(document, type_, _ConverterState())
    return Decoded(decoded.object, tuple(sorted(decoded.strict_errors)))


def _decode(tree: object, type_: type[T], state: _State) -> Decoded[T]:
    obj: T = _struct_reader(type_)(tree, state)
    if state.error:
        raise DecodeError(state.error, state.not_base64)
    return Decoded(obj, tuple(state.strict))


_Reader = Callable[[object, _State], Any]


@functools.cache
def _struct_reader(type_: type[msgspec.Struct]) -> _Reader:
    fields: dict[str, tuple[str, _Reader]] | None = None
    shape = shapes.shape_of(type_)
    name = shape.go

    def read_struct(value: object, state: _State) -> msgspec.Struct:
        nonlocal fields
        if fields is None:
            # On first use: a type may contain itself.
            fields = {field.name: (field.attribute, _reader(field.shape)) for field in shape.fields.values()}
        if value is None:
            return type_()
        pairs: Iterable[tuple[object, object]]
        if isinstance(value, gojson.Pairs):
            pairs = value
        elif isinstance(value, Mapping):
            pairs = value.items()
        else:
            state.fail_type(value, f"v1.{name}" if state.path else name, "struct")
            return type_()
        arguments: dict[str, object] = {}
        duplicates: _Duplicates | None = None
        path = state.path
        state.structs.append(name)
        for key, item in pairs:
            field = fields.get(key)
            path.append(key)
            if field is None:
                state.fail_strict("unknown field")
            else:
                attribute, reader = field
                if attribute in arguments:
                    state.fail_strict("duplicate field")
                    duplicates = duplicates or _Duplicates(pairs)
                    duplicates.readers[key] = attribute, reader
                arguments[attribute] = reader(item, state) if item is not None else None
            path.pop()
        state.structs.pop()
        if duplicates is not None:
            arguments |= duplicates.read()
        # null is absence: the default of a nullable field is None anyway.
        return type_(**{attribute: item for attribute, item in arguments.items() if item is not None})

    return read_struct


class _Duplicates:
    """The fields that an object has several times. Go decodes a second value into the first, so objects under one key
    are merged; a null clears the value.
    """

    __slots__ = ("_pairs", "readers")

    def __init__(self, pairs: Iterable[tuple[object, object]]) -> None:
        self._pairs = pairs
        self.readers: dict[str, tuple[str, _Reader]] = {}

    def read(self) -> dict[str, object]:
        """The merged values of the fields whose last value is an object. Their errors have been recorded before."""
        merged: dict[str, gojson.Pairs | None] = {}
        for key, item in self._pairs:
            if key not in self.readers:
                continue
            if isinstance(item, gojson.Pairs):
                previous = merged.get(key)
                if previous is None:
                    merged[key] = gojson.Pairs(item)
                else:
                    previous.extend(item)
            else:
                merged[key] = None
        ignored = _State()
        return {
            attribute: reader(value, ignored)
            for key, (attribute, reader) in self.readers.items()
            if (value := merged.get(key)) is not None
        }


def _reader(shape: Shape) -> _Reader:
    if shape.kind == "struct":
        assert shape.struct is not None  # noqa: S101 - a struct shape always has its class
        return _struct_reader(shape.struct)
    if shape.kind in ("list", "map"):
        assert shape.element is not None  # noqa: S101 - lists and maps always have an element
        container_reader = _list_reader if shape.kind == "list" else _map_reader
        return container_reader(_reader(shape.element), _zero(shape.element), shape.go)
    if shape.kind == "integer":
        return _integer_reader(shape.format)
    if shape.kind == "string":
        return _string_reader(shape.go)
    return _SIMPLE[shape.kind]


def _zero(shape: Shape) -> Callable[[], object]:
    zeros: dict[str, Callable[[], object]] = {
        "string": str,
        "boolean": bool,
        "integer": int,
        "bytes": bytes,
        "quantity": lambda: "0",
        "list": list,
        "map": dict,
    }
    return shape.struct if shape.struct is not None else zeros.get(shape.kind, str)


def _string_reader(go: str) -> _Reader:
    def read_string(value: object, state: _State) -> str:
        if type(value) is str:
            return value
        state.fail_type(value, go, "string")
        return ""

    return read_string


def _read_bool(value: object, state: _State) -> bool:
    if value is True or value is False:
        return value
    state.fail_type(value, "bool", "bool")
    return False


_RAW_DEPTH = 256
_INTEGER = re.compile(r"-?(0|[1-9][0-9]*)\Z")


def _integer_reader(go: str) -> _Reader:
    unsigned, _, bits = go.rpartition("int")
    low, high = (0, 1 << int(bits)) if unsigned else (-(1 << int(bits) - 1), 1 << int(bits) - 1)

    def read_integer(value: object, state: _State) -> int:
        if isinstance(value, gojson.Number):
            if len(value) < 24 and _INTEGER.match(value):
                number = int(value)
                if low <= number < high:
                    return number
            return state.fail_number(value, go)
        if isinstance(value, int) and not isinstance(value, bool):
            return value if low <= value < high else state.fail_number(str(value), go)
        if isinstance(value, float):
            return state.fail_number(repr(value), go)
        state.fail_type(value, go, go)
        return 0

    return read_integer


_read_byte = _integer_reader("uint8")


def _read_bytes(value: object, state: _State) -> bytes:
    if type(value) is str:
        try:
            return base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            pass
        cleaned = value.replace("\r", "").replace("\n", "")
        try:
            return base64.b64decode(cleaned, validate=True)
        except (binascii.Error, ValueError):
            state.fail_base64(_base64_error_offset(value), value)
            return b""
    if isinstance(value, list) and not isinstance(value, gojson.Pairs):
        return _read_byte_list(value, state)
    state.fail_type(value, "[]uint8", "slice")
    return b""


def _read_byte_list(values: list[Any], state: _State) -> bytes:
    if set(map(type, values)) == {gojson.Number}:
        # ValueError: some number is no byte; the loop below finds which.
        with contextlib.suppress(ValueError):
            return bytes(map(int, values))
    return bytes(_read_byte(item, state) if item is not None else 0 for item in values)


_BASE64 = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")


def _base64_error_offset(text: str) -> int:
    """The offset at which Go's decoder fails, in bytes of the text, line breaks included."""
    raw = text.encode("utf-8", "surrogatepass").decode("latin-1")
    quantum = 0
    for position, char in enumerate(raw):
        if char in "\r\n":
            continue
        if char in _BASE64:
            quantum = (quantum + 1) % 4
            continue
        if char != "=" or quantum < 2:
            return position
        return _padding_error_offset(raw, position, quantum)
    # The text ends inside a group of four: Go reports the start of the group.
    return len(raw) - quantum


def _padding_error_offset(raw: str, position: int, quantum: int) -> int:
    rest = [(offset, char) for offset, char in enumerate(raw) if offset > position and char not in "\r\n"]
    if quantum == 2:
        if not rest:
            return len(raw)
        if rest[0][1] != "=":
            return rest[0][0]
        rest = rest[1:]
    return rest[0][0] if rest else position


_TIME_LAYOUT = "2006-01-02T15:04:05Z07:00"
_TIME = re.compile(r"(\d{4}-\d{2}-\d{2}T)(\d{1,2})(:\d{2}:\d{2})([.,]\d+)?(Z|[+-]\d{2}:\d{2})\Z", re.ASCII)


def _read_time(value: object, state: _State) -> str | None:
    moment = _moment(value, state, _TIME_LAYOUT)
    return timestamps.rfc3339(moment) if moment is not None else None


def _read_microtime(value: object, state: _State) -> str | None:
    moment = _moment(value, state, "2006-01-02T15:04:05.000000Z07:00")
    return timestamps.rfc3339_micro(moment) if moment is not None else None


def _moment(value: object, state: _State, layout: str) -> datetime.datetime | None:
    if type(value) is not str:
        state.fail_time(value)
        return None
    match = _TIME.match(value)
    # The layout of MicroTime requires exactly six digits.
    if match is not None and ("." not in layout or len(match[4] or "") == 7):
        date, hour, rest, fraction, zone = match.groups("")
        text = f"{date}{hour:>02}{rest}{fraction.replace(',', '.')[:7]}{zone.replace('Z', '+00:00')}"
        with contextlib.suppress(ValueError, OverflowError):
            return timestamps.parse_rfc3339(text)
    state.fail(f"parsing time {formatting.quote(value)}{_time_error(value, layout)}")
    return None


def _time_error(value: str, layout: str) -> str:
    """The error of Go's time.Parse, which checks from left to right, and the day last."""
    two = r"\d{2}"
    steps = (("2006", r"\d{4}", ""), ("-", "-", ""), ("01", two, "month"), ("-", "-", ""), ("02", two, ""),
             ("T", "T", ""), ("15", r"\d{1,2}", "hour"), (":", ":", ""), ("04", two, "minute"), (":", ":", ""),
             ("05", two, "second"), (".000000", r"\.\d{6}", "") if "." in layout else ("", r"([.,]\d+)?", ""),
             ("Z07:00", r"Z|[+-](\d{2}):\d{2}", "time zone offset hour"))  # fmt: skip
    rest = value
    for name, pattern, number in steps:
        match = re.match(pattern, rest, re.ASCII)
        if match is None:
            return f" as {formatting.quote(layout)}: cannot parse {formatting.quote(rest)} as {formatting.quote(name)}"
        low, high = _RANGES.get(number, (0, 0))
        digits = match[match.lastindex or 0]
        if number and digits != "Z" and not low <= int(digits) <= high:
            return f": {number} out of range"
        rest = rest[match.end() :]
    return f": extra text: {formatting.quote(rest)}" if rest else ": day out of range"


_RANGES = {"month": (1, 12), "hour": (0, 23), "minute": (0, 59), "second": (0, 59), "time zone offset hour": (0, 24)}


def _read_raw(value: object, state: _State) -> msgspec.Raw:
    try:
        return _raw(value)
    except ValueError as error:
        state.fail(str(error))
        return msgspec.Raw(b"null")


def raw(data: bytes) -> msgspec.Raw:
    """Embedded JSON in a document of another encoding, checked and compacted. Raises ValueError."""
    try:
        return _raw(parse_json(data))
    except gojson.JSONSyntaxError as error:
        raise ValueError(str(error)) from error


def _raw(tree: object) -> msgspec.Raw:
    # Any JSON is valid, but recursive code must be able to walk it.
    if gojson.is_deeper_than(tree, _RAW_DEPTH):
        raise ValueError("json: exceeded max depth")
    return msgspec.Raw(_encoder.encode(gojson.to_builtins(tree)))


def _read_quantity(value: object, state: _State) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        # Go parses the JSON text itself, so other JSON types fail with the error of the format.
        state.fail(quantity.FORMAT_ERROR)
        return "0"
    try:
        return quantity.canonical(str(value).strip())
    except ValueError as error:
        state.fail(str(error))
        return "0"


_SIMPLE: dict[str, _Reader] = {
    "quantity": _read_quantity,
    "boolean": _read_bool,
    "bytes": _read_bytes,
    "time": _read_time,
    "microtime": _read_microtime,
    "raw": _read_raw,
}


def _list_reader(read_item: _Reader, zero: Callable[[], object], go: str) -> _Reader:
    def read_list(value: object, state: _State) -> list[object]:
        if not isinstance(value, list) or isinstance(value, gojson.Pairs):
            state.fail_type(value, go, "slice")
            return []
        result = []
        path = state.path
        for position, item in enumerate(value):
            path.append(position)
            result.append(read_item(item, state) if item is not None else zero())
            path.pop()
        return result

    return read_list


def _map_reader(read_item: _Reader, zero: Callable[[], object], go: str) -> _Reader:
    def read_map(value: object, state: _State) -> dict[str, object]:
        pairs: Iterable[tuple[object, object]]
        if isinstance(value, gojson.Pairs):
            pairs = value
        elif isinstance(value, Mapping):
            pairs = value.items()
        else:
            state.fail_type(value, go, "map")
            return {}
        result: dict[str, object] = {}
        path = state.path
        for key, item in pairs:
            path.append(_MapKey(key))
            if key in result:
                state.fail_strict("duplicate field")
            result[key] = read_item(item, state) if item is not None else zero()
            path.pop()
        # Go sorts map keys when it writes them.
        return dict(sorted(result.items())) if len(result) > 1 else result

    return read_map


def summary(data: bytes, limit: int = 30) -> str:
    """The beginning of a body as decoding errors quote it: as text if it looks like JSON, else in hexadecimal."""
    if not data:
        return "<empty>"
    more = " ..." if len(data) > limit else ""
    head = data[:limit]
    return (head.decode("utf-8", "replace") if data[:1] == b"{" else head.hex()) + more
