"""`certplane watch --once` and `certplane watch check`: output, exit codes, and flags that contradict each other."""

from __future__ import annotations

import json
import os

import pytest
import yaml
from click.testing import CliRunner

from certplane.cli import exitcodes, watchstart
from certplane.cli.watch import watch
from certplane.clock import SystemClock
from certplane.errors import SetupError
from tests.unit.agent import pairs
from tests.unit.expiry import material


@pytest.fixture
def folder(tmp_path):
    """A directory with a certificate that ends in ten days."""
    start = SystemClock().now()
    (tmp_path / "web.pem").write_bytes(material.CA.issue(material.KEY, start, 10 * pairs.DAY, "web"))
    return tmp_path


def run(*arguments):
    return CliRunner().invoke(watch, list(arguments), standalone_mode=False)


@pytest.mark.parametrize(
    ("within", "code", "status"), [("9d", 0, "ok"), ("30d", exitcodes.EXPIRING, "ends within 30d")]
)
def test_once(folder, within, code, status):
    """A table, and an exit code for cron."""
    result = run("--once", "--directory", str(folder), "--within", within)
    assert code == result.return_value
    head, row = result.stdout.splitlines()
    assert ["CERTIFICATE", "SUBJECT", "EXPIRES", "RESIDUAL", "TIME", "ISSUER", "STATUS"] == head.split()
    assert row.startswith(f"{folder}/web.pem ")
    assert row.endswith(status)


@pytest.mark.parametrize(("output", "parse"), [("json", json.loads), ("yaml", yaml.safe_load)])
def test_once_for_programs(folder, output, parse):
    """The same with the sources, also with those that cannot be read."""
    result = run("--once", "--directory", str(folder), "--directory", f"{folder}/gone", "-o", output)
    assert exitcodes.EXPIRING == result.return_value
    document = parse(result.stdout)
    assert "watch.certplane.io/v1alpha1" == document["apiVersion"]
    assert [
        {"name": "directory-1", "kind": "directory", "up": True, "certificates": 1, "omitted": 0},
        {
            "name": "directory-2",
            "kind": "directory",
            "up": False,
            "certificates": 0,
            "omitted": 0,
            "problem": f"{folder}/gone: No such file or directory",
        },
    ] == document["sources"]
    assert ["directory-1", "directory-2"] == [item["source"] for item in document["items"]]
    assert [False, True] == [item["needsAttention"] for item in document["items"]]


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--once",),
        ("--directory", "/d", "-o", "json"),
        ("--directory", "/d", "--within", "30d"),
        ("--once", "--directory", "/d", "--within", "soon"),
        ("--once", "--directory", ""),
        ("--once", "--directory", "/d", "--config", "/c"),
        ("--once", "--config", "/no/such/file"),
        ("--once", "--files", "/etc/**/*.pem"),
        ("--once", "--pkcs12-password-file", "/p"),
        ("--once", "--endpoint", "web"),
        ("--once", "--endpoint", "https://web.example.com:443"),
        ("--once", "--endpoint", "postgres://db"),
        ("--once", "--kubeconfig", "/k"),
        ("--once", "--cluster", "--context", "c"),
        ("--once", "--directory", "/d", "--interval", "0s"),
        ("--once", "--directory", "/d", "--metrics-address", "80"),
    ],
)
def test_flags_that_cannot_be_used(arguments):
    """Each has an error and a hint."""
    result = run(*arguments)
    assert isinstance(result.exception, SetupError)
    assert result.exception.hints


def test_check(tmp_path):
    """All problems at once, with the files that a configuration names."""
    path = tmp_path / "watch.yaml"
    path.write_text(
        "apiVersion: watch.certplane.io/v1alpha1\nkind: WatchConfiguration\n"
        "sources: [{name: etc, files: {paths: [a.pem], pkcs12PasswordFile: gone}}]\n"
    )
    result = run("check", str(path))
    assert 2 == result.return_value
    assert (
        f"error: {path}: sources[0].files.pkcs12PasswordFile: {tmp_path}/gone cannot be read: No such file or directory"
        in result.stderr
    )
    (tmp_path / "gone").write_text("secret")
    result = run("check", str(path))
    assert (0, f"{path} is valid: 1 sources\n") == (result.return_value, result.stdout)


def test_a_pipe_as_the_configuration_does_not_block(tmp_path):
    """It is no regular file."""
    os.mkfifo(tmp_path / "watch.yaml")
    with pytest.raises(SetupError, match="not a regular file"):
        watchstart.check(tmp_path / "watch.yaml")
