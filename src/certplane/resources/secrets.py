"""Secret: small things that only some may read: keys, passwords, bootstrap tokens.

Source: kubernetes, `pkg/registry/core/secret`, `pkg/apis/core/validation`, `pkg/apis/core/v1/{defaults,conversion}.go`.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Annotated, Final

from msgspec import field

from certplane import clock, errors
from certplane.meta import gojson, names, objects, resource
from certplane.meta.objects import doc
from certplane.x509 import pairs

Problems = list[errors.FieldProblem]

OPAQUE: Final = "Opaque"
BOOTSTRAP_TOKEN: Final = "bootstrap.kubernetes.io/token"  # noqa: S105 - the name of a type, not a secret
SERVICE_ACCOUNT_TOKEN: Final = "kubernetes.io/service-account-token"  # noqa: S105 - as above
_TLS: Final = "kubernetes.io/tls"
ACCOUNT_NAME: Final = "kubernetes.io/service-account.name"
_LARGEST: Final = 1024 * 1024
_DOCKER: Final = {"kubernetes.io/dockercfg": ".dockercfg", "kubernetes.io/dockerconfigjson": ".dockerconfigjson"}
_IMMUTABLE: Final = "field is immutable when `immutable` is set"


#: Where bootstrap tokens are, and what their names begin with; the id follows.
BOOTSTRAP_NAMESPACE: Final = "kube-system"
BOOTSTRAP_PREFIX: Final = "bootstrap-token-"


class Secret(objects.Object):
    """Secret holds a small amount of data that not everybody may read, such as a key or a token."""

    immutable: Annotated[bool | None, doc("If true, the data cannot be changed any more, nor this.")] = None
    data: Annotated[dict[str, bytes], doc("The secret data by name, each value in base64.")] = field(
        default_factory=dict
    )
    string_data: Annotated[
        dict[str, str], doc("The same as plain text, for writing only: it is added to data and never shown.")
    ] = field(default_factory=dict)
    type: Annotated[str, doc("What the data is for; Opaque if nothing is said.", go="v1.SecretType")] = ""


def _default(new: Secret) -> None:
    if new.string_data:
        new.data = {**new.data, **{key: text.encode("utf-8", "replace") for key, text in new.string_data.items()}}
        new.string_data = {}
    new.type = new.type or OPAQUE


def _validate(new: Secret) -> Problems:
    problems: Problems = []
    for key in new.data:
        problems += [errors.invalid(f"data[{key}]", key, why) for why in names.config_key_problems(key)]
    if sum(map(len, new.data.values())) > _LARGEST:
        problems.append(errors.too_long("data", _LARGEST))
    return [*problems, *_type_problems(new)]


def _type_problems(new: Secret) -> Problems:
    """What each type must have."""
    if new.type == SERVICE_ACCOUNT_TOKEN:
        path = f"metadata.annotations[{ACCOUNT_NAME}]"
        return [] if new.metadata.annotations.get(ACCOUNT_NAME) else [errors.required(path)]
    if new.type in _DOCKER:
        return _docker_problems(new, _DOCKER[new.type])
    if new.type == "kubernetes.io/basic-auth":
        keys = ("username", "password")
        return [] if any(key in new.data for key in keys) else [errors.required(f"data[{key}]") for key in keys]
    if new.type == "kubernetes.io/ssh-auth":
        return [] if new.data.get("ssh-privatekey") else [errors.required("data[ssh-privatekey]")]
    if new.type == _TLS:
        return [errors.required(f"data[{key}]") for key in ("tls.crt", "tls.key") if key not in new.data]
    return []


def _docker_problems(new: Secret, key: str) -> Problems:
    if key not in new.data:
        return [errors.required(f"data[{key}]")]
    why = _not_an_object(new.data[key])
    return [errors.invalid(f"data[{key}]", "<secret contents redacted>", why)] if why else []


def _not_an_object(text: bytes) -> str:
    """Why a text is no JSON object, as Go says it; empty if it is one, or null."""
    try:
        found = gojson.parse(text)
    except gojson.SyntaxProblem as problem:
        return str(problem)
    kinds = ((gojson.Pairs, ""), (list, "array"), (gojson.Number, "number"), (str, "string"), (bool, "bool"))
    kind = next((name for type_, name in kinds if isinstance(found, type_)), "")
    return f"json: cannot unmarshal {kind} into Go value of type map[string]interface {{}}" if kind else ""


def _warnings(new: Secret) -> Sequence[str]:
    """A certificate that no server could use with its key is kept, as it is and not without a word."""
    if new.type != _TLS:
        return ()
    try:
        pairs.check(new.data["tls.crt"], new.data["tls.key"])
    except pairs.PairProblem as problem:
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
    """Seconds that a bootstrap token still lasts; None for ever. What cannot be read has ended."""
    text = token.data.get("expiration", b"").decode("utf-8", "replace")
    if not text:
        return None
    try:
        return max(0.0, (clock.parse_rfc3339(text) - now).total_seconds())
    except ValueError:
        return 0.0


RESOURCE: Final = resource.Resource(
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
    selectable={"type": lambda of: of.type},
    unknown_selector=lambda label: f"field label not supported: {label}",
    columns=(
        resource.Column("Name", "Name of the secret.", lambda of, _: of.metadata.name, format="name"),
        resource.Column("Type", "What the data is for.", lambda of, _: of.type),
        resource.Column("Data", "How many values it holds.", lambda of, _: len(of.data)),
        resource.Column("Age", "Time since the secret was created.", resource.age),
    ),
)
