"""Fixtures for pytest, loaded through the entry point `certplane` of the group `pytest11`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture(scope="session")
def control_plane() -> Iterator[Any]:
    """A `certplane.testing.ControlPlane` for all tests of the session: give your objects names of their own."""
    # pytest loads this module in every project of the environment, where hardly any needs a control plane.
    from certplane.testing.controlplane import ControlPlane  # noqa: PLC0415 - loaded by those who use it

    with ControlPlane("--key-algorithm", "ECDSA-P256") as running:
        yield running
