"""What every store owes, sentence by sentence of the contract: one suite over all of them."""

from __future__ import annotations

import asyncio
import stat

import pytest

from certplane import errors
from certplane.store import contract, memory, sqlite, watchcache


@pytest.fixture(params=["memory", "sqlite"])
async def store(request, tmp_path):
    made = memory.MemoryStore() if request.param == "memory" else sqlite.open_store(tmp_path / "store.sqlite")
    yield made
    await made.close()


class Recorder:
    """Remembers what a watch delivers."""

    def __init__(self):
        self.changes = []
        self.ends = []

    def deliver(self, changes):
        self.changes.extend(changes)

    def ended(self, reason):
        self.ends.append(reason)

    @property
    def told(self):
        return [(each.revision, each.key, each.current.value if each.current else None) for each in self.changes]


async def watched(store, prefix="/", after=1):
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
    gone = await store.delete("/b", b.mod_revision)
    assert [a.mod_revision, b.mod_revision, changed.mod_revision, gone.revision] == [2, 3, 4, 5]
    assert await store.revision() == 5


async def test_a_refused_write_changes_nothing(store):
    """No revision, no value, no change."""
    made = await store.create("/a", b"1")
    seen = await watched(store, after=made.mod_revision)
    with pytest.raises(contract.KeyExists):
        await store.create("/a", b"2")
    with pytest.raises(contract.RevisionMismatch):
        await store.update("/a", b"2", 1)
    with pytest.raises(contract.RevisionMismatch):
        await store.delete("/a", 99)
    assert (await store.revision(), await store.get("/a"), seen.told) == (2, made, [])


async def test_refusals_tell_what_is_there(store):
    """`current` is what the key holds; None where it holds nothing."""
    made = await store.create("/a", b"1")
    with pytest.raises(contract.KeyExists) as exists:
        await store.create("/a", b"2")
    assert exists.value.current == made
    with pytest.raises(contract.RevisionMismatch) as differs:
        await store.update("/a", b"2", 1)
    assert differs.value.current == made
    with pytest.raises(contract.RevisionMismatch) as missing:
        await store.delete("/b", 2)
    assert missing.value.current is None


async def test_versions_count_the_writes_of_a_key(store):
    """From 1 at its creation; deleting and creating begins anew."""
    first = await store.create("/a", b"1")
    second = await store.update("/a", b"2", first.mod_revision)
    assert second == contract.KeyValue("/a", b"2", 2, 3, 2)
    await store.delete("/a", 3)
    assert await store.create("/a", b"3") == contract.KeyValue("/a", b"3", 5, 5, 1)


async def test_the_past_can_be_read(store):
    """get and list at a revision show what was then; the future cannot be read."""
    await store.create("/a", b"1")
    await store.create("/b", b"1")
    await store.update("/a", b"2", 2)
    await store.delete("/b", 3)
    assert (await store.get("/a", 3)).value == b"1"
    assert (await store.get("/b", 4)).value == b"1"
    assert await store.get("/b", 2) is None
    assert [each.value for each in (await store.list("/", revision=3)).items] == [b"1", b"1"]
    assert [each.key for each in (await store.list("/")).items] == ["/a"]
    for read in (store.get("/a", 99), store.list("/", revision=99)):
        with pytest.raises(contract.FutureRevision):
            await read


async def test_lists_come_in_pages_of_one_moment(store):
    """Pages go on at the revision of the first, whatever is written between them."""
    for name in "abcde":
        await store.create(f"/{name}", b"")
    first = await store.list("/", limit=2)
    assert ([each.key for each in first.items], first.revision, first.remaining) == (["/a", "/b"], 6, 3)
    await store.delete("/d", 5)
    await store.create("/bb", b"")
    second = await store.list("/", start="/b\0", limit=2, revision=first.revision)
    assert ([each.key for each in second.items], second.revision, second.remaining) == (["/c", "/d"], 6, 1)
    third = await store.list("/", start="/d\0", limit=2, revision=first.revision)
    assert ([each.key for each in third.items], third.remaining) == (["/e"], 0)


async def test_keys_are_in_the_order_of_their_bytes(store):
    """UTF-8's, which is not that of UTF-16, and prefixes are bytes, not patterns."""
    keys = ["/x/%", "/x/A", "/x/_", "/x/a", "/x/ﬀ", "/x/𐀀", "/x0", "/y/a"]
    for key in reversed(keys):
        await store.create(key, b"")
    assert [each.key for each in (await store.list("/x/")).items] == keys[:6]
    assert [each.key for each in (await store.list("/x")).items] == keys[:7]


async def test_values_are_bytes(store):
    """Any bytes come back as they were, also none and many."""
    for number, value in enumerate((b"", b"\0\xff\x00", b"x" * 2_000_000)):
        await store.create(f"/{number}", value)
        assert (await store.get(f"/{number}")).value == value


async def test_a_watch_tells_every_change_once_in_order(store):
    """Under its prefix, after its start, with what was there before."""
    await store.create("/a/1", b"old")
    seen = await watched(store, "/a/", 2)
    await store.create("/b/1", b"other")
    await store.update("/a/1", b"new", 2)
    await store.delete("/a/1", 4)
    assert seen.told == [(4, "/a/1", b"new"), (5, "/a/1", None)]
    assert [each.previous.value for each in seen.changes] == [b"old", b"new"]


async def test_a_watch_begins_in_the_past(store):
    """What happened since is delivered before the call returns, then what happens."""
    await store.create("/a", b"1")
    await store.update("/a", b"2", 2)
    seen = await watched(store, after=2)
    assert seen.told == [(3, "/a", b"2")]
    assert seen.changes[0].previous.value == b"1"
    await store.delete("/a", 3)
    assert seen.told[1:] == [(4, "/a", None)]


async def test_a_watch_begins_in_the_future(store):
    """Changes up to then are left out."""
    seen = await watched(store, after=3)
    for name in "abc":
        await store.create(f"/{name}", b"")
    assert seen.told == [(4, "/c", b"")]


async def test_a_change_is_delivered_before_its_write_returns(store):
    """A cache in front of the store is never behind its own writer."""
    seen = await watched(store)
    for number in range(20):
        made = await store.create(f"/{number}", b"")
        assert seen.changes[-1].revision == made.mod_revision


async def test_a_closed_watch_is_silent(store):
    """Closing twice is no mistake."""
    seen = await watched(store)
    seen.watch.close()
    seen.watch.close()
    await store.create("/a", b"")
    assert seen.told == []


async def test_compaction_forgets_the_past_and_nothing_else(store):
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
    for refused in (store.get("/a", 3), store.list("/", revision=2), watched(store, after=2)):
        with pytest.raises(contract.Compacted):
            await refused
    assert (await watched(store, after=4)).told == [(5, "/a", b"3")]


async def test_one_of_many_creators_wins(store):
    """However many create a key at once, one does."""
    results = await asyncio.gather(*(store.create("/a", b"%d" % n) for n in range(50)), return_exceptions=True)
    won = [each for each in results if isinstance(each, contract.KeyValue)]
    assert len(won) == 1
    assert all(isinstance(each, contract.KeyExists) for each in results if each is not won[0])
    assert await store.get("/a") == won[0]


async def test_no_update_is_lost(store):
    """Many who add to one value by compare-and-swap end up with the sum."""
    await store.create("/a", b"0")

    async def add():
        while True:
            current = await store.get("/a")
            try:
                return await store.update("/a", b"%d" % (int(current.value) + 1), current.mod_revision)
            except contract.RevisionMismatch:
                continue

    seen = await watched(store, after=2)
    await asyncio.gather(*(add() for _ in range(30)))
    assert (await store.get("/a")).value == b"30"
    assert [each.current.value for each in seen.changes] == [b"%d" % n for n in range(1, 31)]


async def test_closing_finishes_what_was_asked(store):
    """Writes under way are done; later ones are refused, and closing again is no mistake."""
    seen = await watched(store)
    writes = [asyncio.ensure_future(store.create(f"/{n}", b"")) for n in range(10)]
    await asyncio.sleep(0)
    await store.close()
    assert [each.mod_revision for each in await asyncio.gather(*writes)] == list(range(2, 12))
    assert len(seen.changes) == 10
    await store.close()
    with pytest.raises(contract.StoreClosed):
        await store.create("/late", b"")


# --- what only a file can do --------------------------------------------------------------------------------------


async def test_a_file_remembers(tmp_path):
    """Values, revisions, history and compaction are there when it is opened again; a watch resumes."""
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
    assert (await watched(second, after=3)).told == [(4, "/b", b"1"), (5, "/b", None)]
    assert (await second.create("/c", b"")).mod_revision == 6
    await second.close()


async def test_a_file_has_one_owner(tmp_path):
    """A second opening is refused in words; after the first is closed, it is not."""
    path = tmp_path / "store.sqlite"
    first = sqlite.open_store(path)
    with pytest.raises(errors.SetupError, match="in use"):
        sqlite.open_store(path)
    await first.close()
    await sqlite.open_store(path).close()


async def test_a_file_is_for_nobody_else(tmp_path):
    """Requests and certificates are not secret, but who asked for what may be."""
    path = tmp_path / "store.sqlite"
    store = sqlite.open_store(path)
    await store.create("/a", b"")
    modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in tmp_path.iterdir()}
    await store.close()
    assert set(modes.values()) == {0o600}, modes


@pytest.mark.parametrize("content", [b"garbage" * 1000, b"SQLite format 3\0" + b"\xff" * 5000])
async def test_what_is_no_store_is_refused_in_words(content, tmp_path):
    """A damaged or foreign file is an error for people, and is left as it is."""
    path = tmp_path / "store.sqlite"
    path.write_bytes(content)
    with pytest.raises(errors.SetupError):
        sqlite.open_store(path)
    assert path.read_bytes() == content


# --- the cache in front -------------------------------------------------------------------------------------------


async def test_a_cache_shows_what_is_stored(store):
    """What was there at its start, and every change since, at the writer's revision."""
    await store.create("/registry/a/1", b"1")
    cache = watchcache.WatchCache(store, ["/registry/a/", "/registry/b/"])
    await cache.start()
    await store.create("/registry/a/2", b"2")
    await store.update("/registry/a/1", b"3", 2)
    entries, remaining = cache.collection("/registry/a/").list()
    assert [(each.value, each.mod_revision) for each in entries] == [(b"3", 4), (b"2", 3)]
    assert remaining == 0
    assert cache.revision == 4
    cache.close()


async def _seen(watcher):
    watcher.close()
    return [event.revision async for batch in watcher for event in batch]


async def test_a_cache_feeds_many_watches(store):
    """Each gets every change after its start, once, also what was before the cache itself began."""
    await store.create("/registry/a/1", b"")
    cache = watchcache.WatchCache(store, ["/registry/a/"])
    await cache.start()
    collection = cache.collection("/registry/a/")
    watchers = [collection.watch(1), collection.watch(2), collection.watch(2, "/registry/a/2")]
    await store.create("/registry/a/2", b"")
    await store.create("/registry/a/3", b"")
    assert [await _seen(watcher) for watcher in watchers] == [[2, 3, 4], [3, 4], [3]]
    cache.close()


async def test_a_cache_remembers_a_window(store):
    """Who comes from before it has to list again."""
    cache = watchcache.WatchCache(store, ["/registry/a/"], window=2)
    await cache.start()
    collection = cache.collection("/registry/a/")
    for number in range(4):
        await store.create(f"/registry/a/{number}", b"")
    assert await _seen(collection.watch(3)) == [4, 5]
    with pytest.raises(contract.Compacted):
        collection.watch(1)
    cache.close()


async def test_a_slow_watch_is_ended_and_nobody_else(store):
    """Who does not take what comes loses the watch, and is told that it overflowed."""
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


async def test_a_read_that_a_compaction_overtakes_is_refused(tmp_path):
    """It would miss what was forgotten meanwhile: a page without some of its objects, a watch without some changes."""
    store = sqlite.open_store(tmp_path / "store.sqlite")
    for value in (b"1", b"2", b"3"):
        current = await store.get("/a")
        await (store.create("/a", value) if current is None else store.update("/a", value, current.mod_revision))
    with store._reading:
        overtaken = [asyncio.ensure_future(read) for read in (
            store.get("/a", 2), store.list("/", revision=2), watched(store, after=2))]  # fmt: skip
        await asyncio.sleep(0)
        await store.compact(4)
    for read in overtaken:
        with pytest.raises(contract.Compacted):
            await read
    await store.create("/b", b"1")
    assert (await watched(store, after=4)).told == [(5, "/b", b"1")]
    await store.close()
