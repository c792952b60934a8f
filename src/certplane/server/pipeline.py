"""What happens to every request, in the order in which it happens. Start reading here.

`STAGES` is a tuple in reading order; each stage gets the exchange and the rest of the way, and may answer itself, look
at what comes back, or refuse by raising an `errors.APIError`. The outermost stage turns refusals into Statuses and
whatever else is raised into an opaque 500 whose traceback goes to the log, once, under the request's id.

docs/life-of-a-request.md tells the same story; a test compares the two.
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

from certplane import clock as clocks
from certplane import errors, gotext, loglimit, offload, telemetry
from certplane.meta import context, objects, options
from certplane.server import audit, exchange, manners, negotiation, rendering, requestinfo
from certplane.x509 import privatekeys

_log = logging.getLogger("certplane.server")

_PLAIN: Final = "text/plain; charset=utf-8"
_NOSNIFF: Final = (b"x-content-type-options", b"nosniff")
_CACHE_CONTROL: Final = (b"cache-control", b"no-cache, private")
_REQUEST_ID: Final = re.compile(r"[\x21-\x7e]{1,64}\Z")


@dataclasses.dataclass(slots=True)
class Services:
    """What the stages need of the rest of the house. The composition root fills it in.

    `authenticate` and `impersonate` raise Unauthorized and Forbidden; `impersonate` gives the user to go on as, and by
    which right; `authorize` the reason, and the refusal if there is one. `route` answers what has passed all stages.
    `audit` is None where nothing is recorded.
    """

    clock: clocks.Clock
    telemetry: telemetry.Telemetry
    authenticate: Callable[[exchange.Exchange], context.User]
    impersonate: Callable[[exchange.Exchange, Callable[[], context.Attributes]], tuple[context.User, str]]
    authorize: Callable[[context.Attributes], tuple[str, errors.Forbidden | None]]
    in_flight: manners.InFlight
    route: exchange.Handler
    audit: audit.Audit | None = None
    #: What strangers make us log has a bound.
    log_limit: loglimit.LogLimit = dataclasses.field(default_factory=loglimit.LogLimit)


class StageFunction(Protocol):
    """Does its part, and has the rest done by `proceed`."""

    def __call__(
        self, services: Services, of: exchange.Exchange, proceed: exchange.Handler
    ) -> Coroutine[Any, Any, exchange.Reply]: ...


@dataclasses.dataclass(frozen=True, slots=True)
class Stage:
    """One step. `name` is what the documentation calls it."""

    name: str
    run: StageFunction


async def _identify(services: Services, of: exchange.Exchange, proceed: exchange.Handler) -> exchange.Reply:
    """Give the request its id and its time; turn whatever goes wrong behind here into an answer."""
    sent = of.headers.get(b"audit-id")
    of.request_id = sent if sent and _REQUEST_ID.match(sent) else objects.new_uid()
    of.received = services.clock.now()
    try:
        reply = await proceed(of)
    except errors.APIError as error:
        reply = refusal(error, of)
    except exchange.ClientGone:
        raise
    except Exception:
        _log.exception("request failed", extra={"request_id": of.request_id, "path": of.path})
        reply = refusal(errors.InternalError(f"the server's log has the reason under request {of.request_id}"), of)
    reply.headers.append((b"audit-id", of.request_id.encode("ascii")))
    if b"cache-control" not in [name for name, _ in reply.headers]:
        reply.headers.append(_CACHE_CONTROL)
    if of.classified:
        reply.headers.extend(_FLOW)
    for warning in _bounded(of.warnings):
        reply.headers.append((b"warning", f"299 - {_quoted(warning)}".encode()))
    return reply


#: Characters of all warnings of an answer together, and of each if they are more.
_LONGEST_WARNINGS: Final = 4096
_LONGEST_WARNING: Final = 256


def _bounded(warnings: Sequence[str]) -> list[str]:
    """Each warning once; if they are too long together, the beginnings of as many as there is room for. Source:
    `k8s.io/apiserver/pkg/endpoints/filters/warning.go`.
    """
    different = list(dict.fromkeys(warnings))
    if sum(map(len, different)) <= _LONGEST_WARNINGS:
        return different
    begun = []
    room = _LONGEST_WARNINGS
    for warning in different:
        if room <= 0:
            break
        begun.append(warning[:_LONGEST_WARNING])
        room -= len(begun[-1])
    return begun


#: Which flow schema and priority level judged a request. There is one of each; clients only look whether they are
#: there.
_FLOW: Final = (
    (b"x-kubernetes-pf-flowschema-uid", objects.new_uid().encode("ascii")),
    (b"x-kubernetes-pf-prioritylevel-uid", objects.new_uid().encode("ascii")),
)


def _quoted(warning: str) -> str:
    return (
        gotext.quote(warning)
        if not warning.isprintable()
        else '"{}"'.format(warning.replace("\\", "\\\\").replace('"', '\\"'))
    )


async def _classify(services: Services, of: exchange.Exchange, proceed: exchange.Handler) -> exchange.Reply:
    """Read from method and path what the request is about."""
    _refuse_private_keys(services, of)
    of.query = exchange.parse_query(of.raw_query)
    of.info = requestinfo.parse(of.method, of.path, of.query)
    if of.info.verb != "watch":
        options.timeout(of.query)
    return await proceed(of)


#: Of the name of a header field, which may be as long as a head.
_LONGEST_FIELD: Final = 64


def _refuse_private_keys(services: Services, of: exchange.Exchange) -> None:
    """Refuse a private key in what would be recorded of a request, or quoted: its address and its headers."""
    shortest = privatekeys.SHORTEST
    suspects = [field for field in of.headers if len(field[1]) >= shortest]
    if len(of.path) >= shortest:
        suspects.append((b"path", of.path.encode("utf-8", "replace")))
    if len(of.raw_path) >= shortest:
        # Each part by itself as well: the slash before it could be one of base64.
        parts = [part for part in of.raw_path.split("/") if len(part) >= shortest]
        suspects += [(b"path", urllib.parse.unquote_to_bytes(part)) for part in parts]
    if len(of.raw_query) >= shortest:
        suspects.append((b"query", urllib.parse.unquote_to_bytes(of.raw_query)))
    if not privatekeys.may_be_in([text for _, text in suspects]):
        return
    for where, text in suspects:
        if privatekeys.is_in(text):
            field = where[:_LONGEST_FIELD].decode("latin-1")
            left_out = services.log_limit.admit((of.source, field), of.received)
            if left_out is not None:
                told = {"request_id": of.request_id, "where": field, **left_out}
                _log.warning("a private key was sent where none belongs", extra=told)
            raise errors.BadRequest(privatekeys.FOUND)


async def _authenticate(services: Services, of: exchange.Exchange, proceed: exchange.Handler) -> exchange.Reply:
    """Find out who asks. Calls from inside the process bring their identity along."""
    try:
        of.user = of.identity if of.identity is not None else services.authenticate(of)
    except errors.Unauthorized as error:
        if services.audit is not None:
            services.audit.refused(of, _attributes(of), error.status())
        raise
    offload.asker.set(of.user.name)
    return await proceed(of)


async def _audit(services: Services, of: exchange.Exchange, proceed: exchange.Handler) -> exchange.Reply:
    """Record what is asked, and how it ends, as the policy says."""
    record = services.audit.begin(of, _attributes(of)) if services.audit is not None else None
    if services.audit is None or record is None:
        return await proceed(of)
    of.note_request, of.note_response = record.note_request, record.note_response
    try:
        reply = await proceed(of)
    except errors.APIError as error:
        reply = refusal(error, of)
    except exchange.ClientGone:
        services.audit.finish(of, record, exchange.Reply(_GONE, "", outcome=_UNSENT))
        raise
    except asyncio.CancelledError:
        # The process ends: nobody gets an answer, but what was asked for may be done.
        services.audit.finish(of, record, refusal(errors.Timeout(_UNFINISHED), of))
        raise
    except Exception:
        services.audit.panicked(of, record, {"metadata": {}, "status": "Failure", "code": 500})
        raise
    record.constraint = of.constraint
    services.audit.finish(of, record, reply)
    return reply


_UNSENT: Final = {"status": "Failure", "message": "the client went away before it had sent all of its request"}
_UNFINISHED: Final = "the server ended before the request did: what was asked for may be done"


async def _impersonate(services: Services, of: exchange.Exchange, proceed: exchange.Handler) -> exchange.Reply:
    """Go on as somebody else, for those who ask for it and may."""
    try:
        of.user, of.constraint = services.impersonate(of, functools.partial(_attributes, of))
    except (errors.Forbidden, errors.BadRequest) as error:
        return _unsniffed(refusal(error, of))
    of.classified = True
    return await proceed(of)


async def _account(services: Services, of: exchange.Exchange, proceed: exchange.Handler) -> exchange.Reply:
    """Count the request and its time; refuse it if too many are under way, end it if it takes too long."""
    begun = services.clock.monotonic()
    ticket = None
    code = 500
    try:
        if of.info.verb != "watch":
            ticket = services.in_flight.enter(of)
            if ticket is None:
                code = 429
                return _come_again()
        reply = await proceed(of)
        code = reply.status
        return reply
    except errors.APIError as error:
        code = error.code
        raise
    except exchange.ClientGone:
        code = _GONE
        raise
    except asyncio.CancelledError:
        if ticket is None or not ticket.overdue or ticket.task is None:
            raise
        ticket.task.uncancel()
        code = errors.Timeout.code
        why = "request did not complete within requested timeout - context deadline exceeded"
        raise errors.Timeout(f"Timeout: {why}") from None
    finally:
        if ticket is not None:
            services.in_flight.leave(ticket)
        services.telemetry.request(_labels(of), code, services.clock.monotonic() - begun)


#: The code under which requests are counted that never came whole; nobody gets it as an answer.
_GONE: Final = 499


def _come_again() -> exchange.Reply:
    reply = plain(429, "Too many requests, please try again later.\n")
    reply.headers.append((b"retry-after", b"1"))
    return reply


def _labels(of: exchange.Exchange) -> telemetry.RequestLabels:
    """What a request is counted under: few values, whatever clients send."""
    info = of.info
    verb = _METHODS.get(info.verb, "other")
    if not info.is_resource:
        return verb, "", "", "", "", "", "", ""
    if verb == "PATCH" and of.headers.get(b"content-type").startswith(_APPLY):
        verb = "APPLY"
    dry_run = "All" if of.query and "All" in of.query.get("dryRun", ()) else ""
    scope = requestinfo.scope(info)
    return verb, dry_run, info.group, info.version, info.resource, info.subresource, scope, telemetry.COMPONENT


_APPLY: Final = "application/apply-patch+"
#: The words under which kube-apiserver counts verbs.
_METHODS: Final = {
    "create": "POST", "update": "PUT", "get": "GET", "post": "POST", "put": "PUT", "head": "HEAD", "options": "OPTIONS",
    "patch": "PATCH", "delete": "DELETE", "list": "LIST", "watch": "WATCH", "deletecollection": "DELETE",
}  # fmt: skip


async def _authorize(services: Services, of: exchange.Exchange, proceed: exchange.Handler) -> exchange.Reply:
    """Ask whether they may."""
    reason, no = services.authorize(_attributes(of))
    of.annotations |= {_DECISION: "forbid" if no is not None else "allow", _REASON: reason}
    return await proceed(of) if no is None else _unsniffed(refusal(no, of))


_DECISION: Final = "authorization.k8s.io/decision"
_REASON: Final = "authorization.k8s.io/reason"


def _attributes(of: exchange.Exchange) -> context.Attributes:
    """What an authorizer is asked; made once for each user that the request is judged under."""
    if of.attributes is None or of.attributes.user is not of.user:
        of.attributes = _make_attributes(of)
    return of.attributes


def _make_attributes(of: exchange.Exchange) -> context.Attributes:
    info = of.info
    return context.Attributes(
        user=of.user,
        verb=info.verb,
        group=info.group,
        version=info.version,
        resource=info.resource,
        subresource=info.subresource,
        name=info.name,
        namespace=info.namespace,
        path=of.path,
        field_selector=info.field_selector,
        is_resource=info.is_resource,
    )


def _unsniffed(reply: exchange.Reply) -> exchange.Reply:
    reply.headers.append(_NOSNIFF)
    return reply


STAGES: Final = (
    Stage("identify", _identify),
    Stage("classify", _classify),
    Stage("authenticate", _authenticate),
    Stage("audit", _audit),
    Stage("impersonate", _impersonate),
    Stage("account", _account),
    Stage("authorize", _authorize),
)


def assemble(services: Services) -> exchange.Handler:
    """The whole way, as one function: the stages in order, then `services.route`."""
    handler = services.route
    for stage in reversed(STAGES):
        handler = functools.partial(stage.run, services, proceed=handler)
    return handler


def refusal(error: errors.APIError, of: exchange.Exchange) -> exchange.Reply:
    """The answer that tells of an error."""
    if isinstance(error, errors.PageNotFound):
        return plain(error.code, error.message + "\n")
    form = negotiation.status_form(of.headers.get(b"accept"), pretty=of.wants_pretty)
    status = error.status()
    # That nothing could be agreed on is told, and recorded by its code alone.
    told = None if isinstance(error, errors.NotAcceptable) else status
    reply = exchange.Reply(error.code, form.media_type, rendering.status(status, form), outcome=told)
    if error.retry_after:
        reply.headers.append((b"retry-after", str(error.retry_after).encode("ascii")))
    return reply


def plain(status: int, text: str) -> exchange.Reply:
    """An answer in plain text, which browsers must not take for anything else."""
    return exchange.Reply(status, _PLAIN, text.encode("utf-8"), headers=[_NOSNIFF])
