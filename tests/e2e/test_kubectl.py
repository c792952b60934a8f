"""Real kubectl, in several versions and from the PATH, against a real server: transcripts."""

from __future__ import annotations

import os
import pathlib
import re
import shutil
import subprocess

import pytest

from tests.e2e import transcript

HERE = pathlib.Path(__file__).resolve().parent
UNPACKED = HERE.parents[1] / ".cache" / "kubectl"
TRANSCRIPTS = sorted((HERE / "transcripts").glob("*.txt"))

SIGN_REQUEST = """\
request() { # NAME SUBJECT SIGNER USAGES: a CertificateSigningRequest, with a new key in NAME.key
    openssl ecparam -name prime256v1 -genkey -noout -out "$1.key"
    openssl req -new -key "$1.key" -subj "$2" -out "$1.csr"
    cat <<EOF
apiVersion: certificates.k8s.io/v1
kind: CertificateSigningRequest
metadata:
  name: $1
spec:
  signerName: $3
  expirationSeconds: 600
  usages: [$4]
  request: $(base64 -w0 "$1.csr")
EOF
}
"""


def _installed_kubectls():
    """The kubectls to try, by version."""
    commands = {path.parents[1].name: path for path in UNPACKED.glob("*/bin/kubectl")}
    installed = shutil.which("kubectl")
    if installed:
        output = subprocess.run([installed, "version", "--client"], capture_output=True, text=True, check=False).stdout
        version = re.search(r"v(\d+\.\d+)\.", output)
        commands.setdefault(version[1] if version else "unknown", pathlib.Path(installed))
    return commands


KUBECTLS = _installed_kubectls()


def test_the_required_kubectl_versions_are_installed():
    """CERTPLANE_KUBECTLS lists them; by default they are the versions that `make test` downloads."""
    assert not set(os.environ.get("CERTPLANE_KUBECTLS", "1.36 1.37").split()) - set(KUBECTLS)


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
@pytest.mark.parametrize(
    "version",
    [pytest.param(version, marks=pytest.mark.xdist_group(f"kubectl {version}")) for version in sorted(KUBECTLS)],
)
def test_kubectl_prints_the_same_as_with_kubernetes(version, path, own_server, tmp_path):
    """The output of each command has the lines of the transcript."""
    shutil.copy(own_server.data / "admin.conf", tmp_path / "kubeconfig")
    (tmp_path / "request.sh").write_text(SIGN_REQUEST)
    bin_directory = tmp_path / "bin"
    bin_directory.mkdir()
    (bin_directory / "kubectl").symlink_to(KUBECTLS[version])
    environment = {
        **os.environ,
        "HOME": str(tmp_path),
        "KUBECONFIG": f"{tmp_path / 'kubeconfig'}{os.pathsep}{tmp_path / 'jane.conf'}",
        "PATH": f"{bin_directory}{os.pathsep}{os.environ['PATH']}",
        "BASH_ENV": str(tmp_path / "request.sh"),
    }
    problem = transcript.play(path.read_text("utf-8"), version, tmp_path, environment)
    assert problem is None, problem
