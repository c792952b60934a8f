"""The tutorial does what it says."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess

import demo

ROOT = pathlib.Path(__file__).resolve().parents[2]


def test_the_blocks_of_the_tutorial_work(tmp_path):
    """Pasted one after the other into one shell, all blocks succeed."""
    text = (ROOT / "docs" / "tutorial.md").read_text("utf-8")
    blocks = re.findall(r"^```bash\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)
    assert len(blocks) > 5
    script = "set -euo pipefail\nset -m\n" + "\n".join(blocks)
    script = script.replace("127.0.0.1:6443", f"127.0.0.1:{demo.free_port()}")
    kubectl = demo.find_kubectl()
    path = os.pathsep.join([str(demo.CERTPLANE.parent), str(kubectl.parent), os.environ["PATH"]])
    answer = subprocess.run(
        ["bash", "-c", f"trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n{script}"],
        cwd=tmp_path,
        env={**os.environ, "HOME": str(tmp_path), "PATH": path},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    assert answer.returncode == 0, answer.stdout[-3000:]
    assert "Approved,Issued" in answer.stdout
    assert "system:masters group is not allowed" in answer.stdout
    assert "system:bootstrap:" in answer.stdout
    assert "WHEN" in answer.stdout
