"""`certplane explain` and the kubectl plugin, with real processes and real kubectl."""

from __future__ import annotations

import json
import os
import re
import subprocess

import pytest

import demo
from tests.e2e import test_kubectl


@pytest.fixture
def run(tmp_path):
    """Runs a line of bash beside a control plane with hints: exit code, standard output, standard error."""
    data = tmp_path / "data"
    (tmp_path / "request.sh").write_text(test_kubectl.SIGN_REQUEST)
    path = os.pathsep.join([str(demo.CERTPLANE.parent), str(demo.find_kubectl().parent), os.environ["PATH"]])
    environment = {
        **os.environ,
        "HOME": str(tmp_path),
        "KUBECONFIG": str(data / "admin.conf"),
        "PATH": path,
        "BASH_ENV": str(tmp_path / "request.sh"),
    }

    def run(line):
        answer = subprocess.run(
            ["bash", "-c", line], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert "Traceback" not in answer.stderr
        return answer.returncode, answer.stdout, answer.stderr

    with demo.running(data, tmp_path / "log"):
        yield run


REQUEST = 'request {} /CN={} kubernetes.io/kube-apiserver-client "client auth" | kubectl apply -f -'


def test_the_kubectl_plugin_passes_everything_through(run):
    """`kubectl certplane` is `certplane`: output, errors, exit codes."""
    assert run(REQUEST.format("jane", "jane"))[0] == 0
    assert "kubectl-certplane" in run("kubectl plugin list")[1]
    code, out, _ = run("kubectl certplane explain csr jane")
    assert (code, out.splitlines()[0]) == (0, "csr/jane is Pending: nobody has approved it")
    assert out.splitlines()[:9] == run("certplane explain csr jane")[1].splitlines()[:9]
    assert run("kubectl certplane version") == run("certplane version")
    assert run("kubectl certplane csr fetch jane")[0] == 6
    usage = "Usage: kubectl certplane explain csr [OPTIONS] NAME"
    assert run("kubectl certplane explain csr --help")[1].startswith(usage)
    assert run("kubectl certplane no-such")[0] == 2


def test_a_key_that_kubectl_applied_again_is_not_the_one_of_the_request(run):
    """A script that runs again makes a new key; the request stays."""
    assert run(REQUEST.format("rerun", "rerun"))[0] == 0
    assert run("certplane explain csr rerun")[1].startswith("csr/rerun is Pending: nobody has approved it")
    assert run(REQUEST.format("rerun", "rerun"))[0] == 0
    code, out, _ = run("certplane explain csr rerun -o json")
    document = json.loads(out)
    assert (code, document["apiVersion"], document["kind"]) == (0, "explain.certplane.io/v1alpha1", "Explanation")
    assert document["answer"]["code"] == "OtherKey"
    assert document["answer"]["message"] == "unchanged request; the new key is not the one asked for"
    assert document["unread"] == []


def test_errors_have_hints(run):
    """A request that does not exist, and a server that does not respond."""
    code, _, err = run("certplane explain csr no-such")
    assert (code, "hint: list the requests with kubectl get csr" in err) == (2, True)
    code, _, err = run("certplane explain csr jane --kubeconfig /dev/null")
    assert (code, err.startswith("error: "), "hint: " in err) == (2, True, True)


def test_an_explanation_costs_little(run):
    """The libraries of the server are not imported: they would cost more than the explanation."""
    code, out, _ = run("python -X importtime -c 'import certplane.cli.explain' 2>&1")
    assert code == 0
    imported = set(re.findall(r"\| +([\w.]+)$", out, re.MULTILINE))
    assert imported.isdisjoint({"aiohttp", "uvloop", "OpenSSL", "prometheus_client", "jwt", "sqlite3"})
