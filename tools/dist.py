"""Build the wheel, the source distribution, the bill of materials, and their hashes: `make dist`.

The same commit gives the same bytes: only files in git are used, with the time of the commit and with modes that do not
depend on the machine. The wheel is built from the source distribution, which shows that this one is complete. The
versions of the build tools are pinned in requirements/run.txt.
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
#: Pinned packages that are needed only to build.
BUILDERS = ("setuptools",)


def main() -> int:
    target = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "dist").resolve()
    target.mkdir(parents=True, exist_ok=True)
    for previous in [*target.glob("certplane-*"), *target.glob("SHA256SUMS")]:
        previous.unlink()
    for artifact in build(target):
        print(artifact)
    return 0


def build(target: pathlib.Path) -> list[pathlib.Path]:
    """Build all artifacts in a directory; returns their paths."""
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
            # Python before 3.11.4 has no filters. The archive was created above, so it is trusted.
            archive.extraction_filter = getattr(tarfile, "data_filter", None)
            archive.extractall(scratch)  # noqa: S202 - as above
        unpacked = scratch / sources.name.removesuffix(".tar.gz")
        wheel = _backend("build_wheel", unpacked, target, environment)
    bill = target / f"{sources.name.removesuffix('.tar.gz')}.cdx.json"
    bill.write_text(json.dumps(bill_of_materials(wheel, seconds), indent=2) + "\n", "utf-8")
    sums = target / "SHA256SUMS"
    sums.write_text("".join(f"{_sha256(path)}  {path.name}\n" for path in (bill, sources, wheel)), "ascii")
    return [wheel, sources, bill, sums]


def _git(*arguments: str) -> str:
    try:
        return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise SystemExit("error: this directory is not a git clone\nhint: run make dist in a clone") from error


def _copy_known(target: pathlib.Path) -> None:
    for name in _git("ls-files", "-z").split("\0"):
        # Files that are deleted in the work tree are left out, even if the deletion is not committed.
        if name and (ROOT / name).is_file():
            place = target / name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, place)


def _backend(hook: str, source: pathlib.Path, target: pathlib.Path, environment: dict[str, str]) -> pathlib.Path:
    """Call a hook of the build backend (PEP 517); returns the path of the file that it wrote."""
    call = f"import sys, setuptools.build_meta as backend; name = backend.{hook}(sys.argv[1]); print('built', name)"
    answer = subprocess.run(
        [sys.executable, "-c", call, str(target)],
        cwd=source, env=environment, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    if answer.returncode:
        raise SystemExit(answer.stdout)
    return target / answer.stdout.split()[-1]


def _normalise(raw: pathlib.Path, target: pathlib.Path, seconds: int) -> None:
    """Write the archive again with sorted members, no owners, fixed times, and modes that differ only in the x bit."""
    with (
        tarfile.open(raw) as archive,
        target.open("wb") as sink,
        gzip.GzipFile(filename="", fileobj=sink, mode="wb", mtime=seconds) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as written,
    ):
        for member in sorted(archive.getmembers(), key=lambda member: member.name):
            file = archive.extractfile(member)
            content = file.read() if file is not None else b""
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
    """The contents of the installed program, in CycloneDX 1.6: the pinned packages with their versions."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    digest = _sha256(wheel)
    root = _component("application", project["name"], project["version"])
    root |= {"description": project["description"], "licenses": [{"expression": project["license"]}]}
    root |= {"hashes": [{"alg": "SHA-256", "content": digest}]}
    parts = [_part(name, version) for name, version in pins()]
    required = [part["bom-ref"] for part in parts if part["scope"] == "required"]
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
    part = _component("library", name, version)
    part["scope"] = "excluded" if part["name"] in BUILDERS else "required"
    try:
        distribution = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return part
    expression = distribution.metadata.get("License-Expression")
    if expression and distribution.version == version:
        part["licenses"] = [{"expression": expression}]
    return part


if __name__ == "__main__":
    sys.exit(main())
