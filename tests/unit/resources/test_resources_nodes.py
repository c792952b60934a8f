"""Node: what others say about a machine, and what it says about itself."""

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


def read(document):
    """A document as the server takes it, with what clients leave out."""
    obj = codec.decode_tree(codec.parse_json(json.dumps(document).encode()), nodes.Node).object
    nodes.RESOURCE.default(obj)
    return obj


def cells(node):
    return {column.name: column.cell(node, NOW) for column in nodes.RESOURCE.columns}


def texts(problems):
    return [str(problem) for problem in problems]


# --- columns ------------------------------------------------------------------------------------------------------


def test_a_silent_node_has_columns():
    """Nothing is known: nothing is claimed."""
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


def test_a_kernel_is_for_processors():
    """Which ones stands behind its version, if that is known."""
    for version, architecture, expected in (("6.1", "amd64", "6.1 (amd64)"), ("6.1", "", "6.1"), ("", "", "<unknown>")):
        info = nodes.NodeSystemInfo(kernel_version=version, architecture=architecture)
        assert cells(node(node_info=info))["Kernel-Version"] == expected


def test_a_node_shows_what_it_said():
    """Versions, and the first address of each kind."""
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
def test_status_is_readiness(status, unschedulable, expected):
    """Only the condition Ready counts; a node that is cordoned says so."""
    conditions = [nodes.NodeCondition(type="MemoryPressure", status="True")]
    if status is not None:
        conditions.append(nodes.NodeCondition(type="Ready", status=status))
    assert cells(node({"unschedulable": unschedulable}, conditions=conditions))["Status"] == expected


def test_roles_come_from_labels():
    """Of both spellings, sorted, each once; an empty role is none."""
    labels = {
        "node-role.kubernetes.io/worker": "",
        "node-role.kubernetes.io/control-plane": "x",
        "node-role.kubernetes.io/": "",
        "kubernetes.io/role": "worker",
    }
    assert cells(node(labels=labels))["Roles"] == "control-plane,worker"
    assert cells(node(labels={"kubernetes.io/role": ""}))["Roles"] == "<none>"


def test_five_columns_are_for_wide_tables():
    """As kubectl knows them."""
    assert [column.priority for column in nodes.RESOURCE.columns] == [0] * 5 + [1] * 5


def test_nodes_are_selected_by_being_schedulable():
    """`spec.unschedulable` is true or false."""
    select = nodes.RESOURCE.selectable["spec.unschedulable"]
    assert [select(node({"unschedulable": value})) for value in (True, False)] == ["true", "false"]


# --- defaults -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "all_", "expected"),
    [
        ("", [], ("", [])),
        ("10.1.0.0/24", [], ("10.1.0.0/24", ["10.1.0.0/24"])),
        ("", ["10.1.0.0/24", "fd00::/64"], ("10.1.0.0/24", ["10.1.0.0/24", "fd00::/64"])),
        ("10.1.0.0/24", ["10.1.0.0/24", "fd00::/64"], ("10.1.0.0/24", ["10.1.0.0/24", "fd00::/64"])),
        ("10.2.0.0/24", ["10.1.0.0/24", "fd00::/64"], ("10.2.0.0/24", ["10.2.0.0/24"])),
    ],
)
def test_pod_cidr_is_the_first_of_all(one, all_, expected):
    """Where the two differ, the older field wins, for the sake of those who know no other."""
    obj = read({"spec": {"podCIDR": one, "podCIDRs": all_}})
    assert (obj.spec.pod_cidr, obj.spec.pod_cidrs) == expected


def test_what_pods_can_have_is_all_there_is():
    """Unless the node says otherwise."""
    assert read({"status": {"capacity": {"cpu": 4}}}).status.allocatable == {"cpu": "4"}
    less = read({"status": {"capacity": {"cpu": "4"}, "allocatable": {"cpu": "3500m"}}})
    assert less.status.allocatable == {"cpu": "3500m"}


# --- reading and writing ------------------------------------------------------------------------------------------


def test_amounts_are_written_canonically():
    """From strings and numbers, with spaces around them; null is nothing of it."""
    quantities = {"cpu": 2, "memory": "1024Ki", "pods": " 110 ", "example.com/half": 0.5, "example.com/none": None}
    capacity = read({"status": {"capacity": quantities}}).status.capacity
    assert capacity == {
        "cpu": "2", "memory": "1Mi", "pods": "110", "example.com/half": "500m", "example.com/none": "0",
    }  # fmt: skip


@pytest.mark.parametrize("amount", ["a lot", "1KiB", "", True, [], {}])
def test_what_is_no_amount_is_refused(amount):
    """With the reason that Go gives."""
    with pytest.raises(codec.DecodeError, match="quantit"):
        read({"status": {"capacity": {"cpu": amount}}})


def test_images_without_names_say_so():
    """Null, as in Kubernetes, where the list is always written."""
    obj = node(images=[nodes.ContainerImage(size_bytes=1), nodes.ContainerImage(names=["a"])])
    assert json.loads(codec.encode(obj))["status"]["images"] == [{"names": None, "sizeBytes": 1}, {"names": ["a"]}]


def field(number, content):
    """A field of a message, its length in one or two bytes."""
    low, high = len(content) & 127, len(content) >> 7
    return bytes([number << 3 | 2, *([low | 128, high] if high else [low])]) + content


def test_the_numbers_of_the_messages_are_those_of_kubernetes():
    """A capacity is a map of messages with one text; the kubelet's port is two messages deep."""
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
    again = protobuf.decode(protobuf.encode(decoded, "v1", "Node"), nodes.Node, "v1").object
    assert again == decoded


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
def test_pods_have_addresses_of_each_family_once(cidrs, expected):
    """An address with a number of bits; not an address alone, and no mask."""
    assert texts(nodes.RESOURCE.validate(node({"pod_cidrs": cidrs}))) == expected


def test_what_nobody_uses_any_more_is_taken_with_a_warning():
    """An externalID is stored, with a warning that it is unused."""
    assert nodes.RESOURCE.warnings(node({"external_id": "x"})) == (
        "spec.externalID: this field is deprecated, and is unused by Kubernetes",
    )
    assert nodes.RESOURCE.warnings(node()) == ()


def test_taints_are_judged():
    """Keys and values are those of labels, effects are known, a pair of key and effect is there once."""
    taints = [
        nodes.Taint(key="a", value="b c", effect="NoSchedule"),
        nodes.Taint(key="a", effect="NoExecute"),
        nodes.Taint(key="a", value="x", effect="NoExecute", time_added=LATER),
        nodes.Taint(key="a", effect="Never"),
        nodes.Taint(key="", effect=""),
    ]
    again = f'{{"Key":"a","Value":"x","Effect":"NoExecute","TimeAdded":"{LATER}"}}'
    known = '"NoSchedule", "PreferNoSchedule", "NoExecute"'
    problems = texts(nodes.RESOURCE.validate(node({"taints": taints})))
    assert problems[0].startswith('metadata.taints[0].value: Invalid value: "b c": a valid label must be')
    assert problems[1:3] == [
        f"metadata.taints[2]: Duplicate value: {again}: taints must be unique by key and effect pair",
        f'metadata.taints[3].effect: Unsupported value: "Never": supported values: {known}',
    ]
    assert [problem.partition(":")[0] for problem in problems[3:]] == ["metadata.taints[4].key"] * 2 + [
        "metadata.taints[4].effect"
    ]


@pytest.mark.parametrize(
    ("name", "amount", "expected"),
    [
        ("cpu", "500m", []),
        ("cpu", "-1", ['status.capacity.cpu: Invalid value: "-1": must be greater than or equal to 0']),
        ("pods", "1500m", ['status.capacity.pods: Invalid value: "1500m": must be an integer']),
        ("example.com/gpu", "1e-3", ['status.capacity.example.com/gpu: Invalid value: "1e-3": must be an integer']),
        ("kubernetes.io/batch", "500m", []),
        ("example.com/gpu", "2k", []),
    ],
)
def test_amounts_are_judged(name, amount, expected):
    """None is negative, and of some things there are no halves."""
    assert texts(nodes.RESOURCE.validate(node(capacity={name: amount}))) == expected


def test_some_things_are_said_once():
    """Who provides a machine, and its pods' addresses: set once, never changed, not taken back."""
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


def test_an_address_is_reported_once():
    """Through either door; the same address of another kind is another one."""
    pairs = [("InternalIP", "10.0.0.1"), ("ExternalIP", "10.0.0.1"), ("InternalIP", "10.0.0.1")]
    new = node(addresses=[nodes.NodeAddress(type=type_, address=address) for type_, address in pairs])
    expected = ['status.addresses[2]: Duplicate value: {"Type":"InternalIP","Address":"10.0.0.1"}']
    door = nodes.RESOURCE.subresource("status")
    assert texts(door.validate(new, node(), NOW)) == expected
    assert texts(nodes.RESOURCE.validate_update(new, node())) == expected
    assert texts(nodes.RESOURCE.validate(new)) == []


def test_each_door_owns_its_part():
    """The spec is others', the status is the node's own."""
    door = nodes.RESOURCE.subresource("status")
    assert (nodes.RESOURCE.owns, nodes.RESOURCE.reset_fields) == (("spec",), ("status",))
    assert (door.owns, door.reset_fields) == (("status",), ("spec",))
    assert (nodes.RESOURCE.namespaced, nodes.RESOURCE.short_names) == (False, ("no",))
