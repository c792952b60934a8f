"""The reviews: questions to the server that are answered at once and never stored.

May they? May I? What may I? Who am I? Whose token is this?
Source: `k8s.io/api/authorization/v1`, `k8s.io/api/authentication/v1`; KEP-3325.
"""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import field

from certplane.meta import objects, resource
from certplane.meta.objects import always, doc

AUTHORIZATION: Final = "authorization.k8s.io"
AUTHENTICATION: Final = "authentication.k8s.io"


class FieldSelectorRequirement(objects.Type):
    """FieldSelectorRequirement is one condition on one field."""

    key: Annotated[str, doc("Field that the condition is about.", required=True)] = always(str)
    operator: Annotated[
        str, doc("In, NotIn, Exists or DoesNotExist.", go="v1.FieldSelectorOperator", required=True)
    ] = always(str)
    values: Annotated[list[str], doc("Values for In and NotIn.", list_type="atomic")] = field(default_factory=list)


class FieldSelectorAttributes(objects.Type):
    """FieldSelectorAttributes is the field selector of the request in question."""

    raw_selector: Annotated[str, doc("The selector as a client writes it. Excludes requirements.")] = ""
    requirements: Annotated[list[FieldSelectorRequirement], doc("The selector, parsed.", list_type="atomic")] = field(
        default_factory=list
    )


class LabelSelectorAttributes(objects.Type):
    """LabelSelectorAttributes is the label selector of the request in question."""

    raw_selector: Annotated[str, doc("The selector as a client writes it. Excludes requirements.")] = ""
    requirements: Annotated[
        list[objects.LabelSelectorRequirement], doc("The selector, parsed.", list_type="atomic")
    ] = field(default_factory=list)


class ResourceAttributes(objects.Type):
    """ResourceAttributes describes a request for a resource."""

    namespace: Annotated[str, doc("Namespace of the request; empty for cluster scope, or for all namespaces.")] = ""
    verb: Annotated[str, doc("get, list, watch, create, update, patch, delete, approve ...; * for all.")] = ""
    group: Annotated[str, doc("API group; * for all.")] = ""
    version: Annotated[str, doc("API version; * for all.")] = ""
    resource: Annotated[str, doc("Resource; * for all.")] = ""
    subresource: Annotated[str, doc("Subresource, if any.")] = ""
    name: Annotated[str, doc("Name of the object; empty for all.")] = ""
    field_selector: Annotated[FieldSelectorAttributes | None, doc("Field selector of the request.")] = None
    label_selector: Annotated[LabelSelectorAttributes | None, doc("Label selector of the request.")] = None


class NonResourceAttributes(objects.Type):
    """NonResourceAttributes describes a request for a path that is no resource."""

    path: Annotated[str, doc("Path of the request.")] = ""
    verb: Annotated[str, doc("HTTP method, in lower case.")] = ""


class SubjectAccessReviewSpec(objects.Type):
    """SubjectAccessReviewSpec is the question: may this user do that?"""

    resource_attributes: Annotated[ResourceAttributes | None, doc("Asks about a resource.")] = None
    non_resource_attributes: Annotated[NonResourceAttributes | None, doc("Asks about another path.")] = None
    user: Annotated[str, doc("User in question. Groups are asked about as given.")] = ""
    groups: Annotated[list[str], doc("Groups in question.", list_type="atomic")] = field(default_factory=list)
    extra: Annotated[dict[str, objects.ExtraValue], doc("What else authentication knows of the user.")] = field(
        default_factory=dict
    )
    uid: Annotated[str, doc("UID of the user in question.")] = ""


class SelfSubjectAccessReviewSpec(objects.Type):
    """SelfSubjectAccessReviewSpec is the question: may I do that?"""

    resource_attributes: Annotated[ResourceAttributes | None, doc("Asks about a resource.")] = None
    non_resource_attributes: Annotated[NonResourceAttributes | None, doc("Asks about another path.")] = None


class SubjectAccessReviewStatus(objects.Type):
    """SubjectAccessReviewStatus is the answer."""

    allowed: Annotated[bool, doc("Whether it is allowed.", required=True)] = always(bool)
    denied: Annotated[bool, doc("Whether it is denied outright; false if there was just nobody to allow it.")] = False
    reason: Annotated[str, doc("Why.")] = ""
    evaluation_error: Annotated[str, doc("What went wrong on the way to the answer, if anything.")] = ""


class SubjectAccessReview(objects.Object):
    """SubjectAccessReview asks whether a user or a group may do something."""

    spec: Annotated[SubjectAccessReviewSpec, doc("The question.", required=True)] = always(SubjectAccessReviewSpec)
    status: Annotated[SubjectAccessReviewStatus, doc("The answer.")] = always(SubjectAccessReviewStatus)


class LocalSubjectAccessReview(objects.Object):
    """LocalSubjectAccessReview asks whether a user or a group may do something in one namespace."""

    spec: Annotated[SubjectAccessReviewSpec, doc("The question.", required=True)] = always(SubjectAccessReviewSpec)
    status: Annotated[SubjectAccessReviewStatus, doc("The answer.")] = always(SubjectAccessReviewStatus)


class SelfSubjectAccessReview(objects.Object):
    """SelfSubjectAccessReview asks whether the one who asks may do something."""

    spec: Annotated[SelfSubjectAccessReviewSpec, doc("The question.", required=True)] = always(
        SelfSubjectAccessReviewSpec
    )
    status: Annotated[SubjectAccessReviewStatus, doc("The answer.")] = always(SubjectAccessReviewStatus)


class SelfSubjectRulesReviewSpec(objects.Type):
    """SelfSubjectRulesReviewSpec is the question: what may I do there?"""

    namespace: Annotated[str, doc("Namespace in question.")] = ""


class ResourceRule(objects.Type):
    """ResourceRule permits some verbs on some resources."""

    verbs: Annotated[list[str] | None, doc("What may be done.", list_type="atomic", required=True)] = always(
        lambda: None
    )
    api_groups: Annotated[list[str], doc("In which API groups.", list_type="atomic")] = field(default_factory=list)
    resources: Annotated[list[str], doc("On which resources.", list_type="atomic")] = field(default_factory=list)
    resource_names: Annotated[list[str], doc("On which objects; empty for all.", list_type="atomic")] = field(
        default_factory=list
    )


class NonResourceRule(objects.Type):
    """NonResourceRule permits some verbs on some paths that are no resources."""

    verbs: Annotated[list[str] | None, doc("What may be done.", list_type="atomic", required=True)] = always(
        lambda: None
    )
    non_resource_urls: Annotated[list[str], doc("On which paths.", list_type="atomic")] = field(
        default_factory=list, name="nonResourceURLs"
    )


class SubjectRulesReviewStatus(objects.Type):
    """SubjectRulesReviewStatus is the answer, as far as rules can give it."""

    resource_rules: Annotated[
        list[ResourceRule], doc("What is permitted on resources.", list_type="atomic", required=True)
    ] = always(list)
    non_resource_rules: Annotated[
        list[NonResourceRule], doc("What is permitted on other paths.", list_type="atomic", required=True)
    ] = always(list)
    incomplete: Annotated[bool, doc("Whether there may be more that is permitted.", required=True)] = always(bool)
    evaluation_error: Annotated[str, doc("What went wrong on the way to the answer, if anything.")] = ""


class SelfSubjectRulesReview(objects.Object):
    """SelfSubjectRulesReview asks what the one who asks may do in a namespace."""

    spec: Annotated[SelfSubjectRulesReviewSpec, doc("The question.", required=True)] = always(
        SelfSubjectRulesReviewSpec
    )
    status: Annotated[SubjectRulesReviewStatus, doc("The answer.")] = always(SubjectRulesReviewStatus)


class UserInfo(objects.Type):
    """UserInfo is what authentication knows of a user."""

    username: Annotated[str, doc("Name of the user.")] = ""
    uid: Annotated[str, doc("UID of the user.")] = ""
    groups: Annotated[list[str], doc("Groups of the user.", list_type="atomic")] = field(default_factory=list)
    extra: Annotated[dict[str, objects.ExtraValue], doc("What else is known of the user.")] = field(
        default_factory=dict
    )


class SelfSubjectReviewStatus(objects.Type):
    """SelfSubjectReviewStatus is the answer."""

    user_info: Annotated[UserInfo, doc("Who the one who asks is.")] = always(UserInfo)


class SelfSubjectReview(objects.Object):
    """SelfSubjectReview asks who the one who asks is."""

    status: Annotated[SelfSubjectReviewStatus, doc("The answer.")] = always(SelfSubjectReviewStatus)


class TokenReviewSpec(objects.Type):
    """TokenReviewSpec is the question: whose token is this?"""

    token: Annotated[str, doc("The token.", required=True)] = ""
    audiences: Annotated[
        list[str], doc("Who the token should be meant for; this server, if empty.", list_type="atomic")
    ] = field(default_factory=list)


class TokenReviewStatus(objects.Type):
    """TokenReviewStatus is the answer."""

    authenticated: Annotated[bool, doc("Whether the token is good.")] = False
    user: Annotated[UserInfo, doc("Whose token it is.")] = always(UserInfo)
    audiences: Annotated[list[str], doc("For whom it is good, of those asked about.", list_type="atomic")] = field(
        default_factory=list
    )
    error: Annotated[str, doc("Why it is not good.")] = ""


class TokenReview(objects.Object):
    """TokenReview asks whose token this is."""

    spec: Annotated[TokenReviewSpec, doc("The question.", required=True)] = always(TokenReviewSpec)
    status: Annotated[TokenReviewStatus, doc("The answer.")] = always(TokenReviewStatus)


def _action(group: str, type_: type[objects.Object], *, namespaced: bool = False) -> resource.Action:
    kind = type_.__name__
    return resource.Action(
        group=group, version="v1", kind=kind, plural=kind.lower() + "s", type=type_, namespaced=namespaced
    )


SUBJECT_ACCESS_REVIEWS: Final = _action(AUTHORIZATION, SubjectAccessReview)
LOCAL_SUBJECT_ACCESS_REVIEWS: Final = _action(AUTHORIZATION, LocalSubjectAccessReview, namespaced=True)
SELF_SUBJECT_ACCESS_REVIEWS: Final = _action(AUTHORIZATION, SelfSubjectAccessReview)
SELF_SUBJECT_RULES_REVIEWS: Final = _action(AUTHORIZATION, SelfSubjectRulesReview)
SELF_SUBJECT_REVIEWS: Final = _action(AUTHENTICATION, SelfSubjectReview)
TOKEN_REVIEWS: Final = _action(AUTHENTICATION, TokenReview)

ACTIONS: Final = (
    LOCAL_SUBJECT_ACCESS_REVIEWS,
    SELF_SUBJECT_ACCESS_REVIEWS,
    SELF_SUBJECT_RULES_REVIEWS,
    SUBJECT_ACCESS_REVIEWS,
    SELF_SUBJECT_REVIEWS,
    TOKEN_REVIEWS,
)
