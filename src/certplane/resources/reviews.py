"""The reviews of authorization.k8s.io and authentication.k8s.io, which are answered at once and never stored.

Source: `k8s.io/api/authorization/v1`, `k8s.io/api/authentication/v1`; KEP-3325.
"""

from __future__ import annotations

from typing import Annotated, Final, TypeVar

from msgspec import field

from certplane.meta import objects, resource
from certplane.meta.objects import always, doc

_T = TypeVar("_T", bound=objects.Object)

AUTHORIZATION: Final = "authorization.k8s.io"
AUTHENTICATION: Final = "authentication.k8s.io"


class FieldSelectorRequirement(objects.Type):
    """FieldSelectorRequirement is a requirement of a field selector."""

    key: Annotated[str, doc("Name of the field.", required=True)] = always(str)
    operator: Annotated[
        str, doc("Operator: In, NotIn, Exists or DoesNotExist.", go="v1.FieldSelectorOperator", required=True)
    ] = always(str)
    values: Annotated[list[str], doc("Values for In and NotIn.", list_type="atomic")] = field(default_factory=list)


class FieldSelectorAttributes(objects.Type):
    """FieldSelectorAttributes is the field selector of the request to check."""

    raw_selector: Annotated[str, doc("The selector as a query parameter. Mutually exclusive with requirements.")] = ""
    requirements: Annotated[list[FieldSelectorRequirement], doc("The selector, parsed.", list_type="atomic")] = field(
        default_factory=list
    )


class LabelSelectorAttributes(objects.Type):
    """LabelSelectorAttributes is the label selector of the request to check."""

    raw_selector: Annotated[str, doc("The selector as a query parameter. Mutually exclusive with requirements.")] = ""
    requirements: Annotated[
        list[objects.LabelSelectorRequirement], doc("The selector, parsed.", list_type="atomic")
    ] = field(default_factory=list)


class ResourceAttributes(objects.Type):
    """ResourceAttributes describes a request for a resource, whose authorization is checked."""

    namespace: Annotated[str, doc("Namespace of the request; empty for cluster scope, or for all namespaces.")] = ""
    verb: Annotated[
        str, doc("Verb, such as get, list, watch, create, update, patch, delete or approve; * for all.")
    ] = ""
    group: Annotated[str, doc("API group; * for all.")] = ""
    version: Annotated[str, doc("API version; * for all.")] = ""
    resource: Annotated[str, doc("Resource; * for all.")] = ""
    subresource: Annotated[str, doc("Subresource, if any.")] = ""
    name: Annotated[str, doc("Name of the object; empty for all.")] = ""
    field_selector: Annotated[FieldSelectorAttributes | None, doc("Field selector of the request.")] = None
    label_selector: Annotated[LabelSelectorAttributes | None, doc("Label selector of the request.")] = None


class NonResourceAttributes(objects.Type):
    """NonResourceAttributes describes a request for a non-resource path, whose authorization is checked."""

    path: Annotated[str, doc("Path of the request.")] = ""
    verb: Annotated[str, doc("HTTP method, in lower case.")] = ""


class SubjectAccessReviewSpec(objects.Type):
    """SubjectAccessReviewSpec is a request of a user, whose authorization is checked."""

    resource_attributes: Annotated[ResourceAttributes | None, doc("The request, if it is for a resource.")] = None
    non_resource_attributes: Annotated[
        NonResourceAttributes | None, doc("The request, if it is for a non-resource path.")
    ] = None
    user: Annotated[str, doc("Name of the user, who is checked as a member of the given groups only.")] = ""
    groups: Annotated[list[str], doc("Groups of the user.", list_type="atomic")] = field(default_factory=list)
    extra: Annotated[dict[str, objects.ExtraValue], doc("Extra attributes of the user.")] = field(default_factory=dict)
    uid: Annotated[str, doc("UID of the user.")] = ""


class SelfSubjectAccessReviewSpec(objects.Type):
    """SelfSubjectAccessReviewSpec is a request of the current user, whose authorization is checked."""

    resource_attributes: Annotated[ResourceAttributes | None, doc("The request, if it is for a resource.")] = None
    non_resource_attributes: Annotated[
        NonResourceAttributes | None, doc("The request, if it is for a non-resource path.")
    ] = None


class SubjectAccessReviewStatus(objects.Type):
    """SubjectAccessReviewStatus is the result of the check."""

    allowed: Annotated[bool, doc("Whether the request is allowed.", required=True)] = always(bool)
    denied: Annotated[bool, doc("Whether the request is explicitly denied; false if it is merely not allowed.")] = False
    reason: Annotated[str, doc("Reason for the result.")] = ""
    evaluation_error: Annotated[str, doc("Errors during the evaluation. The result may still be valid.")] = ""


class SubjectAccessReview(objects.Object):
    """SubjectAccessReview checks whether a user or group is authorized for a request."""

    spec: Annotated[SubjectAccessReviewSpec, doc("The request to check.", required=True)] = always(
        SubjectAccessReviewSpec
    )
    status: Annotated[SubjectAccessReviewStatus, doc("The result.")] = always(SubjectAccessReviewStatus)


class LocalSubjectAccessReview(objects.Object):
    """LocalSubjectAccessReview checks whether a user or group is authorized for a request in one namespace."""

    spec: Annotated[SubjectAccessReviewSpec, doc("The request to check.", required=True)] = always(
        SubjectAccessReviewSpec
    )
    status: Annotated[SubjectAccessReviewStatus, doc("The result.")] = always(SubjectAccessReviewStatus)


class SelfSubjectAccessReview(objects.Object):
    """SelfSubjectAccessReview checks whether the current user is authorized for a request."""

    spec: Annotated[SelfSubjectAccessReviewSpec, doc("The request to check.", required=True)] = always(
        SelfSubjectAccessReviewSpec
    )
    status: Annotated[SubjectAccessReviewStatus, doc("The result.")] = always(SubjectAccessReviewStatus)


class SelfSubjectRulesReviewSpec(objects.Type):
    """SelfSubjectRulesReviewSpec is the namespace whose rules are listed."""

    namespace: Annotated[str, doc("Namespace whose rules are listed.")] = ""


class ResourceRule(objects.Type):
    """ResourceRule permits verbs on resources."""

    verbs: Annotated[list[str] | None, doc("Permitted verbs.", list_type="atomic", required=True)] = always(
        lambda: None
    )
    api_groups: Annotated[list[str], doc("API groups of the resources.", list_type="atomic")] = field(
        default_factory=list
    )
    resources: Annotated[list[str], doc("Resources.", list_type="atomic")] = field(default_factory=list)
    resource_names: Annotated[list[str], doc("Names of objects; empty for all.", list_type="atomic")] = field(
        default_factory=list
    )


class NonResourceRule(objects.Type):
    """NonResourceRule permits verbs on non-resource paths."""

    verbs: Annotated[list[str] | None, doc("Permitted verbs.", list_type="atomic", required=True)] = always(
        lambda: None
    )
    non_resource_urls: Annotated[list[str], doc("Paths.", list_type="atomic")] = field(
        default_factory=list, name="nonResourceURLs"
    )


class SubjectRulesReviewStatus(objects.Type):
    """SubjectRulesReviewStatus is the list of rules that apply to the user."""

    resource_rules: Annotated[list[ResourceRule], doc("Rules for resources.", list_type="atomic", required=True)] = (
        always(list)
    )
    non_resource_rules: Annotated[
        list[NonResourceRule], doc("Rules for non-resource paths.", list_type="atomic", required=True)
    ] = always(list)
    incomplete: Annotated[bool, doc("Whether the lists may be incomplete.", required=True)] = always(bool)
    evaluation_error: Annotated[str, doc("Errors during the evaluation. The result may still be valid.")] = ""


class SelfSubjectRulesReview(objects.Object):
    """SelfSubjectRulesReview lists what the current user is authorized to do in a namespace."""

    spec: Annotated[SelfSubjectRulesReviewSpec, doc("The namespace.", required=True)] = always(
        SelfSubjectRulesReviewSpec
    )
    status: Annotated[SubjectRulesReviewStatus, doc("The result.")] = always(SubjectRulesReviewStatus)


class UserInfo(objects.Type):
    """UserInfo is the identity of an authenticated user."""

    username: Annotated[str, doc("Name of the user.")] = ""
    uid: Annotated[str, doc("UID of the user.")] = ""
    groups: Annotated[list[str], doc("Groups of the user.", list_type="atomic")] = field(default_factory=list)
    extra: Annotated[dict[str, objects.ExtraValue], doc("Extra attributes of the user.")] = field(default_factory=dict)


class SelfSubjectReviewStatus(objects.Type):
    """SelfSubjectReviewStatus is the identity of the current user."""

    user_info: Annotated[UserInfo, doc("Identity of the current user.")] = always(UserInfo)


class SelfSubjectReview(objects.Object):
    """SelfSubjectReview returns the identity of the current user."""

    status: Annotated[SelfSubjectReviewStatus, doc("The result.")] = always(SelfSubjectReviewStatus)


class TokenReviewSpec(objects.Type):
    """TokenReviewSpec is the token to authenticate."""

    token: Annotated[str, doc("The token.", required=True)] = ""
    audiences: Annotated[list[str], doc("Audiences to accept. Defaults to this server.", list_type="atomic")] = field(
        default_factory=list
    )


class TokenReviewStatus(objects.Type):
    """TokenReviewStatus is the result of the authentication."""

    authenticated: Annotated[bool, doc("Whether the token is valid.")] = False
    user: Annotated[UserInfo, doc("Identity of the user of the token.")] = always(UserInfo)
    audiences: Annotated[list[str], doc("Requested audiences for which the token is valid.", list_type="atomic")] = (
        field(default_factory=list)
    )
    error: Annotated[str, doc("Why the token is not valid.")] = ""


class TokenReview(objects.Object):
    """TokenReview authenticates a token."""

    spec: Annotated[TokenReviewSpec, doc("The token.", required=True)] = always(TokenReviewSpec)
    status: Annotated[TokenReviewStatus, doc("The result.")] = always(TokenReviewStatus)


def _virtual(group: str, type_: type[_T], *, namespaced: bool = False) -> resource.VirtualResource[_T]:
    kind = type_.__name__
    return resource.VirtualResource(
        group=group, version="v1", kind=kind, plural=kind.lower() + "s", type=type_, namespaced=namespaced
    )


SUBJECT_ACCESS_REVIEWS: Final = _virtual(AUTHORIZATION, SubjectAccessReview)
LOCAL_SUBJECT_ACCESS_REVIEWS: Final = _virtual(AUTHORIZATION, LocalSubjectAccessReview, namespaced=True)
SELF_SUBJECT_ACCESS_REVIEWS: Final = _virtual(AUTHORIZATION, SelfSubjectAccessReview)
SELF_SUBJECT_RULES_REVIEWS: Final = _virtual(AUTHORIZATION, SelfSubjectRulesReview)
SELF_SUBJECT_REVIEWS: Final = _virtual(AUTHENTICATION, SelfSubjectReview)
TOKEN_REVIEWS: Final = _virtual(AUTHENTICATION, TokenReview)

VIRTUAL: Final = (
    LOCAL_SUBJECT_ACCESS_REVIEWS,
    SELF_SUBJECT_ACCESS_REVIEWS,
    SELF_SUBJECT_RULES_REVIEWS,
    SUBJECT_ACCESS_REVIEWS,
    SELF_SUBJECT_REVIEWS,
    TOKEN_REVIEWS,
)
