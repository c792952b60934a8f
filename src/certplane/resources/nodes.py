"""Node: a machine with a kubelet, and the names and addresses that it reports.

Nothing is scheduled here. The status is stored as the kubelet reports it, so that the approver of serving certificates
can compare it with a request. The fields of dynamic kubelet configuration, which Kubernetes removed, are missing.
Source: kubernetes, `pkg/registry/core/node`, `pkg/apis/core/validation`, `pkg/printers`.
"""

from __future__ import annotations

import dataclasses
import datetime
import ipaddress
from collections.abc import Sequence
from typing import Annotated, Final

from msgspec import field

from certplane import errors
from certplane.errors import Problems
from certplane.meta import names, objects, resource, validation
from certplane.meta.objects import always, doc

_ROLE_PREFIX: Final = "node-role.kubernetes.io/"
_ROLE_LABEL: Final = "kubernetes.io/role"
#: podCIDRs of one node. One of each address family is allowed, but all problems of each are reported.
_MAX_CIDRS: Final = 100
_EFFECTS: Final = ("NoSchedule", "PreferNoSchedule", "NoExecute")


class Taint(objects.Type):
    """Taint repels pods that do not tolerate it."""

    key: Annotated[str, doc("Key of the taint.", required=True)] = always(str)
    value: Annotated[str, doc("Value of the taint.")] = ""
    effect: Annotated[
        str,
        doc(
            "Effect on pods that do not tolerate the taint: NoSchedule, PreferNoSchedule or NoExecute.",
            go="v1.TaintEffect",
            required=True,
            enum=("NoSchedule", "PreferNoSchedule", "NoExecute"),
        ),
    ] = always(str)
    time_added: Annotated[objects.Time | None, doc("Time when the taint was added.")] = None


class NodeSpec(objects.Type):
    """NodeSpec is the configuration of a node."""

    pod_cidr: Annotated[str, doc("Network of the pods of the node.")] = field(default="", name="podCIDR")
    pod_cidrs: Annotated[
        list[str],
        doc(
            "Networks of the pods of the node, at most one of each address family.",
            list_type="set",
            patch_strategy="merge",
        ),
    ] = field(default_factory=list, name="podCIDRs")
    provider_id: Annotated[str, doc("ID of the machine at the cloud provider. Can be set once.")] = field(
        default="", name="providerID"
    )
    unschedulable: Annotated[bool, doc("Whether new pods are not scheduled to the node.")] = False
    taints: Annotated[list[Taint], doc("Taints of the node.", list_type="atomic")] = field(default_factory=list)
    external_id: Annotated[str, doc("Deprecated. No longer used.")] = field(default="", name="externalID")


class NodeCondition(objects.Type):
    """NodeCondition is a condition of a node, such as whether it is ready."""

    type: Annotated[str, doc("Type of the condition.", go="v1.NodeConditionType", required=True)] = always(str)
    status: Annotated[
        str, doc("Status of the condition: True, False or Unknown.", go="v1.ConditionStatus", required=True)
    ] = always(str)
    last_heartbeat_time: Annotated[objects.Time | None, doc("Time of the last update of the condition.")] = always(
        lambda: None
    )
    last_transition_time: Annotated[objects.Time | None, doc("Time when the status last changed.")] = always(
        lambda: None
    )
    reason: Annotated[str, doc("Reason for the condition, as a code for programs.")] = ""
    message: Annotated[str, doc("Human-readable details about the condition.")] = ""


class NodeAddress(objects.Type):
    """NodeAddress is a name or an IP address of a node."""

    type: Annotated[
        str,
        doc(
            "Type: Hostname, InternalIP, ExternalIP, InternalDNS or ExternalDNS.",
            go="v1.NodeAddressType",
            required=True,
        ),
    ] = always(str)
    address: Annotated[str, doc("The name or IP address.", required=True)] = always(str)


class DaemonEndpoint(objects.Type):
    """DaemonEndpoint is the port of a daemon of a node."""

    port: Annotated[objects.Int32, doc("Port of the daemon.", required=True)] = field(
        default_factory=lambda: 0, name="Port"
    )


class NodeDaemonEndpoints(objects.Type):
    """NodeDaemonEndpoints are the ports of the daemons of a node."""

    kubelet_endpoint: Annotated[DaemonEndpoint, doc("Endpoint of the kubelet.")] = always(DaemonEndpoint)


class NodeSwapStatus(objects.Type):
    """NodeSwapStatus is the swap space of a node."""

    capacity: Annotated[objects.Int64 | None, doc("Total swap space in bytes.")] = None


class NodeSystemInfo(objects.Type):
    """NodeSystemInfo identifies the machine and the software of a node."""

    machine_id: Annotated[str, doc("Machine ID, as systemd reports it.", required=True)] = field(
        default_factory=lambda: "", name="machineID"
    )
    system_uuid: Annotated[str, doc("System UUID, as the firmware reports it.", required=True)] = field(
        default_factory=lambda: "", name="systemUUID"
    )
    boot_id: Annotated[str, doc("Boot ID: changes with each boot.", required=True)] = field(
        default_factory=lambda: "", name="bootID"
    )
    kernel_version: Annotated[str, doc("Kernel version.", required=True)] = always(str)
    os_image: Annotated[str, doc("Operating system image, as /etc/os-release names it.", required=True)] = always(str)
    container_runtime_version: Annotated[str, doc("Container runtime and its version.", required=True)] = always(str)
    kubelet_version: Annotated[str, doc("Kubelet version.", required=True)] = always(str)
    kube_proxy_version: Annotated[str, doc("Deprecated. No longer used.", required=True)] = always(str)
    operating_system: Annotated[str, doc("Operating system: linux or windows.", required=True)] = always(str)
    architecture: Annotated[str, doc("Processor architecture, such as amd64 or arm64.", required=True)] = always(str)
    swap: Annotated[NodeSwapStatus | None, doc("Swap space of the node.")] = None


class ContainerImage(objects.Type):
    """ContainerImage is a container image on a node."""

    names: Annotated[list[str] | None, doc("Names of the image.", list_type="atomic")] = always(lambda: None)
    size_bytes: Annotated[objects.Int64, doc("Size of the image in bytes.")] = 0


class AttachedVolume(objects.Type):
    """AttachedVolume is a volume that is attached to a node."""

    name: Annotated[str, doc("Name of the volume.", go="v1.UniqueVolumeName", required=True)] = always(str)
    device_path: Annotated[str, doc("Device path of the volume.", required=True)] = always(str)


class NodeRuntimeHandlerFeatures(objects.Type):
    """NodeRuntimeHandlerFeatures are the features of a runtime handler."""

    recursive_read_only_mounts: Annotated[bool | None, doc("Whether it supports recursive read-only mounts.")] = None
    user_namespaces: Annotated[bool | None, doc("Whether it supports user namespaces.")] = None


class NodeRuntimeHandler(objects.Type):
    """NodeRuntimeHandler is a runtime handler of a node."""

    name: Annotated[str, doc("Name of the handler; empty for the default handler.")] = always(str)
    features: Annotated[NodeRuntimeHandlerFeatures | None, doc("Features of the handler.")] = None


class NodeFeatures(objects.Type):
    """NodeFeatures are the features of the container runtime of a node."""

    supplemental_groups_policy: Annotated[bool | None, doc("Whether it supports supplementalGroupsPolicy.")] = None


class NodeStatus(objects.Type):
    """NodeStatus is the state of a node, as its kubelet reports it."""

    capacity: Annotated[dict[str, objects.Quantity], doc("Total resources of the node.")] = field(default_factory=dict)
    allocatable: Annotated[dict[str, objects.Quantity], doc("Resources that are available for pods.")] = field(
        default_factory=dict
    )
    phase: Annotated[
        str, doc("Deprecated. No longer used.", go="v1.NodePhase", enum=("Pending", "Running", "Terminated"))
    ] = ""
    conditions: Annotated[
        list[NodeCondition],
        doc(
            "Conditions of the node.",
            list_type="map",
            keys=("type",),
            patch_strategy="merge",
            patch_merge_key="type",
        ),
    ] = field(default_factory=list)
    addresses: Annotated[
        list[NodeAddress],
        doc(
            "Names and IP addresses of the node. Its kubelet requests a serving certificate for these.",
            list_type="map",
            keys=("type",),
            patch_strategy="merge",
            patch_merge_key="type",
        ),
    ] = field(default_factory=list)
    daemon_endpoints: Annotated[NodeDaemonEndpoints, doc("Endpoints of the daemons of the node.")] = always(
        NodeDaemonEndpoints
    )
    node_info: Annotated[NodeSystemInfo, doc("Machine and software of the node.")] = always(NodeSystemInfo)
    images: Annotated[list[ContainerImage], doc("Container images on the node.", list_type="atomic")] = field(
        default_factory=list
    )
    volumes_in_use: Annotated[
        list[Annotated[str, doc("", go="v1.UniqueVolumeName")]], doc("Volumes in use by the node.", list_type="atomic")
    ] = field(default_factory=list)
    volumes_attached: Annotated[list[AttachedVolume], doc("Volumes attached to the node.", list_type="atomic")] = field(
        default_factory=list
    )
    runtime_handlers: Annotated[list[NodeRuntimeHandler], doc("Runtime handlers of the node.", list_type="atomic")] = (
        field(default_factory=list)
    )
    features: Annotated[NodeFeatures | None, doc("Features of the container runtime.")] = None
    declared_features: Annotated[list[str], doc("Features that the kubelet declares.", list_type="atomic")] = field(
        default_factory=list
    )


class Node(objects.Object):
    """Node is a machine with a kubelet. The kubelet creates the object when it registers."""

    spec: Annotated[NodeSpec, doc("Configuration of the node.")] = always(NodeSpec)
    status: Annotated[NodeStatus, doc("State of the node, as its kubelet reports it.")] = always(NodeStatus)


# --- validation ---------------------------------------------------------------------------------------------------


def _validate(node: Node) -> Problems:
    return [*_taint_problems(node.spec.taints), *_quantity_problems(node.status), *_cidrs_problems(node.spec.pod_cidrs)]


def _cidrs_problems(cidrs: Sequence[str]) -> Problems:
    path = "spec.podCIDRs"
    if too_many := validation.count_problems(cidrs, path, _MAX_CIDRS):
        return too_many
    problems = [
        errors.invalid(f"{path}[{index}]", cidr, detail)
        for index, cidr in enumerate(cidrs)
        if (detail := _cidr_problem(cidr))
    ]
    if len(cidrs) < 2:
        return problems
    networks = [_parse_network(cidr) for cidr in cidrs]
    families = {network.version for network in networks if network is not None}
    if None in networks:
        index = networks.index(None)
        detail = (
            f"failed to check with dual stack with error:invalid CIDR[{index}]: <nil> "
            f"(invalid CIDR address: {cidrs[index]})"
        )
        problems.append(errors.internal(path, f"invalid PodCIDRs. {detail}"))
    if None in networks or len(families) < len(networks):
        problems.append(errors.invalid(path, list(cidrs), "may specify no more than one CIDR for each IP family"))
    return problems


def _cidr_problem(cidr: str) -> str:
    """Why a text is not a valid network; empty if it is one."""
    network = _parse_network(cidr)
    if network is None:
        return "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"
    address, _, bits = cidr.partition("/")
    if _strip_leading_zeros(address) != address or str(int(bits)) != bits:
        return "must not have leading 0s in IP or prefix length"
    if network.version == 6 and ipaddress.IPv6Address(address).ipv4_mapped is not None:
        return "must not have an IPv4-mapped IPv6 address"
    if ipaddress.ip_address(address) != network.network_address:
        return "must not have bits set beyond the prefix length"
    return ""


def _parse_network(cidr: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    """The network, as old Go versions parsed it: with leading zeros. Unlike Python, without a bare address and without
    a netmask.
    """
    address, _, bits = cidr.partition("/")
    if not (bits.isascii() and bits.isdigit()) or "%" in address:
        return None
    try:
        return ipaddress.ip_network(f"{_strip_leading_zeros(address)}/{int(bits)}", strict=False)
    except ValueError:
        return None


def _strip_leading_zeros(address: str) -> str:
    """An IPv4 address without leading zeros; any other text as it is."""
    parts = address.split(".")
    is_decimal = all(part.isascii() and part.isdigit() for part in parts)
    return ".".join(part.lstrip("0") or "0" for part in parts) if is_decimal else address


def _taint_problems(taints: Sequence[Taint]) -> Problems:
    if too_many := validation.count_problems(taints, "metadata.taints", validation.MAX_ITEMS):
        return too_many
    problems: Problems = []
    seen: set[tuple[str, str]] = set()
    for index, taint in enumerate(taints):
        # Kubernetes reports this path, although the taints are in the spec.
        path = f"metadata.taints[{index}]"
        key_details = names.qualified_name_problems(taint.key)
        problems += [errors.invalid(f"{path}.key", taint.key, detail) for detail in key_details]
        value_details = names.label_value_problems(taint.value)
        if value_details:
            problems.append(errors.invalid(f"{path}.value", taint.value, ";".join(value_details)))
        if not taint.effect:
            problems.append(errors.required(f"{path}.effect"))
        elif taint.effect not in _EFFECTS:
            problems.append(errors.not_supported(f"{path}.effect", taint.effect, _EFFECTS, as_json=True))
        if (taint.key, taint.effect) in seen:
            problems.append(_duplicate_taint(path, taint))
        seen.add((taint.key, taint.effect))
    return problems


def _duplicate_taint(path: str, taint: Taint) -> errors.FieldProblem:
    value = {"Key": taint.key, "Value": taint.value, "Effect": taint.effect, "TimeAdded": taint.time_added}
    problem = errors.duplicate(path, value)
    return dataclasses.replace(problem, body=f"{problem.body}: taints must be unique by key and effect pair")


def _quantity_problems(status: NodeStatus) -> Problems:
    """Quantities must not be negative, and those of countable resources must be integers."""
    problems: Problems = []
    for field_name, quantities in (("capacity", status.capacity), ("allocatable", status.allocatable)):
        for name, quantity in quantities.items():
            path = f"status.{field_name}.{name}"
            if quantity.startswith("-"):
                problems.append(errors.invalid(path, quantity, "must be greater than or equal to 0"))
            # Quantities are stored in canonical form, so only a fraction has one of these suffixes.
            if _is_countable(name) and (quantity.endswith(("m", "u", "n")) or "e-" in quantity):
                problems.append(errors.invalid(path, quantity, "must be an integer"))
    return problems


def _is_countable(name: str) -> bool:
    """Whether a resource has integer quantities only: pods, and extended resources of vendors."""
    domain, slash, _ = name.partition("/")
    return name == "pods" or (bool(slash) and domain != "kubernetes.io" and not domain.endswith(".kubernetes.io"))


def _validate_update(new: Node, old: Node) -> Problems:
    # As in Kubernetes both report the problems of the new state, so that they appear twice.
    return [*_validate(new), *_validate_change(new, old)]


def _validate_change(new: Node, old: Node) -> Problems:
    problems = [*_quantity_problems(new.status), *_address_problems(new)]
    if old.spec.pod_cidrs and new.spec.pod_cidrs != old.spec.pod_cidrs:
        detail = 'node updates may not change podCIDR except from "" to valid'
        problems.append(errors.forbidden("spec.podCIDRs", detail))
    if old.spec.provider_id and new.spec.provider_id != old.spec.provider_id:
        detail = 'node updates may not change providerID except from "" to valid'
        problems.append(errors.forbidden("spec.providerID", detail))
    problems += _taint_problems(new.spec.taints)
    if new.spec.external_id != old.spec.external_id:
        problems.append(errors.forbidden("spec.externalID", "may not be updated"))
    return problems


def _address_problems(node: Node) -> Problems:
    seen: set[tuple[str, str]] = set()
    problems: Problems = []
    for index, entry in enumerate(node.status.addresses):
        if (entry.type, entry.address) in seen:
            value = {"Type": entry.type, "Address": entry.address}
            problems.append(errors.duplicate(f"status.addresses[{index}]", value))
        seen.add((entry.type, entry.address))
    return problems


def _default(node: Node) -> None:
    """Make podCIDR the first of podCIDRs (podCIDR wins if they differ), and allocatable the capacity if it is empty."""
    spec, status = node.spec, node.status
    if spec.pod_cidr and spec.pod_cidrs[:1] != [spec.pod_cidr]:
        spec.pod_cidrs = [spec.pod_cidr]
    elif spec.pod_cidrs:
        spec.pod_cidr = spec.pod_cidrs[0]
    if not status.allocatable:
        status.allocatable = dict(status.capacity)


def _warnings(node: Node) -> Sequence[str]:
    return ("spec.externalID: this field is deprecated, and is unused by Kubernetes",) if node.spec.external_id else ()


# --- columns ------------------------------------------------------------------------------------------------------


def _state(node: Node, now: datetime.datetime) -> str:
    del now
    ready = next((condition.status for condition in node.status.conditions if condition.type == "Ready"), None)
    states = ["Ready" if ready == "True" else "NotReady" if ready is not None else "Unknown"]
    return ",".join(states + (["SchedulingDisabled"] if node.spec.unschedulable else []))


def _roles(node: Node, now: datetime.datetime) -> str:
    del now
    labels = node.metadata.labels
    roles = {key.removeprefix(_ROLE_PREFIX) for key in labels if key.startswith(_ROLE_PREFIX)} - {""}
    roles |= {labels[_ROLE_LABEL]} if labels.get(_ROLE_LABEL) else set()
    return ",".join(sorted(roles)) or "<none>"


def _kernel(node: Node, now: datetime.datetime) -> str:
    del now
    info = node.status.node_info
    version = info.kernel_version or "<unknown>"
    return f"{version} ({info.architecture})" if info.architecture else version


def _address(node: Node, type_: str) -> str:
    return next((entry.address for entry in node.status.addresses if entry.type == type_), "<none>")


RESOURCE: Final[resource.Resource[Node]] = resource.Resource(
    group="",
    version="v1",
    kind="Node",
    plural="nodes",
    short_names=("no",),
    type=Node,
    namespaced=False,
    owns=("spec",),
    reset_fields=("status",),
    default=_default,
    name_problems=names.dns1123_subdomain_problems,
    validate=_validate,
    validate_update=_validate_update,
    warnings=_warnings,
    selectable={"spec.unschedulable": lambda obj: "true" if obj.spec.unschedulable else "false"},
    selects_namespace=False,
    unknown_selector=lambda label: f"field label not supported: {label}",
    subresources=(
        resource.Subresource(
            "status",
            owns=("status",),
            validate=lambda new, old, _: _validate_change(new, old),
            metadata_validation=resource.MetadataValidation.CHANGE,
            reset_fields=("spec",),
            has_table=True,
        ),
    ),
    columns=(
        resource.Column("Name", "Name of the node.", lambda obj, _: obj.metadata.name, format="name"),
        resource.Column("Status", "Whether the node is ready.", _state),
        resource.Column("Roles", "Roles of the node.", _roles),
        resource.Column("Age", "Time since the node was registered.", resource.age),
        resource.Column("Version", "Version of the kubelet.", lambda obj, _: obj.status.node_info.kubelet_version),
        resource.Column("Internal-IP", "Internal IP address.", lambda obj, _: _address(obj, "InternalIP"), priority=1),
        resource.Column("External-IP", "External IP address.", lambda obj, _: _address(obj, "ExternalIP"), priority=1),
        resource.Column(
            "OS-Image",
            "Operating system image.",
            lambda obj, _: obj.status.node_info.os_image or "<unknown>",
            priority=1,
        ),
        resource.Column("Kernel-Version", "Kernel version and architecture.", _kernel, priority=1),
        resource.Column(
            "Container-Runtime",
            "Container runtime and its version.",
            lambda obj, _: obj.status.node_info.container_runtime_version or "<unknown>",
            priority=1,
        ),
    ),
)
