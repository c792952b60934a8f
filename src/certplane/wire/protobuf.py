"""Encodes and decodes objects as protobuf.

A body is the bytes `k8s` and zero, and a message `runtime.Unknown`, the envelope: the apiVersion and kind of the
object, and its encoded message. A watch is a sequence of frames: a length of four bytes, big-endian, and a message
`WatchEvent` without an envelope, whose object has one.

The message of a type is the one with the same name in the package of its group and version (`certificates.k8s.io/v1` is
`k8s.io.api.certificates.v1`), else in the package of the shared types, else in that of the core group; `_descriptor`
implements this. Fields are matched by name. A type without a message, or with a field that the message lacks, is a bug,
which a test over all types finds.

The encoding follows Kubernetes (`k8s.io/apimachinery/pkg/runtime/serializer/protobuf`, and each group's
`generated.pb.go`): times are seconds and nanoseconds, and an empty time is None; field sets and embedded objects are
JSON text in a bytes field; a map of lists has a message for each list; a plain field is always written, a pointer only
if it is set; an empty list equals none. Unknown fields of a message are ignored.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Generic, TypeVar

import msgspec
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message

from certplane import boundedcache
from certplane.errors import BadRequest
from certplane.meta import objects, quantity, responses, shapes
from certplane.meta.shapes import Field, Shape
from certplane.wire import codec
from certplane.wire.pb import (
    apidiscovery_v2_pb2,
    authentication_v1_pb2,
    authorization_v1_pb2,
    certificates_v1_pb2,
    certificates_v1beta1_pb2,
    coordination_v1_pb2,
    core_v1_pb2,
    events_v1_pb2,
    explain_v1alpha1_pb2,
    inventory_v1alpha1_pb2,
    meta_v1_pb2,
    rbac_v1_pb2,
    runtime_pb2,
)

PREFIX: Final = b"k8s\x00"

_MODULES: Final = (
    core_v1_pb2, authentication_v1_pb2, authorization_v1_pb2, certificates_v1_pb2, certificates_v1beta1_pb2,
    coordination_v1_pb2, events_v1_pb2, explain_v1alpha1_pb2, inventory_v1alpha1_pb2, rbac_v1_pb2,
    apidiscovery_v2_pb2, meta_v1_pb2, runtime_pb2,
)  # fmt: skip
_SHARED: Final = meta_v1_pb2.DESCRIPTOR.package
_CORE: Final = core_v1_pb2.DESCRIPTOR.package
_EPOCH: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
#: Go's zero time, 1 January of the year 1, in seconds since 1970. It means None.
_GO_ZERO: Final = -62_135_596_800

T = TypeVar("T", bound=msgspec.Struct)

_Writer = Callable[[Message, Any], None]
_Reader = Callable[[Message], Any]


# --- messages and fields ------------------------------------------------------------------------------------------


@boundedcache.memoize()
def message_name(name: str, api_version: str) -> str:
    """The full name of the message of a type in a group and version. Raises LookupError if there is none.

    If `api_version` is empty or has no such type, the other packages are searched.
    """
    return _descriptor(name, api_version).full_name


@boundedcache.memoize()
def _descriptor(name: str, api_version: str) -> Descriptor:
    group, _, version = api_version.rpartition("/")
    group_package = f"k8s.io.api.{group.partition('.')[0] or 'core'}.{version}"
    packages = (module.DESCRIPTOR.package for module in _MODULES)
    for package in (group_package, _SHARED, _CORE, *packages):
        try:
            return descriptor_pool.Default().FindMessageTypeByName(f"{package}.{name}")
        except KeyError:
            continue
    raise LookupError(f"no protobuf message for {name} of {api_version!r}")


def field_message(name: str, api_version: str, field: str) -> str:
    """The full name of the message in a field of a type. Raises LookupError."""
    descriptor = _fields(_descriptor(name, api_version)).get(field.lower())
    if descriptor is None or descriptor.message_type is None:
        raise LookupError(f"{name} of {api_version!r} has no message in field {field}")
    return descriptor.message_type.full_name


def _fields(descriptor: Descriptor) -> dict[str, FieldDescriptor]:
    # In lower case, because a few names differ from JSON's in case (uID, uid).
    return {field.name.lower(): field for field in descriptor.fields}


def _field_pairs(struct: type[msgspec.Struct], descriptor: Descriptor) -> list[tuple[Field, str]]:
    """The fields of a type, each with its name in the message. Kind and apiVersion are in the envelope instead."""
    message_fields = _fields(descriptor)
    pairs = []
    for field in shapes.shape_of(struct).fields.values():
        message_field = message_fields.get(field.name.lower())
        if message_field is not None:
            pairs.append((field, message_field.name))
        elif field.name not in ("kind", "apiVersion"):
            raise LookupError(f"message {descriptor.full_name} lacks field {field.name} of {struct.__name__}")
    return pairs


def _inner(descriptor: Descriptor, name: str) -> Descriptor:
    """The descriptor of the message in a field."""
    inner = descriptor.fields_by_name[name].message_type
    if inner is None:
        raise LookupError(f"field {name} of message {descriptor.full_name} holds no message")
    return inner


def _is_map_of_lists(shape: Shape) -> bool:
    return shape.kind == "map" and shape.element is not None and shape.element.kind == "list"


def _is_map_of_quantities(shape: Shape) -> bool:
    return shape.kind == "map" and shape.element is not None and shape.element.kind == "quantity"


# --- encoding -----------------------------------------------------------------------------------------------------


def encode(obj: msgspec.Struct, api_version: str, kind: str) -> bytes:
    """Encode an object as a body."""
    return _envelope(_encode_message(obj, kind, api_version), api_version, kind)


def encode_list(items: Sequence[msgspec.Struct], api_version: str, list_kind: str, meta: Mapping[str, object]) -> bytes:
    """Encode a list of objects as a body. `meta` is the list's metadata as JSON builtins."""
    descriptor = _descriptor(list_kind, api_version)
    list_message = message_factory.GetMessageClass(descriptor)()
    _writer(responses.ListMeta, _inner(descriptor, "metadata"))(
        getattr(list_message, "metadata"),  # noqa: B009 - the class is made at run time, so mypy does not know it
        msgspec.convert(meta, responses.ListMeta),
    )
    container = getattr(list_message, "items")  # noqa: B009 - the class is made at run time, so mypy does not know it
    for item in items:
        _writer(type(item), _inner(descriptor, "items"))(container.add(), item)
    return _envelope(list_message, api_version, list_kind)


def encode_document(document: Mapping[str, Any]) -> bytes:
    """Encode one of the documents in `responses`, given as JSON builtins, as a body. Raises KeyError for any other."""
    kind, api_version = document["kind"], document.get("apiVersion", "")
    return encode(msgspec.convert(document, responses.BY_KIND[kind]), api_version, kind)


def encode_status(status: Mapping[str, object]) -> bytes:
    """Encode a Status, given as JSON builtins, as a body."""
    return encode_document(status)


def encode_watch_event(type_: str, obj: msgspec.Struct, api_version: str, kind: str) -> bytes:
    """Encode a watch event with an object, as a frame."""
    return _frame(type_, encode(obj, api_version, kind))


def encode_watch_status(type_: str, status: Mapping[str, object]) -> bytes:
    """Encode a watch event with a Status, as a frame."""
    return _frame(type_, encode_document(status))


def _frame(type_: str, body: bytes) -> bytes:
    event = meta_v1_pb2.WatchEvent(type=type_, object=runtime_pb2.RawExtension(raw=body))
    encoded = event.SerializeToString()
    return len(encoded).to_bytes(4, "big") + encoded


def _envelope(message: Message, api_version: str, kind: str) -> bytes:
    unknown = runtime_pb2.Unknown(
        typeMeta=runtime_pb2.TypeMeta(apiVersion=api_version, kind=kind),
        # Deterministic, because Go sorts the keys of maps.
        raw=message.SerializeToString(deterministic=True),
        contentEncoding="",
        contentType="",
    )
    return PREFIX + unknown.SerializeToString()


def _encode_message(obj: msgspec.Struct, name: str, api_version: str) -> Message:
    descriptor = _descriptor(name, api_version)
    message = message_factory.GetMessageClass(descriptor)()
    _writer(type(obj), descriptor)(message, obj)
    return message


@functools.cache
def _writer(struct: type[msgspec.Struct], descriptor: Descriptor) -> _Writer:
    pairs = _field_pairs(struct, descriptor)
    writers = [(field.attribute, _nullable_writer(field, name, descriptor)) for field, name in pairs]
    times = [name for field, name in pairs if _is_always_written(field)]

    def write(target: Message, value: object) -> None:
        target.SetInParent()
        for name in times:
            getattr(target, name).SetInParent()
        for attribute, write_field in writers:
            item = getattr(value, attribute)
            if item is not None:
                write_field(target, item)

    return write


def _is_always_written(field: Field) -> bool:
    """Whether a time that is not set is written as an empty message: Go's field is no pointer."""
    # These are the fields that are null in JSON, and creationTimestamp.
    return field.shape.kind in ("time", "microtime") and (
        (field.nullable and not field.omitempty) or field.name == "creationTimestamp"
    )


def _nullable_writer(field: Field, name: str, descriptor: Descriptor) -> _Writer:
    if field.shape.kind == "bytes" and not field.nullable:
        # Empty bytes that JSON omits are nil in Go, and not written.
        return lambda target, value: _write_raw(target, name, value)
    return _field_writer(field.shape, name, descriptor)


def _field_writer(shape: Shape, name: str, descriptor: Descriptor) -> _Writer:
    if shape.kind in ("time", "microtime"):
        return lambda target, value: _write_time(getattr(target, name), value)
    if shape.kind == "quantity":
        return lambda target, value: setattr(getattr(target, name), "string", value)
    if shape.kind == "raw":
        raw_field = _inner(descriptor, name).fields[0].name
        return lambda target, value: _write_raw(getattr(target, name), raw_field, bytes(value))
    if shape.struct is not None:
        write = _writer(shape.struct, _inner(descriptor, name))
        return lambda target, value: write(getattr(target, name), value)
    if shape.kind == "list":
        return _list_writer(shape, name, descriptor)
    if _is_map_of_lists(shape):
        return lambda target, value: _write_lists(getattr(target, name), value)
    if _is_map_of_quantities(shape):
        return lambda target, value: _write_quantities(getattr(target, name), value)
    if shape.kind == "map":
        return lambda target, value: getattr(target, name).update(value)
    return lambda target, value: setattr(target, name, value)


def _list_writer(shape: Shape, name: str, descriptor: Descriptor) -> _Writer:
    inner = descriptor.fields_by_name[name].message_type
    if shape.element is not None and shape.element.struct is not None:
        write = _writer(shape.element.struct, _inner(descriptor, name))

        def write_all(target: Message, value: list[object]) -> None:
            container = getattr(target, name)
            for item in value:
                write(container.add(), item)

        return write_all
    if inner is not None:  # a message that wraps a list, such as Verbs
        return lambda target, value: getattr(target, name).items.extend(value)
    return lambda target, value: getattr(target, name).extend(value)


def _write_time(target: Any, text: str) -> None:
    moment = datetime.datetime.fromisoformat(text)
    target.seconds = (moment - _EPOCH) // datetime.timedelta(seconds=1)
    target.nanos = moment.microsecond * 1000


def _write_raw(target: Message, name: str, value: bytes) -> None:
    if value:
        setattr(target, name, value)


def _write_lists(target: Any, value: dict[str, list[Any]]) -> None:
    for key, items in value.items():
        target[key].items.extend(items)


def _write_quantities(target: Any, value: dict[str, str]) -> None:
    for key, amount in value.items():
        target[key].string = amount


# --- decoding -----------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Decoded(Generic[T]):
    """A body whose envelope has been decoded.

    `api_version` and `kind` are the envelope's; both may be empty, which means the expected ones. `raw` is the encoded
    message, `type` its expected type and `expected` its expected apiVersion.
    """

    api_version: str
    kind: str
    raw: bytes
    type: type[T]
    expected: str = ""

    @functools.cached_property
    def object(self) -> T:
        """The object. Check `api_version` and `kind` first: a message does not say which type it is.

        Raises BadRequest if the bytes are not a message of the type.
        """
        name = self.type.__name__
        descriptor = _descriptor(name, self.expected or self.api_version)
        message = message_factory.GetMessageClass(descriptor)()
        try:
            message.ParseFromString(self.raw)
            obj: T = _reader(self.type, descriptor)(message)
        except (DecodeError, ValueError, OverflowError) as error:
            kind = self.kind or name
            version = (self.api_version or self.expected).rpartition("/")[2]
            detail = "unexpected EOF" if isinstance(error, DecodeError) else str(error)
            raise BadRequest(f'{kind} in version "{version}" cannot be handled as a {name}: {detail}') from error
        if isinstance(obj, objects.Object | objects.DeleteOptions):
            obj.kind, obj.api_version = self.kind, self.api_version
        return obj


def decode(data: bytes, type_: type[T], api_version: str = "") -> Decoded[T]:
    """Decode the envelope of a body that should hold a `type_` of `api_version`. Raises BadRequest if it has none.

    The caller must check the `api_version` and `kind` of the result.
    """
    if not data:
        raise _unrecognised(type_, "empty data", data)
    if not data.startswith(PREFIX):
        prefix = " ".join(map(str, PREFIX))
        detail = f"provided data does not appear to be a protobuf message, expected prefix [{prefix}]"
        raise _unrecognised(type_, detail, data)
    if len(data) == len(PREFIX):
        raise _unrecognised(type_, "empty body", data)
    unknown = runtime_pb2.Unknown()
    try:
        unknown.ParseFromString(data[len(PREFIX) :])
    except DecodeError as error:
        raise _unrecognised(type_, "unexpected EOF", data) from error
    meta = unknown.typeMeta
    return Decoded(_text(meta.apiVersion), _text(meta.kind), unknown.raw, type_, api_version)


def _unrecognised(type_: type[msgspec.Struct], detail: str, data: bytes) -> BadRequest:
    return BadRequest(
        f"the object provided is unrecognized (must be of type {type_.__name__}): {detail} ({codec.summary(data)})"
    )


@functools.cache
def _reader(struct: type[msgspec.Struct], descriptor: Descriptor) -> _Reader:
    pairs = _field_pairs(struct, descriptor)
    readers = [(field.attribute, _field_reader(field, name, descriptor)) for field, name in pairs]

    def read(source: Message) -> msgspec.Struct:
        return struct(**{attribute: read_field(source) for attribute, read_field in readers})

    return read


def _field_reader(field: Field, name: str, descriptor: Descriptor) -> _Reader:
    kind = field.shape.kind
    if kind in ("list", "map"):
        read_all = _list_reader(field.shape, name, descriptor) if kind == "list" else _map_reader(field.shape, name)
        return (lambda source: read_all(source) or None) if field.nullable else read_all
    read = _value_reader(field.shape, name, descriptor)
    if field.nullable:
        return lambda source: read(source) if source.HasField(name) else None
    return read


def _value_reader(shape: Shape, name: str, descriptor: Descriptor) -> _Reader:
    if shape.kind in ("time", "microtime"):
        digits = 6 if shape.kind == "microtime" else 0
        return lambda source: _read_time(getattr(source, name), digits)
    if shape.kind == "raw":
        raw_field = _inner(descriptor, name).fields[0].name
        return lambda source: _read_raw(getattr(getattr(source, name), raw_field))
    if shape.struct is not None:
        read = _reader(shape.struct, _inner(descriptor, name))
        return lambda source: read(getattr(source, name))
    if shape.kind == "quantity":
        return lambda source: _quantity(getattr(source, name))
    if shape.kind == "string":
        return lambda source: _text(getattr(source, name))
    return lambda source: getattr(source, name)


def _quantity(value: Any) -> str:
    # May raise ValueError, which `Decoded.object` turns into BadRequest.
    return quantity.canonical(_text(value.string) or "0")


def _list_reader(shape: Shape, name: str, descriptor: Descriptor) -> _Reader:
    inner = descriptor.fields_by_name[name].message_type
    if shape.element is not None and shape.element.struct is not None:
        read = _reader(shape.element.struct, _inner(descriptor, name))
        return lambda source: [read(item) for item in getattr(source, name)]
    convert = _item_converter(shape.element)
    if inner is not None:
        return lambda source: [convert(item) for item in getattr(source, name).items]
    return lambda source: [convert(item) for item in getattr(source, name)]


def _map_reader(shape: Shape, name: str) -> _Reader:
    # Go sorts the keys of a map when it writes JSON, so every decoder here sorts them.
    if _is_map_of_lists(shape):
        return lambda source: dict(
            sorted((_text(key), [_text(item) for item in value.items]) for key, value in getattr(source, name).items())
        )
    if _is_map_of_quantities(shape):
        return lambda source: dict(
            sorted((_text(key), _quantity(value)) for key, value in getattr(source, name).items())
        )
    convert = _item_converter(shape.element)
    return lambda source: dict(sorted((_text(key), convert(value)) for key, value in getattr(source, name).items()))


def _item_converter(shape: Shape | None) -> Callable[[Any], Any]:
    """The function that converts an item: a string may come as bytes (see `_text`); other values stay as they are."""
    return _text if shape is not None and shape.kind == "string" else lambda value: value


def _text(value: str | bytes) -> str:
    # The protobuf runtime returns a string that is not UTF-8 as bytes. Go accepts it, and repairs it in JSON.
    return value if isinstance(value, str) else value.decode("utf-8", "replace")


def _read_time(source: Any, digits: int) -> str | None:
    if not source.ByteSize() or (source.seconds == _GO_ZERO and not source.nanos):
        return None
    moment = _EPOCH + datetime.timedelta(seconds=source.seconds, microseconds=source.nanos // 1000 if digits else 0)
    text = moment.replace(tzinfo=None).isoformat(timespec="microseconds" if digits else "seconds")
    return f"{text}Z"


def _read_raw(value: bytes) -> msgspec.Raw:
    # It is copied into JSON documents unchanged, so it must be valid, compact JSON, and not nested too deep.
    return codec.raw(value) if value else objects.EMPTY_RAW
