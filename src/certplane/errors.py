"""The failures a client can see; the only place where an HTTP code or a Status reason is chosen.

    CertplaneError                 anything this program raises on purpose
    ├── SetupError                 a person must mend a setting or a file: `error:`, `hint:`, exit code 2
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
        ├── Expired                410 Expired
        ├── RequestEntityTooLarge  413 RequestEntityTooLarge
        ├── UnsupportedMediaType   415 UnsupportedMediaType
        ├── Invalid                422 Invalid             carries field problems
        ├── TooManyRequests        429 TooManyRequests
        ├── InternalError          500 InternalError
        ├── UnreasonedError        500, message only       as the real server answers a few malformed values
        ├── ServiceUnavailable     503 ServiceUnavailable
        └── Timeout                504 Timeout

Whatever is not in this tree becomes an opaque 500 with a request id; its traceback goes to the log, once.
Source of codes, reasons and texts: `k8s.io/apimachinery/pkg/api/errors`, `.../util/validation/field`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from certplane import gotext


class CertplaneError(Exception):
    """Anything this program raises on purpose."""


class SetupError(CertplaneError):
    """A setting or a file that a person must mend. `hints` name the next thing to do, one sentence each."""

    def __init__(self, message: str, hints: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.hints = tuple(hints)


# --- field problems -----------------------------------------------------------------------------------------------

#: What a refusal tells at the most, though what is refused may have three megabytes, and each of its hundred thousand
#: members may be wrong: the values that it quotes, its message, and its causes, in characters and in number. The
#: longest message of a real server that was recorded has 1,300 characters, and six causes.
LONGEST_VALUE: Final = 4096
LONGEST_MESSAGE: Final = 8 * 1024
MOST_CAUSES: Final = 100
_LONGEST_CAUSES: Final = 16 * 1024


@dataclasses.dataclass(frozen=True, slots=True)
class FieldProblem:
    """One thing that is wrong with one field: a cause in the Status of a 422.

    `reason` is the machine-readable cause, `path` the field as Kubernetes prints it (`spec.usages[0]`), `body` the
    text after the path. Build one with the functions below.
    """

    reason: str
    path: str
    body: str

    def __str__(self) -> str:
        return f"{self.path}: {self.body}"


def _value_text(value: Any, as_json: bool) -> str:
    if isinstance(value, str) and not as_json:
        return gotext.quote(gotext.shortened(value, LONGEST_VALUE))
    return gotext.shortened(gotext.json_text(value), LONGEST_VALUE)


def required(path: str, detail: str = "") -> FieldProblem:
    """The field must be set."""
    return FieldProblem("FieldValueRequired", path, "Required value" + (f": {detail}" if detail else ""))


def invalid(path: str, value: Any, detail: str, *, as_json: bool = False) -> FieldProblem:
    """The value breaks a rule. Plain strings print in Go's `%q`; with `as_json` (Go's named string types) as JSON."""
    return FieldProblem("FieldValueInvalid", path, f"Invalid value: {_value_text(value, as_json)}: {detail}")


def invalid_without_value(path: str, detail: str) -> FieldProblem:
    """The value breaks a rule, and is not repeated."""
    return FieldProblem("FieldValueInvalid", path, f"Invalid value: {detail}")


def not_supported(path: str, value: Any, supported: Iterable[str], *, as_json: bool = False) -> FieldProblem:
    """The value is not one of a fixed set; `supported` is printed in the order given."""
    listed = ", ".join(gotext.quote(each) for each in supported)
    body = f"Unsupported value: {_value_text(value, as_json)}"
    return FieldProblem("FieldValueNotSupported", path, body + (f": supported values: {listed}" if listed else ""))


def duplicate(path: str, value: Any, *, as_json: bool = False) -> FieldProblem:
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
    """The value could not be judged."""
    return FieldProblem("InternalError", path, f"Internal error: {detail}")


# --- Status -------------------------------------------------------------------------------------------------------


def _qualified(resource: str, group: str) -> str:
    return f"{resource}.{group}" if group else resource


class APIError(CertplaneError):
    """A failure with a place on the wire. Subclasses fix `code` and `reason`; never raised itself."""

    code: int = 500
    reason: str = ""

    def __init__(self, message: str, details: dict[str, Any] | None = None, retry_after: int = 0) -> None:
        super().__init__(message)
        self.message = message
        self.details = details
        self.retry_after = retry_after

    def status(self) -> dict[str, Any]:
        """The Status object, as builtins, members in the order of the wire."""
        document: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
        }
        if self.message:
            document["message"] = gotext.shortened(self.message, LONGEST_MESSAGE)
        if self.reason:
            document["reason"] = self.reason
        if self.details is not None:
            document["details"] = _bounded(self.details)
        document["code"] = self.code
        return document


def _bounded(details: Mapping[str, Any]) -> dict[str, Any]:
    """Details of a Status, with the causes that there is room for, and how many are left out."""
    bounded = {key: _shortened(value) for key, value in details.items()}
    causes = details.get("causes")
    if causes:
        bounded["causes"] = kept = []
        room = _LONGEST_CAUSES
        for cause in causes[:MOST_CAUSES]:
            kept.append({key: _shortened(value) for key, value in cause.items()})
            room -= sum(len(value) for value in kept[-1].values())
            if room < 0:
                break
        left_out = len(causes) - len(kept)
        if left_out:
            kept.append({"message": f"{left_out} more causes are left out"})
    return bounded


def _shortened(value: Any) -> Any:
    return gotext.shortened(value, LONGEST_VALUE) if isinstance(value, str) else value


def _object_details(name: str, group: str, kind: str) -> dict[str, Any]:
    details: dict[str, Any] = {}
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
    """Nobody vouches for the caller. Says no more on the wire; the log has the reason."""

    code, reason = 401, "Unauthorized"

    def __init__(self) -> None:
        super().__init__("Unauthorized")


class Forbidden(APIError):
    """The caller may not. For objects use `Forbidden.of`; for paths pass the whole message and empty details."""

    code, reason = 403, "Forbidden"

    @classmethod
    def of(cls, resource: str, group: str, name: str, why: str) -> Forbidden:
        subject = f"{_qualified(resource, group)} {gotext.quote(name)}" if name else _qualified(resource, group)
        said = f"{subject} is forbidden: {why}" if resource else f"forbidden: {why}"
        return cls(said, _object_details(name, group, resource))


class NotFound(APIError):
    """No object of that name. `kind` defaults to the resource; a few callers print another word for it."""

    code, reason = 404, "NotFound"

    def __init__(self, resource: str, group: str, name: str) -> None:
        message = f"{_qualified(resource, group)} {gotext.quote(name)} not found"
        super().__init__(message, _object_details(name, group, resource))


class NoSuchPath(APIError):
    code, reason = 404, "NotFound"

    def __init__(self) -> None:
        super().__init__("the server could not find the requested resource", {})


class PageNotFound(APIError):
    """An unknown root path or group: the one answer that is plain text."""

    code, reason = 404, "NotFound"

    def __init__(self) -> None:
        super().__init__("404 page not found")


class MethodNotAllowed(APIError):
    code, reason = 405, "MethodNotAllowed"

    def __init__(self) -> None:
        super().__init__("the server does not allow this method on the requested resource", {})


class NotAcceptable(APIError):
    code, reason = 406, "NotAcceptable"

    def __init__(self, message: str, details: dict[str, Any] | None = None) -> None:
        super().__init__(message, details)


class AlreadyExists(APIError):
    code, reason = 409, "AlreadyExists"

    def __init__(
        self, resource: str, group: str, name: str, *, deleting: bool = False, generated: bool = False
    ) -> None:
        message = f"{_qualified(resource, group)} {gotext.quote(name)} already exists"
        if deleting:
            message = "object is being deleted: " + message
        details = _object_details(name, group, resource)
        if generated:
            message += ", the server was not able to generate a unique name for the object"
            details["retryAfterSeconds"] = 1
        super().__init__(message, details, 1 if generated else 0)


class Conflict(APIError):
    """The stored object is not the one the caller meant."""

    code, reason = 409, "Conflict"

    MODIFIED: Final = "the object has been modified; please apply your changes to the latest version and try again"

    @classmethod
    def of(cls, resource: str, group: str, name: str, why: str = MODIFIED) -> Conflict:
        """`resource` is the plural, except for delete preconditions, where the real server prints the Kind."""
        message = f"Operation cannot be fulfilled on {_qualified(resource, group)} {gotext.quote(name)}: {why}"
        return cls(message, _object_details(name, group, resource))


class ApplyConflict(Conflict):
    """Server-side apply wants fields that other managers own. `conflicts` are pairs of a manager and its field
    paths.
    """

    def __init__(self, conflicts: Sequence[tuple[str, Sequence[str]]]) -> None:
        count = sum(len(paths) for _, paths in conflicts)
        if count == 1:
            (manager, (path,)) = conflicts[0]
            text = f"1 conflict: conflict with {manager}: {path}"
        else:
            parts = "\n".join(
                f"conflicts with {name}:\n" + "\n".join(f"- {path}" for path in paths) for name, paths in conflicts
            )
            text = f"{count} conflicts: {parts}"
        causes = [
            {"reason": "FieldManagerConflict", "message": f"conflict with {manager}", "field": path}
            for manager, paths in conflicts
            for path in paths
        ]
        super().__init__(f"Apply failed with {text}", {"causes": causes})


class Expired(APIError):
    """Too old to be known. `continue_` is a token with which a list can go on nevertheless, at the newest revision."""

    code, reason = 410, "Expired"
    continue_ = ""

    @classmethod
    def of_page(cls, message: str, continue_: str) -> Expired:
        """The next page of a list that began too long ago."""
        made = cls(message)
        made.continue_ = continue_
        return made

    def status(self) -> dict[str, Any]:
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
    """The object breaks rules. One cause per problem; equal problems are merged in the message only."""

    code, reason = 422, "Invalid"

    def __init__(self, kind: str, group: str, name: str, problems: Sequence[FieldProblem]) -> None:
        texts = list(dict.fromkeys(str(problem) for problem in problems[:MOST_CAUSES]))
        if len(problems) > MOST_CAUSES:
            texts.append(f"and {len(problems) - MOST_CAUSES} more")
        aggregate = texts[0] if len(texts) == 1 else "[" + ", ".join(texts) + "]"
        details = _object_details(name, group, kind)
        details["causes"] = [{"reason": each.reason, "message": each.body, "field": each.path} for each in problems]
        super().__init__(f"{_qualified(kind, group)} {gotext.quote(name)} is invalid: {aggregate}", details)
        self.problems = tuple(problems)


class Unprocessable(APIError):
    """A JSON patch that does not apply: 422 with the generic text."""

    code, reason = 422, "Invalid"

    def __init__(self) -> None:
        super().__init__("the server rejected our request due to an error in our request", {})


class TooManyRequests(APIError):
    code, reason = 429, "TooManyRequests"

    def __init__(self, retry_after: int = 1) -> None:
        super().__init__("Too many requests, please try again later.", {"retryAfterSeconds": retry_after}, retry_after)


class InternalError(APIError):
    """A fault of ours. The message must not tell what it was; the log does, under the request id."""

    code, reason = 500, "InternalError"

    def __init__(self, why: str) -> None:
        super().__init__(f"Internal error occurred: {why}", {"causes": [{"message": why}]})


class UnreasonedError(APIError):
    """500 with a message only, as the real server answers an unparsable resourceVersion in a body."""

    code, reason = 500, ""


class ServiceUnavailable(APIError):
    code, reason = 503, "ServiceUnavailable"


class Timeout(APIError):
    code, reason = 504, "Timeout"

    @classmethod
    def too_large_revision(cls, wanted: int, current: int) -> Timeout:
        message = f"Too large resource version: {wanted}, current: {current}"
        details = {
            "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
            "retryAfterSeconds": 1,
        }
        return cls(f"Timeout: {message}", details, 1)


_BY_REASON: Final[dict[str, type[APIError]]] = {
    each.reason: each
    for each in (
        BadRequest, Unauthorized, Forbidden, NotFound, MethodNotAllowed, NotAcceptable, AlreadyExists, Conflict,
        Expired, RequestEntityTooLarge, UnsupportedMediaType, Invalid, TooManyRequests, InternalError,
        ServiceUnavailable, Timeout,
    )
}  # fmt: skip


#: What a bare code means to client-go.
_BY_CODE: Final[dict[int, type[APIError]]] = {
    each.code: each
    for each in (BadRequest, Unauthorized, Forbidden, NotFound, MethodNotAllowed, TooManyRequests, Expired)
}


def from_status(document: dict[str, Any], code: int) -> APIError:
    """The error that a Status from some API server describes; of the class that its reason names, if we know it."""
    reason = document.get("reason") or ""
    # What is no Status at all, such as the page of a proxy, is known by its code alone.
    kind = _BY_REASON.get(reason, UnreasonedError) if reason else _BY_CODE.get(code, UnreasonedError)
    error = kind.__new__(kind)
    details = document.get("details")
    retry_after = (details or {}).get("retryAfterSeconds", 0)
    APIError.__init__(error, document.get("message", ""), details, retry_after)
    error.code = int(document.get("code") or code)
    return error
