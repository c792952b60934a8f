"""What tests of several folders share."""

from __future__ import annotations

import contextlib
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
    with running(tmp_path_factory.mktemp("server")) as found:
        yield found


@pytest.fixture
def own_server(tmp_path):
    """A control plane for one test."""
    with running(tmp_path) as found:
        yield found


@contextlib.contextmanager
def running(directory):
    # The server whose answers were recorded does not say what will not work.
    with demo.running(directory / "data", directory / "server.log", "--creation-hints=false") as port:
        yield Server(directory / "data", port, directory / "server.log")
