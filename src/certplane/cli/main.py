"""`certplane`: the command line.

Exit codes: 0 done; 1 a fault of ours, with a traceback in the log; 2 a setting or a file that must be mended, with
`error:` and `hint:` lines; 3 another copy of the controllers works now; 130 interrupted.
"""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import click

import certplane
from certplane import alone, errors, inside
from certplane.cli import audit, token
from certplane.config import controllers as abroad
from certplane.config import options
from certplane.config import serve as serving
from certplane.meta import codec
from certplane.server import discovery


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
def cli() -> None:
    """The Kubernetes Certificates API as software of its own."""


def _option(of: options.Option) -> Callable[[Any], Any]:
    shown = of.help
    if of.default not in (None, "", ()):
        default = ",".join(of.default) if of.kind == "names" else of.default
        shown += f"  [default: {str(default).lower() if of.kind == 'flag' else default}]"
    flag = f"--{of.name}"
    if of.kind == "flag":
        # As in Go: --flag, --flag=true, --flag=false.
        return click.option(flag, of.field, type=bool, is_flag=False, flag_value=True, default=None, help=shown)
    if of.kind == "choice":
        return click.option(flag, of.field, type=click.Choice(of.choices), default=None, help=shown)
    metavar = {"path": "FILE", "duration": "DURATION", "names": "NAMES"}.get(of.kind, "TEXT")
    return click.option(flag, of.field, default=None, metavar=metavar, help=shown)


@cli.command()
@click.option("--config", "config_file", metavar="FILE", help="YAML file with the settings below; flags win over it.")
def serve(config_file: str | None, **flags: Any) -> None:
    """Serve the API: a control plane in one process, with an embedded store.

    The first start makes what is missing in the data directory: a CA, a serving certificate, and the kubeconfigs
    admin.conf and super-admin.conf.
    """
    alone.run(serving.settings(flags, _read_config(config_file)))


for each in serving.OPTIONS:
    serve = _option(each)(serve)


@cli.command()
@click.option("--config", "config_file", metavar="FILE", help="YAML file with the settings below; flags win over it.")
def controllers(config_file: str | None, **flags: Any) -> int:
    """Run the controllers alone, against the API server that a kubeconfig names, or around a pod.

    By default those that approve, sign and clean up certificate requests. Copies agree on one that works.
    """
    return inside.run(abroad.settings(flags, _read_config(config_file)))


for each in abroad.OPTIONS:
    controllers = _option(each)(controllers)


@cli.command()
def version() -> None:
    """Print the version of the program and of the API that it speaks."""
    click.echo(f"certplane {certplane.__version__} (Kubernetes API {discovery.API_VERSION})")


cli.add_command(token.token)
cli.add_command(audit.audit)


def _read_config(path: str | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        found = codec.load_yaml(pathlib.Path(path).read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise errors.SetupError(f"the configuration file {path} cannot be read: {error}") from error
    except codec.YAMLProblem as error:
        raise errors.SetupError(f"the configuration file {path} is no YAML: {error}") from error
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise errors.SetupError(
            f"the configuration file {path} is not a mapping",
            ("write one setting a line, like listen: 127.0.0.1:6443",),
        )
    return found


def main() -> NoReturn:
    """Run a command, and end with its exit code."""
    try:
        code = cli.main(prog_name="certplane", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except errors.SetupError as error:
        _fail(error.message, error.hints)
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx is not None else "certplane"
        _fail(error.format_message(), (f"{where} --help",))
    except click.ClickException as error:
        _fail(error.format_message(), ())
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)


def _fail(message: str, hints: tuple[str, ...]) -> NoReturn:
    click.echo(f"error: {message}", err=True)
    for hint in hints:
        click.echo(f"hint: {hint}", err=True)
    sys.exit(2)
