"""`certplane.testing` as its users see it. The examples of docs/testing.md are run unchanged."""

from __future__ import annotations

import datetime
import os
import pathlib
import re
import subprocess
import sys

import pytest
from cryptography import x509

from certplane import errors, testing
from certplane.resources import certificatesigningrequests as csrs
from certplane.resources import rbac, secrets
from certplane.store import memory

ROOT = pathlib.Path(__file__).resolve().parents[2]
EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "testing.md").read_text("utf-8"), re.DOTALL)


async def test_a_plane_issues_approved_requests():
    """The certificate is signed by the plane's CA and has the key of the request."""
    key = testing.new_key()
    async with testing.Plane() as plane:
        jane = testing.user("jane")
        await plane.grant(jane, "create")
        request = testing.new_pkcs10("jane", ["dev"], key=key)
        await plane.client(jane).create(csrs.RESOURCE, testing.new_csr("mine", request=request))
        await plane.approve("mine")
        certificate = x509.load_pem_x509_certificate(await plane.certificate("mine"))
        assert certificate.public_key() == key.public_key()
        certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(plane.ca_certificate))
        assert [csr.spec.username for csr in await plane.requests()] == ["jane"]


async def test_users_have_the_permissions_that_were_granted():
    """Without a grant, a user can neither create nor approve requests."""
    async with testing.Plane() as plane:
        jane = testing.user("jane")
        with pytest.raises(errors.Forbidden):
            await plane.client(jane).create(csrs.RESOURCE, testing.new_csr("mine"))
        await plane.grant(jane, "create", "get")
        await plane.client(jane).create(csrs.RESOURCE, testing.new_csr("mine"))
        with pytest.raises(errors.Forbidden):
            await plane.approve("mine", jane)
        await plane.deny("mine")
        (csr,) = await plane.requests()
        assert csrs.is_decided(csr)


async def test_the_clock_of_a_plane_is_advanced_by_the_test():
    """A request that was denied is deleted after an hour."""
    async with testing.Plane() as plane:
        await plane.client().create(csrs.RESOURCE, testing.new_csr("old"))
        await plane.deny("old")
        await plane.clock.advance(datetime.timedelta(hours=2).total_seconds())
        assert await plane.requests() == []


async def test_settings_of_a_plane():
    """They are fields of the configuration and its sections, by name; unknown names are refused."""
    settings = {"controllers": frozenset(), "creation_hints": False, "audit_problem": lambda: "the disk is full"}
    config = testing.Plane(**settings).config
    assert config.controllers.settings.controllers == frozenset()
    assert config.controllers.signers
    assert not config.api.creation_hints
    assert config.audit.problem() == "the disk is full"
    with pytest.raises(TypeError, match="unknown_setting"):
        testing.Plane(unknown_setting=True)


async def test_a_plane_continues_with_the_store_of_another():
    """A store that is passed is not closed with the plane."""
    store = memory.MemoryStore()
    async with testing.Plane(store=store, controllers=frozenset()) as plane:
        await plane.client().create(csrs.RESOURCE, testing.new_csr("mine"))
    async with testing.Plane(store=store, controllers=frozenset()) as plane:
        assert [csr.metadata.name for csr in await plane.requests()] == ["mine"]
    await store.close()


async def test_permissions_by_rules_and_bindings():
    """Rules and ClusterRoles can be granted to users, and ClusterRoles to groups."""
    rule = rbac.PolicyRule(api_groups=[""], resources=["secrets"], verbs=["list"])
    async with testing.Plane(controllers=frozenset()) as plane:
        jane, viewer = testing.user("jane"), testing.user("viewer", "viewers")
        role = await plane.grant_rules(jane, rule)
        assert (await plane.client(jane).list(secrets.RESOURCE)).items == []
        await plane.bind(role.metadata.name, "viewers")
        assert (await plane.client(viewer).list(secrets.RESOURCE)).items == []
        with pytest.raises(errors.Forbidden):
            await plane.client(testing.user("other")).list(secrets.RESOURCE)


def test_a_control_plane_is_a_real_server():
    """It listens on a free port, keeps its files in one directory, and removes them at the end."""
    with testing.ControlPlane("--key-algorithm", "ECDSA-P256") as running:
        directory = running.data_directory.parent
        assert re.fullmatch(r"https://127\.0\.0\.1:\d+", running.url)
        assert "PRIVATE" not in running.ca_file.read_text()
        assert running.kubeconfig.stat().st_mode & 0o077 == 0
        assert "kubeconfig written" in running.log
    assert not directory.exists()


def test_a_control_plane_runs_once_at_a_time(tmp_path):
    """It is not entered while it runs; afterwards it may be entered again. Its directory is created."""
    directory = tmp_path / "new" / "directory"
    control_plane = testing.ControlPlane("--key-algorithm", "ECDSA-P256", directory=directory)
    with control_plane as running:
        url = running.url
        with pytest.raises(RuntimeError, match="already running"):
            control_plane.__enter__()
        assert running.url == url
    with control_plane:
        assert control_plane.data_directory == directory / "data"


def test_a_control_plane_that_does_not_start_raises_an_error_with_its_log(tmp_path):
    """A directory that was passed is kept."""
    with pytest.raises(testing.StartError, match="exit code 2"), testing.ControlPlane("--no-such", directory=tmp_path):
        pass
    assert "--no-such" in (tmp_path / "server.log").read_text()


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_the_examples_of_the_documentation_work(number, tmp_path):
    """Each example is run as a test file of a user who has installed certplane."""
    (tmp_path / "test_example.py").write_text(EXAMPLES[number])
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_example.py"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=os.environ, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "skipped" not in run.stdout
