"""What `make dist` makes: it is whole, it is the same each time, and a server starts from it."""

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
    pytest.mark.skipif(not (dist.ROOT / ".git").exists(), reason="it is made from a clone, and this is none"),
]
WHEEL = f"certplane-{VERSION}-py3-none-any.whl"


def make(target, **environment):
    """Run the tool as make does."""
    subprocess.run(
        [sys.executable, dist.ROOT / "tools" / "dist.py", target],
        check=True, capture_output=True, env={**os.environ, **environment}, umask=0o077 if environment else 0o022,
    )  # fmt: skip
    return {each.name: each.read_bytes() for each in pathlib.Path(target).iterdir()}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A directory with all of it."""
    target = tmp_path_factory.mktemp("dist")
    make(target)
    return target


def test_the_same_files_have_the_same_bytes(made, tmp_path):
    """On a machine with another time zone and other habits, too."""
    again = make(tmp_path / "again", TZ="Asia/Tokyo", LC_ALL="C", PYTHONHASHSEED="7")
    assert again == {each.name: each.read_bytes() for each in made.iterdir()}


def test_the_hashes_are_those_of_the_files(made):
    """So that whoever gets them can check them."""
    told = dict(reversed(line.split("  ")) for line in (made / "SHA256SUMS").read_text("ascii").splitlines())
    files = {each.name: each for each in made.iterdir() if each.name != "SHA256SUMS"}
    assert told == {name: hashlib.sha256(each.read_bytes()).hexdigest() for name, each in files.items()}
    assert set(told) == {WHEEL, f"certplane-{VERSION}.tar.gz", f"certplane-{VERSION}.cdx.json"}


def test_the_wheel_has_the_package_and_says_that_it_is_typed(made):
    """Each module that git knows, its types (PEP 561), and the licence; no test."""
    with zipfile.ZipFile(made / WHEEL) as archive:
        names = set(archive.namelist())
        metadata = archive.read(f"certplane-{VERSION}.dist-info/METADATA").decode()
    known = subprocess.run(["git", "ls-files", "src"], cwd=dist.ROOT, check=True, capture_output=True, text=True).stdout
    assert {each.removeprefix("src/") for each in known.split()} <= names
    assert "certplane/py.typed" in names
    assert {each.partition("/")[0] for each in names} == {"certplane", f"certplane-{VERSION}.dist-info"}
    assert f"certplane-{VERSION}.dist-info/licenses/LICENSE" in names
    assert "Classifier: Typing :: Typed" in metadata
    assert "://" not in re.sub(r"(?s)\n\n.*", "", metadata), "there is no public address to name"


def test_the_bill_of_materials_has_what_is_pinned(made):
    """Each package at its version, and which of them are needed to run."""
    bill = json.loads((made / f"certplane-{VERSION}.cdx.json").read_text("utf-8"))
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    parts = {each["name"]: each["version"] for each in bill["components"]}
    pins = re.findall(r"^([\w.-]+)==(\S+)", (dist.ROOT / "requirements" / "run.txt").read_text("utf-8"), re.MULTILINE)
    assert parts == {name.lower().replace("_", "-"): version for name, version in pins}
    (depends,) = bill["dependencies"]
    assert depends["ref"] == bill["metadata"]["component"]["purl"] == f"pkg:pypi/certplane@{VERSION}"
    needed = {each["purl"] for each in bill["components"] if each["scope"] == "required"}
    assert set(depends["dependsOn"]) == needed
    assert {each["name"] for each in bill["components"] if each["scope"] == "excluded"} == {"setuptools"}
    (digest,) = bill["metadata"]["component"]["hashes"]
    assert digest["content"] == hashlib.sha256((made / WHEEL).read_bytes()).hexdigest()


def test_a_server_starts_from_the_wheel(made, tmp_path):
    """In an environment that has the packages it needs, and nothing of this checkout."""
    place = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True)
    python = place / "bin" / "python"
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--python", python]
    subprocess.run([*command, "install", "--no-index", "--no-deps", made / WHEEL], check=True, cwd=tmp_path)
    # The packages are those of the tests; what is installed there for editing is not found this way.
    site = pathlib.Path(sysconfig.get_path("purelib", vars={"base": str(place), "platbase": str(place)}))
    (site / "packages.pth").write_text(sysconfig.get_path("purelib") + "\n")
    environment = {"PATH": os.defpath, "HOME": str(tmp_path)}
    found = subprocess.run(
        [python, "-c", "import certplane; print(certplane.__file__)"],
        check=True, capture_output=True, text=True, cwd=tmp_path, env=environment,
    ).stdout  # fmt: skip
    assert pathlib.Path(found.strip()).is_relative_to(place)
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
