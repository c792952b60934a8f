"""Documents, lists and events in the form that was negotiated.

Plain JSON is the hot path: the bytes of each document are made once, by the registry, and joined here. The other
forms are made from the object.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from msgspec import structs

from certplane import gotext, offload
from certplane.meta import codec, goyaml, objects, protobuf, resource
from certplane.registry import document, reads
from certplane.server import negotiation, tables

INITIAL_END: Final = "k8s.io/initial-events-end"


class View(msgspec.Struct, frozen=True):
    """How one request wants to see objects: the form, what a table row embeds, and the time that ages count to."""

    form: negotiation.Form
    include: str
    now: datetime.datetime


def pretty(document_: bytes) -> bytes:
    """JSON, indented by two spaces."""
    return gotext.escape_html(json.dumps(json.loads(document_), indent=2, ensure_ascii=False).encode("utf-8"))


def encode_json(value: bytes, form: negotiation.Form) -> bytes:
    """A finished JSON document as the body of an answer in JSON or YAML."""
    if form.media_type == negotiation.YAML:
        return goyaml.dump(msgspec.json.decode(value)).encode("utf-8")
    return pretty(value) if form.pretty else value + b"\n"


def status(of: Mapping[str, Any], form: negotiation.Form) -> bytes:
    """A Status, in whatever form."""
    if form.media_type == negotiation.PROTOBUF:
        return protobuf.encode_status(of)
    return encode_json(codec.encode(of), form)


def weight(documents: Sequence[document.Document], form: negotiation.Form) -> int:
    """How long it takes to render documents, as `offload.run` counts. What is stored as it is sent takes no time."""
    if form.media_type == negotiation.JSON and not form.transform and not form.pretty:
        return 0
    size = sum([len(each.value) for each in documents])
    return size * (offload.YAML if form.media_type == negotiation.YAML else 1)


def one(of: document.Document, view: View) -> bytes:
    """A single object."""
    form = view.form
    if form.transform == "Table":
        row = tables.row(of, view.include, form.meta_version, view.now)
        meta = {"resourceVersion": str(of.revision)} if of.revision else {}
        return encode_json(tables.table(tables.columns(of.resource), [row], form.meta_version, meta), form)
    if form.transform:
        return _partial(of.object, form)
    if form.media_type == negotiation.PROTOBUF:
        return protobuf.encode(of.object, of.resource.api_version, of.resource.kind)
    return encode_json(of.wire, form)


def _partial(of: objects.Object, form: negotiation.Form) -> bytes:
    shown = tables.partial(of, form.meta_version)
    if form.media_type == negotiation.PROTOBUF:
        return protobuf.encode(shown, shown.api_version, shown.kind)
    return encode_json(codec.encode(shown), form)


def answer(value: objects.Object, of: resource.Action, form: negotiation.Form) -> bytes:
    """The answer of an action."""
    if form.transform:
        return _partial(value, form)
    if form.media_type == negotiation.PROTOBUF:
        return protobuf.encode(value, of.api_version, of.kind)
    return encode_json(codec.encode(value), form)


def listing(kind: resource.Resource, of: reads.Listing, view: View) -> bytes:
    """A list."""
    form = view.form
    meta: dict[str, Any] = {"resourceVersion": str(of.revision)}
    if of.continue_:
        meta["continue"] = of.continue_
        if of.remaining is not None:
            meta["remainingItemCount"] = of.remaining
    if form.transform == "Table":
        rows = [tables.row(each, view.include, form.meta_version, view.now) for each in of.documents]
        return encode_json(tables.table(tables.columns(kind), rows, form.meta_version, meta), form)
    if form.transform:
        items = [tables.partial(each.object, form.meta_version) for each in of.documents]
        head = {"kind": "PartialObjectMetadataList", "apiVersion": f"meta.k8s.io/{form.meta_version}"}
        if form.media_type == negotiation.PROTOBUF:
            return protobuf.encode_list(items, head["apiVersion"], head["kind"], meta)
        # The real server writes null for no items here, and nowhere else.
        return encode_json(codec.encode({**head, "metadata": meta, "items": items or None}), form)
    if form.media_type == negotiation.PROTOBUF:
        return protobuf.encode_list([each.object for each in of.documents], kind.api_version, kind.list_kind, meta)
    head_bytes = codec.encode({"kind": kind.list_kind, "apiVersion": kind.api_version, "metadata": meta})
    body = b'%b,"items":[%b]}' % (head_bytes[:-1], b",".join([each.item for each in of.documents]))
    return encode_json(body, form)


# --- watch --------------------------------------------------------------------------------------------------------


def stream_type(form: negotiation.Form) -> str:
    """The content type of a watch."""
    return f"{negotiation.PROTOBUF};stream=watch" if form.media_type == negotiation.PROTOBUF else form.media_type


class NotShown(Exception):
    """An event that the form of a watch has no room for: single objects are no lists."""


class Framer:
    """Turns the notices of one watch into frames. Keeps what one watch must remember: whether columns were sent."""

    def __init__(self, kind: resource.Resource, view: View) -> None:
        self._kind = kind
        self._view = view
        self._columns_sent = False
        plain = not view.form.transform and view.form.media_type == negotiation.JSON
        #: Forms whose frames do not depend on the watch are shared by all watches, under this key.
        self._shared = "json" if plain else ""

    def frame(self, notice: reads.Notice) -> bytes:
        if self._shared:
            frame = notice.frames.get(self._shared)
            if frame is None:
                frame = b'{"type":"%b","object":%b}\n' % (notice.type.encode("ascii"), notice.document.wire)
                notice.frames[self._shared] = frame
            return frame
        return self.event(notice.type, notice.document)

    def weight(self, documents: Sequence[document.Document]) -> int:
        """How long the frames of these take."""
        return weight(documents, self._view.form)

    def initial(self, documents: Sequence[document.Document]) -> bytes:
        """The frames of what is there when a watch begins. Raises NotShown."""
        return b"".join([self.event("ADDED", each) for each in documents])

    def event(self, type_: str, of: document.Document) -> bytes:
        """One object in one event. Raises NotShown."""
        form = self._view.form
        if form.transform == "Table":
            definitions = None if self._columns_sent else tables.columns(self._kind)
            self._columns_sent = True
            row = tables.row(of, self._view.include, form.meta_version, self._view.now)
            meta = {"resourceVersion": of.object.metadata.resource_version}
            return self._json_event(type_, tables.table(definitions, [row], form.meta_version, meta))
        if form.transform == "PartialObjectMetadataList":
            raise NotShown
        if form.transform:
            shown = tables.partial(of.object, form.meta_version)
            if form.media_type == negotiation.PROTOBUF:
                return protobuf.encode_watch_event(type_, shown, shown.api_version, shown.kind)
            return self._json_event(type_, codec.encode(shown))
        if form.media_type == negotiation.PROTOBUF:
            return protobuf.encode_watch_event(type_, of.object, of.resource.api_version, of.resource.kind)
        return self._json_event(type_, of.wire)

    def bookmark(self, revision: int, *, initial_end: bool) -> bytes:
        """An empty object that tells how far the watch has come."""
        blank = self._kind.type()
        blank.kind, blank.api_version = self._kind.kind, self._kind.api_version
        blank.metadata.resource_version = str(revision)
        if initial_end:
            blank.metadata.annotations = {INITIAL_END: "true"}
        view = self._view
        if initial_end and view.include == "None":
            # The mark is in the metadata, so this one row has some.
            self._view = structs.replace(view, include="Metadata")
        frame = self.event("BOOKMARK", document.finished(self._kind, blank))
        self._view = view
        return frame

    def error(self, of: Mapping[str, Any]) -> bytes:
        """The last event of a watch that cannot go on."""
        if self._view.form.media_type == negotiation.PROTOBUF:
            return protobuf.encode_watch_status("ERROR", of)
        return self._json_event("ERROR", codec.encode(of))

    def _json_event(self, type_: str, encoded: bytes) -> bytes:
        # Never indented, whatever is asked for: readers go by lines.
        return b'{"type":"%b","object":%b}\n' % (type_.encode("ascii"), encoded)


def succeeded(details: Mapping[str, Any]) -> dict[str, Any]:
    """The Status that answers a deletion."""
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}


def many(notices: Sequence[reads.Notice], framer: Framer) -> bytes:
    """The frames of a batch, in one piece."""
    if len(notices) == 1:
        return framer.frame(notices[0])
    return b"".join([framer.frame(each) for each in notices])
