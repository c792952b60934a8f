"""The health and metrics paths of a process."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Final

from certplane import errors
from certplane.server import exchange, pipeline
from certplane.server.exchange import Request, Response
from certplane.server.health import Health
from certplane.telemetry import Telemetry

_METRICS: Final = "text/plain; version=0.0.4; charset=utf-8; escaping=underscores"
_ROOTS: Final = ("/healthz", "/livez", "/readyz")
_CHECKS: Final = tuple(f"{root}/" for root in _ROOTS)


@dataclasses.dataclass(frozen=True, slots=True)
class Monitoring:
    """The health and metrics paths. `shows_reasons` says whether the client may see why a check fails; reasons name
    files.
    """

    health: Health
    telemetry: Telemetry
    shows_reasons: Callable[[Request], bool] = lambda _: False

    def respond(self, request: Request) -> Response | None:
        """The response; None for another path. Raises PageNotFound for an unknown check."""
        path = request.path
        if path in _ROOTS or path.startswith(_CHECKS):
            result = self.health.run(
                path, request.query, shows_reasons="verbose" in request.query and self.shows_reasons(request)
            )
            if result is None:
                raise errors.PageNotFound
            if result.is_single:
                return Response(result.status, "text/plain; charset=utf-8", result.text.encode())
            return pipeline.plain(result.status, result.text)
        if path == "/metrics":
            return Response(200, _METRICS, self.telemetry.render())
        return None

    async def handle(self, request: Request) -> Response:
        """The handler of a process that serves nothing but these paths. Never raises."""
        request.query = exchange.parse_query(request.raw_query)
        try:
            response = self.respond(request) if request.method in ("GET", "HEAD") else None
        except errors.PageNotFound:
            response = None
        return response if response is not None else pipeline.plain(404, "404 page not found\n")
