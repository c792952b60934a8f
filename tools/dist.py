"""Make what is given to others: a wheel, a source distribution, a bill of materials, and their hashes: `make dist`.

The same commit gives the same bytes: only files that git knows are used, with the time of the commit and with modes
that do not depend on the machine; the wheel is made from the source distribution, so that this one is known to be
whole. The versions of the tools are those that requirements/run.txt pins.
"""

from __future__ import annotations

import datetime
import gzip
import hashlib
import importlib.metadata
import io
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import uuid
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parent.parent
PINS = ROOT / "requirements" / "run.txt"
#: Pinned for those that build: nothing of it is needed to run.
BUILDERS = ("setuptools",)


def main() -> int:
    target = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "dist").resolve()
    target.mkdir(parents=True, exist_ok=True)
    for former in [*target.glob("certplane-*"), *target.glob("SHA256SUMS")]:
        former.unlink()
    for made in build(target):
        print(made)
    return 0


def build(target: pathlib.Path) -> list[pathlib.Path]:
    """Make everything in a directory; the files."""
    os.umask(0o022)
    seconds = int(os.environ.get("SOURCE_DATE_EPOCH") or _git("log", "-1", "--format=%ct"))
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(seconds)}
    with tempfile.TemporaryDirectory() as name:
        scratch = pathlib.Path(name)
        _copy_known(scratch / "checkout")
        raw = _backend("build_sdist", scratch / "checkout", scratch, environment)
        sources = target / raw.name
        _normalise(raw, sources, seconds)
        with tarfile.open(sources) as archive:
            # Before 3.11.4 there are no filters; the archive is ours.
            archive.extraction_filter = getattr(tarfile, "data_filter", None)
            archive.extractall(scratch)  # noqa: S202 - as above
        unpacked = scratch / sources.name.removesuffix(".tar.gz")
        wheel = _backend("build_wheel", unpacked, target, environment)
    bill = target / f"{sources.name.removesuffix('.tar.gz')}.cdx.json"
    bill.write_text(json.dumps(bill_of_materials(wheel, seconds), indent=2) + "\n", "utf-8")
    sums = target / "SHA256SUMS"
    sums.write_text("".join(f"{_sha256(each)}  {each.name}\n" for each in (bill, sources, wheel)), "ascii")
    return [wheel, sources, bill, sums]


def _git(*arguments: str) -> str:
    try:
        return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise SystemExit("error: git does not know these files\nhint: make dist needs a clone") from error


def _copy_known(target: pathlib.Path) -> None:
    for name in _git("ls-files", "-z").split("\0"):
        # What is deleted here and not yet in git is in no distribution.
        if name and (ROOT / name).is_file():
            place = target / name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, place)


def _backend(hook: str, source: pathlib.Path, target: pathlib.Path, environment: dict[str, str]) -> pathlib.Path:
    """Call the build backend, as PEP 517 has it; the file that it made."""
    call = f"import sys, setuptools.build_meta as backend; name = backend.{hook}(sys.argv[1]); print('made', name)"
    answer = subprocess.run(
        [sys.executable, "-c", call, str(target)],
        cwd=source, env=environment, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    if answer.returncode:
        raise SystemExit(answer.stdout)
    return target / answer.stdout.split()[-1]


def _normalise(raw: pathlib.Path, target: pathlib.Path, seconds: int) -> None:
    """The same archive without what depends on the machine: order, owners, times, and modes but for x."""
    with (
        tarfile.open(raw) as archive,
        target.open("wb") as sink,
        gzip.GzipFile(filename="", fileobj=sink, mode="wb", mtime=seconds) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as written,
    ):
        for member in sorted(archive.getmembers(), key=lambda each: each.name):
            found = archive.extractfile(member)
            content = found.read() if found is not None else b""
            clean = tarfile.TarInfo(member.name)
            clean.type = member.type
            clean.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
            clean.size = len(content)
            clean.mtime = seconds
            written.addfile(clean, io.BytesIO(content))


def _sha256(path: pathlib.Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# --- the bill of materials ----------------------------------------------------------------------------------------


def bill_of_materials(wheel: pathlib.Path, seconds: int) -> dict[str, Any]:
    """What the installed program consists of, as CycloneDX 1.6 has it: the pinned packages, each at its version."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    digest = _sha256(wheel)
    root = _component("application", project["name"], project["version"])
    root |= {"description": project["description"], "licenses": [{"expression": project["license"]}]}
    root |= {"hashes": [{"alg": "SHA-256", "content": digest}]}
    parts = [_part(name, version) for name, version in pins()]
    required = [each["bom-ref"] for each in parts if each["scope"] == "required"]
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, f'sha256:{digest}')}",
        "version": 1,
        "metadata": {
            "timestamp": datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "component": root,
        },
        "components": parts,
        "dependencies": [{"ref": root["bom-ref"], "dependsOn": required}],
    }


def pins() -> list[tuple[str, str]]:
    """The names and versions that are pinned."""
    return re.findall(r"^([\w.-]+)==([^\s;\\]+)", PINS.read_text("utf-8"), flags=re.MULTILINE)


def _component(kind: str, name: str, version: str) -> dict[str, Any]:
    normal = re.sub(r"[-_.]+", "-", name).lower()
    url = f"pkg:pypi/{normal}@{version}"
    return {"type": kind, "bom-ref": url, "name": normal, "version": version, "purl": url}


def _part(name: str, version: str) -> dict[str, Any]:
    made = _component("library", name, version)
    made["scope"] = "excluded" if made["name"] in BUILDERS else "required"
    try:
        said = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return made
    expression = said.metadata.get("License-Expression")
    if expression and said.version == version:
        made["licenses"] = [{"expression": expression}]
    return made


if __name__ == "__main__":
    sys.exit(main())
