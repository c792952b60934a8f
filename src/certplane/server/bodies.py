"""Request bodies to objects: content type, strictness, and the many ways in which a body can be wrong.

Source of the texts: `k8s.io/apiserver/pkg/endpoints/handlers/{create,rest}.go`.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from typing import Any

from certplane import errors, gotext, offload
from certplane.meta import codec, context, gojson, goyaml, objects, protobuf
from certplane.server import auditpolicy, exchange, negotiation
from certplane.x509 import privatekeys

_log = logging.getLogger("certplane.server")

_SCHEME = "pkg/api/legacyscheme/scheme.go:30"
_OPTIONS_SCHEME = "k8s.io/apimachinery/pkg/apis/meta/internalversion/scheme/register.go:27"
_TYPE_META = r'struct { APIVersion string "json:\"apiVersion,omitempty\""; Kind string "json:\"kind,omitempty\"" }'


@dataclasses.dataclass(frozen=True, slots=True)
class Expected:
    """What a body should be. `is_known` tells of other (apiVersion, kind) pairs whether there are such."""

    type: type[objects.Type]
    api_version: str
    kind: str
    is_known: Callable[[str, str], bool]


def weight(data: bytes, media_type: str) -> int:
    """How long it takes to read a body, as `offload.run` counts."""
    return len(data) * (offload.YAML if media_type == negotiation.YAML else 1)


async def receive(of: exchange.Exchange) -> bytes:
    """The body of a request. Raises RequestEntityTooLarge, and BadRequest for a private key where none belongs: before
    anything of it is read, recorded or quoted.
    """
    body = await of.body()
    if not auditpolicy.holds_credentials(of.info):
        await offload.run(len(body), _refuse_private_keys, body, of.request_id)
    return body


def _refuse_private_keys(data: bytes, request_id: str) -> None:
    if privatekeys.is_in(data):
        _log.warning("a private key was sent where none belongs", extra={"request_id": request_id})
        raise errors.BadRequest(privatekeys.FOUND)


def read(data: bytes, media_type: str, expected: Expected, call: context.Call) -> Any:
    """The object in a body. Raises BadRequest; adds warnings to the call, as its fieldValidation says."""
    found = _read(data, media_type, expected, call)
    if (media_type != negotiation.JSON or b"\\u" in data) and not auditpolicy.holds_credentials(call.info):
        # What a form of its own hides, JSON shows: bytes in protobuf, folded lines, escaped characters.
        _refuse_private_keys(codec.encode(found), call.request_id)
    return found


def _read(data: bytes, media_type: str, expected: Expected, call: context.Call) -> Any:
    if media_type == negotiation.PROTOBUF:
        return _read_protobuf(data, expected)
    tree = _parse(data, media_type, expected)
    try:
        api_version, kind = type_of(tree)
    except codec.ReadProblem as error:
        raise _unrecognised(expected, str(error), data) from error
    _check_type(api_version or expected.api_version, kind or expected.kind, expected)
    try:
        reading = codec.read(tree, expected.type)
    except codec.ReadProblem as error:
        raise _unfit(expected, str(error)) from error
    doubled = goyaml.duplicates(data) if media_type == negotiation.YAML and call.field_validation != "Ignore" else []
    _judge(doubled[: codec.STRICT_LIMIT], reading.strict, expected, call)
    return reading.object


def read_options(data: bytes, media_type: str) -> objects.DeleteOptions:
    """The options of a deletion, of any version. They are read by a scheme of their own, and nobody dresses up what it
    says. Raises BadRequest.
    """
    if media_type == negotiation.PROTOBUF:
        decoded: objects.DeleteOptions = protobuf.decode(data, objects.DeleteOptions, "v1").object
        return decoded
    try:
        tree = goyaml.parse(data) if media_type == negotiation.YAML else codec.parse_json(data)
        api_version, kind = type_of(tree)
        if kind not in ("", "DeleteOptions"):
            raise errors.BadRequest(_unregistered(api_version or "v1", kind, _OPTIONS_SCHEME))
        found: objects.DeleteOptions = codec.read(tree, objects.DeleteOptions).object
    except gojson.SyntaxProblem as error:
        raise errors.BadRequest(f"couldn't get version/kind; json parse error: {error}") from error
    except (goyaml.Problem, codec.ReadProblem) as error:
        raise errors.BadRequest(str(error)) from error
    return found


def _judge(doubled: Sequence[str], strict: Sequence[str], expected: Expected, call: context.Call) -> None:
    """Refuse or warn of what strict decoding found: keys that a YAML document has twice, and what does not belong."""
    if call.field_validation == "Ignore" or not (doubled or strict):
        return
    if call.field_validation == "Strict":
        yaml = ["yaml: unmarshal errors:" + "".join(f"\n  {each}" for each in doubled)] if doubled else []
        raise _unfit(expected, "strict decoding error: " + ", ".join([*yaml, *strict]))
    call.warnings.extend([*doubled, *strict])


def _unfit(expected: Expected, why: str) -> errors.BadRequest:
    version = expected.api_version.rpartition("/")[2]
    return errors.BadRequest(f'{expected.kind} in version "{version}" cannot be handled as a {expected.kind}: {why}')


def _parse(data: bytes, media_type: str, expected: Expected) -> Any:
    try:
        if media_type == negotiation.YAML:
            # It is made JSON first, by a writer that sorts.
            return gojson.sorted_tree(goyaml.parse(data))
        return codec.parse_json(data)
    except gojson.SyntaxProblem as error:
        raise _unrecognised(expected, f"couldn't get version/kind; json parse error: {error}", data) from error
    except goyaml.Problem as error:
        raise _unrecognised(expected, str(error), data) from error


def _unrecognised(expected: Expected, why: str, data: bytes) -> errors.BadRequest:
    return errors.BadRequest(
        f"the object provided is unrecognized (must be of type {expected.kind}): {why} ({codec.summary(data)})"
    )


def type_of(tree: Any) -> tuple[str, str]:
    """The apiVersion and kind of a document, empty where it does not say. Raises codec.ReadProblem."""
    if not isinstance(tree, gojson.Pairs | None):
        raise _no_type(f"{codec.go_kind(tree)} into Go value of type {_TYPE_META}")
    found = {"apiVersion": "", "kind": ""}
    for key, value in tree or ():
        if key in found and value is not None:
            if type(value) is not str:
                raise _no_type(f"{codec.go_kind(value)} into Go struct field .{key} of type string")
            found[key] = value
    if found["apiVersion"].count("/") > 1:
        raise codec.ReadProblem(f"unexpected GroupVersion string: {found['apiVersion']}")
    return found["apiVersion"], found["kind"]


def _no_type(what: str) -> codec.ReadProblem:
    return codec.ReadProblem(f"couldn't get version/kind; json parse error: json: cannot unmarshal {what}")


def _unregistered(api_version: str, kind: str, scheme: str) -> str:
    named = f"no kind {gotext.quote(kind)} is registered for version {gotext.quote(api_version)}"
    return f"{named} in scheme {gotext.quote(scheme)}"


def type_problem(api_version: str, kind: str, expected: Expected) -> str:
    """Why a document of this type cannot be read as what is expected; empty if it can."""
    if not expected.is_known(api_version, kind):
        return _unregistered(api_version, kind, _SCHEME)
    group, _, version = api_version.rpartition("/")
    if (group, kind) == (expected.api_version.rpartition("/")[0], expected.kind):
        return ""
    return f"converting ({version}.{kind}) to ({_package(expected.api_version)}.{expected.kind}): unknown conversion"


def _check_type(api_version: str, kind: str, expected: Expected) -> None:
    if (api_version, kind) == (expected.api_version, expected.kind):
        return
    why = type_problem(api_version, kind, expected)
    if why:
        version = gotext.quote(api_version.rpartition("/")[2])
        raise errors.BadRequest(f"{kind} in version {version} cannot be handled as a {expected.kind}: {why}")
    raise errors.BadRequest(
        f"the API version in the data ({api_version}) does not match the expected API version ({expected.api_version})"
    )


def _package(api_version: str) -> str:
    """What the real server calls the package of a group's internal types: its first word."""
    group = api_version.rpartition("/")[0]
    return group.partition(".")[0] or "core"


def _read_protobuf(data: bytes, expected: Expected) -> Any:
    decoded = protobuf.decode(data, expected.type, expected.api_version)
    _check_type(decoded.api_version or expected.api_version, decoded.kind or expected.kind, expected)
    return decoded.object
