"""The types that every kind shares: ObjectMeta, ListMeta, conditions, owner references.

One Struct is one Go type, of the same name; its fields stand in Go's order, which is the order on the wire. The
annotations say everything else about a field that the wire, `kubectl explain`, patches and server-side apply need:

* the Python type: `str`, `bool`, `bytes` (base64 on the wire), `list`, `dict`, another Struct, `None` where Go has a
  pointer;
* `Int32`, `Int64`, `Time`, `MicroTime`, `RawJSON` for the types that JSON does not tell apart;
* `doc(...)`: the description, and the list type and patch strategy (`x-kubernetes-*` of the OpenAPI documents).

A field with a plain default is left out when it has that default (Go's omitempty); a field made with `always` is
written whatever it holds. `certplane.meta.shape` reads all this back.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Final

import msgspec

# --- annotations --------------------------------------------------------------------------------------------------


def doc(  # noqa: PLR0913 - one keyword for each thing that a schema says of a field
    description: str,
    *,
    go: str = "",
    list_type: str = "",
    keys: tuple[str, ...] = (),
    patch_strategy: str = "",
    patch_merge_key: str = "",
    required: bool = False,
    enum: tuple[str, ...] = (),
) -> msgspec.Meta:
    """Describe a field.

    `description` is shown to users by `kubectl explain`. `go` is Go's name of a named string type (`v1.KeyUsage`),
    printed in decoding errors. `list_type` is atomic, set or map (with `keys`). `patch_strategy` and `patch_merge_key`
    govern strategic merge patches. `required` marks the field as required in the schema.
    """
    extra = {
        "go": go,
        "list_type": list_type,
        "keys": keys,
        "patch_strategy": patch_strategy,
        "patch_merge_key": patch_merge_key,
        "required": required,
        "enum": enum,
    }
    return msgspec.Meta(description=description, extra={name: value for name, value in extra.items() if value})


def always(make: Callable[[], Any]) -> Any:
    """The default of a field that is written even when it is empty (Go without omitempty)."""
    # msgspec leaves out the results of `list`, `dict` and `set` only; behind a lambda no factory is recognised.
    return msgspec.field(default_factory=lambda: make())  # noqa: PLW0108 - see above


#: RFC 3339, UTC, whole seconds: `2026-01-02T15:04:05Z`. Other spellings are normalised when a
#: body is read.
Time = Annotated[
    str,
    msgspec.Meta(extra={"format": "date-time", "go": "v1.Time"}),
]
#: RFC 3339, UTC, six digits of a second.
MicroTime = Annotated[
    str,
    msgspec.Meta(extra={"format": "micro-time", "go": "v1.MicroTime"}),
]
#: A number with a unit, `500m` or `1Gi`, in its canonical spelling.
Quantity = Annotated[
    str,
    msgspec.Meta(extra={"format": "quantity", "go": "resource.Quantity"}),
]
Int32 = Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31 - 1, extra={"format": "int32"})]
Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1, extra={"format": "int64"})]
#: What an authenticator has to tell of a user under one key.
ExtraValue = Annotated[list[str], msgspec.Meta(extra={"go": "v1.ExtraValue"})]
#: Any JSON value, kept as it was written.
RawJSON = Annotated[msgspec.Raw, msgspec.Meta(extra={"format": "raw"})]
#: No JSON value at all.
NOTHING = msgspec.Raw()


_random: Final = random.Random(os.urandom(32))  # noqa: S311 - see new_uid


def new_uid() -> str:
    """A new UUID, version 4. Unique, not secret: asking the system for each would cost as much as a small write."""
    text = f"{_random.getrandbits(128):032x}"
    # RFC 9562 section 5.4: the version is a digit, the variant two bits of another.
    return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-{_VARIANT[text[16]]}{text[17:20]}-{text[20:]}"


#: The digit that a hexadecimal digit becomes when its two highest bits are set to 10.
_VARIANT: Final = {f"{digit:x}": f"{digit & 3 | 8:x}" for digit in range(16)}


# gc=False: documents are trees, so the collector of cycles need not look at the many that are kept.
class Type(msgspec.Struct, omit_defaults=True, rename="camel", kw_only=True, gc=False):
    """The base of all wire types. `atomic`: server-side apply owns a value of this type as a whole, or not at all."""

    atomic: ClassVar[bool] = False


# --- metadata -----------------------------------------------------------------------------------------------------


class OwnerReference(Type):
    """OwnerReference names an object that owns this one. When all owners are gone, the garbage collector may delete
    the object. An owner lives in the same namespace, or is cluster-scoped.
    """

    atomic: ClassVar[bool] = True

    api_version: Annotated[str, doc("API version of the owner.", required=True)] = always(str)
    kind: Annotated[str, doc("Kind of the owner.", required=True)] = always(str)
    name: Annotated[str, doc("Name of the owner.", required=True)] = always(str)
    uid: Annotated[str, doc("UID of the owner.", go="types.UID", required=True)] = always(str)
    controller: Annotated[bool | None, doc("True for the one owner that manages this object.")] = None
    block_owner_deletion: Annotated[
        bool | None,
        doc("True if the owner, when it is deleted in the foreground, has to wait until this object is gone."),
    ] = None


class ManagedFieldsEntry(Type):
    """ManagedFieldsEntry says which fields one manager owns, and by which kind of request."""

    manager: Annotated[str, doc("Name of the program or person that manages these fields.")] = ""
    operation: Annotated[
        str, doc("Kind of request that made this entry: Apply or Update.", go="v1.ManagedFieldsOperationType")
    ] = ""
    api_version: Annotated[str, doc("Version of the type that the field names refer to.")] = ""
    time: Annotated[Time | None, doc("When the entry was last changed.")] = None
    fields_type: Annotated[str, doc("Format of fieldsV1. There is one: FieldsV1.")] = ""
    fields_v1: Annotated[RawJSON, doc("The set of fields, as a tree of field names.")] = msgspec.field(
        default=NOTHING, name="fieldsV1"
    )
    subresource: Annotated[str, doc("Subresource through which the fields were written; empty for the object.")] = ""


class ObjectMeta(Type):
    """ObjectMeta is what every stored object has: its name, its identity, its history and its labels."""

    name: Annotated[
        str, doc("Name of the object, unique in its namespace among objects of its kind. Cannot be changed.")
    ] = ""
    generate_name: Annotated[
        str, doc("If name is empty, the server makes one from this prefix and five random characters.")
    ] = ""
    namespace: Annotated[str, doc("Namespace of the object. Empty for cluster-scoped kinds.")] = ""
    self_link: Annotated[str, doc("No longer filled in; kept so that old documents can be read.")] = ""
    uid: Annotated[
        str,
        doc("Identity of the object in time and space, given by the server; never used a second time.", go="types.UID"),
    ] = ""
    resource_version: Annotated[
        str,
        doc("Version of the object, to be compared for equality only. Sent back on update, it guards against loss."),
    ] = ""
    generation: Annotated[Int64, doc("Counts the changes of the desired state, for the kinds that keep count.")] = 0
    creation_timestamp: Annotated[Time | None, doc("When the server created the object.")] = None
    deletion_timestamp: Annotated[
        Time | None, doc("Set by the server when deletion was asked for but finalizers are left.")
    ] = None
    deletion_grace_period_seconds: Annotated[
        Int64 | None, doc("Seconds that the object had to end by itself when it was deleted.")
    ] = None
    labels: Annotated[dict[str, str], doc("Short keys and values by which objects are selected.")] = msgspec.field(
        default_factory=dict
    )
    annotations: Annotated[
        dict[str, str], doc("Keys and values that tools store with the object; not for selecting.")
    ] = msgspec.field(default_factory=dict)
    owner_references: Annotated[
        list[OwnerReference],
        doc(
            "The objects that own this one.",
            list_type="map",
            keys=("uid",),
            patch_strategy="merge",
            patch_merge_key="uid",
        ),
    ] = msgspec.field(default_factory=list)
    finalizers: Annotated[
        list[str],
        doc(
            "Names of what must still be done before the object may go; it is removed when the list is empty.",
            list_type="set",
            patch_strategy="merge",
        ),
    ] = msgspec.field(default_factory=list)
    managed_fields: Annotated[
        # An empty list is a wish of its own: that nobody owns anything.
        list[ManagedFieldsEntry] | None,
        doc("Which manager owns which fields. Kept by the server for server-side apply.", list_type="atomic"),
    ] = None


class ListMeta(Type):
    """ListMeta says which state of the store a list shows and how to ask for the rest."""

    self_link: Annotated[str, doc("No longer filled in.")] = ""
    resource_version: Annotated[str, doc("Version of the store that the list shows; a watch can start from it.")] = ""
    continue_: Annotated[str, doc("Present when there is more: pass it back to get the next page.")] = msgspec.field(
        default="", name="continue"
    )
    remaining_item_count: Annotated[Int64 | None, doc("How many items follow, if the server knows.")] = None


class Object(Type):
    """The base of every kind. `kind` and `api_version` are filled in by the server."""

    kind: Annotated[str, doc("Kind of this document, in CamelCase.")] = ""
    api_version: Annotated[str, doc("Group and version of the schema that this document follows.")] = ""
    metadata: Annotated[ObjectMeta, doc("What every object has.")] = always(ObjectMeta)


class Condition(Type):
    """Condition is one fact about an object."""

    type: Annotated[str, doc("What the condition is about.", required=True)] = always(str)
    status: Annotated[str, doc("True, False or Unknown.", go="v1.ConditionStatus", required=True)] = always(str)
    observed_generation: Annotated[
        Int64, doc("Generation of the object that the condition was found in, if that is counted.")
    ] = 0
    last_transition_time: Annotated[Time | None, doc("When its status last changed.", required=True)] = always(
        lambda: None
    )
    reason: Annotated[str, doc("A word for programs: why this is so. Must not be empty.", required=True)] = always(str)
    message: Annotated[str, doc("A sentence for people: why this is so. May be empty.", required=True)] = always(str)


class ObjectReference(Type):
    """ObjectReference names an object, or a part of it, of any kind."""

    atomic: ClassVar[bool] = True

    kind: Annotated[str, doc("Kind of the object.")] = ""
    namespace: Annotated[str, doc("Namespace of the object.")] = ""
    name: Annotated[str, doc("Name of the object.")] = ""
    uid: Annotated[str, doc("UID of the object.", go="types.UID")] = ""
    api_version: Annotated[str, doc("Group and version of the kind.")] = ""
    resource_version: Annotated[str, doc("Version of the object that is meant.")] = ""
    field_path: Annotated[str, doc("Part of the object that is meant, as a path.")] = ""


class LabelSelectorRequirement(Type):
    """LabelSelectorRequirement is one condition on one label."""

    key: Annotated[str, doc("Label that the condition is about.", required=True)] = always(str)
    operator: Annotated[
        str, doc("In, NotIn, Exists or DoesNotExist.", go="v1.LabelSelectorOperator", required=True)
    ] = always(str)
    values: Annotated[list[str], doc("Values for In and NotIn; empty for the others.", list_type="atomic")] = (
        msgspec.field(default_factory=list)
    )


class LabelSelector(Type):
    """LabelSelector selects objects by their labels; all conditions must hold. An empty one selects everything."""

    atomic: ClassVar[bool] = True

    match_labels: Annotated[dict[str, str], doc("Labels that must be there with just these values.")] = msgspec.field(
        default_factory=dict
    )
    match_expressions: Annotated[list[LabelSelectorRequirement], doc("Further conditions.", list_type="atomic")] = (
        msgspec.field(default_factory=list)
    )


class Preconditions(Type):
    """Preconditions must hold of the stored object before it is deleted."""

    uid: Annotated[str | None, doc("UID that the object must have.", go="types.UID")] = None
    resource_version: Annotated[str | None, doc("Version that the object must have.")] = None


class DeleteOptions(Type):
    """DeleteOptions may be sent as the body of a DELETE."""

    kind: Annotated[str, doc("DeleteOptions.")] = ""
    api_version: Annotated[str, doc("v1, or the group and version of the resource.")] = ""
    grace_period_seconds: Annotated[Int64 | None, doc("Seconds the object is given to end by itself.")] = None
    preconditions: Annotated[Preconditions | None, doc("What must hold before the object is deleted.")] = None
    orphan_dependents: Annotated[bool | None, doc("Superseded by propagationPolicy.")] = None
    propagation_policy: Annotated[
        str | None,
        doc("Orphan, Background or Foreground: what becomes of dependents.", go="v1.DeletionPropagation"),
    ] = None
    dry_run: Annotated[list[str], doc("All: go through every step but the last.", list_type="atomic")] = msgspec.field(
        default_factory=list
    )
    ignore_store_read_error_with_cluster_breaking_potential: Annotated[bool | None, doc("Not used by this server.")] = (
        None
    )
