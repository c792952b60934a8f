"""What `make dist` builds: it is complete, it is reproducible, and a server starts from it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys
import sysconfig
import tomllib
import zipfile

import pytest

import demo
import dist

VERSION = tomllib.loads((dist.ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
pytestmark = [
    pytest.mark.xdist_group("dist"),
    pytest.mark.skipif(not (dist.ROOT / ".git").exists(), reason="make dist needs a git clone"),
]
WHEEL = f"certplane-{VERSION}-py3-none-any.whl"


def make(target, **environment):
    """Run the tool as make does."""
    subprocess.run(
        [sys.executable, dist.ROOT / "tools" / "dist.py", target],
        check=True, capture_output=True, env={**os.environ, **environment}, umask=0o077 if environment else 0o022,
    )  # fmt: skip
    return {path.name: path.read_bytes() for path in pathlib.Path(target).iterdir()}


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory):
    """A directory with all artifacts."""
    target = tmp_path_factory.mktemp("dist")
    make(target)
    return target


def test_builds_are_reproducible(artifacts, tmp_path):
    """Also with another time zone, locale and umask."""
    again = make(tmp_path / "again", TZ="Asia/Tokyo", LC_ALL="C", PYTHONHASHSEED="7")
    assert again == {path.name: path.read_bytes() for path in artifacts.iterdir()}


def test_the_hashes_match_the_files(artifacts):
    """So that users can verify the files."""
    listed = dict(reversed(line.split("  ")) for line in (artifacts / "SHA256SUMS").read_text("ascii").splitlines())
    files = {path.name: path for path in artifacts.iterdir() if path.name != "SHA256SUMS"}
    assert listed == {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
    assert set(listed) == {WHEEL, f"certplane-{VERSION}.tar.gz", f"certplane-{VERSION}.cdx.json"}


def test_the_wheel_contains_the_typed_package(artifacts):
    """Every module in git, its types (PEP 561) and the licence; no tests."""
    with zipfile.ZipFile(artifacts / WHEEL) as archive:
        names = set(archive.namelist())
        metadata = archive.read(f"certplane-{VERSION}.dist-info/METADATA").decode()
    known = subprocess.run(["git", "ls-files", "src"], cwd=dist.ROOT, check=True, capture_output=True, text=True).stdout
    assert {line.removeprefix("src/") for line in known.split()} <= names
    assert "certplane/py.typed" in names
    assert {name.partition("/")[0] for name in names} == {"certplane", f"certplane-{VERSION}.dist-info"}
    assert f"certplane-{VERSION}.dist-info/licenses/LICENSE" in names
    assert "Classifier: Typing :: Typed" in metadata
    assert "://" not in re.sub(r"(?s)\n\n.*", "", metadata), "there is no public address to name"


def test_the_bill_of_materials_lists_the_pinned_packages(artifacts):
    """Every pinned package with its version, and which ones are required."""
    bill = json.loads((artifacts / f"certplane-{VERSION}.cdx.json").read_text("utf-8"))
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    parts = {component["name"]: component["version"] for component in bill["components"]}
    pins = re.findall(r"^([\w.-]+)==(\S+)", (dist.ROOT / "requirements" / "run.txt").read_text("utf-8"), re.MULTILINE)
    assert parts == {name.lower().replace("_", "-"): version for name, version in pins}
    (depends,) = bill["dependencies"]
    assert depends["ref"] == bill["metadata"]["component"]["purl"] == f"pkg:pypi/certplane@{VERSION}"
    needed = {component["purl"] for component in bill["components"] if component["scope"] == "required"}
    assert set(depends["dependsOn"]) == needed
    assert {component["name"] for component in bill["components"] if component["scope"] == "excluded"} == {"setuptools"}
    (digest,) = bill["metadata"]["component"]["hashes"]
    assert digest["content"] == hashlib.sha256((artifacts / WHEEL).read_bytes()).hexdigest()


def test_a_server_starts_from_the_wheel(artifacts, tmp_path):
    """In an environment with its dependencies, and without this checkout."""
    place = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True)
    python = place / "bin" / "python"
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--python", python]
    subprocess.run([*command, "install", "--no-index", "--no-deps", artifacts / WHEEL], check=True, cwd=tmp_path)
    # The dependencies of the test environment. Its editable installations are not visible through this file.
    site = pathlib.Path(sysconfig.get_path("purelib", vars={"base": str(place), "platbase": str(place)}))
    (site / "packages.pth").write_text(sysconfig.get_path("purelib") + "\n")
    environment = {"PATH": os.defpath, "HOME": str(tmp_path)}
    result = subprocess.run(
        [python, "-c", "import certplane; print(certplane.__file__)"],
        check=True, capture_output=True, text=True, cwd=tmp_path, env=environment,
    ).stdout  # fmt: skip
    assert pathlib.Path(result.strip()).is_relative_to(place)
    port = demo.free_port()
    with contextlib.ExitStack() as stack:
        log = stack.enter_context((tmp_path / "log").open("wb"))
        process = subprocess.Popen(
            [place / "bin" / "certplane", "serve", "--listen", f"127.0.0.1:{port}"],
            cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
        stack.callback(process.wait)
        stack.callback(process.kill)
        waited = subprocess.run(
            [place / "bin" / "certplane", "wait", "--pid", str(process.pid)],
            cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert (waited.returncode, waited.stdout) == (0, f"https://127.0.0.1:{port}\n"), waited.stderr
