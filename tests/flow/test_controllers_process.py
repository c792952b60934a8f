"""`certplane controllers` against API servers that do not serve all kinds."""

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


async def test_controllers_are_disabled_if_the_server_does_not_serve_their_kind(caplog):
    """The log names them: clusters serve these kinds only if they are enabled."""
    assert await _disabled(resources.DEFAULT, caplog) == [clustertrustbundle.NAME, podrequestcleaner.NAME]


async def test_controllers_are_enabled_if_the_server_serves_their_kind(caplog):
    """Nothing is wrong then."""
    assert await _disabled(resources.ALL, caplog) == []
