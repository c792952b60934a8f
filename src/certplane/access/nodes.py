"""Nodes: what each of them may do without a binding, and what none of them may ask for.

A kubelet is `system:node:NAME` in the group system:nodes. It has the rights of the role system:node without a binding,
but of what belongs to nodes or their pods only its own: its lease, and of the rest nothing, as no pods run here. And it
may ask for certificates of its own name only. Source: kubernetes, `plugin/pkg/auth/authorizer/node`,
`plugin/pkg/admission/noderestriction`, `pkg/auth/nodeidentifier`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, Final

from certplane import errors, gotext
from certplane.access import defaults, rbac
from certplane.meta import context, objects, selectors
from certplane.registry import admission
from certplane.resources import certificatesigningrequests as csrs
from certplane.resources import nodes as machines
from certplane.store import watchcache
from certplane.x509 import csr, profiles

_PREFIX: Final = "system:node:"
_GROUP: Final = "system:nodes"
_POD_REQUESTS: Final = (csrs.RESOURCE.group, "podcertificaterequests")
_UNKNOWN: Final = "Unknown"
_LEASES: Final = ("coordination.k8s.io", "leases")
_LEASE_NAMESPACE: Final = "kube-node-lease"
_OTHER_LEASES: Final = f"can only access leases in the {gotext.quote(_LEASE_NAMESPACE)} system namespace"
_OTHER_LEASE: Final = "can only access node lease with the same name as the requesting node"
#: An object by plural, namespace and name; None if there is none.
Find = Callable[[str, str, str], Any | None]
Answer = Callable[[Any, context.Call], Awaitable[Any]]
#: Why a node, given by name, may not do something, perhaps without a word; None if it may.
Judge = Callable[[context.Attributes, str], str | None]
_RESTRICTED: Final = (profiles.KUBELET_SERVING, profiles.KUBE_APISERVER_CLIENT_KUBELET)


def is_node(user: context.User) -> bool:
    """Both the name and the group make a node; neither alone does."""
    return user.name.startswith(_PREFIX) and _GROUP in user.groups


class Authorizer(rbac.Authorizer):
    """RBAC, and before it what every node may do."""

    def __init__(
        self,
        collection: Callable[[str], watchcache.Collection],
        decode: Callable[[str], rbac.Decode],
        find: Find,
        kinds: Collection[str],
    ) -> None:
        """`find` gives an object, `kinds` are the plurals of all kinds that are served: some bring rights of nodes."""
        super().__init__(collection, decode)
        self._find = find
        self._rules = tuple(map(rbac.CompiledRule, defaults.node_rules(kinds)))
        self._judges = dict(_JUDGES)
        self._judges[_POD_REQUESTS] = self._judge_pod_request if _POD_REQUESTS[1] in kinds else _judge_nothing

    def authorize(self, of: context.Attributes) -> rbac.Decision:
        if not is_node(of.user):
            return super().authorize(of)
        node = of.user.name.removeprefix(_PREFIX)
        problem = self._problem(of, node) if node else f"unknown node for user {gotext.quote(of.user.name)}"
        return rbac.Decision(True) if problem is None else _with_reason(super().authorize(of), problem)

    def _problem(self, of: context.Attributes, node: str) -> str | None:
        """Why a node may not do something, perhaps without a word; None if it may."""
        judge = self._judges.get((of.group, of.resource)) if of.is_resource else None
        if judge is not None:
            return judge(of, node)
        return None if any(rule.allows(of) for rule in self._rules) else ""

    def _judge_pod_request(self, of: context.Attributes, node: str) -> str | None:
        """A node sees the requests of its own pods only."""
        if of.subresource:
            return "nodes may not access the status subresource of PodCertificateRequests"
        if of.verb == "create":
            return None
        if of.verb == "get":
            found = self._find(_POD_REQUESTS[1], of.namespace, of.name)
            return None if found is not None and found.spec.node_name == node else _unrelated(of, node)
        if of.verb not in ("list", "watch"):
            return f"nodes may not {of.verb} podcertificaterequests"
        if _selects(of, "spec.nodeName", node):
            return None
        return "can only list/watch podcertificaterequests with nodeName field selector"


def _selects(of: context.Attributes, field: str, value: str) -> bool:
    return selectors.Term(field, "=", value) in of.field_selector.terms


def _judge_nothing(of: context.Attributes, node: str) -> str:
    del of, node
    return ""


def _unrelated(of: context.Attributes, node: str) -> str:
    """No pods run here, so nothing relates a node to any object."""
    return f"no relationship found between node '{node}' and this object" if of.name else "No Object name found"


def _judge_read(of: context.Attributes, node: str) -> str:
    if of.verb not in ("get", "list", "watch"):
        return "can only read resources of this type"
    if of.subresource:
        return "cannot read subresource"
    return _unrelated(of, node) if of.namespace else "can only read namespaced object of this type"


def _judge_get(of: context.Attributes, node: str) -> str:
    if of.verb != "get":
        return "can only get individual resources of this type"
    return "cannot get subresource" if of.subresource else _unrelated(of, node)


def _judge_claim(of: context.Attributes, node: str) -> str:
    if of.subresource != "status":
        return _judge_get(of, node)
    return _unrelated(of, node) if of.verb in ("update", "patch") else "can only get/update/patch this type"


def _judge_account(of: context.Attributes, node: str) -> str:
    if of.verb == "get" and not of.subresource:
        return _judge_read(of, node)
    if of.verb != "create" or not of.name:
        return "can only create tokens for individual service accounts"
    return _unrelated(of, node) if of.subresource == "token" else "can only create token subresource of serviceaccount"


_OWN_VERBS: Final = ("get", "create", "update", "patch", "delete")


def _judge_lease(of: context.Attributes, node: str) -> str | None:
    if of.verb not in _OWN_VERBS:
        return "can only get, create, update, patch, or delete a node lease"
    if of.namespace != _LEASE_NAMESPACE:
        return _OTHER_LEASES
    # Which lease is created, only its content tells: see the restriction below.
    return None if of.verb == "create" or of.name == node else _OTHER_LEASE


def _judge_csi_node(of: context.Attributes, node: str) -> str | None:
    if of.verb not in _OWN_VERBS:
        return "can only get, create, update, patch, or delete a CSINode"
    if of.subresource:
        return "cannot authorize CSINode subresources"
    if of.verb == "create" or of.name == node:
        return None
    return "can only access CSINode with the same name as the requesting node"


def _judge_slice(of: context.Attributes, node: str) -> str | None:
    if of.subresource:
        return "cannot authorize ResourceSlice subresources"
    if of.verb == "create":
        return None
    if of.verb in ("get", "update", "patch", "delete"):
        return _unrelated(of, node)
    if of.verb in ("watch", "list", "deletecollection"):
        if _selects(of, "spec.nodeName", node):
            return None
        return "can only list/watch/deletecollection resourceslices with nodeName field selector"
    return (
        "only the following verbs are allowed for a ResourceSlice: "
        "get, watch, list, create, update, patch, delete, deletecollection"
    )


def _judge_node(of: context.Attributes, node: str) -> str | None:
    if (of.subresource, of.verb) in _NODE_WRITES:
        return None
    if of.subresource or of.verb not in ("get", "list", "watch"):
        return ""
    if not of.name:
        return f"node '{node}' cannot read all nodes, only its own Node object"
    return None if of.name == node else f"node '{node}' cannot read '{of.name}', only its own Node object"


_NODE_WRITES: Final = frozenset(
    {("", "create"), ("", "update"), ("", "patch"), ("status", "update"), ("status", "patch")}
)


def _judge_pod(of: context.Attributes, node: str) -> str | None:
    if (of.subresource, of.verb) in _POD_WRITES:
        return None
    if of.subresource or of.verb not in ("get", "list", "watch"):
        return ""
    if of.verb == "get" or of.name:
        return _unrelated(of, node)
    return None if _selects(of, "spec.nodeName", node) else "can only list/watch pods with spec.nodeName field selector"


_POD_WRITES: Final = frozenset(
    {("", "create"), ("", "delete"), ("status", "update"), ("status", "patch"), ("eviction", "create")}
)

#: What is allowed to a node only for what belongs to it, which takes more than a rule to know.
_JUDGES: Final[Mapping[tuple[str, str], Judge]] = {
    ("", "configmaps"): _judge_read,
    ("", "secrets"): _judge_read,
    ("", "persistentvolumeclaims"): _judge_claim,
    ("", "persistentvolumes"): _judge_get,
    ("resource.k8s.io", "resourceclaims"): _judge_get,
    ("storage.k8s.io", "volumeattachments"): _judge_get,
    ("", "serviceaccounts"): _judge_account,
    _LEASES: _judge_lease,
    ("resource.k8s.io", "resourceslices"): _judge_slice,
    ("storage.k8s.io", "csinodes"): _judge_csi_node,
    ("", "nodes"): _judge_node,
    ("", "pods"): _judge_pod,
}


def _with_reason(decision: rbac.Decision, reason: str) -> rbac.Decision:
    if decision.allowed or not reason:
        return decision
    return rbac.Decision(False, "\n".join(each for each in (reason, decision.reason) if each))


def restriction(find: Find) -> admission.Hook:
    """The check that a node asks for certificates of its own name, and of its own pods, only; that it renews its own
    lease only.
    """

    def check(of: admission.Review) -> None:
        user = of.call.user
        if not is_node(user):
            return
        if user.name == _PREFIX:
            raise _refusal(of, _nameless(user))
        kind = (of.resource.group, of.resource.plural)
        if kind == (machines.RESOURCE.group, machines.RESOURCE.plural):
            _check_own_node(of)
        elif kind == _LEASES:
            _check_lease(of)
        elif (*kind, of.subresource, of.operation) == (csrs.RESOURCE.group, csrs.RESOURCE.plural, "", "create"):
            _check_csr(of)
        elif kind == _POD_REQUESTS:
            _check_pod_request(of, find)

    return check


def restricted(answer: Answer) -> Answer:
    """The same answer, but not to everything that a node may ask: a token only for a pod that runs on it."""

    async def act(asked: Any, call: context.Call) -> Any:
        problem = _question_problem(asked, call) if is_node(call.user) else ""
        if problem:
            name = call.info.name or _sent_name(asked.metadata)
            raise errors.Forbidden.of(call.info.resource, call.info.group, name, problem)
        return await answer(asked, call)

    return act


def _question_problem(asked: Any, call: context.Call) -> str:
    if call.user.name == _PREFIX:
        return _nameless(call.user)
    if (call.info.resource, call.info.subresource) != ("serviceaccounts", "token"):
        return ""
    ref = asked.spec.bound_object_ref
    if ref is None or (ref.api_version, ref.kind) != ("v1", "Pod") or not ref.name:
        return "node requested token not bound to a pod"
    if not ref.uid:
        return "node requested token with a pod binding without a uid"
    # No pods run here.
    raise errors.NotFound("pod", "", ref.name)


def _nameless(user: context.User) -> str:
    return f"could not determine node from user {gotext.quote(user.name)}"


def _check_own_node(of: admission.Review) -> None:
    """A node says something about itself only, and nothing that others judge it by."""
    own = of.call.user.name.removeprefix(_PREFIX)
    node, name = gotext.quote(own), of.new.metadata.name if of.operation == "create" else of.name
    if name != own:
        raise _refusal(of, f"node {node} is not allowed to modify node {gotext.quote(name)}")
    if of.operation == "create":
        wrong = _not_its_own_labels(of.new.metadata.labels, {})
        if wrong:
            raise _refusal(of, f"node {node} is not allowed to set the following labels: {', '.join(wrong)}")
    if of.operation != "update":
        return
    if of.new.spec.taints != of.old.spec.taints:
        raise _refusal(of, f"node {node} is not allowed to modify taints")
    if of.new.metadata.owner_references != of.old.metadata.owner_references:
        raise _refusal(of, f"node {node} is not allowed to modify ownerReferences")
    wrong = _not_its_own_labels(of.new.metadata.labels, of.old.metadata.labels)
    if wrong:
        raise _refusal(of, f"is not allowed to modify labels: {', '.join(wrong)}")


def _not_its_own_labels(new: Mapping[str, str], old: Mapping[str, str]) -> list[str]:
    """The changed labels that a node must not choose: others decide by them what it is trusted with."""
    changed = sorted(key for key in {*new, *old} if new.get(key) != old.get(key))
    return [key for key in changed if not _is_its_own_label(key)]


def _is_its_own_label(key: str) -> bool:
    domain = key.partition("/")[0] if "/" in key else ""
    is_reserved = any(domain == each or domain.endswith(f".{each}") for each in ("kubernetes.io", "k8s.io"))
    if not is_reserved or key in _OWN_LABELS:
        return True
    return any(domain == each or domain.endswith(f".{each}") for each in _OWN_DOMAINS)


_OWN_DOMAINS: Final = ("kubelet.kubernetes.io", "node.kubernetes.io")
#: Labels under reserved domains that every kubelet gives itself.
_OWN_LABELS: Final = frozenset(
    {
        "kubernetes.io/hostname", "kubernetes.io/arch", "kubernetes.io/os", "beta.kubernetes.io/arch",
        "beta.kubernetes.io/os", "beta.kubernetes.io/instance-type", "topology.kubernetes.io/zone",
        "topology.kubernetes.io/region", "failure-domain.beta.kubernetes.io/zone",
        "failure-domain.beta.kubernetes.io/region",
    }
)  # fmt: skip


def _check_csr(of: admission.Review) -> None:
    user = of.call.user
    if of.new.spec.signer_name not in _RESTRICTED:
        return
    try:
        request = csr.parse(of.new.spec.request or b"")
    except csr.RequestError as error:
        raise _refusal(of, f"unable to parse csr: {error}") from error
    if request.common_name != user.name:
        raise _refusal(of, f"can only create a node CSR with CN={user.name}")


def _check_lease(of: admission.Review) -> None:
    if of.namespace != _LEASE_NAMESPACE:
        raise _refusal(of, _OTHER_LEASES)
    name = of.new.metadata.name if of.operation == "create" else of.name
    if name != of.call.user.name.removeprefix(_PREFIX):
        raise _refusal(of, _OTHER_LEASE)


def _check_pod_request(of: admission.Review, find: Find) -> None:
    """A node vouches for the pods that run on it. No pods run here, so nothing can prove that one does."""
    if of.operation != "create":
        raise _refusal(of, f"unexpected operation {of.operation.upper()}")
    if of.subresource:
        raise _refusal(of, f"unexpected subresource {of.subresource}")
    spec, node = of.new.spec, of.call.user.name.removeprefix(_PREFIX)
    if spec.node_name != node:
        named, own = gotext.quote(spec.node_name), gotext.quote(node)
        raise _refusal(of, f"PodCertificateRequest.Spec.NodeName={named}, which is not the requesting node {own}")
    # What may only be not known yet is no refusal: the kubelet tries again.
    machine = find("nodes", "", node)
    if machine is None:
        raise errors.UnreasonedError(_not_retrieved("node", gotext.quote(node), gotext.quote(node)))
    pod = gotext.quote(f"{of.namespace}/{spec.pod_name}")
    if machine.metadata.uid != spec.node_uid:
        named, running = gotext.quote(spec.node_uid), gotext.quote(machine.metadata.uid)
        why = f"names node UID {named}, inconsistent with the running node ({running})"
        raise errors.UnreasonedError(f"PodCertificateRequest for pod {pod} {why}")
    raise errors.UnreasonedError(_not_retrieved("pod", pod, gotext.quote(spec.pod_name)))


def _not_retrieved(kind: str, named: str, name: str) -> str:
    return f"while retrieving {kind} {named} named in the PodCertificateRequest: {kind} {name} not found"


def _refusal(of: admission.Review, why: str) -> errors.Forbidden:
    name = of.name or (_sent_name(of.new.metadata) if of.new is not None else _UNKNOWN)
    return errors.Forbidden.of(of.resource.plural, of.resource.group, name, why)


def _sent_name(meta: objects.ObjectMeta) -> str:
    """What admission calls an object that has not got its name yet."""
    return meta.name or meta.generate_name or _UNKNOWN
