"""What each signer permits. Signers are data: built-in ones and those that users declare are the same declaration.

One judge holds a request against a declaration, part by part in the order that it names, and reports what is broken.
For the built-in signers the order and the words are those of kube-controller-manager, for the Failed condition:
kubernetes, `pkg/apis/certificates/helpers.go`, `pkg/controller/certificates/signer/signer.go`.

Patterns are plain: in texts `*` stands for any characters; in DNS names `*` for one label and `**` for one or more, at
the beginning alone; addresses lie in networks. `{username}` stands for the name of whoever asks. All are anchored.
"""

from __future__ import annotations

import dataclasses
import datetime
import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from certplane import boundedcache
from certplane.x509 import csr

KUBE_APISERVER_CLIENT: Final = "kubernetes.io/kube-apiserver-client"
KUBE_APISERVER_CLIENT_KUBELET: Final = "kubernetes.io/kube-apiserver-client-kubelet"
KUBELET_SERVING: Final = "kubernetes.io/kubelet-serving"
LEGACY_UNKNOWN: Final = "kubernetes.io/legacy-unknown"

#: Stands for the name of whoever asks.
USERNAME: Final = "{username}"
#: Kinds of keys that a declaration may name; of RSA any size from some number of bits on.
CURVES: Final = {"ECDSA-P256": "secp256r1", "ECDSA-P384": "secp384r1", "ECDSA-P521": "secp521r1"}
ED25519: Final = "Ed25519"
RSA: Final = re.compile(r"RSA-(\d{4,5})")
#: The parts of a declaration, in the order in which they are looked at where it names no other.
ORDER: Final = (
    "authority", "keys", "organizations", "common_name", "names", "dns", "email", "ip", "uri", "usages", "lifetime",
)  # fmt: skip


class ProfileViolation(ValueError):
    """A request that its signer does not permit; the text is for the Failed condition."""


@dataclasses.dataclass(frozen=True, slots=True)
class Approval:
    """Whose requests are approved without a person: any of the users, or of the groups."""

    users: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A signer. Of what is None anything is permitted; of what is empty, nothing.

    `usages` are those that may be asked for, `required_usages` those that must, `usage_sets` the only sets there are.
    `organizations` are patterns that each has to match; `exact_organizations` are all there have to be. `dns`, `email`,
    `ip` and `uri` are patterns of alternative names, `required_names` the kinds of which there has to be one,
    `most_names` how many there may be, `wildcards` whether DNS names may have any. Requests for less than `shortest`
    are refused, for more than `longest` cut; `default` is given to those that ask for none. `reserved` finds names that
    the signer does not give because of the authority that it has now.
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
    most_names: int | None = None
    wildcards: bool = True
    shortest: datetime.timedelta | None = None
    longest: datetime.timedelta | None = None
    default: datetime.timedelta | None = None
    authority: bool | None = False
    approval: tuple[Approval, ...] = ()
    order: tuple[str, ...] = ORDER
    reserved: Callable[[Asked], Iterator[str]] | None = None

    @property
    def limits(self) -> Sequence[str]:
        """The parts in which this signer does not take just anything."""
        of = ("keys", "common_name", "organizations", "exact_organizations", "dns", "email", "ip", "uri")
        return [each for each in of if getattr(self, each) is not None]


@dataclasses.dataclass(frozen=True, slots=True)
class Asked:
    """What is asked for: the request, and what is said beside it. `expiration` is in seconds."""

    request: csr.CertificateRequest
    usages: Sequence[str]
    username: str = ""
    expiration: int | None = None


def violations(profile: Profile, asked: Asked) -> Iterator[str]:
    """Everything that a request breaks, in order."""
    for part in profile.order:
        yield from _CHECKS[part](profile, asked)
    if profile.reserved is not None:
        yield from profile.reserved(asked)


def verify(profile: Profile, asked: Asked) -> None:
    """Judge a request. Raises ProfileViolation for the first thing that it breaks."""
    for why in violations(profile, asked):
        raise ProfileViolation(why)


def permits(profile: Profile, asked: Asked) -> bool:
    return next(violations(profile, asked), None) is None


def permits_usages(profile: Profile, asked: Asked) -> bool:
    """Whether a signer makes certificates for this use at all."""
    return next(_usages(profile, asked), None) is None


def may_approve(profile: Profile, asked: Asked, groups: Sequence[str]) -> bool:
    """Whether a request may be approved without a person: it is permitted, and a rule is about whoever asks."""
    named = any(asked.username in each.users or not set(groups).isdisjoint(each.groups) for each in profile.approval)
    return named and permits(profile, asked)


# --- patterns -----------------------------------------------------------------------------------------------------


def _filled(patterns: Sequence[str], username: str) -> Iterator[str]:
    """The patterns with the name in its place. A name that looks like a pattern itself is in none of them."""
    for each in patterns:
        if USERNAME not in each:
            yield each
        elif username and "*" not in username:
            yield each.replace(USERNAME, username)


def _matches(text: str, patterns: Sequence[str], username: str) -> bool:
    return any(_matcher(each)(text) for each in _filled(patterns, username))


@boundedcache.remember()
def _matcher(pattern: str) -> Callable[[str], bool]:
    parts = [re.escape(each) for each in pattern.split("*")]
    compiled = re.compile(".*".join(parts), re.DOTALL)
    return lambda text: compiled.fullmatch(text) is not None


def _matches_dns(name: str, patterns: Sequence[str], username: str) -> bool:
    """DNS names compare without regard to case."""
    labels = name.lower().split(".")
    return any(_matches_labels(labels, each.lower().split(".")) for each in _filled(patterns, username))


def _matches_labels(labels: Sequence[str], pattern: Sequence[str]) -> bool:
    if pattern[0] not in ("*", "**"):
        return list(labels) == list(pattern)
    rest = len(pattern) - 1
    enough = len(labels) == rest + 1 if pattern[0] == "*" else len(labels) > rest
    return enough and all(labels) and list(labels[len(labels) - rest :]) == list(pattern[1:])


@boundedcache.remember()
def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    return ipaddress.ip_network(text)


def _listed(patterns: Sequence[str]) -> str:
    return f"it may be {' or '.join(patterns)}" if patterns else "there may be none"


# --- the checks ---------------------------------------------------------------------------------------------------


def _authority(profile: Profile, asked: Asked) -> Iterator[str]:
    # None: what is asked for is ignored, as kube-controller-manager does.
    if profile.authority is False and asked.request.wants_authority:
        yield "a CA certificate may not be asked for"


def _keys(profile: Profile, asked: Asked) -> Iterator[str]:
    if profile.keys is None:
        return
    key = asked.request.public_key
    for each in profile.keys:
        sized = RSA.fullmatch(each)
        if sized is not None and isinstance(key, rsa.RSAPublicKey) and key.key_size >= int(sized[1]):
            return
        if isinstance(key, ec.EllipticCurvePublicKey) and CURVES.get(each) == key.curve.name:
            return
        if each == ED25519 and isinstance(key, ed25519.Ed25519PublicKey):
            return
    yield f"the key is {key_kind(asked.request)}; {_listed(profile.keys)}"


def key_kind(of: csr.CertificateRequest) -> str:
    """The kind of a request's key, as declarations name it."""
    key = of.public_key
    if isinstance(key, rsa.RSAPublicKey):
        return f"RSA-{key.key_size}"
    if isinstance(key, ec.EllipticCurvePublicKey):
        return next((name for name, curve in CURVES.items() if curve == key.curve.name), f"ECDSA on {key.curve.name}")
    return ED25519 if isinstance(key, ed25519.Ed25519PublicKey) else "of an unknown kind"


def _organizations(profile: Profile, asked: Asked) -> Iterator[str]:
    found = asked.request.organizations
    if profile.exact_organizations is not None and found != profile.exact_organizations:
        yield f"subject organization is not {', '.join(profile.exact_organizations)}"
    if profile.organizations is None:
        return
    for each in found:
        if not _matches(each, profile.organizations, asked.username):
            yield f'subject organization "{each}" is not allowed: {_listed(profile.organizations)}'


def _common_name(profile: Profile, asked: Asked) -> Iterator[str]:
    patterns, name = profile.common_name, asked.request.common_name
    if patterns is None or _matches(name, patterns, asked.username):
        return
    only = patterns[0] if len(patterns) == 1 else ""
    if only.endswith("*") and "*" not in only[:-1] and USERNAME not in only:
        yield f"subject common name does not begin with {only[:-1]}"
    else:
        yield f'subject common name "{name}" is not allowed: {_listed(patterns)}'


_KINDS: Final = {"dns": "DNS", "email": "Email", "ip": "IP", "uri": "URI"}


def _found(kind: str, of: csr.CertificateRequest) -> Sequence[str]:
    if kind == "ip":
        return [str(each) for each in of.ip_addresses]
    return {"dns": of.dns_names, "email": of.email_addresses, "uri": of.uris}[kind]


def _names(profile: Profile, asked: Asked) -> Iterator[str]:
    if profile.required_names and not any(_found(kind, asked.request) for kind in profile.required_names):
        yield f"{' or '.join(_KINDS[each] for each in profile.required_names)} subjectAltName is required"
    count = sum(len(_found(kind, asked.request)) for kind in _KINDS)
    if profile.most_names is not None and count > profile.most_names:
        yield f"there are {count} subjectAltNames, and there may be {profile.most_names}"


def _alternative(kind: str) -> Callable[[Profile, Asked], Iterator[str]]:
    def check(profile: Profile, asked: Asked) -> Iterator[str]:
        patterns, found = getattr(profile, kind), _found(kind, asked.request)
        if patterns == () and found:
            yield f"{_KINDS[kind]} subjectAltNames are not allowed"
            return
        for each in found:
            if kind == "dns" and not profile.wildcards and "*" in each:
                yield f'DNS subjectAltName "{each}" is not allowed: it has a wildcard'
            elif patterns is not None and not _fits(kind, each, patterns, asked.username):
                yield f'{_KINDS[kind]} subjectAltName "{each}" is not allowed: {_listed(patterns)}'

    return check


def _fits(kind: str, name: str, patterns: Sequence[str], username: str) -> bool:
    if kind == "ip":
        return any(ipaddress.ip_address(name) in _network(each) for each in patterns)
    return (_matches_dns if kind == "dns" else _matches)(name, patterns, username)


def _usages(profile: Profile, asked: Asked) -> Iterator[str]:
    needed = profile.required_usages
    what = "client certificate" if "client auth" in needed else "certificate"
    for each in asked.usages if profile.usages is not None else ():
        if each not in (profile.usages or ()):
            yield f"invalid usage for {what}: {each}"
    for each in needed:
        if each not in asked.usages:
            yield f"missing required usage for {what}: {each}"
    if profile.usage_sets and frozenset(asked.usages) not in profile.usage_sets:
        yield f"usages did not match [{' '.join(sorted(frozenset().union(*profile.usage_sets)))}]"


def _lifetime(profile: Profile, asked: Asked) -> Iterator[str]:
    if profile.shortest is not None and asked.expiration is not None:
        least = int(profile.shortest.total_seconds())
        if asked.expiration < least:
            yield f"expirationSeconds is {asked.expiration}, and has to be {least} at least"


_CHECKS: Final[Mapping[str, Callable[[Profile, Asked], Iterator[str]]]] = {
    "authority": _authority,
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
        each.signer: each
        for each in (
            Profile(
                signer=KUBE_APISERVER_CLIENT,
                description="Certificates with which people and programs come to the API server.",
                usages=("client auth", "digital signature", "key encipherment"),
                required_usages=("client auth",),
                authority=None,
            ),
            Profile(
                signer=KUBE_APISERVER_CLIENT_KUBELET,
                description="Certificates with which kubelets come to the API server.",
                exact_organizations=_NODES,
                dns=(),
                email=(),
                ip=(),
                uri=(),
                common_name=_NODE,
                usage_sets=(_CLIENT, _CLIENT | _ENCIPHERMENT),
                authority=None,
                order=("organizations", "dns", "email", "ip", "uri", "common_name", "usages"),
            ),
            Profile(
                signer=KUBELET_SERVING,
                description="Certificates that kubelets show to those who come to them.",
                exact_organizations=_NODES,
                required_names=("dns", "ip"),
                email=(),
                uri=(),
                usage_sets=(_SERVING, _SERVING | _ENCIPHERMENT),
                common_name=_NODE,
                authority=None,
                order=("organizations", "names", "email", "uri", "usages", "common_name"),
            ),
            Profile(signer=LEGACY_UNKNOWN, description="Anything, for nobody in particular.", authority=None),
        )
    }
)


def is_kubelet_client(request: csr.CertificateRequest, usages: Sequence[str]) -> bool:
    """Whether a request has the shape of a kubelet's client certificate."""
    return permits(BUILT_IN[KUBE_APISERVER_CLIENT_KUBELET], Asked(request, usages))
