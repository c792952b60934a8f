"""Node: a machine with a kubelet, as far as its certificates are concerned: who it is, and under which addresses.

Nothing is scheduled here; what kubelets report is kept as they say it, so that approvers of serving certificates can
look up whether a machine has the addresses it asks for. The dynamic configuration of kubelets, which Kubernetes gave
up, is not among the fields. Source: kubernetes, `pkg/registry/core/node`, `pkg/apis/core/validation`, `pkg/printers`.
"""

from __future__ import annotations

import dataclasses
import datetime
import ipaddress
from collections.abc import Sequence
from typing import Annotated, Final

from msgspec import field

from certplane import errors
from certplane.meta import names, objects, resource, validation
from certplane.meta.objects import always, doc

Problems = list[errors.FieldProblem]

_ROLE_PREFIX: Final = "node-role.kubernetes.io/"
_ROLE_LABEL: Final = "kubernetes.io/role"
#: There may be one of each family; of each that is wrong, all that is wrong is told.
_MOST_CIDRS: Final = 100
_EFFECTS: Final = ("NoSchedule", "PreferNoSchedule", "NoExecute")


class Taint(objects.Type):
    """Taint keeps away what does not tolerate it."""

    key: Annotated[str, doc("Name of the taint.", required=True)] = always(str)
    value: Annotated[str, doc("Value of the taint.")] = ""
    effect: Annotated[
        str,
        doc(
            "What is kept away: NoSchedule, PreferNoSchedule or NoExecute.",
            go="v1.TaintEffect",
            required=True,
            enum=("NoSchedule", "PreferNoSchedule", "NoExecute"),
        ),
    ] = always(str)
    time_added: Annotated[objects.Time | None, doc("When the taint was added.")] = None


class NodeSpec(objects.Type):
    """NodeSpec is what others say about a node."""

    pod_cidr: Annotated[str, doc("Addresses of the node's pods.")] = field(default="", name="podCIDR")
    pod_cidrs: Annotated[
        list[str], doc("Addresses of the node's pods, of each family.", list_type="set", patch_strategy="merge")
    ] = field(default_factory=list, name="podCIDRs")
    provider_id: Annotated[str, doc("Name of the machine at whoever provides it. Set once.")] = field(
        default="", name="providerID"
    )
    unschedulable: Annotated[bool, doc("Whether new pods are kept away.")] = False
    taints: Annotated[list[Taint], doc("What keeps pods away.", list_type="atomic")] = field(default_factory=list)
    external_id: Annotated[str, doc("No longer used.")] = field(default="", name="externalID")


class NodeCondition(objects.Type):
    """NodeCondition is one fact about a node, such as whether it is ready."""

    type: Annotated[str, doc("What the condition is about.", go="v1.NodeConditionType", required=True)] = always(str)
    status: Annotated[str, doc("True, False or Unknown.", go="v1.ConditionStatus", required=True)] = always(str)
    last_heartbeat_time: Annotated[objects.Time | None, doc("When the node last said so.")] = always(lambda: None)
    last_transition_time: Annotated[objects.Time | None, doc("When its status last changed.")] = always(lambda: None)
    reason: Annotated[str, doc("A word for programs: why this is so.")] = ""
    message: Annotated[str, doc("A sentence for people: why this is so.")] = ""


class NodeAddress(objects.Type):
    """NodeAddress is one name or address of a node."""

    type: Annotated[
        str,
        doc("Hostname, InternalIP, ExternalIP, InternalDNS, ExternalDNS.", go="v1.NodeAddressType", required=True),
    ] = always(str)
    address: Annotated[str, doc("The name or address.", required=True)] = always(str)


class DaemonEndpoint(objects.Type):
    """DaemonEndpoint is where a daemon of a node listens."""

    port: Annotated[objects.Int32, doc("Its port.", required=True)] = field(default_factory=lambda: 0, name="Port")


class NodeDaemonEndpoints(objects.Type):
    """NodeDaemonEndpoints is where the daemons of a node listen."""

    kubelet_endpoint: Annotated[DaemonEndpoint, doc("Where the kubelet listens.")] = always(DaemonEndpoint)


class NodeSwapStatus(objects.Type):
    """NodeSwapStatus is what a node says of its swap space."""

    capacity: Annotated[objects.Int64 | None, doc("Bytes of it.")] = None


class NodeSystemInfo(objects.Type):
    """NodeSystemInfo says what a node is made of."""

    machine_id: Annotated[str, doc("Identity of the machine, as systemd has it.", required=True)] = field(
        default_factory=lambda: "", name="machineID"
    )
    system_uuid: Annotated[str, doc("Identity of the machine, as its firmware has it.", required=True)] = field(
        default_factory=lambda: "", name="systemUUID"
    )
    boot_id: Annotated[str, doc("Changes with each start of the machine.", required=True)] = field(
        default_factory=lambda: "", name="bootID"
    )
    kernel_version: Annotated[str, doc("Version of the kernel.", required=True)] = always(str)
    os_image: Annotated[str, doc("The system that is installed.", required=True)] = always(str)
    container_runtime_version: Annotated[str, doc("What runs containers, and its version.", required=True)] = always(
        str
    )
    kubelet_version: Annotated[str, doc("Version of the kubelet.", required=True)] = always(str)
    kube_proxy_version: Annotated[str, doc("No longer used.", required=True)] = always(str)
    operating_system: Annotated[str, doc("linux or windows.", required=True)] = always(str)
    architecture: Annotated[str, doc("Kind of processor: amd64, arm64.", required=True)] = always(str)
    swap: Annotated[NodeSwapStatus | None, doc("Its swap space.")] = None


class ContainerImage(objects.Type):
    """ContainerImage is an image that a node has."""

    names: Annotated[list[str] | None, doc("Its names.", list_type="atomic")] = always(lambda: None)
    size_bytes: Annotated[objects.Int64, doc("Bytes of it.")] = 0


class AttachedVolume(objects.Type):
    """AttachedVolume is a volume that a node has."""

    name: Annotated[str, doc("Its name.", go="v1.UniqueVolumeName", required=True)] = always(str)
    device_path: Annotated[str, doc("Where it is.", required=True)] = always(str)


class NodeRuntimeHandlerFeatures(objects.Type):
    """NodeRuntimeHandlerFeatures says what a runtime handler can do."""

    recursive_read_only_mounts: Annotated[bool | None, doc("Mounts that are read-only all the way down.")] = None
    user_namespaces: Annotated[bool | None, doc("Namespaces of users.")] = None


class NodeRuntimeHandler(objects.Type):
    """NodeRuntimeHandler is a way in which a node can run containers."""

    name: Annotated[str, doc("Its name; empty for the default one.")] = always(str)
    features: Annotated[NodeRuntimeHandlerFeatures | None, doc("What it can do.")] = None


class NodeFeatures(objects.Type):
    """NodeFeatures says what the runtime of a node can do."""

    supplemental_groups_policy: Annotated[bool | None, doc("Strict supplemental groups.")] = None


class NodeStatus(objects.Type):
    """NodeStatus is what a node says about itself."""

    capacity: Annotated[dict[str, objects.Quantity], doc("What the node has.")] = field(default_factory=dict)
    allocatable: Annotated[dict[str, objects.Quantity], doc("What of it pods can have.")] = field(default_factory=dict)
    phase: Annotated[str, doc("No longer used.", go="v1.NodePhase", enum=("Pending", "Running", "Terminated"))] = ""
    conditions: Annotated[
        list[NodeCondition],
        doc(
            "What is known about the node.",
            list_type="map",
            keys=("type",),
            patch_strategy="merge",
            patch_merge_key="type",
        ),
    ] = field(default_factory=list)
    addresses: Annotated[
        list[NodeAddress],
        doc(
            "Names and addresses under which the node is reached. Its serving certificate may be for these.",
            list_type="map",
            keys=("type",),
            patch_strategy="merge",
            patch_merge_key="type",
        ),
    ] = field(default_factory=list)
    daemon_endpoints: Annotated[NodeDaemonEndpoints, doc("Where its daemons listen.")] = always(NodeDaemonEndpoints)
    node_info: Annotated[NodeSystemInfo, doc("What it is made of.")] = always(NodeSystemInfo)
    images: Annotated[list[ContainerImage], doc("Images that it has.", list_type="atomic")] = field(
        default_factory=list
    )
    volumes_in_use: Annotated[
        list[Annotated[str, doc("", go="v1.UniqueVolumeName")]], doc("Volumes that it uses.", list_type="atomic")
    ] = field(default_factory=list)
    volumes_attached: Annotated[list[AttachedVolume], doc("Volumes that it has.", list_type="atomic")] = field(
        default_factory=list
    )
    runtime_handlers: Annotated[
        list[NodeRuntimeHandler], doc("Ways in which it can run containers.", list_type="atomic")
    ] = field(default_factory=list)
    features: Annotated[NodeFeatures | None, doc("What its runtime can do.")] = None
    declared_features: Annotated[list[str], doc("What the node says it can do.", list_type="atomic")] = field(
        default_factory=list
    )


class Node(objects.Object):
    """Node is a machine with a kubelet. It appears here when the kubelet registers it."""

    spec: Annotated[NodeSpec, doc("What others say about the node.")] = always(NodeSpec)
    status: Annotated[NodeStatus, doc("What the node says about itself.")] = always(NodeStatus)


# --- validation ---------------------------------------------------------------------------------------------------


def _validate(new: Node) -> Problems:
    return [*_taint_problems(new.spec.taints), *_amount_problems(new.status), *_cidrs_problems(new.spec.pod_cidrs)]


def _cidrs_problems(cidrs: Sequence[str]) -> Problems:
    path = "spec.podCIDRs"
    if too_many := validation.count_problems(cidrs, path, _MOST_CIDRS):
        return too_many
    problems = [
        errors.invalid(f"{path}[{at}]", each, why) for at, each in enumerate(cidrs) if (why := _cidr_problem(each))
    ]
    if len(cidrs) < 2:
        return problems
    networks = [_network(each) for each in cidrs]
    families = {each.version for each in networks if each is not None}
    if None in networks:
        at = networks.index(None)
        why = (
            f"failed to check with dual stack with error:invalid CIDR[{at}]: <nil> (invalid CIDR address: {cidrs[at]})"
        )
        problems.append(errors.internal(path, f"invalid PodCIDRs. {why}"))
    if None in networks or len(families) < len(networks):
        problems.append(errors.invalid(path, list(cidrs), "may specify no more than one CIDR for each IP family"))
    return problems


def _cidr_problem(cidr: str) -> str:
    """Why a text is no network; empty if it is one."""
    network = _network(cidr)
    if network is None:
        return "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"
    address, _, bits = cidr.partition("/")
    if _without_zeros(address) != address or str(int(bits)) != bits:
        return "must not have leading 0s in IP or prefix length"
    if network.version == 6 and ipaddress.IPv6Address(address).ipv4_mapped is not None:
        return "must not have an IPv4-mapped IPv6 address"
    if ipaddress.ip_address(address) != network.network_address:
        return "must not have bits set beyond the prefix length"
    return ""


def _network(cidr: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    """Read as once in Go, when numbers could begin with zeros. Python would also take an address alone, or a mask of
    four bytes.
    """
    address, _, bits = cidr.partition("/")
    if not (bits.isascii() and bits.isdigit()) or "%" in address:
        return None
    try:
        return ipaddress.ip_network(f"{_without_zeros(address)}/{int(bits)}", strict=False)
    except ValueError:
        return None


def _without_zeros(address: str) -> str:
    """An IPv4 address, or anything else as it is, without zeros that mean nothing."""
    parts = address.split(".")
    decimal = all(each.isascii() and each.isdigit() for each in parts)
    return ".".join(each.lstrip("0") or "0" for each in parts) if decimal else address


def _taint_problems(taints: Sequence[Taint]) -> Problems:
    if too_many := validation.count_problems(taints, "metadata.taints", validation.MOST_ITEMS):
        return too_many
    problems: Problems = []
    seen: set[tuple[str, str]] = set()
    for at, each in enumerate(taints):
        # Kubernetes looks for them elsewhere than it keeps them.
        path = f"metadata.taints[{at}]"
        problems += [errors.invalid(f"{path}.key", each.key, why) for why in names.qualified_name_problems(each.key)]
        wrong = names.label_value_problems(each.value)
        if wrong:
            problems.append(errors.invalid(f"{path}.value", each.value, ";".join(wrong)))
        if not each.effect:
            problems.append(errors.required(f"{path}.effect"))
        elif each.effect not in _EFFECTS:
            problems.append(errors.not_supported(f"{path}.effect", each.effect, _EFFECTS, as_json=True))
        if (each.key, each.effect) in seen:
            problems.append(_repeated_taint(path, each))
        seen.add((each.key, each.effect))
    return problems


def _repeated_taint(path: str, of: Taint) -> errors.FieldProblem:
    shown = {"Key": of.key, "Value": of.value, "Effect": of.effect, "TimeAdded": of.time_added}
    found = errors.duplicate(path, shown)
    return dataclasses.replace(found, body=f"{found.body}: taints must be unique by key and effect pair")


def _amount_problems(of: NodeStatus) -> Problems:
    """Nobody has less than nothing of something, nor half a pod."""
    problems: Problems = []
    for where, amounts in (("capacity", of.capacity), ("allocatable", of.allocatable)):
        for name, amount in amounts.items():
            path = f"status.{where}.{name}"
            if amount.startswith("-"):
                problems.append(errors.invalid(path, amount, "must be greater than or equal to 0"))
            # Amounts are in their canonical spelling, so only a fraction has one of these units.
            if _is_counted(name) and (amount.endswith(("m", "u", "n")) or "e-" in amount):
                problems.append(errors.invalid(path, amount, "must be an integer"))
    return problems


def _is_counted(name: str) -> bool:
    """Whether there is no half of a resource: pods, and what vendors add."""
    domain, slash, _ = name.partition("/")
    return name == "pods" or (bool(slash) and domain != "kubernetes.io" and not domain.endswith(".kubernetes.io"))


def _validate_update(new: Node, old: Node) -> Problems:
    # What is wrong with the new state is looked for by both, and told twice.
    return [*_validate(new), *_validate_change(new, old)]


def _validate_change(new: Node, old: Node) -> Problems:
    problems = [*_amount_problems(new.status), *_address_problems(new)]
    if old.spec.pod_cidrs and new.spec.pod_cidrs != old.spec.pod_cidrs:
        why = 'node updates may not change podCIDR except from "" to valid'
        problems.append(errors.forbidden("spec.podCIDRs", why))
    if old.spec.provider_id and new.spec.provider_id != old.spec.provider_id:
        why = 'node updates may not change providerID except from "" to valid'
        problems.append(errors.forbidden("spec.providerID", why))
    problems += _taint_problems(new.spec.taints)
    if new.spec.external_id != old.spec.external_id:
        problems.append(errors.forbidden("spec.externalID", "may not be updated"))
    return problems


def _address_problems(new: Node) -> Problems:
    seen: set[tuple[str, str]] = set()
    problems: Problems = []
    for at, each in enumerate(new.status.addresses):
        if (each.type, each.address) in seen:
            problems.append(errors.duplicate(f"status.addresses[{at}]", {"Type": each.type, "Address": each.address}))
        seen.add((each.type, each.address))
    return problems


def _default(new: Node) -> None:
    """PodCIDR is the first of podCIDRs and wins if it is not; what pods can have is all there is."""
    spec, status = new.spec, new.status
    if spec.pod_cidr and spec.pod_cidrs[:1] != [spec.pod_cidr]:
        spec.pod_cidrs = [spec.pod_cidr]
    elif spec.pod_cidrs:
        spec.pod_cidr = spec.pod_cidrs[0]
    if not status.allocatable:
        status.allocatable = dict(status.capacity)


def _warnings(new: Node) -> Sequence[str]:
    return ("spec.externalID: this field is deprecated, and is unused by Kubernetes",) if new.spec.external_id else ()


# --- columns ------------------------------------------------------------------------------------------------------


def _state(of: Node, now: datetime.datetime) -> str:
    del now
    ready = next((each.status for each in of.status.conditions if each.type == "Ready"), None)
    found = ["Ready" if ready == "True" else "NotReady" if ready is not None else "Unknown"]
    return ",".join(found + (["SchedulingDisabled"] if of.spec.unschedulable else []))


def _roles(of: Node, now: datetime.datetime) -> str:
    del now
    labels = of.metadata.labels
    found = {key.removeprefix(_ROLE_PREFIX) for key in labels if key.startswith(_ROLE_PREFIX)} - {""}
    found |= {labels[_ROLE_LABEL]} if labels.get(_ROLE_LABEL) else set()
    return ",".join(sorted(found)) or "<none>"


def _kernel(of: Node, now: datetime.datetime) -> str:
    del now
    info = of.status.node_info
    version = info.kernel_version or "<unknown>"
    return f"{version} ({info.architecture})" if info.architecture else version


def _address(of: Node, type_: str) -> str:
    return next((each.address for each in of.status.addresses if each.type == type_), "<none>")


RESOURCE: Final = resource.Resource(
    group="",
    version="v1",
    kind="Node",
    plural="nodes",
    short_names=("no",),
    type=Node,
    namespaced=False,
    owns=("spec",),
    ignored_fields=("status",),
    default=_default,
    name_problems=names.dns1123_subdomain_problems,
    validate=_validate,
    validate_update=_validate_update,
    warnings=_warnings,
    selectable={"spec.unschedulable": lambda of: "true" if of.spec.unschedulable else "false"},
    selects_namespace=False,
    unknown_selector=lambda label: f"field label not supported: {label}",
    subresources=(
        resource.Subresource(
            "status",
            owns=("status",),
            validate=lambda new, old, _: _validate_change(new, old),
            rechecks=resource.Recheck.CHANGE,
            ignored_fields=("spec",),
            has_table=True,
        ),
    ),
    columns=(
        resource.Column("Name", "Name of the node.", lambda of, _: of.metadata.name, format="name"),
        resource.Column("Status", "Whether the node is ready.", _state),
        resource.Column("Roles", "Roles of the node.", _roles),
        resource.Column("Age", "Time since the node was registered.", resource.age),
        resource.Column("Version", "Version of the kubelet.", lambda of, _: of.status.node_info.kubelet_version),
        resource.Column("Internal-IP", "Address inside.", lambda of, _: _address(of, "InternalIP"), priority=1),
        resource.Column("External-IP", "Address outside.", lambda of, _: _address(of, "ExternalIP"), priority=1),
        resource.Column(
            "OS-Image", "The system.", lambda of, _: of.status.node_info.os_image or "<unknown>", priority=1
        ),
        resource.Column("Kernel-Version", "The kernel, and for which processors.", _kernel, priority=1),
        resource.Column(
            "Container-Runtime",
            "What runs containers.",
            lambda of, _: of.status.node_info.container_runtime_version or "<unknown>",
            priority=1,
        ),
    ),
)
