"""`certplane.testing`, as other people's tests use it. The examples of docs/testing.md are run as they stand."""

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

ROOT = pathlib.Path(__file__).resolve().parents[2]
EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "testing.md").read_text("utf-8"), re.DOTALL)


async def test_a_plane_issues_what_is_approved():
    """By its own CA, for the key of the request."""
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


async def test_users_have_the_rights_that_they_are_given():
    """Nobody approves without them."""
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


async def test_time_passes_when_the_test_says_so():
    """A request that was denied is deleted after an hour."""
    async with testing.Plane() as plane:
        await plane.client().create(csrs.RESOURCE, testing.new_csr("old"))
        await plane.deny("old")
        await plane.clock.advance(datetime.timedelta(hours=2).total_seconds())
        assert await plane.requests() == []


def test_a_control_plane_is_a_real_one():
    """It answers on a port of its own, keeps its files in one place, and leaves nothing."""
    with testing.ControlPlane("--key-algorithm", "ECDSA-P256") as running:
        directory = running.data_directory.parent
        assert re.fullmatch(r"https://127\.0\.0\.1:\d+", running.url)
        assert "PRIVATE" not in running.ca_file.read_text()
        assert running.kubeconfig.stat().st_mode & 0o077 == 0
        assert "kubeconfig written" in running.log
    assert not directory.exists()


def test_a_control_plane_that_does_not_start_says_why(tmp_path):
    """With its log; the directory that was given stays."""
    with pytest.raises(testing.StartError, match="exit code 2"), testing.ControlPlane("--no-such", directory=tmp_path):
        pass
    assert "--no-such" in (tmp_path / "server.log").read_text()


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_the_examples_of_the_page_work(number, tmp_path):
    """Each is a file of tests, for somebody who has installed certplane."""
    (tmp_path / "test_example.py").write_text(EXAMPLES[number])
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_example.py"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=os.environ, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "skipped" not in run.stdout
