"""Records what controllers decided about requests, and why: as a metric, in the log, and as an Event on the request.

Kubernetes does not report most decisions: a request that is not approved, or whose signer has no key, stays pending.
Here every decision has a stable reason. `eventwriter` says how Events are written.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from certplane import errors
from certplane.client import api
from certplane.controllers.runtime import eventwriter
from certplane.controllers.runtime.controller import Retry
from certplane.controllers.runtime.eventwriter import EventWriter, Report
from certplane.meta import objects
from certplane.resources import certificatesigningrequests as csrs
from certplane.resources.certificatesigningrequests import CertificateSigningRequest
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
#: The annotation of an Event that holds the decision.
DECISION_ANNOTATION: Final = "certplane.io/decision"

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

    def report(self) -> Report:
        """The Event of the decision. All decisions with the same reason about a request share one."""
        metadata = self.csr.metadata
        reference = objects.ObjectReference(
            kind=csrs.RESOURCE.kind,
            name=metadata.name,
            uid=metadata.uid,
            api_version=csrs.RESOURCE.api_version,
            resource_version=metadata.resource_version,
        )
        return Report(
            key=(metadata.uid, self.decision, self.reason),
            reference=reference,
            reason=self.reason,
            message=self.message,
            type=eventwriter.NORMAL if self.decision in _SUCCESSES else eventwriter.WARNING,
            annotations={DECISION_ANNOTATION: self.decision},
        )


class DecisionRecorder:
    """Records decisions. Metrics and log lines are written at once; Events need `events.run`."""

    def __init__(self, events: EventWriter, telemetry: Telemetry) -> None:
        self._events = events
        self._telemetry = telemetry

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
        self._events.add(decision.report())

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
