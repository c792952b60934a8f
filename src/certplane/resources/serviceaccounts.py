"""ServiceAccount: an identity for programs, and TokenRequest, which issues a token for it.

Source: kubernetes, `pkg/registry/core/serviceaccount`, `pkg/apis/authentication/{v1,validation}`.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Final

from msgspec import field

from certplane import errors
from certplane.errors import Problems
from certplane.meta import names, objects, resource
from certplane.meta.context import VerbContext
from certplane.meta.objects import always, doc

_DEFAULT_SECONDS: Final = 3600
_MIN_SECONDS: Final = 600
_MAX_SECONDS: Final = 1 << 32
_MOUNTABLE: Final = "kubernetes.io/enforce-mountable-secrets"


class LocalObjectReference(objects.Type):
    """LocalObjectReference refers to an object in the same namespace."""

    atomic: ClassVar[bool] = True

    name: Annotated[str, doc("Name of the object.")] = ""


class ServiceAccount(objects.Object):
    """ServiceAccount is an identity for programs in the cluster."""

    secrets: Annotated[
        list[objects.ObjectReference],
        doc(
            "Secrets that pods of this service account may use. Not enforced: this server runs no pods.",
            list_type="map",
            keys=("name",),
            patch_strategy="merge",
            patch_merge_key="name",
        ),
    ] = field(default_factory=list)
    image_pull_secrets: Annotated[
        list[LocalObjectReference], doc("Secrets for pulling container images.", list_type="atomic")
    ] = field(default_factory=list)
    automount_service_account_token: Annotated[
        bool | None, doc("Whether a token of this service account is mounted in its pods by default.")
    ] = None


class BoundObjectReference(objects.Type):
    """BoundObjectReference refers to the object that a token is bound to."""

    kind: Annotated[str, doc("Kind of the object: Pod, Secret or Node.")] = ""
    api_version: Annotated[str, doc("API version of the object: v1.")] = ""
    name: Annotated[str, doc("Name of the object.")] = ""
    uid: Annotated[str, doc("UID of the object.", go="types.UID")] = ""


class TokenRequestSpec(objects.Type):
    """TokenRequestSpec describes the requested token."""

    audiences: Annotated[list[str], doc("Audiences of the token. Defaults to this API server.", list_type="atomic")] = (
        always(list)
    )
    expiration_seconds: Annotated[
        objects.Int64 | None, doc("Requested lifetime of the token in seconds. The response has the actual one.")
    ] = always(lambda: None)
    bound_object_ref: Annotated[
        BoundObjectReference | None, doc("If set, the token is valid only as long as this object exists.")
    ] = always(lambda: None)


class TokenRequestStatus(objects.Type):
    """TokenRequestStatus is the issued token."""

    token: Annotated[str, doc("The token: a signed JWT.")] = always(str)
    expiration_timestamp: Annotated[objects.Time | None, doc("Time when the token expires.")] = always(lambda: None)


class TokenRequest(objects.Object):
    """TokenRequest requests a token for a service account."""

    spec: Annotated[TokenRequestSpec, doc("The requested token.")] = always(TokenRequestSpec)
    status: Annotated[TokenRequestStatus, doc("The issued token.")] = always(TokenRequestStatus)


def _prepare_create(new: ServiceAccount, call: VerbContext) -> None:
    _clear_references(new)
    _warn(new, None, call)


def _prepare_update(new: ServiceAccount, old: ServiceAccount, call: VerbContext) -> None:
    _clear_references(new)
    _warn(new, old, call)


def _clear_references(account: ServiceAccount) -> None:
    """Clear all fields of the references to secrets but the name, as Kubernetes does."""
    account.secrets = [objects.ObjectReference(name=secret.name) for secret in account.secrets]


def _warn(new: ServiceAccount, old: ServiceAccount | None, call: VerbContext) -> None:
    """Warn about a deprecated annotation when it is added."""
    if _MOUNTABLE in new.metadata.annotations and (old is None or _MOUNTABLE not in old.metadata.annotations):
        detail = "deprecated in v1.32+; prefer separate namespaces to isolate access to mounted secrets"
        call.warn(f"metadata.annotations[{_MOUNTABLE}]: {detail}")


def _default_token(request: TokenRequest) -> None:
    if request.spec.expiration_seconds is None:
        request.spec.expiration_seconds = _DEFAULT_SECONDS


def _token_problems(request: TokenRequest) -> Problems:
    problems: Problems = []
    seconds = request.spec.expiration_seconds or 0
    path = "spec.expirationSeconds"
    if seconds < _MIN_SECONDS:
        problems.append(errors.invalid(path, seconds, "may not specify a duration less than 10 minutes"))
    if seconds > _MAX_SECONDS:
        problems.append(errors.invalid(path, seconds, "may not specify a duration larger than 2^32 seconds"))
    return problems


RESOURCE: Final[resource.Resource[ServiceAccount]] = resource.Resource(
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
    return_deleted_object=True,
    columns=(
        resource.Column("Name", "Name of the service account.", lambda obj, _: obj.metadata.name, format="name"),
        resource.Column("Age", "Time since the service account was created.", resource.age),
    ),
)
TOKEN_REQUESTS: Final[resource.VirtualResource[TokenRequest]] = resource.VirtualResource(
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
