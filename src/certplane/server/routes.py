"""Routes the requests that have passed all stages: to the resource API, to monitoring, or to a discovery document."""

from __future__ import annotations

import dataclasses

from certplane import errors
from certplane.server.discovery import Discovery
from certplane.server.exchange import Request, Response
from certplane.server.handlers import API
from certplane.server.monitoring import Monitoring


@dataclasses.dataclass(frozen=True, slots=True)
class Routes:
    """The paths of a server."""

    api: API
    discovery: Discovery
    monitoring: Monitoring

    async def handle(self, request: Request) -> Response:
        """Raises PageNotFound for an unknown path."""
        if request.info.is_resource:
            return await self.api.handle(request)
        response = self.monitoring.respond(request)
        return response if response is not None else self._document(request)

    def _document(self, request: Request) -> Response:
        document = self.discovery.respond(request)
        if document is None:
            raise errors.PageNotFound
        headers = [(name.lower().encode("ascii"), value.encode("latin-1")) for name, value in document.headers]
        return Response(document.status, document.content_type, document.body, headers=headers)
