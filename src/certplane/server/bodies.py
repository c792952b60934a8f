"""Decodes request bodies: content type, field validation, and the error texts for invalid bodies.

Source of the texts: `k8s.io/apiserver/pkg/endpoints/handlers/{create,rest}.go`.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from certplane import errors, offload
from certplane.golang import formatting, gojson, goyaml
from certplane.meta import context, objects
from certplane.meta.objects import Object
from certplane.server import auditpolicy, negotiation
from certplane.server.exchange import Request
from certplane.wire import codec, protobuf
from certplane.x509 import privatekeys

T = TypeVar("T", bound=Object)
T_co = TypeVar("T_co", bound=Object, covariant=True)

_log = logging.getLogger("certplane.server")

_SCHEME = "pkg/api/legacyscheme/scheme.go:30"
_OPTIONS_SCHEME = "k8s.io/apimachinery/pkg/apis/meta/internalversion/scheme/register.go:27"
_TYPE_META = r'struct { APIVersion string "json:\"apiVersion,omitempty\""; Kind string "json:\"kind,omitempty\"" }'


@dataclasses.dataclass(frozen=True, slots=True)
class Expected(Generic[T_co]):
    """The type that a body must have. `is_known` says whether another (apiVersion, kind) pair exists. `describe_value`
    takes the path and the value of a field that is not base64, and returns the text of a warning, or an empty one.
    """

    type: type[T_co]
    api_version: str
    kind: str
    is_known: Callable[[str, str], bool]
    describe_value: Callable[[str, str], str] = lambda _path, _value: ""


def decoding_cost(data: bytes, media_type: str) -> int:
    """The cost of decoding a body, in the unit of `offload.run`."""
    return len(data) * (offload.YAML_FACTOR if media_type == negotiation.YAML else 1)


async def receive(request: Request) -> bytes:
    """The body of a request. Raises RequestEntityTooLarge; and BadRequest for a private key, unless the resource holds
    credentials. So nothing of a private key is decoded, audited or quoted.
    """
    body = await request.body()
    if not auditpolicy.holds_credentials(request.info):
        await offload.run(len(body), _refuse_private_keys, body, request.request_id)
    return body


def _refuse_private_keys(data: bytes, request_id: str) -> None:
    if privatekeys.contains_key(data):
        _log.warning("request refused: it contains a private key", extra={"request_id": request_id})
        raise errors.BadRequest(privatekeys.EXPOSED_MESSAGE)


def decode(data: bytes, media_type: str, expected: Expected[T], call: context.VerbContext) -> T:
    """Decode the object in a body. Raises BadRequest; adds warnings to the call, as its fieldValidation says."""
    obj = _decode(data, media_type, expected, call)
    if (media_type != negotiation.JSON or b"\\u" in data) and not auditpolicy.holds_credentials(call.info):
        # Check the canonical JSON, too: protobuf bytes, folded YAML lines and escapes can hide a key.
        _refuse_private_keys(codec.encode(obj), call.request_id)
    return obj


def _decode(data: bytes, media_type: str, expected: Expected[T], call: context.VerbContext) -> T:
    if media_type == negotiation.PROTOBUF:
        return _decode_protobuf(data, expected)
    tree = _parse(data, media_type, expected)
    try:
        api_version, kind = type_of(tree)
    except codec.DecodeError as error:
        raise _unrecognised(expected, str(error), data) from error
    _check_type(api_version or expected.api_version, kind or expected.kind, expected)
    try:
        reading = codec.decode_tree(tree, expected.type)
    except codec.DecodeError as error:
        description = expected.describe_value(*error.not_base64) if error.not_base64 is not None else ""
        if description:
            call.warn(description)
        raise _cannot_handle(expected, str(error)) from error
    is_checked = media_type == negotiation.YAML and call.field_validation != "Ignore"
    duplicates = goyaml.find_duplicates(data)[: codec.STRICT_LIMIT] if is_checked else []
    _apply_field_validation(duplicates, reading.strict_errors, expected, call)
    return reading.object


def decode_delete_options(data: bytes, media_type: str) -> objects.DeleteOptions:
    """Decode DeleteOptions, of any version. kube-apiserver uses another scheme for them, whose errors have no prefix.
    Raises BadRequest.
    """
    if media_type == negotiation.PROTOBUF:
        return protobuf.decode(data, objects.DeleteOptions, "v1").object
    try:
        tree = goyaml.parse(data) if media_type == negotiation.YAML else codec.parse_json(data)
        api_version, kind = type_of(tree)
        if kind not in ("", "DeleteOptions"):
            raise errors.BadRequest(_unregistered(api_version or "v1", kind, _OPTIONS_SCHEME))
        delete_options = codec.decode_tree(tree, objects.DeleteOptions).object
    except gojson.JSONSyntaxError as error:
        raise errors.BadRequest(f"couldn't get version/kind; json parse error: {error}") from error
    except (goyaml.YAMLError, codec.DecodeError) as error:
        raise errors.BadRequest(str(error)) from error
    return delete_options


def _apply_field_validation(
    duplicates: Sequence[str], strict_errors: Sequence[str], expected: Expected[Object], call: context.VerbContext
) -> None:
    """Refuse duplicate YAML keys and strict decoding errors, or add them to the warnings, as fieldValidation says."""
    if call.field_validation == "Ignore" or not (duplicates or strict_errors):
        return
    if call.field_validation == "Strict":
        yaml = (
            ["yaml: unmarshal errors:" + "".join(f"\n  {duplicate}" for duplicate in duplicates)] if duplicates else []
        )
        raise _cannot_handle(expected, "strict decoding error: " + ", ".join([*yaml, *strict_errors]))
    call.warnings.extend([*duplicates, *strict_errors])


def _cannot_handle(expected: Expected[Object], detail: str) -> errors.BadRequest:
    version = expected.api_version.rpartition("/")[2]
    return errors.BadRequest(f'{expected.kind} in version "{version}" cannot be handled as a {expected.kind}: {detail}')


def _parse(data: bytes, media_type: str, expected: Expected[Object]) -> object:
    try:
        if media_type == negotiation.YAML:
            # kube-apiserver converts YAML to JSON first, which sorts the keys.
            return gojson.sort_members(goyaml.parse(data))
        return codec.parse_json(data)
    except gojson.JSONSyntaxError as error:
        raise _unrecognised(expected, f"couldn't get version/kind; json parse error: {error}", data) from error
    except goyaml.YAMLError as error:
        raise _unrecognised(expected, str(error), data) from error


def _unrecognised(expected: Expected[Object], detail: str, data: bytes) -> errors.BadRequest:
    return errors.BadRequest(
        f"the object provided is unrecognized (must be of type {expected.kind}): {detail} ({codec.summary(data)})"
    )


def type_of(tree: object) -> tuple[str, str]:
    """The apiVersion and kind of a document; empty if absent. Raises codec.DecodeError."""
    if not isinstance(tree, gojson.Pairs | None):
        raise _no_type(f"{codec.go_kind(tree)} into Go value of type {_TYPE_META}")
    type_meta = {"apiVersion": "", "kind": ""}
    for key, value in tree or ():
        if key in type_meta and value is not None:
            if type(value) is not str:
                raise _no_type(f"{codec.go_kind(value)} into Go struct field .{key} of type string")
            type_meta[key] = value
    if type_meta["apiVersion"].count("/") > 1:
        raise codec.DecodeError(f"unexpected GroupVersion string: {type_meta['apiVersion']}")
    return type_meta["apiVersion"], type_meta["kind"]


def _no_type(mismatch: str) -> codec.DecodeError:
    return codec.DecodeError(f"couldn't get version/kind; json parse error: json: cannot unmarshal {mismatch}")


def _unregistered(api_version: str, kind: str, scheme: str) -> str:
    problem = f"no kind {formatting.quote(kind)} is registered for version {formatting.quote(api_version)}"
    return f"{problem} in scheme {formatting.quote(scheme)}"


def type_problem(api_version: str, kind: str, expected: Expected[Object]) -> str:
    """Why a document of this type cannot be decoded as the expected type; empty if it can."""
    if not expected.is_known(api_version, kind):
        return _unregistered(api_version, kind, _SCHEME)
    group, _, version = api_version.rpartition("/")
    if (group, kind) == (expected.api_version.rpartition("/")[0], expected.kind):
        return ""
    return f"converting ({version}.{kind}) to ({_package(expected.api_version)}.{expected.kind}): unknown conversion"


def _check_type(api_version: str, kind: str, expected: Expected[Object]) -> None:
    if (api_version, kind) == (expected.api_version, expected.kind):
        return
    problem = type_problem(api_version, kind, expected)
    if problem:
        version = formatting.quote(api_version.rpartition("/")[2])
        raise errors.BadRequest(f"{kind} in version {version} cannot be handled as a {expected.kind}: {problem}")
    raise errors.BadRequest(
        f"the API version in the data ({api_version}) does not match the expected API version ({expected.api_version})"
    )


def _package(api_version: str) -> str:
    """The Go package of a group's internal types in kube-apiserver: the first word of the group."""
    group = api_version.rpartition("/")[0]
    return group.partition(".")[0] or "core"


def _decode_protobuf(data: bytes, expected: Expected[T]) -> T:
    decoded = protobuf.decode(data, expected.type, expected.api_version)
    _check_type(decoded.api_version or expected.api_version, decoded.kind or expected.kind, expected)
    return decoded.object
