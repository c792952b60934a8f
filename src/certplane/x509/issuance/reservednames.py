"""Names that a signer must not issue if its CA is one whose certificates authenticate clients of this cluster.

Who can sign with such a CA decides who a client is: `O=system:masters` has all permissions, and a certificate for the
API server's name passes for the API server, as clients trust the same CA. So the restriction depends on the CA, not on
the signer's name. A CA is a client CA if its key is that of a certificate in the client CA file, if it has a chain to
one, or if a built-in signer of client certificates uses it.

- The built-in signers issue what their own rules permit: the two kubelet signers issue `system:nodes`. None issues
  `system:masters`; the others issue no names of nodes.
- Custom signers issue no name that begins with `system:` or `kubeadm:`, and must define which names they issue.
- A certificate that servers can use must not be for a name of the API server. A kubelet may share its host name and
  address, but no certificate has the names of its Service.

Not detected: CAs with a chain to the client CA through certificates that are not in its file.
"""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Callable, Collection, Iterator
from typing import Final, Protocol

from certplane import signernames
from certplane.boundedcache import BoundedCache
from certplane.golang import formatting, pem
from certplane.x509 import certificatenames
from certplane.x509.issuance import cafiles, profiles
from certplane.x509.issuance.issue import Issuer
from certplane.x509.issuance.profiles import CARequests, Profile, RequestedCertificate
from certplane.x509.trust import pathcertificate, pathvalidation
from certplane.x509.trust.clientcertificates import ClientVerifier

MASTERS: Final = "system:masters"
_NODES: Final = "system:nodes"
_NODE_PREFIX: Final = "system:node:"
#: Users and groups with these prefixes have a meaning for Kubernetes or kubeadm.
_PREFIXES: Final = ("system:", "kubeadm:")
#: Names of the Service of the API server, in the order in which kubeadm writes them into its certificate.
SERVICE_NAMES: Final = (
    "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local",
)  # fmt: skip
_SERVICE_NAMES: Final = frozenset(SERVICE_NAMES)
_KUBELETS: Final = frozenset({signernames.KUBE_APISERVER_CLIENT_KUBELET, signernames.KUBELET_SERVING})
_CLIENT_SIGNERS: Final = (signernames.KUBE_APISERVER_CLIENT, signernames.KUBE_APISERVER_CLIENT_KUBELET)
#: Usages that become extended key usages. A certificate with some of these and none of _SERVING is not for servers.
_NOT_SERVING: Final = frozenset({"client auth", "code signing", "email protection", "s/mime", "timestamping"})
_SERVING: Final = frozenset({"server auth", "any"})
_NEEDS_SUBJECT: Final = (
    "certificates of its CA authenticate clients of this cluster: subject.commonName and subject.organizations are "
    "required (an empty list permits none)"
)
_NEEDS_NO_CA: Final = (
    "certificates of its CA authenticate clients of this cluster, and the owner of a CA certificate can create any: "
    "certificateAuthority must not be true"
)


class IssuerSource(Protocol):
    """Where a signer gets its issuer from."""

    def current(self, now: datetime.datetime) -> cafiles.IssuerState: ...


class Reservations:
    """The rules, for the current client CA and names of the API server. Not safe to use from several threads."""

    def __init__(
        self,
        now: Callable[[], datetime.datetime],
        client_ca: ClientVerifier | None = None,
        server_names: Collection[str] = (),
    ) -> None:
        """`server_names` are the DNS names and IP addresses in the certificate of the API server."""
        self._now = now
        self._client_ca = client_ca
        self._server_names = _lower(server_names)
        self._client_signers: list[IssuerSource] = []
        self._trust: BoundedCache[tuple[bool, pathvalidation.Span]] = BoundedCache(expansion=1)

    def replace_client_ca(self, client_ca: ClientVerifier) -> None:
        """The client CA file has changed."""
        self._client_ca = client_ca
        self._trust.clear()

    def replace_server_names(self, server_names: Collection[str]) -> None:
        """The certificate of the API server has changed."""
        self._server_names = _lower(server_names)

    def add_built_in(self, signer: str, source: IssuerSource) -> None:
        """Register the CA of a built-in signer; two of them issue client certificates."""
        if signer in _CLIENT_SIGNERS:
            self._client_signers.append(source)

    def is_client_ca(self, issuer: Issuer) -> bool:
        """Whether the certificates of an issuer authenticate clients of this cluster."""
        now, authority = self._now(), issuer.authority
        for source in self._client_signers:
            client_issuer = source.current(now).issuer
            if client_issuer is not None and client_issuer.authority.spki == authority.spki:
                return True
        if self._client_ca is None:
            return False
        trust = self._trust.get(authority.raw)
        if trust is None or now not in trust[1]:
            trust = self._client_ca.trusts(authority.raw, now)
            self._trust.put(authority.raw, trust, len(authority.raw))
        is_trusted, _ = trust
        return is_trusted

    def issuer_problem(self, profile: Profile, issuer: Issuer) -> str:
        """Why a custom signer may not use an issuer for any request; empty if it may."""
        if (
            profile.common_name is not None
            and profile.organizations is not None
            and profile.ca_requests is not CARequests.ALLOW
        ):
            return ""
        if not self.is_client_ca(issuer):
            return ""
        return _NEEDS_NO_CA if profile.ca_requests is CARequests.ALLOW else _NEEDS_SUBJECT

    def current_problem(self, profile: Profile, source: IssuerSource) -> str:
        """`issuer_problem` for the issuer that a signer has now, if it has one."""
        issuer = source.current(self._now()).issuer
        return self.issuer_problem(profile, issuer) if issuer is not None else ""

    def violations(self, signer: str, source: IssuerSource, requested: RequestedCertificate) -> Iterator[str]:
        """The names in a request that a signer must not issue with its current CA."""
        violations = list(self._reserved(signer, requested))
        if not violations:
            return
        issuer = source.current(self._now()).issuer
        if issuer is not None and self.is_client_ca(issuer):
            yield from violations

    def _reserved(self, signer: str, requested: RequestedCertificate) -> Iterator[str]:
        pkcs10 = requested.pkcs10
        if signer not in profiles.BUILT_IN:
            names = [("common name", pkcs10.common_name), *(("organization", name) for name in pkcs10.organizations)]
            for attribute, name in names:
                if name.startswith(_PREFIXES):
                    yield _violation(attribute, name)
        elif signer not in _KUBELETS:
            if pkcs10.common_name.startswith(_NODE_PREFIX):
                yield _violation("common name", pkcs10.common_name)
            for name in (MASTERS, _NODES):
                if name in pkcs10.organizations:
                    yield _violation("organization", name)
        if _may_serve(requested.usages):
            reserved = _SERVICE_NAMES if signer in _KUBELETS else _SERVICE_NAMES | self._server_names
            for name in (pkcs10.common_name, *pkcs10.dns_names, *map(_address_text, pkcs10.ip_addresses)):
                if _matches_any(name.lower(), reserved):
                    yield f"name {formatting.quote(name)} is reserved: it is a name of the API server"


def _violation(attribute: str, name: str) -> str:
    return f"subject {attribute} {formatting.quote(name)} is reserved: the signer uses the CA of the cluster's clients"


def _lower(names: Collection[str]) -> frozenset[str]:
    return frozenset(name.lower() for name in names)


def _address_text(address: certificatenames.IPAddress) -> str:
    """Clients compare an IPv4-mapped IPv6 address as the IPv4 address."""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def certificate_names(certificate: bytes) -> frozenset[str]:
    """The DNS names and IP addresses in the first PEM certificate of a text; empty if there is none."""
    block = pem.first_block(certificate)
    try:
        encoded = pathcertificate.parse(block.data).alternative_names if block is not None else None
    except pathcertificate.CertificateParseError:
        return frozenset()
    if encoded is None:
        return frozenset()
    names = certificatenames.parse_alternative_names(encoded)
    return frozenset((*names.dns, *map(_address_text, names.ip)))


def _may_serve(usages: Collection[str]) -> bool:
    """Whether servers can use a certificate with these usages; they can use one without extended key usages."""
    return not _SERVING.isdisjoint(usages) or _NOT_SERVING.isdisjoint(usages)


def _matches_any(name: str, reserved: frozenset[str]) -> bool:
    """Whether a name is one of some names; wildcards on either side match."""
    if name.removesuffix(".") in reserved:
        return True
    first, _, rest = name.removesuffix(".").partition(".")
    if f"*.{rest}" in reserved:
        return True
    return "*" in first and any(other.partition(".")[2] == rest for other in reserved)
