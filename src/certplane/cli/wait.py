"""`certplane wait`: returns when a server is ready, for scripts that start one and go on."""

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
from certplane import clock as clocks
from certplane import errors, gotext
from certplane.client import api, kubeconfig, remote

_KUBECONFIG: Final = "admin.conf"
#: Between two questions: short for people, and no load for a server that is starting.
_PAUSE_SECONDS: Final = 0.1
#: How much of an answer is shown, which may be anybody's: whoever listens there need not be a server of ours.
_SHOWN: Final = 200
_ENDED: Final = "what it printed last says why it ended"
_PORT: Final = "if another process has its port, certplane serve --listen HOST:PORT takes another one"


class NotReady(Exception):
    """Why a server is not ready; it may become so."""


#: Returns the server's URL. Raises NotReady.
Probe = Callable[[], Awaitable[str]]


@click.command(epilog="In a script: certplane serve & certplane wait --pid $!")
@click.option(
    "--data-dir", default="./certplane-data", show_default=True, metavar="DIR", help="Where the server keeps its files."
)
@click.option(
    "--kubeconfig", "path", default=None, metavar="FILE",
    help="Where the server is and who you are.  [default: DATA-DIR/admin.conf]",
)  # fmt: skip
@click.option(
    "--pid", type=int, default=None, metavar="PID",
    help="The process of the server, as $! in a shell: if it ends, waiting ends.",
)  # fmt: skip
@click.option("--timeout", default="1m0s", show_default=True, metavar="DURATION", help="How long to wait.")
def wait(data_dir: str, path: str | None, pid: int | None, timeout: str) -> None:
    """Wait until a server is ready, and print its address."""
    patience = gotext.parse_duration(timeout)
    if patience is None:
        raise errors.SetupError(f"not a duration: {timeout}", ("write it as 1m0s",))
    file = pathlib.Path(path) if path is not None else pathlib.Path(data_dir, _KUBECONFIG)
    clock = clocks.SystemClock()
    lives = (lambda: is_alive(pid)) if pid is not None else (lambda: True)
    click.echo(asyncio.run(until_ready(lambda: _probe(file), lives, clock, patience.total_seconds())))


async def until_ready(probe: Probe, lives: Callable[[], bool], clock: clocks.Clock, seconds: float) -> str:
    """The URL of a server, once it is ready. Raises SetupError if it is not in time, or its process has ended."""
    end = clock.monotonic() + seconds
    why = "it has not answered"
    probing: asyncio.Task[str] | None = None
    try:
        while True:
            # Asked before the server is: what it does last is to say that it is ready.
            lived = lives()
            probing = probing or asyncio.ensure_future(probe())
            pausing = asyncio.ensure_future(clock.sleep(_PAUSE_SECONDS))
            # A server that does not answer must not hide that the process has ended.
            await asyncio.wait({probing, pausing}, return_when=asyncio.FIRST_COMPLETED)
            if probing.done():
                try:
                    url = probing.result()
                    if lives():
                        return url
                    # Another one has its port, or its data directory.
                    why, lived = f"another server answers at {url}", False
                except NotReady as problem:
                    why, probing = str(problem), None
            if not lived:
                raise errors.SetupError(f"the server's process ended before it was ready: {why}", (_ENDED, _PORT))
            if clock.monotonic() >= end:
                late = f"the server is not ready after {gotext.human_duration(seconds)}: {why}"
                raise errors.SetupError(late, ("check that the server is running, and what it printed last", _PORT))
            await pausing
    finally:
        if probing is not None:
            probing.cancel()


async def _probe(path: pathlib.Path) -> str:
    # Read anew each time: the first start writes it, and every start may write another address into it.
    try:
        access = kubeconfig.load(path)
    except errors.SetupError as error:
        raise NotReady(error.message) from error
    transport = remote.Transport(access, f"certplane/{certplane.__version__}")
    async with contextlib.aclosing(transport):
        try:
            answer = await transport.request("GET", "/readyz")
        except api.Unreachable as error:
            raise NotReady(str(error)) from error
    if answer.status == HTTPStatus.UNAUTHORIZED:
        raise NotReady(f"{access.place} does not take the credentials in {path}: its log says why")
    if answer.status != HTTPStatus.OK:
        text = answer.body.decode("utf-8", "replace")[:_SHOWN].strip()
        raise NotReady(f"{access.place} answers {answer.status} {gotext.quote(text)}")
    return access.base


def is_alive(pid: int) -> bool:
    """Whether a process runs. One that has ended and is not yet asked about by its parent does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    with contextlib.suppress(OSError, IndexError):
        # Where there is /proc: the letter after the name, which may have any character in it.
        state = pathlib.Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0]
        return state not in (b"Z", b"X")
    return True
