"""`certplane serve`."""

from __future__ import annotations

from typing import Any

import click

from certplane import alone
from certplane.cli import settings
from certplane.config import serve as known


@click.command(short_help="Serve the API: a control plane in one process.")
@settings.with_flags(known.OPTIONS)
def serve(config_file: str | None, **flags: Any) -> None:
    """Serve the API: a control plane in one process, with an embedded store.

    The first start makes what is missing in the data directory: a CA, a serving certificate, and the kubeconfigs
    admin.conf and super-admin.conf.
    """
    alone.run(known.settings(flags, settings.read_file(config_file)))
