"""Keep a control plane running and print the lines to paste: `make up`."""

from __future__ import annotations

import pathlib
import signal
import sys
import tempfile

import demo


def main() -> int:
    data = pathlib.Path("certplane-data").resolve()
    with tempfile.TemporaryDirectory() as logs, demo.running(data, pathlib.Path(logs) / "server.log") as port:
        print(f"certplane serves the Certificates API on https://127.0.0.1:{port}")
        print("Paste this into another terminal:\n")
        print(f"  export KUBECONFIG={data / 'admin.conf'}")
        print(f"  export PATH={demo.find_kubectl().parent}:$PATH")
        print("  kubectl get csr\n")
        print("Ctrl-C stops it; what you did is kept in", data, flush=True)
        signal.sigwait({signal.SIGINT, signal.SIGTERM})
    return 0


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    sys.exit(main())
