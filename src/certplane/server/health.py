"""/healthz, /livez and /readyz: named checks, alone or together.

Source: `k8s.io/apiserver/pkg/server/healthz`; kubernetes.io, "Kubernetes API health endpoints".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Final

#: A check tells what is wrong; None if nothing is.
Probe = Callable[[], str | None]


@dataclasses.dataclass(frozen=True, slots=True)
class Check:
    """One named check. `ready_only` checks do not count for /livez and /healthz.

    An `advisory` check never fails the whole; ?verbose shows it, so that a person learns what does not work although
    the server does. Reasons name files and programs, and are told to those only who are to know such things.
    """

    name: str
    probe: Probe
    ready_only: bool = False
    advisory: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Verdict:
    """The answer of a health path: always plain text."""

    status: int
    text: str
    single: bool = False


#: The word of kube-apiserver.
_WITHHELD: Final = "reason withheld"


class Health:
    """The checks of a server."""

    def __init__(self, checks: Sequence[Check]) -> None:
        self._checks = tuple(checks)

    def answer(self, path: str, query: Mapping[str, Sequence[str]], *, tells_reasons: bool = False) -> Verdict | None:
        """The verdict for a path; None if there is no such check."""
        root, below, name = path.removeprefix("/").partition("/")
        checks = [each for each in self._checks if root == "readyz" or not each.ready_only]
        if below:
            return self._one(name, checks)
        excluded = {item for value in query.get("exclude", ()) for item in value.split(",")}
        lines = []
        failed = False
        for check in checks:
            if check.name in excluded:
                lines.append(f"[+]{check.name} excluded: ok")
                continue
            problem = check.probe()
            reason = (problem or "") if tells_reasons else _WITHHELD
            if problem is None:
                lines.append(f"[+]{check.name} ok")
            elif check.advisory:
                lines.append(f"[!]{check.name} not working, tolerated: {reason}")
            else:
                failed = True
                lines.append(f"[-]{check.name} failed: {reason}")
        unknown = sorted(excluded - {each.name for each in checks})
        if unknown:
            lines.append(f"warn: some health checks cannot be excluded: no matches for {', '.join(unknown)}")
        if failed:
            return Verdict(500, "\n".join([*lines, f"{root} check failed"]) + "\n")
        return Verdict(200, "\n".join([*lines, f"{root} check passed"]) + "\n" if "verbose" in query else "ok")

    @staticmethod
    def _one(name: str, checks: Sequence[Check]) -> Verdict | None:
        for check in checks:
            if check.name == name:
                problem = check.probe()
                if problem is None or check.advisory:
                    return Verdict(200, "ok", single=True)
                return Verdict(500, "internal server error: reason withheld\n", single=True)
        return None
