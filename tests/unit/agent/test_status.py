"""The directory of an agent: its lock, its status, and requests for renewal."""

from __future__ import annotations

import os

import pytest

from certplane.agent.status import AgentDirectory, AgentStatus, CertificateStatus
from certplane.errors import SetupError

STATUS = AgentStatus(
    written="2026-01-01T00:00:00Z", certificates=[CertificateStatus(name="a", signer_name="b/c", phase="Current")]
)


@pytest.fixture
def directory(tmp_path):
    return AgentDirectory(tmp_path / "state")


def test_the_lock(directory):
    """Commands read from it which process is the agent, and keeps a second one out. It ends with its process."""
    with directory.locked():
        assert os.getpid() == directory.running_agent()
        with pytest.raises(SetupError, match=f"another agent, process {os.getpid()}, uses"), directory.locked():
            pass
    assert directory.running_agent() == 0


def test_a_link_in_the_place_of_the_lock(directory, tmp_path):
    """It is not followed: its owner could have a file of his choice changed."""
    target = tmp_path / "target"
    target.write_text("precious")
    directory.path.mkdir(mode=0o700)
    (directory.path / "agent.lock").symlink_to(target)
    with pytest.raises(SetupError, match="cannot be locked"), directory.locked():
        pass
    assert target.read_text() == "precious"


def test_a_directory_that_others_can_write(directory):
    """Whoever can write there could ask for renewals, and replace keys."""
    directory.path.mkdir()
    directory.path.chmod(0o777)
    with pytest.raises(SetupError, match="other users can create files"), directory.locked():
        pass
    with pytest.raises(SetupError, match="other users can create files"):
        directory.ask_renewal("a", new_key=False)


def test_the_status(directory):
    """It is read as it was written."""
    with directory.locked():
        assert directory.read_status() is None
        directory.write_status(STATUS)
    assert directory.read_status() == STATUS


def test_a_damaged_status(directory):
    """It is an error of the operator's kind, not a traceback."""
    with directory.locked():
        (directory.path / "status.json").write_text("{")
        with pytest.raises(SetupError, match="is damaged"):
            directory.read_status()


def test_requests_for_renewal(directory):
    """They stay until there is a new certificate; a later one differs from a former one."""
    directory.ask_renewal("a", new_key=False)
    directory.ask_renewal("b", new_key=True)
    asked = directory.asked_renewals(["a", "b", "c"])
    assert {name: item.new_key for name, item in asked.items()} == {"a": False, "b": True}
    directory.ask_renewal("a", new_key=False)
    assert directory.asked_renewals(["a"]) != {"a": asked["a"]}
    directory.renewed("a")
    directory.renewed("c")
    assert directory.asked_renewals(["a"]) == {}
