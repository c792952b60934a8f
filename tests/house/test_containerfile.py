"""The image uses pinned packages, names no download location, and does not run as root."""

from __future__ import annotations

import json
import re

from tests.house import manifests

TEXT = (manifests.DEPLOY / "Containerfile").read_text("utf-8")
IGNORED = (manifests.DEPLOY / "Containerfile.dockerignore").read_text("utf-8").splitlines()


def _instructions():
    """Instructions and their arguments, with continued lines joined."""
    joined = re.sub(r"\\\n\s*", "", re.sub(r"^\s*#.*\n", "", TEXT, flags=re.MULTILINE))
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines() if line]


def _all(name):
    return [rest for instruction, rest in _instructions() if instruction == name]


def _last_stage():
    arguments = _instructions()
    return arguments[max(place for place, (name, _) in enumerate(arguments) if name == "FROM") :]


def test_no_download_location_is_named():
    """No registry, index or URL is named, and only pinned packages are installed."""
    assert "://" not in TEXT
    assert {name for name, _ in _instructions()} == {
        "ARG",
        "FROM",
        "ENV",
        "WORKDIR",
        "COPY",
        "RUN",
        "USER",
        "ENTRYPOINT",
    }
    assert re.search(r"curl|wget|git |apt|apk", TEXT) is None
    (base,) = [argument for argument in _all("ARG") if argument.startswith("BASE=")]
    assert re.fullmatch(r"BASE=python:3\.\d+-slim", base)
    assert {image.partition(" ")[0] for image in _all("FROM")} == {"${BASE}"}


def test_only_pinned_packages_are_installed():
    """pip installs wheels by hash, from the prepared directory only."""
    installs = [command for run in _all("RUN") for command in run.split("&&") if " install " in command]
    assert len(installs) == 2
    assert {"PIP_FIND_LINKS=dist/wheelhouse", "--require-hashes", "--only-binary", "requirements/run.txt"} <= set(
        installs[0].split()
    )
    assert {"--no-deps", "dist/certplane-*.whl"} <= set(installs[1].split())
    assert "PIP_NO_INDEX=1" in _all("ENV")[0].split()


def test_copied_files_exist_and_are_not_ignored():
    """Each source is in the repository or in dist, and is not excluded by the ignore file."""
    sources = [source for copy in _all("COPY") if "--from" not in copy for source in copy.split()[:-1]]
    assert [source for source in sources if not (manifests.ROOT / source).exists() and source != "dist"] == []
    assert sorted(f"!{source}" for source in sources) == sorted(
        pattern for pattern in IGNORED if pattern.startswith("!")
    )
    assert IGNORED[1] == "*"


def test_the_image_has_the_python_version_of_the_wheelhouse():
    """The image would not find wheels for another Python version."""
    makefile = (manifests.ROOT / "Makefile").read_text("utf-8")
    (version,) = re.findall(r"^IMAGE_PYTHON \?= (\S+)$", makefile, flags=re.MULTILINE)
    assert f"ARG BASE=python:{version}-slim" in TEXT.splitlines()


def test_the_image_runs_as_the_user_of_the_manifests():
    """The last stage has the numeric non-root user of the pods, and starts no shell."""
    stage = dict(_last_stage())
    security = manifests.pod(manifests.kustomized(manifests.DEPLOY / "base"))["spec"]["securityContext"]
    assert stage["USER"] == f"{security['runAsUser']}:{security['runAsGroup']}"
    assert json.loads(stage["ENTRYPOINT"]) == ["certplane"]
    assert "RUN" not in stage
