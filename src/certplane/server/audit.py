"""Audit events: one for each request and stage, with who did what, when, from where, and the outcome. audit.k8s.io/v1.

A failure to audit never fails a request, and a request waits for the disk no longer than one short write takes. Bodies
are recorded if the policy says so, but never those of Secrets and tokens (see `auditpolicy`).

Source: `k8s.io/apiserver/pkg/{apis/audit/v1,audit,endpoints/filters/audit.go}`; api-machinery, "Audit events".
"""

from __future__ import annotations

import dataclasses
import datetime
import ipaddress
import logging
import urllib.parse
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Final, Protocol

import msgspec
from msgspec import structs

from certplane import boundedcache, telemetry, timestamps
from certplane.clock import Clock
from certplane.golang import formatting
from certplane.meta import context, objects
from certplane.server import auditlimits, auditpolicy
from certplane.server.exchange import Headers, Request, Response
from certplane.wire import codec

_log = logging.getLogger("certplane.audit")


class Sink(Protocol):
    """Writes encoded events, each a line of JSON. Must not raise. Unless the line `may_wait`, it has been written when
    the call returns.
    """

    def __call__(self, line: bytes, *, may_wait: bool) -> None: ...


#: Requests that change nothing: their events may be written a moment later.
_READS: Final = frozenset({"get", "list", "watch"})

_PATH_SAFE: Final = "/:@!$&'()*+,;=-._~%"


@dataclasses.dataclass(slots=True)
class Record:
    """What is recorded of one request. The stages of the pipeline and the handlers fill it in."""

    config: auditpolicy.RequestAuditConfig
    user: context.User
    object_name: str = ""
    object_namespace: str = ""
    object_uid: str = ""
    object_version: str = ""
    request_object: msgspec.Raw = dataclasses.field(default_factory=lambda: objects.EMPTY_RAW)
    response_object: msgspec.Raw = dataclasses.field(default_factory=lambda: objects.EMPTY_RAW)
    constraint: str = ""

    def note_request(self, body: object) -> None:
        """Record the request's body: an object, or the JSON of a patch."""
        if isinstance(body, bytes):
            if self.config.includes_level(auditpolicy.REQUEST):
                self.request_object = _raw(body)
            return
        meta = getattr(body, "metadata", None)
        if meta is not None:
            self.object_name = meta.name
            self.object_namespace = meta.namespace
            self.object_uid = meta.uid
            self.object_version = meta.resource_version
        if self.config.includes_level(auditpolicy.REQUEST):
            self.request_object = self._object(codec.encode(body))

    def note_response(self, encode: Callable[[], bytes]) -> None:
        """Record the response's body as JSON; `encode` is called only if the policy asks for it."""
        if self.config.includes_level(auditpolicy.REQUEST_RESPONSE):
            self.response_object = self._object(encode())

    def _object(self, encoded: bytes) -> msgspec.Raw:
        if not self.config.omit_managed_fields:
            return _raw(encoded)
        document = msgspec.json.decode(encoded)
        rows = [row["object"] for row in document.get("rows") or () if row.get("object")]
        for obj in (document, *(document.get("items") or ()), *rows):
            if isinstance(obj.get("metadata"), dict):
                obj["metadata"].pop("managedFields", None)
        return _raw(codec.encode(document))


def _raw(encoded: bytes) -> msgspec.Raw:
    """JSON without white space between tokens; empty if it is invalid, because a patch can be anything. A line break
    that is copied into the log would let a client forge events.
    """
    try:
        msgspec.json.decode(encoded)
    except (ValueError, RecursionError):
        return objects.EMPTY_RAW
    return msgspec.Raw(msgspec.json.format(encoded, indent=-1))


#: Seconds between two reports of dropped events.
REPORT_INTERVAL: Final = 60.0


@dataclasses.dataclass(frozen=True, slots=True)
class Outputs:
    """Where events are written. All go to `sink`. Writes selected by `is_retained` that succeeded, or may have, also go
    to `retained_sink`, which is rotated separately, so that a flood of other events does not displace them. Either may
    be None.
    """

    sink: Sink | None
    retained_sink: Sink | None = None
    is_retained: Callable[[context.RequestInfo], bool] = lambda _: False


class Auditor:
    """Records requests as the audit policy says."""

    def __init__(
        self,
        policy: auditpolicy.Policy,
        outputs: Outputs,
        clock: Clock,
        metrics: telemetry.AuditTelemetry,
        *,
        rate: int = 0,
        skip: Callable[[Request], bool] = lambda _: False,
    ) -> None:
        """`rate` is the maximum number of events a second for unauthenticated requests that changed nothing; 0 means no
        limit (see `auditlimits`). `skip` selects requests that are never recorded: those of the server to itself.
        """
        self._metrics = metrics
        self._skip = skip
        self._policy = policy
        self._outputs = outputs
        self._clock = clock
        self._rate_limiter = auditlimits.EventRateLimiter(rate, clock)
        metrics.dropped = lambda: self._rate_limiter.total_dropped

    def begin(self, request: Request, attributes: context.Attributes) -> Record | None:
        """Begin the record of a request and write its RequestReceived event. None if the policy omits the request."""
        if self._skip(request):
            return None
        config = self._policy.evaluate(attributes)
        self._metrics.count_level(config.level)
        if config.level == auditpolicy.NONE:
            return None
        record = Record(config, request.user)
        if config.includes_stage(auditpolicy.RECEIVED) and (
            _is_authenticated(request.user) or self._rate_limiter.admit()
        ):
            self._write(auditpolicy.RECEIVED, request, record, None)
        return record

    def authentication_failed(
        self, request: Request, attributes: context.Attributes, status: Mapping[str, object]
    ) -> None:
        """Record a request whose authentication failed."""
        unknown_user = context.User("")
        config = self._policy.evaluate(structs.replace(attributes, user=unknown_user))
        self._metrics.count_level(config.level)
        if config.level != auditpolicy.NONE and self._rate_limiter.admit():
            record = Record(config, unknown_user)
            record.note_response(lambda: codec.encode(status))
            self._write(auditpolicy.STARTED, request, record, _without_type(status))

    def finish(self, request: Request, record: Record, response: Response) -> None:
        """Record the response; for a watch, ResponseStarted now and ResponseComplete when it ends."""
        status, status_object = _status(response), response.status_object
        is_limited = not _is_authenticated(record.user) and _changed_nothing(request.info, response.status)
        if is_limited and not self._rate_limiter.admit():
            return
        if status_object is not None:
            record.note_response(lambda: codec.encode(status_object))
        if response.stream is None:
            self._write(auditpolicy.COMPLETE, request, record, status)
            return
        self._write(auditpolicy.STARTED, request, record, status)
        response.stream = self._streamed(response.stream, request, record, status)

    async def report_dropped(self) -> None:
        """Record how many events were dropped since the last report. To be called every REPORT_INTERVAL seconds."""
        self._report_dropped()

    def close(self) -> None:
        """Make the last report of dropped events."""
        self._report_dropped()

    def _report_dropped(self) -> None:
        dropped = self._rate_limiter.take_dropped()
        if dropped is not None and self._outputs.sink is not None:
            count, since = dropped
            line = loss_event("records-left-out", count, since, self._clock.now())
            self._outputs.sink(line, may_wait=True)

    def panicked(self, request: Request, record: Record, status: Mapping[str, object]) -> None:
        """Record that the handler raised an unexpected exception."""
        self._write(auditpolicy.PANIC, request, record, status)

    async def _streamed(
        self, stream: AsyncIterator[bytes], request: Request, record: Record, status: Mapping[str, object]
    ) -> AsyncIterator[bytes]:
        try:
            async for piece in stream:
                yield piece
        finally:
            await stream.aclose()  # type: ignore[attr-defined]  # streams are generators
            self._write(auditpolicy.COMPLETE, request, record, status)

    def _is_retained(self, request: Request, status: Mapping[str, Any] | None) -> bool:
        """Whether the request made, or may have made, a change that the retained log has to show."""
        is_refused = status is None or _FIRST_CLIENT_ERROR <= status["code"] < _FIRST_SERVER_ERROR
        is_write = request.info.verb not in _READS and "dryRun" not in request.query
        return is_write and not is_refused and self._outputs.is_retained(request.info)

    def _write(self, stage: str, request: Request, record: Record, status: Mapping[str, object] | None) -> None:
        sink, retained_sink = self._outputs.sink, self._outputs.retained_sink
        if stage not in _FINAL_STAGES or not self._is_retained(request, status):
            retained_sink = None
        if not record.config.includes_stage(stage) or (sink is None and retained_sink is None):
            return
        if status is not None and auditpolicy.holds_credentials(request.info):
            status = _without_message(status)
        try:
            line = _line(_event(stage, request, record, status, self._clock.now()))
            if sink is not None:
                sink(line, may_wait=request.info.verb in _READS)
            self._metrics.events += 1
            if retained_sink is not None:
                # It may wait if the main log has it already.
                retained_sink(line, may_wait=sink is not None)
        except Exception:
            # The change has been made: a failure to record it must not change the response.
            self._metrics.failed += 1
            _log.exception("failed to record an audit event", extra={"request_id": request.request_id})


def _is_authenticated(user: context.User) -> bool:
    return user.name not in ("", context.ANONYMOUS.name)


def _changed_nothing(info: context.RequestInfo, code: int) -> bool:
    return code >= _FIRST_CLIENT_ERROR or info.verb in _READS or not info.is_resource


#: A write that ended with a server error may have been made all the same.
_FIRST_CLIENT_ERROR: Final = 400
_FIRST_SERVER_ERROR: Final = 500
_FINAL_STAGES: Final = frozenset({auditpolicy.COMPLETE, auditpolicy.PANIC})


class _ObjectReference(msgspec.Struct, omit_defaults=True, rename="camel"):
    """ObjectReference of audit.k8s.io/v1: the object or kind that a request is about."""

    resource: str = ""
    namespace: str = ""
    name: str = ""
    uid: str = ""
    api_group: str = ""
    api_version: str = ""
    resource_version: str = ""
    subresource: str = ""


class _Event(msgspec.Struct, omit_defaults=True, rename="camel", kw_only=True):
    """Event of audit.k8s.io/v1, in the order of Go's fields; empty fields are omitted."""

    kind: str = msgspec.field(default_factory=lambda: "Event")
    api_version: str = msgspec.field(default_factory=lambda: "audit.k8s.io/v1")
    level: str
    audit_id: str = msgspec.field(name="auditID")
    stage: str
    request_uri: str = msgspec.field(name="requestURI")
    verb: str
    user: msgspec.Raw
    impersonated_user: msgspec.Raw = objects.EMPTY_RAW
    authentication_metadata: Mapping[str, str] | None = None
    source_ips: Sequence[str] = msgspec.field(default=(), name="sourceIPs")
    user_agent: str = ""
    object_ref: _ObjectReference | None = None
    response_status: Mapping[str, object] | None = None
    request_object: msgspec.Raw = objects.EMPTY_RAW
    response_object: msgspec.Raw = objects.EMPTY_RAW
    request_received_timestamp: datetime.datetime | str
    stage_timestamp: datetime.datetime | str
    annotations: Mapping[str, str] | None = None


def _event(
    stage: str,
    request: Request,
    record: Record,
    status: Mapping[str, object] | None,
    now: datetime.datetime,
) -> _Event:
    event = _Event(
        level=record.config.level,
        audit_id=request.request_id,
        stage=stage,
        request_uri=_uri(request),
        verb=request.info.verb,
        user=_user(record.user),
        source_ips=sources(request.source, request.headers),
        user_agent=request.headers.get(b"user-agent"),
        response_status=status,
        request_received_timestamp=_micro(request.received),
        stage_timestamp=_micro(now),
    )
    received = stage == auditpolicy.RECEIVED
    if request.info.is_resource:
        event.object_ref = _reference(request.info, record, received=received)
    if request.user is not record.user and record.user.name:
        event.impersonated_user = _user(request.user)
        if record.constraint:
            event.authentication_metadata = {"impersonationConstraint": record.constraint}
    if not received:
        event.request_object = record.request_object
        event.response_object = record.response_object
        event.annotations = request.annotations or None
    return event


def _line(event: _Event) -> bytes:
    """An encoded event. Short ones, as most are, are not truncated."""
    line = codec.encode(event)
    return (line if len(line) <= auditlimits.SHORT else codec.encode(_truncate(event))) + b"\n"


def _truncate(event: _Event) -> _Event:
    """The event with each text truncated to its limit, but not the bodies, which the policy asks for."""
    reference = event.object_ref
    return structs.replace(
        event,
        request_uri=formatting.shorten(event.request_uri, auditlimits.MAX_URI_LENGTH),
        verb=auditlimits.limit_name(event.verb),
        user_agent=formatting.shorten(event.user_agent, auditlimits.MAX_USER_AGENT_LENGTH),
        object_ref=reference and _ObjectReference(*map(auditlimits.limit_name, structs.astuple(reference))),
        response_status=event.response_status and auditlimits.limit_status(event.response_status),
        annotations=auditlimits.limit_annotations(event.annotations or {}),
    )


def loss_event(kind: str, count: int, since: datetime.datetime, until: datetime.datetime) -> bytes:
    """An event that says how many events are missing from the log, and between which times. `kind` is the name of the
    annotation: records-lost or records-left-out.
    """
    event = _Event(
        level=auditpolicy.METADATA,
        audit_id=objects.new_uid(),
        stage=auditpolicy.COMPLETE,
        request_uri="",
        verb="",
        user=_user(_SERVER),
        request_received_timestamp=_micro(since),
        stage_timestamp=_micro(until),
        annotations={f"certplane.io/{kind}": str(count)},
    )
    return codec.encode(event) + b"\n"


_SERVER: Final = context.User("system:apiserver")


def _micro(moment: datetime.datetime) -> datetime.datetime | str:
    """A time as MicroTime. With microseconds the encoder itself writes all six digits."""
    return moment if moment.microsecond else timestamps.rfc3339_micro(moment)


def _uri(request: Request) -> str:
    path = request.raw_path or urllib.parse.quote(request.path, safe=_PATH_SAFE)
    return f"{path}?{request.raw_query}" if request.raw_query else path


def _user(user: context.User) -> msgspec.Raw:
    """A user as JSON, cached by the identity of the user object."""
    cached = _users.get(id(user))
    if cached is not None and cached[0] is user:
        return cached[1]
    encoded = codec.encode(auditlimits.user_info(user))
    raw = msgspec.Raw(encoded)
    _users.put(id(user), (user, raw), len(encoded))
    return raw


#: User objects with their JSON, by id(). The entry holds the object, so that its id is not reused.
_users: Final[boundedcache.BoundedCache[tuple[context.User, msgspec.Raw]]] = boundedcache.BoundedCache()


def _reference(info: context.RequestInfo, record: Record, *, received: bool) -> _ObjectReference:
    reference = _ObjectReference(
        info.resource, info.namespace, info.name, "", info.group, info.version, "", info.subresource
    )
    if not received:
        # At RequestReceived the body has not been read.
        reference.namespace = reference.namespace or record.object_namespace
        reference.name = reference.name or record.object_name
        reference.uid, reference.resource_version = record.object_uid, record.object_version
    return reference


def _without_message(status: Mapping[str, Any]) -> Mapping[str, Any]:
    """A Status without message and causes, which quote the request and the stored object."""
    fields = {key: value for key, value in status.items() if key != "message"}
    if "details" in fields:
        fields["details"] = {key: value for key, value in fields["details"].items() if key != "causes"}
    return fields


def _status(response: Response) -> Mapping[str, object]:
    if response.status_object is None:
        return {"metadata": {}, "code": response.status}
    return {**_without_type(response.status_object), "code": response.status}


def _without_type(status: Mapping[str, object]) -> dict[str, object]:
    """A Status without kind and apiVersion, as in responseStatus."""
    return {"metadata": {}, **{key: value for key, value in status.items() if key not in ("kind", "apiVersion")}}


def sources(peer: str, headers: Headers) -> Sequence[str]:
    """The sourceIPs of a request: the addresses in its headers, which it can forge, then the one of the connection.

    Source: `k8s.io/apimachinery/pkg/util/net`, SourceIPs.
    """
    return auditlimits.limit_sources(_sources(peer, headers.get(b"x-forwarded-for"), headers.get(b"x-real-ip")))


#: Items of X-Forwarded-For that are parsed: a client may send thousands.
_MAX_FORWARDED: Final = 64


@boundedcache.memoize()
def _sources(peer: str, forwarded: str, real: str) -> Sequence[str]:
    items = forwarded.split(",", _MAX_FORWARDED)[:_MAX_FORWARDED]
    addresses = [address for item in items if (address := _address(item))]
    real_address = _address(real)
    if real_address and real_address not in addresses:
        addresses.append(real_address)
    peer_address = _address(peer)
    if peer_address and (not addresses or addresses[-1] != peer_address):
        addresses.append(peer_address)
    return addresses


def _address(text: str) -> str:
    """An IP address in canonical form; empty if the text is none. A mapped IPv4 address becomes IPv4."""
    try:
        address = ipaddress.ip_address(text.strip())
    except ValueError:
        return ""
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id:
            return ""
        return str(address.ipv4_mapped or address)
    return str(address)
