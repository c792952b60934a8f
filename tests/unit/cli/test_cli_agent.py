"""`certplane agent check`, `renew` and `status`: texts and exit codes."""

from __future__ import annotations

import json
import signal
import sys
from typing import NamedTuple

import pytest

from certplane.agent.status import AgentDirectory, AgentStatus, BundleStatus, CertificateStatus
from certplane.cli import main
from tests.unit.agent import apiserver

SOON = "2100-01-01T00:00:00Z"


class Result(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def config(tmp_path):
    """A valid configuration with one certificate."""
    server = apiserver.APIServer()
    server.port = 6443  # No command here connects to it.
    server.kubeconfig(tmp_path)
    certificate = {"name": "web", "signerName": apiserver.SIGNER, "dnsNames": ["localhost"], "usages": ["server auth"]}
    document = {
        "apiVersion": "agent.certplane.io/v1alpha1",
        "kind": "AgentConfiguration",
        "directory": "state",
        "server": {"kubeconfig": "kubeconfig"},
        "certificates": [certificate],
    }
    path = tmp_path / "agent.yaml"
    path.write_text(json.dumps(document))
    return path


@pytest.fixture
def run(monkeypatch, capsys):
    def run_command(*arguments):
        monkeypatch.setattr(sys, "argv", ["certplane", "agent", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main.main()
        return Result(ended.value.code, *capsys.readouterr())

    return run_command


@pytest.fixture
def directory(config):
    return AgentDirectory(config.parent / "state")


def test_a_valid_configuration(run, config):
    """Nothing is changed by the check."""
    assert Result(0, f"{config} is valid: 1 certificates\n", "") == run("check", config)
    assert not (config.parent / "state").exists()


def test_problems_of_a_configuration(run, config):
    """All of them, and a hint."""
    text = config.read_text().replace('"web"', '"Web"').replace('"server auth"', '"swim"')
    config.write_text(text)
    done = run("check", config)
    assert (2, "") == done[:2]
    lines = done.err.splitlines()
    assert lines[0].startswith(f"error: {config}: certificates[0].name: ")
    assert lines[1].startswith(f"error: {config}: certificates[0].usages[0]: ")
    assert lines[-1].startswith("hint: ")


def test_a_renewal_without_an_agent(run, config, directory):
    """It is remembered until one starts."""
    done = run("renew", "web", "--new-key", "--config", config)
    assert (0, "web: no agent is running; the certificate will be renewed when it starts\n", "") == done
    assert directory.asked_renewals(["web"])["web"].new_key


def test_a_renewal_wakes_the_agent(run, config, directory):
    """By SIGHUP to the process that holds the lock."""
    received = []
    former = signal.signal(signal.SIGHUP, lambda number, _: received.append(number))
    try:
        with directory.locked():
            done = run("renew", "web", "--config", config)
    finally:
        signal.signal(signal.SIGHUP, former)
    assert (0, "web: renewal requested; certplane agent status shows the progress\n", "") == done
    assert [signal.SIGHUP] == received
    assert not directory.asked_renewals(["web"])["web"].new_key


def test_an_unknown_certificate(run, config):
    """The hint has those that there are."""
    done = run("renew", "other", "--config", config)
    assert (2, "", f'error: {config} has no certificate "other"\nhint: it has: web\n') == done


def test_no_status(run, config):
    """An agent has never run."""
    assert Result(4, "", "warning: no agent is running\n") == run("status", "--config", config)


def _write(directory, *, bundle="", **fields):
    certificate = CertificateStatus(name="web", signer_name=apiserver.SIGNER, phase="Current", **fields)
    bundles = [BundleStatus(path="/ca.crt", problem=bundle)] if bundle else []
    directory.write_status(AgentStatus(written=SOON, certificates=[certificate], trust_bundles=bundles))


@pytest.mark.parametrize(
    ("fields", "code", "line"),
    [
        ({"not_after": SOON}, 0, ""),
        ({"not_after": SOON, "csr": "web-1"}, 0, "web: waiting for the CSR web-1"),
        ({"not_after": SOON, "problem": "denied"}, 4, "web: denied"),
        ({"not_after": SOON, "outputs": "full"}, 4, "web: files: full"),
        ({"not_after": SOON, "hooks": "failed"}, 4, "web: hooks: failed"),
        ({"not_after": SOON, "endpoint": "away"}, 4, "web: away"),
        ({"not_after": SOON, "bundle": "empty"}, 4, "/ca.crt: empty"),
        ({"not_after": "2020-01-01T00:00:00Z"}, 4, ""),
        ({}, 4, ""),
    ],
)
def test_the_status(run, config, directory, fields, code, line):
    """The exit code is 4 if something is wrong, for monitoring."""
    with directory.locked():
        _write(directory, **fields)
        done = run("status", "--config", config)
    assert (code, "") == (done.code, done.err)
    assert "web" in done.out.splitlines()[1]
    assert line == "" or line in done.out.splitlines()
    assert ("<expired>" in done.out) == (fields.get("not_after", "").startswith("2020"))


def test_the_status_as_json(run, config, directory):
    """It is what the agent wrote. Without an agent it may be old: a warning, and the exit code."""
    directory.path.mkdir(mode=0o700)
    _write(directory, not_after=SOON)
    done = run("status", "-o", "json", "--config", config)
    assert 4 == done.code
    assert f"warning: no agent is running since {SOON} or later\n" == done.err
    assert "web" == json.loads(done.out)["certificates"][0]["name"]
