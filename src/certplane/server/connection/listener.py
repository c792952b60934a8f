"""The listening socket: accepts connections, checks their timeouts, and drains them at shutdown."""

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

from certplane import clock, errors
from certplane.clock import Clock
from certplane.server.connection import protocol, tls
from certplane.server.exchange import Handler

_log = logging.getLogger("certplane.server")

_BACKLOG: Final = 2048
#: Connections that are accepted in one iteration of the event loop, so that open connections are not starved.
_ACCEPTED_AT_ONCE: Final = 32
#: File descriptors reserved for everything that is not a client connection: store, logs, outgoing connections.
_RESERVED_DESCRIPTORS: Final = 128
#: Upper limit whatever RLIMIT_NOFILE allows: the buffers of more connections would take gigabytes.
_MAX_CONNECTIONS: Final = 65536
#: Seconds without accepting after accept() failed for lack of descriptors or memory, as in asyncio.
_ACCEPT_PAUSE: Final = 1.0
#: Seconds between two checks of all connections.
CHECK_INTERVAL: Final = 1.0
#: Seconds that requests in flight have to complete after `stop`.
_DRAIN_SECONDS: Final = 8.0
#: Errors of accept() that mean exhausted resources; any other means that the client has disconnected.
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Listener:
    """Serves a handler on a bound socket: HTTPS if there is a TLS context, otherwise plain HTTP.

    `count_refused` is called for each refused client with the reason: tls, http, handshakes, connections, descriptors
    or memory.
    """

    def __init__(
        self,
        handler: Handler,
        bound: socket.socket,
        context: tls.ServingContext | None,
        clock: Clock,
        count_refused: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._socket = bound
        self._context = context
        self._clock = clock
        self._shared = protocol.ListenerState(handler, clock, count_refused)
        self._stopping = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._setups: set[asyncio.Task[Any]] = set()
        self._max_connections = _raise_descriptor_limit()
        self._resume: asyncio.TimerHandle | None = None
        #: Why connections cannot be accepted at the moment; None if they can.
        self.problem: str | None = None

    @property
    def address(self) -> str:
        """The address that it listens on, as host:port."""
        host, port = self._socket.getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    async def serve(self) -> None:
        """Serve until `stop`; then return when the requests in flight have completed."""
        self._set_date()
        self._resume_accepting()
        try:
            await self._stopping.wait()
            self._close_socket()
            await self._drain()
        finally:
            self._close_socket()
            tasks = [task for connection in list(self._shared.connections) if (task := connection.abort()) is not None]
            await asyncio.gather(*tasks, *self._setups, return_exceptions=True)

    def stop(self) -> None:
        """Stop accepting connections; complete the requests in flight."""
        self._stopping.set()

    # --- accepting ------------------------------------------------------------------------------------------------

    def _resume_accepting(self) -> None:
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
                    self._pause_accepting(error)
                    return
                continue
            self._admit(accepted)

    def _admit(self, accepted: socket.socket) -> None:
        if len(self._shared.connections) + len(self._setups) >= self._max_connections:
            self._shared.count_refused("connections")
            self._shared.log_refusal("connection refused", "", f"limit of {self._max_connections} connections reached")
            accepted.close()
            return
        accepted.setblocking(False)
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        setup = self._loop.create_task(self._set_up_connection(accepted))
        self._setups.add(setup)
        setup.add_done_callback(self._setups.discard)

    async def _set_up_connection(self, accepted: socket.socket) -> None:
        # The client may have reset the connection in the meantime.
        with contextlib.suppress(OSError):
            await self._loop.connect_accepted_socket(self._connection, accepted)

    def _connection(self) -> protocol.Connection:
        return protocol.Connection(self._shared, self._context.session() if self._context is not None else None)

    def _pause_accepting(self, error: OSError) -> None:
        """Stop accepting for a moment: there is no descriptor or memory for another connection."""
        self._shared.count_refused("descriptors")
        self.problem = f"cannot accept connections: {error.strerror}"
        suppressed = self._shared.log_limit.admit(("accept", error.errno), self._clock.now())
        if suppressed is not None:
            _log.error("cannot accept connections", extra={"error": error.strerror, **suppressed})
        self._loop.remove_reader(self._socket.fileno())
        self._resume = self._loop.call_later(_ACCEPT_PAUSE, self._resume_accepting)

    def _close_socket(self) -> None:
        if self._resume is not None:
            self._resume.cancel()
            self._resume = None
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()

    # --- timeouts and shutdown ------------------------------------------------------------------------------------

    async def check_connections(self) -> None:
        """Close connections that have timed out. Call it every CHECK_INTERVAL seconds."""
        self._set_date()
        now = self._clock.monotonic()
        for connection in list(self._shared.connections):
            connection.check_timeouts(now)

    def _set_date(self) -> None:
        self._shared.date = email.utils.format_datetime(self._clock.now(), usegmt=True).encode("ascii")

    async def _drain(self) -> None:
        shared = self._shared
        shared.is_draining = True
        for connection in list(shared.connections):
            connection.drain()
        end = self._clock.monotonic() + _DRAIN_SECONDS
        while shared.connections and (left := end - self._clock.monotonic()) > 0:
            shared.connection_lost.clear()
            await clock.wait_until(self._clock, shared.connection_lost, left)


def _raise_descriptor_limit() -> int:
    """The maximum number of connections. Raises RLIMIT_NOFILE as far as needed and allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = _MAX_CONNECTIONS + _RESERVED_DESCRIPTORS
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(hard, needed)
        # Some systems refuse a value up to the hard limit; then the limit is not changed.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if soft == resource.RLIM_INFINITY:
        return _MAX_CONNECTIONS
    return max(min(soft - _RESERVED_DESCRIPTORS, _MAX_CONNECTIONS), 1)


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run a program on uvloop."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main)


def bind(host: str, port: int, flag: str = "--listen") -> socket.socket:
    """A listening socket. Raises SetupError with a hint that names the flag to change."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
        # With SO_REUSEADDR a conflict shows only in listen().
        bound.listen(_BACKLOG)
    except OSError as error:
        bound.close()
        raise errors.SetupError(
            f"cannot listen on {urllib.parse.quote(host, safe=':[]')}:{port}: {error.strerror or error}",
            (_hint(error, port, flag),),
        ) from error
    bound.setblocking(False)
    return bound


def _hint(error: OSError, port: int, flag: str) -> str:
    if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
        return f"this machine does not have that address; try {flag} 127.0.0.1:{port}"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"ports below 1024 require root; choose another port with {flag} HOST:PORT"
    return f"another process may be using the port; choose another port with {flag} HOST:PORT"
