"""Nodes: what each of them may do without a binding, and what none of them may ask for.

A kubelet is `system:node:NAME` in the group system:nodes. It has the rights of the role system:node without a binding;
resources that other nodes' secrets hang on are left out, since they need a look at what runs where. And it may ask for
certificates of its own name only. Source: kubernetes, `plugin/pkg/auth/authorizer/node`,
`plugin/pkg/admission/noderestriction`, `pkg/auth/nodeidentifier`.
"""

from __future__ import annotations

from typing import Final

from certplane import errors, gotext
from certplane.access import defaults, rbac
from certplane.meta import context
from certplane.registry import admission
from certplane.resources import certificatesigningrequests as csrs
from certplane.x509 import csr, profiles

_PREFIX: Final = "system:node:"
_GROUP: Final = "system:nodes"
#: Allowed to a node only for what belongs to it, which takes more than a rule to know.
_ITS_OWN: Final = frozenset(
    {"configmaps", "csinodes", "leases", "persistentvolumeclaims", "persistentvolumes", "pods", "secrets",
     "serviceaccounts", "volumeattachments"}
)  # fmt: skip
_RULES: Final = tuple(map(rbac.CompiledRule, defaults.NODE_RULES))
_RESTRICTED: Final = (profiles.KUBELET_SERVING, profiles.KUBE_APISERVER_CLIENT_KUBELET)


def is_node(user: context.User) -> bool:
    """Both the name and the group make a node; neither alone does."""
    return user.name.startswith(_PREFIX) and _GROUP in user.groups


class Authorizer(rbac.Authorizer):
    """RBAC, and before it what every node may do."""

    def authorize(self, of: context.Attributes) -> rbac.Decision:
        if of.is_resource and is_node(of.user) and _may(of):
            return rbac.Decision(True)
        return super().authorize(of)


def _may(of: context.Attributes) -> bool:
    return of.resource not in _ITS_OWN and any(rule.allows(of) for rule in _RULES)


def restriction(of: admission.Review) -> None:
    """The check that a node asks for certificates of its own name only."""
    if (of.resource.plural, of.subresource, of.operation) != (csrs.RESOURCE.plural, "", "create"):
        return
    user = of.call.user
    if not is_node(user):
        return
    if user.name == _PREFIX:
        raise _refusal(of, f"could not determine node from user {gotext.quote(user.name)}")
    if of.new.spec.signer_name not in _RESTRICTED:
        return
    try:
        request = csr.parse(of.new.spec.request or b"")
    except csr.RequestError as error:
        raise _refusal(of, f"unable to parse csr: {error}") from error
    if request.common_name != user.name:
        raise _refusal(of, f"can only create a node CSR with CN={user.name}")


def _refusal(of: admission.Review, why: str) -> errors.Forbidden:
    return errors.Forbidden.of(of.resource.plural, of.resource.group, of.name, why)
