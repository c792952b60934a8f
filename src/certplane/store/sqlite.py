"""A store in one SQLite file: one writer, write-ahead log, group commit.

All writes go through one thread. It takes whatever has queued up, compares and writes each in order inside one
transaction, and answers all of them after one commit: with synchronous=FULL a commit is one fsync, and a write that
was answered survives kill -9 and power loss. The table is append-only (a row a revision, as in kine), so that pages can
be read at a revision and watches resume from one after a restart; `compact` removes what was superseded.

The newest values are in memory as well, on the event loop's side, where reads of them cost nothing. They are replaced
only after the commit, in the order of revisions; nobody ever sees a value that is not durable.

What this module does not know: objects, and when to compact.
"""

from __future__ import annotations

import asyncio
import bisect
import builtins
import dataclasses
import fcntl
import logging
import os
import pathlib
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from certplane import errors
from certplane.store import contract

_log = logging.getLogger("certplane.store")

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
_BATCH: Final = 512
_COLUMNS: Final = "revision, key, create_revision, previous, version, value"


@dataclasses.dataclass(slots=True)
class _Write:
    """A write that waits for its turn. `value` None deletes, `expected` None creates."""

    key: str
    value: bytes | None
    expected: int | None
    answer: asyncio.Future[Any]


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

    def __init__(self, writer: sqlite3.Connection, reader: sqlite3.Connection, lock: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._reader = reader
        self._reading = threading.Lock()
        self._lock = lock
        self._current = {each.key: each for each in _newest(reader)}
        self._keys = sorted(self._current)
        self._compacted = int(reader.execute("SELECT value FROM facts WHERE name = 'compacted'").fetchone()[0])
        (last,) = reader.execute("SELECT max(revision) FROM revisions").fetchone()
        self._revision = max(last or 1, self._compacted)
        self._watches: list[_Watch] = []
        self._closed = False
        self._queue: queue.SimpleQueue[_Write | Callable[[sqlite3.Connection], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(
            target=_Writer(writer, self._queue, self._loop, self._finish, self._revision, self._current).run,
            name="certplane-store",
            daemon=True,
        )
        self._thread.start()

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
        if self._closed:
            raise contract.StoreClosed("the store is closed")
        answer: asyncio.Future[Any] = self._loop.create_future()
        self._queue.put(_Write(key, value, expected, answer))
        return answer

    def _finish(self, done: Sequence[tuple[_Write, contract.Change | BaseException]]) -> None:
        """On the event loop, after the commit: make the changes visible, tell the watches, then answer."""
        changes = [outcome for _, outcome in done if isinstance(outcome, contract.Change)]
        for change in changes:
            self._apply(change)
        if changes:
            for watch in list(self._watches):
                watch.offer(changes)
        for write, outcome in done:
            if write.answer.done():
                continue
            if isinstance(outcome, contract.Change):
                write.answer.set_result(outcome if write.value is None else outcome.current)
            else:
                write.answer.set_exception(outcome)

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
        return _key_value(rows[0]) if rows and rows[0][5] is not None else None

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
        shown = rows[:limit] if limit > 0 else rows
        return contract.Page([_key_value(row) for row in shown], revision, len(rows) - len(shown))

    def _list_newest(self, prefix: str, start: str, limit: int) -> contract.Page:
        first = bisect.bisect_left(self._keys, max(prefix, start))
        last = bisect.bisect_left(self._keys, _after_prefix(prefix))
        stop = min(last, first + limit) if limit > 0 else last
        items = [self._current[key] for key in self._keys[first:stop]]
        return contract.Page(items, self._revision, max(last - stop, 0))

    def _check(self, revision: int) -> None:
        if revision and revision < self._compacted:
            raise contract.Compacted(revision, self._compacted)
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
        if after < self._compacted:
            raise contract.Compacted(after, self._compacted)
        watch = _Watch(prefix, after, deliver, ended, waiting=[])
        upto = self._revision
        self._watches.append(watch)
        if after < upto:
            rows = await self._query(
                f"SELECT {_COLUMNS} FROM revisions WHERE revision > ? AND revision <= ? AND key >= ? AND key < ? "  # noqa: S608 - constant column names
                "ORDER BY revision",
                (after, upto, prefix, _after_prefix(prefix)),
            )
            history = await self._loop.run_in_executor(None, self._changes, rows)
            if history and not watch.closed:
                watch.deliver(history)
        waiting, watch.waiting = watch.waiting, None
        if waiting and not watch.closed:
            watch.deliver(waiting)
        return watch

    def _changes(self, rows: Iterable[Any]) -> builtins.list[contract.Change]:
        changes = []
        for row in rows:
            previous = None
            if row[3]:
                found = self._query_now(f"SELECT {_COLUMNS} FROM revisions WHERE revision = ?", (row[3],))  # noqa: S608 - constant column names
                previous = _key_value(found[0]) if found and found[0][5] is not None else None
            current = _key_value(row) if row[5] is not None else None
            changes.append(contract.Change(row[0], row[1], current, previous))
        return changes

    async def compact(self, revision: int) -> None:
        if revision > self._revision:
            raise contract.FutureRevision(revision, self._revision)
        if revision <= self._compacted:
            return
        done: asyncio.Future[None] = self._loop.create_future()
        self._queue.put(lambda connection: self._compact_in_writer(connection, revision, done))
        await done
        self._compacted = max(self._compacted, revision)

    def _compact_in_writer(self, connection: sqlite3.Connection, revision: int, done: asyncio.Future[None]) -> None:
        try:
            with _transaction(connection):
                connection.execute("UPDATE facts SET value = ? WHERE name = 'compacted'", (revision,))
                connection.execute(
                    "DELETE FROM revisions WHERE revision <= ?1 "
                    "AND (value IS NULL OR EXISTS (SELECT 1 FROM revisions n "
                    "WHERE n.key = revisions.key AND n.revision > revisions.revision AND n.revision <= ?1))",
                    (revision,),
                )
        except sqlite3.Error as error:
            problem = contract.StoreClosed(f"the store cannot write: {error}")
            self._loop.call_soon_threadsafe(_fail, done, problem)
        else:
            self._loop.call_soon_threadsafe(_succeed, done)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._queue.put(None)
        await self._loop.run_in_executor(None, self._thread.join)
        # What the writer answered last is still on its way through the loop.
        await asyncio.sleep(0)
        watches, self._watches = self._watches, []
        for watch in watches:
            if not watch.closed:
                watch.ended(contract.StoreClosed("the store is closed"))
        with self._reading:
            self._reader.close()
        os.close(self._lock)


def _fail(future: asyncio.Future[None], problem: Exception) -> None:
    if not future.done():
        future.set_exception(problem)


def _succeed(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class _transaction:  # noqa: N801 - a context manager, used like a function
    """BEGIN IMMEDIATE ... COMMIT, or ROLLBACK."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: object, value: object, trace: object) -> None:
        if kind is None:
            try:
                self._connection.execute("COMMIT")
            except sqlite3.Error:
                self._rollback()
                raise
        else:
            self._rollback()

    def _rollback(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")


class _Writer:
    """The thread that owns the writing connection, and the heads of all keys as of its last commit."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        pending: queue.SimpleQueue[Any],
        loop: asyncio.AbstractEventLoop,
        finish: Callable[[Sequence[tuple[_Write, contract.Change | BaseException]]], None],
        revision: int,
        current: dict[str, contract.KeyValue],
    ) -> None:
        self._connection = connection
        self._pending = pending
        self._loop = loop
        self._finish = finish
        self._revision = revision
        self._heads = dict(current)

    def run(self) -> None:
        """Until None arrives; everything queued before it is written."""
        while (first := self._pending.get()) is not None:
            if callable(first):
                first(self._connection)
                continue
            batch, after = self._batch(first)
            self._loop.call_soon_threadsafe(self._finish, self._commit(batch))
            if after is None:
                continue
            if not callable(after[0]):
                break
            after[0](self._connection)
        self._connection.close()

    def _batch(self, first: _Write) -> tuple[list[_Write], tuple[Any] | None]:
        """What has queued up behind a write, and the first thing behind that which is not a write."""
        batch = [first]
        while len(batch) < _BATCH:
            try:
                following = self._pending.get_nowait()
            except queue.Empty:
                break
            if not isinstance(following, _Write):
                return batch, (following,)
            batch.append(following)
        return batch, None

    def _commit(self, batch: Sequence[_Write]) -> Sequence[tuple[_Write, contract.Change | BaseException]]:
        outcomes: list[tuple[_Write, contract.Change | BaseException]] = []
        heads: dict[str, contract.KeyValue | None] = {}
        revision = self._revision
        rows = []
        for write in batch:
            outcome = self._judge(write, heads, revision + 1)
            outcomes.append((write, outcome))
            if isinstance(outcome, contract.Change):
                revision += 1
                heads[write.key] = outcome.current
                rows.append(_row(outcome))
        try:
            if rows:
                with _transaction(self._connection):
                    self._connection.executemany("INSERT INTO revisions VALUES (?, ?, ?, ?, ?, ?)", rows)
        except sqlite3.Error as error:
            _log.error("the store cannot write: %s", error)
            problem = contract.StoreClosed(f"the store cannot write: {error}")
            return [(write, problem) for write, _ in outcomes]
        self._revision = revision
        for key, head in heads.items():
            if head is None:
                del self._heads[key]
            else:
                self._heads[key] = head
        return outcomes

    def _judge(
        self, write: _Write, heads: dict[str, contract.KeyValue | None], revision: int
    ) -> contract.Change | BaseException:
        key = write.key
        head = heads[key] if key in heads else self._heads.get(key)
        if write.expected is None:
            if head is not None:
                return contract.KeyExists(head)
        elif head is None or head.mod_revision != write.expected:
            return contract.RevisionMismatch(key, head)
        if write.value is None:
            return contract.Change(revision, key, None, head)
        created = head.create_revision if head is not None else revision
        version = head.version + 1 if head is not None else 1
        return contract.Change(revision, key, contract.KeyValue(key, write.value, created, revision, version), head)


def _row(change: contract.Change) -> tuple[Any, ...]:
    current, previous = change.current, change.previous
    before = previous.mod_revision if previous is not None else 0
    if current is None:
        return change.revision, change.key, 0, before, 0, None
    return change.revision, change.key, current.create_revision, before, current.version, current.value


def _key_value(row: Any) -> contract.KeyValue:
    return contract.KeyValue(row[1], row[5], row[2], row[0], row[4])


def _newest(connection: sqlite3.Connection) -> Iterable[contract.KeyValue]:
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM revisions WHERE revision IN (SELECT max(revision) FROM revisions GROUP BY key) "  # noqa: S608 - constant column names
        "AND value IS NOT NULL"
    )
    return (_key_value(row) for row in rows)


def _after_prefix(prefix: str) -> str:
    """The first text that sorts behind everything that begins with `prefix`."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1) if prefix else chr(0x10FFFF)


# --- opening ------------------------------------------------------------------------------------------------------


def open_store(path: pathlib.Path) -> SQLiteStore:
    """Open a store, or make one. Call it on the event loop that will use it.

    Raises SetupError when the file is in use, cannot be opened, or is not a store.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = _take_lock(path)
    connections: list[sqlite3.Connection] = []
    try:
        writer = _connect(path)
        connections.append(writer)
        _prepare(writer, path)
        reader = _connect(path)
        connections.append(reader)
        return SQLiteStore(writer, reader, lock)
    except BaseException as error:
        for connection in connections:
            connection.close()
        os.close(lock)
        if isinstance(error, sqlite3.Error):
            raise errors.SetupError(
                f"the store {path} cannot be opened: {error}",
                ("restore it from a backup, or move it away to begin with an empty one",),
            ) from error
        raise


def _take_lock(path: pathlib.Path) -> int:
    # The kernel lets go of the lock when the process dies, however it dies.
    name = path.with_name(path.name + ".lock")
    try:
        lock = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise errors.SetupError(f"the store {path} cannot be opened: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise errors.SetupError(
            f"the store {path} is in use by another process",
            ("stop the other certplane, or give this one a data directory of its own with --data-dir",),
        ) from error
    return lock


def _connect(path: pathlib.Path) -> sqlite3.Connection:
    # The file must never be readable by others, not even for a moment.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=32)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA busy_timeout = 5000")
    return connection


def _prepare(connection: sqlite3.Connection, path: pathlib.Path) -> None:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if tables == 0:
        with _transaction(connection):
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
