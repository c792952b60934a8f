"""The thread that writes an SQLite store: group commit, and a check before each reply that no other process interfered.

The thread owns the writing connection and has the newest value of every key as of its last commit. It takes all queued
writes, compares and writes them in order in one transaction, and completes all their futures after one commit.

Before each commit it checks whether another process has committed anything (`PRAGMA data_version`). That is harmless if
the contents are unchanged (a checkpoint, a vacuum); otherwise all writes stop. After each commit, and before any future
is completed, `files` checks that the commit went into the files that a restart will open.

There are two kinds of failures. A full disk or a lock of another process fails the current writes; later writes are
tried again. If the files or their contents were changed by another process, all writes fail until a restart.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import queue
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from certplane.store import contract, sqlitearchive
from certplane.store.archive import Entry
from certplane.store.files import Files

_log = logging.getLogger("certplane.store")

_BATCH: Final = 512
#: Size of the test write after a failure: larger than most objects, so that it fails while they would.
_TRIAL_BYTES: Final = 65536
#: The casts make rows readable into which another program has written values of another type.
COLUMNS: Final = (
    "revision, CAST(key AS TEXT), CAST(create_revision AS INTEGER), CAST(previous AS INTEGER), "
    "CAST(version AS INTEGER), CAST(value AS BLOB)"
)
_INTERFERED: Final = "another process modified the database"
#: Operators' words for SQLite's errors.
_REASONS: Final = {
    "SQLITE_FULL": "no space left on the disk",
    "SQLITE_BUSY": "another process has locked the database",
}


@dataclasses.dataclass(slots=True)
class Write:
    """A queued write. `value` None deletes, `expected` None creates. `archived` are the entries of the archive that
    belong to it. `result` is completed after the commit.
    """

    key: str
    value: bytes | None
    expected: int | None
    archived: Sequence[Entry]
    result: asyncio.Future[Any]


@dataclasses.dataclass(slots=True)
class Task:
    """A queued task that is not a write: the thread calls `work`, which may raise StoreClosed. Its result is that of
    `work`.
    """

    work: Callable[[], Any]
    result: asyncio.Future[Any]


class _WritesStopped(Exception):
    """All writes have to stop until a restart. The message gives the reason."""


Outcome = contract.Change | BaseException
Finish = Callable[[Sequence[tuple[Write, Outcome]]], None]


class Transaction:
    """BEGIN IMMEDIATE ... COMMIT, or ROLLBACK."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        # An earlier transaction is still open if its rollback failed as well; it would block all later ones.
        self._rollback()
        self._connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: object, value: object, traceback: object) -> None:
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


@dataclasses.dataclass(frozen=True, slots=True)
class State:
    """The contents of a store: the newest value of each key, the newest and the compaction revision, the number of
    rows and of entries of the archive, and SQLite's `data_version`, by which the writing connection detects commits of
    other connections.
    """

    newest: dict[str, contract.KeyValue]
    revision: int
    compacted: int
    rows: int
    archived: int
    data_version: int


def read(connection: sqlite3.Connection) -> State:
    """The contents of a store at one moment. Raises sqlite3.Error; ValueError if the database is not a valid store."""
    with Transaction(connection):
        newest = {stored.key: stored for stored in _newest(connection)}
        compacted = _compacted(connection)
        rows, last = connection.execute("SELECT count(*), max(revision) FROM revisions").fetchone()
        archived = sqlitearchive.count(connection)
        return State(newest, max(last or 1, compacted), compacted, rows, archived, _data_version(connection))


class Writer:
    """The code of the thread, and its queue."""

    def __init__(self, connection: sqlite3.Connection, store_files: Files, state: State, finish: Finish) -> None:
        self._loop = asyncio.get_running_loop()
        self._connection = connection
        self._files = store_files
        self._finish = finish
        self._newest = dict(state.newest)
        self._revision = state.revision
        self._compacted = state.compacted
        self._rows = state.rows
        self._archived = state.archived
        self._data_version = state.data_version
        self._pending: queue.SimpleQueue[Write | Task | None] = queue.SimpleQueue()
        #: Why the last write failed; None if it succeeded. Set by the thread, read by other threads.
        self.problem: str | None = None
        #: All writes fail until a restart.
        self.stopped = False

    # --- called on the event loop -----------------------------------------------------------------------------------

    def write(
        self, key: str, value: bytes | None, expected: int | None, archived: Sequence[Entry] = ()
    ) -> asyncio.Future[Any]:
        """Queue a write. The future fails with KeyExists, RevisionMismatch or StoreClosed."""
        result: asyncio.Future[Any] = self._loop.create_future()
        self._pending.put(Write(key, value, expected, archived, result))
        return result

    def write_archive(self, work: sqlitearchive.Work) -> asyncio.Future[int]:
        """Queue a change of the archive. The result is by how many entries it has grown. The future fails with
        StoreClosed.
        """
        return self._queue_task(lambda: self._change_archive(work))

    def compact(self, revision: int) -> asyncio.Future[None]:
        """Queue a compaction. The future fails with StoreClosed."""
        return self._queue_task(lambda: self._compact(revision))

    def check(self) -> asyncio.Future[None]:
        """Queue a test whether writes are possible. The future fails with StoreClosed."""
        return self._queue_task(self._check)

    def stop(self) -> None:
        """End the thread after everything that is queued."""
        self._pending.put(None)

    def _queue_task(self, work: Callable[[], Any]) -> asyncio.Future[Any]:
        result: asyncio.Future[Any] = self._loop.create_future()
        self._pending.put(Task(work, result))
        return result

    # --- the thread -------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """The body of the thread: runs until `stop`, and writes everything that was queued before it."""
        following: tuple[Write | Task | None] | None = None
        while (first := following[0] if following is not None else self._pending.get()) is not None:
            following = None
            if isinstance(first, Task):
                self._run_task(first)
                continue
            batch, following = self._batch(first)
            self._loop.call_soon_threadsafe(self._finish, self._write(batch))
        self._connection.close()

    def _run_task(self, task: Task) -> None:
        try:
            result = task.work()
        except contract.StoreClosed as error:
            self._loop.call_soon_threadsafe(_fail, task.result, error)
        else:
            self._loop.call_soon_threadsafe(_succeed, task.result, result)

    def _batch(self, first: Write) -> tuple[list[Write], tuple[Task | None] | None]:
        """A write with all writes queued after it, and the first queued item after those that is not a write."""
        batch = [first]
        while len(batch) < _BATCH:
            try:
                following = self._pending.get_nowait()
            except queue.Empty:
                break
            if not isinstance(following, Write):
                return batch, (following,)
            batch.append(following)
        return batch, None

    def _write(self, batch: Sequence[Write]) -> Sequence[tuple[Write, Outcome]]:
        outcomes: list[tuple[Write, Outcome]] = []
        newest: dict[str, contract.KeyValue | None] = {}
        revision = self._revision
        rows = []
        archived: list[Entry] = []
        for write in batch:
            outcome = self._outcome(write, newest, revision + 1)
            outcomes.append((write, outcome))
            if isinstance(outcome, contract.Change):
                revision += 1
                newest[write.key] = outcome.current
                rows.append(_row(outcome))
                archived += write.archived
        if not rows:
            return outcomes
        added = 0

        def insert() -> None:
            nonlocal added
            self._insert(rows)
            added = sqlitearchive.insert(self._connection, archived)

        try:
            self._commit(insert)
        except contract.StoreClosed as problem:
            return [(write, problem) for write, _ in outcomes]
        self._revision = revision
        self._rows += len(rows)
        self._archived += added
        for key, current in newest.items():
            if current is None:
                del self._newest[key]
            else:
                self._newest[key] = current
        return outcomes

    def _outcome(self, write: Write, newest: dict[str, contract.KeyValue | None], revision: int) -> Outcome:
        """The change that a write makes, or its error. `newest` are the values that this transaction has written."""
        key = write.key
        current = newest[key] if key in newest else self._newest.get(key)
        if write.expected is None:
            if current is not None:
                return contract.KeyExists(current)
        elif current is None or current.mod_revision != write.expected:
            return contract.RevisionMismatch(key, current)
        if write.value is None:
            return contract.Change(revision, key, None, current)
        created = current.create_revision if current is not None else revision
        version = current.version + 1 if current is not None else 1
        return contract.Change(revision, key, contract.KeyValue(key, write.value, created, revision, version), current)

    def _compact(self, revision: int) -> None:
        removed = 0

        def remove_superseded() -> None:
            nonlocal removed
            self._connection.execute("UPDATE facts SET value = ? WHERE name = 'compacted'", (revision,))
            removed = self._connection.execute(
                "DELETE FROM revisions WHERE revision <= ?1 "
                "AND (value IS NULL OR EXISTS (SELECT 1 FROM revisions n "
                "WHERE n.key = revisions.key AND n.revision > revisions.revision AND n.revision <= ?1))",
                (revision,),
            ).rowcount

        self._commit(remove_superseded)
        self._rows -= removed
        self._compacted = revision

    def _change_archive(self, work: sqlitearchive.Work) -> int:
        growth = 0

        def change() -> None:
            nonlocal growth
            growth = work(self._connection)

        self._commit(change)
        self._archived += growth
        return growth

    def _check(self) -> None:
        if self.problem is None:
            # BEGIN IMMEDIATE takes the write lock; nothing needs to be written while there is no problem.
            self._commit(self._check_files)
            return
        # After a failure, write and remove a value as large as an object.
        self._commit(lambda: self._execute("INSERT OR REPLACE INTO facts VALUES ('trial', zeroblob(?))", _TRIAL_BYTES))
        self._commit(lambda: self._execute("DELETE FROM facts WHERE name = 'trial'"))

    # --- inside a transaction ---------------------------------------------------------------------------------------

    def _check_files(self) -> None:
        problem = self._files.find_problem()
        if problem:
            raise _WritesStopped(problem)

    def _execute(self, statement: str, *parameters: int) -> None:
        self._connection.execute(statement, parameters)

    def _insert(self, rows: Sequence[tuple[object, ...]]) -> None:
        self._connection.executemany("INSERT INTO revisions VALUES (?, ?, ?, ?, ?, ?)", rows)

    # --- one commit -------------------------------------------------------------------------------------------------

    def _commit(self, work: Callable[[], None]) -> None:
        """Run `work` in its own transaction. Raises StoreClosed, and sets `problem`."""
        problem = self.problem if self.stopped else self._try(work)
        if problem != self.problem:
            if problem is None:
                _log.info("store writes recovered")
            else:
                _log.error("store write failed", extra={"error": problem})
            self.problem = problem
        if problem is not None:
            raise contract.StoreClosed(problem)

    def _try(self, work: Callable[[], None]) -> str | None:
        try:
            with Transaction(self._connection):
                if self._was_modified():
                    raise _WritesStopped(_INTERFERED)
                work()
        except _WritesStopped as error:
            return self._stop_writes(str(error))
        except sqlite3.Error as error:
            return f"cannot write to the store: {_REASONS.get(error.sqlite_errorname, str(error))}"
        except Exception:
            # The callers have to get a result, and the thread has to continue.
            _log.exception("cannot write to the store")
            return "cannot write to the store: internal error, see the log"
        replaced = self._files.find_replaced()
        if replaced:
            return self._stop_writes(replaced)
        return None

    def _stop_writes(self, reason: str) -> str:
        self.stopped = True
        return f"store writes stopped, restart required: {reason}"

    def _was_modified(self) -> bool:
        """Whether the store contains anything that this thread did not write, or read at its start."""
        version = _data_version(self._connection)
        if version == self._data_version:
            return False
        (rows,) = self._connection.execute("SELECT count(*) FROM revisions").fetchone()
        if rows != self._rows or _compacted(self._connection) != self._compacted:
            return True
        if sqlitearchive.count(self._connection) != self._archived:
            return True
        count = 0
        for stored in _newest(self._connection):
            if self._newest.get(stored.key) != stored:
                return True
            count += 1
        if count != len(self._newest):
            return True
        self._data_version = version
        return False


def key_value(row: Any) -> contract.KeyValue:
    """The value in a row of COLUMNS."""
    return contract.KeyValue(row[1], row[5], row[2], row[0], row[4])


def _row(change: contract.Change) -> tuple[object, ...]:
    current, previous = change.current, change.previous
    before = previous.mod_revision if previous is not None else 0
    if current is None:
        return change.revision, change.key, 0, before, 0, None
    return change.revision, change.key, current.create_revision, before, current.version, current.value


def _newest(connection: sqlite3.Connection) -> Iterable[contract.KeyValue]:
    rows = connection.execute(
        f"SELECT {COLUMNS} FROM revisions WHERE revision IN (SELECT max(revision) FROM revisions GROUP BY key) "  # noqa: S608 - constant column names
        "AND value IS NOT NULL"
    )
    return map(key_value, rows)


def _compacted(connection: sqlite3.Connection) -> int:
    row = connection.execute("SELECT value FROM facts WHERE name = 'compacted'").fetchone()
    if row is None:
        raise ValueError("the compaction revision is missing")
    return int(row[0])


def _data_version(connection: sqlite3.Connection) -> int:
    """A number that changes when another connection commits."""
    (version,) = connection.execute("PRAGMA data_version").fetchone()
    return int(version)


def _fail(future: asyncio.Future[Any], problem: Exception) -> None:
    if not future.done():
        future.set_exception(problem)


def _succeed(future: asyncio.Future[Any], result: Any) -> None:
    if not future.done():
        future.set_result(result)
