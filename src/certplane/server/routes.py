"""Where a request goes that has passed all stages: resource paths to the API, the few other paths to their answers."""

from __future__ import annotations

import dataclasses

from certplane import errors
from certplane.server import discovery, exchange, handlers, inspection


@dataclasses.dataclass(frozen=True, slots=True)
class Routes:
    """The paths of a server."""

    api: handlers.API
    discovery: discovery.Discovery
    inspection: inspection.Inspection

    async def handle(self, of: exchange.Exchange) -> exchange.Reply:
        """Raises PageNotFound for a path that leads nowhere."""
        if of.info.is_resource:
            return await self.api.handle(of)
        found = self.inspection.answer(of)
        return found if found is not None else self._document(of)

    def _document(self, of: exchange.Exchange) -> exchange.Reply:
        found = self.discovery.answer(of)
        if found is None:
            raise errors.PageNotFound
        headers = [(name.lower().encode("ascii"), value.encode("latin-1")) for name, value in found.headers]
        return exchange.Reply(found.status, found.content_type, found.body, headers=headers)
