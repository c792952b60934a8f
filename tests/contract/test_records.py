"""What is about to be signed is recorded until it is published: in a store, and on the request itself."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from certplane import errors, testing
from certplane.client import informer
from certplane.controllers import records
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
            return records.OnRequest(self.admin, self._plane.clock)
        return records.InStore(journal.Journal(self._store), self.admin, self._plane.clock)

    async def approved(self, name="a"):
        await self.admin.create(csrs.RESOURCE, flow.new_csr(name))
        return await flow.decide(self.admin, name)

    async def current(self, name="a"):
        return await self.admin.get(csrs.RESOURCE, name)

    async def left(self):
        """What is recorded, all in all."""
        found = [each for _, each in await journal.Journal(self._store).kept()]
        for each in (await self.admin.list(csrs.RESOURCE)).items:
            found += [one.message for one in each.status.conditions if one.type == records.ISSUING]
        return found


@pytest.fixture(params=KINDS)
async def place(request):
    async with flow.running(controllers=frozenset()) as plane:
        yield Place(request.param, plane)


@contextlib.asynccontextmanager
async def looked_after(of, place):
    """Records, looked after."""
    requests = informer.Informer(place.admin, csrs.RESOURCE, place._plane.clock)
    following = asyncio.ensure_future(requests.run())
    await requests.synced.wait()
    running = asyncio.ensure_future(of.run(requests))
    try:
        yield
    finally:
        for task in (running, following):
            task.cancel()
        await asyncio.gather(running, following, return_exceptions=True)


async def test_the_first_that_is_recorded_stays(place):
    """Whoever comes later, even from another process, gets what was recorded before."""
    of = await place.approved()
    first = await place.records().keep(of, b"one")
    later = await place.records().keep(await place.current(), b"two")
    assert (first.to_be_signed, later.to_be_signed) == (b"one", b"one")


async def test_something_else_is_recorded_where_that_is_meant(place):
    """What was recorded cannot be signed any more."""
    made = place.records()
    kept = await made.keep(await place.approved(), b"one")
    replaced = await made.replace(kept.request, b"two")
    found = await place.records().keep(await place.current(), b"three")
    assert (replaced.to_be_signed, found.to_be_signed) == (b"two", b"two")


async def test_nothing_is_left_of_what_is_published(place):
    """The certificate is there, and the record is not."""
    made = place.records()
    async with looked_after(made, place):
        kept = await made.keep(await place.approved(), b"one")
        new = csrs.with_condition(kept.request, csrs.FAILED, "Test", "for the test")
        await made.publish(new)
        await testing.settle(500)
        await place._plane.clock.advance(2)
        await testing.settle(500)
        assert await place.left() == []
    types = [each.type for each in (await place.current()).status.conditions]
    assert types == [csrs.APPROVED, csrs.FAILED]


async def test_nothing_is_left_of_what_is_deleted(place):
    """Nobody waits for its certificate any more."""
    made = place.records()
    async with looked_after(made, place):
        await made.keep(await place.approved(), b"one")
        await place.admin.delete(csrs.RESOURCE, "a")
        await testing.settle(500)
        await place._plane.clock.advance(2)
        await testing.settle(500)
        assert await place.left() == []


async def test_of_two_copies_one_records(place):
    """The other one hears of it: that its request has changed, or what was recorded."""
    of = await place.approved()
    kept = await asyncio.gather(*(place.records().keep(of, each) for each in (b"one", b"two")), return_exceptions=True)
    recorded = {each.to_be_signed for each in kept if isinstance(each, records.Kept)}
    assert len(recorded) == 1
    assert all(isinstance(each, errors.Conflict) for each in kept if not isinstance(each, records.Kept))
    assert (await place.records().keep(await place.current(), b"three")).to_be_signed in recorded


async def test_what_is_no_record_is_found_as_it_is():
    """Somebody else wrote a condition of this type: it is handed on, to be judged and replaced."""
    async with flow.running(controllers=frozenset()) as plane:
        place = Place("request", plane)
        of = csrs.with_condition(await place.approved(), records.ISSUING, "Other", "no base64!")
        of = await place.admin.update(csrs.RESOURCE, of, "status")
        assert (await place.records().keep(of, b"one")).to_be_signed == b"no base64!"
