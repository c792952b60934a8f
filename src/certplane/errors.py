"""The tree of errors that clients and operators see; the only place that chooses an HTTP code or a Status reason.

    CertplaneError                 any error that this program raises on purpose
    ├── SetupError                 an operator must fix a setting or a file: `error:`, `hint:`, exit code 2
    └── APIError                   becomes a Status on the wire
        ├── BadRequest             400 BadRequest
        ├── Unauthorized           401 Unauthorized
        ├── Forbidden              403 Forbidden
        ├── NotFound               404 NotFound            an object
        ├── NoSuchPath             404 NotFound            a resource that is not served
        ├── PageNotFound           404, text/plain         a path that is not served
        ├── MethodNotAllowed       405 MethodNotAllowed
        ├── NotAcceptable          406 NotAcceptable
        ├── AlreadyExists          409 AlreadyExists
        ├── Conflict               409 Conflict
        │   └── ApplyConflict      409 Conflict            field managers of a server-side apply
        ├── Expired                410 Expired
        ├── RequestEntityTooLarge  413 RequestEntityTooLarge
        ├── UnsupportedMediaType   415 UnsupportedMediaType
        ├── Invalid                422 Invalid             carries field problems
        ├── Unprocessable          422 Invalid             a JSON patch that does not apply
        ├── TooManyRequests        429 TooManyRequests
        ├── InternalError          500 InternalError
        ├── UnknownReasonError     500, no reason          as kube-apiserver answers a few malformed values
        ├── ServiceUnavailable     503 ServiceUnavailable
        └── Timeout                504 Timeout

Any other exception becomes a 500 with a request id and no detail; its traceback is logged once.
Source of codes, reasons and texts: `k8s.io/apimachinery/pkg/api/errors`, `.../util/validation/field`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from certplane.golang import formatting


class CertplaneError(Exception):
    """Any error that this program raises on purpose."""


class SetupError(CertplaneError):
    """A setting or a file that an operator must fix. `hints` name the next step, one sentence each."""

    def __init__(self, message: str, hints: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.hints = tuple(hints)


# --- field problems -----------------------------------------------------------------------------------------------

#: Bounds of an error response: characters of each quoted value and of the message, number of causes, and characters of
#: all causes. The refused object may have three megabytes and a hundred thousand invalid fields. The longest message
#: recorded from a real server has 1,300 characters, and six causes.
MAX_VALUE_LENGTH: Final = 4096
MAX_MESSAGE_LENGTH: Final = 8 * 1024
MAX_CAUSES: Final = 100
_MAX_CAUSES_LENGTH: Final = 16 * 1024


@dataclasses.dataclass(frozen=True, slots=True)
class FieldProblem:
    """One validation error of one field: a cause in the Status of a 422.

    `reason` is the machine-readable cause, `path` the field as Kubernetes prints it (`spec.usages[0]`), `body` the
    text after the path. The functions below create one.
    """

    reason: str
    path: str
    body: str

    def __str__(self) -> str:
        return f"{self.path}: {self.body}"


#: What a validator returns: an empty list if nothing is wrong.
Problems = list[FieldProblem]


def _value_text(value: object, as_json: bool) -> str:
    if isinstance(value, str) and not as_json:
        return formatting.quote(formatting.shorten(value, MAX_VALUE_LENGTH))
    return formatting.shorten(formatting.marshal_json(value), MAX_VALUE_LENGTH)


def required(path: str, detail: str = "") -> FieldProblem:
    """The field must be set."""
    return FieldProblem("FieldValueRequired", path, "Required value" + (f": {detail}" if detail else ""))


def invalid(path: str, value: object, detail: str, *, as_json: bool = False) -> FieldProblem:
    """The value breaks a rule. Strings are printed as Go's `%q`; with `as_json` (Go's named string types) as JSON."""
    return FieldProblem("FieldValueInvalid", path, f"Invalid value: {_value_text(value, as_json)}: {detail}")


def invalid_without_value(path: str, detail: str) -> FieldProblem:
    """The value breaks a rule, and is not quoted."""
    return FieldProblem("FieldValueInvalid", path, f"Invalid value: {detail}")


def not_supported(path: str, value: object, supported: Iterable[str], *, as_json: bool = False) -> FieldProblem:
    """The value is not one of a fixed set; `supported` is printed in the given order."""
    supported_text = ", ".join(formatting.quote(name) for name in supported)
    body = f"Unsupported value: {_value_text(value, as_json)}"
    if supported_text:
        body += f": supported values: {supported_text}"
    return FieldProblem("FieldValueNotSupported", path, body)


def duplicate(path: str, value: object, *, as_json: bool = False) -> FieldProblem:
    """The value occurs twice where it may occur once."""
    return FieldProblem("FieldValueDuplicate", path, f"Duplicate value: {_value_text(value, as_json)}")


def forbidden(path: str, detail: str) -> FieldProblem:
    """The field may not be set, changed or removed here."""
    return FieldProblem("FieldValueForbidden", path, f"Forbidden: {detail}")


def too_long(path: str, limit: int) -> FieldProblem:
    """The value has more than `limit` bytes."""
    unit = "byte" if limit == 1 else "bytes"
    return FieldProblem("FieldValueTooLong", path, f"Too long: may not be more than {limit} {unit}")


def too_many(path: str, count: int, limit: int) -> FieldProblem:
    """The list has more than `limit` items."""
    unit = "item" if limit == 1 else "items"
    return FieldProblem("FieldValueTooMany", path, f"Too many: {count}: must have at most {limit} {unit}")


def internal(path: str, detail: str) -> FieldProblem:
    """The value could not be validated."""
    return FieldProblem("InternalError", path, f"Internal error: {detail}")


# --- Status -------------------------------------------------------------------------------------------------------


def _qualified(resource: str, group: str) -> str:
    return f"{resource}.{group}" if group else resource


class APIError(CertplaneError):
    """An error that is sent as a Status. Subclasses fix `code` and `reason`; never raised itself.

    `details` is the Status' details as JSON builtins, `retry_after` the seconds of a Retry-After header, 0 for none.
    """

    code: int = 500
    reason: str = ""

    def __init__(self, message: str, details: dict[str, Any] | None = None, retry_after: int = 0) -> None:
        super().__init__(message)
        self.message = message
        self.details = details
        self.retry_after = retry_after

    def status(self) -> dict[str, object]:
        """The Status object, as JSON builtins, members in wire order."""
        document: dict[str, object] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
        }
        if self.message:
            document["message"] = formatting.shorten(self.message, MAX_MESSAGE_LENGTH)
        if self.reason:
            document["reason"] = self.reason
        if self.details is not None:
            document["details"] = _bounded(self.details)
        document["code"] = self.code
        return document


def _bounded(details: Mapping[str, Any]) -> dict[str, Any]:
    """Details of a Status with bounded causes, the last of which says how many are omitted."""
    bounded = {key: _shortened(value) for key, value in details.items()}
    causes = details.get("causes")
    if causes:
        bounded["causes"] = bounded_causes = []
        remaining = _MAX_CAUSES_LENGTH
        for cause in causes[:MAX_CAUSES]:
            bounded_causes.append({key: _shortened(value) for key, value in cause.items()})
            remaining -= sum(len(value) for value in bounded_causes[-1].values())
            if remaining < 0:
                break
        left_out = len(causes) - len(bounded_causes)
        if left_out:
            bounded_causes.append({"message": f"{left_out} more causes are omitted"})
    return bounded


def _shortened(value: object) -> Any:
    return formatting.shorten(value, MAX_VALUE_LENGTH) if isinstance(value, str) else value


def _object_details(name: str, group: str, kind: str) -> dict[str, object]:
    details: dict[str, object] = {}
    if name:
        details["name"] = name
    if group:
        details["group"] = group
    if kind:
        details["kind"] = kind
    return details


class BadRequest(APIError):
    code, reason = 400, "BadRequest"


class Unauthorized(APIError):
    """The caller could not be authenticated. The reason is in the log, not on the wire."""

    code, reason = 401, "Unauthorized"

    def __init__(self) -> None:
        super().__init__("Unauthorized")


class Forbidden(APIError):
    """The caller is not authorized. `for_object` builds the message for an object; for a path, pass the whole message
    and empty details.
    """

    code, reason = 403, "Forbidden"

    @classmethod
    def for_object(cls, resource: str, group: str, name: str, why: str) -> Forbidden:
        subject = f"{_qualified(resource, group)} {formatting.quote(name)}" if name else _qualified(resource, group)
        message = f"{subject} is forbidden: {why}" if resource else f"forbidden: {why}"
        return cls(message, _object_details(name, group, resource))


class NotFound(APIError):
    """There is no object of that name. `resource` is the plural; a few callers pass another word that Kubernetes
    prints.
    """

    code, reason = 404, "NotFound"

    def __init__(self, resource: str, group: str, name: str) -> None:
        message = f"{_qualified(resource, group)} {formatting.quote(name)} not found"
        super().__init__(message, _object_details(name, group, resource))


class NoSuchPath(APIError):
    """The path names a resource that is not served."""

    code, reason = 404, "NotFound"

    def __init__(self) -> None:
        super().__init__("the server could not find the requested resource", {})


class PageNotFound(APIError):
    """An unknown root path or group: the one error that is sent as plain text."""

    code, reason = 404, "NotFound"

    def __init__(self) -> None:
        super().__init__("404 page not found")


class MethodNotAllowed(APIError):
    code, reason = 405, "MethodNotAllowed"

    def __init__(self) -> None:
        super().__init__("the server does not allow this method on the requested resource", {})


class NotAcceptable(APIError):
    code, reason = 406, "NotAcceptable"

    def __init__(self, message: str, details: dict[str, object] | None = None) -> None:
        super().__init__(message, details)


class AlreadyExists(APIError):
    code, reason = 409, "AlreadyExists"

    def __init__(
        self, resource: str, group: str, name: str, *, deleting: bool = False, generated: bool = False
    ) -> None:
        message = f"{_qualified(resource, group)} {formatting.quote(name)} already exists"
        if deleting:
            message = "object is being deleted: " + message
        details = _object_details(name, group, resource)
        if generated:
            message += ", the server was not able to generate a unique name for the object"
            details["retryAfterSeconds"] = 1
        super().__init__(message, details, 1 if generated else 0)


class Conflict(APIError):
    """The stored object is not the version that the caller meant."""

    code, reason = 409, "Conflict"

    MODIFIED: Final = "the object has been modified; please apply your changes to the latest version and try again"

    @classmethod
    def for_object(cls, resource: str, group: str, name: str, why: str = MODIFIED) -> Conflict:
        """`resource` is the plural, except for delete preconditions, where the real server prints the Kind."""
        message = f"Operation cannot be fulfilled on {_qualified(resource, group)} {formatting.quote(name)}: {why}"
        return cls(message, _object_details(name, group, resource))


class ApplyConflict(Conflict):
    """A server-side apply sets fields that other managers own. `conflicts` are pairs of a manager and its
    field paths.
    """

    def __init__(self, conflicts: Sequence[tuple[str, Sequence[str]]]) -> None:
        count = sum(len(paths) for _, paths in conflicts)
        if count == 1:
            (manager, (path,)) = conflicts[0]
            text = f"1 conflict: conflict with {manager}: {path}"
        else:
            paragraphs = "\n".join(
                f"conflicts with {manager}:\n" + "\n".join(f"- {path}" for path in paths)
                for manager, paths in conflicts
            )
            text = f"{count} conflicts: {paragraphs}"
        causes = [
            {"reason": "FieldManagerConflict", "message": f"conflict with {manager}", "field": path}
            for manager, paths in conflicts
            for path in paths
        ]
        super().__init__(f"Apply failed with {text}", {"causes": causes})


class Expired(APIError):
    """The requested revision has been compacted. `continue_` is a token that continues the list at the newest
    revision.
    """

    code, reason = 410, "Expired"
    continue_ = ""

    @classmethod
    def with_continue(cls, message: str, continue_: str) -> Expired:
        """The error for the next page of a list whose revision has expired."""
        error = cls(message)
        error.continue_ = continue_
        return error

    def status(self) -> dict[str, object]:
        document = super().status()
        if self.continue_:
            document["metadata"] = {"continue": self.continue_}
        return document


class RequestEntityTooLarge(APIError):
    code, reason = 413, "RequestEntityTooLarge"

    def __init__(self, why: str) -> None:
        super().__init__(f"Request entity too large: {why}")


class UnsupportedMediaType(APIError):
    code, reason = 415, "UnsupportedMediaType"


class Invalid(APIError):
    """The object fails validation. One cause per problem; equal problems are merged in the message only."""

    code, reason = 422, "Invalid"

    def __init__(self, kind: str, group: str, name: str, problems: Sequence[FieldProblem]) -> None:
        texts = list(dict.fromkeys(str(problem) for problem in problems[:MAX_CAUSES]))
        if len(problems) > MAX_CAUSES:
            texts.append(f"and {len(problems) - MAX_CAUSES} more")
        aggregate = texts[0] if len(texts) == 1 else "[" + ", ".join(texts) + "]"
        details = _object_details(name, group, kind)
        details["causes"] = [
            {"reason": problem.reason, "message": problem.body, "field": problem.path} for problem in problems
        ]
        super().__init__(f"{_qualified(kind, group)} {formatting.quote(name)} is invalid: {aggregate}", details)
        self.problems = tuple(problems)


class Unprocessable(APIError):
    """A JSON patch that does not apply: 422 with a generic text."""

    code, reason = 422, "Invalid"

    def __init__(self) -> None:
        super().__init__("the server rejected our request due to an error in our request", {})


class TooManyRequests(APIError):
    code, reason = 429, "TooManyRequests"

    def __init__(self, retry_after: int = 1) -> None:
        super().__init__("Too many requests, please try again later.", {"retryAfterSeconds": retry_after}, retry_after)


class InternalError(APIError):
    """A fault of this server. The message must not say what failed; the log does, under the request id."""

    code, reason = 500, "InternalError"

    def __init__(self, why: str) -> None:
        super().__init__(f"Internal error occurred: {why}", {"causes": [{"message": why}]})


class UnknownReasonError(APIError):
    """500 with a message and an empty reason (Kubernetes' StatusReasonUnknown), as for a resourceVersion in a body that
    cannot be parsed.
    """

    code, reason = 500, ""


class ServiceUnavailable(APIError):
    code, reason = 503, "ServiceUnavailable"


class Timeout(APIError):
    code, reason = 504, "Timeout"

    @classmethod
    def too_large_revision(cls, requested: int, current: int) -> Timeout:
        message = f"Too large resource version: {requested}, current: {current}"
        details = {
            "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
            "retryAfterSeconds": 1,
        }
        return cls(f"Timeout: {message}", details, 1)


_BY_REASON: Final[dict[str, type[APIError]]] = {
    error.reason: error
    for error in (
        BadRequest, Unauthorized, Forbidden, NotFound, MethodNotAllowed, NotAcceptable, AlreadyExists, Conflict,
        Expired, RequestEntityTooLarge, UnsupportedMediaType, Invalid, TooManyRequests, InternalError,
        ServiceUnavailable, Timeout,
    )
}  # fmt: skip


#: Seconds. A longer time is no advice, but an outage.
_MAX_RETRY_AFTER: Final = 24 * 3600

#: What an HTTP code without a reason means to client-go.
_BY_CODE: Final[dict[int, type[APIError]]] = {
    error.code: error
    for error in (BadRequest, Unauthorized, Forbidden, NotFound, MethodNotAllowed, TooManyRequests, Expired)
}


def from_status(document: Mapping[str, object], code: int) -> APIError:
    """The error that a Status of some API server describes: an instance of the class for its reason, if there
    is one. Members of other types than a Status has are left out: something in between may have sent them.
    """
    reason, message, details = document.get("reason"), document.get("message"), document.get("details")
    # An answer without a reason may be no Status at all, such as the page of a proxy: only its code counts.
    known = _BY_REASON.get(reason) if isinstance(reason, str) and reason else _BY_CODE.get(code)
    class_ = known or UnknownReasonError
    error = class_.__new__(class_)
    details = details if isinstance(details, dict) else None
    retry_after = (details or {}).get("retryAfterSeconds", 0)
    APIError.__init__(
        error,
        formatting.shorten(message, MAX_MESSAGE_LENGTH) if isinstance(message, str) else "",
        details,
        retry_after if type(retry_after) is int and 0 < retry_after <= _MAX_RETRY_AFTER else 0,
    )
    own_code = document.get("code")
    error.code = own_code if type(own_code) is int and 400 <= own_code <= 599 else code
    return error
