"""Nodes: what each of them may do without a binding, and what none of them may ask for.

A kubelet is `system:node:NAME` in the group system:nodes. It has the rights of the role system:node without a binding;
resources that other nodes' secrets hang on are left out, since they need a look at what runs where. And it may ask for
certificates of its own name only. Source: kubernetes, `plugin/pkg/auth/authorizer/node`,
`plugin/pkg/admission/noderestriction`, `pkg/auth/nodeidentifier`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from certplane import errors, gotext
from certplane.access import defaults, rbac
from certplane.meta import context
from certplane.registry import admission
from certplane.resources import certificatesigningrequests as csrs
from certplane.resources import nodes as machines
from certplane.store import watchcache
from certplane.x509 import csr, profiles

_PREFIX: Final = "system:node:"
_GROUP: Final = "system:nodes"
#: Allowed to a node only for what belongs to it, which takes more than a rule to know.
_ITS_OWN: Final = frozenset(
    {"configmaps", "csinodes", "leases", "persistentvolumeclaims", "persistentvolumes", "pods", "secrets",
     "serviceaccounts", "volumeattachments"}
)  # fmt: skip
_RULES: Final = tuple(
    map(rbac.CompiledRule, (*defaults.NODE_RULES, *defaults.OPTIONAL_NODE_RULES["clustertrustbundles"]))
)
_POD_REQUESTS: Final = "podcertificaterequests"
#: An object by plural, namespace and name; None if there is none.
Find = Callable[[str, str, str], Any | None]
_RESTRICTED: Final = (profiles.KUBELET_SERVING, profiles.KUBE_APISERVER_CLIENT_KUBELET)


def is_node(user: context.User) -> bool:
    """Both the name and the group make a node; neither alone does."""
    return user.name.startswith(_PREFIX) and _GROUP in user.groups


class Authorizer(rbac.Authorizer):
    """RBAC, and before it what every node may do."""

    def __init__(
        self, collection: Callable[[str], watchcache.Collection], decode: Callable[[str], rbac.Decode], find: Find
    ) -> None:
        super().__init__(collection, decode)
        self._find = find

    def authorize(self, of: context.Attributes) -> rbac.Decision:
        if not of.is_resource or not is_node(of.user):
            return super().authorize(of)
        if (of.group, of.resource) == (csrs.RESOURCE.group, _POD_REQUESTS):
            problem = self._pod_request_problem(of)
        else:
            problem = None if _may(of) else ""
        return rbac.Decision(True) if problem is None else _with_reason(super().authorize(of), problem)

    def _pod_request_problem(self, of: context.Attributes) -> str | None:
        """Why a node may not do this with PodCertificateRequests; None if it may. It sees those of its pods only."""
        if of.subresource:
            return "nodes may not access the status subresource of PodCertificateRequests"
        if of.verb == "create":
            return None
        if of.verb in ("list", "watch"):
            own = f"spec.nodeName={of.user.name.removeprefix(_PREFIX)}"
            if own in of.field_selector.replace("==", "=").split(","):
                return None
            return "can only list/watch podcertificaterequests with nodeName field selector"
        if of.verb == "get":
            found = self._find(_POD_REQUESTS, of.namespace, of.name)
            is_own = found is not None and found.spec.node_name == of.user.name.removeprefix(_PREFIX)
            return None if is_own else "no relationship found between node and this object"
        return f"nodes may not {of.verb} podcertificaterequests"


def _may(of: context.Attributes) -> bool:
    return of.resource not in _ITS_OWN and any(rule.allows(of) for rule in _RULES)


def _with_reason(decision: rbac.Decision, reason: str) -> rbac.Decision:
    if decision.allowed or not reason:
        return decision
    return rbac.Decision(False, "\n".join(each for each in (reason, decision.reason) if each))


def restriction(find: Find) -> admission.Hook:
    """The check that a node asks for certificates of its own name, and of its own pods, only."""

    def check(of: admission.Review) -> None:
        user = of.call.user
        if not is_node(user):
            return
        if user.name == _PREFIX:
            raise _refusal(of, f"could not determine node from user {gotext.quote(user.name)}")
        if of.resource.plural == machines.RESOURCE.plural:
            _check_own_node(of)
        if of.resource.group != csrs.RESOURCE.group:
            return
        if (of.resource.plural, of.subresource, of.operation) == (csrs.RESOURCE.plural, "", "create"):
            _check_csr(of)
        elif of.resource.plural == _POD_REQUESTS:
            _check_pod_request(of, find)

    return check


def _check_own_node(of: admission.Review) -> None:
    """A node says something about itself only, and nothing that others judge it by."""
    own = of.call.user.name.removeprefix(_PREFIX)
    node, name = gotext.quote(own), of.name
    if of.operation == "create":
        wrong = _not_its_own_labels(of.new.metadata.labels, {})
        if wrong:
            raise _refusal(of, f"node {node} is not allowed to set the following labels: {', '.join(wrong)}")
    if name != own:
        raise _refusal(of, f"node {node} is not allowed to modify node {gotext.quote(name)}")
    if of.operation != "update":
        return
    if of.new.spec.taints != of.old.spec.taints:
        raise _refusal(of, f"node {node} is not allowed to modify taints")
    wrong = _not_its_own_labels(of.new.metadata.labels, of.old.metadata.labels)
    if wrong:
        raise _refusal(of, f"is not allowed to modify labels: {', '.join(wrong)}")
    if of.new.metadata.owner_references != of.old.metadata.owner_references:
        raise _refusal(of, f"node {node} is not allowed to modify ownerReferences")


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


def _check_pod_request(of: admission.Review, find: Find) -> None:
    """A node vouches for the pods that run on it. No pods run here, so nothing can prove that it does."""
    if of.operation != "create" or of.subresource:
        raise _refusal(of, f"nodes may not {of.operation} podcertificaterequests")
    spec, node = of.new.spec, of.call.user.name.removeprefix(_PREFIX)
    if spec.node_name != node:
        raise _refusal(
            of, f"PodCertificateRequest.Spec.NodeName={gotext.quote(spec.node_name)}, which is not the requesting node"
        )
    pod = find("pods", of.namespace, spec.pod_name)
    if pod is None:
        raise _refusal(of, f'pod "{of.namespace}/{spec.pod_name}" not found')


def _refusal(of: admission.Review, why: str) -> errors.Forbidden:
    return errors.Forbidden.of(of.resource.plural, of.resource.group, of.name, why)
