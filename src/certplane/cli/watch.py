"""`certplane watch`: when certificates end, wherever they are."""

from __future__ import annotations

import importlib
import pathlib
from typing import Any, Final

import click

from certplane.cli import exitcodes

_OUTPUTS: Final = ("text", "json", "yaml")
_PROTOCOLS: Final = ("postgres", "smtp", "ldap")


@click.group(invoke_without_command=True, subcommand_metavar="[check FILE]")
@click.option(
    "--config",
    "path",
    metavar="FILE",
    type=click.Path(path_type=pathlib.Path),
    help="Configuration, instead of the flags that name places. docs/watch.md describes it.",
)
@click.option("--control-plane", is_flag=True, help="The certificates and kubeconfigs of kubeadm in /etc/kubernetes.")
@click.option("--data-dir", "data_dirs", multiple=True, metavar="DIR", help="A data directory of certplane.")
@click.option("--directory", "directories", multiple=True, metavar="DIR", help="All files in and below a directory.")
@click.option("--files", "file_patterns", multiple=True, metavar="GLOB", help="PEM, DER and PKCS#12 files.")
@click.option("--pkcs12-password-file", metavar="FILE", help="The password of the PKCS#12 files.")
@click.option("--kubeconfigs", multiple=True, metavar="GLOB", help="Kubeconfigs, and the certificates that they name.")
@click.option(
    "--endpoint",
    "endpoints",
    multiple=True,
    metavar="[PROTOCOL://]HOST:PORT",
    help=f"What a TLS server serves. With {', '.join(_PROTOCOLS)} as the protocol, TLS is started first.",
)
@click.option(
    "--cluster",
    is_flag=True,
    help="TLS Secrets, ConfigMaps, ClusterTrustBundles and CSRs of the cluster of --kubeconfig, or of the "
    "cluster of this pod.",
)
@click.option("--kubeconfig", metavar="FILE", help="Kubeconfig for --cluster.")
@click.option("--context", metavar="NAME", help="Context of the kubeconfig.")
@click.option("--interval", metavar="DURATION", help="How often everything is read.  [default: 5m]")
@click.option("--metrics-address", metavar="HOST:PORT", help="Where metrics are served.  [default: 127.0.0.1:9793]")
@click.option("--once", is_flag=True, help="Read everything once, print it, and exit.")
@click.option(
    "-o", "--output", type=click.Choice(_OUTPUTS), default="text", show_default=True, help="With --once: the format."
)
@click.option("--within", metavar="DURATION",
              help=f"With --once: exit with code {exitcodes.EXPIRING} if a certificate ends within this time, such as "
              "30d. One that has ended or cannot be read counts always.")  # fmt: skip
@click.pass_context
def watch(ctx: click.Context, /, path: pathlib.Path | None, once: bool, **flags: Any) -> int:
    """Watch when certificates end, wherever they are: metrics and notifications.

    Flags may be repeated. Metrics are served until SIGTERM; SIGHUP reads everything at once.
    """
    if ctx.invoked_subcommand is not None:
        return 0
    # Imported only here: the help needs nothing of it.
    code: int = importlib.import_module("certplane.cli.watchstart").start(path, once, flags)
    return code


@watch.command()
@click.argument("path", metavar="[FILE]", default="/etc/certplane/watch.yaml", type=click.Path(path_type=pathlib.Path))
def check(path: pathlib.Path) -> int:
    """Check a configuration, and the files that it names, and print all problems.

    Nothing is read but these files, and no server is contacted.
    """
    code: int = importlib.import_module("certplane.cli.watchstart").check(path)
    return code
