"""The approval policy for kubelet serving certificates: a pure function of data.

Input is the request, the evidence about its names (`evidence`), and the configured rules (`rules`). A request is

- approved if a node requests it for itself, and every name is proven;
- denied if it can never be approved: a wildcard, the identity of another node, or a name that every alternative of
  `sources` excludes by what the administrator has configured;
- left pending otherwise: the missing evidence may still appear.

A request is never denied because a source was unavailable. This module does not check whether the sources tell the
truth; docs/kubelet-serving.md says how much each proves, docs/attackers.md which attacks were considered.
"""

from __future__ import annotations

import dataclasses
import enum
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from certplane.controllers.approving.kubeletserving import evidence, rules
from certplane.controllers.approving.kubeletserving.evidence import SAN, DNSAnswer, Evidence
from certplane.controllers.approving.kubeletserving.rules import Rules
from certplane.golang import formatting
from certplane.meta import names
from certplane.resources.certificatesigningrequests import CertificateSigningRequestSpec
from certplane.x509 import oids
from certplane.x509.pkcs10 import certificaterequest, requestedextensions, weakkeys
from certplane.x509.pkcs10.certificaterequest import CertificateRequest
from certplane.x509.pkcs10.requestedextensions import RequestedExtensions

#: The reason of an approval.
PROVEN: Final = "KubeletServingApproved"
#: Reasons that concern the request as a whole.
NOT_A_NODE: Final = "NotANode"
IDENTITY_MISMATCH: Final = "NodeIdentityMismatch"
SUBJECT_NOT_ALLOWED: Final = "SubjectNotAllowed"
USAGES_NOT_ALLOWED: Final = "UsagesNotAllowed"
NAME_KIND_NOT_ALLOWED: Final = "NameKindNotAllowed"
CA_NOT_ALLOWED: Final = "CANotAllowed"
EXTENSION_NOT_ALLOWED: Final = "ExtensionNotAllowed"
WEAK_KEY: Final = "WeakKey"
LIFETIME_TOO_LONG: Final = "LifetimeTooLong"
NAMES_MISSING: Final = "NamesMissing"
TOO_MANY_NAMES: Final = "TooManyNames"
#: Reasons that concern one name.
WILDCARD_NAME: Final = "WildcardName"
MALFORMED_NAME: Final = "MalformedName"
FORBIDDEN_NAME: Final = "ForbiddenName"
FORBIDDEN_ADDRESS: Final = "ForbiddenAddress"
BELONGS_TO_ANOTHER: Final = "BelongsToAnotherNode"
CLAIMED_BY_ANOTHER: Final = "ClaimedByAnotherNode"
NAME_NOT_PROVEN: Final = "NameNotProven"
ADDRESS_NOT_PROVEN: Final = "AddressNotProven"
#: A source that may prove the name was unavailable.
SOURCE_UNAVAILABLE: Final = "SourceUnavailable"

NODE_USER_PREFIX: Final = "system:node:"
_NODES_GROUP: Final = "system:nodes"
_USAGES: Final = frozenset({"digital signature", "server auth"})
_KEY_USAGES: Final = frozenset({"digital_signature", "key_encipherment"})
_SERVER_AUTH: Final = frozenset({oids.SERVER_AUTH})
_EXTENSIONS: Final = frozenset(
    {
        oids.SUBJECT_ALT_NAME, oids.KEY_USAGE, oids.EXTENDED_KEY_USAGE, oids.BASIC_CONSTRAINTS,
        oids.SUBJECT_KEY_ID,
    }
)  # fmt: skip
_MAX_MESSAGE: Final = 2048
_MAX_QUOTED: Final = 80
_MAX_LISTED: Final = 8


class Action(enum.Enum):
    """What to do with a request."""

    APPROVE = "approve"
    DENY = "deny"
    #: Leave it pending, and evaluate it again later.
    WAIT = "wait"
    #: Look up `Decision.lookups` in DNS, then evaluate it again.
    LOOK_UP = "look up"


@dataclasses.dataclass(frozen=True, slots=True)
class Decision:
    """The result for a request. `reason` is a code, `message` is human-readable. `lookups` are the names and addresses
    to look up in DNS before the policy can decide.
    """

    action: Action
    reason: str = ""
    message: str = ""
    lookups: frozenset[SAN] = frozenset()


@dataclasses.dataclass(frozen=True, slots=True)
class ParsedRequest:
    """A PKCS#10 request and the extensions that it asks for."""

    pkcs10: CertificateRequest
    extensions: RequestedExtensions

    @property
    def sans(self) -> tuple[SAN, ...]:
        """The names and addresses that need evidence, without duplicates."""
        sans = (*map(str.lower, self.pkcs10.dns_names), *map(evidence.unmap_ipv4, self.pkcs10.ip_addresses))
        return tuple(dict.fromkeys(sans))


def parse_request(text: bytes) -> ParsedRequest:
    """Parse a PEM request and verify its signature. Raises certificaterequest.RequestError."""
    pkcs10 = certificaterequest.verified(text).request
    return ParsedRequest(pkcs10, requestedextensions.read(pkcs10))


def evaluate(request: ParsedRequest, spec: CertificateSigningRequestSpec, evidence: Evidence, rules: Rules) -> Decision:
    """Decide about a request for a serving certificate. Pure: the same data give the same decision."""
    problems = [*_request_problems(request, spec, rules)]
    if not problems and not request.sans:
        problems = [
            _Problem(NAMES_MISSING, "the request has no DNS name and no IP address; the subject does not count")
        ]
    if problems:
        return Decision(Action.DENY, problems[0].reason, join_messages(problem.text for problem in problems))
    context = _Context(spec.username.removeprefix(NODE_USER_PREFIX), evidence, rules)
    return _combine([_evaluate_san(san, context, rules.alternatives) for san in request.sans])


# --- the request as a whole ---------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class _Problem:
    """A permanent reason to deny."""

    reason: str
    text: str


def _request_problems(request: ParsedRequest, spec: CertificateSigningRequestSpec, rules: Rules) -> Iterable[_Problem]:
    yield from _identity_problems(request, spec)
    if not _USAGES <= frozenset(spec.usages) <= _USAGES | {"key encipherment"}:
        usages = ", ".join(spec.usages) or "empty"
        text = f"the usages are {usages}; must be digital signature, server auth and, optionally, key encipherment"
        yield _Problem(USAGES_NOT_ALLOWED, text)
    yield from _extension_problems(request)
    key_problem = "; ".join(weakkeys.problems(request.pkcs10.public_key))
    if key_problem:
        yield _Problem(WEAK_KEY, key_problem)
    # Kubelets do not set expirationSeconds; the signer then applies its own maximum.
    if spec.expiration_seconds is not None and spec.expiration_seconds > rules.max_lifetime:
        text = f"the requested lifetime is {spec.expiration_seconds}s; the maximum is {rules.max_lifetime}s"
        yield _Problem(LIFETIME_TOO_LONG, text)
    count = len(request.pkcs10.dns_names) + len(request.pkcs10.ip_addresses)
    if count > rules.max_names:
        yield _Problem(TOO_MANY_NAMES, f"the request has {count} names; the maximum is {rules.max_names}")


def _identity_problems(request: ParsedRequest, spec: CertificateSigningRequestSpec) -> Iterable[_Problem]:
    node = spec.username.removeprefix(NODE_USER_PREFIX)
    username, common_name = _quote(spec.username), _quote(request.pkcs10.common_name)
    if not spec.username.startswith(NODE_USER_PREFIX) or names.dns1123_subdomain_problems(node):
        yield _Problem(NOT_A_NODE, f"the requestor {username} is not a node")
    elif _NODES_GROUP not in spec.groups:
        yield _Problem(NOT_A_NODE, f"the requestor {username} is not in the group {_NODES_GROUP}")
    if request.pkcs10.common_name != spec.username:
        text = f"the common name {common_name} differs from the requestor {username}"
        yield _Problem(IDENTITY_MISMATCH, text)
    if request.pkcs10.organizations != (_NODES_GROUP,):
        organizations = ", ".join(map(_quote, request.pkcs10.organizations)) or "missing"
        yield _Problem(IDENTITY_MISMATCH, f"the organization is {organizations}; must be {_NODES_GROUP} alone")
    subject = request.extensions.subject
    if len(subject) > 2 or not {oid for oid, _ in subject} <= {oids.COMMON_NAME, oids.ORGANIZATION}:
        yield _Problem(SUBJECT_NOT_ALLOWED, "the subject has more than one common name and one organization")


def _extension_problems(request: ParsedRequest) -> Iterable[_Problem]:
    extensions = request.extensions
    kinds = {"email": request.pkcs10.email_addresses, "URI": request.pkcs10.uris}
    other_kinds = [*(kind for kind, values in kinds.items() if values), *extensions.other_names]
    if other_kinds:
        text = f"the request has names of other kinds than DNS and IP: {', '.join(other_kinds[:_MAX_LISTED])}"
        yield _Problem(NAME_KIND_NOT_ALLOWED, text)
    if extensions.is_ca:
        yield _Problem(CA_NOT_ALLOWED, "the request is for a CA certificate")
    not_allowed = [oid for oid in extensions.extensions if oid not in _EXTENSIONS]
    if not_allowed:
        text = f"these requested extensions are not allowed: {', '.join(not_allowed[:_MAX_LISTED])}"
        yield _Problem(EXTENSION_NOT_ALLOWED, text)
    if extensions.extended_usages not in (None, _SERVER_AUTH):
        yield _Problem(EXTENSION_NOT_ALLOWED, "the requested extended key usage is not server auth alone")
    if not (extensions.key_usages or frozenset()) <= _KEY_USAGES:
        text = "the requested key usage has more than digital signature and key encipherment"
        yield _Problem(EXTENSION_NOT_ALLOWED, text)


# --- one name -----------------------------------------------------------------------------------------------------


class SourceStatus(enum.Enum):
    """What a source says about a name."""

    PROVEN = "proven"
    #: Not proven now, but that may change by itself.
    PENDING = "pending"
    #: Excluded, unless the administrator changes the configuration.
    EXCLUDED = "excluded"
    UNAVAILABLE = "unavailable"
    #: DNS was not queried yet.
    LOOKUP_NEEDED = "lookup needed"


@dataclasses.dataclass(frozen=True, slots=True)
class _SourceResult:
    """What one source says about a name. `lookups` are for DNS, if it was not queried yet."""

    status: SourceStatus
    text: str
    lookups: frozenset[SAN] = frozenset()


@dataclasses.dataclass(frozen=True, slots=True)
class _Context:
    """The node that requests the certificate, and what its names are checked against."""

    node: str
    evidence: Evidence
    rules: Rules


@dataclasses.dataclass(frozen=True, slots=True)
class _NameResult:
    """The result for one name. For a proven one `text` names the sources that proved it."""

    action: Action
    reason: str
    text: str
    lookups: frozenset[SAN] = frozenset()


def _evaluate_san(san: SAN, context: _Context, alternatives: Sequence[tuple[str, ...]]) -> _NameResult:
    """Whether one of the alternatives proves a name; if none does, whether one still may."""
    blocked = _check_blocked(san, context)
    if blocked is not None:
        return blocked
    results: dict[str, _SourceResult] = {}
    missing: list[set[SourceStatus]] = []
    lookups: set[SAN] = set()
    for alternative in alternatives:
        evaluated = []
        for source in alternative:
            if source not in results:
                results[source] = _CHECKS[source](san, context)
            evaluated.append(results[source])
            if evaluated[-1].status is SourceStatus.EXCLUDED:
                break
        if all(result.status is SourceStatus.PROVEN for result in evaluated):
            return _NameResult(Action.APPROVE, "", f"{_quote(san)} by {' and '.join(alternative)}")
        missing.append({result.status for result in evaluated} - {SourceStatus.PROVEN})
        if missing[-1] == {SourceStatus.LOOKUP_NEEDED}:
            lookups.update(*(result.lookups for result in evaluated))
    text = f"{_quote(san)}: " + ", ".join(f"{source} {result.text}" for source, result in results.items())
    if lookups:
        return _NameResult(Action.LOOK_UP, "", text, frozenset(lookups))
    reason = NAME_NOT_PROVEN if isinstance(san, str) else ADDRESS_NOT_PROVEN
    if all(SourceStatus.EXCLUDED in statuses for statuses in missing):
        return _NameResult(Action.DENY, reason, text)
    is_unavailable = any(
        SourceStatus.UNAVAILABLE in statuses and SourceStatus.EXCLUDED not in statuses for statuses in missing
    )
    return _NameResult(Action.WAIT, SOURCE_UNAVAILABLE if is_unavailable else reason, text)


def _check_blocked(san: SAN, context: _Context) -> _NameResult | None:
    """The result for a name that no source can prove at the moment; None if sources decide."""
    problem = _name_problem(san) if isinstance(san, str) else None
    if problem is not None:
        return _NameResult(Action.DENY, problem.reason, f"{_quote(san)}: {problem.text}")
    if context.rules.forbidden.covers(san):
        reason = FORBIDDEN_NAME if isinstance(san, str) else FORBIDDEN_ADDRESS
        return _NameResult(Action.DENY, reason, f"{_quote(san)}: forbidden for every kubelet")
    inventory, inventory_problem = context.evidence.inventory, context.evidence.inventory_problem
    if inventory is None and inventory_problem:
        # The file may assign the name to another node, so the other sources must not decide without it.
        text = f"{_quote(san)}: the inventory is unreadable ({_truncate(inventory_problem)})"
        return _NameResult(Action.WAIT, SOURCE_UNAVAILABLE, text)
    owner = inventory.owners.get(san) if inventory is not None else None
    if owner is not None and owner != context.node:
        text = f"{_quote(san)}: the inventory assigns it to node {owner}"
        return _NameResult(Action.DENY, BELONGS_TO_ANOTHER, text)
    # A node cannot block by its own claim what the inventory assigns to another node.
    claimants = context.evidence.other_claimants.get(san, ()) if owner is None else ()
    if claimants:
        return _NameResult(Action.WAIT, CLAIMED_BY_ANOTHER, f"{_quote(san)}: also claimed by {_list_some(claimants)}")
    return None


_LABEL: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
#: Some clients take a name whose last label is a number for an IPv4 address in an old spelling.
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")


def _name_problem(name: str) -> _Problem | None:
    if "*" in name:
        return _Problem(WILDCARD_NAME, "wildcard names are not allowed")
    labels = name.split(".")
    if len(name) > 253 or not all(map(_LABEL.fullmatch, labels)):
        return _Problem(MALFORMED_NAME, "not a DNS name of letters, digits and hyphens")
    if _NUMBER.fullmatch(labels[-1]):
        return _Problem(MALFORMED_NAME, "a name that ends in a number can be taken for an IP address")
    return None


# --- the sources --------------------------------------------------------------------------------------------------


def _check_node(san: SAN, context: _Context) -> _SourceResult:
    claims = context.evidence.claims
    if claims is None:
        return _SourceResult(SourceStatus.PENDING, f"{context.node} does not exist")
    if san in claims:
        return _SourceResult(SourceStatus.PROVEN, "lists it")
    return _SourceResult(SourceStatus.PENDING, f"lists {_list_some(sorted(map(str, claims))) or 'no addresses'}")


def _check_inventory(san: SAN, context: _Context) -> _SourceResult:
    inventory, problem = context.evidence.inventory, context.evidence.inventory_problem
    if inventory is None:
        return _SourceResult(SourceStatus.UNAVAILABLE, "is not loaded")
    entry = inventory.entries.get(context.node)
    if entry is not None and san in entry:
        return _SourceResult(SourceStatus.PROVEN, "lists it")
    if problem:
        # The previous inventory still proves what is in it; what is not in it may be in the unreadable file.
        return _SourceResult(SourceStatus.UNAVAILABLE, f"is unreadable ({_truncate(problem)})")
    if entry is None:
        return _SourceResult(SourceStatus.PENDING, f"has no entry for {context.node}")
    listed = _list_some(sorted(map(str, entry))) or "nothing"
    return _SourceResult(SourceStatus.EXCLUDED, f"lists {listed} for {context.node}")


def _check_cidrs(san: SAN, context: _Context) -> _SourceResult:
    if isinstance(san, str):
        return _SourceResult(SourceStatus.EXCLUDED, "do not apply to names")
    if rules.is_within(san, context.rules.cidrs):
        return _SourceResult(SourceStatus.PROVEN, "contain it")
    return _SourceResult(SourceStatus.EXCLUDED, f"are {_list_some(map(str, context.rules.cidrs))}")


def _check_patterns(san: SAN, context: _Context) -> _SourceResult:
    if not isinstance(san, str):
        return _SourceResult(SourceStatus.EXCLUDED, "do not apply to addresses")
    expanded = context.rules.expand_patterns(context.node)
    if san in expanded:
        return _SourceResult(SourceStatus.PROVEN, "match it")
    return _SourceResult(SourceStatus.EXCLUDED, f"expand to {_list_some(expanded)}")


def _check_dns(san: SAN, context: _Context) -> _SourceResult:
    """A name must resolve to addresses of this node only; an address must be in the answer for a name of this node.
    The other end of the lookup must be proven without DNS, otherwise DNS would confirm itself.
    """
    return _check_name_in_dns(san, context) if isinstance(san, str) else _check_address_in_dns(san, context)


def _check_name_in_dns(name: str, context: _Context) -> _SourceResult:
    """Whether a name resolves to proven addresses of the node."""
    if "." not in name:
        return _SourceResult(SourceStatus.EXCLUDED, "does not resolve names without a dot")
    answer = context.evidence.dns_answers.get(name)
    if answer is None or answer.problem:
        return _no_answer([name], answer)
    if not answer.records:
        return _SourceResult(SourceStatus.PENDING, "has no addresses for it")
    unproven = [address for address in answer.records if not _is_proven(address, context)]
    if unproven:
        text = f"resolves it to {_list_some(map(str, unproven))}, which is not proven to belong to the node"
        return _SourceResult(SourceStatus.PENDING, text)
    proven = _SourceResult(SourceStatus.PROVEN, "resolves it to the node")
    if not context.rules.dns_reverse:
        return proven
    reverse = [_check_reverse(address, [name], context) for address in answer.records]
    return next((result for result in reverse if result.status is not SourceStatus.PROVEN), proven)


def _check_address_in_dns(address: SAN, context: _Context) -> _SourceResult:
    """Whether a proven name of the node resolves to an address."""
    node_names = _proven_names(context)
    answers = context.evidence.dns_answers
    unknown = [name for name in node_names if name not in answers]
    if unknown:
        return _no_answer(unknown, None)
    matching = [name for name in node_names if address in answers[name].records]
    if matching and context.rules.dns_reverse:
        return _check_reverse(address, matching, context)
    if matching:
        return _SourceResult(SourceStatus.PROVEN, f"resolves {matching[0]} to it")
    failed = next((answers[name] for name in node_names if answers[name].problem), None)
    if failed is not None:
        return _no_answer(node_names, failed)
    listed = _list_some(node_names) or "none is known"
    return _SourceResult(SourceStatus.PENDING, f"resolves no name of the node to it ({listed})")


def _proven_names(context: _Context) -> list[str]:
    """The names of the node, from patterns and the inventory (not from the kubelet), that are proven without DNS and
    can be looked up.
    """
    inventory = context.evidence.inventory
    entry = inventory.entries.get(context.node, frozenset[SAN]()) if inventory is not None else frozenset[SAN]()
    node_names = {*context.rules.expand_patterns(context.node), *(san for san in entry if isinstance(san, str))}
    return sorted(name for name in node_names if "." in name and _is_proven(name, context))


def _check_reverse(address: SAN, node_names: Sequence[str], context: _Context) -> _SourceResult:
    """Whether an address resolves back to one of the names that resolve to it."""
    answer = context.evidence.dns_answers.get(address)
    if answer is None or answer.problem:
        return _no_answer([address], answer)
    if set(node_names) & set(answer.records):
        return _SourceResult(SourceStatus.PROVEN, f"resolves {_list_some(node_names)} to it, forward and reverse")
    listed = _list_some(map(str, answer.records)) or "no name"
    return _SourceResult(SourceStatus.PENDING, f"resolves {address} back to {listed}")


def _no_answer(lookups: Sequence[SAN], answer: DNSAnswer | None) -> _SourceResult:
    if answer is None:
        return _SourceResult(SourceStatus.LOOKUP_NEEDED, "was not queried yet", frozenset(lookups))
    return _SourceResult(SourceStatus.UNAVAILABLE, f"is unavailable ({_truncate(answer.problem)})")


def _is_proven(san: SAN, context: _Context) -> bool:
    """Whether a name is proven to belong to the node without DNS."""
    without_dns = [alternative for alternative in context.rules.alternatives if rules.DNS not in alternative]
    return _evaluate_san(san, context, without_dns).action is Action.APPROVE


_CHECKS: Final[Mapping[str, Callable[[SAN, _Context], _SourceResult]]] = {
    rules.NODE: _check_node,
    rules.INVENTORY: _check_inventory,
    rules.CIDRS: _check_cidrs,
    rules.PATTERNS: _check_patterns,
    rules.DNS: _check_dns,
}


# --- the decision -------------------------------------------------------------------------------------------------


def _combine(results: Sequence[_NameResult]) -> Decision:
    """One name to deny is enough to deny the request, without any DNS lookup for the others."""
    for action in (Action.DENY, Action.LOOK_UP, Action.WAIT):
        selected = [result for result in results if result.action is action]
        if selected:
            lookups = frozenset[SAN]().union(*(result.lookups for result in selected))
            return Decision(action, selected[0].reason, join_messages(result.text for result in selected), lookups)
    return Decision(Action.APPROVE, PROVEN, "every name is proven: " + join_messages(result.text for result in results))


def join_messages(texts: Iterable[str]) -> str:
    """The texts as one message of at most 2048 characters."""
    message = "; ".join(texts)
    return formatting.truncate(message, _MAX_MESSAGE)


def _list_some(texts: Iterable[str]) -> str:
    """The first few of a list, and how many more there are."""
    listed = list(texts)
    more = f" and {len(listed) - _MAX_LISTED} more" if len(listed) > _MAX_LISTED else ""
    return ", ".join(map(_quote_if_needed, listed[:_MAX_LISTED])) + more


def _quote_if_needed(text: str) -> str:
    """Quoted only if it has characters to escape: Nodes and DNS contain untrusted text."""
    quoted = formatting.quote(_truncate(text))
    return quoted[1:-1] if quoted == f'"{_truncate(text)}"' else quoted


def _truncate(text: str) -> str:
    return formatting.truncate(text, _MAX_QUOTED)


def _quote(san: SAN) -> str:
    """A name from a request, quoted and escaped because it is untrusted text; an address as it is."""
    return formatting.quote(_truncate(san)) if isinstance(san, str) else str(san)
