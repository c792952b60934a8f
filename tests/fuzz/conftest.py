"""What the fuzz tests share: a world for each module, and a watchman."""

from __future__ import annotations

import faulthandler
import resource

import pytest

from tests.fuzz import world as worlds

#: Seconds after which a test is taken to be in an endless loop, which no turn counter sees. Kilobytes at the most.
_ENDLESS = {"": 600, "minutes": 7_200, "hours": 14 * 86_400}[worlds.SIZE]
_MEMORY = 3 * 1024 * 1024


@pytest.fixture(scope="module")
def world():
    """A control plane, for all the questions of a module."""
    with worlds.World() as made:
        yield made


@pytest.fixture(autouse=True)
def _watchman():
    """A test that never ends says where it is; one that fills the memory fails."""
    faulthandler.dump_traceback_later(_ENDLESS, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < _MEMORY
