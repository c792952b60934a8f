"""ServiceAccount: an identity for a program, and the question for a token of it.

Source: kubernetes, `pkg/registry/core/serviceaccount`, `pkg/apis/authentication/{v1,validation}`.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Final

from msgspec import field

from certplane import errors
from certplane.meta import context, names, objects, resource
from certplane.meta.objects import always, doc

Problems = list[errors.FieldProblem]

_DEFAULT_SECONDS: Final = 3600
_LEAST_SECONDS: Final = 600
_MOST_SECONDS: Final = 1 << 32
_MOUNTABLE: Final = "kubernetes.io/enforce-mountable-secrets"


class LocalObjectReference(objects.Type):
    """LocalObjectReference names an object in the same namespace."""

    atomic: ClassVar[bool] = True

    name: Annotated[str, doc("Name of the object.")] = ""


class ServiceAccount(objects.Object):
    """ServiceAccount is an identity for a program, as a user is one for a person."""

    secrets: Annotated[
        list[objects.ObjectReference],
        doc(
            "Secrets that pods of this account may use. Not enforced by this server, which runs no pods.",
            list_type="map",
            keys=("name",),
            patch_strategy="merge",
            patch_merge_key="name",
        ),
    ] = field(default_factory=list)
    image_pull_secrets: Annotated[
        list[LocalObjectReference], doc("Secrets with which images are pulled.", list_type="atomic")
    ] = field(default_factory=list)
    automount_service_account_token: Annotated[
        bool | None, doc("Whether pods of this account get a token of it without asking.")
    ] = None


class BoundObjectReference(objects.Type):
    """BoundObjectReference names the object that a token ends with."""

    kind: Annotated[str, doc("Pod, Secret or Node.")] = ""
    api_version: Annotated[str, doc("v1.")] = ""
    name: Annotated[str, doc("Name of the object.")] = ""
    uid: Annotated[str, doc("UID of the object, if it must be just that one.", go="types.UID")] = ""


class TokenRequestSpec(objects.Type):
    """TokenRequestSpec says what the token is to be like."""

    audiences: Annotated[
        list[str], doc("Who the token is meant for; this API server if nothing is said.", list_type="atomic")
    ] = always(list)
    expiration_seconds: Annotated[
        objects.Int64 | None, doc("Lifetime of the token in seconds. The answer says what it became.")
    ] = always(lambda: None)
    bound_object_ref: Annotated[
        BoundObjectReference | None, doc("If set, the token is good only as long as this object exists.")
    ] = always(lambda: None)


class TokenRequestStatus(objects.Type):
    """TokenRequestStatus is the token."""

    token: Annotated[str, doc("The token: a signed JWT.")] = always(str)
    expiration_timestamp: Annotated[objects.Time | None, doc("When the token ends.")] = always(lambda: None)


class TokenRequest(objects.Object):
    """TokenRequest asks for a token of a service account."""

    spec: Annotated[TokenRequestSpec, doc("What the token is to be like.")] = always(TokenRequestSpec)
    status: Annotated[TokenRequestStatus, doc("The token.")] = always(TokenRequestStatus)


def _prepare_create(new: ServiceAccount, call: context.Call) -> None:
    _keep_names(new)
    _warn(new, None, call)


def _prepare_update(new: ServiceAccount, old: ServiceAccount, call: context.Call) -> None:
    _keep_names(new)
    _warn(new, old, call)


def _keep_names(new: ServiceAccount) -> None:
    """Of secrets only the names are kept: they are in the same namespace anyway."""
    new.secrets = [objects.ObjectReference(name=each.name) for each in new.secrets]


def _warn(new: ServiceAccount, old: ServiceAccount | None, call: context.Call) -> None:
    """Tell whoever sets the annotation that it is on its way out; who only keeps it has heard it."""
    if _MOUNTABLE in new.metadata.annotations and (old is None or _MOUNTABLE not in old.metadata.annotations):
        why = "deprecated in v1.32+; prefer separate namespaces to isolate access to mounted secrets"
        call.warn(f"metadata.annotations[{_MOUNTABLE}]: {why}")


def _default_token(new: TokenRequest) -> None:
    if new.spec.expiration_seconds is None:
        new.spec.expiration_seconds = _DEFAULT_SECONDS


def _token_problems(new: TokenRequest) -> Problems:
    problems: Problems = []
    seconds = new.spec.expiration_seconds or 0
    path = "spec.expirationSeconds"
    if seconds < _LEAST_SECONDS:
        problems.append(errors.invalid(path, seconds, "may not specify a duration less than 10 minutes"))
    if seconds > _MOST_SECONDS:
        problems.append(errors.invalid(path, seconds, "may not specify a duration larger than 2^32 seconds"))
    return problems


RESOURCE: Final = resource.Resource(
    group="",
    version="v1",
    kind="ServiceAccount",
    plural="serviceaccounts",
    short_names=("sa",),
    type=ServiceAccount,
    namespaced=True,
    owns=("secrets", "imagePullSecrets", "automountServiceAccountToken"),
    prepare_create=_prepare_create,
    prepare_update=_prepare_update,
    name_problems=names.dns1123_subdomain_problems,
    unknown_selector=None,
    returns_deleted=True,
    columns=(
        resource.Column("Name", "Name of the account.", lambda of, _: of.metadata.name, format="name"),
        resource.Column("Age", "Time since the account was created.", resource.age),
    ),
)
TOKEN_REQUESTS: Final = resource.Action(
    group="authentication.k8s.io",
    version="v1",
    kind="TokenRequest",
    plural="token",
    type=TokenRequest,
    namespaced=True,
    default=_default_token,
    validate=_token_problems,
    parent=RESOURCE,
)
