"""The recorded cases, those that do not pass yet, and how one is judged."""

from __future__ import annotations

import fnmatch
import functools
import json
import pathlib

from tests.conformance import player

HERE = pathlib.Path(__file__).resolve().parent


@functools.cache
def cases():
    """All cases by id, in the order of the files."""
    found = {}
    for path in sorted((HERE / "cases").glob("*.json")):
        for case in json.loads(path.read_text("utf-8"))["cases"]:
            found[case["id"]] = case
    return found


@functools.cache
def identities():
    return json.loads((HERE / "identities.json").read_text("utf-8"))


@functools.cache
def known_failures():
    """The ids that fail today, with the reason: lines of `PATTERN  # reason`. Every pattern has to match something."""
    reasons = {}
    for number, line in enumerate((HERE / "known_failures.txt").read_text("utf-8").splitlines(), 1):
        pattern, _, reason = line.partition("#")
        if not pattern.strip():
            continue
        matching = fnmatch.filter(cases(), pattern.strip())
        if not matching or not reason.strip():
            raise ValueError(f"known_failures.txt:{number}: matches no case, or gives no reason")
        reasons.update(dict.fromkeys(matching, reason.strip()))
    return reasons


def differences(case, by):
    """What a server answers differently: (step, path, recorded, answered)."""
    found = []
    for number, (step, got) in enumerate(zip(case["steps"], by.play(case), strict=True), 1):
        different = player.diff(step["expect"], got)
        if any(not player.diff(other, got.get("body")) for other in step.get("acceptAlso", [])):
            different = []
        found += [(step.get("id") or f"s{number}", *each) for each in different]
    return found


def short(value, size=400):
    text = value if isinstance(value, str) and value.startswith("<") else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= size else text[:size] + " ..."


def described(differences, lines=10):
    """Differences for people."""
    text = [
        f"step {step} {path}\n   recorded {short(want)}\n   answered {short(got)}"
        for step, path, want, got in differences
    ]
    more = [f"... and {len(text) - lines} more"] if len(text) > lines else []
    return "\n".join(text[:lines] + more)
