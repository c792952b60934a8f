"""`certplane watch` as a process: --once for cron, metrics, and SIGTERM."""

from __future__ import annotations

import signal
import subprocess
import sys
import urllib.error
import urllib.request

import demo
from certplane.clock import SystemClock
from tests.unit.agent import pairs
from tests.unit.expiry import material

PROGRAM = (sys.executable, "-m", "certplane", "watch")


def test_once(tmp_path):
    """A table, and exit code 4."""
    (tmp_path / "web.pem").write_bytes(material.CA.issue(material.KEY, SystemClock().now(), 10 * pairs.DAY, "web"))
    command = [*PROGRAM, "--once", "--directory", tmp_path, "--within", "30d"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (4, "") == (result.returncode, result.stderr)
    assert "ends within 30d" in result.stdout


def test_metrics_until_sigterm(tmp_path):
    """The log says where they are; SIGTERM ends it with exit code 0."""
    (tmp_path / "web.pem").write_bytes(material.CA.issue(material.KEY, SystemClock().now(), 10 * pairs.DAY, "web"))
    port = demo.free_port()
    command = [*PROGRAM, "--directory", tmp_path, "--metrics-address", f"127.0.0.1:{port}"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert "watching" in process.stderr.readline()
            text = ""
            while process.poll() is None and 'subject_CN="web"' not in text:
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
                        text = response.read().decode()
                except urllib.error.URLError:
                    continue
            assert 'x509_source_up{source="directory",source_kind="directory"} 1\n' in text
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)
    assert 0 == process.returncode
