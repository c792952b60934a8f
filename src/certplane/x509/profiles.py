"""What each signer permits. Signers are data; one function judges a request against any of them.

The rules of a profile are tried in the order in which they stand there, and the first that is broken is reported, in
the words that kube-controller-manager writes into the Failed condition. Source: kubernetes,
`pkg/apis/certificates/helpers.go`, `pkg/controller/certificates/signer/signer.go`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from certplane.x509 import csr

KUBE_APISERVER_CLIENT: Final = "kubernetes.io/kube-apiserver-client"
KUBE_APISERVER_CLIENT_KUBELET: Final = "kubernetes.io/kube-apiserver-client-kubelet"
KUBELET_SERVING: Final = "kubernetes.io/kubelet-serving"
LEGACY_UNKNOWN: Final = "kubernetes.io/legacy-unknown"


class ProfileViolation(ValueError):
    """A request that its signer does not permit; the text is for the Failed condition."""


#: One rule: raises ProfileViolation.
Rule = Callable[[csr.CertificateRequest, Sequence[str]], None]


@dataclasses.dataclass(frozen=True, slots=True)
class Profile:
    """A signer: its name and its rules, in order."""

    signer: str
    rules: tuple[Rule, ...] = ()


def verify(profile: Profile, request: csr.CertificateRequest, usages: Sequence[str]) -> None:
    """Judge a request. Raises ProfileViolation for the first rule that it breaks."""
    for rule in profile.rules:
        rule(request, usages)


# --- kinds of rules -----------------------------------------------------------------------------------------------


def _only_usages(*allowed: str) -> Rule:
    def rule(request: csr.CertificateRequest, usages: Sequence[str]) -> None:
        del request
        for usage in usages:
            if usage not in allowed:
                raise ProfileViolation(f"invalid usage for client certificate: {usage}")

    return rule


def _needs_usage(needed: str) -> Rule:
    def rule(request: csr.CertificateRequest, usages: Sequence[str]) -> None:
        del request
        if needed not in usages:
            raise ProfileViolation(f"missing required usage for client certificate: {needed}")

    return rule


def _usages_are(*sets: frozenset[str]) -> Rule:
    largest = " ".join(sorted(frozenset().union(*sets)))

    def rule(request: csr.CertificateRequest, usages: Sequence[str]) -> None:
        del request
        if frozenset(usages) not in sets:
            raise ProfileViolation(f"usages did not match [{largest}]")

    return rule


def _organization_is(wanted: str) -> Rule:
    def rule(request: csr.CertificateRequest, usages: Sequence[str]) -> None:
        del usages
        if request.organizations != (wanted,):
            raise ProfileViolation(f"subject organization is not {wanted}")

    return rule


def _common_name_begins(prefix: str) -> Rule:
    def rule(request: csr.CertificateRequest, usages: Sequence[str]) -> None:
        del usages
        if not request.common_name.startswith(prefix):
            raise ProfileViolation(f"subject common name does not begin with {prefix}")

    return rule


def _no(name: str, of: Callable[[csr.CertificateRequest], Sequence[object]]) -> Rule:
    def rule(request: csr.CertificateRequest, usages: Sequence[str]) -> None:
        del usages
        if of(request):
            raise ProfileViolation(f"{name} subjectAltNames are not allowed")

    return rule


def _needs_dns_or_ip(request: csr.CertificateRequest, usages: Sequence[str]) -> None:
    del usages
    if not request.dns_names and not request.ip_addresses:
        raise ProfileViolation("DNS or IP subjectAltName is required")


_no_dns = _no("DNS", lambda request: request.dns_names)
_no_email = _no("Email", lambda request: request.email_addresses)
_no_ip = _no("IP", lambda request: request.ip_addresses)
_no_uri = _no("URI", lambda request: request.uris)
_is_of_nodes = _organization_is("system:nodes")
_is_named_as_node = _common_name_begins("system:node:")

_CLIENT: Final = frozenset({"client auth", "digital signature"})
_SERVING: Final = frozenset({"server auth", "digital signature"})
_ENCIPHERMENT: Final = frozenset({"key encipherment"})

BUILT_IN: Final[Mapping[str, Profile]] = MappingProxyType(
    {
        each.signer: each
        for each in (
            Profile(
                KUBE_APISERVER_CLIENT,
                (
                    _only_usages("client auth", "digital signature", "key encipherment"),
                    _needs_usage("client auth"),
                ),
            ),
            Profile(
                KUBE_APISERVER_CLIENT_KUBELET,
                (
                    _is_of_nodes,
                    _no_dns,
                    _no_email,
                    _no_ip,
                    _no_uri,
                    _is_named_as_node,
                    _usages_are(_CLIENT, _CLIENT | _ENCIPHERMENT),
                ),
            ),
            Profile(
                KUBELET_SERVING,
                (
                    _is_of_nodes,
                    _needs_dns_or_ip,
                    _no_email,
                    _no_uri,
                    _usages_are(_SERVING, _SERVING | _ENCIPHERMENT),
                    _is_named_as_node,
                ),
            ),
            Profile(LEGACY_UNKNOWN),
        )
    }
)


def is_kubelet_client(request: csr.CertificateRequest, usages: Sequence[str]) -> bool:
    """Whether a request has the shape of a kubelet's client certificate."""
    try:
        verify(BUILT_IN[KUBE_APISERVER_CLIENT_KUBELET], request, usages)
    except ProfileViolation:
        return False
    return True
