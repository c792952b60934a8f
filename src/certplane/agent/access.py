"""Clients of the API server, with the bootstrap credentials or with the certificate that the agent maintains.

The kubeconfig and the token file are read for every client: the agent asks seldom, and others replace these files.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import AsyncIterator, Callable
from typing import Final

import certplane
from certplane import files
from certplane.agent.pairstore import Pair
from certplane.agent.rotation import Credentials
from certplane.agent.settings import ServerSettings
from certplane.client import credentials, kubeconfig
from certplane.client.api import Client
from certplane.client.credentials import CredentialProblem
from certplane.client.kubeconfig import ClientConfig
from certplane.client.lighttransport import LightTransport
from certplane.clock import Clock

USER_AGENT: Final = f"certplane-agent/{certplane.__version__}"


class Access:
    """Makes clients. `identity` returns the pair with which the agent authenticates; None if there is none yet."""

    def __init__(self, settings: ServerSettings, identity: Callable[[], Pair | None], clock: Clock) -> None:
        self._settings = settings
        self._identity = identity
        self._clock = clock

    def config(self, kind: Credentials) -> ClientConfig:
        """The server and the credentials of a kind. Raises SetupError, CredentialProblem."""
        settings = self._settings
        if settings.kubeconfig is not None:
            config = kubeconfig.load(settings.kubeconfig, context=settings.context)
        else:
            config = kubeconfig.in_cluster()
        pair = self._identity() if kind is Credentials.IDENTITY else None
        if pair is not None and pair.facts.not_before <= self._clock.now() < pair.facts.not_after:
            certificate, key = credentials.Inline(pair.certificate), credentials.Inline(pair.key)
            source = credentials.StoredCredentials(certificate=certificate, key=key)
            # The agent acts as itself, not as the user that the kubeconfig may impersonate.
            return dataclasses.replace(config, source=source, impersonation={}, latest=None)
        if kind is Credentials.IDENTITY and settings.identity:
            # Approval depends on who requests: a request with other credentials might wait for ever.
            name = settings.identity
            raise CredentialProblem(f"the certificate {name}, with which the agent authenticates, is not valid yet")
        if settings.token_file is not None:
            token = credentials.Inline(files.read(settings.token_file, "the token file"))
            source = credentials.StoredCredentials(token=token)
            return dataclasses.replace(config, source=source, impersonation={}, latest=None)
        return config

    @contextlib.asynccontextmanager
    async def client(self, kind: Credentials) -> AsyncIterator[Client]:
        """A client. Raises SetupError, CredentialProblem."""
        yield Client(LightTransport(self.config(kind), USER_AGENT, self._clock))

    def roots(self) -> bytes:
        """The CA certificates of the server, in PEM. Raises SetupError, CredentialProblem."""
        return self.config(Credentials.BOOTSTRAP).trusted.read()
