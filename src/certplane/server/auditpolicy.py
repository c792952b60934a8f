"""The audit policy, a Policy of audit.k8s.io/v1: which requests are recorded, and how much of each.

The first matching rule applies; a request that matches no rule is not recorded. Source:
`k8s.io/apiserver/pkg/apis/audit/{v1,validation}`, `k8s.io/apiserver/pkg/audit/policy/checker.go`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Final

from msgspec import field

from certplane import errors
from certplane.golang import formatting, goyaml
from certplane.meta import context, names, objects
from certplane.meta.objects import always, doc
from certplane.wire import codec

#: In ascending order.
LEVELS: Final = ("None", "Metadata", "Request", "RequestResponse")
NONE, METADATA, REQUEST, REQUEST_RESPONSE = LEVELS
RECEIVED: Final = "RequestReceived"
STARTED: Final = "ResponseStarted"
COMPLETE: Final = "ResponseComplete"
PANIC: Final = "Panic"
_STAGES: Final = (PANIC, RECEIVED, COMPLETE, STARTED)

#: Resources whose bodies are credentials. Only their metadata is recorded, whatever the policy says.
_SECRET: Final = frozenset(
    {("", "secrets", ""), ("", "serviceaccounts", "token"), ("authentication.k8s.io", "tokenreviews", "")}
)


def holds_credentials(attributes: context.Attributes | context.RequestInfo) -> bool:
    """Whether the bodies of a request are credentials, so that nothing of them may be logged or quoted."""
    return (attributes.group, attributes.resource, attributes.subresource) in _SECRET


class GroupResources(objects.Type):
    """GroupResources names resources of one group."""

    group: Annotated[str, doc("API group; empty for the core group.")] = ""
    resources: Annotated[list[str], doc("pods, pods/log, pods/*, */status or *; empty for all.")] = field(
        default_factory=list
    )
    resource_names: Annotated[list[str], doc("Names of objects; empty for all.")] = field(default_factory=list)


class PolicyRule(objects.Type):
    """PolicyRule says how much is recorded of the requests that it matches."""

    level: Annotated[str, doc("None, Metadata, Request or RequestResponse.")] = always(str)
    users: Annotated[list[str], doc("Users; empty for all.")] = field(default_factory=list)
    user_groups: Annotated[list[str], doc("Groups, one of which must match; empty for all.")] = field(
        default_factory=list
    )
    verbs: Annotated[list[str], doc("Verbs; empty for all.")] = field(default_factory=list)
    resources: Annotated[list[GroupResources], doc("Resources; empty for all.")] = field(default_factory=list)
    namespaces: Annotated[list[str], doc('Namespaces, "" for cluster-scoped resources; empty for all.')] = field(
        default_factory=list
    )
    non_resource_urls: Annotated[list[str], doc("Non-resource paths; a trailing * matches any suffix.")] = field(
        default_factory=list, name="nonResourceURLs"
    )
    omit_stages: Annotated[list[str], doc("Stages that are not recorded.")] = field(default_factory=list)
    omit_managed_fields: Annotated[bool | None, doc("Whether objects are recorded without managedFields.")] = None


class Document(objects.Object):
    """Policy says which requests are recorded, and how much of them."""

    rules: Annotated[list[PolicyRule], doc("The rules; the first match applies.")] = always(list)
    omit_stages: Annotated[list[str], doc("Stages that are not recorded, for all rules.")] = field(default_factory=list)
    omit_managed_fields: Annotated[bool, doc("The default of the rules.")] = False


@dataclasses.dataclass(frozen=True, slots=True)
class RequestAuditConfig:
    """What is recorded of a request: the level, and the stages that are omitted."""

    level: str
    omit_stages: frozenset[str] = frozenset()
    omit_managed_fields: bool = False

    def includes_stage(self, stage: str) -> bool:
        return self.level != NONE and stage not in self.omit_stages

    def includes_level(self, level: str) -> bool:
        return LEVELS.index(self.level) >= LEVELS.index(level)


_OMIT: Final = RequestAuditConfig(NONE)
#: The wildcard for groups, resources and paths.
_ANY: Final = "*"


class InvalidPolicy(ValueError):
    """An invalid policy; the text lists all errors."""


class Policy:
    """A compiled policy."""

    def __init__(self, document: Document) -> None:
        self._rules = tuple(_Rule(rule, document) for rule in document.rules)

    def evaluate(self, attributes: context.Attributes) -> RequestAuditConfig:
        """What to record of a request."""
        for rule in self._rules:
            if rule.matches(attributes):
                config = rule.config
                if holds_credentials(attributes) and config.includes_level(REQUEST):
                    return dataclasses.replace(config, level=METADATA)
                return config
        return _OMIT


class _Rule:
    """One compiled rule, with sets instead of lists."""

    def __init__(self, rule: PolicyRule, document: Document) -> None:
        omit = rule.omit_managed_fields
        self.config = RequestAuditConfig(
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

    def matches(self, attributes: context.Attributes) -> bool:
        if self._users and attributes.user.name not in self._users:
            return False
        if self._groups and self._groups.isdisjoint(attributes.user.groups):
            return False
        if self._verbs and attributes.verb not in self._verbs:
            return False
        if self._namespaces or self._resources:
            return attributes.is_resource and self._matches_resource(attributes)
        return not self._paths or (
            not attributes.is_resource and any(_matches_path(attributes.path, pattern) for pattern in self._paths)
        )

    def _matches_resource(self, attributes: context.Attributes) -> bool:
        if self._namespaces and attributes.namespace not in self._namespaces:
            return False
        if not self._resources:
            return True
        combined = f"{attributes.resource}/{attributes.subresource}" if attributes.subresource else attributes.resource
        patterns = {_ANY, combined, f"{attributes.resource}/*"}
        if attributes.subresource:
            patterns.add(f"*/{attributes.subresource}")
        for group_resources in self._resources:
            if group_resources.group not in (attributes.group, _ANY):
                continue
            if not group_resources.resources:
                return True
            matches_name = not group_resources.resource_names or attributes.name in group_resources.resource_names
            if matches_name and not patterns.isdisjoint(group_resources.resources):
                return True
        return False


def _matches_path(path: str, pattern: str) -> bool:
    if pattern.endswith("*"):
        return path.startswith(pattern.rstrip("*"))
    return path == pattern


# --- reading ------------------------------------------------------------------------------------------------------


def parse(data: bytes) -> Policy:
    """Parse a policy in YAML or JSON. Raises InvalidPolicy with all errors."""
    try:
        reading = codec.decode_tree(goyaml.parse(data), Document)
    except (goyaml.YAMLError, codec.DecodeError) as error:
        raise InvalidPolicy(str(error)) from error
    document = reading.object
    problems = list(reading.strict_errors)
    if (document.api_version, document.kind) != ("audit.k8s.io/v1", "Policy"):
        problems.append(
            f"expected kind Policy of audit.k8s.io/v1, got kind {formatting.quote(document.kind)} of "
            f"{formatting.quote(document.api_version)}"
        )
    if not document.rules:
        problems.append("rules: Required value")
    problems += [str(problem) for problem in _problems(document)]
    if problems:
        raise InvalidPolicy("; ".join(problems))
    return Policy(document)


def _problems(document: Document) -> list[errors.FieldProblem]:
    problems = _stage_problems(document.omit_stages, "omitStages")
    for index, rule in enumerate(document.rules):
        path = f"rules[{index}]"
        if not rule.level:
            problems.append(errors.required(f"{path}.level"))
        elif rule.level not in LEVELS:
            problems.append(errors.not_supported(f"{path}.level", rule.level, LEVELS))
        problems += _stage_problems(rule.omit_stages, f"{path}.omitStages")
        problems += _url_problems(rule, f"{path}.nonResourceURLs")
        for position, group_resources in enumerate(rule.resources):
            problems += _resource_problems(group_resources, f"{path}.resources[{position}]")
    return problems


def _stage_problems(stages: Sequence[str], path: str) -> list[errors.FieldProblem]:
    return [
        errors.not_supported(f"{path}[{index}]", stage, _STAGES)
        for index, stage in enumerate(stages)
        if stage not in _STAGES
    ]


def _url_problems(rule: PolicyRule, path: str) -> list[errors.FieldProblem]:
    problems = []
    if rule.non_resource_urls and (rule.resources or rule.namespaces):
        detail = "rules cannot apply to both regular resources and non-resource URLs"
        problems.append(errors.invalid(path, rule.non_resource_urls, detail))
    for index, url in enumerate(rule.non_resource_urls):
        if url == _ANY:
            continue
        if not url.startswith("/"):
            detail = "non-resource URL rules must begin with a '/' character"
            problems.append(errors.invalid(f"{path}[{index}]", url, detail))
        if "*" in url[:-1]:
            detail = "non-resource URL wildcards '*' must be the final character of the rule"
            problems.append(errors.invalid(f"{path}[{index}]", url, detail))
    return problems


def _resource_problems(resources: GroupResources, path: str) -> list[errors.FieldProblem]:
    problems = []
    if resources.group not in ("", _ANY):
        problems = [
            errors.invalid(f"{path}.group", resources.group, detail)
            for detail in names.dns1123_subdomain_problems(resources.group)
        ]
    if resources.resource_names and not resources.resources:
        detail = "using resourceNames requires at least one resource"
        problems.append(errors.invalid(f"{path}.resourceNames", resources.resource_names, detail))
    return problems


#: The default policy: metadata of all requests except health checks, discovery, leases, events and access reviews.
#: Every approval and every issued certificate is recorded.
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
