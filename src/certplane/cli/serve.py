"""`certplane serve`."""

from __future__ import annotations

import click

from certplane.cli import settings
from certplane.config import servesettings
from certplane.plane import serve as process


@click.command(short_help="Serve the API: a control plane in one process.")
@settings.with_flags(servesettings.OPTIONS)
def serve(config_file: str | None, **flags: object) -> None:
    """Serve the API: a control plane in one process, with an embedded store.

    The first start creates what is missing in the data directory: a CA, a serving certificate, and the kubeconfigs
    admin.conf and super-admin.conf.
    """
    process.run(servesettings.read(flags, settings.read_file(config_file)))
