"""The server under test: a separate process, and its resource usage."""

from __future__ import annotations

import base64
import contextlib
import os
import pathlib
import ssl
import time
from collections.abc import Iterator

import yaml

import demo

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Server:
    """A running control plane. CPU and memory are read from /proc."""

    def __init__(self, data: pathlib.Path, port: int, pid: int) -> None:
        self.data = data
        self.port = port
        self.pid = pid
        self.identity = data.parent / "client.pem"
        user = yaml.safe_load((data / "super-admin.conf").read_text())["users"][0]["user"]
        parts = (user["client-certificate-data"], user["client-key-data"])
        self.identity.write_bytes(b"".join(base64.b64decode(part) for part in parts))
        self.identity.chmod(0o600)

    def cpu(self) -> float:
        """CPU seconds so far: user and system, all threads."""
        fields = pathlib.Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def memory(self) -> float:
        """Resident memory, in MiB."""
        return int(pathlib.Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * _PAGE / 2**20

    def address(self) -> tuple[int, str, str]:
        """What a load generator needs: port, CA file, client certificate."""
        return self.port, str(self.data / "pki" / "ca.crt"), str(self.identity)


@contextlib.contextmanager
def running(directory: pathlib.Path, *arguments: str) -> Iterator[Server]:
    """A server on a data directory, from ready to stopped."""
    data = directory / "data"
    directory.mkdir(exist_ok=True)
    with demo.running(data, directory / "server.log", *arguments) as port:
        children = pathlib.Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        yield Server(data, port, _listener(children, data))


def _listener(children: list[str], data: pathlib.Path) -> int:
    for child in children:
        words = pathlib.Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
        if b"serve" in words and str(data).encode() in words:
            return int(child)
    raise SystemExit("error: the server's process was not found")


def start_seconds(directory: pathlib.Path) -> float:
    """The seconds from the start of the process until it is ready, with an existing PKI."""
    begun = time.perf_counter()
    with demo.running(directory / "data", directory / "server.log"):
        return time.perf_counter() - begun


def context(ca: str, identity: str) -> ssl.SSLContext:
    """TLS settings of a client."""
    ssl_context = ssl.create_default_context(cafile=ca)
    ssl_context.load_cert_chain(identity)
    return ssl_context
