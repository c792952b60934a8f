"""The thread that writes a store in SQLite: group commit, and the proof before each answer that nobody interfered.

The thread owns the writing connection and knows the newest value of every key as of its last commit. It takes whatever
has queued up, compares and writes each in order inside one transaction, and answers all of it after one commit.

Before each commit it looks whether another process has committed anything (`PRAGMA data_version`); what others did is
harmless if the contents are still those that are known here (a checkpoint, a vacuum), and the end of all writes
otherwise. After each commit, and before anybody is answered, `files` tells whether it went into the files that a
restart will find.

Failures are of two kinds. A full disk or a lock held by somebody fails the writes that meet it; the next ones are tried
again. Once the files or their contents are not this process's any more, nothing is written until a restart.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import queue
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from certplane.store import contract, files

_log = logging.getLogger("certplane.store")

_BATCH: Final = 512
#: What is written to see whether there is space again: more than most objects have.
_TRIAL_BYTES: Final = 65536
#: Values of whatever type somebody may have put there are read as what they have to be.
COLUMNS: Final = (
    "revision, CAST(key AS TEXT), CAST(create_revision AS INTEGER), CAST(previous AS INTEGER), "
    "CAST(version AS INTEGER), CAST(value AS BLOB)"
)
_INTERFERED: Final = "another process has written into it, which is read at the next start"
#: What SQLite says in its own words, as an operator would.
_REASONS: Final = {
    "SQLITE_FULL": "no space is left for it",
    "SQLITE_BUSY": "another process holds a lock on it",
}


@dataclasses.dataclass(slots=True)
class Write:
    """A write that waits for its turn. `value` None deletes, `expected` None creates."""

    key: str
    value: bytes | None
    expected: int | None
    answer: asyncio.Future[Any]


@dataclasses.dataclass(slots=True)
class Task:
    """Something else for the thread to do: `work` is called there, and may raise StoreClosed."""

    work: Callable[[], None]
    answer: asyncio.Future[None]


class _Ended(Exception):
    """Nothing more may be written. The message says why."""


Outcome = contract.Change | BaseException
Finish = Callable[[Sequence[tuple[Write, Outcome]]], None]


class Transaction:
    """BEGIN IMMEDIATE ... COMMIT, or ROLLBACK."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        # One whose rollback failed, too, would stand in the way of all others.
        self._rollback()
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


@dataclasses.dataclass(frozen=True, slots=True)
class State:
    """What is stored: the newest value of each key, the newest revision, the one of the last compaction, the number of
    rows; and at which of its own commits SQLite was then, as the connection that asked counts the commits of others.
    """

    heads: dict[str, contract.KeyValue]
    revision: int
    compacted: int
    rows: int
    data_version: int


def read(connection: sqlite3.Connection) -> State:
    """What is stored at one moment. Raises sqlite3.Error, and ValueError for what is no store."""
    with Transaction(connection):
        heads = {each.key: each for each in _newest(connection)}
        compacted = _compacted(connection)
        rows, last = connection.execute("SELECT count(*), max(revision) FROM revisions").fetchone()
        return State(heads, max(last or 1, compacted), compacted, rows, _data_version(connection))


class Writer:
    """What the thread runs, and the queue in front of it."""

    def __init__(self, connection: sqlite3.Connection, guarded: files.Files, state: State, finish: Finish) -> None:
        self._loop = asyncio.get_running_loop()
        self._connection = connection
        self._files = guarded
        self._finish = finish
        self._heads = dict(state.heads)
        self._revision = state.revision
        self._compacted = state.compacted
        self._rows = state.rows
        self._data_version = state.data_version
        self._pending: queue.SimpleQueue[Write | Task | None] = queue.SimpleQueue()
        #: Why the last attempt to write failed; None if it did not. Set by the thread, read by anybody.
        self.problem: str | None = None
        #: Nothing can be written until a restart.
        self.ended = False

    # --- called on the event loop -----------------------------------------------------------------------------------

    def write(self, key: str, value: bytes | None, expected: int | None) -> asyncio.Future[Any]:
        """Have something written. The future fails with KeyExists, RevisionMismatch or StoreClosed."""
        answer: asyncio.Future[Any] = self._loop.create_future()
        self._pending.put(Write(key, value, expected, answer))
        return answer

    def compact(self, revision: int) -> asyncio.Future[None]:
        """Have what was superseded forgotten. The future fails with StoreClosed."""
        return self._have_done(lambda: self._compact(revision))

    def check(self) -> asyncio.Future[None]:
        """Have it tried whether writes are possible. The future fails with StoreClosed."""
        return self._have_done(self._check)

    def stop(self) -> None:
        """Have the thread end when it has done what is queued up."""
        self._pending.put(None)

    def _have_done(self, work: Callable[[], None]) -> asyncio.Future[None]:
        answer: asyncio.Future[None] = self._loop.create_future()
        self._pending.put(Task(work, answer))
        return answer

    # --- the thread -------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Until `stop`; everything queued before it is written."""
        following: tuple[Write | Task | None] | None = None
        while (first := following[0] if following is not None else self._pending.get()) is not None:
            following = None
            if isinstance(first, Task):
                self._do(first)
                continue
            batch, following = self._batch(first)
            self._loop.call_soon_threadsafe(self._finish, self._write(batch))
        self._connection.close()

    def _do(self, task: Task) -> None:
        try:
            task.work()
        except contract.StoreClosed as error:
            self._loop.call_soon_threadsafe(_fail, task.answer, error)
        else:
            self._loop.call_soon_threadsafe(_succeed, task.answer)

    def _batch(self, first: Write) -> tuple[list[Write], tuple[Task | None] | None]:
        """What has queued up behind a write, and the first thing behind that which is not a write."""
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
        if not rows:
            return outcomes
        try:
            self._commit(lambda: self._insert(rows))
        except contract.StoreClosed as problem:
            return [(write, problem) for write, _ in outcomes]
        self._revision = revision
        self._rows += len(rows)
        for key, head in heads.items():
            if head is None:
                del self._heads[key]
            else:
                self._heads[key] = head
        return outcomes

    def _judge(self, write: Write, heads: dict[str, contract.KeyValue | None], revision: int) -> Outcome:
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

    def _compact(self, revision: int) -> None:
        gone = 0

        def forget() -> None:
            nonlocal gone
            self._connection.execute("UPDATE facts SET value = ? WHERE name = 'compacted'", (revision,))
            gone = self._connection.execute(
                "DELETE FROM revisions WHERE revision <= ?1 "
                "AND (value IS NULL OR EXISTS (SELECT 1 FROM revisions n "
                "WHERE n.key = revisions.key AND n.revision > revisions.revision AND n.revision <= ?1))",
                (revision,),
            ).rowcount

        self._commit(forget)
        self._rows -= gone
        self._compacted = revision

    def _check(self) -> None:
        if self.problem is None:
            # To begin is proof enough as long as all is well, and costs no write.
            self._commit(self._look_at_locks)
            return
        # What is small may find room where objects do not.
        self._commit(lambda: self._execute("INSERT OR REPLACE INTO facts VALUES ('trial', zeroblob(?))", _TRIAL_BYTES))
        self._commit(lambda: self._execute("DELETE FROM facts WHERE name = 'trial'"))

    # --- inside a transaction ---------------------------------------------------------------------------------------

    def _look_at_locks(self) -> None:
        misplaced = self._files.problem()
        if misplaced:
            raise _Ended(misplaced)

    def _execute(self, statement: str, *parameters: int) -> None:
        self._connection.execute(statement, parameters)

    def _insert(self, rows: Sequence[tuple[Any, ...]]) -> None:
        self._connection.executemany("INSERT INTO revisions VALUES (?, ?, ?, ?, ?, ?)", rows)

    # --- one commit -------------------------------------------------------------------------------------------------

    def _commit(self, work: Callable[[], None]) -> None:
        """Do something in a transaction of its own. Raises StoreClosed, and remembers why."""
        problem = self.problem if self.ended else self._try(work)
        if problem != self.problem:
            if problem is None:
                _log.info("the store can be written again")
            else:
                _log.error("%s", problem)
            self.problem = problem
        if problem is not None:
            raise contract.StoreClosed(problem)

    def _try(self, work: Callable[[], None]) -> str | None:
        try:
            with Transaction(self._connection):
                if self._has_changed():
                    raise _Ended(_INTERFERED)
                work()
        except _Ended as error:
            return self._end(str(error))
        except sqlite3.Error as error:
            return f"the store cannot write: {_REASONS.get(error.sqlite_errorname, str(error))}"
        except Exception:
            # Whatever it is: those who wait have to be answered, and the thread has to go on.
            _log.exception("the store cannot write")
            return "the store cannot write: the log says why"
        misplaced = self._files.misplaced()
        if misplaced:
            return self._end(misplaced)
        return None

    def _end(self, why: str) -> str:
        self.ended = True
        return f"the store takes no more writes: {why}"

    def _has_changed(self) -> bool:
        """Whether the store holds anything else than what this thread has written, or has read at its start."""
        version = _data_version(self._connection)
        if version == self._data_version:
            return False
        (rows,) = self._connection.execute("SELECT count(*) FROM revisions").fetchone()
        if rows != self._rows or _compacted(self._connection) != self._compacted:
            return True
        count = 0
        for stored in _newest(self._connection):
            if self._heads.get(stored.key) != stored:
                return True
            count += 1
        if count != len(self._heads):
            return True
        self._data_version = version
        return False


def key_value(row: Any) -> contract.KeyValue:
    """What a row of COLUMNS says."""
    return contract.KeyValue(row[1], row[5], row[2], row[0], row[4])


def _row(change: contract.Change) -> tuple[Any, ...]:
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
        raise ValueError("it does not say up to where it is compacted")
    return int(row[0])


def _data_version(connection: sqlite3.Connection) -> int:
    """A number that changes when anybody but this connection commits."""
    (version,) = connection.execute("PRAGMA data_version").fetchone()
    return int(version)


def _fail(future: asyncio.Future[None], problem: Exception) -> None:
    if not future.done():
        future.set_exception(problem)


def _succeed(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
