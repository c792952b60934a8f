"""Namespace: a scope for names. CertificateSigningRequests are cluster-scoped and need none.

Source: kubernetes, `pkg/registry/core/namespace`, `pkg/apis/core/validation`.
"""

from __future__ import annotations

import datetime
from typing import Annotated, Final

from msgspec import field

from certplane import errors
from certplane.errors import Problems
from certplane.meta import names, objects, resource, validation
from certplane.meta.context import VerbContext
from certplane.meta.objects import always, doc

NAME_LABEL: Final = "kubernetes.io/metadata.name"
ACTIVE: Final = "Active"
TERMINATING: Final = "Terminating"


class NamespaceCondition(objects.Type):
    """NamespaceCondition is a condition of a namespace, such as the reason why it is not deleted yet."""

    type: Annotated[str, doc("Type of the condition.", go="v1.NamespaceConditionType", required=True)] = always(str)
    status: Annotated[
        str, doc("Status of the condition: True, False or Unknown.", go="v1.ConditionStatus", required=True)
    ] = always(str)
    last_transition_time: Annotated[objects.Time | None, doc("Time when the status last changed.")] = None
    reason: Annotated[str, doc("Reason for the condition, as a code for programs.")] = ""
    message: Annotated[str, doc("Human-readable details about the condition.")] = ""


class NamespaceSpec(objects.Type):
    """NamespaceSpec is the list of finalizers of a namespace."""

    finalizers: Annotated[
        list[Annotated[str, doc("", go="v1.FinalizerName")]],
        doc(
            "Finalizers that must be removed before the namespace is deleted. The server adds kubernetes.",
            list_type="atomic",
        ),
    ] = field(default_factory=list)


class NamespaceStatus(objects.Type):
    """NamespaceStatus is the state of a namespace."""

    phase: Annotated[
        str,
        doc(
            "Active, or Terminating while it is being deleted.", go="v1.NamespacePhase", enum=("Active", "Terminating")
        ),
    ] = ""
    conditions: Annotated[
        list[NamespaceCondition],
        doc(
            "Conditions of the namespace.",
            list_type="map",
            keys=("type",),
            patch_strategy="merge",
            patch_merge_key="type",
        ),
    ] = field(default_factory=list)


class Namespace(objects.Object):
    """Namespace is a scope for names. Every object of a namespaced kind is in exactly one."""

    spec: Annotated[NamespaceSpec, doc("The finalizers of the namespace.")] = always(NamespaceSpec)
    status: Annotated[NamespaceStatus, doc("The state of the namespace.")] = always(NamespaceStatus)


def _set_name_label(namespace: Namespace) -> None:
    """Set the label kubernetes.io/metadata.name, by which a namespace is selected."""
    metadata = namespace.metadata
    if metadata.name and metadata.labels.get(NAME_LABEL) != metadata.name:
        metadata.labels = dict(sorted({**metadata.labels, NAME_LABEL: metadata.name}.items()))


def _default(new: Namespace) -> None:
    _set_name_label(new)
    new.status.phase = new.status.phase or ACTIVE


def _prepare_create(new: Namespace, call: VerbContext) -> None:
    del call
    new.status = NamespaceStatus(phase=ACTIVE)
    if "kubernetes" not in new.spec.finalizers:
        new.spec.finalizers = [*new.spec.finalizers, "kubernetes"]
    _set_name_label(new)


def _prepare_update(new: Namespace, old: Namespace, call: VerbContext) -> None:
    del old, call
    _set_name_label(new)


def _prepare_delete(new: Namespace) -> None:
    new.status.phase = TERMINATING


def _blocks_deletion(namespace: Namespace) -> bool:
    """The first DELETE only marks a namespace, even one without finalizers."""
    return namespace.metadata.deletion_timestamp is None or bool(namespace.spec.finalizers)


# --- validation ---------------------------------------------------------------------------------------------------

_FINALIZERS: Final = "spec.finalizers"


def _validate(namespace: Namespace) -> Problems:
    if too_many := validation.count_problems(namespace.spec.finalizers, _FINALIZERS, validation.MAX_ITEMS):
        return too_many
    return [
        problem for name in namespace.spec.finalizers for problem in validation.finalizer_problems(name, _FINALIZERS)
    ]


def _validate_finalize(new: Namespace, old: Namespace, now: datetime.datetime) -> Problems:
    del old, now
    if too_many := validation.count_problems(new.spec.finalizers, _FINALIZERS, validation.MAX_ITEMS):
        return too_many
    return [
        problem
        for index, name in enumerate(new.spec.finalizers)
        for problem in validation.finalizer_problems(name, f"{_FINALIZERS}[{index}]")
    ]


def _validate_status(new: Namespace, old: Namespace, now: datetime.datetime) -> Problems:
    del old, now
    is_deleted = new.metadata.deletion_timestamp is not None
    phase, required = new.status.phase, TERMINATING if is_deleted else ACTIVE
    if phase == required:
        return []
    detail = f"may only be '{required}' if `deletionTimestamp` is {'not empty' if is_deleted else 'empty'}"
    # Kubernetes reports the name of the Go field.
    return [errors.invalid("status.Phase", phase, detail, as_json=True)]


RESOURCE: Final[resource.Resource[Namespace]] = resource.Resource(
    group="",
    version="v1",
    kind="Namespace",
    plural="namespaces",
    short_names=("ns",),
    type=Namespace,
    namespaced=False,
    owns=(),
    reset_fields=("status",),
    prepare_create=_prepare_create,
    prepare_update=_prepare_update,
    prepare_delete=_prepare_delete,
    blocks_deletion=_blocks_deletion,
    default=_default,
    name_problems=names.dns1123_label_problems,
    validate=_validate,
    validate_update=lambda new, _: _validate(new),
    selectable={"status.phase": lambda obj: obj.status.phase},
    selects_namespace=False,
    unknown_selector=lambda label: f"field label not supported: {label}",
    subresources=(
        resource.Subresource(
            "finalize",
            owns=("spec.finalizers",),
            validate=_validate_finalize,
            metadata_validation=resource.MetadataValidation.CHANGE,
            reset_fields=("status",),
            verbs=("update",),
        ),
        resource.Subresource(
            "status",
            owns=("status",),
            validate=_validate_status,
            metadata_validation=resource.MetadataValidation.CHANGE,
            reset_fields=("spec",),
            has_table=True,
        ),
    ),
    columns=(
        resource.Column("Name", "Name of the namespace.", lambda obj, _: obj.metadata.name, format="name"),
        resource.Column("Status", "Active or Terminating.", lambda obj, _: obj.status.phase),
        resource.Column("Age", "Time since the namespace was created.", resource.age),
    ),
    verbs=("create", "delete", "get", "list", "patch", "update", "watch"),
)
