"""The commands of docs/troubleshooting.md work, and print what the page says."""

from __future__ import annotations

import os
import pathlib
import re
import signal

import demo
from certplane.explain import diagnosis
from tests.e2e import test_tutorial, transcript

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text("utf-8")


def blocks():
    return re.findall(r"^```console\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def test_every_block_prints_what_the_page_says(tmp_path):
    """In order, each command in a shell of its own. The servers that the page starts are stopped at the end."""
    text = "\n".join(blocks())
    assert len(blocks()) >= 10
    for port in ("6443", "6444"):
        text = text.replace(f"127.0.0.1:{port}", f"127.0.0.1:{demo.free_port()}")
    first = re.search(r"127\.0\.0\.1:\d+", text)[0]
    text = text.replace("certplane serve --signers", f"certplane serve --listen {first} --signers")
    # A server goes on when its shell has ended.
    text = re.sub(r"^(. .*> \w+\.log 2>&1) &$", r"\1 & echo $! >> pids", text, flags=re.MULTILINE)
    environment = test_tutorial.environment(tmp_path) | {"KUBECONFIG": str(tmp_path / "certplane-data" / "admin.conf")}
    try:
        problem = transcript.play(text, "", tmp_path, environment)
        assert problem is None, problem
    finally:
        for pid in (tmp_path / "pids").read_text().split() if (tmp_path / "pids").exists() else ():
            os.kill(int(pid), signal.SIGTERM)


def test_all_codes_are_on_the_page():
    """And no others."""
    source = pathlib.Path(diagnosis.__file__).read_text("utf-8")
    codes = set(re.findall(r'(?:Answer\(|return |code = |else )\s*"([A-Z]\w+)"', source))
    listed = set(re.findall(r"`(\w+)`", PAGE[PAGE.index("## All answers") :].partition("| code |")[2]))
    assert codes == listed - {"spec"}
