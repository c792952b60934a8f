"""One certificate from the first request to its renewal: a worker with its files, against a server on loopback."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import logging

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

import demo
from certplane.agent.access import Access
from certplane.agent.pairstore import PairStore
from certplane.agent.settings import Hook, Outputs, Probe
from certplane.agent.status import AgentDirectory
from certplane.agent.worker import Surroundings, Worker
from certplane.testing import FakeClock
from tests.unit.agent import apiserver, pairs
from tests.unit.agent.apiserver import SETTINGS


@pytest.fixture(scope="module")
def ca():
    return pairs.CA()


@pytest.fixture
async def server():
    async with apiserver.APIServer().listening() as listening:
        yield listening


class Host:
    """A directory, and the settings of one certificate in it."""

    def __init__(self, server, directory, ca):
        self.server = server
        self.ca = ca
        self.clock = FakeClock()
        self.directory = directory
        self.settings = dataclasses.replace(
            SETTINGS,
            outputs=Outputs(directory / "tls.crt", directory / "tls.key", directory / "ca.crt"),
            hooks=(Hook(touch=directory / "reloaded"),),
        )
        self.agent = AgentDirectory(directory / "state")
        self.store = PairStore(self.agent.path, "web")
        self.server_settings = server.kubeconfig(directory)
        self.changes = 0

    def _changed(self):
        self.changes += 1

    @contextlib.asynccontextmanager
    async def running(self):
        """A worker, until the block ends."""
        access = Access(self.server_settings, lambda: None, self.clock)
        around = Surroundings(access, self.agent, self.clock, lambda: 0.5, self._changed)
        with self.store.locked():
            worker = Worker(self.settings, self.store, around, identity=False)
            task = asyncio.ensure_future(worker.run())
            try:
                await self.passes(0)
                yield worker
            finally:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task

    async def passes(self, seconds):
        """Let some seconds pass, one by one: requests that are under way end before the next one begins."""
        for _ in range(int(seconds)):
            await self.clock.advance(1)
            await self.server.settle()
        await self.server.settle()

    def issue(self):
        """Issue what was requested last, for 30 days."""
        request = x509.load_pem_x509_csr(base64.b64decode(self.server.csr["spec"]["request"]))

        class Key:
            public_key = request.public_key

        self.server.issue(self.ca.issue(Key, self.clock.now()))


@pytest.fixture
def host(server, tmp_path, ca):
    return Host(server, tmp_path, ca)


def _read(path):
    return path.read_bytes() if path.exists() else None


async def test_a_first_certificate(host, server, ca, caplog):
    """Key, request, approval, pair, files, hook; the status follows."""
    with caplog.at_level(logging.INFO):
        async with host.running() as worker:
            assert (0, worker.pair()) == (server.created, None)
            await host.passes(3)
            assert server.created == 1
            status = worker.status()
            name = server.csr["metadata"]["name"]
            assert ("Pending", name, "", "") == (status.phase, status.csr, status.serial, status.problem)
            assert name == host.store.pending().csr_name
            host.issue()
            await host.passes(30)
            pair = worker.pair()
            files = [_read(host.directory / name) for name in ("tls.crt", "tls.key", "ca.crt")]
            assert [pair.certificate, pair.key, server.ca.pem] == files
            assert (host.directory / "reloaded").exists()
            assert not host.store.hooks_due()
            assert host.store.pending() is None
            assert [pair.certificate] == worker.in_use()
            status = worker.status()
            assert ("Current", "", "", "") == (status.phase, status.csr, status.problem, status.hooks)
            assert (pair.facts.serial, "2026-01-31T00:00:03Z") == (status.serial, status.not_after)
            assert "2026-01-22" < status.renewal < "2026-01-29"
            figures = worker.metrics()
            assert (1, 0, False, True) == (figures.renewals, figures.errors, figures.has_problem, figures.is_server)
            assert pair.facts.not_after.timestamp() == figures.not_after
    expected = ["certificate requested", "certificate is current", "files written", "hooks run"]
    assert expected == [record.getMessage() for record in caplog.records]
    assert host.changes
    private = load_pem_private_key(pair.key, None)
    assert x509.load_pem_x509_certificate(pair.certificate).public_key() == private.public_key()


async def test_a_renewal_at_the_wish_of_an_operator(host, server):
    """It has a new key. The wish is fulfilled, and the hook runs again."""
    async with host.running() as worker:
        await host.passes(3)
        host.issue()
        await host.passes(10)
        former = worker.pair()
        (host.directory / "reloaded").unlink()
        host.agent.ask_renewal("web", new_key=False)
        worker.renew(new_key=False)
        await host.passes(3)
        assert (2, former) == (server.created, worker.pair())
        host.issue()
        await host.passes(10)
        assert former.key != worker.pair().key
        assert {} == host.agent.asked_renewals(["web"])
        assert (host.directory / "reloaded").exists()
        assert (2, 1) == (worker.metrics().renewals, worker.metrics().ages.count)


async def test_the_request_of_a_former_process_is_continued(host, server):
    """With its key and its name."""
    async with host.running():
        await host.passes(3)
    pending = host.store.pending()
    host.issue()
    async with host.running() as worker:
        await host.passes(3)
        assert pending.key == worker.pair().key
    assert server.created == 1


async def test_the_request_for_another_configuration_is_not_continued(host, server):
    """Its key is used for the next one."""
    async with host.running():
        await host.passes(3)
    key = host.store.pending().key
    host.settings = dataclasses.replace(host.settings, signer_name="example.com/other")
    async with host.running():
        await host.passes(3)
        assert (2, "example.com/other") == (server.created, server.csr["spec"]["signerName"])
        assert key == host.store.pending().key


async def test_hooks_of_a_former_process_are_run(host):
    """It was killed between the certificate and its hooks."""
    key = pairs.new_key()
    with host.store.locked():
        host.store.begin(pairs.key_pem(key))
        host.store.save(host.ca.issue(key, host.clock.now()), host.clock.now())
    async with host.running():
        await host.passes(1)
        assert (host.directory / "reloaded").exists()
    assert not host.store.hooks_due()


@pytest.mark.parametrize("is_silent", [False, True], ids=["refused", "silent"])
async def test_a_server_that_fails_for_a_while(host, server, caplog, is_silent):
    """The problem is shown, on one line, until it is solved. It is logged once."""
    server.refusal, server.is_silent = 0 if is_silent else 503, is_silent
    async with host.running() as worker:
        await host.passes(90)
        problem = worker.status().problem
        refused = "the server responds with 503: refused by the test"
        assert problem == (
            f"the server at 127.0.0.1:{server.port} cannot be reached: no response in time" if is_silent else refused
        )
        assert worker.metrics().has_problem
        assert worker.metrics().errors
        server.refusal, server.is_silent = 0, False
        await host.passes(300)
        assert "" == worker.status().problem
        assert server.created == 1
    problems = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [problem] == [record.error for record in problems]


async def test_a_denied_request(host, server):
    """The reason is shown. Its key is discarded."""
    async with host.running() as worker:
        await host.passes(3)
        server.decide("Denied", "Policy", "no\nway")
        await host.passes(3)
        status = worker.status()
        assert ("Denied", "Policy: no way") == (status.phase, status.problem.partition("was denied: ")[2])
        assert host.store.pending() is None


async def test_a_name_that_somebody_else_has_taken(host, server):
    """Another key has another name."""
    async with host.running():
        await host.passes(3)
    pending = host.store.pending()
    server.csr["spec"]["request"] = ""
    # The process ended before it knew that the request had been created.
    (host.agent.path / "web-pending.pem").write_bytes(pending.key)
    async with host.running() as worker:
        await host.passes(1)
        assert "the server responds with 409: another CSR has the name" == worker.status().problem
        await host.passes(10)
        assert pending.key != host.store.pending().key
        assert ("Pending", "") == (worker.status().phase, worker.status().problem)
    assert server.created == 2


async def test_files_that_cannot_be_written(host):
    """The certificate is renewed all the same; the files and the hook follow when they can."""
    obstacle = host.directory / "tls.crt"
    obstacle.mkdir()
    async with host.running() as worker:
        await host.passes(3)
        host.issue()
        await host.passes(10)
        assert "Current" == worker.status().phase
        assert f"{obstacle} cannot be written: Is a directory" == worker.status().outputs
        assert not (host.directory / "reloaded").exists()
        assert not (host.directory / "tls.key").exists()
        obstacle.rmdir()
        await host.passes(60)
        assert "" == worker.status().outputs
        assert worker.pair().certificate == obstacle.read_bytes()
        assert (host.directory / "reloaded").exists()


async def test_a_hook_that_fails(host):
    """It is run again, later; the certificate is in use."""
    missing = host.directory / "missing"
    host.settings = dataclasses.replace(host.settings, hooks=(Hook(touch=missing / "file"),))
    async with host.running() as worker:
        await host.passes(3)
        host.issue()
        await host.passes(10)
        assert f"{missing} is not a directory" == worker.status().hooks
        assert host.store.hooks_due()
        missing.mkdir(mode=0o755)
        await host.passes(60)
        assert "" == worker.status().hooks
        assert (missing / "file").exists()
    assert not host.store.hooks_due()


async def test_an_endpoint_that_is_away(host):
    """It is a problem of the installation, not of the certificate."""
    port = demo.free_port()
    host.settings = dataclasses.replace(host.settings, probe=Probe("127.0.0.1", port))
    async with host.running() as worker:
        await host.passes(3)
        host.issue()
        await host.passes(20)
        status = worker.status()
        assert ("Current", "", False) == (status.phase, status.problem, status.is_served)
        assert f"127.0.0.1:{port} cannot be reached: Connection refused" == status.endpoint


async def test_a_store_that_cannot_be_used(host, server):
    """No request is made without a key that is stored; it is tried again."""
    obstacle = host.agent.path / "web-pending.pem"
    host.agent.path.mkdir(mode=0o700)
    async with host.running() as worker:
        obstacle.mkdir()
        await host.passes(10)
        assert worker.status().problem.startswith(f"{obstacle} cannot be ")
        assert server.created == 0
        obstacle.rmdir()
        await host.passes(60)
        assert ("", 1) == (worker.status().problem, server.created)
