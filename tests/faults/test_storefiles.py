"""Other processes read, back up, lock, change or remove the files of a store while it is in use."""

from __future__ import annotations

import base64
import contextlib
import datetime
import json
import os
import resource
import subprocess
import sys
import threading
import time

import pytest
from cryptography import x509

from certplane import errors
from certplane.client import api
from certplane.meta.objects import ObjectReference
from certplane.resources import certificatesigningrequests as csrs
from certplane.resources import events
from certplane.store import contract, files, sqlite
from tests.e2e import requests
from tests.e2e.test_serve import started
from tests.faults import otherprocess
from tests.flow import plane as flow

#: Kills in `make test`; CERTPLANE_KILLS=200 for a thorough run.
KILLS = int(os.environ.get("CERTPLANE_KILLS", "8"))
CLIENT = "kubernetes.io/kube-apiserver-client"
#: How long a test waits for something that happens within seconds.
PATIENCE_SECONDS = 60


@pytest.fixture
async def path(tmp_path):
    return tmp_path / "store.sqlite"


@pytest.fixture
async def store(path):
    opened = sqlite.open_store(path)
    yield opened
    await opened.close()


# --- readers ----------------------------------------------------------------------------------------------------------


READS = [
    "SELECT 1",
    "PRAGMA wal_checkpoint(TRUNCATE)",
    "VACUUM",
    "PRAGMA journal_mode",
    "VACUUM INTO 'copy.sqlite'",
]


@pytest.mark.parametrize("statement", READS)
async def test_a_reading_process_does_not_remove_the_wal(statement, store, path, monkeypatch, tmp_path):
    """The WAL with the acknowledged writes stays, and writes continue."""
    monkeypatch.chdir(tmp_path)
    await store.create("/a", b"1")
    before = os.stat(f"{path}-wal").st_ino
    otherprocess.run(path, statement)
    assert os.stat(f"{path}-wal").st_ino == before
    await store.create("/b", b"1")
    assert store.problem is None
    assert otherprocess.run(path, "SELECT key FROM revisions ORDER BY key") == "/a\n/b"


async def test_another_process_cannot_change_the_journal_mode(store, path):
    """That would need exclusive access."""
    with pytest.raises(subprocess.CalledProcessError) as refused:
        otherprocess.run(path, "PRAGMA busy_timeout = 10", "PRAGMA journal_mode = DELETE")
    assert "database is locked" in refused.value.stderr
    await store.create("/a", b"1")


async def test_sqlite_locks_are_kept(store, path):
    """No other code in the process opens and closes the files. The check passes."""
    await store.create("/a", b"1")
    await store.check()
    assert store.problem is None


async def test_lost_locks_are_detected(store, path):
    """If code in the process releases SQLite's locks, the check fails, and nothing is lost."""
    await store.create("/a", b"1")
    before = os.stat(f"{path}-wal").st_ino
    os.close(os.open(path, os.O_RDONLY))
    otherprocess.run(path, "SELECT 1")
    assert os.stat(f"{path}-wal").st_ino == before
    await store.create("/b", b"1")
    with pytest.raises(contract.StoreClosed, match="lock on the store was lost"):
        await store.check()
    with pytest.raises(contract.StoreClosed, match="lock on the store was lost"):
        await store.create("/c", b"1")
    assert otherprocess.run(path, "SELECT key FROM revisions ORDER BY key") == "/a\n/b"


# --- ownership --------------------------------------------------------------------------------------------------------


OPENING = """
import asyncio, pathlib, sys
from certplane.store import sqlite

async def main():
    sqlite.open_store(pathlib.Path(sys.argv[1]))

asyncio.run(main())
"""


def _opened_elsewhere(path):
    """The standard error of another process that opens the store."""
    return subprocess.run([sys.executable, "-c", OPENING, path], capture_output=True, text=True, check=False).stderr


async def test_removing_the_lock_file_does_not_unlock_the_store(store, path):
    """A lock on the database file itself marks its owner."""
    path.with_name("store.sqlite.lock").unlink()
    assert f"SetupError: the store {path} is in use by another process" in _opened_elsewhere(path)
    await store.create("/a", b"1")
    assert store.problem is None


@pytest.mark.parametrize("name", ["store.sqlite", "store.sqlite.lock"])
async def test_a_symbolic_link_is_refused(name, path):
    """It may lead to another file."""
    other = path.with_name("other")
    other.touch()
    path.with_name(name).symlink_to(other)
    with pytest.raises(errors.SetupError, match="cannot open the store"):
        sqlite.open_store(path)
    assert other.read_bytes() == b""


async def test_a_directory_in_place_of_the_store_is_refused(path):
    """A SetupError is raised."""
    path.mkdir()
    with pytest.raises(errors.SetupError, match=r"cannot open the store .*: Is a directory"):
        sqlite.open_store(path)


async def test_a_file_in_place_of_the_directory_is_refused(path):
    """A SetupError is raised."""
    path.touch()
    with pytest.raises(errors.SetupError, match="cannot create directory"):
        sqlite.open_store(path / "store.sqlite")


async def test_a_store_works_without_open_file_description_locks(path, monkeypatch, caplog):
    """On other systems than Linux, a warning is logged, and SQLite's own locks protect the store."""
    monkeypatch.setattr(files, "_OFD_SETLK", None)
    store = sqlite.open_store(path)
    await store.create("/a", b"1")
    assert "only SQLite's locks protect the store" in caplog.text
    path.with_name("store.sqlite.lock").unlink()
    with pytest.raises(contract.StoreClosed, match=r"store\.sqlite\.lock was removed"):
        await store.create("/b", b"1")
    await store.close()


# --- removed and replaced files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm"])
@pytest.mark.parametrize("action", ["unlink", "move", "replace"])
async def test_a_removed_or_replaced_file_stops_writes(suffix, action, store, path):
    """Writes would be lost, so they are not acknowledged."""
    created = await store.create("/a", b"1")
    target = path.with_name(path.name + suffix)
    match action:
        case "unlink":
            target.unlink()
        case "move":
            target.rename(path.with_name("elsewhere"))
        case "replace":
            copy = path.with_name("copy")
            copy.write_bytes(b"")
            copy.replace(target)
    with pytest.raises(contract.StoreClosed, match="store writes stopped"):
        await store.update("/a", b"2", created.mod_revision)
    with pytest.raises(contract.StoreClosed, match="store writes stopped"):
        await store.check()
    assert target.name in store.problem
    assert str(path.parent) not in store.problem
    assert await store.get("/a") == created


async def test_health_reports_removed_files(path):
    """It does so even without writes: the files are checked every few seconds. Only writers get the reason."""
    store = sqlite.open_store(path)
    async with flow.running(store) as plane:
        client = plane.client(flow.ADMIN)
        path.unlink()
        await plane.clock.advance(6)
        await flow.eventually(lambda: store.problem)
        for root in ("/readyz", "/livez", "/healthz"):
            answer = await client.transport.send(api.Request("GET", root))
            assert answer.status == 500
            assert b"[-]etcd failed: reason withheld" in answer.body
        with pytest.raises(errors.ServiceUnavailable, match=r"file store\.sqlite was removed"):
            await client.create(csrs.RESOURCE, flow.new_csr())
        assert (await client.list(csrs.RESOURCE)).items == []
    await store.close()


async def test_files_that_were_moved_back_are_not_trusted(store, path):
    """Another process may have written to them. A restart reads them again."""
    await store.create("/a", b"1")
    path.rename(path.with_name("elsewhere"))
    with pytest.raises(contract.StoreClosed):
        await store.check()
    path.with_name("elsewhere").rename(path)
    with pytest.raises(contract.StoreClosed):
        await store.create("/b", b"1")


async def test_replacement_files_are_not_touched(path):
    """Closing a store whose files were replaced does not remove the new files."""
    store = sqlite.open_store(path)
    await store.create("/a", b"1")
    log = path.with_name("store.sqlite-wal")
    log.rename(path.with_name("elsewhere"))
    log.write_bytes(b"another file")
    with pytest.raises(contract.StoreClosed):
        await store.check()
    await store.close()
    assert log.read_bytes() == b"another file"


# --- writers ----------------------------------------------------------------------------------------------------------

WRITES = [
    "UPDATE revisions SET value = 'x' WHERE key = '/a'",
    "DELETE FROM revisions WHERE key = '/a'",
    "INSERT INTO revisions VALUES (3, '/b', 3, 0, 1, 'x')",
    "UPDATE facts SET value = 2 WHERE name = 'compacted'",
]


@pytest.mark.parametrize("write", WRITES)
async def test_a_write_of_another_process_stops_writes(write, store, path):
    """Nothing is overwritten; a restart reads what the other process has written."""
    await store.create("/a", b"1")
    otherprocess.run(path, write)
    for attempt in (store.create("/c", b"1"), store.check()):
        with pytest.raises(contract.StoreClosed, match="another process modified the database"):
            await attempt
    assert (await store.get("/a")).value == b"1"
    await store.close()
    again = sqlite.open_store(path)
    await again.create("/d", b"1")
    await again.close()


async def test_writes_fail_while_another_process_holds_a_lock(path, monkeypatch):
    """The error has the reason, and nothing is lost. Afterwards writes work."""
    monkeypatch.setattr(sqlite, "_BUSY_MILLISECONDS", 1)
    store = sqlite.open_store(path)
    await store.create("/a", b"1")
    with otherprocess.holding_a_write_lock(path):
        for attempt in (store.create("/b", b"1"), store.compact(2), store.check()):
            with pytest.raises(contract.StoreClosed, match="another process has locked the database"):
                await attempt
        assert "has locked the database" in store.problem
        assert (await store.get("/a")).value == b"1"
    await store.check()
    assert store.problem is None
    await store.create("/b", b"1")
    await store.compact(2)
    await store.close()


async def test_writes_fail_while_the_disk_is_full(store, path):
    """The error has the reason, acknowledged writes stay, reads work, and a check detects free space."""
    await store.create("/a", b"1")
    connection = store._writer._connection
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages}")
    for attempt in (lambda: store.create("/b", b"x" * 10_000), store.check, lambda: store.create("/c", b"x" * 10_000)):
        with pytest.raises(contract.StoreClosed, match="no space left on the disk"):
            await attempt()
    assert "no space" in store.problem
    assert (await store.get("/a")).value == b"1"
    connection.execute("PRAGMA max_page_count = 1000000")
    await store.check()
    assert store.problem is None
    assert (await store.create("/b", b"x" * 10_000)).mod_revision == 3
    assert otherprocess.run(path, "SELECT name FROM facts") == "compacted"


async def test_a_read_error_fails_only_that_read(path):
    """A list at an old revision reads the file; reads of the newest values and writes do not."""
    store = sqlite.open_store(path)
    async with flow.running(store) as plane:
        client = plane.client(flow.ADMIN)
        for name in ("a", "b"):
            await client.create(csrs.RESOURCE, flow.new_csr(name))
        store._reader.close()
        query = [("limit", "1")]
        first = await client.transport.send(api.Request("GET", requests.CSRS, query))
        proceed = json.loads(first.body)["metadata"]["continue"]
        await client.create(csrs.RESOURCE, flow.new_csr("c"))
        second = await client.transport.send(api.Request("GET", requests.CSRS, [*query, ("continue", proceed)]))
        assert (second.status, json.loads(second.body)["reason"]) == (503, "ServiceUnavailable")
        assert "cannot read the store" in json.loads(second.body)["message"]
        assert len((await client.list(csrs.RESOURCE)).items) == 3
    await store.close()


async def test_background_tasks_recover_from_a_lock(path, monkeypatch):
    """A lock delays a compaction and the expiry of an Event: both are reported as late, and happen afterwards."""
    monkeypatch.setattr(sqlite, "_BUSY_MILLISECONDS", 1)
    store = sqlite.open_store(path)
    async with flow.running(store, event_ttl=datetime.timedelta(seconds=200)) as plane:
        client = plane.client(flow.ADMIN)
        event = events.Event(
            reason="Test", message="m", type="Normal", involved_object=ObjectReference(namespace="default")
        )
        event.metadata.name = "an-event"
        await client.create(events.RESOURCE, event, "default")
        await plane.clock.advance(299)
        with otherprocess.holding_a_write_lock(path):
            await plane.clock.advance(2)
            await flow.eventually(lambda: "compaction" in (plane.supervisor.problem() or ""))
            await flow.eventually(lambda: "event-expiry" in (plane.supervisor.problem() or ""))
            with pytest.raises(errors.ServiceUnavailable, match="another process has locked the database"):
                await client.create(csrs.RESOURCE, flow.new_csr())
            assert await store.oldest() == 1
            assert (await client.get(events.RESOURCE, "an-event", "default")).reason == "Test"
        for _ in range(3):
            await plane.clock.advance(60)
            await flow.eventually(lambda: plane.supervisor.problem() is None)
        assert await store.oldest() > 1
        with pytest.raises(errors.NotFound):
            await client.get(events.RESOURCE, "an-event", "default")
        await client.create(csrs.RESOURCE, flow.new_csr())
    await store.close()


async def test_a_locked_store_is_not_opened(path, monkeypatch):
    """The hint is to stop the other program."""
    monkeypatch.setattr(sqlite, "_BUSY_MILLISECONDS", 1)
    await sqlite.open_store(path).close()
    with otherprocess.holding_a_write_lock(path), pytest.raises(errors.SetupError) as refused:
        sqlite.open_store(path)
    assert "stop that program" in refused.value.hints[0]


async def test_a_key_that_is_not_utf8_fails_only_its_write(store):
    """Other writes continue."""
    with pytest.raises(UnicodeEncodeError):
        await store.create("/\ud800", b"1")
    await store.create("/a", b"1")


async def test_a_watch_that_raises_does_not_block_writers(store):
    """The exception breaks the contract, but writers get their results."""

    def deliver(changes):
        raise RuntimeError("test")

    exceptions = []
    store._loop.set_exception_handler(lambda loop, context: exceptions.append(context["exception"]))
    await store.watch("/", 1, deliver, print)
    assert (await store.create("/a", b"1")).value == b"1"
    assert [str(error) for error in exceptions] == ["test"]


# --- resource limits --------------------------------------------------------------------------------------------------


def _write(client, name, request):
    return client.request("admin", "POST", requests.CSRS, requests.JSON, requests.csr(name, request))


def _until(client, path, status):
    """Repeat a GET until the response has a status; return it. The server checks its store every five seconds."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        answer = client.request("admin", "GET", path, {}, None)
        if answer.status == status:
            return answer
    raise AssertionError(f"{path} never answered with {status}: {answer.data!r}")


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="only Linux can set the limits of another process")
def test_a_server_without_disk_space_recovers(tmp_path):
    """Writes are answered with 503 and the reason, /readyz fails, and reads continue. With space, writes work again;
    acknowledged writes survive kill -9.
    """
    data, request, acknowledged = tmp_path / "data", requests.pkcs10(), []
    with (
        started(data) as (port, process),
        contextlib.closing(requests.client(requests.Server(data, port), tmp_path)) as client,
    ):
        size = (data / "store.sqlite-wal").stat().st_size
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size + 100_000, resource.RLIM_INFINITY))
        # Each object has more than a hundred bytes.
        for number in range(1_000):
            answer = _write(client, f"a{number}", request)
            if answer.status != 201:
                break
            acknowledged.append(json.loads(answer.data)["metadata"]["name"])
        refused = json.loads(answer.data)
        assert (refused["code"], refused["reason"]) == (503, "ServiceUnavailable")
        assert refused["message"].startswith("cannot write to the store: ")
        assert acknowledged
        unready = client.request("admin", "GET", "/readyz", {}, None)
        assert (unready.status, b"[-]etcd failed: reason withheld" in unready.data) == (500, True)
        assert client.request("admin", "GET", "/readyz/etcd", {}, None).status == 500
        assert acknowledged == [name for name in acknowledged if name in _all(client)]
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        _until(client, "/readyz", 200)
        assert _write(client, "later", request).status == 201
        process.kill()
    with (
        started(data) as (port, _),
        contextlib.closing(requests.client(requests.Server(data, port), tmp_path)) as client,
    ):
        assert _all(client).keys() >= {*acknowledged, "later"}


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="only Linux can set the limits of another process")
def test_a_server_without_file_descriptors_still_writes(tmp_path):
    """The store opens no files while it is in use: connected clients can write."""
    data, request = tmp_path / "data", requests.pkcs10()
    with (
        started(data) as (port, process),
        contextlib.closing(requests.client(requests.Server(data, port), tmp_path)) as client,
    ):
        assert _write(client, "a", request).status == 201
        _, hard = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (3, hard))
        assert _write(client, "b", request).status == 201
        process.kill()
    with (
        started(data) as (port, _),
        contextlib.closing(requests.client(requests.Server(data, port), tmp_path)) as client,
    ):
        assert _all(client).keys() >= {"a", "b"}


# --- kill -9 ----------------------------------------------------------------------------------------------------------


class AcknowledgedWrites:
    """Created names with their resourceVersions, denied names, and certificates by UID."""

    def __init__(self):
        self.created = {}
        self.denied = set()
        self.certificates = {}

    def check(self, stored):
        """Nothing acknowledged is lost or undone."""
        assert not self.created.keys() - stored.keys(), "creations are lost"
        for name in self.denied:
            assert "Denied" in _conditions(stored[name]), "a denial is undone"
            assert not stored[name]["status"].get("certificate"), "a denied request is issued"
        for csr in stored.values():
            self.see(csr)
        certificates = {csr["metadata"]["uid"]: csr["status"].get("certificate") for csr in stored.values()}
        assert {uid: certificates[uid] for uid in self.certificates} == self.certificates, "certificates are lost"
        serials = [_serial(text) for text in self.certificates.values()]
        assert len(set(serials)) == len(serials)

    def see(self, csr):
        """Check a request as the server returns it: a certificate never changes."""
        certificate = csr["status"].get("certificate")
        if certificate:
            before = self.certificates.setdefault(csr["metadata"]["uid"], certificate)
            assert before == certificate, "a second certificate for one UID"


def _conditions(csr):
    return {condition["type"] for condition in csr["status"].get("conditions", ())}


def _serial(certificate):
    return x509.load_pem_x509_certificate(base64.b64decode(certificate)).serial_number


def _all(client):
    answer = client.request("admin", "GET", requests.CSRS, {"Accept": "application/json"}, None)
    return {csr["metadata"]["name"]: csr for csr in json.loads(answer.data)["items"]}


def _decide(client, record, name, created, decision):
    created["status"] = {"conditions": [{"type": decision, "status": "True", "reason": "t", "message": "t"}]}
    body = json.dumps(created).encode()
    answer = client.request("admin", "PUT", f"{requests.CSRS}/{name}/approval", requests.JSON, body)
    if answer.status == 200 and decision == "Denied":
        record.denied.add(name)


def _write_until_killed(client, record, name, enough):
    request = requests.pkcs10()
    with contextlib.suppress(OSError, ValueError):
        for number in range(10_000):
            full_name = f"{name}-{number}"
            answer = client.request(
                "admin", "POST", requests.CSRS, requests.JSON, requests.csr(full_name, request, CLIENT)
            )
            assert answer.status == 201, answer.data
            created = json.loads(answer.data)
            record.created[full_name] = created["metadata"]["resourceVersion"]
            _decide(client, record, full_name, created, "Denied" if number % 2 else "Approved")
            if number >= 8:
                earlier = client.request("admin", "GET", f"{requests.CSRS}/{name}-{number - 8}", requests.JSON, None)
                record.see(json.loads(earlier.data))
                enough.set()


# A TLS handshake with a killed process leaves its socket to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_kills_beside_other_processes_lose_nothing(tmp_path):
    """While the server writes and is killed, other processes read and back up the store: acknowledged writes and
    denials stay, and no request gets a second certificate.
    """
    data, record = tmp_path / "data", AcknowledgedWrites()
    for round_ in range(KILLS):
        with started(data) as (port, process):
            server, enough = requests.Server(data, port), threading.Event()
            with (
                contextlib.closing(requests.client(server, tmp_path)) as client,
                contextlib.closing(requests.client(server, tmp_path)) as second,
                otherprocess.reading(data / "store.sqlite"),
            ):
                record.check(_all(client))
                writers = [
                    threading.Thread(target=_write_until_killed, args=(writing, record, f"r{round_}-{name}", enough))
                    for name, writing in (("a", client), ("b", second))
                ]
                for writer in writers:
                    writer.start()
                assert enough.wait(60)
                process.kill()
                for writer in writers:
                    writer.join()
    with (
        started(data) as (port, _),
        contextlib.closing(requests.client(requests.Server(data, port), tmp_path)) as client,
    ):
        record.check(_all(client))
    assert len(record.created) > 8 * KILLS
