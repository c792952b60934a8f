"""ConfigMap: settings by name.

Source: kubernetes, `pkg/registry/core/configmap`, `pkg/apis/core/validation`.
"""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import field

from certplane import errors
from certplane.errors import Problems
from certplane.meta import names, objects, resource
from certplane.meta.objects import doc

_MAX_BYTES: Final = 1024 * 1024


class ConfigMap(objects.Object):
    """ConfigMap holds configuration data for programs, as key-value pairs. It must not hold confidential data."""

    immutable: Annotated[
        bool | None,
        doc("If true, the data cannot be changed, and neither can this field. The object can only be deleted."),
    ] = None
    data: Annotated[dict[str, str], doc("Values that are UTF-8 text, by key.")] = field(default_factory=dict)
    binary_data: Annotated[
        dict[str, bytes], doc("Values that are bytes, by key. The keys must not overlap with those in data.")
    ] = field(default_factory=dict)


def _validate(config_map: ConfigMap) -> Problems:
    problems: Problems = []
    size = 0
    for key, text in config_map.data.items():
        problems += [errors.invalid(f"data[{key}]", key, detail) for detail in names.config_key_problems(key)]
        if key in config_map.binary_data:
            problems.append(errors.invalid(f"data[{key}]", key, "duplicate of key present in binaryData"))
        size += len(text.encode("utf-8", "surrogatepass"))
    for key, content in config_map.binary_data.items():
        problems += [errors.invalid(f"binaryData[{key}]", key, detail) for detail in names.config_key_problems(key)]
        size += len(content)
    if size > _MAX_BYTES:
        # Kubernetes reports the error for an empty path, which Go prints so.
        problems.append(errors.too_long("[]", _MAX_BYTES))
    return problems


def _validate_update(new: ConfigMap, old: ConfigMap) -> Problems:
    problems: Problems = []
    if old.immutable:
        detail = "field is immutable when `immutable` is set"
        if not new.immutable:
            problems.append(errors.forbidden("immutable", detail))
        if new.data != old.data:
            problems.append(errors.forbidden("data", detail))
        if new.binary_data != old.binary_data:
            problems.append(errors.forbidden("binaryData", detail))
    return [*problems, *_validate(new)]


RESOURCE: Final[resource.Resource[ConfigMap]] = resource.Resource(
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
        resource.Column("Name", "Name of the ConfigMap.", lambda obj, _: obj.metadata.name, format="name"),
        resource.Column("Data", "Number of values.", lambda obj, _: len(obj.data) + len(obj.binary_data)),
        resource.Column("Age", "Time since the ConfigMap was created.", resource.age),
    ),
)
