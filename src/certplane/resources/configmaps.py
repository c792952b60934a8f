"""ConfigMap: settings by name.

Source: kubernetes, `pkg/registry/core/configmap`, `pkg/apis/core/validation`.
"""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import field

from certplane import errors
from certplane.meta import names, objects, resource
from certplane.meta.objects import doc

Problems = list[errors.FieldProblem]

_LARGEST: Final = 1024 * 1024


class ConfigMap(objects.Object):
    """ConfigMap holds settings for programs, by name. It is no place for secrets."""

    immutable: Annotated[bool | None, doc("If true, the settings cannot be changed any more, nor this.")] = None
    data: Annotated[dict[str, str], doc("Settings that are text.")] = field(default_factory=dict)
    binary_data: Annotated[dict[str, bytes], doc("Settings that are bytes. Names must not occur in data as well.")] = (
        field(default_factory=dict)
    )


def _validate(new: ConfigMap) -> Problems:
    problems: Problems = []
    size = 0
    for key, text in new.data.items():
        problems += [errors.invalid(f"data[{key}]", key, why) for why in names.config_key_problems(key)]
        if key in new.binary_data:
            problems.append(errors.invalid(f"data[{key}]", key, "duplicate of key present in binaryData"))
        size += len(text.encode("utf-8", "surrogatepass"))
    for key, content in new.binary_data.items():
        problems += [errors.invalid(f"binaryData[{key}]", key, why) for why in names.config_key_problems(key)]
        size += len(content)
    if size > _LARGEST:
        # The field of no name, as Go prints it.
        problems.append(errors.too_long("[]", _LARGEST))
    return problems


def _validate_update(new: ConfigMap, old: ConfigMap) -> Problems:
    problems: Problems = []
    if old.immutable:
        why = "field is immutable when `immutable` is set"
        if not new.immutable:
            problems.append(errors.forbidden("immutable", why))
        if new.data != old.data:
            problems.append(errors.forbidden("data", why))
        if new.binary_data != old.binary_data:
            problems.append(errors.forbidden("binaryData", why))
    return [*problems, *_validate(new)]


RESOURCE: Final = resource.Resource(
    group="",
    version="v1",
    kind="ConfigMap",
    plural="configmaps",
    short_names=("cm",),
    type=ConfigMap,
    namespaced=True,
    owns=("immutable", "data", "binaryData"),
    name_problems=names.dns1123_subdomain_problems,
    validate=_validate,
    validate_update=_validate_update,
    columns=(
        resource.Column("Name", "Name of the map.", lambda of, _: of.metadata.name, format="name"),
        resource.Column("Data", "How many settings it holds.", lambda of, _: len(of.data) + len(of.binary_data)),
        resource.Column("Age", "Time since the map was created.", resource.age),
    ),
)
