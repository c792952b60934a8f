"""Which form an answer takes, and in which form a body came.

Sources: `k8s.io/apiserver/pkg/endpoints/handlers/negotiation`; `github.com/munnerz/goautoneg` for the header;
`github.com/emicklei/go-restful`, `jsr311.go`, for what a route refuses before; api-concepts, "Alternate representations
of resources".
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Final

from certplane import boundedcache, errors

JSON: Final = "application/json"
YAML: Final = "application/yaml"
PROTOBUF: Final = "application/vnd.kubernetes.protobuf"
ACCEPTED: Final = (JSON, YAML, PROTOBUF)
#: What routes offer, in the words of a refusal. Reads of a collection may become watches, so they offer streams, too.
LISTED: Final = ", ".join(ACCEPTED)
_STREAMS: Final = f"{JSON};stream=watch, {PROTOBUF};stream=watch"
LISTED_WITH_STREAMS: Final = f"{LISTED}, {_STREAMS}"
_META_VERSIONS: Final = ("v1", "v1beta1")

#: What an endpoint can turn its objects into, besides sending them as they are.
NO_TRANSFORMS: Final[tuple[str, ...]] = ()
PARTIAL: Final = ("PartialObjectMetadata", "PartialObjectMetadataList")
ALL_TRANSFORMS: Final = ("Table", *PARTIAL)


@dataclasses.dataclass(frozen=True, slots=True)
class Form:
    """The form of an answer. `transform` is empty, Table, PartialObjectMetadata or PartialObjectMetadataList."""

    media_type: str = JSON
    transform: str = ""
    meta_version: str = "v1"
    pretty: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Clause:
    """A media range of an Accept header. Case matters in all of it."""

    type: str
    subtype: str
    quality: float = 1.0
    parameters: tuple[tuple[str, str], ...] = ()

    def takes(self, media_type: str) -> bool:
        """Whether a media type is in the range."""
        type_, _, subtype = media_type.partition("/")
        return self.type in (type_, "*") and self.subtype in (subtype, "*")

    def comes_before(self, other: Clause) -> bool:
        # No order in the mathematical sense: a range without a star comes forward whatever its quality is.
        return (
            self.quality > other.quality
            or (self.type != "*" and other.type == "*")
            or (self.subtype != "*" and other.subtype == "*")
        )


#: So many ranges of an Accept header are looked at, and parameters of each; what follows is passed over. Browsers send
#: ten at the most. The header is read before anybody has said who he is, and sorting by insertion costs a square.
MOST_RANGES: Final = 32
MOST_PARAMETERS: Final = 16


def _ranges(accept: str) -> Sequence[str]:
    return accept.split(",", MOST_RANGES)[:MOST_RANGES]


@boundedcache.remember()
def clauses(accept: str) -> tuple[Clause, ...]:
    """The media ranges of an Accept header, best first. What is none is passed over."""
    found: list[Clause] = []
    for part in _ranges(accept):
        media, *parameters = part.split(";", MOST_PARAMETERS + 1)[: MOST_PARAMETERS + 1]
        clause = _clause(media.strip(" "), parameters)
        if clause is None:
            continue
        # The real server sorts by insertion, which decides what an order that is none comes to.
        place = len(found)
        while place and clause.comes_before(found[place - 1]):
            place -= 1
        found.insert(place, clause)
    return tuple(found)


def _clause(media: str, parameters: Sequence[str]) -> Clause | None:
    type_, _, subtype = ("*/*" if media == "*" else media).partition("/")
    if not subtype or "/" in subtype:
        return None
    quality, pairs = 1.0, []
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if not value or "=" in value[:-1]:
            continue
        if name.strip(" ") == "q":
            quality = _quality(value)
        else:
            pairs.append((name.strip(" "), value.strip(" ")))
    return Clause(type_.strip(" "), subtype.strip(" "), quality, tuple(pairs))


# Digits belong together, all of them: tried both ways, they would cost the square of their number.
_NUMBER: Final = re.compile(r"[+-]?([0-9]++\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


def _quality(text: str) -> float:
    return float(text) if _NUMBER.fullmatch(text) else 0.0


@boundedcache.remember()
def negotiate(accept: str, transforms: tuple[str, ...]) -> Form:
    """The form that the first acceptable clause of an Accept header asks for. An empty header means JSON.

    Raises NoSuchForm.
    """
    if not accept:
        return Form()
    for clause in clauses(accept):
        form = _form(clause, transforms)
        if form is not None:
            return form
    raise NoSuchForm(LISTED)


@boundedcache.remember()
def check_route(accept: str, offered: str) -> None:
    """Whether a route has anything to offer, by the names of media types alone. Raises NotAcceptable.

    That comes before ranges are looked at: of the stars only the one that takes everything counts here.
    """
    named = {part.partition(";")[0].strip(" ") for part in _ranges(accept or "*/*")}
    if named.isdisjoint(("*/*", *offered.split(", "))):
        raise errors.NotAcceptable(f"406: Not Acceptable\n\nAvailable representations: {offered}", {})


class NoSuchForm(errors.APIError):
    """The media type is served, but not transformed like that: the other of the two texts of a 406."""

    code, reason = 406, "NotAcceptable"

    def __init__(self, accepted: str) -> None:
        super().__init__(f"only the following media types are accepted: {accepted}")


def check_stream(form: Form) -> None:
    """Whether a watch can be had in a form. Raises NoSuchForm."""
    if form.media_type == YAML:
        raise NoSuchForm(_STREAMS)


def _form(clause: Clause, transforms: tuple[str, ...]) -> Form | None:
    for media_type in ACCEPTED:
        if clause.takes(media_type):
            form = _transformed(media_type, dict(clause.parameters), transforms)
            if form is not None:
                return form
    return None


def _transformed(media_type: str, parameters: Mapping[str, str], transforms: tuple[str, ...]) -> Form | None:
    transform = parameters.get("as", "")
    version = parameters.get("v", "")
    if parameters.get("stream", "watch") != "watch" or parameters.get("sv", "v1") != "v1":
        return None
    if not parameters.keys().isdisjoint(("as", "g", "v")):
        if transform not in transforms or parameters.get("g") != "meta.k8s.io" or version not in _META_VERSIONS:
            return None
        if media_type == PROTOBUF and transform == "Table":
            return None
    return Form(media_type, transform, version or "v1", parameters.get("pretty") == "1")


def status_form(accept: str, *, pretty: bool = False) -> Form:
    """The form of a Status: the first one asked for that is not transformed, else JSON for people."""
    for clause in clauses(accept):
        form = _form(clause, NO_TRANSFORMS)
        if form is not None:
            return dataclasses.replace(form, pretty=form.pretty or pretty)
    return Form(pretty=pretty or bool(accept))


_BODY_TYPES: Final = frozenset(ACCEPTED)
#: RFC 9110 section 5.6.6, without the semicolon that comes before; there may be one behind.
_PARAMETERS: Final = re.compile(
    r"""\s*(?:[\w!#$%&'*+.^`|~-]+=(?:[\w!#$%&'*+.^`|~-]+|"(?:[^"\\]|\\.)*")\s*(?:;\s*|$))*""", re.ASCII
)


def body_type(content_type: str) -> str:
    """The media type of a body; parameters only have to be such, nothing means JSON. Raises UnsupportedMediaType."""
    if not content_type:
        return JSON
    media = content_type.partition(";")[0].strip().lower()
    if media not in _BODY_TYPES or not _PARAMETERS.fullmatch(content_type.partition(";")[2]):
        raise errors.UnsupportedMediaType(
            f"the body of the request was in an unknown format - accepted media types include: {LISTED}"
        )
    return media
