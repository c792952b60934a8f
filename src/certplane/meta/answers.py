"""The types of documents that are answers, not stored objects: Status, the discovery documents, watch events.

The server builds most of these as plain builtins. Here they are as types, for what needs one: their protobuf form and
their schema in the OpenAPI documents.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from certplane.meta import objects
from certplane.meta.objects import Int32, RawJSON, Type, always, doc


class ShardInfo(Type):
    """ShardInfo says which part of a collection a list shows."""

    selector: Annotated[str, doc("The part.", required=True)] = always(str)


class ListMeta(objects.ListMeta):
    """ListMeta says which state of the store a list shows and how to ask for the rest."""

    # Our lists always show all; the field is there because it belongs to the type that clients know.
    shard_info: Annotated[ShardInfo | None, doc("Never set by this server.")] = None


class StatusCause(Type):
    """StatusCause is one of the things that were wrong with a request."""

    reason: Annotated[str, doc("What kind of problem it is, in one word for programs.", go="v1.CauseType")] = ""
    message: Annotated[str, doc("What is wrong, for people.")] = ""
    field: Annotated[str, doc("Field of the sent object that the cause is about, as a path: spec.usages[0].")] = ""


class StatusDetails(Type):
    """StatusDetails says which object a Status is about, and what else is known of a failure."""

    name: Annotated[str, doc("Name of the object.")] = ""
    group: Annotated[str, doc("API group of the object.")] = ""
    kind: Annotated[str, doc("Resource, or kind, of the object.")] = ""
    uid: Annotated[str, doc("UID of the object.", go="types.UID")] = ""
    causes: Annotated[list[StatusCause], doc("One entry for each problem.", list_type="atomic")] = msgspec.field(
        default_factory=list
    )
    retry_after_seconds: Annotated[Int32, doc("Seconds to wait before the request makes sense again.")] = 0


class Status(Type):
    """Status is the answer to a request that has no object to answer with: a failure, or a deletion."""

    kind: Annotated[str, doc("Kind of this document, in CamelCase.")] = ""
    api_version: Annotated[str, doc("Group and version of the schema that this document follows.")] = ""
    metadata: Annotated[ListMeta, doc("Empty.")] = always(ListMeta)
    status: Annotated[str, doc("Success or Failure.")] = ""
    message: Annotated[str, doc("What happened, for people.")] = ""
    reason: Annotated[str, doc("Why it failed, in one word for programs.", go="v1.StatusReason")] = ""
    details: Annotated[StatusDetails | None, doc("More about the failure, or about the deleted object.")] = None
    code: Annotated[Int32, doc("HTTP status code.")] = 0


class WatchEvent(Type):
    """WatchEvent is one event of a watch."""

    type: Annotated[str, doc("ADDED, MODIFIED, DELETED, BOOKMARK or ERROR.", required=True)] = always(str)
    object: Annotated[
        RawJSON,
        doc("The object after the change; before it, if it was deleted; a Status, if the watch failed.", required=True),
    ] = objects.NOTHING


class PartialObjectMetadata(objects.Object):
    """PartialObjectMetadata is any object, reduced to its metadata."""


class PartialObjectMetadataList(Type):
    """PartialObjectMetadataList is a list of objects that are reduced to their metadata."""

    kind: Annotated[str, doc("Kind of this document, in CamelCase.")] = ""
    api_version: Annotated[str, doc("Group and version of the schema that this document follows.")] = ""
    metadata: Annotated[ListMeta, doc("What every list has.")] = always(ListMeta)
    items: Annotated[list[PartialObjectMetadata], doc("The objects.", required=True)] = always(list)


# --- discovery ----------------------------------------------------------------------------------------------------


class APIResource(Type):
    """APIResource is one resource, or subresource, that the server has."""

    name: Annotated[str, doc("Plural name of the resource, as in paths.", required=True)] = always(str)
    singular_name: Annotated[
        str, doc("Name for one object, as in command lines; empty for subresources.", required=True)
    ] = always(str)
    namespaced: Annotated[bool, doc("Whether objects live in a namespace.", required=True)] = always(bool)
    group: Annotated[str, doc("Group of the kind, if it is not the group of this list.")] = ""
    version: Annotated[str, doc("Version of the kind, if it is not the version of this list.")] = ""
    kind: Annotated[str, doc("Kind of the objects.", required=True)] = always(str)
    verbs: Annotated[list[str], doc("What can be done with the resource.", go="v1.Verbs", required=True)] = always(list)
    short_names: Annotated[list[str], doc("Shorter names for command lines.", list_type="atomic")] = msgspec.field(
        default_factory=list
    )
    categories: Annotated[
        list[str], doc("Names that stand for several resources, such as all.", list_type="atomic")
    ] = msgspec.field(default_factory=list)
    storage_version_hash: Annotated[str, doc("Changes when objects come to be stored in another version.")] = ""


class APIResourceList(Type):
    """APIResourceList says which resources one version of a group has."""

    kind: Annotated[str, doc("Kind of this document, in CamelCase.")] = ""
    api_version: Annotated[str, doc("Group and version of the schema that this document follows.")] = ""
    group_version: Annotated[str, doc("Group and version that has these resources.", required=True)] = always(str)
    resources: Annotated[list[APIResource], doc("The resources.", list_type="atomic", required=True)] = always(list)


class GroupVersionForDiscovery(Type):
    """GroupVersionForDiscovery names a version of a group in both forms."""

    group_version: Annotated[str, doc("Group and version, with a slash.", required=True)] = always(str)
    version: Annotated[str, doc("The version alone.", required=True)] = always(str)


class ServerAddressByClientCIDR(Type):
    """ServerAddressByClientCIDR says under which address clients of a network reach the server."""

    client_cidr: Annotated[str, doc("Network of the client.", required=True)] = msgspec.field(
        default_factory=str, name="clientCIDR"
    )
    server_address: Annotated[str, doc("Host, or host and port, for these clients.", required=True)] = always(str)


class APIGroup(Type):
    """APIGroup is a group and the versions in which it is served."""

    kind: Annotated[str, doc("Kind of this document, in CamelCase.")] = ""
    api_version: Annotated[str, doc("Group and version of the schema that this document follows.")] = ""
    name: Annotated[str, doc("Name of the group.", required=True)] = always(str)
    versions: Annotated[
        list[GroupVersionForDiscovery], doc("The versions, the preferred one first.", list_type="atomic", required=True)
    ] = always(list)
    preferred_version: Annotated[
        GroupVersionForDiscovery, doc("The version that clients should use if they know several.")
    ] = msgspec.field(default_factory=GroupVersionForDiscovery)
    server_address_by_client_cidrs: Annotated[
        list[ServerAddressByClientCIDR], doc("Where clients reach the group.", list_type="atomic")
    ] = msgspec.field(default_factory=list, name="serverAddressByClientCIDRs")


class APIGroupList(Type):
    """APIGroupList is all groups that the server has, besides the core group."""

    kind: Annotated[str, doc("Kind of this document, in CamelCase.")] = ""
    api_version: Annotated[str, doc("Group and version of the schema that this document follows.")] = ""
    groups: Annotated[list[APIGroup], doc("The groups.", list_type="atomic", required=True)] = always(list)


def _no_addresses() -> list[ServerAddressByClientCIDR]:
    return []  # a function of its own, so that msgspec writes the field even when it is empty


class APIVersions(Type):
    """APIVersions is the versions of the core group."""

    kind: Annotated[str, doc("Kind of this document, in CamelCase.")] = ""
    api_version: Annotated[str, doc("Group and version of the schema that this document follows.")] = ""
    versions: Annotated[list[str], doc("The versions.", list_type="atomic", required=True)] = always(list)
    server_address_by_client_cidrs: Annotated[
        list[ServerAddressByClientCIDR], doc("Where clients reach them.", list_type="atomic", required=True)
    ] = msgspec.field(default_factory=_no_addresses, name="serverAddressByClientCIDRs")


class GroupVersionKind(Type):
    """GroupVersionKind names a type; an empty group and version are those of where it stands."""

    group: str = always(str)
    version: str = always(str)
    kind: str = always(str)


class APISubresourceDiscovery(Type):
    """APISubresourceDiscovery is a subresource in aggregated discovery."""

    subresource: str = always(str)
    response_kind: GroupVersionKind | None = None
    accepted_types: list[GroupVersionKind] = msgspec.field(default_factory=list)
    verbs: list[str] = always(list)


class APIResourceDiscovery(Type):
    """APIResourceDiscovery is a resource, with what is below it, in aggregated discovery."""

    resource: str = always(str)
    response_kind: GroupVersionKind | None = None
    scope: str = always(str)
    singular_resource: str = always(str)
    verbs: list[str] = always(list)
    short_names: list[str] = msgspec.field(default_factory=list)
    categories: list[str] = msgspec.field(default_factory=list)
    subresources: list[APISubresourceDiscovery] = msgspec.field(default_factory=list)


class APIVersionDiscovery(Type):
    """APIVersionDiscovery is one version of a group in aggregated discovery."""

    version: str = always(str)
    resources: list[APIResourceDiscovery] = msgspec.field(default_factory=list)
    freshness: str = ""


class APIGroupDiscovery(Type):
    """APIGroupDiscovery is one group in aggregated discovery."""

    metadata: objects.ObjectMeta = always(objects.ObjectMeta)
    versions: list[APIVersionDiscovery] = msgspec.field(default_factory=list)


class APIGroupDiscoveryList(Type):
    """APIGroupDiscoveryList is everything that the server has, in one document."""

    kind: str = ""
    api_version: str = ""
    metadata: ListMeta = always(ListMeta)
    items: list[APIGroupDiscovery] = always(list)


#: The types above that are documents of their own, by kind.
BY_KIND: Final[dict[str, type[Type]]] = {
    each.__name__: each
    for each in (
        Status, PartialObjectMetadata, PartialObjectMetadataList, APIResourceList, APIGroup, APIGroupList, APIVersions,
        APIGroupDiscoveryList,
    )
}  # fmt: skip
