"""What is about to be signed is recorded until it is published: in a store, and on the request itself."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from certplane import errors, testing
from certplane.client import informer
from certplane.controllers.signing import records
from certplane.resources import certificatesigningrequests as csrs
from certplane.store import journal, memory
from tests.flow import plane as flow

KINDS = ("store", "request")


class Place:
    """Where records are; what one process leaves there the next one finds."""

    def __init__(self, kind, plane):
        self._kind = kind
        self._plane = plane
        self._store = memory.MemoryStore()
        self.admin = plane.client(flow.ADMIN)

    def records(self):
        """Those of another process."""
        if self._kind == "request":
            return records.ConditionRecords(self.admin, self._plane.clock)
        return records.JournalRecords(journal.Journal(self._store), self.admin, self._plane.clock)

    async def approved(self, name="a"):
        await self.admin.create(csrs.RESOURCE, flow.new_csr(name))
        return await flow.decide(self.admin, name)

    async def current(self, name="a"):
        return await self.admin.get(csrs.RESOURCE, name)

    async def all_recorded(self):
        """What is recorded, all in all."""
        recorded = [to_be_signed for _, to_be_signed in await journal.Journal(self._store).entries()]
        for csr in (await self.admin.list(csrs.RESOURCE)).items:
            recorded += [condition.message for condition in csr.status.conditions if condition.type == records.ISSUING]
        return recorded


@pytest.fixture(params=KINDS)
async def place(request):
    async with flow.running(controllers=frozenset()) as plane:
        yield Place(request.param, plane)


@contextlib.asynccontextmanager
async def maintained(signing_records, place):
    """Records that are maintained."""
    requests = informer.Informer(place.admin, csrs.RESOURCE, place._plane.clock)
    following = asyncio.ensure_future(requests.run())
    await requests.synced.wait()
    running = asyncio.ensure_future(signing_records.run(requests))
    try:
        yield
    finally:
        for task in (running, following):
            task.cancel()
        await asyncio.gather(running, following, return_exceptions=True)


async def test_the_first_that_is_recorded_stays(place):
    """Whoever comes later, even from another process, gets what was recorded before."""
    csr = await place.approved()
    first = await place.records().record(csr, b"one")
    later = await place.records().record(await place.current(), b"two")
    assert (first.to_be_signed, later.to_be_signed) == (b"one", b"one")


async def test_something_else_is_recorded_where_that_is_meant(place):
    """What was recorded cannot be signed any more."""
    signing_records = place.records()
    kept = await signing_records.record(await place.approved(), b"one")
    replaced = await signing_records.replace(kept.csr, b"two")
    found = await place.records().record(await place.current(), b"three")
    assert (replaced.to_be_signed, found.to_be_signed) == (b"two", b"two")


async def test_nothing_is_left_of_what_is_published(place):
    """The certificate is there, and the record is not."""
    signing_records = place.records()
    async with maintained(signing_records, place):
        kept = await signing_records.record(await place.approved(), b"one")
        new = csrs.with_condition(kept.csr, csrs.FAILED, "Test", "for the test")
        await signing_records.publish(new)
        await testing.settle(500)
        await place._plane.clock.advance(2)
        await testing.settle(500)
        assert await place.all_recorded() == []
    types = [each.type for each in (await place.current()).status.conditions]
    assert types == [csrs.APPROVED, csrs.FAILED]


async def test_nothing_is_left_of_what_is_deleted(place):
    """Nobody waits for its certificate any more."""
    signing_records = place.records()
    async with maintained(signing_records, place):
        await signing_records.record(await place.approved(), b"one")
        await place.admin.delete(csrs.RESOURCE, "a")
        await testing.settle(500)
        await place._plane.clock.advance(2)
        await testing.settle(500)
        assert await place.all_recorded() == []


async def test_of_two_copies_one_records(place):
    """The other one hears of it: that its request has changed, or what was recorded."""
    csr = await place.approved()
    kept = await asyncio.gather(
        *(place.records().record(csr, each) for each in (b"one", b"two")), return_exceptions=True
    )
    recorded = {result.to_be_signed for result in kept if isinstance(result, records.Record)}
    assert len(recorded) == 1
    assert all(isinstance(result, errors.Conflict) for result in kept if not isinstance(result, records.Record))
    assert (await place.records().record(await place.current(), b"three")).to_be_signed in recorded


async def test_what_is_no_record_is_found_as_it_is():
    """Somebody else wrote a condition of this type: it is handed on, to be judged and replaced."""
    async with flow.running(controllers=frozenset()) as plane:
        place = Place("request", plane)
        csr = csrs.with_condition(await place.approved(), records.ISSUING, "Other", "no base64!")
        csr = await place.admin.update(csrs.RESOURCE, csr, "status")
        assert (await place.records().record(csr, b"one")).to_be_signed == b"no base64!"
