"""A store in one SQLite file: one writer, write-ahead log, group commit.

One thread (`sqlitewriter`) does all writes, and completes a group of them after one commit. With synchronous=FULL a
commit is one fsync, and an acknowledged write survives kill -9 and power loss, whatever other processes do with the
file (`files`). The table is append-only, one row per revision, as in kine: lists can be read at a revision, and watches
can be resumed after a restart. `compact` removes superseded rows.

The newest values are also in memory on the event loop's side, where reads do not wait. They are replaced only after the
commit, in the order of revisions; readers never see a value that is not durable.

This module does not know objects, and does not decide when to compact.
"""

from __future__ import annotations

import asyncio
import bisect
import builtins
import dataclasses
import pathlib
import sqlite3
import threading
from collections.abc import Iterable, Sequence
from typing import Any, Final

from certplane import errors
from certplane.store import contract, sqlitearchive, sqlitewriter
from certplane.store.archive import Archive, Entry
from certplane.store.files import Files

_SCHEMA_VERSION: Final = 2
#: The version before this one; its stores are converted when they are opened.
_WITHOUT_ARCHIVE: Final = 1
#: "cpln": marks the file as a certplane store, so that no other database is opened as one.
_APPLICATION_ID: Final = 0x63706C6E
_SCHEMA: Final = """
CREATE TABLE revisions (
    revision        INTEGER PRIMARY KEY,
    key             TEXT NOT NULL,
    create_revision INTEGER NOT NULL,
    previous        INTEGER NOT NULL,
    version         INTEGER NOT NULL,
    value           BLOB
);
CREATE INDEX revisions_by_key ON revisions (key, revision);
CREATE TABLE facts (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO facts VALUES ('compacted', 1)
"""
#: How long a write waits for another process's lock: as long as etcd's request timeout.
_BUSY_MILLISECONDS: Final = 5000
_COLUMNS: Final = sqlitewriter.COLUMNS


@dataclasses.dataclass(slots=True, eq=False)
class _Watch:
    prefix: str
    after: int
    deliver: contract.Deliver
    ended: contract.Ended
    #: Live changes that arrived while history is read; None when changes are delivered directly.
    held_back: list[contract.Change] | None
    closed: bool = False

    def offer(self, changes: Sequence[contract.Change]) -> None:
        matching = [change for change in changes if change.revision > self.after and change.key.startswith(self.prefix)]
        if not matching or self.closed:
            return
        if self.held_back is not None:
            self.held_back.extend(matching)
        else:
            self.deliver(matching)

    def close(self) -> None:
        self.closed = True


class SQLiteStore:
    """Implements `contract.Store`. Open one with `open_store`."""

    def __init__(self, writer: sqlite3.Connection, reader: sqlite3.Connection, store_files: Files) -> None:
        self._loop = asyncio.get_running_loop()
        self._reader = reader
        self._reader_lock = threading.Lock()
        self._files = store_files
        state = sqlitewriter.read(writer)
        self._current = state.newest
        self._keys = sorted(self._current)
        self._compacted = state.compacted
        #: Reads at an older revision are incomplete: a compaction that is not finished may already have removed rows.
        self._readable_from = state.compacted
        self._revision = state.revision
        self._watches: list[_Watch] = []
        self._closed = False
        self._writer = sqlitewriter.Writer(writer, store_files, state, self._finish)
        self._thread = threading.Thread(target=self._writer.run, name="certplane-store", daemon=True)
        self._thread.start()
        self._archive = sqlitearchive.SQLiteArchive(self._query, self._write_archive)

    @property
    def problem(self) -> str | None:
        return self._writer.problem

    @property
    def archive(self) -> Archive:
        return self._archive

    async def check(self) -> None:
        self._refuse_if_closed()
        await self._writer.check()

    # --- writes ---------------------------------------------------------------------------------------------------

    async def create(self, key: str, value: bytes) -> contract.KeyValue:
        written: contract.KeyValue = await self._submit(key, value, None)
        return written

    async def update(self, key: str, value: bytes, expected: int, archived: Sequence[Entry] = ()) -> contract.KeyValue:
        written: contract.KeyValue = await self._submit(key, value, expected, archived)
        return written

    async def delete(self, key: str, expected: int) -> contract.Change:
        change: contract.Change = await self._submit(key, None, expected)
        return change

    def _submit(
        self, key: str, value: bytes | None, expected: int | None, archived: Sequence[Entry] = ()
    ) -> asyncio.Future[Any]:
        self._refuse_if_closed()
        # A key that cannot be encoded fails here, before it fails all writes of its group.
        key.encode("utf-8")
        return self._writer.write(key, value, expected, archived)

    async def _write_archive(self, work: sqlitearchive.Work) -> int:
        self._refuse_if_closed()
        return await self._writer.write_archive(work)

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise contract.StoreClosed("the store is closed")

    def _finish(self, done: Sequence[tuple[sqlitewriter.Write, sqlitewriter.Outcome]]) -> None:
        """Runs on the event loop after a commit: apply the changes, notify the watches, then complete the futures."""
        changes = [outcome for _, outcome in done if isinstance(outcome, contract.Change)]
        for change in changes:
            self._apply(change)
        try:
            if changes:
                for watch in list(self._watches):
                    watch.offer(changes)
        finally:
            # Writers get their results even if a watch raises, against the contract.
            _complete(done)

    def _apply(self, change: contract.Change) -> None:
        self._revision = change.revision
        if change.current is None:
            del self._current[change.key]
            del self._keys[bisect.bisect_left(self._keys, change.key)]
        else:
            if change.previous is None:
                bisect.insort(self._keys, change.key)
            self._current[change.key] = change.current

    # --- reads ----------------------------------------------------------------------------------------------------

    async def get(self, key: str, revision: int = 0) -> contract.KeyValue | None:
        self._check(revision)
        if revision in (0, self._revision):
            return self._current.get(key)
        rows = await self._query(
            f"SELECT {_COLUMNS} FROM revisions WHERE key = ? AND revision <= ? ORDER BY revision DESC LIMIT 1",  # noqa: S608 - constant column names
            (key, revision),
        )
        self._check(revision)
        return sqlitewriter.key_value(rows[0]) if rows and rows[0][5] is not None else None

    async def list(self, prefix: str, *, start: str = "", limit: int = 0, revision: int = 0) -> contract.Page:
        self._check(revision)
        if revision in (0, self._revision):
            return self._list_newest(prefix, start, limit)
        begin, end = max(prefix, start), _after_prefix(prefix)
        rows = await self._query(
            f"SELECT {_COLUMNS} FROM revisions r WHERE key >= ? AND key < ? AND revision <= ? AND value IS NOT NULL "  # noqa: S608 - constant column names
            "AND NOT EXISTS (SELECT 1 FROM revisions n WHERE n.key = r.key AND n.revision > r.revision "
            "AND n.revision <= ?) ORDER BY key",
            (begin, end, revision, revision),
        )
        self._check(revision)
        shown = rows[:limit] if limit > 0 else rows
        return contract.Page([sqlitewriter.key_value(row) for row in shown], revision, len(rows) - len(shown))

    def _list_newest(self, prefix: str, start: str, limit: int) -> contract.Page:
        first = bisect.bisect_left(self._keys, max(prefix, start))
        last = bisect.bisect_left(self._keys, _after_prefix(prefix))
        stop = min(last, first + limit) if limit > 0 else last
        items = [self._current[key] for key in self._keys[first:stop]]
        return contract.Page(items, self._revision, max(last - stop, 0))

    def _check(self, revision: int) -> None:
        """Refuse revisions that cannot be read. Call it before and after a read: a compaction may run meanwhile."""
        if revision and revision < self._readable_from:
            raise contract.Compacted(revision, self._readable_from)
        if revision > self._revision:
            raise contract.FutureRevision(revision, self._revision)

    async def _query(self, sql: str, parameters: Sequence[object]) -> Sequence[Any]:
        return await self._loop.run_in_executor(None, self._query_now, sql, parameters)

    def _query_now(self, sql: str, parameters: Sequence[object]) -> Sequence[Any]:
        with self._reader_lock:
            if self._closed:
                raise contract.StoreClosed("the store is closed")
            try:
                return self._reader.execute(sql, parameters).fetchall()
            except sqlite3.Error as error:
                raise contract.StoreClosed(f"cannot read the store: {error}") from error

    async def revision(self) -> int:
        return self._revision

    async def oldest(self) -> int:
        return self._compacted

    # --- watches --------------------------------------------------------------------------------------------------

    async def watch(self, prefix: str, after: int, deliver: contract.Deliver, ended: contract.Ended) -> contract.Watch:
        watch = _Watch(prefix, after, deliver, ended, held_back=[])
        self._watches.append(watch)
        try:
            history = await self._history(prefix, after, self._revision)
            self._refuse_if_closed()
        except BaseException:
            # Also when the caller is cancelled: a watch without an owner would collect changes without end.
            if watch in self._watches:
                # `close` may have ended and removed it already.
                self._watches.remove(watch)
            raise
        if history and not watch.closed:
            watch.deliver(history)
        held_back, watch.held_back = watch.held_back, None
        if held_back and not watch.closed:
            watch.deliver(held_back)
        return watch

    async def _history(self, prefix: str, after: int, last: int) -> Sequence[contract.Change]:
        """The changes under `prefix` after the revision `after`, up to and including `last`."""
        self._refuse_compacted(after)
        if after >= last:
            return ()
        rows = await self._query(
            f"SELECT {_COLUMNS} FROM revisions WHERE revision > ? AND revision <= ? AND key >= ? AND key < ? "  # noqa: S608 - constant column names
            "ORDER BY revision",
            (after, last, prefix, _after_prefix(prefix)),
        )
        history = await self._loop.run_in_executor(None, self._changes, rows)
        self._refuse_compacted(after)
        return history

    def _refuse_compacted(self, after: int) -> None:
        if after < self._readable_from:
            raise contract.Compacted(after, self._readable_from)

    def _changes(self, rows: Iterable[Any]) -> builtins.list[contract.Change]:
        changes = []
        for row in rows:
            previous = None
            if row[3]:
                old_rows = self._query_now(f"SELECT {_COLUMNS} FROM revisions WHERE revision = ?", (row[3],))  # noqa: S608 - constant column names
                previous = sqlitewriter.key_value(old_rows[0]) if old_rows and old_rows[0][5] is not None else None
            current = sqlitewriter.key_value(row) if row[5] is not None else None
            changes.append(contract.Change(row[0], row[1], current, previous))
        return changes

    async def compact(self, revision: int) -> None:
        if revision > self._revision:
            raise contract.FutureRevision(revision, self._revision)
        if revision <= self._compacted:
            return
        self._refuse_if_closed()
        self._readable_from = max(self._readable_from, revision)
        await self._writer.compact(revision)
        self._compacted = max(self._compacted, revision)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._writer.stop()
        await self._loop.run_in_executor(None, self._thread.join)
        # Let the loop run the writer's last callback.
        await asyncio.sleep(0)
        watches, self._watches = self._watches, []
        for watch in watches:
            if not watch.closed:
                watch.ended(contract.StoreClosed("the store is closed"))
        with self._reader_lock:
            if not self._writer.stopped:
                # If files were replaced, keep the locks: SQLite must not remove the log of another database.
                self._files.release()
            self._reader.close()
        self._files.close()


def _complete(done: Sequence[tuple[sqlitewriter.Write, sqlitewriter.Outcome]]) -> None:
    for write, outcome in done:
        if write.result.done():
            continue
        if isinstance(outcome, contract.Change):
            write.result.set_result(outcome if write.value is None else outcome.current)
        else:
            write.result.set_exception(outcome)


def _after_prefix(prefix: str) -> str:
    """The first text that sorts after all texts with `prefix`."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1) if prefix else chr(0x10FFFF)


# --- opening ------------------------------------------------------------------------------------------------------


def open_store(path: pathlib.Path) -> SQLiteStore:
    """Open a store; create it if the file does not exist. Call this on the event loop that will use the store.

    Raises SetupError if the file is in use, cannot be opened, or is not a store.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise errors.SetupError(
            f"cannot create directory {path.parent}: {error.strerror}",
            ("choose another directory with --data-dir, or another file with --store sqlite:PATH",),
        ) from error
    store_files = Files(path)
    connections: list[sqlite3.Connection] = []
    try:
        store_files.claim()
        writer = _connect(path, connections)
        _prepare(writer, path)
        reader = _connect(path, connections)
        store_files.guard()
        return SQLiteStore(writer, reader, store_files)
    except BaseException as error:
        # Whatever interrupts the start, the locks must be released and the connections closed.
        store_files.release()
        for connection in connections:
            connection.close()
        store_files.close()
        if isinstance(error, sqlite3.Error | ValueError):
            raise errors.SetupError(f"cannot open the store {path}: {error}", (_hint(error),)) from error
        raise


def _hint(error: Exception) -> str:
    if getattr(error, "sqlite_errorname", "") == "SQLITE_BUSY":
        return "another program has locked the database; stop that program"
    return "restore the file from a backup, or move it away to start with an empty store"


def _connect(path: pathlib.Path, connections: list[sqlite3.Connection]) -> sqlite3.Connection:
    """Open a connection, and add it to `connections` before anything can fail."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=32)
    connections.append(connection)
    # A corrupt key must not prevent reading the others.
    connection.text_factory = _text
    connection.execute(f"PRAGMA busy_timeout = {_BUSY_MILLISECONDS}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    return connection


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _prepare(connection: sqlite3.Connection, path: pathlib.Path) -> None:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if tables == 0:
        _create(connection, f"{_SCHEMA};{sqlitearchive.SCHEMA}")
    elif application != _APPLICATION_ID:
        raise errors.SetupError(
            f"{path} is an SQLite database, but not a certplane store",
            ("choose another file with --store sqlite:PATH",),
        )
    elif version == _WITHOUT_ARCHIVE:
        _create(connection, sqlitearchive.SCHEMA)
    elif version != _SCHEMA_VERSION:
        raise errors.SetupError(
            f"the store {path} has format version {version}; this certplane supports version {_SCHEMA_VERSION}",
            ("use the certplane version that created the store",),
        )


def _create(connection: sqlite3.Connection, schema: str) -> None:
    with sqlitewriter.Transaction(connection):
        for statement in schema.split(";"):
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
