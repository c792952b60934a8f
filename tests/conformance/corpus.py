"""The recorded cases, the known failures, and the comparison of a case."""

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
    cases_by_id = {}
    for path in sorted((HERE / "cases").glob("*.json")):
        for case in json.loads(path.read_text("utf-8"))["cases"]:
            cases_by_id[case["id"]] = case
    return cases_by_id


@functools.cache
def identities():
    return json.loads((HERE / "identities.json").read_text("utf-8"))


@functools.cache
def known_failures():
    """Known failures with their reason: lines of `PATTERN  # reason`. Every pattern must match a case."""
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


def differences(case, conversation):
    """Differences in the answers of a server: (step, path, recorded, actual)."""
    differing = []
    for number, (step, got) in enumerate(zip(case["steps"], conversation.play(case), strict=True), 1):
        different = player.diff(step["expect"], got)
        if any(not player.diff(other, got.get("body")) for other in step.get("acceptAlso", [])):
            different = []
        differing += [(step.get("id") or f"s{number}", *difference) for difference in different]
    return differing


def short(value, size=400):
    text = value if isinstance(value, str) and value.startswith("<") else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= size else text[:size] + " ..."


def described(differences, lines=10):
    """Printable differences."""
    text = [
        f"step {step} {path}\n   recorded {short(want)}\n   answered {short(got)}"
        for step, path, want, got in differences
    ]
    more = [f"... and {len(text) - lines} more"] if len(text) > lines else []
    return "\n".join(text[:lines] + more)
