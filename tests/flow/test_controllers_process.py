"""`certplane controllers` against servers that are not like ours; over a plane in the process."""

from __future__ import annotations

import asyncio

from certplane import resources
from certplane.config import controllersettings
from certplane.controllers.cleanup import podrequestcleaner
from certplane.controllers.publishing import clustertrustbundle
from certplane.plane import controllerconfig, controllers
from certplane.server import local
from tests.flow import plane as flow


async def _disabled(kinds, caplog):
    """The controllers that are logged as disabled."""
    file = {"controllers": [clustertrustbundle.NAME, podrequestcleaner.NAME], "leader-elect": False}
    settings = controllersettings.read({}, file)
    config = controllerconfig.load_controllers(settings.controllers, root_ca="")
    async with flow.running(controllers=frozenset(), kinds=kinds) as plane:
        transport = local.InProcessTransport(plane.handler, flow.ADMIN, "controllers")
        runner = controllers.ControllerRunner(settings, config, transport, plane.clock)
        running = asyncio.ensure_future(runner.run())
        await flow.eventually(lambda: runner._context is not None)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    return [record.controller for record in caplog.records if "controller disabled" in record.getMessage()]


async def test_a_controller_whose_kind_the_server_does_not_have_says_so(caplog):
    """Whoever enabled it would wait in vain; clusters have these kinds only where they are switched on."""
    assert await _disabled(resources.DEFAULT, caplog) == [clustertrustbundle.NAME, podrequestcleaner.NAME]


async def test_a_controller_whose_kind_is_there_says_nothing(caplog):
    """Nothing is wrong then."""
    assert await _disabled(resources.ALL, caplog) == []
