"""The connection of a command to an API server: `--kubeconfig`, `KUBECONFIG` and `--context`, as kubectl has them.

Every failure of the server becomes an error with hints. Warnings of the server are printed, each once.

Source: client-go `tools/clientcmd` (`ClientConfigLoadingRules`), `rest/warnings.go`; RFC 7234 section 5.5.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import pathlib
import re
import shlex
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final, TypeVar

import click

import certplane
from certplane import errors, files
from certplane.cli import options, plaintext
from certplane.client import api, kubeconfig
from certplane.client.api import Client
from certplane.client.kubeconfig import ClientConfig
from certplane.client.lighttransport import LightTransport
from certplane.clock import SystemClock
from certplane.errors import SetupError

_T = TypeVar("_T")

_KUBECONFIG: Final = options.KUBECONFIG
#: What `certplane serve` writes with its default settings.
LOCAL: Final = pathlib.Path("certplane-data", "admin.conf")
#: A warning: code, agent, and the text in quotes. A date may follow.
_WARNING: Final = re.compile(r'\b299 [^\s,]+ "((?:[^"\\]|\\.)*)"')
_MAX_WARNINGS: Final = 100
_SERVER_HINT: Final = "check that the server is running, and that the kubeconfig is for this server"


class Connection:
    """The server and the user that the options select; empty texts for those that were not set."""

    def __init__(self, kubeconfig: str = "", context: str = "") -> None:
        self.kubeconfig = kubeconfig
        self.context = context
        self._is_loaded = False

    def load(self) -> ClientConfig:
        """The configuration of the client. The first time, the server is named if there is another, local one that may
        be meant. Raises SetupError.
        """
        paths = self.paths()
        config = kubeconfig.load(*paths, context=self.context) if paths else kubeconfig.in_cluster()
        is_default = not self.kubeconfig and not os.environ.get("KUBECONFIG")
        for hint in _local_hints() if is_default and not self._is_loaded else ():
            report(f"hint: the server is {config.host}, from {self.describe()}; {hint}")
        self._is_loaded = True
        return config

    def paths(self) -> Sequence[pathlib.Path]:
        """The kubeconfigs, as kubectl chooses them; none: inside a pod, its service account is used. Raises
        SetupError.
        """
        if self.kubeconfig:
            return (pathlib.Path(self.kubeconfig),)
        named = [pathlib.Path(name) for name in os.environ.get("KUBECONFIG", "").split(os.pathsep) if name]
        if named:
            existing = [path for path in dict.fromkeys(named) if _exists(path)]
            if not existing:
                raise SetupError(
                    f"KUBECONFIG names no file that exists: {', '.join(map(str, named))}",
                    ("set KUBECONFIG to a kubeconfig, or --kubeconfig", *_local_hints()),
                )
            return existing
        default = pathlib.Path(os.path.expanduser("~/.kube/config"))
        if _exists(default):
            return (default,)
        if os.environ.get("KUBERNETES_SERVICE_HOST"):
            return ()
        raise SetupError(
            f"there is no kubeconfig: {default} does not exist, and neither {_KUBECONFIG} nor KUBECONFIG is set",
            (f"set {_KUBECONFIG} or KUBECONFIG to a kubeconfig", *_local_hints()),
        )

    def flags(self) -> str:
        """The options again, for commands in messages: with a space at the end unless empty."""
        given = ((options.KUBECONFIG, self.kubeconfig), (options.CONTEXT, self.context))
        return "".join(f"{flag} {shlex.quote(value)} " for flag, value in given if value)

    def describe(self) -> str:
        """Where the credentials come from, for messages."""
        paths = self.paths()
        return ", ".join(map(str, paths)) if paths else "the service account of the pod"


def with_connection(function: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator that gives a command the options, and its function a `Connection` as the first argument."""

    @functools.wraps(function)
    def run(*, kubeconfig: str | None, context: str | None, **others: Any) -> Any:
        return function(Connection(kubeconfig or "", context or ""), **others)

    parameters: list[click.Parameter] = run.__dict__.setdefault("__click_params__", [])
    # Click reads the list from its end.
    parameters[:0] = [options.context(), options.kubeconfig()]
    return run


def _exists(path: pathlib.Path) -> bool:
    with files.as_setup_error(f"the kubeconfig {path} cannot be read", f"set {_KUBECONFIG} to a kubeconfig file"):
        return path.exists()


def _local_hints() -> Sequence[str]:
    with contextlib.suppress(OSError):
        if LOCAL.exists():
            return (f"{_KUBECONFIG} {LOCAL} is for the server whose data directory is here",)
    return ()


def call(
    connection: Connection,
    operation: Callable[[Client], Coroutine[Any, Any, _T]],
    hints: Mapping[int, str] | None = None,
) -> _T:
    """The result of an operation on the server. `hints` are by the code of a response. Raises SetupError for every
    failure of the server.
    """
    config = connection.load()

    async def run() -> _T:
        transport = LightTransport(config, f"certplane/{certplane.__version__}", SystemClock())
        async with contextlib.aclosing(transport):
            return await operation(Client(WarningsTransport(transport, report)))

    try:
        return asyncio.run(run())
    except api.Unreachable as error:
        raise SetupError(plaintext.escape(str(error)), (_SERVER_HINT,)) from error
    except errors.APIError as error:
        raise SetupError(plaintext.escape(error.message), (_hint(error, connection, hints or {}),)) from error


def report(line: str) -> None:
    """Print a line on standard error."""
    click.echo(line, err=True)


def _hint(error: errors.APIError, connection: Connection, hints: Mapping[int, str]) -> str:
    """What to do about an error of the server."""
    if error.code in hints:
        return hints[error.code]
    if error.code == HTTPStatus.UNAUTHORIZED:
        return f"the server does not accept the credentials in {connection.describe()}; its log has the reason"
    if error.code == HTTPStatus.FORBIDDEN:
        return f"list your permissions with kubectl {connection.flags()}auth can-i --list"
    return f"the server responded with code {error.code}"


# --- warnings -----------------------------------------------------------------------------------------------------


class WarningsTransport:
    """A transport that reports the warnings in responses, each once, as kubectl prints them. Implements
    `api.Transport`.
    """

    def __init__(self, transport: api.Transport, report: Callable[[str], None]) -> None:
        self._transport = transport
        self._report = report
        self._reported: set[str] = set()

    async def send(self, request: api.Request) -> api.Response:
        response = await self._transport.send(request)
        self._report_warnings(response)
        return response

    @contextlib.asynccontextmanager
    async def stream(self, request: api.Request) -> AsyncIterator[api.Response]:
        async with self._transport.stream(request) as response:
            self._report_warnings(response)
            yield response

    def _report_warnings(self, response: api.Response) -> None:
        for text in _warnings(response.headers.get("warning", "")):
            if text not in self._reported and len(self._reported) < _MAX_WARNINGS:
                self._reported.add(text)
                self._report(f"Warning: {plaintext.escape(text)}")


def _warnings(field: str) -> Iterator[str]:
    """The texts in a Warning header. Those of several headers are separated by commas."""
    for match in _WARNING.finditer(field):
        yield re.sub(r"\\(.)", r"\1", match[1])
