"""Fixtures for tests in several folders: servers in processes of their own."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib

import pytest

import demo


@dataclasses.dataclass(frozen=True)
class Server:
    """A running `certplane serve`: its data directory, port and log file."""

    data: pathlib.Path
    port: int
    log: pathlib.Path

    @property
    def url(self):
        return f"https://127.0.0.1:{self.port}"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A control plane that the tests of a module share."""
    with running(tmp_path_factory.mktemp("server")) as running_server:
        yield running_server


@pytest.fixture
def own_server(tmp_path):
    """A control plane for one test."""
    with running(tmp_path) as running_server:
        yield running_server


@contextlib.contextmanager
def running(directory):
    # A real API server, whose responses were recorded for the conformance cases, has no creation hints.
    with demo.running(directory / "data", directory / "server.log", "--creation-hints=false") as port:
        yield Server(directory / "data", port, directory / "server.log")
