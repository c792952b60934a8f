"""Who we are, where that may change while the process runs: token and certificate files, and exec plugins.

Files are looked at for every request and read again when they have changed: a pod's token is written anew every hour, a
node's certificate every few months. An exec plugin is another program that knows credentials; it is asked when there
are none, when they are over, and when the server does not accept them. What it says is kept in memory alone.

Source: client-go `rest/token_source.go`, `plugin/pkg/client/auth/exec`, `transport/cert_rotation.go`;
client.authentication.k8s.io/v1.
"""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import json
import os
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from certplane import clock as clocks
from certplane import errors

_VERSIONS: Final = ("client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1")
#: A credential that is over in a moment is over by the time it arrives.
_MOMENT: Final = datetime.timedelta(seconds=10)
_PLUGIN_SECONDS: Final = 60.0


class CredentialProblem(errors.CertplaneError):
    """There are no credentials to send now. The text names files and programs, never what is in them."""


class Content(Protocol):
    """Bytes that may change."""

    def read(self) -> bytes:
        """What they are now. Raises CredentialProblem."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class Inline:
    """Bytes that a kubeconfig holds itself."""

    content: bytes = dataclasses.field(default=b"", repr=False)

    def read(self) -> bytes:
        return self.content


class File:
    """A file; read again when it has changed."""

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._content = b""

    def read(self) -> bytes:
        try:
            found = os.stat(self._path)
            seen = found.st_mtime_ns, found.st_ino, found.st_size
            if seen != self._seen:
                self._content, self._seen = self._path.read_bytes(), seen
        except OSError as error:
            raise CredentialProblem(f"{self._path} cannot be read: {error.strerror}") from error
        return self._content


@dataclasses.dataclass(frozen=True, slots=True)
class Identity:
    """What is sent: a value of the Authorization header, and a certificate with its key, in PEM; empty if there is
    none.
    """

    authorization: str = dataclasses.field(default="", repr=False)
    certificate: bytes = b""
    key: bytes = dataclasses.field(default=b"", repr=False)


class Source(Protocol):
    """Knows who we are."""

    async def identity(self) -> Identity:
        """Who we are now. Raises CredentialProblem."""
        ...

    def refuse(self) -> bool:
        """The server did not accept it; whether it is worth to ask again."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class Held:
    """Credentials that somebody else keeps current: in a kubeconfig, or in files beside it."""

    token: Content = Inline()
    certificate: Content = Inline()
    key: Content = Inline()
    basic: str = dataclasses.field(default="", repr=False)

    async def identity(self) -> Identity:
        token = self.token.read().decode("utf-8", "replace").strip()
        authorization = f"Bearer {token}" if token else self.basic
        if not (authorization.isascii() and authorization.isprintable()):
            raise CredentialProblem("the token has characters that no header may have")
        return Identity(authorization, self.certificate.read(), self.key.read())

    def refuse(self) -> bool:
        return False


@dataclasses.dataclass(frozen=True, slots=True)
class Plugin:
    """How a plugin is called. `cluster` is what it is told of the server, if it wants to know."""

    version: str
    command: Sequence[str]
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    cluster: Mapping[str, Any] | None = None
    interactive: str = "IfAvailable"
    hint: str = ""


class Exec:
    """Credentials of a plugin."""

    def __init__(self, plugin: Plugin, clock: clocks.Clock) -> None:
        self._plugin = plugin
        self._clock = clock
        self._known: Identity | None = None
        self._until: datetime.datetime | None = None
        self._asking = asyncio.Lock()

    async def identity(self) -> Identity:
        async with self._asking:
            over = self._until is not None and self._clock.now() >= self._until - _MOMENT
            if self._known is None or over:
                self._known, self._until = self._read(await self._ask())
            return self._known

    def refuse(self) -> bool:
        known, self._known = self._known, None
        return known is not None

    async def _ask(self) -> bytes:
        plugin = self._plugin
        program = plugin.command[0]
        if plugin.interactive == "Always" and not sys.stdin.isatty():
            raise CredentialProblem(f"{program} wants to talk to a person, and there is none")
        interactive = plugin.interactive != "Never" and sys.stdin.isatty()
        spec: dict[str, Any] = {"interactive": interactive}
        if plugin.cluster is not None:
            spec["cluster"] = plugin.cluster
        info = json.dumps({"kind": "ExecCredential", "apiVersion": plugin.version, "spec": spec})
        environment = {**os.environ, **plugin.environment, "KUBERNETES_EXEC_INFO": info}
        try:
            running = await asyncio.create_subprocess_exec(
                *plugin.command,
                env=environment,
                stdin=None if interactive else asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
            )
        except OSError as error:
            hint = f": {plugin.hint.strip()}" if plugin.hint else ""
            raise CredentialProblem(f"{program} cannot be run: {error.strerror}{hint}") from error
        try:
            said, _ = await asyncio.wait_for(running.communicate(), _PLUGIN_SECONDS)
        except TimeoutError as error:
            raise CredentialProblem(f"{program} has not answered for {_PLUGIN_SECONDS:g}s") from error
        finally:
            if running.returncode is None:
                running.kill()
                await running.wait()
        if running.returncode:
            raise CredentialProblem(f"{program} ended with code {running.returncode}")
        return said

    def _read(self, said: bytes) -> tuple[Identity, datetime.datetime | None]:
        plugin = self._plugin
        try:
            answer = json.loads(said)
            kind, version, status = answer["kind"], answer["apiVersion"], answer["status"]
            token = str(status.get("token") or "")
            certificate = str(status.get("clientCertificateData") or "").encode()
            key = str(status.get("clientKeyData") or "").encode()
            text = status.get("expirationTimestamp")
            until = clocks.parse_rfc3339(text) if text else None
        except (ValueError, KeyError, TypeError, AttributeError):
            # Not the error itself: it quotes what was said, and that may be a credential.
            raise CredentialProblem(f"{plugin.command[0]} said nothing that is an ExecCredential") from None
        if (kind, version) != ("ExecCredential", plugin.version):
            raise CredentialProblem(f"{plugin.command[0]} answered in another version than {plugin.version}")
        if not token and not (certificate and key):
            raise CredentialProblem(f"{plugin.command[0]} gave neither a token nor a certificate with its key")
        return Identity(f"Bearer {token}" if token else "", certificate, key), until


def plugin_version(of: Any) -> str:
    """The version of the protocol that a kubeconfig names. Raises SetupError."""
    if of not in _VERSIONS:
        raise errors.SetupError(
            f"the exec plugin speaks {of or 'no version'}", (f"known are {' and '.join(_VERSIONS)}",)
        )
    return str(of)
