"""Node: columns, defaults, encoding and validation."""

from __future__ import annotations

import datetime
import json

import pytest

from certplane.meta import objects
from certplane.resources import nodes
from certplane.wire import codec, protobuf

NOW = datetime.datetime(2026, 1, 1, 1, tzinfo=datetime.UTC)
LATER = "2026-01-01T00:00:00Z"


def node(spec=None, labels=None, **status):
    return nodes.Node(
        metadata=objects.ObjectMeta(name="n1", labels=labels or {}, creation_timestamp=LATER),
        spec=nodes.NodeSpec(**spec or {}),
        status=nodes.NodeStatus(**status),
    )


def decode(document):
    """A document as the server decodes it, with defaults."""
    obj = codec.decode_tree(codec.parse_json(json.dumps(document).encode()), nodes.Node).object
    nodes.RESOURCE.default(obj)
    return obj


def cells(node):
    return {column.name: column.cell(node, NOW) for column in nodes.RESOURCE.columns}


def texts(problems):
    return [str(problem) for problem in problems]


# --- columns ------------------------------------------------------------------------------------------------------


def test_columns_without_a_status():
    """Columns without a value have a placeholder or are empty."""
    assert cells(node()) == {
        "Name": "n1",
        "Status": "Unknown",
        "Roles": "<none>",
        "Age": "60m",
        "Version": "",
        "Internal-IP": "<none>",
        "External-IP": "<none>",
        "OS-Image": "<unknown>",
        "Kernel-Version": "<unknown>",
        "Container-Runtime": "<unknown>",
    }


def test_the_kernel_version_is_shown_with_the_architecture():
    """If the architecture is known."""
    for version, architecture, expected in (("6.1", "amd64", "6.1 (amd64)"), ("6.1", "", "6.1"), ("", "", "<unknown>")):
        info = nodes.NodeSystemInfo(kernel_version=version, architecture=architecture)
        assert cells(node(node_info=info))["Kernel-Version"] == expected


def test_columns_with_a_status():
    """Versions, and the first address of each type."""
    info = nodes.NodeSystemInfo(
        kubelet_version="v1.36.2", os_image="Debian", kernel_version="6.1", container_runtime_version="containerd://2"
    )
    pairs = [("Hostname", "n1"), ("InternalIP", "10.0.0.1"), ("InternalIP", "fd00::1"), ("ExternalIP", "192.0.2.1")]
    addresses = [nodes.NodeAddress(type=type_, address=address) for type_, address in pairs]
    values = cells(node(node_info=info, addresses=addresses))
    assert list(values.values())[4:] == ["v1.36.2", "10.0.0.1", "192.0.2.1", "Debian", "6.1", "containerd://2"]


@pytest.mark.parametrize(
    ("status", "unschedulable", "expected"),
    [
        ("True", False, "Ready"),
        ("False", False, "NotReady"),
        ("Unknown", False, "NotReady"),
        ("", False, "NotReady"),
        (None, False, "Unknown"),
        ("True", True, "Ready,SchedulingDisabled"),
        (None, True, "Unknown,SchedulingDisabled"),
    ],
)
def test_the_status_column(status, unschedulable, expected):
    """The condition Ready decides, and a cordoned node is marked."""
    conditions = [nodes.NodeCondition(type="MemoryPressure", status="True")]
    if status is not None:
        conditions.append(nodes.NodeCondition(type="Ready", status=status))
    assert cells(node({"unschedulable": unschedulable}, conditions=conditions))["Status"] == expected


def test_the_roles_column():
    """Roles of both labels, sorted and without duplicates. An empty role is ignored."""
    labels = {
        "node-role.kubernetes.io/worker": "",
        "node-role.kubernetes.io/control-plane": "x",
        "node-role.kubernetes.io/": "",
        "kubernetes.io/role": "worker",
    }
    assert cells(node(labels=labels))["Roles"] == "control-plane,worker"
    assert cells(node(labels={"kubernetes.io/role": ""}))["Roles"] == "<none>"


def test_five_columns_are_shown_in_wide_tables_only():
    """As in Kubernetes."""
    assert [column.priority for column in nodes.RESOURCE.columns] == [0] * 5 + [1] * 5


def test_nodes_can_be_selected_by_unschedulable():
    """The values are true and false."""
    select = nodes.RESOURCE.selectable["spec.unschedulable"]
    assert [select(node({"unschedulable": value})) for value in (True, False)] == ["true", "false"]


# --- defaults -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pod_cidr", "pod_cidrs", "expected"),
    [
        ("", [], ("", [])),
        ("10.1.0.0/24", [], ("10.1.0.0/24", ["10.1.0.0/24"])),
        ("", ["10.1.0.0/24", "fd00::/64"], ("10.1.0.0/24", ["10.1.0.0/24", "fd00::/64"])),
        ("10.1.0.0/24", ["10.1.0.0/24", "fd00::/64"], ("10.1.0.0/24", ["10.1.0.0/24", "fd00::/64"])),
        ("10.2.0.0/24", ["10.1.0.0/24", "fd00::/64"], ("10.2.0.0/24", ["10.2.0.0/24"])),
    ],
)
def test_pod_cidr_is_the_first_of_pod_cidrs(pod_cidr, pod_cidrs, expected):
    """If they differ, podCIDR counts: older clients know no other field."""
    obj = decode({"spec": {"podCIDR": pod_cidr, "podCIDRs": pod_cidrs}})
    assert (obj.spec.pod_cidr, obj.spec.pod_cidrs) == expected


def test_allocatable_defaults_to_the_capacity():
    """A given value is kept."""
    assert decode({"status": {"capacity": {"cpu": 4}}}).status.allocatable == {"cpu": "4"}
    reserved = decode({"status": {"capacity": {"cpu": "4"}, "allocatable": {"cpu": "3500m"}}})
    assert reserved.status.allocatable == {"cpu": "3500m"}


# --- reading and writing ------------------------------------------------------------------------------------------


def test_quantities_are_canonical():
    """They can be strings with spaces around them, or numbers. Null is 0."""
    quantities = {"cpu": 2, "memory": "1024Ki", "pods": " 110 ", "example.com/half": 0.5, "example.com/none": None}
    capacity = decode({"status": {"capacity": quantities}}).status.capacity
    assert capacity == {
        "cpu": "2", "memory": "1Mi", "pods": "110", "example.com/half": "500m", "example.com/none": "0",
    }  # fmt: skip


@pytest.mark.parametrize("quantity", ["a lot", "1KiB", "", True, [], {}])
def test_invalid_quantities_are_refused(quantity):
    """As JSON values of any type."""
    with pytest.raises(codec.DecodeError, match="quantit"):
        decode({"status": {"capacity": {"cpu": quantity}}})


def test_missing_names_of_images_are_null():
    """As in Kubernetes, where the list is always written."""
    obj = node(images=[nodes.ContainerImage(size_bytes=1), nodes.ContainerImage(names=["a"])])
    assert json.loads(codec.encode(obj))["status"]["images"] == [{"names": None, "sizeBytes": 1}, {"names": ["a"]}]


def field(number, content):
    """A field of a message, its length in one or two bytes."""
    low, high = len(content) & 127, len(content) >> 7
    return bytes([number << 3 | 2, *([low | 128, high] if high else [low])]) + content


def test_protobuf_has_the_field_numbers_of_kubernetes():
    """The message is written by hand. An object is the same after a round trip."""
    status = (
        field(1, field(1, b"cpu") + field(2, field(1, b"500m")))
        + field(5, field(1, b"InternalIP") + field(2, b"10.0.0.1"))
        + field(6, field(1, b"\x08\x8a\x50"))
        + field(7, field(7, b"v1.36.2") + field(11, b"\x08\x05"))
        + field(14, b"X")
    )
    spec = field(2, b"e") + field(3, b"x://1") + b"\x20\x01" + field(5, field(1, b"k") + field(3, b"NoExecute"))
    raw = field(1, field(1, b"n1")) + field(2, spec) + field(3, status)
    body = protobuf.PREFIX + field(1, field(1, b"v1") + field(2, b"Node")) + field(2, raw)
    decoded = protobuf.decode(body, nodes.Node, "v1").object
    assert decoded.status.capacity == {"cpu": "500m"}
    assert decoded.status.addresses == [nodes.NodeAddress(type="InternalIP", address="10.0.0.1")]
    assert decoded.status.daemon_endpoints.kubelet_endpoint.port == 10250
    assert (decoded.status.node_info.kubelet_version, decoded.status.node_info.swap.capacity) == ("v1.36.2", 5)
    assert decoded.status.declared_features == ["X"]
    assert (decoded.spec.external_id, decoded.spec.provider_id, decoded.spec.unschedulable) == ("e", "x://1", True)
    assert decoded.spec.taints == [nodes.Taint(key="k", effect="NoExecute")]
    copy = protobuf.decode(protobuf.encode(decoded, "v1", "Node"), nodes.Node, "v1").object
    assert copy == decoded


# --- validation ---------------------------------------------------------------------------------------------------

CIDR = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"
BEYOND = "must not have bits set beyond the prefix length"
ZEROS = "must not have leading 0s in IP or prefix length"
MAPPED = "must not have an IPv4-mapped IPv6 address"
UNKNOWN = "invalid PodCIDRs. failed to check with dual stack with error:invalid CIDR"
FAMILY = "may specify no more than one CIDR for each IP family"


@pytest.mark.parametrize(
    ("cidrs", "expected"),
    [
        (["10.0.0.0/24"], []),
        (["10.0.0.0/24", "fd00::/64"], []),
        (["10.0.0.7/24"], [f'spec.podCIDRs[0]: Invalid value: "10.0.0.7/24": {BEYOND}']),
        (["fd00::7/64"], [f'spec.podCIDRs[0]: Invalid value: "fd00::7/64": {BEYOND}']),
        (["010.0.0.0/24"], [f'spec.podCIDRs[0]: Invalid value: "010.0.0.0/24": {ZEROS}']),
        (["fd00::/064"], [f'spec.podCIDRs[0]: Invalid value: "fd00::/064": {ZEROS}']),
        (["::ffff:10.0.0.0/120"], [f'spec.podCIDRs[0]: Invalid value: "::ffff:10.0.0.0/120": {MAPPED}']),
        (["10.0.0.0"], [f'spec.podCIDRs[0]: Invalid value: "10.0.0.0": {CIDR}']),
        (["10.0.0.0/255.0.0.0"], [f'spec.podCIDRs[0]: Invalid value: "10.0.0.0/255.0.0.0": {CIDR}']),
        (["fd00::%1/64"], [f'spec.podCIDRs[0]: Invalid value: "fd00::%1/64": {CIDR}']),
        (
            ["10.0.0.0/24", "a"],
            [
                f'spec.podCIDRs[1]: Invalid value: "a": {CIDR}',
                f"spec.podCIDRs: Internal error: {UNKNOWN}[1]: <nil> (invalid CIDR address: a)",
                f'spec.podCIDRs: Invalid value: ["10.0.0.0/24","a"]: {FAMILY}',
            ],
        ),
        (
            ["10.0.0.0/24", "10.0.1.0/24"],
            [f'spec.podCIDRs: Invalid value: ["10.0.0.0/24","10.0.1.0/24"]: {FAMILY}'],
        ),
        (
            ["fd00::/64", "fd00::/64"],
            [f'spec.podCIDRs: Invalid value: ["fd00::/64","fd00::/64"]: {FAMILY}'],
        ),
    ],
)
def test_pod_cidrs_are_validated(cidrs, expected):
    """One network of each address family, without host bits."""
    assert texts(nodes.RESOURCE.validate(node({"pod_cidrs": cidrs}))) == expected


def test_a_deprecated_field_causes_a_warning():
    """externalID is unused by Kubernetes."""
    assert nodes.RESOURCE.warnings(node({"external_id": "x"})) == (
        "spec.externalID: this field is deprecated, and is unused by Kubernetes",
    )
    assert nodes.RESOURCE.warnings(node()) == ()


def test_taints_are_validated():
    """Keys and values are those of labels, effects are known, and pairs of key and effect are unique."""
    taints = [
        nodes.Taint(key="a", value="b c", effect="NoSchedule"),
        nodes.Taint(key="a", effect="NoExecute"),
        nodes.Taint(key="a", value="x", effect="NoExecute", time_added=LATER),
        nodes.Taint(key="a", effect="Never"),
        nodes.Taint(key="", effect=""),
    ]
    duplicate = f'{{"Key":"a","Value":"x","Effect":"NoExecute","TimeAdded":"{LATER}"}}'
    known = '"NoSchedule", "PreferNoSchedule", "NoExecute"'
    problems = texts(nodes.RESOURCE.validate(node({"taints": taints})))
    assert problems[0].startswith('metadata.taints[0].value: Invalid value: "b c": a valid label must be')
    assert problems[1:3] == [
        f"metadata.taints[2]: Duplicate value: {duplicate}: taints must be unique by key and effect pair",
        f'metadata.taints[3].effect: Unsupported value: "Never": supported values: {known}',
    ]
    assert [problem.partition(":")[0] for problem in problems[3:]] == ["metadata.taints[4].key"] * 2 + [
        "metadata.taints[4].effect"
    ]


@pytest.mark.parametrize(
    ("name", "quantity", "expected"),
    [
        ("cpu", "500m", []),
        ("cpu", "-1", ['status.capacity.cpu: Invalid value: "-1": must be greater than or equal to 0']),
        ("pods", "1500m", ['status.capacity.pods: Invalid value: "1500m": must be an integer']),
        ("example.com/gpu", "1e-3", ['status.capacity.example.com/gpu: Invalid value: "1e-3": must be an integer']),
        ("kubernetes.io/batch", "500m", []),
        ("example.com/gpu", "2k", []),
    ],
)
def test_capacities_are_validated(name, quantity, expected):
    """None is negative, and some are integers."""
    assert texts(nodes.RESOURCE.validate(node(capacity={name: quantity}))) == expected


def test_provider_and_pod_cidrs_can_be_set_once():
    """They cannot be changed or removed. externalID cannot be changed at all."""
    old = node({"provider_id": "x://1", "pod_cidrs": ["10.0.0.0/24"], "external_id": "e"})
    assert texts(nodes.RESOURCE.validate_update(old, old)) == []
    problems = texts(nodes.RESOURCE.validate_update(node(), old))
    assert problems == [
        'spec.podCIDRs: Forbidden: node updates may not change podCIDR except from "" to valid',
        'spec.providerID: Forbidden: node updates may not change providerID except from "" to valid',
        "spec.externalID: Forbidden: may not be updated",
    ]
    first = texts(nodes.RESOURCE.validate_update(node({"provider_id": "x://1", "pod_cidrs": ["10.0.0.0/24"]}), node()))
    assert first == []


def test_duplicate_addresses_are_refused_in_updates():
    """Of the node and of its status. The same address of another type is no duplicate."""
    pairs = [("InternalIP", "10.0.0.1"), ("ExternalIP", "10.0.0.1"), ("InternalIP", "10.0.0.1")]
    new = node(addresses=[nodes.NodeAddress(type=type_, address=address) for type_, address in pairs])
    expected = ['status.addresses[2]: Duplicate value: {"Type":"InternalIP","Address":"10.0.0.1"}']
    status = nodes.RESOURCE.subresource("status")
    assert texts(status.validate(new, node(), NOW)) == expected
    assert texts(nodes.RESOURCE.validate_update(new, node())) == expected
    assert texts(nodes.RESOURCE.validate(new)) == []


def test_spec_and_status_are_written_separately():
    """The status belongs to the subresource."""
    status = nodes.RESOURCE.subresource("status")
    assert (nodes.RESOURCE.owns, nodes.RESOURCE.reset_fields) == (("spec",), ("status",))
    assert (status.owns, status.reset_fields) == (("status",), ("spec",))
    assert (nodes.RESOURCE.namespaced, nodes.RESOURCE.short_names) == (False, ("no",))
