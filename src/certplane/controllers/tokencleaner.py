"""Removes bootstrap tokens when they end.

Source: kubernetes, `pkg/controller/bootstrap/tokencleaner.go`.
"""

from __future__ import annotations

import contextlib
import logging
from typing import Final

from certplane import errors
from certplane.client import api, informer
from certplane.controllers import runtime
from certplane.resources import secrets

_log = logging.getLogger("certplane.controllers")

NAME: Final = "token-cleaner-controller"
ACCOUNT: Final = "token-cleaner"
QUEUE: Final = "token_cleaner"
WORKERS: Final = 1


def concerned(changed: secrets.Secret) -> list[str]:
    """The names of the tokens to look at when a secret has changed."""
    home = changed.metadata.namespace == secrets.BOOTSTRAP_NAMESPACE
    return [changed.metadata.name] if home and changed.type == secrets.BOOTSTRAP_TOKEN else []


class TokenCleaner:
    """The reconciler. Its key is the name of a secret."""

    def __init__(self, client: api.Client, source: informer.Informer, queue: runtime.Queue) -> None:
        self._client = client
        self._source = source
        self._queue = queue

    async def handle(self, name: str) -> None:
        found = self._source.get(name, secrets.BOOTSTRAP_NAMESPACE)
        if found is None:
            return
        now = self._queue.clock.now()
        left = secrets.time_left(found, now)
        if left is None:
            return
        if left > 0:
            self._queue.add_after(name, left)
            return
        with contextlib.suppress(errors.NotFound, errors.Conflict):
            home = secrets.BOOTSTRAP_NAMESPACE
            await self._client.delete(secrets.RESOURCE, name, home, uid=found.metadata.uid)
            _log.info("bootstrap token removed", extra={"secret": name, "why": "it has expired"})
