"""Generated files in the repository are up to date."""

from __future__ import annotations

import fnmatch
import importlib
import pathlib
import re
import subprocess
import sys

import pytest

from certplane import telemetry

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
FOLDER = pathlib.Path("certplane/wire/pb")
MODULES = sorted(path.stem for path in (ROOT / "src" / FOLDER).glob("*_pb2.py"))


def test_protobuf_modules_are_current(tmp_path: pathlib.Path) -> None:
    """The modules are byte for byte what `make generate` produces from the .proto files, and there are no others."""
    subprocess.run([sys.executable, str(ROOT / "tools" / "generate_proto.py"), str(tmp_path)], check=True)
    expected = {path.name: path.read_bytes() for path in (tmp_path / FOLDER).glob("*_pb2.py*")}
    actual = {path.name: path.read_bytes() for path in (ROOT / "src" / FOLDER).glob("*_pb2.py*")}
    assert expected == actual


@pytest.mark.parametrize("name", MODULES)
def test_protobuf_modules_fit_the_runtime(name: str) -> None:
    """The installed protobuf runtime, which refuses modules from newer compilers, can load them."""
    module = importlib.import_module(f"certplane.wire.pb.{name}")
    assert f"{FOLDER}/{name.removesuffix('_pb2')}.proto" == module.DESCRIPTOR.name


def test_every_proto_file_has_its_module() -> None:
    """There is one module for each .proto file."""
    expected = sorted(f"{path.stem}_pb2" for path in (ROOT / "src" / FOLDER).glob("*.proto"))
    assert expected == MODULES


def test_the_reference_is_current(tmp_path: pathlib.Path) -> None:
    """docs/reference.md is what `make generate` produces."""
    page_path = tmp_path / "reference.md"
    subprocess.run([sys.executable, str(ROOT / "tools" / "generate_reference.py"), str(page_path)], check=True)
    assert page_path.read_text("utf-8") == (ROOT / "docs" / "reference.md").read_text("utf-8")


def test_each_metric_is_in_the_reference() -> None:
    """Every metric is explained there."""
    shown = set(re.findall(r"^# TYPE (\w+)", telemetry.Telemetry().render().decode(), flags=re.MULTILINE))
    page = (ROOT / "docs" / "reference.md").read_text("utf-8")
    text = page.partition("### Health and metrics")[2].partition("### ")[0]
    patterns = re.findall(r"`([a-z_]+\*?)`", text)
    assert [name for name in sorted(shown) if not any(fnmatch.fnmatch(name, pattern) for pattern in patterns)] == []
