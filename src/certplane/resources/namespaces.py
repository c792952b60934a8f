"""Namespace: a room for names. Roles and role bindings live in one; requests do not.

Source: kubernetes, `pkg/registry/core/namespace`, `pkg/apis/core/validation`.
"""

from __future__ import annotations

import datetime
from typing import Annotated, Final

from msgspec import field

from certplane import errors
from certplane.meta import context, names, objects, resource, validation
from certplane.meta.objects import always, doc

Problems = list[errors.FieldProblem]

NAME_LABEL: Final = "kubernetes.io/metadata.name"
ACTIVE: Final = "Active"
TERMINATING: Final = "Terminating"


class NamespaceCondition(objects.Type):
    """NamespaceCondition is one fact about a namespace, such as why it is not gone yet."""

    type: Annotated[str, doc("What the condition is about.", go="v1.NamespaceConditionType", required=True)] = always(
        str
    )
    status: Annotated[str, doc("True, False or Unknown.", go="v1.ConditionStatus", required=True)] = always(str)
    last_transition_time: Annotated[objects.Time | None, doc("When its status last changed.")] = None
    reason: Annotated[str, doc("A word for programs: why this is so.")] = ""
    message: Annotated[str, doc("A sentence for people: why this is so.")] = ""


class NamespaceSpec(objects.Type):
    """NamespaceSpec is what keeps a namespace alive."""

    finalizers: Annotated[
        list[Annotated[str, doc("", go="v1.FinalizerName")]],
        doc("What must be done before the namespace may go. The server begins with kubernetes.", list_type="atomic"),
    ] = field(default_factory=list)


class NamespaceStatus(objects.Type):
    """NamespaceStatus says where a namespace is in its life."""

    phase: Annotated[
        str,
        doc("Active, or Terminating once it is being deleted.", go="v1.NamespacePhase", enum=("Active", "Terminating")),
    ] = ""
    conditions: Annotated[
        list[NamespaceCondition],
        doc(
            "What is known about the namespace.",
            list_type="map",
            keys=("type",),
            patch_strategy="merge",
            patch_merge_key="type",
        ),
    ] = field(default_factory=list)


class Namespace(objects.Object):
    """Namespace is a room for names: objects of namespaced kinds are in exactly one."""

    spec: Annotated[NamespaceSpec, doc("What keeps the namespace alive.")] = always(NamespaceSpec)
    status: Annotated[NamespaceStatus, doc("Where the namespace is in its life.")] = always(NamespaceStatus)


def _label(new: Namespace) -> None:
    """Every namespace can be selected by its name."""
    if new.metadata.name and new.metadata.labels.get(NAME_LABEL) != new.metadata.name:
        new.metadata.labels = dict(sorted({**new.metadata.labels, NAME_LABEL: new.metadata.name}.items()))


def _default(new: Namespace) -> None:
    _label(new)
    new.status.phase = new.status.phase or ACTIVE


def _prepare_create(new: Namespace, call: context.Call) -> None:
    del call
    new.status = NamespaceStatus(phase=ACTIVE)
    if "kubernetes" not in new.spec.finalizers:
        new.spec.finalizers = [*new.spec.finalizers, "kubernetes"]
    _label(new)


def _prepare_update(new: Namespace, old: Namespace, call: context.Call) -> None:
    del old, call
    _label(new)


def _prepare_delete(new: Namespace) -> None:
    new.status.phase = TERMINATING


def _holds(it: Namespace) -> bool:
    """The first DELETE only marks a namespace, even one that nothing keeps any more."""
    return it.metadata.deletion_timestamp is None or bool(it.spec.finalizers)


# --- validation ---------------------------------------------------------------------------------------------------

_FINALIZERS: Final = "spec.finalizers"


def _validate(new: Namespace) -> Problems:
    if too_many := validation.count_problems(new.spec.finalizers, _FINALIZERS, validation.MOST_ITEMS):
        return too_many
    return [each for name in new.spec.finalizers for each in validation.finalizer_problems(name, _FINALIZERS)]


def _validate_finalize(new: Namespace, old: Namespace, now: datetime.datetime) -> Problems:
    del old, now
    if too_many := validation.count_problems(new.spec.finalizers, _FINALIZERS, validation.MOST_ITEMS):
        return too_many
    return [
        each
        for at, name in enumerate(new.spec.finalizers)
        for each in validation.finalizer_problems(name, f"{_FINALIZERS}[{at}]")
    ]


def _validate_status(new: Namespace, old: Namespace, now: datetime.datetime) -> Problems:
    del old, now
    deleted = new.metadata.deletion_timestamp is not None
    phase, wanted = new.status.phase, TERMINATING if deleted else ACTIVE
    if phase == wanted:
        return []
    why = f"may only be '{wanted}' if `deletionTimestamp` is {'not empty' if deleted else 'empty'}"
    # Named on the wire as the field of a Go struct.
    return [errors.invalid("status.Phase", phase, why, as_json=True)]


RESOURCE: Final = resource.Resource(
    group="",
    version="v1",
    kind="Namespace",
    plural="namespaces",
    short_names=("ns",),
    type=Namespace,
    namespaced=False,
    owns=(),
    ignored_fields=("status",),
    prepare_create=_prepare_create,
    prepare_update=_prepare_update,
    prepare_delete=_prepare_delete,
    holds=_holds,
    default=_default,
    name_problems=names.dns1123_label_problems,
    validate=_validate,
    validate_update=lambda new, _: _validate(new),
    selectable={"status.phase": lambda of: of.status.phase},
    selects_namespace=False,
    unknown_selector=lambda label: f"field label not supported: {label}",
    subresources=(
        resource.Subresource(
            "finalize",
            owns=("spec.finalizers",),
            validate=_validate_finalize,
            rechecks=resource.Recheck.CHANGE,
            ignored_fields=("status",),
            verbs=("update",),
        ),
        resource.Subresource(
            "status",
            owns=("status",),
            validate=_validate_status,
            rechecks=resource.Recheck.CHANGE,
            ignored_fields=("spec",),
            has_table=True,
        ),
    ),
    columns=(
        resource.Column("Name", "Name of the namespace.", lambda of, _: of.metadata.name, format="name"),
        resource.Column("Status", "Whether it is in use or being deleted.", lambda of, _: of.status.phase),
        resource.Column("Age", "Time since the namespace was created.", resource.age),
    ),
    verbs=("create", "delete", "get", "list", "patch", "update", "watch"),
)
