"""The quick start of docs/agent.md works as it is written, and the page names what exists."""

from __future__ import annotations

import pathlib
import re
import subprocess

import demo
from certplane.agent import metrics
from certplane.agent.metrics import CertificateMetrics
from certplane.agent.rotation import Phase
from certplane.agent.status import BundleStatus
from tests.e2e import test_tutorial

PAGE = (pathlib.Path(__file__).resolve().parents[2] / "docs" / "agent.md").read_text("utf-8")


def test_the_quick_start(tmp_path):
    """Every block, one after the other, in one directory."""
    blocks = test_tutorial.blocks("docs", "agent.md")
    assert 4 == len(blocks)
    script = "\n".join(blocks).replace("127.0.0.1:6443", f"127.0.0.1:{demo.free_port()}")
    done = test_tutorial.run(script, tmp_path)
    assert 0 == done.returncode, done.stdout
    assert "agent.yaml is valid" in done.stdout
    assert "system:node:web-1" in done.stdout
    requests = re.findall(r"^node-\w+ .* (\S+) +<none> +Approved,Issued$", done.stdout, re.MULTILINE)
    # The second one with the first certificate.
    assert 2 == len(requests), done.stdout
    assert "system:node:web-1" in requests
    assert (tmp_path / "renewed").exists()
    command = ["openssl", "verify", "-CAfile", "plane/pki/ca.crt", "tls/tls.crt"]
    assert b"OK" in subprocess.run(command, cwd=tmp_path, capture_output=True, check=True).stdout


def test_all_metrics_and_states_are_described():
    """And none that does not exist."""
    certificates = [
        CertificateMetrics("a", is_server, not_after=1.0, renewal=1.0, is_served=True) for is_server in (False, True)
    ]
    shown = metrics.render(certificates, [BundleStatus(path="/a")], 0.0)
    table = PAGE.partition("## Metrics")[2]
    assert set(re.findall(r"^# TYPE (\w+)", shown, re.MULTILINE)) == set(re.findall(r"`(\w+_\w+)`", table))
    states = PAGE.partition("## States")[2].partition("## Metrics")[0]
    assert {phase.value for phase in Phase} == set(re.findall(r"^\| `(\w+)`", states, re.MULTILINE))
