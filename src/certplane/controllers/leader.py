"""One of several copies works: an election over a Lease, by client-go's rules, so that it may be held against others.

A copy that has not seen the lease change for as long as the lease says takes it. It looks at its own clock alone: what
others write into the lease as times means nothing, only that it changes. Whoever holds it renews it, and stops to work
before others may take over: what it then still wants to write is not sent (`Fenced`), however long the process stood
still.

Source: client-go `tools/leaderelection`; the lease's fields: KEP-0014 (node heartbeats), `coordination.k8s.io/v1`.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import random
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from typing import Any, Final

from certplane import clock as clocks
from certplane import errors
from certplane.client import api
from certplane.resources import leases

_log = logging.getLogger("certplane.controllers")

_JITTER: Final = 1.2
#: A lease that was given up can be taken at once.
_GIVEN_UP_SECONDS: Final = 1


@dataclasses.dataclass(frozen=True, slots=True)
class Terms:
    """What is agreed on: the lease's place, who this copy is, and the times in seconds."""

    name: str
    namespace: str
    identity: str
    lease: float = 15.0
    deadline: float = 10.0
    retry: float = 2.0


class Lost(errors.CertplaneError):
    """Another copy may lead by now; what was begun is not the business of this one any more."""


class Leader:
    """An election. `acquire` first, then `hold` for as long as the work goes on."""

    def __init__(self, client: api.Client, terms: Terms, clock: clocks.Clock) -> None:
        self._client = client
        self._terms = terms
        self._clock = clock
        #: The lease as it was last seen to change, and when that was.
        self._seen: leases.Lease | None = None
        self._seen_at = 0.0
        self._renewed_at: float | None = None
        self._complained = ""

    @property
    def leads(self) -> bool:
        """Whether nobody else can lead now."""
        return self._renewed_at is not None and self._clock.monotonic() - self._renewed_at < self._terms.deadline

    def problem(self, grace: float) -> str | None:
        """What is wrong, if this copy believes that it leads although its lease was over `grace` seconds ago."""
        if self._renewed_at is None:
            return None
        late = self._clock.monotonic() - self._renewed_at > self._terms.lease + grace
        return "the lease is over, and was not renewed" if late else None

    async def acquire(self) -> None:
        """Wait until this copy leads."""
        told = ""
        while not await self._try():
            holder = self._holder()
            if holder != told and holder:
                _log.info("another copy leads", extra={"lease": self._terms.name, "identity": holder})
            told = holder
            await self._clock.sleep(self._terms.retry * (1 + random.random() * (_JITTER - 1)))  # noqa: S311 - no secret
        _log.info("leading", extra={"lease": self._terms.name, "identity": self._terms.identity})

    async def hold(self) -> None:
        """Keep leading until cancelled. Raises Lost once it cannot be renewed in time."""
        assert self._renewed_at is not None  # noqa: S101 - acquire comes first
        while True:
            await self._clock.sleep(self._terms.retry)
            if not await self._within(self._left(self._renewed_at), self._until_renewed()):
                self._renewed_at = None
                raise Lost(self._loss())

    async def release(self) -> None:
        """Give the lease up, so that another copy need not wait for its end. A server that does not answer is not
        waited for any longer than this copy would have led.
        """
        if self._renewed_at is None or not self.leads:
            return
        left = self._left(self._renewed_at)
        self._renewed_at = None
        await self._within(left, self._given_up())

    def _loss(self) -> str:
        holder, name = self._holder(), self._terms.name
        if holder != self._terms.identity:
            return f"the lease {name} is held by {holder or 'nobody'} now"
        return f"the lease {name} could not be renewed in {self._terms.deadline:g}s"

    def _left(self, renewed_at: float) -> float:
        return renewed_at + self._terms.deadline - self._clock.monotonic()

    async def _within(self, seconds: float, work: Coroutine[Any, Any, bool]) -> bool:
        """What the work comes to; False if it takes longer."""
        trying = asyncio.ensure_future(work)
        waiting = asyncio.ensure_future(self._clock.sleep(max(seconds, 0)))
        try:
            await asyncio.wait({trying, waiting}, return_when=asyncio.FIRST_COMPLETED)
            return trying.done() and trying.result()
        finally:
            trying.cancel()
            waiting.cancel()
            await asyncio.gather(trying, waiting, return_exceptions=True)

    async def _given_up(self) -> bool:
        with contextlib.suppress(errors.APIError, api.Unreachable):
            await self._client.update(leases.RESOURCE, self._made("", _GIVEN_UP_SECONDS, renews=False))
        return True

    async def _until_renewed(self) -> bool:
        while not await self._try():
            if self._holder() != self._terms.identity:
                return False
            await self._clock.sleep(self._terms.retry)
        return True

    # --- the lease ------------------------------------------------------------------------------------------------

    async def _try(self) -> bool:
        """Take the lease, or renew it; whether this copy holds it now."""
        asked_at = self._clock.monotonic()
        try:
            held = await self._write()
        except errors.Conflict:
            return False
        except (errors.APIError, api.Unreachable) as error:
            self._complain(str(error))
            return False
        self._complained = ""
        if held is None:
            return False
        self._note(held)
        # From before the question on: the others count from when they saw the answer.
        self._renewed_at = asked_at
        return True

    def _complain(self, problem: str) -> None:
        """Say what is wrong, once: it is tried again every few seconds, maybe for days."""
        if problem != self._complained:
            extra = {"lease": self._terms.name, "problem": problem}
            _log.warning("the lease cannot be had or renewed", extra=extra)
        self._complained = problem

    async def _write(self) -> leases.Lease | None:
        """The lease as this copy wrote it; None if it is somebody else's."""
        terms = self._terms
        try:
            self._note(await self._client.get(leases.RESOURCE, terms.name, terms.namespace))
        except errors.NotFound:
            self._seen = None
            new = self._made(terms.identity, round(terms.lease), renews=False)
            try:
                created: leases.Lease = await self._client.create(leases.RESOURCE, new, terms.namespace)
            except errors.AlreadyExists:
                return None
            return created
        is_own = self._holder() == terms.identity
        if not is_own and not self._is_over():
            return None
        made = self._made(terms.identity, round(terms.lease), renews=is_own)
        updated: leases.Lease = await self._client.update(leases.RESOURCE, made)
        return updated

    def _made(self, identity: str, seconds: int, *, renews: bool) -> leases.Lease:
        now = clocks.rfc3339_micro(self._clock.now())
        made = leases.Lease()
        before = leases.LeaseSpec()
        if self._seen is not None:
            made.metadata, before = self._seen.metadata, self._seen.spec
        made.metadata.name, made.metadata.namespace = self._terms.name, self._terms.namespace
        transitions = before.lease_transitions or 0
        made.spec = leases.LeaseSpec(
            holder_identity=identity,
            lease_duration_seconds=seconds,
            acquire_time=before.acquire_time if renews else now,
            renew_time=now,
            lease_transitions=transitions if renews or self._seen is None or not identity else transitions + 1,
        )
        return made

    def _note(self, found: leases.Lease) -> None:
        if self._seen is None or self._seen.spec != found.spec:
            self._seen_at = self._clock.monotonic()
        self._seen = found

    def _holder(self) -> str:
        return (self._seen.spec.holder_identity or "") if self._seen is not None else ""

    def _is_over(self) -> bool:
        assert self._seen is not None  # noqa: S101 - only asked of one that was seen
        if not self._holder():
            return True
        seconds = self._seen.spec.lease_duration_seconds or self._terms.lease
        return self._clock.monotonic() - self._seen_at >= seconds


class Fenced:
    """A transport that carries no writes of a copy that does not lead. Implements `api.Transport`."""

    def __init__(self, transport: api.Transport, leader: Leader) -> None:
        self._transport = transport
        self._leader = leader

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> api.Response:
        if method != "GET" and not self._leader.leads:
            raise api.Unreachable("not sent: another copy may lead by now")
        return await self._transport.request(method, path, query=query, headers=headers, body=body)

    @contextlib.asynccontextmanager
    async def stream(
        self,
        method: str,
        path: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[api.Chunks]:
        async with self._transport.stream(method, path, query=query, headers=headers) as answer:
            yield answer
