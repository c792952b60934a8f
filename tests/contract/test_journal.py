"""What is about to be signed is kept until it is published: over all stores."""

from __future__ import annotations

import pytest

from certplane.store import contract, journal, memory, sqlite


@pytest.fixture(params=["memory", "sqlite"])
async def store(request, tmp_path):
    made = memory.MemoryStore() if request.param == "memory" else sqlite.open_store(tmp_path / "store.sqlite")
    yield made
    await made.close()


async def test_the_first_that_is_kept_stays(store):
    """Whoever comes later, even from another process, gets what was kept before."""
    assert await journal.Journal(store).keep("uid", b"one") == b"one"
    assert await journal.Journal(store).keep("uid", b"two") == b"one"


async def test_something_else_is_kept_where_that_is_meant(store):
    """By whoever knows what was kept; not by one that is behind."""
    first, second = journal.Journal(store), journal.Journal(store)
    await first.keep("uid", b"one")
    await second.keep("uid", b"two")
    await first.replace("uid", b"three")
    with pytest.raises(contract.RevisionMismatch):
        await second.replace("uid", b"four")
    assert await journal.Journal(store).keep("uid", b"five") == b"three"


async def test_what_is_published_is_forgotten(store):
    """Nothing is left of it; to forget it again is no fault."""
    made = journal.Journal(store)
    await made.keep("a", b"one")
    await made.keep("b", b"two")
    await made.forget("a")
    await made.forget("a")
    assert list(await journal.Journal(store).kept()) == [("b", b"two")]


async def test_a_later_process_forgets_what_an_earlier_one_kept(store):
    """Once it has looked."""
    await journal.Journal(store).keep("a", b"one")
    later = journal.Journal(store)
    await later.kept()
    await later.forget("a")
    assert list(await later.kept()) == []
