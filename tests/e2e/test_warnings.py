"""The warnings that real kubectl prints."""

from __future__ import annotations

import os
import subprocess

import pytest

import demo
from tests.e2e import test_kubectl

RULE = (
    "Warning: a ClusterRole with this rule would permit it: - {apiGroups: ['certificates.k8s.io'], "
    "resources: [signers], resourceNames: ['kubernetes.io/kube-apiserver-client'], verbs: [approve]}"
)
KEPT = (
    "Warning: the spec of rerun is immutable; ignored changes to request; the certificate will not match the new key; "
    "to submit a new request, run kubectl delete csr rerun first or use another name"
)
WILL_NOT = (
    "Warning: signer kubernetes.io/kube-apiserver-client will not sign this request: invalid usage for client "
    "certificate: server auth; no signer of this server accepts it; define one with certplane serve --signers"
)


@pytest.mark.parametrize("version", sorted(test_kubectl.KUBECTLS))
def test_kubectl_prints_warnings_and_hints(version, tmp_path):
    """A changed request under an existing name, a request that will fail, its approval, and a missing permission."""
    data = tmp_path / "data"
    (tmp_path / "request.sh").write_text(test_kubectl.SIGN_REQUEST)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "kubectl").symlink_to(test_kubectl.KUBECTLS[version])
    environment = {
        **os.environ,
        "HOME": str(tmp_path),
        "KUBECONFIG": str(data / "admin.conf"),
        "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "BASH_ENV": str(tmp_path / "request.sh"),
    }

    def run(line):
        answer = subprocess.run(
            ["bash", "-c", line], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        return answer.returncode, answer.stdout.strip(), answer.stderr.splitlines()

    client = 'kubernetes.io/kube-apiserver-client "client auth"'
    both = client.replace("client auth", "client auth, server auth")
    with demo.running(data, tmp_path / "log"):
        assert run(f"request rerun /CN=rerun {client} | kubectl apply -f -")[0] == 0
        code, output, warnings = run(f"request rerun /CN=rerun {client} | kubectl apply -f -")
        assert (code, output) == (0, "certificatesigningrequest.certificates.k8s.io/rerun configured")
        assert warnings == [KEPT]
        assert run(f"request vault /CN=vault {both} | kubectl create -f -")[2] == [WILL_NOT]
        assert run("kubectl certificate approve vault")[2] == [WILL_NOT]
        roles = "certificatesigningrequests,certificatesigningrequests/approval"
        assert run(f"kubectl create clusterrole r --verb=get,list,update --resource={roles}")[0] == 0
        assert run("kubectl create clusterrolebinding r --clusterrole=r --user=carl")[0] == 0
        code, _, warnings = run("kubectl --as=carl certificate approve rerun")
        assert code == 1
        assert [line for line in warnings if line.startswith("Warning")] == [RULE]
