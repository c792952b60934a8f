"""The issuance journal has the bytes to be signed until the certificate is published: over all stores."""

from __future__ import annotations

import asyncio

import pytest

from certplane.store import contract, memory, sqlite
from certplane.store.journal import Journal


@pytest.fixture(params=["memory", "sqlite"])
async def store(request, tmp_path):
    opened = memory.MemoryStore() if request.param == "memory" else sqlite.open_store(tmp_path / "store.sqlite")
    yield opened
    await opened.close()


async def test_the_first_entry_of_a_uid_stays(store):
    """A later caller, even in another process, gets the bytes that were recorded first."""
    assert await Journal(store).record("uid", b"one") == b"one"
    assert await Journal(store).record("uid", b"two") == b"one"


async def test_an_entry_is_replaced_explicitly(store):
    """Only by a caller that has seen its latest revision."""
    first, second = Journal(store), Journal(store)
    await first.record("uid", b"one")
    await second.record("uid", b"two")
    await first.replace("uid", b"three")
    with pytest.raises(contract.RevisionMismatch):
        await second.replace("uid", b"four")
    assert await Journal(store).record("uid", b"five") == b"three"


async def test_a_deleted_entry_is_gone(store):
    """Deleting it again does nothing."""
    journal = Journal(store)
    await journal.record("a", b"one")
    await journal.record("b", b"two")
    await journal.delete("a")
    await journal.delete("a")
    assert list(await Journal(store).entries()) == [("b", b"two")]


class SlowList:
    """A store whose lists return when they are released: what they say may be out of date by then."""

    def __init__(self, store):
        self.create, self.update, self.delete = store.create, store.update, store.delete
        self._store = store
        self.read, self.released = asyncio.Event(), asyncio.Event()

    async def list(self, prefix):
        page = await self._store.list(prefix)
        self.read.set()
        await self.released.wait()
        return page


async def test_an_entry_that_is_replaced_during_a_list_can_be_deleted(store):
    """The list has its former revision."""
    slow = SlowList(store)
    journal = Journal(slow)
    await journal.record("a", b"one")
    listing = asyncio.ensure_future(journal.entries())
    await slow.read.wait()
    await journal.replace("a", b"two")
    slow.released.set()
    await listing
    await journal.delete("a")
    assert list(await Journal(store).entries()) == []


async def test_a_later_process_deletes_the_entries_of_an_earlier_one(store):
    """After it has listed them."""
    await Journal(store).record("a", b"one")
    later = Journal(store)
    await later.entries()
    await later.delete("a")
    assert list(await later.entries()) == []
