"""Access reviews: the answers of the authorizer that checks every request."""

from __future__ import annotations

import pytest

from certplane import errors, testing
from certplane.meta import context, objects
from certplane.resources import rbac, reviews
from tests.flow import plane as flow


async def _review(plane, **spec):
    attributes = reviews.ResourceAttributes(**{"verb": "list", "resource": "pods", **spec})
    review = reviews.SubjectAccessReview(
        spec=reviews.SubjectAccessReviewSpec(
            user="system:node:n1", groups=["system:nodes"], resource_attributes=attributes
        )
    )
    return (await plane.client(flow.ADMIN).create(reviews.SUBJECT_ACCESS_REVIEWS, review)).status


def _fields(*requirements, raw=""):
    return reviews.FieldSelectorAttributes(
        raw_selector=raw, requirements=[reviews.FieldSelectorRequirement(*requirement) for requirement in requirements]
    )


_OWN = ("spec.nodeName", "In", ["n1"])
_PARTLY = "spec.resourceAttributes.fieldSelector partially ignored due to parse error"
_WHOLLY = "spec.resourceAttributes.fieldSelector ignored due to parse error"


@pytest.mark.parametrize(
    ("selector", "allowed", "error"),
    [
        (_fields(raw="spec.nodeName=n1"), True, ""),
        (_fields(_OWN), True, ""),
        (_fields(_OWN, ("a", "Later", ["b"])), True, _PARTLY),
        (_fields(("spec.nodeName", "In", ["n1", "n2"])), False, _WHOLLY),
        (_fields(("spec.nodeName=n1,a", "In", ["b"])), False, ""),
        (_fields(raw="spec.nodeName"), False, _WHOLLY),
        (None, False, ""),
    ],
)
async def test_the_field_selector_of_a_review_restricts_access(selector, allowed, error):
    """Requirements that cannot be parsed are ignored, which can only remove permissions."""
    async with flow.running() as plane:
        status = await _review(plane, field_selector=selector)
        assert (status.allowed, status.evaluation_error) == (allowed, error)


@pytest.mark.parametrize(
    ("selector", "problem"),
    [
        (
            reviews.FieldSelectorAttributes(requirements=[reviews.FieldSelectorRequirement("", "In", [])]),
            (
                "[spec.resourceAttributes.fieldSelector.requirements[0].key: Required value: must be specified, "
                "spec.resourceAttributes.fieldSelector.requirements[0].values: Required value: "
                "must be specified when `operator` is 'In' or 'NotIn']"
            ),
        ),
        (
            reviews.FieldSelectorAttributes(requirements=[reviews.FieldSelectorRequirement("a", "Exists", ["b"])]),
            (
                "spec.resourceAttributes.fieldSelector.requirements[0].values: Forbidden: "
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"
            ),
        ),
    ],
)
async def test_an_invalid_requirement_is_refused(selector, problem):
    """The error has the field and the reason."""
    async with flow.running() as plane:
        with pytest.raises(errors.Invalid) as caught:
            await _review(plane, field_selector=selector)
        assert caught.value.message == f'.authorization.k8s.io "" is invalid: {problem}'


async def test_metadata_of_a_review():
    """Metadata that only a server sets is dropped; a name is refused."""
    async with flow.running() as plane:
        review = reviews.SelfSubjectAccessReview()
        review.spec.non_resource_attributes = reviews.NonResourceAttributes(path="/", verb="get")
        review.metadata.uid, review.metadata.creation_timestamp = "u", "2020-01-01T00:00:00Z"
        assert (await plane.client(flow.JANE).create(reviews.SELF_SUBJECT_ACCESS_REVIEWS, review)).metadata.uid == ""
        review.metadata = objects.ObjectMeta(name="x")
        with pytest.raises(errors.Invalid, match=r'metadata: Invalid value: {"name":"x","managedFields":\[.*\]}'):
            await plane.client(flow.JANE).create(reviews.SELF_SUBJECT_ACCESS_REVIEWS, review)


async def test_rules_review_with_a_missing_role():
    """The missing role is reported as an evaluation error. For a node, the rules are reported as incomplete."""
    async with flow.running() as plane:
        await plane.bind("gone", "system:authenticated")
        missing = 'clusterrole.rbac.authorization.k8s.io "gone" not found'
        node = context.User("system:node:n1", groups=("system:nodes", "system:authenticated"))
        no_rules = "node authorizer does not support user rule resolution"
        for user, expected in ((flow.JANE, (False, missing)), (node, (True, f"[{no_rules}, {missing}]"))):
            review = reviews.SelfSubjectRulesReview(spec=reviews.SelfSubjectRulesReviewSpec(namespace="default"))
            status = (await plane.client(user).create(reviews.SELF_SUBJECT_RULES_REVIEWS, review)).status
            assert (status.incomplete, status.evaluation_error) == expected


def _rule(verbs="get", groups="g", resources="things", names=""):
    lists = (verbs, groups, resources, names)
    verbs, groups, resources, names = (text.split(",") if text else [] for text in lists)
    return rbac.PolicyRule(verbs=verbs, api_groups=groups or [""], resources=resources, resource_names=names)


def _paths(*paths, verbs=("get",)):
    return rbac.PolicyRule(verbs=list(verbs), non_resource_urls=list(paths))


async def _is_allowed(rule, **question):
    """Whether a user with this rule, and no other permission, may do something."""
    async with flow.running() as plane:
        await plane.grant_rules(testing.user("john"), rule)
        spec = reviews.SubjectAccessReviewSpec(user="john", groups=["makers"])
        if "path" in question:
            spec.non_resource_attributes = reviews.NonResourceAttributes(**{"verb": "get", **question})
        else:
            attributes = {"verb": "get", "group": "g", "resource": "things", **question}
            spec.resource_attributes = reviews.ResourceAttributes(**attributes)
        review = reviews.SubjectAccessReview(spec=spec)
        return (await plane.client().create(reviews.SUBJECT_ACCESS_REVIEWS, review)).status.allowed


@pytest.mark.parametrize(
    ("rule", "question", "allowed"),
    [
        (_rule(), {}, True),
        (_rule(), {"verb": "list"}, False),
        (_rule(), {"group": ""}, False),
        (_rule(), {"resource": "others"}, False),
        (_rule(), {"subresource": "status"}, False),
        (_rule(), {"name": "a", "namespace": "team"}, True),
        (_rule(verbs="*"), {"verb": "delete"}, True),
        (_rule(groups="*"), {"group": "other"}, True),
        (_rule(resources="*"), {"resource": "others", "subresource": "status"}, True),
        (_rule(resources="things/status"), {"subresource": "status"}, True),
        (_rule(resources="things/status"), {}, False),
        (_rule(resources="things/status"), {"subresource": "scale"}, False),
        (_rule(resources="*/status"), {"resource": "others", "subresource": "status"}, True),
        (_rule(resources="*/status"), {"subresource": "scale"}, False),
        (_rule(resources="*/status"), {}, False),
        (_rule(names="a"), {"name": "a"}, True),
        (_rule(names="a"), {"name": "b"}, False),
        (_rule(names="a"), {}, False),
        (_rule(verbs="*", groups="*", resources="*"), {"path": "/x"}, False),
    ],
)
async def test_a_rule_allows_requests_that_match_all_its_fields(rule, question, allowed):
    """The fields are verb, group, resource with subresource, and name; a rule with names never matches a request
    without one.
    """
    assert await _is_allowed(rule, **question) is allowed


@pytest.mark.parametrize(
    ("rule", "question", "allowed"),
    [
        (_paths("/x"), {"path": "/x"}, True),
        (_paths("/x"), {"path": "/x/y"}, False),
        (_paths("/x"), {"path": "/y"}, False),
        (_paths("/x"), {"path": "/x", "verb": "post"}, False),
        (_paths("/x", verbs=("*",)), {"path": "/x", "verb": "post"}, True),
        (_paths("/y", "/x/*"), {"path": "/x/y/z"}, True),
        (_paths("/x/*"), {"path": "/x"}, False),
        (_paths("/x/*"), {"path": "/a/x/y"}, False),
        (_paths("*"), {"path": "/x"}, True),
        (_paths("*", verbs=("*",)), {}, False),
    ],
)
async def test_a_rule_for_paths_allows_no_resources(rule, question, allowed):
    """A path matches as a whole, or by the prefix before `*`."""
    assert await _is_allowed(rule, **question) is allowed
