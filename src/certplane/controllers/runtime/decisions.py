"""Records what controllers decided about requests, and why: as a metric, in the log, and as an Event on the request.

Kubernetes does not report most decisions: a request that is not approved, or whose signer has no key, stays pending.
Here every decision has a stable reason. A background task writes the Events one after another, so that no controller
waits for them; a repeated Event has its count increased, at most every five minutes. If they arrive faster than they
can be written some are dropped, as in client-go, those of type Normal first: people read them, and no controller
acts on them.

Source of names and shapes: client-go `tools/record`.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import logging
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from certplane import errors, timestamps
from certplane.client import api
from certplane.clock import Clock
from certplane.controllers.runtime.controller import Retry
from certplane.meta import names, objects
from certplane.resources import certificatesigningrequests as csrs
from certplane.resources import events
from certplane.resources.certificatesigningrequests import CertificateSigningRequest
from certplane.resources.events import Event
from certplane.telemetry import Telemetry

_log = logging.getLogger("certplane.controllers")

#: The decisions.
APPROVED: Final = "Approved"
DENIED: Final = "Denied"
NOT_APPROVED: Final = "NotApproved"
ISSUED: Final = "Issued"
FAILED: Final = "Failed"
NOT_ISSUED: Final = "NotIssued"
RETRIED: Final = "Retried"
_SUCCESSES: Final = frozenset({APPROVED, ISSUED})

#: The reason of a retry that has no more specific one.
REQUEST_FAILED: Final = "RequestFailed"
#: The reason of all controllers for bytes that are not a PKCS#10 request.
UNREADABLE_REQUEST: Final = "UnreadableRequest"
_COMPONENT: Final = "certplane"
#: The annotation of an Event that holds the decision.
DECISION_ANNOTATION: Final = "certplane.io/decision"
#: The namespace of Events about cluster-scoped objects.
_NAMESPACE: Final = "default"
#: Events that wait to be written, at most. Those of type Normal are dropped earlier: the request shows the same, and
#: under load the next certificate is more important.
_MAX_WAITING: Final = 1000
_MAX_NORMAL_WAITING: Final = 20
#: Written Events that are remembered, so that a repeated one increases the count.
_MAX_WRITTEN: Final = 4096
_REPEAT_INTERVAL: Final = 300.0
_MAX_MESSAGE: Final = 1024

Handler = Callable[[CertificateSigningRequest], Awaitable[None]]


class RecordDecision(Protocol):
    """Records a decision about a request: the decision, its reason as a code, and a human-readable message."""

    def __call__(self, csr: CertificateSigningRequest, decision: str, reason: str, message: str, /) -> None: ...


@dataclasses.dataclass(frozen=True, slots=True)
class _Decision:
    """A decision whose Event has to be written."""

    csr: CertificateSigningRequest
    decision: str
    reason: str
    message: str

    @property
    def key(self) -> tuple[str, str, str]:
        """The same for decisions that share an Event."""
        return self.csr.metadata.uid, self.decision, self.reason


@dataclasses.dataclass(slots=True)
class _Written:
    """An Event as it was last written, and when (monotonic seconds)."""

    event: Event
    at: float


class DecisionRecorder:
    """Records decisions. Metrics and log lines are written at once; Events need `run`."""

    def __init__(self, client: api.Client | None, clock: Clock, telemetry: Telemetry) -> None:
        """No Events are written without a `client`."""
        self._client = client
        self._clock = clock
        self._telemetry = telemetry
        self._waiting: asyncio.Queue[_Decision] = asyncio.Queue(_MAX_WAITING)
        self._written: collections.OrderedDict[tuple[str, str, str], _Written] = collections.OrderedDict()
        self._is_failing = False

    def record(self, csr: CertificateSigningRequest, decision: str, reason: str, message: str, /) -> None:
        """Record a decision. Never fails, never blocks."""
        self._record(_Decision(csr, decision, reason, message))

    def _record(self, decision: _Decision, level: int = logging.INFO) -> None:
        csr = decision.csr
        self._telemetry.count_decision(csr.spec.signer_name, decision.decision, decision.reason)
        _log.log(
            level,
            "controller decision",
            extra={
                "csr": csr.metadata.name,
                "uid": csr.metadata.uid,
                "signer": csr.spec.signer_name,
                "decision": decision.decision,
                "reason": decision.reason,
                "detail": decision.message,
            },
        )
        limit = _MAX_NORMAL_WAITING if decision.decision in _SUCCESSES else _MAX_WAITING
        if self._client is not None and self._waiting.qsize() < limit:
            self._waiting.put_nowait(decision)

    def record_failures(self, handler: Handler) -> Handler:
        """The same handler; its failures are recorded as the decision Retried."""

        async def handle(csr: CertificateSigningRequest) -> None:
            try:
                await handler(csr)
            except errors.Conflict:
                # Another client changed the request; its new state is queued already.
                raise
            except Retry as error:
                if isinstance(error.__cause__, errors.Conflict):
                    raise
                level = logging.INFO if error.quiet else logging.WARNING
                error.on_scheduled = error.on_scheduled or self._retry_recorder(
                    csr, error.reason or REQUEST_FAILED, str(error), level
                )
                raise
            except (errors.APIError, api.Unreachable) as error:
                on_scheduled = self._retry_recorder(csr, REQUEST_FAILED, str(error), logging.WARNING)
                raise Retry(str(error), on_scheduled=on_scheduled) from error

        return handle

    def _retry_recorder(
        self, csr: CertificateSigningRequest, reason: str, message: str, level: int
    ) -> Callable[[float], None]:
        def on_scheduled(seconds: float) -> None:
            self._record(_Decision(csr, RETRIED, reason, f"{message}; retry in {seconds:.3g}s"), level)

        return on_scheduled

    # --- Events ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Write Events until cancelled."""
        while True:
            decision = await self._waiting.get()
            try:
                await self._write_event(decision)
                self._is_failing = False
            except (errors.APIError, api.Unreachable) as error:
                # Logged once, not for each Event: the decisions are in the log anyway.
                if not self._is_failing:
                    _log.warning("failed to write event", extra={"error": str(error)})
                self._is_failing = True

    async def _write_event(self, decision: _Decision) -> None:
        assert self._client is not None  # noqa: S101 - nothing is queued otherwise
        key = decision.key
        written = self._written.get(key)
        now = self._clock.monotonic()
        if written is not None and now - written.at < _REPEAT_INTERVAL:
            return
        if written is None:
            event = await self._client.create(events.RESOURCE, self._new_event(decision), _NAMESPACE)
        else:
            repeated = written.event
            repeated.count += 1
            repeated.message = decision.message[:_MAX_MESSAGE]
            repeated.last_timestamp = timestamps.rfc3339(self._clock.now())
            # Dropped before the update: if that fails, the next repetition is a new Event.
            self._written.pop(key)
            event = await self._client.update(events.RESOURCE, repeated)
        self._written[key] = _Written(event, now)
        if len(self._written) > _MAX_WRITTEN:
            self._written.popitem(last=False)

    def _new_event(self, decision: _Decision) -> Event:
        now = timestamps.rfc3339(self._clock.now())
        metadata = decision.csr.metadata
        event = Event(
            involved_object=objects.ObjectReference(
                kind=csrs.RESOURCE.kind,
                name=metadata.name,
                uid=metadata.uid,
                api_version=csrs.RESOURCE.api_version,
                resource_version=metadata.resource_version,
            ),
            reason=decision.reason,
            message=decision.message[:_MAX_MESSAGE],
            source=events.EventSource(component=_COMPONENT),
            reporting_component=_COMPONENT,
            first_timestamp=now,
            last_timestamp=now,
            count=1,
            type="Normal" if decision.decision in _SUCCESSES else "Warning",
        )
        event.metadata.name = _event_name(metadata.name)
        event.metadata.namespace = _NAMESPACE
        event.metadata.annotations = {DECISION_ANNOTATION: decision.decision}
        return event


def _event_name(request_name: str) -> str:
    name = f"{request_name}.{objects.new_uid().replace('-', '')[:16]}"
    # The name of a request may be one that an Event must not have.
    return objects.new_uid() if names.dns1123_subdomain_problems(name) else name
