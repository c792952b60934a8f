"""The image is made of what is pinned, names no place to get it from, and runs as nobody in particular."""

from __future__ import annotations

import json
import re

from tests.house import manifests

TEXT = (manifests.DEPLOY / "Containerfile").read_text("utf-8")
IGNORED = (manifests.DEPLOY / "Containerfile.dockerignore").read_text("utf-8").splitlines()


def _instructions():
    """Each instruction and what follows it, lines joined."""
    joined = re.sub(r"\\\n\s*", "", re.sub(r"^\s*#.*\n", "", TEXT, flags=re.MULTILINE))
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines() if line]


def _all(name):
    return [rest for instruction, rest in _instructions() if instruction == name]


def _last_stage():
    found = _instructions()
    return found[max(place for place, (name, _) in enumerate(found) if name == "FROM") :]


def test_nothing_comes_from_a_place_of_ours():
    """No registry, no index and no download is named, and nothing is fetched but pinned packages."""
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
    (base,) = [each for each in _all("ARG") if each.startswith("BASE=")]
    assert re.fullmatch(r"BASE=python:3\.\d+-slim", base)
    assert {each.partition(" ")[0] for each in _all("FROM")} == {"${BASE}"}


def test_packages_are_those_that_are_pinned():
    """pip takes them by hash and as wheels, and nothing from anywhere but the directory that was filled before."""
    installs = [each for run in _all("RUN") for each in run.split("&&") if " install " in each]
    assert len(installs) == 2
    assert {"PIP_FIND_LINKS=dist/wheelhouse", "--require-hashes", "--only-binary", "requirements/run.txt"} <= set(
        installs[0].split()
    )
    assert {"--no-deps", "dist/certplane-*.whl"} <= set(installs[1].split())
    assert "PIP_NO_INDEX=1" in _all("ENV")[0].split()


def test_what_is_copied_is_there_and_let_in():
    """Each source is in the repository or is what make puts into dist, and the ignore file does not keep it out."""
    sources = [each for copy in _all("COPY") if "--from" not in copy for each in copy.split()[:-1]]
    assert [each for each in sources if not (manifests.ROOT / each).exists() and each != "dist"] == []
    assert sorted(f"!{each}" for each in sources) == sorted(each for each in IGNORED if each.startswith("!"))
    assert IGNORED[1] == "*"


def test_the_python_of_the_image_is_the_one_that_wheels_are_fetched_for():
    """Wheels of another version would not be found when the image is built."""
    makefile = (manifests.ROOT / "Makefile").read_text("utf-8")
    (version,) = re.findall(r"^IMAGE_PYTHON \?= (\S+)$", makefile, flags=re.MULTILINE)
    assert f"ARG BASE=python:{version}-slim" in TEXT.splitlines()


def test_the_image_runs_as_the_user_of_the_manifests():
    """The last stage has a numeric user that is not root, the one that pods are run as, and starts no shell."""
    stage = dict(_last_stage())
    security = manifests.pod(manifests.kustomized(manifests.DEPLOY / "base"))["spec"]["securityContext"]
    assert stage["USER"] == f"{security['runAsUser']}:{security['runAsGroup']}"
    assert json.loads(stage["ENTRYPOINT"]) == ["certplane"]
    assert "RUN" not in stage
