"""Reads the configuration of a kubeadm cluster from its API server, as `kubeadm certs` does.

A module of its own because it imports the client, which takes longer than everything else in `certs`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import stat
from typing import Final

import certplane
from certplane import clock, errors, files
from certplane.client import api, credentials, kubeconfig
from certplane.client.lighttransport import LightTransport
from certplane.clock import SystemClock
from certplane.errors import SetupError
from certplane.kubeadm import clusterconfig
from certplane.kubeadm.clusterconfig import ClusterConfig
from certplane.resources import configmaps

#: The API server may be what is broken: its certificate may have expired.
_SECONDS: Final = 10.0
_NAMESPACE: Final = "kube-system"
_NAME: Final = "kubeadm-config"
_KEY: Final = "ClusterConfiguration"


def fetch(path: pathlib.Path) -> ClusterConfig:
    """The ClusterConfiguration in the ConfigMap kube-system/kubeadm-config, with a kubeconfig. Raises SetupError, also
    if there is no answer within ten seconds.
    """
    _check_owner(path)
    config = kubeconfig.load(path)
    if isinstance(config.source, credentials.ExecCredentials) and os.geteuid() == 0:
        # A program that a file names is not run with the permissions of root only to read a setting.
        raise SetupError(f"{path} has an exec plugin, which is not run as root", ("pass the settings with --config",))

    async def run() -> configmaps.ConfigMap:
        transport = LightTransport(config, f"certplane/{certplane.__version__}", SystemClock())
        async with contextlib.aclosing(transport):
            client = api.Client(transport)
            return await clock.wait_for(SystemClock(), client.get(configmaps.RESOURCE, _NAME, _NAMESPACE), _SECONDS)

    try:
        settings = asyncio.run(run())
    except TimeoutError as error:
        raise SetupError(f"no answer from {config.host} within {_SECONDS:.0f}s", ("check the API server",)) from error
    except errors.CertplaneError as error:
        # Including a response that is no ConfigMap.
        raise SetupError(str(error), ("check the API server, or pass the settings with --config",)) from error
    return clusterconfig.parse(settings.data.get(_KEY, "").encode("utf-8"), f"ConfigMap {_NAMESPACE}/{_NAME}")


def _check_owner(path: pathlib.Path) -> None:
    """Raises SetupError if another user wrote the file, or can: it says where requests and credentials are sent."""
    with files.as_setup_error(f"the kubeconfig {path} cannot be used", "set --kubeconfig to another file"):
        status = os.stat(path)
    if status.st_uid not in (0, os.geteuid()) or stat.S_IMODE(status.st_mode) & 0o022:
        raise SetupError(f"other users can change the kubeconfig {path}", (f"chmod go-w {path}",))
