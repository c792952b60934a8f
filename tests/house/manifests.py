"""The objects of deploy/, built with kubectl's kustomize and with Helm."""

from __future__ import annotations

import functools
import json
import pathlib
import subprocess
import sys

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
KUBECTL = ROOT / ".cache" / "kubectl" / "1.37" / "bin" / "kubectl"


@functools.cache
def kustomized(directory: pathlib.Path) -> tuple[dict, ...]:
    """The objects of a kustomization."""
    done = subprocess.run([KUBECTL, "kustomize", directory], capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    return tuple(yaml.safe_load_all(done.stdout))


@functools.cache
def _rendered(values: str) -> dict:
    program = pathlib.Path(__file__).with_name("render_chart.py")
    command = [sys.executable, program, DEPLOY / "chart"]
    return json.loads(subprocess.run(command, input=values, capture_output=True, text=True, check=True).stdout)


def chart(**values) -> tuple[dict, ...]:
    """The objects of the chart, installed as certplane into certplane."""
    answer = _rendered(json.dumps(values))
    assert "problem" not in answer, answer["problem"]
    files = [text for name, text in answer["files"].items() if name.endswith(".yaml")]
    return tuple(document for text in files for document in yaml.safe_load_all(text) if document)


def notes(**values) -> str:
    """The notes that Helm prints after an installation."""
    return next(text for name, text in _rendered(json.dumps(values))["files"].items() if name.endswith("NOTES.txt"))


def problem(**values) -> str:
    """Helm's error for these values; empty if they are valid."""
    return _rendered(json.dumps(values)).get("problem", "")


def one(objects, kind, name="") -> dict:
    """The only object of a kind, or the one with a name."""
    matching = [
        candidate for candidate in objects if candidate["kind"] == kind and name in ("", candidate["metadata"]["name"])
    ]
    assert len(matching) == 1, f"{len(matching)} objects are {kind} {name}"
    return matching[0]


def pod(objects) -> dict:
    """The pod template of the only workload."""
    return next(candidate for candidate in objects if candidate["kind"] in ("Deployment", "StatefulSet"))["spec"][
        "template"
    ]
