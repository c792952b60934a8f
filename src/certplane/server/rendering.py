"""Renders objects, lists and watch events in the negotiated form.

Plain JSON is the hot path: the registry encodes each document once, and its bytes are joined here. The other forms are
encoded from the object.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
from msgspec import structs

from certplane import offload
from certplane.golang import formatting, goyaml
from certplane.meta import objects
from certplane.meta.resource import AnyResource, AnyVirtualResource
from certplane.registry import encodedobjects, reads
from certplane.registry.encodedobjects import AnyEncodedObject
from certplane.server import negotiation, tables
from certplane.wire import codec, protobuf

INITIAL_END: Final = "k8s.io/initial-events-end"


class View(msgspec.Struct, frozen=True):
    """How one request wants objects rendered: the form, the includeObject of tables, and the time for ages."""

    form: negotiation.Representation
    include: str
    now: datetime.datetime


def indent(encoded: bytes) -> bytes:
    """JSON, indented by two spaces, as Go encodes it."""
    return formatting.escape_html(json.dumps(json.loads(encoded), indent=2, ensure_ascii=False).encode("utf-8"))


def encode_json(encoded: bytes, form: negotiation.Representation) -> bytes:
    """An encoded JSON document as the body of a response in JSON or YAML."""
    if form.media_type == negotiation.YAML:
        return goyaml.dump(msgspec.json.decode(encoded)).encode("utf-8")
    return indent(encoded) if form.pretty else encoded + b"\n"


def render_status(fields: Mapping[str, object], form: negotiation.Representation) -> bytes:
    """Render a Status."""
    if form.media_type == negotiation.PROTOBUF:
        return protobuf.encode_status(fields)
    return encode_json(codec.encode(fields), form)


def rendering_cost(documents: Sequence[AnyEncodedObject], form: negotiation.Representation) -> int:
    """The cost of rendering, in the unit of `offload.run`. Plain JSON costs nothing: it is stored like that."""
    if form.media_type == negotiation.JSON and not form.transform and not form.pretty:
        return 0
    size = sum([len(document.value) for document in documents])
    return size * (offload.YAML_FACTOR if form.media_type == negotiation.YAML else 1)


def render_object(document: AnyEncodedObject, view: View) -> bytes:
    """Render a single object."""
    form = view.form
    if form.transform == "Table":
        row = tables.row(document, view.include, form.meta_version, view.now)
        meta = {"resourceVersion": str(document.revision)} if document.revision else {}
        return encode_json(tables.table(tables.columns(document.resource), [row], form.meta_version, meta), form)
    if form.transform:
        return _render_metadata(document.object, form)
    if form.media_type == negotiation.PROTOBUF:
        return protobuf.encode(document.object, document.resource.api_version, document.resource.kind)
    return encode_json(document.wire, form)


def _render_metadata(obj: objects.Object, form: negotiation.Representation) -> bytes:
    metadata = tables.partial(obj, form.meta_version)
    if form.media_type == negotiation.PROTOBUF:
        return protobuf.encode(metadata, metadata.api_version, metadata.kind)
    return encode_json(codec.encode(metadata), form)


def render_result(obj: objects.Object, virtual: AnyVirtualResource, form: negotiation.Representation) -> bytes:
    """Render the result of a virtual resource."""
    if form.transform:
        return _render_metadata(obj, form)
    if form.media_type == negotiation.PROTOBUF:
        return protobuf.encode(obj, virtual.api_version, virtual.kind)
    return encode_json(codec.encode(obj), form)


def render_list(resource: AnyResource, listing: reads.AnyListing, view: View) -> bytes:
    """Render a list."""
    form = view.form
    meta: dict[str, object] = {"resourceVersion": str(listing.revision)}
    if listing.continue_:
        meta["continue"] = listing.continue_
        if listing.remaining is not None:
            meta["remainingItemCount"] = listing.remaining
    if form.transform == "Table":
        rows = [tables.row(document, view.include, form.meta_version, view.now) for document in listing.documents]
        return encode_json(tables.table(tables.columns(resource), rows, form.meta_version, meta), form)
    if form.transform:
        items = [tables.partial(document.object, form.meta_version) for document in listing.documents]
        head = {"kind": "PartialObjectMetadataList", "apiVersion": f"meta.k8s.io/{form.meta_version}"}
        if form.media_type == negotiation.PROTOBUF:
            return protobuf.encode_list(items, head["apiVersion"], head["kind"], meta)
        # kube-apiserver encodes an empty list as null here, and nowhere else.
        return encode_json(codec.encode({**head, "metadata": meta, "items": items or None}), form)
    if form.media_type == negotiation.PROTOBUF:
        return protobuf.encode_list(
            [document.object for document in listing.documents], resource.api_version, resource.list_kind, meta
        )
    head_bytes = codec.encode({"kind": resource.list_kind, "apiVersion": resource.api_version, "metadata": meta})
    body = b'%b,"items":[%b]}' % (head_bytes[:-1], b",".join([document.item for document in listing.documents]))
    return encode_json(body, form)


# --- watch --------------------------------------------------------------------------------------------------------


def stream_type(form: negotiation.Representation) -> str:
    """The content type of a watch."""
    return f"{negotiation.PROTOBUF};stream=watch" if form.media_type == negotiation.PROTOBUF else form.media_type


class UnsupportedEvent(Exception):
    """The negotiated form cannot render watch events: PartialObjectMetadataList is for lists only."""


class Framer:
    """Encodes the events of one watch as frames. Its state is whether the columns of a table have been sent."""

    def __init__(self, resource: AnyResource, view: View) -> None:
        self._resource = resource
        self._view = view
        self._columns_sent = False
        is_plain = not view.form.transform and view.form.media_type == negotiation.JSON
        #: All watches share their frames in plain JSON, under this key of `event.frames`.
        self._shared = "json" if is_plain else ""

    def frame(self, event: reads.AnyWatchEvent) -> bytes:
        if self._shared:
            frame = event.frames.get(self._shared)
            if frame is None:
                frame = b'{"type":"%b","object":%b}\n' % (event.type.encode("ascii"), event.document.wire)
                event.frames[self._shared] = frame
            return frame
        return self.encode_event(event.type, event.document)

    def cost(self, documents: Sequence[AnyEncodedObject]) -> int:
        """The cost of encoding the frames of these documents, in the unit of `offload.run`."""
        return rendering_cost(documents, self._view.form)

    def initial(self, documents: Sequence[AnyEncodedObject]) -> bytes:
        """The frames of the initial events of a watch. Raises UnsupportedEvent."""
        return b"".join([self.encode_event("ADDED", document) for document in documents])

    def encode_event(self, type_: str, document: AnyEncodedObject) -> bytes:
        """The frame of one event. Raises UnsupportedEvent."""
        form = self._view.form
        if form.transform == "Table":
            definitions = None if self._columns_sent else tables.columns(self._resource)
            self._columns_sent = True
            row = tables.row(document, self._view.include, form.meta_version, self._view.now)
            meta = {"resourceVersion": document.object.metadata.resource_version}
            return self._json_event(type_, tables.table(definitions, [row], form.meta_version, meta))
        if form.transform == "PartialObjectMetadataList":
            raise UnsupportedEvent
        if form.transform:
            metadata = tables.partial(document.object, form.meta_version)
            if form.media_type == negotiation.PROTOBUF:
                return protobuf.encode_watch_event(type_, metadata, metadata.api_version, metadata.kind)
            return self._json_event(type_, codec.encode(metadata))
        if form.media_type == negotiation.PROTOBUF:
            return protobuf.encode_watch_event(
                type_, document.object, document.resource.api_version, document.resource.kind
            )
        return self._json_event(type_, document.wire)

    def bookmark(self, revision: int, *, initial_end: bool) -> bytes:
        """A bookmark: an empty object with the current resourceVersion of the watch."""
        blank = self._resource.type()
        blank.kind, blank.api_version = self._resource.kind, self._resource.api_version
        blank.metadata.resource_version = str(revision)
        if initial_end:
            blank.metadata.annotations = {INITIAL_END: "true"}
        view = self._view
        if initial_end and view.include == "None":
            # The initial-events-end annotation is in the metadata, so this row needs it.
            self._view = structs.replace(view, include="Metadata")
        frame = self.encode_event("BOOKMARK", encodedobjects.from_complete_object(self._resource, blank))
        self._view = view
        return frame

    def error(self, fields: Mapping[str, object]) -> bytes:
        """The frame of an ERROR event, the last one of a failed watch."""
        if self._view.form.media_type == negotiation.PROTOBUF:
            return protobuf.encode_watch_status("ERROR", fields)
        return self._json_event("ERROR", codec.encode(fields))

    def _json_event(self, type_: str, encoded: bytes) -> bytes:
        # Never indented, even with pretty: clients read line by line.
        return b'{"type":"%b","object":%b}\n' % (type_.encode("ascii"), encoded)


def succeeded(details: Mapping[str, object]) -> dict[str, object]:
    """The Status in the response to a deletion."""
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}


def frames(events: Sequence[reads.AnyWatchEvent], framer: Framer) -> bytes:
    """The frames of a batch of events."""
    if len(events) == 1:
        return framer.frame(events[0])
    return b"".join([framer.frame(event) for event in events])
