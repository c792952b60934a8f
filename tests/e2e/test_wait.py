"""Waiting until a server is ready: `serve --ready-file`, `wait`, and a service manager."""

from __future__ import annotations

import contextlib
import signal
import socket
import ssl
import subprocess
import urllib.request

import pytest

import demo


@contextlib.contextmanager
def starting(tmp_path, port, *arguments, **environment):
    """A server that was just started."""
    with (tmp_path / "log").open("ab") as log:
        process = subprocess.Popen(
            [demo.CERTPLANE, "serve", "--data-dir", tmp_path / "data", "--listen", f"127.0.0.1:{port}", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment or None,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait(tmp_path, *arguments):
    """`certplane wait`, run to its end."""
    return subprocess.run(
        [demo.CERTPLANE, "wait", "--data-dir", tmp_path / "data", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def readyz(tmp_path, url):
    """The response of /readyz."""
    tls = ssl.create_default_context(cafile=str(tmp_path / "data" / "pki" / "ca.crt"))
    with urllib.request.urlopen(f"{url}/readyz", context=tls, timeout=10) as answer:
        return answer.read()


def test_waiting_ends_when_the_server_is_ready(tmp_path):
    """It may start before the data directory exists, or when the server is ready."""
    port = demo.free_port()
    with starting(tmp_path, port) as process:
        for arguments in (["--pid", process.pid], ["--timeout", "30s"]):
            done = wait(tmp_path, *arguments)
            assert (done.returncode, done.stdout) == (0, f"https://127.0.0.1:{port}\n")
            assert readyz(tmp_path, done.stdout.strip()) == b"ok"


@pytest.mark.parametrize("another_serves", [False, True], ids=["silent", "another certplane"])
def test_waiting_ends_when_the_port_is_taken(another_serves, tmp_path):
    """The process has ended, so the wait ends at once. Another process on the port is not taken for the server."""
    with contextlib.ExitStack() as stack:
        if another_serves:
            (tmp_path / "other").mkdir()
            port = stack.enter_context(demo.running(tmp_path / "other" / "data", tmp_path / "other" / "log"))
        else:
            taken = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            port = taken.getsockname()[1]
        process = stack.enter_context(starting(tmp_path, port))
        done = wait(tmp_path, "--pid", process.pid)
        assert (done.returncode, done.stdout) == (2, "")
        lines = done.stderr.splitlines()
        assert lines[0].startswith("error: the server's process ended before it was ready: ")
        assert lines[1:] == [
            "hint: the output of certplane serve has the reason",
            "hint: if another process is using the port, choose another one with certplane serve --listen HOST:PORT",
        ]
        assert "cannot listen on" in (tmp_path / "log").read_text()


def test_waiting_has_a_timeout(tmp_path):
    """The error has the reason."""
    done = wait(tmp_path, "--timeout", "0s")
    assert done.returncode == 2
    assert "not ready after 0s" in done.stderr
    assert "admin.conf" in done.stderr


def test_the_ready_file_exists_while_requests_are_answered(tmp_path):
    """It contains the address. The next start removes the file of a killed server before it is ready."""
    ready = tmp_path / "ready"
    port = demo.free_port()
    with starting(tmp_path, port, "--ready-file", ready) as process:
        while not ready.exists():
            assert process.poll() is None
        assert ready.read_text() == f"https://127.0.0.1:{port}\n"
        assert readyz(tmp_path, ready.read_text().strip()) == b"ok"
        process.kill()
        process.wait()
        assert ready.exists()
    with starting(tmp_path, port, "--ready-file", ready) as process:
        assert wait(tmp_path, "--pid", process.pid).returncode == 0
        assert ready.read_text() == f"https://127.0.0.1:{port}\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0
        assert not ready.exists()


def test_a_service_manager_is_notified(tmp_path):
    """READY=1 is sent when requests are answered, STOPPING=1 when they are no longer accepted."""
    port = demo.free_port()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(60)
        with starting(tmp_path, port, NOTIFY_SOCKET=str(tmp_path / "notify")) as process:
            assert manager.recv(4096).decode().splitlines() == ["READY=1", f"STATUS=serving https://127.0.0.1:{port}"]
            assert readyz(tmp_path, f"https://127.0.0.1:{port}") == b"ok"
            process.send_signal(signal.SIGTERM)
            assert manager.recv(4096) == b"STOPPING=1"
            assert process.wait(timeout=20) == 0
