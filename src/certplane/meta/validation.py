"""What metadata may say, for every kind, on create and on update.

Each function returns problems, in the order in which Kubernetes finds them, and raises nothing.
Source: `k8s.io/apimachinery/pkg/api/validation/objectmeta.go`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Sized
from typing import Any, Final

from msgspec import structs

from certplane import errors, gotext
from certplane.meta import codec, names, objects, selectors

Problems = list[errors.FieldProblem]

_ANNOTATIONS_LIMIT: Final = 256 * 1024
_STANDARD_FINALIZERS: Final = frozenset({"kubernetes", "orphan", "foregroundDeletion"})
_MANAGER_LIMIT: Final = 128
_SUBRESOURCE_LIMIT: Final = 256
#: Labels, owners, finalizers, taints of an object. Nobody has a hundred; of each that is wrong, a kilobyte is told.
MOST_ITEMS: Final = 1000


def validate_meta(
    meta: objects.ObjectMeta, name_problems: Callable[[str], Sequence[str]], *, namespaced: bool
) -> Problems:
    """The rules that hold of any metadata, at any time."""
    problems: Problems = []
    if meta.generate_name:
        checked = _masked(meta.generate_name)
        problems.extend(
            errors.invalid("metadata.generateName", meta.generate_name, each) for each in name_problems(checked)
        )
    if meta.name:
        problems.extend(errors.invalid("metadata.name", meta.name, each) for each in name_problems(meta.name))
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
    """A generateName as it is judged: a trailing hyphen is fine, since letters will follow."""
    return prefix[:-2] + "a" if len(prefix) > 1 and prefix.endswith("-") else prefix


def _namespace_problems(namespace: str) -> Problems:
    if not namespace:
        return [errors.required("metadata.namespace")]
    return [errors.invalid("metadata.namespace", namespace, each) for each in names.dns1123_label_problems(namespace)]


def _label_problems(labels: dict[str, str]) -> Problems:
    if too_many := count_problems(labels, "metadata.labels", MOST_ITEMS):
        return too_many
    problems: Problems = []
    for key, value in sorted(labels.items()):
        problems.extend(errors.invalid("metadata.labels", key, each) for each in names.qualified_name_problems(key))
        problems.extend(errors.invalid("metadata.labels", value, each) for each in names.label_value_problems(value))
    return problems


def _annotation_problems(annotations: dict[str, str]) -> Problems:
    problems: Problems = []
    size = 0
    for key, value in sorted(annotations.items()):
        # Annotation keys are judged in lower case: prefixes with capitals are tolerated there.
        wrong = names.qualified_name_problems(key.lower())
        problems.extend(errors.invalid("metadata.annotations", key, each) for each in wrong)
        size += len(key.encode("utf-8", "surrogatepass")) + len(value.encode("utf-8", "surrogatepass"))
    if size > _ANNOTATIONS_LIMIT:
        problems.append(errors.too_long("metadata.annotations", _ANNOTATIONS_LIMIT))
    return problems


#: Of problems that show a whole value each, so many are told: all of them would be the square of it.
_MOST_TOLD: Final = 10


def _owner_problems(owners: Sequence[objects.OwnerReference]) -> Problems:
    path = "metadata.ownerReferences"
    if too_many := count_problems(owners, path, MOST_ITEMS):
        return too_many
    problems: Problems = []
    controller, told = "", 0
    for each in owners:
        group, _, version = each.api_version.rpartition("/")
        if not version or "/" in group:
            problems.append(errors.invalid(f"{path}.apiVersion", each.api_version, "version must not be empty"))
        for name, value in (("kind", each.kind), ("name", each.name)):
            if not value:
                problems.append(errors.invalid(f"{path}.{name}", value, "must not be empty"))
        if not each.uid:
            problems.append(errors.invalid(f"{path}.uid", each.uid, "must not be empty", as_json=True))
        if (each.api_version, each.kind) == ("v1", "Event"):
            problems.append(errors.invalid(path, _go_owner(each), "/v1, Kind=Event is disallowed from being an owner"))
        if each.controller:
            name = f"{each.kind}/{each.name}"
            if controller and told < _MOST_TOLD:
                told += 1
                why = (
                    "Only one reference can have Controller set to true. "
                    f'Found "true" in references for {controller} and {name}'
                )
                problems.append(errors.invalid(path, [_go_owner(one) for one in owners], why))
            controller = controller or name
    return problems


def _go_owner(of: objects.OwnerReference) -> dict[str, Any]:
    return codec.to_builtins(of)


def _finalizer_problems(finalizers: Sequence[str]) -> Problems:
    if too_many := count_problems(finalizers, "metadata.finalizers", MOST_ITEMS):
        return too_many
    problems: Problems = []
    orphan = foreground = False
    for position, name in enumerate(finalizers):
        problems.extend(finalizer_problems(name, "metadata.finalizers", f"metadata.finalizers[{position}]"))
        orphan = orphan or name == "orphan"
        foreground = foreground or name == "foregroundDeletion"
    if orphan and foreground:
        why = "finalizer orphan and foregroundDeletion cannot be both set"
        problems.append(errors.invalid("metadata.finalizers", list(finalizers), why))
    return problems


def _entry_problems(entries: Sequence[objects.ManagedFieldsEntry]) -> Problems:
    """Of managedFields, which are valid by now but for what clients may have called their managers."""
    problems: Problems = []
    for position, each in enumerate(entries):
        path = f"metadata.managedFields[{position}]"
        problems.extend(manager_problems(f"{path}.manager", each.manager))
        if names.size(each.subresource) > _SUBRESOURCE_LIMIT:
            problems.append(errors.too_long(f"{path}.subresource", _SUBRESOURCE_LIMIT))
    return problems


def manager_problems(path: str, manager: str) -> Problems:
    """What is wrong with the name of a manager of fields."""
    if names.size(manager) > _MANAGER_LIMIT:
        # Each of its characters may be a problem, and each problem shows all of it.
        return [errors.too_long(path, _MANAGER_LIMIT)]
    problems: Problems = []
    for position, char in enumerate(manager):
        if not char.isprintable():
            at = names.size(manager[:position])
            problems.append(errors.invalid(path, manager, f"invalid character U+{ord(char):04X} (at position {at})"))
    return problems


def finalizer_problems(name: str, path: str, standing: str = "") -> Problems:
    """What is wrong with a finalizer, wherever it stands. That it is neither known nor somebody's own is told of
    `standing`, if that is another path.
    """
    problems = [errors.invalid(path, name, why) for why in names.qualified_name_problems(name)]
    if "/" not in name and name not in _STANDARD_FINALIZERS:
        why = "name is neither a standard finalizer name nor is it fully qualified"
        problems.append(errors.invalid(standing or path, name, why))
    return problems


def validate_path_segments(meta: objects.ObjectMeta) -> Problems:
    """Names have to fit into a URL path, whatever else a kind allows."""
    problems = [
        errors.invalid("metadata.generateName", meta.generate_name, each)
        for each in names.path_segment_problems(_masked(meta.generate_name))
    ]
    problems.extend(errors.invalid("metadata.name", meta.name, each) for each in names.path_segment_problems(meta.name))
    return problems


def validate_meta_update(new: objects.ObjectMeta, old: objects.ObjectMeta) -> Problems:
    """What an update may not change; labels, annotations and owners are judged here once more, as in Kubernetes."""
    problems: Problems = []
    if old.deletion_timestamp is not None:
        before_deletion = set(old.finalizers)
        added = [each for each in new.finalizers if each not in before_deletion]
        if added:
            why = (
                f"no new finalizers can be added if the object is being deleted, found new finalizers {_go_list(added)}"
            )
            problems.append(errors.forbidden("metadata.finalizers", why))
    for path, now, before in (
        ("metadata.name", new.name, old.name),
        ("metadata.namespace", new.namespace, old.namespace),
    ):
        if now != before:
            problems.append(errors.invalid(path, now, "field is immutable"))
    if new.uid != old.uid:
        problems.append(errors.invalid("metadata.uid", new.uid, "field is immutable", as_json=True))
    for path, moment, earlier in (
        ("metadata.creationTimestamp", new.creation_timestamp, old.creation_timestamp),
        ("metadata.deletionTimestamp", new.deletion_timestamp, old.deletion_timestamp),
        ("metadata.deletionGracePeriodSeconds", new.deletion_grace_period_seconds, old.deletion_grace_period_seconds),
    ):
        if moment != earlier:
            problems.append(errors.invalid(path, moment, "field is immutable", as_json=True))
    problems.extend(_label_problems(new.labels))
    problems.extend(_annotation_problems(new.annotations))
    problems.extend(_owner_problems(new.owner_references))
    problems.extend(_entry_problems(new.managed_fields or ()))
    return problems


def _go_list(values: Sequence[str]) -> str:
    return "[]string{" + ", ".join(map(gotext.quote, sorted(set(values)))) + "}"


def drop_duplicate_owners(meta: objects.ObjectMeta) -> Sequence[str]:
    """Keep the first of equal owner references; returns a warning if there was a second one."""
    kept: dict[tuple[Any, ...], objects.OwnerReference] = {}
    owners = meta.owner_references
    doubled = [each.uid for each in owners if kept.setdefault(structs.astuple(each), each) is not each]
    if not doubled:
        return ()
    meta.owner_references = list(kept.values())
    return (
        ".metadata.ownerReferences contains duplicate entries; API server dedups owner references in 1.20+, and may "
        "reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: "
        + ", ".join(doubled),
    )


#: Conditions of a selector in an object, as many as one in a query may have.
MOST_CONDITIONS: Final = selectors.MOST_CONDITIONS


def count_problems(values: Sized, path: str, most: int = MOST_CONDITIONS) -> Problems:
    """What is wrong with how many there are. Kubernetes has no limit there; each is held against many others."""
    return [errors.too_many(path, len(values), most)] if len(values) > most else []


def selector_requirement_problems(
    of: objects.LabelSelectorRequirement, path: str, *, any_operator: bool = False
) -> Problems:
    """What is wrong with one expression of a label selector. `any_operator`: there may be some unknown here."""
    problems = [
        *operator_problems(of.operator, of.values, path, any_operator=any_operator),
        *(errors.invalid(f"{path}.key", of.key, why) for why in names.qualified_name_problems(of.key)),
    ]
    for at, value in enumerate(of.values):
        problems.extend(errors.invalid(f"{path}.values[{at}]", value, why) for why in names.label_value_problems(value))
    return problems


def operator_problems(operator: str, values: Sequence[str], path: str, *, any_operator: bool = False) -> Problems:
    """What is wrong with the operator of an expression, and with how many values it has."""
    if operator in ("In", "NotIn"):
        why = "must be specified when `operator` is 'In' or 'NotIn'"
        return [] if values else [errors.required(f"{path}.values", why)]
    if operator in ("Exists", "DoesNotExist"):
        why = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"
        return [errors.forbidden(f"{path}.values", why)] if values else []
    why = "not a valid selector operator"
    return [] if any_operator else [errors.invalid(f"{path}.operator", operator, why, as_json=True)]


def signer_name_problems(name: str, path: str) -> Problems:
    """What is wrong with the name of a signer: a domain of at least two labels, one slash, and labels."""
    if not name:
        return [errors.required(path)]
    if name.count("/") != 1:
        why = "must be a fully qualified domain and path of the form 'example.com/signer-name'"
        return [errors.invalid(path, name, why)]
    domain, _, rest = name.partition("/")
    labels = domain.split(".")
    problems: Problems = []
    if names.size(domain) > 253:
        problems.append(errors.too_long(path, 253))
    bad = next((each for each in labels if names.dns1123_label_problems(each)), None)
    if bad is not None:
        problems += [_label_problem(path, domain, bad, why) for why in names.dns1123_label_problems(bad)]
    if len(labels) < 2:
        problems.append(errors.invalid(path, domain, "should be a domain with at least two segments separated by dots"))
    bad = next((each for each in rest.split(".") if names.dns1123_subdomain_problems(each)), None)
    if bad is not None:
        problems += [_label_problem(path, rest, bad, why) for why in names.dns1123_subdomain_problems(bad)]
    if names.size(name) > 571:
        problems.append(errors.too_long(path, 571))
    return problems


def _label_problem(path: str, value: str, label: str, why: str) -> errors.FieldProblem:
    return errors.invalid(path, value, f"validating label {gotext.quote(label)}: {why}")
