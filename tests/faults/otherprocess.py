"""Another process that uses the files of a store: reads, backups, a shell. Run as a program, or imported."""

from __future__ import annotations

import contextlib
import pathlib
import shutil
import sqlite3
import subprocess
import sys

SHELL = shutil.which("sqlite3")
BACKUP = "other-process.backup"


def run(path, *statements):
    """Run statements in another process; returns the rows of the last one as text. Raises CalledProcessError."""
    command = [sys.executable, __file__, "run", path, *statements]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()


@contextlib.contextmanager
def holding_a_write_lock(path):
    """Another process has an open write transaction."""
    command = [sys.executable, __file__, "hold", path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "locked\n"
        try:
            yield
        finally:
            process.stdin.close()
            process.wait(60)


@contextlib.contextmanager
def reading(path):
    """Another process reads the store and backs it up, again and again, for the duration of the block."""
    command = [sys.executable, __file__, "read", path, SHELL or ""]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        yield process
        assert process.poll() is None, "the other process has ended"
    finally:
        process.kill()
        process.wait()


def _run(path, *statements):
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        rows = []
        for statement in statements:
            rows = connection.execute(statement).fetchall()
        sys.stdout.write("\n".join("|".join(map(str, row)) for row in rows))


def _hold(path):
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        sys.stdout.write("locked\n")
        sys.stdout.flush()
        sys.stdin.read()
        connection.execute("ROLLBACK")


def _read(path, shell):
    backup = pathlib.Path(path).with_name(BACKUP)
    while True:
        # A process that closes a database as its only user removes the log: each iteration is an opportunity.
        with contextlib.suppress(sqlite3.OperationalError):
            _run(path, "SELECT count(*) FROM revisions")
            with (
                contextlib.closing(sqlite3.connect(path)) as source,
                contextlib.closing(sqlite3.connect(backup)) as copy,
            ):
                source.backup(copy)
            _run(path, "PRAGMA wal_checkpoint(TRUNCATE)")
        if shell:
            for command in ("select count(*) from revisions", f".backup {backup}"):
                subprocess.run([shell, path, command], capture_output=True, check=False)


if __name__ == "__main__":
    {"run": _run, "hold": _hold, "read": _read}[sys.argv[1]](*sys.argv[2:])
