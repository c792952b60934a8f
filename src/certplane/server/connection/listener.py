"""The listening socket: who is let in, the clockwork of all connections, and their end."""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import errno
import logging
import resource
import socket
import urllib.parse
from collections.abc import Callable, Coroutine
from typing import Any, Final

import uvloop

from certplane import clock as clocks
from certplane import errors
from certplane.server import exchange
from certplane.server.connection import peer, tls

_log = logging.getLogger("certplane.server")

_BACKLOG: Final = 2048
#: Connections that are accepted in one round of the loop, so that others have their turn.
_ACCEPTED_AT_ONCE: Final = 32
#: Descriptors that connections leave for everything else: the store, logs, connections of our own.
_RESERVED_DESCRIPTORS: Final = 128
#: More connections than this are nobody's need, and their buffers would take gigabytes.
_MOST_CONNECTIONS: Final = 65536
#: How long no connection is accepted after it failed for want of descriptors or memory, as in asyncio.
_ACCEPT_PAUSE: Final = 1.0
#: Seconds between two looks at all connections.
ROUND: Final = 1.0
#: How long requests under way have to end after `stop`.
_DRAIN_SECONDS: Final = 8.0
#: What accept fails with when the machine has no more to give; anything else is a connection that went away.
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Listener:
    """Serves a handler on a bound socket: with TLS if there is a context, in plain HTTP if there is none.

    `refused` is told of each client that got no further, with one of: tls, http, handshakes, connections, descriptors,
    memory.
    """

    def __init__(
        self,
        handler: exchange.Handler,
        bound: socket.socket,
        context: tls.ServingContext | None,
        clock: clocks.Clock,
        refused: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._socket = bound
        self._context = context
        self._clock = clock
        self._shared = peer.Shared(handler, clock, refused)
        self._stopping = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._adopting: set[asyncio.Task[Any]] = set()
        self._most = _most_connections()
        self._resume: asyncio.TimerHandle | None = None
        self.started = False
        #: Why no connection is accepted at the moment; None if all are.
        self.problem: str | None = None

    @property
    def address(self) -> str:
        """Where it listens, as clients write it."""
        host, port = self._socket.getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    async def serve(self) -> None:
        """Serve until `stop`, then until the requests under way are answered."""
        self._set_date()
        self._accept_again()
        self.started = True
        try:
            await self._stopping.wait()
            self._close_socket()
            await self._drain()
        finally:
            self._close_socket()
            tasks = [task for connection in list(self._shared.peers) if (task := connection.abort()) is not None]
            await asyncio.gather(*tasks, *self._adopting, return_exceptions=True)

    def stop(self) -> None:
        """Accept no more connections; finish what is under way."""
        self._stopping.set()

    # --- the way in -----------------------------------------------------------------------------------------------

    def _accept_again(self) -> None:
        self._resume = None
        self.problem = None
        self._loop.add_reader(self._socket.fileno(), self._accept)

    def _accept(self) -> None:
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                accepted, _ = self._socket.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._pause(error)
                    return
                continue
            self._admit(accepted)

    def _admit(self, accepted: socket.socket) -> None:
        if len(self._shared.peers) + len(self._adopting) >= self._most:
            self._shared.refused("connections")
            self._shared.tell("connection refused", "", f"there are {self._most} connections already")
            accepted.close()
            return
        accepted.setblocking(False)
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        adoption = self._loop.create_task(self._adopt(accepted))
        self._adopting.add(adoption)
        adoption.add_done_callback(self._adopting.discard)

    async def _adopt(self, accepted: socket.socket) -> None:
        # A connection that was reset meanwhile is nobody's problem.
        with contextlib.suppress(OSError):
            await self._loop.connect_accepted_socket(self._connection, accepted)

    def _connection(self) -> peer.Peer:
        return peer.Peer(self._shared, self._context.session() if self._context is not None else None)

    def _pause(self, error: OSError) -> None:
        """Let no one in for a moment: there is no descriptor or memory for a connection."""
        self._shared.refused("descriptors")
        self.problem = f"connections cannot be accepted: {error.strerror}"
        left_out = self._shared.limit.admit(("accept", error.errno), self._clock.now())
        if left_out is not None:
            _log.error("connections cannot be accepted", extra={"problem": error.strerror, **left_out})
        self._loop.remove_reader(self._socket.fileno())
        self._resume = self._loop.call_later(_ACCEPT_PAUSE, self._accept_again)

    def _close_socket(self) -> None:
        if self._resume is not None:
            self._resume.cancel()
            self._resume = None
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()

    # --- the clockwork, and the end ---------------------------------------------------------------------------------

    async def check_connections(self) -> None:
        """End what does not go on. To be called every `ROUND` seconds, by whoever sees to it that this goes on."""
        self._set_date()
        now = self._clock.monotonic()
        for connection in list(self._shared.peers):
            connection.check(now)

    def _set_date(self) -> None:
        self._shared.date = email.utils.format_datetime(self._clock.now(), usegmt=True).encode("ascii")

    async def _drain(self) -> None:
        shared = self._shared
        shared.is_draining = True
        for connection in list(shared.peers):
            connection.drain()
        end = self._clock.monotonic() + _DRAIN_SECONDS
        while shared.peers and (left := end - self._clock.monotonic()) > 0:
            shared.gone.clear()
            await clocks.wait_until(self._clock, shared.gone, left)


def _most_connections() -> int:
    """How many connections there may be, after this process may have as many descriptors as the system lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_CONNECTIONS + _RESERVED_DESCRIPTORS
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
        # Some systems allow less than they say; then it stays as it was.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    most = _MOST_CONNECTIONS if soft == resource.RLIM_INFINITY else min(soft - _RESERVED_DESCRIPTORS, _MOST_CONNECTIONS)
    return max(most, 1)


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run a program on the fastest event loop there is."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main)


def bind(host: str, port: int, flag: str = "--listen") -> socket.socket:
    """A socket that listens. Raises SetupError if it cannot be had, naming the flag that chooses another."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
        # Two sockets may have one address until one of them listens.
        bound.listen(_BACKLOG)
    except OSError as error:
        bound.close()
        raise errors.SetupError(
            f"cannot listen on {urllib.parse.quote(host, safe=':[]')}:{port}: {error.strerror or error}",
            (_advice(error, port, flag),),
        ) from error
    bound.setblocking(False)
    return bound


def _advice(error: OSError, port: int, flag: str) -> str:
    if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
        return f"this machine has no such address: {flag} 127.0.0.1:{port} is one that it has"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"ports below 1024 need the rights of root: choose another one with {flag} HOST:PORT"
    return f"another process may use the port: choose another one with {flag} HOST:PORT"
