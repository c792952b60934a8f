"""`certplane controllers`."""

from __future__ import annotations

import click

from certplane.cli import settings
from certplane.config import controllersettings
from certplane.plane import controllers as process


@click.command(short_help="Run only the controllers, for another API server.")
@settings.with_flags(controllersettings.OPTIONS)
def controllers(config_file: str | None, **flags: object) -> int:
    """Run only the controllers, for the API server of a kubeconfig, or for the cluster of the pod.

    By default these are the controllers that approve, sign and clean up certificate requests. Several replicas elect a
    leader; only the leader is active.
    """
    return process.run(controllersettings.read(flags, settings.read_file(config_file)))
