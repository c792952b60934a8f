"""Namespace: a room for names. Roles and role bindings live in one; requests do not.

Source: kubernetes, `pkg/registry/core/namespace`, `pkg/apis/core/validation`.
"""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import field

from certplane.meta import context, names, objects, resource
from certplane.meta.objects import always, doc

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

    phase: Annotated[str, doc("Active, or Terminating once it is being deleted.", go="v1.NamespacePhase")] = ""
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


RESOURCE: Final = resource.Resource(
    group="",
    version="v1",
    kind="Namespace",
    plural="namespaces",
    short_names=("ns",),
    type=Namespace,
    namespaced=False,
    owns=(),
    ignored_fields=(),
    prepare_create=_prepare_create,
    prepare_update=_prepare_update,
    prepare_delete=_prepare_delete,
    holds=lambda of: bool(of.spec.finalizers),
    default=_label,
    name_problems=names.dns1123_label_problems,
    selectable={"status.phase": lambda of: of.status.phase},
    selects_namespace=False,
    unknown_selector=lambda label: f"field label not supported: {label}",
    subresources=(
        resource.Subresource("finalize", owns=("spec.finalizers",), ignored_fields=("status",)),
        resource.Subresource("status", owns=("status",), ignored_fields=("spec",), has_table=True),
    ),
    columns=(
        resource.Column("Name", "Name of the namespace.", lambda of, _: of.metadata.name, format="name"),
        resource.Column("Status", "Whether it is in use or being deleted.", lambda of, _: of.status.phase),
        resource.Column("Age", "Time since the namespace was created.", resource.age),
    ),
    verbs=("create", "delete", "get", "list", "patch", "update", "watch"),
)
