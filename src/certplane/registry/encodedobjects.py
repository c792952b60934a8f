"""A stored object in two forms, each computed once: decoded, and encoded for the wire.

The stored bytes do not contain the resourceVersion, because it is the store's revision, which is not known before the
write. It is spliced into the JSON after the uid, its position in Go's field order, without decoding anything.
"""

from __future__ import annotations

from typing import Any, Final, Generic, TypeAlias, TypeVar

from certplane import timestamps
from certplane.meta.objects import Object
from certplane.meta.resource import AnyResource, Resource
from certplane.store.watchcache import Entry
from certplane.wire import codec

T = TypeVar("T", bound=Object)

_UID: Final = b'"uid":"'


class EncodedObject(Generic[T]):
    """An object at one revision. Immutable, and shared by all readers: never change `object`."""

    __slots__ = ("_object", "_wire", "resource", "revision", "value")

    def __init__(self, resource: Resource[T], value: bytes, revision: int) -> None:
        self.resource = resource
        self.value = value
        self.revision = revision
        self._object: T | None = None
        self._wire = b""

    @property
    def object(self) -> T:
        """The Struct, with its resourceVersion."""
        if self._object is None:
            decoded = decode_object(self.resource, self.value)
            if self.revision:
                decoded.metadata.resource_version = str(self.revision)
            self._object = decoded
        return self._object

    @property
    def wire(self) -> bytes:
        """The JSON of the object as a response contains it."""
        if not self._wire and self.resource.hub is not None:
            self._wire = codec.encode(self.object)
        if not self._wire:
            self._wire = _splice(self.value, self.revision) if self.revision else self.value
        return self._wire

    @property
    def item(self) -> bytes:
        """The JSON of the object as an item of a list: without kind and apiVersion."""
        return b"{" + self.wire[len(_type_prefix(self.resource)) :]


#: A document of a kind that is not known here.
AnyEncodedObject: TypeAlias = EncodedObject[Any]


def _type_prefix(resource: AnyResource) -> bytes:
    """The bytes that the JSON of every object of a kind starts with."""
    return f'{{"kind":"{resource.kind}","apiVersion":"{resource.api_version}",'.encode()


def encode_object(resource: Resource[T], obj: T) -> bytes:
    """The bytes that are stored for an object, in its storage version. The object must have no resourceVersion."""
    return codec.encode(obj if resource.hub is None else resource.hub.to_hub(obj))


def decode_object(resource: Resource[T], value: bytes) -> T:
    """The object that is stored as these bytes, in the version of `resource`. Returns a new object at each call."""
    if resource.hub is None:
        return codec.decode(value, resource.type)
    converted = resource.hub.from_hub(codec.decode(value, resource.hub.resource.type))
    converted.kind, converted.api_version = resource.kind, resource.api_version
    return converted


def find_corruption(resource: AnyResource, key: str, value: bytes) -> str:
    """Why a stored value is not a valid object of its kind and key; empty if it is."""
    if not value.startswith(_type_prefix(resource)):
        return f"value is not a {resource.kind} of {resource.api_version}"
    try:
        meta = codec.decode(value, resource.type).metadata
        if meta.creation_timestamp is not None:
            timestamps.parse_rfc3339(meta.creation_timestamp)
    except (ValueError, RecursionError) as error:
        return str(error)
    if resource.key(meta.namespace, meta.name) != key:
        return "value belongs to another key"
    return "" if meta.uid and _UID in value else "object has no uid"


def _splice(value: bytes, revision: int) -> bytes:
    # Quotes inside JSON strings are escaped, and all fields before uid are strings: the first match is the field.
    end = value.index(b'"', value.index(_UID) + len(_UID)) + 1
    return b'%b,"resourceVersion":"%d"%b' % (value[:end], revision, value[end:])


def from_entry(resource: Resource[T], entry: Entry) -> EncodedObject[T]:
    """The object of a cached entry; one for all readers, unless it has to be converted from the storage version."""
    if resource.hub is not None:
        return EncodedObject(resource, entry.value, entry.mod_revision)
    if entry.memo is None:
        entry.memo = EncodedObject(resource, entry.value, entry.mod_revision)
    document: EncodedObject[T] = entry.memo
    return document


def from_object(resource: Resource[T], obj: T, revision: int = 0) -> EncodedObject[T]:
    """The encoded form of an object that is not stored, or no longer: after a dry run or a deletion."""
    version = obj.metadata.resource_version
    obj.metadata.resource_version = ""
    value = encode_object(resource, obj)
    obj.metadata.resource_version = version
    return EncodedObject(resource, value, revision)


def from_complete_object(resource: Resource[T], obj: T) -> EncodedObject[T]:
    """The encoded form of an object that already has its resourceVersion, or needs none: a bookmark of a watch."""
    document = EncodedObject(resource, b"", 0)
    document._object = obj
    document._wire = codec.encode(obj)
    return document
