"""The types of responses that are not stored objects: Status, the discovery documents, watch events.

The server builds most of these as JSON builtins. Their protobuf encoding and their OpenAPI schemas need types.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from certplane.meta import objects
from certplane.meta.objects import Int32, RawJSON, Type, always, doc


class ShardInfo(Type):
    """ShardInfo identifies the part of a collection that a list contains."""

    selector: Annotated[str, doc("Selector of the shard.", required=True)] = always(str)


class ListMeta(objects.ListMeta):
    """ListMeta is the metadata of a list."""

    # Lists are never sharded here; the field belongs to the type that clients know.
    shard_info: Annotated[ShardInfo | None, doc("Never set by this server.")] = None


class StatusCause(Type):
    """StatusCause is one of the reasons of a failure."""

    reason: Annotated[str, doc("Reason as a CamelCase word.", go="v1.CauseType")] = ""
    message: Annotated[str, doc("Explanation for users.")] = ""
    field: Annotated[str, doc("Path of the field in the sent object: spec.usages[0].")] = ""


class StatusDetails(Type):
    """StatusDetails identifies the object of a Status, and has details of a failure."""

    name: Annotated[str, doc("Name of the object.")] = ""
    group: Annotated[str, doc("API group of the object.")] = ""
    kind: Annotated[str, doc("Resource, or kind, of the object.")] = ""
    uid: Annotated[str, doc("UID of the object.", go="types.UID")] = ""
    causes: Annotated[list[StatusCause], doc("One entry for each problem.", list_type="atomic")] = msgspec.field(
        default_factory=list
    )
    retry_after_seconds: Annotated[Int32, doc("Seconds to wait before the request is sent again.")] = 0


class Status(Type):
    """Status is the response to a request that returns no object: a failure, or a deletion."""

    kind: Annotated[str, doc("Kind of this document, in CamelCase.")] = ""
    api_version: Annotated[str, doc("API group and version of this document.")] = ""
    metadata: Annotated[ListMeta, doc("Empty.")] = always(ListMeta)
    status: Annotated[str, doc("Success or Failure.")] = ""
    message: Annotated[str, doc("Explanation for users.")] = ""
    reason: Annotated[str, doc("Reason of a failure, as a CamelCase word.", go="v1.StatusReason")] = ""
    details: Annotated[StatusDetails | None, doc("Details of the failure, or the deleted object.")] = None
    code: Annotated[Int32, doc("HTTP status code.")] = 0


class WatchEvent(Type):
    """WatchEvent is one event of a watch."""

    type: Annotated[str, doc("ADDED, MODIFIED, DELETED, BOOKMARK or ERROR.", required=True)] = always(str)
    object: Annotated[
        RawJSON,
        doc(
            "The object after the change; its last state, if it was deleted; a Status, if the watch failed.",
            required=True,
        ),
    ] = objects.EMPTY_RAW


class PartialObjectMetadata(objects.Object):
    """PartialObjectMetadata is any object, reduced to its metadata."""


class PartialObjectMetadataList(Type):
    """PartialObjectMetadataList is a list of objects that are reduced to their metadata."""

    kind: Annotated[str, doc("Kind of this document, in CamelCase.")] = ""
    api_version: Annotated[str, doc("API group and version of this document.")] = ""
    metadata: Annotated[ListMeta, doc("Metadata of the list.")] = always(ListMeta)
    items: Annotated[list[PartialObjectMetadata], doc("The objects.", required=True)] = always(list)


# --- discovery ----------------------------------------------------------------------------------------------------


class APIResource(Type):
    """APIResource is a resource, or subresource, that the server has."""

    name: Annotated[str, doc("Plural name of the resource, as in paths.", required=True)] = always(str)
    singular_name: Annotated[str, doc("Singular name, as in command lines; empty for subresources.", required=True)] = (
        always(str)
    )
    namespaced: Annotated[bool, doc("Whether objects belong to a namespace.", required=True)] = always(bool)
    group: Annotated[str, doc("Group of the kind, if it is not the group of this list.")] = ""
    version: Annotated[str, doc("Version of the kind, if it is not the version of this list.")] = ""
    kind: Annotated[str, doc("Kind of the objects.", required=True)] = always(str)
    verbs: Annotated[list[str], doc("Supported verbs.", go="v1.Verbs", required=True)] = always(list)
    short_names: Annotated[list[str], doc("Short names for command lines.", list_type="atomic")] = msgspec.field(
        default_factory=list
    )
    categories: Annotated[list[str], doc("Names of groups of resources, such as all.", list_type="atomic")] = (
        msgspec.field(default_factory=list)
    )
    storage_version_hash: Annotated[str, doc("Hash of the version in which objects are stored.")] = ""


class APIResourceList(Type):
    """APIResourceList is the list of resources of a version of a group."""

    kind: Annotated[str, doc("Kind of this document, in CamelCase.")] = ""
    api_version: Annotated[str, doc("API group and version of this document.")] = ""
    group_version: Annotated[str, doc("Group and version of the resources.", required=True)] = always(str)
    resources: Annotated[list[APIResource], doc("The resources.", list_type="atomic", required=True)] = always(list)


class GroupVersionForDiscovery(Type):
    """GroupVersionForDiscovery is a version of a group."""

    group_version: Annotated[str, doc("Group and version, separated by a slash.", required=True)] = always(str)
    version: Annotated[str, doc("The version alone.", required=True)] = always(str)


class ServerAddressByClientCIDR(Type):
    """ServerAddressByClientCIDR is the address of the server for the clients of a network."""

    client_cidr: Annotated[str, doc("Network of the client.", required=True)] = msgspec.field(
        default_factory=str, name="clientCIDR"
    )
    server_address: Annotated[str, doc("Host, or host and port, for these clients.", required=True)] = always(str)


class APIGroup(Type):
    """APIGroup is a group and the versions in which it is served."""

    kind: Annotated[str, doc("Kind of this document, in CamelCase.")] = ""
    api_version: Annotated[str, doc("API group and version of this document.")] = ""
    name: Annotated[str, doc("Name of the group.", required=True)] = always(str)
    versions: Annotated[
        list[GroupVersionForDiscovery], doc("The versions, the preferred one first.", list_type="atomic", required=True)
    ] = always(list)
    preferred_version: Annotated[
        GroupVersionForDiscovery, doc("The version that clients should use if they support several.")
    ] = msgspec.field(default_factory=GroupVersionForDiscovery)
    server_address_by_client_cidrs: Annotated[
        list[ServerAddressByClientCIDR], doc("Addresses of the server.", list_type="atomic")
    ] = msgspec.field(default_factory=list, name="serverAddressByClientCIDRs")


class APIGroupList(Type):
    """APIGroupList is the list of all groups except the core group."""

    kind: Annotated[str, doc("Kind of this document, in CamelCase.")] = ""
    api_version: Annotated[str, doc("API group and version of this document.")] = ""
    groups: Annotated[list[APIGroup], doc("The groups.", list_type="atomic", required=True)] = always(list)


def _no_addresses() -> list[ServerAddressByClientCIDR]:
    return []  # not `list`: msgspec omits the field when it is empty if the factory is `list`


class APIVersions(Type):
    """APIVersions is the list of versions of the core group."""

    kind: Annotated[str, doc("Kind of this document, in CamelCase.")] = ""
    api_version: Annotated[str, doc("API group and version of this document.")] = ""
    versions: Annotated[list[str], doc("The versions.", list_type="atomic", required=True)] = always(list)
    server_address_by_client_cidrs: Annotated[
        list[ServerAddressByClientCIDR], doc("Addresses of the server.", list_type="atomic", required=True)
    ] = msgspec.field(default_factory=_no_addresses, name="serverAddressByClientCIDRs")


class GroupVersionKind(Type):
    """GroupVersionKind identifies a kind; an empty group or version is that of the surrounding document."""

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
    """APIResourceDiscovery is a resource, with its subresources, in aggregated discovery."""

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
    """APIGroupDiscoveryList is aggregated discovery: all groups, versions and resources in one document."""

    kind: str = ""
    api_version: str = ""
    metadata: ListMeta = always(ListMeta)
    items: list[APIGroupDiscovery] = always(list)


#: The types above that are whole documents, by kind.
BY_KIND: Final[dict[str, type[Type]]] = {
    type_.__name__: type_
    for type_ in (
        Status, PartialObjectMetadata, PartialObjectMetadataList, APIResourceList, APIGroup, APIGroupList, APIVersions,
        APIGroupDiscoveryList,
    )
}  # fmt: skip
