"""A demonstration with kubectl: `make demo`.

Starts a control plane in a temporary directory, prints each command and its output, and stops the control plane. The
commands can also be typed by hand; `make up` keeps a control plane running for that.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).resolve().parent.parent
CERTPLANE = pathlib.Path(sys.executable).with_name("certplane")
START_SECONDS = 30

JANE_CSR = """\
cat > jane-csr.yaml <<EOF
apiVersion: certificates.k8s.io/v1
kind: CertificateSigningRequest
metadata:
  name: jane-csr
spec:
  signerName: kubernetes.io/kube-apiserver-client
  expirationSeconds: 600
  usages:
  - client auth
  request: $(base64 jane.csr | tr -d '\\n')
EOF"""

STORY = (
    ("Jane creates a key and a certificate request.", None),
    ("openssl genrsa -out jane.key 2048", 0),
    ('openssl req -new -key jane.key -subj "/CN=jane" -out jane.csr', 0),
    ("She writes a CertificateSigningRequest object ...", None),
    (JANE_CSR, 0),
    ("... and submits it.", None),
    ("kubectl apply -f jane-csr.yaml", 0),
    ("kubectl get csr", 0),
    ("An administrator reviews it,", None),
    ("kubectl describe csr jane-csr", 0),
    ("approves it,", None),
    ("kubectl certificate approve jane-csr", 0),
    ("and the signing controller issues the certificate.", None),
    ("kubectl wait --for=jsonpath='{.status.certificate}' --timeout=20s csr/jane-csr", 0),
    ("kubectl get csr jane-csr", 0),
    ("kubectl get csr jane-csr -o yaml", 0),
    ("kubectl get csr jane-csr -o jsonpath='{.status.certificate}' | base64 -d > jane.crt", 0),
    ("openssl x509 -in jane.crt -noout -subject -issuer -dates -ext extendedKeyUsage", 0),
    ("The API server authenticates Jane now, but she has no permissions yet.", None),
    ("kubectl config set-credentials jane --client-certificate=jane.crt --client-key=jane.key --embed-certs", 0),
    ("kubectl config set-context jane --cluster=kubernetes --user=jane", 0),
    ("kubectl --context=jane get csr", 1),
    ("With a role she can list requests, until her certificate expires after ten minutes.", None),
    ("kubectl create clusterrole csr-reader --verb=get,list,watch --resource=certificatesigningrequests", 0),
    ("kubectl create clusterrolebinding jane-reads-csrs --clusterrole=csr-reader --user=jane", 0),
    ("kubectl --context=jane get csr", 0),
    ("She is still not permitted to approve requests.", None),
    ("kubectl --context=jane certificate approve jane-csr --force", 1),
)


def main() -> int:
    kubectl = find_kubectl()
    with tempfile.TemporaryDirectory(prefix="certplane-demo-") as name:
        directory = pathlib.Path(name)
        with running(directory / "data", directory / "server.log"):
            say("A control plane for certificates is running: one process, an embedded store.")
            run_story(directory, kubectl)
    say("End of the demonstration. `make up` keeps a control plane running, to try this by hand.")
    return 0


def run_story(directory: pathlib.Path, kubectl: pathlib.Path) -> None:
    """Run the commands in `directory`. Raises SystemExit at the first unexpected exit code."""
    shutil.copy(directory / "data" / "admin.conf", directory / "kubeconfig")
    environment = {
        **os.environ,
        "KUBECONFIG": str(directory / "kubeconfig"),
        "HOME": str(directory),
        "PATH": f"{kubectl.parent}{os.pathsep}{os.environ['PATH']}",
    }
    for line, expected in STORY:
        if expected is None:
            say(line)
            continue
        print(f"\n$ {line}", flush=True)
        answer = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", line],
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
        print(answer.stdout, end="", flush=True)
        if answer.returncode != expected:
            log = (directory / "server.log").read_text(errors="replace")[-4000:]
            raise SystemExit(f"error: exit code {answer.returncode}, expected {expected}\n{log}")


def say(text: str) -> None:
    print(f"\n# {text}", flush=True)


def find_kubectl() -> pathlib.Path:
    """The newest kubectl that `make setup` unpacked, else the one on PATH."""
    unpacked = sorted((ROOT / ".cache" / "kubectl").glob("*/bin/kubectl"), key=_version, reverse=True)
    if unpacked:
        return unpacked[0]
    path = shutil.which("kubectl")
    if path is None:
        raise SystemExit("error: kubectl not found\nhint: run `make demo`, which downloads it")
    return pathlib.Path(path)


def _version(path: pathlib.Path) -> tuple[int, ...]:
    return tuple(int(part) for part in path.parent.parent.name.split(".") if part.isdigit())


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def running(data: pathlib.Path, log: pathlib.Path, *arguments: str, port: int = 0) -> Iterator[int]:
    """A control plane, from ready to stopped. Yields its port; without `port`, a free one is used."""
    port = port or free_port()
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [str(CERTPLANE), "serve", "--data-dir", str(data), "--listen", f"127.0.0.1:{port}", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
        )
        try:
            wait_until_ready(process, data, port, log)
            yield port
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=15)


def wait_until_ready(process: subprocess.Popen[bytes], data: pathlib.Path, port: int, log: pathlib.Path) -> None:
    """Return when the server is ready. Raises SystemExit with its log if it does not become ready."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError, urllib.error.URLError):
            tls = ssl.create_default_context(cafile=str(data / "pki" / "ca.crt"))
            # The CA may be an intermediate whose root is not in the file.
            tls.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
            with urllib.request.urlopen(f"https://127.0.0.1:{port}/readyz", context=tls, timeout=2) as response:
                if response.status == 200:
                    return
        time.sleep(0.1)
    raise SystemExit("error: the control plane did not start\n" + log.read_text(errors="replace"))


if __name__ == "__main__":
    sys.exit(main())
