"""Secret: confidential data such as keys, passwords and bootstrap tokens.

Source: kubernetes, `pkg/registry/core/secret`, `pkg/apis/core/validation`, `pkg/apis/core/v1/{defaults,conversion}.go`.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Annotated, Final

from msgspec import field

from certplane import errors, timestamps
from certplane.errors import Problems
from certplane.golang import gojson
from certplane.meta import names, objects, resource
from certplane.meta.objects import doc
from certplane.x509.trust import keypairs

OPAQUE: Final = "Opaque"
BOOTSTRAP_TOKEN: Final = "bootstrap.kubernetes.io/token"  # noqa: S105 - the name of a type, not a secret
SERVICE_ACCOUNT_TOKEN: Final = "kubernetes.io/service-account-token"  # noqa: S105 - as above
_TLS: Final = "kubernetes.io/tls"
ACCOUNT_NAME: Final = "kubernetes.io/service-account.name"
_MAX_BYTES: Final = 1024 * 1024
_DOCKER: Final = {"kubernetes.io/dockercfg": ".dockercfg", "kubernetes.io/dockerconfigjson": ".dockerconfigjson"}
_IMMUTABLE: Final = "field is immutable when `immutable` is set"

#: The namespace of bootstrap tokens, and the prefix of their names; the token ID follows.
BOOTSTRAP_NAMESPACE: Final = "kube-system"
BOOTSTRAP_PREFIX: Final = "bootstrap-token-"


class Secret(objects.Object):
    """Secret holds a small amount of confidential data, such as a key or a token."""

    immutable: Annotated[
        bool | None,
        doc("If true, the data cannot be changed, and neither can this field. The object can only be deleted."),
    ] = None
    data: Annotated[dict[str, bytes], doc("Values by key, each in base64.")] = field(default_factory=dict)
    string_data: Annotated[
        dict[str, str], doc("Values as plain text by key. Write-only: they are merged into data, and never returned.")
    ] = field(default_factory=dict)
    type: Annotated[str, doc("Type of the data. Defaults to Opaque.", go="v1.SecretType")] = ""


def _default(secret: Secret) -> None:
    if secret.string_data:
        encoded = {key: text.encode("utf-8", "replace") for key, text in secret.string_data.items()}
        secret.data = {**secret.data, **encoded}
        secret.string_data = {}
    secret.type = secret.type or OPAQUE


def _validate(secret: Secret) -> Problems:
    problems: Problems = []
    for key in secret.data:
        problems += [errors.invalid(f"data[{key}]", key, detail) for detail in names.config_key_problems(key)]
    if sum(map(len, secret.data.values())) > _MAX_BYTES:
        problems.append(errors.too_long("data", _MAX_BYTES))
    return [*problems, *_type_problems(secret)]


def _type_problems(secret: Secret) -> Problems:
    """The problems of the data that the type requires."""
    if secret.type == SERVICE_ACCOUNT_TOKEN:
        path = f"metadata.annotations[{ACCOUNT_NAME}]"
        return [] if secret.metadata.annotations.get(ACCOUNT_NAME) else [errors.required(path)]
    if secret.type in _DOCKER:
        return _docker_problems(secret, _DOCKER[secret.type])
    if secret.type == "kubernetes.io/basic-auth":
        keys = ("username", "password")
        return [] if any(key in secret.data for key in keys) else [errors.required(f"data[{key}]") for key in keys]
    if secret.type == "kubernetes.io/ssh-auth":
        return [] if secret.data.get("ssh-privatekey") else [errors.required("data[ssh-privatekey]")]
    if secret.type == _TLS:
        return [errors.required(f"data[{key}]") for key in ("tls.crt", "tls.key") if key not in secret.data]
    return []


def _docker_problems(secret: Secret, key: str) -> Problems:
    if key not in secret.data:
        return [errors.required(f"data[{key}]")]
    detail = _object_problem(secret.data[key])
    return [errors.invalid(f"data[{key}]", "<secret contents redacted>", detail)] if detail else []


def _object_problem(text: bytes) -> str:
    """Why a text is not a JSON object or null, as Go reports it; empty if it is."""
    try:
        value = gojson.parse(text)
    except gojson.JSONSyntaxError as problem:
        return str(problem)
    kinds = ((gojson.Pairs, ""), (list, "array"), (gojson.Number, "number"), (str, "string"), (bool, "bool"))
    kind = next((name for type_, name in kinds if isinstance(value, type_)), "")
    return f"json: cannot unmarshal {kind} into Go value of type map[string]interface {{}}" if kind else ""


def _warnings(secret: Secret) -> Sequence[str]:
    """Warn about a certificate that does not match its key; the secret is stored nevertheless."""
    if secret.type != _TLS:
        return ()
    try:
        keypairs.check(secret.data["tls.crt"], secret.data["tls.key"])
    except keypairs.KeyPairError as problem:
        return (str(problem),)
    return ()


def _validate_update(new: Secret, old: Secret) -> Problems:
    problems: Problems = []
    if new.type != old.type:
        problems.append(errors.invalid("type", new.type, "field is immutable", as_json=True))
    if old.immutable:
        if not new.immutable:
            problems.append(errors.forbidden("immutable", _IMMUTABLE))
        if new.data != old.data:
            problems.append(errors.forbidden("data", _IMMUTABLE))
    return [*problems, *_validate(new)]


def time_left(token: Secret, now: datetime.datetime) -> float | None:
    """Seconds until a bootstrap token expires; None if it never does, 0 if its expiration is unreadable."""
    text = token.data.get("expiration", b"").decode("utf-8", "replace")
    if not text:
        return None
    try:
        return max(0.0, (timestamps.parse_rfc3339(text) - now).total_seconds())
    except ValueError:
        return 0.0


RESOURCE: Final[resource.Resource[Secret]] = resource.Resource(
    group="",
    version="v1",
    kind="Secret",
    plural="secrets",
    type=Secret,
    namespaced=True,
    owns=("immutable", "data", "stringData", "type"),
    default=_default,
    name_problems=names.dns1123_subdomain_problems,
    validate=_validate,
    validate_update=_validate_update,
    warnings=_warnings,
    selectable={"type": lambda obj: obj.type},
    unknown_selector=lambda label: f"field label not supported: {label}",
    columns=(
        resource.Column("Name", "Name of the secret.", lambda obj, _: obj.metadata.name, format="name"),
        resource.Column("Type", "Type of the data.", lambda obj, _: obj.type),
        resource.Column("Data", "Number of values.", lambda obj, _: len(obj.data)),
        resource.Column("Age", "Time since the secret was created.", resource.age),
    ),
)
