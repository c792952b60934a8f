"""`certplane wait`: returns when a server is ready, for scripts that start one and then use it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Final

import click

import certplane
from certplane import files
from certplane.cli import durations
from certplane.client import api, kubeconfig, lighttransport
from certplane.client.kubeconfig import ClientConfig
from certplane.clock import Clock, SystemClock
from certplane.errors import SetupError
from certplane.golang import formatting

#: pid_t is a signed 32-bit integer.
_MAX_PID: Final = 2**31 - 1
_KUBECONFIG: Final = "admin.conf"
#: Between two probes: short for a person, and little load for a server that is starting.
_PROBE_SECONDS: Final = 0.1
#: After this time one line says what is waited for.
_SILENT_SECONDS: Final = 5.0
#: Characters of an answer that are shown. It is untrusted: another program may listen on the port.
_MAX_ANSWER: Final = 200
_PROCESS_ENDED_HINT: Final = "the output of certplane serve has the reason"
_RUNNING_HINT: Final = "check that certplane serve is running, and read its output"
_DATA_DIR_HINT: Final = "check that certplane serve is running with the same data directory, and read its output"
_PORT_HINT: Final = "if another process is using the port, choose another one with certplane serve --listen HOST:PORT"


class NotReady(Exception):
    """Why the server is not ready; it may become ready. `hints` say what to check."""

    def __init__(self, message: str, *hints: str) -> None:
        super().__init__(message)
        self.hints = hints


#: Returns the server's URL. Raises NotReady; SetupError if it can never be ready.
Probe = Callable[[], Awaitable[str]]


@click.command(epilog="In a script: certplane serve & certplane wait --pid $!")
@click.option(
    "--data-dir", default="./certplane-data", show_default=True, metavar="DIR", help="Data directory of the server."
)
@click.option(
    "--kubeconfig", "path", default=None, metavar="FILE",
    help="Kubeconfig for the server.  [default: DATA-DIR/admin.conf]",
)  # fmt: skip
@click.option("--context", default="", metavar="NAME", help="Context of the kubeconfig; by default the current one.")
@click.option(
    "--pid", type=click.IntRange(1, _MAX_PID), default=None, metavar="PID",
    help="Process id of the server, as $! in a shell. If the process ends, the command fails at once.",
)  # fmt: skip
@click.option("--timeout", default="1m0s", show_default=True, metavar="DURATION", help="Maximum time to wait.")
def wait(data_dir: str, path: str | None, context: str, pid: int | None, timeout: str) -> None:
    """Wait until a server is ready, and print its URL."""
    seconds = durations.parse(timeout).total_seconds()
    file = pathlib.Path(path) if path is not None else pathlib.Path(data_dir, _KUBECONFIG)
    is_running = (lambda: is_alive(pid)) if pid is not None else (lambda: True)
    waiting = Waiting(lambda: _probe(file, context), is_running, SystemClock(), lambda line: click.echo(line, err=True))
    click.echo(asyncio.run(waiting.until_ready(seconds)))


class Waiting:
    """Probes a server until it is ready. `is_running` returns whether its process runs; `report` prints a line."""

    def __init__(
        self, probe: Probe, is_running: Callable[[], bool], clock: Clock, report: Callable[[str], None]
    ) -> None:
        self._probe = probe
        self._is_running = is_running
        self._clock = clock
        self._report = report
        self._problem = NotReady("no response yet", _RUNNING_HINT, _PORT_HINT)

    async def until_ready(self, seconds: float) -> str:
        """The URL of the server. Raises SetupError if it is not ready in time, or if its process has ended."""
        start = self._clock.monotonic()
        is_reported = False
        probing: asyncio.Task[str] | None = None
        try:
            while True:
                # Before the probe's result is used: a server that stops may still have answered that it is ready.
                was_running = self._is_running()
                probing = probing or asyncio.ensure_future(self._run_probe())
                pause = asyncio.ensure_future(self._clock.sleep(_PROBE_SECONDS))
                # A probe without an answer must not hide that the process has ended.
                await asyncio.wait({probing, pause}, return_when=asyncio.FIRST_COMPLETED)
                if probing.done():
                    url, probing = probing.result(), None
                    if url and self._is_running():
                        return url
                    if url:
                        # Another server has the port, or the data directory.
                        self._problem, was_running = NotReady(f"another server answers at {url}"), False
                waited = self._clock.monotonic() - start
                self._check(was_running, waited, seconds)
                if waited >= _SILENT_SECONDS and not is_reported:
                    is_reported = True
                    self._report(
                        f"waiting for the server (up to {formatting.human_duration(seconds)}): {self._problem}"
                    )
                await pause
        finally:
            if probing is not None:
                probing.cancel()

    async def _run_probe(self) -> str:
        """The URL; empty if the server is not ready."""
        try:
            return await self._probe()
        except NotReady as problem:
            self._problem = problem
            return ""

    def _check(self, was_running: bool, waited: float, seconds: float) -> None:
        if not was_running:
            raise SetupError(
                f"the server's process ended before it was ready: {self._problem}", (_PROCESS_ENDED_HINT, _PORT_HINT)
            )
        if waited >= seconds:
            raise SetupError(
                f"the server is not ready after {formatting.human_duration(seconds)}: {self._problem}",
                self._problem.hints,
            )


def _load_kubeconfig(path: pathlib.Path, context: str) -> ClientConfig:
    # Read for each probe: the first start of the server writes it, and every start may change the address in it.
    with files.as_setup_error(f"the kubeconfig {path} cannot be read", "set --kubeconfig to a kubeconfig file"):
        exists = path.exists()
    if not exists:
        raise NotReady(f"the kubeconfig {path} does not exist yet", _DATA_DIR_HINT)
    return kubeconfig.load(path, context=context)


async def _probe(path: pathlib.Path, context: str) -> str:
    config = _load_kubeconfig(path, context)
    transport = lighttransport.LightTransport(config, f"certplane/{certplane.__version__}", SystemClock())
    async with contextlib.aclosing(transport):
        try:
            response = await transport.send(api.Request("GET", "/readyz"))
        except api.Unreachable as error:
            raise NotReady(str(error), _RUNNING_HINT, _PORT_HINT) from error
    if response.status == HTTPStatus.UNAUTHORIZED:
        raise NotReady(
            f"{config.host} does not accept the credentials in {path}",
            "the log of the server has the reason",
            _PORT_HINT,
        )
    if response.status != HTTPStatus.OK:
        text = response.body.decode("utf-8", "replace")[:_MAX_ANSWER].strip()
        raise NotReady(
            f"{config.host} responds with {response.status} {formatting.quote(text)}", _RUNNING_HINT, _PORT_HINT
        )
    return config.base


def is_alive(pid: int) -> bool:
    """Whether a process runs. A zombie, which has ended and whose parent has not collected it, does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    with contextlib.suppress(OSError, IndexError):
        # Where there is /proc: the state follows the name, which is in parentheses and may have any character.
        state = pathlib.Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0]
        return state not in (b"Z", b"X")
    return True
