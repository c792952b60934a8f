"""Which form an answer takes, and in which form a body came.

Source: `k8s.io/apiserver/pkg/endpoints/handlers/negotiation`; api-concepts, "Alternate representations of resources".
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Final

from certplane import errors

JSON: Final = "application/json"
YAML: Final = "application/yaml"
PROTOBUF: Final = "application/vnd.kubernetes.protobuf"
ACCEPTED: Final = (JSON, YAML, PROTOBUF)
_LISTED: Final = ", ".join(ACCEPTED)
_STREAMS: Final = f"{JSON};stream=watch, {PROTOBUF};stream=watch"
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
class _Clause:
    type: str
    parameters: tuple[tuple[str, str], ...]
    quality: float


@functools.lru_cache(maxsize=512)
def _clauses(accept: str) -> tuple[_Clause, ...]:
    found = []
    for part in accept.split(","):
        media, *parameters = [each.strip() for each in part.split(";")]
        media = media.lower()
        if media == "*":
            media = "*/*"
        if media.count("/") != 1:
            continue
        pairs = []
        quality = 1.0
        for parameter in parameters:
            key, _, value = parameter.partition("=")
            if key.strip() == "q":
                quality = _quality(value)
            else:
                pairs.append((key.strip(), value.strip().strip('"')))
        found.append(_Clause(media, tuple(pairs), quality))
    return tuple(sorted(found, key=lambda each: (-each.quality, each.type == "*/*")))


def _quality(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 1.0


@functools.lru_cache(maxsize=1024)
def negotiate(accept: str, transforms: tuple[str, ...], watching: bool) -> Form:
    """The form that the first acceptable clause of an Accept header asks for. Raises NotAcceptable.

    An empty header means JSON. Watches have no YAML.
    """
    if not accept.strip():
        return Form()
    clauses = _clauses(accept)
    for clause in clauses:
        form = _form(clause, transforms)
        if form is not None and not (watching and form.media_type == YAML):
            return form
    if any(clause.type in (*ACCEPTED, "*/*") for clause in clauses):
        raise NoSuchForm
    listed = f"{_LISTED}, {_STREAMS}" if watching else _LISTED
    raise errors.NotAcceptable(f"406: Not Acceptable\n\nAvailable representations: {listed}", {})


class NoSuchForm(errors.APIError):
    """The media type is served, but not transformed like that: the other of the two texts of a 406."""

    code, reason = 406, "NotAcceptable"

    def __init__(self) -> None:
        super().__init__(f"only the following media types are accepted: {_LISTED}")


def _form(clause: _Clause, transforms: tuple[str, ...]) -> Form | None:
    if clause.type == "*/*":
        media_type = JSON
    elif clause.type in ACCEPTED:
        media_type = clause.type
    else:
        return None
    parameters = dict(clause.parameters)
    transform = parameters.get("as", "")
    version = parameters.get("v", "")
    if parameters.get("stream", "watch") not in ("", "watch") or parameters.get("sv", "v1") not in ("", "v1"):
        return None
    if not parameters.keys().isdisjoint(("as", "g", "v")):
        if transform not in transforms or parameters.get("g") != "meta.k8s.io" or version not in _META_VERSIONS:
            return None
        if media_type == PROTOBUF and transform == "Table":
            return None
    return Form(media_type, transform, version or "v1", parameters.get("pretty") == "1")


def status_form(accept: str, *, pretty: bool = False) -> Form:
    """The form of a Status: the first one asked for that is not transformed, else JSON for people."""
    for clause in _clauses(accept):
        form = _form(clause, NO_TRANSFORMS)
        if form is not None:
            return dataclasses.replace(form, pretty=form.pretty or pretty)
    return Form(pretty=pretty or bool(accept))


_BODY_TYPES: Final = frozenset(ACCEPTED)


def body_type(content_type: str) -> str:
    """The media type of a body; parameters do not matter, nothing means JSON. Raises UnsupportedMediaType."""
    media, *parameters = (part.strip().lower() for part in content_type.split(";"))
    if not media:
        return JSON
    if media not in _BODY_TYPES or any(each and "=" not in each for each in parameters):
        raise errors.UnsupportedMediaType(
            f"the body of the request was in an unknown format - accepted media types include: {_LISTED}"
        )
    return media
