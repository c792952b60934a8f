"""Tables: the rows that `kubectl get` prints, from the columns that each kind declares.

Source: api-concepts, "Receiving resources as Tables"; `k8s.io/apimachinery/pkg/apis/meta/v1.Table`.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from certplane import errors
from certplane.golang import formatting
from certplane.meta import objects, responses
from certplane.meta.resource import AnyResource
from certplane.registry.encodedobjects import AnyEncodedObject
from certplane.wire import codec

_INCLUDES: Final = ("", "Metadata", "Object", "None")


def check_include(value: str) -> str:
    """Check the includeObject parameter, and set its default. Raises BadRequest."""
    if value not in _INCLUDES:
        problem = (
            f"includeObject: Invalid value: {formatting.quote(value)}: must be 'Metadata', 'Object', 'None', or empty"
        )
        raise errors.BadRequest(f"Unable to convert to Table as requested: {problem}")
    return value or "Metadata"


def columns(resource: AnyResource) -> Sequence[Mapping[str, object]]:
    """The column definitions of a kind."""
    return [
        {
            "name": column.name,
            "type": column.type,
            "format": column.format,
            "description": column.description,
            "priority": column.priority,
        }
        for column in resource.columns
    ]


def row(document: AnyEncodedObject, include: str, version: str, now: datetime.datetime) -> dict[str, object]:
    """One object as a row. `version` is the requested version of meta.k8s.io."""
    obj = document.object
    return {
        "cells": [column.cell(obj, now) for column in document.resource.columns],
        "object": _embedded(document, include, version),
    }


def _embedded(document: AnyEncodedObject, include: str, version: str) -> object:
    if include == "Object":
        return msgspec.Raw(document.wire)
    if include == "None":
        return None
    return partial(document.object, version)


def partial(obj: objects.Object, version: str) -> responses.PartialObjectMetadata:
    """The PartialObjectMetadata of an object."""
    return responses.PartialObjectMetadata(
        kind="PartialObjectMetadata", api_version=f"meta.k8s.io/{version}", metadata=obj.metadata
    )


def table(
    definitions: Sequence[Mapping[str, object]] | None,
    rows: Sequence[Mapping[str, object]],
    version: str,
    metadata: Mapping[str, object],
) -> bytes:
    """A Table as JSON. Without `definitions`, for later events of a watch, its columns are null."""
    return codec.encode(
        {
            "kind": "Table",
            "apiVersion": f"meta.k8s.io/{version}",
            "metadata": metadata,
            "columnDefinitions": definitions,
            "rows": rows,
        }
    )
