"""/healthz, /livez and /readyz: named checks, one or all.

Source: `k8s.io/apiserver/pkg/server/healthz`; kubernetes.io, "Kubernetes API health endpoints".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Final

#: Returns why the check fails; None if it passes.
Probe = Callable[[], str | None]


@dataclasses.dataclass(frozen=True, slots=True)
class Check:
    """One named check. `ready_only` checks do not count for /livez and /healthz.

    An `advisory` check never fails the whole; its failure shows in ?verbose only. Reasons name files and programs, so
    they are shown to authorized clients only.
    """

    name: str
    probe: Probe
    ready_only: bool = False
    advisory: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """The response of a health path, in plain text. `is_single` says that it is about one check."""

    status: int
    text: str
    is_single: bool = False


#: The text of kube-apiserver.
_WITHHELD: Final = "reason withheld"


class Health:
    """The checks of a server."""

    def __init__(self, checks: Sequence[Check]) -> None:
        self._checks = tuple(checks)

    def run(self, path: str, query: Mapping[str, Sequence[str]], *, shows_reasons: bool = False) -> Result | None:
        """Run the checks of a path; None if there is no such check."""
        root, slash, name = path.removeprefix("/").partition("/")
        checks = [check for check in self._checks if root == "readyz" or not check.ready_only]
        if slash:
            return self._run_one(name, checks)
        excluded = {item for value in query.get("exclude", ()) for item in value.split(",")}
        lines = []
        has_failed = False
        for check in checks:
            if check.name in excluded:
                lines.append(f"[+]{check.name} excluded: ok")
                continue
            problem = check.probe()
            reason = (problem or "") if shows_reasons else _WITHHELD
            if problem is None:
                lines.append(f"[+]{check.name} ok")
            elif check.advisory:
                lines.append(f"[!]{check.name} failed, ignored: {reason}")
            else:
                has_failed = True
                lines.append(f"[-]{check.name} failed: {reason}")
        unknown = sorted(excluded - {check.name for check in checks})
        if unknown:
            lines.append(f"warn: some health checks cannot be excluded: no matches for {', '.join(unknown)}")
        if has_failed:
            return Result(500, "\n".join([*lines, f"{root} check failed"]) + "\n")
        return Result(200, "\n".join([*lines, f"{root} check passed"]) + "\n" if "verbose" in query else "ok")

    @staticmethod
    def _run_one(name: str, checks: Sequence[Check]) -> Result | None:
        for check in checks:
            if check.name == name:
                problem = check.probe()
                if problem is None or check.advisory:
                    return Result(200, "ok", is_single=True)
                return Result(500, "internal server error: reason withheld\n", is_single=True)
        return None
