"""What a node may access of objects that belong to pods, and what its own writes may contain."""

from __future__ import annotations

import pytest

from certplane import errors, testing
from certplane.access import nodes as access
from certplane.meta import context, objects, selectors
from certplane.registry.admission import AdmissionAttributes
from certplane.resources import certificatesigningrequests as csrs
from certplane.resources import leases, nodes
from certplane.resources import podcertificaterequests as pcrs

NODE = context.User("system:node:n1", groups=("system:nodes",))
UNRELATED = "no relationship found between node 'n1' and this object"
POD_REQUESTS = "certificates.k8s.io/podcertificaterequests"


class EmptyCollection:
    """A collection without entries."""

    def subscribe(self, callback):
        pass

    def list(self):
        return [], 0


def decide(verb, resource, name="", namespace="ns", existing=None, fields=""):
    """The reason of a refusal, None if the request is allowed. `resource` is group/resource/subresource."""
    group, _, resource = resource.partition("/")
    resource, _, subresource = resource.partition("/")
    authorizer = access.Authorizer(
        lambda _: EmptyCollection(), lambda _: None, lambda *_: existing, ["podcertificaterequests"]
    )
    selector = selectors.parse_fields(fields) if fields else selectors.EVERYTHING
    attributes = context.Attributes(
        NODE, verb, group, "v1", resource, subresource, name, namespace, field_selector=selector
    )
    decision = authorizer.authorize(attributes)
    return None if decision.allowed else decision.reason


@pytest.mark.parametrize(
    ("verb", "resource", "expected"),
    [
        ("get", "/secrets/x", "cannot read subresource"),
        ("delete", "/secrets", "can only read resources of this type"),
        ("get", "/persistentvolumeclaims", UNRELATED),
        ("list", "/persistentvolumeclaims", "can only get individual resources of this type"),
        ("update", "/persistentvolumeclaims", "can only get individual resources of this type"),
        ("update", "/persistentvolumeclaims/status", UNRELATED),
        ("patch", "/persistentvolumeclaims/status", UNRELATED),
        ("delete", "/persistentvolumeclaims/status", "can only get/update/patch this type"),
        ("get", "/persistentvolumes", UNRELATED),
        ("watch", "/persistentvolumes", "can only get individual resources of this type"),
        ("get", "/persistentvolumes/status", "cannot get subresource"),
        ("get", "storage.k8s.io/volumeattachments", UNRELATED),
        ("get", "resource.k8s.io/resourceclaims", UNRELATED),
        ("create", "/serviceaccounts", "can only create token subresource of serviceaccount"),
        ("create", "/serviceaccounts/other", "can only create token subresource of serviceaccount"),
        ("create", "/pods", None),
        ("delete", "/pods", None),
        ("create", "/pods/eviction", None),
        ("update", "/pods/status", None),
        ("update", "/pods", ""),
        ("get", "/pods/log", ""),
        ("get", "/pods", UNRELATED),
        ("watch", "/pods", UNRELATED),
        ("get", "resource.k8s.io/resourceslices/status", "cannot authorize ResourceSlice subresources"),
        (
            "deletecollections",
            "resource.k8s.io/resourceslices",
            (
                "only the following verbs are allowed for a ResourceSlice: "
                "get, watch, list, create, update, patch, delete, deletecollection"
            ),
        ),
        ("get", f"{POD_REQUESTS}/status", "nodes may not access the status subresource of PodCertificateRequests"),
        ("create", POD_REQUESTS, None),
        ("delete", POD_REQUESTS, "nodes may not delete podcertificaterequests"),
    ],
)  # fmt: skip
def test_objects_of_pods_are_unrelated(verb, resource, expected):
    """This server has no pods, so no object is related to a node through one; the reasons are those of Kubernetes."""
    assert decide(verb, resource, "x") == expected


@pytest.mark.parametrize("verb", ["get", "create", "update", "patch", "delete"])
def test_a_node_accesses_its_own_csi_node(verb):
    """By its name; a new one has no name in its path."""
    other = None if verb == "create" else "can only access CSINode with the same name as the requesting node"
    assert decide(verb, "storage.k8s.io/csinodes", "n1") is None
    assert decide(verb, "storage.k8s.io/csinodes", "n2") == other
    assert decide(verb, "storage.k8s.io/csinodes/x", "n1") == "cannot authorize CSINode subresources"


@pytest.mark.parametrize("verb", ["list", "watch", "deletecollection"])
def test_csi_nodes_cannot_be_listed(verb):
    """They are those of all nodes."""
    expected = "can only get, create, update, patch, or delete a CSINode"
    assert decide(verb, "storage.k8s.io/csinodes", "n1") == expected


def pod_request(node="n1", **spec):
    values = {"signer_name": "example.com/a", "pod_name": "p", "node_name": node, "node_uid": "u1"}
    request = pcrs.PodCertificateRequest(spec=pcrs.PodCertificateRequestSpec(**{**values, **spec}))
    request.metadata.name, request.metadata.namespace = "r", "ns"
    return request


@pytest.mark.parametrize(
    ("existing", "expected"), [(pod_request("n1"), None), (pod_request("n2"), UNRELATED), (None, UNRELATED)]
)
def test_a_node_reads_the_pod_certificate_requests_for_itself(existing, expected):
    """The stored object counts; lists are restricted by a field selector."""
    assert decide("get", POD_REQUESTS, "r", existing=existing) == expected
    assert decide("list", POD_REQUESTS, fields="spec.nodeName=n1") is None
    assert decide("watch", POD_REQUESTS, fields="spec.nodeName=n2") == (
        "can only list/watch podcertificaterequests with nodeName field selector"
    )


# --- admission ----------------------------------------------------------------------------------------------------


def admit(resource, new, old=None, *, operation="create", subresource="", user=NODE, existing=None):
    """The error of the hook for a write; empty if it is admitted."""
    meta = (new if new is not None else old).metadata
    clock = testing.FakeClock()
    info = context.RequestInfo("", operation, True, resource.group, resource.version, meta.namespace, resource.plural)
    call = context.VerbContext(user, info, clock.now())
    review = AdmissionAttributes(operation, resource, subresource, meta.namespace, meta.name, new, old, call)
    try:
        access.admission_hook(lambda *_: existing)(review)
    except errors.APIError as error:
        return error.message.partition("is forbidden: ")[2] or error.message
    return ""


def node(uid="u1", **meta):
    return nodes.Node(metadata=objects.ObjectMeta(name="n1", uid=uid, **meta))


@pytest.mark.parametrize(
    ("request_", "options", "expected"),
    [
        (pod_request(), {"operation": "update"}, "unexpected operation UPDATE"),
        (pod_request(), {"subresource": "status"}, "unexpected subresource status"),
        (
            pod_request("n2"),
            {"existing": node()},
            'PodCertificateRequest.Spec.NodeName="n2", which is not the requesting node "n1"',
        ),
        (pod_request(), {}, 'while retrieving node "n1" named in the PodCertificateRequest: node "n1" not found'),
        (
            pod_request(node_uid="u2"),
            {"existing": node()},
            'PodCertificateRequest for pod "ns/p" names node UID "u2", inconsistent with the running node ("u1")',
        ),
        (
            pod_request(),
            {"existing": node()},
            'while retrieving pod "ns/p" named in the PodCertificateRequest: pod "p" not found',
        ),
    ],
)
def test_a_node_requests_no_certificate_for_a_pod(request_, options, expected):
    """The pod would have to run on it; another user's request is not checked here."""
    options = {"operation": "create", **options}
    assert admit(pcrs.RESOURCE, request_, request_ if options["operation"] == "update" else None, **options) == expected
    assert admit(pcrs.RESOURCE, request_, user=context.User("jane")) == ""


OWNER = [objects.OwnerReference("v1", "Node", "n1", "u1")]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ""),
        ({"labels": {"example.com/a": "b"}}, ""),
        ({"labels": {"node.kubernetes.io/a": "b"}}, ""),
        ({"labels": {"kubernetes.io/hostname": "b"}}, ""),
        ({"annotations": {"kubernetes.io/a": "b"}}, ""),
        ({"labels": {"kubernetes.io/a": "b"}}, "is not allowed to modify labels: kubernetes.io/a"),
        ({"labels": {"x.k8s.io/a": "b"}}, "is not allowed to modify labels: x.k8s.io/a"),
        (
            {"labels": {"node-restriction.kubernetes.io/a": "b"}},
            "is not allowed to modify labels: node-restriction.kubernetes.io/a",
        ),
        ({"owner_references": OWNER}, 'node "n1" is not allowed to modify ownerReferences'),
    ],
)
def test_a_node_changes_its_own_node(changes, expected):
    """Except for labels and owners that others rely on; removing them is a change as well."""
    assert admit(nodes.RESOURCE, node(**changes), node(), operation="update") == expected
    assert admit(nodes.RESOURCE, node(), node(**changes), operation="update") == expected
    assert admit(nodes.RESOURCE, node(**changes), node(**changes), operation="update") == ""


@pytest.mark.parametrize(
    ("namespace", "name", "expected"),
    [
        ("kube-node-lease", "n1", ""),
        ("kube-node-lease", "n2", "can only access node lease with the same name as the requesting node"),
        ("kube-system", "n1", 'can only access leases in the "kube-node-lease" system namespace'),
    ],
)
def test_a_node_writes_its_own_lease(namespace, name, expected):
    """A new lease has its name in the body only."""
    lease = leases.Lease(metadata=objects.ObjectMeta(name=name, namespace=namespace))
    assert admit(leases.RESOURCE, lease) == expected


@pytest.mark.parametrize("signer", ["kubernetes.io/kubelet-serving", "kubernetes.io/kube-apiserver-client-kubelet"])
def test_a_node_requests_certificates_for_its_own_name(signer):
    """From the signers for kubelets; a request that cannot be parsed is refused."""
    for common_name, expected in (
        ("system:node:n1", ""),
        ("system:node:n2", "can only create a node CSR with CN=system:node:n1"),
    ):
        request = testing.new_pkcs10(common_name)
        csr = csrs.CertificateSigningRequest(
            spec=csrs.CertificateSigningRequestSpec(request=request, signer_name=signer)
        )
        assert admit(csrs.RESOURCE, csr) == expected
        csr.spec.signer_name = "example.com/other"
        assert admit(csrs.RESOURCE, csr) == ""
    csr.spec.request, csr.spec.signer_name = b"garbage", signer
    assert admit(csrs.RESOURCE, csr).startswith("unable to parse csr: ")


def test_a_node_without_a_name_writes_nothing():
    """Its permissions cannot be restricted to a node."""
    nameless = context.User("system:node:", groups=("system:nodes",))
    assert admit(nodes.RESOURCE, node(), user=nameless) == 'could not determine node from user "system:node:"'
