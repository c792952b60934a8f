"""The archive in an SQLite store: one row for each entry, and the index of its terms.

The rows are in the file of the objects, so that an entry and the write that it is about are one transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final

from certplane.store import archive

#: AUTOINCREMENT: the number of a removed entry is not used again.
SCHEMA: Final = """
CREATE TABLE archive (
    sequence   INTEGER PRIMARY KEY AUTOINCREMENT,
    collection TEXT NOT NULL,
    name       TEXT NOT NULL,
    ends       INTEGER NOT NULL,
    terms      TEXT NOT NULL,
    value      BLOB NOT NULL
);
CREATE UNIQUE INDEX archive_by_name ON archive (collection, name);
CREATE INDEX archive_by_end ON archive (collection, ends, sequence);
CREATE TABLE archive_terms (
    collection TEXT NOT NULL,
    term       TEXT NOT NULL,
    ends       INTEGER NOT NULL,
    sequence   INTEGER NOT NULL,
    PRIMARY KEY (collection, term, ends, sequence)
) WITHOUT ROWID
"""
#: Between the terms of a row, which are kept to remove them.
_SEPARATOR: Final = "\0"
#: The least and the greatest integer of SQLite.
_MIN: Final = -(2**63)
_MAX: Final = 2**63 - 1
#: How many entries of a term are counted, to find the rarest term of a search.
_SAMPLE: Final = 1000


#: Runs a statement, and returns its rows.
Query = Callable[[str, Sequence[object]], Awaitable[Sequence[Any]]]
#: Changes the archive inside a transaction, and returns by how many entries it has grown.
Work = Callable[[sqlite3.Connection], int]
#: Has the writer do this.
Write = Callable[[Work], Awaitable[int]]


def insert(connection: sqlite3.Connection, entries: Iterable[archive.Entry]) -> int:
    """Insert entries inside a transaction, and return how many are new."""
    added = 0
    for entry in entries:
        terms = set(entry.terms)
        row = (entry.collection, entry.name, entry.ends, _SEPARATOR.join(terms), entry.value)
        cursor = connection.execute(
            "INSERT INTO archive (collection, name, ends, terms, value) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            row,
        )
        if cursor.rowcount != 1:
            continue
        added += 1
        sequence = cursor.lastrowid
        connection.executemany(
            "INSERT INTO archive_terms VALUES (?, ?, ?, ?)",
            [(entry.collection, term, entry.ends, sequence) for term in terms],
        )
    return added


def remove_ended(connection: sqlite3.Connection, collection: str, before: int, limit: int) -> int:
    """Remove entries inside a transaction, and return by how many the archive has grown: 0 or less."""
    rows = connection.execute(
        "SELECT sequence, ends, terms FROM archive WHERE collection = ? AND ends < ? ORDER BY ends, sequence LIMIT ?",
        (collection, before, limit),
    ).fetchall()
    for sequence, ends, terms in rows:
        connection.executemany(
            "DELETE FROM archive_terms WHERE collection = ? AND term = ? AND ends = ? AND sequence = ?",
            [(collection, term, ends, sequence) for term in terms.split(_SEPARATOR)],
        )
        connection.execute("DELETE FROM archive WHERE sequence = ?", (sequence,))
    return -len(rows)


def count(connection: sqlite3.Connection) -> int:
    """The number of entries."""
    (entries,) = connection.execute("SELECT count(*) FROM archive").fetchone()
    return int(entries)


class SQLiteArchive:
    """Implements `archive.Archive`."""

    def __init__(self, query: Query, write: Write) -> None:
        self._query = query
        self._write = write

    async def get(self, collection: str, name: str) -> archive.Stored | None:
        rows = await self._query(
            "SELECT ends, sequence, value FROM archive WHERE collection = ? AND name = ?", (collection, name)
        )
        return _stored(rows[0]) if rows else None

    async def find(self, query: archive.Query, limit: int) -> archive.Found:
        first, *others = await self._by_frequency(query) if query.terms else ("",)
        places, parameters = _range(query, first)
        tests, test_parameters = _tests(query, others)
        size = archive.MAX_EXAMINED if tests else limit + 1
        rows = await self._query(
            f"WITH c AS ({places} LIMIT ?), "  # noqa: S608 - constant texts
            f"m AS (SELECT ends, sequence FROM c WHERE {' AND '.join(tests) or '1'} ORDER BY ends, sequence LIMIT ?) "
            "SELECT m.ends, m.sequence, (SELECT value FROM archive a WHERE a.sequence = m.sequence) FROM m",
            (*parameters, size, *test_parameters, limit + 1),
        )
        entries = [_stored(row) for row in rows]
        if len(entries) > limit:
            return archive.Found(entries[:limit], entries[limit - 1].position)
        if not tests:
            return archive.Found(entries, None)
        # There may be more in the range than were examined.
        last = await self._query(f"{places} LIMIT 1 OFFSET ?", (*parameters, size - 1))
        return archive.Found(entries, archive.Position(*last[0]) if last else None)

    async def _by_frequency(self, query: archive.Query) -> Sequence[str]:
        """The terms of a query, the rarest first."""
        terms = list(dict.fromkeys(query.terms))
        if len(terms) == 1:
            return terms
        count = "(SELECT count(*) FROM (SELECT 1 FROM archive_terms WHERE collection = ? AND term = ? LIMIT ?))"
        parameters = [value for term in terms for value in (query.collection, term, _SAMPLE)]
        (counts,) = await self._query(f"SELECT {', '.join([count] * len(terms))}", parameters)
        return [term for _, term in sorted(zip(counts, terms, strict=True))]

    async def newest(self) -> int:
        rows = await self._query("SELECT seq FROM sqlite_sequence WHERE name = 'archive'", ())
        return int(rows[0][0]) if rows else 0

    async def append(self, entries: Sequence[archive.Entry]) -> int:
        return await self._write(lambda connection: insert(connection, entries))

    async def remove_ended(self, collection: str, before: int, limit: int) -> int:
        return -await self._write(lambda connection: remove_ended(connection, collection, before, limit))


def _range(query: archive.Query, term: str) -> tuple[str, Sequence[object]]:
    """A statement for the places of all entries with a term (empty: of all entries) in the range of a query, in order:
    a range of an index.
    """
    start = archive.Position(query.ends_from if query.ends_from is not None else _MIN, _MIN)
    after = max(start, query.after) if query.after is not None else start
    before = query.ends_before if query.ends_before is not None else _MAX
    condition = "collection = ? AND (ends, sequence) > (?, ?) AND ends < ?"
    parameters = (query.collection, after.ends, after.sequence, before)
    order = "ORDER BY ends, sequence"
    if not term:
        return f"SELECT ends, sequence FROM archive WHERE {condition} {order}", parameters  # noqa: S608 - constant texts
    return (
        f"SELECT ends, sequence FROM archive_terms WHERE {condition} AND term = ? {order}",  # noqa: S608 - constant texts
        (*parameters, term),
    )


def _tests(query: archive.Query, terms: Sequence[str]) -> tuple[Sequence[str], Sequence[object]]:
    """The conditions on an entry `c`: that it has `terms`, and none that the query excludes."""
    has_term = (
        "EXISTS (SELECT 1 FROM archive_terms t WHERE t.collection = ? AND t.term = ? AND t.ends = c.ends "
        "AND t.sequence = c.sequence)"
    )
    tests = [has_term] * len(terms) + [f"NOT {has_term}"] * len(query.without)
    return tests, [value for term in (*terms, *query.without) for value in (query.collection, term)]


def _stored(row: Any) -> archive.Stored:
    return archive.Stored(archive.Position(row[0], row[1]), row[2])
