"""`certplane version`."""

from __future__ import annotations

import click

import certplane


@click.command(short_help="Print the version of the program and of the API.")
def version() -> None:
    """Print the version of the program and of the Kubernetes API that it serves."""
    click.echo(f"certplane {certplane.__version__} (Kubernetes API {certplane.API_VERSION})")
