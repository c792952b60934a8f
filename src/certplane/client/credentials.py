"""Client credentials: tokens, certificates, and exec plugins.

An exec plugin is run when there are no credentials yet, when they are about to expire, and when the server has refused
them. Its credentials are kept in memory only.

Source: client-go `rest/token_source.go`, `plugin/pkg/client/auth/exec`, `transport/cert_rotation.go`;
client.authentication.k8s.io/v1.
"""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from certplane import clock, errors, timestamps
from certplane.clock import Clock

_VERSIONS: Final = ("client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1")
#: Credentials are renewed this long before they expire: they have to be valid when they arrive.
_EXPIRY_MARGIN: Final = datetime.timedelta(seconds=10)
_PLUGIN_SECONDS: Final = 60.0


class CredentialProblem(errors.CertplaneError):
    """No credentials are available. The text names files and programs, never their content."""


class Content(Protocol):
    """Bytes that may change while the process runs."""

    def read(self) -> bytes:
        """The current bytes. Raises CredentialProblem."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class Inline:
    """Bytes that do not change, such as those of a kubeconfig: when it changes on disk, there is a new ClientConfig."""

    content: bytes = dataclasses.field(default=b"", repr=False)

    def read(self) -> bytes:
        return self.content


@dataclasses.dataclass(frozen=True, slots=True)
class Identity:
    """The value of the Authorization header, and a certificate with its key, in PEM. Empty: none."""

    authorization: str = dataclasses.field(default="", repr=False)
    certificate: bytes = b""
    key: bytes = dataclasses.field(default=b"", repr=False)


class Source(Protocol):
    """Where credentials come from."""

    async def identity(self) -> Identity:
        """The current credentials. Raises CredentialProblem."""
        ...

    def reject(self) -> bool:
        """The server has refused the credentials. Returns whether the next ones may be others."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class StoredCredentials:
    """Credentials that are no plugin's."""

    token: Content = Inline()
    certificate: Content = Inline()
    key: Content = Inline()
    basic: str = dataclasses.field(default="", repr=False)

    async def identity(self) -> Identity:
        token = self.token.read().decode("utf-8", "replace").strip()
        authorization = f"Bearer {token}" if token else self.basic
        if not (authorization.isascii() and authorization.isprintable()):
            raise CredentialProblem("the token has characters that are not allowed in a header")
        return Identity(authorization, self.certificate.read(), self.key.read())

    def reject(self) -> bool:
        return False


@dataclasses.dataclass(frozen=True, slots=True)
class ExecPlugin:
    """The command of an exec plugin. `cluster` is the server's description, if the plugin wants it; `hint` says how to
    install the plugin.
    """

    version: str
    command: Sequence[str]
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    cluster: Mapping[str, object] | None = None
    interactive: str = "IfAvailable"
    hint: str = ""


class ExecCredentials:
    """Credentials from an exec plugin."""

    def __init__(self, plugin: ExecPlugin, clock: Clock) -> None:
        self._plugin = plugin
        self._clock = clock
        self._identity: Identity | None = None
        self._expiry: datetime.datetime | None = None
        self._running = asyncio.Lock()

    async def identity(self) -> Identity:
        async with self._running:
            is_expired = self._expiry is not None and self._clock.now() >= self._expiry - _EXPIRY_MARGIN
            if self._identity is None or is_expired:
                self._identity, self._expiry = self._parse(await self._run())
            return self._identity

    def reject(self) -> bool:
        identity, self._identity = self._identity, None
        return identity is not None

    async def _run(self) -> bytes:
        """The output of the plugin."""
        plugin = self._plugin
        program = plugin.command[0]
        if plugin.interactive == "Always" and not sys.stdin.isatty():
            raise CredentialProblem(f"{program} needs a terminal, and there is none")
        interactive = plugin.interactive != "Never" and sys.stdin.isatty()
        spec: dict[str, object] = {"interactive": interactive}
        if plugin.cluster is not None:
            spec["cluster"] = plugin.cluster
        info = json.dumps({"kind": "ExecCredential", "apiVersion": plugin.version, "spec": spec})
        environment = {**os.environ, **plugin.environment, "KUBERNETES_EXEC_INFO": info}
        try:
            process = await asyncio.create_subprocess_exec(
                *plugin.command,
                env=environment,
                stdin=None if interactive else asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
            )
        except OSError as error:
            hint = f": {plugin.hint.strip()}" if plugin.hint else ""
            raise CredentialProblem(f"{program} cannot be run: {error.strerror}{hint}") from error
        try:
            output, _ = await clock.wait_for(self._clock, process.communicate(), _PLUGIN_SECONDS)
        except TimeoutError as error:
            raise CredentialProblem(f"{program} did not finish within {_PLUGIN_SECONDS:g}s") from error
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode:
            raise CredentialProblem(f"{program} failed with exit code {process.returncode}")
        return output

    def _parse(self, output: bytes) -> tuple[Identity, datetime.datetime | None]:
        plugin = self._plugin
        try:
            credential = json.loads(output)
            kind, version, status = credential["kind"], credential["apiVersion"], credential["status"]
            token = str(status.get("token") or "")
            certificate = str(status.get("clientCertificateData") or "").encode()
            key = str(status.get("clientKeyData") or "").encode()
            text = status.get("expirationTimestamp")
            expiry = timestamps.parse_rfc3339(text) if text else None
        except (ValueError, KeyError, TypeError, AttributeError):
            # Not the error itself: it quotes the output, which may be a credential.
            raise CredentialProblem(f"{plugin.command[0]} printed no ExecCredential") from None
        if (kind, version) != ("ExecCredential", plugin.version):
            raise CredentialProblem(f"{plugin.command[0]} printed another version than {plugin.version}")
        if not token and not (certificate and key):
            raise CredentialProblem(f"{plugin.command[0]} printed neither a token nor a certificate with its key")
        return Identity(f"Bearer {token}" if token else "", certificate, key), expiry


def plugin_version(version: object) -> str:
    """Check the API version of an exec plugin in a kubeconfig. Raises SetupError."""
    if version not in _VERSIONS:
        raise errors.SetupError(
            f"the exec plugin has an unsupported apiVersion: {version or 'none'}",
            (f"supported are {' and '.join(_VERSIONS)}",),
        )
    return str(version)
