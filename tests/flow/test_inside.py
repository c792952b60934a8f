"""`certplane controllers` against servers that are not like ours; over a plane in the process."""

from __future__ import annotations

import asyncio

from certplane import inside, resources
from certplane.config import controllers
from certplane.controllers import podrequestcleaner, trustpublisher
from certplane.server import local
from tests.flow import plane as flow


async def _rests(kinds, caplog):
    """The controllers that say they have nothing to do, before the others begin."""
    said = {"controllers": [trustpublisher.NAME, podrequestcleaner.NAME], "leader-elect": False}
    async with flow.running(controllers=frozenset(), kinds=kinds) as plane:
        transport = local.Transport(plane.handler, flow.ADMIN, "controllers")
        work = inside._Work(controllers.settings({}, said), transport, plane.clock)
        working = asyncio.ensure_future(work.run(""))
        await flow.eventually(lambda: work._crew is not None)
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
    return [each.controller for each in caplog.records if "rests" in each.getMessage()]


async def test_a_controller_whose_kind_the_server_does_not_have_says_so(caplog):
    """Whoever enabled it would wait in vain; clusters have these kinds only where they are switched on."""
    assert await _rests(resources.DEFAULT, caplog) == [trustpublisher.NAME, podrequestcleaner.NAME]


async def test_a_controller_whose_kind_is_there_says_nothing(caplog):
    """Nothing is wrong then."""
    assert await _rests(resources.ALL, caplog) == []
