"""Content negotiation: the form of a response from the Accept header, and the media type of a request body.

Sources: `k8s.io/apiserver/pkg/endpoints/handlers/negotiation`; `github.com/munnerz/goautoneg` for the header;
`github.com/emicklei/go-restful`, `jsr311.go`, for the check of the route before; api-concepts, "Alternate
representations of resources".
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
SUPPORTED: Final = (JSON, YAML, PROTOBUF)
#: The media types of routes, as error texts list them. Reads of a collection may become watches, so they add streams.
MEDIA_TYPES: Final = ", ".join(SUPPORTED)
_STREAMS: Final = f"{JSON};stream=watch, {PROTOBUF};stream=watch"
MEDIA_TYPES_WITH_STREAMS: Final = f"{MEDIA_TYPES}, {_STREAMS}"
_META_VERSIONS: Final = ("v1", "v1beta1")

#: The kinds into which an endpoint can transform its objects.
NO_TRANSFORMS: Final[tuple[str, ...]] = ()
PARTIAL: Final = ("PartialObjectMetadata", "PartialObjectMetadataList")
ALL_TRANSFORMS: Final = ("Table", *PARTIAL)


@dataclasses.dataclass(frozen=True, slots=True)
class Representation:
    """The form of a response. `transform` is empty, Table, PartialObjectMetadata or PartialObjectMetadataList."""

    media_type: str = JSON
    transform: str = ""
    meta_version: str = "v1"
    pretty: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class MediaRange:
    """A media range of an Accept header, compared case-sensitively."""

    type: str
    subtype: str
    quality: float = 1.0
    parameters: tuple[tuple[str, str], ...] = ()

    def matches(self, media_type: str) -> bool:
        """Whether a media type is in the range."""
        type_, _, subtype = media_type.partition("/")
        return self.type in (type_, "*") and self.subtype in (subtype, "*")

    def precedes(self, other: MediaRange) -> bool:
        # Not a total order: a range without a wildcard moves before one with a wildcard, whatever the qualities are.
        return (
            self.quality > other.quality
            or (self.type != "*" and other.type == "*")
            or (self.subtype != "*" and other.subtype == "*")
        )


#: Ranges of an Accept header, and parameters of a range, that are parsed; the rest is ignored. Browsers send up to ten
#: ranges. Status responses need the header before authentication, and insertion sort has quadratic cost.
MAX_RANGES: Final = 32
MAX_PARAMETERS: Final = 16


def _ranges(accept: str) -> Sequence[str]:
    return accept.split(",", MAX_RANGES)[:MAX_RANGES]


@boundedcache.memoize()
def parse_accept(accept: str) -> tuple[MediaRange, ...]:
    """The media ranges of an Accept header, best first. Invalid ones are ignored."""
    parsed: list[MediaRange] = []
    for part in _ranges(accept):
        media, *parameters = part.split(";", MAX_PARAMETERS + 1)[: MAX_PARAMETERS + 1]
        media_range = _media_range(media.strip(" "), parameters)
        if media_range is None:
            continue
        # Insertion sort, as in goautoneg: without a total order the result depends on the algorithm.
        index = len(parsed)
        while index and media_range.precedes(parsed[index - 1]):
            index -= 1
        parsed.insert(index, media_range)
    return tuple(parsed)


def _media_range(media: str, parameters: Sequence[str]) -> MediaRange | None:
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
    return MediaRange(type_.strip(" "), subtype.strip(" "), quality, tuple(pairs))


# The possessive ++ avoids backtracking, whose cost would be quadratic in the number of digits.
_NUMBER: Final = re.compile(r"[+-]?([0-9]++\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


def _quality(text: str) -> float:
    return float(text) if _NUMBER.fullmatch(text) else 0.0


@boundedcache.memoize()
def negotiate(accept: str, transforms: tuple[str, ...]) -> Representation:
    """The form of the first acceptable media range of an Accept header; JSON if it is empty. Raises UnsupportedForm."""
    if not accept:
        return Representation()
    for media_range in parse_accept(accept):
        form = _form(media_range, transforms)
        if form is not None:
            return form
    raise UnsupportedForm(MEDIA_TYPES)


@boundedcache.memoize()
def check_media_types(accept: str, media_types: str) -> None:
    """Check that a route has one of the accepted media types. Raises NotAcceptable.

    This check of go-restful comes before the negotiation. It compares names only; the one wildcard it knows is `*/*`.
    """
    accepted = {part.partition(";")[0].strip(" ") for part in _ranges(accept or "*/*")}
    if accepted.isdisjoint(("*/*", *media_types.split(", "))):
        raise errors.NotAcceptable(f"406: Not Acceptable\n\nAvailable representations: {media_types}", {})


class UnsupportedForm(errors.APIError):
    """The media type is served, but not in that form. A 406 with another text than the one of `check_media_types`."""

    code, reason = 406, "NotAcceptable"

    def __init__(self, accepted: str) -> None:
        super().__init__(f"only the following media types are accepted: {accepted}")


def check_watch_form(form: Representation) -> None:
    """Check that a watch can be sent in a form. Raises UnsupportedForm."""
    if form.media_type == YAML:
        raise UnsupportedForm(_STREAMS)


def _form(media_range: MediaRange, transforms: tuple[str, ...]) -> Representation | None:
    for media_type in SUPPORTED:
        if media_range.matches(media_type):
            form = _transformed(media_type, dict(media_range.parameters), transforms)
            if form is not None:
                return form
    return None


def _transformed(media_type: str, parameters: Mapping[str, str], transforms: tuple[str, ...]) -> Representation | None:
    transform = parameters.get("as", "")
    version = parameters.get("v", "")
    if parameters.get("stream", "watch") != "watch" or parameters.get("sv", "v1") != "v1":
        return None
    if not parameters.keys().isdisjoint(("as", "g", "v")):
        if transform not in transforms or parameters.get("g") != "meta.k8s.io" or version not in _META_VERSIONS:
            return None
        if media_type == PROTOBUF and transform == "Table":
            return None
    return Representation(media_type, transform, version or "v1", parameters.get("pretty") == "1")


def negotiate_status(accept: str, *, pretty: bool = False) -> Representation:
    """The form of a Status: the first acceptable one without a transform, otherwise indented JSON."""
    for media_range in parse_accept(accept):
        form = _form(media_range, NO_TRANSFORMS)
        if form is not None:
            return dataclasses.replace(form, pretty=form.pretty or pretty)
    return Representation(pretty=pretty or bool(accept))


_BODY_TYPES: Final = frozenset(SUPPORTED)
#: Parameters (RFC 9110 section 5.6.6) without the leading semicolon; a trailing one is allowed.
_PARAMETERS: Final = re.compile(
    r"""\s*(?:[\w!#$%&'*+.^`|~-]+=(?:[\w!#$%&'*+.^`|~-]+|"(?:[^"\\]|\\.)*")\s*(?:;\s*|$))*""", re.ASCII
)


def body_media_type(content_type: str) -> str:
    """The media type of a body; empty means JSON. Parameters must be well-formed. Raises UnsupportedMediaType."""
    if not content_type:
        return JSON
    media = content_type.partition(";")[0].strip().lower()
    if media not in _BODY_TYPES or not _PARAMETERS.fullmatch(content_type.partition(";")[2]):
        raise errors.UnsupportedMediaType(
            f"the body of the request was in an unknown format - accepted media types include: {MEDIA_TYPES}"
        )
    return media
