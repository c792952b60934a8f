"""Other processes that read, back up, lock, change or remove the files of a store while it serves."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import resource
import subprocess
import sys
import threading

import pytest
from cryptography import x509

from certplane import errors
from certplane.meta.objects import ObjectReference
from certplane.resources import certificatesigningrequests as csrs
from certplane.resources import events
from certplane.store import contract, files, sqlite
from tests.e2e import requests
from tests.e2e.test_serve import started
from tests.faults import outsider
from tests.flow import plane as flow

#: Kills in `make test`; CERTPLANE_KILLS=200 for the whole proof.
KILLS = int(os.environ.get("CERTPLANE_KILLS", "8"))
CLIENT = "kubernetes.io/kube-apiserver-client"


@pytest.fixture
async def path(tmp_path):
    return tmp_path / "store.sqlite"


@pytest.fixture
async def store(path):
    made = sqlite.open_store(path)
    yield made
    await made.close()


# --- who only looks -----------------------------------------------------------------------------------------------


LOOKS = [
    "SELECT 1",
    "PRAGMA wal_checkpoint(TRUNCATE)",
    "VACUUM",
    "PRAGMA journal_mode",
    "VACUUM INTO 'copy.sqlite'",
]


@pytest.mark.parametrize("look", LOOKS)
async def test_a_look_takes_nothing_away(look, store, path, monkeypatch, tmp_path):
    """The log that holds what was acknowledged stays, and writes go on."""
    monkeypatch.chdir(tmp_path)
    await store.create("/a", b"1")
    before = os.stat(f"{path}-wal").st_ino
    outsider.run(path, look)
    assert os.stat(f"{path}-wal").st_ino == before
    await store.create("/b", b"1")
    assert store.problem is None
    assert outsider.run(path, "SELECT key FROM revisions ORDER BY key") == "/a\n/b"


async def test_the_journal_mode_cannot_be_changed_from_outside(store, path):
    """It would need the database for itself."""
    with pytest.raises(subprocess.CalledProcessError) as refused:
        outsider.run(path, "PRAGMA busy_timeout = 10", "PRAGMA journal_mode = DELETE")
    assert "database is locked" in refused.value.stderr
    await store.create("/a", b"1")


async def test_the_locks_of_sqlite_are_kept(store, path):
    """Nothing in the process opens and closes the files beside SQLite: its locks are there, and it is looked."""
    await store.create("/a", b"1")
    await store.check()
    assert store.problem is None


async def test_lost_locks_are_noticed(store, path):
    """If somebody in the process drops SQLite's locks nevertheless, it is said, and nothing is lost."""
    await store.create("/a", b"1")
    before = os.stat(f"{path}-wal").st_ino
    os.close(os.open(path, os.O_RDONLY))
    outsider.run(path, "SELECT 1")
    assert os.stat(f"{path}-wal").st_ino == before
    await store.create("/b", b"1")
    with pytest.raises(contract.StoreClosed, match="lock on the store is lost"):
        await store.check()
    with pytest.raises(contract.StoreClosed, match="lock on the store is lost"):
        await store.create("/c", b"1")
    assert outsider.run(path, "SELECT key FROM revisions ORDER BY key") == "/a\n/b"


# --- whose it is --------------------------------------------------------------------------------------------------


OPENING = """
import asyncio, pathlib, sys
from certplane.store import sqlite

async def main():
    sqlite.open_store(pathlib.Path(sys.argv[1]))

asyncio.run(main())
"""


def _opened_elsewhere(path):
    """What another process says that opens the store."""
    return subprocess.run([sys.executable, "-c", OPENING, path], capture_output=True, text=True, check=False).stderr


async def test_a_removed_lock_file_lets_nobody_in(store, path):
    """Who owns the store is written in a lock on the database, which cannot be removed."""
    path.with_name("store.sqlite.lock").unlink()
    assert f"SetupError: the store {path} is in use by another process" in _opened_elsewhere(path)
    await store.create("/a", b"1")
    assert store.problem is None


@pytest.mark.parametrize("name", ["store.sqlite", "store.sqlite.lock"])
async def test_a_link_is_no_store(name, path):
    """It leads to somebody else's file."""
    other = path.with_name("other")
    other.touch()
    path.with_name(name).symlink_to(other)
    with pytest.raises(errors.SetupError, match="cannot be opened"):
        sqlite.open_store(path)
    assert other.read_bytes() == b""


async def test_a_directory_is_no_store(path):
    """It is refused in words."""
    path.mkdir()
    with pytest.raises(errors.SetupError, match="cannot be opened: Is a directory"):
        sqlite.open_store(path)


async def test_the_directory_of_a_store_may_be_a_file(path):
    """It is refused in words."""
    path.touch()
    with pytest.raises(errors.SetupError, match="cannot be made"):
        sqlite.open_store(path / "store.sqlite")


async def test_a_store_without_locks_of_descriptions_is_served(path, monkeypatch, caplog):
    """Other systems than Linux have none: it is said, and SQLite's own locks protect the store."""
    monkeypatch.setattr(files, "_OFD_SETLK", None)
    made = sqlite.open_store(path)
    await made.create("/a", b"1")
    assert "SQLite's locks alone" in caplog.text
    path.with_name("store.sqlite.lock").unlink()
    with pytest.raises(contract.StoreClosed, match=r"store\.sqlite\.lock is gone"):
        await made.create("/b", b"1")
    await made.close()


# --- who takes the files away -------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm"])
@pytest.mark.parametrize("how", ["unlink", "move", "replace"])
async def test_a_file_that_is_taken_away_ends_the_writes(suffix, how, store, path):
    """What would be written into it would be lost: it is not acknowledged, and it is said."""
    made = await store.create("/a", b"1")
    target = path.with_name(path.name + suffix)
    match how:
        case "unlink":
            target.unlink()
        case "move":
            target.rename(path.with_name("elsewhere"))
        case "replace":
            copy = path.with_name("copy")
            copy.write_bytes(b"")
            copy.replace(target)
    with pytest.raises(contract.StoreClosed, match="takes no more writes"):
        await store.update("/a", b"2", made.mod_revision)
    with pytest.raises(contract.StoreClosed, match="takes no more writes"):
        await store.check()
    assert target.name in store.problem
    assert str(path.parent) not in store.problem
    assert await store.get("/a") == made


async def test_health_tells_of_files_that_are_gone(path):
    """Also if nobody writes: it is looked every few seconds. The reason is not for strangers, but for who writes."""
    store = sqlite.open_store(path)
    async with flow.running(store) as plane:
        client = plane.client(flow.ADMIN)
        path.unlink()
        await plane.clock.advance(6)
        await flow.eventually(lambda: store.problem)
        for root in ("/readyz", "/livez", "/healthz"):
            answer = await client._transport.request("GET", root)
            assert answer.status == 500
            assert b"[-]etcd failed: reason withheld" in answer.body
        with pytest.raises(errors.ServiceUnavailable, match=r"its file store\.sqlite is gone"):
            await client.create(csrs.RESOURCE, flow.new_csr())
        assert (await client.list(csrs.RESOURCE)).items == []
    await store.close()


async def test_files_that_came_back_are_not_trusted(store, path):
    """Somebody may have written in between: a restart reads what is there."""
    await store.create("/a", b"1")
    path.rename(path.with_name("elsewhere"))
    with pytest.raises(contract.StoreClosed):
        await store.check()
    path.with_name("elsewhere").rename(path)
    with pytest.raises(contract.StoreClosed):
        await store.create("/b", b"1")


async def test_what_was_put_in_its_place_is_left_alone(path):
    """Closing a store whose files were replaced removes nothing of the new ones."""
    store = sqlite.open_store(path)
    await store.create("/a", b"1")
    log = path.with_name("store.sqlite-wal")
    log.rename(path.with_name("elsewhere"))
    log.write_bytes(b"somebody else's")
    with pytest.raises(contract.StoreClosed):
        await store.check()
    await store.close()
    assert log.read_bytes() == b"somebody else's"


# --- who writes ---------------------------------------------------------------------------------------------------

WRITES = [
    "UPDATE revisions SET value = 'x' WHERE key = '/a'",
    "DELETE FROM revisions WHERE key = '/a'",
    "INSERT INTO revisions VALUES (3, '/b', 3, 0, 1, 'x')",
    "UPDATE facts SET value = 2 WHERE name = 'compacted'",
]


@pytest.mark.parametrize("write", WRITES)
async def test_a_foreign_write_ends_the_writes(write, store, path):
    """Two who write do not know of each other: nothing is written over it, and a restart reads what is there."""
    await store.create("/a", b"1")
    outsider.run(path, write)
    for attempt in (store.create("/c", b"1"), store.check()):
        with pytest.raises(contract.StoreClosed, match="another process has written into it"):
            await attempt
    assert (await store.get("/a")).value == b"1"
    await store.close()
    again = sqlite.open_store(path)
    await again.create("/d", b"1")
    await again.close()


async def test_a_held_lock_fails_writes_for_as_long_as_it_is_held(path, monkeypatch):
    """In words, without loss; afterwards they work, and the store says so."""
    monkeypatch.setattr(sqlite, "_BUSY_MILLISECONDS", 1)
    store = sqlite.open_store(path)
    await store.create("/a", b"1")
    with outsider.holding_a_write_lock(path):
        for attempt in (store.create("/b", b"1"), store.compact(2), store.check()):
            with pytest.raises(contract.StoreClosed, match="another process holds a lock on it"):
                await attempt
        assert "holds a lock" in store.problem
        assert (await store.get("/a")).value == b"1"
    await store.check()
    assert store.problem is None
    await store.create("/b", b"1")
    await store.compact(2)
    await store.close()


async def test_a_full_disk_fails_writes_until_there_is_space(store, path):
    """In words, and told; what was acknowledged is there, reads go on, and a trial finds out that there is space."""
    await store.create("/a", b"1")
    connection = store._writer._connection
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages}")
    for attempt in (lambda: store.create("/b", b"x" * 10_000), store.check, lambda: store.create("/c", b"x" * 10_000)):
        with pytest.raises(contract.StoreClosed, match="no space is left for it"):
            await attempt()
    assert "no space" in store.problem
    assert (await store.get("/a")).value == b"1"
    connection.execute("PRAGMA max_page_count = 1000000")
    await store.check()
    assert store.problem is None
    assert (await store.create("/b", b"x" * 10_000)).mod_revision == 3
    assert outsider.run(path, "SELECT name FROM facts") == "compacted"


async def test_a_read_error_fails_the_read_alone(path):
    """A list of the past comes from the file; the newest state, and writes, do not need it."""
    store = sqlite.open_store(path)
    async with flow.running(store) as plane:
        client = plane.client(flow.ADMIN)
        for name in ("a", "b"):
            await client.create(csrs.RESOURCE, flow.new_csr(name))
        store._reader.close()
        query = [("limit", "1")]
        first = await client._transport.request("GET", requests.CSRS, query=query)
        proceed = json.loads(first.body)["metadata"]["continue"]
        await client.create(csrs.RESOURCE, flow.new_csr("c"))
        second = await client._transport.request("GET", requests.CSRS, query=[*query, ("continue", proceed)])
        assert (second.status, json.loads(second.body)["reason"]) == (503, "ServiceUnavailable")
        assert "the store cannot be read" in json.loads(second.body)["message"]
        assert len((await client.list(csrs.RESOURCE)).items) == 3
    await store.close()


async def test_background_work_outlives_a_lock(path, monkeypatch):
    """A write lock is held across a compaction and the end of an Event: both are told late, and then happen."""
    monkeypatch.setattr(sqlite, "_BUSY_MILLISECONDS", 1)
    store = sqlite.open_store(path)
    async with flow.running(store, event_seconds=200.0) as plane:
        client = plane.client(flow.ADMIN)
        told = events.Event(
            reason="Test", message="m", type="Normal", involved_object=ObjectReference(namespace="default")
        )
        told.metadata.name = "an-event"
        await client.create(events.RESOURCE, told, "default")
        await plane.clock.advance(299)
        with outsider.holding_a_write_lock(path):
            await plane.clock.advance(2)
            await flow.eventually(lambda: "compaction" in (plane.supervisor.problem() or ""))
            await flow.eventually(lambda: "event-expiry" in (plane.supervisor.problem() or ""))
            with pytest.raises(errors.ServiceUnavailable, match="another process holds a lock on it"):
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


async def test_a_locked_store_is_not_opened_and_not_called_damaged(path, monkeypatch):
    """The hint is to end whoever holds it."""
    monkeypatch.setattr(sqlite, "_BUSY_MILLISECONDS", 1)
    await sqlite.open_store(path).close()
    with outsider.holding_a_write_lock(path), pytest.raises(errors.SetupError) as refused:
        sqlite.open_store(path)
    assert "end that one" in refused.value.hints[0]


async def test_a_key_without_utf8_is_refused_alone(store):
    """The thread that writes goes on, and so do the writes beside it."""
    with pytest.raises(UnicodeEncodeError):
        await store.create("/\ud800", b"1")
    await store.create("/a", b"1")


async def test_a_watch_that_raises_keeps_no_answer_back(store):
    """Against the contract, but writers must not wait for ever."""

    def deliver(changes):
        raise RuntimeError("a mistake")

    told = []
    store._loop.set_exception_handler(lambda loop, context: told.append(context["exception"]))
    await store.watch("/", 1, deliver, print)
    assert (await store.create("/a", b"1")).value == b"1"
    assert [str(each) for each in told] == ["a mistake"]


# --- limits of the machine ----------------------------------------------------------------------------------------


def _write(client, name, request):
    return client.request("admin", "POST", requests.CSRS, requests.JSON, requests.csr(name, request))


def _until(client, path, status):
    """Ask until the answer is the one that is waited for."""
    while (answer := client.request("admin", "GET", path, {}, None)).status != status:
        pass
    return answer


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="limits of another process are Linux's")
def test_a_server_without_space_says_so_and_goes_on_later(tmp_path):
    """Writes are answered with 503 in words, /readyz fails, reads go on; with space everything works again, and what
    was acknowledged survives kill -9.
    """
    data, request, acknowledged = tmp_path / "data", requests.pkcs10(), []
    with (
        started(data) as (port, process),
        contextlib.closing(requests.client(requests.Server(data, port), tmp_path)) as client,
    ):
        size = (data / "store.sqlite-wal").stat().st_size
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size + 100_000, resource.RLIM_INFINITY))
        while (answer := _write(client, f"a{len(acknowledged)}", request)).status == 201:
            acknowledged.append(json.loads(answer.data)["metadata"]["name"])
        refused = json.loads(answer.data)
        assert (refused["code"], refused["reason"]) == (503, "ServiceUnavailable")
        assert refused["message"].startswith("the store cannot write: ")
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


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="limits of another process are Linux's")
def test_a_server_without_descriptors_keeps_what_it_acknowledges(tmp_path):
    """The store opens nothing while it serves: whoever is connected can write."""
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


# --- kill -9 ------------------------------------------------------------------------------------------------------


class Record:
    """What was acknowledged: created names with their versions, decisions, and certificates by UID."""

    def __init__(self):
        self.created = {}
        self.denied = set()
        self.certificates = {}

    def check(self, found):
        """Nothing of it is lost or undone."""
        assert not self.created.keys() - found.keys(), "creations are lost"
        for name in self.denied:
            assert "Denied" in _conditions(found[name]), "a denial is undone"
            assert not found[name]["status"].get("certificate"), "a denied request is issued"
        for each in found.values():
            self.see(each)
        certificates = {each["metadata"]["uid"]: each["status"].get("certificate") for each in found.values()}
        assert {uid: certificates[uid] for uid in self.certificates} == self.certificates, "certificates are lost"
        serials = [_serial(text) for text in self.certificates.values()]
        assert len(set(serials)) == len(serials)

    def see(self, csr):
        """A request as the server shows it now: its certificate is the one that it had."""
        certificate = csr["status"].get("certificate")
        if certificate:
            before = self.certificates.setdefault(csr["metadata"]["uid"], certificate)
            assert before == certificate, "a second certificate for one UID"


def _conditions(csr):
    return {each["type"] for each in csr["status"].get("conditions", ())}


def _serial(certificate):
    return x509.load_pem_x509_certificate(base64.b64decode(certificate)).serial_number


def _all(client):
    answer = client.request("admin", "GET", requests.CSRS, {"Accept": "application/json"}, None)
    return {each["metadata"]["name"]: each for each in json.loads(answer.data)["items"]}


def _decide(client, record, name, created, decision):
    created["status"] = {"conditions": [{"type": decision, "status": "True", "reason": "t", "message": "t"}]}
    body = json.dumps(created).encode()
    answer = client.request("admin", "PUT", f"{requests.CSRS}/{name}/approval", requests.JSON, body)
    if answer.status == 200 and decision == "Denied":
        record.denied.add(name)


def _write_until_it_dies(client, record, name, enough):
    request = requests.pkcs10()
    with contextlib.suppress(OSError, ValueError):
        for number in range(10_000):
            mine = f"{name}-{number}"
            answer = client.request("admin", "POST", requests.CSRS, requests.JSON, requests.csr(mine, request, CLIENT))
            assert answer.status == 201, answer.data
            created = json.loads(answer.data)
            record.created[mine] = created["metadata"]["resourceVersion"]
            _decide(client, record, mine, created, "Denied" if number % 2 else "Approved")
            if number >= 8:
                earlier = client.request("admin", "GET", f"{requests.CSRS}/{name}-{number - 8}", requests.JSON, None)
                record.see(json.loads(earlier.data))
                enough.set()


# A handshake with a process that is killed in the middle of it leaves its socket to the collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_kills_with_outsiders_lose_nothing(tmp_path):
    """Others read the store and back it up while it is written and killed: what was acknowledged is there, a denial
    stands, and no request gets a second certificate.
    """
    data, record = tmp_path / "data", Record()
    for round_ in range(KILLS):
        with started(data) as (port, process):
            server, enough = requests.Server(data, port), threading.Event()
            with (
                contextlib.closing(requests.client(server, tmp_path)) as client,
                contextlib.closing(requests.client(server, tmp_path)) as second,
                outsider.curious(data / "store.sqlite"),
            ):
                record.check(_all(client))
                writers = [
                    threading.Thread(target=_write_until_it_dies, args=(each, record, f"r{round_}-{name}", enough))
                    for name, each in (("a", client), ("b", second))
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
