"""What happens to every request, in the order in which it happens. Start reading here.

`STAGES` is a tuple in reading order. Each stage gets the request and a handler for the remaining stages. It may respond
itself, inspect the response, or refuse by raising an `errors.APIError`. The outermost stage turns an APIError into a
Status response, and any other exception into an opaque 500 whose traceback is logged once, with the request's id.

docs/life-of-a-request.md describes the same stages; a test compares the two.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import logging
import re
import urllib.parse
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, Protocol

from certplane import errors, loglimit, offload, telemetry
from certplane.clock import Clock
from certplane.golang import formatting
from certplane.meta import context, objects, options
from certplane.server import audit, exchange, inflight, negotiation, rendering, requestinfo
from certplane.server.exchange import ClientGone, Handler, Request, Response
from certplane.x509 import privatekeys

_log = logging.getLogger("certplane.server")

_PLAIN: Final = "text/plain; charset=utf-8"
_NOSNIFF: Final = (b"x-content-type-options", b"nosniff")
_CACHE_CONTROL: Final = (b"cache-control", b"no-cache, private")
_REQUEST_ID: Final = re.compile(r"[\x21-\x7e]{1,64}\Z")


@dataclasses.dataclass(slots=True)
class Dependencies:
    """The dependencies of the stages. The composition root fills it in.

    `authenticate` raises Unauthorized, `impersonate` Forbidden. `impersonate` returns the effective user and the
    constraint under which impersonation was allowed; `authorize` returns the reason, and the error if access is denied.
    `route` handles requests that have passed all stages. `audit` is None if auditing is disabled.
    """

    clock: Clock
    telemetry: telemetry.Telemetry
    authenticate: Callable[[Request], context.User]
    impersonate: Callable[[Request, Callable[[], context.Attributes]], tuple[context.User, str]]
    authorize: Callable[[context.Attributes], tuple[str, errors.Forbidden | None]]
    in_flight: inflight.InFlightLimiter
    route: Handler
    audit: audit.Auditor | None = None
    #: Limits what unauthenticated clients can write to the log.
    log_limit: loglimit.LogLimit = dataclasses.field(default_factory=loglimit.LogLimit)


class StageFunction(Protocol):
    """The work of one stage. `proceed` runs the remaining stages."""

    def __call__(
        self, dependencies: Dependencies, request: Request, proceed: Handler
    ) -> Coroutine[Any, Any, Response]: ...


@dataclasses.dataclass(frozen=True, slots=True)
class Stage:
    """One stage. `name` is its name in the documentation."""

    name: str
    run: StageFunction


async def _assign_request_id(dependencies: Dependencies, request: Request, proceed: Handler) -> Response:
    """Assign the request's id and time; turn errors of the later stages into responses."""
    audit_id = request.headers.get(b"audit-id")
    request.request_id = audit_id if audit_id and _REQUEST_ID.match(audit_id) else objects.new_uid()
    request.received = dependencies.clock.now()
    try:
        response = await proceed(request)
    except errors.APIError as error:
        response = refusal(error, request)
    except ClientGone:
        raise
    except Exception:
        # Everything that is not an APIError is a bug: the client gets no detail, the log gets the traceback.
        _log.exception("request failed", extra={"request_id": request.request_id, "path": request.path})
        response = refusal(errors.InternalError(f"see the server's log for request {request.request_id}"), request)
    response.headers.append((b"audit-id", request.request_id.encode("ascii")))
    if b"cache-control" not in [name for name, _ in response.headers]:
        response.headers.append(_CACHE_CONTROL)
    if request.classified:
        response.headers.extend(_FLOW_HEADERS)
    for warning in _truncate_warnings(request.warnings):
        response.headers.append((b"warning", f"299 - {_quote_warning(warning)}".encode()))
    return response


#: Maximum characters of all warnings of a response; above it, each warning is truncated.
_MAX_WARNINGS_LENGTH: Final = 4096
_TRUNCATED_WARNING_LENGTH: Final = 256


def _truncate_warnings(warnings: Sequence[str]) -> list[str]:
    """The distinct warnings; if they exceed the limit together, as many of them, truncated, as fit.

    Source: `k8s.io/apiserver/pkg/endpoints/filters/warning.go`.
    """
    distinct = list(dict.fromkeys(warnings))
    if sum(map(len, distinct)) <= _MAX_WARNINGS_LENGTH:
        return distinct
    truncated = []
    remaining = _MAX_WARNINGS_LENGTH
    for warning in distinct:
        if remaining <= 0:
            break
        truncated.append(warning[:_TRUNCATED_WARNING_LENGTH])
        remaining -= len(truncated[-1])
    return truncated


#: The flow schema and priority level that classified a request. There is one of each; clients only check that the
#: headers are present.
_FLOW_HEADERS: Final = (
    (b"x-kubernetes-pf-flowschema-uid", objects.new_uid().encode("ascii")),
    (b"x-kubernetes-pf-prioritylevel-uid", objects.new_uid().encode("ascii")),
)


def _quote_warning(warning: str) -> str:
    return (
        formatting.quote(warning)
        if not warning.isprintable()
        else '"{}"'.format(warning.replace("\\", "\\\\").replace('"', '\\"'))
    )


async def _classify(dependencies: Dependencies, request: Request, proceed: Handler) -> Response:
    """Derive the verb, resource and name from method and path."""
    _refuse_private_keys(dependencies, request)
    request.query = exchange.parse_query(request.raw_query)
    request.info = requestinfo.parse(request.method, request.path, request.query)
    if request.info.verb != "watch":
        options.timeout(request.query)
    return await proceed(request)


#: Characters of a header field's name that are logged: a name may be as long as the whole head.
_MAX_LOGGED_FIELD_NAME: Final = 64


def _refuse_private_keys(dependencies: Dependencies, request: Request) -> None:
    """Refuse a private key in the URL or the headers, which logs, audit records and error messages would repeat."""
    shortest = privatekeys.MIN_LENGTH
    suspects = [field for field in request.headers if len(field[1]) >= shortest]
    if len(request.path) >= shortest:
        suspects.append((b"path", request.path.encode("utf-8", "replace")))
    if len(request.raw_path) >= shortest:
        # Check each segment by itself, too: the slash before it could be a base64 character.
        segments = [segment for segment in request.raw_path.split("/") if len(segment) >= shortest]
        suspects += [(b"path", urllib.parse.unquote_to_bytes(segment)) for segment in segments]
    if len(request.raw_query) >= shortest:
        suspects.append((b"query", urllib.parse.unquote_to_bytes(request.raw_query)))
    if not privatekeys.may_contain_key([text for _, text in suspects]):
        return
    for location, text in suspects:
        if privatekeys.contains_key(text):
            field = location[:_MAX_LOGGED_FIELD_NAME].decode("latin-1")
            suppressed = dependencies.log_limit.admit((request.source, field), request.received)
            if suppressed is not None:
                fields = {"request_id": request.request_id, "location": field, **suppressed}
                _log.warning("request refused: it contains a private key", extra=fields)
            raise errors.BadRequest(privatekeys.EXPOSED_MESSAGE)


async def _authenticate(dependencies: Dependencies, request: Request, proceed: Handler) -> Response:
    """Authenticate the client. In-process calls carry their identity."""
    try:
        request.user = request.identity if request.identity is not None else dependencies.authenticate(request)
    except errors.Unauthorized as error:
        if dependencies.audit is not None:
            dependencies.audit.authentication_failed(request, _attributes(request), error.status())
        raise
    offload.current_user.set(request.user.name)
    return await proceed(request)


async def _audit(dependencies: Dependencies, request: Request, proceed: Handler) -> Response:
    """Record the request and its outcome, as the audit policy demands."""
    record = dependencies.audit.begin(request, _attributes(request)) if dependencies.audit is not None else None
    if dependencies.audit is None or record is None:
        return await proceed(request)
    request.note_request, request.note_response = record.note_request, record.note_response
    try:
        response = await proceed(request)
    except errors.APIError as error:
        response = refusal(error, request)
    except ClientGone:
        dependencies.audit.finish(request, record, Response(_CLIENT_GONE, "", status_object=_CLIENT_GONE_STATUS))
        raise
    except asyncio.CancelledError:
        # The process is shutting down: no response is sent, but the change may have been made.
        dependencies.audit.finish(request, record, refusal(errors.Timeout(_SHUT_DOWN), request))
        raise
    except Exception:
        # Any bug: the record must be finished before `_assign_request_id` answers with an InternalError.
        dependencies.audit.panicked(request, record, {"metadata": {}, "status": "Failure", "code": 500})
        raise
    record.constraint = request.constraint
    dependencies.audit.finish(request, record, response)
    return response


_CLIENT_GONE_STATUS: Final = {
    "status": "Failure", "message": "the client disconnected before it had sent the whole request",
}  # fmt: skip
_SHUT_DOWN: Final = "the server shut down before the request completed; the change may have been made"


async def _impersonate(dependencies: Dependencies, request: Request, proceed: Handler) -> Response:
    """Replace the user by the impersonated one, if impersonation is requested and allowed."""
    try:
        request.user, request.constraint = dependencies.impersonate(request, functools.partial(_attributes, request))
    except (errors.Forbidden, errors.BadRequest) as error:
        return _with_nosniff(refusal(error, request))
    request.classified = True
    return await proceed(request)


async def _limit(dependencies: Dependencies, request: Request, proceed: Handler) -> Response:
    """Count and time the request; refuse it if too many are in flight, cancel it at its deadline."""
    start = dependencies.clock.monotonic()
    in_flight = None
    code = 500
    try:
        if request.info.verb != "watch":
            in_flight = dependencies.in_flight.admit(request)
            if in_flight is None:
                code = 429
                return _too_many_requests()
        response = await proceed(request)
        code = response.status
        return response
    except errors.APIError as error:
        code = error.code
        raise
    except ClientGone:
        code = _CLIENT_GONE
        raise
    except asyncio.CancelledError:
        if in_flight is None or not in_flight.timed_out or in_flight.task is None:
            raise
        in_flight.task.uncancel()
        code = errors.Timeout.code
        detail = "request did not complete within requested timeout - context deadline exceeded"
        raise errors.Timeout(f"Timeout: {detail}") from None
    finally:
        if in_flight is not None:
            dependencies.in_flight.release(in_flight)
        dependencies.telemetry.count_request(_labels(request), code, dependencies.clock.monotonic() - start)


#: The code in metrics and audit records of a request that was never received completely; it is never sent.
_CLIENT_GONE: Final = 499


def _too_many_requests() -> Response:
    response = plain(429, "Too many requests, please try again later.\n")
    response.headers.append((b"retry-after", b"1"))
    return response


def _labels(request: Request) -> telemetry.RequestLabels:
    """The metric labels of a request. Their cardinality is bounded, whatever clients send."""
    info = request.info
    verb = _METHODS.get(info.verb, "other")
    if not info.is_resource:
        return verb, "", "", "", "", "", "", ""
    if verb == "PATCH" and request.headers.get(b"content-type").startswith(_APPLY):
        verb = "APPLY"
    dry_run = "All" if request.query and "All" in request.query.get("dryRun", ()) else ""
    scope = requestinfo.scope(info)
    return verb, dry_run, info.group, info.version, info.resource, info.subresource, scope, telemetry.COMPONENT


_APPLY: Final = "application/apply-patch+"
#: The values of the `verb` label in kube-apiserver's metrics.
_METHODS: Final = {
    "create": "POST", "update": "PUT", "get": "GET", "post": "POST", "put": "PUT", "head": "HEAD", "options": "OPTIONS",
    "patch": "PATCH", "delete": "DELETE", "list": "LIST", "watch": "WATCH", "deletecollection": "DELETE",
}  # fmt: skip


async def _authorize(dependencies: Dependencies, request: Request, proceed: Handler) -> Response:
    """Authorize the user for the request."""
    reason, denial = dependencies.authorize(_attributes(request))
    request.annotations |= {_DECISION: "forbid" if denial is not None else "allow", _REASON: reason}
    return await proceed(request) if denial is None else _with_nosniff(refusal(denial, request))


_DECISION: Final = "authorization.k8s.io/decision"
_REASON: Final = "authorization.k8s.io/reason"


def _attributes(request: Request) -> context.Attributes:
    """The authorizer attributes of the request, cached until the effective user changes."""
    if request.attributes is None or request.attributes.user is not request.user:
        request.attributes = _make_attributes(request)
    return request.attributes


def _make_attributes(request: Request) -> context.Attributes:
    info = request.info
    return context.Attributes(
        user=request.user,
        verb=info.verb,
        group=info.group,
        version=info.version,
        resource=info.resource,
        subresource=info.subresource,
        name=info.name,
        namespace=info.namespace,
        path=request.path,
        field_selector=info.field_selector,
        is_resource=info.is_resource,
    )


def _with_nosniff(response: Response) -> Response:
    response.headers.append(_NOSNIFF)
    return response


STAGES: Final = (
    Stage("request-id", _assign_request_id),
    Stage("classify", _classify),
    Stage("authenticate", _authenticate),
    Stage("audit", _audit),
    Stage("impersonate", _impersonate),
    Stage("limit", _limit),
    Stage("authorize", _authorize),
)


def assemble(dependencies: Dependencies) -> Handler:
    """All stages as one handler: the stages in order, then `dependencies.route`."""
    handler = dependencies.route
    for stage in reversed(STAGES):
        handler = functools.partial(stage.run, dependencies, proceed=handler)
    return handler


def refusal(error: errors.APIError, request: Request) -> Response:
    """The response for an error: a Status, or plain text for an unknown path."""
    if isinstance(error, errors.PageNotFound):
        return plain(error.code, error.message + "\n")
    form = negotiation.negotiate_status(request.headers.get(b"accept"), pretty=request.wants_pretty)
    status = error.status()
    # As in kube-apiserver, the audit record of a failed negotiation has the code only.
    status_object = None if isinstance(error, errors.NotAcceptable) else status
    response = Response(error.code, form.media_type, rendering.render_status(status, form), status_object=status_object)
    if error.retry_after:
        response.headers.append((b"retry-after", str(error.retry_after).encode("ascii")))
    return response


def plain(status: int, text: str) -> Response:
    """A response in plain text, with the header that stops browsers from guessing another type."""
    return Response(status, _PLAIN, text.encode("utf-8"), headers=[_NOSNIFF])
