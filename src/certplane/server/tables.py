"""Objects as rows: what `kubectl get` prints is decided here, from the columns that each kind declares.

Source: api-concepts, "Receiving resources as Tables"; `k8s.io/apimachinery/pkg/apis/meta/v1.Table`.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from certplane import errors, gotext
from certplane.meta import answers, codec, objects, resource
from certplane.registry import document

_INCLUDES: Final = ("", "Metadata", "Object", "None")


def check_include(value: str) -> str:
    """The includeObject parameter, judged. Raises BadRequest."""
    if value not in _INCLUDES:
        problem = f"includeObject: Invalid value: {gotext.quote(value)}: must be 'Metadata', 'Object', 'None', or empty"
        raise errors.BadRequest(f"Unable to convert to Table as requested: {problem}")
    return value or "Metadata"


def columns(of: resource.Resource) -> Sequence[Mapping[str, Any]]:
    """The column definitions of a kind."""
    return [
        {
            "name": each.name,
            "type": each.type,
            "format": each.format,
            "description": each.description,
            "priority": each.priority,
        }
        for each in of.columns
    ]


def row(of: document.Document, include: str, version: str, now: datetime.datetime) -> dict[str, Any]:
    """One object as a row. `version` is the version of meta.k8s.io that was asked for."""
    value = of.object
    return {
        "cells": [each.cell(value, now) for each in of.resource.columns],
        "object": _embedded(of, include, version),
    }


def _embedded(of: document.Document, include: str, version: str) -> Any:
    if include == "Object":
        return msgspec.Raw(of.wire)
    if include == "None":
        return None
    return partial(of.object, version)


def partial(of: objects.Object, version: str) -> answers.PartialObjectMetadata:
    """The metadata alone."""
    return answers.PartialObjectMetadata(
        kind="PartialObjectMetadata", api_version=f"meta.k8s.io/{version}", metadata=of.metadata
    )


def table(
    definitions: Sequence[Mapping[str, Any]] | None,
    rows: Sequence[Mapping[str, Any]],
    version: str,
    metadata: Mapping[str, Any],
) -> bytes:
    """A Table, as JSON."""
    return codec.encode(
        {
            "kind": "Table",
            "apiVersion": f"meta.k8s.io/{version}",
            "metadata": metadata,
            "columnDefinitions": definitions,
            "rows": rows,
        }
    )
