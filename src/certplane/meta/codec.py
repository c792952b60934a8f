"""Bytes to objects and back: what is stored, what is sent, and what strangers send us.

Two ways in, because they owe different things:

* `decode` reads what this program wrote itself (the store) or what a server that we trust sent: fast, by msgspec.
* `read` reads what a client sent. It follows Go's `encoding/json` where clients can see it: names are case-sensitive,
  null is absence, integers are written as integers, base64 may contain line breaks, the first wrong type is reported
  with Go's words, unknown and duplicate fields are collected, not refused. It takes any tree of builtins, so JSON, YAML
  and the results of patches all pass through it; there is no second opinion on what a document means.

One way out, `encode`: compact JSON in the order of the fields, escaped as Go escapes it.

This module does not know about kinds, media types or HTTP; it knows Structs and their shapes. YAML is in `goyaml`.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import dataclasses
import functools
import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import msgspec

from certplane import clock, errors, gotext
from certplane.meta import gojson, quantity, shape

T = TypeVar("T", bound=msgspec.Struct)

_encoder = msgspec.json.Encoder()


def encode(value: Any) -> bytes:
    """A Struct, or builtins, as compact JSON."""
    return gotext.escape_html(_encoder.encode(value))


@functools.cache
def _decoder(type_: type[msgspec.Struct]) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(type_)


def decode(data: bytes, type_: type[T]) -> T:
    """The object that trusted bytes hold. Fields that the type does not know are dropped.

    Raises ValueError if the bytes are not such an object (a damaged store, a foreign server).
    """
    decoded: T = _decoder(type_).decode(data)
    return decoded


def to_builtins(value: msgspec.Struct) -> dict[str, Any]:
    """An object as JSON builtins: what patches and server-side apply work on."""
    document: dict[str, Any] = msgspec.json.decode(_encoder.encode(value))
    return document


# --- documents from strangers -------------------------------------------------------------------------------------


def parse_json(data: bytes) -> Any:
    """The tree of a JSON document, with duplicates (`gojson.Pairs`) and the spelling of numbers (`gojson.Number`).

    Raises gojson.SyntaxProblem with Go's text. The standard library's scanner does the common case; whatever it
    treats unlike Go (depth, surrogates, bad UTF-8, errors) is left to `gojson`.
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


def _refuse_constant(name: str) -> Any:
    raise ValueError(name)


STRICT_LIMIT = 100


class ReadProblem(errors.CertplaneError):
    """A document does not have the form of its type; the text is Go's. Callers say what it was meant to be."""


@dataclasses.dataclass(slots=True)
class _Reading:
    """One reading: where we are, the first wrong value, and what strict decoding would refuse."""

    path: list[str | int] = dataclasses.field(default_factory=list)
    structs: list[str] = dataclasses.field(default_factory=list)
    error: str = ""
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

    def note(self, what: str) -> None:
        """What strict decoding finds here: everything once, and not without end."""
        if len(self.strict) < STRICT_LIMIT:
            self.strict.setdefault(f"{what} {gotext.quote(self.field())}")

    def mismatch(self, value: Any, go: str, _kind: str) -> None:
        """A value of another type than Go's `go`, which is of this kind: struct, map, slice, string, bool, int64."""
        self.fail(f"json: cannot unmarshal {go_kind(value)} into {self._target()} of type {go}")

    def bad_number(self, literal: str, go: str) -> int:
        """A number that is no integer of the wanted size; what to go on with."""
        self.fail(f"json: cannot unmarshal number {literal} into {self._target()} of type {go}")
        return 0

    def bad_base64(self, fault: int) -> None:
        self.fail(f"illegal base64 data at input byte {fault}")

    def no_moment(self, value: Any) -> None:
        self.mismatch(value, "string", "string")

    def _target(self) -> str:
        # Go names neither list positions nor map keys; map keys are marked when they are pushed.
        names = [part for part in self.path if isinstance(part, str) and not isinstance(part, _MapKey)]
        return f"Go struct field {self.structs[-1]}.{'.'.join(names)}" if self.structs and names else "Go value"


class _MapKey(str):
    __slots__ = ()


_GO_KINDS = {"array": "slice", "object": "map", "string": "string", "bool": "bool"}


class _Restoring(_Reading):
    """A reading by Go's converter of documents that are decoded already, which has words of its own, and takes whole
    numbers however they are written. Source: `k8s.io/apimachinery/pkg/runtime/converter.go`.
    """

    def mismatch(self, value: Any, go: str, kind: str) -> None:
        found = _GO_KINDS.get(go_kind(value)) or ("float64" if isinstance(value, float) else "int64")
        if kind == "struct":
            self.fail(f"cannot restore struct from: {found}")
        elif kind in ("map", "slice"):
            self.fail(f"cannot restore {kind} from {found}")
        elif kind == "string" and found == "int64":
            # Go could make a string of an integer, and is not asked to.
            self.fail(f"cannot convert {found} to {go}")
        else:
            self.fail(f"unrecognized type: {kind}")

    def bad_number(self, literal: str, go: str) -> int:
        number = float(literal)
        if number.is_integer():
            unsigned, _, bits = go.rpartition("int")
            half = 0 if unsigned else 1 << int(bits) - 1
            return (int(number) + half) % (1 << int(bits)) - half
        self.fail(f"cannot convert float64 to {go}")
        return 0

    def bad_base64(self, fault: int) -> None:
        self.fail(f"error decoding from json: illegal base64 data at input byte {fault}")

    def no_moment(self, value: Any) -> None:
        # Moments decode themselves, and do not know where they stand.
        self.fail(f"json: cannot unmarshal {go_kind(value)} into Go value of type string")


def go_kind(value: Any) -> str:
    """What Go's decoder calls a JSON value."""
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
class Reading:
    """An object, and what a strict reading would have refused: `unknown field "x"`, `duplicate field "y"`."""

    object: Any
    strict: tuple[str, ...]


def read(tree: Any, type_: type[msgspec.Struct]) -> Reading:
    """The object that a tree of builtins (or `parse_json`) describes. Raises ReadProblem with Go's text."""
    return _read(tree, type_, _Reading())


def restore(document: Mapping[str, Any], type_: type[msgspec.Struct]) -> Reading:
    """The object that a decoded document describes, as Go's converter puts it together: what is strict is sorted.
    Raises ReadProblem with its text.
    """
    found = _read(document, type_, _Restoring())
    return Reading(found.object, tuple(sorted(found.strict)))


def _read(tree: Any, type_: type[msgspec.Struct], state: _Reading) -> Reading:
    result = _struct_reader(type_)(tree, state)
    if state.error:
        raise ReadProblem(state.error)
    return Reading(result, tuple(state.strict))


_Reader = Callable[[Any, _Reading], Any]


@functools.cache
def _struct_reader(type_: type[msgspec.Struct]) -> _Reader:
    fields: dict[str, tuple[str, _Reader]] | None = None
    name = shape.of(type_).go

    def read_struct(value: Any, state: _Reading) -> Any:
        nonlocal fields
        if fields is None:
            fields = {each.name: (each.attribute, _reader(each.shape)) for each in shape.of(type_).fields.values()}
        if value is None:
            return type_()
        pairs: Iterable[tuple[Any, Any]]
        if isinstance(value, gojson.Pairs):
            pairs = value
        elif isinstance(value, Mapping):
            pairs = value.items()
        else:
            state.mismatch(value, f"v1.{name}" if state.path else name, "struct")
            return type_()
        arguments: dict[str, Any] = {}
        repeated: _Repeated | None = None
        path = state.path
        state.structs.append(name)
        for key, item in pairs:
            known = fields.get(key)
            path.append(key)
            if known is None:
                state.note("unknown field")
            else:
                attribute, reader = known
                if attribute in arguments:
                    state.note("duplicate field")
                    repeated = repeated or _Repeated(pairs)
                    repeated.readers[key] = attribute, reader
                arguments[attribute] = reader(item, state) if item is not None else None
            path.pop()
        state.structs.pop()
        if repeated is not None:
            arguments |= repeated.read()
        # null is absence: where None is a value of its own, it is the default as well.
        return type_(**{attribute: item for attribute, item in arguments.items() if item is not None})

    return read_struct


class _Repeated:
    """The fields that an object has several times. Go reads on into what is there already, so that objects under one
    key become one; a null empties it.
    """

    __slots__ = ("_pairs", "readers")

    def __init__(self, pairs: Iterable[tuple[Any, Any]]) -> None:
        self._pairs = pairs
        self.readers: dict[str, tuple[str, _Reader]] = {}

    def read(self) -> dict[str, Any]:
        """The values of those whose last one is an object. What is wrong with them has been told."""
        merged: dict[str, gojson.Pairs | None] = {}
        for key, item in self._pairs:
            if key not in self.readers:
                continue
            if isinstance(item, gojson.Pairs):
                before = merged.get(key)
                if before is None:
                    merged[key] = gojson.Pairs(item)
                else:
                    before.extend(item)
            else:
                merged[key] = None
        quiet = _Reading()
        return {
            attribute: reader(found, quiet)
            for key, (attribute, reader) in self.readers.items()
            if (found := merged.get(key)) is not None
        }


def _reader(of: shape.Shape) -> _Reader:
    if of.kind == "struct":
        assert of.struct is not None  # noqa: S101 - a struct shape always has its class
        return _struct_reader(of.struct)
    if of.kind in ("list", "map"):
        assert of.element is not None  # noqa: S101 - lists and maps always have an element
        make = _list_reader if of.kind == "list" else _map_reader
        return make(_reader(of.element), _zero(of.element), of.go)
    if of.kind == "integer":
        return _integer_reader(of.format)
    if of.kind == "string":
        return _string_reader(of.go)
    return _SIMPLE[of.kind]


def _zero(of: shape.Shape) -> Callable[[], Any]:
    zeros: dict[str, Callable[[], Any]] = {
        "string": str,
        "boolean": bool,
        "integer": int,
        "bytes": bytes,
        "quantity": lambda: "0",
        "list": list,
        "map": dict,
    }
    return of.struct if of.struct is not None else zeros.get(of.kind, str)


def _string_reader(go: str) -> _Reader:
    def read_string(value: Any, state: _Reading) -> str:
        if type(value) is str:
            return value
        state.mismatch(value, go, "string")
        return ""

    return read_string


def _read_bool(value: Any, state: _Reading) -> bool:
    if value is True or value is False:
        return value
    state.mismatch(value, "bool", "bool")
    return False


_RAW_DEPTH = 256
_INTEGER = re.compile(r"-?(0|[1-9][0-9]*)\Z")


def _integer_reader(go: str) -> _Reader:
    unsigned, _, bits = go.rpartition("int")
    low, high = (0, 1 << int(bits)) if unsigned else (-(1 << int(bits) - 1), 1 << int(bits) - 1)

    def read_integer(value: Any, state: _Reading) -> int:
        if isinstance(value, gojson.Number):
            if len(value) < 24 and _INTEGER.match(value):
                number = int(value)
                if low <= number < high:
                    return number
            return state.bad_number(value, go)
        if isinstance(value, int) and not isinstance(value, bool):
            return value if low <= value < high else state.bad_number(str(value), go)
        if isinstance(value, float):
            return state.bad_number(repr(value), go)
        state.mismatch(value, go, go)
        return 0

    return read_integer


_read_byte = _integer_reader("uint8")


def _read_bytes(value: Any, state: _Reading) -> bytes:
    if type(value) is str:
        try:
            return base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            pass
        cleaned = value.replace("\r", "").replace("\n", "")
        try:
            return base64.b64decode(cleaned, validate=True)
        except (binascii.Error, ValueError):
            state.bad_base64(_base64_fault(value))
            return b""
    if isinstance(value, list) and not isinstance(value, gojson.Pairs):
        return _read_byte_list(value, state)
    state.mismatch(value, "[]uint8", "slice")
    return b""


def _read_byte_list(values: list[Any], state: _Reading) -> bytes:
    if set(map(type, values)) == {gojson.Number}:
        # What is no integer, or too large, is told below.
        with contextlib.suppress(ValueError):
            return bytes(map(int, values))
    return bytes(_read_byte(item, state) if item is not None else 0 for item in values)


_BASE64 = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")


def _base64_fault(text: str) -> int:
    """Where Go's decoder gives up: counted in bytes of the text, line breaks included."""
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
        return _padding_fault(raw, position, quantum)
    # The text ended inside a group of four: Go reports where that group began.
    return len(raw) - quantum


def _padding_fault(raw: str, position: int, quantum: int) -> int:
    rest = [(at, char) for at, char in enumerate(raw) if at > position and char not in "\r\n"]
    if quantum == 2:
        if not rest:
            return len(raw)
        if rest[0][1] != "=":
            return rest[0][0]
        rest = rest[1:]
    return rest[0][0] if rest else position


_TIME_LAYOUT = "2006-01-02T15:04:05Z07:00"
_TIME = re.compile(r"(\d{4}-\d{2}-\d{2}T)(\d{1,2})(:\d{2}:\d{2})([.,]\d+)?(Z|[+-]\d{2}:\d{2})\Z", re.ASCII)


def _read_time(value: Any, state: _Reading) -> str | None:
    moment = _moment(value, state, _TIME_LAYOUT)
    return clock.rfc3339(moment) if moment is not None else None


def _read_microtime(value: Any, state: _Reading) -> str | None:
    moment = _moment(value, state, "2006-01-02T15:04:05.000000Z07:00")
    return clock.rfc3339_micro(moment) if moment is not None else None


def _moment(value: Any, state: _Reading, layout: str) -> Any:
    if type(value) is not str:
        state.no_moment(value)
        return None
    match = _TIME.match(value)
    # Where the layout has six digits, six are read.
    if match is not None and ("." not in layout or len(match[4] or "") == 7):
        date, hour, rest, fraction, zone = match.groups("")
        text = f"{date}{hour:>02}{rest}{fraction.replace(',', '.')[:7]}{zone.replace('Z', '+00:00')}"
        with contextlib.suppress(ValueError, OverflowError):
            return clock.parse_rfc3339(text)
    state.fail(f"parsing time {gotext.quote(value)}{_time_fault(value, layout)}")
    return None


def _time_fault(value: str, layout: str) -> str:
    """What Go's parser stumbles over: it goes from left to right, and looks at the day last."""
    two = r"\d{2}"
    steps = (("2006", r"\d{4}", ""), ("-", "-", ""), ("01", two, "month"), ("-", "-", ""), ("02", two, ""),
             ("T", "T", ""), ("15", r"\d{1,2}", "hour"), (":", ":", ""), ("04", two, "minute"), (":", ":", ""),
             ("05", two, "second"), (".000000", r"\.\d{6}", "") if "." in layout else ("", r"([.,]\d+)?", ""),
             ("Z07:00", r"Z|[+-](\d{2}):\d{2}", "time zone offset hour"))  # fmt: skip
    rest = value
    for name, pattern, number in steps:
        match = re.match(pattern, rest, re.ASCII)
        if match is None:
            return f" as {gotext.quote(layout)}: cannot parse {gotext.quote(rest)} as {gotext.quote(name)}"
        low, high = _RANGES.get(number, (0, 0))
        digits = match[match.lastindex or 0]
        if number and digits != "Z" and not low <= int(digits) <= high:
            return f": {number} out of range"
        rest = rest[match.end() :]
    return f": extra text: {gotext.quote(rest)}" if rest else ": day out of range"


_RANGES = {"month": (1, 12), "hour": (0, 23), "minute": (0, 59), "second": (0, 59), "time zone offset hour": (0, 24)}


def _read_raw(value: Any, state: _Reading) -> msgspec.Raw:
    try:
        return _raw(value)
    except ValueError as error:
        state.fail(str(error))
        return msgspec.Raw(b"null")


def raw(data: bytes) -> msgspec.Raw:
    """JSON that is part of a document of another form. Raises ValueError."""
    try:
        return _raw(parse_json(data))
    except gojson.SyntaxProblem as error:
        raise ValueError(str(error)) from error


def _raw(tree: Any) -> msgspec.Raw:
    # Any JSON will do, as long as whoever reads it next can walk it.
    if gojson.deeper_than(tree, _RAW_DEPTH):
        raise ValueError("json: exceeded max depth")
    return msgspec.Raw(_encoder.encode(gojson.plain(tree)))


def _read_quantity(value: Any, state: _Reading) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        # Go looks at the text of the document: what is no string and no number is no quantity.
        state.fail(quantity.WRONG_FORM)
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


def _list_reader(read_item: _Reader, zero: Callable[[], Any], go: str) -> _Reader:
    def read_list(value: Any, state: _Reading) -> list[Any]:
        if not isinstance(value, list) or isinstance(value, gojson.Pairs):
            state.mismatch(value, go, "slice")
            return []
        result = []
        path = state.path
        for position, item in enumerate(value):
            path.append(position)
            result.append(read_item(item, state) if item is not None else zero())
            path.pop()
        return result

    return read_list


def _map_reader(read_item: _Reader, zero: Callable[[], Any], go: str) -> _Reader:
    def read_map(value: Any, state: _Reading) -> dict[str, Any]:
        pairs: Iterable[tuple[Any, Any]]
        if isinstance(value, gojson.Pairs):
            pairs = value
        elif isinstance(value, Mapping):
            pairs = value.items()
        else:
            state.mismatch(value, go, "map")
            return {}
        result: dict[str, Any] = {}
        path = state.path
        for key, item in pairs:
            path.append(_MapKey(key))
            if key in result:
                state.note("duplicate field")
            result[key] = read_item(item, state) if item is not None else zero()
            path.pop()
        # Go sorts map keys when it writes them.
        return dict(sorted(result.items())) if len(result) > 1 else result

    return read_map


def summary(data: bytes, limit: int = 30) -> str:
    """The beginning of a body as decoding errors quote it: text if it looks like JSON, else hexadecimal."""
    if not data:
        return "<empty>"
    more = " ..." if len(data) > limit else ""
    head = data[:limit]
    return (head.decode("utf-8", "replace") if data[:1] == b"{" else head.hex()) + more
