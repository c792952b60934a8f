"""The contract of a store, sentence by sentence: one suite over all stores."""

from __future__ import annotations

import asyncio
import stat

import pytest

from certplane import errors
from certplane.store import contract, memory, sqlite, watchcache


@pytest.fixture(params=["memory", "sqlite"])
async def store(request, tmp_path):
    opened = memory.MemoryStore() if request.param == "memory" else sqlite.open_store(tmp_path / "store.sqlite")
    yield opened
    await opened.close()


class Recorder:
    """Records what a watch delivers."""

    def __init__(self):
        self.changes = []
        self.ends = []

    def deliver(self, changes):
        self.changes.extend(changes)

    def ended(self, reason):
        self.ends.append(reason)

    @property
    def delivered(self):
        return [
            (change.revision, change.key, change.current.value if change.current else None) for change in self.changes
        ]


async def record_watch(store, prefix="/", after=1):
    recorder = Recorder()
    recorder.watch = await store.watch(prefix, after, recorder.deliver, recorder.ended)
    return recorder


async def test_an_empty_store_is_at_revision_1(store):
    """As etcd's is."""
    assert await store.revision() == 1
    assert await store.oldest() <= 1


async def test_every_write_gets_the_next_revision(store):
    """One counter for the whole store, without gaps."""
    a = await store.create("/a", b"1")
    b = await store.create("/b", b"1")
    changed = await store.update("/a", b"2", a.mod_revision)
    deleted = await store.delete("/b", b.mod_revision)
    assert [a.mod_revision, b.mod_revision, changed.mod_revision, deleted.revision] == [2, 3, 4, 5]
    assert await store.revision() == 5


async def test_a_refused_write_changes_nothing(store):
    """No revision, no value, no change."""
    created = await store.create("/a", b"1")
    recorder = await record_watch(store, after=created.mod_revision)
    with pytest.raises(contract.KeyExists):
        await store.create("/a", b"2")
    with pytest.raises(contract.RevisionMismatch):
        await store.update("/a", b"2", 1)
    with pytest.raises(contract.RevisionMismatch):
        await store.delete("/a", 99)
    assert (await store.revision(), await store.get("/a"), recorder.delivered) == (2, created, [])


async def test_errors_have_the_current_value(store):
    """`current` is the value of the key; None if it is absent."""
    created = await store.create("/a", b"1")
    with pytest.raises(contract.KeyExists) as exists:
        await store.create("/a", b"2")
    assert exists.value.current == created
    with pytest.raises(contract.RevisionMismatch) as differs:
        await store.update("/a", b"2", 1)
    assert differs.value.current == created
    with pytest.raises(contract.RevisionMismatch) as missing:
        await store.delete("/b", 2)
    assert missing.value.current is None


async def test_versions_count_the_writes_of_a_key(store):
    """From 1 at creation, also after a deletion."""
    first = await store.create("/a", b"1")
    second = await store.update("/a", b"2", first.mod_revision)
    assert second == contract.KeyValue("/a", b"2", 2, 3, 2)
    await store.delete("/a", 3)
    assert await store.create("/a", b"3") == contract.KeyValue("/a", b"3", 5, 5, 1)


async def test_old_revisions_can_be_read(store):
    """get and list return the values at a revision; future revisions are refused."""
    await store.create("/a", b"1")
    await store.create("/b", b"1")
    await store.update("/a", b"2", 2)
    await store.delete("/b", 3)
    assert (await store.get("/a", 3)).value == b"1"
    assert (await store.get("/b", 4)).value == b"1"
    assert await store.get("/b", 2) is None
    assert [item.value for item in (await store.list("/", revision=3)).items] == [b"1", b"1"]
    assert [item.key for item in (await store.list("/")).items] == ["/a"]
    for read in (store.get("/a", 99), store.list("/", revision=99)):
        with pytest.raises(contract.FutureRevision):
            await read


async def test_pages_of_a_list_have_one_revision(store):
    """Later pages are read at the revision of the first one."""
    for name in "abcde":
        await store.create(f"/{name}", b"")
    first = await store.list("/", limit=2)
    assert ([item.key for item in first.items], first.revision, first.remaining) == (["/a", "/b"], 6, 3)
    await store.delete("/d", 5)
    await store.create("/bb", b"")
    second = await store.list("/", start="/b\0", limit=2, revision=first.revision)
    assert ([item.key for item in second.items], second.revision, second.remaining) == (["/c", "/d"], 6, 1)
    third = await store.list("/", start="/d\0", limit=2, revision=first.revision)
    assert ([item.key for item in third.items], third.remaining) == (["/e"], 0)


async def test_keys_are_ordered_by_their_bytes(store):
    """UTF-8's, which is not that of UTF-16, and prefixes are bytes, not patterns."""
    keys = ["/x/%", "/x/A", "/x/_", "/x/a", "/x/ﬀ", "/x/𐀀", "/x0", "/y/a"]
    for key in reversed(keys):
        await store.create(key, b"")
    assert [item.key for item in (await store.list("/x/")).items] == keys[:6]
    assert [item.key for item in (await store.list("/x")).items] == keys[:7]


async def test_values_are_bytes(store):
    """Any bytes are returned unchanged, also none and two million."""
    for number, value in enumerate((b"", b"\0\xff\x00", b"x" * 2_000_000)):
        await store.create(f"/{number}", value)
        assert (await store.get(f"/{number}")).value == value


async def test_a_watch_delivers_every_change_once_in_order(store):
    """A change under its prefix and after its start is delivered with the previous value."""
    await store.create("/a/1", b"old")
    recorder = await record_watch(store, "/a/", 2)
    await store.create("/b/1", b"other")
    await store.update("/a/1", b"new", 2)
    await store.delete("/a/1", 4)
    assert recorder.delivered == [(4, "/a/1", b"new"), (5, "/a/1", None)]
    assert [change.previous.value for change in recorder.changes] == [b"old", b"new"]


async def test_a_watch_can_start_at_an_old_revision(store):
    """Past changes are delivered before the call returns."""
    await store.create("/a", b"1")
    await store.update("/a", b"2", 2)
    recorder = await record_watch(store, after=2)
    assert recorder.delivered == [(3, "/a", b"2")]
    assert recorder.changes[0].previous.value == b"1"
    await store.delete("/a", 3)
    assert recorder.delivered[1:] == [(4, "/a", None)]


async def test_a_watch_can_start_at_a_future_revision(store):
    """Changes up to then are skipped."""
    recorder = await record_watch(store, after=3)
    for name in "abc":
        await store.create(f"/{name}", b"")
    assert recorder.delivered == [(4, "/c", b"")]


async def test_a_change_is_delivered_before_its_write_returns(store):
    """A cache in front of the store is never behind its own writer."""
    recorder = await record_watch(store)
    for number in range(20):
        created = await store.create(f"/{number}", b"")
        assert recorder.changes[-1].revision == created.mod_revision


async def test_a_closed_watch_delivers_nothing(store):
    """Closing is idempotent."""
    recorder = await record_watch(store)
    recorder.watch.close()
    recorder.watch.close()
    await store.create("/a", b"")
    assert recorder.delivered == []


async def test_compaction_removes_old_revisions_only(store):
    """Reads below it and watches from before it are refused; current values and later history stay."""
    await store.create("/a", b"1")
    await store.update("/a", b"2", 2)
    await store.create("/b", b"1")
    await store.update("/a", b"3", 3)
    await store.compact(4)
    await store.compact(4)
    assert await store.oldest() == 4
    assert (await store.get("/a", 4)).value == b"2"
    assert (await store.get("/b")).value == b"1"
    for refused in (store.get("/a", 3), store.list("/", revision=2), record_watch(store, after=2)):
        with pytest.raises(contract.Compacted):
            await refused
    assert (await record_watch(store, after=4)).delivered == [(5, "/a", b"3")]


async def test_one_of_many_concurrent_creates_succeeds(store):
    """The others get KeyExists."""
    results = await asyncio.gather(*(store.create("/a", b"%d" % n) for n in range(50)), return_exceptions=True)
    winners = [result for result in results if isinstance(result, contract.KeyValue)]
    assert len(winners) == 1
    assert all(isinstance(result, contract.KeyExists) for result in results if result is not winners[0])
    assert await store.get("/a") == winners[0]


async def test_no_update_is_lost(store):
    """Concurrent increments with compare-and-swap give the sum."""
    await store.create("/a", b"0")

    async def add():
        while True:
            current = await store.get("/a")
            try:
                return await store.update("/a", b"%d" % (int(current.value) + 1), current.mod_revision)
            except contract.RevisionMismatch:
                continue

    recorder = await record_watch(store, after=2)
    await asyncio.gather(*(add() for _ in range(30)))
    assert (await store.get("/a")).value == b"30"
    assert [change.current.value for change in recorder.changes] == [b"%d" % n for n in range(1, 31)]


async def test_close_finishes_queued_writes(store):
    """Later writes are refused. Closing is idempotent."""
    recorder = await record_watch(store)
    writes = [asyncio.ensure_future(store.create(f"/{n}", b"")) for n in range(10)]
    await asyncio.sleep(0)
    await store.close()
    assert [written.mod_revision for written in await asyncio.gather(*writes)] == list(range(2, 12))
    assert len(recorder.changes) == 10
    await store.close()
    with pytest.raises(contract.StoreClosed):
        await store.create("/late", b"")


# --- the file -----------------------------------------------------------------------------------------------------


async def test_a_reopened_file_has_everything(tmp_path):
    """Values, revisions, history and the compaction revision; a watch resumes."""
    path = tmp_path / "store.sqlite"
    first = sqlite.open_store(path)
    await first.create("/a", b"1")
    await first.update("/a", b"2", 2)
    await first.create("/b", b"1")
    await first.delete("/b", 4)
    await first.compact(3)
    await first.close()
    second = sqlite.open_store(path)
    assert (await second.revision(), await second.oldest()) == (5, 3)
    assert (await second.get("/b", 4)).value == b"1"
    assert (await record_watch(second, after=3)).delivered == [(4, "/b", b"1"), (5, "/b", None)]
    assert (await second.create("/c", b"")).mod_revision == 6
    await second.close()


async def test_a_file_has_one_process(tmp_path):
    """It cannot be opened again before it is closed."""
    path = tmp_path / "store.sqlite"
    first = sqlite.open_store(path)
    with pytest.raises(errors.SetupError, match="in use"):
        sqlite.open_store(path)
    await first.close()
    await sqlite.open_store(path).close()


async def test_files_are_readable_by_their_owner_only(tmp_path):
    """The store has Secrets."""
    path = tmp_path / "store.sqlite"
    store = sqlite.open_store(path)
    await store.create("/a", b"")
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
    await store.close()
    assert set(modes.values()) == {0o600}, modes


@pytest.mark.parametrize("content", [b"garbage" * 1000, b"SQLite format 3\0" + b"\xff" * 5000])
async def test_a_file_that_is_no_store_is_refused(content, tmp_path):
    """The error is a SetupError, and the file is not changed."""
    path = tmp_path / "store.sqlite"
    path.write_bytes(content)
    with pytest.raises(errors.SetupError):
        sqlite.open_store(path)
    assert path.read_bytes() == content


# --- the watch cache ----------------------------------------------------------------------------------------------


async def test_a_cache_has_the_stored_values(store):
    """Values from before its start, and every change since, at the writer's revision."""
    await store.create("/registry/a/1", b"1")
    cache = watchcache.WatchCache(store, ["/registry/a/", "/registry/b/"])
    await cache.start()
    await store.create("/registry/a/2", b"2")
    await store.update("/registry/a/1", b"3", 2)
    entries, remaining = cache.collection("/registry/a/").list()
    assert [(entry.value, entry.mod_revision) for entry in entries] == [(b"3", 4), (b"2", 3)]
    assert remaining == 0
    assert cache.revision == 4
    cache.close()


async def _seen(watcher):
    watcher.close()
    return [event.revision async for batch in watcher for event in batch]


async def test_a_cache_serves_many_watches(store):
    """Each gets every change after its start once, also changes from before the start of the cache."""
    await store.create("/registry/a/1", b"")
    cache = watchcache.WatchCache(store, ["/registry/a/"])
    await cache.start()
    collection = cache.collection("/registry/a/")
    watchers = [collection.watch(1), collection.watch(2), collection.watch(2, "/registry/a/2")]
    await store.create("/registry/a/2", b"")
    await store.create("/registry/a/3", b"")
    assert [await _seen(watcher) for watcher in watchers] == [[2, 3, 4], [3, 4], [3]]
    cache.close()


async def test_a_watch_can_start_within_the_window(store):
    """An older revision raises Compacted."""
    cache = watchcache.WatchCache(store, ["/registry/a/"], window=2)
    await cache.start()
    collection = cache.collection("/registry/a/")
    for number in range(4):
        await store.create(f"/registry/a/{number}", b"")
    assert await _seen(collection.watch(3)) == [4, 5]
    with pytest.raises(contract.Compacted):
        collection.watch(1)
    cache.close()


async def test_a_slow_watch_is_closed_and_others_are_not(store):
    """It does not take its events, and finds `overflowed` set."""
    cache = watchcache.WatchCache(store, ["/registry/a/"])
    await cache.start()
    slow = cache.collection("/registry/a/").watch(backlog=2)
    other = cache.collection("/registry/a/").watch()
    for number in range(5):
        await store.create(f"/registry/a/{number}", b"")
    assert await _seen(slow) == []
    assert slow.overflowed
    assert await _seen(other) == [2, 3, 4, 5, 6]
    assert not other.overflowed
    cache.close()


async def test_a_read_during_a_compaction_is_refused(tmp_path):
    """Otherwise a page would miss objects, or a watch would miss changes."""
    store = sqlite.open_store(tmp_path / "store.sqlite")
    for value in (b"1", b"2", b"3"):
        current = await store.get("/a")
        await (store.create("/a", value) if current is None else store.update("/a", value, current.mod_revision))
    with store._reader_lock:
        reads = [asyncio.ensure_future(read) for read in (
            store.get("/a", 2), store.list("/", revision=2), record_watch(store, after=2))]  # fmt: skip
        await asyncio.sleep(0)
        await store.compact(4)
    for read in reads:
        with pytest.raises(contract.Compacted):
            await read
    await store.create("/b", b"1")
    assert (await record_watch(store, after=4)).delivered == [(5, "/b", b"1")]
    await store.close()
