"""Deletes bootstrap tokens when they expire.

Source: kubernetes, `pkg/controller/bootstrap/tokencleaner.go`.
"""

from __future__ import annotations

import contextlib
import logging
from typing import Final

from certplane import errors
from certplane.client import api
from certplane.client.informer import Informer
from certplane.controllers.runtime.controller import WorkQueue
from certplane.resources import secrets
from certplane.resources.secrets import Secret

_log = logging.getLogger("certplane.controllers")

NAME: Final = "token-cleaner-controller"
ACCOUNT: Final = "token-cleaner"
QUEUE: Final = "token_cleaner"
WORKERS: Final = 1


def affected_tokens(secret: Secret) -> list[str]:
    """The keys to queue when a Secret has changed: its name, if it is a bootstrap token."""
    is_token = secret.metadata.namespace == secrets.BOOTSTRAP_NAMESPACE and secret.type == secrets.BOOTSTRAP_TOKEN
    return [secret.metadata.name] if is_token else []


class TokenCleaner:
    """Deletes expired bootstrap tokens. The keys are the names of Secrets in kube-system."""

    def __init__(self, client: api.Client, informer: Informer[Secret], queue: WorkQueue) -> None:
        self._client = client
        self._informer = informer
        self._queue = queue

    async def handle(self, name: str) -> None:
        namespace = secrets.BOOTSTRAP_NAMESPACE
        token = self._informer.get(name, namespace)
        if token is None:
            return
        seconds = secrets.time_left(token, self._queue.clock.now())
        if seconds is None:
            return
        if seconds > 0:
            self._queue.add_after(name, seconds)
            return
        with contextlib.suppress(errors.NotFound, errors.Conflict):
            await self._client.delete(secrets.RESOURCE, name, namespace, uid=token.metadata.uid)
            _log.info("expired bootstrap token deleted", extra={"secret": name})
