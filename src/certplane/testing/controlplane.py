"""A real control plane for tests: `certplane serve` as a process of its own, on a free port of the loopback."""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
from types import TracebackType
from typing import Final

from certplane.golang import goyaml

#: Of a process that does not end on SIGTERM. It first completes requests in flight, for up to 8 s.
_END_SECONDS: Final = 20.0
#: How often the process is looked at while it starts: one that has ended sends no more notifications.
_POLL_SECONDS: Final = 0.2


class StartError(RuntimeError):
    """The control plane did not start. The text holds its log."""


class ControlPlane:
    """A context manager: a control plane from ready to stopped, with everything in a directory of its own.

    `arguments` are further flags of `certplane serve`. `directory` is created if it does not exist, and kept; it holds
    `data` and `server.log`. Without it, a temporary one is removed at the end. Entering raises StartError, and
    RuntimeError while the control plane is running.
    """

    def __init__(self, *arguments: str, directory: pathlib.Path | None = None, start_seconds: float = 60.0) -> None:
        self._arguments = arguments
        self._requested_directory = directory
        self._start_seconds = start_seconds
        self._cleanup = contextlib.ExitStack()
        self._directory = pathlib.Path()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> ControlPlane:
        if self._process is not None:
            raise RuntimeError("this control plane is already running")
        with contextlib.ExitStack() as cleanup:
            self._directory = self._requested_directory or pathlib.Path(
                cleanup.enter_context(tempfile.TemporaryDirectory(prefix="certplane-"))
            )
            self._directory.mkdir(parents=True, exist_ok=True)
            self._start(cleanup)
            self._cleanup = cleanup.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._cleanup.close()

    @property
    def data_directory(self) -> pathlib.Path:
        """The directory of the PKI, the kubeconfigs and the store."""
        return self._directory / "data"

    @property
    def kubeconfig(self) -> pathlib.Path:
        """A kubeconfig that may do everything, for `kubectl --kubeconfig` or the variable KUBECONFIG."""
        return self.data_directory / "super-admin.conf"

    @property
    def ca_file(self) -> pathlib.Path:
        """The certificate of the CA, in PEM."""
        return self.data_directory / "pki" / "ca.crt"

    @property
    def url(self) -> str:
        """Where the API is served: https://127.0.0.1:PORT."""
        cluster = goyaml.load(self.kubeconfig.read_bytes())["clusters"][0]["cluster"]
        return str(cluster["server"])

    @property
    def log(self) -> str:
        """What the process has logged so far."""
        return (self._directory / "server.log").read_text("utf-8", "replace")

    def _start(self, cleanup: contextlib.ExitStack) -> None:
        # A short path: a Unix socket's has 108 bytes at most.
        progress = pathlib.Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="cp-"))) / "notify"
        receiver = cleanup.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        receiver.bind(str(progress))
        receiver.settimeout(_POLL_SECONDS)
        command = [sys.executable, "-m", "certplane", "serve", "--data-dir", str(self.data_directory)]
        with (self._directory / "server.log").open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own command, without a shell
                [*command, "--listen", "127.0.0.1:0", *self._arguments],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                env={**os.environ, "NOTIFY_SOCKET": str(progress)},
            )  # fmt: skip
        cleanup.callback(self._stop, self._process)
        self._wait_until_ready(receiver, self._process)

    def _wait_until_ready(self, receiver: socket.socket, process: subprocess.Popen[bytes]) -> None:
        """Raises StartError when the process ends, or the timeout expires."""
        for _ in range(int(self._start_seconds / _POLL_SECONDS) + 1):
            with contextlib.suppress(TimeoutError):
                if receiver.recv(4096).startswith(b"READY=1"):
                    return
            if process.poll() is not None:
                raise StartError(f"certplane serve ended with exit code {process.returncode}:\n{self.log}")
        raise StartError(f"certplane serve was not ready after {self._start_seconds:g} s:\n{self.log}")

    def _stop(self, process: subprocess.Popen[bytes]) -> None:
        self._process = None
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
