"""`certplane controllers`."""

from __future__ import annotations

from typing import Any

import click

from certplane import inside
from certplane.cli import settings
from certplane.config import controllers as known


@click.command(short_help="Run the controllers alone, against an API server elsewhere.")
@settings.with_flags(known.OPTIONS)
def controllers(config_file: str | None, **flags: Any) -> int:
    """Run the controllers alone, against the API server that a kubeconfig names, or around a pod.

    By default those that approve, sign and clean up certificate requests. Copies agree on one that works.
    """
    return inside.run(known.settings(flags, settings.read_file(config_file)))
