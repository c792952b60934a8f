"""Records of what is about to be signed: in a store, and on the request itself."""

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


class Storage:
    """Where records are kept between processes, and a client of the API server."""

    def __init__(self, kind, plane, store=None):
        self._kind = kind
        self.clock = plane.clock
        self._store = store or memory.MemoryStore()
        self.admin = plane.client(flow.ADMIN)

    def records(self):
        """The records as a new process has them."""
        if self._kind == "request":
            return records.ConditionRecords(self.admin, self.clock)
        return records.JournalRecords(journal.Journal(self._store), self.admin, self.clock)

    async def approved(self, name="a"):
        await self.admin.create(csrs.RESOURCE, flow.new_csr(name))
        return await flow.decide(self.admin, name)

    async def current(self, name="a"):
        return await self.admin.get(csrs.RESOURCE, name)

    async def all_recorded(self):
        """The recorded bytes of all requests."""
        recorded = [content for _, content in await journal.Journal(self._store).entries()]
        for csr in (await self.admin.list(csrs.RESOURCE)).items:
            recorded += [condition.message for condition in csr.status.conditions if condition.type == records.ISSUING]
        return recorded


@pytest.fixture(params=KINDS)
async def storage(request):
    async with flow.running(controllers=frozenset()) as plane:
        yield Storage(request.param, plane)


@contextlib.asynccontextmanager
async def background_cleanup(signing_records, storage):
    """Records that are cleaned up in the background."""
    csr_informer = informer.Informer(storage.admin, csrs.RESOURCE, storage.clock)
    following = asyncio.ensure_future(csr_informer.run())
    await csr_informer.synced.wait()
    running = asyncio.ensure_future(signing_records.run(csr_informer))
    try:
        yield
    finally:
        for task in (running, following):
            task.cancel()
        await asyncio.gather(running, following, return_exceptions=True)


async def test_the_first_record_is_kept(storage):
    """A later caller, even in another process, gets the bytes that were recorded first."""
    csr = await storage.approved()
    first = await storage.records().record(csr, b"one")
    later = await storage.records().record(await storage.current(), b"two")
    assert (first.content, later.content) == (b"one", b"one")


async def test_a_record_can_be_replaced(storage):
    """If its bytes cannot be signed any more."""
    signing_records = storage.records()
    kept = await signing_records.record(await storage.approved(), b"one")
    replaced = await signing_records.replace(kept.csr, b"two")
    later = await storage.records().record(await storage.current(), b"three")
    assert (replaced.content, later.content) == (b"two", b"two")


async def test_the_record_of_a_published_request_is_deleted(storage):
    """Its other conditions are kept."""
    signing_records = storage.records()
    async with background_cleanup(signing_records, storage):
        kept = await signing_records.record(await storage.approved(), b"one")
        new = csrs.with_condition(kept.csr, csrs.FAILED, "Test", "for the test")
        await signing_records.publish(new)
        await testing.settle(500)
        await storage.clock.advance(2)
        await testing.settle(500)
        assert await storage.all_recorded() == []
    types = [condition.type for condition in (await storage.current()).status.conditions]
    assert types == [csrs.APPROVED, csrs.FAILED]


async def test_the_record_of_a_deleted_request_is_deleted(storage):
    """No certificate will be issued for it."""
    signing_records = storage.records()
    async with background_cleanup(signing_records, storage):
        await signing_records.record(await storage.approved(), b"one")
        await storage.admin.delete(csrs.RESOURCE, "a")
        await testing.settle(500)
        await storage.clock.advance(2)
        await testing.settle(500)
        assert await storage.all_recorded() == []


async def test_the_record_of_a_replaced_request_is_deleted(storage):
    """The informer was interrupted while the request was deleted and another one created under its name."""
    signing_records = storage.records()
    csr_informer = informer.Informer(storage.admin, csrs.RESOURCE, storage.clock)
    csr = await storage.approved()
    first = asyncio.ensure_future(csr_informer.run())
    await csr_informer.synced.wait()
    cleaning = asyncio.ensure_future(signing_records.run(csr_informer))
    await testing.settle(500)
    await signing_records.record(csr, b"one")
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    await storage.admin.delete(csrs.RESOURCE, "a")
    await storage.admin.create(csrs.RESOURCE, flow.new_csr("a"))
    second = asyncio.ensure_future(csr_informer.run())
    await testing.settle(500)
    await storage.clock.advance(2)
    await testing.settle(500)
    for task in (second, cleaning):
        task.cancel()
    await asyncio.gather(second, cleaning, return_exceptions=True)
    assert await storage.all_recorded() == []


async def test_one_of_two_concurrent_records_is_kept(storage):
    """The other caller gets a Conflict, or the bytes that were recorded."""
    csr = await storage.approved()
    kept = await asyncio.gather(
        *(storage.records().record(csr, data) for data in (b"one", b"two")), return_exceptions=True
    )
    recorded = {result.content for result in kept if isinstance(result, records.Record)}
    assert len(recorded) == 1
    assert all(isinstance(result, errors.Conflict) for result in kept if not isinstance(result, records.Record))
    assert (await storage.records().record(await storage.current(), b"three")).content in recorded


class SlowStore(memory.MemoryStore):
    """A store whose lists wait until they are released."""

    def __init__(self):
        super().__init__()
        self.asked, self.released = asyncio.Event(), asyncio.Event()

    async def list(self, prefix, **options):
        self.asked.set()
        await self.released.wait()
        return await super().list(prefix, **options)


async def test_the_record_of_a_request_that_arrives_during_recovery_is_kept():
    """Otherwise it would be signed without a record."""
    async with flow.running(controllers=frozenset()) as plane:
        store = SlowStore()
        storage = Storage("store", plane, store)
        signing_records = storage.records()
        async with background_cleanup(signing_records, storage):
            await store.asked.wait()
            csr = await storage.approved()
            await testing.settle(500)
            await signing_records.record(csr, b"one")
            store.released.set()
            await testing.settle(500)
            await storage.clock.advance(2)
            await testing.settle(500)
            assert await storage.all_recorded() == [b"one"]


@pytest.mark.parametrize("text", ["no base64!", "é"], ids=["not base64", "not ASCII"])
async def test_a_foreign_condition_is_returned_unchanged(text):
    """The caller validates and replaces it."""
    async with flow.running(controllers=frozenset()) as plane:
        storage = Storage("request", plane)
        csr = csrs.with_condition(await storage.approved(), records.ISSUING, "Other", text)
        csr = await storage.admin.update(csrs.RESOURCE, csr, "status")
        assert (await storage.records().record(csr, b"one")).content == text.encode()
