"""What tests of several folders share."""

from __future__ import annotations

import dataclasses
import pathlib

import pytest

import demo


@dataclasses.dataclass(frozen=True)
class Server:
    """A control plane in a process of its own."""

    data: pathlib.Path
    port: int
    log: pathlib.Path

    @property
    def url(self):
        return f"https://127.0.0.1:{self.port}"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A control plane that the tests of a module share."""
    directory = tmp_path_factory.mktemp("server")
    with demo.running(directory / "data", directory / "server.log") as port:
        yield Server(directory / "data", port, directory / "server.log")
