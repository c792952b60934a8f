"""The types that all kinds share: ObjectMeta, ListMeta, conditions, owner references.

Each Struct is the Go type of the same name, with its fields in Go's order, which is the order on the wire. The
annotations of a field hold everything that codecs, `kubectl explain`, patches and server-side apply need:

* the Python type: `str`, `bool`, `bytes` (base64 on the wire), `list`, `dict`, another Struct, `None` where Go has a
  pointer;
* `Int32`, `Int64`, `Time`, `MicroTime`, `RawJSON` for types that share a JSON type;
* `doc(...)`: the description, and the list type and patch strategy (`x-kubernetes-*` of the OpenAPI documents).

A field with a plain default is omitted when it has that default (Go's omitempty); a field made with `always` is always
written. `certplane.meta.shapes` reads the annotations.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Final

import msgspec

# --- annotations --------------------------------------------------------------------------------------------------


def doc(  # noqa: PLR0913 - one keyword for each property of a field in a schema
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

    `kubectl explain` shows the `description` to users. `go` is Go's name of a named string type (`v1.KeyUsage`),
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


def always(factory: Callable[[], Any]) -> Any:
    """The default of a field that is written even when it is empty (Go without omitempty)."""
    # msgspec omits fields whose factory is `list`, `dict` or `set`; it does not recognise them behind a lambda.
    return msgspec.field(default_factory=lambda: factory())  # noqa: PLW0108 - see above


#: RFC 3339, UTC, whole seconds: `2026-01-02T15:04:05Z`. Other spellings are normalised when a body is decoded.
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
#: The values that an authenticator gives a user under one key.
ExtraValue = Annotated[list[str], msgspec.Meta(extra={"go": "v1.ExtraValue"})]
#: Any JSON value, kept as encoded bytes.
RawJSON = Annotated[msgspec.Raw, msgspec.Meta(extra={"format": "raw"})]
#: An absent JSON value.
EMPTY_RAW = msgspec.Raw()


_random: Final = random.Random(os.urandom(32))  # noqa: S311 - see new_uid


def new_uid() -> str:
    """A new UUID, version 4. Unique, not secret: the system's generator would cost as much as a small write."""
    text = f"{_random.getrandbits(128):032x}"
    # RFC 9562 section 5.4: the version is a digit, the variant two bits of another.
    return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-{_VARIANT[text[16]]}{text[17:20]}-{text[20:]}"


#: The digit that a hexadecimal digit becomes when its two highest bits are set to 10.
_VARIANT: Final = {f"{digit:x}": f"{digit & 3 | 8:x}" for digit in range(16)}


# gc=False: documents are trees, so the cycle collector need not traverse the many that are kept.
class Type(msgspec.Struct, omit_defaults=True, rename="camel", kw_only=True, gc=False):
    """The base of all wire types. `atomic`: server-side apply owns a value of this type as a whole."""

    atomic: ClassVar[bool] = False


# --- metadata -----------------------------------------------------------------------------------------------------


class OwnerReference(Type):
    """OwnerReference identifies an object that owns this one. When all owners are deleted, the garbage collector may
    delete the object. An owner is in the same namespace, or cluster-scoped.
    """

    atomic: ClassVar[bool] = True

    api_version: Annotated[str, doc("API version of the owner.", required=True)] = always(str)
    kind: Annotated[str, doc("Kind of the owner.", required=True)] = always(str)
    name: Annotated[str, doc("Name of the owner.", required=True)] = always(str)
    uid: Annotated[str, doc("UID of the owner.", go="types.UID", required=True)] = always(str)
    controller: Annotated[bool | None, doc("True for the one owner that manages this object.")] = None
    block_owner_deletion: Annotated[
        bool | None,
        doc("True if a foreground deletion of the owner must wait until this object is deleted."),
    ] = None


class ManagedFieldsEntry(Type):
    """ManagedFieldsEntry is the set of fields that one manager owns."""

    manager: Annotated[str, doc("Name of the field manager: a program or a user.")] = ""
    operation: Annotated[
        str, doc("Operation that created this entry: Apply or Update.", go="v1.ManagedFieldsOperationType")
    ] = ""
    api_version: Annotated[str, doc("API version that the field names belong to.")] = ""
    time: Annotated[Time | None, doc("When the entry was last changed.")] = None
    fields_type: Annotated[str, doc("Format of fieldsV1. There is one: FieldsV1.")] = ""
    fields_v1: Annotated[RawJSON, doc("The set of fields, as a tree of field names.")] = msgspec.field(
        default=EMPTY_RAW, name="fieldsV1"
    )
    subresource: Annotated[str, doc("Subresource that the fields were written through; empty for the object.")] = ""


class ObjectMeta(Type):
    """ObjectMeta is the metadata that every stored object has."""

    name: Annotated[
        str, doc("Name of the object, unique in its namespace among objects of its kind. Cannot be changed.")
    ] = ""
    generate_name: Annotated[
        str, doc("If name is empty, the server generates one from this prefix and five random characters.")
    ] = ""
    namespace: Annotated[str, doc("Namespace of the object. Empty for cluster-scoped kinds.")] = ""
    self_link: Annotated[str, doc("Deprecated and empty; accepted in old documents.")] = ""
    uid: Annotated[
        str,
        doc("Unique identifier of the object, generated by the server and never reused.", go="types.UID"),
    ] = ""
    resource_version: Annotated[
        str,
        doc(
            "Version of the object, an opaque string. An update that sends it fails if the object has changed "
            "meanwhile."
        ),
    ] = ""
    generation: Annotated[Int64, doc("Number of changes of the desired state, for kinds that count them.")] = 0
    creation_timestamp: Annotated[Time | None, doc("When the server created the object.")] = None
    deletion_timestamp: Annotated[
        Time | None, doc("When deletion was requested. Set by the server while finalizers remain.")
    ] = None
    deletion_grace_period_seconds: Annotated[
        Int64 | None, doc("Seconds for a graceful termination before the object is deleted.")
    ] = None
    labels: Annotated[dict[str, str], doc("Keys and values by which objects can be selected.")] = msgspec.field(
        default_factory=dict
    )
    annotations: Annotated[
        dict[str, str], doc("Keys and values that tools store with the object. Objects cannot be selected by them.")
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
            "Tasks that must be done before the object is deleted. It is removed when the list is empty.",
            list_type="set",
            patch_strategy="merge",
        ),
    ] = msgspec.field(default_factory=list)
    managed_fields: Annotated[
        # An empty list differs from None: it resets the ownership of all fields.
        list[ManagedFieldsEntry] | None,
        doc("Field managers and the fields that they own. Maintained by the server.", list_type="atomic"),
    ] = None


class ListMeta(Type):
    """ListMeta is the metadata of a list."""

    self_link: Annotated[str, doc("Deprecated and empty.")] = ""
    resource_version: Annotated[
        str, doc("Version of the store at which the list was read. A watch can start from it.")
    ] = ""
    continue_: Annotated[str, doc("Token of the next page. Empty on the last page.")] = msgspec.field(
        default="", name="continue"
    )
    remaining_item_count: Annotated[Int64 | None, doc("Number of items after this page, if it is known.")] = None


class Object(Type):
    """The base of every kind. The server sets `kind` and `api_version`."""

    kind: Annotated[str, doc("Kind of this document, in CamelCase.")] = ""
    api_version: Annotated[str, doc("API group and version of this document.")] = ""
    metadata: Annotated[ObjectMeta, doc("Metadata of the object.")] = always(ObjectMeta)


class Condition(Type):
    """Condition is one aspect of the state of an object."""

    type: Annotated[str, doc("Type of the condition.", required=True)] = always(str)
    status: Annotated[str, doc("True, False or Unknown.", go="v1.ConditionStatus", required=True)] = always(str)
    observed_generation: Annotated[Int64, doc("Generation of the object that the condition is based on.")] = 0
    last_transition_time: Annotated[Time | None, doc("When the status last changed.", required=True)] = always(
        lambda: None
    )
    reason: Annotated[str, doc("Reason of the status, as a CamelCase word. Must not be empty.", required=True)] = (
        always(str)
    )
    message: Annotated[str, doc("Explanation of the status for users. May be empty.", required=True)] = always(str)


class ObjectReference(Type):
    """ObjectReference identifies an object of any kind, or a part of it."""

    atomic: ClassVar[bool] = True

    kind: Annotated[str, doc("Kind of the object.")] = ""
    namespace: Annotated[str, doc("Namespace of the object.")] = ""
    name: Annotated[str, doc("Name of the object.")] = ""
    uid: Annotated[str, doc("UID of the object.", go="types.UID")] = ""
    api_version: Annotated[str, doc("Group and version of the kind.")] = ""
    resource_version: Annotated[str, doc("Version of the object.")] = ""
    field_path: Annotated[str, doc("Path of a field, if only a part of the object is meant.")] = ""


class LabelSelectorRequirement(Type):
    """LabelSelectorRequirement is one requirement on one label."""

    key: Annotated[str, doc("Key of the label.", required=True)] = always(str)
    operator: Annotated[
        str, doc("In, NotIn, Exists or DoesNotExist.", go="v1.LabelSelectorOperator", required=True)
    ] = always(str)
    values: Annotated[list[str], doc("Values for In and NotIn; empty for the others.", list_type="atomic")] = (
        msgspec.field(default_factory=list)
    )


class LabelSelector(Type):
    """LabelSelector selects objects by their labels; all requirements must hold. An empty one selects everything."""

    atomic: ClassVar[bool] = True

    match_labels: Annotated[dict[str, str], doc("Labels that an object must have with these values.")] = msgspec.field(
        default_factory=dict
    )
    match_expressions: Annotated[list[LabelSelectorRequirement], doc("Further requirements.", list_type="atomic")] = (
        msgspec.field(default_factory=list)
    )


class Preconditions(Type):
    """Preconditions must be met by the stored object, or it is not deleted."""

    uid: Annotated[str | None, doc("UID that the object must have.", go="types.UID")] = None
    resource_version: Annotated[str | None, doc("Version that the object must have.")] = None


class DeleteOptions(Type):
    """DeleteOptions is the optional body of a DELETE."""

    kind: Annotated[str, doc("DeleteOptions.")] = ""
    api_version: Annotated[str, doc("v1, or the group and version of the resource.")] = ""
    grace_period_seconds: Annotated[Int64 | None, doc("Seconds for a graceful termination of the object.")] = None
    preconditions: Annotated[Preconditions | None, doc("Conditions that the object must meet to be deleted.")] = None
    orphan_dependents: Annotated[bool | None, doc("Deprecated: use propagationPolicy.")] = None
    propagation_policy: Annotated[
        str | None,
        doc("Orphan, Background or Foreground: how dependents are deleted.", go="v1.DeletionPropagation"),
    ] = None
    dry_run: Annotated[list[str], doc("All: process the request without storing the result.", list_type="atomic")] = (
        msgspec.field(default_factory=list)
    )
    ignore_store_read_error_with_cluster_breaking_potential: Annotated[bool | None, doc("Not used by this server.")] = (
        None
    )
