"""Watches of the SQLite store that are opened while it changes."""

from __future__ import annotations

import asyncio
import contextlib
import threading

import pytest

from certplane.store import contract, sqlite

#: Seconds after which a test that waits for a thread fails.
PATIENCE = 60


class BlockedReader:
    """Stops the reads of a store in the middle of a query, until `release` is called."""

    def __init__(self, store):
        self._reader = store._reader
        self._begun = threading.Event()
        self._released = threading.Event()
        self._reader.set_progress_handler(self._wait, 1)

    def _wait(self):
        self._begun.set()
        return 0 if self._released.wait(PATIENCE) else 1

    async def begun(self):
        assert await asyncio.to_thread(self._begun.wait, PATIENCE)

    def release(self):
        self._released.set()


class Watching:
    """A watch that is being opened in a task; records what it delivers, and the reasons of its end."""

    def __init__(self, store, after, on_end=lambda: None):
        self.revisions = []
        self.ends = []
        self._on_end = on_end
        self.task = asyncio.ensure_future(store.watch("/a/", after, self._deliver, self._ended))

    def _deliver(self, changes):
        self.revisions += [change.revision for change in changes]

    def _ended(self, reason):
        self.ends.append(reason)
        self._on_end()


@pytest.fixture
async def store(tmp_path):
    """A store with the revisions 2 to 4, of which 3 has another prefix."""
    opened = sqlite.open_store(tmp_path / "store.db")
    for key in ("/a/1", "/b/1", "/a/2"):
        await opened.create(key, b"x")
    yield opened
    await opened.close()


async def test_changes_during_the_read_of_the_history_are_delivered_after_it(store):
    """Each once, in order: no change falls between the history and the live changes."""
    reader = BlockedReader(store)
    watching = Watching(store, 1)
    await reader.begun()
    await store.create("/a/3", b"x")
    await store.create("/b/2", b"x")
    await store.create("/a/4", b"x")
    assert watching.revisions == []
    reader.release()
    await watching.task
    assert watching.revisions == [2, 4, 5, 7]
    await store.create("/a/5", b"x")
    assert watching.revisions == [2, 4, 5, 7, 8]


async def test_a_compaction_during_the_read_of_the_history_is_reported(store):
    """Not a history with a gap."""
    reader = BlockedReader(store)
    watching = Watching(store, 1)
    await reader.begun()
    await store.compact(3)
    reader.release()
    with pytest.raises(contract.Compacted):
        await watching.task
    await store.create("/a/3", b"x")
    assert watching.revisions == []


async def test_a_watch_that_is_cancelled_while_it_is_opened_delivers_nothing(store):
    """Nor does it stay registered."""
    reader = BlockedReader(store)
    watching = Watching(store, 1)
    await reader.begun()
    watching.task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watching.task
    reader.release()
    await store.create("/a/3", b"x")
    assert (watching.revisions, watching.ends) == ([], [])


async def test_a_store_that_is_closed_while_a_watch_is_opened(store):
    """The watch gets the reason, and nothing after it."""
    reader = BlockedReader(store)
    watching = Watching(store, 1, on_end=reader.release)
    await reader.begun()
    await store.close()
    with pytest.raises(contract.StoreClosed):
        await watching.task
    assert watching.revisions == []
    assert [str(reason) for reason in watching.ends] == ["the store is closed"]


@pytest.mark.parametrize("operation", ["read", "watch", "check", "write", "compact"])
async def test_a_closed_store_is_reported(store, operation):
    """With the exception of the contract, not with that of the library."""
    await store.close()
    operations = {
        "read": lambda: store.get("/a/1", 2),
        "watch": lambda: store.watch("/a/", 1, lambda _: None, lambda _: None),
        "check": store.check,
        "write": lambda: store.create("/a/9", b"x"),
        "compact": lambda: store.compact(3),
    }
    with pytest.raises(contract.StoreClosed):
        await operations[operation]()


async def test_a_revision_to_come_cannot_be_compacted(store):
    """It would forbid reads of values that are not written yet."""
    with pytest.raises(contract.FutureRevision):
        await store.compact(5)
    assert await store.oldest() == 1
    await store.compact(4)
    assert await store.oldest() == 4


async def test_equal_watches_are_told_apart(store):
    """One of two watches with the same callbacks is cancelled; the other still delivers."""
    revisions = []

    def deliver(changes):
        revisions.extend(change.revision for change in changes)

    def ended(reason):
        del reason

    reader = BlockedReader(store)
    first, second = (asyncio.ensure_future(store.watch("/a/", 1, deliver, ended)) for _ in range(2))
    await reader.begun()
    second.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await second
    reader.release()
    await first
    await store.create("/a/3", b"x")
    assert revisions == [2, 4, 5]
