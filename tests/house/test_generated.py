"""What is generated and committed is what the generator makes today."""

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
FOLDER = pathlib.Path("certplane/meta/pb")
MODULES = sorted(each.stem for each in (ROOT / "src" / FOLDER).glob("*_pb2.py"))


def test_protobuf_modules_are_current(tmp_path: pathlib.Path) -> None:
    """The committed modules are, byte for byte, what `make generate` makes of the .proto files, and no others."""
    subprocess.run([sys.executable, str(ROOT / "tools" / "generate_proto.py"), str(tmp_path)], check=True)
    expected = {each.name: each.read_bytes() for each in (tmp_path / FOLDER).glob("*_pb2.py*")}
    actual = {each.name: each.read_bytes() for each in (ROOT / "src" / FOLDER).glob("*_pb2.py*")}
    assert expected == actual


@pytest.mark.parametrize("name", MODULES)
def test_protobuf_modules_fit_the_runtime(name: str) -> None:
    """The modules can be loaded with the protobuf runtime that is installed, which refuses those of newer compilers."""
    module = importlib.import_module(f"certplane.meta.pb.{name}")
    assert f"{FOLDER}/{name.removesuffix('_pb2')}.proto" == module.DESCRIPTOR.name


def test_every_proto_file_has_its_module() -> None:
    """No .proto file was forgotten."""
    expected = sorted(f"{each.stem}_pb2" for each in (ROOT / "src" / FOLDER).glob("*.proto"))
    assert expected == MODULES


def test_the_reference_is_current(tmp_path: pathlib.Path) -> None:
    """docs/reference.md is what `make generate` makes of the program today."""
    made = tmp_path / "reference.md"
    subprocess.run([sys.executable, str(ROOT / "tools" / "generate_reference.py"), str(made)], check=True)
    assert made.read_text("utf-8") == (ROOT / "docs" / "reference.md").read_text("utf-8")


def test_each_metric_is_in_the_reference() -> None:
    """Whoever sees one learns there what it counts."""
    shown = set(re.findall(r"^# TYPE (\w+)", telemetry.Telemetry().render().decode(), flags=re.MULTILINE))
    page = (ROOT / "docs" / "reference.md").read_text("utf-8")
    text = page.partition("### Health and metrics")[2].partition("### ")[0]
    told = re.findall(r"`([a-z_]+\*?)`", text)
    assert [name for name in sorted(shown) if not any(fnmatch.fnmatch(name, each) for each in told)] == []
