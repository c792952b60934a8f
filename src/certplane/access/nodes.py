"""The node authorizer and the NodeRestriction admission plugin.

A kubelet is `system:node:NAME` in the group system:nodes. Without a binding, it has the permissions of the role
system:node, but only for objects that are related to it. This server has no pods, so a kubelet gets its own Node and
Lease only. It can request certificates for its own name only. Source: kubernetes, `plugin/pkg/auth/authorizer/node`,
`plugin/pkg/admission/noderestriction`, `pkg/auth/nodeidentifier`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Final

from certplane import errors, signernames
from certplane.access import defaults, rbac
from certplane.access.rbac import Decision
from certplane.golang import formatting
from certplane.meta import objects, selectors
from certplane.meta.context import Attributes, User, VerbContext
from certplane.meta.objects import Object
from certplane.meta.resource import AnyObject
from certplane.registry.admission import AdmissionAttributes, Hook
from certplane.resources import certificatesigningrequests as csrs
from certplane.resources import nodes
from certplane.store import watchcache
from certplane.x509.pkcs10 import certificaterequest

_PREFIX: Final = "system:node:"
_GROUP: Final = "system:nodes"
_POD_REQUESTS: Final = (csrs.RESOURCE.group, "podcertificaterequests")
_UNKNOWN: Final = "Unknown"
_LEASES: Final = ("coordination.k8s.io", "leases")
_LEASE_NAMESPACE: Final = "kube-node-lease"
_OTHER_LEASES: Final = f"can only access leases in the {formatting.quote(_LEASE_NAMESPACE)} system namespace"
_OTHER_LEASE: Final = "can only access node lease with the same name as the requesting node"
#: Returns an object by plural, namespace and name; None if there is none.
Find = Callable[[str, str, str], AnyObject | None]
Answer = Callable[[AnyObject, VerbContext], Awaitable[Object]]
#: Why a node, given by name, is not allowed a request; None if it is allowed. The reason may be empty.
AccessCheck = Callable[[Attributes, str], str | None]
_RESTRICTED: Final = (signernames.KUBELET_SERVING, signernames.KUBE_APISERVER_CLIENT_KUBELET)


def is_node(user: User) -> bool:
    """Whether a user is a node: it has the name prefix and the group of nodes."""
    return user.name.startswith(_PREFIX) and _GROUP in user.groups


class Authorizer(rbac.Authorizer):
    """The node authorizer, followed by RBAC."""

    def __init__(
        self,
        collection: Callable[[str], watchcache.Collection],
        decode: Callable[[str], rbac.Decode],
        find: Find,
        kinds: Collection[str],
    ) -> None:
        """`kinds` are the plurals of all served kinds: optional kinds add permissions of nodes."""
        super().__init__(collection, decode)
        self._find = find
        self._rules = tuple(map(rbac.CompiledRule, defaults.node_rules(kinds)))
        self._checks = dict(_CHECKS)
        self._checks[_POD_REQUESTS] = (
            self._check_pod_request_access if _POD_REQUESTS[1] in kinds else _refuse_without_reason
        )

    def authorize(self, attributes: Attributes) -> Decision:
        if not is_node(attributes.user):
            return super().authorize(attributes)
        node = attributes.user.name.removeprefix(_PREFIX)
        problem = (
            self._problem(attributes, node)
            if node
            else f"unknown node for user {formatting.quote(attributes.user.name)}"
        )
        return Decision(True) if problem is None else _with_reason(super().authorize(attributes), problem)

    def _problem(self, attributes: Attributes, node: str) -> str | None:
        """Why a node is not allowed a request; None if it is allowed. The reason may be empty."""
        check = self._checks.get((attributes.group, attributes.resource)) if attributes.is_resource else None
        if check is not None:
            return check(attributes, node)
        return None if any(rule.allows(attributes) for rule in self._rules) else ""

    def _check_pod_request_access(self, attributes: Attributes, node: str) -> str | None:
        """A node reads the requests for pods on itself only."""
        if attributes.subresource:
            return "nodes may not access the status subresource of PodCertificateRequests"
        if attributes.verb == "create":
            return None
        if attributes.verb == "get":
            request = self._find(_POD_REQUESTS[1], attributes.namespace, attributes.name)
            return None if request is not None and request.spec.node_name == node else _unrelated(attributes, node)
        if attributes.verb not in ("list", "watch"):
            return f"nodes may not {attributes.verb} podcertificaterequests"
        if _selects(attributes, "spec.nodeName", node):
            return None
        return "can only list/watch podcertificaterequests with nodeName field selector"


def _selects(attributes: Attributes, field: str, value: str) -> bool:
    return selectors.Term(field, "=", value) in attributes.field_selector.terms


def _refuse_without_reason(attributes: Attributes, node: str) -> str:
    del attributes, node
    return ""


def _unrelated(attributes: Attributes, node: str) -> str:
    """The reason for an object that is related to nodes through pods only: this server has no pods."""
    return f"no relationship found between node '{node}' and this object" if attributes.name else "No Object name found"


def _check_read_access(attributes: Attributes, node: str) -> str:
    if attributes.verb not in ("get", "list", "watch"):
        return "can only read resources of this type"
    if attributes.subresource:
        return "cannot read subresource"
    return _unrelated(attributes, node) if attributes.namespace else "can only read namespaced object of this type"


def _check_get_access(attributes: Attributes, node: str) -> str:
    if attributes.verb != "get":
        return "can only get individual resources of this type"
    return "cannot get subresource" if attributes.subresource else _unrelated(attributes, node)


def _check_claim_access(attributes: Attributes, node: str) -> str:
    if attributes.subresource != "status":
        return _check_get_access(attributes, node)
    return (
        _unrelated(attributes, node)
        if attributes.verb in ("update", "patch")
        else "can only get/update/patch this type"
    )


def _check_account_access(attributes: Attributes, node: str) -> str:
    if attributes.verb == "get" and not attributes.subresource:
        return _check_read_access(attributes, node)
    if attributes.verb != "create" or not attributes.name:
        return "can only create tokens for individual service accounts"
    return (
        _unrelated(attributes, node)
        if attributes.subresource == "token"
        else "can only create token subresource of serviceaccount"
    )


_OWN_VERBS: Final = ("get", "create", "update", "patch", "delete")


def _check_lease_access(attributes: Attributes, node: str) -> str | None:
    if attributes.verb not in _OWN_VERBS:
        return "can only get, create, update, patch, or delete a node lease"
    if attributes.namespace != _LEASE_NAMESPACE:
        return _OTHER_LEASES
    # The name of a new lease is in the body: `admission_hook` checks it.
    return None if attributes.verb == "create" or attributes.name == node else _OTHER_LEASE


def _check_csi_node_access(attributes: Attributes, node: str) -> str | None:
    if attributes.verb not in _OWN_VERBS:
        return "can only get, create, update, patch, or delete a CSINode"
    if attributes.subresource:
        return "cannot authorize CSINode subresources"
    if attributes.verb == "create" or attributes.name == node:
        return None
    return "can only access CSINode with the same name as the requesting node"


def _check_slice_access(attributes: Attributes, node: str) -> str | None:
    if attributes.subresource:
        return "cannot authorize ResourceSlice subresources"
    if attributes.verb == "create":
        return None
    if attributes.verb in ("get", "update", "patch", "delete"):
        return _unrelated(attributes, node)
    if attributes.verb in ("watch", "list", "deletecollection"):
        if _selects(attributes, "spec.nodeName", node):
            return None
        return "can only list/watch/deletecollection resourceslices with nodeName field selector"
    return (
        "only the following verbs are allowed for a ResourceSlice: "
        "get, watch, list, create, update, patch, delete, deletecollection"
    )


def _check_node_access(attributes: Attributes, node: str) -> str | None:
    if (attributes.subresource, attributes.verb) in _NODE_WRITES:
        return None
    if attributes.subresource or attributes.verb not in ("get", "list", "watch"):
        return ""
    if not attributes.name:
        return f"node '{node}' cannot read all nodes, only its own Node object"
    return (
        None if attributes.name == node else f"node '{node}' cannot read '{attributes.name}', only its own Node object"
    )


_NODE_WRITES: Final = frozenset(
    {("", "create"), ("", "update"), ("", "patch"), ("status", "update"), ("status", "patch")}
)


def _check_pod_access(attributes: Attributes, node: str) -> str | None:
    if (attributes.subresource, attributes.verb) in _POD_WRITES:
        return None
    if attributes.subresource or attributes.verb not in ("get", "list", "watch"):
        return ""
    if attributes.verb == "get" or attributes.name:
        return _unrelated(attributes, node)
    return (
        None
        if _selects(attributes, "spec.nodeName", node)
        else "can only list/watch pods with spec.nodeName field selector"
    )


_POD_WRITES: Final = frozenset(
    {("", "create"), ("", "delete"), ("status", "update"), ("status", "patch"), ("eviction", "create")}
)

#: Resources for which RBAC rules are not enough, because a node may access related objects only.
_CHECKS: Final[Mapping[tuple[str, str], AccessCheck]] = {
    ("", "configmaps"): _check_read_access,
    ("", "secrets"): _check_read_access,
    ("", "persistentvolumeclaims"): _check_claim_access,
    ("", "persistentvolumes"): _check_get_access,
    ("resource.k8s.io", "resourceclaims"): _check_get_access,
    ("storage.k8s.io", "volumeattachments"): _check_get_access,
    ("", "serviceaccounts"): _check_account_access,
    _LEASES: _check_lease_access,
    ("resource.k8s.io", "resourceslices"): _check_slice_access,
    ("storage.k8s.io", "csinodes"): _check_csi_node_access,
    ("", "nodes"): _check_node_access,
    ("", "pods"): _check_pod_access,
}


def _with_reason(decision: Decision, reason: str) -> Decision:
    if decision.allowed or not reason:
        return decision
    return Decision(False, "\n".join(filter(None, (reason, decision.reason))))


def admission_hook(find: Find) -> Hook:
    """The NodeRestriction admission hook: a node writes only its own Node and Lease, and requests certificates only for
    its own name and its own pods.
    """

    def check(write: AdmissionAttributes) -> None:
        user = write.call.user
        if not is_node(user):
            return
        if user.name == _PREFIX:
            raise _refusal(write, _unknown_node_message(user))
        kind = (write.resource.group, write.resource.plural)
        if kind == (nodes.RESOURCE.group, nodes.RESOURCE.plural):
            _check_own_node(write)
        elif kind == _LEASES:
            _check_lease(write)
        elif (*kind, write.subresource, write.operation) == (csrs.RESOURCE.group, csrs.RESOURCE.plural, "", "create"):
            _check_csr(write)
        elif kind == _POD_REQUESTS:
            _check_pod_request(write, find)

    return check


def restrict(answer: Answer) -> Answer:
    """Wraps the function that answers a review or TokenRequest: a node gets tokens only for pods that run on it."""

    async def restricted_answer(body: AnyObject, call: VerbContext) -> Object:
        problem = _restriction_problem(body, call) if is_node(call.user) else ""
        if problem:
            name = call.info.name or _sent_name(body.metadata)
            raise errors.Forbidden.for_object(call.info.resource, call.info.group, name, problem)
        return await answer(body, call)

    return restricted_answer


def _restriction_problem(body: AnyObject, call: VerbContext) -> str:
    if call.user.name == _PREFIX:
        return _unknown_node_message(call.user)
    if (call.info.resource, call.info.subresource) != ("serviceaccounts", "token"):
        return ""
    ref = body.spec.bound_object_ref
    if ref is None or (ref.api_version, ref.kind) != ("v1", "Pod") or not ref.name:
        return "node requested token not bound to a pod"
    if not ref.uid:
        return "node requested token with a pod binding without a uid"
    # This server has no pods.
    raise errors.NotFound("pod", "", ref.name)


def _unknown_node_message(user: User) -> str:
    return f"could not determine node from user {formatting.quote(user.name)}"


def _check_own_node(write: AdmissionAttributes) -> None:
    """A node writes its own Node only, without taints, owner references and labels that others rely on."""
    node_name = write.call.user.name.removeprefix(_PREFIX)
    node = formatting.quote(node_name)
    name = write.new.metadata.name if write.operation == "create" else write.name
    if name != node_name:
        raise _refusal(write, f"node {node} is not allowed to modify node {formatting.quote(name)}")
    if write.operation == "create":
        labels = _forbidden_labels(write.new.metadata.labels, {})
        if labels:
            raise _refusal(write, f"node {node} is not allowed to set the following labels: {', '.join(labels)}")
    if write.operation != "update":
        return
    if write.new.spec.taints != write.old.spec.taints:
        raise _refusal(write, f"node {node} is not allowed to modify taints")
    if write.new.metadata.owner_references != write.old.metadata.owner_references:
        raise _refusal(write, f"node {node} is not allowed to modify ownerReferences")
    labels = _forbidden_labels(write.new.metadata.labels, write.old.metadata.labels)
    if labels:
        raise _refusal(write, f"is not allowed to modify labels: {', '.join(labels)}")


def _forbidden_labels(new: Mapping[str, str], old: Mapping[str, str]) -> list[str]:
    """The changed labels that a node must not set, because schedulers and policies trust them."""
    changed = sorted(key for key in {*new, *old} if new.get(key) != old.get(key))
    return [key for key in changed if not _is_allowed_label(key)]


def _is_allowed_label(key: str) -> bool:
    domain = key.partition("/")[0] if "/" in key else ""
    if not _is_within(domain, _RESERVED_DOMAINS) or key in _KUBELET_LABELS:
        return True
    return _is_within(domain, _KUBELET_DOMAINS)


def _is_within(domain: str, parents: Sequence[str]) -> bool:
    return any(domain == parent or domain.endswith(f".{parent}") for parent in parents)


_RESERVED_DOMAINS: Final = ("kubernetes.io", "k8s.io")
_KUBELET_DOMAINS: Final = ("kubelet.kubernetes.io", "node.kubernetes.io")
#: Labels in reserved domains that every kubelet sets on its Node.
_KUBELET_LABELS: Final = frozenset(
    {
        "kubernetes.io/hostname", "kubernetes.io/arch", "kubernetes.io/os", "beta.kubernetes.io/arch",
        "beta.kubernetes.io/os", "beta.kubernetes.io/instance-type", "topology.kubernetes.io/zone",
        "topology.kubernetes.io/region", "failure-domain.beta.kubernetes.io/zone",
        "failure-domain.beta.kubernetes.io/region",
    }
)  # fmt: skip


def _check_csr(write: AdmissionAttributes) -> None:
    user = write.call.user
    if write.new.spec.signer_name not in _RESTRICTED:
        return
    try:
        pkcs10 = certificaterequest.parse(write.new.spec.request or b"")
    except certificaterequest.RequestError as error:
        raise _refusal(write, f"unable to parse csr: {error}") from error
    if pkcs10.common_name != user.name:
        raise _refusal(write, f"can only create a node CSR with CN={user.name}")


def _check_lease(write: AdmissionAttributes) -> None:
    if write.namespace != _LEASE_NAMESPACE:
        raise _refusal(write, _OTHER_LEASES)
    name = write.new.metadata.name if write.operation == "create" else write.name
    if name != write.call.user.name.removeprefix(_PREFIX):
        raise _refusal(write, _OTHER_LEASE)


def _check_pod_request(write: AdmissionAttributes, find: Find) -> None:
    """A node requests certificates for pods on itself. This server has no pods, so such a request always fails."""
    if write.operation != "create":
        raise _refusal(write, f"unexpected operation {write.operation.upper()}")
    if write.subresource:
        raise _refusal(write, f"unexpected subresource {write.subresource}")
    spec, node = write.new.spec, write.call.user.name.removeprefix(_PREFIX)
    if spec.node_name != node:
        named, own = formatting.quote(spec.node_name), formatting.quote(node)
        raise _refusal(write, f"PodCertificateRequest.Spec.NodeName={named}, which is not the requesting node {own}")
    # These are no refusals, because the objects may still appear: the kubelet retries.
    node_object = find("nodes", "", node)
    if node_object is None:
        raise errors.UnknownReasonError(_not_retrieved("node", formatting.quote(node), formatting.quote(node)))
    pod = formatting.quote(f"{write.namespace}/{spec.pod_name}")
    if node_object.metadata.uid != spec.node_uid:
        named, running = formatting.quote(spec.node_uid), formatting.quote(node_object.metadata.uid)
        why = f"names node UID {named}, inconsistent with the running node ({running})"
        raise errors.UnknownReasonError(f"PodCertificateRequest for pod {pod} {why}")
    raise errors.UnknownReasonError(_not_retrieved("pod", pod, formatting.quote(spec.pod_name)))


def _not_retrieved(kind: str, named: str, name: str) -> str:
    return f"while retrieving {kind} {named} named in the PodCertificateRequest: {kind} {name} not found"


def _refusal(write: AdmissionAttributes, why: str) -> errors.Forbidden:
    name = write.name or (_sent_name(write.new.metadata) if write.new is not None else _UNKNOWN)
    return errors.Forbidden.for_object(write.resource.plural, write.resource.group, name, why)


def _sent_name(meta: objects.ObjectMeta) -> str:
    """The name in a refusal for an object that has no name yet."""
    return meta.name or meta.generate_name or _UNKNOWN
