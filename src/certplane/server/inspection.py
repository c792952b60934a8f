"""What those who look after a process want to know of it: its health and its metrics."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Final

from certplane import errors, telemetry
from certplane.server import exchange, health, pipeline

_METRICS: Final = "text/plain; version=0.0.4; charset=utf-8; escaping=underscores"
_HEALTH: Final = ("/healthz", "/livez", "/readyz")
_CHECKS: Final = tuple(f"{each}/" for each in _HEALTH)


@dataclasses.dataclass(frozen=True, slots=True)
class Inspection:
    """The paths of a process that are not its work. `tells_reasons`: whether whoever asks may know why something does
    not work, with names of files.
    """

    health: health.Health
    telemetry: telemetry.Telemetry
    tells_reasons: Callable[[exchange.Exchange], bool] = lambda _: False

    def answer(self, of: exchange.Exchange) -> exchange.Reply | None:
        """None for a path that is about something else. Raises PageNotFound for a check that does not exist."""
        path = of.path
        if path in _HEALTH or path.startswith(_CHECKS):
            verdict = self.health.answer(path, of.query, tells_reasons="verbose" in of.query and self.tells_reasons(of))
            if verdict is None:
                raise errors.PageNotFound
            if verdict.single:
                return exchange.Reply(verdict.status, "text/plain; charset=utf-8", verdict.text.encode())
            return pipeline.plain(verdict.status, verdict.text)
        if path == "/metrics":
            return exchange.Reply(200, _METRICS, self.telemetry.render())
        return None

    async def handle(self, of: exchange.Exchange) -> exchange.Reply:
        """All that a process answers that serves nothing else. Never raises."""
        of.query = exchange.parse_query(of.raw_query)
        try:
            found = self.answer(of) if of.method in ("GET", "HEAD") else None
        except errors.PageNotFound:
            found = None
        return found if found is not None else pipeline.plain(404, "404 page not found\n")
