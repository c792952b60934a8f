"""Answers to the reviews: questions about access, put to the same authorizer that guards every request.

Source: kubernetes, `pkg/registry/authorization`, `pkg/registry/authentication`, `pkg/apis/authorization/validation`.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from certplane import clock, errors, offload
from certplane.access import authn, nodes, rbac
from certplane.meta import codec, context, objects, selectors, validation
from certplane.resources import reviews

Problems = list[errors.FieldProblem]
Answer = Callable[[Any, context.Call], Awaitable[Any]]


def answers(authorizer: rbac.Authorizer, tokens: authn.BearerTokens) -> Mapping[str, Answer]:
    """Who answers which review, by its plural."""

    async def subject(asked: Any, call: context.Call) -> Any:
        _refuse(await offload.run(call.size, _problems, asked, needs_user=True))
        return _answered(authorizer, asked, _subject_user(asked.spec))

    async def local(asked: Any, call: context.Call) -> Any:
        _refuse(await offload.run(call.size, _local_problems, asked))
        return _answered(authorizer, asked, _subject_user(asked.spec))

    async def self_access(asked: Any, call: context.Call) -> Any:
        _refuse(await offload.run(call.size, _problems, asked, needs_user=False))
        return _answered(authorizer, asked, call.user)

    async def self_rules(asked: Any, call: context.Call) -> Any:
        if not asked.spec.namespace:
            raise errors.BadRequest("no namespace on request")
        return _rules(authorizer, asked, call)

    async def who_am_i(asked: Any, call: context.Call) -> Any:
        asked.metadata = objects.ObjectMeta(creation_timestamp=clock.rfc3339(call.now))
        asked.status.user_info = _user_info(call.user)
        return asked

    async def token(asked: Any, call: context.Call) -> Any:
        if not asked.spec.token:
            raise errors.BadRequest("token is required for TokenReview in authentication")
        return _token_answer(asked, tokens, call)

    return {
        reviews.SUBJECT_ACCESS_REVIEWS.plural: subject,
        reviews.LOCAL_SUBJECT_ACCESS_REVIEWS.plural: local,
        reviews.SELF_SUBJECT_ACCESS_REVIEWS.plural: self_access,
        reviews.SELF_SUBJECT_RULES_REVIEWS.plural: self_rules,
        reviews.SELF_SUBJECT_REVIEWS.plural: who_am_i,
        reviews.TOKEN_REVIEWS.plural: token,
    }


# --- access -------------------------------------------------------------------------------------------------------


def _refuse(problems: Problems) -> None:
    """Refuse a review that is no proper question. The real server reports it without its Kind."""
    if problems:
        raise errors.Invalid("", reviews.AUTHORIZATION, "", problems)


def _meta_problems(meta: objects.ObjectMeta, *, namespaced: bool = False) -> Problems:
    """A question has no metadata. Who asked for which of its fields is recorded all the same."""
    found: dict[str, Any] = codec.to_builtins(meta)
    if set(found) <= ({"managedFields", "namespace"} if namespaced else {"managedFields"}):
        return []
    return [errors.invalid("metadata", found, "must be empty except for namespace" if namespaced else "must be empty")]


def _problems(asked: Any, *, needs_user: bool) -> Problems:
    return [*_spec_problems(asked.spec, needs_user=needs_user), *_meta_problems(asked.metadata)]


def _spec_problems(spec: Any, *, needs_user: bool) -> Problems:
    problems: Problems = []
    asked, path = spec.resource_attributes, spec.non_resource_attributes
    if asked is not None and path is not None:
        value = {"Path": path.path, "Verb": path.verb}
        why = "cannot be specified in combination with resourceAttributes"
        problems.append(errors.invalid("spec.nonResourceAttributes", value, why))
    if asked is None and path is None:
        why = "exactly one of nonResourceAttributes or resourceAttributes must be specified"
        problems.append(errors.invalid("spec.resourceAttributes", None, why))
    if needs_user and not spec.user and not spec.groups:
        problems.append(errors.invalid("spec.user", "", "at least one of user or group must be specified"))
    if asked is not None:
        problems.extend(
            _selector_problems(asked.field_selector, "spec.resourceAttributes.fieldSelector", _field_problems)
        )
        problems.extend(
            _selector_problems(
                asked.label_selector,
                "spec.resourceAttributes.labelSelector",
                functools.partial(validation.selector_requirement_problems, any_operator=True),
            )
        )
    return problems


def _selector_problems(of: Any, path: str, requirement_problems: Callable[[Any, str], Problems]) -> Problems:
    if of is None:
        return []
    problems: Problems = []
    if of.raw_selector and of.requirements:
        why = "may not specified at the same time as requirements"
        problems.append(errors.invalid(f"{path}.rawSelector", of.raw_selector, why))
    if not of.raw_selector and not of.requirements:
        why = f"when {path} is specified, requirements or rawSelector is required"
        problems.append(errors.required(f"{path}.requirements", why))
    if too_many := validation.count_problems(of.requirements, f"{path}.requirements"):
        return [*problems, *too_many]
    for at, each in enumerate(of.requirements):
        problems.extend(requirement_problems(each, f"{path}.requirements[{at}]"))
    return problems


def _field_problems(of: reviews.FieldSelectorRequirement, path: str) -> Problems:
    key = [] if of.key else [errors.required(f"{path}.key", "must be specified")]
    return [*key, *validation.operator_problems(of.operator, of.values, path, any_operator=True)]


def _local_problems(asked: Any) -> Problems:
    problems = [*_spec_problems(asked.spec, needs_user=True), *_meta_problems(asked.metadata, namespaced=True)]
    attributes, path = asked.spec.resource_attributes, asked.spec.non_resource_attributes
    if attributes is not None and attributes.namespace != asked.metadata.namespace:
        why = "must match metadata.namespace"
        problems.append(errors.invalid("spec.resourceAttributes.namespace", attributes.namespace, why))
    if path is not None:
        value = {"Path": path.path, "Verb": path.verb}
        problems.append(errors.invalid("spec.nonResourceAttributes", value, "disallowed on this kind of request"))
    return problems


def _subject_user(spec: Any) -> context.User:
    """The user in question, literally: nothing is implied."""
    extra = {key: tuple(values) for key, values in spec.extra.items()}
    return context.User(spec.user, spec.uid, tuple(spec.groups), extra)


def _answered(authorizer: rbac.Authorizer, asked: Any, user: context.User) -> Any:
    attributes, path = asked.spec.resource_attributes, asked.spec.non_resource_attributes
    problems: list[str] = []
    if path is not None:
        question = context.Attributes(user=user, verb=path.verb, path=path.path, is_resource=False)
    else:
        question = context.Attributes(
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
        _read_labels(attributes.label_selector, problems)
    decision = authorizer.authorize(question)
    asked.status = reviews.SubjectAccessReviewStatus(
        allowed=decision.allowed, reason=decision.reason, evaluation_error="; ".join(problems)
    )
    return asked


_TERM_OPERATORS: Final = {"In": "=", "NotIn": "!="}


def _field_selector(of: Any, problems: list[str]) -> selectors.FieldSelector:
    """The field selector of the request in question, as far as it can be understood; what cannot is reported."""
    if of is None:
        return selectors.EVERYTHING
    if of.raw_selector:
        try:
            return selectors.parse_fields(of.raw_selector)
        except errors.BadRequest:
            problems.append(_ignored("fieldSelector"))
            return selectors.EVERYTHING
    terms = tuple(
        selectors.Term(each.key, _TERM_OPERATORS[each.operator], each.values[0])
        for each in of.requirements
        if each.operator in _TERM_OPERATORS and len(each.values) == 1
    )
    if len(terms) < len(of.requirements):
        problems.append(_ignored("fieldSelector", partially=bool(terms)))
    return selectors.FieldSelector(terms)


def _read_labels(of: Any, problems: list[str]) -> None:
    """Report what of the label selector cannot be understood. Nothing that is decided here depends on labels."""
    if of is None:
        return
    if of.raw_selector:
        try:
            selectors.parse_labels(of.raw_selector)
        except errors.BadRequest:
            problems.append(_ignored("labelSelector"))
        return
    understood = [not validation.selector_requirement_problems(each, "") for each in of.requirements]
    if not all(understood):
        problems.append(_ignored("labelSelector", partially=any(understood)))


def _ignored(selector: str, *, partially: bool = False) -> str:
    how = "partially ignored" if partially else "ignored"
    return f"spec.resourceAttributes.{selector} {how} due to parse error"


def _rules(authorizer: rbac.Authorizer, asked: Any, call: context.Call) -> Any:
    rules, lost = authorizer.rules_for(call.user, asked.spec.namespace)
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
    problems = [rbac.not_found(each) for each in lost]
    if nodes.is_node(call.user):
        status.incomplete = True
        problems.insert(0, "node authorizer does not support user rule resolution")
    if problems:
        status.evaluation_error = rbac.aggregate(problems)
    # The real server answers with a new object: neither metadata nor spec come back.
    return type(asked)(kind=asked.kind, api_version=asked.api_version, status=status)


# --- identity -----------------------------------------------------------------------------------------------------


def _user_info(of: context.User) -> reviews.UserInfo:
    extra = {key: list(values) for key, values in sorted(of.extra.items())}
    return reviews.UserInfo(username=of.name, uid=of.uid, groups=list(of.groups), extra=extra)


def _token_answer(asked: Any, tokens: authn.BearerTokens, call: context.Call) -> Any:
    try:
        found = tokens.judge(asked.spec.token, asked.spec.audiences or tokens.audiences, call.now)
    except authn.Rejected as error:
        asked.status = reviews.TokenReviewStatus(error=str(error))
    else:
        audiences = list(found.audiences or ())
        asked.status = reviews.TokenReviewStatus(authenticated=True, user=_user_info(found.user), audiences=audiences)
    return asked
