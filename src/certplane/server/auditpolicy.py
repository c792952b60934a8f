"""Which requests are recorded, and how much of them: a Policy of audit.k8s.io/v1, judged rule by rule.

The first rule that matches decides; what no rule matches is not recorded. Source:
`k8s.io/apiserver/pkg/apis/audit/{v1,validation}`, `k8s.io/apiserver/pkg/audit/policy/checker.go`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Final

from msgspec import field

from certplane import errors
from certplane.meta import codec, context, goyaml, names, objects
from certplane.meta.objects import always, doc

#: From nothing to everything.
LEVELS: Final = ("None", "Metadata", "Request", "RequestResponse")
NONE, METADATA, REQUEST, REQUEST_RESPONSE = LEVELS
RECEIVED: Final = "RequestReceived"
STARTED: Final = "ResponseStarted"
COMPLETE: Final = "ResponseComplete"
PANIC: Final = "Panic"
_STAGES: Final = (PANIC, RECEIVED, COMPLETE, STARTED)

#: Their bodies are credentials. Whatever a policy says, no more than their metadata is recorded.
_SECRET: Final = frozenset(
    {("", "secrets", ""), ("", "serviceaccounts", "token"), ("authentication.k8s.io", "tokenreviews", "")}
)


def holds_credentials(of: context.Attributes | context.RequestInfo) -> bool:
    """Whether a request is about something that nothing may be quoted from."""
    return (of.group, of.resource, of.subresource) in _SECRET


class GroupResources(objects.Type):
    """GroupResources names resources of one group."""

    group: Annotated[str, doc("API group; empty for the core group.")] = ""
    resources: Annotated[list[str], doc("pods, pods/log, pods/*, */status or *; empty for all.")] = field(
        default_factory=list
    )
    resource_names: Annotated[list[str], doc("Names of single objects; empty for all.")] = field(default_factory=list)


class PolicyRule(objects.Type):
    """PolicyRule says how much is recorded of the requests that it matches."""

    level: Annotated[str, doc("None, Metadata, Request or RequestResponse.")] = always(str)
    users: Annotated[list[str], doc("Users; empty for all.")] = field(default_factory=list)
    user_groups: Annotated[list[str], doc("Groups, any of which is enough; empty for all.")] = field(
        default_factory=list
    )
    verbs: Annotated[list[str], doc("Verbs; empty for all.")] = field(default_factory=list)
    resources: Annotated[list[GroupResources], doc("Resources; empty for all.")] = field(default_factory=list)
    namespaces: Annotated[list[str], doc("Namespaces; the empty one for what is in none; no entry for all.")] = field(
        default_factory=list
    )
    non_resource_urls: Annotated[list[str], doc("Paths that are no resources; a * at the end stands for any rest.")] = (
        field(default_factory=list, name="nonResourceURLs")
    )
    omit_stages: Annotated[list[str], doc("Stages that are not recorded.")] = field(default_factory=list)
    omit_managed_fields: Annotated[bool | None, doc("Whether objects are recorded without managedFields.")] = None


class Document(objects.Object):
    """Policy says which requests are recorded, and how much of them."""

    rules: Annotated[list[PolicyRule], doc("The rules; the first that matches counts.")] = always(list)
    omit_stages: Annotated[list[str], doc("Stages that are recorded for no rule.")] = field(default_factory=list)
    omit_managed_fields: Annotated[bool, doc("What holds for rules that say nothing of it.")] = False


@dataclasses.dataclass(frozen=True, slots=True)
class Judgement:
    """How much of a request is recorded, and at which stages."""

    level: str
    omitted: frozenset[str] = frozenset()
    omit_managed_fields: bool = False

    def records(self, stage: str) -> bool:
        return self.level != NONE and stage not in self.omitted

    def reaches(self, level: str) -> bool:
        return LEVELS.index(self.level) >= LEVELS.index(level)


_NOTHING: Final = Judgement(NONE)
#: Stands for every group, resource or path.
_ANY: Final = "*"


class PolicyProblem(ValueError):
    """A policy that cannot be used; the text says everything that is wrong with it."""


class Policy:
    """A policy, ready to judge."""

    def __init__(self, document: Document) -> None:
        self._rules = tuple(_Rule(each, document) for each in document.rules)

    def judge(self, of: context.Attributes) -> Judgement:
        """What to record of a request."""
        for rule in self._rules:
            if rule.matches(of):
                found = rule.judgement
                if holds_credentials(of) and found.reaches(REQUEST):
                    return dataclasses.replace(found, level=METADATA)
                return found
        return _NOTHING


class _Rule:
    """One rule, with sets instead of lists."""

    def __init__(self, rule: PolicyRule, document: Document) -> None:
        omit = rule.omit_managed_fields
        self.judgement = Judgement(
            rule.level,
            frozenset((*rule.omit_stages, *document.omit_stages)),
            document.omit_managed_fields if omit is None else omit,
        )
        self._users = frozenset(rule.users)
        self._groups = frozenset(rule.user_groups)
        self._verbs = frozenset(rule.verbs)
        self._namespaces = frozenset(rule.namespaces)
        self._resources = tuple(rule.resources)
        self._paths = tuple(rule.non_resource_urls)

    def matches(self, of: context.Attributes) -> bool:
        if self._users and of.user.name not in self._users:
            return False
        if self._groups and self._groups.isdisjoint(of.user.groups):
            return False
        if self._verbs and of.verb not in self._verbs:
            return False
        if self._namespaces or self._resources:
            return of.is_resource and self._matches_resource(of)
        return not self._paths or (not of.is_resource and any(_fits(of.path, each) for each in self._paths))

    def _matches_resource(self, of: context.Attributes) -> bool:
        if self._namespaces and of.namespace not in self._namespaces:
            return False
        if not self._resources:
            return True
        combined = f"{of.resource}/{of.subresource}" if of.subresource else of.resource
        forms = {_ANY, combined, f"{of.resource}/*"}
        if of.subresource:
            forms.add(f"*/{of.subresource}")
        for each in self._resources:
            if each.group not in (of.group, _ANY):
                continue
            if not each.resources:
                return True
            named = not each.resource_names or of.name in each.resource_names
            if named and not forms.isdisjoint(each.resources):
                return True
        return False


def _fits(path: str, pattern: str) -> bool:
    if pattern.endswith("*"):
        return path.startswith(pattern.rstrip("*"))
    return path == pattern


# --- reading ------------------------------------------------------------------------------------------------------


def parse(data: bytes) -> Policy:
    """The policy in a YAML or JSON document. Raises PolicyProblem with everything that is wrong with it."""
    try:
        reading = codec.read(goyaml.parse(data), Document)
    except (goyaml.Problem, codec.ReadProblem) as error:
        raise PolicyProblem(str(error)) from error
    found: Document = reading.object
    problems = list(reading.strict)
    if (found.api_version, found.kind) != ("audit.k8s.io/v1", "Policy"):
        problems.append(
            f"it is {found.kind or 'nothing'} of {found.api_version or 'no version'}, not a Policy of audit.k8s.io/v1"
        )
    if not found.rules:
        problems.append("it has no rules")
    problems += [str(each) for each in _problems(found)]
    if problems:
        raise PolicyProblem("; ".join(problems))
    return Policy(found)


def _problems(of: Document) -> list[errors.FieldProblem]:
    problems = _stage_problems(of.omit_stages, "omitStages")
    for at, rule in enumerate(of.rules):
        path = f"rules[{at}]"
        if not rule.level:
            problems.append(errors.required(f"{path}.level"))
        elif rule.level not in LEVELS:
            problems.append(errors.not_supported(f"{path}.level", rule.level, LEVELS))
        problems += _stage_problems(rule.omit_stages, f"{path}.omitStages")
        problems += _url_problems(rule, f"{path}.nonResourceURLs")
        for index, each in enumerate(rule.resources):
            problems += _resource_problems(each, f"{path}.resources[{index}]")
    return problems


def _stage_problems(stages: Sequence[str], path: str) -> list[errors.FieldProblem]:
    return [
        errors.not_supported(f"{path}[{at}]", each, _STAGES) for at, each in enumerate(stages) if each not in _STAGES
    ]


def _url_problems(rule: PolicyRule, path: str) -> list[errors.FieldProblem]:
    problems = []
    if rule.non_resource_urls and (rule.resources or rule.namespaces):
        why = "rules cannot apply to both regular resources and non-resource URLs"
        problems.append(errors.invalid(path, rule.non_resource_urls, why))
    for at, each in enumerate(rule.non_resource_urls):
        if each == _ANY:
            continue
        if not each.startswith("/"):
            why = "non-resource URL rules must begin with a '/' character"
            problems.append(errors.invalid(f"{path}[{at}]", each, why))
        if "*" in each[:-1]:
            why = "non-resource URL wildcards '*' must be the final character of the rule"
            problems.append(errors.invalid(f"{path}[{at}]", each, why))
    return problems


def _resource_problems(of: GroupResources, path: str) -> list[errors.FieldProblem]:
    problems = []
    if of.group not in ("", _ANY):
        problems = [
            errors.invalid(f"{path}.group", of.group, why) for why in names.dns1123_subdomain_problems(of.group)
        ]
    if of.resource_names and not of.resources:
        why = "using resourceNames requires at least one resource"
        problems.append(errors.invalid(f"{path}.resourceNames", of.resource_names, why))
    return problems


#: What is recorded where nobody says anything else: who did what, without bodies; not the traffic that says nothing
#: about it. Every decision and every certificate is among what is recorded.
DEFAULT: Final = parse(
    b"""
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: None
  nonResourceURLs: ["/healthz*", "/livez*", "/readyz*", "/version", "/metrics", "/openapi/*", "/api", "/api/*", "/apis",
                    "/apis/*", "/.well-known/*", "/openid/*"]
- level: None
  resources: [{group: coordination.k8s.io, resources: [leases]}, {group: "", resources: [events]}]
- level: None
  verbs: [create]
  resources:
  - {group: authorization.k8s.io, resources: [selfsubjectaccessreviews, selfsubjectrulesreviews, subjectaccessreviews]}
- level: Metadata
"""
)
