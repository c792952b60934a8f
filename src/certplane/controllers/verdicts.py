"""What a request for a kubelet's serving certificate deserves: judged over data alone.

The data are the request, what is known about its names (`proofs`), and what the administrator finds sufficient
(`servingrules`). A request is

- approved: it is a node's own, and every name is proven;
- denied: something is wrong that no time will mend, such as a wildcard, another's identity, or a name that every
  sufficient combination of sources rules out by the administrator's own word;
- left alone: a proof is missing that may still come.

Nothing is denied because a source could not be asked. What this module does not know: whether the sources tell the
truth; docs/kubelet-serving.md says what each is worth, docs/attackers.md what was thought of.
"""

from __future__ import annotations

import dataclasses
import enum
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from certplane import gotext
from certplane.controllers import proofs, servingrules
from certplane.controllers.proofs import San
from certplane.meta import names
from certplane.resources import certificatesigningrequests as csrs
from certplane.x509 import csr, template, weak, wishes

#: Why.
PROVEN: Final = "KubeletServingApproved"
#: Why not, of the request as a whole.
UNREADABLE: Final = "UnreadableRequest"
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
#: Why not, of one name.
WILDCARD_NAME: Final = "WildcardName"
MALFORMED_NAME: Final = "MalformedName"
FORBIDDEN_NAME: Final = "ForbiddenName"
FORBIDDEN_ADDRESS: Final = "ForbiddenAddress"
BELONGS_TO_ANOTHER: Final = "BelongsToAnotherNode"
CLAIMED_BY_ANOTHER: Final = "ClaimedByAnotherNode"
NAME_NOT_PROVEN: Final = "NameNotProven"
ADDRESS_NOT_PROVEN: Final = "AddressNotProven"
#: A proof may be there, but the source that has it could not be asked.
SOURCE_UNAVAILABLE: Final = "SourceUnavailable"

USER: Final = "system:node:"
_GROUP: Final = "system:nodes"
_COMMON_NAME, _ORGANIZATION = "2.5.4.3", "2.5.4.10"
_USAGES: Final = frozenset({"digital signature", "server auth"})
_KEY_USAGES: Final = frozenset({"digital_signature", "key_encipherment"})
_SERVER_AUTH: Final = frozenset({"1.3.6.1.5.5.7.3.1"})
_EXTENSIONS: Final = frozenset(
    {
        template.SUBJECT_ALT_NAME, template.KEY_USAGE, template.EXTENDED_KEY_USAGE, template.BASIC_CONSTRAINTS,
        template.SUBJECT_KEY_ID,
    }
)  # fmt: skip
_LONGEST_MESSAGE: Final = 2048
_LONGEST_SHOWN: Final = 80
_MOST_SHOWN: Final = 8


class Kind(enum.Enum):
    """What is to be done with a request."""

    APPROVE = "approve"
    DENY = "deny"
    WAIT = "wait"
    ASK = "ask"


@dataclasses.dataclass(frozen=True, slots=True)
class Verdict:
    """What is to be done, why in one word and in sentences. `questions` are for DNS, before more can be said."""

    kind: Kind
    reason: str = ""
    message: str = ""
    questions: frozenset[San] = frozenset()


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """A parsed PKCS#10, and what it asks for besides."""

    csr: csr.CertificateRequest
    wishes: wishes.Wishes

    @property
    def sans(self) -> tuple[San, ...]:
        """The names and addresses to be proven, each once."""
        found = (*map(str.lower, self.csr.dns_names), *map(proofs.plain, self.csr.ip_addresses))
        return tuple(dict.fromkeys(found))


def read(text: bytes) -> Request:
    """The request in PEM, signed by its own key. Raises csr.RequestError."""
    parsed = csr.parse(text)
    csr.verify(parsed)
    return Request(parsed, wishes.read(parsed))


def judge(
    request: Request, spec: csrs.CertificateSigningRequestSpec, evidence: proofs.Evidence, rules: servingrules.Rules
) -> Verdict:
    """What a request for a serving certificate deserves. Pure; the same data, the same verdict."""
    wrong = [*_shape_problems(request, spec, rules)]
    if not wrong and not request.sans:
        wrong = [
            _Problem(NAMES_MISSING, "no DNS name and no address is asked for: a name in the subject alone is none")
        ]
    if wrong:
        return Verdict(Kind.DENY, wrong[0].reason, joined(each.text for each in wrong))
    case = _Case(spec.username.removeprefix(USER), evidence, rules)
    findings = [_weigh(each, case, rules.alternatives) for each in request.sans]
    return _verdict(findings)


# --- the request as a whole ---------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class _Problem:
    """What no time will mend."""

    reason: str
    text: str


def _shape_problems(
    request: Request, spec: csrs.CertificateSigningRequestSpec, rules: servingrules.Rules
) -> Iterable[_Problem]:
    yield from _identity_problems(request, spec)
    if not _USAGES <= frozenset(spec.usages) <= _USAGES | {"key encipherment"}:
        said = ", ".join(spec.usages)
        yield _Problem(USAGES_NOT_ALLOWED, f"the usages of a kubelet's server are not {said}")
    yield from _extension_problems(request)
    problem = "; ".join(weak.problems(request.csr.public_key))
    if problem:
        yield _Problem(WEAK_KEY, problem)
    # Kubelets ask for no lifetime; what they get then is the signer's affair, and bounded by it.
    if spec.expiration_seconds is not None and spec.expiration_seconds > rules.longest:
        text = f"{spec.expiration_seconds} seconds are asked for, and {rules.longest} are the most"
        yield _Problem(LIFETIME_TOO_LONG, text)
    count = len(request.csr.dns_names) + len(request.csr.ip_addresses)
    if count > rules.most_names:
        yield _Problem(TOO_MANY_NAMES, f"{count} names are asked for, and {rules.most_names} are the most")


def _identity_problems(request: Request, spec: csrs.CertificateSigningRequestSpec) -> Iterable[_Problem]:
    node = spec.username.removeprefix(USER)
    if not spec.username.startswith(USER) or names.dns1123_subdomain_problems(node):
        yield _Problem(NOT_A_NODE, f"the requestor {_shown(spec.username)} is no node")
    elif _GROUP not in spec.groups:
        yield _Problem(NOT_A_NODE, f"the requestor {_shown(spec.username)} is not in the group {_GROUP}")
    if request.csr.common_name != spec.username:
        text = f"the common name {_shown(request.csr.common_name)} is not the requestor's, {_shown(spec.username)}"
        yield _Problem(IDENTITY_MISMATCH, text)
    if request.csr.organizations != (_GROUP,):
        said = ", ".join(map(_shown, request.csr.organizations)) or "missing"
        yield _Problem(IDENTITY_MISMATCH, f"the organization is {said}, not {_GROUP} alone")
    subject = request.wishes.subject
    if len(subject) > 2 or not {oid for oid, _ in subject} <= {_COMMON_NAME, _ORGANIZATION}:
        yield _Problem(SUBJECT_NOT_ALLOWED, "the subject has more than one common name and one organization")


def _extension_problems(request: Request) -> Iterable[_Problem]:
    wanted = request.wishes
    kinds = {"email": request.csr.email_addresses, "URI": request.csr.uris}
    others = [*(kind for kind, found in kinds.items() if found), *wanted.other_names]
    if others:
        text = f"a kubelet has no names of these kinds: {', '.join(others[:_MOST_SHOWN])}"
        yield _Problem(NAME_KIND_NOT_ALLOWED, text)
    if wanted.is_ca:
        yield _Problem(CA_NOT_ALLOWED, "a CA certificate is asked for")
    strange = [oid for oid in wanted.extensions if oid not in _EXTENSIONS]
    if strange:
        text = f"a kubelet asks for no such extensions: {', '.join(strange[:_MOST_SHOWN])}"
        yield _Problem(EXTENSION_NOT_ALLOWED, text)
    if wanted.extended_usages not in (None, _SERVER_AUTH):
        yield _Problem(EXTENSION_NOT_ALLOWED, "the requested extended usages are not server auth alone")
    if not (wanted.key_usages or frozenset()) <= _KEY_USAGES:
        yield _Problem(EXTENSION_NOT_ALLOWED, "the requested key usages are more than a server's")


# --- one name -----------------------------------------------------------------------------------------------------


class Says(enum.Enum):
    """What a source says about a name."""

    YES = "yes"
    #: Not now; it may say otherwise later.
    NOT_YET = "not yet"
    #: Not unless the administrator changes something.
    NO = "no"
    #: It could not be asked.
    UNKNOWN = "unknown"
    #: It has not been asked yet.
    ASK = "ask"


@dataclasses.dataclass(frozen=True, slots=True)
class _Opinion:
    """What one source says. `questions` are those to be asked first."""

    says: Says
    why: str
    questions: frozenset[San] = frozenset()


@dataclasses.dataclass(frozen=True, slots=True)
class _Case:
    """Whose names are judged, and by what."""

    node: str
    evidence: proofs.Evidence
    rules: servingrules.Rules


@dataclasses.dataclass(frozen=True, slots=True)
class _Finding:
    """What became of one name. Of a proven one `text` says by what."""

    san: San
    kind: Kind
    reason: str
    text: str
    questions: frozenset[San] = frozenset()


def _weigh(san: San, case: _Case, alternatives: Sequence[tuple[str, ...]]) -> _Finding:
    """Whether one of the alternatives proves a name; and if not, whether one still may."""
    barred = _barred(san, case)
    if barred is not None:
        return barred
    opinions: dict[str, _Opinion] = {}
    missing: list[set[Says]] = []
    questions: set[San] = set()
    for alternative in alternatives:
        said = []
        for source in alternative:
            if source not in opinions:
                opinions[source] = _SOURCES[source](san, case)
            said.append(opinions[source])
            if said[-1].says is Says.NO:
                break
        if all(each.says is Says.YES for each in said):
            return _Finding(san, Kind.APPROVE, "", f"{_shown(san)} by {' and '.join(alternative)}")
        missing.append({each.says for each in said} - {Says.YES})
        if missing[-1] == {Says.ASK}:
            questions.update(*(each.questions for each in said))
    text = f"{_shown(san)}: " + ", ".join(f"{source} {opinion.why}" for source, opinion in opinions.items())
    if questions:
        return _Finding(san, Kind.ASK, "", text, frozenset(questions))
    reason = NAME_NOT_PROVEN if isinstance(san, str) else ADDRESS_NOT_PROVEN
    if all(Says.NO in each for each in missing):
        return _Finding(san, Kind.DENY, reason, text)
    unavailable = any(Says.UNKNOWN in each and Says.NO not in each for each in missing)
    return _Finding(san, Kind.WAIT, SOURCE_UNAVAILABLE if unavailable else reason, text)


def _barred(san: San, case: _Case) -> _Finding | None:
    """Why no source can prove a name, whatever it says."""
    problem = _name_problem(san) if isinstance(san, str) else None
    if problem is not None:
        return _Finding(san, Kind.DENY, problem.reason, f"{_shown(san)}: {problem.text}")
    if case.rules.forbidden.covers(san):
        reason = FORBIDDEN_NAME if isinstance(san, str) else FORBIDDEN_ADDRESS
        return _Finding(san, Kind.DENY, reason, f"{_shown(san)}: no kubelet gets this, whatever proves it")
    listing, problem_there = case.evidence.listing, case.evidence.listing_problem
    if listing is None and problem_there:
        # It may give this to another: other sources must not decide as if there were no inventory.
        text = f"{_shown(san)}: the inventory cannot be read ({_cut(problem_there)})"
        return _Finding(san, Kind.WAIT, SOURCE_UNAVAILABLE, text)
    owner = listing.owners.get(san) if listing is not None else None
    if owner is not None and owner != case.node:
        return _Finding(san, Kind.DENY, BELONGS_TO_ANOTHER, f"{_shown(san)}: the inventory gives it to node {owner}")
    # What the administrator gave to a node, others cannot take from it by claiming it too.
    others = case.evidence.disputes.get(san, ()) if owner is None else ()
    if others:
        text = f"{_shown(san)}: claimed by {_some(others)} too"
        return _Finding(san, Kind.WAIT, CLAIMED_BY_ANOTHER, text)
    return None


_LABEL: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
#: What ends so is an address to some clients, in one of its old spellings.
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")


def _name_problem(name: str) -> _Problem | None:
    if "*" in name:
        return _Problem(WILDCARD_NAME, "a node has no wildcard name")
    labels = name.split(".")
    if len(name) > 253 or not all(map(_LABEL.fullmatch, labels)):
        return _Problem(MALFORMED_NAME, "this is no DNS name of labels with letters, digits and hyphens")
    if _NUMBER.fullmatch(labels[-1]):
        return _Problem(MALFORMED_NAME, "a name that ends in a number can be taken for an address")
    return None


# --- the sources --------------------------------------------------------------------------------------------------


def _by_node(san: San, case: _Case) -> _Opinion:
    claims = case.evidence.claims
    if claims is None:
        return _Opinion(Says.NOT_YET, f"has no Node {case.node}")
    if san in claims:
        return _Opinion(Says.YES, "says so")
    return _Opinion(Says.NOT_YET, f"has {_some(sorted(map(str, claims))) or 'no addresses'}")


def _by_inventory(san: San, case: _Case) -> _Opinion:
    listing = case.evidence.listing
    if listing is None:
        return _Opinion(Says.UNKNOWN, "was not read")
    entry = listing.entries.get(case.node)
    if entry is not None and san in entry:
        return _Opinion(Says.YES, "says so")
    if case.evidence.listing_problem:
        # What it said before still proves, but what it does not say may be in what cannot be read.
        return _Opinion(Says.UNKNOWN, f"has not been readable lately ({_cut(case.evidence.listing_problem)})")
    if entry is None:
        return _Opinion(Says.NOT_YET, f"does not know {case.node}")
    return _Opinion(Says.NO, f"has {_some(sorted(map(str, entry))) or 'nothing'} for {case.node}")


def _by_cidrs(san: San, case: _Case) -> _Opinion:
    if isinstance(san, str):
        return _Opinion(Says.NO, "say nothing about names")
    if servingrules.is_within(san, case.rules.cidrs):
        return _Opinion(Says.YES, "have it")
    return _Opinion(Says.NO, f"are {_some(map(str, case.rules.cidrs))}")


def _by_patterns(san: San, case: _Case) -> _Opinion:
    if not isinstance(san, str):
        return _Opinion(Says.NO, "say nothing about addresses")
    given = case.rules.names_of(case.node)
    return _Opinion(Says.YES, "have it") if san in given else _Opinion(Says.NO, f"give {_some(given)}")


def _by_dns(san: San, case: _Case) -> _Opinion:
    """A name leads to this node's addresses and nowhere else; to an address one of this node's names leads. What DNS
    leads to or from has to be proven without DNS: otherwise it would be its own witness.
    """
    return _by_where_it_leads(san, case) if isinstance(san, str) else _by_what_leads_to_it(san, case)


def _by_where_it_leads(name: str, case: _Case) -> _Opinion:
    if "." not in name:
        return _Opinion(Says.NO, "is not asked about names without a dot")
    answer = case.evidence.answers.get(name)
    if answer is None or answer.problem:
        return _unanswered([name], answer)
    if not answer.found:
        return _Opinion(Says.NOT_YET, "knows no addresses of it")
    stray = [each for each in answer.found if not _is_proven(each, case)]
    if stray:
        return _Opinion(Says.NOT_YET, f"leads to {_some(map(str, stray))}, which is not proven to be the node's")
    back = [_calls(each, [name], case) for each in answer.found] if case.rules.reverse else []
    return next((each for each in back if each.says is not Says.YES), _Opinion(Says.YES, "leads to the node"))


def _by_what_leads_to_it(address: San, case: _Case) -> _Opinion:
    own = _own_names(case)
    answers = case.evidence.answers
    unasked = [each for each in own if each not in answers]
    if unasked:
        return _unanswered(unasked, None)
    leading = [each for each in own if address in answers[each].found]
    if leading:
        return _calls(address, leading, case) if case.rules.reverse else _Opinion(Says.YES, f"has it for {leading[0]}")
    silent = next((answers[each] for each in own if answers[each].problem), None)
    if silent is not None:
        return _unanswered(own, silent)
    return _Opinion(Says.NOT_YET, f"has it for none of the node's names ({_some(own) or 'none is known'})")


def _own_names(case: _Case) -> list[str]:
    """The node's names that DNS can be asked for: those of the administrator's, not what the kubelet says; proven."""
    listing = case.evidence.listing
    listed = listing.entries.get(case.node, frozenset[San]()) if listing is not None else frozenset[San]()
    found = {each for each in (*case.rules.names_of(case.node), *listed) if isinstance(each, str) and "." in each}
    return sorted(each for each in found if _is_proven(each, case))


def _calls(address: San, names: Sequence[str], case: _Case) -> _Opinion:
    """Whether an address is called by one of some names, which lead to it."""
    answer = case.evidence.answers.get(address)
    if answer is None or answer.problem:
        return _unanswered([address], answer)
    if set(names) & set(answer.found):
        return _Opinion(Says.YES, f"has it for {_some(names)}, and back")
    return _Opinion(Says.NOT_YET, f"calls {address} {_some(map(str, answer.found)) or 'nothing'}")


def _unanswered(questions: Sequence[San], answer: proofs.Answer | None) -> _Opinion:
    if answer is None:
        return _Opinion(Says.ASK, "was not asked", frozenset(questions))
    return _Opinion(Says.UNKNOWN, f"could not be asked ({_cut(answer.problem)})")


def _is_proven(san: San, case: _Case) -> bool:
    """Whether a name is proven to be the node's by anything but DNS."""
    without = [each for each in case.rules.alternatives if servingrules.DNS not in each]
    return _weigh(san, case, without).kind is Kind.APPROVE


_SOURCES: Final[Mapping[str, Callable[[San, _Case], _Opinion]]] = {
    servingrules.NODE: _by_node,
    servingrules.INVENTORY: _by_inventory,
    servingrules.CIDRS: _by_cidrs,
    servingrules.PATTERNS: _by_patterns,
    servingrules.DNS: _by_dns,
}


# --- the verdict --------------------------------------------------------------------------------------------------


def _verdict(findings: Sequence[_Finding]) -> Verdict:
    """One name that nobody may have is enough to deny; nobody is asked about the others then."""
    for kind in (Kind.DENY, Kind.ASK, Kind.WAIT):
        found = [each for each in findings if each.kind is kind]
        if found:
            questions = frozenset[San]().union(*(each.questions for each in found))
            return Verdict(kind, found[0].reason, joined(each.text for each in found), questions)
    return Verdict(Kind.APPROVE, PROVEN, "Every name is proven: " + joined(each.text for each in findings))


def joined(texts: Iterable[str]) -> str:
    found = "; ".join(texts)
    return found if len(found) <= _LONGEST_MESSAGE else found[: _LONGEST_MESSAGE - 3] + "..."


def _some(found: Iterable[str]) -> str:
    """The first few, for people."""
    listed = list(found)
    more = f" and {len(listed) - _MOST_SHOWN} more" if len(listed) > _MOST_SHOWN else ""
    return ", ".join(map(_plainly, listed[:_MOST_SHOWN])) + more


def _plainly(text: str) -> str:
    """Without quotes, where it cannot pass for anything else: Nodes and DNS say what strangers wrote."""
    quoted = gotext.quote(_cut(text))
    return quoted[1:-1] if quoted == f'"{_cut(text)}"' else quoted


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_SHOWN else text[: _LONGEST_SHOWN - 3] + "..."


def _shown(said: San) -> str:
    """What a stranger wrote, so that it cannot pass for anything else."""
    return gotext.quote(_cut(said)) if isinstance(said, str) else str(said)
