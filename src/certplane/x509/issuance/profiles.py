"""What each signer permits. Signers are data: built-in and custom ones have the same form.

`violations` compares a requested certificate with a profile, part by part in the profile's order. For the built-in
signers the order and the texts are those of kube-controller-manager, as they go into the Failed condition: kubernetes,
`pkg/apis/certificates/helpers.go`, `pkg/controller/certificates/signer/signer.go`.

A pattern has to match the whole value. `*` matches any characters; in DNS names, at the beginning only, `*` matches one
label and `**` one or more; addresses have to be in a network. `{username}` is replaced by the requestor's user name.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from certplane import boundedcache, signernames
from certplane.x509.pkcs10.certificaterequest import CertificateRequest

#: In patterns: the user name of the requestor.
USERNAME: Final = "{username}"
#: Kinds of keys that a profile may name, with the name of the curve in `cryptography`. RSA-2048 is 2048 bits or more.
CURVES: Final = {"ECDSA-P256": "secp256r1", "ECDSA-P384": "secp384r1", "ECDSA-P521": "secp521r1"}
ED25519: Final = "Ed25519"
RSA: Final = re.compile(r"RSA-(\d{4,5})")
#: The parts of a profile, in the order in which they are checked unless the profile has another.
ORDER: Final = (
    "ca", "keys", "organizations", "common_name", "names", "dns", "email", "ip", "uri", "usages", "lifetime",
)  # fmt: skip


class ProfileViolation(ValueError):
    """A request that its signer does not permit; the text is for the Failed condition."""


class CARequests(enum.Enum):
    """What a signer does with a request for a CA certificate."""

    REFUSE = "refuse"
    #: The extension is ignored, and an end-entity certificate issued, as in kube-controller-manager.
    IGNORE = "ignore"
    ALLOW = "allow"


@dataclasses.dataclass(frozen=True, slots=True)
class Approval:
    """An approval rule: requests of any of these users or groups are approved automatically."""

    users: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A signer. A field that is None permits anything, an empty one nothing.

    `usages` may be requested, `required_usages` must be; if there are `usage_sets`, the usages have to be one of them.
    Each organization has to match one of `organizations`; `exact_organizations` is the complete list. `dns`, `email`,
    `ip` and `uri` are patterns of alternative names; one name of any of the kinds in `required_names` is required.
    A lifetime below `min_lifetime` is refused, one above `max_lifetime` is shortened; `default_lifetime` is for
    requests without one. `ca_requests` says what happens to requests for a CA certificate.
    `reserved_names` yields violations by names that the signer must not issue with the CA that it has now.
    """

    signer: str
    description: str = ""
    keys: tuple[str, ...] | None = None
    usages: tuple[str, ...] | None = None
    required_usages: tuple[str, ...] = ()
    usage_sets: tuple[frozenset[str], ...] = ()
    common_name: tuple[str, ...] | None = None
    organizations: tuple[str, ...] | None = None
    exact_organizations: tuple[str, ...] | None = None
    dns: tuple[str, ...] | None = None
    email: tuple[str, ...] | None = None
    ip: tuple[str, ...] | None = None
    uri: tuple[str, ...] | None = None
    required_names: tuple[str, ...] = ()
    max_names: int | None = None
    allow_wildcards: bool = True
    min_lifetime: datetime.timedelta | None = None
    max_lifetime: datetime.timedelta | None = None
    default_lifetime: datetime.timedelta | None = None
    ca_requests: CARequests = CARequests.REFUSE
    approval: tuple[Approval, ...] = ()
    order: tuple[str, ...] = ORDER
    reserved_names: Callable[[RequestedCertificate], Iterator[str]] | None = None

    @property
    def restricted_fields(self) -> Sequence[str]:
        """The fields of key and names in which this signer does not permit everything."""
        fields = ("keys", "common_name", "organizations", "exact_organizations", "dns", "email", "ip", "uri")
        return [field for field in fields if getattr(self, field) is not None]

    def lifetime_seconds(self, requested: int | None) -> int | None:
        """The lifetime that a request asks for, or the default of this signer."""
        if requested is None and self.default_lifetime is not None:
            return int(self.default_lifetime.total_seconds())
        return requested


@dataclasses.dataclass(frozen=True, slots=True)
class RequestedCertificate:
    """What a CertificateSigningRequest asks for. `username` is the requestor's, `expiration` is in seconds."""

    pkcs10: CertificateRequest
    usages: Sequence[str]
    username: str = ""
    expiration: int | None = None


def violations(profile: Profile, requested: RequestedCertificate) -> Iterator[str]:
    """All that a profile does not permit in a request, in the profile's order."""
    for part in profile.order:
        yield from _CHECKS[part](profile, requested)
    if profile.reserved_names is not None:
        yield from profile.reserved_names(requested)


def verify(profile: Profile, requested: RequestedCertificate) -> None:
    """Check a request against a profile. Raises ProfileViolation for the first violation."""
    for violation in violations(profile, requested):
        raise ProfileViolation(violation)


def permits(profile: Profile, requested: RequestedCertificate) -> bool:
    return next(violations(profile, requested), None) is None


def permits_usages(profile: Profile, requested: RequestedCertificate) -> bool:
    """Whether a profile permits the usages of a request, whatever else is in it."""
    return next(_usages(profile, requested), None) is None


def may_approve(profile: Profile, requested: RequestedCertificate, groups: Sequence[str]) -> bool:
    """Whether a request may be approved automatically: a rule names the requestor, and the profile permits it."""
    is_named = any(
        requested.username in rule.users or not set(groups).isdisjoint(rule.groups) for rule in profile.approval
    )
    return is_named and permits(profile, requested)


# --- patterns -----------------------------------------------------------------------------------------------------


def _expand(patterns: Sequence[str], username: str) -> Iterator[str]:
    """The patterns with the user name filled in. A pattern for a user name that is empty or has a `*` is skipped."""
    for pattern in patterns:
        if USERNAME not in pattern:
            yield pattern
        elif username and "*" not in username:
            yield pattern.replace(USERNAME, username)


def _matches(text: str, patterns: Sequence[str], username: str) -> bool:
    return any(_matcher(pattern)(text) for pattern in _expand(patterns, username))


@boundedcache.memoize()
def _matcher(pattern: str) -> Callable[[str], bool]:
    parts = [re.escape(part) for part in pattern.split("*")]
    compiled = re.compile(".*".join(parts), re.DOTALL)
    return lambda text: compiled.fullmatch(text) is not None


def _matches_dns(name: str, patterns: Sequence[str], username: str) -> bool:
    """DNS names are compared without regard to case."""
    labels = name.lower().split(".")
    return any(_matches_labels(labels, pattern.lower().split(".")) for pattern in _expand(patterns, username))


def _matches_labels(labels: Sequence[str], pattern: Sequence[str]) -> bool:
    if pattern[0] not in ("*", "**"):
        return list(labels) == list(pattern)
    suffix = list(pattern[1:])
    has_labels = len(labels) == len(suffix) + 1 if pattern[0] == "*" else len(labels) > len(suffix)
    return has_labels and all(labels) and list(labels[len(labels) - len(suffix) :]) == suffix


@boundedcache.memoize()
def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    return ipaddress.ip_network(text)


def _permitted(patterns: Sequence[str]) -> str:
    return f"the signer permits {' or '.join(patterns)}" if patterns else "the signer permits none"


# --- the checks ---------------------------------------------------------------------------------------------------


def _ca(profile: Profile, requested: RequestedCertificate) -> Iterator[str]:
    if profile.ca_requests is CARequests.REFUSE and requested.pkcs10.requests_ca:
        yield "a CA certificate is not allowed"


def _keys(profile: Profile, requested: RequestedCertificate) -> Iterator[str]:
    if profile.keys is None:
        return
    key = requested.pkcs10.public_key
    for kind in profile.keys:
        rsa_bits = RSA.fullmatch(kind)
        if rsa_bits is not None and isinstance(key, rsa.RSAPublicKey) and key.key_size >= int(rsa_bits[1]):
            return
        if isinstance(key, ec.EllipticCurvePublicKey) and CURVES.get(kind) == key.curve.name:
            return
        if kind == ED25519 and isinstance(key, ed25519.Ed25519PublicKey):
            return
    yield f"the key is {key_kind(requested.pkcs10)}; {_permitted(profile.keys)}"


def key_kind(pkcs10: CertificateRequest) -> str:
    """The kind of a request's key, as profiles name it."""
    key = pkcs10.public_key
    if isinstance(key, rsa.RSAPublicKey):
        return f"RSA-{key.key_size}"
    if isinstance(key, ec.EllipticCurvePublicKey):
        return next((name for name, curve in CURVES.items() if curve == key.curve.name), f"ECDSA on {key.curve.name}")
    return ED25519 if isinstance(key, ed25519.Ed25519PublicKey) else "of an unknown kind"


def _organizations(profile: Profile, requested: RequestedCertificate) -> Iterator[str]:
    organizations = requested.pkcs10.organizations
    if profile.exact_organizations is not None and organizations != profile.exact_organizations:
        yield f"subject organization is not {', '.join(profile.exact_organizations)}"
    if profile.organizations is None:
        return
    for organization in organizations:
        if not _matches(organization, profile.organizations, requested.username):
            yield f'subject organization "{organization}" is not allowed: {_permitted(profile.organizations)}'


def _common_name(profile: Profile, requested: RequestedCertificate) -> Iterator[str]:
    patterns, name = profile.common_name, requested.pkcs10.common_name
    if patterns is None or _matches(name, patterns, requested.username):
        return
    pattern = patterns[0] if len(patterns) == 1 else ""
    if pattern.endswith("*") and "*" not in pattern[:-1] and USERNAME not in pattern:
        yield f"subject common name does not begin with {pattern[:-1]}"
    else:
        yield f'subject common name "{name}" is not allowed: {_permitted(patterns)}'


_KINDS: Final = {"dns": "DNS", "email": "Email", "ip": "IP", "uri": "URI"}


def _names_of_kind(kind: str, pkcs10: CertificateRequest) -> Sequence[str]:
    if kind == "ip":
        return [str(address) for address in pkcs10.ip_addresses]
    return {"dns": pkcs10.dns_names, "email": pkcs10.email_addresses, "uri": pkcs10.uris}[kind]


def _names(profile: Profile, requested: RequestedCertificate) -> Iterator[str]:
    if profile.required_names and not any(_names_of_kind(kind, requested.pkcs10) for kind in profile.required_names):
        yield f"{' or '.join(_KINDS[kind] for kind in profile.required_names)} subjectAltName is required"
    count = sum(len(_names_of_kind(kind, requested.pkcs10)) for kind in _KINDS)
    if profile.max_names is not None and count > profile.max_names:
        yield f"there are {count} subjectAltNames; the maximum is {profile.max_names}"


def _alternative(kind: str) -> Callable[[Profile, RequestedCertificate], Iterator[str]]:
    def check(profile: Profile, requested: RequestedCertificate) -> Iterator[str]:
        patterns, names = getattr(profile, kind), _names_of_kind(kind, requested.pkcs10)
        if patterns == () and names:
            yield f"{_KINDS[kind]} subjectAltNames are not allowed"
            return
        for name in names:
            if kind == "dns" and not profile.allow_wildcards and "*" in name:
                yield f'DNS subjectAltName "{name}" is not allowed: it has a wildcard'
            elif patterns is not None and not _matches_kind(kind, name, patterns, requested.username):
                yield f'{_KINDS[kind]} subjectAltName "{name}" is not allowed: {_permitted(patterns)}'

    return check


def _matches_kind(kind: str, name: str, patterns: Sequence[str], username: str) -> bool:
    if kind == "ip":
        return any(ipaddress.ip_address(name) in _network(pattern) for pattern in patterns)
    return (_matches_dns if kind == "dns" else _matches)(name, patterns, username)


def _usages(profile: Profile, requested: RequestedCertificate) -> Iterator[str]:
    kind = "client certificate" if "client auth" in profile.required_usages else "certificate"
    for usage in requested.usages if profile.usages is not None else ():
        if usage not in (profile.usages or ()):
            yield f"invalid usage for {kind}: {usage}"
    for usage in profile.required_usages:
        if usage not in requested.usages:
            yield f"missing required usage for {kind}: {usage}"
    if profile.usage_sets and frozenset(requested.usages) not in profile.usage_sets:
        yield f"usages did not match [{' '.join(sorted(frozenset().union(*profile.usage_sets)))}]"


def _lifetime(profile: Profile, requested: RequestedCertificate) -> Iterator[str]:
    if profile.min_lifetime is not None and requested.expiration is not None:
        minimum = int(profile.min_lifetime.total_seconds())
        if requested.expiration < minimum:
            yield f"expirationSeconds is {requested.expiration}; the minimum is {minimum}"


_CHECKS: Final[Mapping[str, Callable[[Profile, RequestedCertificate], Iterator[str]]]] = {
    "ca": _ca,
    "keys": _keys,
    "organizations": _organizations,
    "common_name": _common_name,
    "names": _names,
    **{kind: _alternative(kind) for kind in _KINDS},
    "usages": _usages,
    "lifetime": _lifetime,
}

# --- the built-in signers -----------------------------------------------------------------------------------------

_NODES: Final = ("system:nodes",)
_NODE: Final = ("system:node:*",)
_CLIENT: Final = frozenset({"client auth", "digital signature"})
_SERVING: Final = frozenset({"server auth", "digital signature"})
_ENCIPHERMENT: Final = frozenset({"key encipherment"})

BUILT_IN: Final[Mapping[str, Profile]] = MappingProxyType(
    {
        profile.signer: profile
        for profile in (
            Profile(
                signer=signernames.KUBE_APISERVER_CLIENT,
                description="Client certificates of people and programs, for the API server.",
                usages=("client auth", "digital signature", "key encipherment"),
                required_usages=("client auth",),
                ca_requests=CARequests.IGNORE,
            ),
            Profile(
                signer=signernames.KUBE_APISERVER_CLIENT_KUBELET,
                description="Client certificates of kubelets, for the API server.",
                exact_organizations=_NODES,
                dns=(),
                email=(),
                ip=(),
                uri=(),
                common_name=_NODE,
                usage_sets=(_CLIENT, _CLIENT | _ENCIPHERMENT),
                ca_requests=CARequests.IGNORE,
                order=("organizations", "dns", "email", "ip", "uri", "common_name", "usages"),
            ),
            Profile(
                signer=signernames.KUBELET_SERVING,
                description="Serving certificates of kubelets.",
                exact_organizations=_NODES,
                required_names=("dns", "ip"),
                email=(),
                uri=(),
                usage_sets=(_SERVING, _SERVING | _ENCIPHERMENT),
                common_name=_NODE,
                ca_requests=CARequests.IGNORE,
                order=("organizations", "names", "email", "uri", "usages", "common_name"),
            ),
            Profile(
                signer=signernames.LEGACY_UNKNOWN,
                description="Any certificate, without a guarantee about its use.",
                ca_requests=CARequests.IGNORE,
            ),
        )
    }
)


def is_kubelet_client(pkcs10: CertificateRequest, usages: Sequence[str]) -> bool:
    """Whether a request is for a kubelet's client certificate."""
    return permits(BUILT_IN[signernames.KUBE_APISERVER_CLIENT_KUBELET], RequestedCertificate(pkcs10, usages))
