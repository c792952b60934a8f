"""Answers to the reviews: questions about access, put to the same authorizer that guards every request.

Source: kubernetes, `pkg/registry/authorization`, `pkg/registry/authentication`, `pkg/apis/authorization/validation`.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from certplane import clock, errors
from certplane.access import authn, rbac
from certplane.meta import codec, context, names, objects, selectors
from certplane.resources import reviews

Problems = list[errors.FieldProblem]
Answer = Callable[[Any, context.Call], Awaitable[Any]]

_NODE: Final = re.compile(r"system:node:.+")


def answers(authorizer: rbac.Authorizer, tokens: authn.BearerTokens) -> Mapping[str, Answer]:
    """Who answers which review, by its plural."""

    async def subject(asked: Any, call: context.Call) -> Any:
        del call
        _check(reviews.AUTHORIZATION, asked, _spec_problems(asked.spec, needs_user=True), {})
        return _answered(authorizer, asked, _subject_user(asked.spec))

    async def local(asked: Any, call: context.Call) -> Any:
        namespace = call.info.namespace
        if asked.metadata.namespace != namespace:
            if asked.metadata.namespace:
                raise errors.BadRequest(
                    "the namespace of the provided object does not match the namespace sent on the request"
                )
            asked.metadata.namespace = namespace
        _check(reviews.AUTHORIZATION, asked, _local_problems(asked, namespace), {"namespace"})
        return _answered(authorizer, asked, _subject_user(asked.spec))

    async def self_access(asked: Any, call: context.Call) -> Any:
        _check(reviews.AUTHORIZATION, asked, _spec_problems(asked.spec, needs_user=False), {})
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


def _check(group: str, asked: Any, problems: Problems, allowed: set[str] | dict[str, str]) -> None:
    """Refuse a review that is no proper question. The real server reports it without its Kind."""
    meta = codec.to_builtins(asked.metadata)
    meta.pop("managedFields", None)
    if set(meta) - set(allowed):
        text = "must be empty except for namespace" if allowed else "must be empty"
        problems = [*problems, errors.invalid("metadata", meta, text)]
    if problems:
        raise errors.Invalid("", group, "", problems)


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
        problems.extend(_selector_problems(asked.field_selector, "spec.resourceAttributes.fieldSelector"))
        problems.extend(_selector_problems(asked.label_selector, "spec.resourceAttributes.labelSelector"))
    return problems


def _selector_problems(of: Any, path: str) -> Problems:
    if of is None:
        return []
    if of.raw_selector and of.requirements:
        why = "may not specified at the same time as requirements"
        return [errors.invalid(f"{path}.rawSelector", of.raw_selector, why)]
    if not of.raw_selector and not of.requirements:
        why = f"when {path} is specified, requirements or rawSelector is required"
        return [errors.required(f"{path}.requirements", why)]
    return []


def _local_problems(asked: Any, namespace: str) -> Problems:
    problems = _spec_problems(asked.spec, needs_user=True)
    attributes, path = asked.spec.resource_attributes, asked.spec.non_resource_attributes
    if attributes is not None and attributes.namespace != namespace:
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
        )
    decision = authorizer.authorize(question)
    asked.status = reviews.SubjectAccessReviewStatus(
        allowed=decision.allowed,
        reason=decision.reason,
        evaluation_error=_selector_errors(attributes) if attributes is not None else "",
    )
    return asked


def _selector_errors(of: Any) -> str:
    """What of the selectors could not be understood. Nothing that RBAC decides depends on it."""
    found = (
        _selector_error("fieldSelector", of.field_selector, selectors.parse_fields, _is_field_requirement),
        _selector_error("labelSelector", of.label_selector, selectors.parse_labels, _is_label_requirement),
    )
    return "; ".join(each for each in found if each)


def _selector_error(
    name: str, of: Any, parse: Callable[[str], Any], understands: Callable[[str, str, list[str]], bool]
) -> str:
    if of is None:
        return ""
    if of.raw_selector:
        try:
            parse(of.raw_selector)
        except errors.BadRequest:
            understood = [False]
        else:
            understood = []
    else:
        understood = [understands(each.key, each.operator, each.values) for each in of.requirements]
    if all(understood):
        return ""
    how = "partially ignored" if any(understood) else "ignored"
    return f"spec.resourceAttributes.{name} {how} due to parse error"


def _is_field_requirement(key: str, operator: str, values: list[str]) -> bool:
    del key
    return operator in ("In", "NotIn") and len(values) == 1


def _is_label_requirement(key: str, operator: str, values: list[str]) -> bool:
    fits = bool(values) if operator in ("In", "NotIn") else operator in ("Exists", "DoesNotExist") and not values
    return fits and not names.qualified_name_problems(key) and not any(map(names.label_value_problems, values))


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
    if lost:
        status.incomplete = True
        status.evaluation_error = rbac.aggregate(list(map(rbac.not_found, lost)))
    if _NODE.match(call.user.name) and "system:nodes" in call.user.groups:
        status.incomplete = True
        status.evaluation_error = "node authorizer does not support user rule resolution"
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
