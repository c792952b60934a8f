"""Keep a control plane running, and print the commands to use it: `make up`."""

from __future__ import annotations

import pathlib
import re
import signal
import socket
import sys
import tempfile
from typing import Any, NoReturn

import demo


def main() -> int:
    # These signals stop the control plane first, also while it starts.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    data = pathlib.Path("certplane-data").resolve()
    try:
        with (
            tempfile.TemporaryDirectory() as logs,
            demo.running(data, pathlib.Path(logs) / "server.log", port=previous_port(data)) as port,
        ):
            print(f"certplane serves the Certificates API on https://127.0.0.1:{port}")
            print("Paste this into another terminal:\n")
            print(f"  export KUBECONFIG={data / 'admin.conf'}")
            print(f"  export PATH={demo.find_kubectl().parent}:$PATH")
            print("  kubectl get csr\n")
            print("Ctrl-C stops it; the data is kept in", data, flush=True)
            signal.pause()
    except KeyboardInterrupt:
        pass
    return 0


def previous_port(data: pathlib.Path) -> int:
    """The port of the previous run, which copies of the kubeconfig may have; 0 if it is in use, or there was none."""
    path = data / "admin.conf"
    text = path.read_text() if path.exists() else ""
    match = re.search(r"^    server: https://127\.0\.0\.1:(\d+)$", text, re.MULTILINE)
    if match is None:
        return 0
    with socket.socket() as probe:
        # As the server does: closed connections in TIME_WAIT do not block the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", int(match[1])))
        except (OSError, OverflowError):
            return 0
    return int(match[1])


def _interrupt(*_: Any) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
