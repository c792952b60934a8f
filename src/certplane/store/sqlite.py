"""A store in one SQLite file: one writer, write-ahead log, group commit.

All writes go through one thread (`sqlitewriter`), which answers them after one commit: with synchronous=FULL a commit
is one fsync, and a write that was answered survives kill -9 and power loss, whatever other processes do with the file
meanwhile (`files`). The table is append-only (a row a revision, as in kine), so that pages can be read at a revision
and watches resume from one after a restart; `compact` removes what was superseded.

The newest values are in memory as well, on the event loop's side, where reads of them cost nothing. They are replaced
only after the commit, in the order of revisions; nobody ever sees a value that is not durable.

What this module does not know: objects, and when to compact.
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
from certplane.store import contract, files, sqlitewriter

_SCHEMA_VERSION: Final = 1
#: "cpln": marks the file as ours, so that no other database is taken for a store.
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
INSERT INTO facts VALUES ('compacted', 1);
"""
#: How long a write waits for a lock that another process holds: what etcd takes to call a request timed out.
_BUSY_MILLISECONDS: Final = 5000
_COLUMNS: Final = sqlitewriter.COLUMNS


@dataclasses.dataclass(slots=True)
class _Watch:
    prefix: str
    after: int
    deliver: contract.Deliver
    ended: contract.Ended
    #: While history is read, live changes wait here; None once they flow.
    waiting: list[contract.Change] | None
    closed: bool = False

    def offer(self, changes: Sequence[contract.Change]) -> None:
        wanted = [each for each in changes if each.revision > self.after and each.key.startswith(self.prefix)]
        if not wanted or self.closed:
            return
        if self.waiting is not None:
            self.waiting.extend(wanted)
        else:
            self.deliver(wanted)

    def close(self) -> None:
        self.closed = True


class SQLiteStore:
    """Implements `contract.Store`. Make one with `open_store`."""

    def __init__(self, writer: sqlite3.Connection, reader: sqlite3.Connection, opened: files.Files) -> None:
        self._loop = asyncio.get_running_loop()
        self._reader = reader
        self._reading = threading.Lock()
        self._files = opened
        state = sqlitewriter.read(writer)
        self._current = state.heads
        self._keys = sorted(self._current)
        self._compacted = state.compacted
        #: What is read at an older revision than this may miss what a compaction is forgetting at the moment.
        self._readable_from = state.compacted
        self._revision = state.revision
        self._watches: list[_Watch] = []
        self._closed = False
        self._writer = sqlitewriter.Writer(writer, opened, state, self._finish)
        self._thread = threading.Thread(target=self._writer.run, name="certplane-store", daemon=True)
        self._thread.start()

    @property
    def problem(self) -> str | None:
        return self._writer.problem

    async def check(self) -> None:
        self._refuse_if_closed()
        await self._writer.check()

    # --- writes ---------------------------------------------------------------------------------------------------

    async def create(self, key: str, value: bytes) -> contract.KeyValue:
        written: contract.KeyValue = await self._submit(key, value, None)
        return written

    async def update(self, key: str, value: bytes, expected: int) -> contract.KeyValue:
        written: contract.KeyValue = await self._submit(key, value, expected)
        return written

    async def delete(self, key: str, expected: int) -> contract.Change:
        change: contract.Change = await self._submit(key, None, expected)
        return change

    def _submit(self, key: str, value: bytes | None, expected: int | None) -> asyncio.Future[Any]:
        self._refuse_if_closed()
        # Keys are ordered by their UTF-8: one that has none is refused alone, not with all that are written beside it.
        key.encode("utf-8")
        return self._writer.write(key, value, expected)

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise contract.StoreClosed("the store is closed")

    def _finish(self, done: Sequence[tuple[sqlitewriter.Write, sqlitewriter.Outcome]]) -> None:
        """On the event loop, after the commit: make the changes visible, tell the watches, then answer."""
        changes = [outcome for _, outcome in done if isinstance(outcome, contract.Change)]
        for change in changes:
            self._apply(change)
        try:
            if changes:
                for watch in list(self._watches):
                    watch.offer(changes)
        finally:
            # A watch that raises, against the contract, must not keep the answers from those who wait for them.
            _answer(done)

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
        """Refuse what cannot be read. Call it again when something was read: a compaction may have overtaken it."""
        if revision and revision < self._readable_from:
            raise contract.Compacted(revision, self._readable_from)
        if revision > self._revision:
            raise contract.FutureRevision(revision, self._revision)

    async def _query(self, sql: str, parameters: Sequence[Any]) -> Sequence[Any]:
        return await self._loop.run_in_executor(None, self._query_now, sql, parameters)

    def _query_now(self, sql: str, parameters: Sequence[Any]) -> Sequence[Any]:
        with self._reading:
            if self._closed:
                raise contract.StoreClosed("the store is closed")
            try:
                return self._reader.execute(sql, parameters).fetchall()
            except sqlite3.Error as error:
                raise contract.StoreClosed(f"the store cannot be read: {error}") from error

    async def revision(self) -> int:
        return self._revision

    async def oldest(self) -> int:
        return self._compacted

    # --- watches --------------------------------------------------------------------------------------------------

    async def watch(self, prefix: str, after: int, deliver: contract.Deliver, ended: contract.Ended) -> contract.Watch:
        watch = _Watch(prefix, after, deliver, ended, waiting=[])
        self._watches.append(watch)
        try:
            history = await self._history(prefix, after, self._revision)
        except BaseException:
            self._watches.remove(watch)
            raise
        if history and not watch.closed:
            watch.deliver(history)
        waiting, watch.waiting = watch.waiting, None
        if waiting and not watch.closed:
            watch.deliver(waiting)
        return watch

    async def _history(self, prefix: str, after: int, upto: int) -> Sequence[contract.Change]:
        self._refuse_forgotten(after)
        if after >= upto:
            return ()
        rows = await self._query(
            f"SELECT {_COLUMNS} FROM revisions WHERE revision > ? AND revision <= ? AND key >= ? AND key < ? "  # noqa: S608 - constant column names
            "ORDER BY revision",
            (after, upto, prefix, _after_prefix(prefix)),
        )
        history = await self._loop.run_in_executor(None, self._changes, rows)
        self._refuse_forgotten(after)
        return history

    def _refuse_forgotten(self, after: int) -> None:
        if after < self._readable_from:
            raise contract.Compacted(after, self._readable_from)

    def _changes(self, rows: Iterable[Any]) -> builtins.list[contract.Change]:
        changes = []
        for row in rows:
            previous = None
            if row[3]:
                found = self._query_now(f"SELECT {_COLUMNS} FROM revisions WHERE revision = ?", (row[3],))  # noqa: S608 - constant column names
                previous = sqlitewriter.key_value(found[0]) if found and found[0][5] is not None else None
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
        # What the writer answered last is still on its way through the loop.
        await asyncio.sleep(0)
        watches, self._watches = self._watches, []
        for watch in watches:
            if not watch.closed:
                watch.ended(contract.StoreClosed("the store is closed"))
        with self._reading:
            if not self._writer.ended:
                # What somebody else has put in the place of our files is not SQLite's to tidy up.
                self._files.release()
            self._reader.close()
        self._files.close()


def _answer(done: Sequence[tuple[sqlitewriter.Write, sqlitewriter.Outcome]]) -> None:
    for write, outcome in done:
        if write.answer.done():
            continue
        if isinstance(outcome, contract.Change):
            write.answer.set_result(outcome if write.value is None else outcome.current)
        else:
            write.answer.set_exception(outcome)


def _after_prefix(prefix: str) -> str:
    """The first text that sorts behind everything that begins with `prefix`."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1) if prefix else chr(0x10FFFF)


# --- opening ------------------------------------------------------------------------------------------------------


def open_store(path: pathlib.Path) -> SQLiteStore:
    """Open a store, or make one. Call it on the event loop that will use it.

    Raises SetupError when the file is in use, cannot be opened, or is not a store.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise errors.SetupError(
            f"the directory {path.parent} cannot be made: {error.strerror}",
            ("name another one with --data-dir, or another file with --store sqlite:PATH",),
        ) from error
    opened = files.Files(path)
    connections: list[sqlite3.Connection] = []
    try:
        opened.claim()
        writer = _connect(path, connections)
        _prepare(writer, path)
        reader = _connect(path, connections)
        opened.guard()
        return SQLiteStore(writer, reader, opened)
    except BaseException as error:
        opened.release()
        for connection in connections:
            connection.close()
        opened.close()
        if isinstance(error, sqlite3.Error | ValueError):
            raise errors.SetupError(f"the store {path} cannot be opened: {error}", (_hint(error),)) from error
        raise


def _hint(error: Exception) -> str:
    if getattr(error, "sqlite_errorname", "") == "SQLITE_BUSY":
        return "another program has it open and locked: end that one"
    return "restore it from a backup, or move it away to begin with an empty one"


def _connect(path: pathlib.Path, connections: list[sqlite3.Connection]) -> sqlite3.Connection:
    """A connection; it is among `connections` before anything can fail."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=32)
    connections.append(connection)
    # A key that somebody has damaged is no reason not to read the others.
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
        with sqlitewriter.Transaction(connection):
            for statement in _SCHEMA.split(";"):
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
    elif application != _APPLICATION_ID:
        raise errors.SetupError(
            f"{path} is an SQLite database, but not a store of certplane",
            ("name another file with --store sqlite:PATH",),
        )
    elif version != _SCHEMA_VERSION:
        raise errors.SetupError(
            f"the store {path} has format {version}, this program knows {_SCHEMA_VERSION}",
            ("use the version of certplane that wrote it",),
        )
