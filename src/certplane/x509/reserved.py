"""Which names a signer does not give when its CA is one that makes clients of this cluster.

Whoever signs with the CA of the cluster's clients decides who somebody is: `O=system:masters` may do everything, and a
certificate for the API server's name passes for it, since clients trust the same CA. So the restriction follows the CA
and not the name of the signer. An authority makes clients if it has the key of a certificate in the client CA file,
leads to one that is there, or is what a built-in signer of client certificates signs with.

- The built-in signers give what their own rules name: nodes get `system:nodes` from the two signers of kubelets. None
  of them gives `system:masters`; the others none of a node's names.
- Declared signers give no name that begins with `system:` or `kubeadm:`, and have to say which names they do give.
- A certificate that is good for servers is not for a name of the API server. A kubelet may share host name and address
  with it; the names of its Service are nobody else's.

What is not known here: authorities that lead to the client CA over certificates that are not in its file.
"""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Callable, Collection, Iterator
from typing import Final, Protocol

from certplane import gotext
from certplane.boundedcache import BoundedCache
from certplane.x509 import cafiles, certificates, csr, issue, pathcertificate, pathvalidation, pem, profiles

MASTERS: Final = "system:masters"
_NODES: Final = "system:nodes"
_NODE_PREFIX: Final = "system:node:"
#: What begins so has a meaning for Kubernetes or kubeadm: users, groups, and what is bound to roles from the start.
_PREFIXES: Final = ("system:", "kubeadm:")
#: As kubeadm writes them into the certificate of the API server.
SERVICE_NAMES: Final = frozenset(
    {"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"}
)
_KUBELETS: Final = frozenset({profiles.KUBE_APISERVER_CLIENT_KUBELET, profiles.KUBELET_SERVING})
_CLIENT_SIGNERS: Final = (profiles.KUBE_APISERVER_CLIENT, profiles.KUBE_APISERVER_CLIENT_KUBELET)
#: Usages that become extended key usages other than that of a server: with one of them and no other, a certificate is
#: no server's.
_NOT_SERVING: Final = frozenset({"client auth", "code signing", "email protection", "s/mime", "timestamping"})
_SERVING: Final = frozenset({"server auth", "any"})
_NEEDS_SUBJECT: Final = (
    "its CA makes clients of this cluster, so that whoever has a certificate of it is who the certificate says: "
    "subject.commonName and subject.organizations must be there (an empty list is none)"
)
_NEEDS_NO_CA: Final = (
    "its CA makes clients of this cluster, and whoever has a CA certificate below it can be anybody: "
    "certificateAuthority must not be true"
)


class Files(Protocol):
    """The authority of a signer, as it is now."""

    def current(self, now: datetime.datetime) -> cafiles.State: ...


class Reservations:
    """The rules, for the client CA and the API server's names as they are now. Not safe for several threads."""

    def __init__(
        self,
        now: Callable[[], datetime.datetime],
        client_ca: certificates.ClientVerifier | None = None,
        own_names: Collection[str] = (),
    ) -> None:
        """`own_names` are the DNS names and IP addresses for which the API server has a certificate."""
        self._now = now
        self._client_ca = client_ca
        self._own_names = frozenset(each.lower() for each in own_names)
        self._client_signers: list[Files] = []
        self._answers: BoundedCache[tuple[bool, pathvalidation.Span]] = BoundedCache(expansion=1)

    def replace_client_ca(self, client_ca: certificates.ClientVerifier) -> None:
        """The client CA file holds others now."""
        self._client_ca = client_ca
        self._answers.clear()

    def replace_own_names(self, own_names: Collection[str]) -> None:
        """The API server has another certificate now."""
        self._own_names = frozenset(each.lower() for each in own_names)

    def note_built_in(self, signer: str, files: Files) -> None:
        """What a built-in signer signs with: clients are let in with the certificates of two of them."""
        if signer in _CLIENT_SIGNERS:
            self._client_signers.append(files)

    def makes_clients(self, issuer: issue.Issuer) -> bool:
        """Whether the certificates of an authority are those of clients of this cluster."""
        now, authority = self._now(), issuer.authority
        for each in self._client_signers:
            other = each.current(now).issuer
            if other is not None and other.authority.spki == authority.spki:
                return True
        if self._client_ca is None:
            return False
        answer = self._answers.get(authority.raw)
        if answer is None or now not in answer[1]:
            answer = self._client_ca.trusts(authority.raw, now)
            self._answers.put(authority.raw, answer, len(authority.raw))
        return answer[0]

    def declaration_problem(self, profile: profiles.Profile, issuer: issue.Issuer) -> str:
        """Why a declared signer may not sign with an authority, whatever is asked for; empty if it may."""
        if profile.common_name is not None and profile.organizations is not None and not profile.authority:
            return ""
        if not self.makes_clients(issuer):
            return ""
        return _NEEDS_NO_CA if profile.authority else _NEEDS_SUBJECT

    def misuse(self, profile: profiles.Profile, files: Files) -> str:
        """The same, of the authority that is in some files now, if there is one."""
        issuer = files.current(self._now()).issuer
        return self.declaration_problem(profile, issuer) if issuer is not None else ""

    def violations(self, signer: str, files: Files, asked: profiles.Asked) -> Iterator[str]:
        """The names in a request that a signer does not give because of its authority."""
        found = list(self._names(signer, asked))
        if not found:
            return
        issuer = files.current(self._now()).issuer
        if issuer is not None and self.makes_clients(issuer):
            yield from found

    def _names(self, signer: str, asked: profiles.Asked) -> Iterator[str]:
        request = asked.request
        if signer not in profiles.BUILT_IN:
            for what, name in (
                ("common name", request.common_name),
                *(("organization", o) for o in request.organizations),
            ):
                if name.startswith(_PREFIXES):
                    yield _refusal(what, name)
        elif signer not in _KUBELETS:
            if request.common_name.startswith(_NODE_PREFIX):
                yield _refusal("common name", request.common_name)
            for name in (MASTERS, _NODES):
                if name in request.organizations:
                    yield _refusal("organization", name)
        if _may_serve(asked.usages):
            own = SERVICE_NAMES if signer in _KUBELETS else SERVICE_NAMES | self._own_names
            for name in (request.common_name, *request.dns_names, *map(_address_text, request.ip_addresses)):
                if _is_among(name.lower(), own):
                    yield f"name {gotext.quote(name)} is not given: it is one of the API server"


def _refusal(what: str, name: str) -> str:
    return f"subject {what} {gotext.quote(name)} is not given under the CA of the cluster's clients"


def _address_text(address: csr.IPAddress) -> str:
    """An IPv6 address that stands for one of IPv4 is that one to whoever compares them."""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def names_of(certificate: bytes) -> frozenset[str]:
    """The DNS names and IP addresses in the first certificate of a text, in PEM; none if there is none."""
    block = pem.first(certificate)
    try:
        found = pathcertificate.parse(block.data).alternative_names if block is not None else None
    except pathcertificate.CertificateProblem:
        return frozenset()
    if found is None:
        return frozenset()
    names = csr.alternative_names(found)
    return frozenset((*names.dns, *map(_address_text, names.ip)))


def _may_serve(usages: Collection[str]) -> bool:
    """Whether a certificate with these usages is good for servers, which one without any extended key usage is."""
    return not _SERVING.isdisjoint(usages) or _NOT_SERVING.isdisjoint(usages)


def _is_among(name: str, own: frozenset[str]) -> bool:
    """Whether a name is one of some names; any of them may have a wildcard."""
    if name.removesuffix(".") in own:
        return True
    first, _, rest = name.removesuffix(".").partition(".")
    if f"*.{rest}" in own:
        return True
    return "*" in first and any(each.partition(".")[2] == rest for each in own)
