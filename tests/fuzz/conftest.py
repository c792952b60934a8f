"""Shared by the fuzz tests: a world for each module, and a watchdog."""

from __future__ import annotations

import faulthandler
import resource

import pytest

from tests.fuzz import world as worlds

#: Seconds after which a test is considered to be in an endless loop. Maximum memory, in kilobytes.
_ENDLESS = {"": 600, "minutes": 7_200, "hours": 14 * 86_400}[worlds.SIZE]
_MEMORY = 3 * 1024 * 1024


@pytest.fixture(scope="module")
def world():
    """A control plane, for all requests of a module."""
    with worlds.World() as new_world:
        yield new_world


@pytest.fixture(autouse=True)
def _watchman():
    """A test that does not end prints its stack; one that uses too much memory fails."""
    faulthandler.dump_traceback_later(_ENDLESS, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < _MEMORY
