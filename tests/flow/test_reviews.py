"""Questions about access, put to the authorizer that guards every request."""

from __future__ import annotations

import pytest

from certplane import errors
from certplane.meta import context, objects
from certplane.resources import rbac, reviews
from tests.flow import plane as flow


async def _answer(plane, **spec):
    attributes = reviews.ResourceAttributes(**{"verb": "list", "resource": "pods", **spec})
    asked = reviews.SubjectAccessReview(
        spec=reviews.SubjectAccessReviewSpec(
            user="system:node:n1", groups=["system:nodes"], resource_attributes=attributes
        )
    )
    return (await plane.client(flow.ADMIN).create(reviews.SUBJECT_ACCESS_REVIEWS, asked)).status


def _fields(*requirements, raw=""):
    return reviews.FieldSelectorAttributes(
        raw_selector=raw, requirements=[reviews.FieldSelectorRequirement(*each) for each in requirements]
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
async def test_the_field_selector_in_question_decides_as_that_of_a_request_does(selector, allowed, error):
    """As far as it is understood; what is not can only take rights away."""
    async with flow.running() as plane:
        status = await _answer(plane, field_selector=selector)
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
async def test_a_requirement_that_nobody_can_mean_is_refused(selector, problem):
    """An operator that is unknown here is not: clients may be newer."""
    async with flow.running() as plane:
        with pytest.raises(errors.Invalid) as caught:
            await _answer(plane, field_selector=selector)
        assert caught.value.message == f'.authorization.k8s.io "" is invalid: {problem}'


async def test_a_question_has_no_name_and_forgets_what_a_server_would_say():
    """What only a server sets is dropped; the rest is told with what was recorded of it."""
    async with flow.running() as plane:
        asked = reviews.SelfSubjectAccessReview()
        asked.spec.non_resource_attributes = reviews.NonResourceAttributes(path="/", verb="get")
        asked.metadata.uid, asked.metadata.creation_timestamp = "u", "2020-01-01T00:00:00Z"
        assert (await plane.client(flow.JANE).create(reviews.SELF_SUBJECT_ACCESS_REVIEWS, asked)).metadata.uid == ""
        asked.metadata = objects.ObjectMeta(name="x")
        with pytest.raises(errors.Invalid, match=r'metadata: Invalid value: {"name":"x","managedFields":\[.*\]}'):
            await plane.client(flow.JANE).create(reviews.SELF_SUBJECT_ACCESS_REVIEWS, asked)


async def test_rules_are_complete_though_a_role_is_missing():
    """The missing role gives nothing, and is told of. Of a node nobody knows all rules."""
    async with flow.running() as plane:
        subject = rbac.Subject(kind="Group", api_group=rbac.GROUP, name="system:authenticated")
        binding = rbac.ClusterRoleBinding(subjects=[subject], role_ref=rbac.RoleRef(rbac.GROUP, "ClusterRole", "gone"))
        binding.metadata.name = "b"
        await plane.client(flow.ADMIN).create(rbac.CLUSTER_ROLE_BINDINGS, binding)
        missing = 'clusterrole.rbac.authorization.k8s.io "gone" not found'
        node = context.User("system:node:n1", groups=("system:nodes", "system:authenticated"))
        no_rules = "node authorizer does not support user rule resolution"
        for user, expected in ((flow.JANE, (False, missing)), (node, (True, f"[{no_rules}, {missing}]"))):
            asked = reviews.SelfSubjectRulesReview(spec=reviews.SelfSubjectRulesReviewSpec(namespace="default"))
            status = (await plane.client(user).create(reviews.SELF_SUBJECT_RULES_REVIEWS, asked)).status
            assert (status.incomplete, status.evaluation_error) == expected
