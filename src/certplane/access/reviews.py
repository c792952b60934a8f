"""The review APIs (SubjectAccessReview, TokenReview ...), answered by the same authorizer that checks every request.

Source: kubernetes, `pkg/registry/authorization`, `pkg/registry/authentication`, `pkg/apis/authorization/validation`.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, TypeVar

from certplane import errors, offload, timestamps
from certplane.access import authn, nodes, rbac
from certplane.errors import Problems
from certplane.meta import objects, selectors, validation
from certplane.meta.context import Attributes, User, VerbContext
from certplane.meta.objects import Object
from certplane.meta.resource import AnyObject
from certplane.resources import reviews
from certplane.wire import codec

#: Answers a review: takes the object that was sent, returns the object of the response.
Answer = Callable[[AnyObject, VerbContext], Awaitable[Object]]

_Review = TypeVar(
    "_Review", reviews.SubjectAccessReview, reviews.LocalSubjectAccessReview, reviews.SelfSubjectAccessReview
)
_Requirement = TypeVar("_Requirement")


def answers(authorizer: rbac.Authorizer, tokens: authn.BearerTokens) -> Mapping[str, Answer]:
    """The answering functions, by plural of the review."""

    async def subject(review: reviews.SubjectAccessReview, call: VerbContext) -> reviews.SubjectAccessReview:
        _refuse(await offload.run(call.size, _problems, review))
        return _with_decision(authorizer, review, _subject_user(review.spec))

    async def local(review: reviews.LocalSubjectAccessReview, call: VerbContext) -> reviews.LocalSubjectAccessReview:
        _refuse(await offload.run(call.size, _local_problems, review))
        return _with_decision(authorizer, review, _subject_user(review.spec))

    async def self_access(
        review: reviews.SelfSubjectAccessReview, call: VerbContext
    ) -> reviews.SelfSubjectAccessReview:
        _refuse(await offload.run(call.size, _problems, review))
        return _with_decision(authorizer, review, call.user)

    async def self_rules(review: reviews.SelfSubjectRulesReview, call: VerbContext) -> reviews.SelfSubjectRulesReview:
        if not review.spec.namespace:
            raise errors.BadRequest("no namespace on request")
        return _rules(authorizer, review, call)

    async def self_subject_review(review: reviews.SelfSubjectReview, call: VerbContext) -> reviews.SelfSubjectReview:
        review.metadata = objects.ObjectMeta(creation_timestamp=timestamps.rfc3339(call.now))
        review.status.user_info = _user_info(call.user)
        return review

    async def token(review: reviews.TokenReview, call: VerbContext) -> reviews.TokenReview:
        if not review.spec.token:
            raise errors.BadRequest("token is required for TokenReview in authentication")
        return _token_answer(review, tokens, call)

    return {
        reviews.SUBJECT_ACCESS_REVIEWS.plural: subject,
        reviews.LOCAL_SUBJECT_ACCESS_REVIEWS.plural: local,
        reviews.SELF_SUBJECT_ACCESS_REVIEWS.plural: self_access,
        reviews.SELF_SUBJECT_RULES_REVIEWS.plural: self_rules,
        reviews.SELF_SUBJECT_REVIEWS.plural: self_subject_review,
        reviews.TOKEN_REVIEWS.plural: token,
    }


# --- access -------------------------------------------------------------------------------------------------------


def _refuse(problems: Problems) -> None:
    """Refuse an invalid review. kube-apiserver reports it without its kind."""
    if problems:
        raise errors.Invalid("", reviews.AUTHORIZATION, "", problems)


def _meta_problems(meta: objects.ObjectMeta, *, namespaced: bool = False) -> Problems:
    """A review must have no metadata, except the managedFields that the server sets."""
    tree = codec.to_builtins(meta)
    if set(tree) <= ({"managedFields", "namespace"} if namespaced else {"managedFields"}):
        return []
    return [errors.invalid("metadata", tree, "must be empty except for namespace" if namespaced else "must be empty")]


def _problems(review: reviews.SubjectAccessReview | reviews.SelfSubjectAccessReview) -> Problems:
    return [*_spec_problems(review.spec), *_meta_problems(review.metadata)]


def _spec_problems(spec: reviews.SubjectAccessReviewSpec | reviews.SelfSubjectAccessReviewSpec) -> Problems:
    problems: Problems = []
    attributes, path = spec.resource_attributes, spec.non_resource_attributes
    if attributes is not None and path is not None:
        value = {"Path": path.path, "Verb": path.verb}
        why = "cannot be specified in combination with resourceAttributes"
        problems.append(errors.invalid("spec.nonResourceAttributes", value, why))
    if attributes is None and path is None:
        why = "exactly one of nonResourceAttributes or resourceAttributes must be specified"
        problems.append(errors.invalid("spec.resourceAttributes", None, why))
    if isinstance(spec, reviews.SubjectAccessReviewSpec) and not spec.user and not spec.groups:
        problems.append(errors.invalid("spec.user", "", "at least one of user or group must be specified"))
    fields = attributes.field_selector if attributes is not None else None
    if fields is not None:
        field_path = "spec.resourceAttributes.fieldSelector"
        problems += _selector_problems(fields.raw_selector, fields.requirements, field_path, _field_problems)
    labels = attributes.label_selector if attributes is not None else None
    if labels is not None:
        label_path = "spec.resourceAttributes.labelSelector"
        label_problems = functools.partial(validation.selector_requirement_problems, any_operator=True)
        problems += _selector_problems(labels.raw_selector, labels.requirements, label_path, label_problems)
    return problems


def _selector_problems(
    raw_selector: str,
    requirements: Sequence[_Requirement],
    path: str,
    requirement_problems: Callable[[_Requirement, str], Problems],
) -> Problems:
    problems: Problems = []
    if raw_selector and requirements:
        why = "may not specified at the same time as requirements"
        problems.append(errors.invalid(f"{path}.rawSelector", raw_selector, why))
    if not raw_selector and not requirements:
        why = f"when {path} is specified, requirements or rawSelector is required"
        problems.append(errors.required(f"{path}.requirements", why))
    if too_many := validation.count_problems(requirements, f"{path}.requirements"):
        return [*problems, *too_many]
    for index, requirement in enumerate(requirements):
        problems.extend(requirement_problems(requirement, f"{path}.requirements[{index}]"))
    return problems


def _field_problems(requirement: reviews.FieldSelectorRequirement, path: str) -> Problems:
    key = [] if requirement.key else [errors.required(f"{path}.key", "must be specified")]
    return [*key, *validation.operator_problems(requirement.operator, requirement.values, path, any_operator=True)]


def _local_problems(review: reviews.LocalSubjectAccessReview) -> Problems:
    problems = [*_spec_problems(review.spec), *_meta_problems(review.metadata, namespaced=True)]
    attributes, path = review.spec.resource_attributes, review.spec.non_resource_attributes
    if attributes is not None and attributes.namespace != review.metadata.namespace:
        why = "must match metadata.namespace"
        problems.append(errors.invalid("spec.resourceAttributes.namespace", attributes.namespace, why))
    if path is not None:
        value = {"Path": path.path, "Verb": path.verb}
        problems.append(errors.invalid("spec.nonResourceAttributes", value, "disallowed on this kind of request"))
    return problems


def _subject_user(spec: reviews.SubjectAccessReviewSpec) -> User:
    """The user of a review as it is: no implied groups are added."""
    extra = {key: tuple(values) for key, values in spec.extra.items()}
    return User(spec.user, spec.uid, tuple(spec.groups), extra)


def _with_decision(authorizer: rbac.Authorizer, review: _Review, user: User) -> _Review:
    attributes, path = review.spec.resource_attributes, review.spec.non_resource_attributes
    problems: list[str] = []
    if path is not None:
        request = Attributes(user=user, verb=path.verb, path=path.path, is_resource=False)
    else:
        assert attributes is not None  # noqa: S101 - validation has required one of the two
        request = Attributes(
            user=user,
            verb=attributes.verb,
            group=attributes.group,
            version=attributes.version or "*",
            resource=attributes.resource,
            subresource=attributes.subresource,
            name=attributes.name,
            namespace=attributes.namespace,
            field_selector=_field_selector(attributes.field_selector, problems),
        )
        _check_labels(attributes.label_selector, problems)
    decision = authorizer.authorize(request)
    review.status = reviews.SubjectAccessReviewStatus(
        allowed=decision.allowed, reason=decision.reason, evaluation_error="; ".join(problems)
    )
    return review


_TERM_OPERATORS: Final = {"In": "=", "NotIn": "!="}


def _field_selector(selector: reviews.FieldSelectorAttributes | None, problems: list[str]) -> selectors.FieldSelector:
    """The field selector of a review. Parts that cannot be parsed are ignored and added to `problems`."""
    if selector is None:
        return selectors.EVERYTHING
    if selector.raw_selector:
        try:
            return selectors.parse_fields(selector.raw_selector)
        except errors.BadRequest:
            problems.append(_ignored("fieldSelector"))
            return selectors.EVERYTHING
    terms = tuple(
        selectors.Term(requirement.key, _TERM_OPERATORS[requirement.operator], requirement.values[0])
        for requirement in selector.requirements
        if requirement.operator in _TERM_OPERATORS and len(requirement.values) == 1
    )
    if len(terms) < len(selector.requirements):
        problems.append(_ignored("fieldSelector", partially=bool(terms)))
    return selectors.FieldSelector(terms)


def _check_labels(selector: reviews.LabelSelectorAttributes | None, problems: list[str]) -> None:
    """Add parts of the label selector that cannot be parsed to `problems`. No authorizer here uses label selectors."""
    if selector is None:
        return
    if selector.raw_selector:
        try:
            selectors.parse_labels(selector.raw_selector)
        except errors.BadRequest:
            problems.append(_ignored("labelSelector"))
        return
    valid = [not validation.selector_requirement_problems(requirement, "") for requirement in selector.requirements]
    if not all(valid):
        problems.append(_ignored("labelSelector", partially=any(valid)))


def _ignored(selector: str, *, partially: bool = False) -> str:
    effect = "partially ignored" if partially else "ignored"
    return f"spec.resourceAttributes.{selector} {effect} due to parse error"


def _rules(
    authorizer: rbac.Authorizer, review: reviews.SelfSubjectRulesReview, call: VerbContext
) -> reviews.SelfSubjectRulesReview:
    rules, missing_roles = authorizer.rules_for(call.user, review.spec.namespace)
    status = reviews.SubjectRulesReviewStatus()
    for rule in rules:
        if rule.resources:
            status.resource_rules.append(
                reviews.ResourceRule(
                    verbs=rule.verbs,
                    api_groups=rule.api_groups,
                    resources=rule.resources,
                    resource_names=rule.resource_names,
                )
            )
        if rule.non_resource_urls:
            status.non_resource_rules.append(
                reviews.NonResourceRule(verbs=rule.verbs, non_resource_urls=rule.non_resource_urls)
            )
    problems = [rbac.not_found(role_ref) for role_ref in missing_roles]
    if nodes.is_node(call.user):
        status.incomplete = True
        problems.insert(0, "node authorizer does not support user rule resolution")
    if problems:
        status.evaluation_error = rbac.aggregate(problems)
    # kube-apiserver returns a new object, without the metadata and spec that were sent.
    return type(review)(kind=review.kind, api_version=review.api_version, status=status)


# --- identity -----------------------------------------------------------------------------------------------------


def _user_info(user: User) -> reviews.UserInfo:
    extra = {key: list(values) for key, values in sorted(user.extra.items())}
    return reviews.UserInfo(username=user.name, uid=user.uid, groups=list(user.groups), extra=extra)


def _token_answer(review: reviews.TokenReview, tokens: authn.BearerTokens, call: VerbContext) -> reviews.TokenReview:
    try:
        token_user = tokens.authenticate_token(review.spec.token, review.spec.audiences or tokens.audiences, call.now)
    except authn.Rejected as error:
        review.status = reviews.TokenReviewStatus(error=str(error))
    else:
        user, audiences = _user_info(token_user.user), list(token_user.audiences or ())
        review.status = reviews.TokenReviewStatus(authenticated=True, user=user, audiences=audiences)
    return review
