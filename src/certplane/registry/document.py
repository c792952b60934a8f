"""A stored object in the two forms that readers want, each made once: decoded, and encoded for the wire.

The stored bytes lack the resourceVersion, because it is the store's revision and not known before the write. It is
spliced into the encoded form behind the uid, where Go's field order has it; nothing is decoded or encoded for that.
"""

from __future__ import annotations

from typing import Any, Final

from certplane import clock
from certplane.meta import codec, resource
from certplane.store import watchcache

_UID: Final = b'"uid":"'


class Document:
    """An object as it was at one revision. Immutable, and shared by all readers: never change `object`."""

    __slots__ = ("_object", "_wire", "resource", "revision", "value")

    def __init__(self, of: resource.Resource, value: bytes, revision: int) -> None:
        self.resource = of
        self.value = value
        self.revision = revision
        self._object: Any = None
        self._wire = b""

    @property
    def object(self) -> Any:
        """The Struct, with its resourceVersion."""
        if self._object is None:
            decoded = thaw(self.resource, self.value)
            if self.revision:
                decoded.metadata.resource_version = str(self.revision)
            self._object = decoded
        return self._object

    @property
    def wire(self) -> bytes:
        """The JSON of the object as an answer has it."""
        if not self._wire and self.resource.hub is not None:
            self._wire = codec.encode(self.object)
        if not self._wire:
            self._wire = _splice(self.value, self.revision) if self.revision else self.value
        return self._wire

    @property
    def item(self) -> bytes:
        """The JSON of the object as an item of a list: without kind and apiVersion."""
        return b"{" + self.wire[len(head(self.resource)) :]


def head(of: resource.Resource) -> bytes:
    """What every stored object of a kind begins with."""
    return f'{{"kind":"{of.kind}","apiVersion":"{of.api_version}",'.encode()


def freeze(of: resource.Resource, new: Any) -> bytes:
    """The bytes under which an object is stored. It must have no resourceVersion."""
    return codec.encode(new if of.hub is None else of.hub.inward(new))


def thaw(of: resource.Resource, value: bytes) -> Any:
    """The object that was stored as these bytes, its own at each call."""
    stored = codec.decode(value, of.stored.type)
    if of.hub is None:
        return stored
    shown = of.hub.outward(stored)
    shown.kind, shown.api_version = of.kind, of.api_version
    return shown


def damage(of: resource.Resource, key: str, value: bytes) -> str:
    """What is wrong with what is stored under a key; empty if it is an object of that kind that belongs there."""
    if not value.startswith(head(of)):
        return f"it is no {of.kind} of {of.api_version}"
    try:
        meta = codec.decode(value, of.type).metadata
        if meta.creation_timestamp is not None:
            clock.parse_rfc3339(meta.creation_timestamp)
    except (ValueError, RecursionError) as error:
        return str(error)
    if of.key(meta.namespace, meta.name) != key:
        return "it is the object of another key"
    return "" if meta.uid and _UID in value else "it has no uid"


def _splice(value: bytes, revision: int) -> bytes:
    # Quotes inside JSON strings are escaped, and the fields before uid are strings: the first match is the field.
    end = value.index(b'"', value.index(_UID) + len(_UID)) + 1
    return b'%b,"resourceVersion":"%d"%b' % (value[:end], revision, value[end:])


def of_entry(of: resource.Resource, entry: watchcache.Entry) -> Document:
    """The document of a cached entry."""
    if of.hub is not None:
        return Document(of, entry.value, entry.mod_revision)
    found = entry.memo
    if found is None:
        found = entry.memo = Document(of, entry.value, entry.mod_revision)
    document: Document = found
    return document


def of_object(of: resource.Resource, value: Any, revision: int = 0) -> Document:
    """The document of an object that is not (or no longer) stored: a dry run, a deletion."""
    kept = value.metadata.resource_version
    value.metadata.resource_version = ""
    encoded = freeze(of, value)
    value.metadata.resource_version = kept
    return Document(of, encoded, revision)


def finished(of: resource.Resource, value: Any) -> Document:
    """The document of an object that has its resourceVersion already: the bookmark of a watch, the answer of an
    action.
    """
    made = Document(of, b"", 0)
    made._object = value
    made._wire = codec.encode(value)
    return made
