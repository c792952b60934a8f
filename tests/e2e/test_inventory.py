"""`certplane inventory` and `kubectl get issuedcertificates`, beside a real control plane."""

from __future__ import annotations

import csv
import json
import os
import subprocess

import pytest

import demo


@pytest.fixture
def run(tmp_path):
    """Runs a line of bash beside a control plane that has issued certificates to jane, and to a user with the name of a
    formula: exit code, standard output, standard error.
    """
    data = tmp_path / "data"
    path = os.pathsep.join([str(demo.CERTPLANE.parent), str(demo.find_kubectl().parent), os.environ["PATH"]])
    environment = {**os.environ, "HOME": str(tmp_path), "KUBECONFIG": str(data / "admin.conf"), "PATH": path}

    def run(line):
        answer = subprocess.run(
            ["bash", "-c", line], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert "Traceback" not in answer.stderr
        return answer.returncode, answer.stdout, answer.stderr

    with demo.running(data, tmp_path / "log"):
        for number, name in enumerate(("jane", "=1+1")):
            code, _, err = run(f"certplane kubeconfig create {name} --approve -o user-{number}.conf")
            assert code == 0, err
        yield run


def test_the_inventory_of_a_server(run):
    """Deleted requests are still there, for kubectl and for the command, in each format."""
    assert run("kubectl delete csr --all")[0] == 0
    code, table, _ = run("kubectl get issued --field-selector commonName=jane --no-headers")
    assert (code, len(table.splitlines())) == (0, 1)
    name = table.split()[0]
    assert run("certplane inventory list --common-name jane")[1].splitlines()[1].split()[:2] == [name, "jane"]
    assert run("certplane inventory list --ends-before 2h") == (0, "", "no certificates found\n")
    assert len(run("certplane inventory list -o wide --ends-before 30d")[1].splitlines()) == 3
    assert run("certplane inventory list -o name --common-name jane")[1] == f"{name}\n"
    listing = json.loads(run("certplane inventory list -o json")[1])
    assert (listing["kind"], len(listing["items"])) == ("IssuedCertificateList", 2)
    assert run("certplane inventory list -o yaml")[1].startswith("apiVersion: inventory.certplane.io/v1alpha1\n")

    one = json.loads(run(f"certplane inventory show {name} -o json")[1])
    assert one["approval"]["method"] == "Person"
    for key in (one["certificate"]["serialNumber"].upper(), one["certificate"]["fingerprint"]):
        assert run(f"certplane inventory show {key} -o pem")[1] == one["certificate"]["pem"]

    exported = [json.loads(line) for line in run("certplane inventory export")[1].splitlines()]
    assert sorted(item["certificate"]["commonName"] for item in exported) == ["=1+1", "jane"]
    rows = list(csv.DictReader(run("certplane inventory export -o csv")[1].splitlines()))
    assert {row["fingerprint"] for row in rows} == {item["certificate"]["fingerprint"] for item in exported}
    assert not any(cell.startswith("=") for row in rows for cell in row.values())
    assert run("certplane inventory export -o pem")[1].count("BEGIN CERTIFICATE") == 2


def test_mistakes(run):
    """An error, what to do, and the exit code."""
    code, _, err = run("certplane inventory show nobody")
    assert (code, err.splitlines()[0]) == (2, "error: no issued certificate has the name nobody")
    code, _, err = run("certplane inventory list --ends-before tomorrow")
    assert (code, "such as 30d" in err, "hint: " in err) == (2, True, True)
    code, _, err = run("certplane inventory list --kubeconfig user-0.conf")
    assert (code, "inventory.certplane.io" in err) == (2, True)
    assert "hint: a ClusterRole allows it with the rule" in err
