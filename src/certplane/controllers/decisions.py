"""What controllers decided about requests, and why: counted, logged, and told as Events on the request.

Kubernetes leaves most of this unsaid: a request that nobody approves, or whose signer has no key, just stays as it is.
Here every decision has a stable reason. Events are written by a task of their own, one after another, so that nobody
waits for them; the same one again is counted up, at most every few minutes. When they come faster than they can be
written some are lost, as in client-go, good news first: they are for people, and never what a controller acts on.

Source of names and shapes: client-go `tools/record`.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import logging
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from certplane import clock as clocks
from certplane import errors, telemetry
from certplane.client import api
from certplane.controllers import runtime
from certplane.meta import names, objects
from certplane.resources import certificatesigningrequests as csrs
from certplane.resources import events

_log = logging.getLogger("certplane.controllers")

#: What was decided.
APPROVED: Final = "Approved"
DENIED: Final = "Denied"
NOT_APPROVED: Final = "NotApproved"
ISSUED: Final = "Issued"
FAILED: Final = "Failed"
NOT_ISSUED: Final = "NotIssued"
RETRIED: Final = "Retried"
_GOOD: Final = frozenset({APPROVED, ISSUED})

#: Why something is tried again, where nobody says more exactly.
REQUEST_FAILED: Final = "RequestFailed"
_COMPONENT: Final = "certplane"
#: Under which an Event says what was decided.
DECISION: Final = "certplane.io/decision"
#: Events of objects that are in no namespace are in this one.
_NAMESPACE: Final = "default"
_MOST_WAITING: Final = 1000
#: Good news is left out first: the object itself shows it, and under load the next certificate is worth more.
_MOST_GOOD_WAITING: Final = 20
_MOST_KNOWN: Final = 4096
_QUIET_SECONDS: Final = 300.0
_LONGEST_MESSAGE: Final = 1024


class Note(Protocol):
    """Takes a decision about a request: what, why in one word, why in a sentence."""

    def __call__(self, of: csrs.CertificateSigningRequest, decision: str, reason: str, message: str, /) -> None: ...


@dataclasses.dataclass(slots=True)
class _Told:
    """An Event that was written, and when."""

    event: events.Event
    at: float


class Decisions:
    """Takes decisions. `note` needs `run` for Events alone."""

    def __init__(self, client: api.Client | None, clock: clocks.Clock, figures: telemetry.Telemetry) -> None:
        """Without a `client` no Events are written."""
        self._client = client
        self._clock = clock
        self._telemetry = figures
        self._waiting: asyncio.Queue[tuple[csrs.CertificateSigningRequest, str, str, str]] = asyncio.Queue(
            _MOST_WAITING
        )
        self._told: collections.OrderedDict[tuple[str, str, str], _Told] = collections.OrderedDict()
        self._complained = False

    def note(self, of: csrs.CertificateSigningRequest, decision: str, reason: str, message: str, /) -> None:
        """Take a decision. Never fails, never waits."""
        self._take(of, decision, reason, message)

    def _take(
        self, of: csrs.CertificateSigningRequest, decision: str, reason: str, message: str, level: int = logging.INFO
    ) -> None:
        self._telemetry.decision(of.spec.signer_name, decision, reason)
        _log.log(
            level,
            "decision",
            extra={
                "csr": of.metadata.name,
                "uid": of.metadata.uid,
                "signer": of.spec.signer_name,
                "decision": decision,
                "reason": reason,
                "why": message,
            },
        )
        most = _MOST_GOOD_WAITING if decision in _GOOD else _MOST_WAITING
        if self._client is not None and self._waiting.qsize() < most:
            self._waiting.put_nowait((of, decision, reason, message))

    def following(
        self, handle: Callable[[csrs.CertificateSigningRequest], Awaitable[None]]
    ) -> Callable[[csrs.CertificateSigningRequest], Awaitable[None]]:
        """The same work on requests, with its failures told."""

        async def work(of: csrs.CertificateSigningRequest) -> None:
            try:
                await handle(of)
            except errors.Conflict:
                # Somebody was faster: the newer object is on its way here already.
                raise
            except runtime.Retry as error:
                if isinstance(error.__cause__, errors.Conflict):
                    raise
                level = logging.INFO if error.quiet else logging.WARNING
                error.told = error.told or self._retried(of, error.reason or REQUEST_FAILED, str(error), level)
                raise
            except (errors.APIError, api.Unreachable) as error:
                raise runtime.Retry(str(error), told=self._retried(of, REQUEST_FAILED, str(error))) from error

        return work

    def _retried(
        self, of: csrs.CertificateSigningRequest, reason: str, message: str, level: int = logging.WARNING
    ) -> Callable[[float], None]:
        def told(seconds: float) -> None:
            self._take(of, RETRIED, reason, f"{message}; tried again in {seconds:.3g}s", level)

        return told

    # --- Events ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Write Events until cancelled."""
        while True:
            of, decision, reason, message = await self._waiting.get()
            try:
                await self._tell(of, decision, reason, message)
                self._complained = False
            except (errors.APIError, api.Unreachable) as error:
                # Said once, not for each: the reasons are in the log anyway.
                if not self._complained:
                    _log.warning("events cannot be written", extra={"problem": str(error)})
                self._complained = True

    async def _tell(self, of: csrs.CertificateSigningRequest, decision: str, reason: str, message: str) -> None:
        assert self._client is not None  # noqa: S101 - nothing waits otherwise
        key = of.metadata.uid, decision, reason
        known = self._told.get(key)
        now = self._clock.monotonic()
        if known is not None and now - known.at < _QUIET_SECONDS:
            return
        if known is None:
            written = await self._client.create(events.RESOURCE, self._event(of, decision, reason, message), _NAMESPACE)
        else:
            again = known.event
            again.count += 1
            again.message = message[:_LONGEST_MESSAGE]
            again.last_timestamp = clocks.rfc3339(self._clock.now())
            self._told.pop(key)
            written = await self._client.update(events.RESOURCE, again)
        self._told[key] = _Told(written, now)
        if len(self._told) > _MOST_KNOWN:
            self._told.popitem(last=False)

    def _event(self, of: csrs.CertificateSigningRequest, decision: str, reason: str, message: str) -> events.Event:
        now = clocks.rfc3339(self._clock.now())
        made = events.Event(
            involved_object=objects.ObjectReference(
                kind=csrs.RESOURCE.kind,
                name=of.metadata.name,
                uid=of.metadata.uid,
                api_version=csrs.RESOURCE.api_version,
                resource_version=of.metadata.resource_version,
            ),
            reason=reason,
            message=message[:_LONGEST_MESSAGE],
            source=events.EventSource(component=_COMPONENT),
            reporting_component=_COMPONENT,
            first_timestamp=now,
            last_timestamp=now,
            count=1,
            type="Normal" if decision in _GOOD else "Warning",
        )
        made.metadata.name = self._name(of)
        made.metadata.namespace = _NAMESPACE
        made.metadata.annotations = {DECISION: decision}
        return made

    def _name(self, of: csrs.CertificateSigningRequest) -> str:
        name = f"{of.metadata.name}.{objects.new_uid().replace('-', '')[:16]}"
        # A request may have a name that an Event may not.
        return objects.new_uid() if names.dns1123_subdomain_problems(name) else name
