"""The names of all controllers, and the selection of some with --controllers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from certplane.config import options

#: Names, and kube-controller-manager's older names for them.
CONTROLLERS: Final = {
    "certificatesigningrequest-approving-controller": "csrapproving",
    "certificatesigningrequest-signing-controller": "csrsigning",
    "certificatesigningrequest-cleaner-controller": "csrcleaner",
    "signer-rule-approver": "",
    "kubelet-serving-approver": "",
    "podcertificaterequest-cleaner-controller": "",
    "root-ca-certificate-publisher-controller": "root-ca-cert-publisher",
    "kube-apiserver-serving-clustertrustbundle-publisher-controller": "",
    "clusterrole-aggregation-controller": "clusterrole-aggregation",
    "namespace-controller": "namespace",
    "serviceaccount-controller": "serviceaccount",
    "token-cleaner-controller": "tokencleaner",
}
#: The default of `certplane controllers`. A cluster's own kube-controller-manager already runs the others, and two of
#: the same kind would interfere with each other.
REMOTE_DEFAULTS: Final = (
    "certificatesigningrequest-approving-controller",
    "certificatesigningrequest-signing-controller",
    "certificatesigningrequest-cleaner-controller",
    "signer-rule-approver",
    "kubelet-serving-approver",
)


def select(patterns: Sequence[str], problems: options.Problems) -> frozenset[str]:
    """The controllers that --controllers names: '*' selects all, NAME adds one, -NAME removes one."""
    by_alias = {alias: name for name, alias in CONTROLLERS.items() if alias}
    selected = set(CONTROLLERS) if "*" in patterns else set()
    for pattern in patterns:
        plain = pattern.removeprefix("-")
        name = by_alias.get(plain, plain)
        if pattern == "*":
            continue
        if name not in CONTROLLERS:
            problems.append(f"--controllers: unknown controller {plain}; known are {', '.join(CONTROLLERS)}")
        elif pattern.startswith("-"):
            selected.discard(name)
        else:
            selected.add(name)
    return frozenset(selected)
