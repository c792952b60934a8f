"""What real kubectl prints beside the answers: the warnings that tell people what to do."""

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
    "Warning: the spec of rerun cannot be changed and is kept (request); its certificate is not for the new key: "
    "to ask anew, delete it first (kubectl delete csr rerun) or choose another name"
)
WILL_NOT = (
    "Warning: kubernetes.io/kube-apiserver-client will not sign this: invalid usage for client certificate: "
    "server auth; no signer here would: certplane serve --signers declares one of your own"
)


@pytest.mark.parametrize("version", sorted(test_kubectl.KUBECTLS))
def test_people_read_what_to_do(version, tmp_path):
    """At another request under an old name, at a request that will fail and its approval, and without a right."""
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
        code, said, told = run(f"request rerun /CN=rerun {client} | kubectl apply -f -")
        assert (code, said) == (0, "certificatesigningrequest.certificates.k8s.io/rerun configured")
        assert told == [KEPT]
        assert run(f"request vault /CN=vault {both} | kubectl create -f -")[2] == [WILL_NOT]
        assert run("kubectl certificate approve vault")[2] == [WILL_NOT]
        roles = "certificatesigningrequests,certificatesigningrequests/approval"
        assert run(f"kubectl create clusterrole r --verb=get,list,update --resource={roles}")[0] == 0
        assert run("kubectl create clusterrolebinding r --clusterrole=r --user=carl")[0] == 0
        code, _, told = run("kubectl --as=carl certificate approve rerun")
        assert code == 1
        assert [each for each in told if each.startswith("Warning")] == [RULE]
