"""One record per request and stage: who did what, when, from where, and how it ended. audit.k8s.io/v1.

A record never fails a request, and a request never waits for the disk longer than one short write takes. Records hold
facts about requests; what a policy lets of bodies into them never includes Secrets or tokens (see `auditpolicy`).

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

from certplane import boundedcache, gotext, telemetry
from certplane import clock as clocks
from certplane.meta import codec, context, objects
from certplane.server import auditlimits, auditpolicy, exchange

_log = logging.getLogger("certplane.audit")


class Sink(Protocol):
    """Takes finished records, each a line of JSON. Must not fail. What may not wait is kept when it returns."""

    def __call__(self, line: bytes, *, may_wait: bool) -> None: ...


#: Requests that change nothing: their records may come a moment later.
_READS: Final = frozenset({"get", "list", "watch"})

_PATH_SAFE: Final = "/:@!$&'()*+,;=-._~%"


@dataclasses.dataclass(slots=True)
class Record:
    """What is recorded of one request. The stages of the pipeline and the handlers fill it in."""

    judgement: auditpolicy.Judgement
    user: context.User
    object_name: str = ""
    object_namespace: str = ""
    object_uid: str = ""
    object_version: str = ""
    request_object: msgspec.Raw = dataclasses.field(default_factory=lambda: objects.NOTHING)
    response_object: msgspec.Raw = dataclasses.field(default_factory=lambda: objects.NOTHING)
    constraint: str = ""

    def note_request(self, sent: Any) -> None:
        """What was sent: an object, or the JSON of a patch."""
        if isinstance(sent, bytes):
            if self.judgement.reaches(auditpolicy.REQUEST):
                self.request_object = _raw(sent)
            return
        meta = getattr(sent, "metadata", None)
        if meta is not None:
            self.object_name = meta.name
            self.object_namespace = meta.namespace
            self.object_uid = meta.uid
            self.object_version = meta.resource_version
        if self.judgement.reaches(auditpolicy.REQUEST):
            self.request_object = self._object(codec.encode(sent))

    def note_response(self, encode: Callable[[], bytes]) -> None:
        """What is answered, as JSON; made only if it is recorded."""
        if self.judgement.reaches(auditpolicy.REQUEST_RESPONSE):
            self.response_object = self._object(encode())

    def _object(self, encoded: bytes) -> msgspec.Raw:
        if not self.judgement.omit_managed_fields:
            return _raw(encoded)
        document = msgspec.json.decode(encoded)
        rows = [row["object"] for row in document.get("rows") or () if row.get("object")]
        for each in (document, *(document.get("items") or ()), *rows):
            if isinstance(each.get("metadata"), dict):
                each["metadata"].pop("managedFields", None)
        return _raw(codec.encode(document))


def _raw(encoded: bytes) -> msgspec.Raw:
    """JSON to be copied; nothing if it is none: a patch may be anything. Without the white space between its tokens:
    a line break there would let whoever sends it write records of their own.
    """
    try:
        msgspec.json.decode(encoded)
    except (ValueError, RecursionError):
        return objects.NOTHING
    return msgspec.Raw(msgspec.json.format(encoded, indent=-1))


@dataclasses.dataclass(frozen=True, slots=True)
class Outputs:
    """Where records go: all to `sink`; those of writes about what `is_kept` says, if they succeeded or may have, to
    `kept` as well, which has a space of its own, so that no flood of others pushes them out.
    """

    sink: Sink
    kept: Sink | None = None
    is_kept: Callable[[context.RequestInfo], bool] = lambda _: False


class Audit:
    """Records requests as a policy says."""

    def __init__(
        self,
        policy: auditpolicy.Policy,
        outputs: Outputs,
        clock: clocks.Clock,
        figures: telemetry.AuditTelemetry,
        *,
        rate: int = 0,
        skip: Callable[[exchange.Exchange], bool] = lambda _: False,
    ) -> None:
        """`rate` is how many requests a second are recorded that nobody known sent and that changed nothing, 0 for all
        (see `auditlimits`). `skip` tells of requests that are not recorded under any policy: what the server asks
        itself.
        """
        self._figures = figures
        self._skip = skip
        self._policy = policy
        self._outputs = outputs
        self._clock = clock
        self._sampler = auditlimits.Sampler(rate, clock)
        figures.sampled_out = lambda: self._sampler.skipped

    def begin(self, of: exchange.Exchange, attributes: context.Attributes) -> Record | None:
        """Open the record of a request, and write its first stage; None if nothing of it is recorded."""
        if self._skip(of):
            return None
        judgement = self._policy.judge(attributes)
        self._figures.judged(judgement.level)
        if judgement.level == auditpolicy.NONE:
            return None
        record = Record(judgement, of.user)
        if judgement.records(auditpolicy.RECEIVED) and (_is_known(of.user) or self._sampler.admits()):
            self._write(auditpolicy.RECEIVED, of, record, None)
        return record

    def refused(self, of: exchange.Exchange, attributes: context.Attributes, status: Mapping[str, Any]) -> None:
        """Write of a request whose sender nobody recognised."""
        nobody = context.User("")
        judgement = self._policy.judge(structs.replace(attributes, user=nobody))
        self._figures.judged(judgement.level)
        if judgement.level != auditpolicy.NONE and self._admits_stranger():
            record = Record(judgement, nobody)
            record.note_response(lambda: codec.encode(status))
            self._write(auditpolicy.STARTED, of, record, _bare(status))

    def finish(self, of: exchange.Exchange, record: Record, reply: exchange.Reply) -> None:
        """Write how it ended; of a watch, that it began, and how it ended when it does."""
        status, outcome = _status(reply), reply.outcome
        if not _is_known(record.user) and _changed_nothing(of.info, reply.status) and not self._admits_stranger():
            return
        if outcome is not None:
            record.note_response(lambda: codec.encode(outcome))
        if reply.stream is None:
            self._write(auditpolicy.COMPLETE, of, record, status)
            return
        self._write(auditpolicy.STARTED, of, record, status)
        reply.stream = self._streamed(reply.stream, of, record, status)

    def close(self) -> None:
        """Tell what is still to be told."""
        self._tell_left_out(at_once=True)

    def _admits_stranger(self) -> bool:
        admitted = self._sampler.admits()
        self._tell_left_out()
        return admitted

    def _tell_left_out(self, *, at_once: bool = False) -> None:
        told = self._sampler.untold(at_once=at_once)
        if told is not None:
            count, since = told
            line = notice("records-left-out", count, since, self._clock.now())
            self._outputs.sink(line, may_wait=True)

    def panicked(self, of: exchange.Exchange, record: Record, status: Mapping[str, Any]) -> None:
        """Write that the server itself failed."""
        self._write(auditpolicy.PANIC, of, record, status)

    async def _streamed(
        self, stream: AsyncIterator[bytes], of: exchange.Exchange, record: Record, status: Mapping[str, Any]
    ) -> AsyncIterator[bytes]:
        try:
            async for piece in stream:
                yield piece
        finally:
            await stream.aclose()  # type: ignore[attr-defined]  # streams are generators
            self._write(auditpolicy.COMPLETE, of, record, status)

    def _is_kept(self, of: exchange.Exchange, status: Mapping[str, Any] | None) -> bool:
        """Whether something was decided, or may have been, and is to be found later."""
        is_refused = status is None or _REFUSED <= status["code"] < _FAILED
        is_write = of.info.verb not in _READS and "dryRun" not in of.query
        return is_write and not is_refused and self._outputs.is_kept(of.info)

    def _write(self, stage: str, of: exchange.Exchange, record: Record, status: Mapping[str, Any] | None) -> None:
        if record.judgement.records(stage):
            if status is not None and auditpolicy.holds_credentials(of.info):
                status = _wordless(status)
            try:
                line = _line(_event(stage, of, record, status, self._clock.now()))
                self._outputs.sink(line, may_wait=of.info.verb in _READS)
                self._figures.events += 1
                kept = self._outputs.kept
                if kept is not None and stage in _ENDS and self._is_kept(of, status):
                    # It may wait: it is in the other file already.
                    kept(line, may_wait=True)
            except Exception:
                # What was asked for is done: that it cannot be written down must not undo the answer.
                _log.exception("a request could not be recorded", extra={"request_id": of.request_id})


def _is_known(user: context.User) -> bool:
    return user.name not in ("", context.ANONYMOUS.name)


def _changed_nothing(info: context.RequestInfo, code: int) -> bool:
    return code >= _REFUSED or info.verb in _READS or not info.is_resource


#: The first codes of HTTP that are a refusal, and a failure: a write that failed may be done all the same.
_REFUSED: Final = 400
_FAILED: Final = 500
_ENDS: Final = frozenset({auditpolicy.COMPLETE, auditpolicy.PANIC})


class _Reference(msgspec.Struct, omit_defaults=True, rename="camel"):
    """What a request is about."""

    resource: str = ""
    namespace: str = ""
    name: str = ""
    uid: str = ""
    api_group: str = ""
    api_version: str = ""
    resource_version: str = ""
    subresource: str = ""


class _Event(msgspec.Struct, omit_defaults=True, rename="camel", kw_only=True):
    """A record at one stage, in the order of Go's fields; what is empty is left out."""

    kind: str = msgspec.field(default_factory=lambda: "Event")
    api_version: str = msgspec.field(default_factory=lambda: "audit.k8s.io/v1")
    level: str
    audit_id: str = msgspec.field(name="auditID")
    stage: str
    request_uri: str = msgspec.field(name="requestURI")
    verb: str
    user: msgspec.Raw
    impersonated_user: msgspec.Raw = objects.NOTHING
    authentication_metadata: Mapping[str, str] | None = None
    source_ips: Sequence[str] = msgspec.field(default=(), name="sourceIPs")
    user_agent: str = ""
    object_ref: _Reference | None = None
    response_status: Mapping[str, Any] | None = None
    request_object: msgspec.Raw = objects.NOTHING
    response_object: msgspec.Raw = objects.NOTHING
    request_received_timestamp: datetime.datetime | str
    stage_timestamp: datetime.datetime | str
    annotations: Mapping[str, str] | None = None


def _event(
    stage: str,
    of: exchange.Exchange,
    record: Record,
    status: Mapping[str, Any] | None,
    now: datetime.datetime,
) -> _Event:
    event = _Event(
        level=record.judgement.level,
        audit_id=of.request_id,
        stage=stage,
        request_uri=_uri(of),
        verb=of.info.verb,
        user=_user(record.user),
        source_ips=sources(of.source, of.headers),
        user_agent=of.headers.get(b"user-agent"),
        response_status=status,
        request_received_timestamp=_micro(of.received),
        stage_timestamp=_micro(now),
    )
    received = stage == auditpolicy.RECEIVED
    if of.info.is_resource:
        event.object_ref = _reference(of.info, record, received=received)
    if of.user is not record.user and record.user.name:
        event.impersonated_user = _user(of.user)
        if record.constraint:
            event.authentication_metadata = {"impersonationConstraint": record.constraint}
    if not received:
        event.request_object = record.request_object
        event.response_object = record.response_object
        event.annotations = of.annotations or None
    return event


def _line(event: _Event) -> bytes:
    """A record as it is written. Most are short; what strangers make long is cut."""
    line = codec.encode(event)
    return (line if len(line) <= auditlimits.SHORT else codec.encode(_cut(event))) + b"\n"


def _cut(event: _Event) -> _Event:
    """A record whose texts have a limit each; bodies are there only if the policy asks for them, and have their own."""
    reference = event.object_ref
    return structs.replace(
        event,
        request_uri=gotext.shortened(event.request_uri, auditlimits.LONGEST_URI),
        verb=auditlimits.name(event.verb),
        user_agent=gotext.shortened(event.user_agent, auditlimits.LONGEST_USER_AGENT),
        object_ref=reference and _Reference(*map(auditlimits.name, structs.astuple(reference))),
        response_status=event.response_status and auditlimits.status(event.response_status),
        annotations=auditlimits.noted(event.annotations or {}),
    )


def notice(what: str, count: int, since: datetime.datetime, until: datetime.datetime) -> bytes:
    """A record of the log about itself: what is missing from it, how much, and between which moments."""
    event = _Event(
        level=auditpolicy.METADATA,
        audit_id=objects.new_uid(),
        stage=auditpolicy.COMPLETE,
        request_uri="",
        verb="",
        user=_user(_SERVER),
        request_received_timestamp=_micro(since),
        stage_timestamp=_micro(until),
        annotations={f"certplane.io/{what}": str(count)},
    )
    return codec.encode(event) + b"\n"


_SERVER: Final = context.User("system:apiserver")


def _micro(moment: datetime.datetime) -> datetime.datetime | str:
    """A moment as MicroTime; as it is, where the encoder writes that by itself: with all six digits."""
    return moment if moment.microsecond else clocks.rfc3339_micro(moment)


def _uri(of: exchange.Exchange) -> str:
    path = of.raw_path or urllib.parse.quote(of.path, safe=_PATH_SAFE)
    return f"{path}?{of.raw_query}" if of.raw_query else path


def _user(of: context.User) -> msgspec.Raw:
    """A user as JSON. The same few come again and again: what was made for them is kept."""
    known = _users.get(id(of))
    if known is not None and known[0] is of:
        return known[1]
    encoded = codec.encode(auditlimits.user(of))
    made = msgspec.Raw(encoded)
    _users.put(id(of), (of, made), len(encoded))
    return made


#: What was made for a user, who is kept beside it: another one may not get the same id meanwhile.
_users: Final[boundedcache.BoundedCache[tuple[context.User, msgspec.Raw]]] = boundedcache.BoundedCache()


def _reference(info: context.RequestInfo, record: Record, *, received: bool) -> _Reference:
    found = _Reference(info.resource, info.namespace, info.name, "", info.group, info.version, "", info.subresource)
    if not received:
        # What only the body tells is not known before it was read.
        found.namespace = found.namespace or record.object_namespace
        found.name = found.name or record.object_name
        found.uid, found.resource_version = record.object_uid, record.object_version
    return found


def _wordless(status: Mapping[str, Any]) -> Mapping[str, Any]:
    """A Status without its texts: they quote what was sent, and what is stored."""
    found = {key: value for key, value in status.items() if key != "message"}
    if "details" in found:
        found["details"] = {key: value for key, value in found["details"].items() if key != "causes"}
    return found


def _status(reply: exchange.Reply) -> Mapping[str, Any]:
    if reply.outcome is None:
        return {"metadata": {}, "code": reply.status}
    return {**_bare(reply.outcome), "code": reply.status}


def _bare(status: Mapping[str, Any]) -> dict[str, Any]:
    """A Status as it was sent, without what every one of them says of itself."""
    return {"metadata": {}, **{key: value for key, value in status.items() if key not in ("kind", "apiVersion")}}


def sources(peer: str, headers: exchange.Headers) -> Sequence[str]:
    """The addresses that a request came over, as it says itself, and the last one, which it cannot choose.

    Source: `k8s.io/apimachinery/pkg/util/net`, SourceIPs.
    """
    return auditlimits.sources(_sources(peer, headers.get(b"x-forwarded-for"), headers.get(b"x-real-ip")))


#: So many items of X-Forwarded-For are looked at: anybody may send thousands.
_MOST_FORWARDED: Final = 64


@boundedcache.remember()
def _sources(peer: str, forwarded: str, real: str) -> Sequence[str]:
    first = forwarded.split(",", _MOST_FORWARDED)[:_MOST_FORWARDED]
    found = [address for each in first if (address := _address(each))]
    nearest = _address(real)
    if nearest and nearest not in found:
        found.append(nearest)
    last = _address(peer)
    if last and (not found or found[-1] != last):
        found.append(last)
    return found


def _address(text: str) -> str:
    try:
        found = ipaddress.ip_address(text.strip())
    except ValueError:
        return ""
    if isinstance(found, ipaddress.IPv6Address):
        if found.scope_id:
            return ""
        return str(found.ipv4_mapped or found)
    return str(found)
