"""Trust bundles are read again and again; problems are shown until they are solved."""

from __future__ import annotations

import asyncio
import contextlib
import logging

import pytest

from certplane.agent import kinds
from certplane.agent.bundlekeeper import BundleKeeper
from certplane.agent.settings import ConfigMapKey, TrustBundle
from certplane.agent.status import BundleStatus
from certplane.client import api
from certplane.testing import FakeClock
from tests.unit.agent import pairs


class _Server:
    """An API server with one ConfigMap; `problem` is what it answers instead, None that it never answers."""

    def __init__(self, text):
        self.text = text
        self.problem = ""
        self.reads = 0

    @contextlib.asynccontextmanager
    async def client(self, _):
        yield self

    async def get(self, kind, name, namespace):
        assert (kinds.CONFIG_MAPS, "kube-root-ca.crt", "default") == (kind, name, namespace)
        self.reads += 1
        if self.problem is None:
            await asyncio.Event().wait()
        if self.problem:
            raise api.Unreachable(self.problem)
        return kinds.ConfigMap(data={"ca.crt": self.text.decode()})


@pytest.fixture(scope="module")
def cas():
    return pairs.CA(), pairs.CA()


@contextlib.asynccontextmanager
async def _running(server, path, in_use=()):
    clock = FakeClock()
    changes = []
    bundle = TrustBundle(path, config_map=ConfigMapKey("default", "kube-root-ca.crt"))
    keeper = BundleKeeper(bundle, server, clock, lambda: 0.5, lambda: in_use, lambda: changes.append(1))
    running = asyncio.ensure_future(keeper.run())
    try:
        await clock.advance(0)
        yield keeper, clock, changes
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


async def test_a_bundle_is_read_every_five_minutes(cas, tmp_path):
    """And its file is written when it has changed. A certificate in use retains its CA."""
    old, new = cas
    server, path = _Server(old.pem), tmp_path / "ca.crt"
    async with _running(server, path, [old.issue(pairs.new_key())]) as (keeper, clock, changes):
        assert old.pem == path.read_bytes()
        assert BundleStatus(path=str(path), certificates=1) == keeper.status()
        await clock.advance(299)
        assert 1 == server.reads
        server.text = new.pem
        await clock.advance(2)
        assert new.pem + old.pem == path.read_bytes()
        assert BundleStatus(path=str(path), certificates=2, retained=1) == keeper.status()
        assert 2 == len(changes)


async def test_an_api_server_that_is_away_is_not_hammered(cas, tmp_path, caplog):
    """The pauses grow to five minutes. The problem is logged once, and so is its end; the file stays."""
    server, path = _Server(cas[0].pem), tmp_path / "ca.crt"
    server.problem = "the server at example cannot be reached"
    path.write_bytes(cas[0].pem)
    path.chmod(0o644)
    with caplog.at_level(logging.INFO):
        async with _running(server, path) as (keeper, clock, _):
            assert server.problem == keeper.status().problem
            await clock.advance(86400)
            assert 280 < server.reads < 300
            server.problem = ""
            await clock.advance(300)
            assert "" == keeper.status().problem
    assert ["trust bundle problem", "trust bundle problem solved"] == [record.message for record in caplog.records]
    assert cas[0].pem == path.read_bytes()


async def test_an_api_server_that_never_answers_is_a_problem(cas, tmp_path):
    """After a minute and a half."""
    server = _Server(cas[0].pem)
    server.problem = None
    async with _running(server, tmp_path / "ca.crt") as (keeper, clock, _):
        await clock.advance(90)
        assert "the API server did not answer within 90 s" == keeper.status().problem


async def test_a_bundle_that_cannot_be_used_is_a_problem(cas, tmp_path):
    """The file stays as it is."""
    server, path = _Server(cas[0].pem), tmp_path / "ca.crt"
    async with _running(server, path) as (keeper, clock, changes):
        server.text = b""
        await clock.advance(301)
        assert "the published bundle has no certificate" == keeper.status().problem
        assert cas[0].pem == path.read_bytes()
        assert 2 == len(changes)


async def test_a_file_that_is_current_is_shown_after_a_restart(cas, tmp_path):
    """What the status says about it has changed, though the file has not."""
    server, path = _Server(cas[0].pem), tmp_path / "ca.crt"
    for _ in range(2):
        async with _running(server, path) as (keeper, _, changes):
            assert BundleStatus(path=str(path), certificates=1) == keeper.status()
            assert 1 == len(changes)
