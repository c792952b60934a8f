"""Objects as protobuf, and back.

A body is four bytes, `k8s` and a zero, and then the message `runtime.Unknown`: the apiVersion and kind of what is
inside, and its own bytes. A watch is a row of frames: four bytes of length, most significant first, and a message
`WatchEvent` without that envelope, whose object has one.

Which message belongs to a type: the one of the same name in the package of its group and version
(`certificates.k8s.io/v1` is `k8s.io.api.certificates.v1`), else in the package of what all groups share, else in the
core group's. `message_name` is the only place that knows. Fields are matched by name. A type whose message is missing,
or lacks a field, is a fault of ours and found by the tests, which go over the whole catalogue.

Where the forms differ, Kubernetes decides (`k8s.io/apimachinery/pkg/runtime/serializer/protobuf`, and each group's
`generated.pb.go`): times are seconds and nanoseconds, an empty time is no time; field sets and embedded objects are
JSON text in a bytes field; a map of lists has each list in a message of its own; a plain field is always written, a
pointer only if it is set; an empty list is the same as none. Fields that a message does not know are passed over.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec
from google.protobuf import descriptor, descriptor_pool, message, message_factory

from certplane import boundedcache, errors
from certplane.meta import answers, codec, objects, quantity, shape
from certplane.meta.pb import (
    apidiscovery_v2_pb2,
    authentication_v1_pb2,
    authorization_v1_pb2,
    certificates_v1_pb2,
    certificates_v1beta1_pb2,
    coordination_v1_pb2,
    core_v1_pb2,
    events_v1_pb2,
    meta_v1_pb2,
    rbac_v1_pb2,
    runtime_pb2,
)

PREFIX: Final = b"k8s\x00"

_MODULES: Final = (
    core_v1_pb2, authentication_v1_pb2, authorization_v1_pb2, certificates_v1_pb2, certificates_v1beta1_pb2,
    coordination_v1_pb2, events_v1_pb2, rbac_v1_pb2, apidiscovery_v2_pb2, meta_v1_pb2, runtime_pb2,
)  # fmt: skip
_SHARED: Final = meta_v1_pb2.DESCRIPTOR.package
_CORE: Final = core_v1_pb2.DESCRIPTOR.package
_EPOCH: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
#: Go's zero time, 1 January of the year 1, in seconds since 1970. It stands for no time.
_GO_ZERO: Final = -62_135_596_800

_Writer = Callable[[message.Message, Any], None]
_Reader = Callable[[message.Message], Any]


# --- which message ------------------------------------------------------------------------------------------------


@boundedcache.remember()
def message_name(name: str, api_version: str) -> str:
    """The full name of the message of a type, seen from a group and version. Raises LookupError if there is none.

    An apiVersion that has no such type, or none at all, leaves the choice to the other packages.
    """
    return _descriptor(name, api_version).full_name


@boundedcache.remember()
def _descriptor(name: str, api_version: str) -> descriptor.Descriptor:
    group, _, version = api_version.rpartition("/")
    own = f"k8s.io.api.{group.partition('.')[0] or 'core'}.{version}"
    others = (each.DESCRIPTOR.package for each in _MODULES)
    for package in (own, _SHARED, _CORE, *others):
        try:
            return descriptor_pool.Default().FindMessageTypeByName(f"{package}.{name}")
        except KeyError:
            continue
    raise LookupError(f"no protobuf message for {name} of {api_version!r}")


def field_message(name: str, api_version: str, field: str) -> str:
    """The full name of the message in a field of a type. Raises LookupError."""
    target = _fields(_descriptor(name, api_version)).get(field.lower())
    if target is None or target.message_type is None:
        raise LookupError(f"{name} of {api_version!r} has no message in field {field}")
    return target.message_type.full_name


def _fields(of: descriptor.Descriptor) -> dict[str, descriptor.FieldDescriptor]:
    # The messages spell a few names with other capitals than JSON does (uID, uid).
    return {each.name.lower(): each for each in of.fields}


def _pairs(struct: type[msgspec.Struct], of: descriptor.Descriptor) -> list[tuple[shape.Field, str]]:
    """The fields of a type, each with its name in the message. Kind and apiVersion are in the envelope instead."""
    targets = _fields(of)
    found = []
    for field in shape.of(struct).fields.values():
        target = targets.get(field.name.lower())
        if target is not None:
            found.append((field, target.name))
        elif field.name not in ("kind", "apiVersion"):
            raise LookupError(f"message {of.full_name} lacks field {field.name} of {struct.__name__}")
    return found


def _inner(of: descriptor.Descriptor, name: str) -> descriptor.Descriptor:
    inner = of.fields_by_name[name].message_type
    if inner is None:
        raise LookupError(f"field {name} of message {of.full_name} holds no message")
    return inner


def _is_map_of_lists(of: shape.Shape) -> bool:
    return of.kind == "map" and of.element is not None and of.element.kind == "list"


def _is_map_of_quantities(of: shape.Shape) -> bool:
    return of.kind == "map" and of.element is not None and of.element.kind == "quantity"


# --- writing ------------------------------------------------------------------------------------------------------


def encode(obj: msgspec.Struct, api_version: str, kind: str) -> bytes:
    """An object as a body."""
    return _envelope(_message(obj, kind, api_version), api_version, kind)


def encode_list(items: Sequence[msgspec.Struct], api_version: str, list_kind: str, meta: Mapping[str, Any]) -> bytes:
    """A list of objects as a body. `meta` is the list's metadata as JSON builtins."""
    of = _descriptor(list_kind, api_version)
    result = message_factory.GetMessageClass(of)()
    _writer(answers.ListMeta, _inner(of, "metadata"))(
        getattr(result, "metadata"),  # noqa: B009 - the attribute is of a class that is made at run time
        msgspec.convert(meta, answers.ListMeta),
    )
    container = getattr(result, "items")  # noqa: B009 - the attribute is of a class that is made at run time
    for item in items:
        _writer(type(item), _inner(of, "items"))(container.add(), item)
    return _envelope(result, api_version, list_kind)


def encode_document(document: Mapping[str, Any]) -> bytes:
    """One of the documents in `answers`, given as JSON builtins, as a body. Raises KeyError for any other."""
    kind, api_version = document["kind"], document.get("apiVersion", "")
    return encode(msgspec.convert(document, answers.BY_KIND[kind]), api_version, kind)


def encode_status(status: Mapping[str, Any]) -> bytes:
    """A Status, given as JSON builtins, as a body."""
    return encode_document(status)


def encode_watch_event(type_: str, obj: msgspec.Struct, api_version: str, kind: str) -> bytes:
    """An object in an event of a watch, as a frame."""
    return _frame(type_, encode(obj, api_version, kind))


def encode_watch_status(type_: str, status: Mapping[str, Any]) -> bytes:
    """A Status in an event of a watch, as a frame."""
    return _frame(type_, encode_document(status))


def _frame(type_: str, body: bytes) -> bytes:
    event = meta_v1_pb2.WatchEvent(type=type_, object=runtime_pb2.RawExtension(raw=body))
    encoded = event.SerializeToString()
    return len(encoded).to_bytes(4, "big") + encoded


def _envelope(of: message.Message, api_version: str, kind: str) -> bytes:
    unknown = runtime_pb2.Unknown(
        typeMeta=runtime_pb2.TypeMeta(apiVersion=api_version, kind=kind),
        # Deterministic: Go sorts the keys of maps, too.
        raw=of.SerializeToString(deterministic=True),
        contentEncoding="",
        contentType="",
    )
    return PREFIX + unknown.SerializeToString()


def _message(obj: msgspec.Struct, name: str, api_version: str) -> message.Message:
    of = _descriptor(name, api_version)
    result = message_factory.GetMessageClass(of)()
    _writer(type(obj), of)(result, obj)
    return result


@functools.cache
def _writer(struct: type[msgspec.Struct], of: descriptor.Descriptor) -> _Writer:
    pairs = _pairs(struct, of)
    steps = [(field.attribute, _step(field, name, of)) for field, name in pairs]
    times = [name for field, name in pairs if _is_always_written(field)]

    def write(target: message.Message, value: Any) -> None:
        target.SetInParent()
        for name in times:
            getattr(target, name).SetInParent()
        for attribute, step in steps:
            item = getattr(value, attribute)
            if item is not None:
                step(target, item)

    return write


def _is_always_written(field: shape.Field) -> bool:
    """Whether a time that is not set is there nevertheless, empty: where Go has no pointer."""
    # JSON has null in the same fields, but for one.
    return field.shape.kind in ("time", "microtime") and (
        (field.nullable and not field.omitempty) or field.name == "creationTimestamp"
    )


def _step(field: shape.Field, name: str, of: descriptor.Descriptor) -> _Writer:
    if field.shape.kind == "bytes" and not field.nullable:
        # Where JSON leaves out no bytes, they are what Go has none of.
        return lambda target, value: _write_raw(target, name, value)
    return _field_writer(field.shape, name, of)


def _field_writer(field: shape.Shape, name: str, of: descriptor.Descriptor) -> _Writer:
    if field.kind in ("time", "microtime"):
        return lambda target, value: _write_time(getattr(target, name), value)
    if field.kind == "quantity":
        return lambda target, value: setattr(getattr(target, name), "string", value)
    if field.kind == "raw":
        only = _inner(of, name).fields[0].name
        return lambda target, value: _write_raw(getattr(target, name), only, bytes(value))
    if field.struct is not None:
        write = _writer(field.struct, _inner(of, name))
        return lambda target, value: write(getattr(target, name), value)
    if field.kind == "list":
        return _list_writer(field, name, of)
    if _is_map_of_lists(field):
        return lambda target, value: _write_lists(getattr(target, name), value)
    if _is_map_of_quantities(field):
        return lambda target, value: _write_quantities(getattr(target, name), value)
    if field.kind == "map":
        return lambda target, value: getattr(target, name).update(value)
    return lambda target, value: setattr(target, name, value)


def _list_writer(field: shape.Shape, name: str, of: descriptor.Descriptor) -> _Writer:
    inner = of.fields_by_name[name].message_type
    if field.element is not None and field.element.struct is not None:
        write = _writer(field.element.struct, _inner(of, name))

        def write_all(target: message.Message, value: list[Any]) -> None:
            container = getattr(target, name)
            for item in value:
                write(container.add(), item)

        return write_all
    if inner is not None:  # such as Verbs: a message around a list
        return lambda target, value: getattr(target, name).items.extend(value)
    return lambda target, value: getattr(target, name).extend(value)


def _write_time(target: Any, text: str) -> None:
    moment = datetime.datetime.fromisoformat(text)
    target.seconds = (moment - _EPOCH) // datetime.timedelta(seconds=1)
    target.nanos = moment.microsecond * 1000


def _write_raw(target: message.Message, name: str, value: bytes) -> None:
    if value:
        setattr(target, name, value)


def _write_lists(target: Any, value: dict[str, list[Any]]) -> None:
    for key, items in value.items():
        target[key].items.extend(items)


def _write_quantities(target: Any, value: dict[str, str]) -> None:
    for key, amount in value.items():
        target[key].string = amount


# --- reading ------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Decoded:
    """A body whose envelope has been opened.

    `api_version` and `kind` say what is inside; both may be empty, which means what the reader expects. `raw` is the
    message itself, `expected` the apiVersion that the reader expects.
    """

    api_version: str
    kind: str
    raw: bytes
    type: type[msgspec.Struct]
    expected: str = ""

    @functools.cached_property
    def object(self) -> Any:
        """The object. Look at `api_version` and `kind` first: a message does not know which type it is of.

        Raises BadRequest if the bytes are not such a message.
        """
        name = self.type.__name__
        of = _descriptor(name, self.expected or self.api_version)
        source = message_factory.GetMessageClass(of)()
        try:
            source.ParseFromString(self.raw)
            result = _reader(self.type, of)(source)
        except (message.DecodeError, ValueError, OverflowError) as error:
            kind = self.kind or name
            version = (self.api_version or self.expected).rpartition("/")[2]
            why = "unexpected EOF" if isinstance(error, message.DecodeError) else str(error)
            raise errors.BadRequest(f'{kind} in version "{version}" cannot be handled as a {name}: {why}') from error
        if isinstance(result, objects.Object | objects.DeleteOptions):
            result.kind, result.api_version = self.kind, self.api_version
        return result


def decode(data: bytes, type_: type[msgspec.Struct], api_version: str = "") -> Decoded:
    """Open a body that should hold a `type_` of `api_version`. Raises BadRequest if it is no envelope.

    What kind is inside is for the caller to judge, with the answer's `api_version` and `kind`.
    """
    if not data:
        raise _unrecognised(type_, "empty data", data)
    if not data.startswith(PREFIX):
        why = f"provided data does not appear to be a protobuf message, expected prefix [{' '.join(map(str, PREFIX))}]"
        raise _unrecognised(type_, why, data)
    if len(data) == len(PREFIX):
        raise _unrecognised(type_, "empty body", data)
    unknown = runtime_pb2.Unknown()
    try:
        unknown.ParseFromString(data[len(PREFIX) :])
    except message.DecodeError as error:
        raise _unrecognised(type_, "unexpected EOF", data) from error
    meta = unknown.typeMeta
    return Decoded(_text(meta.apiVersion), _text(meta.kind), unknown.raw, type_, api_version)


def _unrecognised(type_: type[msgspec.Struct], why: str, data: bytes) -> errors.BadRequest:
    return errors.BadRequest(
        f"the object provided is unrecognized (must be of type {type_.__name__}): {why} ({codec.summary(data)})"
    )


@functools.cache
def _reader(struct: type[msgspec.Struct], of: descriptor.Descriptor) -> _Reader:
    steps = [(field.attribute, _field_reader(field, name, of)) for field, name in _pairs(struct, of)]

    def read(source: message.Message) -> Any:
        return struct(**{attribute: step(source) for attribute, step in steps})

    return read


def _field_reader(field: shape.Field, name: str, of: descriptor.Descriptor) -> _Reader:
    kind = field.shape.kind
    if kind in ("list", "map"):
        read_all = _list_reader(field.shape, name, of) if kind == "list" else _map_reader(field.shape, name)
        return (lambda source: read_all(source) or None) if field.nullable else read_all
    read = _value_reader(field.shape, name, of)
    if field.nullable:
        return lambda source: read(source) if source.HasField(name) else None
    return read


def _value_reader(field: shape.Shape, name: str, of: descriptor.Descriptor) -> _Reader:
    if field.kind in ("time", "microtime"):
        digits = 6 if field.kind == "microtime" else 0
        return lambda source: _read_time(getattr(source, name), digits)
    if field.kind == "raw":
        only = _inner(of, name).fields[0].name
        return lambda source: _read_raw(getattr(getattr(source, name), only))
    if field.struct is not None:
        read = _reader(field.struct, _inner(of, name))
        return lambda source: read(getattr(source, name))
    if field.kind == "quantity":
        return lambda source: _quantity(getattr(source, name))
    if field.kind == "string":
        return lambda source: _text(getattr(source, name))
    return lambda source: getattr(source, name)


def _quantity(of: Any) -> str:
    # Raises ValueError, as for all that is not what it should be.
    return quantity.canonical(_text(of.string) or "0")


def _list_reader(field: shape.Shape, name: str, of: descriptor.Descriptor) -> _Reader:
    inner = of.fields_by_name[name].message_type
    if field.element is not None and field.element.struct is not None:
        read = _reader(field.element.struct, _inner(of, name))
        return lambda source: [read(item) for item in getattr(source, name)]
    clean = _cleaner(field.element)
    if inner is not None:
        return lambda source: [clean(item) for item in getattr(source, name).items]
    return lambda source: [clean(item) for item in getattr(source, name)]


def _map_reader(field: shape.Shape, name: str) -> _Reader:
    # Go sorts the keys of a map when it writes JSON, and so does everything here that makes one.
    if _is_map_of_lists(field):
        return lambda source: dict(
            sorted((_text(key), [_text(item) for item in value.items]) for key, value in getattr(source, name).items())
        )
    if _is_map_of_quantities(field):
        return lambda source: dict(
            sorted((_text(key), _quantity(value)) for key, value in getattr(source, name).items())
        )
    clean = _cleaner(field.element)
    return lambda source: dict(sorted((_text(key), clean(value)) for key, value in getattr(source, name).items()))


def _cleaner(of: shape.Shape | None) -> Callable[[Any], Any]:
    """What makes of an item what it should be: texts may come as bytes, and bytes have to stay such."""
    return _text if of is not None and of.kind == "string" else lambda value: value


def _text(value: str | bytes) -> str:
    # The runtime hands out a string that is not UTF-8 as bytes. Go lets it pass and repairs it when it writes JSON.
    return value if isinstance(value, str) else value.decode("utf-8", "replace")


def _read_time(source: Any, digits: int) -> str | None:
    if not source.ByteSize() or (source.seconds == _GO_ZERO and not source.nanos):
        return None
    moment = _EPOCH + datetime.timedelta(seconds=source.seconds, microseconds=source.nanos // 1000 if digits else 0)
    text = moment.replace(tzinfo=None).isoformat(timespec="microseconds" if digits else "seconds")
    return f"{text}Z"


def _read_raw(value: bytes) -> msgspec.Raw:
    # It will be copied into JSON documents as it is, so it has to be JSON, compact as they are, and no deeper.
    return codec.raw(value) if value else objects.NOTHING
