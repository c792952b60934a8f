"""Validation of metadata, for all kinds, on create and on update; and of fields that several kinds share.

Each function returns field problems in Kubernetes' order, and never raises.
Source: `k8s.io/apimachinery/pkg/api/validation/objectmeta.go`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Sized
from typing import Final

import msgspec
from msgspec import structs

from certplane import errors
from certplane.errors import Problems
from certplane.golang import formatting
from certplane.meta import names, objects, selectors
from certplane.meta.objects import OwnerReference

_ANNOTATIONS_LIMIT: Final = 256 * 1024
_STANDARD_FINALIZERS: Final = frozenset({"kubernetes", "orphan", "foregroundDeletion"})
_MANAGER_LIMIT: Final = 128
_SUBRESOURCE_LIMIT: Final = 256
#: Maximum labels, owners, finalizers or taints of an object. Objects in use have fewer than a hundred; each invalid one
#: adds a kilobyte to the error.
MAX_ITEMS: Final = 1000


def validate_meta(
    meta: objects.ObjectMeta, name_problems: Callable[[str], Sequence[str]], *, namespaced: bool
) -> Problems:
    """Validate any metadata, on create and on update."""
    problems: Problems = []
    if meta.generate_name:
        prefix = _masked(meta.generate_name)
        problems.extend(
            errors.invalid("metadata.generateName", meta.generate_name, detail) for detail in name_problems(prefix)
        )
    if meta.name:
        problems.extend(errors.invalid("metadata.name", meta.name, detail) for detail in name_problems(meta.name))
    elif not meta.generate_name:
        problems.append(errors.required("metadata.name", "name or generateName is required"))
    if namespaced:
        problems.extend(_namespace_problems(meta.namespace))
    if meta.generation < 0:
        problems.append(errors.invalid("metadata.generation", meta.generation, "must be greater than or equal to 0"))
    problems.extend(_label_problems(meta.labels))
    problems.extend(_annotation_problems(meta.annotations))
    problems.extend(_owner_problems(meta.owner_references))
    problems.extend(_finalizer_problems(meta.finalizers))
    problems.extend(_entry_problems(meta.managed_fields or ()))
    return problems


def _masked(prefix: str) -> str:
    """A generateName as it is validated: a trailing hyphen is allowed, because random characters will follow."""
    return prefix[:-2] + "a" if len(prefix) > 1 and prefix.endswith("-") else prefix


def _namespace_problems(namespace: str) -> Problems:
    if not namespace:
        return [errors.required("metadata.namespace")]
    return [
        errors.invalid("metadata.namespace", namespace, detail) for detail in names.dns1123_label_problems(namespace)
    ]


def _label_problems(labels: dict[str, str]) -> Problems:
    if too_many := count_problems(labels, "metadata.labels", MAX_ITEMS):
        return too_many
    problems: Problems = []
    for key, value in sorted(labels.items()):
        problems.extend(errors.invalid("metadata.labels", key, detail) for detail in names.qualified_name_problems(key))
        problems.extend(
            errors.invalid("metadata.labels", value, detail) for detail in names.label_value_problems(value)
        )
    return problems


def _annotation_problems(annotations: dict[str, str]) -> Problems:
    problems: Problems = []
    size = 0
    for key, value in sorted(annotations.items()):
        # Annotation keys are validated in lower case: Kubernetes accepts prefixes with capitals.
        details = names.qualified_name_problems(key.lower())
        problems.extend(errors.invalid("metadata.annotations", key, detail) for detail in details)
        size += len(key.encode("utf-8", "surrogatepass")) + len(value.encode("utf-8", "surrogatepass"))
    if size > _ANNOTATIONS_LIMIT:
        problems.append(errors.too_long("metadata.annotations", _ANNOTATIONS_LIMIT))
    return problems


#: Maximum problems that each quote the whole list of owners: quoting it once per owner would take quadratic space.
_MAX_CONTROLLER_PROBLEMS: Final = 10


def _owner_problems(owners: Sequence[OwnerReference]) -> Problems:
    path = "metadata.ownerReferences"
    if too_many := count_problems(owners, path, MAX_ITEMS):
        return too_many
    problems: Problems = []
    controller, quoted = "", 0
    for owner in owners:
        group, _, version = owner.api_version.rpartition("/")
        if not version or "/" in group:
            problems.append(errors.invalid(f"{path}.apiVersion", owner.api_version, "version must not be empty"))
        for name, value in (("kind", owner.kind), ("name", owner.name)):
            if not value:
                problems.append(errors.invalid(f"{path}.{name}", value, "must not be empty"))
        if not owner.uid:
            problems.append(errors.invalid(f"{path}.uid", owner.uid, "must not be empty", as_json=True))
        if (owner.api_version, owner.kind) == ("v1", "Event"):
            detail = "/v1, Kind=Event is disallowed from being an owner"
            problems.append(errors.invalid(path, _to_builtins(owner), detail))
        if owner.controller:
            name = f"{owner.kind}/{owner.name}"
            if controller and quoted < _MAX_CONTROLLER_PROBLEMS:
                quoted += 1
                detail = (
                    "Only one reference can have Controller set to true. "
                    f'Found "true" in references for {controller} and {name}'
                )
                problems.append(errors.invalid(path, [_to_builtins(other) for other in owners], detail))
            controller = controller or name
    return problems


def _to_builtins(owner: OwnerReference) -> dict[str, object]:
    document: dict[str, object] = msgspec.to_builtins(owner)
    return document


def _finalizer_problems(finalizers: Sequence[str]) -> Problems:
    if too_many := count_problems(finalizers, "metadata.finalizers", MAX_ITEMS):
        return too_many
    problems: Problems = []
    orphan = foreground = False
    for position, name in enumerate(finalizers):
        problems.extend(finalizer_problems(name, "metadata.finalizers", f"metadata.finalizers[{position}]"))
        orphan = orphan or name == "orphan"
        foreground = foreground or name == "foregroundDeletion"
    if orphan and foreground:
        detail = "finalizer orphan and foregroundDeletion cannot be both set"
        problems.append(errors.invalid("metadata.finalizers", list(finalizers), detail))
    return problems


def _entry_problems(entries: Sequence[objects.ManagedFieldsEntry]) -> Problems:
    """Validate the entries of managedFields. They have been decoded; only names that clients chose can be invalid."""
    problems: Problems = []
    for position, entry in enumerate(entries):
        path = f"metadata.managedFields[{position}]"
        problems.extend(manager_problems(f"{path}.manager", entry.manager))
        if names.size(entry.subresource) > _SUBRESOURCE_LIMIT:
            problems.append(errors.too_long(f"{path}.subresource", _SUBRESOURCE_LIMIT))
    return problems


def manager_problems(path: str, manager: str) -> Problems:
    """Validate the name of a field manager."""
    if names.size(manager) > _MANAGER_LIMIT:
        # Unlike in Kubernetes, nothing more: each character may be a problem that quotes the whole name.
        return [errors.too_long(path, _MANAGER_LIMIT)]
    problems: Problems = []
    for position, char in enumerate(manager):
        if not char.isprintable():
            offset = names.size(manager[:position])
            detail = f"invalid character U+{ord(char):04X} (at position {offset})"
            problems.append(errors.invalid(path, manager, detail))
    return problems


def finalizer_problems(name: str, path: str, item_path: str = "") -> Problems:
    """Validate a finalizer. Kubernetes reports a name that is neither standard nor qualified at `item_path`,
    if given.
    """
    problems = [errors.invalid(path, name, detail) for detail in names.qualified_name_problems(name)]
    if "/" not in name and name not in _STANDARD_FINALIZERS:
        detail = "name is neither a standard finalizer name nor is it fully qualified"
        problems.append(errors.invalid(item_path or path, name, detail))
    return problems


def validate_path_segments(meta: objects.ObjectMeta) -> Problems:
    """Validate that names can be segments of a URL path, whatever else a kind allows."""
    problems = [
        errors.invalid("metadata.generateName", meta.generate_name, detail)
        for detail in names.path_segment_problems(_masked(meta.generate_name))
    ]
    problems.extend(
        errors.invalid("metadata.name", meta.name, detail) for detail in names.path_segment_problems(meta.name)
    )
    return problems


def validate_meta_update(new: objects.ObjectMeta, old: objects.ObjectMeta) -> Problems:
    """Validate the changes of an update. Labels, annotations and owners are validated once more, as in Kubernetes."""
    problems: Problems = []
    if old.deletion_timestamp is not None:
        before_deletion = set(old.finalizers)
        added = [finalizer for finalizer in new.finalizers if finalizer not in before_deletion]
        if added:
            detail = (
                f"no new finalizers can be added if the object is being deleted, found new finalizers {_go_list(added)}"
            )
            problems.append(errors.forbidden("metadata.finalizers", detail))
    for path, new_value, old_value, as_json in (
        ("metadata.name", new.name, old.name, False),
        ("metadata.namespace", new.namespace, old.namespace, False),
        ("metadata.uid", new.uid, old.uid, True),
        ("metadata.creationTimestamp", new.creation_timestamp, old.creation_timestamp, True),
        ("metadata.deletionTimestamp", new.deletion_timestamp, old.deletion_timestamp, True),
        (
            "metadata.deletionGracePeriodSeconds",
            new.deletion_grace_period_seconds,
            old.deletion_grace_period_seconds,
            True,
        ),
    ):
        if new_value != old_value:
            problems.append(errors.invalid(path, new_value, "field is immutable", as_json=as_json))
    problems.extend(_label_problems(new.labels))
    problems.extend(_annotation_problems(new.annotations))
    problems.extend(_owner_problems(new.owner_references))
    problems.extend(_entry_problems(new.managed_fields or ()))
    return problems


def _go_list(values: Sequence[str]) -> str:
    return "[]string{" + ", ".join(map(formatting.quote, sorted(set(values)))) + "}"


def drop_duplicate_owners(meta: objects.ObjectMeta) -> Sequence[str]:
    """Keep the first of equal owner references. Returns a warning if there were duplicates."""
    unique: dict[tuple[object, ...], OwnerReference] = {}
    owners = meta.owner_references
    duplicates = [owner.uid for owner in owners if unique.setdefault(structs.astuple(owner), owner) is not owner]
    if not duplicates:
        return ()
    meta.owner_references = list(unique.values())
    return (
        ".metadata.ownerReferences contains duplicate entries; API server dedups owner references in 1.20+, and may "
        "reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: "
        + ", ".join(duplicates),
    )


#: Maximum requirements of a selector in an object: the same as of a selector in a query.
MAX_REQUIREMENTS: Final = selectors.MAX_REQUIREMENTS


def count_problems(values: Sized, path: str, limit: int = MAX_REQUIREMENTS) -> Problems:
    """Validate the length of a list. Kubernetes has no such limit; here the cost of an item depends on the others."""
    return [errors.too_many(path, len(values), limit)] if len(values) > limit else []


def selector_requirement_problems(
    requirement: objects.LabelSelectorRequirement, path: str, *, any_operator: bool = False
) -> Problems:
    """Validate one expression of a label selector. `any_operator`: unknown operators are allowed."""
    problems = [
        *operator_problems(requirement.operator, requirement.values, path, any_operator=any_operator),
        *(
            errors.invalid(f"{path}.key", requirement.key, detail)
            for detail in names.qualified_name_problems(requirement.key)
        ),
    ]
    for position, value in enumerate(requirement.values):
        problems.extend(
            errors.invalid(f"{path}.values[{position}]", value, detail) for detail in names.label_value_problems(value)
        )
    return problems


def operator_problems(operator: str, values: Sequence[str], path: str, *, any_operator: bool = False) -> Problems:
    """Validate the operator of an expression, and the number of its values."""
    if operator in ("In", "NotIn"):
        detail = "must be specified when `operator` is 'In' or 'NotIn'"
        return [] if values else [errors.required(f"{path}.values", detail)]
    if operator in ("Exists", "DoesNotExist"):
        detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"
        return [errors.forbidden(f"{path}.values", detail)] if values else []
    detail = "not a valid selector operator"
    return [] if any_operator else [errors.invalid(f"{path}.operator", operator, detail, as_json=True)]


def signer_name_problems(name: str, path: str) -> Problems:
    """Validate a signer name: a domain of at least two labels, one slash, and a path of dotted labels."""
    if not name:
        return [errors.required(path)]
    if name.count("/") != 1:
        detail = "must be a fully qualified domain and path of the form 'example.com/signer-name'"
        return [errors.invalid(path, name, detail)]
    domain, _, rest = name.partition("/")
    labels = domain.split(".")
    problems: Problems = []
    if names.size(domain) > 253:
        problems.append(errors.too_long(path, 253))
    invalid = next((label for label in labels if names.dns1123_label_problems(label)), None)
    if invalid is not None:
        problems += [_label_problem(path, domain, invalid, detail) for detail in names.dns1123_label_problems(invalid)]
    if len(labels) < 2:
        problems.append(errors.invalid(path, domain, "should be a domain with at least two segments separated by dots"))
    invalid = next((label for label in rest.split(".") if names.dns1123_subdomain_problems(label)), None)
    if invalid is not None:
        problems += [
            _label_problem(path, rest, invalid, detail) for detail in names.dns1123_subdomain_problems(invalid)
        ]
    if names.size(name) > 571:
        problems.append(errors.too_long(path, 571))
    return problems


def _label_problem(path: str, value: str, label: str, detail: str) -> errors.FieldProblem:
    return errors.invalid(path, value, f"validating label {formatting.quote(label)}: {detail}")
