"""Leader election over a Lease, by the rules of client-go, so that both can compete for the same Lease.

A candidate takes the Lease when it has not seen it change for the lease duration, by its own clock; the times in the
Lease are not compared with that clock. The leader renews the Lease, and stops working before another candidate may take
over. A write that has not been sent by then is not sent any more (`FencedTransport`), however long the process was
suspended, or the write waited for the rate limit, credentials or a connection.

Source: client-go `tools/leaderelection`; fields of the Lease: KEP-0014, `coordination.k8s.io/v1`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import random
from collections.abc import Coroutine
from typing import Any, Final

from certplane import clock, errors, timestamps
from certplane.client import api
from certplane.clock import Clock
from certplane.config.controllersettings import LeaderElectionSettings
from certplane.resources import leases
from certplane.resources.leases import Lease, LeaseSpec

_log = logging.getLogger("certplane.controllers")

#: The retry period is multiplied by a random factor between 1 and this one (client-go's JitterFactor).
_JITTER_FACTOR: Final = 1.2
#: The lease duration of a released Lease: it can be taken at once.
_RELEASED_SECONDS: Final = 1


class LeadershipLost(errors.CertplaneError):
    """Raised when this process is no longer the leader: it must stop its controllers."""


class LeaderElector:
    """One candidate. Call `acquire`, then run `hold` for as long as the controllers run. The settings name the Lease,
    with its namespace; `identity` is that of this candidate.
    """

    def __init__(self, client: api.Client, settings: LeaderElectionSettings, identity: str, clock: Clock) -> None:
        self._client = client
        self._name = settings.resource_name
        self._namespace = settings.resource_namespace
        self._identity = identity
        self._clock = clock
        self._lease_seconds = settings.lease_duration.total_seconds()
        self._deadline_seconds = settings.renew_deadline.total_seconds()
        self._retry_seconds = settings.retry_period.total_seconds()
        #: The Lease as it was last read, and when it was last seen to change (monotonic seconds).
        self._observed: Lease | None = None
        self._observed_at = 0.0
        #: When the last successful renewal was sent; None if this process is not the leader.
        self._renewed_at: float | None = None
        self._problem = ""

    @property
    def is_leader(self) -> bool:
        """Whether no other process can be the leader now."""
        if self._renewed_at is None:
            return False
        return self._clock.monotonic() - self._renewed_at < self._deadline_seconds

    def problem(self, grace: float) -> str | None:
        """A health problem: this process is still the leader although its Lease expired `grace` seconds ago."""
        if self._renewed_at is None:
            return None
        is_late = self._clock.monotonic() - self._renewed_at > self._lease_seconds + grace
        return f"failed election to renew leadership on lease {self._name}" if is_late else None

    async def acquire(self) -> None:
        """Wait until this process is the leader."""
        logged_holder = ""
        while not await self._try_acquire_or_renew():
            holder = self._holder()
            if holder != logged_holder and holder:
                _log.info("another process is the leader", extra={"lease": self._name, "identity": holder})
            logged_holder = holder
            jitter = 1 + random.random() * (_JITTER_FACTOR - 1)  # noqa: S311 - no secret
            await self._clock.sleep(self._retry_seconds * jitter)
        _log.info("acquired lease", extra={"lease": self._name, "identity": self._identity})

    async def hold(self) -> None:
        """Renew the Lease until cancelled. Raises LeadershipLost if it is not renewed within the renew deadline."""
        assert self._renewed_at is not None  # noqa: S101 - acquire comes first
        while True:
            await self._clock.sleep(self._retry_seconds)
            if not await self._run_with_timeout(self._seconds_left(self._renewed_at), self._renew()):
                self._renewed_at = None
                raise LeadershipLost(self._loss_reason())

    async def release(self) -> None:
        """Release the Lease, so that another process can take it at once. Gives up when the renew deadline ends, if the
        server does not answer.
        """
        if self._renewed_at is None or not self.is_leader:
            return
        seconds = self._seconds_left(self._renewed_at)
        self._renewed_at = None
        await self._run_with_timeout(seconds, self._write_released())

    def _loss_reason(self) -> str:
        holder, name = self._holder(), self._name
        if holder != self._identity:
            return f"lost lease {name}: now held by {holder or 'no process'}"
        return f"lost lease {name}: not renewed within {self._deadline_seconds:g}s"

    def _seconds_left(self, renewed_at: float) -> float:
        return renewed_at + self._deadline_seconds - self._clock.monotonic()

    async def _run_with_timeout(self, seconds: float, work: Coroutine[Any, Any, bool]) -> bool:
        """The result of a coroutine; False, and the coroutine is cancelled, if it takes longer."""
        try:
            return await clock.wait_for(self._clock, work, seconds)
        except TimeoutError:
            return False

    async def _write_released(self) -> bool:
        with contextlib.suppress(errors.APIError, api.Unreachable):
            await self._client.update(leases.RESOURCE, self._new_lease("", _RELEASED_SECONDS, is_renewal=False))
        return True

    async def _renew(self) -> bool:
        """Try until the Lease is renewed; False if another process holds it."""
        while not await self._try_acquire_or_renew():
            if self._holder() != self._identity:
                return False
            await self._clock.sleep(self._retry_seconds)
        return True

    # --- the lease ------------------------------------------------------------------------------------------------

    async def _try_acquire_or_renew(self) -> bool:
        """Acquire the Lease or renew it; returns whether this process holds it."""
        sent_at = self._clock.monotonic()
        try:
            lease = await self._write()
        except errors.Conflict:
            return False
        except (errors.APIError, api.Unreachable) as error:
            self._log_problem(str(error))
            return False
        self._problem = ""
        if lease is None:
            return False
        self._observe(lease)
        # Counted from before the request: other candidates count from when they read the result.
        self._renewed_at = sent_at
        return True

    def _log_problem(self, problem: str) -> None:
        """Log a problem once: the attempt is repeated every few seconds, maybe for days."""
        if problem != self._problem:
            message = "failed to acquire lease" if self._renewed_at is None else "failed to renew lease"
            _log.warning(message, extra={"lease": self._name, "error": problem})
        self._problem = problem

    async def _write(self) -> Lease | None:
        """The Lease as this process wrote it; None if another process holds it."""
        seconds = round(self._lease_seconds)
        try:
            self._observe(await self._client.get(leases.RESOURCE, self._name, self._namespace))
        except errors.NotFound:
            self._observed = None
            lease = self._new_lease(self._identity, seconds, is_renewal=False)
            try:
                return await self._client.create(leases.RESOURCE, lease, self._namespace)
            except errors.AlreadyExists:
                return None
        is_holder = self._holder() == self._identity
        if not is_holder and not self._is_expired():
            return None
        lease = self._new_lease(self._identity, seconds, is_renewal=is_holder)
        return await self._client.update(leases.RESOURCE, lease)

    def _new_lease(self, identity: str, seconds: int, *, is_renewal: bool) -> Lease:
        now = timestamps.rfc3339_micro(self._clock.now())
        lease = Lease()
        before = LeaseSpec()
        if self._observed is not None:
            lease.metadata, before = self._observed.metadata, self._observed.spec
        lease.metadata.name, lease.metadata.namespace = self._name, self._namespace
        transitions = before.lease_transitions or 0
        is_transition = not is_renewal and self._observed is not None and bool(identity)
        lease.spec = LeaseSpec(
            holder_identity=identity,
            lease_duration_seconds=seconds,
            acquire_time=before.acquire_time if is_renewal else now,
            renew_time=now,
            lease_transitions=transitions + 1 if is_transition else transitions,
        )
        return lease

    def _observe(self, lease: Lease) -> None:
        if self._observed is None or self._observed.spec != lease.spec:
            self._observed_at = self._clock.monotonic()
        self._observed = lease

    def _holder(self) -> str:
        return (self._observed.spec.holder_identity or "") if self._observed is not None else ""

    def _is_expired(self) -> bool:
        assert self._observed is not None  # noqa: S101 - called after a Lease was read
        if not self._holder():
            return True
        seconds = self._observed.spec.lease_duration_seconds or self._lease_seconds
        return self._clock.monotonic() - self._observed_at >= seconds


class FencedTransport:
    """A transport that sends no write unless this process is the leader at that moment. Implements `api.Transport`."""

    def __init__(self, transport: api.Transport, elector: LeaderElector) -> None:
        self._transport = transport
        self._elector = elector

    async def send(self, request: api.Request) -> api.Response:
        if request.method == "GET":
            return await self._transport.send(request)
        # Also now: a write that cannot be sent should not use up the rate limit.
        self._check_leadership()
        return await self._transport.send(dataclasses.replace(request, before_sending=self._check_leadership))

    def stream(self, request: api.Request) -> contextlib.AbstractAsyncContextManager[api.Response]:
        """Raises ValueError unless the method is GET: writes have no stream."""
        if request.method != "GET":
            raise ValueError(f"a {request.method} request cannot be streamed")
        return self._transport.stream(request)

    def _check_leadership(self) -> None:
        if not self._elector.is_leader:
            raise api.Unreachable("not sent: this process is not the leader")
