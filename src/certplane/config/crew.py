"""Which controllers there are, and which of them are to run."""

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
#: Those that a cluster is likely to want from elsewhere: the others it has, and two of them would be in each other's
#: way.
ABROAD: Final = (
    "certificatesigningrequest-approving-controller",
    "certificatesigningrequest-signing-controller",
    "certificatesigningrequest-cleaner-controller",
    "signer-rule-approver",
    "kubelet-serving-approver",
)


def chosen(wanted: Sequence[str], every: Sequence[str], problems: options.Problems) -> frozenset[str]:
    """The controllers that are meant: '*' is `every`, -NAME leaves one out."""
    by_alias = {alias: name for name, alias in CONTROLLERS.items() if alias}
    found = set(every) if "*" in wanted else set()
    for each in wanted:
        plain = each.removeprefix("-")
        name = by_alias.get(plain, plain)
        if each == "*":
            continue
        if name not in CONTROLLERS:
            problems.append(f"--controllers: there is no controller {plain}; there are {', '.join(CONTROLLERS)}")
        elif each.startswith("-"):
            found.discard(name)
        else:
            found.add(name)
    return frozenset(found)
