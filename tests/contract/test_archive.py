"""The contract of the archive of a store: one suite over all stores."""

from __future__ import annotations

import sqlite3

import pytest

from certplane import errors
from certplane.store import archive, contract, memory, sqlite


def open_store(kind, tmp_path):
    return memory.MemoryStore() if kind == "memory" else sqlite.open_store(tmp_path / "store.sqlite")


@pytest.fixture(params=["memory", "sqlite"])
async def store(request, tmp_path):
    opened = open_store(request.param, tmp_path)
    yield opened
    await opened.close()


def entry(name, ends=100, *terms, collection="c"):
    return archive.Entry(collection, name, ends, terms, name.encode())


async def names(store, limit=10, **query):
    """The names of all entries that a search finds, page by page."""
    found, after = [], None
    while True:
        page = await store.archive.find(archive.Query("c", after=after, **query), limit)
        found += [stored.value.decode() for stored in page.entries]
        if page.next is None:
            return found
        assert after is None or page.next > after
        after = page.next


async def test_an_update_carries_entries(store):
    """They are there when the update returns."""
    created = await store.create("/a", b"1")
    await store.update("/a", b"2", created.mod_revision, [entry("x")])
    assert (await store.archive.get("c", "x")).value == b"x"
    assert await store.archive.get("c", "y") is None
    assert await store.archive.get("other", "x") is None


async def test_a_failed_update_archives_nothing(store):
    """The entries and the update are one write."""
    created = await store.create("/a", b"1")
    await store.update("/a", b"2", created.mod_revision)
    with pytest.raises(contract.RevisionMismatch):
        await store.update("/a", b"3", created.mod_revision, [entry("x")])
    assert await store.archive.get("c", "x") is None
    assert await store.archive.newest() == 0


async def test_an_entry_is_never_replaced(store):
    """The first entry of a name stays, with its terms."""
    assert await store.archive.append([entry("x", 1, "t=1"), entry("y", 2, "t=1")]) == 2
    assert await store.archive.append([entry("x", 9, "t=2"), entry("z", 3)]) == 1
    assert (await store.archive.get("c", "x")).position.ends == 1
    assert await names(store, terms=("t=2",)) == []
    assert await names(store) == ["x", "y", "z"]


async def test_entries_are_in_the_order_of_their_ends(store):
    """Equal ends are in the order of writing. Times before 1970 are negative."""
    await store.archive.append([entry("d", 7), entry("b", 5), entry("c", 5), entry("a", -1)])
    assert await names(store) == ["a", "b", "c", "d"]
    assert await names(store, limit=1) == ["a", "b", "c", "d"]
    assert await names(store, limit=2) == ["a", "b", "c", "d"]


async def test_search_by_end(store):
    """From the first bound on, and before the second."""
    await store.archive.append([entry(str(ends), ends) for ends in range(1, 8)])
    assert await names(store, ends_from=3) == ["3", "4", "5", "6", "7"]
    assert await names(store, ends_before=3) == ["1", "2"]
    assert await names(store, limit=1, ends_from=3, ends_before=5) == ["3", "4"]


async def test_search_by_terms(store):
    """An entry must have all terms, and none of those that are excluded. A repeated term counts once."""
    await store.archive.append(
        [entry("a", 1, "s=1", "r=1", "s=1"), entry("b", 2, "s=1", "r=2"), entry("c", 3, "s=2", "r=1"), entry("d", 4)]
    )
    assert await names(store, terms=("s=1",)) == ["a", "b"]
    assert await names(store, terms=("s=1", "r=1")) == ["a"]
    assert await names(store, terms=("s=1", "s=1")) == ["a", "b"]
    assert await names(store, without=("s=1",)) == ["c", "d"]
    assert await names(store, terms=("r=1",), without=("s=2",), ends_before=3) == ["a"]
    assert await names(store, terms=("s=3",)) == []


async def test_a_search_examines_a_bounded_number_of_entries(store, monkeypatch):
    """A page may be short, or empty, and the next pages have the rest."""
    monkeypatch.setattr(archive, "MAX_EXAMINED", 3)
    await store.archive.append([entry(f"{ends:02}", ends, "s=1", f"r={ends}") for ends in range(20)])
    assert await names(store, terms=("s=1",), without=("r=0",)) == [f"{ends:02}" for ends in range(1, 20)]
    assert await names(store, without=[f"r={ends}" for ends in range(19)]) == ["19"]


async def test_ended_entries_are_removed_oldest_first(store):
    """With their terms; the others stay, and sequence numbers are not used again."""
    await store.archive.append([entry(str(ends), ends, "t=1") for ends in range(1, 6)])
    await store.archive.append([entry("other", 1, collection="d")])
    newest = await store.archive.newest()
    assert await store.archive.remove_ended("c", 4, 2) == 2
    assert await names(store) == ["3", "4", "5"]
    assert await store.archive.remove_ended("c", 4, 2) == 1
    assert await store.archive.remove_ended("c", 4, 2) == 0
    assert await names(store, terms=("t=1",)) == ["4", "5"]
    assert await store.archive.get("d", "other") is not None
    assert await store.archive.remove_ended("d", 2, 5) == 1
    await store.archive.append([entry("new")])
    assert (await store.archive.get("c", "new")).position.sequence > newest


async def test_a_closed_store_refuses(store):
    """With StoreClosed, like all other methods."""
    await store.close()
    with pytest.raises(contract.StoreClosed):
        await store.archive.get("c", "x")
    with pytest.raises(contract.StoreClosed):
        await store.archive.append([entry("x")])


async def test_entries_survive_a_restart(tmp_path):
    """In SQLite, with those that were written with updates."""
    store = open_store("sqlite", tmp_path)
    created = await store.create("/a", b"1")
    await store.update("/a", b"2", created.mod_revision, [entry("x", 1, "t=1")])
    await store.archive.append([entry("y", 2)])
    await store.close()
    store = open_store("sqlite", tmp_path)
    assert await names(store) == ["x", "y"]
    await store.close()


async def test_a_store_without_an_archive_gets_one(tmp_path):
    """A store of the former format is converted when it is opened, with its objects."""
    path = tmp_path / "store.sqlite"
    store = sqlite.open_store(path)
    await store.create("/a", b"1")
    await store.close()
    with sqlite3.connect(path) as connection:
        connection.executescript("DROP TABLE archive; DROP TABLE archive_terms; PRAGMA user_version = 1")
    connection.close()
    store = sqlite.open_store(path)
    assert (await store.get("/a")).value == b"1"
    await store.archive.append([entry("x")])
    assert await names(store) == ["x"]
    await store.close()


async def test_a_store_of_a_later_format_is_refused(tmp_path):
    """This program would not know what it must keep."""
    path = tmp_path / "store.sqlite"
    await sqlite.open_store(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 3")
    connection.close()
    with pytest.raises(errors.SetupError, match="version 3"):
        sqlite.open_store(path)


async def test_entries_of_another_process_stop_writes(tmp_path):
    """As changed objects do: the history would be forged."""
    path = tmp_path / "store.sqlite"
    store = sqlite.open_store(path)
    await store.archive.append([entry("x")])
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("INSERT INTO archive (collection, name, ends, terms, value) VALUES ('c', 'y', 1, '', '')")
    connection.close()
    with pytest.raises(contract.StoreClosed, match="another process"):
        await store.archive.append([entry("z")])
    await store.close()


async def test_searches_use_an_index(tmp_path):
    """No page, and no search by name, term or end, reads all entries."""
    store = open_store("sqlite", tmp_path)
    statements = []
    original = store._query

    async def explain(sql, parameters):
        statements.append("\n".join(row[3] for row in await original(f"EXPLAIN QUERY PLAN {sql}", parameters)))
        return await original(sql, parameters)

    store.archive._query = explain
    await store.archive.get("c", "x")
    position = archive.Position(5, 5)
    for terms, without in (((), ()), (("s=1",), ()), (("s=1", "r=1"), ("q=1",))):
        await store.archive.find(archive.Query("c", terms, without, ends_from=1, ends_before=9, after=position), 10)
    assert len(statements) >= 6
    for plan in statements:
        assert "SCAN archive" not in plan
    await store.close()
