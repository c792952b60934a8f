"""The commands in the README and the tutorial work."""

from __future__ import annotations

import contextlib
import os
import pathlib
import pty
import re
import select
import socket
import subprocess

import pytest

import demo

ROOT = pathlib.Path(__file__).resolve().parents[2]


def blocks(*path):
    """The bash blocks of a page."""
    text = ROOT.joinpath(*path).read_text("utf-8")
    return re.findall(r"^```bash\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)


def environment(home):
    """The environment of a user with certplane and kubectl on the PATH."""
    path = os.pathsep.join([str(demo.CERTPLANE.parent), str(demo.find_kubectl().parent), os.environ["PATH"]])
    left = {name: value for name, value in os.environ.items() if name != "KUBECONFIG"}
    return {**left, "HOME": str(home), "PATH": path, "PS1": "$ ", "TERM": "dumb"}


def run(script, directory):
    """Run a script in a shell that stops at the first failure, with everything that it started."""
    return subprocess.run(
        ["bash", "-c", f"trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\nset -euo pipefail\nset -m\n{script}"],
        cwd=directory,
        env=environment(directory),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # One chapter waits until a certificate of two minutes is renewed.
        timeout=400,
        check=False,
    )


def paste(text, directory):
    """Paste a text at the prompt of an interactive shell, all of it at once, whatever becomes of each line; what is
    then on the screen.
    """
    master, slave = pty.openpty()
    shell = subprocess.Popen(
        ["bash", "--norc", "--noprofile", "-i"],
        cwd=directory, env=environment(directory), stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
    )  # fmt: skip
    os.close(slave)
    left, screen = text.encode(), b""
    # The terminal accepts as much as its buffer holds, and the rest when the shell has read some of it.
    os.set_blocking(master, False)
    with contextlib.suppress(OSError):  # Reading from a terminal that nobody uses any more.
        while True:
            readable, writable, _ = select.select([master], [master] if left else [], [], 120)
            assert readable or writable, screen[-3000:]
            if writable:
                with contextlib.suppress(BlockingIOError):
                    left = left[os.write(master, left[:256]) :]
            if readable:
                screen += os.read(master, 1 << 16)
    os.close(master)
    shell.wait(timeout=60)
    return screen.decode("utf-8", "replace").replace("\r", "")


def quick_start(port):
    """The second block of the README; the first one installs."""
    install, story = blocks("README.md")
    assert "pip install dist/certplane-*.whl" in install
    return story.replace("certplane serve", f"certplane serve --listen 127.0.0.1:{port}")


def is_janes(directory):
    answer = subprocess.run(
        ["openssl", "verify", "-CAfile", "certplane-data/pki/ca.crt", "jane.crt"],
        cwd=directory, capture_output=True, check=False,
    )  # fmt: skip
    return answer.returncode == 0


def test_the_quick_start_works_as_a_script(tmp_path):
    """In a shell that stops at the first failure, without pauses."""
    answer = run(quick_start(demo.free_port()), tmp_path)
    assert answer.returncode == 0, answer.stdout[-3000:]
    assert is_janes(tmp_path)


def test_the_quick_start_works_pasted_at_a_prompt(tmp_path):
    """No command reads the following lines as its input, and none runs too early."""
    screen = paste(quick_start(demo.free_port()) + "kill %1; wait; exit\n", tmp_path)
    assert is_janes(tmp_path), screen[-3000:]
    assert not re.search(r"^(error|Error|Unable|bash)\b", screen, re.MULTILINE), screen[-3000:]


@pytest.mark.parametrize(("page", "log"), [("README.md", "certplane.log"), ("docs/tutorial.md", "plane.log")])
def test_a_script_stops_if_the_port_is_in_use(page, log, tmp_path):
    """No later command reaches the process that has the port; the log has the reason."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        script = quick_start(port) if page == "README.md" else "\n".join(blocks(page))
        answer = run(script.replace("127.0.0.1:6443", f"127.0.0.1:{port}"), tmp_path)
    assert answer.returncode == 2
    assert "error: the server's process ended before it was ready" in answer.stdout
    assert "cannot listen on" in (tmp_path / log).read_text("utf-8")
    assert not (tmp_path / "jane.key").exists()


def test_pasted_commands_stop_if_the_port_is_in_use(tmp_path):
    """The reason stays on the screen, and no later command runs."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        screen = paste(quick_start(taken.getsockname()[1]) + "exit\n", tmp_path)
    assert "error: the server's process ended before it was ready" in screen
    assert not (tmp_path / "jane.key").exists()
    assert "localhost:8080" not in screen


def test_the_commands_of_the_tutorial_work(tmp_path):
    """All blocks succeed in one shell, in order."""
    pasted = blocks("docs", "tutorial.md")
    assert len(pasted) > 5
    script = "\n".join(pasted).replace("127.0.0.1:6443", f"127.0.0.1:{demo.free_port()}")
    answer = run(script.replace("127.0.0.1:8443", f"127.0.0.1:{demo.free_port()}"), tmp_path)
    assert answer.returncode == 0, answer.stdout[-3000:]
    assert "Approved,Issued" in answer.stdout
    assert "system:masters group is not allowed" in answer.stdout
    assert "system:bootstrap:" in answer.stdout
    assert "WHEN" in answer.stdout
    assert "tom.conf: tom at https://127.0.0.1:" in answer.stdout
    assert "shop.crt: valid until" in answer.stdout
    assert "Verify return code: 0 (ok)" in answer.stdout
    # The shell stops at the first request that fails, so the agent renewed in time.
    assert "system:node:n2" in answer.stdout
    assert 2 == len(list((tmp_path / "state").glob("node-2*.pem")))
    assert "error: the signer example.com/web refuses other" in answer.stdout
